//! Delete: at once, after a grace period, or when the last finalizer is gone.

use api::status::{ApiError, FieldError, success};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::write::{Commit, RETRIES, Writer, encode_stored};
use super::{Call, Scope, render};
use crate::admission::{self, Admission, Operation};
use crate::cache::Entry;
use crate::cache::entry::with_revision;
use crate::http::decode;
use crate::http::query;
use crate::http::respond::{self, Reply};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose deletion answers with the object that was deleted instead of a Status.
const RETURNED: [&str; 5] = ["Pod", "Service", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim"];

/// `DeleteOptions`, from the body or the query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub grace_s: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub revision: Option<String>,
    pub dry_run: bool,
    /// `orphanDependents: false`: the caller waits for dependents and expects to hear 202.
    pub waits: bool,
}

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl Options {
    /// From a `DeleteOptions` document.
    ///
    /// # Errors
    /// 400 or 422.
    pub fn from_json(value: &Value) -> Result<Self, ApiError> {
        let kind = value["kind"].as_str().unwrap_or("DeleteOptions");
        if kind != "DeleteOptions" || !value.is_object() {
            return Err(ApiError::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind}")));
        }
        let mut out = Options {
            grace_s: integer(value, "gracePeriodSeconds")?,
            dry_run: match value["dryRun"].as_array() {
                Some(list) => list.iter().try_fold(false, |_, v| query::dry_run(v.as_str().unwrap_or("?")))?,
                None => false,
            },
            ..Options::default()
        };
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        out.uid = text(&value["preconditions"]["uid"]);
        out.revision = text(&value["preconditions"]["resourceVersion"]);
        out.propagate(text(&value["propagationPolicy"]).as_deref(), value["orphanDependents"].as_bool())?;
        Ok(out)
    }

    /// As the document that admission sees.
    pub fn to_json(&self) -> Value {
        let mut out = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_s {
            out["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = self.propagation {
            out["propagationPolicy"] = format!("{policy:?}").into();
        }
        if let Some(uid) = &self.uid {
            out["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(revision) = &self.revision {
            out["preconditions"]["resourceVersion"] = revision.as_str().into();
        }
        if self.dry_run {
            out["dryRun"] = json!(["All"]);
        }
        out
    }

    fn from_query(call: &Call) -> Result<Self, ApiError> {
        let q = &call.query;
        let mut out = Options { grace_s: q.grace_s, dry_run: q.dry_run, ..Options::default() };
        out.propagate(Some(q.propagation.as_str()).filter(|p| !p.is_empty()), q.orphan)?;
        Ok(out)
    }

    fn propagate(&mut self, policy: Option<&str>, orphan: Option<bool>) -> Result<(), ApiError> {
        let invalid = |error| Err(ApiError::invalid("DeleteOptions", "meta.k8s.io", "", vec![error]));
        self.waits = orphan == Some(false);
        self.propagation = match (policy, orphan) {
            (Some(policy), Some(_)) => {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                return invalid(FieldError::invalid("propagationPolicy", policy, detail));
            }
            (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
            (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), None) => {
                let supported = ["Foreground", "Background", "Orphan"];
                return invalid(FieldError::not_supported("propagationPolicy", other, &supported));
            }
        };
        Ok(())
    }

    /// Reads them from a request: the body if there is one, else the query.
    ///
    /// # Errors
    /// 400, 413, 415, 422.
    pub async fn read(call: &mut Call) -> Result<Self, ApiError> {
        let bytes = call.read_body().await?;
        let mut options = if bytes.is_empty() {
            Options::from_query(call)?
        } else {
            Options::from_json(&decode::object(&call.headers, &bytes)?.value)?
        };
        options.dry_run |= call.query.dry_run;
        if options.grace_s.is_none() {
            options.grace_s = call.query.grace_s;
        }
        if options.propagation.is_none() && !bytes.is_empty() {
            let q = &call.query;
            options.propagate(Some(q.propagation.as_str()).filter(|p| !p.is_empty()), q.orphan)?;
        }
        Ok(options)
    }
}

fn integer(value: &Value, key: &str) -> Result<Option<i64>, ApiError> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => v.as_i64().map(Some).ok_or_else(|| ApiError::bad_request(format!("{key} must be an integer"))),
    }
}

