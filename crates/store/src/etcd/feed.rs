//! A watch of etcd: one task per watch reads the stream, opens it again where it broke, and hands on whole revisions. What
//! is not read stays with etcd, which keeps it until it is compacted: a slow watcher is never cut off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::grpc::{CallError, Messages};
use super::proto::{self, EventType, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{Inner, closed};
use crate::watch::Feed;
use crate::{Batch, BoxFuture, Event, EventKind, KeyValue, StoreError};

/// Batches read ahead of the watcher.
const AHEAD: usize = 4;
/// Times that a stream is opened in a row without anything coming from it.
const OPENINGS: u32 = 8;
/// Wait before it is opened a second time, twice as long before each further time, up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a revision that somebody waits for may take to come by itself.
const PATIENCE: Duration = Duration::from_millis(100);

/// The watcher's end.
pub struct EtcdFeed {
    batches: mpsc::Receiver<Result<Batch, StoreError>>,
    delivered: u64,
    ended: Option<StoreError>,
    task: JoinHandle<()>,
}

impl EtcdFeed {
    /// Follows the keys with the prefix from a revision on, which is at least 1, until the store is dropped.
    pub fn start(inner: Arc<Inner>, prefix: Bytes, from: u64, alive: watch::Receiver<()>) -> Self {
        let (out, batches) = mpsc::channel(AHEAD);
        let wanted = inner.wanted.subscribe();
        let reader = Reader { inner, prefix, next: from, out, wanted };
        let task = tokio::spawn(reader.run(alive));
        EtcdFeed { batches, delivered: from - 1, ended: None, task }
    }
}

impl Drop for EtcdFeed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed for EtcdFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, StoreError>> {
        Box::pin(async move {
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            match self.batches.recv().await.unwrap_or_else(|| Err(closed())) {
                Ok(batch) => {
                    self.delivered = batch.revision;
                    Ok(batch)
                }
                Err(error) => {
                    self.ended = Some(error.clone());
                    Err(error)
                }
            }
        })
    }

    fn progress(&self) -> u64 {
        self.delivered
    }
}

struct Reader {
    inner: Arc<Inner>,
    prefix: Bytes,
    /// Everything before this revision has been handed on.
    next: u64,
    out: mpsc::Sender<Result<Batch, StoreError>>,
    wanted: watch::Receiver<u64>,
}

/// Why reading a stream ended.
enum End {
    /// Open it again.
    Broken(CallError),
    /// The watch is over.
    Over(StoreError),
}

impl Reader {
    async fn run(mut self, mut alive: watch::Receiver<()>) {
        let out = self.out.clone();
        let error = tokio::select! {
            error = self.follow() => error,
            // Nothing is ever sent: this is the end of the store.
            _ = alive.changed() => closed(),
        };
        // A watcher that has gone away does not want to know.
        let _gone = out.send(Err(error)).await;
    }

    /// Reads streams, one after the other, until the watch is over.
    async fn follow(&mut self) -> StoreError {
        let (mut fruitless, mut pause) = (0, PAUSE);
        loop {
            let before = self.next;
            let error = match self.open().await {
                Ok((mut stream, generation)) => match self.read(&mut stream).await {
                    End::Over(error) => return error,
                    End::Broken(error) => {
                        self.inner.channel.judge(&error, generation);
                        error
                    }
                },
                Err(error) => error,
            };
            if self.next > before {
                (fruitless, pause) = (0, PAUSE);
            }
            fruitless += 1;
            if fruitless >= OPENINGS {
                return StoreError::Unavailable(Arc::from(error.to_string()));
            }
            tracing::debug!(%error, next = self.next, "a watch of etcd broke, opening it again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks for one revision more than is wanted: etcd replays from a compacted revision what is left of it, and refuses
    /// only the one before. Without this a deletion at the compacted revision could be missed.
    async fn open(&self) -> Result<(Messages, u64), CallError> {
        let (key, range_end) = self.inner.keys.watched();
        let start_revision = proto::signed(self.next.saturating_sub(1).max(1));
        let create = WatchCreateRequest { key, range_end, start_revision, progress_notify: true, prev_kv: true };
        self.inner.channel.stream("/etcdserverpb.Watch/Watch", &WatchRequest { create: Some(create) }).await
    }

    async fn read(&mut self, stream: &mut Messages) -> End {
        loop {
            let message = tokio::select! {
                message = stream.next::<WatchResponse>() => message,
                // Others have written to this etcd, which the stream does not tell of: a write of our own comes after it.
                () = overdue(&self.inner, &mut self.wanted, self.next) => {
                    if !self.inner.is_foreign(*self.wanted.borrow()) {
                        continue;
                    }
                    if let Err(error) = self.inner.bump().await {
                        tracing::debug!(error = %base::chain(&error), "etcd's watches could not be moved forward");
                    }
                    continue;
                }
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return End::Broken(CallError::Lost(Arc::from("etcd ended the watch"))),
                Err(error) => return End::Broken(error),
            };
            if response.canceled {
                return self.cancelled(&response);
            }
            let changed = !response.events.is_empty();
            let batch = match self.batch(response) {
                Ok(Some(batch)) => batch,
                Ok(None) => continue,
                Err(error) => return End::Over(error),
            };
            self.next = batch.revision + 1;
            self.inner.saw(batch.revision, changed);
            if self.out.send(Ok(batch)).await.is_err() {
                return End::Over(closed());
            }
        }
    }

    fn cancelled(&self, response: &WatchResponse) -> End {
        match proto::unsigned(response.compact_revision) {
            0 => End::Broken(CallError::Lost(Arc::from(format!("etcd ended the watch: {}", response.cancel_reason)))),
            compact_revision => End::Over(StoreError::Compacted { compact_revision }),
        }
    }

    /// The changes of a response that have not been handed on, or how far the watch is; `None` when it says neither.
    fn batch(&self, response: WatchResponse) -> Result<Option<Batch>, StoreError> {
        if response.created {
            return Ok(None);
        }
        let mut through = if response.events.is_empty() { proto::revision(response.header.as_ref()) } else { 0 };
        let mut events = Vec::with_capacity(response.events.len());
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            let revision = proto::unsigned(kv.mod_revision);
            through = through.max(revision);
            if revision < self.next {
                continue;
            }
            let kind = EventType::try_from(event.kind)
                .map_err(|_| StoreError::Corrupt { what: "an event of an unknown kind", revision })?;
            events.extend(self.event(kind, kv, event.prev_kv));
        }
        Ok((through >= self.next).then_some(Batch { revision: through, events }))
    }

    fn event(&self, kind: EventType, kv: proto::KeyValue, before: Option<proto::KeyValue>) -> Option<Event> {
        let mut kv = self.inner.keys.kv(kv).filter(|kv| kv.key.starts_with(&self.prefix))?;
        let kind = match kind {
            EventType::Put => EventKind::Put,
            EventType::Delete => EventKind::Delete,
        };
        if kind == EventKind::Delete {
            kv = KeyValue {
                key: kv.key,
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: kv.mod_revision,
                version: 0,
            };
        }
        let previous = before.and_then(|kv| self.inner.keys.kv(kv));
        Some(Event { kind, kv, previous })
    }
}

/// Ends when somebody waits for a revision that has not come for a while and does not seem to be one of this store's.
async fn overdue(inner: &Inner, wanted: &mut watch::Receiver<u64>, next: u64) {
    if wanted.wait_for(|wanted| *wanted >= next && inner.is_foreign(*wanted)).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(PATIENCE).await;
}
