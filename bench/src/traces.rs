//! Where the time of a pod goes: a collector of OpenTelemetry spans for as long as a pod needs to become ready, and what it got.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::Target;
use crate::{median, percentile};

const PODS: &str = "/api/v1/namespaces/default/pods";
/// A pod that is not traced in this time never is.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of one export.
const EXPORT_MAX: usize = 8 << 20;

type Spans = Arc<Mutex<Vec<Value>>>;

/// Creates pods one after the other and prints the spans of the last and the medians of all. The instance must export to
/// `listen`.
pub async fn run(kubeconfig: &Path, image: &str, count: usize, listen: std::net::SocketAddr) -> anyhow::Result<()> {
    let spans = Spans::default();
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    tokio::spawn(collect(listener, spans.clone()));
    let mut writer = Target::read(kubeconfig)?.connect().await?;
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut last = Vec::new();
    for n in 0..count {
        let container = json!({"name": "c", "image": image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "exec sleep 600"]});
        let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
        let name = format!("trace-{n}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let made = writer.call(Method::POST, PODS, Some(("application/json", Bytes::from(pod.to_string())))).await?;
        let made: Value = serde_json::from_slice(&made)?;
        let trace = made["metadata"]["uid"].as_str().context("a uid")?.replace('-', "");
        last = tokio::time::timeout(LIMIT, complete(&spans, &trace)).await.context(
            "no trace of the pod came: is the server started with --tracing-endpoint, and is that this collector?",
        )?;
        writer.call(Method::DELETE, &format!("{PODS}/{name}?gracePeriodSeconds=0"), None).await?;
        for span in &last {
            times.entry(span.name.clone()).or_default().push(span.took_ms);
        }
    }
    println!("| span | begins at ms | takes ms | p50 of {count} pods | p99 |\n|---|---|---|---|---|");
    for span in &last {
        let all = &times[&span.name];
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            span.name,
            span.at_ms,
            span.took_ms,
            median(all),
            percentile(all, 0.99)
        );
    }
    Ok(())
}

/// A span of a pod, by the pod's own.
struct Step {
    name: String,
    at_ms: f64,
    took_ms: f64,
}

/// The spans of a trace once the pod's own is there, in their order.
async fn complete(spans: &Spans, trace: &str) -> Vec<Step> {
    loop {
        let mut found: Vec<Value> = {
            let mut all = spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let done = all.iter().any(|s| s["traceId"] == *trace && s["name"] == "pod");
            // Those of pods before are not needed any more.
            if done { std::mem::take(&mut *all) } else { Vec::new() }
        };
        found.retain(|s| s["traceId"] == *trace);
        let ns = |s: &Value, key: &str| s[key].as_str().and_then(|t| t.parse::<i128>().ok()).unwrap_or(0);
        if let Some(first) = found.iter().find(|s| s["name"] == "pod").map(|s| ns(s, "startTimeUnixNano")) {
            found.sort_by_key(|s| (ns(s, "startTimeUnixNano"), s["parentSpanId"].is_string()));
            let step = |s: &Value| {
                let (from, to) = (ns(s, "startTimeUnixNano"), ns(s, "endTimeUnixNano"));
                let name = s["name"].as_str().unwrap_or("?").to_owned();
                Step { name, at_ms: (from - first) as f64 / 1e6, took_ms: (to - from) as f64 / 1e6 }
            };
            return found.iter().map(step).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn collect(listener: TcpListener, spans: Spans) {
    while let Ok((stream, _)) = listener.accept().await {
        let spans = spans.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| export(request, spans.clone()));
            // An exporter that goes away takes its batch along.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn export(request: Request<Incoming>, spans: Spans) -> anyhow::Result<Response<Full<Bytes>>> {
    let body = http_body_util::Limited::new(request.into_body(), EXPORT_MAX).collect().await;
    let body = body.map_err(|e| anyhow::anyhow!("read an export: {e}"))?.to_bytes();
    let export: Value = serde_json::from_slice(&body)?;
    let resources = export["resourceSpans"].as_array().context("an export")?;
    ensure!(!resources.is_empty(), "an export without spans");
    let scopes = resources.iter().flat_map(|r| r["scopeSpans"].as_array().into_iter().flatten());
    let found = scopes.flat_map(|s| s["spans"].as_array().into_iter().flatten()).cloned();
    spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(found);
    Ok(Response::new(Full::new(Bytes::from_static(b"{}"))))
}
