//! A node that runs out of memory and of disk. It ends pods: it is one of its own, and what it runs out of is not the machine's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, Disk, IDLE, IMAGE, Instance, container, eventually, merge, on_small_disk, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};
use crate::registry::Registry;

/// Size of the disk: what a server asks for at its start, and little more.
pub const DISK: u64 = 900 << 20;

pub fn node(api: &Api) -> Result<Value> {
    let node = api.get("/api/v1/nodes")?["items"][0].clone();
    ensure!(!node.is_null(), "there is no node");
    Ok(node)
}

/// Waits until a node says that it is under a pressure, or is not, and has the taint of it, or not.
pub fn until_pressed(api: &Api, condition: &str, taint: &str, pressed: bool) -> Result<Value> {
    eventually(LIMIT, &format!("{condition} is {pressed}"), || {
        let node = node(api)?;
        let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let tainted = taints.any(|t| t["key"] == taint && t["effect"] == "NoSchedule");
        ensure!((is(&node, condition), tainted) == (pressed, pressed), "{}", node["status"]["conditions"]);
        Ok(node)
    })
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Waits until a pod was evicted, and looks whether it says so as with a kubelet. Answers its message.
pub fn until_evicted(api: &Api, name: &str) -> Result<String> {
    let gone = api.until_pod(name, "evicted", |p| p["status"]["phase"] == "Failed")?;
    let status = &gone["status"];
    let target = condition(&gone, "DisruptionTarget");
    let message = status["message"].as_str().context("a message")?.to_owned();
    ensure!(status["reason"] == "Evicted", "{status}");
    ensure!(target["reason"] == "TerminationByKubelet" && target["message"] == message.as_str(), "{target}");
    ensure!(status["containerStatuses"][0]["state"]["terminated"].is_object(), "{status}");
    eventually(LIMIT, "there is an event", || {
        let events = api.events(name)?;
        ensure!(events.contains(&("Evicted".to_owned(), message.clone())), "{events:?}");
        Ok(())
    })?;
    Ok(message)
}

pub fn a_node_short_of_memory_says_so_and_ends_what_it_may() -> Result<()> {
    // More than any machine has: it is short of memory all the time, whatever else the machine does.
    let flags = [
        "--eviction-soft=memory.available<1Pi",
        "--eviction-soft-grace-period=memory.available=1s",
        "--eviction-max-pod-grace-period=5",
    ];
    let instance = flags.iter().fold(Instance::builder("memory"), |b, flag| b.flag(flag)).start()?;
    instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
    let api = Api::of(&instance, "default")?;
    let found = until_pressed(&api, "MemoryPressure", "node.kubernetes.io/memory-pressure", true)?;
    let pressure = condition(&found, "MemoryPressure");
    ensure!(pressure["reason"] == "KubeletHasInsufficientMemory", "{pressure}");
    ensure!(pressure["message"] == "kubelet has insufficient memory available", "{pressure}");
    let host = found["metadata"]["name"].as_str().context("a name")?;
    let asks = |name: &str, spec: Value| {
        let main = merge(container("main", IDLE), json!({"resources": {"requests": {"cpu": "10m"}}}));
        pod(name, IDLE, merge(json!({"nodeName": host, "containers": [main]}), spec))
    };
    api.create("pods", &asks("vital", json!({"priorityClassName": "system-node-critical"})))?;
    api.until_pod("vital", "ready", |p| is(p, "Ready"))?;
    // One that asks for nothing is not taken; one that asks for something is, until it is in the way.
    api.create("pods", &pod("best-effort", IDLE, json!({"nodeName": host})))?;
    let refused = api.until_pod("best-effort", "refused", |p| p["status"]["phase"] == "Failed")?;
    ensure!(refused["status"]["reason"] == "Evicted", "{}", refused["status"]);
    let words = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    ensure!(refused["status"]["message"] == words, "{}", refused["status"]);
    api.create("pods", &asks("in-the-way", json!({})))?;
    let message = until_evicted(&api, "in-the-way")?;
    let low = "The node was low on resource: memory. Threshold quantity: 1Pi, available: ";
    ensure!(message.starts_with(low), "{message}");
    let greed = ", request is 0, has larger consumption of memory. ";
    ensure!(message.contains("Container main was using ") && message.ends_with(greed), "{message}");
    // What nobody tolerates waits for the scheduler.
    api.create("pods", &pod("waits", IDLE, json!({})))?;
    api.until_pod("waits", "kept away", |p| condition(p, "PodScheduled")["reason"] == "Unschedulable")?;
    let vital = api.pod("vital")?;
    ensure!(is(&vital, "Ready") && vital["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", vital["status"]);
    instance.down()
}

pub fn a_node_short_of_disk_removes_unused_images_and_then_ends_the_greediest() -> Result<()> {
    let flags = [
        "--eviction-hard=nodefs.available<200Mi",
        "--eviction-pressure-transition-period=3s",
        "--image-gc-high-threshold=50",
        "--image-gc-low-threshold=49",
        "--minimum-image-ttl-duration=0",
    ];
    let builder = flags.iter().fold(Instance::builder("disk"), |b, flag| b.flag(flag));
    on_small_disk(builder, "", DISK, |small| {
        short_of_disk(&Ctx::new(small.instance.clone(), "disk")?, &small.disk, &small.archive)
    })
}

/// A pod that takes so much of a volume of its own.
pub fn scratch(name: &str, image: &str, bytes: &str) -> Value {
    let mounts = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let script = format!("fallocate -l {bytes} /scratch/file && {IDLE}");
    let main = merge(container("main", &script), json!({"image": image, "volumeMounts": mounts}));
    pod(name, IDLE, json!({"containers": [main], "volumes": [{"name": "scratch", "emptyDir": {}}]}))
}

fn short_of_disk(ctx: &Ctx, disk: &Disk, archive: &str) -> Result<()> {
    let api = Api::new(ctx)?;
    let image = |args: &[&str]| ctx.instance.windlass(&[&["image"], args].concat())?.ok();
    let registry = Registry::start(ctx)?;
    let [used, unused] = ["used:1", "unused:1"].map(|name| registry.image().replace("gallery:1", name));
    for name in [&used, &unused] {
        // Of different configurations, or all would be one image.
        image(&["import", archive, "--tag", name, "--cmd", name])?;
        image(&["push", name])?;
        image(&["remove", name])?;
        image(&["pull", name])?;
    }
    image(&["import", archive, "--tag", "windlass.local/own:1", "--cmd", "own"])?;
    api.ready(&scratch("modest", &used, "5m"))?;

    // More than half of the disk is in use: what nobody uses goes, and nothing else; it is not enough, and the node says so.
    disk.fill(300 << 20)?;
    let is_gone = || {
        eventually(LIMIT, "the unused image is removed", || {
            let left = image(&["list"])?;
            ensure!(!left.contains("/unused"), "{left}");
            for kept in ["/used", "windlass.local/own", IMAGE.split(':').next().unwrap_or_default()] {
                ensure!(left.contains(kept), "{kept} is gone: {left}");
            }
            Ok(())
        })
    };
    is_gone()?;
    let name = node(&api)?["metadata"]["name"].as_str().context("a name")?.to_owned();
    eventually(LIMIT, "the node says that this was not enough", || {
        let events = Api::of(&ctx.instance, "default")?.events(&name)?;
        let found =
            events.iter().any(|(reason, text)| reason == "FreeDiskSpaceFailed" && text.contains("Attempted to free"));
        ensure!(found, "{events:?}");
        Ok(())
    })?;
    ensure!(!is(&node(&api)?, "DiskPressure"), "there is room enough");

    // Below the threshold: images first, then the pod that takes the most.
    image(&["pull", &unused])?;
    api.create("pods", &scratch("greedy", IMAGE, "150m"))?;
    until_pressed(&api, "DiskPressure", "node.kubernetes.io/disk-pressure", true)?;
    let message = until_evicted(&api, "greedy")?;
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: 200Mi, available: ";
    ensure!(message.starts_with(low), "{message}");
    is_gone()?;
    until_pressed(&api, "DiskPressure", "node.kubernetes.io/disk-pressure", false)?;
    ensure!(disk.free()? > 250 << 20, "it is not given back: {}", disk.free()?);
    let modest = api.pod("modest")?;
    ensure!(
        is(&modest, "Ready") && modest["status"]["containerStatuses"][0]["restartCount"] == 0,
        "{}",
        modest["status"]
    );

    // What a container wrote to its own file system is given back too.
    let script = format!("fallocate -l 150m /root/file && {IDLE}");
    api.create("pods", &pod("scribbler", &script, json!({})))?;
    until_evicted(&api, "scribbler")?;
    eventually(Duration::from_secs(60), "what it wrote is given back", || {
        ensure!(disk.free()? > 250 << 20, "{}", disk.free()?);
        Ok(())
    })?;
    until_pressed(&api, "DiskPressure", "node.kubernetes.io/disk-pressure", false)?;
    ensure!(is(&api.pod("modest")?, "Ready"), "it did nothing");
    Ok(())
}
