//! A node that pods have to leave. Its taint would drive away the pods of every other test: these have an instance of their
//! own.

use anyhow::{Context as _, Result, ensure};
use e2e::{IDLE, Instance, pod};
use serde_json::{Value, json};

use crate::api::{Api, is};

const KEY: &str = "kubernetes.io/e2e-evict-taint-key";

fn tolerant(name: &str, seconds: u32) -> Value {
    let toleration = json!({"key": KEY, "value": "evictTaintVal", "effect": "NoExecute", "tolerationSeconds": seconds});
    pod(name, IDLE, json!({"tolerations": [toleration]}))
}

fn taint(api: &Api, node: &str, on: bool) -> Result<()> {
    let list = if on { json!([{"key": KEY, "value": "evictTaintVal", "effect": "NoExecute"}]) } else { json!([]) };
    let patch = json!({"spec": {"taints": list}});
    api.patch(&format!("/api/v1/nodes/{node}"), &patch).map(drop)
}

// conformance: [sig-node] NoExecuteTaintManager Multiple Pods [Serial] evicts pods with minTolerationSeconds
// conformance: [sig-node] NoExecuteTaintManager Single Pod [Serial] removing taint cancels eviction
pub fn a_taint_evicts_in_time_and_its_end_cancels_that() -> Result<()> {
    let instance = Instance::builder("taints").start()?;
    instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
    let api = Api::of(&instance, "default")?;
    let node = api.get("/api/v1/nodes")?["items"][0]["metadata"]["name"].as_str().context("a node")?.to_owned();
    for (name, seconds) in [("soon", 3), ("later", 9), ("patient", 3600)] {
        api.create("pods", &tolerant(name, seconds))?;
    }
    for name in ["soon", "later", "patient"] {
        api.until_pod(name, "ready", |p| is(p, "Ready"))?;
    }
    taint(&api, &node, true)?;
    let going = |p: &Value| p.is_null() || p["metadata"]["deletionTimestamp"].is_string();
    api.until_pod("soon", "evicted", going)?;
    ensure!(!going(&api.pod("patient")?), "evicted long before its time");
    let later = api.until_pod("later", "evicted", going)?;
    if !later.is_null() {
        let mut all = later["status"]["conditions"].as_array().into_iter().flatten();
        let told = all.any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "DeletionByTaintManager");
        ensure!(told, "{}", later["status"]);
    }
    api.gone("soon")?;
    api.gone("later")?;

    // Another pod that would have to go in a while, had the taint not been taken off before.
    taint(&api, &node, false)?;
    api.create("pods", &tolerant("spared", 12))?;
    api.create("pods", &tolerant("witness", 1))?;
    for name in ["spared", "witness"] {
        api.until_pod(name, "ready", |p| is(p, "Ready"))?;
    }
    taint(&api, &node, true)?;
    api.until_pod("witness", "evicted", going)?;
    let reprieved = api.pod("spared")?;
    taint(&api, &node, false)?;
    // A pod that runs for longer than the other's time was: its end is the time to look.
    let clock = pod("clock", "sleep 14", json!({"restartPolicy": "Never"}));
    api.create("pods", &clock)?;
    let spared_in_time = !going(&reprieved) && !going(&api.pod("spared")?);
    api.until_pod("clock", "over", |p| p["status"]["phase"] == "Succeeded")?;
    // On a machine so slow that its time was up before the taint went, it is gone rightly.
    ensure!(!spared_in_time || is(&api.pod("spared")?, "Ready"), "evicted though the taint is gone");
    ensure!(!going(&api.pod("patient")?));
    instance.down()
}
