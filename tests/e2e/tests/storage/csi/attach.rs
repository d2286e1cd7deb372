//! Volumes that must be attached before they are mounted. The test is the attacher that a driver has beside it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, eventually};
use serde_json::{Value, json};

use super::{LIMIT, calls, claim, count, csi_driver, on_host, said, user};

const FINALIZER: &str = "external-attacher/attach-csi-example-com";

/// The attachment of a volume, if there is one.
fn attachment(ctx: &Ctx, volume: &str) -> Result<Option<Value>> {
    let all = ctx.json("volumeattachments")?;
    let found = all["items"].as_array().into_iter().flatten();
    let mut found = found.filter(|a| a["spec"]["source"]["persistentVolumeName"] == volume);
    Ok(found.next().cloned())
}

fn name(attachment: &Value) -> Result<String> {
    Ok(attachment["metadata"]["name"].as_str().context("it has a name")?.to_owned())
}

/// What an attacher writes into the status.
fn answer(ctx: &Ctx, name: &str, status: Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    ctx.ok(&["patch", "volumeattachment", name, "--subresource=status", "--type=merge", "-p", &patch]).map(drop)
}

fn holds(ctx: &Ctx, name: &str, held: bool) -> Result<()> {
    let finalizers = if held { json!([FINALIZER]) } else { json!(null) };
    let patch = json!({"metadata": {"finalizers": finalizers}}).to_string();
    ctx.ok(&["patch", "volumeattachment", name, "--type=merge", "-p", &patch]).map(drop)
}

fn status(ctx: &Ctx) -> Result<Value> {
    let nodes = ctx.json("nodes")?;
    Ok(nodes["items"][0]["status"].clone())
}

pub fn a_volume_is_mounted_when_its_attacher_has_attached_it_and_detached_when_it_is_unmounted(
    ctx: &Ctx,
) -> Result<()> {
    let (driver, volume) = ("attach.csi.example.com", "vol-attach");
    let data = ctx.instance.dir().join("csi-attach");
    let kubelet = ctx.instance.names().data_dir().join("kubelet");
    let running = on_host(driver, &kubelet, &data)?;
    ctx.apply(&[e2e::merge(csi_driver(driver), json!({"spec": {"attachRequired": true}}))])?;
    ctx.apply(&claim(driver, &ctx.ns, volume, json!({})))?;
    ctx.apply(&[user("waits", json!({}))])?;
    let mut id = String::new();
    eventually(LIMIT, "the volume is to be attached", || {
        id = name(&attachment(ctx, volume)?.context("there is no attachment")?)?;
        Ok(())
    })
    .with_context(|| ctx.diagnosis())?;
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let made = ctx.json(&format!("volumeattachment/{id}"))?;
    ensure!(id.starts_with("csi-") && id.len() == 68, "{made}");
    ensure!(made["spec"]["attacher"] == driver && made["spec"]["nodeName"] == node.as_str(), "{made}");
    // It does not work at first, which the pod is told.
    answer(ctx, &id, json!({"attachError": {"time": "2026-01-01T00:00:00Z", "message": "no slot is free"}}))?;
    eventually(LIMIT, "the pod is told why", || {
        let told = ctx.ok(&["get", "events", "--field-selector=reason=FailedAttachVolume", "-o", "json"])?;
        ensure!(told.contains("AttachVolume.Attach failed for volume \\\"vol-attach\\\" : no slot is free"), "{told}");
        Ok(())
    })?;
    let unique = format!("kubernetes.io/csi/{driver}^{volume}");
    eventually(LIMIT, "the node says that it is to use the volume", || {
        let status = status(ctx)?;
        ensure!(status["volumesInUse"] == json!([unique]) && status["volumesAttached"].is_null(), "{status}");
        Ok(())
    })?;
    ensure!(count(&data, "stage", volume)? == 0, "{:?}", calls(&data)?);
    holds(ctx, &id, true)?;
    let metadata = json!({"devicePath": "/dev/of-the-attacher"});
    answer(ctx, &id, json!({"attached": true, "attachmentMetadata": metadata, "attachError": null}))?;
    ctx.wait("pod/waits", "condition=Ready")?;
    ensure!(said(&data, "publish", volume)?["publishContext"] == metadata, "{:?}", calls(&data)?);
    ensure!(status(ctx)?["volumesAttached"] == json!([{"name": unique, "devicePath": ""}]));
    // The node unmounts, and only then the attachment goes.
    ctx.ok(&["delete", "pod", "waits"])?;
    eventually(LIMIT, "the volume is to be detached", || {
        let found = attachment(ctx, volume)?.context("the attacher has not answered yet")?;
        ensure!(found["metadata"]["deletionTimestamp"].is_string(), "{found}");
        Ok(())
    })?;
    ensure!((count(&data, "unpublish", volume)?, count(&data, "unstage", volume)?) == (1, 1), "{:?}", calls(&data)?);
    let after = status(ctx)?;
    ensure!(after["volumesInUse"].is_null() && after["volumesAttached"].is_null(), "{after}");
    again(ctx, volume, &id)?;
    device(ctx, driver, &data)?;
    drop(running);
    std::fs::remove_file(kubelet.join(format!("plugins_registry/{driver}-reg.sock")))?;
    Ok(())
}

