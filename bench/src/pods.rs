//! Pods, as a client that watches sees them: from create to Ready, one at a time, at a rate, and many from one apply; how long
//! exec and deletion take; what a running pod costs in memory.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;

use crate::client::{Connection, Target};
use crate::{percentile, processes, stock};

const NAMESPACE: &str = "/api/v1/namespaces/default";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Pods that are created each second of the run at a rate.
const RATE: u32 = 20;
/// Pods of that run: fewer than a node takes.
const AT_RATE: u32 = 100;
/// What a node takes (the kubelet's default).
const FULL: u32 = 110;
/// How often exec is measured.
const EXECS: usize = 50;
/// A step that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// Ends when it is told to: a shell that is process 1 must ask for the signal.
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 600 & wait $!; done";

/// What is measured, and with what.
struct Bench<'a> {
    target: Target,
    writer: Connection,
    image: &'a str,
}

/// Runs all of it and prints the figures.
pub async fn run(kubeconfig: &Path, image: &str, count: usize, run_dir: Option<&Path>) -> anyhow::Result<()> {
    let target = Target::read(kubeconfig)?;
    let mut bench = Bench { writer: target.connect().await?, target, image };
    println!("| measurement | p50 | p99 | {} | ratio |\n|---|---|---|---|---|", stock::HEADING);
    let (ready, deleted) = bench.one_at_a_time(count).await?;
    row("pod create → Ready, one at a time", &ready, Some(stock::READY_MS));
    row("pod delete → gone", &deleted, None);
    let at_rate = bench.at_rate().await?;
    row(&format!("pod create → Ready at {RATE} pods/s"), &at_rate, Some(stock::READY_MS));
    let before = run_dir.map(processes::of_pods).transpose()?;
    let took = bench.crowd(true).await?;
    row(&format!("{FULL} pods of one apply until all are Ready"), &[took], None);
    let after = run_dir.map(processes::of_pods).transpose()?;
    let execs = bench.execs().await?;
    row("exec of `true` over WebSocket, connection included", &execs, None);
    bench.crowd(false).await?;
    if let (Some(before), Some(after)) = (before, after) {
        let each = |n: u64| n as f64 / f64::from(FULL);
        let (shim, agent) = (each(after.shims_kib), each(after.agent_kib.saturating_sub(before.agent_kib)));
        println!(
            "\nmemory of a running pod, private: shim {shim:.0} KiB, agent {agent:.0} KiB ({} shims)",
            after.shims
        );
    }
    Ok(())
}

fn row(what: &str, ms: &[f64], reported: Option<f64>) {
    let (p50, p99) = (percentile(ms, 0.5), percentile(ms, 0.99));
    let (reported, ratio) = reported.map_or(Default::default(), |r| (format!("{r:.0} ms"), format!("{:.1}×", r / p50)));
    println!("| {what} | {p50:.0} ms | {p99:.0} ms | {reported} | {ratio} |");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a watch told of a pod, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Ready,
    Gone,
}

/// A watch of the pods with a label.
struct Watch {
    news: mpsc::UnboundedReceiver<(String, News, Instant)>,
    ready: HashMap<String, Instant>,
    gone: HashMap<String, Instant>,
}

