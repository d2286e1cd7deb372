//! `containers/{id}/stats`: what a container uses, once a second.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use engine::runtime::{ContainerRuntime, Usage};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::containers::record::Record;
use crate::face::{Container, Face};
use crate::fault::Result;
use crate::http::{Answer, CHUNKS, Call, streaming};

const EVERY: Duration = Duration::from_secs(1);

/// A look.
#[derive(Debug, Clone)]
struct Sample {
    read: String,
    usage: Usage,
    system_ns: u64,
}

/// `GET /containers/{id}/stats`.
///
/// # Errors
/// 404.
pub async fn respond(call: Call, id: &str) -> Result<Answer> {
    let container = call.face.shown(id)?;
    let (stream, one) = (call.query.flag_or("stream", true), call.query.flag("one-shot"));
    let (tx, rx) = mpsc::channel(CHUNKS);
    let (face, drain) = (call.face.clone(), call.face.drain());
    let config = face.engine.network().config();
    let prefixes = [config.veth_prefix.clone(), config.plug_prefix.clone()];
    tokio::spawn(async move {
        let looking = async {
            let mut before: Option<Sample> = None;
            loop {
                let now = look(&face, &container).await;
                let settled = stream || one || before.is_some() || now.is_none();
                let line = || document(&container.record(), before.as_ref(), now.as_ref(), &prefixes);
                if settled && tx.send(format!("{}\n", line()).into()).await.is_err() {
                    return;
                }
                if !stream && settled || container.seen.borrow().removed {
                    return;
                }
                before = now;
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = crate::containers::pods::follow(&face, &container) => {}
            () = tx.closed() => {}
            () = drain.cancelled() => {}
        }
    });
    Ok(streaming("application/json", rx))
}

async fn look(face: &Arc<Face>, container: &Arc<Container>) -> Option<Sample> {
    if !container.phase().is_live() {
        return None;
    }
    let usage = face.engine.usage(&container.id).await.ok()?;
    Some(Sample { read: jiff::Timestamp::now().to_string(), usage, system_ns: system_ns() })
}

/// Time that all processors have spent, nanoseconds (proc_stat(5)): its ticks are hundredths of a second.
fn system_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * 10_000_000
}

fn memory_of_host() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Counters of the container's interfaces, seen from the host: what it sends the host receives.
fn traffic(record: &Record, prefixes: &[String; 2]) -> Option<Value> {
    let bridged = record.state.ip.as_ref().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
    let name = Some(record.state.bridge_interface.as_str()).filter(|n| !n.is_empty()).unwrap_or("eth0");
    let bridged = bridged.map(|ip| (name, &prefixes[0], ip));
    let others = record.state.endpoints.values().map(|h| (h.interface.as_str(), &prefixes[1], h.ip));
    let mut all = serde_json::Map::new();
    for (interface, prefix, address) in bridged.into_iter().chain(others) {
        all.insert(interface.to_owned(), counters(&format!("{prefix}{:08x}", u32::from(address)))?);
    }
    (!all.is_empty()).then_some(Value::Object(all))
}

fn counters(of_host: &str) -> Option<Value> {
    let folder = format!("/sys/class/net/{of_host}/statistics");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse::<u64>().ok();
    Some(json!({
        "rx_bytes": read("tx_bytes")?, "rx_packets": read("tx_packets")?, "rx_errors": read("tx_errors")?, "rx_dropped": read("tx_dropped")?,
        "tx_bytes": read("rx_bytes")?, "tx_packets": read("rx_packets")?, "tx_errors": read("rx_errors")?, "tx_dropped": read("rx_dropped")?,
    }))
}

fn cpu(sample: Option<&Sample>) -> Value {
    let Some(sample) = sample else { return json!({ "cpu_usage": { "total_usage": 0 }, "throttling_data": {} }) };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    json!({
        "cpu_usage": { "total_usage": sample.usage.cpu_ns, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
        "system_cpu_usage": sample.system_ns, "online_cpus": cpus,
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

fn document(record: &Record, before: Option<&Sample>, now: Option<&Sample>, prefixes: &[String; 2]) -> Value {
    let never = "0001-01-01T00:00:00Z";
    let mut document = json!({
        "name": format!("/{}", record.name), "id": record.id,
        "read": now.map_or(never, |s| &s.read), "preread": before.map_or(never, |s| &s.read),
        "num_procs": 0, "storage_stats": {}, "cpu_stats": cpu(now), "precpu_stats": cpu(before),
        "blkio_stats": { "io_service_bytes_recursive": null }, "pids_stats": {}, "memory_stats": {},
    });
    let Some(now) = now else { return document };
    let most = u64::try_from(record.host.memory).ok().filter(|m| *m > 0).unwrap_or_else(memory_of_host);
    let inactive = now.usage.memory_bytes.saturating_sub(now.usage.working_set_bytes);
    document["memory_stats"] = json!({
        "usage": now.usage.memory_bytes, "limit": most,
        "stats": { "inactive_file": inactive, "total_inactive_file": inactive },
    });
    document["pids_stats"] = json!({ "current": now.usage.pids });
    if let Some(limit) = record.host.pids_limit.filter(|l| *l > 0) {
        document["pids_stats"]["limit"] = json!(limit);
    }
    if let Some(traffic) = traffic(record, prefixes) {
        document["networks"] = traffic;
    }
    document
}