/// A pod that comes while its volume is being detached.
fn again(ctx: &Ctx, volume: &str, id: &str) -> Result<()> {
    ctx.apply(&[user("next", json!({}))])?;
    holds(ctx, id, false)?;
    eventually(LIMIT, "the volume is to be attached again", || {
        let found = attachment(ctx, volume)?.context("there is no attachment")?;
        ensure!(found["metadata"]["deletionTimestamp"].is_null(), "{found}");
        Ok(())
    })?;
    answer(ctx, id, json!({"attached": true}))?;
    ctx.wait("pod/next", "condition=Ready")?;
    ctx.ok(&["delete", "pod", "next"])?;
    eventually(LIMIT, "it is detached", || {
        ensure!(attachment(ctx, volume)?.is_none());
        Ok(())
    })?;
    ctx.ok(&["delete", "pvc", "data"])?;
    ctx.ok(&["delete", "pv", volume])?;
    Ok(())
}

/// A volume of the driver that is a device.
fn device(ctx: &Ctx, driver: &str, data: &Path) -> Result<()> {
    if !Path::new("/dev/loop-control").exists() {
        return Err(e2e::skip("no loop devices"));
    }
    let volume = "vol-device";
    let mode = |v: Value| e2e::merge(v, json!({"spec": {"volumeMode": "Block"}}));
    ctx.apply(&claim(driver, &ctx.ns, volume, json!({})).map(mode))?;
    let spec = json!({
        "containers": [{"name": "main", "volumeDevices": [{"name": "v", "devicePath": "/dev/xvda"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    });
    ctx.apply(&[e2e::pod("device", e2e::IDLE, spec)])?;
    eventually(LIMIT, "the device is to be attached", || {
        let id = name(&attachment(ctx, volume)?.context("there is no attachment")?)?;
        answer(ctx, &id, json!({"attached": true}))
    })?;
    ctx.wait("pod/device", "condition=Ready").with_context(|| ctx.diagnosis())?;
    ctx.sh("device", "[ -b /dev/xvda ] && echo written > /dev/xvda && sync")?;
    let image = data.join(format!("{volume}.img"));
    ensure!(std::fs::read(&image)?.starts_with(b"written\n"));
    ctx.ok(&["delete", "pod", "device"])?;
    ctx.ok(&["delete", "pvc", "data"])?;
    ctx.ok(&["delete", "pv", volume])?;
    let associated = std::process::Command::new("losetup").arg("--associated").arg(&image).output()?;
    let said = String::from_utf8_lossy(&associated.stdout).into_owned();
    if let Some((device, _)) = said.split_once(':') {
        std::process::Command::new("losetup").args(["--detach", device]).status()?;
    }
    Ok(())
}
