//! The store in memory: for tests and the simulator. Same rules, nothing on disk. It does its work in the caller's
//! thread, so that it behaves under paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::keeper::{Answer, Clock, Command, Kept, Starter, execute};
use crate::mvcc::{self, Edit, Head, Marks, Pos, Record, View, Visit};
use crate::watch::{History, Hub, Replayed};
use crate::{BoxFuture, Options, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch};

/// A store that forgets everything when it is dropped.
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    tables: Mutex<Tables>,
    hub: Arc<Hub>,
    clock: Clock,
    options: Options,
    expiry: watch::Sender<Option<u64>>,
    keeper: Starter,
}

#[derive(Default)]
struct Tables {
    marks: Marks,
    records: BTreeMap<Pos, Record>,
    heads: BTreeMap<Bytes, Head>,
    leases: BTreeSet<(u64, Bytes)>,
}

impl MemoryStore {
    /// An empty store with default settings.
    pub fn new() -> Self {
        Self::with_options(Options::default())
    }

    /// An empty store.
    pub fn with_options(options: Options) -> Self {
        let hub = Hub::new(0, options.watch);
        let inner = Inner {
            tables: Mutex::default(),
            hub,
            clock: Clock::new(),
            options,
            expiry: watch::Sender::new(None),
            keeper: Starter::default(),
        };
        MemoryStore { inner: Arc::new(inner) }
    }

    fn start_keeper(&self) {
        let inner = &self.inner;
        let auto = inner.options.auto_compact;
        inner.keeper.start(|| Arc::downgrade(inner), inner.clock, &inner.expiry.subscribe(), auto);
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.inner.hub.stop(&Arc::from("closed"));
    }
}

impl Inner {
    fn run(&self, command: Command) -> Result<Answer, StoreError> {
        let now_ms = self.clock.now_ms();
        let mut tables = self.tables.lock();
        let mut events = Vec::new();
        let answer = execute(&mut *tables, command, now_ms, &mut events)?;
        mvcc::clean(&mut *tables, usize::MAX)?;
        // Still under the lock, so that watches see revisions in order.
        self.hub.publish(tables.marks.revision, &events);
        let first = tables.leases.first().map(|(ms, _)| *ms);
        self.expiry.send_if_modified(|due| std::mem::replace(due, first) != first);
        Ok(answer)
    }
}

impl Kept for Inner {
    fn submit(&self, command: Command) -> BoxFuture<'_, Result<Answer, StoreError>> {
        Box::pin(async move { self.run(command) })
    }

    fn newest(&self) -> u64 {
        self.hub.revision()
    }
}

impl History for Inner {
    fn replay(&self, prefix: Bytes, from: u64) -> BoxFuture<'static, Result<Replayed, StoreError>> {
        let piece = mvcc::replay(&*self.tables.lock(), &prefix, from);
        Box::pin(async move { piece })
    }
}

impl Store for MemoryStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        Box::pin(async move {
            self.start_keeper();
            mvcc::check(&txn, self.inner.options.max_value_bytes)?;
            match self.inner.run(Command::Txn(txn))? {
                Answer::Txn(outcome) => Ok(outcome),
                Answer::Done => unreachable!("a transaction is answered with its outcome"),
            }
        })
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(async move { mvcc::range(&*self.inner.tables.lock(), &req) })
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            self.start_keeper();
            mvcc::check_watch(self.inner.tables.lock().marks, from_revision)?;
            Watch::new(self.inner.hub.clone(), self.inner.clone(), prefix, from_revision)
        })
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.inner.run(Command::Compact(revision)).map(|_| ()) })
    }

    fn revision(&self) -> u64 {
        self.inner.hub.revision()
    }
}

impl View for Tables {
    fn marks(&self) -> Marks {
        self.marks
    }

    fn head(&self, key: &[u8]) -> Result<Option<Head>, StoreError> {
        Ok(self.heads.get(key).copied())
    }

    fn record(&self, pos: Pos) -> Result<Option<Record>, StoreError> {
        Ok(self.records.get(&pos).cloned())
    }

    fn heads(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_, (Bytes, Head)>) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        for (key, head) in self.heads.range(Bytes::copy_from_slice(start)..Bytes::copy_from_slice(end)) {
            if let ControlFlow::Break(()) = visit((key.clone(), *head))? {
                break;
            }
        }
        Ok(())
    }

    fn records(&self, from: u64, visit: &mut Visit<'_, (Pos, Record)>) -> Result<(), StoreError> {
        for (pos, record) in self.records.range(Pos { revision: from, index: 0 }..) {
            if let ControlFlow::Break(()) = visit((*pos, record.clone()))? {
                break;
            }
        }
        Ok(())
    }
}

impl Edit for Tables {
    fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }

    fn set_head(&mut self, key: &[u8], head: Option<Head>) -> Result<(), StoreError> {
        match head {
            Some(head) => self.heads.insert(Bytes::copy_from_slice(key), head),
            None => self.heads.remove(key),
        };
        Ok(())
    }

    fn add_record(&mut self, pos: Pos, record: &Record) -> Result<(), StoreError> {
        self.records.insert(pos, record.clone());
        Ok(())
    }

    fn remove_record(&mut self, pos: Pos) -> Result<(), StoreError> {
        self.records.remove(&pos);
        Ok(())
    }

    fn add_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError> {
        self.leases.insert((expires_ms, Bytes::copy_from_slice(key)));
        Ok(())
    }

    fn remove_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError> {
        self.leases.remove(&(expires_ms, Bytes::copy_from_slice(key)));
        Ok(())
    }

    fn first_lease(&self) -> Result<Option<(u64, Bytes)>, StoreError> {
        Ok(self.leases.first().cloned())
    }
}
