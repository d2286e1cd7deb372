//! What the tests of the store share.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod etcd;
pub mod ledger;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{
    AutoCompact, Batch, BoxFuture, Compare, Event, EventKind, MemoryStore, Op, Options, RangeRequest, RedbStore, Store,
    StoreError, Txn, TxnOutcome, Watch,
};

/// Nothing here takes as long unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A store and what it lives in.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    dir: Option<tempfile::TempDir>,
    etcd: Option<etcd::Etcd>,
}

pub fn memory(options: Options) -> BoxFuture<'static, Fixture> {
    let store = Arc::new(MemoryStore::with_options(options));
    Box::pin(async { Fixture { store, dir: None, etcd: None } })
}

pub fn redb(options: Options) -> BoxFuture<'static, Fixture> {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::open(&dir.path().join("store.redb"), options).unwrap());
    Box::pin(async { Fixture { store, dir: Some(dir), etcd: None } })
}

/// Nothing happens of its own accord.
pub fn quiet() -> Options {
    Options { auto_compact: None, ..Options::default() }
}

pub fn auto(every: Duration, keep_revisions: u64) -> Options {
    Options { auto_compact: Some(AutoCompact { every, keep_revisions }), ..Options::default() }
}

pub fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: b(key), value: b(value), lease_ttl_s: None }
}

pub fn put_lease(key: &str, value: &str, seconds: u64) -> Op {
    Op::Put { key: b(key), value: b(value), lease_ttl_s: Some(seconds) }
}

pub fn del(key: &str) -> Op {
    Op::Delete { key: b(key) }
}

pub fn when(key: &str, revision: u64) -> Compare {
    Compare::ModRevision(b(key), revision)
}

/// Does the changes and gives their revision.
pub async fn commit(store: &dyn Store, ops: impl Into<Vec<Op>>) -> u64 {
    match store.txn(Txn { compare: vec![], ops: ops.into() }).await.unwrap() {
        TxnOutcome::Committed { revision, .. } => revision,
        TxnOutcome::Conflict { .. } => panic!("nothing was compared"),
    }
}

/// Keys and values as of a revision, `key=value`.
pub async fn list(store: &dyn Store, prefix: &str, revision: u64) -> Result<Vec<String>, StoreError> {
    let response = store.range(RangeRequest::prefix(b(prefix)).at(revision)).await?;
    Ok(response.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect())
}

pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `3 put a=1` or `4 delete a`.
pub fn show(event: &Event) -> String {
    let (revision, key) = (event.kv.mod_revision, text(&event.kv.key));
    match event.kind {
        EventKind::Put => format!("{revision} put {key}={}", text(&event.kv.value)),
        EventKind::Delete => format!("{revision} delete {key}"),
    }
}

/// The next batch, in reasonable time.
pub async fn next(watch: &mut Watch) -> Result<Batch, StoreError> {
    tokio::time::timeout(LIMIT, watch.next()).await.expect("no event came")
}

/// Events up to and including the revision.
pub async fn until(watch: &mut Watch, revision: u64) -> Vec<String> {
    let mut shown = Vec::new();
    loop {
        let batch = next(watch).await.unwrap();
        shown.extend(batch.events.iter().map(show));
        if batch.events.last().is_some_and(|event| event.kv.mod_revision >= revision) {
            return shown;
        }
    }
}

/// Lets time go by at once. Time stands still only meanwhile: the writer is a thread that knows nothing of it.
pub async fn elapse(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
