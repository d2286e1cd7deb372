//! An agent that is killed under its clients, a disk that is full, and a thousand clients at once.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Disk, IMAGE, Instance, eventually, signal_pid, windlass};
use nix::sys::signal::Signal;

use crate::Docker;

const LIMIT: Duration = Duration::from_secs(120);
/// Clients at once: nearly as many as there are places.
const CROWD: usize = 1000;
/// Size of the small disk: what a server asks for at its start, and little more.
const DISK: u64 = 900 << 20;

/// A client in the background, what it prints in a file.
fn follower(docker: &Docker, args: &[&str], out: &Path) -> Result<Child> {
    let mut command = docker.command(args);
    Ok(command.stdin(Stdio::null()).stdout(File::create(out)?).stderr(Stdio::null()).spawn()?)
}

fn last(out: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(out)?;
    Ok(text.lines().next_back().context("nothing came yet")?.trim().parse()?)
}

pub fn an_agent_killed_under_followers_loses_no_line_and_no_container() -> Result<()> {
    let instance = Instance::builder("dockerfollow").start()?;
    let docker = Docker::of(&instance)?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    let count = "n=0; while true; do n=$((n+1)); echo $n; sleep 0.01; done";
    docker.script(&["-d", "--name", "counter"], count)?.ok()?;
    let pid = docker.field("counter", "{{.State.Pid}}")?;
    let (logs, attached) = (instance.dir().join("logs"), instance.dir().join("attached"));
    let mut followers = vec![
        follower(&docker, &["logs", "-f", "counter"], &logs)?,
        follower(&docker, &["attach", "--no-stdin", "--sig-proxy=false", "counter"], &attached)?,
    ];
    eventually(LIMIT, "both see lines", || {
        ensure!(last(&logs)? > 20 && last(&attached)? > 20);
        Ok(())
    })?;
    let agent = instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    for follower in &mut followers {
        // They are told by the end of their connection.
        eventually(LIMIT, "a follower ends", || follower.try_wait()?.context("it goes on"))?;
    }
    let before = last(&logs)?;
    eventually(LIMIT, "another agent answers", || {
        ensure!(instance.agent_pid()? != agent);
        docker.ok(&["version"])
    })?;
    ensure!(docker.field("counter", "{{.State.Status}} {{.State.Pid}}")? == format!("running {pid}"));
    eventually(LIMIT, "it has gone on", || {
        ensure!(docker.ok(&["logs", "--tail", "1", "counter"])?.parse::<u64>()? > before + 50);
        Ok(())
    })?;
    // A terminal of its own is found again, too.
    let again = instance.dir().join("again");
    let mut follower = follower(&docker, &["attach", "--no-stdin", "--sig-proxy=false", "counter"], &again)?;
    eventually(LIMIT, "the next one sees lines", || last(&again))?;
    docker.ok(&["kill", "counter"])?;
    eventually(LIMIT, "it ends with the container", || follower.try_wait()?.context("it goes on"))?;
    let all = docker.ok(&["logs", "counter"])?;
    let numbers: Vec<u64> = all.lines().map(str::parse).collect::<Result<_, _>>()?;
    let count = u64::try_from(numbers.len())?;
    ensure!(numbers.iter().copied().eq(1..=count), "of {count} lines some are missing or twice");
    instance.down()
}

/// One request on a connection of its own, which stays open.
fn ask(socket: &Path, path: &str) -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: docker\r\n\r\n")?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200"), "{line:?}");
    Ok(stream)
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

pub fn a_thousand_clients_at_once_hurt_nobody() -> Result<()> {
    let instance = Instance::builder("dockercrowd").start()?;
    let docker = Docker::of(&instance)?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    docker.script(&["-d", "--name", "talker"], "while true; do echo line; sleep 0.1; done")?.ok()?;
    let agent = instance.agent_pid()?;
    let before = resident(agent)?;
    let paths = ["/events", "/containers/talker/logs?follow=1&stdout=1", "/_ping", "/containers/json?all=1"];
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        crowd.push(ask(docker.socket(), paths[n % paths.len()]).with_context(|| format!("client {n}"))?);
    }
    // Whoever comes now is served, and who follows gets what happens.
    ensure!(docker.ok(&["run", "--rm", IMAGE, "echo", "served"])? == "served");
    for (n, client) in crowd.iter_mut().enumerate().filter(|(n, _)| n % paths.len() < 2) {
        let mut seen = String::new();
        while !seen.contains("line") && !seen.contains("\"start\"") {
            let mut piece = [0; 4096];
            let count = client.read(&mut piece).with_context(|| format!("client {n} after {seen:?}"))?;
            ensure!(count > 0, "client {n} was dropped");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    }
    let grown = resident(agent)?.saturating_sub(before) / u64::try_from(CROWD)?;
    ensure!(grown < 256 << 10, "each client costs {grown} bytes");
    drop(crowd);
    // Nobody's place is kept.
    for _ in 0..2 * CROWD {
        drop(ask(docker.socket(), "/_ping")?);
    }
    ensure!(instance.agent_pid()? == agent);
    docker.ok(&["rm", "-f", "talker"])?;
    instance.down()
}

