//! What a store must do, checked on all back ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::*;
use store::{
    BoxFuture, Compare, KeyValue, MAX_KEY_BYTES, MAX_TXN_OPS, Op, Options, RangeRequest, Store, StoreError, Txn,
    TxnOutcome, WatchLimits,
};

/// Declares each claim once per back end.
macro_rules! suite {
    (all: [$($name:ident),* $(,)?], here: [$($own:ident),* $(,)?] $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(crate::common::memory).await })*
            $(#[tokio::test] async fn $own() { super::$own(crate::common::memory).await })*
        }
        mod redb {
            $(#[tokio::test] async fn $name() { super::$name(crate::common::redb).await })*
            $(#[tokio::test] async fn $own() { super::$own(crate::common::redb).await })*
        }
        mod etcd {
            $(#[tokio::test] async fn $name() {
                if crate::common::etcd::installed() {
                    super::$name(crate::common::etcd::open).await
                }
            })*
        }
    };
}

type Open = fn(Options) -> BoxFuture<'static, Fixture>;

suite!(
    all: [
        revisions_count_transactions_from_one,
        a_put_keeps_track_of_creation_and_version,
        a_compare_that_fails_changes_nothing_and_shows_what_is_there,
        one_of_many_concurrent_creators_wins,
        a_deletion_of_nothing_takes_no_revision,
        a_range_has_limits_and_counts_the_rest,
        a_range_reads_the_past,
        the_future_is_refused,
        a_watch_replays_and_goes_on,
        an_event_carries_what_was_before,
        watches_have_no_gap_and_no_duplicate_while_writers_write,
        a_dropped_store_ends_its_watches,
        compaction_drops_the_past_and_keeps_the_present,
        oversized_and_malformed_requests_are_refused,
    ],
    // Not on etcd: what is about time, which only stands still in this process, and what etcd does otherwise (its module
    // says what). tests/etcd.rs has that.
    here: [
        a_watch_sees_only_its_prefix_but_knows_its_progress,
        a_slow_watcher_is_told,
        a_watch_replays_long_history_in_pieces,
        a_watch_that_compaction_overtakes_is_told,
        a_lease_ends_at_a_revision_of_its_own,
        a_lease_counts_from_the_last_put,
        a_put_without_lease_keeps_the_key,
        many_leases_end,
        old_history_goes_by_itself,
        recent_revisions_are_kept,
    ],
);

async fn revisions_count_transactions_from_one(open: Open) {
    let f = open(quiet()).await;
    assert_eq!(f.store.revision(), 0);
    assert_eq!(commit(&*f.store, [put("a", "1"), put("b", "1")]).await, 1);
    assert_eq!(f.store.revision(), 1);
    assert_eq!(commit(&*f.store, [put("a", "2")]).await, 2);
    let all = f.store.range(RangeRequest::prefix(b(""))).await.unwrap();
    let revisions: Vec<_> = all.kvs.iter().map(|kv| (text(&kv.key), kv.mod_revision)).collect();
    assert_eq!((all.revision, revisions), (2, vec![("a".into(), 2), ("b".into(), 1)]));
}

async fn a_put_keeps_track_of_creation_and_version(open: Open) {
    let f = open(quiet()).await;
    let get = async || f.store.range(RangeRequest::key(b("a"))).await.unwrap().kvs.pop().unwrap();
    let kv = |value: &str, create_revision, mod_revision, version| KeyValue {
        key: b("a"),
        value: b(value),
        create_revision,
        mod_revision,
        version,
    };
    commit(&*f.store, [put("z", "")]).await;
    commit(&*f.store, [put("a", "1")]).await;
    assert_eq!(get().await, kv("1", 2, 2, 1));
    commit(&*f.store, [put("a", "2")]).await;
    assert_eq!(get().await, kv("2", 2, 3, 2));
    commit(&*f.store, [del("a")]).await;
    commit(&*f.store, [put("a", "3")]).await;
    assert_eq!(get().await, kv("3", 5, 5, 1));
}

