//! The rules of the store, written once over three ordered tables that each back end provides:
//!
//! - records: (revision, index in its transaction) → the change, with the place of the change before it of the same key;
//! - heads: key → the place of its last change, deletions included until compaction;
//! - leases: (when it ends, key).
//!
//! A key as of an old revision is found by walking back from its head. Compaction up to revision C drops, for each
//! change at or before C, the change before it, and deletions themselves: what is left of a key is what it was at C.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::watch::Replayed;
use crate::{
    Compare, Event, EventKind, KeyValue, MAX_KEY_BYTES, MAX_TXN_OPS, Op, RangeRequest, RangeResponse, StoreError, Txn,
    TxnOutcome,
};

/// Where a change stands in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub revision: u64,
    pub index: u32,
}

/// The last change of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub pos: Pos,
    /// False when that was its deletion.
    pub live: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub kind: EventKind,
    pub create_revision: u64,
    pub version: u64,
    pub previous: Option<Pos>,
    /// When the lease ends, in milliseconds since 1970; 0 without a lease.
    pub expires_ms: u64,
    pub key: Bytes,
    pub value: Bytes,
}

/// How far the store has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Newest revision.
    pub revision: u64,
    /// History before this revision may not be read.
    pub compacted: u64,
    /// History up to this revision has been cleaned; behind `compacted` while the work is under way.
    pub cleaned: u64,
}

/// Reading the tables.
pub(crate) trait View {
    fn marks(&self) -> Marks;
    fn head(&self, key: &[u8]) -> Result<Option<Head>, StoreError>;
    fn record(&self, pos: Pos) -> Result<Option<Record>, StoreError>;
    /// Heads from `start` to before `end`, in order.
    fn heads(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_, (Bytes, Head)>) -> Result<(), StoreError>;
    /// Records from the first of a revision on, in order.
    fn records(&self, from: u64, visit: &mut Visit<'_, (Pos, Record)>) -> Result<(), StoreError>;
}

/// Called for each row; says whether to go on.
pub(crate) type Visit<'a, T> = dyn FnMut(T) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Changing the tables.
pub(crate) trait Edit: View {
    fn set_marks(&mut self, marks: Marks);
    fn set_head(&mut self, key: &[u8], head: Option<Head>) -> Result<(), StoreError>;
    fn add_record(&mut self, pos: Pos, record: &Record) -> Result<(), StoreError>;
    fn remove_record(&mut self, pos: Pos) -> Result<(), StoreError>;
    fn add_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError>;
    fn remove_lease(&mut self, expires_ms: u64, key: &[u8]) -> Result<(), StoreError>;
    fn first_lease(&self) -> Result<Option<(u64, Bytes)>, StoreError>;
}

impl Record {
    fn into_kv(self, pos: Pos) -> KeyValue {
        let Record { key, value, create_revision, version, .. } = self;
        KeyValue { key, value, create_revision, mod_revision: pos.revision, version }
    }
}

/// Refuses what no back end may accept. The limit is that of one value.
pub(crate) fn check(txn: &Txn, max_value: usize) -> Result<(), StoreError> {
    let size = txn.compare.len() + txn.ops.len();
    if size > MAX_TXN_OPS {
        return Err(StoreError::TooManyOps { size, limit: MAX_TXN_OPS });
    }
    for key in txn.compare.iter().map(Compare::key).chain(txn.ops.iter().map(Op::key)) {
        if key.is_empty() {
            return Err(StoreError::EmptyKey);
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::TooLarge { what: "key", size: key.len(), limit: MAX_KEY_BYTES });
        }
    }
    let mut seen = BTreeSet::new();
    let mut total = 0usize;
    for op in &txn.ops {
        if !seen.insert(op.key()) {
            return Err(StoreError::DuplicateKey(op.key().clone()));
        }
        if let Op::Put { value, .. } = op {
            total += value.len();
            if value.len() > max_value {
                return Err(StoreError::TooLarge { what: "value", size: value.len(), limit: max_value });
            }
        }
    }
    let limit = max_value.saturating_mul(4);
    if total > limit {
        return Err(StoreError::TooLarge { what: "transaction", size: total, limit });
    }
    Ok(())
}

/// Does a transaction that has been checked, at time `now_ms`, adding its events.
pub(crate) fn apply(
    tables: &mut dyn Edit,
    txn: Txn,
    now_ms: u64,
    events: &mut Vec<Event>,
) -> Result<TxnOutcome, StoreError> {
    let mut holds = true;
    for Compare::ModRevision(key, wanted) in &txn.compare {
        let found = tables.head(key)?.filter(|head| head.live).map_or(0, |head| head.pos.revision);
        holds &= found == *wanted;
    }
    if !holds {
        let current = txn.compare.iter().map(|c| newest(tables, c.key())).collect::<Result<_, _>>()?;
        return Ok(TxnOutcome::Conflict { current });
    }
    let mut marks = tables.marks();
    let revision = marks.revision + 1;
    let mut previous = Vec::with_capacity(txn.ops.len());
    let mut pos = Pos { revision, index: 0 };
    for op in txn.ops {
        let (before, event) = match op {
            Op::Put { key, value, lease_ttl_s } => {
                let expires_ms = lease_ttl_s.map_or(0, |s| now_ms.saturating_add(s.max(1).saturating_mul(1000)));
                put(tables, pos, key, value, expires_ms)?
            }
            Op::Delete { key } => delete(tables, pos, key)?,
        };
        previous.push(before);
        if let Some(event) = event {
            events.push(event);
            pos.index += 1;
        }
    }
    if pos.index == 0 {
        return Ok(TxnOutcome::Committed { revision: marks.revision, previous });
    }
    marks.revision = revision;
    tables.set_marks(marks);
    Ok(TxnOutcome::Committed { revision, previous })
}

