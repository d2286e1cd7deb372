//! ReplicationController: the older form of a ReplicaSet, with a selector of equal labels only.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::labels;
use crate::plan::{Plan, REPLICATION_CONTROLLERS};
use crate::pods;
use crate::replicas::{Keeper, REPLICA_FAILURE, Refusal, keep, store};

/// Decides for one ReplicationController, given every pod of its namespace and whether its last pod was refused.
pub fn plan(rc: &ReplicationController, all_pods: &[&Pod], refused: Refusal<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &rc.spec else { return plan };
    let typed = LabelSelector { match_labels: spec.selector.clone(), match_expressions: None };
    let empty = spec.selector.as_ref().is_none_or(std::collections::BTreeMap::is_empty);
    let keeper = Keeper {
        resource: REPLICATION_CONTROLLERS,
        meta: &rc.metadata,
        // Without a selector nothing is counted, and then nothing may be made: every pass would make more.
        selector: if empty { labels::nothing() } else { labels::selector(&typed) },
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        template: spec.template.as_ref().filter(|_| !empty),
    };
    let Some(counts) = keep(&keeper, all_pods, now, &mut plan) else { return plan };
    let some = |n: i32| (n > 0).then_some(n);
    let status = ReplicationControllerStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: some(counts.fully_labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        observed_generation: rc.metadata.generation,
        conditions: conditions(rc, refused, now),
    };
    store(&mut plan, &keeper, refused, rc.status.as_ref(), &status);
    plan
}

fn conditions(
    rc: &ReplicationController,
    refused: Refusal<'_>,
    now: Timestamp,
) -> Option<Vec<ReplicationControllerCondition>> {
    let old = rc.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let (type_, reason) = REPLICA_FAILURE;
    let (before, mut all): (Vec<_>, Vec<_>) = old.into_iter().partition(|c| c.type_ == type_);
    all.extend(refused.map(|why| ReplicationControllerCondition {
        type_: type_.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(why.to_owned()),
        last_transition_time: before.first().and_then(|c| c.last_transition_time.clone()).or(Some(pods::time(now))),
    }));
    Some(all).filter(|c| !c.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;
    use serde_json::{Value, json};

    fn controller(replicas: i32) -> ReplicationController {
        serde_json::from_value(json!({"metadata": {"name": "rc", "namespace": "d", "uid": "rc1", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"app": "a"},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}}}))
        .unwrap()
    }

    fn pod(name: &str, owner: Option<&str>, labels: Value) -> Pod {
        let owners: Vec<Value> = owner
            .iter()
            .map(|u| json!({"apiVersion": "v1", "kind": "ReplicationController", "name": "rc", "uid": u, "controller": true}))
            .collect();
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": labels,
            "ownerReferences": owners}, "status": {"phase": "Running"}}))
        .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn makes_what_is_missing_and_tells() {
        let p = plan(&controller(2), &[], None, now());
        let made: Vec<&Value> = p
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Create { body, told: Some(about), .. } if about["kind"] == "ReplicationController" => {
                    Some(body)
                }
                _ => None,
            })
            .collect();
        assert_eq!(made.len(), 2);
        assert_eq!(made[0]["metadata"]["generateName"], "rc-");
    }

    #[test]
    fn adopts_orphans_and_releases_strays_before_it_counts() {
        let (orphan, stray) = (pod("o", None, json!({"app": "a"})), pod("s", Some("rc1"), json!({"app": "b"})));
        let p = plan(&controller(2), &[&orphan, &stray], None, now());
        let owners: Vec<usize> = p
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Patch { patch, .. } => patch["metadata"]["ownerReferences"].as_array().map(Vec::len),
                _ => None,
            })
            .collect();
        assert_eq!((owners, p.actions.len()), (vec![1, 0], 2));
    }

    #[test]
    fn a_refusal_is_a_condition_until_a_pod_is_taken() {
        let p = plan(&controller(1), &[], Some("exceeded quota"), now());
        let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        let condition = &patch["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["message"]), (&json!("ReplicaFailure"), &json!("exceeded quota")));
        let mut rc = controller(1);
        rc.status = serde_json::from_value(patch["status"].clone()).unwrap();
        let p = plan(&rc, &[], None, now());
        let Some(Action::Patch { patch, .. }) = p.actions.last() else { panic!("{p:?}") };
        assert_eq!(patch["status"], json!({"conditions": null}));
    }

    #[test]
    fn an_empty_selector_makes_nothing() {
        let mut rc = controller(2);
        rc.spec.as_mut().unwrap().selector = None;
        assert!(!plan(&rc, &[], None, now()).actions.iter().any(|a| matches!(a, Action::Create { .. })));
    }
}
