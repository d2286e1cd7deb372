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

#[test]
fn a_claim_is_used_by_who_names_it_or_has_it_for_its_own() {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    let own = claim(json!({"metadata": {"name": "p-v", "ownerReferences": [owner]}}));
    let pod = |uid: &str, phase: &str, volume: Value| -> Pod {
        let meta = json!({"name": "p", "namespace": "d", "uid": uid});
        serde_json::from_value(
            json!({"metadata": meta, "spec": {"containers": [], "volumes": [volume]}, "status": {"phase": phase}}),
        )
        .unwrap()
    };
    let (names, made) = (
        json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}}),
        json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}),
    );
    for (pod, uses) in [
        (pod("x", "Pending", names.clone()), true),
        (pod("x", "Succeeded", names), false),
        (pod("u", "Running", made.clone()), true),
        (pod("u", "Failed", made.clone()), false),
        (pod("x", "Pending", made), false),
    ] {
        assert_eq!(in_use(&own, &[&pod]), uses, "{pod:?}");
    }
}

#[test]
fn a_provisioner_outside_is_told_that_it_is_its_turn() {
    let mut outside = class();
    outside.provisioner = "driver.example.com".into();
    let told = |p: &Plan| {
        p.actions.iter().any(|a| match a {
            Action::Patch { patch, .. } => patch["metadata"]["annotations"][PROVISIONER[0]] == "driver.example.com",
            _ => false,
        })
    };
    let waiting = claim(json!({}));
    assert!(!told(&plan_claim(&waiting, &[], Some(&outside), false, "/v")), "its first pod is not there yet");
    let selected = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}}));
    let p = plan_claim(&selected, &[], Some(&outside), false, "/v");
    assert!(told(&p) && made(&p).is_none());
    let mut annotations: BTreeMap<&str, &str> = PROVISIONER.iter().map(|k| (*k, "driver.example.com")).collect();
    annotations.insert(SELECTED_NODE, "n1");
    let done = claim(json!({"metadata": {"annotations": annotations}}));
    assert!(!told(&plan_claim(&done, &[], Some(&outside), false, "/v")), "once is enough");
}

#[test]
fn a_copy_is_made_where_its_source_is_or_refused_with_a_reason() {
    let other = claim(json!({"metadata": {"name": "other", "uid": "c0", "annotations": {SELECTED_NODE: "n1"}}}));
    let mut original = made(&plan_claim(&other, &[], Some(&class()), false, "/v")).expect("a volume");
    original.status = serde_json::from_value(json!({"phase": "Bound"})).unwrap();
    let ask = |node: &str, source: Value, size: &str| {
        let spec = json!({"dataSourceRef": source, "resources": {"requests": {"storage": size}}});
        let c = claim(json!({"metadata": {"annotations": {SELECTED_NODE: node}}, "spec": spec}));
        made(&plan_claim(&c, &[&original], Some(&class()), false, "/v"))
    };
    let of = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let copy = ask("n1", of("PersistentVolumeClaim", "other"), "1Gi").expect("a volume is made");
    assert_eq!(copy.metadata.annotations.unwrap()[COPY_OF], "pvc-c0");
    assert!(ask("n2", of("PersistentVolumeClaim", "other"), "1Gi").is_none(), "on another node");
    assert!(ask("n1", of("PersistentVolumeClaim", "none"), "1Gi").is_none(), "of nothing");
    assert!(ask("n1", of("PersistentVolumeClaim", "other"), "1Mi").is_none(), "too small");
    assert!(ask("n1", of("Thing", "other"), "1Gi").is_none(), "of another kind");
}

#[test]
fn the_capacity_of_a_bound_claim_is_not_told_before_its_file_system_has_grown() {
    let bound = |status: Value| {
        let mut c = claim(json!({"spec": {"volumeName": "v"}}));
        c.status = serde_json::from_value(status).unwrap();
        c
    };
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "v", "uid": "v"}, "spec": {
        "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"], "claimRef": {"namespace": "d", "name": "data", "uid": "c1"}}}))
    .unwrap();
    let plan = |c: &PersistentVolumeClaim| plan_claim(c, &[&volume], None, false, "/v");
    let old = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
    assert_eq!(plan(&bound(old)), Plan::default());
    let Action::Patch { patch, .. } = &plan(&bound(json!({"phase": "Pending"}))).actions[0] else { panic!("no patch") };
    assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
}