async fn a_compare_that_fails_changes_nothing_and_shows_what_is_there(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    let txn = Txn { compare: vec![when("a", 7), when("b", 0)], ops: vec![put("b", "1"), del("a")] };
    let TxnOutcome::Conflict { current } = f.store.txn(txn).await.unwrap() else { panic!("it was done") };
    assert_eq!(current[0].as_ref().map(|kv| (text(&kv.value), kv.mod_revision)), Some(("1".into(), 1)));
    assert_eq!(current[1], None);
    assert_eq!(f.store.revision(), 1);
    assert_eq!(list(&*f.store, "", 0).await.unwrap(), ["a=1"]);

    let txn = Txn { compare: vec![when("a", 1), when("b", 0)], ops: vec![put("b", "1"), del("a")] };
    let TxnOutcome::Committed { revision, previous } = f.store.txn(txn).await.unwrap() else { panic!("a conflict") };
    assert_eq!((revision, &previous[0]), (2, &None));
    assert_eq!(previous[1].as_ref().map(|kv| text(&kv.value)), Some("1".into()));
    assert_eq!(list(&*f.store, "", 0).await.unwrap(), ["b=1"]);
    // Deleted: it "must not exist" again.
    let txn = Txn { compare: vec![when("a", 0)], ops: vec![put("a", "2")] };
    assert!(matches!(f.store.txn(txn).await.unwrap(), TxnOutcome::Committed { revision: 3, .. }));
}

async fn one_of_many_concurrent_creators_wins(open: Open) {
    let f = open(quiet()).await;
    let tries = (0..20).map(|n| {
        let txn = Txn { compare: vec![when("leader", 0)], ops: vec![put("leader", &n.to_string())] };
        f.store.txn(txn)
    });
    let outcomes = futures::future::try_join_all(tries).await.unwrap();
    let won = outcomes.iter().filter(|o| matches!(o, TxnOutcome::Committed { .. })).count();
    let shown = outcomes.iter().filter(|o| matches!(o, TxnOutcome::Conflict { current } if current[0].is_some()));
    assert_eq!((won, shown.count(), f.store.revision()), (1, 19, 1));
}

async fn a_deletion_of_nothing_takes_no_revision(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    let mut watch = f.store.watch(b(""), 0).await.unwrap();
    assert_eq!(commit(&*f.store, [del("b")]).await, 1);
    assert_eq!(commit(&*f.store, []).await, 1);
    assert_eq!(commit(&*f.store, [del("b"), put("c", "1")]).await, 2);
    assert_eq!(until(&mut watch, 2).await, ["2 put c=1"]);
}

async fn a_range_has_limits_and_counts_the_rest(open: Open) {
    let f = open(quiet()).await;
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        commit(&*f.store, [put(key, "x")]).await;
    }
    commit(&*f.store, [del("b/2")]).await;
    for revision in [0, 5, 6] {
        let page = f.store.range(RangeRequest::prefix(b("b/")).limit(1).at(revision)).await.unwrap();
        let rest = if revision == 5 { 2 } else { 1 };
        assert_eq!((text(&page.kvs[0].key), page.more, page.remaining), ("b/1".into(), true, rest));
    }
    let page = f.store.range(RangeRequest::prefix(b("b/")).limit(2)).await.unwrap();
    assert_eq!((page.kvs.len(), page.more, page.remaining), (2, false, 0));
    // The end is exclusive; a range the wrong way round is empty.
    let range = |start: &str, end: &str| RangeRequest { start: b(start), end: b(end), ..RangeRequest::default() };
    assert_eq!(f.store.range(range("a", "b/1")).await.unwrap().kvs.len(), 1);
    assert_eq!(f.store.range(range("c", "a")).await.unwrap().kvs.len(), 0);
    assert_eq!(f.store.range(RangeRequest::key(b("b/2"))).await.unwrap().kvs.len(), 0);
}

async fn a_range_reads_the_past(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    commit(&*f.store, [put("b", "1")]).await;
    commit(&*f.store, [put("a", "2"), del("b")]).await;
    commit(&*f.store, [put("b", "2")]).await;
    assert_eq!(list(&*f.store, "", 1).await.unwrap(), ["a=1"]);
    assert_eq!(list(&*f.store, "", 2).await.unwrap(), ["a=1", "b=1"]);
    assert_eq!(list(&*f.store, "", 3).await.unwrap(), ["a=2"]);
    assert_eq!(list(&*f.store, "", 4).await.unwrap(), ["a=2", "b=2"]);
    assert_eq!(f.store.range(RangeRequest::prefix(b("")).at(2)).await.unwrap().revision, 2);
}

