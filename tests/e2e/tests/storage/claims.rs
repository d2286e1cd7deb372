//! The API of volumes and claims with the controllers at work that guard and bind them.

use anyhow::{Result, ensure};
use e2e::Ctx;
use serde_json::{Value, json};

/// A class that nobody serves keeps other volumes and claims out of it.
fn volume(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {"of": class}},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp/nothing-of-it-is-used"},
        },
    })
}

fn claim(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "labels": {"of": class}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}},
        },
    })
}

/// Makes both, and waits until they are bound to each other.
fn bound(ctx: &Ctx, pv: &str, pvc: &str, class: &str) -> Result<()> {
    ctx.feed(&["create", "-f", "-"], &[volume(pv, class), claim(pvc, class)])?.ok()?;
    ctx.wait(&format!("pvc/{pvc}"), "jsonpath={.status.phase}=Bound")?;
    ctx.wait(&format!("pv/{pv}"), "jsonpath={.status.phase}=Bound")
}

fn listed(ctx: &Ctx, kind: &str, selector: &str) -> Result<usize> {
    Ok(ctx.list(kind, selector)?.len())
}

// conformance: [sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC
pub fn a_volume_and_a_claim_live_through_their_verbs(ctx: &Ctx) -> Result<()> {
    let class = ctx.ns.clone();
    let selector = format!("of={class}");
    bound(ctx, "lifecycle-1", "claim-1", &class)?;
    ensure!(listed(ctx, "pv", &selector)? == 1 && listed(ctx, "pvc", &selector)? == 1);
    for (resource, label) in [("pv/lifecycle-1", "pv-patch"), ("pvc/claim-1", "pvc-patch")] {
        let patch = json!({"metadata": {"labels": {label: "patched"}}}).to_string();
        ctx.ok(&["patch", resource, "--type=merge", "-p", &patch])?;
        ensure!(ctx.field(resource, &format!(".metadata.labels.{label}"))? == "patched");
    }
    // They point at each other by UID, not only by name.
    let (pv, pvc) = (ctx.json("pv/lifecycle-1")?, ctx.json("pvc/claim-1")?);
    ensure!(pv["spec"]["claimRef"]["uid"] == pvc["metadata"]["uid"], "{pv}");
    ensure!(pvc["spec"]["volumeName"] == "lifecycle-1", "{pvc}");
    // kubectl waits until an object is gone.
    ctx.ok(&["delete", "pvc", "claim-1"])?;
    ctx.ok(&["delete", "pv", "lifecycle-1"])?;
    ensure!(listed(ctx, "pv", &selector)? == 0 && listed(ctx, "pvc", &selector)? == 0);
    bound(ctx, "lifecycle-2", "claim-2", &class)?;
    for resource in ["pv/lifecycle-2", "pvc/claim-2"] {
        // A PUT of a read object; a controller may have written it in between.
        e2e::eventually(std::time::Duration::from_secs(60), "the update is taken", || {
            let mut object = ctx.json(resource)?;
            object["metadata"]["labels"]["update"] = json!("updated");
            ctx.feed(&["replace", "-f", "-"], &[object])?.ok()
        })?;
        ensure!(ctx.field(resource, ".metadata.labels.update")? == "updated");
    }
    let query = format!("labelSelector=of%3D{class}");
    ctx.ok(&["delete", "pvc", "-l", &selector])?;
    // kubectl deletes one by one; the collection is deleted by what speaks HTTP.
    let deleted = ctx.ok(&["delete", "--raw", &format!("/api/v1/persistentvolumes?{query}")])?;
    ensure!(deleted.contains("PersistentVolume"), "{deleted}");
    ctx.none_left("pv", &selector)?;
    ctx.feed(&["create", "-f", "-"], &[claim("claim-3", &class)])?.ok()?;
    ctx.ok(&["delete", "--raw", &format!("/api/v1/namespaces/{}/persistentvolumeclaims?{query}", ctx.ns)])?;
    ctx.none_left("pvc", &selector)
}

