use serde_json::json;

use super::*;
use crate::plan::Action;

fn set(replicas: i32, image: &str) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "db", "namespace": "default", "uid": "s1", "generation": 1},
        "spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}
    }))
    .unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn created<T: serde::de::DeserializeOwned>(p: &Plan, kind: &str) -> Vec<T> {
    p.actions
        .iter()
        .filter_map(|a| match a {
            Action::Create { resource, body, .. } if resource.kind == kind => serde_json::from_value(body.clone()).ok(),
            _ => None,
        })
        .collect()
}

fn revision(s: &StatefulSet, number: i64) -> ControllerRevision {
    let mut r: ControllerRevision = created(&plan(s, &[], &[], &[], now()), "ControllerRevision").remove(0);
    r.metadata.uid = Some(format!("rev{number}"));
    r.revision = number;
    r
}

fn pod(s: &StatefulSet, rev: &ControllerRevision, n: i64, is_ready: bool) -> Pod {
    let condition = json!([{"type": "Ready", "status": if is_ready { "True" } else { "False" }}]);
    let owner = serde_json::to_value(owner_reference(STATEFUL_SETS, &s.metadata)).unwrap();
    serde_json::from_value(json!({"metadata": {"name": format!("db-{n}"), "uid": format!("p{n}"), "ownerReferences": [owner],
        "labels": {"app": "db", REVISION_LABEL: rev.metadata.name}}, "status": {"phase": "Running", "conditions": condition}}))
    .unwrap()
}

fn deleted(p: &Plan) -> Vec<&str> {
    p.actions
        .iter()
        .filter_map(|a| match a {
            Action::Delete { resource, name, .. } if resource.kind == "Pod" => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn the_first_pod_comes_with_its_claim_and_alone() {
    let s = set(3, "a");
    let r = revision(&s, 1);
    let p = plan(&s, &[], &[], &[&r], now());
    let claims: Vec<PersistentVolumeClaim> = created(&p, "PersistentVolumeClaim");
    let made: Vec<Pod> = created(&p, "Pod");
    assert_eq!(claims.iter().map(|c| name(&c.metadata)).collect::<Vec<_>>(), ["data-db-0"]);
    assert_eq!(made.iter().map(|c| name(&c.metadata)).collect::<Vec<_>>(), ["db-0"]);
    assert_eq!(made[0].spec.as_ref().unwrap().subdomain.as_deref(), Some("db"));
}

#[test]
fn the_next_pod_waits_for_the_one_before() {
    let s = set(2, "a");
    let r = revision(&s, 1);
    let waiting = pod(&s, &r, 0, false);
    assert!(created::<Pod>(&plan(&s, &[&waiting], &[], &[&r], now()), "Pod").is_empty());
    let ready = pod(&s, &r, 0, true);
    assert_eq!(created::<Pod>(&plan(&s, &[&ready], &[], &[&r], now()), "Pod").len(), 1);
}

#[test]
fn parallel_makes_all_at_once() {
    let mut s = set(3, "a");
    s.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
    let r = revision(&s, 1);
    assert_eq!(created::<Pod>(&plan(&s, &[], &[], &[&r], now()), "Pod").len(), 3);
}

#[test]
fn updates_go_from_the_highest_down_and_stop_at_the_partition() {
    let old = set(2, "a");
    let mut new = set(2, "b");
    let (r1, r2) = (revision(&old, 1), revision(&new, 2));
    let (p0, p1) = (pod(&old, &r1, 0, true), pod(&old, &r1, 1, true));
    let p = plan(&new, &[&p0, &p1], &[], &[&r1, &r2], now());
    assert_eq!(deleted(&p), ["db-1"]);
    new.spec.as_mut().unwrap().update_strategy =
        serde_json::from_value(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})).unwrap();
    assert!(deleted(&plan(&new, &[&p0, &p1], &[], &[&r1, &r2], now())).is_empty());
}

#[test]
fn scaling_down_takes_the_highest_first_and_one_at_a_time() {
    let s = set(1, "a");
    let r = revision(&s, 1);
    let pods_: Vec<Pod> = (0..3).map(|n| pod(&s, &r, n, true)).collect();
    let refs: Vec<&Pod> = pods_.iter().collect();
    assert_eq!(deleted(&plan(&s, &refs, &[], &[&r], now())), ["db-2"]);
}

#[test]
fn a_name_that_belongs_to_another_is_not_taken() {
    let s = set(1, "a");
    let r = revision(&s, 1);
    let mut foreign = pod(&s, &r, 0, true);
    foreign.metadata.owner_references = None;
    let p = plan(&s, &[&foreign], &[], &[&r], now());
    assert_eq!(p.actions.len(), 1, "one that matches is adopted: {p:?}");
    foreign.metadata.labels = None;
    let p = plan(&s, &[&foreign], &[], &[&r], now());
    assert!(created::<Pod>(&p, "Pod").is_empty());
    assert!(p.actions.iter().any(|a| matches!(a, Action::Event { reason: "FailedCreate", .. })));
}

#[test]
fn as_many_pods_are_replaced_at_once_as_may_be_missing() {
    let (old, mut new) = (set(4, "a"), set(4, "b"));
    let spec = new.spec.as_mut().unwrap();
    spec.pod_management_policy = Some("Parallel".into());
    spec.update_strategy =
        serde_json::from_value(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}})).unwrap();
    let (r1, r2) = (revision(&old, 1), revision(&new, 2));
    let mut pods: Vec<Pod> = (0..4).map(|n| pod(&old, &r1, n, true)).collect();
    let run = |pods: &[Pod]| {
        let p = plan(&new, &pods.iter().collect::<Vec<_>>(), &[], &[&r1, &r2], now());
        deleted(&p).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(run(&pods), ["db-3", "db-2"]);
    // A broken pod of the old revision goes; it takes up the room of one.
    pods[0] = pod(&old, &r1, 0, false);
    assert_eq!(run(&pods), ["db-3", "db-0"]);
    // Two that do not come up stop the rollout.
    let stuck = [pod(&old, &r1, 0, true), pod(&old, &r1, 1, true), pod(&new, &r2, 2, false), pod(&new, &r2, 3, false)];
    assert_eq!(run(&stuck), Vec::<String>::new());
}

