use super::*;

fn claim(extra: Value) -> PersistentVolumeClaim {
    let mut v = json!({"metadata": {"name": "data", "namespace": "d", "uid": "c1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}});
    for (k, x) in extra.as_object().unwrap() {
        for (f, y) in x.as_object().unwrap() {
            v[k][f] = y.clone();
        }
    }
    serde_json::from_value(v).unwrap()
}

fn class() -> StorageClass {
    serde_json::from_value(json!({"metadata": {"name": "local-path"}, "provisioner": LOCAL_PATH,
        "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"}))
    .unwrap()
}

fn made(p: &Plan) -> Option<PersistentVolume> {
    p.actions.iter().find_map(|a| match a {
        Action::Create { body, .. } => serde_json::from_value(body.clone()).ok(),
        _ => None,
    })
}

fn status(p: &Plan) -> Option<Value> {
    p.actions.iter().find_map(|a| match a {
        Action::Patch { subresource: Some("status"), patch, .. } => Some(patch["status"]["phase"].clone()),
        _ => None,
    })
}

#[test]
fn a_delayed_claim_waits_for_its_first_pod() {
    let p = plan_claim(&claim(json!({})), &[], Some(&class()), false, "/v");
    assert!(made(&p).is_none());
    assert_eq!(status(&p), Some(json!("Pending")));
}

#[test]
fn the_selected_node_gets_a_volume_that_ends_up_bound() {
    let c = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}}));
    let mut v = made(&plan_claim(&c, &[], Some(&class()), false, "/v")).expect("a volume is made");
    assert_eq!(v.spec.as_ref().unwrap().local.as_ref().unwrap().path, "/v/pvc-c1");
    v.metadata.uid = Some("v1".into());
    let p = plan_claim(&c, &[&v], Some(&class()), false, "/v");
    let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
    assert_eq!(patch["spec"]["volumeName"], "pvc-c1");
    let bound = claim(json!({"spec": {"volumeName": "pvc-c1"}}));
    assert_eq!(status(&plan_claim(&bound, &[&v], Some(&class()), false, "/v")), Some(json!("Bound")));
    assert_eq!(status(&plan_volume(&v, Some(&bound))), Some(json!("Bound")));
    assert_eq!(status(&plan_volume(&v, None)), Some(json!("Released")));
}

#[test]
fn a_static_volume_must_be_large_enough_and_the_smallest_wins() {
    let volume = |n: &str, size: &str| -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": n, "uid": n}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "manual"}}))
        .unwrap()
    };
    let (small, fit, big) = (volume("a", "512Mi"), volume("b", "2Gi"), volume("c", "1Ti"));
    let c = claim(json!({"spec": {"storageClassName": "manual"}}));
    let p = plan_claim(&c, &[&small, &big, &fit], None, false, "/v");
    let Action::Patch { name, .. } = &p.actions[0] else { panic!("{p:?}") };
    assert_eq!(name, "b");
}

#[test]
fn a_claim_in_use_is_protected() {
    let c = claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLAIM_PROTECTION]}}));
    assert_eq!(plan_claim(&c, &[], None, true, "/v"), Plan::default());
    assert_eq!(plan_claim(&c, &[], None, false, "/v").actions.len(), 1);
}
