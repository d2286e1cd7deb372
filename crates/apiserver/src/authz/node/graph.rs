//! Which node has which reason to read an object: that a pod which runs there refers to it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use crate::authz::feed::{Feed, Step};
use crate::cache::{Caches, Entry};

/// What pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Secrets.
    Secret,
    /// ConfigMaps.
    ConfigMap,
    /// PersistentVolumeClaims.
    Claim,
    /// ServiceAccounts.
    Account,
}

/// An object: kind, namespace and name.
type Ref = (Kind, String, String);

/// There is one of every pod that runs in the cluster: what it refers to, and its node, are shared with the others.
struct Pod {
    uid: Box<str>,
    node: Arc<str>,
    refs: Box<[Arc<Ref>]>,
}

#[derive(Default)]
struct State {
    feed: Feed,
    index: Index,
}

#[derive(Default)]
struct Index {
    pods: HashMap<Arc<str>, Pod>,
    /// How many pods of each node refer to the object.
    readers: HashMap<Arc<Ref>, HashMap<Arc<str>, usize>>,
    /// Nodes with pods, and how many.
    nodes: HashMap<Arc<str>, usize>,
}

/// Follows the pods of the watch cache.
#[derive(Default)]
pub struct Graph {
    state: RwLock<State>,
}

impl Graph {
    /// Whether a pod of the node refers to the object.
    pub fn refers(&self, caches: &Caches, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let pods = caches.core("pods");
        let wanted = (kind, namespace.to_owned(), name.to_owned());
        {
            let state = self.state.read();
            if state.feed.is_current(pods) {
                return state.index.refers(&wanted, node);
            }
        }
        let mut state = self.state.write();
        let State { feed, index } = &mut *state;
        feed.catch_up(pods, |step| match step {
            Step::Forget => *index = Index::default(),
            Step::There(entry) => index.add(entry),
            Step::Gone(entry) => index.remove(&entry.key),
        });
        state.index.refers(&wanted, node)
    }
}

impl Index {
    fn refers(&self, wanted: &Ref, node: &str) -> bool {
        self.readers.get(wanted).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn add(&mut self, entry: &Entry) {
        let node = entry.facts.field("spec.nodeName");
        // What a pod refers to does not change once it runs somewhere: its status does, often.
        if self.pods.get(&entry.key).is_some_and(|pod| pod.uid == entry.facts.uid && *pod.node == *node) {
            return;
        }
        self.remove(&entry.key);
        if node.is_empty() {
            return;
        }
        let node = match self.nodes.get_key_value(node) {
            Some((known, _)) => known.clone(),
            None => Arc::from(node),
        };
        *self.nodes.entry(node.clone()).or_default() += 1;
        let mut shared = Vec::new();
        for wanted in refs(&entry.value()) {
            let wanted = match self.readers.get_key_value(&wanted) {
                Some((known, _)) => known.clone(),
                None => Arc::new(wanted),
            };
            *self.readers.entry(wanted.clone()).or_default().entry(node.clone()).or_default() += 1;
            shared.push(wanted);
        }
        let pod = Pod { uid: entry.facts.uid.clone(), node, refs: shared.into() };
        self.pods.insert(entry.key.clone(), pod);
    }

    fn remove(&mut self, key: &Arc<str>) {
        let Some(pod) = self.pods.remove(key) else { return };
        for wanted in &pod.refs {
            let Some(nodes) = self.readers.get_mut(wanted) else { continue };
            take_one(nodes, &pod.node);
            if nodes.is_empty() {
                self.readers.remove(wanted);
            }
        }
        take_one(&mut self.nodes, &pod.node);
    }
}

fn take_one(counts: &mut HashMap<Arc<str>, usize>, node: &str) {
    if let Some(count) = counts.get_mut(node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(node);
        }
    }
}

/// Everything a pod refers to, each once.
fn refs(pod: &Value) -> Vec<Ref> {
    let namespace = api::meta::namespace(pod);
    let mut found: Vec<(Kind, String)> = vec![(Kind::Account, api::kinds::pod::service_account_name(pod).to_owned())];
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        if volume["ephemeral"].is_object() {
            // KEP-1698: the claim of a generic ephemeral volume is named after pod and volume.
            let volume = volume["name"].as_str().unwrap_or("");
            found.push((Kind::Claim, format!("{}-{volume}", api::meta::name(pod))));
        }
    }
    walk(&pod["spec"], &mut found);
    let mut refs: Vec<Ref> = Vec::new();
    for (kind, name) in found {
        let wanted = (kind, namespace.to_owned(), name);
        if !wanted.2.is_empty() && !refs.contains(&wanted) {
            refs.push(wanted);
        }
    }
    let annotations = api::meta::annotations(pod);
    if let Some(signers) = annotations.and_then(|a| a.get(api::meta::REQUIRE_SIGNATURE)?.as_str()) {
        refs.push((Kind::ConfigMap, api::meta::SIGNERS_NAMESPACE.to_owned(), signers.to_owned()));
    }
    refs
}

/// References are told by the keys under which they are: there are many places, and few keys.
fn walk(value: &Value, found: &mut Vec<(Kind, String)>) {
    let mut add = |kind: Kind, name: &Value| {
        if let Some(name) = name.as_str() {
            found.push((kind, name.to_owned()));
        }
    };
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Object(map) => {
            for (key, inner) in map {
                match key.as_str() {
                    "secret" => {
                        add(Kind::Secret, &inner["secretName"]);
                        add(Kind::Secret, &inner["name"]);
                    }
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => add(Kind::Secret, &inner["name"]),
                    "azureFile" => add(Kind::Secret, &inner["secretName"]),
                    "imagePullSecrets" => {
                        inner.as_array().into_iter().flatten().for_each(|s| add(Kind::Secret, &s["name"]));
                    }
                    "configMap" | "configMapRef" | "configMapKeyRef" => add(Kind::ConfigMap, &inner["name"]),
                    "persistentVolumeClaim" => add(Kind::Claim, &inner["claimName"]),
                    _ => {}
                }
            }
            map.values().for_each(|inner| walk(inner, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_of_a_pod_that_names_an_object_is_found() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "annotations": {"windlass.dev/require-signature": "signers"}},
            "spec": {
                "serviceAccountName": "robot",
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"env": [{"name": "secret", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}],
                "containers": [{
                    "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "all"}}],
                    "env": [{"valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}}],
                }],
                "nodeSelector": {"secret": "no", "configMap": "no"},
                "volumes": [
                    {"name": "a", "secret": {"secretName": "vol"}},
                    {"name": "b", "configMap": {"name": "files"}},
                    {"name": "c", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "ca"}}]}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "f", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                ],
            },
        });
        let mut found: Vec<(Kind, String)> = refs(&pod).into_iter().map(|(kind, _, name)| (kind, name)).collect();
        found.sort_by_key(|(kind, name)| (format!("{kind:?}"), name.clone()));
        let names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "robot", "data", "p-e", "all", "ca", "files", "one", "signers", "csi", "env", "from", "part", "pull",
                "vol"
            ]
        );
    }
}
