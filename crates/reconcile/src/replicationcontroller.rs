//! ReplicationController: the older form of a ReplicaSet, with a selector of equal labels only.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::labels;
use crate::plan::{Plan, REPLICATION_CONTROLLERS};
use crate::replicas::{Keeper, keep};

/// Decides for one ReplicationController, given every pod of its namespace.
pub fn plan(rc: &ReplicationController, all_pods: &[&Pod], now: Timestamp) -> Plan {
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
        conditions: rc.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    plan.set_status(REPLICATION_CONTROLLERS, &rc.metadata, rc.status.as_ref(), &status);
    plan
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
        let p = plan(&controller(2), &[], now());
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
        let p = plan(&controller(2), &[&orphan, &stray], now());
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
    fn an_empty_selector_makes_nothing() {
        let mut rc = controller(2);
        rc.spec.as_mut().unwrap().selector = None;
        assert!(!plan(&rc, &[], now()).actions.iter().any(|a| matches!(a, Action::Create { .. })));
    }
}
