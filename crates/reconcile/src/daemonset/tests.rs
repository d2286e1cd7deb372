use serde_json::{Value, json};

use super::*;
use crate::plan::{Action, owner_reference};

fn set(image: &str, spec: Value) -> DaemonSet {
    let mut full = json!({"selector": {"matchLabels": {"app": "log"}},
        "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": image}]}}});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "log", "namespace": "d", "uid": "ds1"}, "spec": full})).unwrap()
}

fn node(name: &str, extra: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "labels": extra["labels"]},
        "spec": {"taints": extra["taints"]}}))
    .unwrap()
}

fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(|i| node(&format!("n{i}"), json!({"labels": {}, "taints": []}))).collect()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn revision(ds: &DaemonSet, number: i64) -> ControllerRevision {
    let p = plan(ds, &[], &[], &[], now());
    let Some(Action::Create { body, .. }) = p.actions.first() else { panic!("{p:?}") };
    let mut r: ControllerRevision = serde_json::from_value(body.clone()).unwrap();
    r.metadata.uid = Some(format!("r{number}"));
    r.revision = number;
    r
}

fn pod(name: &str, ds: &DaemonSet, r: &ControllerRevision, node: &str, ready: bool) -> Pod {
    let owner = serde_json::to_value(owner_reference(DAEMON_SETS, &ds.metadata)).unwrap();
    let ready = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": [owner],
        "labels": {"app": "log", HASH_LABEL: revisions::hash_of(r)}},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running", "conditions": ready}}))
    .unwrap()
}

fn run(ds: &DaemonSet, pods: &[Pod], nodes: &[Node], revisions: &[&ControllerRevision]) -> Plan {
    plan(ds, &pods.iter().collect::<Vec<_>>(), &nodes.iter().collect::<Vec<_>>(), revisions, now())
}

fn made_for(p: &Plan) -> Vec<String> {
    let made = p.actions.iter().filter_map(|a| match a {
        Action::Create { resource, body, .. } if resource.kind == "Pod" => {
            serde_json::from_value::<Pod>(body.clone()).ok()
        }
        _ => None,
    });
    made.map(|p| placement::node_of(&p).to_owned()).collect()
}

fn deleted(p: &Plan) -> Vec<&str> {
    let gone = p.actions.iter().filter_map(|a| match a {
        Action::Delete { resource, name, .. } if resource.kind == "Pod" => Some(name.as_str()),
        _ => None,
    });
    gone.collect()
}

fn status(p: &Plan) -> Value {
    let patch = p.actions.iter().find_map(|a| match a {
        Action::Patch { subresource: Some("status"), patch, .. } => Some(patch["status"].clone()),
        _ => None,
    });
    patch.unwrap_or(Value::Null)
}

