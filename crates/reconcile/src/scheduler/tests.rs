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
    let storage = Storage { claims: vec![(&claim, Some(&class), None)], missing: None };
    assert_eq!(c.decide(&p, &storage), Decision::SelectNodeForClaims { node: "a".into(), claims: vec!["data".into()] });
    claim.metadata.annotations = Some([(crate::volume::SELECTED_NODE.to_owned(), "a".to_owned())].into());
    let storage = Storage { claims: vec![(&claim, Some(&class), None)], missing: None };
    assert_eq!(c.decide(&p, &storage), Decision::SelectNodeForClaims { node: "a".into(), claims: vec![] });
    let missing = Storage { claims: vec![], missing: Some("data".into()) };
    assert_eq!(reason(c.decide(&p, &missing)), "persistentvolumeclaim \"data\" not found");
}
