//! Resources: cgroups of v1, hybrid and v2 hosts alike.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, container, leaks, pod};
use serde_json::json;

/// The value of a container's cgroup file: `(v2 controller file, v1 controller, v1 file)`, read on the host.
fn cgroup_value(ctx: &Ctx, id: &str, v2: &str, v1: (&str, &str)) -> Result<String> {
    fn find(dir: PathBuf, id: &str, file: &str) -> Option<PathBuf> {
        let named = dir.file_name()?.to_string_lossy().contains(id);
        if named && dir.join(file).is_file() {
            return Some(dir.join(file));
        }
        let entries = std::fs::read_dir(&dir).ok()?.flatten();
        entries.filter(|e| e.path().is_dir()).find_map(|e| find(e.path(), id, file))
    }
    let roots = leaks::cgroups(ctx.instance.names());
    ensure!(!roots.is_empty(), "the instance has no cgroup");
    for root in &roots {
        let controller = root.parent().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        let file = if controller == v1.0 || controller.split(',').any(|c| c == v1.0) { v1.1 } else { v2 };
        if let Some(path) = find(root.clone(), id, file) {
            return Ok(std::fs::read_to_string(path)?.trim().to_owned());
        }
    }
    anyhow::bail!("no {v2} or {} of container {id} below {roots:?}", v1.1)
}

pub fn resources_are_written_to_the_cgroup(ctx: &Ctx) -> Result<()> {
    let resources = json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "48Mi"}});
    ctx.ready_pod(pod("limited", IDLE, json!({"containers": [{"name": "main", "resources": resources}]})))?;
    let id = ctx.field("pod/limited", ".status.containerStatuses[0].containerID")?;
    let id = id.rsplit('/').next().context("an id")?.to_owned();
    let memory = cgroup_value(ctx, &id, "memory.max", ("memory", "memory.limit_in_bytes"))?;
    ensure!(memory == (48 << 20).to_string(), "memory limit {memory}");
    let cpu = cgroup_value(ctx, &id, "cpu.max", ("cpu", "cpu.cfs_quota_us"))?;
    ensure!(cpu == "50000 100000" || cpu == "50000", "CPU limit {cpu}");
    // 100m: 102 shares (cgroup v1), weight 4 by the conversion 1 + (shares - 2) * 9999 / 262142 (cgroup v2); newer runtimes
    // use a curve that gives 17.
    let weight = cgroup_value(ctx, &id, "cpu.weight", ("cpu", "cpu.shares"))?;
    ensure!(["102", "4", "17"].contains(&weight.as_str()), "CPU weight {weight}");
    ensure!(ctx.field("pod/limited", ".status.qosClass")? == "Burstable");
    Ok(())
}

pub fn a_pod_and_its_class_are_limited_in_the_cgroup_as_a_whole(ctx: &Ctx) -> Result<()> {
    let amount = json!({"cpu": "300m", "memory": "32Mi"});
    let resources = json!({"requests": amount, "limits": amount});
    let mut whole = pod("whole", IDLE, json!({"containers": [{"name": "main", "resources": resources}]}));
    let mut beside = container("beside", IDLE);
    beside["resources"] = resources;
    whole["spec"]["containers"].as_array_mut().context("it has containers")?.push(beside);
    ctx.ready_pod(whole)?;
    ctx.ready_pod(pod("modest", IDLE, json!({"containers": [{"name": "main", "resources": {"requests": amount}}]})))?;
    ctx.ready_pod(pod("humble", IDLE, json!({})))?;
    let uid = |name: &str| ctx.field(&format!("pod/{name}"), ".metadata.uid");
    let memory = cgroup_value(ctx, &uid("whole")?, "memory.max", ("memory", "memory.limit_in_bytes"))?;
    ensure!(memory == (64 << 20).to_string(), "both containers together: {memory}");
    let cpu = cgroup_value(ctx, &uid("whole")?, "cpu.max", ("cpu", "cpu.cfs_quota_us"))?;
    ensure!(cpu == "60000 100000" || cpu == "60000", "both containers together: {cpu}");
    let unlimited = cgroup_value(ctx, &uid("modest")?, "cpu.max", ("cpu", "cpu.cfs_quota_us"))?;
    ensure!(unlimited == "max 100000" || unlimited == "-1", "{unlimited}");
    // 300m are 307 shares, or a weight of 39. Other tests have pods in the same class, which add to it.
    let weight = |class| -> Result<u64> { Ok(cgroup_value(ctx, class, "cpu.weight", ("cpu", "cpu.shares"))?.parse()?) };
    ensure!(weight("burstable")? >= 39, "{}", weight("burstable")?);
    // Those that ask for nothing get what is left: 2 shares, or a weight of 1, however many they are.
    ensure!(weight("besteffort")? <= 2, "{}", weight("besteffort")?);
    Ok(())
}

