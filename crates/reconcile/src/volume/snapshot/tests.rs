use super::*;
use crate::plan::Action;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// `base` with a merge patch (RFC 7386).
fn merged<T: serde::de::DeserializeOwned>(mut base: Value, extra: Value) -> T {
    fn merge(base: &mut Value, extra: Value) {
        let Value::Object(fields) = extra else {
            *base = extra;
            return;
        };
        for (key, value) in fields {
            match base.as_object_mut() {
                Some(map) if value.is_null() => drop(map.remove(&key)),
                _ => merge(&mut base[&key], value),
            }
        }
    }
    merge(&mut base, extra);
    serde_json::from_value(base).unwrap()
}

fn snapshot(extra: Value) -> VolumeSnapshot {
    merged(
        json!({
            "metadata": {"name": "s", "namespace": "d", "uid": "s1", "finalizers": [AS_SOURCE]},
            "spec": {"source": {"persistentVolumeClaimName": "data"}, "volumeSnapshotClassName": "local"},
        }),
        extra,
    )
}

fn content(extra: Value) -> VolumeSnapshotContent {
    merged(
        json!({
            "metadata": {"name": "snapcontent-s1", "uid": "c1", "labels": {MANAGED_BY: "n1"}, "finalizers": [CONTENT]},
            "spec": {"driver": LOCAL_PATH, "deletionPolicy": "Delete", "source": {"volumeHandle": "pvc-1"},
                "volumeSnapshotRef": {"namespace": "d", "name": "s", "uid": "s1"}},
        }),
        extra,
    )
}

fn claim(extra: Value) -> PersistentVolumeClaim {
    let base = json!({"metadata": {"name": "data", "namespace": "d", "uid": "p1"}, "spec": {"volumeName": "pvc-1"},
        "status": {"phase": "Bound"}});
    merged(base, extra)
}

fn volume(extra: Value) -> PersistentVolume {
    merged(
        json!({
            "metadata": {"name": "pvc-1", "annotations": {PROVISIONED_BY: LOCAL_PATH}},
            "spec": {"volumeMode": "Filesystem", "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}},
        }),
        extra,
    )
}

fn class(name: &str, default: bool, extra: Value) -> VolumeSnapshotClass {
    let annotations = if default { json!({DEFAULT_CLASS: "true"}) } else { json!({}) };
    let base = json!({"metadata": {"name": name, "annotations": annotations}, "driver": LOCAL_PATH, "deletionPolicy": "Delete"});
    merged(base, extra)
}

/// What is done, in short: verb, kind, and what of it matters.
fn told(plan: &Plan) -> Vec<String> {
    let short = |action: &Action| match action {
        Action::Create { resource, body, .. } => format!("create {} {}", resource.kind, body["metadata"]["name"]),
        Action::Patch { resource, subresource, patch, .. } => {
            let mut patch = patch.clone();
            patch["metadata"].as_object_mut().unwrap().retain(|k, _| k != "uid" && k != "resourceVersion");
            if patch["metadata"] == json!({}) {
                patch.as_object_mut().unwrap().remove("metadata");
            }
            format!("patch {} {}{patch}", resource.kind, subresource.unwrap_or_default())
        }
        Action::Delete { resource, name, .. } => format!("delete {} {name}", resource.kind),
        Action::Event { type_, reason, message, .. } => format!("{type_} {reason} {message}"),
        other => format!("{other:?}"),
    };
    plan.actions.iter().map(short).collect()
}

/// Why a snapshot is not taken: the error of its status, of which an event tells too.
fn refused(snapshot: &VolumeSnapshot, around: &Around<'_>) -> String {
    let plan = plan(snapshot, around, now());
    let [Action::Patch { subresource: Some("status"), patch, .. }, Action::Event { type_: "Warning", message, .. }] =
        &plan.actions[..]
    else {
        panic!("{plan:?}")
    };
    assert_eq!(patch["status"]["readyToUse"], false);
    assert_eq!(patch["status"]["error"]["message"], message.as_str());
    message.clone()
}

#[test]
fn a_snapshot_of_a_bound_claim_gets_content_that_asks_its_node() {
    let (claim, volume, class) = (claim(json!({})), volume(json!({})), class("local", false, json!({})));
    let around = Around { claim: Some(&claim), volume: Some(&volume), classes: &[&class], ..Around::default() };
    let fresh = snapshot(json!({"metadata": {"finalizers": []}}));
    let first = told(&plan(&fresh, &around, now()));
    assert_eq!(first, [format!("patch VolumeSnapshot {{\"metadata\":{{\"finalizers\":[\"{AS_SOURCE}\"]}}}}")]);
    let p = plan(&snapshot(json!({})), &around, now());
    let [Action::Patch { resource: CLAIMS, patch, .. }, Action::Create { body, .. }, Action::Event { .. }] =
        &p.actions[..]
    else {
        panic!("{p:?}")
    };
    assert_eq!(patch["metadata"]["finalizers"], json!([CLAIM]));
    assert_eq!(
        body,
        &json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
            "metadata": {"name": "snapcontent-s1", "labels": {MANAGED_BY: "n1"}, "finalizers": [CONTENT]},
            "spec": {
                "volumeSnapshotRef": {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
                    "namespace": "d", "name": "s", "uid": "s1"},
                "deletionPolicy": "Delete", "driver": LOCAL_PATH, "volumeSnapshotClassName": "local",
                "source": {"volumeHandle": "pvc-1"}, "sourceVolumeMode": "Filesystem",
            },
        })
    );
}

