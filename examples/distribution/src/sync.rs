//! ERP sync: takes due events from the outbox, delivers them, and never forgets one.
//!
//! A claim is a lease. An instance that dies keeps its claims only until the lease ends, then another takes them; the
//! ERP knows orders by id, so an event delivered twice has effect once.

pub mod decide;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::Method;
use rand::Rng;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use crate::db::{DbSettings, Pool, migrate_when_reachable};
use crate::http::Http;
use crate::metrics::Metrics;
use crate::orders::{SCHEMA, STEPS};
use crate::serve::{Lifecycle, ServeSettings, Server, Unavailable, problem};
use decide::{Next, Outcome, Policy, classify, decide};
pub use outbox::{DeadLetter, Queue};
use outbox::{Event, Outbox};

/// A notification may be lost with its connection: look at least this often.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// Flags of the role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server.
    #[command(flatten)]
    pub serve: ServeSettings,
    /// The database.
    #[command(flatten)]
    pub db: DbSettings,
    /// Where the ERP is
    #[arg(long, env = "ERP_URL", default_value = "http://erp:8080")]
    pub erp_url: String,
    /// Deliveries at once
    #[arg(long, env = "SYNC_PARALLEL", default_value = "8")]
    pub parallel: usize,
    /// Attempts before an event becomes a dead letter
    #[arg(long, env = "SYNC_MAX_ATTEMPTS", default_value = "20")]
    pub max_attempts: u32,
    /// First wait after a failure, milliseconds; it doubles from there
    #[arg(long, env = "SYNC_BACKOFF_BASE_MS", default_value = "500")]
    pub backoff_base_ms: u64,
    /// Longest wait, milliseconds
    #[arg(long, env = "SYNC_BACKOFF_CAP_MS", default_value = "30000")]
    pub backoff_cap_ms: u64,
    /// Longest wait for the ERP's answer, milliseconds
    #[arg(long, env = "SYNC_TIMEOUT_MS", default_value = "10000")]
    pub timeout_ms: u64,
    /// How long a claim is good, milliseconds; longer than a delivery may take
    #[arg(long, env = "SYNC_LEASE_MS", default_value = "30000")]
    pub lease_ms: u64,
}

/// The running role.
struct Sync {
    outbox: Outbox,
    erp: String,
    http: Http,
    policy: Policy,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    parallel: u32,
    wake: Notify,
}

/// Serves and delivers until told to end.
///
/// # Errors
/// When the address cannot be bound or the settings contradict each other.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let (server, routes, work) = build(settings, Lifecycle::new()).await?;
    let worker = tokio::spawn(work);
    server.run(routes).await?;
    // What was being delivered when the signal came is finished and recorded.
    Ok(worker.await?)
}

/// The server, its routes, and the work, which ends after the drain begins and its deliveries are recorded.
///
/// # Errors
/// As [`run`].
pub async fn build(
    settings: Settings,
    lifecycle: Lifecycle,
) -> anyhow::Result<(Server, Router, impl Future<Output = ()> + Send)> {
    anyhow::ensure!(
        settings.lease_ms > settings.timeout_ms,
        "the lease must be longer than the time limit of a delivery"
    );
    let metrics = Arc::new(Metrics::new());
    let results: [&[(&str, &str)]; 4] =
        [&[("result", "recorded")], &[("result", "duplicate")], &[("result", "retry")], &[("result", "dead")]];
    metrics.counter("erp_deliveries_total", "Deliveries tried, by what came of them.", &results);
    metrics.counter("claims_reclaimed_total", "Claims taken over from an instance that died.", &[&[]]);
    metrics.gauge("outbox_depth", "Events not delivered yet, dead letters not counted.");
    metrics.gauge("outbox_lag_seconds", "Age of the oldest event not delivered yet.");
    metrics.gauge("dead_letters", "Events given up.");
    let pool = Pool::new(settings.db.clone());
    let ready = pool.clone();
    let server = Server::bind(&settings.serve, lifecycle.clone(), metrics.clone()).await?;
    let server = server.ready_if(move || {
        let pool = ready.clone();
        async move { pool.ping().await }
    });
    let parallel = settings.parallel.clamp(1, 256);
    let sync = Arc::new(Sync {
        outbox: Outbox::new(pool, Uuid::new_v4(), Duration::from_millis(settings.lease_ms)),
        erp: settings.erp_url.trim_end_matches('/').to_owned(),
        http: Http::new(Duration::from_millis(settings.timeout_ms)),
        policy: Policy {
            base: Duration::from_millis(settings.backoff_base_ms),
            cap: Duration::from_millis(settings.backoff_cap_ms),
            max_attempts: settings.max_attempts.max(1),
        },
        metrics,
        slots: Arc::new(Semaphore::new(parallel)),
        parallel: u32::try_from(parallel)?,
        wake: Notify::new(),
    });
    let routes = Router::new()
        .route("/queue", get(queue))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{id}/replay", post(replay))
        .with_state(sync.clone());
    let work = async move {
        migrate_when_reachable(&settings.db, SCHEMA, STEPS).await;
        lifecycle.started();
        let draining = lifecycle.draining();
        tokio::select! {
            () = draining.cancelled() => {}
            () = sync.listen() => {}
            () = sync.deliver_forever() => {}
            () = sync.measure() => {}
        }
        // All slots back: every delivery has been recorded. It cannot fail, the semaphore is never closed.
        let _ = sync.slots.acquire_many(sync.parallel).await;
    };
    Ok((server, routes, work))
}

