//! What every role's server has: health, figures, and an end that loses no request.
//!
//! On SIGTERM readiness turns 503 at once, while requests are still served, old and new, for the drain delay: that is
//! how long load balancers need to notice. Then the listener closes, what is in flight ends, and the process exits 0.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 10;

/// Flags of every server.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeSettings {
    /// Address to listen on
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Seconds to go on serving after SIGTERM, while load balancers take this instance out
    #[arg(long, env = "DRAIN_DELAY_SECONDS", default_value = "5")]
    pub drain_delay_seconds: u64,
    /// Longest wait for requests in flight after that, seconds
    #[arg(long, env = "DRAIN_LIMIT_SECONDS", default_value = "15")]
    pub drain_limit_seconds: u64,
}

/// Whether this instance should get requests, asked for by `/readyz`.
type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The state of the process that health and the end of it depend on.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    started: AtomicBool,
    /// SIGTERM came: no longer ready.
    draining: CancellationToken,
    /// The drain delay is over: end what does not end by itself.
    closing: CancellationToken,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// Not started, not draining.
    pub fn new() -> Self {
        let inner = Inner {
            started: AtomicBool::new(false),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        };
        Lifecycle { inner: Arc::new(inner) }
    }

    /// Everything the role needs at start is done.
    pub fn started(&self) {
        self.inner.started.store(true, Ordering::Release);
    }

    /// Ends the process as SIGTERM would.
    pub fn drain(&self) {
        self.inner.draining.cancel();
    }

    /// Cancelled when SIGTERM came: begin nothing new in the background.
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }

    /// Cancelled when the drain delay is over: long answers should end.
    pub fn closing(&self) -> CancellationToken {
        self.inner.closing.clone()
    }

    fn ready(&self) -> Result<(), String> {
        if self.inner.draining.is_cancelled() {
            return Err("draining".to_owned());
        }
        self.inner.started.load(Ordering::Acquire).then_some(()).ok_or_else(|| "starting".to_owned())
    }
}

/// A role's server.
pub struct Server {
    listener: TcpListener,
    settings: ServeSettings,
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
    check: Check,
}

struct Shared {
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
    check: Check,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(settings: &ServeSettings, lifecycle: Lifecycle, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(settings.listen).await.with_context(|| format!("listen on {}", settings.listen))?;
        metrics.counter("http_requests_total", "Requests answered, by status.", &[]);
        let check: Check = Box::new(|| Box::pin(async { Ok(()) }));
        Ok(Server { listener, settings: settings.clone(), lifecycle, metrics, check })
    }

    /// Asks this too before saying ready.
    pub fn ready_if<F, R>(mut self, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.check = Box::new(move || Box::pin(check()));
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until SIGTERM, SIGINT or [`Lifecycle::drain`], and then drains.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, routes: Router) -> anyhow::Result<()> {
        let shared = Arc::new(Shared { lifecycle: self.lifecycle.clone(), metrics: self.metrics, check: self.check });
        let app = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(|State(s): State<Arc<Shared>>| async move { metrics_text(&s.metrics) }))
            .with_state(shared.clone())
            .merge(routes)
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .layer(from_fn_with_state(shared, observe));
        tracing::info!(address = %self.listener.local_addr()?, "listening");
        let lifecycle = self.lifecycle.clone();
        let delay = Duration::from_secs(self.settings.drain_delay_seconds);
        let limit = Duration::from_secs(self.settings.drain_limit_seconds);
        let closing = lifecycle.closing();
        let serve = axum::serve(self.listener, app).with_graceful_shutdown(async move {
            ended(&lifecycle).await;
            tracing::info!(delay_seconds = delay.as_secs(), "draining");
            tokio::time::sleep(delay).await;
            lifecycle.inner.closing.cancel();
        });
        let overdue = async {
            closing.cancelled().await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            result = serve => result?,
            () = overdue => tracing::warn!("requests still in flight were cut off"),
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Resolves when the process is to end, and marks it as draining.
async fn ended(lifecycle: &Lifecycle) {
    let draining = lifecycle.draining();
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = draining.cancelled() => {}
        },
        _ => draining.cancelled().await,
    }
    lifecycle.drain();
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let result = match shared.lifecycle.ready() {
        Ok(()) => (shared.check)().await,
        Err(reason) => Err(reason),
    };
    match result {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

fn metrics_text(metrics: &Metrics) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.text()).into_response()
}

/// Counts answers, and asks clients to leave while draining: a kept-alive connection would otherwise bring requests
/// to the very end.
async fn observe(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let business = !matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    let begun = Instant::now();
    let mut response = next.run(request).await;
    if business {
        shared.metrics.request(begun.elapsed());
        shared.metrics.inc("http_requests_total", &[("code", response.status().as_str())]);
    }
    if shared.lifecycle.inner.draining.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An error answer: `{"error": "..."}`.
pub fn problem(status: StatusCode, message: impl Into<String>) -> Response {
    (status, axum::Json(serde_json::json!({ "error": message.into() }))).into_response()
}

/// What a handler could not do because of something behind it.
pub struct Unavailable(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Unavailable {
    fn from(error: E) -> Self {
        Unavailable(error.into())
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        tracing::error!(error = format!("{:#}", self.0), "request failed");
        problem(StatusCode::SERVICE_UNAVAILABLE, "temporarily unavailable")
    }
}
