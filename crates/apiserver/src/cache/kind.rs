//! All objects of one kind in memory, with a ring of their latest changes. Reads take a short shared lock and leave with
//! reference-counted entries; watches keep a position in the ring instead of a queue of their own, so a slow one costs
//! nothing and is told to start over once the ring has moved past it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use api::kinds::KindInfo;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::entry::Entry;
use super::herald::Herald;
use super::pieces::{Piece, Pieces, Sight};
use crate::conversion::Family;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It came into being, or into view.
    Added,
    /// It changed.
    Modified,
    /// It was removed, or left the view.
    Deleted,
}

impl Change {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// One change, shared by all watches.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The object afterwards; when deleted, its last state with the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The object before.
    pub previous: Option<Arc<Entry>>,
    line: OnceLock<Bytes>,
    frame: OnceLock<Option<Bytes>>,
}

impl Event {
    fn new(change: Change, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Event { change, entry, previous, line: OnceLock::new(), frame: OnceLock::new() }
    }

    /// The line of JSON a watch without conversion sends, encoded once.
    pub fn line(&self) -> Bytes {
        self.line.get_or_init(|| line(self.change.as_str(), &self.entry.bytes)).clone()
    }

    /// The same in protobuf, for the kind as it is stored; `None` when the object cannot be said in it.
    pub fn frame(&self, kind: &KindInfo) -> Option<Bytes> {
        self.frame.get_or_init(|| frame(self.change.as_str(), &self.entry, kind)).clone()
    }
}

/// One event of a protobuf watch with the object in the version of `kind`.
pub fn frame(change: &str, entry: &Entry, kind: &KindInfo) -> Option<Bytes> {
    let message = entry.message(kind)?;
    api::protobuf::watch_frame_of(change, &kind.api_version(), kind.kind, &message).map(Bytes::from)
}

