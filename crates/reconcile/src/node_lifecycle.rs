//! Nodes that stop reporting: `Ready` becomes `Unknown`, taints follow, and pods that do not tolerate them are evicted.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::{Value, json};

use crate::plan::{Action, NODES, PODS, Plan, name, terminating};
use crate::pods;

/// How long a node may be silent (the default of kube-controller-manager).
pub const GRACE: Duration = Duration::from_secs(50);
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions of a node that keep new pods away while they hold, each with its taint.
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Decides for one node, given its lease and the pods assigned to it.
pub fn plan(node: &Node, lease: Option<&Lease>, pods_: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if terminating(&node.metadata) {
        return plan;
    }
    let silent = silence(node, lease, now);
    if silent >= GRACE {
        mark_unknown(node, now, &mut plan);
    } else {
        plan.requeue(GRACE - silent);
    }
    let ready = ready_status(node);
    let state = if silent >= GRACE { "Unknown" } else { ready };
    sync_taints(node, state, now, &mut plan);
    if state != "True" {
        mark_pods_not_ready(pods_, now, &mut plan);
    }
    evict(node, pods_, now, &mut plan);
    plan
}

fn ready_status(node: &Node) -> &str {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().find(|c| c.type_ == "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// Time since the last sign of life: lease renewal, or creation before the first.
fn silence(node: &Node, lease: Option<&Lease>, now: Timestamp) -> Duration {
    let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0.as_millisecond());
    let last = renewed.unwrap_or_else(|| pods::created_ms(&node.metadata));
    Duration::from_millis(u64::try_from(now.as_millisecond() - last).unwrap_or(0))
}

fn mark_unknown(node: &Node, now: Timestamp, plan: &mut Plan) {
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for c in conditions.iter_mut().filter(|c| c.status != "Unknown") {
        c.status = "Unknown".into();
        c.reason = Some("NodeStatusUnknown".into());
        c.message = Some("Kubelet stopped posting node status.".into());
        c.last_transition_time = Some(pods::time(now));
        changed = true;
    }
    if changed {
        plan.actions.push(Action::Patch {
            resource: NODES,
            namespace: None,
            name: name(&node.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}}),
        });
        plan.event(
            NODES,
            &node.metadata,
            "Normal",
            "NodeNotReady",
            format!("Node {} status is now: NodeNotReady", name(&node.metadata)),
        );
    }
}

fn sync_taints(node: &Node, ready: &str, now: Timestamp, plan: &mut Plan) {
    let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    let wanted_key = match ready {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let mut taints: Vec<Taint> = current
        .iter()
        .filter(|t| match t.key.as_str() {
            NOT_READY | UNREACHABLE => Some(t.key.as_str()) == wanted_key,
            UNSCHEDULABLE => unschedulable,
            _ => true,
        })
        .cloned()
        .collect();
    // How long a pod still tolerates a taint is counted from when it was added: somebody who added one by hand did not say.
    for taint in taints.iter_mut().filter(|t| t.effect == "NoExecute") {
        taint.time_added.get_or_insert_with(|| pods::time(now));
    }
    let mut ensure = |key: &str, effect: &str, timed: bool| {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = timed.then(|| pods::time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    };
    if let Some(key) = wanted_key {
        ensure(key, "NoSchedule", false);
        ensure(key, "NoExecute", true);
    }
    if unschedulable {
        ensure(UNSCHEDULABLE, "NoSchedule", true);
    }
    for (condition, key) in CONDITION_TAINTS {
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let holds = conditions.into_iter().any(|c| c.type_ == condition && c.status == "True");
        if holds && !taints.iter().any(|t| t.key == key && t.effect == "NoSchedule") {
            taints.push(Taint { key: key.into(), effect: "NoSchedule".into(), ..Default::default() });
        } else if !holds {
            taints.retain(|t| t.key != key || t.effect != "NoSchedule");
        }
    }
    if taints != current {
        let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
        let meta = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
        plan.patch(NODES, &node.metadata, json!({"metadata": meta, "spec": {"taints": taints}}));
    }
}

/// Endpoints must drop at once: nobody else can say that these pods are not ready.
fn mark_pods_not_ready(pods_: &[&Pod], now: Timestamp, plan: &mut Plan) {
    for pod in pods_.iter().filter(|p| pods::ready(p) && !pods::finished(p)) {
        let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        for c in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
            c.status = "False".into();
            c.last_transition_time = Some(pods::time(now));
        }
        plan.actions.push(Action::Patch {
            resource: PODS,
            namespace: pod.metadata.namespace.clone(),
            name: name(&pod.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}}),
        });
        plan.event(PODS, &pod.metadata, "Warning", "NodeNotReady", "Node is not ready");
    }
}

