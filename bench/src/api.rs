//! Request rates of the API server.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::client::{Connection, Target};
use crate::processes::Server;
use crate::report::{Round, row, spent};
use crate::{report, stock};

const COLLECTION: &str = "/api/v1/namespaces/bench/configmaps";
const WATCHED: &str = "/api/v1/namespaces/bench-watch/configmaps";
const ROUNDS: usize = 3;
const LIST_OBJECTS: u64 = 5_000;
const WATCHERS: usize = 100;
const UPDATES: u64 = 1_000;
/// Each object's payload, bytes.
const PAYLOAD: usize = 1024;
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// A ConfigMap with 1 KiB of data.
pub fn object(name: &str) -> Bytes {
    let data = "x".repeat(PAYLOAD);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": data}});
    Bytes::from(body.to_string())
}

/// Makes a namespace.
pub async fn namespace(c: &mut Connection, name: &str) -> anyhow::Result<()> {
    let ns = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
    c.call(Method::POST, "/api/v1/namespaces", Some((JSON, ns.into()))).await.map(drop)
}

/// Runs every measurement and prints a row for each.
pub async fn run(kubeconfig: &Path, server: Option<Server>, seconds: u64, connections: usize) -> anyhow::Result<()> {
    let target = Target::read(kubeconfig)?;
    let mut one = target.connect().await?;
    namespace(&mut one, "bench").await?;
    namespace(&mut one, "bench-watch").await?;
    report::heading();
    let span = Duration::from_secs(seconds);
    let counter = Arc::new(AtomicU64::new(0));
    for (what, reported) in [("create", stock::CREATE), ("get", stock::GET), ("patch", stock::PATCH)] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(rate(&target, server, what, span, connections, &counter).await?);
        }
        row(&format!("ConfigMap {what}, {connections} connections"), &rounds, "/s", Some(reported));
    }
    list(&target, server, &counter).await?;
    for (writers, told) in [(1, "one writer"), (connections, "32 writers")] {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            rounds.push(watch(&target, server, writers, &format!("w{writers}-{round}")).await?);
        }
        let told = if writers == 1 { told.to_owned() } else { told.replace("32", &writers.to_string()) };
        row(&format!("100 watchers × 1,000 updates, {told}"), &rounds, " events/s", Some(stock::EVENTS));
    }
    // The first connection has been idle for longer than servers keep such open.
    let mut one = target.connect().await?;
    for ns in ["bench", "bench-watch"] {
        one.call(Method::DELETE, &format!("/api/v1/namespaces/{ns}"), None).await?;
    }
    Ok(())
}

fn usage(server: Option<Server>) -> Option<crate::processes::Usage> {
    server.and_then(|s| s.usage())
}