/// One line of a JSON watch.
pub fn line(change: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + change.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(change.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// A change as the store tells it.
pub struct Applied {
    /// `NAMESPACE/NAME` or `NAME`.
    pub key: Arc<str>,
    /// Its revision.
    pub revision: u64,
    /// The object, `None` when removed.
    pub entry: Option<Entry>,
}

/// The position is no longer, or not yet, in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision from which a watch can start.
    pub oldest: u64,
}

/// Limits of the ring.
#[derive(Debug, Clone, Copy)]
pub struct RingLimits {
    /// Events.
    pub events: usize,
    /// Bytes of their objects.
    pub bytes: usize,
}

/// The cache of one kind.
pub struct KindCache {
    /// The kind, in the version that is stored.
    kind: ArcSwap<KindInfo>,
    /// Of a custom kind: all its versions.
    family: ArcSwapOption<Family>,
    /// Store keys of the kind begin with it.
    pub prefix: Box<str>,
    limits: RingLimits,
    inner: RwLock<Inner>,
    head: Arc<Herald>,
    pieces: Pieces,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Position of the ring's first event; positions count up and are never reused.
    start: u64,
    /// Every later change of the kind is in the ring.
    floor: u64,
    /// Revision of the latest change.
    newest: u64,
}

/// Objects at a revision, and where to watch on from.
pub struct Snapshot {
    /// In order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// How many were left out by the limit.
    pub remaining: usize,
    /// The revision of the latest change to the kind.
    pub newest: u64,
    /// The position after the last change seen.
    pub position: u64,
}

impl KindCache {
    /// An empty cache.
    pub fn new(kind: Arc<KindInfo>, limits: RingLimits) -> Self {
        let group = if kind.storage_group.is_empty() { "core" } else { kind.storage_group };
        KindCache {
            prefix: format!("/registry/{group}/{}/", kind.plural).into(),
            kind: ArcSwap::new(kind),
            family: ArcSwapOption::empty(),
            limits,
            inner: RwLock::default(),
            head: Arc::default(),
            pieces: Pieces::default(),
        }
    }

    /// The kind, in the version that is stored.
    pub fn kind(&self) -> Arc<KindInfo> {
        self.kind.load_full()
    }

    /// An empty cache of a custom kind.
    pub fn custom(kind: Arc<KindInfo>, family: Family, limits: RingLimits) -> Self {
        KindCache { family: ArcSwapOption::from_pointee(family), ..KindCache::new(kind, limits) }
    }

    /// The versions of a custom kind; `None` for built-in ones.
    pub fn family(&self) -> Option<Arc<Family>> {
        self.family.load_full()
    }

    /// An object of the kind from what the store holds.
    ///
    /// # Errors
    /// The value is not a JSON object.
    pub fn decode(&self, key: &str, stored: &[u8], revision: u64) -> Result<Entry, serde_json::Error> {
        match &*self.family.load() {
            Some(family) => family.decode(key, stored, revision),
            None => Entry::decode(&self.kind.load(), key, stored, revision),
        }
    }

    /// Replaces the kind, and shows the objects as it has them. Open watches must start over.
    pub fn redefine(&self, kind: Arc<KindInfo>, family: Family) {
        if self.family.load().as_ref().is_some_and(|old| old.hash == family.hash) {
            // Nothing that shows in the objects.
            self.kind.store(kind);
            return;
        }
        let inner = self.inner.read();
        let again = |e: &Arc<Entry>| family.decode(&e.key, e.stored(), e.revision).map_or_else(|_| e.clone(), Arc::new);
        let objects = inner.objects.iter().map(|(key, entry)| (key.clone(), again(entry))).collect();
        let newest = inner.newest;
        drop(inner);
        self.kind.store(kind);
        self.family.store(Some(Arc::new(family)));
        self.reset(objects, newest);
    }

    /// The store's key of an object.
    pub fn store_key(&self, key: &str) -> Bytes {
        [self.prefix.as_bytes(), key.as_bytes()].concat().into()
    }

    /// Replaces everything: what a fresh read of the store at `revision` found. Open watches must start over.
    pub fn reset(&self, objects: BTreeMap<Arc<str>, Arc<Entry>>, revision: u64) {
        let mut inner = self.inner.write();
        inner.objects = objects;
        inner.start += inner.ring.len() as u64 + 1;
        inner.ring.clear();
        inner.ring_bytes = 0;
        inner.floor = revision;
        inner.newest = revision;
        let head = inner.start;
        drop(inner);
        self.pieces.clear();
        self.head.tell(head);
    }

    /// Takes in changes, in order, all of them at once for readers.
    pub fn apply(&self, changes: Vec<Applied>) {
        let mut inner = self.inner.write();
        for change in changes {
            inner.newest = inner.newest.max(change.revision);
            let event = match change.entry {
                Some(entry) => {
                    let entry = Arc::new(entry);
                    let previous = inner.objects.insert(entry.key.clone(), entry.clone());
                    let change = if previous.is_some() { Change::Modified } else { Change::Added };
                    Event::new(change, entry, previous)
                }
                None => {
                    let Some(previous) = inner.objects.remove(&change.key) else { continue };
                    let entry = Arc::new(previous.at(change.revision));
                    Event::new(Change::Deleted, entry, Some(previous))
                }
            };
            inner.ring_bytes += event.entry.bytes.len();
            inner.ring.push_back(Arc::new(event));
        }
        while inner.ring.len() > self.limits.events || inner.ring_bytes > self.limits.bytes {
            let Some(oldest) = inner.ring.pop_front() else { break };
            inner.ring_bytes -= oldest.entry.bytes.len();
            inner.floor = oldest.entry.revision;
            inner.start += 1;
        }
        let head = inner.start + inner.ring.len() as u64;
        drop(inner);
        self.head.announce(head);
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects of a namespace (empty: all) whose key is after `after`, at most `limit` (0: all) that satisfy `keep`.
    /// `remaining` is counted only when asked for.
    pub fn snapshot(
        &self,
        namespace: &str,
        after: Option<&str>,
        limit: usize,
        count: bool,
        keep: impl Fn(&Entry) -> bool,
    ) -> Snapshot {
        let (low, high) = bounds(namespace, after);
        let inner = self.inner.read();
        let range = (as_bound(&low), as_bound(&high));
        let mut found = inner.objects.range::<str, _>(range).map(|(_, entry)| entry);
        let take = if limit == 0 { usize::MAX } else { limit };
        let entries: Vec<Arc<Entry>> = found.by_ref().filter(|e| keep(e)).take(take).cloned().collect();
        let remaining = match (limit, count) {
            (0, _) => 0,
            (_, true) => found.count(),
            (_, false) => usize::from(found.any(|e| keep(e))),
        };
        let position = inner.start + inner.ring.len() as u64;
        Snapshot { entries, remaining, newest: inner.newest, position }
    }

    /// Calls `f` with every object until it answers, under the lock: for short questions of admission.
    pub fn find_map<T>(&self, mut f: impl FnMut(&Arc<Entry>) -> Option<T>) -> Option<T> {
        self.inner.read().objects.values().find_map(&mut f)
    }

    /// The position after all changes up to `revision`.
    ///
    /// # Errors
    /// Later changes have left the ring.
    pub fn position_after(&self, revision: u64) -> Result<u64, TooOld> {
        let inner = self.inner.read();
        if revision < inner.floor {
            return Err(TooOld { oldest: inner.floor });
        }
        let skip = inner.ring.partition_point(|event| event.entry.revision <= revision);
        Ok(inner.start + skip as u64)
    }

    /// Appends up to `max` changes from `position` on to `out` and returns the position after them.
    ///
    /// # Errors
    /// The position has left the ring: the watch was too slow.
    pub fn read_from(&self, position: u64, max: usize, out: &mut Vec<Arc<Event>>) -> Result<u64, TooOld> {
        self.read_bounded(position, max, usize::MAX, out)
    }

    /// The same, and no more once their objects have `bytes` bytes together.
    ///
    /// # Errors
    /// As [`KindCache::read_from`].
    pub fn read_bounded(
        &self,
        position: u64,
        max: usize,
        bytes: usize,
        out: &mut Vec<Arc<Event>>,
    ) -> Result<u64, TooOld> {
        let inner = self.inner.read();
        let Some(skip) = position.checked_sub(inner.start) else {
            return Err(TooOld { oldest: inner.floor });
        };
        let (before, mut size) = (out.len(), 0);
        for event in inner.ring.range((skip as usize).min(inner.ring.len())..).take(max) {
            size += event.entry.bytes.len();
            out.push(event.clone());
            if size >= bytes {
                break;
            }
        }
        Ok(position + (out.len() - before) as u64)
    }

    /// The changes from a position on as another watch has been shown them that sees alike.
    pub fn piece(&self, from: u64, sight: &Sight) -> Option<Piece> {
        self.pieces.find(from, sight)
    }

    /// Leaves changes as they are shown for the other watches that see alike, if there are many.
    pub fn keep_piece(&self, sight: &Arc<Sight>, piece: Piece) {
        if self.head.has_many() {
            self.pieces.keep(sight, piece);
        }
    }

    /// Tells of new changes: the position after the latest, soon after they are in the ring (see [`Herald`]).
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The revision of the latest change to the kind.
    pub fn newest(&self) -> u64 {
        self.inner.read().newest
    }
}

/// The keys of a namespace after a key.
fn bounds(namespace: &str, after: Option<&str>) -> (Bound<String>, Bound<String>) {
    let low = match after {
        Some(after) => Bound::Excluded(after.to_owned()),
        None if namespace.is_empty() => Bound::Unbounded,
        None => Bound::Included(format!("{namespace}/")),
    };
    // '0' follows '/'.
    let high = if namespace.is_empty() { Bound::Unbounded } else { Bound::Excluded(format!("{namespace}0")) };
    match (&low, &high) {
        // A forged continue token must not turn the range around, which would panic.
        (Bound::Excluded(l), Bound::Excluded(h)) if l >= h => {
            (Bound::Included(String::new()), Bound::Excluded(String::new()))
        }
        _ => (low, high),
    }
}

fn as_bound(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(s) => Bound::Included(s),
        Bound::Excluded(s) => Bound::Excluded(s),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests;
