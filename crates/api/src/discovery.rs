//! Discovery documents: `/api`, `/apis`, `/api/v1`, `/apis/<group>/<version>`, in the old form and the aggregated one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{KindInfo, Subresource, VIRTUAL, VirtualKind, join_api_version, registry};

/// The custom kinds of the moment, which are discovered beside the built-in ones.
pub type CustomKinds<'a> = &'a [Arc<KindInfo>];

/// Verbs of `/status` and `/scale`.
const SUB_VERBS: &[&str] = &["get", "patch", "update"];

/// `APIVersions` at `/api`; `address` is the host:port clients reach the server at.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `APIGroupList` at `/apis`.
pub fn api_group_list(custom: CustomKinds<'_>) -> Value {
    let groups: Vec<Value> = groups(custom).into_iter().map(|g| group_object(g, custom, false)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup` at `/apis/<group>`.
pub fn api_group(group: &str, custom: CustomKinds<'_>) -> Option<Value> {
    groups(custom).into_iter().find(|g| *g == group).map(|g| group_object(g, custom, true))
}

/// `APIResourceList` at `/api/v1` (empty group) or `/apis/<group>/<version>`.
pub fn api_resource_list(group: &str, version: &str, custom: CustomKinds<'_>) -> Option<Value> {
    let entries = entries(group, version, custom);
    if entries.is_empty() {
        return None;
    }
    let mut resources: Vec<Value> = entries.iter().flat_map(Entry::legacy).collect();
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": join_api_version(group, version),
        "resources": resources,
    }))
}

/// `APIGroupDiscoveryList` (`apidiscovery.k8s.io/v2`) at `/api` (`core`) or `/apis`.
pub fn aggregated(core: bool, custom: CustomKinds<'_>) -> Value {
    let groups = if core { vec![""] } else { groups(custom) };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions(group, custom)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = entries(group, version, custom).iter().map(Entry::aggregated).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// Named groups in order: built-in ones first.
fn groups(custom: CustomKinds<'_>) -> Vec<&'static str> {
    let mut out: Vec<&str> = Vec::new();
    let built_in = registry().group_versions().into_iter().map(|(group, _)| group);
    for group in built_in.chain(custom.iter().map(|k| k.group)) {
        if !group.is_empty() && !out.contains(&group) {
            out.push(group);
        }
    }
    out
}

/// Versions of a group, preferred first.
fn versions(group: &str, custom: CustomKinds<'_>) -> Vec<&'static str> {
    let built_in = registry().group_versions().into_iter().filter(|(g, _)| *g == group).map(|(_, v)| v);
    let mut out: Vec<&str> = built_in.collect();
    let mut more: Vec<&str> = custom.iter().filter(|k| k.group == group).map(|k| k.version).collect();
    more.sort_by_key(|v| std::cmp::Reverse(crate::crd::priority(v)));
    more.dedup();
    more.retain(|v| !out.contains(v));
    out.extend(more);
    out
}

fn group_object(group: &str, custom: CustomKinds<'_>, alone: bool) -> Value {
    let versions: Vec<Value> = versions(group, custom)
        .into_iter()
        .map(|v| json!({"groupVersion": join_api_version(group, v), "version": v}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    let mut out = json!({"name": group, "versions": versions, "preferredVersion": preferred});
    if alone {
        out["kind"] = "APIGroup".into();
        out["apiVersion"] = "v1".into();
    }
    out
}

/// One served resource.
enum Entry<'a> {
    Kind(&'a KindInfo),
    Virtual(&'static VirtualKind),
}

fn entries<'a>(group: &str, version: &str, custom: CustomKinds<'a>) -> Vec<Entry<'a>> {
    let all = registry().all().iter().chain(custom.iter().map(Arc::as_ref));
    let kinds = all.filter(|k| k.group == group && k.version == version).map(Entry::Kind);
    let questions = VIRTUAL.iter().filter(|k| k.group == group && k.version == version).map(Entry::Virtual);
    let mut out: Vec<Entry<'_>> = kinds.chain(questions).collect();
    out.sort_by_key(Entry::plural);
    out
}

/// Name, kind, group, version, verbs of a subresource; group and version are empty when they are the resource's own.
type Sub = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

impl Entry<'_> {
    fn plural(&self) -> &'static str {
        match self {
            Entry::Kind(k) => k.plural,
            Entry::Virtual(k) => k.plural,
        }
    }

    fn add_names(&self, out: &mut Value) {
        let (short_names, categories) = match self {
            Entry::Kind(k) => (k.short_names, k.categories),
            Entry::Virtual(k) => (k.short_names, &[][..]),
        };
        if !short_names.is_empty() {
            out["shortNames"] = json!(short_names);
        }
        if !categories.is_empty() {
            out["categories"] = json!(categories);
        }
    }

    fn subresources(&self) -> Vec<Sub> {
        let Entry::Kind(k) = self else { return Vec::new() };
        let foreign = |s: &Subresource| {
            let own = s.group == k.group && s.version == k.version;
            if own { (s.name, s.kind, "", "", s.verbs) } else { (s.name, s.kind, s.group, s.version, s.verbs) }
        };
        let mut out: Vec<Sub> = k.subresources.iter().map(foreign).collect();
        if k.has_status {
            out.push(("status", k.kind, "", "", SUB_VERBS));
        }
        if k.scale.is_some() {
            out.push(("scale", "Scale", "autoscaling", "v1", SUB_VERBS));
        }
        out.sort_unstable();
        out
    }

    fn legacy(&self) -> Vec<Value> {
        let (kind, singular, namespaced, verbs) = match self {
            Entry::Kind(k) => (k.kind, k.singular, k.namespaced, k.verbs),
            Entry::Virtual(k) => (k.kind, k.singular, k.namespaced, k.verbs),
        };
        let mut main = json!({
            "name": self.plural(),
            "singularName": singular,
            "namespaced": namespaced,
            "kind": kind,
            "verbs": verbs,
        });
        self.add_names(&mut main);
        if let Entry::Kind(k) = self {
            main["storageVersionHash"] = storage_version_hash(k).into();
        }
        let mut out = vec![main];
        for (name, kind, group, version, verbs) in self.subresources() {
            let mut sub = json!({
                "name": format!("{}/{name}", self.plural()),
                "singularName": "",
                "namespaced": namespaced,
                "kind": kind,
                "verbs": verbs,
            });
            if !version.is_empty() {
                sub["group"] = group.into();
                sub["version"] = version.into();
            }
            out.push(sub);
        }
        out
    }

    fn aggregated(&self) -> Value {
        let (group, version, kind, singular, namespaced, verbs) = match self {
            Entry::Kind(k) => (k.group, k.version, k.kind, k.singular, k.namespaced, k.verbs),
            Entry::Virtual(k) => (k.group, k.version, k.kind, k.singular, k.namespaced, k.verbs),
        };
        let mut out = json!({
            "resource": self.plural(),
            "responseKind": {"group": group, "version": version, "kind": kind},
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": singular,
            "verbs": verbs,
        });
        self.add_names(&mut out);
        let subresources: Vec<Value> = self
            .subresources()
            .into_iter()
            .map(|(name, kind, g, v, verbs)| {
                let (g, v) = if v.is_empty() { (group, version) } else { (g, v) };
                json!({
                    "subresource": name,
                    "responseKind": {"group": g, "version": v, "kind": kind},
                    "verbs": verbs,
                })
            })
            .collect();
        if !subresources.is_empty() {
            out["subresources"] = Value::Array(subresources);
        }
        out
    }
}

/// Changes exactly when the stored version of a kind does; only compared for equality.
fn storage_version_hash(kind: &KindInfo) -> String {
    use base64::Engine as _;
    let text = format!("{}/{}/{}", kind.storage_group, kind.storage_version, kind.kind);
    base64::engine::general_purpose::STANDARD.encode(crate::openapi::fnv1a(text.as_bytes()).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_list_the_same_resources() {
        for (group, version) in registry().group_versions() {
            let legacy = api_resource_list(group, version, &[]).unwrap();
            let all = aggregated(group.is_empty(), &[]);
            let item =
                all["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"].as_str().unwrap_or("") == group);
            let mut names: Vec<String> = Vec::new();
            for r in item.unwrap()["versions"][0]["resources"].as_array().unwrap() {
                let plural = r["resource"].as_str().unwrap();
                names.push(plural.to_owned());
                for s in r["subresources"].as_array().into_iter().flatten() {
                    names.push(format!("{plural}/{}", s["subresource"].as_str().unwrap()));
                }
            }
            names.sort();
            let listed: Vec<&str> =
                legacy["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
            assert_eq!(listed, names, "{group}/{version}");
        }
    }

    #[test]
    fn pods_and_deployments_show_what_kubectl_needs() {
        let core = api_resource_list("", "v1", &[]).unwrap();
        let find = |list: &Value, name: &str| {
            list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap()
        };
        assert_eq!(find(&core, "pods")["shortNames"], json!(["po"]));
        assert_eq!(find(&core, "pods")["categories"], json!(["all"]));
        let eviction = find(&core, "pods/eviction");
        assert_eq!((eviction["group"].as_str(), eviction["kind"].as_str()), (Some("policy"), Some("Eviction")));
        for name in ["pods/log", "pods/exec", "pods/status", "bindings", "serviceaccounts/token", "namespaces/finalize"]
        {
            find(&core, name);
        }
        let apps = api_resource_list("apps", "v1", &[]).unwrap();
        assert_eq!(find(&apps, "deployments/scale")["kind"], "Scale");
        assert!(api_resource_list("nope", "v1", &[]).is_none());
        assert_eq!(api_group("apps", &[]).unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        assert!(api_group_list(&[])["groups"].as_array().unwrap().iter().all(|g| g["name"] != ""));
    }
}