/// Requests per second of one kind.
async fn rate(
    target: &Target,
    server: Option<Server>,
    what: &'static str,
    span: Duration,
    connections: usize,
    counter: &Arc<AtomicU64>,
) -> anyhow::Result<Round> {
    let done = Arc::new(AtomicU64::new(0));
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(target.connect().await?);
    }
    let (started, before) = (Instant::now(), usage(server));
    let mut workers = Vec::new();
    for mut connection in open {
        let (done, counter) = (done.clone(), counter.clone());
        workers.push(tokio::spawn(async move {
            while started.elapsed() < span {
                once(&mut connection, what, &counter).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    for worker in workers {
        worker.await??;
    }
    Ok(Round::rate(done.load(Ordering::Relaxed), started.elapsed().as_secs_f64(), before, usage(server)))
}

async fn once(c: &mut Connection, what: &str, counter: &AtomicU64) -> anyhow::Result<()> {
    let made = counter.load(Ordering::Relaxed).max(1);
    match what {
        "create" => {
            let name = format!("c{}", counter.fetch_add(1, Ordering::Relaxed));
            c.call(Method::POST, COLLECTION, Some((JSON, object(&name)))).await?;
        }
        "get" => {
            let path = format!("{COLLECTION}/c{}", rand_number() % made.min(1000));
            c.call(Method::GET, &path, None).await?;
        }
        _ => {
            let patch = json!({"data": {"n": rand_number().to_string()}});
            let path = format!("{COLLECTION}/c{}", rand_number() % made.min(1000));
            c.call(Method::PATCH, &path, Some((MERGE, patch.to_string().into()))).await?;
        }
    }
    Ok(())
}

/// A number that differs from call to call; quality does not matter here.
fn rand_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Milliseconds for a list of 5,000 objects of 1 KiB.
async fn list(target: &Target, server: Option<Server>, counter: &Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut c = target.connect().await?;
    let mut made = counter.load(Ordering::Relaxed);
    while made < LIST_OBJECTS {
        let name = format!("c{made}");
        c.call(Method::POST, COLLECTION, Some((JSON, object(&name)))).await?;
        made += 1;
    }
    counter.store(made, Ordering::Relaxed);
    let mut rounds = Vec::new();
    // The first few of a connection are slower: the kernel widens its windows as it sees what comes.
    for _ in 0..ROUNDS * 10 {
        let (started, before) = (Instant::now(), usage(server));
        let bytes = c.call(Method::GET, &format!("{COLLECTION}?limit={LIST_OBJECTS}"), None).await?;
        let value = started.elapsed().as_secs_f64() * 1000.0;
        rounds.push(Round { value, cpu_us: spent(1, before, usage(server)) });
        anyhow::ensure!(bytes.len() > PAYLOAD * 4000, "the list is too short: {} bytes", bytes.len());
    }
    row("list of 5,000 ConfigMaps of 1 KiB", &rounds, " ms", Some(stock::LIST_MS));
    Ok(())
}

/// Events per second to 100 watchers of 1,000 updates, by so many writers, each of its own object. One writer waits for the
/// disk 1,000 times; many wait together.
async fn watch(target: &Target, server: Option<Server>, writers: usize, label: &str) -> anyhow::Result<Round> {
    let mut connections = Vec::new();
    for writer in 0..writers {
        let mut c = target.connect().await?;
        let name = format!("{label}-{writer}");
        let mut made: serde_json::Value = serde_json::from_slice(&object(&name))?;
        made["metadata"]["labels"] = json!({"round": label});
        c.call(Method::POST, WATCHED, Some((JSON, made.to_string().into()))).await?;
        connections.push((c, name));
    }
    let listed = connections[0].0.call(Method::GET, &format!("{WATCHED}?limit=1"), None).await?;
    let listed: serde_json::Value = serde_json::from_slice(&listed)?;
    let from = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!("{WATCHED}?watch=1&resourceVersion={from}&labelSelector=round%3D{label}");
    let mut watchers = Vec::new();
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    for _ in 0..WATCHERS {
        let (target, path, ready) = (target.clone(), path.clone(), ready.clone());
        watchers.push(tokio::spawn(async move {
            let mut c = target.connect().await?;
            let mut body = c.open(Method::GET, &path, None).await?.into_body();
            ready.add_permits(1);
            let mut seen = 0;
            while seen < UPDATES {
                let Some(frame) = body.frame().await else { anyhow::bail!("a watch ended after {seen} events") };
                if let Ok(data) = frame?.into_data() {
                    seen += data.iter().filter(|b| **b == b'\n').count() as u64;
                }
            }
            anyhow::ensure!(seen == UPDATES, "{seen} events of {UPDATES} updates");
            anyhow::Ok(())
        }));
    }
    let _all = ready.acquire_many(WATCHERS as u32).await?;
    let (started, before) = (Instant::now(), usage(server));
    let next = Arc::new(AtomicU64::new(0));
    let mut patching = Vec::new();
    for (mut c, name) in connections {
        let next = next.clone();
        patching.push(tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= UPDATES {
                    return anyhow::Ok(());
                }
                let patch = json!({"data": {"n": n.to_string()}}).to_string();
                c.call(Method::PATCH, &format!("{WATCHED}/{name}"), Some((MERGE, patch.into()))).await?;
            }
        }));
    }
    for task in patching.into_iter().chain(watchers) {
        task.await??;
    }
    let events = WATCHERS as u64 * UPDATES;
    Ok(Round::rate(events, started.elapsed().as_secs_f64(), before, usage(server)))
}
