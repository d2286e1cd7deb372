//! The store's file: its format, its locks, what stays when it is closed, what goes with compaction.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use redb::{Database, TableDefinition};
use store::redb_store::FORMAT;
use store::{RangeRequest, RedbStore, Store, StoreError, Txn, TxnOutcome};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

#[tokio::test]
async fn everything_is_there_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = RedbStore::open(&path, quiet()).unwrap();
    commit(&store, [put("a", "1")]).await;
    commit(&store, [put("a", "2"), put("b", "1")]).await;
    commit(&store, [del("b")]).await;
    store.compact(1).await.unwrap();
    drop(store);
    let store = RedbStore::open(&path, quiet()).unwrap();
    assert_eq!(store.revision(), 3);
    assert_eq!(list(&store, "", 0).await.unwrap(), ["a=2"]);
    assert_eq!(list(&store, "", 2).await.unwrap(), ["a=2", "b=1"]);
    let mut watch = store.watch(b(""), 2).await.unwrap();
    assert_eq!(until(&mut watch, 3).await, ["2 put a=2", "2 put b=1", "3 delete b"]);
    let error = store.watch(b(""), 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compact_revision: 1 }), "{error}");
    assert_eq!(commit(&store, [put("a", "3")]).await, 4);
}

#[tokio::test]
async fn a_lease_ends_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = RedbStore::open(&path, quiet()).unwrap();
    commit(&store, [put_lease("short", "x", 1), put_lease("long", "x", 3600)]).await;
    drop(store);
    let store = RedbStore::open(&path, quiet()).unwrap();
    let mut watch = store.watch(b(""), 2).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(until(&mut watch, 2).await, ["2 delete short"]);
    elapse(Duration::from_secs(3600)).await;
    assert_eq!(until(&mut watch, 3).await, ["3 delete long"]);
}

#[tokio::test]
async fn a_file_in_an_unknown_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    drop(RedbStore::open(&path, quiet()).unwrap());
    let set = |format: u64| {
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", format).unwrap();
        txn.commit().unwrap();
    };
    set(FORMAT + 1);
    let error = RedbStore::open(&path, quiet()).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "store format 2 is not known to this release, which reads format 1");
    set(FORMAT);
    RedbStore::open(&path, quiet()).unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    {
        let db = Database::create(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(TableDefinition::<u64, u64>::new("somebody's")).unwrap().insert(1, 1).unwrap();
        txn.commit().unwrap();
    }
    let error = RedbStore::open(&path, quiet()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::UnknownFormat { found: 0, .. }), "{error}");
    std::fs::write(&path, "not a database at all, but longer than a header would be".repeat(100)).unwrap();
    let error = RedbStore::open(&path, quiet()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Backend { .. }), "{error}");
}

#[tokio::test]
async fn an_interrupted_creation_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::write(dir.path().join("store.redb.new.4711"), "half a header").unwrap();
    drop(RedbStore::open(&path, quiet()).unwrap());
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
}

#[tokio::test]
async fn a_file_has_one_owner_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let _store = RedbStore::open(&path, quiet()).unwrap();
    let error = RedbStore::open(&path, quiet()).map(|_| ()).unwrap_err();
    assert!(base::chain(&error).contains("already open"), "{}", base::chain(&error));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

async fn rows_become(store: &RedbStore, rows: (u64, u64)) {
    let wait = async {
        while store.rows().unwrap() != rows {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{:?} rows stay", store.rows()));
}

#[tokio::test]
async fn compaction_removes_old_rows_beside_other_work() {
    let f = tempfile::tempdir().unwrap();
    let path = f.path().join("store.redb");
    let store = RedbStore::open(&path, quiet()).unwrap();
    for n in 0..30 {
        let ops: Vec<_> = (0..100).map(|k| put(&format!("{k:03}"), &n.to_string())).collect();
        commit(&store, ops).await;
    }
    commit(&store, (0..50).map(|k| del(&format!("{k:03}"))).collect::<Vec<_>>()).await;
    assert_eq!(store.rows().unwrap(), (3050, 100));
    store.compact(20).await.unwrap();
    rows_become(&store, (1150, 100)).await;
    store.compact(31).await.unwrap();
    commit(&store, [put("new", "1")]).await;
    // What compaction has not removed yet when the store is closed, it removes later.
    drop(store);
    let store = RedbStore::open(&path, quiet()).unwrap();
    rows_become(&store, (51, 51)).await;
    assert_eq!(list(&store, "", 31).await.unwrap().len(), 50);
    assert_eq!(list(&store, "", 0).await.unwrap().len(), 51);
}

#[tokio::test]
async fn closing_finishes_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = RedbStore::open(&path, quiet()).unwrap();
    for n in 0..20 {
        // Polled once, it is queued; nobody waits for the answer.
        let mut txn = store.txn(Txn { compare: vec![], ops: vec![put(&n.to_string(), "x")] });
        assert!(futures::poll!(&mut txn).is_pending());
    }
    drop(store);
    let store = RedbStore::open(&path, quiet()).unwrap();
    assert_eq!(store.revision(), 20);
    let outcome = store.txn(Txn { compare: vec![when("0", 1)], ops: vec![] }).await.unwrap();
    assert!(matches!(outcome, TxnOutcome::Committed { revision: 20, .. }));
}

/// A small file system in memory, until dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let (none, flags) = (Some("none"), nix::mount::MsFlags::empty());
        nix::mount::mount(none, dir.path(), Some("tmpfs"), flags, Some(format!("size={size}").as_str())).ok()?;
        Some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_changes_loses_nothing_and_needs_no_restart() {
    let Some(small) = Small::mount("24m") else {
        println!("skipped: mounting a small file system needs root");
        return;
    };
    let path = small.0.path().join("store.redb");
    let store = RedbStore::open(&path, quiet()).unwrap();
    let mut watch = store.watch(b(""), 0).await.unwrap();
    let ballast = small.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let value = "x".repeat(100_000);
    let mut kept = Vec::new();
    let refused = loop {
        assert!(kept.len() < 1000, "the disk is never full");
        let name = format!("k-{:04}", kept.len());
        match store.txn(Txn { compare: vec![], ops: vec![put(&name, &value)] }).await {
            Ok(TxnOutcome::Committed { revision, .. }) => kept.push((name, revision)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert!(kept.len() > 10, "{}", kept.len());
    let newest = kept.last().unwrap().1;
    assert_eq!(store.revision(), newest);
    let there = async |store: &RedbStore| {
        let found = store.range(RangeRequest::prefix(b("k-"))).await.unwrap().kvs;
        found.iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)).collect::<Vec<_>>()
    };
    assert_eq!(there(&store).await, kept);
    // What was refused may be tried as often as one likes.
    for _ in 0..3 {
        let again = store.txn(Txn { compare: vec![], ops: vec![put("k-more", &value.repeat(10))] }).await;
        assert!(matches!(again, Err(StoreError::NoSpace)), "{again:?}");
    }
    std::fs::remove_file(&ballast).unwrap();
    let put_again = async {
        while store.txn(Txn { compare: vec![], ops: vec![put("z", "1")] }).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, put_again).await.unwrap();
    assert_eq!(store.revision(), newest + 1, "what was refused has a revision");
    // Who watched all along saw everything once, and nothing else.
    let seen = until(&mut watch, newest + 1).await;
    assert_eq!(seen.len(), kept.len() + 1);
    drop(store);
    let store = RedbStore::open(&path, quiet()).unwrap();
    assert_eq!(there(&store).await, kept);
    assert_eq!(list(&store, "z", 0).await.unwrap(), ["z=1"]);
}