type Change = (Option<KeyValue>, Option<Event>);

fn put(tables: &mut dyn Edit, pos: Pos, key: Bytes, value: Bytes, expires_ms: u64) -> Result<Change, StoreError> {
    let head = tables.head(&key)?;
    let before = release(tables, head)?;
    let record = Record {
        kind: EventKind::Put,
        create_revision: before.as_ref().map_or(pos.revision, |kv| kv.create_revision),
        version: before.as_ref().map_or(1, |kv| kv.version + 1),
        previous: head.map(|head| head.pos),
        expires_ms,
        key,
        value,
    };
    tables.add_record(pos, &record)?;
    tables.set_head(&record.key, Some(Head { pos, live: true }))?;
    if expires_ms != 0 {
        tables.add_lease(expires_ms, &record.key)?;
    }
    let event = Event { kind: EventKind::Put, kv: record.into_kv(pos), previous: before.clone() };
    Ok((before, Some(event)))
}

fn delete(tables: &mut dyn Edit, pos: Pos, key: Bytes) -> Result<Change, StoreError> {
    let head = tables.head(&key)?.filter(|head| head.live);
    let Some(before) = release(tables, head)? else { return Ok((None, None)) };
    let record = Record {
        kind: EventKind::Delete,
        create_revision: 0,
        version: 0,
        previous: head.map(|head| head.pos),
        expires_ms: 0,
        key,
        value: Bytes::new(),
    };
    tables.add_record(pos, &record)?;
    tables.set_head(&record.key, Some(Head { pos, live: false }))?;
    let event = Event { kind: EventKind::Delete, kv: record.into_kv(pos), previous: Some(before.clone()) };
    Ok((Some(before), Some(event)))
}

/// The live key at a head, its lease taken away, as it is about to change.
fn release(tables: &mut dyn Edit, head: Option<Head>) -> Result<Option<KeyValue>, StoreError> {
    let Some(head) = head.filter(|head| head.live) else { return Ok(None) };
    let record = must(tables.record(head.pos)?, head.pos)?;
    if record.expires_ms != 0 {
        tables.remove_lease(record.expires_ms, &record.key)?;
    }
    Ok(Some(record.into_kv(head.pos)))
}

fn must(record: Option<Record>, pos: Pos) -> Result<Record, StoreError> {
    record.ok_or(StoreError::Corrupt { what: "a key points to a change that is not there", revision: pos.revision })
}

/// The key as it is.
fn newest<V: View + ?Sized>(tables: &V, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
    match tables.head(key)? {
        Some(head) if head.live => Ok(Some(must(tables.record(head.pos)?, head.pos)?.into_kv(head.pos))),
        _ => Ok(None),
    }
}

/// The key of a head as of a revision at or after the compacted one.
fn as_of<V: View + ?Sized>(tables: &V, head: Head, revision: u64) -> Result<Option<KeyValue>, StoreError> {
    let mut pos = head.pos;
    loop {
        // Only deletions at or before the compacted revision are missing from a chain.
        let Some(record) = tables.record(pos)? else {
            let gone = pos.revision <= tables.marks().compacted && pos != head.pos;
            return if gone { Ok(None) } else { must(None, pos).map(|_| None) };
        };
        if pos.revision <= revision {
            return Ok((record.kind == EventKind::Put).then(|| record.into_kv(pos)));
        }
        match record.previous {
            Some(previous) => pos = previous,
            None => return Ok(None),
        }
    }
}

/// Answers a range.
pub(crate) fn range(tables: &dyn View, req: &RangeRequest) -> Result<RangeResponse, StoreError> {
    let marks = tables.marks();
    if req.revision > marks.revision {
        return Err(StoreError::FutureRevision { requested: req.revision, current: marks.revision });
    }
    if req.revision != 0 && req.revision < marks.compacted {
        return Err(StoreError::Compacted { compact_revision: marks.compacted });
    }
    let old = req.revision != 0 && req.revision < marks.revision;
    let revision = if req.revision == 0 { marks.revision } else { req.revision };
    let mut response = RangeResponse { revision, ..RangeResponse::default() };
    let mut take = |head: Head| -> Result<(), StoreError> {
        let full = req.limit != 0 && response.kvs.len() >= req.limit;
        let found = match (old, full) {
            (false, _) if !head.live => None,
            (false, true) => {
                response.remaining += 1;
                return Ok(());
            }
            (false, false) => Some(must(tables.record(head.pos)?, head.pos)?.into_kv(head.pos)),
            (true, _) => as_of(tables, head, revision)?,
        };
        match found {
            Some(_) if full => response.remaining += 1,
            Some(kv) => response.kvs.push(kv),
            None => {}
        }
        Ok(())
    };
    if req.end.is_empty() {
        if let Some(head) = tables.head(&req.start)? {
            take(head)?;
        }
    } else {
        tables.heads(&req.start, &req.end, &mut |(_, head)| take(head).map(|()| ControlFlow::Continue(())))?;
    }
    response.more = response.remaining > 0;
    Ok(response)
}

