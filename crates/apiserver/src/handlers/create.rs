//! Create.

use std::time::Duration;

use api::meta::NewMeta;
use api::status::ApiError;
use http::StatusCode;
use serde_json::Value;

use super::input::{self, Input};
use super::write::{Commit, RETRIES, Writer, Written, encode_stored, served, storage_schema_of};
use super::{Call, Scope, render};
use crate::admission::{Admission, Operation, namespace_open, observe, suffix};
use crate::http::respond::{self, Reply};

/// How often another name is drawn for `generateName`.
const NAMES: usize = 8;
/// How long a new pod waits for its service account, which a controller makes after the namespace.
const ACCOUNT: Duration = Duration::from_secs(1);

/// POST to a collection.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    if scope.kind.namespaced && scope.namespace.is_empty() {
        return Err(ApiError::method_not_allowed(scope.kind.plural, scope.kind.group, "POST"));
    }
    let Input { mut object, warnings } = input::object(&mut call, scope.kind).await?;
    input::same_place(&Scope { name: "", ..scope }, &mut object)?;
    if !api::meta::resource_version(&object).is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let manager = call.manager();
    let writer = Writer {
        server: &call.server,
        user: &call.user,
        manager: &manager,
        dry_run: call.query.dry_run,
        now: jiff::Timestamp::now(),
        warnings: &call.warnings,
    };
    let written = create(&writer, &scope, object, Tracking::Update).await?;
    let mut reply = render::object(&call, scope.kind, StatusCode::CREATED, written.bytes)?;
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

/// Whether ownership of the object's fields is still to be recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// By the writer.
    Update,
    /// It has been already.
    Done,
}

/// Creates an object of the served version, whose kind and place have been checked.
pub(crate) async fn create(
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    mut object: Value,
    tracking: Tracking,
) -> Result<Written, ApiError> {
    let kind = scope.kind;
    writer.server.caches.consistent().await?;
    kind.to_storage(&mut object);
    kind.default(&mut object);
    if tracking == Tracking::Update {
        let ty = storage_schema_of(kind)?;
        object = api::managed_fields::update(ty, None, object, writer.manager, &writer.now_text(), "");
    }
    if kind.kind == "Pod" {
        await_account(writer, &object).await;
    }
    let generated = api::meta::name(&object).is_empty() && !api::meta::generate_name(&object).is_empty();
    for _ in 0..NAMES {
        let attempt = attempt(writer, scope, object.clone()).await;
        match attempt {
            Err(error) if generated && error.reason == "AlreadyExists" => {}
            other => return other,
        }
    }
    let what = api::meta::generate_name(&object);
    Err(ApiError::already_exists(kind.plural, kind.group, what).with_retry_after(1))
}

async fn attempt(writer: &Writer<'_>, scope: &Scope<'_>, mut object: Value) -> Result<Written, ApiError> {
    let kind = scope.kind;
    let uid = uuid::Uuid::new_v4().to_string();
    let new = NewMeta { namespace: scope.namespace, uid: &uid, now: writer.now, name_suffix: &suffix() };
    let new = if kind.namespaced { new } else { NewMeta { namespace: "", ..new } };
    api::meta::prepare_create(&mut object, new);
    let name = api::meta::name(&object).to_owned();
    let named = Scope { name: &name, ..*scope };
    let admission = Admission::new(writer, &named, Operation::Create, "");
    admission.mutate(&mut object, &Value::Null).await?;
    let reserved = admission.allocate(&mut object, &Value::Null)?;
    kind.prepare_create(&mut object);
    let errors = kind.validate_create(&served(kind, &object));
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind.kind, kind.group, &name, errors));
    }
    admission.validate(&object, &Value::Null).await?;
    observe(kind, &mut object, &writer.server.caches);
    for warning in kind.warnings(&served(kind, &object)) {
        writer.warnings.add(warning);
    }
    let key = scope.key_of(&name);
    for _ in 0..RETRIES {
        let open = match kind.namespaced {
            true => Some(namespace_open(&writer.server.caches, kind, scope.namespace, &name)?),
            false => None,
        };
        if scope.cache.get(&key).is_some() {
            return Err(ApiError::already_exists(kind.plural, kind.group, &name));
        }
        let mut charge = admission.charge(&object, &Value::Null).await?;
        let stored = scope.stored(&writer.server.caches, &object).await?;
        if writer.dry_run {
            return Ok(Written { bytes: encode_stored(&object), created: true });
        }
        admission.guard(reserved.as_ref(), &key, &mut charge).await?;
        if let Commit::Done(revision) = writer.put_charged(scope, &key, stored.clone(), 0, open, &charge).await? {
            drop(reserved);
            if kind.kind == "ResourceQuota" {
                writer.server.admission.quotas.touch(&writer.server.caches, scope.namespace);
            }
            let bytes = scope.answer(&writer.server.caches, &key, &stored, revision).await?;
            return Ok(Written { bytes, created: true });
        }
    }
    Err(ApiError::conflict_modified(kind.plural, kind.group, &name))
}

/// A pod may be created right after its namespace: the account it needs is on its way then.
async fn await_account(writer: &Writer<'_>, pod: &Value) {
    let account = api::kinds::pod::service_account_name(pod);
    let cache = writer.server.caches.core("serviceaccounts");
    let namespace = api::meta::namespace(pod);
    let key = format!("{namespace}/{account}");
    if cache.get(&key).is_some() || writer.server.caches.core("namespaces").get(namespace).is_none() {
        return;
    }
    let mut head = cache.head();
    let there = head.wait_for(|_| cache.get(&key).is_some());
    let _ = tokio::time::timeout(ACCOUNT, there).await;
}