#[test]
fn claims_of_pods_scaled_away_go_with_them_when_asked_for() {
    let mut s = set(1, "a");
    s.spec.as_mut().unwrap().persistent_volume_claim_retention_policy =
        serde_json::from_value(json!({"whenDeleted": "Retain", "whenScaled": "Delete"})).unwrap();
    let r = revision(&s, 1);
    let claims: Vec<PersistentVolumeClaim> = (0..2)
        .map(|n| {
            serde_json::from_value(json!({"metadata": {"name": format!("data-db-{n}"), "uid": format!("c{n}")}}))
                .unwrap()
        })
        .collect();
    let pods = [pod(&s, &r, 0, true), pod(&s, &r, 1, true)];
    let p = plan(&s, &pods.iter().collect::<Vec<_>>(), &claims.iter().collect::<Vec<_>>(), &[&r], now());
    let owned: Vec<(String, serde_json::Value)> = p
        .actions
        .iter()
        .filter_map(|a| match a {
            crate::plan::Action::Patch { resource, name, patch, .. } if resource.kind == "PersistentVolumeClaim" => {
                Some((name.clone(), patch["metadata"]["ownerReferences"][0]["uid"].clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(owned, [("data-db-1".to_owned(), json!("p1"))]);
    assert_eq!(deleted(&p), ["db-1"]);
}

#[test]
fn scaling_down_in_order_halts_at_unhealthy_pods() {
    let mut s = set(0, "a");
    let r = revision(&s, 1);
    let run = |s: &StatefulSet, ready: [bool; 3]| {
        let pods: Vec<Pod> = (0..3).zip(ready).map(|(n, ready)| pod(s, &r, n, ready)).collect();
        let p = plan(s, &pods.iter().collect::<Vec<_>>(), &[], &[&r], now());
        deleted(&p).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(run(&s, [false, false, false]), Vec::<String>::new());
    assert_eq!(run(&s, [true, true, false]), ["db-2"], "it is the lowest unhealthy one");
    assert_eq!(run(&s, [false, true, true]), ["db-2"]);
    s.spec.as_mut().unwrap().pod_management_policy = Some("Parallel".into());
    assert_eq!(run(&s, [false, false, false]).len(), 3);
}
