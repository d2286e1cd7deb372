//! The ids of pods with a user namespace of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod, signal_pid};
use nix::sys::signal::Signal;
use serde_json::json;

/// Ids that a pod has.
const RANGE: u32 = 65_536;

/// The host's id of root in a pod.
fn base(ctx: &Ctx, pod: &str) -> Result<u32> {
    let map = ctx.sh(pod, "cat /proc/self/uid_map")?;
    Ok(map.split_whitespace().nth(1).context("a map")?.parse()?)
}

pub fn ids_of_a_pod_survive_the_agent_and_are_nobody_elses(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("before", IDLE, json!({"hostUsers": false})))?;
    let before = base(ctx, "before")?;
    let agent = ctx.instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    eventually(Duration::from_secs(60), "another agent runs", || {
        ensure!(ctx.instance.agent_pid()? != agent, "not yet");
        base(ctx, "before").map(drop)
    })?;
    ensure!(base(ctx, "before")? == before, "the pod's ids changed");
    ctx.ready_pod(pod("after", IDLE, json!({"hostUsers": false})))?;
    ensure!(base(ctx, "after")?.abs_diff(before) >= RANGE, "two pods share ids");
    let records = ctx.instance.names().data_dir().join("engine/sandboxes");
    let uid = ctx.field("pod/before", ".metadata.uid")?;
    let kept = || -> Result<bool> {
        let mut entries = std::fs::read_dir(&records)?;
        Ok(entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().contains(&uid))))
    };
    ensure!(kept()?, "no record of the sandbox");
    ctx.ok(&["delete", "pod", "before", "after"])?;
    eventually(Duration::from_secs(60), "its record is gone", || {
        ensure!(!kept()?, "it is there");
        Ok(())
    })
}
