//! The containers of pods, as Docker's clients see them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, eventually, pod};
use serde_json::json;

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);

pub fn containers_of_pods_are_shown_and_left_to_kubernetes(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let script = format!("echo from the pod; {IDLE}");
    ctx.ready_pod(pod("web", &script, json!({ "terminationGracePeriodSeconds": 0 })))?;
    let uid = ctx.field("pod/web", ".metadata.uid")?;
    let label = format!("label=io.kubernetes.pod.namespace={}", ctx.ns);
    let listed = |format: &str| docker.ok(&["ps", "-a", "--no-trunc", "--filter", &label, "--format", format]);
    let name = format!("k8s_main_web_{}_{uid}_0", ctx.ns);
    ensure!(
        listed("{{.Names}} {{.Image}} {{.State}}")? == format!("{name} {IMAGE} running"),
        "{}",
        listed("{{.Names}}")?
    );
    // The id is the one that Kubernetes says.
    let id = listed("{{.ID}}")?;
    let said = ctx.field("pod/web", ".status.containerStatuses[0].containerID")?;
    ensure!(said == format!("windlass://{id}"), "{said} and {id}");
    let labels = docker.field(&id[..12], "{{json .Config.Labels}}")?;
    for (key, value) in [("pod.name", "web"), ("pod.uid", &uid), ("container.name", "main")] {
        ensure!(labels.contains(&format!("\"io.kubernetes.{key}\":\"{value}\"")), "{labels}");
    }
    let ip = ctx.field("pod/web", ".status.podIP")?;
    ensure!(docker.field(&name, "{{.NetworkSettings.IPAddress}}")? == ip);
    ensure!(docker.ok(&["exec", &name, "hostname"])? == "web");
    eventually(LIMIT, "its log is shown", || {
        ensure!(docker.ok(&["logs", &name])? == "from the pod");
        Ok(())
    })?;
    ensure!(docker.ok(&["top", &name])?.contains("from the pod"), "its processes are not shown");
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", &name])?;
    ensure!(stats.starts_with(&name) && !stats.ends_with(" 0"), "{stats}");

    for args in [&["stop"][..], &["kill"], &["restart"], &["pause"], &["rm", "-f"], &["commit"]] {
        let refused = docker.fails(&[args, &[&name]].concat())?;
        let advice = format!("kubectl -n {} delete pod web", ctx.ns);
        ensure!(refused.contains(&advice), "{args:?}: {refused}");
    }
    // Of this test alone: others have containers that do not run.
    docker.ok(&["container", "prune", "-f", "--filter", &label])?;
    ensure!(listed("{{.State}}")? == "running");

    // Who follows its log hears of its end.
    let mut following = docker.command(&["logs", "-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let deleted = ctx.ok(&["delete", "pod", "web"]);
    let ended = eventually(LIMIT, "the log ends", || following.try_wait()?.context("it goes on"));
    if ended.is_err() {
        following.kill()?;
        following.wait()?;
    }
    deleted?;
    ensure!(ended?.success(), "the log broke off");
    eventually(LIMIT, "it is shown no more", || {
        ensure!(listed("{{.Names}}")?.is_empty(), "it is still shown");
        Ok(())
    })?;
    let gone = docker.fails(&["stop", &name])?;
    ensure!(gone.contains("No such container"), "{gone}");
    Ok(())
}
