//! `windlass down`: ends the processes of an instance, then takes away everything that it made on the host.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use base::instance::Instance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exit::{FAILED, Unfit};
use crate::instance_file::{InstanceFile, start_ticks};

/// How long a process may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(25);
/// How often to look whether it has: the kernel tells only parents.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Stops and removes; `purge` also the data.
pub fn run(instance: &Instance, purge: bool) -> anyhow::Result<ExitCode> {
    crate::preflight::root()?;
    let mut instance = instance.clone();
    let file = InstanceFile::read(&instance)?;
    if let Some(file) = &file {
        let (pods, services) = file.cidrs()?;
        instance = instance.with_ranges(pods, services);
        end(file.pid, file.start_ticks, "server")?;
    }
    if let Some((pid, ticks)) = super::agent::running(&instance)? {
        end(pid, ticks, "agent")?;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        engine::destroy_all(&instance).await.context("remove containers")?;
        net::destroy(&net::NetworkConfig::of(&instance)).await.context("remove the network")
    })?;
    node::release_volumes(&instance).context("unmount the volumes of pods")?;
    dockerapi::destroy(&instance).context("remove the containers of the Docker API")?;
    remove(instance.run_dir())?;
    if purge {
        purge_data(&instance)?;
    }
    let left = runtime.block_on(leftovers(&instance))?;
    if !left.is_empty() {
        eprintln!("these could not be removed:");
        left.iter().for_each(|l| eprintln!("  {l}"));
        return Ok(ExitCode::from(FAILED));
    }
    let data = if purge { "its data is removed" } else { "its data stays" };
    println!("instance {:?} is down; {data} ({})", instance.name(), instance.data_dir().display());
    Ok(ExitCode::SUCCESS)
}

async fn leftovers(instance: &Instance) -> anyhow::Result<Vec<String>> {
    let mut left = engine::leftovers(instance).await?;
    left.extend(net::leftovers(&net::NetworkConfig::of(instance)).await?);
    Ok(left)
}

/// Ends a process politely, then by force; returns once it is gone.
fn end(pid: i32, ticks: u64, what: &str) -> anyhow::Result<()> {
    let alive = || start_ticks(pid) == Some(ticks);
    for (signal, limit) in [(Signal::SIGTERM, STOP_MAX), (Signal::SIGKILL, Duration::from_secs(5))] {
        if !alive() {
            return Ok(());
        }
        let _ = kill(Pid::from_raw(pid), signal);
        let deadline = Instant::now() + limit;
        while alive() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    if alive() {
        anyhow::bail!("the {what} (pid {pid}) does not end");
    }
    Ok(())
}

fn remove(dir: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what Windlass keeps in the data directory, and the directory if nothing else is in it.
fn purge_data(instance: &Instance) -> anyhow::Result<()> {
    let dir = instance.data_dir();
    let is_there = |file: &str| dir.join(file).exists();
    // With the store in etcd and the keys elsewhere, the kubeconfigs are what a server leaves; one that was refused leaves less.
    let ours = ["pki", "store.redb", "images"].into_iter().any(is_there)
        || ["admin.kubeconfig", "agent.kubeconfig"].into_iter().all(is_there)
        || dir.exists() && only_traces(dir)?;
    if !ours && dir.exists() {
        return Err(Unfit::error(
            format!("{} does not look like a data directory of Windlass", dir.display()),
            "check --name and --data-dir; nothing was removed",
        ));
    }
    remove(dir)
}

/// Whether nothing is in it but what a server that did not get far leaves.
fn only_traces(dir: &std::path::Path) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if !["server.lock", "logs"].iter().any(|name| entry.as_ref().is_ok_and(|e| e.file_name() == *name)) {
            return Ok(false);
        }
    }
    Ok(true)
}
