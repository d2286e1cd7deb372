//! Deployments.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::http::Load;
use e2e::{Ctx, IDLE, container, deployment, eventually, http, httpd, merge, service};
use serde_json::{Value, json};

fn live(ctx: &Ctx, app: &str) -> Result<Vec<Value>> {
    let mut pods = ctx.list("pods", &format!("app={app}"))?;
    pods.retain(|p| p["metadata"]["deletionTimestamp"].is_null());
    Ok(pods)
}

fn rolled_out(ctx: &Ctx, name: &str) -> Result<()> {
    ctx.ok(&["rollout", "status", &format!("deployment/{name}"), "--timeout=90s"]).map(drop)
}

/// A release of a web server that says its version and, told to end, first lets the load balancers notice.
fn release(version: &str, replicas: u32) -> Value {
    let polite = json!({"lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}}});
    let mut web = deployment("web", replicas, json!([merge(httpd(version), polite)]));
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    web["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(10);
    web
}

pub fn a_rolling_update_keeps_its_promises_and_fails_no_request(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[release("v1", 3), service("web", json!({"type": "NodePort"}))])?;
    rolled_out(ctx, "web")?;
    let port: u16 = ctx.field("service/web", ".spec.ports[0].nodePort")?.parse()?;
    let node = ctx.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.hostIP}"])?;
    let addr = SocketAddr::new(node.parse()?, port);
    eventually(Duration::from_secs(20), "it answers", || http::get_ok(addr, "web", "/"))?;
    let load = Load::start(100, 8, move |_| {
        let body = http::get_ok(addr, "web", "/")?;
        ensure!(body == "v1" || body == "v2", "{body}");
        Ok(())
    });
    load.go_on(100)?;
    ctx.apply(&[release("v2", 3)])?;
    // While it goes on, three stay ready and at most four run.
    eventually(Duration::from_secs(90), "the release is done", || {
        let deployment = ctx.json("deployment/web")?;
        let status = &deployment["status"];
        let n = |field: &str| status[field].as_u64().unwrap_or(0);
        if n("availableReplicas") < 3 || n("replicas") > 4 {
            return Ok(Err(anyhow::anyhow!("maxUnavailable or maxSurge is broken: {status}")));
        }
        ensure!(
            n("updatedReplicas") == 3
                && n("replicas") == 3
                && status["observedGeneration"] == deployment["metadata"]["generation"],
            "{status}"
        );
        Ok(Ok(()))
    })??;
    load.go_on(100)?;
    load.stop().flawless(200)?;
    ensure!(http::get_ok(addr, "web", "/")? == "v2");
    Ok(())
}

pub fn recreate_never_runs_two_versions(ctx: &Ctx) -> Result<()> {
    let version = |v: &str| {
        let mut d =
            deployment("one", 2, json!([merge(container("main", IDLE), json!({"env": [{"name": "V", "value": v}]}))]));
        d["spec"]["strategy"] = json!({"type": "Recreate"});
        d
    };
    ctx.apply(&[version("1")])?;
    rolled_out(ctx, "one")?;
    ctx.apply(&[version("2")])?;
    eventually(Duration::from_secs(60), "version 2 runs", || {
        // Terminating pods count as long as their processes run; those that ended have a final phase.
        let mut pods = ctx.list("pods", "app=one")?;
        pods.retain(|p| p["status"]["phase"] != "Succeeded" && p["status"]["phase"] != "Failed");
        let versions: BTreeSet<String> =
            pods.iter().map(|p| p["spec"]["containers"][0]["env"][0]["value"].to_string()).collect();
        if versions.len() > 1 {
            return Ok(Err(anyhow::anyhow!("two versions at once: {versions:?}")));
        }
        let ready = ctx.field("deployment/one", ".status.readyReplicas")?;
        ensure!(versions.contains("\"2\"") && ready == "2", "{versions:?}, {ready} ready");
        Ok(Ok(()))
    })?
}

pub fn a_bad_release_stops_and_undo_brings_the_old_one_back(ctx: &Ctx) -> Result<()> {
    let mut good = release("good", 2);
    good["spec"]["progressDeadlineSeconds"] = json!(5);
    ctx.apply(&[good.clone()])?;
    rolled_out(ctx, "web")?;
    let before: BTreeSet<String> = live(ctx, "web")?.iter().map(|p| p["metadata"]["uid"].to_string()).collect();
    let mut bad = good;
    bad["spec"]["template"]["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/none:2");
    ctx.apply(&[bad])?;
    ctx.wait("deployment/web", "condition=Progressing=false")?;
    let reason = ".status.conditions[?(@.type==\"Progressing\")].reason";
    ensure!(ctx.field("deployment/web", reason)? == "ProgressDeadlineExceeded");
    ensure!(ctx.field("deployment/web", ".status.availableReplicas")? == "2", "the old release was taken away");
    ensure!(
        ctx.fails(&["rollout", "status", "deployment/web", "--timeout=20s"])?
            .contains("exceeded its progress deadline")
    );
    ctx.ok(&["rollout", "undo", "deployment/web"])?;
    rolled_out(ctx, "web")?;
    let after: BTreeSet<String> = live(ctx, "web")?.iter().map(|p| p["metadata"]["uid"].to_string()).collect();
    ensure!(before == after, "undo restarted what was well");
    Ok(())
}

pub fn a_lost_pod_is_replaced(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[deployment("app", 2, json!([container("main", IDLE)]))])?;
    rolled_out(ctx, "app")?;
    let pods = live(ctx, "app")?;
    let victim = pods[0]["metadata"]["name"].as_str().context("a name")?.to_owned();
    ctx.ok(&["delete", "pod", &victim, "--wait=false"])?;
    eventually(Duration::from_secs(30), "another pod runs", || {
        let now = live(ctx, "app")?;
        ensure!(now.len() == 2 && now.iter().all(|p| p["metadata"]["name"] != *victim), "{} pods", now.len());
        Ok(())
    })?;
    rolled_out(ctx, "app")
}

pub fn old_replica_sets_are_kept_up_to_the_limit(ctx: &Ctx) -> Result<()> {
    for version in ["1", "2", "3", "4"] {
        let mut d = deployment(
            "app",
            0,
            json!([merge(container("main", IDLE), json!({"env": [{"name": "V", "value": version}]}))]),
        );
        d["spec"]["revisionHistoryLimit"] = json!(1);
        ctx.apply(&[d])?;
        let revision = format!("jsonpath={{.metadata.annotations.deployment\\.kubernetes\\.io/revision}}={version}");
        ctx.wait("deployment/app", &revision)?;
    }
    eventually(Duration::from_secs(20), "the oldest are gone", || {
        let sets = ctx.list("replicasets", "app=app")?;
        ensure!(sets.len() == 2, "{} replica sets", sets.len());
        Ok(())
    })
}