#[test]
fn without_a_class_the_one_default_of_the_driver_is_written_into_the_snapshot() {
    let (claim, volume) = (claim(json!({})), volume(json!({})));
    let unnamed = snapshot(json!({"spec": {"volumeSnapshotClassName": null}}));
    let with = |classes: &[&VolumeSnapshotClass]| {
        let around = Around { claim: Some(&claim), volume: Some(&volume), classes, ..Around::default() };
        told(&plan(&unnamed, &around, now()))
    };
    let (a, b) = (class("a", true, json!({})), class("b", true, json!({})));
    let (plain, other) = (class("c", false, json!({})), class("x", true, json!({"driver": "x"})));
    let set = "patch VolumeSnapshot {\"spec\":{\"volumeSnapshotClassName\":\"a\"}}";
    assert_eq!(with(&[&plain, &other, &a]), [set]);
    let failed = "Warning SetDefaultSnapshotClassFailed Failed to set default snapshot class with error";
    assert_eq!(with(&[&a, &b])[1], format!("{failed} 2 default snapshot classes were found"));
    assert_eq!(with(&[&plain, &other])[1], format!("{failed} cannot find default snapshot class"));
}

#[test]
fn what_cannot_be_taken_says_why() {
    let (bound, pv, local) = (claim(json!({})), volume(json!({})), class("local", false, json!({})));
    let snap = snapshot(json!({}));
    let around = Around { claim: Some(&bound), volume: Some(&pv), classes: &[&local], ..Around::default() };
    let missing = refused(&snap, &Around { claim: None, volume: None, ..around });
    assert!(missing.contains("persistentvolumeclaim \"data\" not found"), "{missing}");
    assert!(refused(&snap, &Around { classes: &[], ..around }).contains("\"local\" not found"));
    let pending = claim(json!({"status": {"phase": "Pending"}}));
    let why = refused(&snap, &Around { claim: Some(&pending), volume: None, ..around });
    assert!(why.contains("the PVC data is not yet bound to a PV"), "{why}");
    let going = claim(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(refused(&snap, &Around { claim: Some(&going), ..around }).contains("is being deleted"));
    let foreign = class("local", false, json!({"driver": "x"}));
    assert!(refused(&snap, &Around { classes: &[&foreign], ..around }).contains("snapshot class local of x"));
    let tuned = class("local", false, json!({"parameters": {"speed": "high"}}));
    assert!(refused(&snap, &Around { classes: &[&tuned], ..around }).contains("parameter \"speed\" is not known"));
    let block = volume(json!({"spec": {"volumeMode": "Block"}}));
    assert!(refused(&snap, &Around { volume: Some(&block), ..around }).contains("volumeMode Block"));
    let by_hand = volume(json!({"metadata": {"annotations": {PROVISIONED_BY: null}}}));
    assert!(refused(&snap, &Around { volume: Some(&by_hand), ..around }).contains("no driver that takes snapshots"));
    // Told once.
    let why = refused(&snap, &Around { classes: &[], ..around });
    let again = snapshot(json!({"status": {"readyToUse": false, "error": {"message": why}}}));
    assert_eq!(told(&plan(&again, &Around { classes: &[], ..around }, now())), [""; 0]);
}

#[test]
fn snapshots_of_other_drivers_are_left_alone() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let (bound, pending) = (claim(json!({})), claim(json!({"status": {"phase": "Pending"}})));
    let csi = volume(json!({"spec": {"csi": {"driver": "x", "volumeHandle": "h"}}}));
    let other = volume(json!({"metadata": {"annotations": {PROVISIONED_BY: "x"}}}));
    let storage: StorageClass = serde_json::from_value(json!({"metadata": {"name": "x"}, "provisioner": "x"})).unwrap();
    let class = class("local", false, json!({"driver": "x"}));
    let theirs = content(json!({"spec": {"driver": "x"}}));
    for around in [
        Around { claim: Some(&bound), volume: Some(&csi), ..Around::default() },
        Around { claim: Some(&bound), volume: Some(&other), ..Around::default() },
        Around { claim: Some(&pending), storage_class: Some(&storage), ..Around::default() },
        Around { classes: &[&class], ..Around::default() },
        Around { content: Some(&theirs), ..Around::default() },
    ] {
        for snap in [snapshot(json!({})), snapshot(going.clone())] {
            assert_eq!(told(&plan(&snap, &around, now())), [""; 0], "{around:?}");
        }
    }
    assert_eq!(told(&plan_content(&theirs, None, now())), [""; 0]);
    assert_eq!(work(&theirs, "n1"), None);
    // Whose it is nobody knows, and another has told of an error: two would write over each other.
    let told_of = snapshot(json!({"status": {"readyToUse": false, "error": {"message": "theirs"}}}));
    assert_eq!(told(&plan(&told_of, &Around::default(), now())), [""; 0]);
}

