//! Snapshots of local volumes: taken, restored, and gone or kept as their class says.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, merge, pod};
use serde_json::{Value, json};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
const GROUP: &str = "snapshot.storage.k8s.io";

fn claim(name: &str, more: Value) -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "32Mi"}}});
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": merge(spec, more),
    })
}

/// A claim of a volume that begins as a snapshot.
fn restored(name: &str, snapshot: &str, more: Value) -> Value {
    let source = json!({"apiGroup": GROUP, "kind": "VolumeSnapshot", "name": snapshot});
    claim(name, merge(json!({"dataSource": source}), more))
}

fn snapshot(name: &str, more: Value) -> Value {
    json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name}, "spec": more,
    })
}

fn of(claim: &str) -> Value {
    json!({"source": {"persistentVolumeClaimName": claim}})
}

fn user(name: &str, claim: &str) -> Value {
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
    });
    pod(name, IDLE, spec)
}

fn ready(ctx: &Ctx, snapshot: &str) -> Result<()> {
    ctx.wait(&format!("volumesnapshot/{snapshot}"), "jsonpath={.status.readyToUse}=true")
}

fn content(ctx: &Ctx, snapshot: &str) -> Result<String> {
    ctx.field(&format!("volumesnapshot/{snapshot}"), ".status.boundVolumeSnapshotContentName")
}

/// Where the node keeps a snapshot.
fn folder(ctx: &Ctx, name: &str) -> PathBuf {
    ctx.instance.names().data_dir().join("volumes/.snapshots").join(name)
}

/// Waits for an event about an object that says it.
fn told(ctx: &Ctx, object: &str, words: &str) -> Result<()> {
    let selector = format!("involvedObject.name={object}");
    eventually(LIMIT, words, || {
        let said = ctx.ok(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].message}"])?;
        ensure!(said.contains(words), "{said}");
        Ok(())
    })
}

/// Takes a snapshot, changes the data and sees the old data again in a new volume; returns the name of the content.
fn round_trip(ctx: &Ctx, class: Value) -> Result<String> {
    ctx.apply(&[claim("data", class.clone())])?;
    ctx.ready_pod(user("writer", "data"))?;
    ctx.sh("writer", "mkdir /v/dir; echo old > /v/dir/file; chown -R 1234 /v/dir; chmod 640 /v/dir/file")?;
    ctx.apply(&[snapshot("first", of("data"))])?;
    ready(ctx, "first")?;
    let taken = ctx.json("volumesnapshot/first")?;
    ensure!(taken["spec"]["volumeSnapshotClassName"] == "local-path", "the default class: {taken}");
    ensure!(taken["status"]["restoreSize"] == "32Mi" && taken["status"]["creationTime"].is_string(), "{taken}");
    let content = content(ctx, "first")?;
    let bound = ctx.json(&format!("volumesnapshotcontent/{content}"))?;
    ensure!(bound["spec"]["volumeSnapshotRef"]["uid"] == taken["metadata"]["uid"], "{bound}");
    ensure!(folder(ctx, &content).join("data/dir/file").exists());
    ctx.sh("writer", "echo new > /v/dir/file; touch /v/more")?;
    ctx.apply(&[restored("again", "first", class.clone())])?;
    ctx.ready_pod(user("reader", "again"))?;
    let seen = ctx.sh("reader", "cat /v/dir/file; stat -c '%u %a' /v/dir/file; ls /v; echo mine > /v/dir/file")?;
    ensure!(seen.split_whitespace().collect::<Vec<_>>() == ["old", "1234", "640", "dir"], "{seen}");
    ensure!(ctx.sh("writer", "cat /v/dir/file")? == "new");
    // A volume that is smaller than what is to be in it is not made.
    let small = json!({"resources": {"requests": {"storage": "1Mi"}}});
    ctx.apply(&[restored("small", "first", merge(class, small)), user("waits", "small")])?;
    told(ctx, "small", "is less than the size 33554432 for the source snapshot first")?;
    ensure!(ctx.field("pvc/small", ".status.phase")? == "Pending");
    ctx.ok(&["delete", "pod/waits", "pvc/small"])?;
    Ok(content)
}

pub fn a_snapshot_keeps_what_was_in_a_volume_until_it_is_deleted(ctx: &Ctx) -> Result<()> {
    let content = round_trip(ctx, json!({}))?;
    // Deleted, it takes its data with it; a volume that nobody has used yet has got it before.
    ctx.apply(&[restored("late", "first", json!({}))])?;
    let node = ctx.field("pod/writer", ".spec.nodeName")?;
    let pick = format!("volume.kubernetes.io/selected-node={node}");
    ctx.ok(&["annotate", "pvc/late", &pick])?;
    ctx.wait("pvc/late", "jsonpath={.status.phase}=Bound")?;
    ctx.ok(&["delete", "volumesnapshot", "first"])?;
    ctx.wait(&format!("volumesnapshotcontent/{content}"), "delete")?;
    ensure!(!folder(ctx, &content).exists(), "{} is still there", folder(ctx, &content).display());
    ctx.ready_pod(user("later", "late"))?;
    ensure!(ctx.sh("later", "cat /v/dir/file")? == "old");
    ctx.ok(&["delete", "pod", "writer", "reader", "later"])?;
    ctx.ok(&["delete", "pvc", "data", "again", "late"])?;
    Ok(())
}

