//! Volumes of a CSI driver: registration as with a kubelet, staging and publishing, and what is left of it after a kill.

pub mod attach;
pub mod driver;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, Instance, eventually, pod};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// What a driver was asked so far.
fn calls(data: &Path) -> Result<Vec<(String, Value)>> {
    let text = std::fs::read_to_string(data.join("calls")).unwrap_or_default();
    let line = |line: &str| -> Result<(String, Value)> {
        let mut value: Value = serde_json::from_str(line)?;
        Ok((value["call"].as_str().context("a call has a name")?.to_owned(), value["said"].take()))
    };
    text.lines().map(line).collect()
}

fn count(data: &Path, call: &str, id: &str) -> Result<usize> {
    Ok(calls(data)?.iter().filter(|(name, said)| name == call && said["id"] == id).count())
}

fn said(data: &Path, call: &str, id: &str) -> Result<Value> {
    let all = calls(data)?;
    let found = all.iter().rev().find(|(name, said)| name == call && said["id"] == id);
    Ok(found.with_context(|| format!("no {call} of {id} in {all:?}"))?.1.clone())
}

/// A driver in pods of a DaemonSet, with the mounts that those of stock drivers have.
fn daemon_set(name: &str, data: &Path) -> Result<Value> {
    let program = std::env::current_exe()?;
    let host = |name: &str, path: &str, kind: &str| json!({"name": name, "hostPath": {"path": path, "type": kind}});
    let plugin = format!("/var/lib/kubelet/plugins/{name}");
    let environment = [
        ("E2E_CSI_NAME", name),
        ("E2E_CSI_SOCKET", "/csi/csi.sock"),
        ("E2E_CSI_REGISTRATION", &format!("/registration/{name}-reg.sock")),
        ("E2E_CSI_ENDPOINT", &format!("{plugin}/csi.sock")),
        ("E2E_CSI_DATA", "/csi-data-dir"),
        ("E2E_CSI_STAGES", "yes"),
    ];
    let environment: Vec<Value> = environment.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
    let container = json!({
        "name": "driver", "image": IMAGE, "command": ["/driver"], "env": environment,
        "securityContext": {"privileged": true},
        "volumeMounts": [
            {"name": "socket-dir", "mountPath": "/csi"},
            {"name": "registration-dir", "mountPath": "/registration"},
            {"name": "mountpoint-dir", "mountPath": "/var/lib/kubelet/pods", "mountPropagation": "Bidirectional"},
            {"name": "plugins-dir", "mountPath": "/var/lib/kubelet/plugins", "mountPropagation": "Bidirectional"},
            {"name": "csi-data-dir", "mountPath": "/csi-data-dir"},
            {"name": "driver", "mountPath": "/driver", "readOnly": true},
            {"name": "usr", "mountPath": "/usr", "readOnly": true},
            {"name": "lib", "mountPath": "/lib", "readOnly": true},
            {"name": "lib64", "mountPath": "/lib64", "readOnly": true},
        ],
    });
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "driver"},
        "spec": {"selector": {"matchLabels": {"app": "driver"}}, "template": {
            "metadata": {"labels": {"app": "driver"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": [
                host("socket-dir", &plugin, "DirectoryOrCreate"),
                host("registration-dir", "/var/lib/kubelet/plugins_registry", "Directory"),
                host("mountpoint-dir", "/var/lib/kubelet/pods", "DirectoryOrCreate"),
                host("plugins-dir", "/var/lib/kubelet/plugins", "Directory"),
                host("csi-data-dir", &data.display().to_string(), "DirectoryOrCreate"),
                host("driver", &program.display().to_string(), "File"),
                host("usr", "/usr", ""), host("lib", "/lib", ""), host("lib64", "/lib64", ""),
            ]},
        }},
    }))
}

fn csi_driver(name: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": name},
        "spec": {
            "attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "File",
            "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        },
    })
}