#[test]
fn a_snapshot_tells_what_its_content_says() {
    let done = content(
        json!({"status": {"snapshotHandle": "n1/snapcontent-s1", "creationTime": 1_767_225_600_000_000_000_i64,
        "restoreSize": 1 << 30, "readyToUse": true}}),
    );
    let around = |content| Around { content: Some(content), ..Around::default() };
    let (plain, taken) = (content(json!({})), snapshot(json!({})));
    let waiting = told(&plan(&taken, &around(&plain), now()));
    let bound = "\"boundVolumeSnapshotContentName\":\"snapcontent-s1\"";
    assert_eq!(waiting, [format!("patch VolumeSnapshot status{{\"status\":{{{bound},\"readyToUse\":false}}}}")]);
    let ready = told(&plan(&taken, &around(&done), now()));
    let rest = "\"creationTime\":\"2026-01-01T00:00:00Z\",\"readyToUse\":true,\"restoreSize\":\"1Gi\"";
    assert_eq!(ready[0], format!("patch VolumeSnapshot status{{\"status\":{{{bound},{rest}}}}}"));
    assert_eq!(ready[1], "Normal SnapshotReady Snapshot d/s is ready to use.");
    let broken = content(json!({"status": {"readyToUse": false, "error": {"message": "disk full"}}}));
    assert!(told(&plan(&taken, &around(&broken), now()))[0].contains("disk full"));
    // Bound: content that goes with it holds it.
    let status = json!({"status": {"boundVolumeSnapshotContentName": "snapcontent-s1", "readyToUse": true}});
    let guarded = told(&plan(&snapshot(status.clone()), &around(&done), now()));
    assert_eq!(
        guarded,
        [format!("patch VolumeSnapshot {{\"metadata\":{{\"finalizers\":[\"{AS_SOURCE}\",\"{BOUND}\"]}}}}")]
    );
    let kept = content(json!({"spec": {"deletionPolicy": "Retain"}}));
    assert_eq!(told(&plan(&snapshot(status.clone()), &around(&kept), now())), [""; 0]);
    let gone = told(&plan(
        &snapshot(status),
        &Around { claim: Some(&claim(json!({}))), volume: Some(&volume(json!({}))), ..Around::default() },
        now(),
    ));
    assert_eq!(gone[1], "Warning SnapshotContentMissing VolumeSnapshotContent is missing");
}

