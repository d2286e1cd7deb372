//! Load: orders at a fixed rate, each tried once, and an honest account of what came of them.
//!
//! The rate does not wait for answers: latency counts from when a request was due, so that a stall shows in the figures
//! instead of in fewer requests. What cannot begin because too many are under way counts as failed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::http::Http;
use crate::seed::order;

const RATE_MAX: f64 = 20_000.0;
const REQUESTS_MAX: u64 = 20_000_000;

/// Flags of the role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Where to send orders, e.g. `http://127.0.0.1/orders`
    #[arg(long)]
    pub url: String,
    /// Host header, for an ingress; by default that of the URL
    #[arg(long)]
    pub host: Option<String>,
    /// Requests a second
    #[arg(long, default_value = "50")]
    pub rate: f64,
    /// How long, seconds
    #[arg(long, default_value = "10")]
    pub duration: f64,
    /// Most requests under way
    #[arg(long, default_value = "256")]
    pub in_flight: usize,
    /// Longest wait for an answer, milliseconds
    #[arg(long, default_value = "10000")]
    pub timeout_ms: u64,
    /// Read with GET instead of posting orders
    #[arg(long)]
    pub get: bool,
    /// Exit with 1 when any request failed
    #[arg(long)]
    pub fail_on_error: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Requests due.
    pub requests: u64,
    /// Answered 2xx.
    pub ok: u64,
    /// Everything else, overruns included.
    pub failed: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Orders that are new, the rest of `ok` being repeats or reads.
    pub created: u64,
    /// From when it was due to the whole answer, milliseconds.
    pub latency_ms: Latency,
    /// Requests a second that were sent.
    pub rate: f64,
    /// Seconds it took, the last answers included.
    pub seconds: f64,
}

/// Percentiles of successful requests, milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 90 of 100 are faster.
    pub p90: f64,
    /// 95 of 100 are faster.
    pub p95: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

#[derive(Default)]
struct Tally {
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    /// Microseconds, of successes.
    latencies: Vec<u32>,
}

/// Runs and prints the report on standard output.
///
/// # Errors
/// When the settings make no sense, or on failures if asked so.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let report = generate(&settings).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    anyhow::ensure!(!settings.fail_on_error || report.failed == 0, "{} requests failed", report.failed);
    Ok(())
}

/// Runs and answers the report.
///
/// # Errors
/// When the settings make no sense.
pub async fn generate(settings: &Settings) -> anyhow::Result<Report> {
    let uri: Uri = settings.url.parse()?;
    anyhow::ensure!(uri.scheme_str() == Some("http"), "the URL must begin with http://");
    anyhow::ensure!(
        settings.rate > 0.0 && settings.rate <= RATE_MAX,
        "the rate must be above 0 and at most {RATE_MAX}"
    );
    let requests = (settings.rate * settings.duration).round();
    anyhow::ensure!(requests >= 1.0 && requests <= REQUESTS_MAX as f64, "1 to {REQUESTS_MAX} requests, please");
    let requests = requests as u64;

    let http = Http::new(Duration::from_millis(settings.timeout_ms));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let slots = Arc::new(Semaphore::new(settings.in_flight.max(1)));
    let mut running = JoinSet::new();
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / settings.rate));
    // Behind time, what is due is sent at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..requests {
        let due = ticks.tick().await.into_std();
        while running.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            count(&tally, |t| *t.errors.entry("too many requests under way".to_owned()).or_default() += 1);
            continue;
        };
        let request = request(settings, n)?;
        let (http, tally) = (http.clone(), tally.clone());
        running.spawn(async move {
            let result = http.send(request).await;
            let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
            count(&tally, |t| match result {
                Ok(answer) => {
                    *t.statuses.entry(answer.status.as_u16()).or_default() += 1;
                    if answer.status.is_success() {
                        t.latencies.push(took);
                    }
                }
                Err(error) => *t.errors.entry(reason(&error)).or_default() += 1,
            });
            drop(slot);
        });
    }
    let sending = begun.elapsed().as_secs_f64();
    while running.join_next().await.is_some() {}
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok(report(tally, requests, sending, begun.elapsed().as_secs_f64()))
}

fn count(tally: &Mutex<Tally>, change: impl FnOnce(&mut Tally)) {
    change(&mut tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

fn request(settings: &Settings, n: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().uri(&settings.url);
    if let Some(host) = &settings.host {
        request = request.header("host", host);
    }
    if settings.get {
        return Ok(request.body(Full::default())?);
    }
    let body = serde_json::to_vec(&order((n % 1000) as u32))?;
    let key = format!("load-{}", Uuid::new_v4());
    let request = request.method("POST").header("content-type", "application/json").header("idempotency-key", key);
    Ok(request.body(Full::new(body.into()))?)
}

/// The innermost cause: few different ones, so that the report stays short.
fn reason(error: &anyhow::Error) -> String {
    error.root_cause().to_string()
}

fn report(mut tally: Tally, requests: u64, sending: f64, seconds: f64) -> Report {
    tally.latencies.sort_unstable();
    let ok = tally.statuses.iter().filter(|(status, _)| (200..300).contains(*status)).map(|(_, n)| n).sum();
    let sent: u64 = requests - tally.errors.get("too many requests under way").copied().unwrap_or(0);
    Report {
        requests,
        ok,
        failed: requests - ok,
        created: tally.statuses.get(&201).copied().unwrap_or(0),
        latency_ms: percentiles(&tally.latencies),
        statuses: tally.statuses,
        errors: tally.errors,
        rate: sent as f64 / sending.max(f64::EPSILON),
        seconds,
    }
}

/// Nearest rank, of sorted microseconds.
fn percentiles(sorted: &[u32]) -> Latency {
    let at = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).map_or(0.0, |us| f64::from(*us) / 1000.0)
    };
    Latency { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let micros: Vec<u32> = (1..=100).map(|ms| ms * 1000).collect();
        let found = percentiles(&micros);
        assert_eq!((found.p50, found.p90, found.p99, found.max), (50.0, 90.0, 99.0, 100.0));
        assert_eq!(percentiles(&[]).p99, 0.0);
        assert_eq!(percentiles(&[7000]).p50, 7.0);
    }

    #[test]
    fn every_request_due_is_accounted_for() {
        let tally = Tally {
            statuses: [(201, 5), (200, 1), (503, 2)].into(),
            errors: [("too many requests under way".to_owned(), 2)].into(),
            latencies: vec![1000; 6],
        };
        let report = report(tally, 10, 1.0, 1.5);
        assert_eq!((report.ok, report.failed, report.created), (6, 4, 5));
        assert!((report.rate - 8.0).abs() < 1e-9);
    }
}
