//! Which nodes take a daemon pod, and how a pod is made for one of them.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::node_lifecycle::tolerates;
use crate::plan::{DAEMON_SETS, PODS, Plan, name, namespace, owner_reference};
use crate::pods;
use crate::revisions::HASH_LABEL;

/// What a node says about the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod belongs there.
    pub run: bool,
    /// A pod that is there may stay: a taint that only keeps newcomers away does not end it.
    pub stay: bool,
}

/// The field of a node's name in `matchFields`.
const NAME_FIELD: &str = "metadata.name";

/// Conditions of a node that a daemon pod must live with (the DaemonSet documentation lists them).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// A pod in the host's network does not need the node's to be up.
const TOLERATED_BY_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// A pod of the set before it belongs to a node.
pub(super) fn sample(ds: &DaemonSet, spec: &DaemonSetSpec) -> Pod {
    let owner = owner_reference(DAEMON_SETS, &ds.metadata);
    let mut pod = pods::from_template(&spec.template, owner, namespace(&ds.metadata));
    tolerate(pod.spec.get_or_insert_default());
    pod
}

fn tolerate(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host_network.then_some(TOLERATED_BY_HOST_NETWORK)) {
        let t = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !tolerations.contains(&t) {
            tolerations.push(t);
        }
    }
}

pub(super) fn fit(sample: &Pod, node: &Node) -> Fit {
    let Some(spec) = &sample.spec else { return Fit { run: false, stay: false } };
    let elsewhere = spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != name(&node.metadata));
    if elsewhere || !crate::scheduler::node_fits(sample, node) {
        return Fit { run: false, stay: false };
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let objects = |effects: &[&str]| {
        let taints: Vec<&Taint> = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).collect();
        let objects = |t: &&Taint| effects.contains(&t.effect.as_str()) && !tolerations.iter().any(|o| tolerates(o, t));
        taints.iter().any(objects)
    };
    let stay = !objects(&["NoExecute"]);
    Fit { run: stay && !objects(&["NoSchedule"]), stay }
}

/// The node that the pod is on, or was made for; empty if it says neither.
pub(super) fn node_of(pod: &Pod) -> &str {
    let Some(spec) = &pod.spec else { return "" };
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return node;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.iter().flat_map(|s| &s.node_selector_terms);
    let fields = terms.flat_map(|t| t.match_fields.iter().flatten());
    let named = fields.filter(|r| r.key == NAME_FIELD && r.operator == "In");
    named.flat_map(|r| r.values.iter().flatten()).next().map_or("", String::as_str)
}

/// Makes a pod for a node. The node's name replaces the required node affinity of the template, which was asked already.
pub(super) fn create(ds: &DaemonSet, spec: &DaemonSetSpec, hash: &str, node: &str, plan: &mut Plan) {
    let mut pod = sample(ds, spec);
    pod.metadata.generate_name = Some(format!("{}-", name(&ds.metadata)));
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.to_owned());
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
    let field =
        NodeSelectorRequirement { key: NAME_FIELD.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    plan.create_for(DAEMON_SETS, &ds.metadata, PODS, &pod);
}
