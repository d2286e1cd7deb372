//! Server and agent.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::http::Load;
use e2e::{Ctx, IDLE, container, deployment, eventually, http, httpd, pod, service, signal_pid};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How soon after its restart a server must have caught up.
const CONVERGE_MAX: Duration = Duration::from_secs(10);

/// Containers with their restart counts: what must not change.
fn running(ctx: &Ctx) -> Result<Vec<String>> {
    let line = "{range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let text = ctx.ok(&["get", "pods", "-l", "app=web", "-o", &format!("jsonpath={line}")])?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn web(ctx: &Ctx) -> Result<SocketAddr> {
    ctx.apply(&[deployment("web", 2, json!([httpd("up")])), service("web", json!({"type": "NodePort"}))])?;
    ctx.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let port: u16 = ctx.field("service/web", ".spec.ports[0].nodePort")?.parse()?;
    let node = ctx.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.hostIP}"])?;
    let addr = SocketAddr::new(node.parse()?, port);
    eventually(Duration::from_secs(20), "it answers", || http::get_ok(addr, "web", "/"))?;
    Ok(addr)
}

fn load(addr: SocketAddr) -> Load {
    Load::start(200, 16, move |_| {
        let body = http::get_ok(addr, "web", "/")?;
        ensure!(body == "up", "{body}");
        Ok(())
    })
}

pub fn server_and_agent_are_killed_under_load_and_no_request_fails(ctx: &Ctx) -> Result<()> {
    let addr = web(ctx)?;
    let before = running(ctx)?;
    let load = load(addr);
    load.go_on(200)?;
    let agent = ctx.instance.agent_pid()?;
    // The server first, so that it cannot start another agent.
    ctx.instance.stop(Signal::SIGKILL)?;
    signal_pid(agent, Signal::SIGKILL)?;
    // Two seconds without anything above the shims.
    load.go_on(400)?;
    ctx.instance.spawn()?;
    let began = Instant::now();
    ctx.instance.wait_api()?;
    ctx.ok(&["scale", "deployment/web", "--replicas=3"])?;
    ctx.wait("deployment/web", "jsonpath={.status.readyReplicas}=3")?;
    let took = began.elapsed();
    load.go_on(200)?;
    load.stop().flawless(800)?;
    let after = running(ctx)?;
    ensure!(before.iter().all(|b| after.contains(b)), "before {before:#?}\nafter {after:#?}");
    ensure!(took <= CONVERGE_MAX, "it took {took:?} until a change was carried out");
    ctx.instance.wait_ready()
}

pub fn an_agent_that_is_killed_comes_back_and_workloads_do_not_notice(ctx: &Ctx) -> Result<()> {
    let addr = web(ctx)?;
    let before = running(ctx)?;
    let load = load(addr);
    load.go_on(100)?;
    for _ in 0..3 {
        let agent = ctx.instance.agent_pid()?;
        signal_pid(agent, Signal::SIGKILL)?;
        eventually(CONVERGE_MAX, "another agent runs", || {
            let now = ctx.instance.agent_pid()?;
            ensure!(now != agent, "not yet");
            Ok(())
        })?;
        eventually(CONVERGE_MAX, "exec works again", || {
            let name = before[0].split(' ').next().context("a name")?;
            ctx.ok(&["exec", name, "--", "true"])
        })?;
    }
    load.stop().flawless(100)?;
    ensure!(running(ctx)? == before, "before {before:#?}\nafter {:#?}", running(ctx)?);
    Ok(())
}

pub fn what_was_acknowledged_is_there_after_kill_9(ctx: &Ctx) -> Result<()> {
    let map = |n: u32| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{n}"), "labels": {"of": "kill"}}});
    let maps: Vec<Value> = (0..2000).map(map).collect();
    let file = ctx.instance.dir().join("maps.json");
    std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": maps}).to_string())?;
    let mut command = ctx.command(&["create", "-f"]);
    let out = ctx.instance.dir().join("created.txt");
    let mut child = command.arg(&file).stdout(std::fs::File::create(&out)?).stderr(Stdio::null()).spawn()?;
    let said = || std::fs::read_to_string(&out).unwrap_or_default();
    let some = eventually(Duration::from_secs(60), "some are created", || {
        ensure!(said().lines().count() >= 50, "{} lines", said().lines().count());
        Ok(())
    });
    let killed = ctx.instance.stop(Signal::SIGKILL);
    // Without a server the client has nothing more to hope for.
    let _ = child.kill();
    child.wait()?;
    some?;
    killed?;
    let created: Vec<String> = said().lines().filter_map(|l| l.strip_suffix(" created")).map(str::to_owned).collect();
    ctx.instance.spawn()?;
    ctx.instance.wait_api()?;
    let there = ctx.ok(&["get", "configmaps", "-l", "of=kill", "-o", "name"])?;
    let there: std::collections::BTreeSet<&str> = there.lines().collect();
    let lost: Vec<&String> = created.iter().filter(|c| !there.contains(c.as_str())).collect();
    ensure!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), created.len());
    ctx.instance.wait_ready()
}

pub fn what_changed_while_the_agent_was_away_is_caught_up_with(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[deployment("app", 2, json!([container("main", IDLE)]))])?;
    ctx.ready_pod(pod("leaving", IDLE, json!({})))?;
    ctx.ready_pod(pod("dying", &super::processes::marked_script("mark-away"), json!({})))?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    let agent = ctx.instance.agent_pid()?;
    // Stopped, not killed: the server does not notice, and nobody acts.
    signal_pid(agent, Signal::SIGSTOP)?;
    let changed = (|| -> Result<()> {
        ctx.ok(&["delete", "pod", "leaving", "--wait=false"])?;
        ctx.ok(&["scale", "deployment/app", "--replicas=3"])?;
        for pid in super::processes::marked("mark-away") {
            signal_pid(pid, Signal::SIGKILL)?;
        }
        Ok(())
    })();
    signal_pid(agent, Signal::SIGKILL)?;
    changed?;
    ctx.wait("pod/leaving", "delete")?;
    ctx.wait("pod/dying", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("deployment/app", "jsonpath={.status.readyReplicas}=3")?;
    ensure!(ctx.field("pod/dying", ".status.containerStatuses[0].lastState.terminated.exitCode")? == "137");
    Ok(())
}