async fn the_future_is_refused(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    let error = list(&*f.store, "", 2).await.unwrap_err();
    assert!(matches!(error, StoreError::FutureRevision { requested: 2, current: 1 }), "{error}");
    assert!(matches!(f.store.watch(b(""), 3).await.unwrap_err(), StoreError::FutureRevision { .. }));
    assert!(matches!(f.store.compact(2).await.unwrap_err(), StoreError::FutureRevision { .. }));
}

async fn a_watch_replays_and_goes_on(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    commit(&*f.store, [put("a", "2"), put("b", "1")]).await;
    commit(&*f.store, [del("a")]).await;
    let mut old = f.store.watch(b(""), 2).await.unwrap();
    let mut now = f.store.watch(b(""), 0).await.unwrap();
    let mut tip = f.store.watch(b(""), 4).await.unwrap();
    assert_eq!(until(&mut old, 3).await, ["2 put a=2", "2 put b=1", "3 delete a"]);
    commit(&*f.store, [put("c", "1")]).await;
    for watch in [&mut old, &mut now, &mut tip] {
        assert_eq!(until(watch, 4).await, ["4 put c=1"]);
    }
}

async fn a_watch_sees_only_its_prefix_but_knows_its_progress(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a/1", "x")]).await;
    let mut old = f.store.watch(b("a/"), 1).await.unwrap();
    assert_eq!(old.progress(), 0);
    assert_eq!(until(&mut old, 1).await, ["1 put a/1=x"]);
    let mut live = f.store.watch(b("a/"), 0).await.unwrap();
    commit(&*f.store, [put("a/2", "x"), put("a", "x"), put("a0", "x")]).await;
    assert_eq!((old.progress(), live.progress()), (1, 1));
    assert_eq!(until(&mut live, 2).await, ["2 put a/2=x"]);
    assert_eq!(until(&mut old, 2).await, ["2 put a/2=x"]);
    commit(&*f.store, [put("b", "x")]).await;
    assert_eq!(live.progress(), 3);
}

async fn an_event_carries_what_was_before(open: Open) {
    let f = open(quiet()).await;
    let mut live = f.store.watch(b(""), 0).await.unwrap();
    commit(&*f.store, [put("a", "1")]).await;
    commit(&*f.store, [put("a", "2")]).await;
    commit(&*f.store, [del("a")]).await;
    commit(&*f.store, [put("a", "3")]).await;
    let mut replayed = f.store.watch(b(""), 1).await.unwrap();
    for watch in [&mut live, &mut replayed] {
        let mut events = Vec::new();
        while events.len() < 4 {
            events.extend(next(watch).await.unwrap().events);
        }
        let before: Vec<_> = events.iter().map(|e| e.previous.as_ref().map(|kv| text(&kv.value))).collect();
        assert_eq!(before, [None, Some("1".into()), Some("2".into()), None]);
        let deletion = &events[2].kv;
        assert_eq!((deletion.value.len(), deletion.mod_revision), (0, 3));
        assert_eq!(events[2].previous.as_ref().map(|kv| (kv.create_revision, kv.version)), Some((1, 2)));
    }
}

