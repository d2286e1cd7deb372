//! StatefulSets.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, merge};
use serde_json::{Value, json};

fn set(replicas: u32, version: &str, partition: u32) -> Value {
    let script = format!("echo $HOSTNAME >> /data/who; {IDLE}");
    let main = json!({
        "env": [{"name": "V", "value": version}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"exec": {"command": ["test", "-s", "/data/who"]}, "periodSeconds": 1},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db", "replicas": replicas, "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 3, "containers": [merge(container("main", &script), main)]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
            }],
        },
    })
}

fn rolled_out(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["rollout", "status", "statefulset/db", "--timeout=90s"]).map(drop)
}

pub fn pods_start_in_order_with_claims_of_their_own_and_keep_them(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[set(3, "1", 0)])?;
    rolled_out(ctx)?;
    // Each was scheduled only after the one before was ready.
    let time = |pod: &str, condition: &str| {
        ctx.field(pod, &format!(".status.conditions[?(@.type==\"{condition}\")].lastTransitionTime"))
    };
    for (earlier, later) in [("pod/db-0", "pod/db-1"), ("pod/db-1", "pod/db-2")] {
        let (ready, scheduled) = (time(earlier, "Ready")?, time(later, "PodScheduled")?);
        ensure!(
            !ready.is_empty() && ready <= scheduled,
            "{later} was scheduled at {scheduled}, {earlier} ready at {ready}"
        );
    }
    for n in 0..3 {
        ensure!(ctx.sh(&format!("db-{n}"), "cat /data/who")? == format!("db-{n}"));
        ensure!(ctx.field(&format!("pvc/data-db-{n}"), ".status.phase")? == "Bound");
    }
    // A lost pod comes back with its name and its data.
    let uid = ctx.field("pod/db-1", ".metadata.uid")?;
    ctx.ok(&["delete", "pod", "db-1"])?;
    eventually(Duration::from_secs(30), "db-1 is back", || {
        let now = ctx.field("pod/db-1", ".metadata.uid")?;
        ensure!(now != uid, "it is the same");
        Ok(())
    })?;
    ctx.wait("pod/db-1", "condition=Ready")?;
    ensure!(ctx.sh("db-1", "cat /data/who")? == "db-1\ndb-1");
    // Scaled down from the end, and the claims stay for when it comes back.
    ctx.ok(&["scale", "statefulset/db", "--replicas=1"])?;
    ctx.wait("pod/db-2", "delete")?;
    ctx.wait("pod/db-1", "delete")?;
    ensure!(ctx.field("pvc/data-db-2", ".status.phase")? == "Bound");
    ctx.ok(&["scale", "statefulset/db", "--replicas=2"])?;
    rolled_out(ctx)?;
    ensure!(ctx.sh("db-1", "wc -l < /data/who")? == "3");
    Ok(())
}

pub fn an_update_goes_from_the_last_to_the_first_and_stops_at_the_partition(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[set(3, "1", 0)])?;
    rolled_out(ctx)?;
    let versions = || -> Result<Vec<String>> {
        (0..3).map(|n| ctx.field(&format!("pod/db-{n}"), ".spec.containers[0].env[0].value")).collect()
    };
    ctx.apply(&[set(3, "2", 1)])?;
    eventually(Duration::from_secs(60), "two are updated", || {
        let now = versions()?;
        ensure!(now == ["1", "2", "2"], "{now:?}");
        ensure!(ctx.field("statefulset/db", ".status.readyReplicas")? == "3", "not all are ready");
        Ok(())
    })?;
    let created = |n: u32| ctx.field(&format!("pod/db-{n}"), ".metadata.creationTimestamp");
    ensure!(created(2)? <= created(1)?, "db-1 was updated before db-2");
    ctx.apply(&[set(3, "2", 0)])?;
    rolled_out(ctx)?;
    ensure!(versions()? == ["2", "2", "2"]);
    let status = ctx.json("statefulset/db")?["status"].clone();
    ensure!(status["currentRevision"] == status["updateRevision"], "{status}");
    Ok(())
}
