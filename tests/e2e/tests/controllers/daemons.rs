//! DaemonSets, ReplicationControllers, and budgets over pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, merge};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn template(app: &str, version: &str) -> Value {
    let probe = json!({"env": [{"name": "V", "value": version}],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}});
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [merge(container("main", IDLE), probe)]}})
}

fn daemon(version: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "log"},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": template("log", version),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}})
}

fn version(ctx: &Ctx) -> Result<Vec<String>> {
    let pods = ctx.list("pods", "app=log")?;
    let live = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    Ok(live.map(|p| p["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or("").to_owned()).collect())
}

pub fn a_daemon_set_runs_on_the_node_rolls_and_goes_back(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[daemon("1")])?;
    ctx.ok(&["rollout", "status", "daemonset/log", "--timeout=60s"])?;
    ensure!(version(ctx)? == ["1"]);
    let status = ctx.json("daemonset/log")?["status"].clone();
    ensure!(status["desiredNumberScheduled"] == 1 && status["numberAvailable"] == 1, "{status}");
    ctx.apply(&[daemon("2")])?;
    ctx.ok(&["rollout", "status", "daemonset/log", "--timeout=60s"])?;
    ensure!(version(ctx)? == ["2"]);
    let history = ctx.ok(&["rollout", "history", "daemonset/log"])?;
    ensure!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    ctx.ok(&["rollout", "undo", "daemonset/log"])?;
    eventually(LIMIT, "the first version is back", || {
        let now = version(ctx)?;
        ensure!(now == ["1"], "{now:?}");
        Ok(())
    })?;
    ctx.ok(&["rollout", "status", "daemonset/log", "--timeout=60s"])?;
    // A lost pod is replaced, and its events tell of it.
    let before = ctx.list("pods", "app=log")?;
    ctx.ok(&["delete", "pods", "-l", "app=log"])?;
    eventually(LIMIT, "another pod is ready", || {
        let now = ctx.json("daemonset/log")?["status"]["numberReady"].clone();
        let pods = ctx.list("pods", "app=log")?;
        ensure!(now == 1 && pods[0]["metadata"]["uid"] != before[0]["metadata"]["uid"], "{now} ready");
        Ok(())
    })?;
    ensure!(ctx.ok(&["describe", "daemonset/log"])?.contains("SuccessfulCreate"));
    // A selector that no node meets takes it away.
    let nowhere = json!({"spec": {"template": {"spec": {"nodeSelector": {"no": "node"}}}}}).to_string();
    ctx.ok(&["patch", "daemonset/log", "-p", &nowhere])?;
    ctx.none_left("pods", "app=log")
}

pub fn a_replication_controller_keeps_its_number(ctx: &Ctx) -> Result<()> {
    let spec = json!({"replicas": 2, "selector": {"app": "rc"}, "template": template("rc", "1")});
    ctx.apply(&[
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"}, "spec": spec}),
    ])?;
    ctx.wait("rc/rc", "jsonpath={.status.readyReplicas}=2")?;
    let pods = ctx.list("pods", "app=rc")?;
    let first = pods[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // A pod whose label changes is let go, and another takes its place.
    ctx.ok(&["label", "pod", &first, "app=free", "--overwrite"])?;
    eventually(LIMIT, "the pod is free and replaced", || {
        let owners = ctx.json(&format!("pod/{first}"))?["metadata"]["ownerReferences"].clone();
        let count = ctx.list("pods", "app=rc")?.len();
        ensure!(count == 2 && owners.as_array().is_none_or(Vec::is_empty), "{count} pods, owners {owners}");
        Ok(())
    })?;
    ctx.ok(&["scale", "rc/rc", "--replicas=0"])?;
    ctx.none_left("pods", "app=rc")
}

pub fn a_budget_counts_what_may_be_missing(ctx: &Ctx) -> Result<()> {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "1")});
    let budget = json!({"selector": {"matchLabels": {"app": "web"}}, "minAvailable": "50%"});
    ctx.apply(&[
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": budget}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}),
    ])?;
    ctx.wait("pdb/web", "jsonpath={.status.disruptionsAllowed}=1")?;
    let status = ctx.json("pdb/web")?["status"].clone();
    let expected = status["expectedPods"] == 3 && status["currentHealthy"] == 3 && status["desiredHealthy"] == 2;
    ensure!(expected && status["conditions"][0]["reason"] == "SufficientPods", "{status}");
    ctx.ok(&["scale", "deployment/web", "--replicas=1"])?;
    ctx.wait("pdb/web", "jsonpath={.status.disruptionsAllowed}=0")
}
