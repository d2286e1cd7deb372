//! Watches. A watch first replays history from disk, a piece at a time and only as fast as it is read, until it has
//! caught up; then it joins the [`Hub`] under the hub's lock, at exactly the next revision, so that there is no gap and
//! nothing comes twice. From then on changes wait in its own buffer, which has a limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Batch, BoxFuture, Event, StoreError};

/// How much may wait for one watcher.
#[derive(Debug, Clone, Copy)]
pub struct WatchLimits {
    /// Events.
    pub events: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        WatchLimits { events: 8192, bytes: 16 << 20 }
    }
}

/// A piece of history.
pub(crate) struct Replayed {
    /// The changes with the prefix, whole revisions.
    pub events: Vec<Event>,
    /// Everything up to this revision has been read.
    pub through: u64,
}

/// Where a watch reads what happened before it joined.
pub(crate) trait History: Send + Sync {
    /// Reads a piece beginning at the revision.
    fn replay(&self, prefix: Bytes, from: u64) -> BoxFuture<'static, Result<Replayed, StoreError>>;
}

/// Spreads what has become durable over the live watches.
pub(crate) struct Hub {
    state: Mutex<HubState>,
    limits: WatchLimits,
}

struct HubState {
    revision: u64,
    next_id: u64,
    queues: BTreeMap<u64, Arc<Queue>>,
    stopped: Option<Arc<str>>,
}

/// The buffer of one live watch.
struct Queue {
    prefix: Bytes,
    /// Older changes have been replayed already.
    from: u64,
    state: Mutex<QueueState>,
    wake: Notify,
}

#[derive(Default)]
struct QueueState {
    events: Vec<Event>,
    bytes: usize,
    /// Newest revision that went past, with or without an event for this watch.
    seen: u64,
    end: Option<StoreError>,
}

impl Hub {
    pub(crate) fn new(revision: u64, limits: WatchLimits) -> Arc<Self> {
        let state = HubState { revision, next_id: 0, queues: BTreeMap::new(), stopped: None };
        Arc::new(Hub { state: Mutex::new(state), limits })
    }

    /// The newest revision shown to watches.
    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().revision
    }

    /// Shows durable changes, in order. `revision` is the newest of them.
    pub(crate) fn publish(&self, revision: u64, events: &[Event]) {
        let mut state = self.state.lock();
        state.revision = revision;
        let limits = self.limits;
        state.queues.retain(|_, queue| queue.push(revision, events, limits));
    }

    /// Ends all watches. Only the first reason counts.
    pub(crate) fn stop(&self, reason: &Arc<str>) {
        let mut state = self.state.lock();
        let reason = state.stopped.get_or_insert_with(|| reason.clone()).clone();
        for queue in std::mem::take(&mut state.queues).into_values() {
            queue.end(StoreError::Stopped(reason.clone()));
        }
    }

    /// Joins a watch that has seen everything before `from`, or gives `None` if there is more to replay first.
    fn join(&self, prefix: &Bytes, from: u64) -> Result<Option<(u64, Arc<Queue>)>, StoreError> {
        let mut state = self.state.lock();
        if let Some(reason) = &state.stopped {
            return Err(StoreError::Stopped(reason.clone()));
        }
        if from != 0 && state.revision >= from {
            return Ok(None);
        }
        let id = state.next_id;
        state.next_id += 1;
        let from = if from == 0 { state.revision + 1 } else { from };
        let seen = QueueState { seen: from - 1, ..QueueState::default() };
        let queue = Arc::new(Queue { prefix: prefix.clone(), from, state: Mutex::new(seen), wake: Notify::new() });
        state.queues.insert(id, queue.clone());
        Ok(Some((id, queue)))
    }

    fn leave(&self, id: u64) {
        self.state.lock().queues.remove(&id);
    }
}

impl Queue {
    /// Adds what concerns this watch; false when it is over.
    fn push(&self, revision: u64, events: &[Event], limits: WatchLimits) -> bool {
        let mut state = self.state.lock();
        let before = state.events.len();
        for event in events {
            if event.kv.mod_revision >= self.from && event.kv.key.starts_with(&self.prefix) {
                state.bytes += weight(event);
                state.events.push(event.clone());
            }
        }
        state.seen = state.seen.max(revision);
        // One change larger than the whole buffer must still get through to a watcher that keeps up.
        let lagged = before > 0 && (state.events.len() > limits.events || state.bytes > limits.bytes);
        if lagged {
            let buffered = state.events.len();
            state.events = Vec::new();
            state.end = Some(StoreError::Lagged { buffered });
        }
        if state.events.len() > before || lagged {
            self.wake.notify_one();
        }
        !lagged
    }

    fn end(&self, error: StoreError) {
        self.state.lock().end.get_or_insert(error);
        self.wake.notify_one();
    }

    async fn take(&self) -> Result<Batch, StoreError> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.events.is_empty() {
                    state.bytes = 0;
                    return Ok(Batch { revision: state.seen, events: std::mem::take(&mut state.events) });
                }
                if let Some(end) = &state.end {
                    return Err(end.clone());
                }
            }
            self.wake.notified().await;
        }
    }
}

fn weight(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |kv| kv.value.len());
    event.kv.key.len() + event.kv.value.len() + previous
}

/// Changes each event before it is handed on.
pub(crate) type Map = Arc<dyn Fn(&mut Event) -> Result<(), StoreError> + Send + Sync>;

/// A stream of changes. Dropping it ends it.
pub struct Watch {
    source: Source,
    map: Option<Map>,
}

