use serde_json::{Value, json};

use super::*;

fn node(name: &str, extra: Value) -> Node {
    let mut v = json!({"metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    for (k, x) in extra.as_object().unwrap() {
        for (f, y) in x.as_object().unwrap() {
            v[k][f] = y.clone();
        }
    }
    serde_json::from_value(v).unwrap()
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut full = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]});
    for (k, v) in spec.as_object().unwrap() {
        full[k] = v.clone();
    }
    serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}}, "spec": full}),
    )
    .unwrap()
}

fn cluster(nodes: &[Node]) -> Cluster {
    let mut c = Cluster::default();
    nodes.iter().for_each(|n| c.set_node(n));
    c
}

fn decide(c: &Cluster, p: &Pod) -> Decision {
    c.decide(p, &Storage::default())
}

fn reason(d: Decision) -> String {
    match d {
        Decision::Unschedulable(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_never_given_more_than_it_has() {
    let mut c = cluster(&[node("a", json!({}))]);
    for i in 0..4 {
        let p = pod(&format!("p{i}"), json!({}));
        assert_eq!(decide(&c, &p), Decision::Bind("a".into()));
        c.assume(&p, "a");
    }
    let why = reason(decide(&c, &pod("p5", json!({}))));
    assert_eq!(why, "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.");
    c.remove_pod("p0");
    assert_eq!(decide(&c, &pod("p5", json!({}))), Decision::Bind("a".into()));
}

#[test]
fn a_finished_pod_gives_its_place_back() {
    let mut c = cluster(&[node("a", json!({}))]);
    let mut p = pod("p", json!({"nodeName": "a"}));
    c.set_pod(&p);
    assert_eq!(c.hosts["a"].used.clone(), Amounts::of_pod(&p));
    p.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    c.set_pod(&p);
    assert!(c.hosts["a"].pods.is_empty());
}

#[test]
fn taints_keep_away_who_does_not_tolerate_them() {
    let c = cluster(&[node("a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))]);
    assert_eq!(
        reason(decide(&c, &pod("p", json!({})))),
        "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."
    );
    let tolerant = pod("p", json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
    assert_eq!(decide(&c, &tolerant), Decision::Bind("a".into()));
}

#[test]
fn selectors_and_affinity_pick_nodes() {
    let c = cluster(&[node("a", json!({})), node("b", json!({"metadata": {"labels": {"disk": "ssd", "n": "5"}}}))]);
    assert_eq!(decide(&c, &pod("p", json!({"nodeSelector": {"disk": "ssd"}}))), Decision::Bind("b".into()));
    let term = |op: &str, key: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": op, "values": values}]}]}}}})
    };
    assert_eq!(decide(&c, &pod("p", term("DoesNotExist", "disk", json!([])))), Decision::Bind("a".into()));
    assert_eq!(decide(&c, &pod("p", term("Gt", "n", json!(["4"])))), Decision::Bind("b".into()));
    assert!(matches!(decide(&c, &pod("p", term("Gt", "n", json!(["5"])))), Decision::Unschedulable(_)));
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
    let first = pod("p1", apart.clone());
    c.assume(&first, "a");
    assert_eq!(decide(&c, &pod("p2", apart.clone())), Decision::Bind("b".into()));
    assert_eq!(decide(&c, &pod("plain", json!({}))), Decision::Bind("b".into()), "the one that is there objects");
    c.assume(&pod("p2", apart.clone()), "b");
    assert!(matches!(decide(&c, &pod("p3", apart)), Decision::Unschedulable(_)));
}

#[test]
fn spread_keeps_the_skew() {
    let zone = |z: &str| json!({"metadata": {"labels": {"zone": z}}});
    let mut c = cluster(&[node("a", zone("1")), node("b", zone("2"))]);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]});
    c.assume(&pod("p1", spread.clone()), "a");
    assert_eq!(decide(&c, &pod("p2", spread)), Decision::Bind("b".into()));
}

#[test]
fn host_ports_are_exclusive() {
    let mut c = cluster(&[node("a", json!({}))]);
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]});
    c.assume(&pod("p1", port.clone()), "a");
    assert!(reason(decide(&c, &pod("p2", port))).contains("free ports"));
}

