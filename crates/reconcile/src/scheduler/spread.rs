//! `topologySpreadConstraints`: how evenly the pods of a group lie over zones or nodes (KEP-895).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};

use super::placed::Subject;
use super::{Cluster, affinity};
use crate::labels;
use crate::plan::namespace;

/// Pods that match, by value of the topology key, over the nodes that the pod could use.
fn counts(cluster: &Cluster, pod: &Pod, c: &TopologySpreadConstraint) -> BTreeMap<String, i64> {
    let mut typed = c.label_selector.clone();
    for key in c.match_label_keys.iter().flatten() {
        if let Some(value) = pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
            typed.get_or_insert_default().match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    let selector = typed.as_ref().map_or_else(labels::nothing, labels::selector);
    let mut out = BTreeMap::new();
    for host in cluster.hosts.values() {
        let Some(node) = &host.node else { continue };
        let Some(domain) = node.metadata.labels.as_ref().and_then(|l| l.get(&c.topology_key)) else { continue };
        let ignores_affinity = c.node_affinity_policy.as_deref() == Some("Ignore");
        if !ignores_affinity && !affinity::node_fits(pod, node) {
            continue;
        }
        let here = host
            .pods
            .values()
            .filter(|p| !p.terminating && p.namespace() == namespace(&pod.metadata) && p.meets(&selector));
        *out.entry(domain.clone()).or_default() += i64::try_from(here.count()).unwrap_or(0);
    }
    out
}

fn constraints(pod: &Pod, hard: bool) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
    all.filter(move |c| (c.when_unsatisfiable == "DoNotSchedule") == hard)
}

/// Whether placing the pod here keeps every hard constraint.
pub(super) fn fits(cluster: &Cluster, pod: &Pod, node: &Node) -> Result<(), Vec<String>> {
    for c in constraints(pod, true) {
        let Some(domain) = node.metadata.labels.as_ref().and_then(|l| l.get(&c.topology_key)) else {
            return Err(vec!["node(s) didn't match pod topology spread constraints (missing required label)".into()]);
        };
        let counts = counts(cluster, pod, c);
        let here = counts.get(domain).copied().unwrap_or(0) + 1;
        let enough = c.min_domains.is_none_or(|m| counts.len() >= usize::try_from(m).unwrap_or(0));
        let least = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
        if here - least > i64::from(c.max_skew) {
            return Err(vec!["node(s) didn't match pod topology spread constraints".into()]);
        }
    }
    Ok(())
}

/// How far soft constraints are missed here.
pub(super) fn penalty(cluster: &Cluster, pod: &Pod, node: &Node) -> i64 {
    let mut sum = 0;
    for c in constraints(pod, false) {
        let domain = node.metadata.labels.as_ref().and_then(|l| l.get(&c.topology_key));
        let counts = counts(cluster, pod, c);
        sum += domain.map_or(100, |d| counts.get(d).copied().unwrap_or(0) * 40);
    }
    sum
}
