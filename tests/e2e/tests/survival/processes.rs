//! Container processes and shims.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, eventually, leaks, pod, signal_pid};
use nix::sys::signal::Signal;
use serde_json::json;

/// Host process ids of processes that have a word in their command line.
pub fn marked(word: &str) -> Vec<u32> {
    leaks::pids().into_iter().filter(|p| leaks::command_line(*p).contains(word)).collect()
}

/// A script whose shell can be found among the host's processes.
pub fn marked_script(word: &str) -> String {
    format!(": {word}; {}", e2e::IDLE)
}

pub fn a_killed_process_is_started_again(ctx: &Ctx) -> Result<()> {
    let mark = format!("mark-{}-process", ctx.instance.name());
    ctx.ready_pod(pod("victim", &marked_script(&mark), json!({})))?;
    let pids = marked(&mark);
    ensure!(pids.len() == 1, "processes {pids:?}");
    let id = ctx.field("pod/victim", ".status.containerStatuses[0].containerID")?;
    signal_pid(pids[0], Signal::SIGKILL)?;
    ctx.wait("pod/victim", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    ctx.wait("pod/victim", "condition=Ready")?;
    let last = ctx.json("pod/victim")?["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    ensure!(last["exitCode"] == 137 && last["containerID"] == id, "{last}");
    ensure!(marked(&mark).len() == 1, "processes {:?}", marked(&mark));
    Ok(())
}

pub fn a_killed_shim_takes_its_containers_along_and_they_are_started_again(ctx: &Ctx) -> Result<()> {
    let mark = format!("mark-{}-shim", ctx.instance.name());
    ctx.ready_pod(pod("orphan", &marked_script(&mark), json!({})))?;
    let uid = ctx.field("pod/orphan", ".metadata.uid")?;
    let shims = |ctx: &Ctx| -> Vec<u32> {
        ctx.instance.shim_pids().into_iter().filter(|p| leaks::command_line(*p).contains(&uid)).collect()
    };
    let before = shims(ctx);
    // A shim's command line need not name its pod: then it is the one that appeared with it.
    let shim = match before.as_slice() {
        [one] => *one,
        _ => parent_shim(ctx, &mark)?,
    };
    let first = marked(&mark);
    signal_pid(shim, Signal::SIGKILL)?;
    eventually(Duration::from_secs(60), "another process runs, and only one", || {
        let now = marked(&mark);
        ensure!(now.len() == 1 && now != first, "first {first:?}, now {now:?}");
        Ok(())
    })?;
    ctx.wait("pod/orphan", "condition=Ready")?;
    let id = ctx.field("pod/orphan", ".status.containerStatuses[0].containerID")?;
    ensure!(!id.is_empty());
    ensure!(ctx.ok(&["exec", "orphan", "--", "echo", "here"])?.trim() == "here");
    ctx.ok(&["delete", "pod", "orphan"])?;
    eventually(Duration::from_secs(10), "nothing of it is left", || {
        ensure!(marked(&mark).is_empty(), "processes {:?}", marked(&mark));
        ensure!(shims(ctx).is_empty(), "shims {:?}", shims(ctx));
        let mounts: Vec<String> =
            leaks::mounts(ctx.instance.names())?.into_iter().filter(|m| m.contains(&uid)).collect();
        ensure!(mounts.is_empty(), "{mounts:?}");
        Ok(())
    })
}

/// The shim that a marked process descends from.
fn parent_shim(ctx: &Ctx, mark: &str) -> Result<u32> {
    let shims = ctx.instance.shim_pids();
    let mut pid = *marked(mark).first().context("the container's process runs")?;
    while !shims.contains(&pid) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let rest = stat.rsplit_once(") ").context("proc(5)")?.1;
        pid = rest.split(' ').nth(1).context("proc(5)")?.parse()?;
        ensure!(pid > 1, "the process descends from no shim of {shims:?}");
    }
    Ok(pid)
}
