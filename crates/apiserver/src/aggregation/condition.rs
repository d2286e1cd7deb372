//! Whether a group-version that a Service serves is available, in Kubernetes' words.

use std::sync::Arc;

use api::status::ApiError;
use serde_json::{Value, json};

use super::{Backend, scope};
use crate::cache::Caches;
use crate::handlers::write::{Commit, RETRIES, Writer, encode_stored};
use crate::outbound::Host;
use crate::outbound::service::Found;
use crate::server::ApiServer;

/// The `Available` condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: String) -> Self {
        Verdict { available: false, reason, message }
    }

    /// It answers.
    pub fn passed() -> Self {
        Verdict { available: true, reason: "Passed", message: "all checks passed".into() }
    }

    /// It does not answer as it should.
    pub fn failed(why: String) -> Self {
        Verdict::no("FailedDiscoveryCheck", why)
    }

    /// This server itself serves it.
    pub fn local() -> Self {
        Verdict { available: true, reason: "Local", message: "Local APIServices are always available".into() }
    }
}

/// Where a backend can be asked, as far as the Service and its slices say; and a number that changes when they do.
pub(super) fn look(caches: &Caches, backend: &Backend) -> (u64, Result<Vec<Host>, Verdict>) {
    match Found::look(caches, &backend.namespace, &backend.service) {
        Some(found) => (state(&found), places(&found, backend)),
        None => {
            let what = format!("service/{} in {:?} is not present", backend.service, backend.namespace);
            (0, Err(Verdict::no("ServiceNotFound", what)))
        }
    }
}

