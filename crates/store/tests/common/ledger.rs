//! Writers that keep a ledger of what the store acknowledged, and the check of it after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::{Op, RangeRequest, Store, Txn, TxnOutcome};

use super::text;

/// xorshift64*: enough for tests, and the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Seeds next to each other must not begin alike.
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// A value of some length that shows when it is torn: a checksum over the key and what follows.
pub fn value(key: &str, rng: &mut Rng) -> Bytes {
    let longest = if rng.below(8) == 0 { 20_000 } else { 300 };
    let len = 1 + rng.below(longest);
    let body: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    let mut sum = key.as_bytes().to_vec();
    sum.extend_from_slice(&body);
    let mut out = fnv(&sum).to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    Bytes::from(out)
}

fn whole(key: &str, value: &[u8]) -> bool {
    let Some((sum, body)) = value.split_at_checked(8) else { return false };
    let mut bytes = key.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    sum == fnv(&bytes).to_le_bytes()
}

pub fn key(run: u64, writer: u64, n: u64) -> String {
    format!("{run:06}/{writer}/{n:08}")
}

/// Writes until the store refuses. Each write puts two keys that must be there together or not at all, and deletes the
/// twin of the write before. `acknowledged` is called with the number of each write that the store answered.
pub async fn write(store: &dyn Store, run: u64, writer: u64, mut acknowledged: impl FnMut(u64)) {
    let mut rng = Rng::new(run << 8 | writer);
    for n in 0.. {
        let (name, twin) = (key(run, writer, n), format!("twin/{}", key(run, writer, n)));
        let mut ops = Vec::new();
        for key in [&name, &twin] {
            let value = value(key, &mut rng);
            ops.push(Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value, lease_ttl_s: None });
        }
        if n > 0 {
            ops.push(Op::Delete { key: Bytes::from(format!("twin/{}", key(run, writer, n - 1))) });
        }
        match store.txn(Txn { compare: vec![], ops }).await {
            Ok(TxnOutcome::Committed { .. }) => acknowledged(n),
            Ok(TxnOutcome::Conflict { .. }) => panic!("nothing was compared"),
            Err(_) => return,
        }
    }
}

/// Checks that every acknowledged write of a run is there, whole, and that nothing is there that was not begun: at most
/// one write more per writer. `last` holds the number of the last acknowledged write of each writer.
pub async fn check(store: &dyn Store, run: u64, last: &BTreeMap<u64, u64>, writers: u64) -> Result<(), String> {
    let range = async |prefix: String| -> Result<BTreeMap<String, Bytes>, String> {
        let found = store.range(RangeRequest::prefix(prefix)).await.map_err(|e| base::chain(&e))?;
        Ok(found.kvs.into_iter().map(|kv| (text(&kv.key), kv.value)).collect())
    };
    for writer in 0..writers {
        let found = range(format!("{run:06}/{writer}/")).await?;
        let twins = range(format!("twin/{run:06}/{writer}/")).await?;
        for (key, value) in found.iter().chain(&twins) {
            if !whole(key, value) {
                return Err(format!("{key} is torn"));
            }
        }
        let acknowledged = last.get(&writer).map_or(0, |n| n + 1);
        let there = found.len() as u64;
        if there != acknowledged && there != acknowledged + 1 {
            return Err(format!("writer {writer}: {acknowledged} writes acknowledged, {there} there"));
        }
        for n in 0..there {
            if !found.contains_key(&key(run, writer, n)) {
                return Err(format!("{} is missing", key(run, writer, n)));
            }
        }
        let expected: Vec<_> =
            there.checked_sub(1).map(|n| format!("twin/{}", key(run, writer, n))).into_iter().collect();
        if twins.keys().cloned().collect::<Vec<_>>() != expected {
            return Err(format!("writer {writer}: twins {:?} instead of {expected:?}", twins.keys()));
        }
    }
    Ok(())
}
