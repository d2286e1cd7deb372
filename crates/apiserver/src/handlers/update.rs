//! Replace an object, or one aspect of it, and what PUT and PATCH share.

use std::sync::Arc;

use api::status::{ApiError, FieldError};
use http::StatusCode;
use serde_json::Value;

use super::create::{self, Tracking};
use super::input::{self, Input};
use super::write::{Commit, RETRIES, Writer, Written, encode_stored, served, storage_schema_of};
use super::{Call, Scope, render, scale};
use crate::admission::{Admission, Charge, Operation, Reservation, observe};
use crate::cache::Entry;
use crate::cache::entry::with_revision;
use crate::http::respond::{self, Reply};

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// The number of replicas; the change has put it into the object already.
    Scale,
    /// The decision on a CertificateSigningRequest.
    Approval,
    /// The finalizers in the spec of a Namespace.
    Finalize,
    /// What placing a pod sets; the change has decided already what that is.
    Binding,
    /// The ephemeral containers of a pod.
    Ephemeral,
    /// The resources of a pod's containers.
    Resize,
}

impl Part {
    /// Its name in the path.
    pub fn subresource(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Scale => "scale",
            Part::Approval => "approval",
            Part::Finalize => "finalize",
            Part::Binding => "binding",
            Part::Ephemeral => "ephemeralcontainers",
            Part::Resize => "resize",
        }
    }
}

/// PUT.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>, part: Part) -> Result<Reply, ApiError> {
    let Input { mut object, warnings } = input::object(&mut call, scope.kind).await?;
    input::same_place(&scope, &mut object)?;
    scope.kind.to_storage(&mut object);
    scope.kind.default(&mut object);
    let manager = call.manager();
    let writer = Writer {
        server: &call.server,
        user: &call.user,
        manager: &manager,
        dry_run: call.query.dry_run,
        now: jiff::Timestamp::now(),
        warnings: &call.warnings,
    };
    writer.server.caches.consistent().await?;
    let creates = part == Part::Main && scope.kind.create_on_update;
    let unconditional = api::meta::resource_version(&object).is_empty();
    if unconditional && scope.kind.kind == "Lease" && scope.cache.get(&scope.key()).is_some() {
        let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(ApiError::invalid(scope.kind.kind, scope.kind.group, scope.name, vec![error]));
    }
    let written = if creates && unconditional && scope.cache.get(&scope.key()).is_none() {
        super::patch::may_create(&call, &scope)?;
        create::create(&writer, &scope, object, Tracking::Update).await?
    } else {
        apply(&writer, &scope, part, Tracking::Update, |_| Ok(object.clone())).await?
    };
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut reply = render::object(&call, scope.kind, code, written.bytes)?;
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

/// Replaces an object by what `change` makes of the stored one (in its stored version), again and again until nobody
/// else was faster.
///
/// # Errors
/// 404, 409, 422, and what `change` says.
pub(crate) async fn apply(
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    part: Part,
    tracking: Tracking,
    mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
) -> Result<Written, ApiError> {
    let key = scope.key();
    for _ in 0..RETRIES {
        let stored = scope.cache.get(&key).ok_or_else(|| scope.not_found())?;
        let entry = scope.view(&writer.server.caches, stored.clone()).await?;
        let stale = scope.cache.family().is_some_and(|family| stored.is_stale(family.storage_version()));
        let stale = stale.then_some(stored);
        let old = entry.value();
        let new = change(&old)?;
        if let Some(written) = attempt(writer, scope, part, tracking, &Seen { entry, old, stale }, new).await? {
            return Ok(written);
        }
    }
    Err(ApiError::conflict_modified(scope.kind.plural, scope.kind.group, scope.name))
}

/// What a write is based on.
struct Seen {
    /// In the version of the request.
    entry: Arc<Entry>,
    old: Value,
    /// As it is stored, if it may have to be written even if nothing changes: in another version, or without defaults that
    /// came later.
    stale: Option<Arc<Entry>>,
}