#[test]
fn content_that_is_there_already_is_bound_by_name_and_only_once() {
    let imported = |extra: Value| -> VolumeSnapshotContent {
        let base = content(json!({"metadata": {"name": "old", "finalizers": []}, "spec": {
            "source": {"volumeHandle": null, "snapshotHandle": "n1/kept"}, "volumeSnapshotRef": {"uid": null}}}));
        merged(serde_json::to_value(base).unwrap(), extra)
    };
    let source = json!({"persistentVolumeClaimName": null, "volumeSnapshotContentName": "old"});
    let snap = snapshot(json!({"spec": {"source": source, "volumeSnapshotClassName": null}}));
    let with = |content: &VolumeSnapshotContent| {
        told(&plan(&snap, &Around { content: Some(content), ..Around::default() }, now()))
    };
    assert_eq!(content_name(&snap), "old");
    assert_eq!(
        with(&imported(json!({})))[0],
        "patch VolumeSnapshotContent {\"spec\":{\"volumeSnapshotRef\":{\"uid\":\"s1\"}}}"
    );
    let misbound = "Warning SnapshotContentMisbound VolumeSnapshotContent [old] is bound to a different snapshot";
    assert_eq!(with(&imported(json!({"spec": {"volumeSnapshotRef": {"uid": "s0"}}})))[1], misbound);
    assert_eq!(with(&imported(json!({"spec": {"volumeSnapshotRef": {"name": "t"}}})))[1], misbound);
    let taken = imported(json!({"spec": {"source": {"volumeHandle": "pvc-1", "snapshotHandle": null}}}));
    assert!(with(&taken)[1].starts_with("Warning SnapshotContentMismatch"));
    // Its node is in its handle.
    let unlabelled = imported(json!({"metadata": {"labels": {MANAGED_BY: null}}}));
    let label = format!("patch VolumeSnapshotContent {{\"metadata\":{{\"labels\":{{\"{MANAGED_BY}\":\"n1\"}}}}}}");
    assert_eq!(told(&plan_content(&unlabelled, None, now())), [label]);
    let nowhere = imported(json!({"spec": {"source": {"snapshotHandle": "kept"}}}));
    let why = &told(&plan_content(&nowhere, None, now()))[1];
    assert!(why.starts_with("Warning ContentValidationError snapshotHandle \"kept\""), "{why}");
    let both = imported(json!({"spec": {"source": {"volumeHandle": "pvc-1"}}}));
    assert!(told(&plan_content(&both, None, now()))[1].contains("Exactly one of"));
    assert_eq!(work(&imported(json!({})), "n1"), Some(Work::Find("kept")));
}

#[test]
fn a_snapshot_goes_with_its_content_or_without_as_the_policy_says() {
    let going = |finalizers: Value| {
        let status = json!({"boundVolumeSnapshotContentName": "snapcontent-s1", "readyToUse": true});
        let meta = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers});
        snapshot(json!({"metadata": meta, "status": status}))
    };
    let held = going(json!([AS_SOURCE, BOUND, "other"]));
    let finalizers = |kept: Value| format!("patch VolumeSnapshot {{\"metadata\":{{\"finalizers\":{kept}}}}}");
    let marked =
        format!("patch VolumeSnapshotContent {{\"metadata\":{{\"annotations\":{{\"{BEING_DELETED}\":\"yes\"}}}}}}");
    let (delete, retain) = (content(json!({})), content(json!({"spec": {"deletionPolicy": "Retain"}})));
    let with = |snap: &VolumeSnapshot, content, restoring| {
        told(&plan(snap, &Around { content, restoring, ..Around::default() }, now()))
    };
    let cascade = with(&held, Some(&delete), false);
    let gone = "delete VolumeSnapshotContent snapcontent-s1";
    assert_eq!(cascade, [marked.as_str(), gone, &finalizers(json!([BOUND, "other"]))]);
    assert_eq!(with(&held, Some(&retain), false), [marked, finalizers(json!(["other"]))]);
    assert_eq!(with(&held, None, false), [finalizers(json!(["other"]))]);
    assert_eq!(
        with(&held, Some(&delete), true),
        ["Warning SnapshotDeletePending Snapshot is being used to restore a PVC"]
    );
    let annotated =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": {BEING_DELETED: "yes"}}});
    let annotated = content(annotated);
    assert_eq!(with(&going(json!([BOUND])), Some(&annotated), false), [""; 0], "it waits for its content");
    assert_eq!(with(&going(json!(["other"])), Some(&delete), false), [""; 0], "it is not held here");
}

