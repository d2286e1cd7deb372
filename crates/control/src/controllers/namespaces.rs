//! Empties a namespace that is being deleted, then lets it go.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use reconcile::namespace::Remaining;
use serde_json::Value;

use super::{Context, Pass};
use crate::actuator::{ActError, is_not_found};
use crate::cache::Key;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// While content goes away by itself (graceful pods, finalizers), how soon to count again.
const RECOUNT: Duration = Duration::from_secs(1);

pub(super) fn pass(c: Arc<Context>, (_, name): Key) -> Pass {
    Box::pin(async move {
        let Some(ns) = c.caches.namespaces.get("", &name) else { return Ok(None) };
        if !reconcile::plan::terminating(&ns.metadata) {
            return Ok(None);
        }
        let remaining = empty(&c, &name).await?;
        let left = !remaining.is_empty();
        // The cached object may lag: the finalizer is taken off the newest.
        let newest = match c.actuator.call(Method::GET, &format!("/api/v1/namespaces/{name}"), None, None).await {
            Ok(v) => serde_json::from_value::<Namespace>(v).ok(),
            Err(e) if is_not_found(&e) => None,
            Err(e) => return Err(e),
        };
        let Some(newest) = newest else { return Ok(None) };
        c.carry_out(reconcile::namespace::plan(&newest, &remaining)).await?;
        Ok(left.then_some(RECOUNT))
    })
}

/// Asks for the deletion of everything and counts what is left. Pods go first and alone (KEP-5080): as long as one runs,
/// its policies, Secrets and volumes stay.
async fn empty(c: &Context, namespace: &str) -> Result<Remaining, ActError> {
    let mut remaining = Remaining::default();
    empty_of(c, namespace, ("", "v1", "pods"), &mut remaining).await?;
    if !remaining.objects.is_empty() {
        return Ok(remaining);
    }
    let storage = |k: &&api::kinds::KindInfo| k.namespaced && k.verbs.contains(&"deletecollection");
    let built_in = api::kinds::registry().all().iter().filter(storage);
    // Events of events.k8s.io are the same objects as core events.
    let built_in = built_in.filter(|k| k.group != "events.k8s.io").map(|k| (k.group, k.version, k.plural));
    let definitions = c.actuator.call(Method::GET, DEFINITIONS, None, None).await?;
    let definitions = definitions["items"].as_array().into_iter().flatten().filter_map(api::crd::place);
    let custom = definitions.filter(|p| p.namespaced).map(|p| (p.group, p.version, p.plural));
    for resource in built_in.chain(custom) {
        empty_of(c, namespace, resource, &mut remaining).await?;
    }
    for (group, version, plural) in foreign(c, &mut remaining).await? {
        empty_of(c, namespace, (&group, &version, &plural), &mut remaining).await?;
    }
    Ok(remaining)
}

/// The same for one resource, given as group, version and plural.
async fn empty_of(
    c: &Context,
    namespace: &str,
    (group, version, plural): (&str, &str, &str),
    remaining: &mut Remaining,
) -> Result<(), ActError> {
    let root = if group.is_empty() { "/api".into() } else { format!("/apis/{group}") };
    let path = format!("{root}/{version}/namespaces/{namespace}/{plural}");
    let list = match c.actuator.call(Method::GET, &path, None, None).await {
        // A definition may go meanwhile, with its objects.
        Err(e) if is_not_found(&e) => return Ok(()),
        other => other?,
    };
    if list["items"].as_array().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    c.actuator.call(Method::DELETE, &path, None, None).await?;
    let list = c.actuator.call(Method::GET, &path, None, None).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !items.is_empty() {
        remaining.objects.push((format!("{plural}.{group}"), items.len()));
        count_finalizers(items, remaining);
    }
    Ok(())
}

/// Namespaced resources that other servers have, by group, version and plural. A server that cannot be asked may have content:
/// the namespace waits for it.
async fn foreign(c: &Context, remaining: &mut Remaining) -> Result<Vec<(String, String, String)>, ActError> {
    let services = c.actuator.call(Method::GET, API_SERVICES, None, None).await?;
    let mut out = Vec::new();
    for service in services["items"].as_array().into_iter().flatten().filter(|s| s["spec"]["service"].is_object()) {
        let text = |key: &str| service["spec"][key].as_str().unwrap_or_default();
        let (group, version) = (text("group"), text("version"));
        let path = format!("/apis/{group}/{version}");
        let list = match c.actuator.call(Method::GET, &path, None, None).await {
            Ok(list) => list,
            Err(error) => {
                remaining.unknown.push((format!("{group}/{version}"), base::chain(&error)));
                continue;
            }
        };
        out.extend(deletable(&list).map(|name| (group.to_owned(), version.to_owned(), name.to_owned())));
    }
    Ok(out)
}

/// Of an `APIResourceList`, the namespaced resources that can be listed and deleted as a collection.
fn deletable(list: &Value) -> impl Iterator<Item = &str> {
    let has = |r: &Value, verb: &str| r["verbs"].as_array().is_some_and(|verbs| verbs.iter().any(|v| v == verb));
    let resources = list["resources"].as_array().into_iter().flatten();
    let resources = resources.filter(move |r| r["namespaced"] == true && has(r, "list") && has(r, "deletecollection"));
    resources.filter_map(|r| r["name"].as_str()).filter(|name| !name.contains('/'))
}

fn count_finalizers(items: &[Value], remaining: &mut Remaining) {
    let names = items.iter().flat_map(|i| i["metadata"]["finalizers"].as_array().into_iter().flatten());
    for finalizer in names.filter_map(Value::as_str) {
        match remaining.finalizers.iter_mut().find(|(n, _)| n == finalizer) {
            Some((_, count)) => *count += 1,
            None => remaining.finalizers.push((finalizer.to_owned(), 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_a_namespace_can_hold_and_lose_is_emptied() {
        let list = json!({"resources": [
            {"name": "flunders", "namespaced": true, "verbs": ["list", "deletecollection"]},
            {"name": "flunders/status", "namespaced": true, "verbs": ["list", "deletecollection"]},
            {"name": "fischers", "namespaced": false, "verbs": ["list", "deletecollection"]},
            {"name": "pods", "namespaced": true, "verbs": ["get", "list"]},
        ]});
        assert_eq!(deletable(&list).collect::<Vec<_>>(), ["flunders"]);
        assert_eq!(deletable(&json!({})).count(), 0);
    }
}