// conformance: [sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status
pub fn the_status_of_a_volume_and_of_a_claim_is_written_apart(ctx: &Ctx) -> Result<()> {
    let class = ctx.ns.clone();
    let selector = format!("of={class}");
    bound(ctx, "status-1", "claim", &class)?;
    ensure!(listed(ctx, "pv", &selector)? == 1 && listed(ctx, "pvc", &selector)? == 1);
    for resource in ["pvc/claim", "pv/status-1"] {
        let phase = ctx.ok(&["get", resource, "--subresource=status", "-o", "jsonpath={.status.phase}"])?;
        ensure!(phase == "Bound", "{resource}: {phase:?}");
    }
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "Test", "message": "set"}]}});
    let patch = |resource: &str, patch: Value| {
        ctx.ok(&["patch", resource, "--subresource=status", "--type=merge", "-p", &patch.to_string()])
    };
    patch("pvc/claim", condition("StatusPatched"))?;
    ensure!(ctx.field("pvc/claim", ".status.conditions[?(@.type==\"StatusPatched\")].message")? == "set");
    patch("pv/status-1", json!({"status": {"message": "StatusPatched", "reason": "E2E patchStatus"}}))?;
    ensure!(ctx.field("pv/status-1", ".status.message")? == "StatusPatched");
    ensure!(ctx.field("pv/status-1", ".status.reason")? == "E2E patchStatus");
    let update = |resource: &str, change: &dyn Fn(&mut Value)| {
        e2e::eventually(std::time::Duration::from_secs(60), "the update is taken", || {
            let mut object = ctx.json(resource)?;
            change(&mut object);
            ctx.feed(&["replace", "--subresource=status", "-f", "-"], &[object])?.ok()
        })
    };
    update("pvc/claim", &|claim| {
        claim["status"]["conditions"] = condition("StatusUpdated")["status"]["conditions"].clone()
    })?;
    ensure!(ctx.field("pvc/claim", ".status.conditions[?(@.type==\"StatusUpdated\")].message")? == "set");
    update("pv/status-1", &|volume| {
        volume["status"]["message"] = json!("StatusUpdated");
        volume["status"]["reason"] = json!("E2E updateStatus");
        // Not a part of the status, and so not written.
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
    })?;
    ensure!(ctx.field("pv/status-1", ".status.message")? == "StatusUpdated");
    ensure!(ctx.field("pv/status-1", ".status.reason")? == "E2E updateStatus");
    ensure!(ctx.field("pv/status-1", ".spec.persistentVolumeReclaimPolicy")? == "Retain");
    ctx.ok(&["delete", "pvc/claim"])?;
    ctx.ok(&["delete", "pv/status-1"])?;
    Ok(())
}

pub fn a_volume_of_an_enforced_class_is_full_at_its_capacity_grows_and_is_copied(ctx: &Ctx) -> Result<()> {
    if !std::path::Path::new("/dev/loop-control").exists() {
        return Err(e2e::skip("no loop devices"));
    }
    let class = ctx.ns.clone();
    let made = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "windlass.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true, "parameters": {"capacity": "enforced"},
    });
    let mut small = claim("small", &class);
    small["spec"]["resources"]["requests"]["storage"] = json!("32Mi");
    ctx.apply(&[made, small])?;
    let spec = |claim: &str| {
        json!({
            "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
        })
    };
    ctx.ready_pod(e2e::pod("writer", e2e::IDLE, spec("small")))?;
    let write = "dd if=/dev/zero of=/v/much bs=1M count=48 2>&1 || true; ls /v";
    let full = ctx.sh("writer", write)?;
    ensure!(full.contains("No space left"), "{full}");
    let volume = ctx.field("pvc/small", ".spec.volumeName")?;
    let more = json!({"spec": {"resources": {"requests": {"storage": "96Mi"}}}}).to_string();
    ctx.ok(&["patch", "pvc/small", "--type=merge", "-p", &more])?;
    // At once, or, where root lacks CAP_SYS_RESOURCE, with the next pod.
    ctx.wait(&format!("pv/{volume}"), "jsonpath={.spec.capacity.storage}=96Mi")?;
    ctx.ok(&["delete", "pod", "writer"])?;
    ctx.ready_pod(e2e::pod("writer", e2e::IDLE, spec("small")))?;
    ctx.wait("pvc/small", "jsonpath={.status.capacity.storage}=96Mi")?;
    let fits = ctx.sh("writer", write)?;
    ensure!(!fits.contains("No space left"), "{fits}");
    ensure!(ctx.field(&format!("pv/{volume}"), ".spec.capacity.storage")? == "96Mi");
    // A claim that names it as its source begins with what is in it, and then goes its own way.
    ctx.sh("writer", "rm /v/much; echo original > /v/file")?;
    let mut copy = claim("copy", &class);
    copy["spec"]["resources"]["requests"]["storage"] = json!("96Mi");
    copy["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "small"});
    ctx.apply(&[copy])?;
    ctx.ready_pod(e2e::pod("copier", e2e::IDLE, spec("copy")))?;
    ensure!(ctx.sh("copier", "cat /v/file; echo other > /v/file")? == "original");
    ensure!(ctx.sh("writer", "cat /v/file")? == "original");
    ctx.ok(&["delete", "pod", "writer", "copier"])?;
    ctx.ok(&["delete", "pvc", "small", "copy"])?;
    ctx.wait(&format!("pv/{volume}"), "delete")?;
    let left = e2e::leaks::mounts(ctx.instance.names())?;
    ensure!(!left.iter().any(|m| m.contains(&volume)), "{left:?}");
    Ok(())
}