#[test]
fn a_delayed_claim_is_given_a_node_before_the_pod_is_bound() {
    let c = cluster(&[node("a", json!({}))]);
    let mut claim: PersistentVolumeClaim =
        serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "d"}})).unwrap();
    let class: StorageClass = serde_json::from_value(
        json!({"metadata": {"name": "l"}, "provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .unwrap();
    let p = pod("p", json!({}));
    let storage = Storage { claims: vec![(&claim, Some(&class), None)], ..Storage::default() };
    assert_eq!(c.decide(&p, &storage), Decision::SelectNodeForClaims { node: "a".into(), claims: vec!["data".into()] });
    claim.metadata.annotations = Some([(crate::volume::SELECTED_NODE.to_owned(), "a".to_owned())].into());
    let storage = Storage { claims: vec![(&claim, Some(&class), None)], ..Storage::default() };
    assert_eq!(c.decide(&p, &storage), Decision::SelectNodeForClaims { node: "a".into(), claims: vec![] });
    let unusable = Storage { unusable: Some("persistentvolumeclaim \"data\" not found".into()), ..Storage::default() };
    let pinned = Storage { pinned: vec!["b".into()], ..Storage::default() };
    assert!(reason(c.decide(&p, &pinned)).contains("1 node(s) had volume node affinity conflict"));
    assert_eq!(reason(c.decide(&p, &unusable)), "persistentvolumeclaim \"data\" not found");
}

fn important(name: &str, priority: i32, extra: Value) -> Pod {
    let mut spec = json!({"priority": priority});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    pod(name, spec)
}

fn full(nodes: &[&str], priorities: &[i32]) -> Cluster {
    let all: Vec<Node> = nodes.iter().map(|n| node(n, json!({}))).collect();
    let mut c = cluster(&all);
    for n in nodes {
        for (i, priority) in priorities.iter().enumerate() {
            c.assume(&important(&format!("{n}{i}"), *priority, json!({})), n);
        }
    }
    c
}

fn victims(p: Option<&Preemption>) -> Vec<&str> {
    p.iter().flat_map(|p| &p.victims).map(|v| v.name.as_str()).collect()
}

#[test]
fn the_least_important_pods_make_room_for_a_more_important_one() {
    let mut c = full(&["a"], &[10, 5, 1, 5]);
    let p = important("new", 7, json!({}));
    assert_eq!(victims(c.preempt(&p, &Storage::default(), &[]).as_ref()), ["a2"]);
    let two = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
    let p = important("new", 7, two);
    assert_eq!(victims(c.preempt(&p, &Storage::default(), &[]).as_ref()).len(), 2);
    assert!(c.preempt(&important("new", 1, json!({})), &Storage::default(), &[]).is_none(), "none is less important");
    let polite = important("new", 7, json!({"preemptionPolicy": "Never"}));
    assert!(c.preempt(&polite, &Storage::default(), &[]).is_none());
    let huge = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]});
    assert!(c.preempt(&important("new", 100, huge), &Storage::default(), &[]).is_none(), "no room even then");
    c.remove_pod("a2");
    assert_eq!(decide(&c, &important("new", 7, json!({}))), Decision::Bind("a".into()));
}

#[test]
fn the_node_is_taken_where_least_is_lost() {
    let mut c = full(&["a", "b"], &[5, 5, 5, 5]);
    c.remove_pod("b3");
    c.assume(&important("b3", 2, json!({})), "b");
    let p = c.preempt(&important("new", 7, json!({})), &Storage::default(), &[]).unwrap();
    assert_eq!((p.node.as_str(), victims(Some(&p))), ("b", vec!["b3"]));
}

#[test]
fn budgets_are_kept_where_there_is_a_choice() {
    let mut c = full(&["a"], &[5, 5, 5]);
    let mut guarded = important("guarded", 1, json!({}));
    guarded.metadata.labels = Some([("app".to_owned(), "db".to_owned())].into());
    c.assume(&guarded, "a");
    let typed = serde_json::from_value(json!({"matchLabels": {"app": "db"}})).unwrap();
    let budget = Budget { namespace: "d".into(), selector: crate::labels::selector(&typed), allowed: 0 };
    let p = c.preempt(&important("new", 7, json!({})), &Storage::default(), &[budget]).unwrap();
    assert_ne!(victims(Some(&p)), ["guarded"]);
    assert_eq!(p.victims.len(), 1);
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    let mut c = full(&["a"], &[5, 5, 5]);
    let boss = important("boss", 9, json!({}));
    c.nominate(&boss, Some("a"));
    assert!(matches!(decide(&c, &important("small", 1, json!({}))), Decision::Unschedulable(_)));
    assert_eq!(decide(&c, &important("greater", 10, json!({}))), Decision::Bind("a".into()));
    assert_eq!(decide(&c, &boss), Decision::Bind("a".into()));
    c.nominate(&boss, None);
    assert_eq!(decide(&c, &important("small", 1, json!({}))), Decision::Bind("a".into()));
}
