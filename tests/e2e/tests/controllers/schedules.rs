//! CronJobs, autoscalers, and pods that make room for others. What takes minutes is the simulator's.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, pod};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

pub fn a_cron_job_gives_jobs_by_hand_and_by_time(ctx: &Ctx) -> Result<()> {
    let spec = json!({"restartPolicy": "Never", "containers": [container("main", "echo tick")]});
    let template = json!({"spec": {"template": {"spec": spec}}});
    let cron = |schedule: &str, suspend: bool| {
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"},
            "spec": {"schedule": schedule, "suspend": suspend, "jobTemplate": template}})
    };
    ctx.apply(&[cron("0 0 1 1 *", false)])?;
    ctx.ok(&["create", "job", "--from=cronjob/tick", "by-hand"])?;
    ctx.wait("job/by-hand", "condition=Complete")?;
    ensure!(ctx.ok(&["logs", "job/by-hand"])?.contains("tick"));
    ensure!(ctx.field("cronjob/tick", ".status.lastScheduleTime")?.is_empty());
    ctx.apply(&[cron("* * * * *", false)])?;
    eventually(Duration::from_secs(90), "a minute has begun", || {
        ensure!(!ctx.field("cronjob/tick", ".status.lastSuccessfulTime")?.is_empty());
        let jobs = ctx.ok(&["get", "jobs", "-o", "name"])?;
        ensure!(jobs.contains("job.batch/tick-"), "{jobs}");
        Ok(())
    })?;
    ensure!(ctx.ok(&["describe", "cronjob/tick"])?.contains("SuccessfulCreate"));
    ctx.apply(&[cron("* * * * *", true)])?;
    ctx.ok(&["delete", "cronjob", "tick"])?;
    eventually(LIMIT, "its jobs go with it", || {
        let jobs = ctx.ok(&["get", "jobs", "-o", "name"])?;
        ensure!(!jobs.contains("tick-"), "{jobs}");
        Ok(())
    })
}

pub fn an_autoscaler_keeps_its_bounds_and_says_what_it_lacks(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[
        e2e::deployment("web", 1, json!([container("main", IDLE)])),
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 2, "maxReplicas": 3, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    ])?;
    ctx.wait("deployment/web", "jsonpath={.status.readyReplicas}=2")?;
    ctx.wait("hpa/web", "jsonpath={.status.conditions[?(@.type==\"AbleToScale\")].status}=True")?;
    // Without requests, or without metrics, there is nothing to work with.
    ctx.wait("hpa/web", "jsonpath={.status.conditions[?(@.type==\"ScalingActive\")].reason}=FailedGetResourceMetric")
}

fn big(name: &str, class: &str, cpu: &str) -> Value {
    let c = json!({"resources": {"requests": {"cpu": cpu}}});
    let spec = json!({"priorityClassName": class, "terminationGracePeriodSeconds": 1, "containers": [e2e::merge(container("main", IDLE), c)]});
    pod(name, IDLE, spec)
}

pub fn a_pod_of_high_priority_takes_the_place_of_a_lower_one(ctx: &Ctx) -> Result<()> {
    let nodes: Value = serde_json::from_str(&ctx.ok(&["get", "nodes", "-o", "json"])?)?;
    let cpu = nodes["items"][0]["status"]["allocatable"]["cpu"].as_str().unwrap_or("0").to_owned();
    let milli: u32 = cpu.strip_suffix('m').map_or_else(|| cpu.parse::<u32>().map(|n| n * 1000), str::parse)?;
    let share = format!("{}m", milli * 6 / 10);
    ctx.ready_pod(big("low", "", &share))?;
    ctx.apply(&[big("high", "system-cluster-critical", &share)])?;
    ctx.wait("pod/high", "condition=Ready")?;
    eventually(LIMIT, "the lower one is gone", || {
        let left = ctx.ok(&["get", "pod", "low", "--ignore-not-found", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    ensure!(ctx.ok(&["get", "events"])?.contains("Preempted"));
    Ok(())
}
