//! ReplicaSet: as many pods as asked for.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::labels;
use crate::plan::{Plan, REPLICA_SETS};
use crate::pods;
use crate::replicas::{Keeper, REPLICA_FAILURE, Refusal, keep, store};

/// Decides for one ReplicaSet, given every pod of its namespace and whether its last pod was refused.
pub fn plan(rs: &ReplicaSet, all_pods: &[&Pod], refused: Refusal<'_>, now: Timestamp) -> Plan {
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
        conditions: conditions(rs, refused, now),
    };
    store(&mut plan, &keeper, refused, rs.status.as_ref(), &status);
    plan
}

fn conditions(rs: &ReplicaSet, refused: Refusal<'_>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    let old = rs.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let (type_, reason) = REPLICA_FAILURE;
    let (before, mut all): (Vec<_>, Vec<_>) = old.into_iter().partition(|c| c.type_ == type_);
    all.extend(refused.map(|why| ReplicaSetCondition {
        type_: type_.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(why.to_owned()),
        last_transition_time: before.first().and_then(|c| c.last_transition_time.clone()).or(Some(pods::time(now))),
    }));
    Some(all).filter(|c| !c.is_empty())
}
