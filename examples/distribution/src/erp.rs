//! A simulated ERP: slow, failing or out when told so, and an exact witness of what reached it. Every delivery it took
//! in is a row; an order has effect once, however often it is delivered.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rand::Rng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::db::{DbSettings, Pool, migrate};
use crate::metrics::Metrics;
use crate::serve::{Lifecycle, ServeSettings, Server, Unavailable, problem};

const SCHEMA: &str = "erp";
const STEPS: &[&str] = &["
    create table orders (
        order_id uuid primary key,
        document jsonb not null,
        recorded_at timestamptz not null default now()
    );
    create table deliveries (
        id bigint generated always as identity primary key,
        order_id uuid not null,
        attempt int,
        effect text not null check (effect in ('recorded', 'duplicate')),
        received_at timestamptz not null default now()
    );
    create table behaviour (only_one boolean primary key default true check (only_one), document jsonb not null);
"];
const LATENCY_MAX_MS: u64 = 60_000;
const LIST_MAX: i64 = 1000;

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

/// How the ERP behaves, until told otherwise; survives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Time to answer, milliseconds.
    pub latency_ms: u64,
    /// Share of deliveries answered 500, unrecorded, 0 to 1.
    pub error_rate: f64,
    /// Every delivery is answered 503, unrecorded.
    pub outage: bool,
    /// Every delivery is answered 422, unrecorded: it will never take them.
    pub refuse: bool,
    /// Share of deliveries recorded but answered 500, as when the answer is lost, 0 to 1.
    pub lost_answer_rate: f64,
}

impl Behaviour {
    fn check(&self) -> Result<(), &'static str> {
        if self.latency_ms > LATENCY_MAX_MS {
            return Err("latency_ms must be at most 60000");
        }
        let share = |x: f64| (0.0..=1.0).contains(&x);
        (share(self.error_rate) && share(self.lost_answer_rate)).then_some(()).ok_or("rates must be 0 to 1")
    }
}

/// What a delivery brings.
#[derive(Debug, Deserialize)]
struct Delivery {
    order_id: String,
    attempt: Option<i32>,
    order: serde_json::Value,
}

/// What reached the ERP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Orders recorded, each once.
    pub orders: i64,
    /// Deliveries taken in.
    pub deliveries: i64,
    /// Deliveries of an order it had already.
    pub duplicates: i64,
}

#[derive(Clone)]
struct App {
    pool: Pool,
    metrics: Arc<Metrics>,
    behaviour: Arc<RwLock<Behaviour>>,
}

/// Serves until told to end.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let (server, routes) = build(settings, Lifecycle::new()).await?;
    server.run(routes).await
}

/// The server, bound, and its routes; the schema is brought up in the background.
///
/// # Errors
/// When the address cannot be bound.
pub async fn build(settings: Settings, lifecycle: Lifecycle) -> anyhow::Result<(Server, Router)> {
    let metrics = Arc::new(Metrics::new());
    let results: [&[(&str, &str)]; 4] =
        [&[("result", "recorded")], &[("result", "duplicate")], &[("result", "failed")], &[("result", "refused")]];
    metrics.counter("erp_received_total", "Deliveries received, by what came of them.", &results);
    let pool = Pool::new(settings.db.clone());
    let ready = pool.clone();
    let server = Server::bind(&settings.serve, lifecycle.clone(), metrics.clone()).await?;
    let server = server.ready_if(move || {
        let pool = ready.clone();
        async move { pool.ping().await }
    });
    let app = App { pool, metrics, behaviour: Arc::default() };
    let starting = app.clone();
    tokio::spawn(async move {
        // Until then nothing is recorded: the tables are missing.
        while let Err(error) = starting.start(&settings.db).await {
            tracing::warn!(error = format!("{error:#}"), "database not ready");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        lifecycle.started();
    });
    let routes = Router::new()
        .route("/orders", post(deliver))
        .route("/deliveries", get(deliveries))
        .route("/deliveries/summary", get(summary))
        .route("/admin/behaviour", get(behaviour).put(set_behaviour))
        .with_state(app);
    Ok((server, routes))
}

impl App {
    async fn start(&self, db: &DbSettings) -> anyhow::Result<()> {
        migrate(db, SCHEMA, STEPS).await?;
        let sql = format!("select document::text from {SCHEMA}.behaviour");
        if let Some(row) = self.pool.get().await?.query_opt(&sql, &[]).await? {
            self.set(serde_json::from_str(row.try_get(0)?)?);
        }
        Ok(())
    }

    fn now(&self) -> Behaviour {
        *self.behaviour.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.write().unwrap_or_else(std::sync::PoisonError::into_inner) = behaviour;
    }

    fn count(&self, result: &str) {
        self.metrics.inc("erp_received_total", &[("result", result)]);
    }
}

async fn deliver(State(app): State<App>, Json(delivery): Json<Delivery>) -> Result<Response, Unavailable> {
    let Ok(order_id) = delivery.order_id.parse::<Uuid>() else {
        return Ok(problem(StatusCode::BAD_REQUEST, "order_id must be a UUID"));
    };
    let behaviour = app.now();
    tokio::time::sleep(Duration::from_millis(behaviour.latency_ms)).await;
    // Asked after the wait: an outage that begins meanwhile is one for this delivery too.
    let behaviour = app.now();
    if behaviour.outage {
        app.count("failed");
        return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "the ERP is out of service"));
    }
    if behaviour.refuse {
        app.count("refused");
        return Ok(problem(StatusCode::UNPROCESSABLE_ENTITY, "the ERP refuses this order"));
    }
    if rand::rng().random::<f64>() < behaviour.error_rate {
        app.count("failed");
        return Ok(problem(StatusCode::INTERNAL_SERVER_ERROR, "the ERP failed"));
    }
    // Order and delivery in one statement: recorded together or not at all. A client that hangs up does not stop it.
    let pool = app.pool.clone();
    let effect = tokio::spawn(async move { record(&pool, order_id, &delivery).await }).await??;
    app.count(&effect);
    if rand::rng().random::<f64>() < behaviour.lost_answer_rate {
        return Ok(problem(StatusCode::INTERNAL_SERVER_ERROR, "recorded, but you shall not know"));
    }
    let status = if effect == "recorded" { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(serde_json::json!({ "effect": effect }))).into_response())
}

