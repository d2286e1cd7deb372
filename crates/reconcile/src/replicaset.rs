//! ReplicaSet: as many pods as asked for, no more, no fewer.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::labels::{self, Selector};
use crate::plan::{
    PODS, Plan, REPLICA_SETS, controlled_by, controller, name, namespace, owner_reference, terminating, uid,
};
use crate::pods;

/// Most pods created or deleted in one pass: a mistake in a manifest must not flood the API at once.
const BURST_MAX: usize = 250;

/// Decides for one ReplicaSet, given every pod of its namespace.
pub fn plan(rs: &ReplicaSet, all_pods: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &rs.spec else { return plan };
    let selector = labels::selector(&spec.selector);
    let own_uid = uid(&rs.metadata);
    let mine: Vec<&Pod> = all_pods.iter().copied().filter(|p| controlled_by(&p.metadata, own_uid)).collect();
    if !terminating(&rs.metadata) {
        adopt(rs, &selector, all_pods, &mut plan);
        release(&selector, &mine, own_uid, &mut plan);
        if !plan.actions.is_empty() {
            return plan; // counting waits until ownership is settled
        }
    }
    let matching: Vec<&Pod> = mine.into_iter().filter(|p| labels::matches(&selector, &p.metadata)).collect();
    let active: Vec<&Pod> = matching.iter().copied().filter(|p| pods::active(p)).collect();
    if !terminating(&rs.metadata) {
        scale(rs, &active, &mut plan);
    }
    let status = status(rs, &matching, &active, now, &mut plan);
    plan.set_status(REPLICA_SETS, &rs.metadata, rs.status.as_ref(), &status);
    plan
}

fn adopt(rs: &ReplicaSet, selector: &Selector, pods_: &[&Pod], plan: &mut Plan) {
    let orphans = pods_
        .iter()
        .filter(|p| controller(&p.metadata).is_none() && pods::active(p) && labels::matches(selector, &p.metadata));
    for pod in orphans {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(owner_reference(REPLICA_SETS, &rs.metadata));
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "ownerReferences": owners}});
        plan.patch(PODS, &pod.metadata, patch);
    }
}

fn release(selector: &Selector, mine: &[&Pod], own_uid: &str, plan: &mut Plan) {
    let strays = mine.iter().filter(|p| !terminating(&p.metadata) && !labels::matches(selector, &p.metadata));
    for pod in strays {
        let owners: Vec<_> = pod.metadata.owner_references.iter().flatten().filter(|o| o.uid != own_uid).collect();
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "ownerReferences": owners}});
        plan.patch(PODS, &pod.metadata, patch);
    }
}

fn scale(rs: &ReplicaSet, active: &[&Pod], plan: &mut Plan) {
    let Some(spec) = &rs.spec else { return };
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let Some(template) = &spec.template else { return };
    let ns = namespace(&rs.metadata);
    for _ in active.len()..wanted.min(active.len() + BURST_MAX) {
        let mut pod = pods::from_template(template, owner_reference(REPLICA_SETS, &rs.metadata), ns);
        pod.metadata.generate_name = Some(format!("{}-", name(&rs.metadata)));
        plan.create(PODS, Some(ns), &pod);
    }
    if active.len() > wanted {
        let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
        let mut crowds: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for pod in active {
            *crowds.entry(node(pod)).or_default() += 1;
        }
        let mut order = active.to_vec();
        order.sort_by_cached_key(|p| (pods::deletion_rank(p, crowds[&node(p)]), name(&p.metadata).to_owned()));
        for pod in order.into_iter().take((active.len() - wanted).min(BURST_MAX)) {
            plan.delete(PODS, &pod.metadata, None);
        }
    }
}

fn status(rs: &ReplicaSet, matching: &[&Pod], active: &[&Pod], now: Timestamp, plan: &mut Plan) -> ReplicaSetStatus {
    let min_ready = rs.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let template_labels: BTreeSet<(&String, &String)> = rs
        .spec
        .iter()
        .flat_map(|s| s.template.iter())
        .flat_map(|t| t.metadata.iter())
        .flat_map(|m| m.labels.iter().flatten())
        .collect();
    let mut available = 0;
    for pod in active {
        match pods::available(pod, min_ready, now) {
            Ok(true) => available += 1,
            Ok(false) => {}
            Err(left) => plan.requeue(left),
        }
    }
    let fully = |p: &&&Pod| {
        let own: BTreeSet<(&String, &String)> = p.metadata.labels.iter().flatten().collect();
        template_labels.is_subset(&own)
    };
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: i32| (n > 0).then_some(n);
    let leaving = matching.iter().filter(|p| terminating(&p.metadata) && !pods::finished(p)).count();
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(count(active.iter().filter(fully).count())),
        ready_replicas: some(count(active.iter().filter(|p| pods::ready(p)).count())),
        available_replicas: some(available),
        terminating_replicas: Some(count(leaving)),
        observed_generation: rs.metadata.generation,
        conditions: rs.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}