/// Whether a watch may begin at the revision (0: from now).
pub(crate) fn check_watch(marks: Marks, from: u64) -> Result<(), StoreError> {
    if from > marks.revision + 1 {
        return Err(StoreError::FutureRevision { requested: from, current: marks.revision });
    }
    if from != 0 && from <= marks.compacted {
        return Err(StoreError::Compacted { compact_revision: marks.compacted });
    }
    Ok(())
}

/// Most changes read in one piece of a replay.
const REPLAY_RECORDS: usize = 1024;
/// Most bytes of values in one piece of a replay, but for the transaction that goes over it.
const REPLAY_BYTES: usize = 4 << 20;

/// Reads a piece of history for a watch.
pub(crate) fn replay(tables: &dyn View, prefix: &[u8], from: u64) -> Result<Replayed, StoreError> {
    let marks = tables.marks();
    check_watch(marks, from)?;
    let mut piece = Replayed { events: Vec::new(), through: marks.revision };
    let (mut read, mut bytes, mut last) = (0usize, 0usize, from);
    tables.records(from, &mut |(pos, record)| {
        if pos.revision > last && (read >= REPLAY_RECORDS || bytes >= REPLAY_BYTES) {
            piece.through = last;
            return Ok(ControlFlow::Break(()));
        }
        last = pos.revision;
        read += 1;
        if record.key.starts_with(prefix) {
            let previous = match record.previous {
                Some(at) => tables.record(at)?.filter(|r| r.kind == EventKind::Put).map(|r| r.into_kv(at)),
                None => None,
            };
            bytes += record.value.len() + previous.as_ref().map_or(0, |kv| kv.value.len());
            piece.events.push(Event { kind: record.kind, kv: record.into_kv(pos), previous });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(piece)
}

/// Marks history before the revision as gone; [`clean`] then removes it.
pub(crate) fn compact(tables: &mut dyn Edit, revision: u64) -> Result<(), StoreError> {
    let mut marks = tables.marks();
    if revision > marks.revision {
        return Err(StoreError::FutureRevision { requested: revision, current: marks.revision });
    }
    if revision < marks.compacted {
        return Err(StoreError::Compacted { compact_revision: marks.compacted });
    }
    marks.compacted = revision;
    tables.set_marks(marks);
    Ok(())
}

/// Removes a piece of compacted history; true when none is left.
pub(crate) fn clean(tables: &mut dyn Edit, budget: usize) -> Result<bool, StoreError> {
    let mut marks = tables.marks();
    let mut found = Vec::new();
    let mut through = marks.compacted;
    if marks.cleaned < marks.compacted {
        tables.records(marks.cleaned + 1, &mut |(pos, record)| {
            if pos.revision > marks.compacted {
                return Ok(ControlFlow::Break(()));
            }
            let last = found.last().map_or(pos.revision, |(pos, ..): &(Pos, _, _, _)| pos.revision);
            if pos.revision > last && found.len() >= budget {
                through = last;
                return Ok(ControlFlow::Break(()));
            }
            found.push((pos, record.kind, record.previous, record.key));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    for (pos, kind, previous, key) in found {
        if let Some(previous) = previous {
            tables.remove_record(previous)?;
        }
        if kind == EventKind::Delete {
            tables.remove_record(pos)?;
            if tables.head(&key)?.is_some_and(|head| head.pos == pos) {
                tables.set_head(&key, None)?;
            }
        }
    }
    marks.cleaned = through;
    tables.set_marks(marks);
    Ok(through == marks.compacted)
}

/// Deletes keys whose lease has ended, each at a revision of its own, at most `budget` of them.
pub(crate) fn expire(
    tables: &mut dyn Edit,
    now_ms: u64,
    budget: usize,
    events: &mut Vec<Event>,
) -> Result<(), StoreError> {
    for _ in 0..budget {
        match tables.first_lease()? {
            Some((expires_ms, key)) if expires_ms <= now_ms => {
                let revision = tables.marks().revision;
                let gone = apply(tables, Txn { compare: vec![], ops: vec![Op::Delete { key }] }, now_ms, events)?;
                if matches!(gone, TxnOutcome::Committed { revision: r, .. } if r == revision) {
                    return Err(StoreError::Corrupt { what: "a lease of a key that is not there", revision });
                }
            }
            _ => break,
        }
    }
    Ok(())
}
