//! Containers that live a while.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, eventually};

use crate::{Docker, named};

const LIMIT: Duration = Duration::from_secs(60);

pub fn logs_are_followed_cut_and_told_apart(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "log");
    let script = "echo one; echo bad >&2; until [ -e /on ]; do sleep 0.1; done; echo two; until [ -e /go ]; do sleep 0.1; done; echo three";
    docker.script(&["-d", "--name", &name], script)?.ok()?;
    let both = |wanted: &str| {
        eventually(LIMIT, "both streams are there", || {
            let all = docker.run(&["logs", &name])?;
            ensure!(all.stdout == wanted && all.stderr == "bad\n", "{all:?}");
            Ok(())
        })
    };
    both("one\n")?;
    // Two streams have no order between them: what is to be the last line is said when the others are there.
    docker.ok(&["exec", &name, "touch", "/on"])?;
    both("one\ntwo\n")?;
    ensure!(docker.ok(&["logs", "--tail", "1", &name])? == "two");
    let stamped = docker.ok(&["logs", "-t", "--tail", "1", &name])?;
    ensure!(stamped.ends_with(" two") && stamped.starts_with("20"), "{stamped}");
    let since = stamped.split(' ').next().context("a time")?.to_owned();
    ensure!(docker.ok(&["logs", "--since", &since, &name])? == "two");
    let mut follow = docker.command(&["logs", "-f", &name]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    docker.ok(&["exec", &name, "touch", "/go"])?;
    // Ends by itself, with the container.
    let mut text = String::new();
    follow.stdout.take().context("its output")?.read_to_string(&mut text)?;
    ensure!(follow.wait()?.success() && text == "one\ntwo\nthree\n", "{text}");
    docker.ok(&["rm", &name])?;
    Ok(())
}

pub fn commands_run_in_a_container(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "exec");
    docker.script(&["-d", "--name", &name, "-e", "A=of-the-container"], IDLE)?.ok()?;
    let seen = docker.run(&["exec", &name, "sh", "-c", "echo $A; echo err >&2; exit 3"])?;
    ensure!(seen.code() == 3 && seen.stdout == "of-the-container\n" && seen.stderr == "err\n", "{seen:?}");
    let other =
        ["exec", "-u", "app", "-w", "/tmp", "-e", "A=of-the-command", &name, "sh", "-c", "id -un; pwd; echo $A"];
    ensure!(docker.ok(&other)? == "app\n/tmp\nof-the-command");
    let mut cat = docker.command(&["exec", "-i", &name, "cat"]);
    ensure!(e2e::command::run(&mut cat, Some(b"typed"), LIMIT)?.ok()? == "typed");
    ensure!(docker.run(&["exec", &name, "no-such-program"])?.code() == 127);
    docker.ok(&["exec", "-d", &name, "touch", "/made"])?;
    eventually(LIMIT, "what was left to itself was done", || docker.ok(&["exec", &name, "test", "-e", "/made"]))?;
    let top = docker.ok(&["top", &name])?;
    ensure!(top.lines().count() >= 2 && top.contains("CMD"), "{top}");
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", &name])?;
    ensure!(stats.parse::<u32>().is_ok_and(|n| n > 0), "{stats}");
    docker.ok(&["rm", "-f", &name])?;
    let refused = docker.fails(&["exec", &name, "true"])?;
    ensure!(refused.contains("No such container"), "{refused}");
    Ok(())
}

pub fn listings_are_filtered(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (up, down) = (named(ctx, "up"), named(ctx, "down"));
    let label = format!("test={}", ctx.ns);
    docker.script(&["-d", "--name", &up, "--label", &label], IDLE)?.ok()?;
    ensure!(docker.script(&["--name", &down, "--label", &label], "exit 4")?.code() == 4);
    let list = |more: &[&str]| {
        let filter = format!("label={label}");
        let names = docker.ok(&[&["ps", "--format", "{{.Names}}", "--filter", &filter], more].concat())?;
        Ok::<String, anyhow::Error>(names.lines().collect::<Vec<_>>().join(" "))
    };
    ensure!(list(&[])? == up);
    // The newest first.
    ensure!(list(&["-a"])? == format!("{down} {up}"));
    ensure!(list(&["--filter", "status=exited"])? == down);
    ensure!(list(&["-a", "--filter", "exited=4"])? == down);
    ensure!(list(&["-a", "--filter", &format!("name={up}")])? == up);
    ensure!(list(&["-a", "--filter", &format!("before={down}")])? == up);
    ensure!(list(&["-n", "1"])? == down);
    let wrong = docker.fails(&["ps", "--filter", "color=red"])?;
    ensure!(wrong.contains("invalid filter"), "{wrong}");
    let busy = docker.fails(&["rm", &up])?;
    ensure!(busy.contains("stop the container before removing or force remove"), "{busy}");
    docker.ok(&["rm", "-f", &up, &down])?;
    Ok(())
}

