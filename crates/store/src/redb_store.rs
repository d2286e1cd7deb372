//! The store in one file, with redb.
//!
//! # On disk, format 1
//!
//! Four tables. Numbers within keys are compared as numbers; numbers within records are little-endian.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | u64: `format`, `revision` (newest), `compacted` (history before it may not be read), `cleaned` (history up to it has been removed) |
//! | `records` | (revision u64, index u32) | one change, below |
//! | `heads` | key | (revision u64, index u32, live bool): the last change of the key; `live` is false when it was a deletion |
//! | `leases` | (when it ends, in milliseconds since 1970, u64; key) | nothing |
//!
//! A record is: kind (1 byte: 1 put, 2 deletion), revision of creation (8), version (8), revision and index of the
//! change before it of the same key (8 + 4, zeros if there is none), end of its lease in milliseconds since 1970 (8,
//! 0 without), length of the key (4), key, value. A value is stored once.
//!
//! A transaction for which the disk has no room is refused and changes nothing; see `room`. Any other failure of the disk stops
//! the store.
//!
//! A lease ends by the wall clock, so that it also ends while the server is down. redb's pages carry checksums; a commit
//! whose sync did not complete is rolled back at the next open.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{Builder, Database, StorageBackend};
use tokio::sync::{mpsc, oneshot, watch};

use crate::keeper::{Answer, Clock, Command, Kept, Starter};
use crate::mvcc::{self, View};
use crate::watch::{History, Hub, Replayed};
use crate::{BoxFuture, Options, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch};

mod create;
mod room;
mod tables;
mod writer;

use room::Handle;
use tables::failed;
use writer::{Job, Message, Stopped, Writer};

/// The on-disk format that this release reads and writes.
pub const FORMAT: u64 = 1;

/// The store on disk. Dropping it finishes what is queued and closes the file.
pub struct RedbStore {
    inner: Arc<Inner>,
    writer: Option<JoinHandle<()>>,
}

struct Inner {
    db: Arc<Handle>,
    queue: mpsc::Sender<Message>,
    hub: Arc<Hub>,
    stopped: Stopped,
    closing: Arc<AtomicBool>,
    clock: Clock,
    options: Options,
    expiry: watch::Receiver<Option<u64>>,
    keeper: Starter,
}

impl RedbStore {
    /// Opens the file, or makes it, readable by its owner only. Blocks; a file that was not closed is checked first.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let cache = options.cache_bytes;
        let handle = Handle::open(path.to_path_buf(), move || Self::builder(cache))?;
        Self::start(handle, options)
    }

    /// Opens the store on other storage than a file: for tests that make it fail.
    pub fn open_with_backend(backend: impl StorageBackend, options: Options) -> Result<Self, StoreError> {
        let builder = Self::builder(options.cache_bytes);
        let db = builder.create_with_backend(backend).map_err(failed("opening the store failed"))?;
        Self::start(Handle::of(db), options)
    }

    fn builder(cache_bytes: usize) -> Builder {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        builder.set_repair_callback(|_| tracing::info!("the store was not closed, checking it"));
        builder
    }

    fn start(handle: Handle, options: Options) -> Result<Self, StoreError> {
        let (marks, first_lease) = handle.with(tables::prepare)?;
        let db = Arc::new(handle);
        let hub = Hub::new(marks.revision, options.watch);
        let (queue, jobs) = mpsc::channel(options.queue.max(1));
        let (expiry_sender, expiry) = watch::channel(first_lease);
        let (stopped, closing) = (Stopped::default(), Arc::new(AtomicBool::new(false)));
        let writer = Writer {
            db: db.clone(),
            queue: jobs,
            hub: hub.clone(),
            stopped: stopped.clone(),
            closing: closing.clone(),
            expiry: expiry_sender,
            cleaning: marks.cleaned < marks.compacted,
            full: None,
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(failed("starting the writer failed"))?;
        let clock = Clock::new();
        let keeper = Starter::default();
        let inner = Inner { db, queue, hub, stopped, closing, clock, options, expiry, keeper };
        let store = RedbStore { inner: Arc::new(inner), writer: Some(writer) };
        store.start_keeper();
        Ok(store)
    }

    fn start_keeper(&self) {
        let inner = &self.inner;
        let auto = inner.options.auto_compact;
        inner.keeper.start(|| Arc::downgrade(inner), inner.clock, &inner.expiry, auto);
    }

    /// How many changes and how many keys are on disk, deleted keys included until compaction has removed them.
    pub fn rows(&self) -> Result<(u64, u64), StoreError> {
        self.inner.db.with(tables::rows)
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.inner.closing.store(true, Ordering::Release);
        // A full queue wakes the writer too.
        let _full = self.inner.queue.try_send(Message::Close);
        if let Some(writer) = self.writer.take() {
            // It has told its reason already if it panicked.
            let _panicked = writer.join();
        }
    }
}

impl Inner {
    async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&dyn View) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.stopped.check()?;
        let db = self.db.clone();
        match tokio::task::spawn_blocking(move || db.with(|db| tables::read(db, f))).await {
            Ok(answer) => answer,
            Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => Err(self.stopped.error()),
        }
    }
}

impl Kept for Inner {
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Answer, StoreError>> {
        Box::pin(async move {
            self.stopped.check()?;
            let (reply, answer) = oneshot::channel();
            let job = Job { command, now_ms: self.clock.now_ms(), reply };
            self.queue.send(Message::Job(job)).await.map_err(|_| self.stopped.error())?;
            tokio::select! {
                biased;
                answer = answer => answer.map_err(|_| self.stopped.error())?,
                // A job that was sent while the writer ended may lie in the queue unread, and its answer would never come.
                error = self.stopped.wait() => Err(error),
            }
        })
    }

    fn newest(&self) -> u64 {
        self.hub.revision()
    }
}

/// Where watches read history. It does not keep the file open.
struct Past(std::sync::Weak<Inner>);

impl History for Past {
    fn replay(&self, prefix: Bytes, from: u64) -> BoxFuture<'static, Result<Replayed, StoreError>> {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let Some(inner) = inner else { return Err(StoreError::Stopped(Arc::from("closed"))) };
            inner.read(move |tables| mvcc::replay(tables, &prefix, from)).await
        })
    }
}

impl Store for RedbStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        Box::pin(async move {
            self.start_keeper();
            mvcc::check(&txn, self.inner.options.max_value_bytes)?;
            match self.inner.submit(Command::Txn(txn)).await? {
                Answer::Txn(outcome) => Ok(outcome),
                Answer::Done => unreachable!("a transaction is answered with its outcome"),
            }
        })
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(async move {
            if req.end.is_empty() {
                // One key: a handful of pages, not worth another thread.
                self.inner.stopped.check()?;
                return self.inner.db.with(|db| tables::read(db, |tables| mvcc::range(tables, &req)));
            }
            self.inner.read(move |tables| mvcc::range(tables, &req)).await
        })
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            self.start_keeper();
            self.inner.stopped.check()?;
            let db = &self.inner.db;
            db.with(|db| tables::read(db, |tables| mvcc::check_watch(tables.marks(), from_revision)))?;
            let past = Arc::new(Past(Arc::downgrade(&self.inner)));
            Watch::new(self.inner.hub.clone(), past, prefix, from_revision)
        })
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.inner.submit(Command::Compact(revision)).await.map(|_| ()) })
    }

    fn revision(&self) -> u64 {
        self.inner.hub.revision()
    }
}
