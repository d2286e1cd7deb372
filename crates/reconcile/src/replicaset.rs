//! ReplicaSet: as many pods as asked for.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::labels;
use crate::plan::{Plan, REPLICA_SETS};
use crate::replicas::{Keeper, keep};

/// Decides for one ReplicaSet, given every pod of its namespace.
pub fn plan(rs: &ReplicaSet, all_pods: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &rs.spec else { return plan };
    let keeper = Keeper {
        resource: REPLICA_SETS,
        meta: &rs.metadata,
        selector: labels::selector(&spec.selector),
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref(),
    };
    let Some(counts) = keep(&keeper, all_pods, now, &mut plan) else { return plan };
    let some = |n: i32| (n > 0).then_some(n);
    let status = ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: some(counts.fully_labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        terminating_replicas: Some(counts.terminating),
        observed_generation: rs.metadata.generation,
        conditions: rs.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    plan.set_status(REPLICA_SETS, &rs.metadata, rs.status.as_ref(), &status);
    plan
}
