//! What the server itself does with CustomResourceDefinitions: it accepts their names, says so in their conditions, and
//! deletes a definition's objects before the definition goes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::crd::{self, FINALIZER};
use api::kinds::registry;
use api::status::ApiError;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::authn::UserInfo;
use crate::cache::Entry;
use crate::handlers::Scope;
use crate::handlers::delete::{self, Options};
use crate::handlers::write::{Writer, encode_stored};
use crate::server::ApiServer;

const MANAGER: &str = "windlass-apiserver";
/// How long after a failed write it is tried again: nothing else would tell.
const RETRY: Duration = Duration::from_secs(1);

/// Looks after the definitions until `stop`, whenever one of them changes.
pub(crate) async fn run(server: Weak<ApiServer>, stop: CancellationToken) {
    let Some((mut head, mut progress)) = server.upgrade().map(|s| (s.caches.definitions().head(), s.caches.progress()))
    else {
        return;
    };
    let mut settled = HashMap::new();
    loop {
        head.borrow_and_update();
        progress.borrow_and_update();
        let Some(server) = server.upgrade() else { return };
        let outcome = pass(&server, &mut settled).await;
        drop(server);
        if let Err(error) = &outcome {
            tracing::warn!(error = error.message, "custom resource definitions cannot be looked after");
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            // Objects of a definition that is being deleted go one by one, some when their finalizers do.
            changed = progress.changed(), if matches!(outcome, Ok(true)) => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if outcome.is_err() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One look at the definitions that changed; whether one of them waits for its objects. `settled` are those that are
/// served, with the revision at which there was nothing to do for them.
async fn pass(server: &ApiServer, settled: &mut HashMap<Arc<str>, u64>) -> Result<bool, ApiError> {
    let mut waits = false;
    let user = UserInfo::control_plane("system:apiserver");
    let warnings = Default::default();
    let (manager, now) = (MANAGER, jiff::Timestamp::now());
    let writer = Writer { server, user: &user, manager, dry_run: false, now, warnings: &warnings };
    let definitions = server.caches.definitions();
    settled.retain(|name, _| definitions.get(name).is_some());
    for entry in definitions.snapshot("", None, 0, false, |_| true).entries {
        if entry.facts.deleting {
            waits |= terminate(&writer, &entry).await?;
        } else if settled.get(&entry.key) != Some(&entry.revision) && accept(&writer, &entry).await? {
            settled.insert(entry.key.clone(), entry.revision);
        }
    }
    Ok(waits)
}

async fn put(writer: &Writer<'_>, entry: &Entry, old: &Value, mut new: Value) -> Result<(), ApiError> {
    if new == *old {
        return Ok(());
    }
    api::meta::clear_resource_version(&mut new);
    let scope = scope_of(writer, entry)?;
    // Lost against another write: that one wakes the next pass.
    writer.put(&scope, &entry.key, encode_stored(&new), entry.revision, None).await.map(drop)
}

fn scope_of<'a>(writer: &'a Writer<'_>, entry: &'a Entry) -> Result<Scope<'a>, ApiError> {
    let kind = registry()
        .by_resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        .ok_or_else(ApiError::path_not_found)?;
    Ok(Scope { kind, cache: writer.server.caches.definitions(), namespace: "", name: &entry.key })
}

/// Says in the status whether the names are free, and takes them. Whether that was said already and they are: a name that
/// is taken may become free.
async fn accept(writer: &Writer<'_>, entry: &Entry) -> Result<bool, ApiError> {
    let old = entry.value();
    let mut new = old.clone();
    let now = writer.now_text();
    let conflict = conflict(writer, &old);
    let names = match &conflict {
        None => {
            new["status"]["acceptedNames"] = old["spec"]["names"].clone();
            ["NoConflicts", "no conflicts found"].map(str::to_owned)
        }
        Some((reason, name)) => [(*reason).to_owned(), format!("{name:?} is already in use")],
    };
    crd::set_condition(&mut new, "NamesAccepted", conflict.is_none(), [&names[0], &names[1]], &now);
    let served = crd::kinds(&new);
    let established = match (&served, &conflict) {
        (Err(error), _) => (false, ["NotServed".to_owned(), error.to_string()]),
        (Ok(_), Some(_)) if !crd::is_established(&old) => {
            (false, ["NotAccepted", "not all names are accepted"].map(str::to_owned))
        }
        (Ok(_), _) => (true, ["InitialNamesAccepted", "the initial names have been accepted"].map(str::to_owned)),
    };
    crd::set_condition(&mut new, "Established", established.0, [&established.1[0], &established.1[1]], &now);
    if let Some(approval) = api::meta::annotations(&old).and_then(|a| a.get("api-approved.kubernetes.io")?.as_str()) {
        let (ok, reason, words) = match approval.starts_with("unapproved") {
            true => (false, "UnapprovedAnnotation", format!("not approved: {approval:?}")),
            false => (true, "ApprovedAnnotation", format!("approved in {approval}")),
        };
        crd::set_condition(&mut new, "KubernetesAPIApprovalPolicyConformant", ok, [reason, &words], &now);
    }
    let done = new == old && conflict.is_none();
    put(writer, entry, &old, new).await?;
    Ok(done)
}

/// A name of the definition that another kind of its group has already, with the reason for the condition.
fn conflict(writer: &Writer<'_>, definition: &Value) -> Option<(&'static str, String)> {
    let spec = &definition["spec"];
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let group = text(&spec["group"]);
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for kind in registry().all().iter().filter(|k| k.group == group) {
        resources.extend([kind.plural, kind.singular].map(str::to_owned));
        resources.extend(kind.short_names.iter().map(|s| (*s).to_owned()));
        kinds.extend([kind.kind, kind.list_kind].map(str::to_owned));
    }
    for kind in writer.server.caches.custom().stored() {
        if kind.group != group || kind.plural == spec["names"]["plural"] {
            continue;
        }
        resources.extend([kind.plural, kind.singular].map(str::to_owned));
        resources.extend(kind.short_names.iter().map(|s| (*s).to_owned()));
        kinds.extend([kind.kind, kind.list_kind].map(str::to_owned));
    }
    let names = &spec["names"];
    let resource = |reason, name: &Value| (reason, text(name), true);
    let mut wanted =
        vec![resource("PluralConflict", &names["plural"]), resource("SingularConflict", &names["singular"])];
    wanted.extend(names["shortNames"].as_array().into_iter().flatten().map(|s| resource("ShortNamesConflict", s)));
    wanted.push(("KindConflict", text(&names["kind"]), false));
    wanted.push(("ListKindConflict", text(&names["listKind"]), false));
    // Of several, the last is told, as Kubernetes does.
    wanted.into_iter().rev().find_map(|(reason, name, is_resource)| {
        let taken = if is_resource { &resources } else { &kinds };
        (!name.is_empty() && taken.contains(&name)).then_some((reason, name))
    })
}

/// Deletes the objects, then lets the definition go; whether there are still some.
async fn terminate(writer: &Writer<'_>, entry: &Entry) -> Result<bool, ApiError> {
    let old = entry.value();
    if !api::meta::finalizers(&old).contains(&FINALIZER) {
        return Ok(false);
    }
    if !crd::is_true(&old, "Terminating") {
        let mut new = old.clone();
        let words = ["InstanceDeletionInProgress", "CustomResource deletion is in progress"];
        crd::set_condition(&mut new, "Terminating", true, words, &writer.now_text());
        put(writer, entry, &old, new).await?;
        // The change wakes the next pass, which sees what was created until now.
        return Ok(true);
    }
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let (group, plural) = (text(&old["spec"]["group"]), text(&old["spec"]["names"]["plural"]));
    let custom = writer.server.caches.custom();
    if let Some(cache) = custom.objects(&group, &plural) {
        let kind = cache.kind();
        for object in cache.snapshot("", None, 0, false, |_| true).entries {
            if object.facts.deleting {
                continue;
            }
            let scope = Scope { kind: &kind, cache, namespace: object.namespace(), name: object.name() };
            match delete::delete(writer, &scope, &Options::default()).await {
                Err(error) if error.reason != "NotFound" => return Err(error),
                _ => {}
            }
        }
        if !cache.is_empty() {
            return Ok(true);
        }
    }
    let mut new = old.clone();
    api::meta::clear_resource_version(&mut new);
    if let Some(list) = new["metadata"]["finalizers"].as_array_mut() {
        list.retain(|f| f != FINALIZER);
    }
    let scope = scope_of(writer, entry)?;
    if api::meta::finalizers(&new).is_empty() {
        writer.remove(&scope, &entry.key, entry.revision).await?;
    } else {
        writer.put(&scope, &entry.key, encode_stored(&new), entry.revision, None).await?;
    }
    Ok(false)
}
