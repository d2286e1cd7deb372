//! Jobs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, container, eventually};
use serde_json::{Value, json};

fn job(name: &str, script: &str, spec: Value) -> Value {
    let base = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container("main", script)]}}},
    });
    e2e::merge(base, json!({"spec": spec}))
}

pub fn a_job_completes_and_keeps_its_count(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[job("three", "echo done", json!({"completions": 3, "parallelism": 2}))])?;
    ctx.wait("job/three", "condition=Complete")?;
    let status = ctx.json("job/three")?["status"].clone();
    ensure!(status["succeeded"] == 3 && status["completionTime"].is_string(), "{status}");
    let pods = ctx.list("pods", "batch.kubernetes.io/job-name=three")?;
    ensure!(pods.len() == 3 && pods.iter().all(|p| p["status"]["phase"] == "Succeeded"), "{} pods", pods.len());
    ensure!(ctx.ok(&["logs", "job/three"])?.contains("done"));
    // Its pods can be read until it is deleted, and go with it.
    ctx.ok(&["delete", "job", "three"])?;
    ctx.none_left("pods", "batch.kubernetes.io/job-name=three")
}

pub fn the_running_pods_of_a_deleted_job_go_with_it(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[job("long", e2e::IDLE, json!({"completions": 2, "parallelism": 2}))])?;
    ctx.wait("job/long", "jsonpath={.status.ready}=2")?;
    ctx.ok(&["delete", "job", "long", "--cascade=background"])?;
    ctx.none_left("pods", "batch.kubernetes.io/job-name=long")?;
    // Orphaned ones are nobody's to count: they run on, and nothing keeps them from being deleted.
    ctx.apply(&[job("kept", e2e::IDLE, json!({}))])?;
    ctx.wait("job/kept", "jsonpath={.status.ready}=1")?;
    ctx.ok(&["delete", "job", "kept", "--cascade=orphan"])?;
    let selector = "batch.kubernetes.io/job-name=kept";
    eventually(Duration::from_secs(60), "the pod is let go", || {
        let pods = ctx.list("pods", selector)?;
        let metadata = pods.first().map(|p| &p["metadata"]).context("it runs on")?;
        ensure!(metadata["ownerReferences"].is_null() && metadata["finalizers"].is_null(), "{metadata}");
        ensure!(metadata["deletionTimestamp"].is_null(), "{metadata}");
        Ok(())
    })?;
    ctx.ok(&["delete", "pods", "-l", selector])?;
    ctx.none_left("pods", selector)
}

pub fn a_failing_job_is_given_up_after_its_limit(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[job("bad", "exit 5", json!({"backoffLimit": 1}))])?;
    ctx.wait_for("job/bad", "condition=Failed", Duration::from_secs(90))?;
    let status = ctx.json("job/bad")?["status"].clone();
    ensure!(status["failed"] == 2, "{status}");
    let failed = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Failed").cloned();
    ensure!(failed.is_some_and(|c| c["reason"] == "BackoffLimitExceeded"), "{status}");
    // A policy can tell a hopeless failure from one to try again.
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    ctx.apply(&[job("hopeless", "exit 42", json!({"backoffLimit": 6, "podFailurePolicy": policy}))])?;
    ctx.wait("job/hopeless", "condition=Failed")?;
    ensure!(ctx.field("job/hopeless", ".status.conditions[?(@.type==\"Failed\")].reason")? == "PodFailurePolicy");
    ensure!(ctx.field("job/hopeless", ".status.failed")? == "1");
    Ok(())
}

pub fn an_indexed_job_runs_every_index_once(ctx: &Ctx) -> Result<()> {
    let indexed = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"});
    ctx.apply(&[job("parts", "echo part $JOB_COMPLETION_INDEX of $HOSTNAME", indexed)])?;
    ctx.wait("job/parts", "condition=Complete")?;
    ensure!(ctx.field("job/parts", ".status.completedIndexes")? == "0-2");
    let mut said: Vec<String> = ctx
        .ok(&["logs", "-l", "job-name=parts"])?
        .lines()
        .map(|l| l.split(" of ").next().unwrap_or("").to_owned())
        .collect();
    said.sort();
    ensure!(said == ["part 0", "part 1", "part 2"], "{said:?}");
    Ok(())
}

pub fn a_deadline_ends_a_job_and_its_time_to_live_removes_it(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[job("slow", "sleep 600", json!({"activeDeadlineSeconds": 2}))])?;
    ctx.wait("job/slow", "condition=Failed")?;
    ensure!(ctx.field("job/slow", ".status.conditions[?(@.type==\"Failed\")].reason")? == "DeadlineExceeded");
    eventually(Duration::from_secs(30), "its pod has ended", || {
        let active = ctx.field("job/slow", ".status.active")?;
        ensure!(active.is_empty() || active == "0", "{active} active");
        Ok(())
    })?;
    ctx.apply(&[job("brief", "true", json!({"ttlSecondsAfterFinished": 1}))])?;
    eventually(Duration::from_secs(60), "it has removed itself", || {
        let left = ctx.ok(&["get", "job", "brief", "--ignore-not-found", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    ctx.none_left("pods", "job-name=brief")
}

pub fn indexes_fail_on_their_own_and_a_policy_ends_a_job_early(ctx: &Ctx) -> Result<()> {
    let indexed = |extra: Value| {
        e2e::merge(
            json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0}),
            extra,
        )
    };
    let odd = "test $JOB_COMPLETION_INDEX != 1";
    ctx.apply(&[job("odd", odd, indexed(json!({})))])?;
    ctx.wait("job/odd", "condition=Failed")?;
    let status = ctx.json("job/odd")?["status"].clone();
    let done = status["completedIndexes"] == "0,2" && status["failedIndexes"] == "1" && status["succeeded"] == 2;
    ensure!(done, "{status}");
    let reason = "{.status.conditions[?(@.type==\"Failed\")].reason}";
    ensure!(ctx.field("job/odd", reason.trim_matches(['{', '}']))? == "FailedIndexes");
    // One index is enough: the others are ended, and the Job has succeeded.
    let policy = json!({"successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}});
    ctx.apply(&[job("leader", "test $JOB_COMPLETION_INDEX = 0 || sleep 600", indexed(policy))])?;
    ctx.wait("job/leader", "condition=Complete")?;
    let status = ctx.json("job/leader")?["status"].clone();
    let early = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "SuccessCriteriaMet");
    ensure!(early.is_some_and(|c| c["reason"] == "SuccessPolicy") && status["completedIndexes"] == "0", "{status}");
    Ok(())
}
