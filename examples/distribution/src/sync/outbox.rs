//! The outbox table, as its reader sees it.

use std::future::poll_fn;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::decide::Next;
use crate::db::Pool;
use crate::orders::SCHEMA;

/// Most dead letters shown at once.
const DEAD_LETTERS_MAX: i64 = 200;
const ERROR_MAX: usize = 500;

/// An event claimed for delivery.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) id: i64,
    pub(super) order_id: String,
    pub(super) payload: serde_json::Value,
    /// This attempt counted.
    pub(super) attempts: u32,
    /// Somebody else had claimed it and did not come back.
    pub(super) reclaimed: bool,
}

/// How the outbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Events not delivered yet.
    pub depth: i64,
    /// Age of the oldest of them.
    pub lag_seconds: f64,
    /// Events given up.
    pub dead_letters: i64,
}

/// An event given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its id, for the replay.
    pub id: i64,
    /// The order.
    pub order_id: String,
    /// Attempts made.
    pub attempts: i32,
    /// Why the last one failed.
    pub error: String,
    /// When the order was accepted, RFC 3339.
    pub created_at: String,
}

pub(super) struct Outbox {
    pool: Pool,
    /// This process, as claims name it.
    owner: String,
    lease: Duration,
}

impl Outbox {
    pub(super) fn new(pool: Pool, owner: Uuid, lease: Duration) -> Self {
        Outbox { pool, owner: owner.to_string(), lease }
    }

    /// Claims up to so many due events, oldest first. Rows another instance is claiming are skipped, not waited for.
    /// The attempt is counted here, so that an event that kills its reader does not do so for ever.
    pub(super) async fn claim(&self, limit: usize) -> anyhow::Result<Vec<Event>> {
        let sql = format!(
            "with due as (
                 select id, claimed_by is not null as reclaimed from {SCHEMA}.outbox
                 where state = 'pending' and due_at <= now() and (claimed_until is null or claimed_until < now())
                 order by due_at, id limit $1 for update skip locked)
             update {SCHEMA}.outbox o
             set claimed_by = $2::text::uuid, claimed_until = now() + make_interval(secs => $3), attempts = attempts + 1
             from due where o.id = due.id
             returning o.id, o.order_id::text, o.payload::text, o.attempts, due.reclaimed"
        );
        let (limit, lease) = (i64::try_from(limit)?, self.lease.as_secs_f64());
        let rows = self.pool.get().await?.query(&sql, &[&limit, &self.owner, &lease]).await?;
        rows.iter()
            .map(|row| {
                Ok(Event {
                    id: row.try_get(0)?,
                    order_id: row.try_get(1)?,
                    payload: serde_json::from_str(row.try_get(2)?)?,
                    attempts: u32::try_from(row.try_get::<_, i32>(3)?)?,
                    reclaimed: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Writes down what follows, unless the claim was lost meanwhile: then it is for the new owner to say.
    pub(super) async fn record(&self, event: &Event, next: &Next) -> anyhow::Result<()> {
        let (state, after, error, status) = match next {
            Next::Done => ("done", 0.0, None, Some("delivered")),
            Next::Retry { after, error } => ("pending", after.as_secs_f64(), Some(error), None),
            Next::Dead { error } => ("dead", 0.0, Some(error), Some("dead")),
        };
        let error = error.map(|e| e.chars().take(ERROR_MAX).collect::<String>());
        // An order that the ERP has stays delivered, whatever a late claim says.
        let sql = format!(
            "with event as (
                 update {SCHEMA}.outbox
                 set state = $3, due_at = now() + make_interval(secs => $4), last_error = $5,
                     claimed_by = null, claimed_until = null, done_at = case when $3 = 'done' then now() end
                 where id = $1 and claimed_by = $2::text::uuid and state = 'pending'
                 returning order_id)
             update {SCHEMA}.orders o set status = $6 from event
             where o.id = event.order_id and $6::text is not null and o.status <> 'delivered'"
        );
        let conn = self.pool.get().await?;
        conn.execute(&sql, &[&event.id, &self.owner, &state, &after, &error, &status]).await?;
        Ok(())
    }

    /// How long until something is due, or a claim runs out.
    pub(super) async fn next_due(&self) -> anyhow::Result<Duration> {
        let sql = format!(
            "select extract(epoch from min(greatest(due_at, coalesce(claimed_until, due_at))) - now())::float8
             from {SCHEMA}.outbox where state = 'pending'"
        );
        let seconds: Option<f64> = self.pool.get().await?.query_one(&sql, &[]).await?.try_get(0)?;
        // A little later rather than a little too early, which would ask again at once.
        Ok(seconds.map_or(Duration::MAX, |s| Duration::from_secs_f64(s.clamp(0.0, 3600.0)) + Duration::from_millis(5)))
    }

    pub(super) async fn queue(&self) -> anyhow::Result<Queue> {
        let sql = format!(
            "select count(*) filter (where state = 'pending'),
                    coalesce(extract(epoch from now() - min(created_at) filter (where state = 'pending')), 0)::float8,
                    count(*) filter (where state = 'dead')
             from {SCHEMA}.outbox where state in ('pending', 'dead')"
        );
        let row = self.pool.get().await?.query_one(&sql, &[]).await?;
        Ok(Queue { depth: row.try_get(0)?, lag_seconds: row.try_get(1)?, dead_letters: row.try_get(2)? })
    }

    pub(super) async fn dead_letters(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let sql = format!(
            "select id, order_id::text, attempts, coalesce(last_error, ''),
                    to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
             from {SCHEMA}.outbox where state = 'dead' order by id limit $1"
        );
        let rows = self.pool.get().await?.query(&sql, &[&DEAD_LETTERS_MAX]).await?;
        let letter = |row: &tokio_postgres::Row| {
            Ok(DeadLetter {
                id: row.try_get(0)?,
                order_id: row.try_get(1)?,
                attempts: row.try_get(2)?,
                error: row.try_get(3)?,
                created_at: row.try_get(4)?,
            })
        };
        rows.iter().map(letter).collect()
    }

    /// Makes a dead letter an event again, with all its attempts ahead. False if there is no such dead letter.
    pub(super) async fn replay(&self, id: i64) -> anyhow::Result<bool> {
        let sql = format!(
            "with event as (
                 update {SCHEMA}.outbox
                 set state = 'pending', attempts = 0, due_at = now(), claimed_by = null, claimed_until = null
                 where id = $1 and state = 'dead' returning order_id)
             update {SCHEMA}.orders o set status = 'accepted' from event where o.id = event.order_id"
        );
        Ok(self.pool.get().await?.execute(&sql, &[&id]).await? > 0)
    }

    /// Notifies at every order written, until the connection ends.
    pub(super) async fn listen(&self, wake: &Notify) -> anyhow::Result<()> {
        let (client, mut connection) = self.pool.settings().connect().await?;
        let messages = async {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(_) = message? {
                    wake.notify_one();
                }
            }
            anyhow::Ok(())
        };
        let listening = async {
            client.batch_execute("listen outbox").await?;
            // What was written while nobody listened.
            wake.notify_one();
            std::future::pending::<anyhow::Result<()>>().await
        };
        // The statement is answered only while the messages are read.
        tokio::select! {
            result = messages => result,
            result = listening => result,
        }
    }
}
