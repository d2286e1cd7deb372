//! Questions about pods that several controllers ask.

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::plan::{Plan, terminating};

/// A condition of the pod, by type.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == type_)
}

/// The phase, empty before the first status.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether its node says it is ready.
pub fn ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether it ended for good.
pub fn finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor asked to end.
pub fn active(pod: &Pod) -> bool {
    !finished(pod) && !terminating(&pod.metadata)
}

/// Ready for at least `min_ready_seconds`; `Err` says how long is left.
pub fn available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Result<bool, Duration> {
    let Some(c) = condition(pod, "Ready").filter(|c| c.status == "True") else { return Ok(false) };
    if min_ready_seconds <= 0 {
        return Ok(true);
    }
    let since = c.last_transition_time.as_ref().map_or(now, |t| t.0);
    let left = i64::from(min_ready_seconds) * 1000 - (now.as_millisecond() - since.as_millisecond());
    if left <= 0 { Ok(true) } else { Err(Duration::from_millis(left.unsigned_abs())) }
}

/// How many of them are available now; asks to look again when one of the others will be.
pub fn count_available(pods: &[&Pod], min_ready_seconds: i32, now: Timestamp, plan: &mut Plan) -> i32 {
    let mut count = 0;
    for pod in pods {
        match available(pod, min_ready_seconds, now) {
            Ok(true) => count += 1,
            Ok(false) => {}
            Err(left) => plan.requeue(left),
        }
    }
    count
}

/// A number, or a share of `total` rounded up or down.
pub fn resolve(v: &IntOrString, total: i32, up: bool) -> i32 {
    match v {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(s) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let n = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(n.max(0)).unwrap_or(i32::MAX)
        }
    }
}

/// A pod made from a template for an owner.
pub fn from_template(template: &PodTemplateSpec, owner: OwnerReference, namespace: &str) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// How many times its containers were restarted.
pub fn restarts(pod: &Pod) -> i32 {
    pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).max().unwrap_or(0)
}

/// When it was created, in milliseconds since the epoch; 0 if unknown.
pub fn created_ms(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_millisecond())
}

/// API time.
pub fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// What orders pods by how little is lost when they go; see [`deletion_rank`].
pub type DeletionRank = (bool, u8, bool, i64, Reverse<usize>, i64, Reverse<i32>, i64);

/// The smallest rank is deleted first, as Kubernetes' ReplicaSet controller does: unassigned, then not running, not ready,
/// cheap (`controller.kubernetes.io/pod-deletion-cost`), on crowded nodes, ready late, restarted often, created late.
/// `crowd` is how many pods of the set are on its node.
pub fn deletion_rank(pod: &Pod, crowd: usize) -> DeletionRank {
    let assigned = pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
    let phase_rank = match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let is_ready = ready(pod);
    let annotations = pod.metadata.annotations.iter().flatten();
    let cost = annotations
        .filter(|(k, _)| *k == "controller.kubernetes.io/pod-deletion-cost")
        .find_map(|(_, v)| v.parse().ok())
        .unwrap_or(0);
    let ready_since = condition(pod, "Ready")
        .filter(|_| is_ready)
        .and_then(|c| c.last_transition_time.as_ref())
        .map_or(0, |t| t.0.as_second());
    let created = created_ms(&pod.metadata) / 1000;
    (assigned, phase_rank, is_ready, cost, Reverse(crowd), -ready_since, Reverse(restarts(pod)), -created)
}
