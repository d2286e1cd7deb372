//! Power failures, simulated: a disk that loses what was not synced, or keeps any part of it; and a disk that fails.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use common::ledger::{self, Rng};
use common::*;
use redb::StorageBackend;
use store::{RangeRequest, RedbStore, Store, StoreError, Txn};

const WRITERS: u64 = 4;
const SEEDS: u64 = 150;
const SECTOR: usize = 512;

/// What a power failure leaves of the writes since the last sync.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lose {
    All,
    /// Each write stays or goes by itself.
    Some,
    /// Each sector of each write stays or goes by itself.
    Sectors,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

/// A disk with a cache of writes that a sync empties.
#[derive(Debug, Default)]
struct State {
    durable: Vec<u8>,
    cached: Vec<u8>,
    unsynced: Vec<Change>,
    /// After so many writes and syncs the power fails.
    left: Option<u64>,
    /// Syncs fail, as on a broken disk.
    broken: bool,
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

impl State {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn change(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => image.resize(*len, 0),
        Change::Write(offset, data) => {
            if image.len() < offset + data.len() {
                image.resize(offset + data.len(), 0);
            }
            image[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let offset = offset as usize;
        let found = state.cached.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        let this = Change::Len(len as usize);
        change(&mut state.cached, &this);
        state.unsynced.push(this);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.broken {
            return Err(io::Error::other("disk broken"));
        }
        state.spend()?;
        for this in std::mem::take(&mut state.unsynced) {
            change(&mut state.durable, &this);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        let this = Change::Write(offset as usize, data.to_vec());
        change(&mut state.cached, &this);
        state.unsynced.push(this);
        Ok(())
    }
}

impl Disk {
    fn power_fails_after(&self, operations: u64) {
        self.0.lock().unwrap().left = Some(operations);
    }

    /// The same disk after the power has come back.
    fn after_power_failure(&self, lose: Lose, rng: &mut Rng) -> Disk {
        let state = self.0.lock().unwrap();
        let mut image = state.durable.clone();
        for this in &state.unsynced {
            match (lose, this) {
                (Lose::All, _) => {}
                (Lose::Sectors, Change::Write(offset, data)) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if rng.below(2) == 0 {
                            change(&mut image, &Change::Write(offset + n * SECTOR, sector.to_vec()));
                        }
                    }
                }
                _ => {
                    if rng.below(2) == 0 {
                        change(&mut image, this);
                    }
                }
            }
        }
        let state = State { durable: image.clone(), cached: image, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }
}

/// Runs of writers on one disk, each ended by a power failure at some moment, each checked after it.
async fn survives(seed: u64, lose: Lose) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let mut disk = Disk::default();
    let (mut total, mut made) = (0, false);
    for run in 0..3 {
        let last = Arc::new(Mutex::new(BTreeMap::new()));
        // Opening and closing are part of what may be interrupted.
        disk.power_fails_after(1 + rng.below(600));
        if let Ok(store) = RedbStore::open_with_backend(disk.clone(), quiet()) {
            made = true;
            let store = Arc::new(store);
            let writers = (0..WRITERS).map(|writer| {
                let (store, last) = (store.clone(), last.clone());
                async move {
                    let ack = |n| {
                        last.lock().unwrap().insert(writer, n);
                    };
                    ledger::write(&*store, run, writer, ack).await;
                }
            });
            let upkeep = async { while store.compact(store.revision()).await.is_ok() {} };
            if rng.below(2) == 0 {
                futures::future::join(futures::future::join_all(writers), upkeep).await;
            } else {
                futures::future::join_all(writers).await;
            }
        }
        disk = disk.after_power_failure(lose, &mut rng);
        if !made {
            // A half-made file never gets the store's name: see the test of that in `file.rs`.
            disk = Disk::default();
        }
        let opened = RedbStore::open_with_backend(disk.clone(), quiet());
        let store = opened.map_err(|e| format!("run {run}: opening again: {}", base::chain(&e)))?;
        let last = last.lock().unwrap().clone();
        total += last.values().map(|n| n + 1).sum::<u64>();
        ledger::check(&store, run, &last, WRITERS).await.map_err(|e| format!("run {run}: {e}"))?;
    }
    Ok(total)
}

fn survives_all(lose: Lose, seeds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut total = 0;
    for seed in 0..seeds {
        total += runtime.block_on(survives(seed, lose)).unwrap_or_else(|e| panic!("{lose:?}, seed {seed}: {e}"));
    }
    assert!(total > seeds * 10, "only {total} writes were acknowledged");
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_all_unsynced_writes() {
    survives_all(Lose::All, SEEDS);
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_some_unsynced_writes() {
    survives_all(Lose::Some, SEEDS);
}

#[test]
fn what_was_acknowledged_survives_torn_writes() {
    survives_all(Lose::Sectors, SEEDS);
}

#[tokio::test]
async fn a_failed_sync_stops_the_store() {
    let disk = Disk::default();
    let store = RedbStore::open_with_backend(disk.clone(), quiet()).unwrap();
    commit(&store, [put("a", "1")]).await;
    let mut live = store.watch(b(""), 0).await.unwrap();
    let mut replaying = store.watch(b(""), 1).await.unwrap();
    disk.0.lock().unwrap().broken = true;
    let failed = |what: &str, error: StoreError| match error {
        StoreError::Stopped(reason) => assert!(reason.contains("disk broken"), "{what}: {reason}"),
        other => panic!("{what}: {other}"),
    };
    let write = || store.txn(Txn { compare: vec![], ops: vec![put("a", "2")] });
    failed("txn", write().await.unwrap_err());
    failed("live watch", next(&mut live).await.unwrap_err());
    failed("replaying watch", next(&mut replaying).await.unwrap_err());
    // The disk works again, but nobody knows what is on it.
    disk.0.lock().unwrap().broken = false;
    failed("later txn", write().await.unwrap_err());
    failed("later compaction", store.compact(1).await.unwrap_err());
    failed("later range", store.range(RangeRequest::prefix(b(""))).await.unwrap_err());
    failed("later get", store.range(RangeRequest::key(b("a"))).await.unwrap_err());
    failed("later watch", store.watch(b(""), 0).await.unwrap_err());
    assert_eq!(store.revision(), 1);
    drop(store);
    let again = RedbStore::open_with_backend(disk.after_power_failure(Lose::All, &mut Rng::new(1)), quiet()).unwrap();
    assert_eq!(list(&again, "", 0).await.unwrap(), ["a=1"]);
}

#[tokio::test]
async fn an_event_is_not_seen_before_it_is_durable() {
    let disk = Disk::default();
    let store = Arc::new(RedbStore::open_with_backend(disk.clone(), quiet()).unwrap());
    let mut watch = store.watch(b(""), 0).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move { ledger::write(&*store, 0, 0, |_| {}).await }
    });
    for _ in 0..50 {
        let batch = next(&mut watch).await.unwrap();
        // What is durable now was perhaps synced later than the event came, never the other way round.
        let durable = disk.after_power_failure(Lose::All, &mut Rng::new(1));
        let copy = RedbStore::open_with_backend(durable, quiet()).unwrap();
        assert!(copy.revision() >= batch.revision, "{} shown, {} durable", batch.revision, copy.revision());
    }
    writer.abort();
}
