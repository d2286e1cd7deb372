//! CPUs that one container has for itself. The node takes them from all others: it is one of its own.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::{IDLE, Instance, container, eventually, merge, signal_pid, skip};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};

/// On which CPUs the process of a pod may run, as the kernel has it.
fn allowed(instance: &Instance, pod: &str) -> Result<String> {
    let text = instance.kubectl().ok(&["exec", pod, "--", "grep", "Cpus_allowed_list", "/proc/self/status"])?;
    Ok(text.split_whitespace().last().unwrap_or_default().to_owned())
}

/// The CPUs of a list of the kernel's.
fn cpus(list: &str) -> BTreeSet<u32> {
    let number = |text: &str| text.trim().parse::<u32>().unwrap_or(u32::MAX);
    let range = |word: &str| match word.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(word)..=number(word),
    };
    list.trim().split(',').flat_map(range).collect()
}

fn until_allowed(instance: &Instance, pod: &str, wanted: &BTreeSet<u32>) -> Result<()> {
    eventually(LIMIT, &format!("{pod} runs on {wanted:?}"), || {
        let now = cpus(&allowed(instance, pod)?);
        ensure!(now == *wanted, "{now:?}");
        Ok(())
    })
}

/// A pod that asks for a whole CPU, or for nothing: the machine may have no more to ask for.
fn one(name: &str, resources: Value) -> Value {
    let main = merge(container("main", IDLE), json!({"resources": resources}));
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 2, "containers": [main]}})
}

pub fn a_guaranteed_container_has_whole_cpus_for_itself() -> Result<()> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let online = cpus(&online);
    if online.len() < 2 || !online.contains(&0) {
        return Err(skip("the machine has no second CPU to give beside that which is kept for the system"));
    }
    let instance = Instance::builder("cpus").flag("--cpu-manager-policy=static").flag("--reserved-cpus=0").start()?;
    instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
    let api = Api::of(&instance, "default")?;
    let node = api.get("/api/v1/nodes")?["items"][0].clone();
    let amount = |list: &str| -> Result<u32> { Ok(node["status"][list]["cpu"].as_str().context("CPUs")?.parse()?) };
    ensure!(amount("allocatable")? + 1 == amount("capacity")?, "{}", node["status"]);
    api.create("pods", &one("shares", json!({})))?;
    api.until_pod("shares", "ready", |p| is(p, "Ready"))?;
    until_allowed(&instance, "shares", &online)?;
    api.create("pods", &one("own", json!({"limits": {"cpu": "1", "memory": "64Mi"}})))?;
    api.until_pod("own", "ready", |p| is(p, "Ready"))?;
    let own = cpus(&allowed(&instance, "own")?);
    ensure!(own.len() == 1 && !own.contains(&0), "{own:?}");
    let left: BTreeSet<u32> = online.difference(&own).copied().collect();
    until_allowed(&instance, "shares", &left)?;
    // Another agent goes on with it, and gives it back when the pod has gone.
    let agent = instance.agent_pid()?;
    signal_pid(agent, Signal::SIGKILL)?;
    eventually(LIMIT, "another agent", || {
        ensure!(instance.agent_pid()? != agent);
        Ok(())
    })?;
    api.create("pods", &one("later", json!({})))?;
    api.until_pod("later", "ready", |p| is(p, "Ready"))?;
    until_allowed(&instance, "later", &left)?;
    ensure!(cpus(&allowed(&instance, "own")?) == own);
    api.delete(&api.at("pods/own"), &json!({}))?;
    api.gone("own")?;
    until_allowed(&instance, "shares", &online)?;
    until_allowed(&instance, "later", &online)?;
    instance.down()
}
