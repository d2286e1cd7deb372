//! Documents about what is served, with what others serve in them.

use std::cmp::Reverse;
use std::sync::Arc;

use api::kinds::join_api_version;
use serde_json::{Value, json};

use super::{Backend, register};

/// A version with its priority, and what a document says of it.
struct Version {
    name: String,
    priority: i64,
    said: Value,
}

/// A group with its versions.
struct Group {
    name: String,
    priority: i64,
    versions: Vec<Version>,
}

/// The groups of a document in the order of their priorities, with what others serve in the place of what this server does.
fn merged(local: Vec<(String, Vec<(String, Value)>)>, remote: Vec<(&Backend, Value)>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, versions) in local {
        let of = |(version, said): (String, Value)| {
            let (_, priority) = register::priorities(&name, &version);
            Version { name: version, priority, said }
        };
        let priority = versions.iter().map(|(v, _)| register::priorities(&name, v).0).max().unwrap_or(0);
        let versions = versions.into_iter().map(of).collect();
        groups.push(Group { name, priority, versions });
    }
    for (backend, said) in remote {
        let (of_group, priority) = backend.state().priorities;
        let version = Version { name: backend.version.clone(), priority, said };
        match groups.iter_mut().find(|g| g.name == backend.group) {
            Some(group) => {
                group.priority = group.priority.max(of_group);
                group.versions.retain(|v| v.name != version.name);
                group.versions.push(version);
            }
            None => {
                groups.push(Group { name: backend.group.clone(), priority: of_group, versions: vec![version] });
            }
        }
    }
    for group in &mut groups {
        group.versions.sort_by(|a, b| {
            let key = |v: &Version| (v.priority, api::crd::priority(&v.name));
            key(b).cmp(&key(a))
        });
    }
    groups.sort_by(|a, b| (Reverse(a.priority), &a.name).cmp(&(Reverse(b.priority), &b.name)));
    groups
}

/// Those of a named group: the core has no place in these documents.
fn named(backends: &[Arc<Backend>]) -> impl Iterator<Item = &Backend> {
    backends.iter().map(AsRef::as_ref).filter(|b| !b.group.is_empty())
}

fn version_words(group: &str, version: &str) -> Value {
    json!({"groupVersion": join_api_version(group, version), "version": version})
}

fn group_object(group: Group) -> Value {
    let versions: Vec<Value> = group.versions.into_iter().map(|v| v.said).collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({"name": group.name, "versions": versions, "preferredVersion": preferred})
}

fn groups_of(list: &Value) -> Vec<(String, Vec<(String, Value)>)> {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let versions = |g: &Value| {
        let list = g["versions"].as_array().into_iter().flatten();
        list.map(|v| (text(&v["version"]), v.clone())).collect()
    };
    list.as_array().into_iter().flatten().map(|g| (text(&g["name"]), versions(g))).collect()
}

/// `APIGroupList`.
pub(crate) fn group_list(mut document: Value, backends: &[Arc<Backend>]) -> Value {
    let remote = named(backends).map(|b| (b, version_words(&b.group, &b.version))).collect();
    let groups = merged(groups_of(&document["groups"]), remote);
    document["groups"] = groups.into_iter().map(group_object).collect();
    document
}

/// `APIGroup`, of a group that this server has, others have, or both.
pub(crate) fn group(name: &str, local: Option<Value>, backends: &[Arc<Backend>]) -> Option<Value> {
    let own = local.map(|group| groups_of(&json!([group]))).unwrap_or_default();
    let remote = named(backends).filter(|b| b.group == name).map(|b| (b, version_words(&b.group, &b.version)));
    let group = merged(own, remote.collect()).into_iter().next()?;
    let mut out = group_object(group);
    out["kind"] = "APIGroup".into();
    out["apiVersion"] = "v1".into();
    Some(out)
}

/// `APIGroupDiscoveryList` of the named groups. What could not be asked lately is `Stale`.
pub(crate) fn aggregated(mut document: Value, backends: &[Arc<Backend>]) -> Value {
    let said = |b: &Backend| {
        let state = b.state();
        let freshness = if state.fresh { "Current" } else { "Stale" };
        let mut out = json!({"version": b.version, "freshness": freshness});
        if state.resources.is_array() {
            out["resources"] = (*state.resources).clone();
        }
        out
    };
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let versions = |g: &mut Value| match g["versions"].take() {
        Value::Array(list) => list.into_iter().map(|v| (text(&v["version"]), v)).collect(),
        _ => Vec::new(),
    };
    let items = document["items"].take();
    let local = match items {
        Value::Array(items) => {
            items.into_iter().map(|mut g| (text(&g["metadata"]["name"]), versions(&mut g))).collect()
        }
        _ => Vec::new(),
    };
    let groups = merged(local, named(backends).map(|b| (b, said(b))).collect());
    let item = |g: Group| {
        let versions: Vec<Value> = g.versions.into_iter().map(|v| v.said).collect();
        json!({"metadata": {"name": g.name}, "versions": versions})
    };
    document["items"] = groups.into_iter().map(item).collect();
    document
}

