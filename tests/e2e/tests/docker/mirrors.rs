//! Docker's containers as pods of the namespace `docker`, with the stock kubectl.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::command;
use e2e::{Ctx, IDLE, IMAGE, Instance, Kubectl, eventually, free_port, signal_pid};
use nix::sys::signal::Signal;

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);

fn field(k: &Kubectl, pod: &str, path: &str) -> Result<String> {
    k.ok(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

/// Waits until a pod says so.
fn says(k: &Kubectl, pod: &str, path: &str, wanted: &str) -> Result<()> {
    eventually(LIMIT, &format!("pod {pod} says {path}={wanted}"), || {
        let found = field(k, pod, path)?;
        ensure!(found == wanted, "it says {found:?}");
        Ok(())
    })
}

fn gone(k: &Kubectl, pod: &str) -> Result<()> {
    eventually(LIMIT, &format!("pod {pod} is gone"), || {
        let said = k.fails(&["get", "pod", pod])?;
        ensure!(said.contains("NotFound"), "{said}");
        Ok(())
    })
}

pub fn a_container_is_a_pod_that_kubectl_shows_and_runs_commands_in(ctx: &Ctx) -> Result<()> {
    let (docker, k) = (Docker::of(&ctx.instance)?, ctx.instance.kubectl().in_namespace("docker"));
    let port = free_port()?.port();
    let page = "mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www";
    let script = format!("{page}; for i in 1 2 3; do echo line $i; done; {IDLE}");
    let published = format!("127.0.0.1:{port}:80");
    let flags = [
        &["-d", "--name", "mirror_web", "--label", "tier=front", "-e", "WORD=said", "-e", "DB_PASSWORD=kept"][..],
        &["-p", &published, "-v", "mirror-data:/data", "--memory", "64m", "--stop-timeout", "1"],
        &["--restart", "unless-stopped"],
    ];
    let id = docker.script(&flags.concat(), &script)?.ok()?.trim().to_owned();
    says(&k, "mirror-web", ".status.phase", "Running")?;
    k.ok(&["wait", "pod/mirror-web", "--for=condition=Ready", "--timeout=60s"])?;
    // Who it is, where it is, what was asked for.
    let listed = k.ok(&["get", "pods", "-l", "tier=front", "-o", "wide"])?;
    ensure!(listed.contains("mirror-web") && listed.contains("1/1"), "{listed}");
    ensure!(field(&k, "mirror-web", ".status.containerStatuses[0].containerID")? == format!("windlass://{id}"));
    let ip = docker.field(&id, "{{.NetworkSettings.IPAddress}}")?;
    ensure!(field(&k, "mirror-web", ".status.podIP")? == ip);
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    ensure!(field(&k, "mirror-web", ".spec.nodeName")? == node);
    let described = k.ok(&["describe", "pod", "mirror-web"])?;
    for part in [IMAGE, "said", "<hidden>", &format!("{port}/TCP"), "/data from mirror-data (rw)", "67108864"] {
        ensure!(described.contains(part), "no {part:?} in {described}");
    }
    ensure!(!described.contains("kept"), "a secret is shown: {described}");
    used(&k, &id)?;
    // What becomes of it.
    docker.ok(&["pause", "mirror_web"])?;
    says(&k, "mirror-web", ".status.containerStatuses[0].ready", "false")?;
    docker.ok(&["unpause", "mirror_web"])?;
    says(&k, "mirror-web", ".status.containerStatuses[0].ready", "true")?;
    docker.ok(&["stop", "-t", "0", "mirror_web"])?;
    says(&k, "mirror-web", ".status.containerStatuses[0].state.terminated.exitCode", "137")?;
    ensure!(k.ok(&["logs", "mirror-web"])?.contains("line 1"), "the log of one that ended");
    docker.ok(&["start", "mirror_web"])?;
    says(&k, "mirror-web", ".status.phase", "Running")?;
    docker.ok(&["rename", "mirror_web", "mirror.shop"])?;
    says(&k, "mirror-shop", ".status.phase", "Running")?;
    gone(&k, "mirror-web")?;
    docker.ok(&["rm", "-f", "mirror.shop"])?;
    gone(&k, "mirror-shop")?;
    docker.ok(&["volume", "rm", "mirror-data"])?;
    Ok(())
}

/// What kubectl does with pods.
fn used(k: &Kubectl, id: &str) -> Result<()> {
    eventually(LIMIT, "its log is shown", || {
        let log = k.ok(&["logs", "mirror-web", "--tail", "2"])?;
        ensure!(log == "line 2\nline 3\n", "{log}");
        Ok(())
    })?;
    let refused = k.fails(&["logs", "mirror-web", "--previous"])?;
    ensure!(refused.contains("all runs of a Docker container have one log"), "{refused}");
    ensure!(k.ok(&["exec", "mirror-web", "--", "hostname"])?.trim() == &id[..12]);
    ensure!(k.run(&["exec", "mirror-web", "--", "sh", "-c", "exit 4"])?.code() == 4);
    let typed = k.in_terminal(&["exec", "-it", "mirror-web", "--", "sh", "-c", "test -t 0 && echo terminal"], b"")?;
    ensure!(typed.stdout.contains("terminal"), "{typed:?}");
    let local = free_port()?.port();
    let mut forward =
        k.command(&["port-forward", "pod/mirror-web", &format!("{local}:80")]).stdout(Stdio::null()).spawn()?;
    let reached = eventually(LIMIT, "the forwarded port answers", || {
        let page = e2e::http::get_ok(([127, 0, 0, 1], local).into(), "localhost", "/")?;
        ensure!(page.trim() == "page", "{page}");
        Ok(())
    });
    forward.kill()?;
    forward.wait()?;
    reached?;
    eventually(LIMIT, "its usage is shown", || {
        let top = k.ok(&["top", "pod", "mirror-web"])?;
        ensure!(top.contains("mirror-web"), "{top}");
        Ok(())
    })?;
    Ok(())
}

pub fn ends_restarts_and_input_are_those_of_the_container(ctx: &Ctx) -> Result<()> {
    let (docker, k) = (Docker::of(&ctx.instance)?, ctx.instance.kubectl().in_namespace("docker"));
    ensure!(docker.script(&["--name", "mirror-fails"], "exit 3")?.code() == 3);
    says(&k, "mirror-fails", ".status.containerStatuses[0].state.terminated.exitCode", "3")?;
    says(&k, "mirror-fails", ".status.phase", "Failed")?;
    docker.ok(&["create", "--name", "mirror-idle", IMAGE, "true"])?;
    says(&k, "mirror-idle", ".status.containerStatuses[0].state.waiting.reason", "Created")?;
    let waits = k.fails(&["logs", "mirror-idle"])?;
    ensure!(waits.contains("is waiting to start"), "{waits}");
    docker.script(&["-d", "--name", "mirror-again", "--restart", "on-failure:50"], "exit 1")?.ok()?;
    eventually(LIMIT, "its restarts are counted", || {
        let count: u32 = field(&k, "mirror-again", ".status.containerStatuses[0].restartCount")?.parse()?;
        ensure!(count >= 2, "{count}");
        Ok(())
    })?;
    docker.script(&["-d", "-i", "--name", "mirror-talk"], "read word; echo got $word")?.ok()?;
    says(&k, "mirror-talk", ".status.phase", "Running")?;
    k.run_for(&["attach", "-i", "mirror-talk"], Some(b"hello\n"), command::LIMIT)?;
    eventually(LIMIT, "what was typed arrived", || {
        let log = docker.ok(&["logs", "mirror-talk"])?;
        ensure!(log == "got hello", "{log}");
        Ok(())
    })?;
    for name in ["mirror-fails", "mirror-idle", "mirror-again", "mirror-talk"] {
        docker.ok(&["rm", "-f", name])?;
        gone(&k, name)?;
    }
    Ok(())
}

pub fn who_deletes_the_pod_removes_the_container(ctx: &Ctx) -> Result<()> {
    let (docker, k) = (Docker::of(&ctx.instance)?, ctx.instance.kubectl().in_namespace("docker"));
    let polite = "trap 'echo asked; exit 0' TERM; while true; do sleep 0.1; done";
    let asked = ctx.instance.dir().join("mirror-asked");
    std::fs::create_dir_all(&asked)?;
    let bind = format!("{}:/out", asked.display());
    let script = polite.replace("echo asked", "touch /out/asked");
    docker.script(&["-d", "--name", "mirror-polite", "-v", &bind, "--restart", "always"], &script)?.ok()?;
    docker.script(&["--name", "mirror-ended"], "true")?.ok()?;
    docker.script(&["-d", "--name", "mirror-forced", "--stop-timeout", "1000"], IDLE)?.ok()?;
    says(&k, "mirror-polite", ".status.phase", "Running")?;
    says(&k, "mirror-ended", ".status.phase", "Succeeded")?;
    says(&k, "mirror-forced", ".status.phase", "Running")?;
    k.ok(&["delete", "pod", "mirror-polite", "mirror-ended"])?;
    k.ok(&["delete", "pod", "mirror-forced", "--force", "--grace-period=0"])?;
    for name in ["mirror-polite", "mirror-ended", "mirror-forced"] {
        eventually(LIMIT, &format!("container {name} is gone"), || {
            docker.fails(&["inspect", "--type", "container", name])
        })?;
        gone(&k, name)?;
    }
    ensure!(asked.join("asked").exists(), "it was not asked to end");
    Ok(())
}

pub fn nobody_makes_such_pods_by_hand_and_other_pods_keep_their_names(ctx: &Ctx) -> Result<()> {
    let (docker, k) = (Docker::of(&ctx.instance)?, ctx.instance.kubectl().in_namespace("docker"));
    // The namespace is there once it was needed.
    let id = docker.script(&["-d", "--name", "mirror-first"], IDLE)?.ok()?.trim().to_owned();
    says(&k, "mirror-first", ".status.phase", "Running")?;
    let mut by_hand = e2e::pod("mirror-hand", IDLE, serde_json::json!({"terminationGracePeriodSeconds": 0}));
    by_hand["metadata"]["annotations"] = serde_json::json!({"windlass.dev/docker-container": id});
    let text = |value: &serde_json::Value| serde_json::to_vec(value);
    let refused = k.run_for(&["create", "-f", "-"], Some(&text(&by_hand)?), command::LIMIT)?.failed()?;
    ensure!(refused.contains("only nodes may create pods with the annotation"), "{refused}");
    let refused = k.fails(&["annotate", "pod", "mirror-first", "windlass.dev/docker-container-"])?;
    ensure!(refused.contains("may not be changed"), "{refused}");
    // A pod of one's own is as any other, and has its name.
    by_hand["metadata"]["annotations"] = serde_json::Value::Null;
    k.run_for(&["create", "-f", "-"], Some(&text(&by_hand)?), command::LIMIT)?.ok()?;
    k.ok(&["wait", "pod/mirror-hand", "--for=condition=Ready", "--timeout=60s"])?;
    let other = docker.script(&["-d", "--name", "mirror-hand"], IDLE)?.ok()?.trim().to_owned();
    let second = format!("mirror-hand-{}", &other[..8]);
    says(&k, &second, ".status.phase", "Running")?;
    docker.ok(&["rm", "-f", "mirror-first", "mirror-hand"])?;
    gone(&k, &second)?;
    k.ok(&["delete", "pod", "mirror-hand"])?;
    Ok(())
}

pub fn pods_are_put_right_after_the_agent_was_away_and_quotas_do_not_keep_them_out() -> Result<()> {
    let instance = Instance::builder("mirrors").prepare()?;
    let docker = Docker::of(&instance)?;
    instance.spawn()?;
    instance.wait_ready()?;
    let k = instance.kubectl().in_namespace("docker");
    docker.script(&["-d", "--name", "stays"], IDLE)?.ok()?;
    says(&k, "stays", ".status.phase", "Running")?;
    let uid = field(&k, "stays", ".metadata.uid")?;
    let flag = instance.dir().join("flag");
    std::fs::create_dir(&flag)?;
    let bind = format!("{}:/flag", flag.display());
    let wait = "while [ ! -e /flag/go ]; do sleep 0.05; done";
    docker.script(&["-d", "--rm", "--name", "goes", "-v", &bind], wait)?.ok()?;
    says(&k, "goes", ".status.phase", "Running")?;
    // What describes what is there anyway is kept out by nothing.
    k.ok(&["create", "quota", "none", "--hard=pods=0"])?;
    k.ok(&["label", "namespace", "docker", "pod-security.kubernetes.io/enforce=restricted"])?;
    let agent = instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    std::fs::write(flag.join("go"), "")?;
    eventually(LIMIT, "another agent answers", || {
        ensure!(instance.agent_pid()? != agent);
        docker.ok(&["version"])
    })?;
    gone(&k, "goes")?;
    docker.script(&["-d", "--privileged", "--name", "comes"], IDLE)?.ok()?;
    says(&k, "comes", ".status.phase", "Running")?;
    ensure!(field(&k, "stays", ".metadata.uid")? == uid, "it was made anew");
    // A node that is emptied is not emptied of these.
    let node = field(&k, "stays", ".spec.nodeName")?;
    k.ok(&["drain", &node, "--ignore-daemonsets", "--timeout=60s"])?;
    ensure!(docker.field("stays", "{{.State.Status}}")? == "running");
    // With its namespace, all of them go.
    k.ok(&["delete", "namespace", "docker", "--timeout=60s"])?;
    ensure!(docker.ok(&["ps", "-aq"])?.is_empty());
    docker.script(&["-d", "--name", "after"], IDLE)?.ok()?;
    says(&k, "after", ".status.phase", "Running")?;
    instance.down()
}
