//! What is done to a pod that runs: looking around in it, and giving it other resources.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

fn image(ctx: &Ctx, name: &str) -> Result<String> {
    ctx.field(&format!("pod/{name}"), ".spec.containers[0].image")
}

fn debug(ctx: &Ctx, name: &str, container: Value) -> Result<String> {
    let patch = json!({"spec": {"ephemeralContainers": [container]}}).to_string();
    ctx.ok(&["patch", "pod", name, "--subresource=ephemeralcontainers", "--type=strategic", "-p", &patch])
}

pub fn an_ephemeral_container_sees_the_processes_of_its_target(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("patient", &format!("touch /tmp/of-the-target; {IDLE}"), json!({})))?;
    let image = image(ctx, "patient")?;
    let script =
        "cat /proc/1/root/tmp/of-the-target && echo looked; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    let container = json!({"name": "doctor", "image": image, "targetContainerName": "main",
        "command": ["sh", "-c", script]});
    debug(ctx, "patient", container)?;
    ctx.wait("pod/patient", "jsonpath={.status.ephemeralContainerStatuses[0].state.running}")?;
    eventually(Duration::from_secs(60), "it looks around", || {
        let log = ctx.ok(&["logs", "patient", "-c", "doctor"])?;
        ensure!(log == "looked\n", "{log}");
        Ok(())
    })?;
    let host = ctx.ok(&["exec", "patient", "-c", "doctor", "--", "hostname"])?;
    ensure!(host.trim() == "patient", "{host}");
    ensure!(ctx.field("pod/patient", ".status.containerStatuses[0].restartCount")? == "0");
    // One without a target is by itself.
    debug(ctx, "patient", json!({"name": "alone", "image": image, "command": ["sh", "-c", "echo $$"]}))?;
    ctx.wait("pod/patient", "jsonpath={.status.ephemeralContainerStatuses[1].state.terminated.exitCode}=0")?;
    ensure!(ctx.ok(&["logs", "patient", "-c", "alone"])? == "1\n");
    ensure!(ctx.field("pod/patient", ".status.phase")? == "Running");
    Ok(())
}

pub fn kubectl_debug_starts_a_container_and_attaches_to_it(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("attached", IDLE, json!({})))?;
    let image = image(ctx, "attached")?;
    let flag = format!("--image={image}");
    let said = ctx.ok(&[
        "debug",
        "attached",
        "-q",
        "--attach",
        &flag,
        "--target=main",
        "-c",
        "tool",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "echo from the tool",
    ])?;
    let log = ctx.ok(&["logs", "attached", "-c", "tool"])?;
    ensure!(said.contains("from the tool") || log.contains("from the tool"), "{said:?} {log:?}");
    Ok(())
}

fn sized(name: &str, policy: &str) -> Value {
    let amount = json!({"cpu": "100m", "memory": "64Mi"});
    pod(
        name,
        IDLE,
        json!({"containers": [{
            "name": "main",
            "resources": {"requests": amount, "limits": amount},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
        }]}),
    )
}

fn resize(ctx: &Ctx, name: &str, cpu: &str, memory: &str) -> Result<()> {
    let amount = json!({"cpu": cpu, "memory": memory});
    let resources = json!({"requests": amount, "limits": amount});
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}}).to_string();
    ctx.ok(&["patch", "pod", name, "--subresource=resize", "-p", &patch])?;
    let status = ".status.containerStatuses[0]";
    ctx.wait(&format!("pod/{name}"), &format!("jsonpath={{{status}.resources.limits.cpu}}={cpu}"))?;
    ctx.wait(&format!("pod/{name}"), &format!("jsonpath={{{status}.allocatedResources.memory}}={memory}"))
}

pub fn a_resize_changes_the_cgroup_without_a_restart(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(sized("grows", "NotRequired"))?;
    let quota = |ctx: &Ctx| {
        let script = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1";
        ctx.sh("grows", script).map(|text| text.trim().to_owned())
    };
    ensure!(quota(ctx)? == "10000", "{}", quota(ctx)?);
    for (cpu, memory, wanted) in [("200m", "96Mi", "20000"), ("50m", "64Mi", "5000")] {
        resize(ctx, "grows", cpu, memory)?;
        ensure!(quota(ctx)? == wanted, "{cpu}: {}", quota(ctx)?);
    }
    ensure!(ctx.field("pod/grows", ".status.containerStatuses[0].restartCount")? == "0");
    ctx.wait("pod/grows", "jsonpath={.status.observedGeneration}=3")?;
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": {
        "requests": {"cpu": "9000", "memory": "64Mi"}, "limits": {"cpu": "9000", "memory": "64Mi"}}}]}});
    ctx.ok(&["patch", "pod", "grows", "--subresource=resize", "-p", &patch.to_string()])?;
    ctx.wait("pod/grows", "condition=PodResizePending")?;
    let pod = ctx.json("pod/grows")?;
    let reason =
        pod["status"]["conditions"].as_array().and_then(|l| l.iter().find(|c| c["type"] == "PodResizePending"));
    ensure!(reason.is_some_and(|c| c["reason"] == "Infeasible"), "{pod}");
    Ok(())
}

pub fn a_resize_policy_restarts_the_container(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(sized("anew", "RestartContainer"))?;
    resize(ctx, "anew", "150m", "64Mi")?;
    ctx.wait("pod/anew", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/anew", "condition=Ready")
}