pub fn a_snapshot_of_an_enforced_class_is_taken_and_restored(ctx: &Ctx) -> Result<()> {
    if !std::path::Path::new("/dev/loop-control").exists() {
        return Err(e2e::skip("no loop devices"));
    }
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": ctx.ns},
        "provisioner": "windlass.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": {"capacity": "enforced"},
    });
    ctx.apply(&[class])?;
    let content = round_trip(ctx, json!({"storageClassName": ctx.ns}))?;
    let full = ctx.sh("reader", "dd if=/dev/zero of=/v/much bs=1M count=48 2>&1 || true")?;
    ensure!(full.contains("No space left"), "{full}");
    ctx.ok(&["delete", "volumesnapshot", "first"])?;
    ctx.wait(&format!("volumesnapshotcontent/{content}"), "delete")?;
    let volumes = ["data", "again"].map(|claim| ctx.field(&format!("pvc/{claim}"), ".spec.volumeName"));
    ctx.ok(&["delete", "pod", "writer", "reader"])?;
    ctx.ok(&["delete", "pvc", "data", "again"])?;
    for volume in volumes {
        let volume = volume?;
        ctx.wait(&format!("pv/{volume}"), "delete")?;
        let left = e2e::leaks::mounts(ctx.instance.names())?;
        ensure!(!left.iter().any(|m| m.contains(&volume)), "{left:?}");
    }
    Ok(())
}

pub fn a_retained_snapshot_outlives_its_object_and_is_imported_again(ctx: &Ctx) -> Result<()> {
    let class = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": ctx.ns},
        "driver": "windlass.dev/local-path", "deletionPolicy": "Retain",
    });
    eventually(LIMIT, "the kind of the class is served", || ctx.apply(std::slice::from_ref(&class)))?;
    // Before there is a volume the snapshot says what it waits for, and is taken once there is one.
    let spec = merge(of("data"), json!({"volumeSnapshotClassName": ctx.ns}));
    ctx.apply(&[claim("data", json!({})), snapshot("kept", spec)])?;
    eventually(LIMIT, "the snapshot says what it waits for", || {
        let said = ctx.field("volumesnapshot/kept", ".status.error.message")?;
        ensure!(said.contains("the PVC data is not yet bound to a PV"), "{said}");
        Ok(())
    })?;
    ctx.ready_pod(user("writer", "data"))?;
    ready(ctx, "kept")?;
    ensure!(ctx.field("volumesnapshot/kept", ".status.error")?.is_empty(), "an error of before is gone");
    ctx.ok(&["delete", "volumesnapshot", "kept"])?;
    ctx.sh("writer", "echo old > /v/file")?;
    let again = merge(of("data"), json!({"volumeSnapshotClassName": ctx.ns}));
    ctx.apply(&[snapshot("kept", again)])?;
    ready(ctx, "kept")?;
    let content = content(ctx, "kept")?;
    let handle = ctx.field(&format!("volumesnapshotcontent/{content}"), ".status.snapshotHandle")?;
    ctx.ok(&["delete", "volumesnapshot", "kept"])?;
    ctx.ok(&["delete", "volumesnapshotcontent", &content])?;
    ensure!(folder(ctx, &content).join("data/file").exists(), "{} was to be kept", folder(ctx, &content).display());
    let imported = format!("imported-{}", ctx.ns);
    let object = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": imported},
        "spec": {"driver": "windlass.dev/local-path", "deletionPolicy": "Delete", "source": {"snapshotHandle": handle},
            "volumeSnapshotRef": {"namespace": ctx.ns, "name": "back"}},
    });
    ctx.apply(&[object, snapshot("back", json!({"source": {"volumeSnapshotContentName": imported}}))])?;
    ready(ctx, "back")?;
    ctx.apply(&[restored("again", "back", json!({}))])?;
    ctx.ready_pod(user("reader", "again"))?;
    ensure!(ctx.sh("reader", "cat /v/file")? == "old");
    ctx.ok(&["delete", "volumesnapshot", "back"])?;
    ctx.wait(&format!("volumesnapshotcontent/{imported}"), "delete")?;
    ensure!(!folder(ctx, &content).exists(), "{} is still there", folder(ctx, &content).display());
    ctx.ok(&["delete", "pod", "writer", "reader"])?;
    ctx.ok(&["delete", "pvc", "data", "again"])?;
    ctx.ok(&["delete", "volumesnapshotclass", &ctx.ns])?;
    Ok(())
}
