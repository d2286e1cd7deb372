//! Built-in admission: what the server adds to objects and refuses beyond their own validity, because it depends on
//! other objects or on who asks.

use api::kinds::KindInfo;
use api::status::ApiError;
use rand::Rng as _;
use serde_json::Value;
use store::Compare;

use crate::authn::UserInfo;
use crate::authz::Chain;
use crate::cache::{Caches, Entry};

mod csr;
mod node;
mod pod;
mod rbac;
mod service;
mod storage;

pub use service::{Allocator, Reservation};

/// Namespaces that every cluster has; the first three cannot be deleted.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What admission of a write is done with.
pub struct Admission<'a> {
    /// All objects.
    pub caches: &'a Caches,
    /// Addresses and ports of Services.
    pub allocator: &'a Allocator,
    /// Who writes.
    pub user: &'a UserInfo,
    /// Who may do what.
    pub authorizers: &'a Chain,
}

impl Admission<'_> {
    fn rights(&self) -> rbac::Rights<'_> {
        rbac::Rights { user: self.user, chain: self.authorizers, caches: self.caches }
    }

    /// Completes and checks a new object, defaulted but not yet validated. The reservation, if any, must be held until
    /// the write is in the cache.
    ///
    /// # Errors
    /// 403 or 422 as Kubernetes' own plugins answer.
    pub fn create(&self, kind: &KindInfo, object: &mut Value) -> Result<Option<Reservation>, ApiError> {
        node::create(self.user, kind, object)?;
        rbac::check(&self.rights(), kind, object, None)?;
        match (kind.group, kind.kind) {
            _ if csr::is(kind) => csr::create(&self.rights(), object).map(|()| None),
            ("", "Pod") => pod::create(self.caches, object).map(|()| None),
            ("", "Service") => self.allocator.create(self.caches, object).map(Some),
            ("", "PersistentVolumeClaim") => {
                storage::create(self.caches, object);
                storage::protect(object, storage::CLAIM_PROTECTION);
                Ok(None)
            }
            ("", "PersistentVolume") => {
                storage::protect(object, storage::VOLUME_PROTECTION);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The same for a replacement.
    ///
    /// # Errors
    /// 403 or 422 as Kubernetes' own plugins answer.
    pub fn update(&self, kind: &KindInfo, object: &mut Value, old: &Value) -> Result<Option<Reservation>, ApiError> {
        node::update(self.user, kind, object, old)?;
        rbac::check(&self.rights(), kind, object, Some(old))?;
        match (kind.group, kind.kind) {
            ("", "Service") => self.allocator.update(self.caches, object, old).map(Some),
            _ => Ok(None),
        }
    }

    /// The same for a write of the subresource.
    ///
    /// # Errors
    /// 403 or 422 as Kubernetes' own plugins answer.
    pub fn update_part(
        &self,
        kind: &KindInfo,
        subresource: &str,
        object: &mut Value,
        old: &Value,
        now: &str,
    ) -> Result<(), ApiError> {
        match subresource {
            "approval" if csr::is(kind) => csr::approve(&self.rights(), object, old, now),
            "status" if csr::is(kind) => csr::sign(&self.rights(), object, old, now),
            _ => Ok(()),
        }
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
/// 403 for namespaces that must stay.
pub fn deletable(kind: &KindInfo, entry: &Entry) -> Result<(), ApiError> {
    if kind.kind == "Namespace" && IMMORTAL.contains(&entry.name()) {
        return Err(ApiError::forbidden("namespaces", "", entry.name(), "this namespace may not be deleted"));
    }
    Ok(())
}

/// Five characters as Kubernetes appends them to generated names.
pub fn suffix() -> String {
    let letters = api::meta::SUFFIX_ALPHABET.as_bytes();
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(letters[rng.random_range(0..letters.len())])).collect()
}
