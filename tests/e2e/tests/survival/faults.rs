//! The agent, or a pod's shim, killed at every step of making and removing a pod.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, eventually, leaks, pod};
use serde_json::json;

use super::processes::{marked, marked_script};

/// Steps of making a pod, in their order, as the engine names them.
const MAKING: [&str; 10] = [
    "sandbox-recorded",
    "sandbox-launched",
    "sandbox-attached",
    "sandbox-prepared",
    "sandbox-made",
    "container-recorded",
    "container-laid-out",
    "container-registered",
    "container-starting",
    "container-started",
];
/// Steps of removing it.
const REMOVING: [&str; 8] = [
    "sandbox-leaving",
    "sandbox-killed",
    "sandbox-detached",
    "sandbox-shimless",
    "sandbox-stopped",
    "container-leaving",
    "container-cleared",
    "sandbox-cleared",
];
/// What a busy machine may take for a restart of the agent and what follows.
const LIMIT: Duration = Duration::from_secs(60);

/// The file that tells the engine of the suite's instance where to fail; one for this run.
pub fn file() -> PathBuf {
    std::env::temp_dir().join(format!("windlass-e2e-fault-{}", std::process::id()))
}

/// Arms a fault, does something, and waits until the fault has struck.
fn strike(step: &str, victim: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let file = file();
    // Put in place by a rename: the engine never reads half a line.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{step} {victim}"))?;
    std::fs::rename(&new, &file)?;
    let struck = act().and_then(|()| {
        eventually(LIMIT, &format!("step {step} is reached"), || {
            ensure!(!file.exists(), "it was not reached");
            Ok(())
        })
    });
    // Nothing of it may strike the next test.
    let _ = std::fs::remove_file(&file);
    struck
}

/// Files, mounts, processes and cgroups that name a pod.
fn traces(ctx: &Ctx, uid: &str) -> Result<Vec<String>> {
    let instance = ctx.instance.names();
    let mut found: Vec<String> = leaks::mounts(instance)?.into_iter().filter(|m| m.contains(uid)).collect();
    found.extend(leaks::pids().into_iter().map(leaks::command_line).filter(|line| line.contains(uid)));
    let mut folders = vec![instance.run_dir().to_path_buf(), instance.data_dir().join("engine")];
    folders.extend(leaks::cgroups(instance));
    for folder in folders {
        named(&folder, uid, &mut found);
    }
    Ok(found)
}

/// Paths below a folder whose last part has that word. What goes while it is looked at is gone.
fn named(folder: &Path, word: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(word) {
            found.push(entry.path().display().to_string());
        } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
            named(&entry.path(), word, found);
        }
    }
}

/// One pod that is made while `making` fails, and removed while `removing` fails.
fn one(ctx: &Ctx, victim: &str, making: Option<&str>, removing: Option<&str>) -> Result<()> {
    let name = format!("{victim}-{}-{}", making.unwrap_or("plain"), removing.unwrap_or("plain"));
    let mark = format!("mark-{}-{name}", ctx.instance.name());
    let object = pod(&name, &marked_script(&mark), json!({"terminationGracePeriodSeconds": 1}));
    let resource = format!("pod/{name}");
    match making {
        Some(step) => strike(step, victim, || ctx.apply(std::slice::from_ref(&object)).map(drop))?,
        None => ctx.apply(std::slice::from_ref(&object)).map(drop)?,
    }
    ctx.wait(&resource, "condition=Ready")?;
    let uid = ctx.field(&resource, ".metadata.uid")?;
    eventually(LIMIT, "one process of it runs", || {
        let pids = marked(&mark);
        ensure!(pids.len() == 1, "processes {pids:?}");
        ensure!(ctx.sh(&name, "echo here")? == "here");
        Ok(())
    })?;
    let delete = || ctx.ok(&["delete", &resource, "--wait=false"]).map(drop);
    match removing {
        Some(step) => strike(step, victim, delete)?,
        None => delete()?,
    }
    ctx.wait(&resource, "delete")?;
    eventually(LIMIT, "nothing of it is left", || {
        let left = traces(ctx, &uid)?;
        ensure!(left.is_empty() && marked(&mark).is_empty(), "{left:#?}");
        Ok(())
    })
}

/// Host ends of pods' networks, and file systems of containers: as many as before, whoever died between.
fn counted(ctx: &Ctx) -> Result<(usize, usize)> {
    let instance = ctx.instance.names();
    let snapshots = std::fs::read_dir(instance.data_dir().join("images/snapshots")).map_or(0, Iterator::count);
    Ok((leaks::links(instance)?.len(), snapshots))
}

fn all(ctx: &Ctx, victim: &str, making: &[&str], removing: &[&str]) -> Result<()> {
    let before = counted(ctx)?;
    for n in 0..making.len().max(removing.len()) {
        let (making, removing) = (making.get(n).copied(), removing.get(n).copied());
        one(ctx, victim, making, removing).with_context(|| format!("{victim} at {making:?} and {removing:?}"))?;
    }
    eventually(LIMIT, "links and file systems are as before", || {
        let now = counted(ctx)?;
        ensure!(now <= before, "{now:?}, before {before:?}");
        Ok(())
    })
}

pub fn an_agent_killed_at_any_step_of_a_pod_loses_and_leaves_nothing(ctx: &Ctx) -> Result<()> {
    all(ctx, "agent", &MAKING, &REMOVING)
}

pub fn a_shim_killed_at_any_step_of_its_pod_loses_and_leaves_nothing(ctx: &Ctx) -> Result<()> {
    // Before it is launched and after its end there is none to kill.
    all(ctx, "shim", &MAKING[1..], &REMOVING[..3])
}
