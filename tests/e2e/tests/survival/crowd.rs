//! Many pods at once, and many after each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, container, deployment, eventually, leaks, pod};
use serde_json::{Value, json};

/// What a node takes at most (the kubelet's default).
const FULL: usize = 110;
/// A busy machine with a debug build.
const LIMIT: Duration = Duration::from_secs(200);

/// Pods of the churn that come and go together.
const ROUND: usize = 100;
/// What the churn may take in a run of all tests; a round that began is ended.
const BUDGET: Duration = Duration::from_secs(40);

/// Pods of the churn, and for how long more of them come. With `WINDLASS_CHURN` so many, however long it takes; without it up
/// to 1,000, as many as the machine does in a time that lets a run of all tests stay short.
fn churn() -> (usize, Duration) {
    let asked = std::env::var("WINDLASS_CHURN").ok().and_then(|n| n.parse::<usize>().ok());
    asked.map_or((1_000, BUDGET), |n| (n.clamp(1, 1_000), Duration::MAX))
}

/// Host ends of pods' networks, shims, file systems of containers, mounts, cgroups, and files that the agent has open, those in
/// steps of a few: connections come and go.
fn counted(ctx: &Ctx) -> Result<[usize; 6]> {
    let instance = ctx.instance.names();
    let entries = |folder: &Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let open = entries(Path::new(&format!("/proc/{}/fd", ctx.instance.agent_pid()?)));
    Ok([
        leaks::links(instance)?.len(),
        ctx.instance.shim_pids().len(),
        entries(&instance.data_dir().join("images/snapshots")),
        leaks::mounts(instance)?.len(),
        leaks::cgroups(instance).iter().map(|c| folders(c)).sum(),
        open / 50,
    ])
}

/// Folders below a folder. What goes while it is looked at is gone.
fn folders(at: &Path) -> usize {
    let below = std::fs::read_dir(at).into_iter().flatten().flatten();
    below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| 1 + folders(&e.path())).sum()
}

/// Whether no more is there than before.
fn given_back(ctx: &Ctx, before: [usize; 6]) -> Result<()> {
    let now = counted(ctx)?;
    let more = now.iter().zip(before).take(5).any(|(now, before)| *now > before) || now[5] > before[5] + 1;
    ensure!(!more, "{now:?}, before {before:?}");
    Ok(())
}

/// Waits until what other tests left behind in passing is gone: pods of their namespaces, which end on their own.
fn emptied(ctx: &Ctx) -> Result<()> {
    eventually(LIMIT, "no pod is left", || {
        let left = ctx.ok(&["get", "pods", "-A", "-o", "name"])?;
        ensure!(left.trim().is_empty() && ctx.instance.shim_pids().is_empty(), "left: {left}");
        Ok(())
    })
}

/// What is there without a pod, on a node that has had one: the cgroups of the classes of pods stay.
fn unused(ctx: &Ctx) -> Result<[usize; 6]> {
    ctx.output_of(pod("first", "true", json!({"restartPolicy": "Never"})))?;
    ctx.ok(&["delete", "pod", "first", "--wait=false"])?;
    emptied(ctx)?;
    counted(ctx)
}

pub fn a_full_node_starts_every_pod_once_and_gives_everything_back(ctx: &Ctx) -> Result<()> {
    let before = unused(ctx)?;
    let mark = format!("mark-{}-crowd", ctx.instance.name());
    // One that ends on the signal by itself: a shell would need a second process for that.
    let script = format!("exec tail -f /dev/null -s 3600 # {mark}");
    ctx.apply(&[deployment("crowd", u32::try_from(FULL)?, json!([container("main", &script)]))])?;
    ctx.wait_for("deployment/crowd", &format!("jsonpath={{.status.readyReplicas}}={FULL}"), LIMIT)?;
    let pods = ctx.list("pods", "app=crowd")?;
    let addresses: BTreeSet<&str> = pods.iter().filter_map(|p| p["status"]["podIP"].as_str()).collect();
    ensure!(pods.len() == FULL && addresses.len() == FULL, "{} pods with {} addresses", pods.len(), addresses.len());
    let restarted = |p: &&Value| p["status"]["containerStatuses"][0]["restartCount"] != 0;
    ensure!(!pods.iter().any(|p| restarted(&p)), "containers were started more than once");
    ensure!(ctx.instance.shim_pids().len() == FULL, "{} shims", ctx.instance.shim_pids().len());
    ctx.ok(&["delete", "deployment", "crowd", "--wait=false"])?;
    emptied(ctx)?;
    eventually(LIMIT, "everything is given back", || given_back(ctx, before))
}

/// So many pods of a Job, of which each takes a moment.
fn round(ctx: &Ctx, name: &str, count: usize) -> Result<()> {
    ctx.apply(&[json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {
            "completions": count, "parallelism": count.min(20), "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": "churn"}},
                "spec": {"restartPolicy": "Never", "containers": [container("main", "true")]},
            },
        },
    })])?;
    let (job, limit) = (format!("job/{name}"), LIMIT + Duration::from_secs(u64::try_from(count)?));
    // Bounded on the way: a pod that ended gives its shim back while others come.
    let most = count.min(20) * 2;
    eventually(limit, "every pod of the churn ends", || {
        let shims = ctx.instance.shim_pids().len();
        if shims > most {
            return Ok(Err(anyhow::anyhow!("{shims} shims for at most {most} pods at a time")));
        }
        let complete = ctx.field(&job, ".status.conditions[?(@.type==\"Complete\")].status")?;
        ensure!(complete == "True", "{}", ctx.field(&job, ".status")?);
        Ok(Ok(()))
    })??;
    let done = ctx.field(&job, ".status.succeeded")?;
    ensure!(done.parse::<usize>().context("a number")? == count, "{done} of {count}");
    ctx.ok(&["delete", &job, "--wait=false"]).map(drop)
}

pub fn pods_that_come_and_go_leave_nothing(ctx: &Ctx) -> Result<()> {
    let (before, (most, time)) = (unused(ctx)?, churn());
    let (began, mut done) = (Instant::now(), 0);
    while done < most && (done == 0 || began.elapsed() < time) {
        let count = ROUND.min(most - done);
        round(ctx, &format!("churn-{done}"), count)?;
        done += count;
    }
    println!("    {done} pods came and went in {} s", began.elapsed().as_secs());
    emptied(ctx)?;
    eventually(LIMIT, "everything is given back", || {
        given_back(ctx, before)?;
        let records = ctx.instance.names().data_dir().join("engine");
        for kind in ["sandboxes", "containers"] {
            let left = std::fs::read_dir(records.join(kind))?.count();
            ensure!(left == 0, "{left} records of {kind}");
        }
        Ok(())
    })
}
