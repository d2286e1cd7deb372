//! A reboot of the host: nothing runs, and what is not on a disk is gone.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, Instance, container, deployment, eventually, leaks, pod, signal_pid};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::json;

use super::processes::{marked, marked_script};

/// Takes from the host what a reboot would: processes, mounts, cgroups, links, tables, the run folder. The power goes at
/// once, so the server is not asked.
pub fn power_cycle(instance: &Instance) -> Result<()> {
    let names = instance.names();
    let agent = instance.agent_pid()?;
    instance.stop(Signal::SIGKILL)?;
    let _ = signal_pid(agent, Signal::SIGKILL);
    let own = format!("/{}/", names.cgroup_parent());
    let of_pods = || -> Vec<u32> {
        let in_cgroup = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            text.lines().any(|l| format!("{l}/").contains(&own))
        };
        leaks::pids().into_iter().filter(in_cgroup).collect()
    };
    eventually(Duration::from_secs(60), "every process is dead", || {
        of_pods().into_iter().chain(instance.shim_pids()).for_each(|pid| drop(signal_pid(pid, Signal::SIGKILL)));
        ensure!(of_pods().is_empty() && instance.shim_pids().is_empty(), "{:?}", of_pods());
        Ok(())
    })?;
    for mount in leaks::mounts(names)?.iter().rev() {
        let point = mount.strip_prefix("mount ").context("a mount point")?;
        // One may have gone with another.
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    for cgroup in leaks::cgroups(names) {
        remove_cgroup(&cgroup);
    }
    for link in leaks::links(names)? {
        let name = link.strip_prefix("link ").context("a link")?;
        let _ = Command::new("ip").args(["link", "delete", name]).output()?;
    }
    let _ = Command::new("nft").args(["delete", "table", "inet", &names.nft_table()]).output()?;
    let _ = Command::new("nft").args(["delete", "table", "ip", &names.nft_table()]).output()?;
    std::fs::remove_dir_all(names.run_dir())?;
    let left = leaks::mounts(names)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn remove_cgroup(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

pub fn after_a_reboot_pods_come_back_once_and_volumes_are_intact(ctx: &Ctx) -> Result<()> {
    let mark = format!("mark-{}-reboot", ctx.instance.name());
    ctx.apply(&[
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
        }),
        deployment("web", 3, json!([container("main", &marked_script(&format!("{mark}-web")))])),
        // One that is done stays done.
        pod("done", "echo done", json!({"restartPolicy": "Never"})),
    ])?;
    let volumes = json!([
        {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "scratch", "emptyDir": {}},
    ]);
    let mounts = json!([{"name": "claim", "mountPath": "/claim"}, {"name": "scratch", "mountPath": "/scratch"}]);
    let spec = json!({
        "hostUsers": false, "volumes": volumes,
        "containers": [{"name": "main", "volumeMounts": mounts}],
    });
    ctx.ready_pod(pod("keeper", &marked_script(&format!("{mark}-keeper")), spec))?;
    ctx.sh("keeper", "echo kept > /claim/file; echo kept > /scratch/file; sync")?;
    ctx.wait("deployment/web", "jsonpath={.status.readyReplicas}=3")?;
    ctx.wait("pod/done", "jsonpath={.status.phase}=Succeeded")?;
    let names = |ctx: &Ctx| -> Result<Vec<String>> {
        let mut names: Vec<String> = ctx.ok(&["get", "pods", "-o", "name"])?.lines().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    };
    let before = names(ctx)?;
    let id = ctx.field("pod/done", ".status.containerStatuses[0].containerID")?;
    power_cycle(&ctx.instance)?;
    ctx.instance.spawn()?;
    ctx.instance.wait_ready()?;
    eventually(Duration::from_secs(120), "every pod runs again", || {
        for (of, count) in [("web", 3), ("keeper", 1)] {
            let pids = marked(&format!("{mark}-{of}"));
            ensure!(pids.len() == count, "{of}: {pids:?}");
        }
        let states = ctx.ok(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}"])?;
        let back = states.lines().filter(|l| !l.starts_with("done")).all(|l| l.ends_with(" true 1"));
        ensure!(back, "{states}");
        ensure!(ctx.sh("keeper", "cat /claim/file /scratch/file")? == "kept\nkept");
        Ok(())
    })?;
    ensure!(names(ctx)? == before, "before {before:?}, now {:?}", names(ctx)?);
    ensure!(ctx.field("pod/done", ".status.phase")? == "Succeeded");
    ensure!(ctx.field("pod/done", ".status.containerStatuses[0].containerID")? == id, "it was run again");
    Ok(())
}
