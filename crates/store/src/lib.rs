//! Ordered key-value store with revisions, in the manner of etcd: transactions with compare, ranges as of a revision,
//! watches from a revision, compaction, leases. It knows no Kubernetes type: keys and values are bytes.
//!
//! One revision per transaction, from 1. A transaction is answered, and its events shown to watchers, only when it is
//! durable.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

pub mod etcd;
mod keeper;
pub mod memory;
mod mvcc;
mod options;
pub mod redb_store;
mod sealed;
mod types;
mod watch;

pub use etcd::{EtcdConfig, EtcdError, EtcdStore};
pub use memory::MemoryStore;
pub use options::{AutoCompact, Options};
pub use redb_store::RedbStore;
pub use sealed::{KEYS_MAX, Keyring, SealError, SealedStore};

pub use types::{
    Batch, Compare, Event, EventKind, KeyValue, Op, RangeRequest, RangeResponse, StoreError, Txn, TxnOutcome,
    prefix_end,
};
pub use watch::{Feed, Watch, WatchLimits};

/// Longest key, in bytes. A Kubernetes group, plural, namespace and name together stay well below.
pub const MAX_KEY_BYTES: usize = 2048;

/// Default limit of one value in bytes: etcd's limit of a request, which Kubernetes users know.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 1_572_864;

/// Most conditions and changes in one transaction, together; etcd's default.
pub const MAX_TXN_OPS: usize = 128;

/// What every call returns, so that the trait can be used as `dyn Store`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The store, whatever is behind it. Calls must be made within a tokio runtime.
pub trait Store: Send + Sync + 'static {
    /// Does a transaction, and answers when it is durable.
    ///
    /// Dropping the future does not undo a transaction that has been queued.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>>;

    /// Reads keys, newest or as of an older revision that is not compacted.
    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>>;

    /// Follows the keys with the prefix. `from_revision` is the first revision wanted, at most one past the newest;
    /// 0 means from now on.
    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>>;

    /// Drops history before the revision. Ranges at it and watches after it stay possible.
    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The newest durable revision that this process knows of; 0 when nothing was ever written.
    fn revision(&self) -> u64;

    /// The newest durable revision, also when other processes write to the same store. A watch gets there.
    fn latest(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(std::future::ready(Ok(self.revision())))
    }

    /// Whether other processes may write to the same store.
    fn is_shared(&self) -> bool {
        false
    }
}