#[test]
fn every_node_that_takes_the_pod_gets_one() {
    let ds = set("a", json!({}));
    let r = revision(&ds, 1);
    let all = [
        node("plain", json!({"labels": {}, "taints": []})),
        node("tainted", json!({"labels": {}, "taints": [{"key": "k", "effect": "NoSchedule"}]})),
        node(
            "cordoned",
            json!({"labels": {}, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
        ),
        node(
            "silent",
            json!({"labels": {}, "taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}),
        ),
    ];
    let p = run(&ds, &[], &all, &[&r]);
    assert_eq!(made_for(&p), ["plain", "cordoned", "silent"]);
    assert_eq!(status(&p)["desiredNumberScheduled"], 3);
    let told = p.actions.iter().filter(|a| matches!(a, Action::Create { told: Some(_), .. })).count();
    assert_eq!(told, 3);
}

#[test]
fn the_selector_of_the_template_decides_and_a_changed_label_ends_the_pod() {
    let mut ds = set("a", json!({}));
    ds.spec.as_mut().unwrap().template.spec.as_mut().unwrap().node_selector =
        Some([("disk".to_owned(), "ssd".to_owned())].into());
    let r = revision(&ds, 1);
    let all = [node("with", json!({"labels": {"disk": "ssd"}})), node("without", json!({"labels": {}}))];
    let there = [pod("old", &ds, &r, "without", true)];
    let p = run(&ds, &there, &all, &[&r]);
    assert_eq!((made_for(&p), deleted(&p)), (vec!["with".to_owned()], vec!["old"]));
    assert_eq!(status(&p)["numberMisscheduled"], 1);
}

#[test]
fn a_taint_for_newcomers_does_not_end_a_pod_that_is_there() {
    let ds = set("a", json!({}));
    let r = revision(&ds, 1);
    let there = [pod("p", &ds, &r, "n", true)];
    let keeps = [node("n", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}))];
    assert_eq!(deleted(&run(&ds, &there, &keeps, &[&r])), Vec::<&str>::new());
    let ends = [node("n", json!({"taints": [{"key": "k", "effect": "NoExecute"}]}))];
    assert_eq!(deleted(&run(&ds, &there, &ends, &[&r])), ["p"]);
}

#[test]
fn of_two_pods_on_a_node_the_older_stays() {
    let ds = set("a", json!({}));
    let r = revision(&ds, 1);
    let mut late = pod("a-late", &ds, &r, "n0", true);
    late.metadata.creation_timestamp = Some(pods::time(now()));
    let mut early = pod("b-early", &ds, &r, "n0", true);
    early.metadata.creation_timestamp = Some(pods::time(Timestamp::from_second(1_600_000_000).unwrap()));
    assert_eq!(deleted(&run(&ds, &[late, early], &nodes(1), &[&r])), ["a-late"]);
}

#[test]
fn rolling_takes_no_more_pods_than_may_be_missing() {
    let old = set("a", json!({}));
    let new = set("b", json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}));
    let (r1, r2) = (revision(&old, 1), revision(&new, 2));
    let there: Vec<Pod> = (0..4).map(|i| pod(&format!("p{i}"), &old, &r1, &format!("n{i}"), true)).collect();
    assert_eq!(deleted(&run(&new, &there, &nodes(4), &[&r1, &r2])), ["p0", "p1"]);
    let mut half = there.clone();
    half[3] = pod("p3", &old, &r1, "n3", false);
    // One is missing already: it goes, and one more.
    assert_eq!(deleted(&run(&new, &half, &nodes(4), &[&r1, &r2])), ["p3", "p0"]);
    let waits = set("b", json!({"updateStrategy": {"type": "OnDelete"}}));
    assert_eq!(deleted(&run(&waits, &there, &nodes(4), &[&r1, &r2])), Vec::<&str>::new());
}

#[test]
fn a_surge_makes_the_new_pod_before_the_old_one_goes() {
    let old = set("a", json!({}));
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}});
    let new = set("b", json!({"updateStrategy": rolling}));
    let (r1, r2) = (revision(&old, 1), revision(&new, 2));
    let mut there: Vec<Pod> = (0..2).map(|i| pod(&format!("p{i}"), &old, &r1, &format!("n{i}"), true)).collect();
    let p = run(&new, &there, &nodes(2), &[&r1, &r2]);
    assert_eq!((made_for(&p), deleted(&p)), (vec!["n0".to_owned()], vec![]));
    there.push(pod("q0", &new, &r2, "n0", false));
    let p = run(&new, &there, &nodes(2), &[&r1, &r2]);
    assert_eq!((made_for(&p), deleted(&p)), (vec![], vec![]));
    there[2] = pod("q0", &new, &r2, "n0", true);
    let p = run(&new, &there, &nodes(2), &[&r1, &r2]);
    assert_eq!((made_for(&p), deleted(&p)), (vec![], vec!["p0"]));
    assert_eq!(status(&p)["updatedNumberScheduled"], Value::Null, "the old pod stands for its node until it is gone");
}

#[test]
fn going_back_makes_the_old_revision_the_newest() {
    let (a, b) = (set("a", json!({})), set("b", json!({})));
    let (r1, r2) = (revision(&a, 1), revision(&b, 2));
    let p = run(&a, &[], &[], &[&r1, &r2]);
    let moved = p.actions.iter().any(|x| matches!(x, Action::Patch { patch, .. } if patch["revision"] == 3));
    assert!(moved, "{p:?}");
}

#[test]
fn an_ended_pod_is_replaced_but_not_at_once() {
    let ds = set("a", json!({}));
    let r = revision(&ds, 1);
    let mut ended = pod("p", &ds, &r, "n0", false);
    ended.status.as_mut().unwrap().phase = Some("Failed".into());
    ended.metadata.creation_timestamp = Some(pods::time(Timestamp::from_second(1_699_999_996).unwrap()));
    let p = run(&ds, std::slice::from_ref(&ended), &nodes(1), &[&r]);
    assert_eq!((deleted(&p), p.requeue_after), (vec![], Some(Duration::from_secs(6))));
    ended.metadata.creation_timestamp = None;
    assert_eq!(deleted(&run(&ds, &[ended], &nodes(1), &[&r])), ["p"]);
}
