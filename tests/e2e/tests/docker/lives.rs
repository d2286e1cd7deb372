//! What containers outlive, and what they do not.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{IMAGE, Instance, eventually, signal_pid};
use nix::sys::signal::Signal;

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(60);

pub fn containers_outlive_a_killed_agent_and_go_with_the_instance() -> Result<()> {
    let instance = Instance::builder("dockerlives").prepare()?;
    let docker = Docker::of(&instance)?;
    instance.spawn()?;
    instance.wait_ready()?;
    let count = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.1; done";
    let id = docker.script(&["-d", "--name", "counter", "-v", "kept:/kept"], count)?.ok()?.trim().to_owned();
    docker
        .script(
            &["-d", "--name", "brief", "--restart", "unless-stopped"],
            "while [ ! -e /go ]; do sleep 0.1; done; sleep 1000",
        )?
        .ok()?;
    docker.ok(&["create", "--name", "idle", IMAGE, "true"])?;
    docker.ok(&["network", "create", "--subnet", "10.95.0.0/24", "mine"])?;
    let port = e2e::free_port()?.port();
    let page = "mkdir /www; echo page > /www/index.html; httpd -f -p 80 -h /www";
    docker.script(&["-d", "--name", "web", "--network", "mine", "-p", &format!("{port}:80")], page)?.ok()?;
    docker.script(&["-d", "--name", "seeker", "--network", "mine", "--stop-timeout", "0"], "sleep 1000")?.ok()?;
    let found = || docker.ok(&["exec", "seeker", "timeout", "10", "wget", "-q", "-O", "-", "http://web/"]);
    let published = || e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/");
    eventually(LIMIT, "the page is found by name", &found)?;
    let pid = docker.field("counter", "{{.State.Pid}}")?;
    let agent = instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    eventually(LIMIT, "another agent answers", || {
        ensure!(instance.agent_pid()? != agent);
        docker.ok(&["version"])
    })?;
    // Nothing noticed: the same process, and the node agent took none of it for a pod that is gone.
    ensure!(docker.field("counter", "{{.State.Status}} {{.State.Pid}}")? == format!("running {pid}"));
    ensure!(docker.ok(&["exec", "counter", "echo", "here"])? == "here");
    // Neither did the network; names are answered again.
    ensure!(published()?.trim() == "page");
    ensure!(found()? == "page");
    docker.ok(&["rename", "web", "shop"])?;
    docker.ok(&["exec", "seeker", "timeout", "10", "wget", "-q", "-O", "/dev/null", "http://shop/"])?;
    docker.ok(&["rename", "shop", "web"])?;
    ensure!(docker.field("idle", "{{.State.Status}}")? == "created");
    let before: u64 = docker.ok(&["logs", "--tail", "1", "counter"])?.parse()?;
    eventually(LIMIT, "it goes on counting", || {
        let now: u64 = docker.ok(&["logs", "--tail", "1", "counter"])?.parse()?;
        ensure!(now > before, "{now}");
        Ok(())
    })?;
    // What ends is seen by the new agent.
    docker.ok(&["kill", "counter"])?;
    ensure!(docker.field("counter", "{{.State.ExitCode}}")? == "137");
    // The whole instance once more, in order.
    ensure!(instance.stop(Signal::SIGTERM)?.success());
    instance.spawn()?;
    instance.wait_ready()?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    ensure!(docker.field("brief", "{{.State.Status}}")? == "running");
    ensure!(found()? == "page" && published()?.trim() == "page");
    ensure!(docker.ok(&["ps", "-aq", "--no-trunc"])?.contains(&id));
    // Down takes containers along and leaves volumes, networks and images.
    instance.windlass(&["down"])?.ok()?;
    instance.was_ended()?;
    instance.spawn()?;
    instance.wait_ready()?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    ensure!(docker.ok(&["ps", "-aq"])?.is_empty());
    ensure!(docker.ok(&["volume", "ls", "-q"])? == "kept");
    ensure!(
        docker.ok(&["run", "--rm", "--network", "mine", "--ip", "10.95.0.9", IMAGE, "hostname", "-i"])? == "10.95.0.9"
    );
    ensure!(docker.ok(&["run", "--rm", IMAGE, "echo", "again"])? == "again");
    instance.down()
}
