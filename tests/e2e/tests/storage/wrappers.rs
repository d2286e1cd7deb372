//! Many written volumes in one pod.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, merge};
use serde_json::{Value, json};

use crate::table::{self, Case, mounts};

// conformance: [sig-storage] EmptyDir wrapper volumes should not conflict
pub fn a_secret_and_a_config_map_do_not_conflict(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "map", "--from-literal=data-1=value-1"])?;
    ctx.ok(&["create", "secret", "generic", "word", "--from-literal=data-1=value-2"])?;
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": mounts(&[("s", "/etc/secret-volume"), ("c", "/etc/configmap-volume")])}],
        "volumes": [{"name": "s", "secret": {"secretName": "word"}}, {"name": "c", "configMap": {"name": "map"}}],
    });
    let script = "cat /etc/configmap-volume/data-1; echo; cat /etc/secret-volume/data-1";
    table::check(ctx, &[Case::new("both", script, spec, "value-1\nvalue-2")])
}

const MAPS: usize = 50;
const REPLICAS: usize = 5;

// conformance: [sig-storage] EmptyDir wrapper volumes should not cause race condition when used for configmaps
pub fn many_config_maps_in_many_pods_do_not_race(ctx: &Ctx) -> Result<()> {
    let name = |n: usize| format!("racey-{n}");
    let map = |n: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(n)}, "data": {"data-1": format!("value-{n}")}});
    let maps: Vec<Value> = (0..MAPS).map(map).collect();
    ctx.feed(&["create", "-f", "-"], &maps)?.ok()?;
    let at: Vec<(String, String)> = (0..MAPS).map(|n| (name(n), format!("/etc/config-{n}"))).collect();
    let at: Vec<(&str, &str)> = at.iter().map(|(name, path)| (name.as_str(), path.as_str())).collect();
    let volumes: Vec<Value> = (0..MAPS).map(|n| json!({"name": name(n), "configMap": {"name": name(n)}})).collect();
    // A pod that lacks one of them, or has another in its place, ends, and never counts as ready again.
    let script = format!(
        "for n in $(seq 0 {}); do [ \"$(cat /etc/config-$n/data-1)\" = value-$n ] || exit 1; done; touch /tmp/ok; {IDLE}",
        MAPS - 1
    );
    let probe = json!({"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "timeoutSeconds": 30});
    let main = merge(container("main", &script), json!({"volumeMounts": mounts(&at), "readinessProbe": probe}));
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "racey"},
        "spec": {"replicas": REPLICAS, "selector": {"app": "racey"}, "template": {
            "metadata": {"labels": {"app": "racey"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [main], "volumes": volumes},
        }},
    });
    ctx.apply(&[controller])?;
    ctx.wait_for("rc/racey", &format!("jsonpath={{.status.readyReplicas}}={REPLICAS}"), Duration::from_secs(120))?;
    let events = ctx.ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{\"\\n\"}{end}"])?;
    ensure!(!events.contains("FailedMount"), "{events}");
    Ok(())
}