/// A volume of the driver and a claim that names it.
fn claim(driver: &str, ns: &str, handle: &str, more: Value) -> [Value; 2] {
    let csi = e2e::merge(json!({"driver": driver, "volumeHandle": handle, "volumeAttributes": {"kind": "fast"}}), more);
    let size = json!({"storage": "1Gi"});
    [
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": handle},
            "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"], "storageClassName": driver, "csi": csi,
                "claimRef": {"namespace": ns, "name": "data"}, "persistentVolumeReclaimPolicy": "Retain"},
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": driver, "volumeName": handle,
                "resources": {"requests": size}},
        }),
    ]
}

fn user(name: &str, more: Value) -> Value {
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    });
    pod(name, IDLE, e2e::merge(spec, more))
}

pub fn a_driver_in_a_daemon_set_serves_claims_and_inline_volumes(ctx: &Ctx) -> Result<()> {
    let name = "bind.csi.example.com";
    let data = ctx.instance.dir().join("csi");
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": name, "allowVolumeExpansion": true});
    ctx.apply(&[csi_driver(name), class, daemon_set(name, &data)?])?;
    eventually(LIMIT, "the driver is registered", || {
        let found = calls(&data)?;
        ensure!(found.iter().any(|(call, said)| call == "registered" && said[0] == true), "{found:?}");
        Ok(())
    })
    .with_context(|| ctx.diagnosis())?;
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let entry = json!({"name": name, "nodeID": "the-node", "topologyKeys": [format!("topology.{name}/zone")], "allocatable": {"count": 5}});
    // Other tests have drivers of their own on the node.
    let listed = || -> Result<Option<Value>> {
        let node = ctx.json(&format!("csinode/{node}"))?;
        let mut drivers = node["spec"]["drivers"].as_array().into_iter().flatten();
        Ok(drivers.find(|d| d["name"] == name).cloned())
    };
    eventually(LIMIT, "the driver is listed", || {
        let listed = listed()?;
        ensure!(listed.as_ref() == Some(&entry), "{listed:?}");
        Ok(())
    })?;
    ensure!(ctx.json(&format!("node/{node}"))?["metadata"]["labels"][format!("topology.{name}/zone")] == "a");
    persistent(ctx, name, &data)?;
    inline(ctx, name, &data)?;
    // With its socket the driver goes.
    ctx.ok(&["delete", "daemonset", "driver"])?;
    std::fs::remove_file(ctx.instance.names().data_dir().join(format!("kubelet/plugins_registry/{name}-reg.sock")))?;
    eventually(LIMIT, "the driver is no longer listed", || {
        let listed = listed()?;
        ensure!(listed.is_none(), "{listed:?}");
        Ok(())
    })
}