async fn record(pool: &Pool, order_id: Uuid, delivery: &Delivery) -> anyhow::Result<String> {
    let sql = format!(
        "with fresh as (
             insert into {SCHEMA}.orders (order_id, document) values ($1::text::uuid, $2::text::jsonb)
             on conflict (order_id) do nothing returning order_id)
         insert into {SCHEMA}.deliveries (order_id, attempt, effect)
         values ($1::text::uuid, $3, case when exists (select from fresh) then 'recorded' else 'duplicate' end)
         returning effect"
    );
    let (id, document) = (order_id.to_string(), serde_json::to_string(&delivery.order)?);
    let row = pool.get().await?.query_one(&sql, &[&id, &document, &delivery.attempt]).await?;
    Ok(row.try_get(0)?)
}

async fn summary(State(app): State<App>) -> Result<Json<Summary>, Unavailable> {
    let sql = format!(
        "select (select count(*) from {SCHEMA}.orders), count(*), count(*) filter (where effect = 'duplicate')
         from {SCHEMA}.deliveries"
    );
    let row = app.pool.get().await?.query_one(&sql, &[]).await?;
    Ok(Json(Summary { orders: row.try_get(0)?, deliveries: row.try_get(1)?, duplicates: row.try_get(2)? }))
}

#[derive(Deserialize)]
struct ListQuery {
    limit: Option<i64>,
}

async fn deliveries(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Response, Unavailable> {
    let limit = query.limit.unwrap_or(100).clamp(1, LIST_MAX);
    let sql = format!(
        "select order_id::text, attempt, effect, to_char(received_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
         from {SCHEMA}.deliveries order by id desc limit $1"
    );
    let mut found = Vec::new();
    for row in app.pool.get().await?.query(&sql, &[&limit]).await? {
        let (order, attempt): (String, Option<i32>) = (row.try_get(0)?, row.try_get(1)?);
        let (effect, at): (String, String) = (row.try_get(2)?, row.try_get(3)?);
        found.push(serde_json::json!({ "order_id": order, "attempt": attempt, "effect": effect, "received_at": at }));
    }
    Ok(Json(found).into_response())
}

async fn behaviour(State(app): State<App>) -> Json<Behaviour> {
    Json(app.now())
}

async fn set_behaviour(State(app): State<App>, Json(wanted): Json<Behaviour>) -> Result<Response, Unavailable> {
    if let Err(reason) = wanted.check() {
        return Ok(problem(StatusCode::BAD_REQUEST, reason));
    }
    let sql = format!(
        "insert into {SCHEMA}.behaviour (document) values ($1::text::jsonb)
         on conflict (only_one) do update set document = excluded.document"
    );
    app.pool.get().await?.execute(&sql, &[&serde_json::to_string(&wanted)?]).await?;
    app.set(wanted);
    tracing::info!(behaviour = serde_json::to_string(&wanted)?, "behaviour changed");
    Ok(Json(wanted).into_response())
}
