//! A node that begins a pod anew, makes room for a critical one, and goes down. The last two would end the pods of other
//! tests: they have an instance of their own.

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, Instance, container, eventually, merge, pod, signal_pid};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, is};

fn status_of<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses"].into_iter();
    let mut all = lists.flat_map(|list| pod["status"][list].as_array().into_iter().flatten());
    all.find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

pub fn a_rule_of_a_container_restarts_all_of_them(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let of = |name: &str, script: &str, more: Value| merge(merge(container(name, script), mount.clone()), more);
    let rule = json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]});
    // Not before all of them run: one that had not begun would not begin again.
    let all = "until [ -f /data/other ]; do sleep 0.1; done";
    let ends =
        format!("echo main >> /data/log; if [ -f /data/again ]; then {IDLE}; fi; {all}; touch /data/again; exit 42");
    let other = format!("touch /data/other; {IDLE}");
    let idle = format!("echo side >> /data/log; {IDLE}");
    api.create(
        "pods",
        &json!({"metadata": {"name": "anew"}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "volumes": [{"name": "data", "emptyDir": {}}],
            "initContainers": [
                of("init", "echo init >> /data/log", json!({})),
                of("side", &idle, json!({"restartPolicy": "Always"})),
            ],
            "containers": [of("main", &ends, rule), of("other", &other, json!({}))],
        }}),
    )?;
    let names = ["init", "side", "main", "other"];
    let again = |p: &Value| names.iter().all(|name| status_of(p, name)["restartCount"] == 1) && is(p, "Ready");
    let found = api.until_pod("anew", "begun anew", again)?;
    for name in names {
        let before = &status_of(&found, name)["lastState"]["terminated"]["reason"];
        ensure!(before == "RestartingAllContainers", "{name}: {before}");
    }
    ensure!(!is(&found, "AllContainersRestarting") && is(&found, "Initialized"), "{}", found["status"]);
    let log = ctx.ok(&["exec", "anew", "-c", "other", "--", "cat", "/proc/1/status"])?;
    ensure!(log.contains("Name:"), "{log}");
    let log = ctx.ok(&["exec", "anew", "-c", "main", "--", "cat", "/data/log"])?;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["init", "init", "main", "main", "side", "side"], "the volume stays: {log}");
    Ok(())
}

/// A pod on the node, placed by hand, that asks for that part of its CPUs.
fn placed(name: &str, node: &str, milli: u64, spec: Value) -> Value {
    let resources = json!({"requests": {"cpu": format!("{milli}m")}});
    let main = merge(container("main", IDLE), json!({"resources": resources}));
    pod(name, IDLE, merge(json!({"nodeName": node, "containers": [main]}), spec))
}

/// Resources that somebody counts who patches the node (kubernetes.io/docs/tasks/administer-cluster/extended-resource-node).
pub fn extended_resources_are_given_as_often_as_there_are(ctx: &Ctx) -> Result<()> {
    let node = ctx.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let count = |operation: Value| {
        let patch = json!([operation]).to_string();
        ctx.ok(&["patch", "node", &node, "--subresource=status", "--type=json", "-p", &patch])
    };
    let path = "/status/capacity/example.com~1dongle";
    count(json!({"op": "add", "path": path, "value": "2"}))?;
    let there = |amount: &str| {
        let field = ctx.field(&format!("node/{node}"), ".status.allocatable.example\\.com/dongle")?;
        ensure!(field == amount, "{field:?}");
        Ok(())
    };
    eventually(LIMIT, "pods may have them", || there("2"))?;
    let asks = |name: &str, amount: &str, spec: Value| {
        let resources = json!({"resources": {"limits": {"example.com/dongle": amount}}});
        pod(name, IDLE, merge(json!({"containers": [merge(container("main", IDLE), resources)]}), spec))
    };
    ctx.ready_pod(asks("has-both", "2", json!({})))?;
    ctx.apply(&[asks("waits", "1", json!({})), asks("by-hand", "1", json!({"nodeName": node}))])?;
    ctx.wait("pod/by-hand", "jsonpath={.status.reason}=OutOfexample.com/dongle")?;
    ctx.wait("pod/waits", "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].reason}=Unschedulable")?;
    let why = ctx.field("pod/waits", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
    ensure!(why.contains("Insufficient example.com/dongle"), "{why}");
    ctx.ok(&["delete", "pod", "has-both", "--wait=false"])?;
    ctx.wait("pod/waits", "condition=Ready")?;
    count(json!({"op": "remove", "path": path}))?;
    eventually(LIMIT, "they are gone", || there(""))
}

pub fn a_node_makes_room_for_critical_pods_and_goes_down_in_order() -> Result<()> {
    let flags = ["--shutdown-grace-period=1h", "--shutdown-grace-period-critical-pods=30m"];
    let instance = flags.iter().fold(Instance::builder("room"), |b, flag| b.flag(flag)).start()?;
    instance.kubectl().ok(&["wait", "serviceaccount/default", "--for=create", "--timeout=60s"])?;
    let api = Api::of(&instance, "default")?;
    let node = api.get("/api/v1/nodes")?["items"][0].clone();
    let name = node["metadata"]["name"].as_str().context("a node")?.to_owned();
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().context("CPUs")?.parse()?;
    // Two that fill it, of which the smaller is enough.
    api.create("pods", &placed("large", &name, cpus * 600, json!({})))?;
    api.create("pods", &placed("small", &name, cpus * 400, json!({})))?;
    for name in ["large", "small"] {
        api.until_pod(name, "ready", |p| is(p, "Ready"))?;
    }
    api.create("pods", &placed("late", &name, cpus * 300, json!({})))?;
    api.until_pod("late", "turned away", |p| p["status"]["reason"] == "OutOfcpu")?;
    let critical = json!({"priorityClassName": "system-node-critical"});
    api.create("pods", &placed("critical", &name, cpus * 300, critical))?;
    let ended = api.until_pod("small", "ended", |p| p["status"]["phase"] == "Failed")?;
    ensure!(ended["status"]["reason"] == "Preempting", "{}", ended["status"]);
    ensure!(is(&ended, "DisruptionTarget"), "{}", ended["status"]);
    api.until_pod("critical", "ready", |p| is(p, "Ready"))?;
    ensure!(is(&api.pod("large")?, "Ready"), "the larger one is left alone");

    signal_pid(instance.agent_pid()?, Signal::SIGPWR)?;
    for name in ["large", "critical"] {
        let ended = api.until_pod(name, "ended", |p| p["status"]["phase"] == "Failed")?;
        ensure!(ended["status"]["reason"] == "Terminated", "{}", ended["status"]);
        ensure!(is(&ended, "DisruptionTarget"), "{}", ended["status"]);
    }
    eventually(LIMIT, "the node says so", || {
        let node = api.get(&format!("/api/v1/nodes/{name}"))?;
        let mut all = node["status"]["conditions"].as_array().into_iter().flatten();
        let ready = all.find(|c| c["type"] == "Ready").context("a condition")?;
        ensure!(ready["reason"] == "KubeletNotReady" && ready["message"] == "node is shutting down", "{ready}");
        Ok(())
    })?;
    let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
    api.create("pods", &placed("new", &name, 1, tolerant))?;
    let turned = api.until_pod("new", "turned away", |p| p["status"]["phase"] == "Failed")?;
    ensure!(turned["status"]["reason"] == "NodeShutdown", "{}", turned["status"]);
    instance.down()
}
