//! Kills a process that writes, at any moment, again and again, and checks that the file holds what was acknowledged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::ledger::{self, Rng};
use common::quiet;
use store::{RangeRequest, RedbStore, Store};

const WRITERS: u64 = 8;
const ROUNDS: u64 = 200;
const FILE: &str = "WINDLASS_TEST_STORE_FILE";
const RUN: &str = "WINDLASS_TEST_STORE_RUN";

/// The other process: this test binary, told by its environment to write until it is killed.
#[test]
fn writer_process() {
    let (Ok(file), Ok(run)) = (std::env::var(FILE), std::env::var(RUN)) else { return };
    let run: u64 = run.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(RedbStore::open(Path::new(&file), quiet()).unwrap());
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                // One write call per line: a line is in the pipe as a whole or not at all.
                let ack = |n| std::io::stdout().write_all(format!("ack {writer} {n}\n").as_bytes()).unwrap();
                ledger::write(&*store, run, writer, ack).await;
            })
        });
        futures::future::join_all(writers).await;
    });
    panic!("the store refused a write");
}

/// Starts a writer, kills it after a number of acknowledgements and some more work, and gives the ledger.
fn killed_writer(file: &Path, run: u64) -> BTreeMap<u64, u64> {
    let mut rng = Rng::new(run);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = BTreeMap::new();
    let mut note = |line: String| {
        // The test harness's own words come before the first acknowledgement, on the same line perhaps.
        let Some(at) = line.find("ack ") else { return false };
        let mut numbers = line[at + 4..].split(' ').map(|n| n.parse::<u64>().unwrap());
        let (writer, n) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(last.insert(writer, n).map_or(0, |n| n + 1), n, "writer {writer} skipped one");
        true
    };
    let mut wanted = rng.below(60);
    while wanted > 0 {
        wanted -= u64::from(note(lines.next().expect("the writer ended by itself").unwrap()));
    }
    // Away from the moment of an acknowledgement, somewhere within a commit.
    let mut spin = rng.below(200_000);
    while spin > 0 {
        spin = std::hint::black_box(spin - 1);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines.for_each(|line| {
        note(line.unwrap());
    });
    last
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut ledgers = BTreeMap::new();
    let mut revision = 0;
    let mut acknowledged = 0;
    for run in 0..ROUNDS {
        let last = killed_writer(&file, run);
        acknowledged += last.values().map(|n| n + 1).sum::<u64>();
        ledgers.insert(run, last);
        runtime.block_on(async {
            let store = RedbStore::open(&file, quiet()).unwrap();
            assert!(store.revision() >= revision, "the store went back");
            // All runs now and then, else the last.
            let since = if run % 50 == 49 { 0 } else { run };
            for (run, last) in ledgers.range(since..) {
                ledger::check(&store, *run, last, WRITERS).await.unwrap_or_else(|e| panic!("run {run}: {e}"));
            }
            revision = store.revision();
            // History goes, so that the file and the checks stay small; what is there must not.
            store.compact(revision).await.unwrap();
        });
    }
    assert!(acknowledged > ROUNDS * 10, "only {acknowledged} writes in {ROUNDS} rounds");
    runtime.block_on(async {
        let store = RedbStore::open(&file, quiet()).unwrap();
        let keys = store.range(RangeRequest::prefix("twin/")).await.unwrap().kvs.len() as u64;
        assert!(keys <= ROUNDS * WRITERS);
    });
}
