//! A small blocking HTTP/1.1 client, one connection per request, and a load generator: strict on purpose, since a refused
//! connection, a reset and a cut body must all be seen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long one request may take in all.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Largest answer that is read, bytes.
const BODY_MAX: u64 = 4 << 20;
/// Failures that are kept word by word; the others are only counted.
const FAILURES_KEPT: usize = 8;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header block as sent, without the status line.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// A GET.
pub fn get(addr: SocketAddr, host: &str, path: &str) -> Result<Response> {
    request(addr, "GET", host, path, &[], b"")
}

/// The body of a GET that must be answered with 200.
pub fn get_ok(addr: SocketAddr, host: &str, path: &str) -> Result<String> {
    let response = get(addr, host, path)?;
    ensure!(response.status == 200, "{addr}{path} answered {}: {}", response.status, response.body);
    Ok(response.body)
}

/// Any request; the connection is closed after it.
pub fn request(
    addr: SocketAddr,
    method: &str,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&addr, REQUEST_MAX).with_context(|| format!("connect to {addr}"))?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    stream.set_write_timeout(Some(REQUEST_MAX))?;
    stream.set_nodelay(true)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).with_context(|| format!("send to {addr}"))?;
    let mut bytes = Vec::new();
    stream.take(BODY_MAX).read_to_end(&mut bytes).with_context(|| format!("read the answer of {addr}"))?;
    parse(&bytes).with_context(|| format!("{method} {addr}{path}"))
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("the answer ended within its headers")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (first, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).context("the answer has no status")?;
    let field = |name: &str| {
        headers
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    };
    let rest = &bytes[end + 4..];
    let body = if field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        unchunk(rest)?
    } else {
        if let Some(length) = field("content-length").and_then(|v| v.parse::<usize>().ok()) {
            ensure!(rest.len() == length, "the body has {} of {length} bytes", rest.len());
        }
        rest.to_vec()
    };
    Ok(Response { status, headers: headers.to_owned(), body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk has no size")?;
        let size = String::from_utf8_lossy(&rest[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16).context("a chunk's size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size + 2 {
            bail!("the body ends within a chunk");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Requests sent.
    pub sent: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The first failures, each with its time since the start.
    pub failures: Vec<String>,
    /// The slowest request.
    pub slowest: Duration,
}

impl LoadReport {
    /// An error if any request failed, or fewer than `least` were sent.
    pub fn flawless(&self, least: u64) -> Result<()> {
        ensure!(
            self.failed == 0,
            "{} of {} requests failed:\n  {}",
            self.failed,
            self.sent,
            self.failures.join("\n  ")
        );
        ensure!(self.sent >= least, "only {} requests were sent, {least} are wanted", self.sent);
        Ok(())
    }
}

/// Requests at a steady rate from a fixed number of threads, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    report: Arc<Mutex<LoadReport>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `workers` threads that together make `per_second` requests; each request gets a number of its own.
    pub fn start(per_second: u32, workers: u32, request: impl Fn(u64) -> Result<()> + Send + Sync + 'static) -> Load {
        let (stop, sent, report) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Load { stop, sent, report, workers: Vec::new() };
        let request = Arc::new(request);
        let start = Instant::now();
        let every = Duration::from_secs(1) * workers / per_second;
        for n in 0..workers {
            let (stop, sent, report, request) =
                (load.stop.clone(), load.sent.clone(), load.report.clone(), request.clone());
            load.workers.push(std::thread::spawn(move || {
                let mut next = start + every * n / workers;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    // After a stall the rate goes on from now: a burst to catch up would measure the burst.
                    next = (next + every).max(Instant::now());
                    let began = Instant::now();
                    let outcome = request(sent.fetch_add(1, Ordering::Relaxed));
                    note(&report, start, began, outcome);
                }
            }));
        }
        load
    }

    /// How many requests were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Blocks until `more` further requests were sent.
    pub fn go_on(&self, more: u64) -> Result<()> {
        let target = self.sent() + more;
        crate::eventually(Duration::from_secs(180), "requests under load", || {
            ensure!(self.sent() >= target, "{} of {target} requests sent", self.sent());
            Ok(())
        })
    }

    /// Stops, waits for the requests under way, and reports.
    pub fn stop(mut self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        std::mem::take(&mut *lock(&self.report))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(report: &Mutex<LoadReport>) -> std::sync::MutexGuard<'_, LoadReport> {
    report.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn note(report: &Mutex<LoadReport>, start: Instant, began: Instant, outcome: Result<()>) {
    let mut report = lock(report);
    report.sent += 1;
    report.slowest = report.slowest.max(began.elapsed());
    if let Err(error) = outcome {
        report.failed += 1;
        if report.failures.len() < FAILURES_KEPT {
            let at = (began - start).as_secs_f64();
            report.failures.push(format!("at {at:.2} s: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_joined() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        let response = parse(text).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, "abcde"));
    }

    #[test]
    fn a_cut_body_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc").is_err());
    }
}