#[test]
fn content_goes_when_its_node_says_that_nothing_is_left() {
    let going = |policy: &str, annotated: bool, status: Value| {
        let annotations = if annotated { json!({BEING_DELETED: "yes"}) } else { json!({}) };
        let meta = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations});
        content(json!({"metadata": meta, "spec": {"deletionPolicy": policy}, "status": status}))
    };
    let free = ["patch VolumeSnapshotContent {\"metadata\":{\"finalizers\":[]}}"];
    let ready = json!({"snapshotHandle": "n1/snapcontent-s1", "readyToUse": true});
    let gone = serde_json::to_value(nothing_left()).unwrap();
    let snap = snapshot(json!({}));
    for (content, goes, remove) in [
        (going("Delete", true, ready.clone()), false, true),
        (going("Delete", true, Value::Null), false, true),
        (going("Delete", true, json!({"readyToUse": false, "error": {"message": "x"}})), false, true),
        (going("Delete", true, gone.clone()), true, false),
        (going("Delete", false, ready.clone()), false, false),
        (going("Delete", false, gone), false, false),
        (going("Retain", true, ready.clone()), true, false),
        (going("Retain", false, ready.clone()), false, false),
    ] {
        let expected: &[&str] = if goes { &free } else { &[] };
        assert_eq!(told(&plan_content(&content, Some(&snap), now())), expected, "{content:?}");
        assert_eq!(work(&content, "n1"), remove.then_some(Work::Remove("snapcontent-s1")), "{content:?}");
        assert_eq!(work(&content, "n2"), None);
    }
    assert_eq!(told(&plan_content(&going("Retain", false, ready), None, now())), free, "nobody's, and it is kept");
}

#[test]
fn a_node_takes_what_is_not_there_yet() {
    let take = Some(Work::Take { volume: "pvc-1", snapshot: "snapcontent-s1" });
    assert_eq!(work(&content(json!({})), "n1"), take);
    assert_eq!(work(&content(json!({"status": {"readyToUse": false, "error": {"message": "x"}}})), "n1"), take);
    assert_eq!(work(&content(json!({"status": {"readyToUse": true}})), "n1"), None);
    assert_eq!(work(&content(json!({})), "n2"), None);
    let told = failed(&content(json!({})), "disk full", now()).unwrap();
    let again = content(json!({"status": told}));
    assert_eq!(failed(&again, "disk full", now()), None);
}

#[test]
fn a_claim_is_held_while_a_snapshot_of_it_is_taken() {
    let held = claim(json!({"metadata": {"finalizers": ["kubernetes.io/pvc-protection", CLAIM]}}));
    let pv = volume(json!({}));
    let ready = snapshot(json!({"status": {"readyToUse": true}}));
    let going = snapshot(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let of_another = snapshot(json!({"spec": {"source": {"persistentVolumeClaimName": "other"}}}));
    let free = ["patch PersistentVolumeClaim {\"metadata\":{\"finalizers\":[\"kubernetes.io/pvc-protection\"]}}"];
    assert_eq!(told(&plan_claim(&held, Some(&pv), &[&ready, &going, &of_another])), free);
    assert_eq!(told(&plan_claim(&held, Some(&pv), &[&ready, &snapshot(json!({}))])), [""; 0]);
    assert_eq!(told(&plan_claim(&held, None, &[])), [""; 0], "another driver's");
}

#[test]
fn handles_name_a_node_and_a_folder_on_it() {
    assert_eq!(parse_handle(&handle("n1", "s")), Some(("n1", "s")));
    for wrong in ["", "s", "/s", "n1/", "n1/a/b", "n1/..", "n1/.images"] {
        assert_eq!(parse_handle(wrong), None, "{wrong}");
    }
}
