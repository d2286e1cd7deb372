//! Volumes that pods have as devices.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod, skip};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const DEVICE: &str = "/mnt/device";

/// A pod that has the claim as a device.
fn user(name: &str, claim: &str, read_only: bool) -> Value {
    let spec = json!({
        "containers": [{"name": "main", "volumeDevices": [{"name": "v", "devicePath": DEVICE}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}],
    });
    pod(name, IDLE, spec)
}

fn claim(name: &str, class: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeMode": mode,
            "resources": {"requests": {"storage": "16Mi"}}},
    })
}

fn tool(name: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(name).args(args).output().with_context(|| format!("run {name}"))?;
    ensure!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device, taken away with the test.
struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _gone = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

impl Loop {
    fn of(file: &std::path::Path) -> Result<Self> {
        std::fs::File::create(file)?.set_len(16 << 20)?;
        Ok(Loop(tool("losetup", &["--find", "--show", &file.display().to_string()])?.into()))
    }
}

fn able() -> Result<()> {
    match tool("losetup", &["--find"]) {
        Ok(device) if std::path::Path::new(&device).exists() => Ok(()),
        Ok(device) => Err(skip(format!("no node of loop device {device}"))),
        Err(_) => Err(skip("no loop devices")),
    }
}

pub fn a_volume_of_an_enforced_class_may_be_a_device(ctx: &Ctx) -> Result<()> {
    able()?;
    let class = ctx.ns.clone();
    let made = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
        "provisioner": "windlass.dev/local-path", "volumeBindingMode": "WaitForFirstConsumer",
        "parameters": {"capacity": "enforced"},
    });
    ctx.apply(&[made, claim("device", &class, "Block"), claim("folder", &class, "Filesystem")])?;
    ctx.ready_pod(user("writer", "device", false)).with_context(|| ctx.diagnosis())?;
    ensure!(ctx.sh("writer", &format!("[ -b {DEVICE} ] && dd if={DEVICE} bs=1M 2>/dev/null | wc -c"))? == "16777216");
    ctx.sh("writer", &format!("echo kept > {DEVICE}"))?;
    // Another device may not be had: a node for it can be made, but not opened.
    let other = "mknod /tmp/other b 7 255 && dd if=/tmp/other of=/dev/null count=1 2>&1 || true";
    ensure!(ctx.sh("writer", other)?.contains("not permitted"));
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let summary: Value =
        serde_json::from_str(&ctx.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?)?;
    let mut pods = summary["pods"].as_array().into_iter().flatten();
    let own = pods.find(|p| p["podRef"]["namespace"] == ctx.ns.as_str()).context("the pod is there")?;
    let volume = &own["volume"][0];
    ensure!(volume["pvcRef"]["name"] == "device" && volume["capacityBytes"] == 16 << 20, "{own}");
    ctx.ok(&["delete", "pod", "writer"])?;
    ctx.ready_pod(user("reader", "device", true))?;
    ensure!(ctx.sh("reader", &format!("head -n 1 {DEVICE}"))? == "kept");
    let refused = ctx.sh("reader", &format!("(echo no > {DEVICE}) 2>&1 || true"))?;
    ensure!(refused.contains("not permitted"), "{refused}");
    // What is a file system is no device.
    ctx.apply(&[user("wrong", "folder", false)])?;
    eventually(LIMIT, "the pod is told what is wrong", || {
        let told = ctx.ok(&["get", "events", "--field-selector=reason=FailedMount", "-o", "json"])?;
        ensure!(told.contains("volume v has volumeMode Filesystem, but is specified in volumeDevices"), "{told}");
        Ok(())
    })?;
    let name = ctx.field("pvc/device", ".spec.volumeName")?;
    ctx.ok(&["delete", "pod", "reader", "wrong"])?;
    ctx.ok(&["delete", "pvc", "device", "folder"])?;
    ctx.wait(&format!("pv/{name}"), "delete")?;
    let devices = tool("losetup", &["--list", "--noheadings", "--output", "BACK-FILE"])?;
    ensure!(!devices.contains(&name), "{devices}");
    Ok(())
}

pub fn a_device_of_the_host_is_a_local_volume(ctx: &Ctx) -> Result<()> {
    able()?;
    let device = Loop::of(&ctx.instance.dir().join(format!("{}.img", ctx.ns)))?;
    let (class, node) = (ctx.ns.clone(), ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?);
    let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    let volume = |name: &str, mode: &str, path: &str| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": "16Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "volumeMode": mode, "local": {"path": path}, "persistentVolumeReclaimPolicy": "Retain",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}},
        })
    };
    // A claim takes a volume of its own mode only.
    let (folder, block) = (format!("{class}-a"), format!("{class}-b"));
    ctx.apply(&[volume(&folder, "Filesystem", "/tmp"), volume(&block, "Block", &device.0.display().to_string())])?;
    ctx.apply(&[claim("data", &class, "Block")])?;
    ctx.wait("pvc/data", "jsonpath={.status.phase}=Bound")?;
    ensure!(ctx.field("pvc/data", ".spec.volumeName")? == block);
    ctx.ready_pod(user("user", "data", false)).with_context(|| ctx.diagnosis())?;
    ctx.sh("user", &format!("echo written > {DEVICE}; sync"))?;
    ensure!(tool("head", &["-n", "1", &device.0.display().to_string()])? == "written");
    ctx.ok(&["delete", "pod", "user"])?;
    ctx.ok(&["delete", "pvc", "data"])?;
    ctx.ok(&["delete", "pv", &folder, &block])?;
    Ok(())
}

pub fn a_volume_of_an_nfs_server_is_mounted_or_the_pod_is_told_why_not(ctx: &Ctx) -> Result<()> {
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        // Nobody listens there.
        "volumes": [{"name": "v", "nfs": {"server": "127.0.0.253", "path": "/export"}}],
    });
    ctx.apply(&[pod("nobody", IDLE, spec)])?;
    eventually(LIMIT, "the pod is told that there is no server", || {
        let told = ctx.ok(&["get", "events", "--field-selector=reason=FailedMount", "-o", "json"])?;
        let words = "MountVolume.SetUp failed for volume \\\"v\\\" : mount failed: ";
        ensure!(told.contains(words) && told.contains("127.0.0.253:/export"), "{told}");
        Ok(())
    })?;
    ctx.ok(&["delete", "pod", "nobody"])?;
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|l| l.split_whitespace().last() == Some("nfsd")) {
        return Err(skip("the kernel of this host has no NFS server to mount from"));
    }
    served(ctx)
}

/// With the kernel's own server, on a folder of this host.
fn served(ctx: &Ctx) -> Result<()> {
    let folder = ctx.instance.dir().join("export");
    std::fs::create_dir_all(&folder)?;
    let export = format!("127.0.0.1:{}", folder.display());
    if let Err(why) = tool("exportfs", &["-o", "rw,insecure,no_root_squash,no_subtree_check,fsid=77", &export]) {
        return Err(skip(format!("nothing can be exported: {why}")));
    }
    let source = json!({"server": "127.0.0.1", "path": folder.display().to_string()});
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "nfs": source}],
    });
    let used = ctx.ready_pod(pod("user", IDLE, spec)).and_then(|()| {
        ctx.sh("user", "echo written > /v/file")?;
        ensure!(std::fs::read_to_string(folder.join("file"))? == "written\n");
        ctx.ok(&["delete", "pod", "user"])?;
        Ok(())
    });
    tool("exportfs", &["-u", &export])?;
    used
}