enum Source {
    Local(Local),
    Feed(Box<dyn Feed>),
}

/// Where the changes of a watch come from when they do not come from this process.
pub trait Feed: Send + Sync {
    /// The next changes, as [`Watch::next`] gives them. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, StoreError>>;

    /// As [`Watch::progress`].
    fn progress(&self) -> u64;
}

/// A watch of a store in this process.
struct Local {
    prefix: Bytes,
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    state: State,
    delivered: u64,
}

enum State {
    /// Everything before this revision has been delivered.
    Replay(u64),
    Live(u64, Arc<Queue>),
}

impl Watch {
    /// `from` 0 joins at once. The caller has checked that `from` is neither compacted nor in the future.
    pub(crate) fn new(hub: Arc<Hub>, history: Arc<dyn History>, prefix: Bytes, from: u64) -> Result<Self, StoreError> {
        let state = match hub.join(&prefix, from)? {
            Some((id, queue)) => State::Live(id, queue),
            None => State::Replay(from),
        };
        let delivered = match &state {
            State::Replay(from) => from - 1,
            State::Live(_, queue) => queue.from - 1,
        };
        Ok(Watch { source: Source::Local(Local { prefix, hub, history, state, delivered }), map: None })
    }

    /// A watch of a store elsewhere.
    pub fn from_feed(feed: Box<dyn Feed>) -> Self {
        Watch { source: Source::Feed(feed), map: None }
    }

    /// The same watch with every event changed on its way.
    pub(crate) fn mapped(mut self, map: Map) -> Self {
        self.map = Some(map);
        self
    }

    /// Waits for the next changes: everything that has come since the last call, in order.
    ///
    /// [`StoreError::Lagged`] says that the buffer ran over, [`StoreError::Compacted`] that history was dropped before
    /// it was replayed, [`StoreError::Stopped`] that the store is at its end; the watch is over then. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        let mut batch = match &mut self.source {
            Source::Local(local) => local.take().await?,
            Source::Feed(feed) => feed.next().await?,
        };
        if let Some(map) = &self.map {
            batch.events.iter_mut().try_for_each(|event| map(event))?;
        }
        Ok(batch)
    }

    /// The revision up to which everything has been delivered, also when the latest changes were to other keys: what
    /// a cache may claim to be as fresh as.
    pub fn progress(&self) -> u64 {
        match &self.source {
            Source::Local(local) => local.progress(),
            Source::Feed(feed) => feed.progress(),
        }
    }
}

impl Local {
    async fn take(&mut self) -> Result<Batch, StoreError> {
        loop {
            match &self.state {
                State::Live(_, queue) => {
                    let batch = queue.take().await?;
                    self.delivered = batch.revision;
                    return Ok(batch);
                }
                State::Replay(from) => {
                    if let Some((id, queue)) = self.hub.join(&self.prefix, *from)? {
                        self.state = State::Live(id, queue);
                        continue;
                    }
                    let piece = self.history.replay(self.prefix.clone(), *from).await?;
                    self.state = State::Replay(piece.through + 1);
                    self.delivered = piece.through;
                    if !piece.events.is_empty() {
                        return Ok(Batch { revision: piece.through, events: piece.events });
                    }
                }
            }
        }
    }

    fn progress(&self) -> u64 {
        match &self.state {
            State::Replay(_) => self.delivered,
            State::Live(_, queue) => {
                let state = queue.state.lock();
                if state.events.is_empty() && state.end.is_none() { state.seen } else { self.delivered }
            }
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let State::Live(id, _) = &self.state {
            self.hub.leave(*id);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventKind, KeyValue};

    fn put(revision: u64) -> Event {
        let key = Bytes::from_static(b"k");
        let kv = KeyValue { key, value: Bytes::new(), create_revision: 1, mod_revision: revision, version: 1 };
        Event { kind: EventKind::Put, kv, previous: None }
    }

    /// A disk on which everything up to a revision is durable already.
    struct Disk(u64);

    impl History for Disk {
        fn replay(&self, _: Bytes, from: u64) -> BoxFuture<'static, Result<Replayed, StoreError>> {
            let through = self.0;
            Box::pin(async move { Ok(Replayed { events: (from..=through).map(put).collect(), through }) })
        }
    }

    fn revisions(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.kv.mod_revision).collect()
    }

    #[tokio::test]
    async fn what_was_replayed_before_it_was_published_does_not_come_twice() {
        let hub = Hub::new(2, WatchLimits::default());
        let mut watch = Watch::new(hub.clone(), Arc::new(Disk(4)), Bytes::new(), 1).expect("not stopped");
        assert_eq!(revisions(&watch.next().await.expect("history")), [1, 2, 3, 4]);
        {
            // The watch joins while revisions 3 and 4 are still to be published.
            let joins = std::pin::pin!(watch.next());
            assert!(futures::poll!(joins).is_pending());
        }
        hub.publish(3, &[put(3)]);
        hub.publish(5, &[put(4), put(5)]);
        assert_eq!(revisions(&watch.next().await.expect("live")), [5]);
    }

    #[tokio::test]
    async fn a_dropped_watch_leaves_the_hub() {
        let hub = Hub::new(2, WatchLimits::default());
        let watch = Watch::new(hub.clone(), Arc::new(Disk(2)), Bytes::new(), 0).expect("not stopped");
        assert_eq!(hub.state.lock().queues.len(), 1);
        drop(watch);
        assert_eq!(hub.state.lock().queues.len(), 0);
    }
}