async fn watches_have_no_gap_and_no_duplicate_while_writers_write(open: Open) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 150;
    let f = open(quiet()).await;
    let writers = (0..WRITERS).map(|w| {
        let store = f.store.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                commit(&*store, [put(&format!("{w}/{n}"), "x")]).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut readers = Vec::new();
    // A new watch, from the beginning or the middle, each time some writes have happened.
    let mut pace = f.store.watch(b(""), 1).await.unwrap();
    let mut seen = 0;
    while seen < WRITERS * EACH {
        seen = next(&mut pace).await.unwrap().revision;
        let from = 1 + (seen / 2) * u64::from(readers.len() % 2 == 0);
        let mut watch = f.store.watch(b(""), from).await.unwrap();
        readers.push(tokio::spawn(async move {
            let mut expected = from;
            while expected <= WRITERS * EACH {
                for event in next(&mut watch).await.unwrap().events {
                    assert_eq!(event.kv.mod_revision, expected);
                    expected += 1;
                }
            }
        }));
    }
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
}

async fn a_slow_watcher_is_told(open: Open) {
    let limits = [WatchLimits { events: 10, bytes: usize::MAX }, WatchLimits { events: usize::MAX, bytes: 10 }];
    for watch in limits {
        let f = open(Options { watch, ..quiet() }).await;
        let mut slow = f.store.watch(b(""), 0).await.unwrap();
        for n in 0..12 {
            commit(&*f.store, [put("k", &n.to_string())]).await;
        }
        let error = next(&mut slow).await.unwrap_err();
        assert!(matches!(error, StoreError::Lagged { .. }), "{error}");
        // It can begin again from the last revision it saw.
        let mut again = f.store.watch(b(""), 1).await.unwrap();
        assert_eq!(until(&mut again, 12).await.len(), 12);
    }
}

async fn a_watch_replays_long_history_in_pieces(open: Open) {
    let f = open(quiet()).await;
    for n in 0..40 {
        let ops: Vec<_> = (0..100).map(|k| put(&format!("{k:03}"), &n.to_string())).collect();
        commit(&*f.store, ops).await;
    }
    let mut watch = f.store.watch(b(""), 1).await.unwrap();
    let (mut events, mut batches) = (0, 0);
    while events < 4000 {
        let batch = next(&mut watch).await.unwrap();
        assert_eq!(batch.events.len() % 100, 0, "a revision was split");
        events += batch.events.len();
        batches += 1;
        assert_eq!(batch.revision, events as u64 / 100);
    }
    assert!(batches > 1);
}

async fn a_dropped_store_ends_its_watches(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1")]).await;
    let mut live = f.store.watch(b(""), 0).await.unwrap();
    let mut replaying = f.store.watch(b(""), 1).await.unwrap();
    drop(f);
    assert!(matches!(next(&mut live).await.unwrap_err(), StoreError::Stopped(_)));
    assert!(matches!(next(&mut replaying).await.unwrap_err(), StoreError::Stopped(_)));
}

async fn compaction_drops_the_past_and_keeps_the_present(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put("a", "1"), put("gone", "1"), put("back", "1")]).await;
    commit(&*f.store, [put("a", "2"), del("gone"), del("back")]).await;
    commit(&*f.store, [put("b", "1")]).await;
    commit(&*f.store, [put("a", "3"), put("back", "2")]).await;
    f.store.compact(3).await.unwrap();
    f.store.compact(3).await.unwrap();
    for revision in [1, 2] {
        let error = list(&*f.store, "", revision).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { compact_revision: 3 }), "{error}");
    }
    assert_eq!(list(&*f.store, "", 3).await.unwrap(), ["a=2", "b=1"]);
    assert_eq!(list(&*f.store, "", 4).await.unwrap(), ["a=3", "b=1", "back=2"]);
    assert!(matches!(f.store.watch(b(""), 3).await.unwrap_err(), StoreError::Compacted { compact_revision: 3 }));
    let mut watch = f.store.watch(b(""), 4).await.unwrap();
    assert_eq!(until(&mut watch, 4).await, ["4 put a=3", "4 put back=2"]);
    assert!(matches!(f.store.compact(2).await.unwrap_err(), StoreError::Compacted { .. }));
    f.store.compact(4).await.unwrap();
    assert_eq!(list(&*f.store, "", 0).await.unwrap(), ["a=3", "b=1", "back=2"]);
    assert_eq!(commit(&*f.store, [put("a", "4")]).await, 5);
}

async fn a_watch_that_compaction_overtakes_is_told(open: Open) {
    let f = open(quiet()).await;
    for n in 0..3 {
        commit(&*f.store, [put("a", &n.to_string())]).await;
    }
    let mut watch = f.store.watch(b(""), 1).await.unwrap();
    f.store.compact(2).await.unwrap();
    let error = next(&mut watch).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { compact_revision: 2 }), "{error}");
}

const MINUTE: Duration = Duration::from_secs(60);

async fn a_lease_ends_at_a_revision_of_its_own(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put_lease("event", "x", 60), put("other", "x")]).await;
    let mut watch = f.store.watch(b(""), 0).await.unwrap();
    elapse(MINUTE).await;
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events.iter().map(show).collect::<Vec<_>>(), ["2 delete event"]);
    assert_eq!(batch.events[0].previous.as_ref().map(|kv| text(&kv.value)), Some("x".into()));
    assert_eq!(list(&*f.store, "", 0).await.unwrap(), ["other=x"]);
    assert_eq!(list(&*f.store, "", 1).await.unwrap(), ["event=x", "other=x"]);
}

