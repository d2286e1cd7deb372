//! Admission: what the server adds to objects and refuses beyond their own validity, because it depends on other objects,
//! on who asks, or on what administrators configured.
//!
//! The order is Kubernetes': built-in additions, policies that change, webhooks that change, then (in the handlers)
//! validation by the kind, then built-in checks, policies, webhooks that check, and quotas last, because what they charge
//! must not be refused any more.
//! A step that has nothing configured costs one look at an empty cache.

use api::kinds::KindInfo;
use api::status::ApiError;
use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::Value;
use store::Compare;

use crate::authn::UserInfo;
use crate::cache::{Caches, Entry};
use crate::handlers::Scope;
use crate::handlers::delete::Options;
use crate::handlers::write::Writer;
use crate::server::ApiServer;

mod authorizer;
mod classes;
mod conditions;
mod csr;
pub(crate) mod disruption;
mod expression;
mod limits;
mod node;
mod pod;
mod policy;
pub(crate) mod quota;
mod rbac;
mod review;
mod rounds;
mod rules;
mod security;
mod service;
mod signature;
mod storage;
mod webhook;

pub(crate) use classes::system_classes;
pub(crate) use policy::observe;
pub(crate) use quota::Charge;
pub use service::{Allocator, Reservation};

/// Namespaces that every cluster has; the first three cannot be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Sentences for the client that go out with the answer, whatever it is, and notes for the audit log.
#[derive(Debug, Default)]
pub struct Warnings {
    sentences: Mutex<Vec<String>>,
    notes: Mutex<Vec<Note>>,
}

/// An annotation of the request's events in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// It repeats what the request contains: it is for those who may see that.
    pub content: bool,
}

/// Most warnings kept for one request.
const WARNINGS: usize = 64;
/// Most annotations kept for one request.
const NOTES: usize = 256;
/// Bytes of all annotations of one request; those that do not fit any more are left out.
const NOTES_BYTES: usize = 1 << 20;

impl Warnings {
    /// Adds one, once.
    pub fn add(&self, warning: impl Into<String>) {
        let (mut list, warning) = (self.sentences.lock(), warning.into());
        if list.len() < WARNINGS && !list.contains(&warning) {
            list.push(warning);
        }
    }

    /// Takes them out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.sentences.lock())
    }

    /// Annotates the request's events in the audit log. The first value of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.note(Note { key: key.into(), value: value.into(), content: false });
    }

    /// The same, where the request's content is recorded.
    pub fn annotate_content(&self, key: impl Into<String>, value: impl Into<String>) {
        self.note(Note { key: key.into(), value: value.into(), content: true });
    }

    fn note(&self, note: Note) {
        let mut notes = self.notes.lock();
        let bytes: usize = notes.iter().map(|n| n.key.len() + n.value.len()).sum();
        let fits = notes.len() < NOTES && bytes + note.key.len() + note.value.len() <= NOTES_BYTES;
        if fits && notes.iter().all(|n| n.key != note.key) {
            notes.push(note);
        }
    }

    /// Takes the annotations out.
    pub fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.notes.lock())
    }
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A stream to it: exec, attach, port-forward.
    Connect,
}

impl Operation {
    /// Its word in rules and reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// State that admission keeps between requests.
#[derive(Default)]
pub(crate) struct State {
    pub quotas: quota::Quotas,
    pub webhooks: webhook::Webhooks,
    pub policies: policy::Policies,
}

/// One operation on one object, as admission sees it.
pub(crate) struct Admission<'a> {
    pub server: &'a ApiServer,
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub kind: &'a KindInfo,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// As far as it is known yet.
    pub name: &'a str,
    /// Of a deletion.
    pub deletion: Option<&'a Options>,
    pub manager: &'a str,
    pub dry_run: bool,
    pub now: jiff::Timestamp,
    pub warnings: &'a Warnings,
}

impl<'a> Admission<'a> {
    /// Of a write to what `scope` names.
    pub fn new(writer: &Writer<'a>, scope: &Scope<'a>, operation: Operation, subresource: &'a str) -> Self {
        Self::at(writer, scope.kind, [scope.namespace, scope.name], operation, subresource)
    }