/// Identifies a Service and its slices at one moment.
fn state(found: &Found) -> u64 {
    let mut text = api::meta::resource_version(&found.service).to_owned();
    for slice in &found.slices {
        text.push_str(&format!(" {}@{}", slice.key, slice.revision));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(1, |sum: u64, b| sum.wrapping_mul(257).wrapping_add(u64::from(*b)))
}

fn places(found: &Found, backend: &Backend) -> Result<Vec<Host>, Verdict> {
    let (name, namespace, port) = (&backend.service, &backend.namespace, backend.port);
    let kind = found.service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    if kind == "ClusterIP" {
        let port_name = found.port_name(port).ok_or_else(|| {
            let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
            Verdict::no("ServicePortError", message)
        })?;
        if found.slices.is_empty() {
            let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
            return Err(Verdict::no("EndpointsNotFound", message));
        }
        if found.ready(port_name).is_empty() {
            let slices = format!("endpointslices for service/{name} in {namespace:?}");
            let message = format!("{slices} have no addresses with port name {port_name:?}");
            return Err(Verdict::no("MissingEndpoints", message));
        }
    }
    found.places(port).map_err(Verdict::failed)
}

/// The object with the condition; `None` when it has it already. The time is that of the last change of the status.
pub(super) fn with(object: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let mut new = object.clone();
    let status = if verdict.available { "True" } else { "False" };
    let mut condition = json!({"type": "Available", "status": status, "lastTransitionTime": now, "reason": verdict.reason,
        "message": verdict.message});
    if !new["status"]["conditions"].is_array() {
        new["status"] = json!({"conditions": []});
    }
    let list = new["status"]["conditions"].as_array_mut()?;
    match list.iter_mut().find(|c| c["type"] == "Available") {
        Some(old) => {
            if old["status"] == condition["status"] {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
    (new != *object).then_some(new)
}

/// Whether the object says nothing yet.
pub(super) fn is_missing(server: &ApiServer, backend: &Backend) -> bool {
    let object = super::cache(server).get(&backend.name).map(|e| e.value());
    let has =
        |o: &Value| o["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Available"));
    object.is_some_and(|o| !has(&o))
}

/// Says it in the status, if `still` the object is one to say it of.
pub(super) async fn write(
    writer: &Writer<'_>,
    name: &str,
    verdict: &Verdict,
    still: impl Fn(&Value) -> bool,
) -> Result<(), ApiError> {
    let scope = scope(writer, name)?;
    for _ in 0..RETRIES {
        let Some(entry) = scope.cache.get(name) else { return Ok(()) };
        let old = entry.value();
        let Some(mut new) = with(&old, verdict, &writer.now_text()).filter(|_| still(&old)) else { return Ok(()) };
        api::meta::clear_resource_version(&mut new);
        if let Commit::Done(_) = writer.put(&scope, name, encode_stored(&new), entry.revision, None).await? {
            return Ok(());
        }
    }
    Err(ApiError::conflict_modified(super::PLURAL, super::GROUP, name))
}

/// The resources that a backend lists at its group-version, as aggregated discovery has them.
pub(super) fn resources(group: &str, version: &str, list: &Value) -> Option<Arc<Value>> {
    let legacy = list["resources"].as_array()?;
    let kind = |r: &Value| {
        let own = |key: &str, default: &str| r[key].as_str().filter(|v| !v.is_empty()).unwrap_or(default).to_owned();
        json!({"group": own("group", group), "version": own("version", version), "kind": own("kind", "")})
    };
    let mut out: Vec<Value> = Vec::new();
    for resource in legacy.iter().filter(|r| !r["name"].as_str().unwrap_or("/").contains('/')) {
        let name = resource["name"].as_str()?;
        let mut entry = json!({
            "resource": name,
            "responseKind": kind(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"].as_str().unwrap_or(""),
            "verbs": resource["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if resource[key].as_array().is_some_and(|list| !list.is_empty()) {
                entry[key] = resource[key].clone();
            }
        }
        let below = legacy.iter().filter_map(|r| Some((r, r["name"].as_str()?.split_once('/')?)));
        let subresources: Vec<Value> = below
            .filter(|(_, (parent, _))| *parent == name)
            .map(|(r, (_, sub))| json!({"subresource": sub, "responseKind": kind(r), "verbs": r["verbs"]}))
            .collect();
        if !subresources.is_empty() {
            entry["subresources"] = Value::Array(subresources);
        }
        out.push(entry);
    }
    out.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    Some(Arc::new(Value::Array(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let object = json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}});
        let first = with(&object, &Verdict::failed("a".into()), "1").unwrap();
        assert_eq!(first["status"]["conditions"][0]["type"], "Other");
        let second = with(&first, &Verdict::failed("b".into()), "2").unwrap();
        assert_eq!(second["status"]["conditions"][1]["lastTransitionTime"], "1");
        assert_eq!(second["status"]["conditions"][1]["message"], "b");
        assert_eq!(with(&second, &Verdict::failed("b".into()), "3"), None);
        let third = with(&second, &Verdict::passed(), "4").unwrap();
        assert_eq!(third["status"]["conditions"][1]["lastTransitionTime"], "4");
        assert_eq!(with(&json!({}), &Verdict::local(), "1").unwrap()["status"]["conditions"][0]["reason"], "Local");
    }

    #[test]
    fn a_list_of_resources_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"],
                "shortNames": ["fl"]},
            {"name": "flunders/scale", "singularName": "", "namespaced": true, "kind": "Scale", "group": "autoscaling",
                "version": "v1", "verbs": ["get"]},
        ]});
        let own = json!({"group": "w", "version": "v1", "kind": "Flunder"});
        let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        assert_eq!(
            *resources("w", "v1", &list).unwrap(),
            json!([{"resource": "flunders", "responseKind": own, "scope": "Namespaced", "singularResource": "flunder",
                "verbs": ["get", "list"], "shortNames": ["fl"], "subresources": [
                    {"subresource": "status", "responseKind": own, "verbs": ["get"]},
                    {"subresource": "scale", "responseKind": scale, "verbs": ["get"]}]}])
        );
        assert!(resources("w", "v1", &json!({"kind": "Status"})).is_none());
    }
}