async fn a_lease_counts_from_the_last_put(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put_lease("a", "1", 60)]).await;
    commit(&*f.store, [put_lease("b", "1", 60)]).await;
    elapse(Duration::from_secs(50)).await;
    commit(&*f.store, [put_lease("a", "2", 60)]).await;
    let mut watch = f.store.watch(b(""), 0).await.unwrap();
    elapse(Duration::from_secs(55)).await;
    assert_eq!(until(&mut watch, 4).await, ["4 delete b"]);
    elapse(Duration::from_secs(5)).await;
    assert_eq!(until(&mut watch, 5).await, ["5 delete a"]);
}

async fn a_put_without_lease_keeps_the_key(open: Open) {
    let f = open(quiet()).await;
    commit(&*f.store, [put_lease("a", "1", 60), put_lease("b", "1", 60), put_lease("c", "1", 120)]).await;
    commit(&*f.store, [put("a", "2")]).await;
    commit(&*f.store, [del("b")]).await;
    let mut watch = f.store.watch(b(""), 0).await.unwrap();
    elapse(2 * MINUTE).await;
    assert_eq!(until(&mut watch, 4).await, ["4 delete c"]);
    assert_eq!(list(&*f.store, "", 0).await.unwrap(), ["a=2"]);
}

async fn many_leases_end(open: Open) {
    let f = open(quiet()).await;
    for batch in 0..6 {
        let ops: Vec<_> = (0..100).map(|n| put_lease(&format!("{batch}/{n}"), "x", 60)).collect();
        commit(&*f.store, ops).await;
    }
    let mut watch = f.store.watch(b(""), 0).await.unwrap();
    elapse(MINUTE).await;
    assert_eq!(until(&mut watch, 606).await.len(), 600);
    assert_eq!(f.store.range(RangeRequest::prefix(b(""))).await.unwrap().kvs, []);
}

/// Waits until the revision has been compacted.
async fn compacted(store: &dyn Store, revision: u64) -> u64 {
    let wait = async {
        loop {
            match list(store, "", revision).await {
                Err(StoreError::Compacted { compact_revision }) => return compact_revision,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("history stays")
}

async fn old_history_goes_by_itself(open: Open) {
    let f = open(auto(5 * MINUTE, 0)).await;
    // A first range, so that the keeper runs; then ten revisions that become five minutes old.
    for n in 0..10 {
        commit(&*f.store, [put("a", &n.to_string())]).await;
    }
    elapse(5 * MINUTE).await;
    tokio::task::yield_now().await;
    commit(&*f.store, [put("a", "young")]).await;
    elapse(5 * MINUTE).await;
    assert_eq!(compacted(&*f.store, 9).await, 10);
    assert_eq!(list(&*f.store, "", 10).await.unwrap(), ["a=9"]);
}

async fn recent_revisions_are_kept(open: Open) {
    let f = open(auto(5 * MINUTE, 4)).await;
    for n in 0..10 {
        commit(&*f.store, [put("a", &n.to_string())]).await;
    }
    for _ in 0..2 {
        elapse(5 * MINUTE).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(compacted(&*f.store, 5).await, 6);
}

async fn oversized_and_malformed_requests_are_refused(open: Open) {
    let f = open(Options { max_value_bytes: 100, ..quiet() }).await;
    let txn = |ops: Vec<Op>| f.store.txn(Txn { compare: vec![], ops });
    let error = txn(vec![put("a", &"x".repeat(101))]).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { what: "value", size: 101, limit: 100 }), "{error}");
    let error = txn((0..5).map(|n| put(&n.to_string(), &"x".repeat(100))).collect()).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { what: "transaction", .. }), "{error}");
    let error = txn(vec![put(&"x".repeat(MAX_KEY_BYTES + 1), "")]).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { what: "key", .. }), "{error}");
    let error = txn((0..=MAX_TXN_OPS).map(|n| put(&n.to_string(), "")).collect()).await.unwrap_err();
    assert!(matches!(error, StoreError::TooManyOps { .. }), "{error}");
    let error = txn(vec![put("a", "1"), del("a")]).await.unwrap_err();
    assert!(matches!(error, StoreError::DuplicateKey(_)), "{error}");
    assert!(matches!(txn(vec![put("", "1")]).await.unwrap_err(), StoreError::EmptyKey));
    let compare = vec![Compare::ModRevision(b(""), 0)];
    assert!(matches!(f.store.txn(Txn { compare, ops: vec![] }).await.unwrap_err(), StoreError::EmptyKey));
    assert_eq!(f.store.revision(), 0);
}
