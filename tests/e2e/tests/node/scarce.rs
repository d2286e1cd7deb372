//! A node that runs out of process ids, or of room on a disk that only images and containers have.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{IDLE, IMAGE, Instance, eventually, on_small_disk, pod, skip};
use serde_json::json;

use crate::api::{Api, is};
use crate::pressure::{DISK, condition, scratch, until_evicted, until_pressed};

/// Processes of the greedy pod; the threshold lies in the middle of it, so that what the machine does besides is no matter.
const CROWD: u64 = 1600;

/// How many tasks this machine can have more.
fn tasks_left() -> Result<u64> {
    let number = |path: &str| -> Result<u64> { Ok(fs::read_to_string(path)?.trim().parse()?) };
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let load = fs::read_to_string("/proc/loadavg")?;
    let now = load.split(' ').nth(3).and_then(|field| field.split_once('/')).context("a count of tasks")?.1;
    Ok(most.saturating_sub(now.parse()?))
}

pub fn a_node_short_of_process_ids_says_so_and_ends_who_has_the_most() -> Result<()> {
    let left = tasks_left()?;
    if left < 2 * CROWD {
        return Err(skip(format!("process ids: the machine can have only {left} tasks more")));
    }
    // Odd, so that nobody shortens it to thousands.
    let threshold = (left - CROWD / 2) | 1;
    let hard = format!("--eviction-hard=pid.available<{threshold}");
    let builder = Instance::builder("pids").flag(&hard).flag("--eviction-pressure-transition-period=1s");
    let instance = builder.start()?;
    instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
    let api = Api::of(&instance, "default")?;
    api.ready(&pod("modest", IDLE, json!({})))?;
    let script = format!("n=0; while [ $n -lt {CROWD} ]; do sleep 3600 & n=$((n+1)); done; {IDLE}");
    let vital = json!({"priorityClassName": "system-node-critical"});
    api.ready(&pod("vital", IDLE, vital))?;
    api.create("pods", &pod("greedy", &script, json!({"terminationGracePeriodSeconds": 1})))?;

    let found = until_pressed(&api, "PIDPressure", "node.kubernetes.io/pid-pressure", true)?;
    let pressure = condition(&found, "PIDPressure");
    ensure!(pressure["reason"] == "KubeletHasInsufficientPID", "{pressure}");
    ensure!(pressure["message"] == "kubelet has insufficient PID available", "{pressure}");
    let message = until_evicted(&api, "greedy")?;
    let low = format!("The node was low on resource: pids. Threshold quantity: {threshold}, available: ");
    ensure!(message.starts_with(&low), "{message}");
    // With its processes went the pressure; the others did nothing.
    until_pressed(&api, "PIDPressure", "node.kubernetes.io/pid-pressure", false)?;
    for name in ["modest", "vital"] {
        let pod = api.pod(name)?;
        ensure!(is(&pod, "Ready") && crate::api::restarts(&pod) == 0, "{}", pod["status"]);
    }
    instance.down()
}

pub fn a_node_whose_images_have_a_disk_of_their_own_ends_who_fills_it() -> Result<()> {
    let flags = [
        "--eviction-hard=imagefs.available<200Mi",
        "--eviction-pressure-transition-period=1s",
        "--image-gc-high-threshold=100",
    ];
    let builder = flags.iter().fold(Instance::builder("imagefs"), |b, flag| b.flag(flag));
    on_small_disk(builder, "images", DISK, |small| {
        let (instance, disk) = (&small.instance, &small.disk);
        instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
        let api = Api::of(instance, "default")?;
        // A volume is on another disk: the pod may fill it.
        api.ready(&scratch("elsewhere", IMAGE, "300m"))?;
        disk.fill(300 << 20)?;
        let script = format!("fallocate -l 150m /root/file && {IDLE}");
        api.create("pods", &pod("scribbler", &script, json!({"terminationGracePeriodSeconds": 1})))?;
        until_pressed(&api, "DiskPressure", "node.kubernetes.io/disk-pressure", true)?;
        let message = until_evicted(&api, "scribbler")?;
        let low = "The node was low on resource: ephemeral-storage. Threshold quantity: 200Mi, available: ";
        ensure!(message.starts_with(low), "{message}");
        eventually(Duration::from_secs(60), "what it wrote is given back", || {
            ensure!(disk.free()? > 250 << 20, "{}", disk.free()?);
            Ok(())
        })?;
        until_pressed(&api, "DiskPressure", "node.kubernetes.io/disk-pressure", false)?;
        let elsewhere = api.pod("elsewhere")?;
        ensure!(is(&elsewhere, "Ready") && crate::api::restarts(&elsewhere) == 0, "{}", elsewhere["status"]);
        Ok(())
    })
}
