//! kubectl rollout, scale, set.

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, deployment};
use serde_json::{Value, json};

fn with_env(version: &str) -> Value {
    let mut c = container("main", IDLE);
    c["env"] = json!([{"name": "VERSION", "value": version}]);
    deployment("app", 2, json!([c]))
}

fn version_of_pods(ctx: &Ctx) -> Result<Vec<String>> {
    let pods = ctx.list("pods", "app=app")?;
    let live = pods.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    Ok(live.map(|p| p["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or("").to_owned()).collect())
}

pub fn rollout_status_history_undo_pause_and_resume(ctx: &Ctx) -> Result<()> {
    let done = |ctx: &Ctx| ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"]);
    ctx.apply(&[with_env("1")])?;
    ensure!(done(ctx)?.contains("successfully rolled out"));
    ctx.ok(&["annotate", "deployment/app", "kubernetes.io/change-cause=first"])?;
    ctx.apply(&[with_env("2")])?;
    ctx.ok(&["annotate", "--overwrite", "deployment/app", "kubernetes.io/change-cause=second"])?;
    done(ctx)?;
    let history = ctx.ok(&["rollout", "history", "deployment/app"])?;
    let rows: Vec<Vec<&str>> = history.lines().map(|l| l.split_whitespace().collect()).collect();
    ensure!(rows.contains(&vec!["1", "first"]) && rows.contains(&vec!["2", "second"]), "{history}");
    let detail = ctx.ok(&["rollout", "history", "deployment/app", "--revision=1"])?;
    ensure!(detail.contains("VERSION:\t1"), "{detail}");
    ctx.ok(&["rollout", "undo", "deployment/app"])?;
    done(ctx)?;
    ensure!(version_of_pods(ctx)? == ["1", "1"], "{:?}", version_of_pods(ctx)?);
    ensure!(ctx.ok(&["rollout", "history", "deployment/app"])?.contains('3'));

    ctx.ok(&["rollout", "pause", "deployment/app"])?;
    let generation = ctx.field("deployment/app", ".metadata.generation")?;
    ctx.apply(&[with_env("4")])?;
    let next = (generation.parse::<u64>()? + 1).to_string();
    ctx.wait("deployment/app", &format!("jsonpath={{.status.observedGeneration}}={next}"))?;
    ensure!(version_of_pods(ctx)? == ["1", "1"], "a paused rollout went on");
    ensure!(
        ctx.field("deployment/app", ".status.conditions[?(@.type==\"Progressing\")].reason")? == "DeploymentPaused"
    );
    ctx.ok(&["rollout", "resume", "deployment/app"])?;
    done(ctx)?;
    ensure!(version_of_pods(ctx)? == ["4", "4"]);
    ctx.ok(&["rollout", "restart", "deployment/app"])?;
    done(ctx)?;
    ensure!(ctx.field("deployment/app", ".status.updatedReplicas")? == "2");
    Ok(())
}

pub fn scale_and_set_image_change_the_running_pods(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[with_env("1")])?;
    ctx.ok(&["scale", "deployment/app", "--replicas=3"])?;
    ctx.wait("deployment/app", "jsonpath={.status.readyReplicas}=3")?;
    ensure!(
        ctx.fails(&["scale", "deployment/app", "--current-replicas=7", "--replicas=9"])?
            .contains("Expected replicas to be 7")
    );
    ctx.ok(&["scale", "deployment/app", "--replicas=0"])?;
    ctx.none_left("pods", "app=app")?;
    ctx.ok(&["scale", "deployment/app", "--replicas=1"])?;
    ctx.ok(&["set", "env", "deployment/app", "VERSION=set"])?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    ensure!(version_of_pods(ctx)? == ["set"]);
    ctx.ok(&["set", "resources", "deployment/app", "--limits=memory=64Mi"])?;
    ensure!(ctx.field("deployment/app", ".spec.template.spec.containers[0].resources.limits.memory")? == "64Mi");
    ctx.ok(&["set", "image", "deployment/app", "main=windlass.local/none:2"])?;
    let images = ctx.ok(&["get", "deployment/app", "-o", "wide"])?;
    ensure!(images.contains("windlass.local/none:2"), "{images}");
    // The new pods cannot start, so the old one stays.
    ctx.wait("deployment/app", "jsonpath={.status.unavailableReplicas}=1")?;
    ensure!(ctx.field("deployment/app", ".status.readyReplicas")? == "1");
    Ok(())
}