fn persistent(ctx: &Ctx, name: &str, data: &Path) -> Result<()> {
    ctx.ok(&["create", "secret", "generic", "stage", "--from-literal=word=for-stage"])?;
    ctx.ok(&["create", "secret", "generic", "publish", "--from-literal=word=for-publish"])?;
    let secret = |name: &str| json!({"name": name, "namespace": ctx.ns});
    let secrets = json!({"nodeStageSecretRef": secret("stage"), "nodePublishSecretRef": secret("publish")});
    ctx.apply(&claim(name, &ctx.ns, "vol-1", secrets))?;
    ctx.ready_pod(user("one", json!({"securityContext": {"fsGroup": 4242}})))?;
    ctx.sh("one", "echo kept > /v/file")?;
    ensure!(ctx.sh("one", "stat -c %g /v /v/file")? == "4242\n4242");
    ctx.ready_pod(user("two", json!({})))?;
    ensure!(ctx.sh("two", "cat /v/file")? == "kept");
    // Staged once for the node, published for each pod; told who the pods are, and the words meant for each step.
    ensure!((count(data, "stage", "vol-1")?, count(data, "publish", "vol-1")?) == (1, 2), "{:?}", calls(data)?);
    let (stage, publish) = (said(data, "stage", "vol-1")?, said(data, "publish", "vol-1")?);
    ensure!(stage["secrets"] == json!({"word": "for-stage"}) && stage["context"] == json!({"kind": "fast"}), "{stage}");
    ensure!(publish["secrets"] == json!({"word": "for-publish"}) && publish["staging"] == stage["path"], "{publish}");
    ensure!(
        publish["context"]["kind"] == "fast" && publish["context"]["csi.storage.k8s.io/pod.name"] == "two",
        "{publish}"
    );
    ensure!(publish["path"].as_str().is_some_and(|p| p.starts_with("/var/lib/kubelet/pods/")), "{publish}");
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let metrics = ctx.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")])?;
    let labels = format!("{{namespace=\"{}\",persistentvolumeclaim=\"data\"}}", ctx.ns);
    for (name, value) in [("available_bytes", 7), ("capacity_bytes", 10), ("used_bytes", 3), ("inodes_free", 70)] {
        let line = format!("kubelet_volume_stats_{name}{labels} {value}");
        ensure!(metrics.lines().any(|l| l == line), "{line}: {metrics}");
    }
    grows(ctx, data)?;
    ctx.ok(&["delete", "pod", "one"])?;
    ensure!((count(data, "unpublish", "vol-1")?, count(data, "unstage", "vol-1")?) == (1, 0), "{:?}", calls(data)?);
    ctx.ok(&["delete", "pod", "two"])?;
    ensure!((count(data, "unpublish", "vol-1")?, count(data, "unstage", "vol-1")?) == (2, 1), "{:?}", calls(data)?);
    ensure!(std::fs::read_to_string(data.join("volumes/vol-1/file"))? == "kept\n", "what is in a volume stays");
    ctx.ok(&["delete", "pvc", "data"])?;
    ctx.ok(&["delete", "pv", "vol-1"])?;
    Ok(())
}

/// What a driver's resizer does, by hand: the volume is larger, its file system is the node's to grow.
fn grows(ctx: &Ctx, data: &Path) -> Result<()> {
    let patch = |resource: &str, more: &[&str], patch: Value| {
        let patch = patch.to_string();
        ctx.ok(&[&["patch", resource, "--type=merge", "-p", &patch], more].concat())
    };
    patch("pvc/data", &[], json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}))?;
    patch("pv/vol-1", &[], json!({"spec": {"capacity": {"storage": "2Gi"}}}))?;
    let pending = json!([{"type": "FileSystemResizePending", "status": "True"}]);
    patch("pvc/data", &["--subresource=status"], json!({"status": {"conditions": pending}}))?;
    ctx.wait("pvc/data", "jsonpath={.status.capacity.storage}=2Gi")?;
    eventually(LIMIT, "nothing is pending any more", || {
        let claim = ctx.json("pvc/data")?;
        ensure!(claim["status"]["conditions"].as_array().is_none_or(Vec::is_empty), "{claim}");
        Ok(())
    })?;
    ensure!(said(data, "expand", "vol-1")?["bytes"] == 2_i64 << 30);
    Ok(())
}

fn inline(ctx: &Ctx, name: &str, data: &Path) -> Result<()> {
    let source = json!({"driver": name, "readOnly": true, "volumeAttributes": {"k": "v"}, "nodePublishSecretRef": {"name": "publish"}});
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "own", "mountPath": "/v"}]}],
        "volumes": [{"name": "own", "csi": source}],
    });
    ctx.ready_pod(pod("inline", IDLE, spec))?;
    let (_, publish) = calls(data)?.into_iter().rfind(|(call, _)| call == "publish").context("it was published")?;
    let id = publish["id"].as_str().context("it has an id")?.to_owned();
    ensure!(
        publish["context"]["csi.storage.k8s.io/ephemeral"] == "true" && publish["context"]["k"] == "v",
        "{publish}"
    );
    ensure!(publish["secrets"] == json!({"word": "for-publish"}) && publish["staging"] == "", "{publish}");
    ensure!(ctx.sh("inline", "touch /v/x 2>&1 || true")?.contains("Read-only"));
    ctx.ok(&["delete", "pod", "inline"])?;
    ensure!((count(data, "unpublish", &id)?, count(data, "stage", &id)?) == (1, 0));
    Ok(())
}

