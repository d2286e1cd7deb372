//! Claims of a pod's own: generic ephemeral volumes.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

fn spec() -> Value {
    let template = json!({
        "metadata": {"labels": {"of": "scratch"}, "annotations": {"note": "kept"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    });
    json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "scratch", "mountPath": "/v"}]}],
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}],
    })
}

pub fn a_claim_of_a_pods_own_comes_and_goes_with_it(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("user", IDLE, spec()))?;
    ensure!(ctx.sh("user", "echo here > /v/file; cat /v/file")? == "here");
    let (owner, claim) = (ctx.json("pod/user")?, ctx.json("pvc/user-scratch")?);
    let reference = &claim["metadata"]["ownerReferences"][0];
    ensure!(reference["uid"] == owner["metadata"]["uid"] && reference["controller"] == true, "{claim}");
    ensure!(
        claim["metadata"]["labels"]["of"] == "scratch" && claim["metadata"]["annotations"]["note"] == "kept",
        "{claim}"
    );
    let volume = ctx.field("pvc/user-scratch", ".spec.volumeName")?;
    let folder = ctx.instance.names().data_dir().join("volumes").join(&volume);
    ensure!(folder.join("file").exists(), "{} has no file", folder.display());
    ctx.ok(&["delete", "pod", "user"])?;
    ctx.none_left("pvc", "of=scratch")?;
    ctx.wait(&format!("pv/{volume}"), "delete")?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    Ok(())
}

pub fn a_claim_of_that_name_that_is_not_the_pods_is_left_alone(ctx: &Ctx) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "late-scratch"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
    });
    ctx.apply(&[claim])?;
    ctx.apply(&[pod("late", IDLE, spec())])?;
    let why = format!("PVC {0}/late-scratch was not created for pod {0}/late (pod is not owner)", ctx.ns);
    eventually(LIMIT, "the pod says why it waits", || {
        let said = ctx.field("pod/late", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(said == why, "{said}");
        let events =
            ctx.ok(&["get", "events", "--field-selector=reason=FailedBinding", "-o", "jsonpath={.items[*].message}"])?;
        ensure!(events.contains(&format!("ephemeral volume scratch: {why}")), "{events}");
        Ok(())
    })?;
    // Out of the way, the pod gets its own, so soon that a kubectl that waits might take it for the one that it deletes.
    ctx.ok(&["delete", "pvc", "late-scratch", "--wait=false"])?;
    ctx.wait("pod/late", "condition=Ready")?;
    ctx.ok(&["delete", "pod", "late"])?;
    ctx.none_left("pvc", "of=scratch")
}