impl Sync {
    /// Wakes the delivery when an order was written. Ends never.
    async fn listen(&self) {
        loop {
            if let Err(error) = self.outbox.listen(&self.wake).await {
                tracing::warn!(error = format!("{error:#}"), "listening for new orders failed");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn deliver_forever(self: &Arc<Self>) {
        loop {
            let wait = match self.deliver_due().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "claiming events failed");
                    Duration::from_secs(1)
                }
            };
            // A notification that came meanwhile is kept by `wake`.
            let _ = tokio::time::timeout(wait.min(LOOK_AT_LEAST_EVERY), self.wake.notified()).await;
        }
    }

    /// Claims what is due while there are slots, and answers when to look again.
    async fn deliver_due(self: &Arc<Self>) -> anyhow::Result<Duration> {
        loop {
            let mut slots = vec![self.slots.clone().acquire_owned().await?];
            while let Ok(slot) = self.slots.clone().try_acquire_owned() {
                slots.push(slot);
            }
            let wanted = slots.len();
            let events = self.outbox.claim(wanted).await?;
            let claimed = events.len();
            for (event, slot) in events.into_iter().zip(slots) {
                if event.reclaimed {
                    self.metrics.inc("claims_reclaimed_total", &[]);
                }
                let this = self.clone();
                tokio::spawn(async move {
                    this.deliver(event).await;
                    drop(slot);
                });
            }
            if claimed < wanted {
                return self.outbox.next_due().await;
            }
        }
    }

    /// One attempt, and what follows from it. When even that cannot be written the lease runs out and another
    /// attempt is made: late, never lost.
    async fn deliver(&self, event: Event) {
        let body = serde_json::json!({
            "order_id": event.order_id, "event_id": event.id, "attempt": event.attempts, "order": event.payload,
        });
        let url = format!("{}/orders", self.erp);
        let outcome = match self.http.call(Method::POST, &url, Some(&body)).await {
            Ok(answer) => classify(answer.status.as_u16()),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        let next = decide(&outcome, event.attempts, self.policy, rand::rng().random());
        let result = match (&next, &outcome) {
            (Next::Done, Outcome::Duplicate) => "duplicate",
            (Next::Done, _) => "recorded",
            (Next::Retry { .. }, _) => "retry",
            (Next::Dead { .. }, _) => "dead",
        };
        self.metrics.inc("erp_deliveries_total", &[("result", result)]);
        if let Err(error) = self.outbox.record(&event, &next).await {
            tracing::error!(event = event.id, error = format!("{error:#}"), "recording a delivery failed");
        }
        match next {
            Next::Dead { error } => tracing::error!(event = event.id, order = event.order_id, error, "dead letter"),
            // The wait for the next due event may be longer than this one's.
            Next::Retry { .. } => self.wake.notify_one(),
            Next::Done => {}
        }
    }

    /// Keeps the gauges fresh. Ends never.
    async fn measure(&self) {
        loop {
            if let Ok(queue) = self.outbox.queue().await {
                self.metrics.set("outbox_depth", queue.depth as f64);
                self.metrics.set("outbox_lag_seconds", queue.lag_seconds);
                self.metrics.set("dead_letters", queue.dead_letters as f64);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn queue(State(sync): State<Arc<Sync>>) -> Result<Json<Queue>, Unavailable> {
    Ok(Json(sync.outbox.queue().await?))
}

async fn dead_letters(State(sync): State<Arc<Sync>>) -> Result<Json<Vec<DeadLetter>>, Unavailable> {
    Ok(Json(sync.outbox.dead_letters().await?))
}

async fn replay(State(sync): State<Arc<Sync>>, Path(id): Path<i64>) -> Result<Response, Unavailable> {
    if !sync.outbox.replay(id).await? {
        return Ok(problem(StatusCode::NOT_FOUND, "no such dead letter"));
    }
    tracing::info!(event = id, "replayed");
    sync.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({ "id": id, "state": "pending" }))).into_response())
}
