//! Init containers, and containers that are added later.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, IMAGE, container, eventually, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};

fn with_init(name: &str, policy: &str, script: &str, init: &[(&str, &str)]) -> Value {
    let init: Vec<Value> = init.iter().map(|(name, script)| container(name, script)).collect();
    pod(name, script, json!({"restartPolicy": policy, "initContainers": init}))
}

fn init_status(pod: &Value, index: usize) -> &Value {
    &pod["status"]["initContainerStatuses"][index]
}

fn ended_well(pod: &Value, index: usize) -> bool {
    init_status(pod, index)["state"]["terminated"]["exitCode"] == 0 && init_status(pod, index)["ready"] == true
}

// conformance: [sig-node] InitContainer [NodeConformance] should invoke init containers on a RestartAlways pod
// conformance: [sig-node] InitContainer [NodeConformance] should invoke init containers on a RestartNever pod
pub fn all_init_containers_end_before_the_others_start(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let two = [("init1", "true"), ("init2", "true")];
    api.create("pods", &with_init("always", "Always", IDLE, &two))?;
    api.create("pods", &with_init("never", "Never", "true", &two))?;
    let always = api.until_pod("always", "running", |p| p["status"]["phase"] == "Running" && is(p, "Ready"))?;
    let never = api.until_pod("never", "over", |p| p["status"]["phase"] == "Succeeded")?;
    for pod in [&always, &never] {
        ensure!(is(pod, "Initialized") && ended_well(pod, 0) && ended_well(pod, 1), "{}", pod["status"]);
        let end = |i: usize, at: &str| init_status(pod, i)["state"]["terminated"][at].as_str().map(str::to_owned);
        ensure!(end(0, "finishedAt") <= end(1, "startedAt"), "{}", pod["status"]);
    }
    ensure!(never["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0);
    ensure!(never["status"]["containerStatuses"][0]["restartCount"] == 0);
    api.clear()
}

// conformance: [sig-node] InitContainer [NodeConformance] should not start app containers and fail the pod if init containers fail on a RestartNever pod
// conformance: [sig-node] InitContainer [NodeConformance] should not start app containers if init containers fail on a RestartAlways pod
pub fn after_a_failed_init_container_nothing_else_starts(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    api.create("pods", &with_init("always", "Always", IDLE, &[("init1", "false"), ("init2", "true")]))?;
    api.create("pods", &with_init("never", "Never", IDLE, &[("init1", "true"), ("init2", "false")]))?;
    let never = api.until_pod("never", "failed", |p| p["status"]["phase"] == "Failed")?;
    ensure!(ended_well(&never, 0) && init_status(&never, 1)["state"]["terminated"]["exitCode"] == 1);
    ensure!(!is(&never, "Initialized"), "{}", never["status"]);
    let always = api.until_pod("always", "tried again", |p| init_status(p, 0)["restartCount"].as_i64() >= Some(3))?;
    ensure!(always["status"]["phase"] == "Pending" && !is(&always, "Initialized"), "{}", always["status"]);
    ensure!(init_status(&always, 1)["state"]["waiting"]["reason"] == "PodInitializing");
    for pod in [&always, &never] {
        let main = &pod["status"]["containerStatuses"][0];
        ensure!(
            main["state"]["waiting"]["reason"] == "PodInitializing" || pod["status"]["phase"] == "Failed",
            "{main}"
        );
        ensure!(main["containerID"].is_null() && main["state"]["running"].is_null(), "{main}");
    }
    api.clear()
}

fn add(api: &Api, pod: &str, name: &str) -> Result<Value> {
    // It says `polo` to itself, and waits for somebody to come.
    let debugger = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", format!("echo polo; {IDLE}")]});
    let path = api.at(&format!("pods/{pod}/ephemeralcontainers"));
    api.patch(&path, &json!({"spec": {"ephemeralContainers": [debugger]}}))
}

// conformance: [sig-node] Ephemeral Containers [NodeConformance] should update the ephemeral containers in an existing pod
// conformance: [sig-node] Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod
pub fn ephemeral_containers_are_added_one_after_another(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let up = api.ready(&pod("target", IDLE, json!({})))?;
    ensure!(up["metadata"]["generation"] == 1);
    for (count, name) in [(1, "debugger"), (2, "debugger2")] {
        let changed = add(&api, "target", name)?;
        ensure!(changed["metadata"]["generation"] == 1 + count, "{}", changed["metadata"]);
        api.until_pod("target", "the container runs", |p| {
            let mut all = p["status"]["ephemeralContainerStatuses"].as_array().into_iter().flatten();
            all.any(|c| c["name"] == name && c["state"]["running"].is_object())
        })?;
        ensure!(ctx.ok(&["exec", "target", "-c", name, "--", "echo", "marco"])? == "marco\n");
        eventually(LIMIT, "it has spoken", || {
            let log = api.log("target", name)?;
            ensure!(log == "polo\n", "{log}");
            Ok(())
        })?;
        let part = api.get(&api.at("pods/target/ephemeralcontainers"))?;
        let list = part["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
        ensure!(list.len() as i64 == count, "{part}");
    }
    let after = api.pod("target")?;
    ensure!(after["status"]["containerStatuses"][0]["restartCount"] == 0 && is(&after, "Ready"));
    api.clear()
}