/// As the kubelet has it: on v2 the kernel ends all processes of a container, on v1 it can end one only.
pub fn a_child_that_is_oom_killed_takes_its_container_along_on_v2(ctx: &Ctx) -> Result<()> {
    let script = format!("(x=0123456789abcdef; while :; do x=$x$x; done); echo child $?; {IDLE}");
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "main", "resources": {"limits": {"memory": "32Mi"}}}],
    });
    ctx.apply(&[pod("parent", &script, spec)])?;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        ctx.wait("pod/parent", "jsonpath={.status.phase}=Failed")?;
        let ended = ctx.json("pod/parent")?["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "{ended}");
        return Ok(());
    }
    e2e::eventually(std::time::Duration::from_secs(60), "its parent goes on", || {
        let log = ctx.ok(&["logs", "parent"])?;
        // The shell says "Killed" too, before or after.
        ensure!(log.contains("child 137\n"), "{log:?}");
        Ok(())
    })?;
    ensure!(ctx.field("pod/parent", ".status.phase")? == "Running");
    Ok(())
}

pub fn a_container_over_its_memory_is_oom_killed(ctx: &Ctx) -> Result<()> {
    // A shell variable that doubles until the kernel says no.
    let script = "x=0123456789abcdef; while :; do x=$x$x; done";
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [{"name": "main", "resources": {"limits": {"memory": "32Mi"}}}],
    });
    ctx.apply(&[pod("greedy", script, spec)])?;
    ctx.wait("pod/greedy", "jsonpath={.status.phase}=Failed")?;
    let ended = ctx.json("pod/greedy")?["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "{ended}");
    Ok(())
}

pub fn the_log_of_a_chatty_container_is_bounded(ctx: &Ctx) -> Result<()> {
    // 24 MB, more than twice the 10 MiB at which a log is turned over.
    let script =
        format!("yes 0123456789012345678901234567890123456789012345678 | head -n 480000; echo the end; {IDLE}");
    ctx.ready_pod(pod("chatty", &script, json!({})))?;
    let last = e2e::eventually(std::time::Duration::from_secs(60), "it has said all", || {
        let last = ctx.ok(&["logs", "chatty", "--tail=1"])?;
        ensure!(last == "the end\n", "{last:?}");
        Ok(last)
    })?;
    ensure!(last == "the end\n");
    fn size(dir: &std::path::Path, uid: &str, within: bool) -> u64 {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|e| match e.metadata() {
                Ok(m) if m.is_dir() => size(&e.path(), uid, within || e.file_name().to_string_lossy().contains(uid)),
                Ok(m) if within && m.is_file() => m.len(),
                _ => 0,
            })
            .sum()
    }
    let uid = ctx.field("pod/chatty", ".metadata.uid")?;
    let names = ctx.instance.names();
    let bytes = size(names.data_dir(), &uid, false) + size(names.run_dir(), &uid, false);
    // Kubernetes' defaults: 10 MiB a file, 5 files.
    ensure!(bytes <= 60 << 20, "its logs take {bytes} bytes");
    Ok(())
}

/// The soft and the hard limit of open files of a process.
fn open_files(limits: &str) -> Result<(String, String)> {
    let line = limits.lines().find(|l| l.starts_with("Max open files")).context("no limit of open files")?;
    let mut words = line.split_whitespace().skip(3).map(str::to_owned);
    Ok((words.next().context("no soft limit")?, words.next().context("no hard limit")?))
}

pub fn the_server_takes_all_descriptors_and_containers_do_not(ctx: &Ctx) -> Result<()> {
    let own = open_files(&std::fs::read_to_string("/proc/self/limits")?)?;
    for pid in [ctx.instance.server_pid()?, ctx.instance.agent_pid()?] {
        let (soft, hard) = open_files(&std::fs::read_to_string(format!("/proc/{pid}/limits"))?)?;
        ensure!(soft == hard, "process {pid} may have {soft} of {hard} files open");
    }
    ctx.ready_pod(pod("plain", IDLE, json!({})))?;
    // Both a container's own process and a command in it.
    for of in ["1", "self"] {
        let inside = open_files(&ctx.sh("plain", &format!("cat /proc/{of}/limits"))?)?;
        ensure!(inside == own, "{inside:?} in the container, {own:?} outside");
    }
    Ok(())
}
