//! What a node's agent may: read what it needs to run pods, and write only what is its own.
//!
//! Rules that need the body of a request (the name of a new Node or Lease, the pod a token is for) are in
//! `admission::node`.

use super::{Attributes, Authorizer, Decision};
use crate::cache::Caches;

/// Readable by every node: group and resource.
const READABLE: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "services"),
    ("", "endpoints"),
    ("", "configmaps"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "nodes"),
    ("", "namespaces"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "ingressclasses"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csidrivers"),
];

/// Namespace of the leases with which nodes show that they live.
const LEASES: &str = "kube-node-lease";

/// The authorizer of node agents.
#[derive(Default)]
pub struct Node;

impl Authorizer for Node {
    fn decide(&self, a: &Attributes<'_>, caches: &Caches) -> Decision {
        match a.user.node() {
            Some(node) if allows(node, a, caches) => Decision::Allow,
            _ => Decision::NoOpinion,
        }
    }
}

fn allows(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    let reads = matches!(a.verb, "get" | "list" | "watch");
    let writes = matches!(a.verb, "create" | "update" | "patch");
    let changes = matches!(a.verb, "update" | "patch");
    if reads && a.subresource.is_empty() && READABLE.contains(&(a.group, a.resource)) {
        return true;
    }
    match (a.group, a.resource, a.subresource) {
        // The name of a new one is checked when its body is known.
        ("", "nodes", "") => a.verb == "create" || (changes && a.name == node),
        ("", "nodes", "status") => changes && a.name == node,
        ("", "pods", "") => a.verb == "delete" && own_pod(node, a, caches),
        ("", "pods", "status") => changes && own_pod(node, a, caches),
        ("", "pods", "eviction") => a.verb == "create" && own_pod(node, a, caches),
        ("", "persistentvolumes", "") => a.verb == "delete" && own_released_volume(node, a, caches),
        ("coordination.k8s.io", "leases", "") => {
            a.namespace == LEASES && (a.verb == "create" || ((reads || writes || a.verb == "delete") && a.name == node))
        }
        ("" | "events.k8s.io", "events", "") => writes,
        ("", "serviceaccounts", "token") => a.verb == "create",
        ("networking.k8s.io", "ingresses", "status") => changes,
        ("authentication.k8s.io", "tokenreviews", "") | ("authorization.k8s.io", "subjectaccessreviews", "") => {
            a.verb == "create"
        }
        _ => false,
    }
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

fn own_pod(node: &str, a: &Attributes<'_>, caches: &Caches) -> bool {
    let Some(pod) = caches.core("pods").get(&format!("{}/{}", a.namespace, a.name)) else {
        // What is not there cannot be another's; the answer will be 404.
        return true;
    };
    pod.facts.fields.iter().any(|(field, value)| *field == "spec.nodeName" && value == node)
}