    /// Of a request to a kind that is not stored.
    pub fn at(
        writer: &Writer<'a>,
        kind: &'a KindInfo,
        [namespace, name]: [&'a str; 2],
        operation: Operation,
        subresource: &'a str,
    ) -> Self {
        Admission {
            server: writer.server,
            user: writer.user,
            operation,
            kind,
            subresource,
            namespace,
            name,
            deletion: None,
            manager: writer.manager,
            dry_run: writer.dry_run,
            now: writer.now,
            warnings: writer.warnings,
        }
    }

    fn caches(&self) -> &'a Caches {
        &self.server.caches
    }

    fn is(&self, group: &str, kind: &str) -> bool {
        self.kind.group == group && self.kind.kind == kind
    }

    /// The options of the request as their document.
    fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => return self.deletion.map_or(Value::Null, Options::to_json),
            Operation::Connect => return Value::Null,
        };
        let mut out = serde_json::json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            out["dryRun"] = serde_json::json!(["All"]);
        }
        if !self.manager.is_empty() {
            out["fieldManager"] = self.manager.into();
        }
        out
    }

    /// The namespace as the path has it: that of a Namespace is its own name.
    fn asked_namespace(&self) -> &'a str {
        if self.is("", "Namespace") { self.name } else { self.namespace }
    }

    fn rights(&self) -> rbac::Rights<'a> {
        rbac::Rights { user: self.user, chain: &self.server.authorizers, caches: self.caches() }
    }

    /// 403 for the object.
    fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(self.kind.plural, self.kind.group, self.name, why)
    }

    /// Completes an object that is to be created, or that replaces `old` (null on create). It is defaulted, and not yet
    /// validated.
    ///
    /// # Errors
    /// 403, and what webhooks say.
    pub async fn mutate(&self, object: &mut Value, old: &Value) -> Result<(), ApiError> {
        self.built_in(object, old)?;
        if policy::changes_nothing(self) && webhook::are_none(self) {
            return Ok(());
        }
        // In a box, so that requests without webhooks do not carry their state.
        Box::pin(rounds::mutate(self, object, old)).await
    }

    /// What the server itself adds. May run twice on the same object.
    fn built_in(&self, object: &mut Value, old: &Value) -> Result<(), ApiError> {
        match (self.operation, self.subresource) {
            (Operation::Create, "") => self.complete(object),
            (Operation::Update, "") => self.complete_update(object, old),
            (Operation::Update, sub @ ("approval" | "status")) if csr::is(self.kind) => {
                let now = api::meta::format_time(self.now);
                let decide = if sub == "approval" { csr::approve } else { csr::sign };
                decide(&self.rights(), object, old, &now)
            }
            (Operation::Update, _) if self.is("", "Pod") => {
                signature::update(object, old);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn complete(&self, object: &mut Value) -> Result<(), ApiError> {
        // What somebody may do in a namespace tells nothing about the namespace.
        if self.kind.namespaced && self.kind.kind != "LocalSubjectAccessReview" {
            namespace_open(self.caches(), self.kind, self.namespace, self.name)?;
        }
        node::create(self.user, self.kind, object)?;
        match (self.kind.group, self.kind.kind) {
            _ if csr::is(self.kind) => csr::create(&self.rights(), object),
            ("", "Pod") => {
                signature::create(self, object);
                if !node::is_about_mirror(self.kind, object, &Value::Null) {
                    limits::complete(self, object);
                }
                pod::create(self, object)
            }
            ("", "Node") => {
                classes::not_ready(object);
                Ok(())
            }
            ("", "PersistentVolumeClaim") => {
                storage::create(self.caches(), object);
                storage::protect(object, storage::CLAIM_PROTECTION);
                Ok(())
            }
            ("", "PersistentVolume") => {
                storage::protect(object, storage::VOLUME_PROTECTION);
                Ok(())
            }
            ("networking.k8s.io", "Ingress") => {
                classes::ingress(self, object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn complete_update(&self, object: &mut Value, old: &Value) -> Result<(), ApiError> {
        node::update(self.user, self.kind, object, old)?;
        if self.is("", "Pod") {
            signature::update(object, old);
            pod::update(object, old);
        }
        Ok(())
    }

    /// Gives a Service its addresses and ports. The reservation, if any, must be held until the write is in the cache.
    ///
    /// # Errors
    /// 422 for what is taken, outside the range, or not configured here.
    pub fn allocate(&self, object: &mut Value, old: &Value) -> Result<Option<Reservation>, ApiError> {
        if !self.is("", "Service") || !self.subresource.is_empty() {
            return Ok(None);
        }
        let (allocator, caches) = (&self.server.allocator, self.caches());
        let reserved = match self.operation {
            Operation::Create => allocator.create(caches, object)?,
            Operation::Update => allocator.update(caches, object, old)?,
            Operation::Delete | Operation::Connect => return Ok(None),
        };
        Ok(Some(reserved))
    }

    /// Adds to what a write must carry what [`Reservation::guard`] says.
    ///
    /// # Errors
    /// 409 when another server was faster.
    pub async fn guard(&self, reserved: Option<&Reservation>, key: &str, charge: &mut Charge) -> Result<(), ApiError> {
        if let Some(reserved) = reserved
            && let Some((compare, op)) = reserved.guard(self.caches(), key).await?
        {
            charge.compare.push(compare);
            charge.ops.push(op);
        }
        Ok(())
    }

    /// Checks an object that is complete and valid. `object` is null on delete, `old` on create.
    ///
    /// # Errors
    /// 403, and what policies and webhooks say.
    pub async fn validate(&self, object: &Value, old: &Value) -> Result<(), ApiError> {
        if self.is("", "Pod") && (self.subresource.is_empty() || self.operation == Operation::Update) {
            signature::check(self, object, old)?;
        }
        // Containers come and change through these, too.
        if self.is("", "Pod") && matches!(self.subresource, "ephemeralcontainers" | "resize") {
            if self.subresource == "resize" {
                limits::check(self, object)?;
            }
            security::check(self, object, old)?;
        }
        if self.subresource.is_empty() {
            self.check_rights(object, old)?;
            if !node::is_about_mirror(self.kind, object, old) {
                limits::check(self, object)?;
                security::check(self, object, old)?;
            }
            classes::check(self, object, old)?;
            policy::check(self, object, old)?;
        }
        if !policy::are_none(self) {
            Box::pin(policy::validate(self, object, old)).await?;
        }
        if webhook::are_none(self) {
            return Ok(());
        }
        Box::pin(webhook::validate(self, object, old)).await
    }

    /// Nobody grants what he does not have, also when a webhook wrote the grant.
    fn check_rights(&self, object: &Value, old: &Value) -> Result<(), ApiError> {
        match self.operation {
            Operation::Create => rbac::check(&self.rights(), self.kind, object, None),
            Operation::Update => rbac::check(&self.rights(), self.kind, object, Some(old)),
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    /// Charges the quotas of the namespace: the last step before the write, which must carry the charge.
    ///
    /// # Errors
    /// 403 when there is no room.
    pub async fn charge(&self, object: &Value, old: &Value) -> Result<Charge, ApiError> {
        if node::is_about_mirror(self.kind, object, old) {
            return Ok(Charge::default());
        }
        self.server.admission.quotas.charge(self, object, old).await
    }
}

/// The condition under which something may be created in a namespace: that it stays as it is now.
///
/// # Errors
/// 404 when there is no such namespace, 403 when it is being deleted.
pub fn namespace_open(caches: &Caches, kind: &KindInfo, namespace: &str, name: &str) -> Result<Compare, ApiError> {
    let cache = caches.core("namespaces");
    let entry = cache.get(namespace).ok_or_else(|| ApiError::not_found("namespaces", "", namespace))?;
    if entry.facts.deleting {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(kind.plural, kind.group, name, &why);
        let details = error.details.get_or_insert_with(|| serde_json::json!({}));
        details["causes"] = serde_json::json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        return Err(error);
    }
    Ok(Compare::ModRevision(cache.store_key(namespace), entry.revision))
}

/// # Errors
/// 403 for namespaces and classes that must stay.
pub fn deletable(kind: &KindInfo, entry: &Entry) -> Result<(), ApiError> {
    if kind.kind == "Namespace" && IMMORTAL.contains(&entry.name()) {
        return Err(ApiError::forbidden("namespaces", "", entry.name(), "this namespace may not be deleted"));
    }
    if kind.kind == "PriorityClass" && system_classes().iter().any(|c| api::meta::name(c) == entry.name()) {
        let why = "this is a system priority class and cannot be deleted";
        return Err(ApiError::forbidden(kind.plural, kind.group, entry.name(), why));
    }
    Ok(())
}

/// Five characters as Kubernetes appends them to generated names.
pub fn suffix() -> String {
    let letters = api::meta::SUFFIX_ALPHABET.as_bytes();
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(letters[rng.random_range(0..letters.len())])).collect()
}
