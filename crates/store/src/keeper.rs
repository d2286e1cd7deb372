//! What the store does by itself: end leases and drop old history. Also the commands that both back ends carry out.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::mvcc::{self, Edit};
use crate::options::AutoCompact;
use crate::{BoxFuture, Event, StoreError, Txn, TxnOutcome};

/// Most leases ended in one go, so that a crowd of them does not hold up other writers.
const EXPIRE_BUDGET: usize = 256;

/// How long what was refused, because the disk is full, is left alone.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// What the writer can be asked to do.
pub(crate) enum Command {
    Txn(Txn),
    Compact(u64),
    Expire,
}

impl Command {
    /// Roughly how many bytes it adds to a transaction on disk.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Command::Txn(txn) => txn.ops.iter().map(|op| op.key().len() + op.value_len()).sum(),
            _ => 0,
        }
    }

    /// Whether it sets a value.
    pub(crate) fn puts(&self) -> bool {
        matches!(self, Command::Txn(txn) if txn.ops.iter().any(|op| matches!(op, crate::Op::Put { .. })))
    }
}

impl crate::Op {
    pub(crate) fn value_len(&self) -> usize {
        match self {
            crate::Op::Put { value, .. } => value.len(),
            crate::Op::Delete { .. } => 0,
        }
    }
}

/// What it answers.
pub(crate) enum Answer {
    Txn(TxnOutcome),
    Done,
}

/// Carries out a command. After a fatal error the tables must be thrown away.
pub(crate) fn execute(
    tables: &mut dyn Edit,
    command: Command,
    now_ms: u64,
    events: &mut Vec<Event>,
) -> Result<Answer, StoreError> {
    match command {
        Command::Txn(txn) => mvcc::apply(tables, txn, now_ms, events).map(Answer::Txn),
        Command::Compact(revision) => mvcc::compact(tables, revision).map(|()| Answer::Done),
        Command::Expire => mvcc::expire(tables, now_ms, EXPIRE_BUDGET, events).map(|()| Answer::Done),
    }
}

/// Whether the store can go on after the error.
pub(crate) fn is_fatal(error: &StoreError) -> bool {
    matches!(error, StoreError::Backend { .. } | StoreError::Corrupt { .. } | StoreError::Stopped(_))
}

/// Wall time that only goes forward, and stands still when tokio's time is paused in a test.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    wall_ms: u64,
    anchor: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { wall_ms: millis(wall), anchor: Instant::now() }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.wall_ms + millis(Instant::now().saturating_duration_since(self.anchor))
    }

    fn instant(&self, ms: u64) -> Instant {
        // A lease of centuries is as good as one of a year here: the keeper looks again.
        let ahead = ms.saturating_sub(self.wall_ms).min(millis(self.anchor.elapsed()) + 365 * 86_400_000);
        self.anchor + Duration::from_millis(ahead)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A store that is looked after.
pub(crate) trait Kept: Send + Sync + 'static {
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Answer, StoreError>>;
    fn newest(&self) -> u64;
}

/// Starts the keeper once, as soon as there is a runtime to run it.
#[derive(Default)]
pub(crate) struct Starter(AtomicBool);

impl Starter {
    pub(crate) fn start<K: Kept>(
        &self,
        store: impl FnOnce() -> Weak<K>,
        clock: Clock,
        expiry: &watch::Receiver<Option<u64>>,
        auto: Option<AutoCompact>,
    ) {
        if self.0.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.0.swap(true, Ordering::Relaxed) {
            runtime.spawn(keep(store(), clock, expiry.clone(), auto));
        }
    }
}

/// Ends when the store is dropped or has stopped.
async fn keep<K: Kept>(
    store: Weak<K>,
    clock: Clock,
    mut expiry: watch::Receiver<Option<u64>>,
    auto: Option<AutoCompact>,
) {
    let mut compact_at = auto.map(|auto| Instant::now() + auto.every);
    let mut last_seen = store.upgrade().map_or(0, |store| store.newest());
    loop {
        let due = (*expiry.borrow_and_update()).map(|ms| clock.instant(ms));
        let command = tokio::select! {
            changed = expiry.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = sleep_until(due) => Command::Expire,
            () = sleep_until(compact_at) => {
                let (Some(auto), Some(store)) = (auto, store.upgrade()) else { return };
                compact_at = Some(Instant::now() + auto.every);
                let newest = store.newest();
                let target = last_seen.min(newest.saturating_sub(auto.keep_revisions));
                last_seen = newest;
                Command::Compact(target)
            }
        };
        let Some(store) = store.upgrade() else { return };
        match store.submit(command).await {
            // Someone has compacted further already.
            Ok(_) | Err(StoreError::Compacted { .. }) => {}
            Err(error) if is_fatal(&error) => return,
            Err(error) => {
                tracing::warn!(error = %error, "store upkeep refused");
                tokio::time::sleep(REFUSED_WAIT).await;
            }
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
