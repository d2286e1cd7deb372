//! `/stats/summary`: the kubelet's Summary API (stats/v1alpha1), as far as processor, memory and disk go.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{HostUse, Look, PodUse, Rate, Running};
use crate::host::Host;
use crate::server::{NodeFacts, Shared};
use crate::volumes::stats::{Fill, Seen};

fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// With a field beside Kubernetes' own: the time that the rate is of.
fn cpu(at: &str, rate: Option<Rate>, total: u64) -> Value {
    let mut out = json!({"time": at, "usageCoreNanoSeconds": total});
    if let Some(rate) = rate {
        out["usageNanoCores"] = rate.nanos.into();
        out["usageWindowSeconds"] = rate.window.as_secs_f64().into();
    }
    out
}

fn memory(at: &str, bytes: u64, working_set: u64) -> Value {
    json!({"time": at, "usageBytes": bytes, "workingSetBytes": working_set})
}

fn container(at: &str, c: &Running, written: Option<u64>) -> Value {
    let started = jiff::Timestamp::from_millisecond(c.started_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let mut out = json!({
        "name": c.status.spec.name,
        "startTime": time(started),
        "cpu": cpu(at, c.rate, c.usage.cpu_ns),
        "memory": memory(at, c.usage.memory_bytes, c.usage.working_set_bytes),
    });
    if let Some(bytes) = written {
        out["rootfs"] = json!({"time": at, "usedBytes": bytes});
    }
    out
}

fn volume(at: &str, namespace: &str, seen: &Seen) -> Value {
    let Fill { capacity_bytes, available_bytes, used_bytes, inodes, inodes_free, inodes_used } = seen.fill;
    let mut out = json!({"time": at, "name": seen.name, "pvcRef": {"name": seen.claim, "namespace": namespace}});
    for (key, value) in [
        ("capacityBytes", capacity_bytes),
        ("availableBytes", available_bytes),
        ("usedBytes", used_bytes),
        ("inodes", inodes),
        ("inodesFree", inodes_free),
        ("inodesUsed", inodes_used),
    ] {
        if let Some(value) = value {
            out[key] = value.into();
        }
    }
    out
}

fn pod(at: &str, p: &PodUse, containers: Vec<Value>) -> Value {
    let nanos: Option<u64> = p.containers.iter().map(|c| c.rate.map(|r| r.nanos)).sum();
    let window = p.containers.iter().filter_map(|c| c.rate).map(|r| r.window).max();
    let rates = nanos.zip(window).map(|(nanos, window)| Rate { nanos, window });
    let sum = |of: fn(&Running) -> u64| p.containers.iter().map(of).sum::<u64>();
    json!({
        "podRef": {"name": p.name, "namespace": p.namespace, "uid": p.uid},
        "startTime": p.started.map(time),
        "containers": containers,
        "cpu": cpu(at, rates, sum(|c| c.usage.cpu_ns)),
        "memory": memory(at, sum(|c| c.usage.memory_bytes), sum(|c| c.usage.working_set_bytes)),
        "process_stats": {"process_count": sum(|c| c.usage.pids)},
    })
}

fn node(at: &str, host: &HostUse, facts: Option<&NodeFacts>) -> Value {
    let mut out = json!({
        "nodeName": facts.map(|f| f.name.as_str()).unwrap_or_default(),
        "cpu": cpu(at, host.rate, host.cpu_ns),
        "memory": memory(at, host.memory_bytes, host.memory_bytes),
    });
    out["memory"]["availableBytes"] = host.available_bytes.into();
    if let Some(disk) = facts.and_then(|f| Host::disk(&f.data)) {
        out["fs"] = json!({
            "time": at, "availableBytes": disk.free, "capacityBytes": disk.total,
            "usedBytes": disk.total.saturating_sub(disk.free), "inodesFree": disk.free_inodes, "inodes": disk.inodes,
        });
    }
    out
}

/// The document. With `only_cpu_and_memory`, disks are left out, whose measuring takes long.
pub(in crate::server) async fn summary(shared: &Shared, look: &Look, only_cpu_and_memory: bool) -> Value {
    let at = time(look.at);
    let volumes = match shared.node.as_ref().filter(|_| !only_cpu_and_memory) {
        Some(facts) => facts.volumes.look().await,
        None => BTreeMap::new(),
    };
    let mut pods = Vec::with_capacity(look.pods.len());
    for p in &look.pods {
        let mut containers = Vec::with_capacity(p.containers.len());
        for c in &p.containers {
            let written = match only_cpu_and_memory {
                true => None,
                false => shared.runtime.written(&c.status.spec.id).await.ok().map(|w| w.bytes),
            };
            containers.push(container(&at, c, written));
        }
        let mut document = pod(&at, p, containers);
        if let Some(seen) = volumes.get(&p.uid) {
            document["volume"] = seen.iter().map(|v| volume(&at, &p.namespace, v)).collect();
        }
        pods.push(document);
    }
    json!({"node": node(&at, &look.host, shared.node.as_ref()), "pods": pods})
}