#[test]
fn a_class_may_ask_that_capacity_is_enforced_and_for_nothing_else() {
    let c = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}}));
    let with = |parameters: Value| {
        let mut class = class();
        class.parameters = serde_json::from_value(parameters).unwrap();
        plan_claim(&c, &[], Some(&class), false, "/v")
    };
    let annotated = |p: &Plan| made(p).unwrap().metadata.annotations.unwrap().get(CAPACITY).cloned();
    assert_eq!(annotated(&with(json!({"capacity": "enforced"}))).as_deref(), Some(ENFORCED));
    assert_eq!(annotated(&with(json!({"capacity": "nominal"}))), None);
    assert_eq!(annotated(&with(json!({}))), None);
    for wrong in [json!({"capacity": "some"}), json!({"fsType": "xfs"})] {
        assert!(made(&with(wrong)).is_none());
    }
}

#[test]
fn a_claim_that_asks_for_more_grows_its_volume_and_then_waits_for_the_node() {
    let volume = |size: &str| -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "v", "uid": "v", "annotations": {PROVISIONED_BY: LOCAL_PATH}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                "claimRef": {"namespace": "d", "name": "data", "uid": "c1"}},
        }))
        .unwrap()
    };
    let claim = |conditions: Value| {
        let mut c = claim(json!({"spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}}}));
        let status = json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "conditions": conditions});
        c.status = serde_json::from_value(status).unwrap();
        c
    };
    let plan =
        |c: &PersistentVolumeClaim, v: &PersistentVolume| plan_claim(c, &[v], Some(&class()), true, "/v").actions;
    let [Action::Patch { name, patch, .. }] = &plan(&claim(json!([])), &volume("1Gi"))[..] else { panic!("one patch") };
    assert_eq!((name.as_str(), &patch["spec"]["capacity"]["storage"]), ("v", &json!("2Gi")));
    let [Action::Patch { subresource: Some("status"), patch, .. }] = &plan(&claim(json!([])), &volume("2Gi"))[..]
    else {
        panic!("one patch")
    };
    assert_eq!(patch["status"]["conditions"][0]["type"], RESIZE_PENDING);
    let pending = json!([{"type": RESIZE_PENDING, "status": "True"}]);
    assert!(plan(&claim(pending), &volume("2Gi")).is_empty(), "it is the node's turn");
    let mut foreign = volume("1Gi");
    foreign.metadata.annotations = None;
    assert!(plan(&claim(json!([])), &foreign).is_empty(), "a driver's own resizer does that");
}

