//! The page for people: orders, queue, dead letters with a replay button, the ERP. It keeps nothing; it asks the others.

mod page;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{Stream, StreamExt, unfold};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::erp::{Behaviour, Summary};
use crate::http::Http;
use crate::metrics::Metrics;
use crate::orders::Order;
use crate::serve::{Lifecycle, ServeSettings, Server, problem};
use crate::sync::{DeadLetter, Queue};

/// Pages that update themselves, at most.
const WATCHERS_MAX: usize = 100;
const REFRESH: Duration = Duration::from_secs(2);
/// All pages share what was asked so long ago or less.
const FRESH: Duration = Duration::from_secs(1);
const ORDERS_SHOWN: usize = 20;

/// Flags of the role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server.
    #[command(flatten)]
    pub serve: ServeSettings,
    /// Where the orders API is
    #[arg(long, env = "ORDERS_URL", default_value = "http://orders-api:8080")]
    pub orders_url: String,
    /// Where the ERP sync is
    #[arg(long, env = "SYNC_URL", default_value = "http://erp-sync:8080")]
    pub sync_url: String,
    /// Where the ERP is
    #[arg(long, env = "ERP_URL", default_value = "http://erp:8080")]
    pub erp_url: String,
}

/// What the others said, each `Err` with why it did not.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    orders: Result<Orders, String>,
    queue: Result<Queue, String>,
    dead_letters: Result<Vec<DeadLetter>, String>,
    deliveries: Result<Summary, String>,
    behaviour: Result<Behaviour, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Orders {
    total: i64,
    orders: Vec<Order>,
}

struct App {
    settings: Settings,
    http: Http,
    last: Mutex<Option<(Instant, Overview)>>,
    watchers: Arc<Semaphore>,
    lifecycle: Lifecycle,
}

/// Serves until told to end.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let (server, routes) = build(settings, Lifecycle::new()).await?;
    server.run(routes).await
}

/// The server, bound, and its routes.
///
/// # Errors
/// When the address cannot be bound.
pub async fn build(settings: Settings, lifecycle: Lifecycle) -> anyhow::Result<(Server, Router)> {
    let server = Server::bind(&settings.serve, lifecycle.clone(), Arc::new(Metrics::new())).await?;
    lifecycle.started();
    let app = Arc::new(App {
        settings,
        http: Http::new(Duration::from_secs(3)),
        last: Mutex::new(None),
        watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        lifecycle,
    });
    let routes = Router::new()
        .route("/", get(show))
        .route("/api/overview", get(overview))
        .route("/events", get(events))
        .route("/dead-letters/{id}/replay", post(replay))
        .with_state(app);
    Ok((server, routes))
}

impl App {
    async fn overview(&self) -> Overview {
        // Held while asking: pages that come meanwhile wait for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, overview)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return overview.clone();
        }
        let Settings { orders_url, sync_url, erp_url, .. } = &self.settings;
        let orders = format!("{orders_url}/orders?limit={ORDERS_SHOWN}");
        let (queue, letters) = (format!("{sync_url}/queue"), format!("{sync_url}/dead-letters"));
        let (summary, behaviour) = (format!("{erp_url}/deliveries/summary"), format!("{erp_url}/admin/behaviour"));
        let (orders, queue, dead_letters, deliveries, behaviour) = tokio::join!(
            self.http.get(&orders),
            self.http.get(&queue),
            self.http.get(&letters),
            self.http.get(&summary),
            self.http.get(&behaviour),
        );
        let overview = Overview {
            orders: orders.map_err(brief),
            queue: queue.map_err(brief),
            dead_letters: dead_letters.map_err(brief),
            deliveries: deliveries.map_err(brief),
            behaviour: behaviour.map_err(brief),
        };
        *last = Some((Instant::now(), overview.clone()));
        overview
    }
}

fn brief(error: anyhow::Error) -> String {
    tracing::warn!(error = format!("{error:#}"), "a service did not answer");
    "not reachable right now".to_owned()
}

async fn show(State(app): State<Arc<App>>) -> Html<String> {
    Html(page::page(&app.overview().await))
}

async fn overview(State(app): State<Arc<App>>) -> Json<Overview> {
    Json(app.overview().await)
}

/// The changing part of the page, again and again, until the page is closed or this instance ends.
async fn events(State(app): State<Arc<App>>) -> Response {
    let Ok(permit) = app.watchers.clone().try_acquire_owned() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
    };
    Sse::new(updates(app, permit)).keep_alive(KeepAlive::default()).into_response()
}

fn updates(app: Arc<App>, permit: OwnedSemaphorePermit) -> impl Stream<Item = Result<Event, Infallible>> {
    let closing = app.lifecycle.closing();
    let stream = unfold((app, permit), |(app, permit)| async move {
        tokio::time::sleep(REFRESH).await;
        let content = page::content(&app.overview().await);
        Some((Ok(Event::default().data(content)), (app, permit)))
    });
    stream.take_until(async move { closing.cancelled().await })
}

async fn replay(State(app): State<Arc<App>>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    // Browsers say where a form came from; another site has no business pressing this button.
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if !matches!(site, None | Some("same-origin" | "none")) {
        return problem(StatusCode::FORBIDDEN, "cross-site request refused");
    }
    let url = format!("{}/dead-letters/{id}/replay", app.settings.sync_url);
    match app.http.call(Method::POST, &url, None).await {
        Ok(answer) if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND => {
            *app.last.lock().await = None;
            ([(header::CACHE_CONTROL, "no-store")], Redirect::to("/")).into_response()
        }
        Ok(answer) => problem(StatusCode::BAD_GATEWAY, format!("the sync answered {}", answer.status)),
        Err(error) => problem(StatusCode::BAD_GATEWAY, brief(error)),
    }
}
