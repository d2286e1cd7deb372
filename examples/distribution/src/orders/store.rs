//! Orders and their outbox in PostgreSQL.

use tokio_postgres::Row;
use uuid::Uuid;

use super::model::{NewOrder, Order};
use crate::db::Pool;

/// The schema of orders and outbox; `erp-sync` works on the same one.
pub const SCHEMA: &str = "shop";

/// Its migrations. Never change one: add another.
pub const STEPS: &[&str] = &["
    create table orders (
        id uuid primary key,
        idempotency_key text not null unique,
        fingerprint text not null,
        customer text not null,
        lines jsonb not null,
        total_cents bigint not null,
        status text not null default 'accepted' check (status in ('accepted', 'delivered', 'dead')),
        created_at timestamptz not null default now()
    );
    create index orders_newest on orders (created_at desc);
    create table outbox (
        id bigint generated always as identity primary key,
        order_id uuid not null references orders (id),
        payload jsonb not null,
        state text not null default 'pending' check (state in ('pending', 'done', 'dead')),
        attempts int not null default 0,
        due_at timestamptz not null default now(),
        claimed_by uuid,
        claimed_until timestamptz,
        last_error text,
        created_at timestamptz not null default now(),
        done_at timestamptz
    );
    create index outbox_due on outbox (due_at, id) where state = 'pending';
    create index outbox_dead on outbox (id) where state = 'dead';
"];

/// The order columns, in the order `order` reads them.
const COLUMNS: &str = "id::text, customer, lines::text, total_cents, status,
    to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";

/// What became of a request for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is new.
    New(Order),
    /// The key was used before, for the same order: this one.
    Repeated(Order),
    /// The key was used before, for another order.
    Conflict,
}

/// Writes the order and its event, both or neither, unless the key has been used.
///
/// # Errors
/// When the database fails; whether the order was written is then unknown, and the same key asks.
pub async fn accept(pool: &Pool, key: &str, order: &NewOrder) -> anyhow::Result<Accepted> {
    let id = Uuid::new_v4().to_string();
    let (lines, fingerprint) = (serde_json::to_string(&order.lines)?, order.fingerprint());
    let mut conn = pool.get().await?;
    let tx = conn.transaction().await?;
    // Of two requests with one key the second waits here until the first has committed, and then inserts nothing.
    let insert = format!(
        "insert into {SCHEMA}.orders (id, idempotency_key, fingerprint, customer, lines, total_cents)
         values ($1::text::uuid, $2, $3, $4, $5::text::jsonb, $6)
         on conflict (idempotency_key) do nothing returning {COLUMNS}"
    );
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&id, &key, &fingerprint, &order.customer, &lines, &order.total_cents()];
    if let Some(row) = tx.query_opt(&insert, &values).await? {
        let order = read(&row)?;
        let event = serde_json::to_string(&order)?;
        let outbox =
            format!("insert into {SCHEMA}.outbox (order_id, payload) values ($1::text::uuid, $2::text::jsonb)");
        tx.execute(&outbox, &[&id, &event]).await?;
        tx.execute("select pg_notify('outbox', '')", &[]).await?;
        tx.commit().await?;
        return Ok(Accepted::New(order));
    }
    let known = format!("select {COLUMNS}, fingerprint from {SCHEMA}.orders where idempotency_key = $1");
    let row = tx.query_one(&known, &[&key]).await?;
    tx.rollback().await?;
    let same = row.try_get::<_, String>(6)? == fingerprint;
    Ok(if same { Accepted::Repeated(read(&row)?) } else { Accepted::Conflict })
}

pub(super) async fn list(pool: &Pool, limit: i64) -> anyhow::Result<Vec<Order>> {
    let query = format!("select {COLUMNS} from {SCHEMA}.orders order by created_at desc, id limit $1");
    pool.get().await?.query(&query, &[&limit]).await?.iter().map(read).collect()
}

pub(super) async fn count(pool: &Pool) -> anyhow::Result<i64> {
    let query = format!("select count(*) from {SCHEMA}.orders");
    Ok(pool.get().await?.query_one(&query, &[]).await?.try_get(0)?)
}

pub(super) async fn find(pool: &Pool, id: Uuid) -> anyhow::Result<Option<Order>> {
    let query = format!("select {COLUMNS} from {SCHEMA}.orders where id = $1::text::uuid");
    pool.get().await?.query_opt(&query, &[&id.to_string()]).await?.as_ref().map(read).transpose()
}

fn read(row: &Row) -> anyhow::Result<Order> {
    Ok(Order {
        id: row.try_get(0)?,
        customer: row.try_get(1)?,
        lines: serde_json::from_str(row.try_get(2)?)?,
        total_cents: row.try_get(3)?,
        status: row.try_get(4)?,
        created_at: row.try_get(5)?,
    })
}