#[test]
fn a_restored_volume_is_made_where_its_snapshot_is_or_refused_with_a_reason() {
    let ready = json!({"boundVolumeSnapshotContentName": "c", "readyToUse": true});
    let snap = |status: Value| -> VolumeSnapshot {
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d", "uid": "s1"}, "status": status}))
            .unwrap()
    };
    let content: VolumeSnapshotContent = serde_json::from_value(json!({
        "metadata": {"name": "c", "labels": {snapshot::MANAGED_BY: "n1"}},
        "spec": {"driver": LOCAL_PATH, "volumeSnapshotRef": {"namespace": "d", "name": "s", "uid": "s1"}},
        "status": {"snapshotHandle": "n1/kept", "restoreSize": 1 << 30, "readyToUse": true},
    }))
    .unwrap();
    let wants = |node: &str, size: &str| {
        let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
        let spec = json!({"dataSourceRef": source, "resources": {"requests": {"storage": size}}});
        claim(json!({"metadata": {"annotations": {SELECTED_NODE: node}}, "spec": spec}))
    };
    let decide =
        |claim: &PersistentVolumeClaim, snapshot: Option<&VolumeSnapshot>, content: Option<&VolumeSnapshotContent>| {
            plan_claim(claim, &[], Some(&class()), false, Local { root: "/v", snapshot, content })
        };
    let snapshot = snap(ready.clone());
    let made_of = made(&decide(&wants("n1", "1Gi"), Some(&snapshot), Some(&content))).expect("a volume is made");
    assert_eq!(made_of.metadata.annotations.unwrap()[RESTORE_OF], "kept");
    let why = |plan: Plan| {
        assert!(made(&plan).is_none());
        let event = plan.actions.iter().find_map(|a| match a {
            Action::Event { reason: "ProvisioningFailed", message, .. } => Some(message.clone()),
            _ => None,
        });
        event.expect("a warning")
    };
    let small = why(decide(&wants("n1", "1Mi"), Some(&snapshot), Some(&content)));
    assert_eq!(small, "requested volume size 1048576 is less than the size 1073741824 for the source snapshot s");
    let wrong = decide(&wants("n2", "1Gi"), Some(&snapshot), Some(&content));
    let unpicked = json!({SELECTED_NODE: null});
    let again = |a: &Action| matches!(a, Action::Patch { patch, .. } if patch["metadata"]["annotations"] == unpicked);
    assert!(wrong.actions.iter().any(again), "the scheduler is to pick again");
    assert!(why(wrong).contains("is on node \"n1\""));
    assert!(why(decide(&wants("n1", "1Gi"), None, None)).contains("not found"));
    assert!(why(decide(&wants("n1", "1Gi"), Some(&snap(json!({}))), Some(&content))).contains("not currently ready"));
    assert!(why(decide(&wants("n1", "1Gi"), Some(&snapshot), None)).contains("not bound"));
    let mut other = content.clone();
    other.spec.driver = "x".into();
    assert!(why(decide(&wants("n1", "1Gi"), Some(&snapshot), Some(&other))).contains("is of driver x"));
    let mut stolen = content.clone();
    stolen.spec.volume_snapshot_ref.uid = Some("s0".into());
    assert!(why(decide(&wants("n1", "1Gi"), Some(&snapshot), Some(&stolen))).contains("not bound"));
    assert_eq!(pinned(&wants("n1", "1Gi"), Some(&class()), &[], Some(&content)), Some("n1"));
    assert_eq!(pinned(&claim(json!({})), Some(&class()), &[], None), None);
}

#[test]
fn a_device_and_a_file_system_never_become_one() {
    let block = || claim(json!({"spec": {"volumeMode": "Block", "storageClassName": "manual"}}));
    let volume = |more: Value| -> PersistentVolume {
        let mut v = json!({"metadata": {"name": "pv", "uid": "v"}, "spec": {"capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "manual"}});
        for (k, x) in more.as_object().unwrap() {
            v["spec"][k] = x.clone();
        }
        serde_json::from_value(v).unwrap()
    };
    let bound = |c: &PersistentVolumeClaim, v: &PersistentVolume| {
        let plan = plan_claim(c, &[v], None, false, "/v");
        plan.actions.iter().any(|a| matches!(a, Action::Patch { patch, .. } if !patch["spec"].is_null()))
    };
    let reserved = json!({"namespace": "d", "name": "data"});
    assert!(bound(&block(), &volume(json!({"volumeMode": "Block"}))));
    for other in [json!({}), json!({"volumeMode": "Filesystem"}), json!({"claimRef": reserved})] {
        assert!(!bound(&block(), &volume(other)));
    }
    assert!(!bound(&claim(json!({"spec": {"storageClassName": "manual"}})), &volume(json!({"volumeMode": "Block"}))));
    // Nor when the claim names the volume.
    let mut named = block();
    named.spec.as_mut().unwrap().volume_name = Some("pv".into());
    let plan = plan_claim(&named, &[&volume(json!({}))], None, false, "/v");
    let Action::Event { reason, message, .. } = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(*reason, "VolumeMismatch");
    assert_eq!(message, "Cannot bind to requested volume \"pv\": incompatible volumeMode");
    assert_eq!(status(&plan), Some(json!("Pending")));
}

#[test]
fn the_built_in_class_makes_devices_only_of_an_enforced_size() {
    let c = claim(json!({"metadata": {"annotations": {SELECTED_NODE: "n1"}}, "spec": {"volumeMode": "Block"}}));
    let mut enforced = class();
    assert!(made(&plan_claim(&c, &[], Some(&enforced), false, "/v")).is_none());
    enforced.parameters = Some([("capacity".to_owned(), ENFORCED.to_owned())].into());
    let volume = made(&plan_claim(&c, &[], Some(&enforced), false, "/v")).expect("a volume is made");
    assert_eq!(volume.spec.unwrap().volume_mode.as_deref(), Some("Block"));
}
