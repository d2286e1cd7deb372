//! Any sequence of operations does the same on all back ends as on a map per revision.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redb::backends::InMemoryBackend;
use store::{EventKind, MemoryStore, Op, RangeRequest, RedbStore, Store, StoreError, Txn, TxnOutcome};

#[derive(Debug, Clone)]
enum Step {
    Txn { compare: Vec<(u8, Guess)>, ops: Vec<(u8, Option<u8>)> },
    Range { start: u8, end: u8, limit: usize, back: u64 },
    Watch { back: u64 },
    Compact { back: u64 },
}

/// What a compare takes a key's revision to be.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Right,
    Absent,
    Older,
}

/// Value, creation, last change, version.
type Kv = (u8, u64, u64, u64);

#[derive(Default)]
struct Model {
    /// The keys as of each revision, from 0.
    states: Vec<BTreeMap<u8, Kv>>,
    /// What each revision changed, in order, from 1: key and new value.
    changes: Vec<Vec<(u8, Option<u8>)>>,
    compacted: u64,
}

fn key(k: u8) -> Bytes {
    // Some keys are prefixes of others.
    Bytes::from(vec![b'k'; usize::from(k) % 3 + 1].into_iter().chain([k]).collect::<Vec<u8>>())
}

impl Model {
    fn newest(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn back(&self, back: u64) -> u64 {
        self.newest().saturating_sub(back)
    }

    fn txn(&mut self, compare: &[(u8, u64)], ops: &[(u8, Option<u8>)]) -> Option<u64> {
        let mut state = self.states.last().unwrap().clone();
        if compare.iter().any(|(k, revision)| state.get(k).map_or(0, |kv| kv.2) != *revision) {
            return None;
        }
        let revision = self.newest() + 1;
        let mut changes = Vec::new();
        for (k, value) in ops {
            let before = state.get(k).copied();
            match value {
                Some(v) => {
                    let (created, version) = before.map_or((revision, 1), |kv| (kv.1, kv.3 + 1));
                    state.insert(*k, (*v, created, revision, version));
                    changes.push((*k, Some(*v)));
                }
                None if before.is_some() => {
                    state.remove(k);
                    changes.push((*k, None));
                }
                None => {}
            }
        }
        if changes.is_empty() {
            return Some(revision - 1);
        }
        self.states.push(state);
        self.changes.push(changes);
        Some(revision)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let guess = prop_oneof![4 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => Just(Guess::Older)];
    let op = (0u8..8, prop::option::weighted(0.7, any::<u8>()));
    let txn = (prop::collection::vec((0u8..8, guess), 0..3), prop::collection::vec(op, 0..4))
        .prop_map(|(compare, ops)| Step::Txn { compare, ops });
    let range = (0u8..9, 0u8..9, 0usize..4, 0u64..6).prop_map(|(start, end, limit, back)| Step::Range {
        start,
        end,
        limit,
        back,
    });
    prop_oneof![
        6 => txn,
        3 => range,
        1 => (0u64..8).prop_map(|back| Step::Watch { back }),
        1 => (0u64..6).prop_map(|back| Step::Compact { back }),
    ]
}

async fn run(store: &dyn Store, steps: &[Step]) {
    let mut model = Model { states: vec![BTreeMap::new()], ..Model::default() };
    for step in steps {
        match step {
            Step::Txn { compare, ops } => check_txn(store, &mut model, compare, ops).await,
            Step::Range { start, end, limit, back } => {
                check_range(store, &model, (*start, *end), *limit, model.back(*back)).await;
            }
            Step::Watch { back } => check_watch(store, &model, model.back(*back).max(1)).await,
            Step::Compact { back } => {
                let revision = model.back(*back);
                match store.compact(revision).await {
                    Ok(()) => assert!(revision >= model.compacted),
                    Err(StoreError::Compacted { .. }) => assert!(revision < model.compacted),
                    Err(other) => panic!("{other}"),
                }
                model.compacted = model.compacted.max(revision);
            }
        }
        assert_eq!(store.revision(), model.newest());
    }
}

async fn check_txn(store: &dyn Store, model: &mut Model, compare: &[(u8, Guess)], ops: &[(u8, Option<u8>)]) {
    let now = model.states.last().unwrap();
    let compare: Vec<_> = compare
        .iter()
        .map(|(k, guess)| {
            let right = now.get(k).map_or(0, |kv| kv.2);
            (
                *k,
                match guess {
                    Guess::Right => right,
                    Guess::Absent => 0,
                    Guess::Older => right.saturating_sub(1),
                },
            )
        })
        .collect();
    let mut ops = ops.to_vec();
    ops.sort_by_key(|(k, _)| *k);
    ops.dedup_by_key(|(k, _)| *k);
    let txn = Txn {
        compare: compare.iter().map(|(k, revision)| store::Compare::ModRevision(key(*k), *revision)).collect(),
        ops: ops
            .iter()
            .map(|(k, value)| match value {
                Some(v) => Op::Put { key: key(*k), value: Bytes::from(vec![*v]), lease_ttl_s: None },
                None => Op::Delete { key: key(*k) },
            })
            .collect(),
    };
    let before = now.clone();
    let kv_of = |k: &u8| before.get(k).copied();
    let got = |found: &Option<store::KeyValue>| {
        found.as_ref().map(|kv| (kv.value[0], kv.create_revision, kv.mod_revision, kv.version))
    };
    match (store.txn(txn).await.unwrap(), model.txn(&compare, &ops)) {
        (TxnOutcome::Committed { revision, previous }, Some(expected)) => {
            assert_eq!(revision, expected);
            assert_eq!(
                previous.iter().map(got).collect::<Vec<_>>(),
                ops.iter().map(|(k, _)| kv_of(k)).collect::<Vec<_>>()
            );
        }
        (TxnOutcome::Conflict { current }, None) => {
            assert_eq!(
                current.iter().map(got).collect::<Vec<_>>(),
                compare.iter().map(|(k, _)| kv_of(k)).collect::<Vec<_>>()
            );
        }
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
}

async fn check_range(store: &dyn Store, model: &Model, (start, end): (u8, u8), limit: usize, revision: u64) {
    let req = RangeRequest { start: key(start), end: key(end), limit, revision };
    let got = match store.range(req.clone()).await {
        Ok(got) => got,
        Err(StoreError::Compacted { .. }) => return assert!(revision < model.compacted && revision != 0),
        Err(other) => panic!("{other}"),
    };
    assert!(revision == 0 || revision >= model.compacted);
    // Revision 0 asks for the newest.
    let at = if revision == 0 { model.newest() } else { revision };
    let mut all: Vec<_> = model.states[at as usize].iter().map(|(k, kv)| (key(*k), *kv)).collect();
    all.retain(|(k, _)| *k >= req.start && *k < req.end);
    all.sort();
    let shown = if limit == 0 { all.len() } else { limit.min(all.len()) };
    assert_eq!((got.revision, got.remaining), (at, (all.len() - shown) as u64));
    assert_eq!(got.more, shown < all.len());
    all.truncate(shown);
    let kvs = got.kvs.iter().map(|kv| (kv.key.clone(), (kv.value[0], kv.create_revision, kv.mod_revision, kv.version)));
    assert_eq!(kvs.collect::<Vec<_>>(), all);
}

async fn check_watch(store: &dyn Store, model: &Model, from: u64) {
    let mut watch = match store.watch(Bytes::new(), from).await {
        Ok(watch) => watch,
        Err(StoreError::Compacted { .. }) => return assert!(from <= model.compacted),
        Err(other) => panic!("{other}"),
    };
    assert!(from > model.compacted);
    let mut expected = Vec::new();
    for revision in from..=model.newest() {
        for (k, value) in &model.changes[revision as usize - 1] {
            let before = model.states[revision as usize - 1].get(k).map(|kv| kv.0);
            expected.push((revision, key(*k), *value, before));
        }
    }
    let mut got = Vec::new();
    while got.len() < expected.len() {
        for event in next(&mut watch).await.unwrap().events {
            let value = (event.kind == EventKind::Put).then(|| event.kv.value[0]);
            got.push((event.kv.mod_revision, event.kv.key, value, event.previous.map(|kv| kv.value[0])));
        }
    }
    assert_eq!(got, expected);
}

fn on(make: impl Fn() -> Box<dyn Store>, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { run(&*make(), steps).await });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_memory_store_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        on(|| Box::new(MemoryStore::with_options(quiet())), &steps);
    }

    #[test]
    fn the_redb_store_does_as_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let open = || RedbStore::open_with_backend(InMemoryBackend::new(), quiet()).unwrap();
        on(|| Box::new(open()), &steps);
    }
}

/// On one etcd, below a prefix of its own each time. Fewer, because etcd begins to replay history only every tenth of a
/// second.
#[test]
fn the_etcd_store_does_as_the_model() {
    if !common::etcd::installed() {
        return;
    }
    let etcd = common::etcd::Etcd::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 16, ..ProptestConfig::default() });
    let case = std::sync::atomic::AtomicU64::new(0);
    let outcome = runner.run(&prop::collection::vec(step(), 1..40), |steps| {
        let prefix = format!("/case-{}", case.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        runtime.block_on(async {
            let store = common::etcd::Rebased::new(etcd.store(&prefix).await);
            run(&store, &steps).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