impl Watch {
    async fn open(target: &Target, run: &str) -> anyhow::Result<Watch> {
        let mut connection = target.connect().await?;
        let path = format!("{NAMESPACE}/pods?watch=1&labelSelector=run%3D{run}");
        let mut body = connection.open(Method::GET, &path, None).await?.into_body();
        // Bounded by the pods of the run.
        let (sender, news) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                let now = Instant::now();
                buffer.extend_from_slice(&data);
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let Ok(event) = serde_json::from_slice::<Value>(&line) else { return };
                    let Some((name, news)) = told(&event) else { continue };
                    if sender.send((name, news, now)).is_err() {
                        return;
                    }
                }
            }
            drop(connection);
        });
        Ok(Watch { news, ready: HashMap::new(), gone: HashMap::new() })
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Watch) -> bool) -> anyhow::Result<()> {
        let waited = async {
            while !done(self) {
                let (name, news, at) = self.news.recv().await.context("the watch ended")?;
                match news {
                    News::Ready => self.ready.entry(name).or_insert(at),
                    News::Gone => self.gone.entry(name).or_insert(at),
                };
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(LIMIT, waited).await {
            Ok(done) => done,
            Err(_) => {
                bail!("{what}: not within {} s; {} ready, {} gone", LIMIT.as_secs(), self.ready.len(), self.gone.len())
            }
        }
    }
}

fn told(event: &Value) -> Option<(String, News)> {
    let name = event["object"]["metadata"]["name"].as_str()?.to_owned();
    if event["type"] == "DELETED" {
        return Some((name, News::Gone));
    }
    let conditions = event["object"]["status"]["conditions"].as_array()?;
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready.then_some((name, News::Ready))
}

impl Bench<'_> {
    fn spec(&self) -> Value {
        json!({"terminationGracePeriodSeconds": 30, "containers": [{
            "name": "c", "image": self.image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", SCRIPT],
        }]})
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Bytes> {
        self.writer.call(method, path, body.map(|b| ("application/json", Bytes::from(b.to_string())))).await
    }

    async fn create(&mut self, run: &str, name: &str) -> anyhow::Result<Instant> {
        let metadata = json!({"name": name, "labels": {"run": run}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec()});
        let began = Instant::now();
        self.send(Method::POST, &format!("{NAMESPACE}/pods"), Some(&pod)).await?;
        Ok(began)
    }

    async fn delete(&mut self, name: &str) -> anyhow::Result<Instant> {
        let began = Instant::now();
        self.send(Method::DELETE, &format!("{NAMESPACE}/pods/{name}"), None).await?;
        Ok(began)
    }

    /// Times to Ready, and from the deletion until they are gone.
    async fn one_at_a_time(&mut self, count: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let mut watch = Watch::open(&self.target, "single").await?;
        let (mut ready, mut deleted) = (Vec::new(), Vec::new());
        for n in 0..count {
            let name = format!("single-{n}");
            let began = self.create("single", &name).await?;
            watch.until("a pod is ready", |w| w.ready.contains_key(&name)).await?;
            ready.push(ms(watch.ready[&name] - began));
            let began = self.delete(&name).await?;
            watch.until("a pod is gone", |w| w.gone.contains_key(&name)).await?;
            deleted.push(ms(watch.gone[&name] - began));
        }
        Ok((ready, deleted))
    }

    async fn at_rate(&mut self) -> anyhow::Result<Vec<f64>> {
        let mut watch = Watch::open(&self.target, "rate").await?;
        let mut began = HashMap::new();
        let (start, every) = (tokio::time::Instant::now(), Duration::from_secs(1) / RATE);
        for n in 0..AT_RATE {
            // By the clock: a slow answer does not lower the rate.
            tokio::time::sleep_until(start + every * n).await;
            let name = format!("rate-{n}");
            began.insert(name.clone(), self.create("rate", &name).await?);
        }
        watch.until("the pods are ready", |w| w.ready.len() == began.len()).await?;
        for name in began.keys() {
            self.delete(name).await?;
        }
        watch.until("the pods are gone", |w| w.gone.len() == began.len()).await?;
        Ok(began.iter().map(|(name, at)| ms(watch.ready[name] - *at)).collect())
    }

    /// Has as many pods as a node takes, or none again; how long that took, milliseconds.
    async fn crowd(&mut self, up: bool) -> anyhow::Result<f64> {
        let mut watch = Watch::open(&self.target, "crowd").await?;
        let (count, began) = (FULL as usize, Instant::now());
        if !up {
            self.send(Method::DELETE, &format!("{DEPLOYMENTS}/crowd?propagationPolicy=Background"), None).await?;
            watch.until("the pods are gone", |w| w.gone.len() == count).await?;
            return Ok(ms(began.elapsed()));
        }
        let labels = json!({"run": "crowd"});
        let template = json!({"metadata": {"labels": labels}, "spec": self.spec()});
        let spec = json!({"replicas": FULL, "selector": {"matchLabels": labels}, "template": template});
        let object =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"}, "spec": spec});
        self.send(Method::POST, DEPLOYMENTS, Some(&object)).await?;
        watch.until("the pods are ready", |w| w.ready.len() == count).await?;
        let last = watch.ready.values().max().context("there are pods")?;
        Ok(ms(*last - began))
    }

    /// As `kubectl exec POD -- true` does it, each time with a connection of its own.
    async fn execs(&mut self) -> anyhow::Result<Vec<f64>> {
        let list = self.send(Method::GET, &format!("{NAMESPACE}/pods?labelSelector=run%3Dcrowd&limit=1"), None).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let name = list["items"][0]["metadata"]["name"].as_str().context("a pod of the crowd")?.to_owned();
        let mut times = Vec::new();
        for _ in 0..EXECS {
            let began = Instant::now();
            let done = tokio::time::timeout(LIMIT, exec(&self.target, &name)).await.context("exec does not end")??;
            anyhow::ensure!(done["status"] == "Success", "exec: {done}");
            times.push(ms(began.elapsed()));
        }
        Ok(times)
    }
}

/// Runs `true` in a pod; the status it ends with (channel 3 of `v5.channel.k8s.io`).
async fn exec(target: &Target, pod: &str) -> anyhow::Result<Value> {
    let (stream, host) = target.stream().await?;
    let path = format!("{NAMESPACE}/pods/{pod}/exec?container=c&command=/bin/true&stdout=true&stderr=true");
    let request = http::Request::get(format!("wss://{host}{path}"))
        .header("host", &host)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .body(())?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    while let Some(message) = socket.next().await {
        if let tungstenite::Message::Binary(bytes) = message?
            && bytes.first() == Some(&3)
        {
            return Ok(serde_json::from_slice(&bytes[1..])?);
        }
    }
    bail!("exec ended without a status")
}
