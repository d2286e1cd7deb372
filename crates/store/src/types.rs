//! The vocabulary of the store: keys, transactions, ranges, events, errors. Values are opaque bytes.

use std::sync::Arc;

use bytes::Bytes;

/// A key with its value and its place in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a deletion event.
    pub value: Bytes,
    /// Revision of the put that brought the key into being (after its last deletion); 0 in a deletion event.
    pub create_revision: u64,
    /// Revision of the last change.
    pub mod_revision: u64,
    /// How many puts since the key came into being, from 1; 0 in a deletion event.
    pub version: u64,
}

/// A condition of a transaction. All must hold, else nothing of it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last changed at this revision; 0 means that it must not exist.
    ModRevision(Bytes, u64),
}

impl Compare {
    /// The key whose state is compared.
    pub fn key(&self) -> &Bytes {
        let Compare::ModRevision(key, _) = self;
        key
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the value of a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// Seconds from now after which the key is deleted unless put again; `None` keeps it for good.
        lease_ttl_s: Option<u64>,
    },
    /// Removes a key. Removing what does not exist is not an error and makes no event.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// Conditions and changes, done together or not at all. A key may be changed once per transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub compare: Vec<Compare>,
    /// What is done then, all at one revision.
    pub ops: Vec<Op>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It was done and is on disk.
    Committed {
        /// The revision of its changes; the store's revision when it changed nothing (deletions of absent keys).
        revision: u64,
        /// For each op, the key as it was before.
        previous: Vec<Option<KeyValue>>,
    },
    /// A condition did not hold; nothing was done.
    Conflict {
        /// For each condition, the key as it is.
        current: Vec<Option<KeyValue>>,
    },
}

/// Which keys, as of when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// The first key wanted.
    pub start: Bytes,
    /// The key after the last one wanted. Empty: only `start` itself.
    pub end: Bytes,
    /// At most so many keys; 0 for all.
    pub limit: usize,
    /// As of this revision; 0 for the newest.
    pub revision: u64,
}

impl RangeRequest {
    /// One key, newest.
    pub fn key(key: impl Into<Bytes>) -> Self {
        RangeRequest { start: key.into(), ..Self::default() }
    }

    /// All keys that begin with the prefix, newest. An empty prefix means every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        RangeRequest { start, end, ..Self::default() }
    }

    /// The same with at most `limit` keys.
    pub fn limit(self, limit: usize) -> Self {
        RangeRequest { limit, ..self }
    }

    /// The same as of a revision.
    pub fn at(self, revision: u64) -> Self {
        RangeRequest { revision, ..self }
    }
}

/// The first key after all keys with the prefix. For prefixes of nothing but 0xff bytes (the empty one included) there
/// is none; more 0xff bytes than a key may be long stand for it.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&b| b != 0xff) {
        Some(i) => {
            let mut end = prefix[..=i].to_vec();
            end[i] += 1;
            Bytes::from(end)
        }
        None => Bytes::from(vec![0xff; crate::MAX_KEY_BYTES + 1]),
    }
}

/// The keys found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// In order of their keys.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left keys out.
    pub more: bool,
    /// How many it left out.
    pub remaining: u64,
    /// As of which revision.
    pub revision: u64,
}

/// Whether a key was set or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Set; `version` 1 says that it was created.
    Put,
    /// Removed, by a transaction or by the end of its lease.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key afterwards. For [`EventKind::Delete`] the key and the revision of the deletion, and nothing else.
    pub kv: KeyValue,
    /// The key before, if it existed.
    pub previous: Option<KeyValue>,
}

/// Changes in order, whole revisions only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Every change up to this revision has been delivered with this batch or before it.
    pub revision: u64,
    /// The changes; none where a store that others use too only says how far it is.
    pub events: Vec<Event>,
}

/// Why the store could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The history asked for has been dropped.
    #[error("history up to revision {compact_revision} has been compacted")]
    Compacted {
        /// Ranges at this revision and watches from the next one are the oldest possible.
        compact_revision: u64,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {requested} is in the future, the newest is {current}")]
    FutureRevision {
        /// What was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// The watcher read more slowly than changes came, and its buffer is full: watch again from the last revision seen.
    #[error("watcher too slow: {buffered} undelivered events dropped")]
    Lagged {
        /// How many events waited when the limit was met.
        buffered: usize,
    },
    /// A key or value above the limit.
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// "key" or "value" or "transaction".
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// More operations than one transaction may have.
    #[error("transaction of {size} operations exceeds the limit of {limit}")]
    TooManyOps {
        /// How many conditions and changes it has.
        size: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The same key is changed twice in one transaction.
    #[error("key {0:?} is changed twice in one transaction")]
    DuplicateKey(Bytes),
    /// A key without any byte.
    #[error("the empty key cannot be stored")]
    EmptyKey,
    /// The store works no more: it was closed, or a write to disk failed. Nothing is guessed past a failed write.
    #[error("store stopped: {0}")]
    Stopped(Arc<str>),
    /// The disk has no room for the change; nothing was done. The same may succeed when there is room again.
    #[error("the disk of the store is full, nothing was changed")]
    NoSpace,
    /// The store cannot be reached at the moment; nothing was done.
    #[error("the store does not answer: {0}")]
    Unavailable(Arc<str>),
    /// The store could not be asked what became of a transaction: it was done, or will be, or not.
    #[error("the store did not answer, the change may have been made: {0}")]
    OutcomeUnknown(Arc<str>),
    /// The file was written by a release with another on-disk format.
    #[error("store format {found} is not known to this release, which reads format {supported}")]
    UnknownFormat {
        /// The version in the file.
        found: u64,
        /// The version that this release reads and writes.
        supported: u64,
    },
    /// The data contradict themselves.
    #[error("store is corrupt: {what} at revision {revision}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
        /// Where.
        revision: u64,
    },
    /// The embedded database refused.
    #[error("{doing}")]
    Backend {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}
