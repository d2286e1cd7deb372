use super::*;
use crate::plan::Action;

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "api", "namespace": "default", "uid": "d1", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "api"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}
    }))
    .unwrap()
}

/// The set that a Deployment's plan would make, as if it had been stored.
fn set_of(d: &Deployment, uid: &str, replicas: i32, available: i32, revision: i64) -> ReplicaSet {
    let empty = plan(d, &[], &[], now());
    let Some(Action::Create { body, .. }) = empty.actions.first() else { panic!("no set was made") };
    let mut rs: ReplicaSet = serde_json::from_value(body.clone()).unwrap();
    rs.metadata.uid = Some(uid.into());
    rs.metadata.resource_version = Some("1".into());
    rs.metadata.annotations.as_mut().unwrap().insert(REVISION.into(), revision.to_string());
    rs.spec.as_mut().unwrap().replicas = Some(replicas);
    rs.status = serde_json::from_value(
        json!({"replicas": replicas, "readyReplicas": available, "availableReplicas": available}),
    )
    .unwrap();
    rs
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn scalings(p: &Plan) -> Vec<(String, i64)> {
    p.actions
        .iter()
        .filter_map(|a| match a {
            Action::Patch { resource, name, patch, .. } if *resource == REPLICA_SETS => {
                patch["spec"]["replicas"].as_i64().map(|n| (name.clone(), n))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_new_deployment_gets_a_set_of_full_size() {
    let p = plan(&deployment(3, "a"), &[], &[], now());
    let Action::Create { body, .. } = &p.actions[0] else { panic!("{p:?}") };
    assert_eq!(body["spec"]["replicas"], 3);
    assert_eq!(body["metadata"]["annotations"][REVISION], "1");
    let hash = body["metadata"]["labels"][HASH_LABEL].as_str().unwrap();
    assert_eq!(body["metadata"]["name"], format!("api-{hash}"));
}

#[test]
fn rolling_starts_with_the_surge_and_takes_nothing_yet() {
    let old = set_of(&deployment(2, "a"), "r1", 2, 2, 1);
    let p = plan(&deployment(2, "b"), &[&old], &[], now());
    let Action::Create { body, .. } = &p.actions[0] else { panic!("{p:?}") };
    assert_eq!(body["spec"]["replicas"], 1);
    assert_eq!(scalings(&p), []);
}

#[test]
fn an_old_pod_goes_only_when_a_new_one_is_available() {
    let d = deployment(2, "b");
    let old = set_of(&deployment(2, "a"), "r1", 2, 2, 1);
    let waiting = set_of(&d, "r2", 1, 0, 2);
    assert_eq!(scalings(&plan(&d, &[&old, &waiting], &[], now())), []);
    let arrived = set_of(&d, "r2", 1, 1, 2);
    let p = plan(&d, &[&old, &arrived], &[], now());
    assert_eq!(scalings(&p), [(name(&old.metadata).to_owned(), 1)]);
}

#[test]
fn going_back_to_an_old_template_reuses_its_set_with_a_new_revision() {
    let a = set_of(&deployment(2, "a"), "r1", 0, 0, 1);
    let b = set_of(&deployment(2, "b"), "r2", 2, 2, 2);
    let p = plan(&deployment(2, "a"), &[&a, &b], &[], now());
    let revisions: Vec<_> = p
        .actions
        .iter()
        .filter_map(|x| match x {
            Action::Patch { resource, name, patch, .. } if *resource == REPLICA_SETS => {
                patch.pointer("/metadata/annotations").and_then(|v| v.get(REVISION)).map(|r| (name.clone(), r.clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(revisions, [(name(&a.metadata).to_owned(), json!("3"))]);
}

#[test]
fn a_paused_deployment_makes_no_set() {
    let mut d = deployment(2, "b");
    d.spec.as_mut().unwrap().paused = Some(true);
    let old = set_of(&deployment(2, "a"), "r1", 2, 2, 1);
    let p = plan(&d, &[&old], &[], now());
    assert!(!p.actions.iter().any(|a| matches!(a, Action::Create { .. })), "{p:?}");
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let mut d = deployment(2, "b");
    d.spec.as_mut().unwrap().strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    let old = set_of(&deployment(2, "a"), "r1", 0, 0, 1);
    let new = set_of(&d, "r2", 0, 0, 2);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z",
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "r1", "controller": true}]}}))
    .unwrap();
    assert_eq!(scalings(&plan(&d, &[&old, &new], &[&pod], now())), []);
    let p = plan(&d, &[&old, &new], &[], now());
    assert_eq!(scalings(&p), [(name(&new.metadata).to_owned(), 2)]);
}

#[test]
fn shares_of_replicas_round_as_documented() {
    let quarter = IntOrString::String("25%".into());
    assert_eq!((resolve(&quarter, 10, true), resolve(&quarter, 10, false)), (3, 2));
    assert_eq!(resolve(&IntOrString::Int(4), 10, true), 4);
}

#[test]
fn a_scale_in_the_middle_of_a_rollout_is_shared_by_size_and_rounded() {
    let with = |replicas: i32, image: &str| {
        let mut d = deployment(replicas, image);
        let bounds = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
        d.spec.as_mut().unwrap().strategy = serde_json::from_value(bounds).unwrap();
        d
    };
    let old = set_of(&with(10, "a"), "r1", 8, 8, 1);
    let new = set_of(&with(10, "b"), "r2", 5, 0, 2);
    let (first, second) = (name(&old.metadata).to_owned(), name(&new.metadata).to_owned());
    for (wanted, sizes) in [(30, [20, 13]), (5, [5, 3]), (0, [0, 0])] {
        let mut got = scalings(&plan(&with(wanted, "b"), &[&old, &new], &[], now()));
        got.sort_by_key(|(name, _)| *name != first);
        let want: Vec<(String, i64)> = [&first, &second].into_iter().cloned().zip(sizes).collect();
        assert_eq!(got, want, "{wanted}");
    }
}
