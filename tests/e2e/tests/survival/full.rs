//! A data directory on a disk that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Disk, Instance, Kubectl, container, eventually, on_small_disk, pod};
use serde_json::{Value, json};

/// What a busy machine may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Size of the disk: what a server asks for at its start, and little more.
const DISK: u64 = 900 << 20;

struct Host<'a> {
    instance: &'a Instance,
    disk: &'a Disk,
}

impl Host<'_> {
    fn kubectl(&self) -> &Kubectl {
        self.instance.kubectl()
    }

    fn apply(&self, object: &Value) -> Result<String> {
        self.kubectl().run_for(&["apply", "-f", "-"], Some(object.to_string().as_bytes()), LIMIT)?.ok()
    }

    fn wait(&self, resource: &str, condition: &str) -> Result<()> {
        let (condition, limit) = (format!("--for={condition}"), format!("--timeout={}s", LIMIT.as_secs()));
        self.kubectl().run_for(&["wait", resource, &condition, &limit], None, LIMIT * 2)?.ok()?;
        Ok(())
    }

    fn field(&self, resource: &str, path: &str) -> Result<String> {
        self.kubectl().ok(&["get", resource, "-o", &format!("jsonpath={{{path}}}")])
    }

    fn node(&self) -> Result<String> {
        Ok(self.kubectl().ok(&["get", "nodes", "-o", "name"])?.trim().to_owned())
    }

    fn pressure(&self) -> Result<(String, String)> {
        let node = self.node()?;
        let status = self.field(&node, ".status.conditions[?(@.type==\"DiskPressure\")].status")?;
        Ok((status, self.field(&node, ".spec.taints[*].key")?))
    }

    fn run_of(&self, pod: &str) -> Result<String> {
        let path = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        self.kubectl().ok(&["get", "pod", pod, "-o", path])
    }
}

fn map(n: usize) -> Value {
    let text = "x".repeat(200 << 10);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{n}"), "labels": {"of": "full"}}, "data": {"text": text}})
}

/// Creates objects until one is refused. Answers how many were acknowledged, and what was said.
fn until_refused(host: &Host<'_>) -> Result<(usize, String)> {
    for n in 0..4000 {
        let body = map(n).to_string();
        let output = host.kubectl().run_for(&["create", "-f", "-"], Some(body.as_bytes()), LIMIT)?;
        if !output.status.success() {
            return Ok((n, output.stderr));
        }
        // What the server gives back by dropping old history must not be enough for ever.
        host.disk.fill(0)?;
    }
    anyhow::bail!("the disk is never full")
}

pub fn a_full_disk_refuses_writes_loses_nothing_and_recovers() -> Result<()> {
    let flags = ["--eviction-hard=nodefs.available<10%", "--eviction-pressure-transition-period=1s"];
    let builder = flags.iter().fold(Instance::builder("full"), |b, flag| b.flag(flag));
    on_small_disk(builder, "", DISK, |small| full(&Host { instance: &small.instance, disk: &small.disk }))
}

fn full(host: &Host<'_>) -> Result<()> {
    let mounts = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let spec = json!({
        // Not to be taken down for the room that it does not take.
        "priorityClassName": "system-node-critical",
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [{"name": "main", "volumeMounts": mounts}],
    });
    host.apply(&pod("runs", e2e::IDLE, spec))?;
    host.wait("pod/runs", "condition=Ready")?;
    let before = host.run_of("runs")?;
    // Little room: the node says so and takes no more pods.
    host.disk.fill(24 << 20)?;
    eventually(LIMIT, "the node is under pressure", || {
        let (status, taints) = host.pressure()?;
        ensure!(status == "True" && taints.contains("node.kubernetes.io/disk-pressure"), "{status} {taints:?}");
        Ok(())
    })?;
    host.apply(&pod("kept-away", e2e::IDLE, json!({})))?;
    host.wait("pod/kept-away", "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].reason}=Unschedulable")?;
    // None at all.
    host.disk.fill(0)?;
    let said = host.kubectl().run(&[
        "exec",
        "runs",
        "--",
        "sh",
        "-c",
        "dd if=/dev/zero of=/scratch/file bs=65536 count=16",
    ])?;
    ensure!(!said.status.success() && said.stderr.contains("No space left"), "{said:?}");
    let import = host.instance.import_image().err().context("an image came onto a full disk")?;
    ensure!(format!("{import:#}").contains("is full"), "{import:#}");
    let (acknowledged, said) = until_refused(host)?;
    ensure!(said.contains("the disk of the store is full"), "{said}");
    // Reads go on, and so do containers.
    let count = || -> Result<usize> {
        Ok(host.kubectl().ok(&["get", "configmaps", "-l", "of=full", "-o", "name"])?.lines().count())
    };
    ensure!(count()? == acknowledged, "{} of {acknowledged}", count()?);
    host.kubectl().ok(&["exec", "runs", "--", "true"])?;
    // A restart on the full disk loses nothing of it either, and says what is missing.
    host.instance.stop(nix::sys::signal::Signal::SIGKILL)?;
    host.disk.clear()?;
    host.instance.spawn()?;
    host.instance.wait_ready()?;
    ensure!(count()? == acknowledged, "{} of {acknowledged} after a restart", count()?);
    recovered(host, &before)?;
    // Full and free again, without a restart.
    host.disk.fill(0)?;
    let server = host.instance.server_pid()?;
    let refused = eventually(LIMIT, "a write is refused", || {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"text": "x".repeat(900 << 10)}});
        let body = body.to_string();
        let output = host.kubectl().run_for(&["replace", "--force", "-f", "-"], Some(body.as_bytes()), LIMIT)?;
        ensure!(!output.status.success(), "it was taken");
        Ok(output.stderr)
    })?;
    ensure!(refused.contains("the disk of the store is full"), "{refused}");
    host.disk.clear()?;
    recovered(host, &before)?;
    ensure!(host.instance.server_pid()? == server && host.instance.exited()?.is_none(), "the server ended");
    ensure!(count()? == acknowledged, "{} of {acknowledged}", count()?);
    Ok(())
}

/// Everything is as it should be, and the pod that ran all along still runs.
fn recovered(host: &Host<'_>, before: &str) -> Result<()> {
    eventually(LIMIT, "there is room again", || {
        let (status, taints) = host.pressure()?;
        ensure!(status == "False" && !taints.contains("disk-pressure"), "{status} {taints:?}");
        Ok(())
    })?;
    host.wait("pod/kept-away", "condition=Ready")?;
    ensure!(host.run_of("runs")? == *before, "before {before}, now {}", host.run_of("runs")?);
    host.kubectl().ok(&["exec", "runs", "--", "sh", "-c", "echo here > /scratch/file"])?;
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "after-"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container("main", "true")]}}},
    });
    let made = host.kubectl().run_for(&["create", "-o", "name", "-f", "-"], Some(job.to_string().as_bytes()), LIMIT)?;
    host.wait(made.ok()?.trim(), "condition=Complete")
}