/// One try; `None` when somebody else was faster.
// allow-long: one arm for each part
async fn attempt(
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    part: Part,
    tracking: Tracking,
    seen: &Seen,
    mut new: Value,
) -> Result<Option<Written>, ApiError> {
    let (kind, caches) = (scope.kind, &writer.server.caches);
    let Seen { entry, old, stale } = seen;
    preconditions(scope, &new, old, entry.revision)?;
    api::meta::clear_resource_version(&mut new);
    let admission = Admission::new(writer, scope, Operation::Update, part.subresource());
    let reserved = admitted(&admission, scope, part, &mut new, old).await?;
    if tracking == Tracking::Update {
        let ty = storage_schema_of(kind)?;
        let sub = part.subresource();
        new = api::managed_fields::update(ty, Some(old), new, writer.manager, &writer.now_text(), sub);
        api::meta::clear_resource_version(&mut new);
    }
    let written = |revision| Some(Written { bytes: with_revision(&encode_stored(&new), revision), created: false });
    if goes_now(&new, old, kind.kind) {
        if writer.dry_run {
            return Ok(written(entry.revision));
        }
        return match writer.remove(scope, &scope.key(), entry.revision).await? {
            Commit::Done(revision) => Ok(written(revision)),
            Commit::Again => Ok(None),
        };
    }
    let settled = same(&new, old)
        && match stale {
            Some(entry) => entry.holds(&scope.stored(caches, &new).await?),
            None => true,
        };
    if settled {
        return Ok(Some(Written { bytes: entry.bytes.clone(), created: false }));
    }
    let mut charge =
        if matches!(part, Part::Main | Part::Resize) { admission.charge(&new, old).await? } else { Charge::default() };
    if writer.dry_run {
        return Ok(written(entry.revision));
    }
    let stored = scope.stored(caches, &new).await?;
    admission.guard(reserved.as_ref(), &scope.key(), &mut charge).await?;
    let outcome = writer.put_charged(scope, &scope.key(), stored.clone(), entry.revision, None, &charge).await?;
    drop((reserved, charge));
    if matches!(outcome, Commit::Done(_)) {
        writer.server.admission.quotas.changed(caches, kind, &new, old, writer.now);
    }
    match outcome {
        Commit::Done(revision) => {
            let bytes = scope.answer(caches, &scope.key(), &stored, revision).await?;
            Ok(Some(Written { bytes, created: false }))
        }
        Commit::Again => Ok(None),
    }
}

/// Completes and checks what is to be written. The reservation, if any, must be held until it is.
async fn admitted(
    admission: &Admission<'_>,
    scope: &Scope<'_>,
    part: Part,
    new: &mut Value,
    old: &Value,
) -> Result<Option<Reservation>, ApiError> {
    let kind = scope.kind;
    if part != Part::Binding {
        mutate(admission, part, new, old).await?;
    }
    let reserved = admission.allocate(new, old)?;
    let errors = match part {
        Part::Main | Part::Scale => {
            kind.prepare_update(new, old);
            kind.validate_update(&served(kind, new), &served(kind, old))
        }
        Part::Status => {
            kind.prepare_status_update(new, old);
            kind.validate_status_update(new, old)
        }
        // Admission has checked it: the rules depend on who asks.
        Part::Approval => {
            api::meta::prepare_status_update(new, old);
            Vec::new()
        }
        Part::Finalize => {
            *new = finalized(new, old);
            Vec::new()
        }
        Part::Binding => Vec::new(),
        Part::Ephemeral => {
            api::kinds::pod::prepare_ephemeral(new, old);
            api::kinds::pod::validate_ephemeral_update(new, old)
        }
        Part::Resize => {
            api::kinds::pod::prepare_resize(new, old);
            api::kinds::pod::validate_resize(new, old)
        }
    };
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind.kind, kind.group, scope.name, errors));
    }
    if part != Part::Binding {
        validate(admission, part, new, old).await?;
    }
    if part == Part::Main {
        observe(kind, new, &admission.server.caches);
        // Written again and again by controllers, most objects change in ways that no sentence is about.
        if !kind.has_generation || api::meta::generation(new) != api::meta::generation(old) {
            kind.warnings(&served(kind, new)).into_iter().for_each(|w| admission.warnings.add(w));
        }
    }
    Ok(reserved)
}