/// `windlass registry`; killed when dropped.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A registry with the image `big:1`, made by an instance whose disk is large.
fn registry(dir: &Path, docker: &Docker) -> Result<(Registry, String)> {
    let mut program = Command::new(windlass().context("no windlass binary")?);
    program.args(["registry", "--listen", "127.0.0.1:0", "--dir"]).arg(dir.join("registry"));
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line);
    let registry = Registry(child);
    read?;
    let host = line.split("//").nth(1).and_then(|rest| rest.trim().strip_suffix("/v2/")).context(line.clone())?;
    let image = format!("{host}/big:1");
    let file = format!("FROM {IMAGE}\nRUN dd if=/dev/urandom of=/big bs=1M count=12\n");
    std::fs::create_dir(dir.join("big"))?;
    std::fs::write(dir.join("big/Dockerfile"), file)?;
    docker.ok(&["build", "-t", &image, &dir.join("big").display().to_string()])?;
    docker.ok(&["push", &image])?;
    docker.ok(&["rmi", &image])?;
    docker.ok(&["builder", "prune", "-af"])?;
    Ok((registry, image))
}

pub fn a_full_disk_refuses_pulls_and_builds_and_leaves_nothing_half_done() -> Result<()> {
    let builder =
        Instance::builder("dockerfull").without_image().flag("--eviction-hard=").flag("--image-gc-high-threshold=100");
    let instance = builder.prepare()?;
    let data = instance.names().data_dir().to_path_buf();
    let disk = Disk::mounted(&instance.dir().join("disk.img"), &data, DISK)?;
    let outcome = (|| -> Result<()> {
        instance.import_image()?;
        instance.spawn()?;
        instance.wait_ready()?;
        full(&instance, &disk)
    })();
    if outcome.is_err() {
        eprintln!("{}", instance.log_tail());
        let _ = disk.clear();
    }
    // The data directory is a mount, which only who made it can remove.
    let down = instance.windlass_with(&["down"], None, LIMIT);
    let ended = instance.was_ended();
    drop(disk);
    outcome?;
    ended?;
    down?.ok()?;
    instance.down()
}

fn full(instance: &Instance, disk: &Disk) -> Result<()> {
    let docker = Docker::of(instance)?;
    eventually(LIMIT, "the docker API answers", || docker.ok(&["version"]))?;
    docker.script(&["-d", "--name", "counter"], "n=0; while true; do n=$((n+1)); echo $n; sleep 0.05; done")?.ok()?;
    let (_registry, image) = registry(instance.dir(), &docker)?;
    let images = docker.ok(&["images", "-aq", "--no-trunc"])?;
    // Room for a part of it.
    disk.fill(16 << 20)?;
    let pulled = docker.fails(&["pull", &image])?;
    ensure!(pulled.contains("no space left on the device"), "{pulled}");
    let folder = instance.dir().join("big").display().to_string();
    let built = docker.run(&["build", "--no-cache", "-t", "big:2", &folder])?;
    let said = format!("{}{}", built.stdout, built.stderr);
    ensure!(built.code() != 0 && said.to_lowercase().contains("no space left"), "{said}");
    // Nothing of either is there, and what runs goes on.
    ensure!(docker.ok(&["images", "-aq", "--no-trunc"])? == images);
    ensure!(docker.ok(&["ps", "-q"])?.lines().count() == 1);
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let builds = instance.names().run_dir().join("builds").display().to_string();
    ensure!(!mounts.contains(&builds), "a build left mounts");
    eventually(LIMIT, "what was taken is given back", || {
        let free = disk.free()?;
        ensure!(free > 10 << 20, "{free} bytes are free");
        Ok(())
    })?;
    disk.clear()?;
    docker.ok(&["pull", &image])?;
    docker.ok(&["build", "--no-cache", "-t", "big:2", &folder])?;
    ensure!(docker.ok(&["run", "--rm", "big:2", "stat", "-c", "%s", "/big"])? == (12 << 20).to_string());
    ensure!(docker.ok(&["run", "--rm", &image, "stat", "-c", "%s", "/big"])? == (12 << 20).to_string());
    let all = docker.ok(&["logs", "counter"])?;
    ensure!(all.lines().count() > 20, "{all}");
    docker.ok(&["rm", "-f", "counter"])?;
    Ok(())
}