pub fn stop_asks_before_it_kills_and_kill_sends_what_is_named(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "stop");
    let polite = "trap 'exit 5' TERM; trap 'echo one >> /got' USR1; touch /ready; while true; do sleep 0.1; done";
    docker.script(&["-d", "--name", &name], polite)?.ok()?;
    eventually(LIMIT, "it listens", || docker.ok(&["exec", &name, "test", "-e", "/ready"]))?;
    docker.ok(&["kill", "-s", "USR1", &name])?;
    eventually(LIMIT, "it got the signal", || docker.ok(&["exec", &name, "grep", "one", "/got"]))?;
    docker.ok(&["stop", "-t", "60", &name])?;
    ensure!(docker.field(&name, "{{.State.Status}} {{.State.ExitCode}}")? == "exited 5");
    // What it wrote is still there.
    docker.ok(&["start", &name])?;
    ensure!(docker.ok(&["exec", &name, "cat", "/got"])? == "one");
    docker.ok(&["kill", &name])?;
    ensure!(docker.field(&name, "{{.State.Status}} {{.State.ExitCode}}")? == "exited 137");
    let dead = docker.fails(&["kill", &name])?;
    ensure!(dead.contains("is not running"), "{dead}");
    docker.ok(&["rm", &name])?;
    let deaf = named(ctx, "deaf");
    docker.script(&["-d", "--name", &deaf], "trap '' TERM; while true; do sleep 0.1; done")?.ok()?;
    docker.ok(&["stop", "-t", "0", &deaf])?;
    ensure!(docker.field(&deaf, "{{.State.ExitCode}}")? == "137");
    docker.ok(&["rm", &deaf])?;
    Ok(())
}

pub fn a_container_is_started_again_as_its_policy_says(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (few, many) = (named(ctx, "few"), named(ctx, "many"));
    docker.script(&["-d", "--name", &few, "--restart", "on-failure:2"], "echo run; exit 3")?.ok()?;
    eventually(LIMIT, "it is given up on", || {
        let state = docker.field(&few, "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}")?;
        ensure!(state == "exited 2 3", "{state}");
        Ok(())
    })?;
    ensure!(docker.ok(&["logs", &few])? == "run\nrun\nrun");
    docker.script(&["-d", "--name", &many, "--restart", "unless-stopped"], "sleep 0.1")?.ok()?;
    eventually(LIMIT, "it comes back", || {
        let count: u32 = docker.field(&many, "{{.RestartCount}}")?.parse()?;
        ensure!(count >= 2, "{count} times");
        Ok(())
    })?;
    docker.ok(&["stop", &many])?;
    ensure!(docker.field(&many, "{{.State.Status}}")? == "exited");
    docker.ok(&["rm", &few, &many])?;
    Ok(())
}

pub fn a_check_of_health_is_asked_and_shown(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "health");
    let check = ["--health-cmd", "test -e /well", "--health-interval", "200ms", "--health-retries", "2"];
    docker.script(&[&["-d", "--name", &name][..], &check].concat(), IDLE)?.ok()?;
    let becomes = |wanted: &str| {
        eventually(LIMIT, "its health is known", || {
            let health = docker.field(&name, "{{.State.Health.Status}}")?;
            ensure!(health == wanted, "{health}");
            Ok(())
        })
    };
    becomes("unhealthy")?;
    docker.ok(&["exec", &name, "touch", "/well"])?;
    becomes("healthy")?;
    let listed = docker.ok(&[
        "ps",
        "--filter",
        "health=healthy",
        "--filter",
        &format!("name={name}"),
        "--format",
        "{{.Status}}",
    ])?;
    ensure!(listed.ends_with("(healthy)"), "{listed}");
    docker.ok(&["rm", "-f", &name])?;
    Ok(())
}

pub fn pause_rename_update_and_wait(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let (name, other) = (named(ctx, "first"), named(ctx, "second"));
    docker.script(&["-d", "--name", &name], "while [ ! -e /go ]; do sleep 0.1; done; exit 6")?.ok()?;
    docker.ok(&["pause", &name])?;
    ensure!(docker.field(&name, "{{.State.Status}}")? == "paused");
    let refused = docker.fails(&["exec", &name, "true"])?;
    ensure!(refused.contains("paused"), "{refused}");
    docker.ok(&["unpause", &name])?;
    docker.ok(&["rename", &name, &other])?;
    ensure!(docker.fails(&["inspect", "--type", "container", &name])?.to_lowercase().contains("no such container"));
    docker.ok(&["update", "--memory", "48m", "--memory-swap", "-1", "--restart", "no", &other])?;
    ensure!(docker.field(&other, "{{.HostConfig.Memory}}")? == (48 << 20).to_string());
    let waiting = docker.command(&["wait", &other]).stdout(Stdio::piped()).spawn()?;
    docker.ok(&["exec", &other, "touch", "/go"])?;
    let waited = waiting.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&waited.stdout).trim() == "6");
    docker.ok(&["rm", &other])?;
    Ok(())
}

pub fn events_tell_what_happened(ctx: &Ctx) -> Result<()> {
    let docker = Docker::of(&ctx.instance)?;
    let name = named(ctx, "told");
    ensure!(docker.script(&["--name", &name], "exit 2")?.code() == 2);
    docker.ok(&["rm", &name])?;
    let format = "{{.Action}} {{index .Actor.Attributes \"exitCode\"}}";
    let filter = format!("container={name}");
    // The client cuts `--until` to whole seconds.
    eventually(LIMIT, "all of it was told", || {
        let seen = docker.ok(&["events", "--since", "1h", "--until", "0s", "--filter", &filter, "--format", format])?;
        let seen: Vec<&str> = seen.lines().map(str::trim).collect();
        ensure!(seen == ["create", "attach", "start", "die 2", "destroy"], "{seen:?}");
        Ok(())
    })?;
    ensure!(docker.ok(&["run", "--rm", IMAGE, "true"])?.is_empty());
    Ok(())
}