/// Admission's additions to what is written: to the object, or to the Scale that stands for it.
async fn mutate(admission: &Admission<'_>, part: Part, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let Some(paths) = admission.kind.scale.filter(|_| part == Part::Scale) else {
        return admission.mutate(new, old).await;
    };
    let mut view = scale::scale(new, paths);
    admission.mutate(&mut view, &scale::scale(old, paths)).await?;
    scale::set(new, paths.spec_replicas, view["spec"]["replicas"].clone());
    Ok(())
}

async fn validate(admission: &Admission<'_>, part: Part, new: &Value, old: &Value) -> Result<(), ApiError> {
    match admission.kind.scale.filter(|_| part == Part::Scale) {
        Some(paths) => admission.validate(&scale::scale(new, paths), &scale::scale(old, paths)).await,
        None => admission.validate(new, old).await,
    }
}

/// # Errors
/// 409 when the writer has seen another state, or another object of the same name.
pub(crate) fn preconditions(scope: &Scope<'_>, new: &Value, old: &Value, revision: u64) -> Result<(), ApiError> {
    let (plural, group) = (scope.kind.plural, scope.kind.group);
    let uid = api::meta::uid(new);
    if !uid.is_empty() && uid != api::meta::uid(old) {
        let cause =
            format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", api::meta::uid(old));
        return Err(ApiError::conflict(plural, group, scope.name, &cause));
    }
    match api::meta::resource_version(new) {
        "" => Ok(()),
        seen => match seen.parse::<u64>() {
            Ok(0) => Ok(()),
            Ok(seen) if seen == revision => Ok(()),
            Ok(_) => Err(ApiError::conflict_modified(plural, group, scope.name)),
            Err(_) => {
                let error = FieldError::invalid("metadata.resourceVersion", seen, "must be an unsigned integer");
                Err(ApiError::invalid(scope.kind.kind, group, scope.name, vec![error]))
            }
        },
    }
}

/// The stored Namespace with the finalizers of its new spec.
fn finalized(new: &Value, old: &Value) -> Value {
    let mut out = old.clone();
    api::meta::clear_resource_version(&mut out);
    match new["spec"].get("finalizers").filter(|f| f.as_array().is_some_and(|f| !f.is_empty())) {
        Some(finalizers) => out["spec"]["finalizers"] = finalizers.clone(),
        None => {
            if let Some(spec) = out.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("finalizers");
            }
        }
    }
    out
}

/// Whether an update is the end of an object: its deletion was asked for, and nothing holds it any more.
fn goes_now(new: &Value, old: &Value, kind: &str) -> bool {
    if !api::meta::is_deleting(old) || !api::meta::finalizers(new).is_empty() {
        return false;
    }
    let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let held = kind == "Namespace" && new["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    grace == 0 && !held
}

/// Whether a write changes nothing: then nothing is written and nobody is told.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let rest = |m: &serde_json::Map<String, Value>| m.keys().filter(|k| *k != "metadata").count();
    rest(new) == rest(old)
        && new.iter().all(|(key, value)| key == "metadata" || old.get(key) == Some(value))
        && same_metadata(&new["metadata"], &old["metadata"])
}

/// Metadata without the revision, and managed fields without their times.
fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let skipped = |k: &&String| !matches!(k.as_str(), "resourceVersion" | "managedFields");
    let count = |m: &serde_json::Map<String, Value>| m.keys().filter(skipped).count();
    let timeless = |m: &serde_json::Map<String, Value>| {
        let mut list = m.get("managedFields").cloned().unwrap_or(Value::Null);
        for entry in list.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        list
    };
    count(new) == count(old)
        && new.iter().filter(|(k, _)| skipped(k)).all(|(k, v)| old.get(k) == Some(v))
        && (new.get("managedFields") == old.get("managedFields") || timeless(new) == timeless(old))
}