/// DELETE of one object.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    let options = Options::read(&mut call).await?;
    let writer = Writer {
        server: &call.server,
        user: &call.user,
        manager: "",
        dry_run: options.dry_run,
        now: jiff::Timestamp::now(),
        warnings: &call.warnings,
    };
    call.server.caches.consistent().await?;
    let gone = delete(&writer, &scope, &options).await?;
    reply(&call, &scope, &options, gone)
}

/// The answer to a deletion.
fn reply(call: &Call, scope: &Scope<'_>, options: &Options, outcome: Outcome) -> Result<Reply, ApiError> {
    match outcome {
        Outcome::Pending(bytes) => {
            let code = if options.waits { StatusCode::ACCEPTED } else { StatusCode::OK };
            render::object(call, scope.kind, code, bytes)
        }
        Outcome::Gone(bytes, _) if RETURNED.contains(&scope.kind.kind) => {
            render::object(call, scope.kind, StatusCode::OK, bytes)
        }
        Outcome::Gone(_, uid) => {
            let status = success(scope.kind.group, scope.kind.plural, scope.name, &uid);
            Ok(respond::value(StatusCode::OK, &status, call.style))
        }
    }
}

/// What a deletion has come to.
pub(crate) enum Outcome {
    /// It is gone: its last state, and its uid.
    Gone(Bytes, String),
    /// It waits for a grace period or finalizers: as it is now.
    Pending(Bytes),
}

/// Deletes one object.
///
/// # Errors
/// 403, 404, 409.
pub(crate) async fn delete(writer: &Writer<'_>, scope: &Scope<'_>, options: &Options) -> Result<Outcome, ApiError> {
    let admission = Admission { deletion: Some(options), ..Admission::new(writer, scope, Operation::Delete, "") };
    remove(writer, scope, options, Some(&admission)).await
}

/// The same; without admission where another operation on the object has passed it.
pub(crate) async fn remove(
    writer: &Writer<'_>,
    scope: &Scope<'_>,
    options: &Options,
    admission: Option<&Admission<'_>>,
) -> Result<Outcome, ApiError> {
    let key = scope.key();
    let mut seen = 0;
    for _ in 0..RETRIES {
        let entry = scope.cache.get(&key).ok_or_else(|| scope.not_found())?;
        let entry = scope.view(&writer.server.caches, entry).await?;
        admission::deletable(scope.kind, &entry)?;
        preconditions(scope, options, &entry)?;
        let old = entry.value();
        if let Some(admission) = admission.filter(|_| seen != entry.revision) {
            admission.mutate(&mut Value::Null, &old).await?;
            admission.validate(&Value::Null, &old).await?;
            seen = entry.revision;
        }
        match plan(scope, options, &old, writer.now) {
            Step::Wait => return Ok(Outcome::Pending(entry.bytes.clone())),
            Step::Remove => {
                let gone = |revision| Outcome::Gone(entry.at(revision).bytes, entry.facts.uid.to_string());
                if writer.dry_run {
                    return Ok(gone(entry.revision));
                }
                match writer.remove(scope, &key, entry.revision).await? {
                    Commit::Done(revision) => return Ok(gone(revision)),
                    Commit::Again => {}
                }
            }
            Step::Mark(new) => {
                if writer.dry_run {
                    return Ok(Outcome::Pending(with_revision(&encode_stored(&new), entry.revision)));
                }
                let stored = scope.stored(&writer.server.caches, &new).await?;
                match writer.put(scope, &key, stored.clone(), entry.revision, None).await? {
                    Commit::Done(revision) => {
                        let answer = scope.answer(&writer.server.caches, &key, &stored, revision).await?;
                        return Ok(Outcome::Pending(answer));
                    }
                    Commit::Again => {}
                }
            }
        }
    }
    Err(ApiError::conflict_modified(scope.kind.plural, scope.kind.group, scope.name))
}

fn preconditions(scope: &Scope<'_>, options: &Options, entry: &Entry) -> Result<(), ApiError> {
    let failed = |what: &str, wanted: &str, found: &str| {
        let cause = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object might have been deleted and then recreated"
        );
        Err(ApiError::conflict(scope.kind.plural, scope.kind.group, scope.name, &cause))
    };
    if let Some(uid) = &options.uid
        && **uid != *entry.facts.uid
    {
        return failed("UID", uid, &entry.facts.uid);
    }
    if let Some(revision) = &options.revision
        && *revision != entry.revision.to_string()
    {
        return failed("ResourceVersion", revision, &entry.revision.to_string());
    }
    Ok(())
}