fn evict(node: &Node, pods_: &[&Pod], now: Timestamp, plan: &mut Plan) {
    let taints: Vec<&Taint> =
        node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.effect == "NoExecute").collect();
    if taints.is_empty() {
        return;
    }
    for pod in pods_.iter().filter(|p| !terminating(&p.metadata)) {
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let mut left: Option<Duration> = None;
        for taint in &taints {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            match tolerated_for(tolerations, taint) {
                Tolerated::Always => {}
                Tolerated::Not => left = Some(Duration::ZERO),
                Tolerated::For(d) => {
                    let passed = u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0);
                    let rest = d.saturating_sub(Duration::from_millis(passed));
                    left = Some(left.map_or(rest, |l| l.min(rest)));
                }
            }
        }
        match left {
            None => {}
            Some(Duration::ZERO) => {
                plan.event(
                    PODS,
                    &pod.metadata,
                    "Normal",
                    "TaintManagerEviction",
                    format!(
                        "Marking for deletion Pod {}/{}",
                        crate::plan::namespace(&pod.metadata),
                        name(&pod.metadata)
                    ),
                );
                let why = "Taint manager: deleting due to NoExecute taint";
                crate::podgc::disrupt(pod, "DeletionByTaintManager", why, false, now, plan);
                plan.delete(PODS, &pod.metadata, None);
            }
            Some(rest) => plan.requeue(rest),
        }
    }
}

enum Tolerated {
    Always,
    For(Duration),
    Not,
}

fn tolerated_for(tolerations: &[Toleration], taint: &Taint) -> Tolerated {
    let fitting: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
    if fitting.is_empty() {
        return Tolerated::Not;
    }
    match fitting.iter().filter_map(|t| t.toleration_seconds).min() {
        None => Tolerated::Always,
        Some(s) => Tolerated::For(Duration::from_secs(u64::try_from(s).unwrap_or(0))),
    }
}

/// Whether a toleration fits a taint (core/v1 Toleration).
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let empty = |s: &Option<String>| s.as_deref().is_none_or(str::is_empty);
    if !empty(&t.effect) && t.effect.as_deref() != Some(taint.effect.as_str()) {
        return false;
    }
    if !empty(&t.key) && t.key.as_deref() != Some(taint.key.as_str()) {
        return false;
    }
    match t.operator.as_deref() {
        Some("Exists") => true,
        _ => !empty(&t.key) && t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "uid": "n"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn lease(seconds: i64) -> Lease {
        let t = Timestamp::from_second(seconds).unwrap();
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": t.to_string()}})).unwrap()
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_is_tainted() {
        let now = Timestamp::from_second(1000).unwrap();
        let p = plan(&node("True"), Some(&lease(900)), &[], now);
        let text = format!("{:?}", p.actions);
        assert!(text.contains("NodeStatusUnknown") && text.contains(UNREACHABLE), "{text}");
    }

    #[test]
    fn pressure_is_a_taint_while_it_lasts() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut n = node("True");
        n.status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()
            .extend(serde_json::from_value::<Vec<_>>(json!([{"type": "DiskPressure", "status": "True"}])).unwrap());
        let taints = |n: &Node| {
            plan(n, Some(&lease(990)), &[], now).actions.into_iter().find_map(|a| match a {
                Action::Patch { patch, .. } => Some(patch["spec"]["taints"].clone()),
                _ => None,
            })
        };
        let tainted = json!([{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]);
        assert_eq!(taints(&n), Some(tainted.clone()));
        n.spec = serde_json::from_value(json!({"taints": tainted})).unwrap();
        assert_eq!(taints(&n), None);
        n.status.as_mut().unwrap().conditions.as_mut().unwrap()[1].status = "False".into();
        assert_eq!(taints(&n), Some(json!(null)));
    }

    #[test]
    fn a_live_node_is_looked_at_again_in_time() {
        let now = Timestamp::from_second(1000).unwrap();
        let p = plan(&node("True"), Some(&lease(990)), &[], now);
        assert_eq!((p.actions.len(), p.requeue_after), (0, Some(Duration::from_secs(40))));
    }

    #[test]
    fn the_time_of_a_taint_without_one_is_counted_from_when_it_was_seen() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut n = node("True");
        n.spec = serde_json::from_value(json!({"taints": [{"key": "k", "effect": "NoExecute"}]})).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
            "spec": {"containers": [], "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]}}))
        .unwrap();
        let deletes = |p: &Plan| p.actions.iter().any(|a| matches!(a, Action::Delete { .. }));
        let first = plan(&n, Some(&lease(1000)), &[&pod], at(1000));
        assert_eq!((deletes(&first), first.requeue_after), (false, Some(Duration::from_secs(5))));
        let written = first.actions.iter().find_map(|a| match a {
            Action::Patch { patch, .. } => Some(patch["spec"]["taints"].clone()),
            _ => None,
        });
        assert_eq!(written, Some(json!([{"key": "k", "effect": "NoExecute", "timeAdded": "1970-01-01T00:16:40Z"}])));
        n.spec = serde_json::from_value(json!({"taints": written})).unwrap();
        assert!(!deletes(&plan(&n, Some(&lease(1000)), &[&pod], at(1004))));
        assert!(deletes(&plan(&n, Some(&lease(1000)), &[&pod], at(1005))));
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let now = Timestamp::from_second(1000).unwrap();
        let mut n = node("Unknown");
        n.spec = serde_json::from_value(json!({"taints": [
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:16:00Z"},
            {"key": UNREACHABLE, "effect": "NoSchedule"}]}))
        .unwrap();
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
            "spec": {"containers": [], "tolerations": [{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}}))
        .unwrap();
        let waits = plan(&n, Some(&lease(900)), &[&pod], now);
        assert!(!waits.actions.iter().any(|a| matches!(a, Action::Delete { .. })));
        pod.spec.as_mut().unwrap().tolerations = None;
        let goes = plan(&n, Some(&lease(900)), &[&pod], now);
        assert!(goes.actions.iter().any(|a| matches!(a, Action::Delete { .. })));
    }
}
