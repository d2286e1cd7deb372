//! The orders API: takes an order once per idempotency key and writes it together with the event for the ERP.

mod model;
mod store;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;

use crate::db::{DbSettings, Pool, migrate_when_reachable};
use crate::metrics::Metrics;
use crate::serve::{Lifecycle, ServeSettings, Server, Unavailable, problem};
pub use model::{Line, NewOrder, Order};
pub use store::{Accepted, SCHEMA, STEPS, accept};

/// Most orders in one list.
const LIST_MAX: i64 = 200;
const KEY_MAX: usize = 200;

/// Flags of the role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The server.
    #[command(flatten)]
    pub serve: ServeSettings,
    /// The database.
    #[command(flatten)]
    pub db: DbSettings,
}

#[derive(Clone)]
struct App {
    pool: Pool,
    metrics: Arc<Metrics>,
}

/// Serves until told to end.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let lifecycle = Lifecycle::new();
    let (server, routes) = build(settings, lifecycle).await?;
    server.run(routes).await
}

/// The server, bound, and its routes; the schema is brought up in the background.
///
/// # Errors
/// When the address cannot be bound.
pub async fn build(settings: Settings, lifecycle: Lifecycle) -> anyhow::Result<(Server, Router)> {
    let metrics = Arc::new(Metrics::new());
    metrics.counter("orders_accepted_total", "Orders taken, repeats of a key not counted.", &[&[]]);
    metrics.counter("orders_repeated_total", "Requests that repeated a key and got the same order.", &[&[]]);
    metrics.counter("orders_conflict_total", "Requests that used a key again for another order.", &[&[]]);
    metrics.counter("orders_invalid_total", "Requests that were no order.", &[&[]]);
    let pool = Pool::new(settings.db.clone());
    let ready = pool.clone();
    let server = Server::bind(&settings.serve, lifecycle.clone(), metrics.clone()).await?;
    let server = server.ready_if(move || {
        let pool = ready.clone();
        async move { pool.ping().await }
    });
    tokio::spawn(async move {
        migrate_when_reachable(&settings.db, SCHEMA, STEPS).await;
        lifecycle.started();
    });
    let routes = Router::new()
        .route("/orders", post(create).get(list))
        .route("/orders/{id}", get(show))
        .with_state(App { pool, metrics });
    Ok((server, routes))
}

async fn create(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Result<Response, Unavailable> {
    let invalid = |message: String| {
        app.metrics.inc("orders_invalid_total", &[]);
        problem(StatusCode::BAD_REQUEST, message)
    };
    let key = match headers.get("idempotency-key").map(|value| value.to_str().unwrap_or_default().trim()) {
        None => return Ok(invalid("the Idempotency-Key header is required".into())),
        Some(key) if key.is_empty() || key.len() > KEY_MAX => {
            return Ok(invalid(format!("the Idempotency-Key must be 1 to {KEY_MAX} visible characters")));
        }
        Some(key) => key.to_owned(),
    };
    let order: NewOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return Ok(invalid(format!("not an order: {error}"))),
    };
    if let Err(reason) = order.check() {
        return Ok(invalid(reason));
    }
    // A client that hangs up must not leave the statement half done: it runs to its end in its own task.
    let pool = app.pool.clone();
    let accepted = tokio::spawn(async move { accept(&pool, &key, &order).await }).await??;
    let (status, metric, order) = match accepted {
        Accepted::New(order) => (StatusCode::CREATED, "orders_accepted_total", order),
        Accepted::Repeated(order) => (StatusCode::OK, "orders_repeated_total", order),
        Accepted::Conflict => {
            app.metrics.inc("orders_conflict_total", &[]);
            let message = "this Idempotency-Key was used for a different order";
            return Ok(problem(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
    };
    app.metrics.inc(metric, &[]);
    let location = format!("/orders/{}", order.id);
    Ok((status, [("location", location)], Json(order)).into_response())
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<i64>,
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Response, Unavailable> {
    let limit = query.limit.unwrap_or(50).clamp(1, LIST_MAX);
    let orders = store::list(&app.pool, limit).await?;
    let total = store::count(&app.pool).await?;
    Ok(Json(serde_json::json!({ "total": total, "orders": orders })).into_response())
}

async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Unavailable> {
    let missing = || problem(StatusCode::NOT_FOUND, "no such order");
    let Ok(id) = id.parse::<Uuid>() else { return Ok(missing()) };
    Ok(match store::find(&app.pool, id).await? {
        Some(order) => Json(order).into_response(),
        None => missing(),
    })
}

/// How long a client should allow for one order.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(15);