/// What is to be done now.
enum Step {
    /// Nothing: its deletion is under way.
    Wait,
    /// Take it out of the store.
    Remove,
    /// Store it like this.
    Mark(Value),
}

/// Decides, as Kubernetes' generic registry does.
fn plan(scope: &Scope<'_>, options: &Options, old: &Value, now: jiff::Timestamp) -> Step {
    let mut new = old.clone();
    api::meta::clear_resource_version(&mut new);
    let deleting = api::meta::is_deleting(old);
    // How long to wait now; `None` when the kind does not wait, or has waited.
    let grace = match scope.kind.grace_period(old, options.grace_s) {
        Some(_) if deleting => {
            let have = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            match options.grace_s.map(|g| if g < 0 { 1 } else { g }) {
                _ if have == 0 => None,
                Some(wanted) if wanted < have => {
                    shorten(&mut new, have, wanted);
                    Some(wanted)
                }
                _ => return Step::Wait,
            }
        }
        Some(seconds) => {
            api::meta::mark_deleted(&mut new, now, seconds);
            Some(seconds)
        }
        None => None,
    };
    finalize(scope, options, &mut new);
    if scope.kind.kind == "Namespace" {
        return namespace(new, deleting, now);
    }
    let held = !api::meta::finalizers(&new).is_empty();
    if grace.is_some_and(|seconds| seconds > 0) {
        return Step::Mark(new);
    }
    if !held {
        return Step::Remove;
    }
    if !deleting && grace.is_none() {
        api::meta::mark_deleted(&mut new, now, 0);
    }
    if new["metadata"] == old_without_revision(old)["metadata"] { Step::Wait } else { Step::Mark(new) }
}

fn old_without_revision(old: &Value) -> Value {
    let mut old = json!({"metadata": old["metadata"]});
    api::meta::clear_resource_version(&mut old);
    old
}

/// An earlier end of a deletion under way.
fn shorten(object: &mut Value, have: i64, wanted: i64) {
    let meta = &mut object["metadata"];
    let end: Option<jiff::Timestamp> = meta["deletionTimestamp"].as_str().and_then(|t| t.parse().ok());
    if let Some(end) = end.and_then(|end| end.checked_sub(jiff::SignedDuration::from_secs(have - wanted)).ok()) {
        meta["deletionTimestamp"] = api::meta::format_time(end).into();
    }
    meta["deletionGracePeriodSeconds"] = wanted.into();
}

/// Finalizers that tell the garbage collector what to do with dependents.
fn finalize(scope: &Scope<'_>, options: &Options, new: &mut Value) {
    let have: Vec<String> = api::meta::finalizers(new).into_iter().map(str::to_owned).collect();
    let had = |name: &str| have.iter().any(|f| f == name);
    let orphan = match options.propagation {
        Some(policy) => policy == Propagation::Orphan,
        None => had(ORPHAN) || (scope.kind.default_orphan && !had(FOREGROUND)),
    };
    let foreground = match options.propagation {
        Some(policy) => policy == Propagation::Foreground,
        None => had(FOREGROUND) && !orphan,
    };
    let mut want: Vec<String> = have.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        want.push(ORPHAN.into());
    }
    if foreground {
        want.push(FOREGROUND.into());
    }
    let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if want.is_empty() {
        meta.remove("finalizers");
    } else if want != have {
        meta.insert("finalizers".into(), want.into());
    }
}

/// A Namespace stays, Terminating, until its contents are gone.
fn namespace(mut new: Value, deleting: bool, now: jiff::Timestamp) -> Step {
    let held = |v: &Value| {
        v["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) || !api::meta::finalizers(v).is_empty()
    };
    if !held(&new) {
        return Step::Remove;
    }
    if deleting {
        return Step::Wait;
    }
    api::meta::mark_deleted(&mut new, now, 0);
    if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        // Namespaces have a time only.
        meta.remove("deletionGracePeriodSeconds");
    }
    match new.get_mut("status") {
        Some(status) if status.is_object() => status["phase"] = "Terminating".into(),
        _ => new["status"] = json!({"phase": "Terminating"}),
    }
    Step::Mark(new)
}
