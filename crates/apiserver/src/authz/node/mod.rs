//! What a node's agent may: read what the pods on it refer to, and write only what is its own (Kubernetes' node
//! authorization).
//!
//! Rules that need the body of a request (the name of a new Node or Lease, the pod a token is for) are in
//! `admission::node`.

use super::{Attributes, Authorizer, Decision};
use crate::cache::Caches;

mod graph;

use graph::{Graph, Kind};

/// Readable by every node: group and resource. PersistentVolumes are, because every node reclaims those of the local-path
/// class that were its own; contents of snapshots, because the node that has a volume takes its snapshots.
const READABLE: &[(&str, &str)] = &[
    ("", "services"),
    ("", "endpoints"),
    ("", "persistentvolumes"),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csidrivers"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("snapshot.storage.k8s.io", "volumesnapshotcontents"),
];

/// Namespace of the leases with which nodes show that they live.
const LEASES: &str = "kube-node-lease";

/// The authorizer of node agents.
#[derive(Default)]
pub struct Node {
    graph: Graph,
}

impl Authorizer for Node {
    fn decide(&self, a: &Attributes<'_>, caches: &Caches) -> Decision {
        match a.user.node() {
            Some(node) if self.allows(node, a, caches) => Decision::Allow,
            _ => Decision::NoOpinion,
        }
    }

    fn reason(&self, a: &Attributes<'_>, caches: &Caches) -> Option<String> {
        let node = a.user.node().filter(|node| !self.allows(node, a, caches))?;
        let reads = matches!(a.verb, "get" | "list" | "watch");
        match (a.group, a.resource, a.subresource) {
            ("", "nodes", "") if reads && a.name.is_empty() => {
                Some(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("", "nodes", "") if reads => {
                Some(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
            }
            ("", "pods", "") if reads && a.name.is_empty() => {
                Some("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") if reads && a.name.is_empty() => {
                Some("No Object name found".to_owned())
            }
            ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "serviceaccounts" | "pods", _) if reads => {
                Some(format!("no relationship found between node '{node}' and this object"))
            }
            ("", "serviceaccounts", "token") => {
                Some(format!("no relationship found between node '{node}' and this object"))
            }
            _ => None,
        }
    }
}

impl Node {
    fn allows(&self, node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
        let reads = matches!(a.verb, "get" | "list" | "watch");
        let writes = matches!(a.verb, "create" | "update" | "patch");
        let changes = matches!(a.verb, "update" | "patch");
        if reads && a.subresource.is_empty() && READABLE.contains(&(a.group, a.resource)) {
            return true;
        }
        let refers = |kind: Kind| self.graph.refers(caches, node, kind, a.namespace, a.name);
        match (a.group, a.resource, a.subresource) {
            ("", "secrets", "") => reads && (refers(Kind::Secret) || self.for_a_driver(node, a, caches)),
            ("", "configmaps", "") => reads && refers(Kind::ConfigMap),
            ("", "persistentvolumeclaims", "") => reads && refers(Kind::Claim),
            ("", "persistentvolumeclaims", "status") => changes && refers(Kind::Claim),
            ("", "serviceaccounts", "") => a.verb == "get" && refers(Kind::Account),
            ("", "serviceaccounts", "token") => a.verb == "create" && refers(Kind::Account),
            // The name of a new one is checked when its body is known.
            ("", "nodes", "") => a.verb == "create" || ((reads || changes) && a.name == node),
            ("", "nodes", "status") => changes && a.name == node,
            ("", "pods", "") if a.verb == "delete" => own_pod(node, a, caches),
            ("", "pods", "") => reads && (a.node == node || !a.name.is_empty() && own_pod(node, a, caches)),
            ("", "pods", "status") => changes && own_pod(node, a, caches),
            ("", "pods", "eviction") => a.verb == "create" && own_pod(node, a, caches),
            ("", "persistentvolumes", "") => a.verb == "delete" && own_released_volume(node, a, caches),
            ("coordination.k8s.io", "leases", "") => {
                let own = a.name == node && (reads || writes || a.verb == "delete");
                a.namespace == LEASES && (a.verb == "create" || own)
            }
            ("storage.k8s.io", "csinodes", "") => {
                a.verb == "create" || a.name == node && (a.verb == "get" || changes || a.verb == "delete")
            }
            ("storage.k8s.io", "volumeattachments", "") => a.verb == "get" && own_attachment(node, a, caches),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents", "status") => changes && own_snapshot(node, a, caches),
            ("" | "events.k8s.io", "events", "") => writes,
            ("networking.k8s.io", "ingresses", "status") | ("", "services", "status") => changes,
            ("certificates.k8s.io", "certificatesigningrequests", "")
            | ("authentication.k8s.io", "tokenreviews", "")
            | ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => a.verb == "create",
            _ => false,
        }
    }
}

impl Node {
    /// Whether a volume that a pod of the node claims names the secret for its driver. A volume's secret is in any namespace,
    /// and few are asked for: the volumes are looked through, not indexed.
    fn for_a_driver(&self, node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
        const REFERENCES: [&str; 3] = ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
        if a.verb != "get" || a.name.is_empty() {
            return false;
        }
        let found = caches.core("persistentvolumes").find_map(|entry| {
            let volume = entry.value();
            let csi = &volume["spec"]["csi"];
            if !REFERENCES.iter().any(|r| csi[*r]["name"] == a.name && csi[*r]["namespace"] == a.namespace) {
                return None;
            }
            let claim = &volume["spec"]["claimRef"];
            let (namespace, name) = (claim["namespace"].as_str()?, claim["name"].as_str()?);
            self.graph.refers(caches, node, Kind::Claim, namespace, name).then_some(())
        });
        found.is_some()
    }
}

/// What attaches a volume to this node.
fn own_attachment(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    // What is not there tells nothing: the answer will be 404.
    let Some(entry) = caches.by("storage.k8s.io", "volumeattachments").and_then(|c| c.get(a.name)) else { return true };
    entry.value()["spec"]["nodeName"] == node
}

/// A volume of the local-path class on this node that nobody claims any more: the node removed its data, and now its object.
fn own_released_volume(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    let Some(entry) = caches.core("persistentvolumes").get(a.name) else { return true };
    let Ok(volume) = serde_json::from_slice::<serde_json::Value>(&entry.bytes) else { return false };
    let provisioned = &volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"];
    let terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    let mut rules = terms.into_iter().flatten().filter_map(|t| t["matchExpressions"].as_array()).flatten();
    let here = rules.any(|e| {
        let only = e["values"].as_array().is_some_and(|v| v.len() == 1 && v[0] == node);
        e["key"] == "kubernetes.io/hostname" && e["operator"] == "In" && only
    });
    volume["status"]["phase"] == "Released" && provisioned == "windlass.dev/local-path" && here
}

/// What is kept of a volume of the local-path class on this node: the node says what there is of it.
fn own_snapshot(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    let custom = caches.custom();
    let Some(entry) = custom.objects(a.group, a.resource).and_then(|c| c.get(a.name)) else { return true };
    let content = entry.value();
    let manager = &content["metadata"]["labels"]["snapshot.storage.kubernetes.io/managed-by"];
    content["spec"]["driver"] == "windlass.dev/local-path" && *manager == node
}

fn own_pod(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    let Some(pod) = caches.core("pods").get(&format!("{}/{}", a.namespace, a.name)) else {
        // What is not there cannot be another's; the answer will be 404.
        return true;
    };
    pod.facts.field("spec.nodeName") == node
}