/// A driver that runs on the host, ended with the test.
struct OnHost(Child);

impl Drop for OnHost {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _collected = self.0.wait();
    }
}

fn on_host(name: &str, kubelet: &Path, data: &Path) -> Result<OnHost> {
    let socket = kubelet.join(format!("plugins/{name}/csi.sock"));
    let child = Command::new(std::env::current_exe()?)
        .env("E2E_CSI_NAME", name)
        .env("E2E_CSI_SOCKET", &socket)
        .env("E2E_CSI_REGISTRATION", kubelet.join(format!("plugins_registry/{name}-reg.sock")))
        .env("E2E_CSI_ENDPOINT", &socket)
        .env("E2E_CSI_DATA", data)
        .env("E2E_CSI_STAGES", "yes")
        .stdin(Stdio::null())
        .spawn()?;
    Ok(OnHost(child))
}

pub fn volumes_of_a_driver_outlive_a_kill_and_are_taken_away_after_it() -> Result<()> {
    let name = "host.csi.example.com";
    let instance = std::sync::Arc::new(Instance::builder("csi").start()?);
    let data = instance.dir().join("csi-data");
    let kubelet = instance.names().data_dir().join("kubelet");
    let ctx = Ctx::new(instance.clone(), "kill")?;
    let driver = on_host(name, &kubelet, &data)?;
    ctx.apply(&[csi_driver(name)])?;
    ctx.apply(&claim(name, &ctx.ns, "vol-2", json!({})))?;
    ctx.ready_pod(user("first", json!({})))?;
    ctx.ready_pod(user("second", json!({})))?;
    ctx.sh("first", "echo kept > /v/file")?;
    let agent = instance.agent_pid()?;
    e2e::signal_pid(agent, Signal::SIGKILL)?;
    instance.stop(Signal::SIGKILL)?;
    instance.spawn()?;
    instance.wait_ready()?;
    // The node counts as ready from before: the agent may still be on its way.
    eventually(LIMIT, "the new agent answers", || {
        ensure!(ctx.sh("first", "cat /v/file")? == "kept");
        Ok(())
    })?;
    // What was there is found, not made again.
    ensure!((count(&data, "stage", "vol-2")?, count(&data, "publish", "vol-2")?) == (1, 2), "{:?}", calls(&data)?);
    ctx.ok(&["delete", "pod", "first"])?;
    ensure!((count(&data, "unpublish", "vol-2")?, count(&data, "unstage", "vol-2")?) == (1, 0), "{:?}", calls(&data)?);
    // A pod that goes while nobody is there to take its volumes away.
    e2e::signal_pid(instance.agent_pid()?, Signal::SIGSTOP)?;
    let stopped = instance.agent_pid()?;
    ctx.ok(&["delete", "pod", "second", "--force", "--grace-period=0"])?;
    e2e::signal_pid(stopped, Signal::SIGKILL)?;
    eventually(LIMIT, "the volume of the pod that is gone is taken away", || {
        let (unpublished, unstaged) = (count(&data, "unpublish", "vol-2")?, count(&data, "unstage", "vol-2")?);
        ensure!(unpublished >= 2 && unstaged == 1, "{:?}", calls(&data)?);
        Ok(())
    })?;
    let left = e2e::leaks::mounts(instance.names())?;
    ensure!(!left.iter().any(|m| m.contains("kubernetes.io")), "{left:?}");
    // And what is there when the instance is taken down goes with it; the data does not.
    ctx.ready_pod(user("third", json!({})))?;
    instance.down()?;
    drop(driver);
    ensure!(std::fs::read_to_string(data.join("volumes/vol-2/file"))? == "kept\n");
    Ok(())
}
