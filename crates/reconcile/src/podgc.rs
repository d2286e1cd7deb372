//! Pods that nobody looks after any more: those on nodes that are gone, and ended ones beyond a number.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::json;

use crate::plan::{Action, PODS, Plan, name, terminating, uid};
use crate::pods;

/// How long a node must be gone before its pods go (Kubernetes: 40 s): it may be made anew under the same name.
pub const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods that are kept (the default of kube-controller-manager's `--terminated-pod-gc-threshold`).
pub const ENDED_MAX: usize = 12_500;

/// Ends a pod whose node is gone, as the API server has confirmed: no kubelet will say any more that it ended.
pub fn plan_orphan(pod: &Pod, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    disrupt(pod, "DeletionByPodGC", "PodGC: node no longer exists", !pods::finished(pod), now, &mut plan);
    plan.actions.push(Action::Delete {
        resource: PODS,
        namespace: pod.metadata.namespace.clone(),
        name: name(&pod.metadata).to_owned(),
        uid: uid(&pod.metadata).to_owned(),
        propagation: None,
        grace_seconds: Some(0),
    });
    plan
}

/// Deletes the oldest ended pods beyond [`ENDED_MAX`].
pub fn plan_ended(all: &[&Pod]) -> Plan {
    plan_beyond(all, ENDED_MAX)
}

fn plan_beyond(all: &[&Pod], most: usize) -> Plan {
    let mut plan = Plan::default();
    let mut ended: Vec<&Pod> = all.iter().copied().filter(|p| pods::finished(p) && !terminating(&p.metadata)).collect();
    ended.sort_by_key(|p| (pods::created_ms(&p.metadata), uid(&p.metadata).to_owned()));
    for pod in ended.iter().take(ended.len().saturating_sub(most)) {
        plan.delete(PODS, &pod.metadata, None);
    }
    plan
}

/// Notes on a pod why it is about to be ended from outside (KEP-3329), and that it failed if nobody else can say so.
pub fn disrupt(pod: &Pod, reason: &str, message: &str, failed: bool, now: Timestamp, plan: &mut Plan) {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let told = conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    if told && !failed {
        return;
    }
    if !told {
        conditions.retain(|c| c.type_ != "DisruptionTarget");
        conditions.push(PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(pods::time(now)),
            ..Default::default()
        });
    }
    let mut status = json!({"conditions": conditions});
    if failed {
        status["phase"] = "Failed".into();
    }
    plan.actions.push(Action::Patch {
        resource: PODS,
        namespace: pod.metadata.namespace.clone(),
        name: name(&pod.metadata).to_owned(),
        subresource: Some("status"),
        patch: json!({"metadata": {"uid": pod.metadata.uid}, "status": status}),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, created: i64) -> Pod {
        let created = Timestamp::from_second(created).unwrap().to_string();
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "status": {"phase": phase}}))
        .unwrap()
    }

    #[test]
    fn a_pod_without_its_node_fails_and_goes_at_once() {
        let p = plan_orphan(&pod("p", "Running", 1), Timestamp::from_second(10).unwrap());
        let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        assert_eq!(
            (&patch["status"]["phase"], &patch["status"]["conditions"][0]["reason"]),
            (&json!("Failed"), &json!("DeletionByPodGC"))
        );
        assert!(matches!(p.actions[1], Action::Delete { grace_seconds: Some(0), .. }));
    }

    #[test]
    fn the_oldest_ended_pods_go_first() {
        let all =
            [pod("new", "Failed", 3), pod("old", "Succeeded", 1), pod("runs", "Running", 0), pod("mid", "Failed", 2)];
        let p = plan_beyond(&all.iter().collect::<Vec<_>>(), 1);
        let names: Vec<_> = p
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Delete { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["old", "mid"]);
    }
}
