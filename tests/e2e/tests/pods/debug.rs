//! What is done to a pod that runs: looking around in it, and giving it other resources.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

fn image(ctx: &Ctx, name: &str) -> Result<String> {
    ctx.field(&format!("pod/{name}"), ".spec.containers[0].image")
}

/// Adds a container to a pod; with `more` flags.
fn debug(ctx: &Ctx, pod: &str, name: &str, more: &[&str], script: &str) -> Result<String> {
    let image = format!("--image={}", image(ctx, pod)?);
    let mut args =
        vec!["debug", pod, "-q", "-c", name, &image, "--image-pull-policy=IfNotPresent", "--profile=general"];
    args.extend(more);
    args.extend(["--", "sh", "-c", script]);
    ctx.ok(&args)
}

pub fn an_ephemeral_container_sees_the_processes_of_its_target(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("patient", &format!("touch /tmp/of-the-target; {IDLE}"), json!({})))?;
    let script =
        "cat /proc/1/root/tmp/of-the-target && echo looked; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done";
    debug(ctx, "patient", "doctor", &["--target=main", "--attach=false"], script)?;
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
    debug(ctx, "patient", "alone", &["--attach=false"], "test ! -e /proc/1/root/tmp/of-the-target && echo by itself")?;
    ctx.wait("pod/patient", "jsonpath={.status.ephemeralContainerStatuses[1].state.terminated.exitCode}=0")?;
    ensure!(ctx.ok(&["logs", "patient", "-c", "alone"])? == "by itself\n");
    ensure!(ctx.field("pod/patient", ".status.phase")? == "Running");
    ctx.ok(&["delete", "pod", "patient"])?;
    Ok(())
}

pub fn kubectl_debug_starts_a_container_and_attaches_to_it(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("attached", IDLE, json!({})))?;
    let said = debug(ctx, "attached", "tool", &["--target=main", "--attach"], "echo from the tool")?;
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

pub fn kubectl_top_tells_what_pods_and_nodes_use(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("busy", "trap 'exit 0' TERM; while :; do :; done", json!({})))?;
    let listed = ctx.ok(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1"])?;
    ensure!(listed.contains("PodMetrics") && listed.contains("NodeMetrics"), "{listed}");
    eventually(Duration::from_secs(60), "the pod's use is told", || {
        let text = ctx.ok(&["top", "pod", "busy", "--no-headers"])?;
        let cpu = text.split_whitespace().nth(1).and_then(|c| c.strip_suffix('m')).unwrap_or_default().to_owned();
        ensure!(cpu.parse::<u32>().is_ok_and(|milli| milli > 0), "{text}");
        Ok(())
    })?;
    let nodes = ctx.ok(&["top", "node", "--no-headers"])?;
    ensure!(nodes.contains('%'), "{nodes}");
    Ok(())
}

pub fn an_image_is_a_volume(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("plain", IDLE, json!({})))?;
    let image = image(ctx, "plain")?;
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "of", "mountPath": "/of", "readOnly": true}]}],
        "volumes": [{"name": "of", "image": {"reference": image, "pullPolicy": "IfNotPresent"}}],
    });
    ctx.ready_pod(pod("gallery", IDLE, spec))?;
    ctx.sh("gallery", "test -e /of/bin/sh")?;
    ensure!(ctx.sh("gallery", "touch /of/no 2>&1 || echo refused")?.contains("refused"));
    ensure!(ctx.sh("gallery", "/of/bin/true 2>&1 || echo not run")?.contains("not run"));
    Ok(())
}

pub fn a_runtime_class_names_a_handler_of_the_node(ctx: &Ctx) -> Result<()> {
    let class = |name: &str, handler: &str| json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler});
    ctx.apply(&[class("ours", "windlass"), class("others", "gvisor")])?;
    ctx.ready_pod(pod("classy", IDLE, json!({"runtimeClassName": "ours"})))?;
    ctx.apply(&[pod("stranger", IDLE, json!({"runtimeClassName": "others"}))])?;
    eventually(Duration::from_secs(60), "an event says why", || {
        let text = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=stranger"])?;
        ensure!(text.contains("no runtime for") && text.contains("FailedCreatePodSandBox"), "{text}");
        Ok(())
    })
}

pub fn a_container_that_fills_the_disk_is_evicted(ctx: &Ctx) -> Result<()> {
    let script = format!("dd if=/dev/zero of=/filled bs=1024 count=4096; {IDLE}");
    let limit = json!({"limits": {"ephemeral-storage": "1Mi"}});
    ctx.apply(&[pod("filler", &script, json!({"containers": [{"name": "main", "resources": limit}]}))])?;
    ctx.wait("pod/filler", "jsonpath={.status.reason}=Evicted")?;
    let message = ctx.field("pod/filler", ".status.message")?;
    ensure!(message.contains("exceeded its local ephemeral storage limit"), "{message}");
    Ok(())
}
