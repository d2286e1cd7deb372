//! The stores alone, behind the trait through which the API server uses them: the embedded one, and etcd, in turn.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use store::{EtcdConfig, EtcdStore, Op, Options, RangeRequest, RedbStore, Store, Txn};

use crate::median;

const ROUNDS: usize = 3;
/// Bytes of a value.
const VALUE: usize = 1024;
/// An etcd that has not answered by then will not.
const START_MAX: Duration = Duration::from_secs(30);

/// An etcd of our own.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures writes and reads and prints a row for each.
pub async fn run(dir: &Path, etcd: Option<&Path>, seconds: u64, callers: usize) -> anyhow::Result<()> {
    let own: Arc<dyn Store> = Arc::new(RedbStore::open(&dir.join("raw.redb"), Options::default())?);
    let (_running, other): (Option<Etcd>, Option<Arc<dyn Store>>) = match etcd {
        None => (None, None),
        Some(program) => {
            let (running, store) = start(dir, program).await?;
            (Some(running), Some(Arc::new(store)))
        }
    };
    println!(
        "| store alone, {callers} callers, values of 1 KiB | embedded | etcd | ratio of each round |\n|---|---|---|---|"
    );
    for (what, writes) in [("put, synced", true), ("get", false)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(rate(&own, writes, seconds, callers).await?);
            if let Some(other) = &other {
                theirs.push(rate(other, writes, seconds, callers).await?);
            }
        }
        let ratios: Vec<String> = ours.iter().zip(&theirs).map(|(a, b)| format!("{:.1}×", a / b)).collect();
        let theirs = if theirs.is_empty() { String::new() } else { format!("{:.0}/s", median(&theirs)) };
        println!("| {what} | {:.0}/s | {theirs} | {} |", median(&ours), ratios.join(", "));
    }
    Ok(())
}

/// Starts an etcd of one member and waits until it answers.
async fn start(dir: &Path, program: &Path) -> anyhow::Result<(Etcd, EtcdStore)> {
    let free = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let (client, peer) = (format!("http://127.0.0.1:{}", free()?), format!("http://127.0.0.1:{}", free()?));
    let child = Command::new(program)
        .arg("--data-dir")
        .arg(dir.join("raw.etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start etcd")?;
    let running = Etcd(child);
    let started = Instant::now();
    loop {
        match EtcdStore::open(&EtcdConfig::new(vec![client.clone()], "/bench")).await {
            Ok(store) => return Ok((running, store)),
            Err(error) if started.elapsed() > START_MAX => return Err(error).context("connect to etcd"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Calls per second. Puts go to 10,000 keys, as objects that are updated do; gets read them.
async fn rate(store: &Arc<dyn Store>, writes: bool, seconds: u64, callers: usize) -> anyhow::Result<f64> {
    let (started, span) = (Instant::now(), Duration::from_secs(seconds));
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..callers {
        let (store, next) = (store.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let value = Bytes::from(vec![b'x'; VALUE]);
            while started.elapsed() < span {
                let key = Bytes::from(format!("/registry/bench/{}", next.fetch_add(1, Ordering::Relaxed) % 10_000));
                if writes {
                    let put = Op::Put { key, value: value.clone(), lease_ttl_s: None };
                    store.txn(Txn { compare: Vec::new(), ops: vec![put] }).await?;
                } else {
                    store.range(RangeRequest::key(key)).await?;
                }
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(next.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64())
}
