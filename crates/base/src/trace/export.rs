//! Spans on their way to a collector.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Kind, Record};

/// Spans in one request to the collector.
const BATCH: usize = 512;
/// How long spans wait for others.
const GATHER: Duration = Duration::from_millis(500);
/// How long the collector may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of the answer that are read: its status is in the first line.
const ANSWER_BYTES: usize = 1024;
/// How often a failing collector is told of in the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Where a collector takes OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
    path: String,
}

/// Not the URL of a collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not a URL of OTLP over HTTP: {why}")]
pub struct EndpointError {
    url: String,
    why: &'static str,
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    /// `http://HOST:PORT`, to which `/v1/traces` is added as the specification of OTLP has it, or with a path.
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let not = |why| EndpointError { url: url.to_owned(), why };
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| not("only http:// is supported; TLS is the business of a collector on this host"))?;
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '?' | '#');
        if authority.is_empty() || rest.contains(bad) {
            return Err(not("it needs a host, and may have a port and a path"));
        }
        let port = authority.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')).map(|(_, port)| port);
        let authority = match port {
            Some(port) if port.parse::<u16>().is_ok() => authority.to_owned(),
            Some(port) if !port.ends_with(']') => return Err(not("its port is not a number")),
            _ => format!("{authority}:4318"),
        };
        let path = if path.is_empty() { "v1/traces" } else { path };
        Ok(Endpoint { authority, path: format!("/{path}") })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

pub(super) struct Exporter {
    endpoint: Endpoint,
    service: &'static str,
    instance: String,
    dropped: Arc<AtomicU64>,
    told: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(endpoint: Endpoint, service: &'static str, instance: String, dropped: Arc<AtomicU64>) -> Self {
        Exporter { endpoint, service, instance, dropped, told: None }
    }

    /// Exports until nobody makes spans any more.
    pub(super) async fn run(mut self, mut records: mpsc::Receiver<Record>) {
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, BATCH).await > 0 {
            let until = Instant::now() + GATHER;
            while batch.len() < BATCH {
                let more = records.recv_many(&mut batch, BATCH);
                // Nothing left to come, or nothing came in time.
                if !matches!(tokio::time::timeout_at(until, more).await, Ok(n) if n > 0) {
                    break;
                }
            }
            let body = body(self.service, &self.instance, &batch).to_string();
            let sent = tokio::time::timeout(ANSWER_MAX, post(&self.endpoint, &body)).await;
            let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            if let Err(error) = sent {
                let dropped = self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed) + batch.len() as u64;
                self.tell(&error, dropped);
            }
            batch.clear();
        }
    }

    fn tell(&mut self, error: &io::Error, dropped: u64) {
        if self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(collector = %self.endpoint, %error, dropped, "spans not exported");
        }
    }
}

/// One connection per batch: a batch a second at most, to a collector that is near.
async fn post(endpoint: &Endpoint, body: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(&endpoint.authority).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        endpoint.path,
        endpoint.authority,
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).unwrap_or_default();
    if status.starts_with('2') {
        Ok(())
    } else {
        Err(io::Error::other(format!("it answered {:?}", line.lines().next().unwrap_or_default())))
    }
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// An `ExportTraceServiceRequest`.
pub(super) fn body(service: &str, instance: &str, records: &[Record]) -> Value {
    let resource = json!({"attributes": [
        text("service.name", service),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", instance),
    ]});
    let spans: Vec<Value> = records.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{"scope": {"name": "windlass"}, "spans": spans}],
    }]})
}

fn span(r: &Record) -> Value {
    let attributes: Vec<Value> = r.attributes.iter().map(|(key, value)| text(key, value)).collect();
    let mut span = json!({
        "traceId": format!("{:032x}", r.ids.trace),
        "spanId": format!("{:016x}", r.ids.span),
        "name": r.name,
        "kind": match r.kind { Kind::Internal => 1, Kind::Server => 2 },
        // 64-bit numbers are strings in this encoding.
        "startTimeUnixNano": r.start_ns.to_string(),
        "endTimeUnixNano": (r.start_ns + r.took_ns).to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = r.parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(why) = &r.error {
        span["status"] = json!({"code": 2, "message": why});
    }
    span
}