/// The index of OpenAPI v3 documents. The documents themselves are those of the backends.
pub(crate) fn openapi_index(mut document: Value, backends: &[Arc<Backend>]) -> Value {
    if let Some(paths) = document["paths"].as_object_mut() {
        for backend in backends {
            let key = backend.root().trim_start_matches('/').to_owned();
            match backend.state().openapi_v3 {
                Some(url) => paths.insert(key, json!({"serverRelativeURL": url})),
                // Who serves it now has none; what this server would say of it is not true.
                None => paths.remove(&key),
            };
        }
    }
    document
}

/// Of a backend's OpenAPI v2 document, the paths of its group-version and the definitions.
pub(super) fn own_part(whole: &Value, root: &str) -> Value {
    let below = format!("{root}/");
    let paths = whole["paths"].as_object().into_iter().flatten();
    let paths: serde_json::Map<String, Value> =
        paths.filter(|(path, _)| path.starts_with(&below)).map(|(path, item)| (path.clone(), item.clone())).collect();
    json!({"paths": paths, "definitions": whole["definitions"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::KeyCert;

    fn backend(group: &str, version: &str, priorities: (i64, i64)) -> Arc<Backend> {
        let own = KeyCert { cert_pem: String::new(), key_pem: String::new() };
        let object = json!({"metadata": {"name": format!("{version}.{group}")}, "spec": {
            "group": group, "version": version, "service": {"namespace": "n", "name": "s"},
            "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1}});
        Arc::new(Backend::new(&object, &own))
    }

    #[test]
    fn groups_come_in_the_order_of_their_priorities() {
        let local = api::discovery::api_group_list(&[]);
        let remote = [backend("a.example", "v1", (2000, 10)), backend("a.example", "v2alpha1", (2000, 20))];
        let list = group_list(local, &remote);
        let names: Vec<&str> = list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names[..3], ["apiregistration.k8s.io", "apps", "events.k8s.io"]);
        assert_eq!(names[names.len() - 2..], ["a.example", "metrics.k8s.io"], "the one that is built in comes last");
        let group = group("a.example", None, &remote).unwrap();
        assert_eq!(group["preferredVersion"]["groupVersion"], "a.example/v2alpha1");
        assert_eq!(group["versions"].as_array().unwrap().len(), 2);
        assert!(super::group("b.example", None, &remote).is_none());
        let autoscaling = super::group("autoscaling", api::discovery::api_group("autoscaling", &[]), &[]).unwrap();
        assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
        assert_eq!(autoscaling, api::discovery::api_group("autoscaling", &[]).unwrap());
    }

    #[test]
    fn what_cannot_be_asked_is_stale_and_keeps_what_it_said() {
        let remote = backend("a.example", "v1", (2000, 10));
        let find = |backends: &[Arc<Backend>]| {
            let list = aggregated(api::discovery::aggregated(false, &[]), backends);
            let items = list["items"].as_array().unwrap().clone();
            items.iter().find(|i| i["metadata"]["name"] == "a.example").unwrap()["versions"].clone()
        };
        assert_eq!(find(std::slice::from_ref(&remote)), json!([{"version": "v1", "freshness": "Stale"}]));
        assert!(remote.learn(|s| (s.fresh, s.resources) = (true, Arc::new(json!([{"resource": "x"}])))));
        assert_eq!(
            find(std::slice::from_ref(&remote)),
            json!([{"version": "v1", "freshness": "Current", "resources": [{"resource": "x"}]}])
        );
        remote.learn(|s| s.fresh = false);
        assert_eq!(find(&[remote])[0]["resources"], json!([{"resource": "x"}]));
    }

    #[test]
    fn a_group_version_that_others_serve_is_theirs() {
        let remote = backend("apps", "v1", (2000, 10));
        let list = aggregated(api::discovery::aggregated(false, &[]), std::slice::from_ref(&remote));
        let apps = list["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "apps").unwrap();
        assert_eq!(apps["versions"], json!([{"version": "v1", "freshness": "Stale"}]));
        assert!(
            openapi_index(api::openapi::index(&[]), std::slice::from_ref(&remote))["paths"]
                .get("apis/apps/v1")
                .is_none()
        );
        remote.learn(|s| s.openapi_v3 = Some("/openapi/v3/apis/apps/v1?hash=1".into()));
        let index = openapi_index(api::openapi::index(&[]), &[remote]);
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=1");
    }
}
