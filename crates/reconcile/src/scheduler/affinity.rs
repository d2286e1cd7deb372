//! Node selectors and affinity between pods and nodes, volumes and nodes, pods and pods.

use std::collections::BTreeMap;

use api::selectors::{Operator, Requirement};
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, Pod, PodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Cluster;
use super::placed::Subject;
use crate::labels;
use crate::plan::name;

fn node_labels(node: &Node) -> BTreeMap<String, String> {
    node.metadata.labels.clone().unwrap_or_default()
}

fn requirement(r: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match r.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    Some(Requirement::new(&r.key, operator, r.values.iter().flatten().cloned()))
}

/// A term with no conditions matches nothing (core/v1).
fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = node_labels(node);
    let fields = BTreeMap::from([("metadata.name".to_owned(), name(&node.metadata).to_owned())]);
    let all = |list: &Option<Vec<NodeSelectorRequirement>>, on: &BTreeMap<String, String>| {
        list.iter().flatten().all(|r| requirement(r).is_some_and(|r| labels::meets(&r, on)))
    };
    let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && term.match_fields.as_ref().is_none_or(Vec::is_empty);
    !empty && all(&term.match_expressions, &labels) && all(&term.match_fields, &fields)
}

/// Whether the node meets `nodeSelector` and required node affinity of the pod.
pub fn node_fits(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node_labels(node);
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|s| s.node_selector_terms.iter().any(|t| term_fits(t, node)))
}

/// Preferred node affinity: the sum of the weights that fit.
pub(super) fn node_preference(pod: &Pod, node: &Node) -> i64 {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    terms.filter(|t| term_fits(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}

/// Where a volume can be reached.
pub(super) fn volume_fits(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|s| s.node_selector_terms.iter().any(|t| term_fits(t, node)))
}

/// One affinity term, ready to be asked about pods.
struct Term {
    selector: labels::Selector,
    namespaces: Vec<String>,
    namespace_selector: Option<labels::Selector>,
    topology_key: String,
}

impl Term {
    fn new(t: &PodAffinityTerm, owner: &impl Subject) -> Self {
        let mut namespaces = t.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && t.namespace_selector.is_none() {
            namespaces.push(owner.namespace().to_owned());
        }
        let mut typed = t.label_selector.clone();
        // `matchLabelKeys` narrows the selector to the values of the pod that has the term (KEP-3633).
        for (keys, operator) in [(&t.match_label_keys, "In"), (&t.mismatch_label_keys, "NotIn")] {
            for key in keys.iter().flatten() {
                let Some(value) = owner.label(key) else { continue };
                let r = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.into(),
                    values: Some(vec![value.to_owned()]),
                };
                typed.get_or_insert_with(LabelSelector::default).match_expressions.get_or_insert_default().push(r);
            }
        }
        Term {
            selector: typed.as_ref().map_or_else(labels::nothing, labels::selector),
            namespaces,
            namespace_selector: t.namespace_selector.as_ref().map(labels::selector),
            topology_key: t.topology_key.clone(),
        }
    }

    fn matches(&self, cluster: &Cluster, pod: &impl Subject) -> bool {
        let ns = pod.namespace();
        let by_labels = || {
            self.namespace_selector.as_ref().is_some_and(|s| match cluster.namespaces.get(ns) {
                Some(known) => labels::selects(s, known),
                None => labels::selects(s, &labels::Labels::default()),
            })
        };
        (self.namespaces.iter().any(|n| n == ns) || by_labels()) && pod.meets(&self.selector)
    }

    /// Whether a pod that matches is in the node's domain.
    fn met_near(&self, cluster: &Cluster, node: &Node) -> bool {
        let Some(here) = node_labels(node).remove(&self.topology_key) else { return false };
        cluster.hosts.values().any(|h| {
            let same = h.node.as_ref().is_some_and(|n| node_labels(n).get(&self.topology_key) == Some(&here));
            same && h.pods.values().any(|p| self.matches(cluster, p.as_ref()))
        })
    }

    fn met_anywhere(&self, cluster: &Cluster) -> bool {
        cluster.hosts.values().any(|h| h.pods.values().any(|p| self.matches(cluster, p.as_ref())))
    }
}

/// Required affinity and anti-affinity, of the pod and of those that are there already.
pub(super) fn pods_fit(cluster: &Cluster, pod: &Pod, node: &Node) -> Result<(), Vec<String>> {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    for t in near.iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten()) {
        let term = Term::new(t, &pod.metadata);
        // The first of a group that wants to be together may go anywhere.
        let first = term.matches(cluster, &pod.metadata) && !term.met_anywhere(cluster);
        let labelled = node_labels(node).contains_key(&term.topology_key);
        if !(term.met_near(cluster, node) || (first && labelled)) {
            return Err(vec!["node(s) didn't match pod affinity rules".into()]);
        }
    }
    let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    for t in apart.iter().flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten()) {
        if Term::new(t, &pod.metadata).met_near(cluster, node) {
            return Err(vec!["node(s) didn't match pod anti-affinity rules".into()]);
        }
    }
    let here = node_labels(node);
    for host in cluster.hosts.values() {
        let Some(other) = &host.node else { continue };
        for placed in host.pods.values().filter(|p| p.anti_affinity.is_some()) {
            let rules = placed.anti_affinity.iter();
            for t in rules.flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten()) {
                let term = Term::new(t, placed.as_ref());
                let there = node_labels(other).remove(&term.topology_key);
                let same = there.is_some() && here.get(&term.topology_key) == there.as_ref();
                if same && term.matches(cluster, &pod.metadata) {
                    return Err(vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()]);
                }
            }
        }
    }
    Ok(())
}

/// Preferred affinity less preferred anti-affinity.
pub(super) fn pod_preference(cluster: &Cluster, pod: &Pod, node: &Node) -> i64 {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return 0 };
    let near = affinity.pod_affinity.iter();
    let near = near.flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let apart = affinity.pod_anti_affinity.iter();
    let apart = apart.flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let weight = |t: &k8s_openapi::api::core::v1::WeightedPodAffinityTerm| {
        if Term::new(&t.pod_affinity_term, &pod.metadata).met_near(cluster, node) { i64::from(t.weight) } else { 0 }
    };
    near.map(weight).sum::<i64>() - apart.map(weight).sum::<i64>()
}
