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
use crate::median;

const COLLECTION: &str = "/api/v1/namespaces/bench/configmaps";
const ROUNDS: usize = 3;
const LIST_OBJECTS: u64 = 5_000;
const WATCHERS: usize = 100;
const UPDATES: u64 = 1_000;
/// Each object's payload, bytes.
const PAYLOAD: usize = 1024;

fn object(name: &str) -> Bytes {
    let data = "x".repeat(PAYLOAD);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": data}});
    Bytes::from(body.to_string())
}

/// Runs every measurement and prints a row for each.
pub async fn run(kubeconfig: &Path, seconds: u64, connections: usize) -> anyhow::Result<()> {
    let target = Target::read(kubeconfig)?;
    let mut one = target.connect().await?;
    let ns = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}}).to_string();
    one.call(Method::POST, "/api/v1/namespaces", Some(("application/json", ns.into()))).await?;
    println!("| measurement | median | rounds |\n|---|---|---|");
    let span = Duration::from_secs(seconds);
    let counter = Arc::new(AtomicU64::new(0));
    for what in ["create", "get", "patch"] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(rate(&target, what, span, connections, &counter).await?);
        }
        row(&format!("ConfigMap {what}, {connections} connections"), &rates, "/s");
    }
    list(&target, &counter).await?;
    watch(&target).await?;
    one.call(Method::DELETE, "/api/v1/namespaces/bench", None).await?;
    Ok(())
}

fn row(what: &str, values: &[f64], unit: &str) {
    let rounds: Vec<String> = values.iter().map(|v| format!("{v:.0}")).collect();
    println!("| {what} | {:.0}{unit} | {} |", median(values), rounds.join(", "));
}

/// Requests per second of one kind.
async fn rate(
    target: &Target,
    what: &'static str,
    span: Duration,
    connections: usize,
    counter: &Arc<AtomicU64>,
) -> anyhow::Result<f64> {
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..connections {
        let (target, done, counter) = (target.clone(), done.clone(), counter.clone());
        workers.push(tokio::spawn(async move {
            let mut connection = target.connect().await?;
            let started = Instant::now();
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
    Ok(done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}

async fn once(c: &mut Connection, what: &str, counter: &AtomicU64) -> anyhow::Result<()> {
    let made = counter.load(Ordering::Relaxed).max(1);
    match what {
        "create" => {
            let name = format!("c{}", counter.fetch_add(1, Ordering::Relaxed));
            c.call(Method::POST, COLLECTION, Some(("application/json", object(&name)))).await?;
        }
        "get" => {
            let path = format!("{COLLECTION}/c{}", (made * 7919 + u64::from(std::process::id())) % made.min(1000));
            c.call(Method::GET, &path, None).await?;
        }
        _ => {
            let at = counter.fetch_add(0, Ordering::Relaxed) % 1000;
            let patch = json!({"data": {"p": Instant::now().elapsed().as_nanos().to_string(), "n": rand_text()}});
            let path = format!("{COLLECTION}/c{}", (at + rand_number()) % 1000);
            c.call(Method::PATCH, &path, Some(("application/merge-patch+json", patch.to_string().into()))).await?;
        }
    }
    Ok(())
}

/// A number that differs from call to call; quality does not matter here.
fn rand_number() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn rand_text() -> String {
    rand_number().to_string()
}

/// Milliseconds for a list of 5,000 objects of 1 KiB.
async fn list(target: &Target, counter: &Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut c = target.connect().await?;
    let mut made = counter.load(Ordering::Relaxed);
    while made < LIST_OBJECTS {
        let name = format!("c{made}");
        c.call(Method::POST, COLLECTION, Some(("application/json", object(&name)))).await?;
        made += 1;
    }
    counter.store(made, Ordering::Relaxed);
    let mut times = Vec::new();
    for _ in 0..ROUNDS * 3 {
        let started = Instant::now();
        let bytes = c.call(Method::GET, &format!("{COLLECTION}?limit={LIST_OBJECTS}"), None).await?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        anyhow::ensure!(bytes.len() > PAYLOAD * 4000, "the list is too short: {} bytes", bytes.len());
    }
    row("list of 5,000 ConfigMaps of 1 KiB", &times, " ms");
    Ok(())
}

/// Events per second to 100 watchers of 1,000 updates.
async fn watch(target: &Target) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("w{round}");
        let mut c = target.connect().await?;
        c.call(Method::POST, COLLECTION, Some(("application/json", object(&name)))).await?;
        let path = format!("{COLLECTION}?watch=1&fieldSelector=metadata.name%3D{name}");
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
                anyhow::Ok(())
            }));
        }
        let _all = ready.acquire_many(WATCHERS as u32).await?;
        let started = Instant::now();
        for n in 0..UPDATES {
            let patch = json!({"data": {"n": n.to_string()}}).to_string();
            let path = format!("{COLLECTION}/{name}");
            c.call(Method::PATCH, &path, Some(("application/merge-patch+json", patch.into()))).await?;
        }
        for watcher in watchers {
            watcher.await??;
        }
        rates.push((WATCHERS as u64 * UPDATES) as f64 / started.elapsed().as_secs_f64());
    }
    row("100 watchers × 1,000 updates", &rates, " events/s");
    Ok(())
}
