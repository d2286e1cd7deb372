//! Docker's containers and networks over a reboot of the host.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{IMAGE, Instance, command, eventually, skip};

use super::reboot::power_cycle;

const LIMIT: Duration = Duration::from_secs(120);

fn docker(instance: &Instance, args: &[&str]) -> Result<String> {
    let mut docker = Command::new("docker");
    let socket = instance.names().run_dir().join("docker.sock");
    docker.args(args).env("DOCKER_HOST", format!("unix://{}", socket.display()));
    docker.env("DOCKER_CONFIG", instance.dir().join("docker-config")).env_remove("DOCKER_CONTEXT");
    Ok(command::run(&mut docker, None, LIMIT)?.ok()?.trim().to_owned())
}

pub fn after_a_reboot_networks_are_there_and_containers_start_by_their_policies() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|d| d.join("docker").is_file()) {
        return Err(skip("the docker CLI is not on the PATH"));
    }
    let instance = Instance::builder("dockerreboot").start()?;
    let docker = |args: &[&str]| docker(&instance, args);
    eventually(LIMIT, "the docker API answers", || docker(&["version"]))?;
    docker(&["network", "create", "--subnet", "10.96.7.0/24", "mine"])?;
    let port = e2e::free_port()?.port();
    let publish = format!("{port}:80");
    let page = "mkdir -p /www; date +%s%N >> /data/starts; echo page > /www/index.html; exec httpd -f -p 80 -h /www";
    let run = |name: &str, policy: &str, more: &[&str], script: &str| {
        let flags = ["run", "-d", "--name", name, "--restart", policy, "--stop-timeout", "0"];
        docker(&[&flags[..], more, &[IMAGE, "sh", "-c", script]].concat())
    };
    let in_net = ["--network", "mine", "--ip", "10.96.7.9", "-v", "data:/data", "-p", &publish];
    run("web", "always", &in_net, page)?;
    // It stands in another's network, so it comes after that.
    run("guest", "unless-stopped", &["--network", "container:web"], "exec sleep 1000")?;
    run("seeker", "on-failure", &["--network", "mine"], "exec sleep 1000")?;
    run("once", "no", &[], "exec sleep 1000")?;
    run("stopped", "unless-stopped", &[], "exec sleep 1000")?;
    docker(&["stop", "stopped"])?;
    let id = docker(&["network", "inspect", "-f", "{{.Id}}", "mine"])?;

    power_cycle(&instance)?;
    instance.spawn()?;
    instance.wait_ready()?;
    let states = "{{.Name}} {{.State.Status}} {{.State.ExitCode}}";
    eventually(LIMIT, "containers are as their policies say", || {
        let said = docker(&["inspect", "-f", states, "web", "guest", "seeker", "once", "stopped"])?;
        let want = "/web running 0\n/guest running 0\n/seeker running 0\n/once exited 255\n/stopped exited 137";
        ensure!(said == want, "{said}");
        Ok(())
    })?;
    ensure!(docker(&["network", "inspect", "-f", "{{.Id}}", "mine"])? == id);
    eventually(LIMIT, "the page is found by name, by address and by port", || {
        ensure!(docker(&["exec", "seeker", "wget", "-q", "-O", "-", "http://web/"])? == "page");
        ensure!(docker(&["exec", "guest", "wget", "-q", "-O", "-", "http://10.96.7.9/"])? == "page");
        ensure!(e2e::http::get_ok(([127, 0, 0, 1], port).into(), "localhost", "/")?.trim() == "page");
        Ok(())
    })?;
    // Once each.
    ensure!(docker(&["exec", "web", "sh", "-c", "wc -l < /data/starts"])? == "2");
    instance.down()
}
