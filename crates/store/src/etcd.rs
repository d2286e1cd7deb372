//! The store in etcd, for several servers of one cluster. Revisions are etcd's own.
//!
//! It differs from the other back ends where etcd does: an empty store's revision is not 0; keys under one lease are
//! deleted in one revision; a watcher that reads slowly is never cut off; and a batch may be without changes, when only
//! others have written to the same etcd.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{BoxFuture, Compare, Op, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch, mvcc};

mod channel;
mod config;
mod feed;
mod grpc;
mod keys;
mod leases;
mod open;
mod proto;

pub use config::{ENDPOINTS_MAX, EtcdConfig};

use channel::{Channel, Repeat, failed};
use grpc::CallError;
use keys::Keys;
use leases::Leases;
use proto::{Request, RequestOp, Response, ResponseOp};

/// The layout of keys that this release reads and writes.
pub const FORMAT: u64 = 1;
/// The oldest etcd that has what is used here.
pub const OLDEST: (u64, u64) = (3, 4);
/// Keys read in one call: etcd answers in one message, whatever its size.
const PAGE: usize = 256;
/// Readers that wait for the newest revision at once; further ones wait before they are queued.
const READERS: usize = 1024;
/// How long etcd may take to say what it has compacted.
const COMPACTED_WAIT: Duration = Duration::from_secs(5);

const RANGE: &str = "/etcdserverpb.KV/Range";
/// etcd's words for history that is gone.
const COMPACTED: &str = "has been compacted";
const READING: &str = "reading from etcd failed";

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// None or too many.
    #[error("{0} etcd endpoints are named, at least 1 and at most {ENDPOINTS_MAX} can be")]
    Endpoints(usize),
    /// Not a URL of a host.
    #[error("etcd endpoint {0:?} is not of the form https://HOST:PORT")]
    Endpoint(String),
    /// Not a path.
    #[error("etcd prefix {0:?} is not of the form /NAME")]
    Prefix(String),
    /// TLS without an authority.
    #[error("etcd endpoint {0} needs a file of certificates to check it against")]
    NoCa(String),
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{} does not hold a usable {what}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// The key does not belong to the certificate, or the like.
    #[error("prepare TLS for etcd")]
    Tls(#[source] rustls::Error),
    /// Nobody answers.
    #[error("no etcd endpoint answers: {0}")]
    Unreachable(Arc<str>),
    /// It answers, but does not let us in, or is not well.
    #[error("etcd refuses: {0}")]
    Refused(Arc<str>),
    /// Too old.
    #[error("etcd is version {found}, at least {}.{} is needed", OLDEST.0, OLDEST.1)]
    Version {
        /// What it says it is.
        found: String,
    },
    /// The keys below the prefix are somebody else's.
    #[error("the keys below {prefix} in etcd were not written by Windlass, for example {key}")]
    ForeignKeys {
        /// The prefix.
        prefix: String,
        /// One of them.
        key: String,
    },
    /// Written by another release.
    #[error("the layout of the keys in etcd is {found:?}, this release reads {FORMAT}")]
    Format {
        /// What is there.
        found: String,
    },
    /// It failed later on.
    #[error("read etcd")]
    Store(#[source] StoreError),
}

/// The store in etcd. Dropping it ends its watches; what is in etcd stays.
pub struct EtcdStore {
    inner: Arc<Inner>,
    latest: mpsc::Sender<oneshot::Sender<Result<u64, StoreError>>>,
    /// Dropped with the store, which ends the tasks of its watches.
    alive: watch::Sender<()>,
}

/// What the store and its tasks share.
struct Inner {
    channel: Channel,
    keys: Keys,
    leases: Leases,
    max_value_bytes: usize,
    /// Newest revision of a change of ours or one that a watch has shown.
    known: AtomicU64,
    /// Newest of those that changed a key of this store: every watch comes to it.
    ours: AtomicU64,
    /// Newest revision that somebody waits for in a watch.
    wanted: watch::Sender<u64>,
}

fn closed() -> StoreError {
    StoreError::Stopped(Arc::from("closed"))
}

impl Inner {
    /// Notes a revision that came, and whether it was one of this store's.
    fn saw(&self, revision: u64, ours: bool) {
        self.known.fetch_max(revision, Ordering::AcqRel);
        if ours {
            self.ours.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// Whether no change of this store is known at or after the revision: then no watch may ever come to it by itself.
    fn is_foreign(&self, revision: u64) -> bool {
        self.ours.load(Ordering::Acquire) < revision
    }

    /// Has the watches come to a revision, also when it is not one of ours.
    fn want(&self, revision: u64) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, revision.max(*wanted)) < revision);
    }

    async fn call_range(&self, request: &proto::RangeRequest) -> Result<proto::RangeResponse, CallError> {
        self.channel.unary(RANGE, request, Repeat::Safe).await
    }

    /// The revision of the cluster, as agreed on by its members.
    async fn cluster_revision(&self) -> Result<u64, StoreError> {
        let request = proto::RangeRequest { key: self.keys.bump(), count_only: true, ..Default::default() };
        let found = self.call_range(&request).await.map_err(failed("asking etcd for its revision failed"))?;
        Ok(proto::revision(found.header.as_ref()))
    }

    /// Writes a revision that every watch is shown.
    async fn bump(&self) -> Result<(), StoreError> {
        let put = proto::PutRequest { key: self.keys.bump(), ..Default::default() };
        let _: proto::Empty = self
            .channel
            .unary("/etcdserverpb.KV/Put", &put, Repeat::Safe)
            .await
            .map_err(failed("writing to etcd failed"))?;
        Ok(())
    }

    /// How far etcd's history has been dropped. Only a watch is told: from the beginning, it is refused with the answer.
    async fn compacted(&self, at_least: u64) -> u64 {
        let create = proto::WatchCreateRequest { key: self.keys.bump(), start_revision: 1, ..Default::default() };
        let ask = async {
            let request = proto::WatchRequest { create: Some(create) };
            let (mut stream, _) = self.channel.stream("/etcdserverpb.Watch/Watch", &request).await.ok()?;
            while let Ok(Some(response)) = stream.next::<proto::WatchResponse>().await {
                if response.compact_revision > 0 {
                    return Some(proto::unsigned(response.compact_revision));
                }
            }
            None
        };
        tokio::time::timeout(COMPACTED_WAIT, ask).await.ok().flatten().unwrap_or(at_least).max(at_least)
    }

    /// What a refusal to read or compact at a revision means.
    async fn past_error(&self, error: CallError, revision: u64, doing: &'static str) -> StoreError {
        if error.says(COMPACTED) {
            return StoreError::Compacted { compact_revision: self.compacted(revision.saturating_add(1)).await };
        }
        if error.says("is a future revision") {
            return match self.cluster_revision().await {
                Ok(current) => StoreError::FutureRevision { requested: revision, current },
                Err(error) => error,
            };
        }
        failed(doing)(error)
    }

    async fn range(&self, req: RangeRequest) -> Result<RangeResponse, StoreError> {
        if req.start.is_empty() && req.end.is_empty() || !req.end.is_empty() && req.start >= req.end {
            return self.nothing(req.revision).await;
        }
        let limit = if req.limit == 0 { usize::MAX } else { req.limit };
        let mut key = self.keys.outer(&req.start);
        let range_end = if req.end.is_empty() { Bytes::new() } else { self.keys.outer(&req.end) };
        let mut response = RangeResponse { revision: req.revision, ..RangeResponse::default() };
        let mut total = None;
        loop {
            let request = proto::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: proto::signed((limit - response.kvs.len()).min(PAGE) as u64),
                // All pages show the same revision.
                revision: proto::signed(response.revision),
                count_only: false,
            };
            let found = match self.call_range(&request).await {
                Ok(found) => found,
                Err(error) => return Err(self.past_error(error, response.revision, READING).await),
            };
            if response.revision == 0 {
                response.revision = proto::revision(found.header.as_ref());
            }
            let total = *total.get_or_insert(proto::unsigned(found.count));
            response.kvs.extend(found.kvs.into_iter().filter_map(|kv| self.keys.kv(kv)));
            response.remaining = total.saturating_sub(response.kvs.len() as u64);
            response.more = response.remaining > 0;
            match response.kvs.last() {
                // The key after a key is the key and a zero byte.
                Some(last) if found.more && response.kvs.len() < limit => {
                    key = self.keys.outer(&[&last.key[..], &[0]].concat());
                }
                _ => return Ok(response),
            }
        }
    }

    /// Answers a range that no key is in: whether its revision can be read is still the question.
    async fn nothing(&self, revision: u64) -> Result<RangeResponse, StoreError> {
        let at = proto::signed(revision);
        let request =
            proto::RangeRequest { key: self.keys.bump(), revision: at, count_only: true, ..Default::default() };
        match self.call_range(&request).await {
            Ok(found) => {
                let newest = proto::revision(found.header.as_ref());
                let revision = if revision == 0 { newest } else { revision };
                Ok(RangeResponse { revision, ..RangeResponse::default() })
            }
            Err(error) => Err(self.past_error(error, revision, READING).await),
        }
    }

    /// Puts the operations of a transaction, with the leases they need, into etcd's form.
    async fn request(&self, txn: &Txn, leases: &mut Vec<i64>) -> Result<proto::TxnRequest, StoreError> {
        let mut request = proto::TxnRequest::default();
        for Compare::ModRevision(key, revision) in &txn.compare {
            let key = self.keys.outer(key);
            request.failure.push(step(Request::Range(proto::RangeRequest { key: key.clone(), ..Default::default() })));
            let mod_revision = Some(proto::signed(*revision));
            request.compare.push(proto::Compare { target: proto::TARGET_MOD, key, mod_revision });
        }
        for op in &txn.ops {
            let key = self.keys.outer(op.key());
            request.success.push(step(match op {
                Op::Put { value, lease_ttl_s, .. } => {
                    let lease = match lease_ttl_s {
                        Some(seconds) => self.leases.lease(&self.channel, *seconds).await?,
                        None => 0,
                    };
                    leases.extend(lease_ttl_s.map(|_| lease));
                    Request::Put(proto::PutRequest { key, value: value.clone(), lease, prev_kv: true })
                }
                Op::Delete { .. } => Request::Delete(proto::DeleteRangeRequest { key, prev_kv: true }),
            }));
        }
        Ok(request)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let mut second = false;
        loop {
            let mut leases = Vec::new();
            let request = self.request(&txn, &mut leases).await?;
            let answer = self.channel.unary("/etcdserverpb.KV/Txn", &request, Repeat::UnsentOnly).await;
            return match answer {
                Ok(answer) => self.outcome(&txn, answer),
                // It was revoked, or ended while the clocks stood: nothing was done, so it can be done again.
                Err(error) if error.says("lease not found") && !second => {
                    self.leases.forget(&leases);
                    second = true;
                    continue;
                }
                Err(error) => Err(refused(error)),
            };
        }
    }

    fn outcome(&self, txn: &Txn, answer: proto::TxnResponse) -> Result<TxnOutcome, StoreError> {
        let revision = proto::revision(answer.header.as_ref());
        let asked = if answer.succeeded { txn.ops.len() } else { txn.compare.len() };
        if answer.responses.len() != asked {
            return Err(StoreError::Corrupt { what: "etcd answered another transaction", revision });
        }
        let found = answer.responses.into_iter().map(|r| self.found(r)).collect();
        if !answer.succeeded {
            return Ok(TxnOutcome::Conflict { current: found });
        }
        if txn.ops.iter().zip(&found).any(|(op, before)| matches!(op, Op::Put { .. }) || before.is_some()) {
            self.saw(revision, true);
        } else {
            // It changed nothing: etcd's revision may be somebody else's, which no watch shows by itself.
            self.want(revision);
        }
        Ok(TxnOutcome::Committed { revision, previous: found })
    }

    fn found(&self, answer: ResponseOp) -> Option<crate::KeyValue> {
        let kv = match answer.response? {
            Response::Range(mut range) => range.kvs.pop(),
            Response::Put(put) => put.prev_kv,
            Response::Delete(mut deleted) => deleted.prev_kvs.pop(),
        };
        self.keys.kv(kv?)
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        let request = proto::CompactionRequest { revision: proto::signed(revision) };
        let done: Result<proto::Empty, _> =
            self.channel.unary("/etcdserverpb.KV/Compact", &request, Repeat::Safe).await;
        match done {
            Ok(_) => Ok(()),
            Err(error) if error.says(COMPACTED) => match self.compacted(revision).await {
                // By an earlier attempt, or by another server.
                at if at == revision => Ok(()),
                compact_revision => Err(StoreError::Compacted { compact_revision }),
            },
            Err(error) => Err(self.past_error(error, revision, "compacting etcd failed").await),
        }
    }

    /// Whether a watch may begin at a revision.
    async fn check_watch(&self, from: u64) -> Result<(), StoreError> {
        let before = proto::signed(from - 1);
        let request =
            proto::RangeRequest { key: self.keys.bump(), revision: before, count_only: true, ..Default::default() };
        match self.call_range(&request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match self.past_error(error, from - 1, "asking etcd for its history failed").await {
                StoreError::FutureRevision { current, .. } => StoreError::FutureRevision { requested: from, current },
                other => other,
            }),
        }
    }
}

fn step(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// What it means that etcd did not do a transaction, or that nobody knows.
fn refused(error: CallError) -> StoreError {
    match error {
        CallError::Lost(why) => StoreError::OutcomeUnknown(why),
        CallError::Status { code: grpc::UNAVAILABLE, message } => StoreError::OutcomeUnknown(message),
        other => failed("writing to etcd failed")(other),
    }
}

/// Answers everybody who waits for the newest revision with one call: it is begun after they have asked.
async fn answer_latest(inner: Arc<Inner>, mut readers: mpsc::Receiver<oneshot::Sender<Result<u64, StoreError>>>) {
    while let Some(first) = readers.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = readers.try_recv() {
            waiting.push(more);
        }
        let newest = inner.cluster_revision().await;
        if let Ok(newest) = newest {
            inner.want(newest);
        }
        for reader in waiting {
            let _gone = reader.send(newest.clone());
        }
    }
}

impl EtcdStore {
    fn start(inner: Arc<Inner>) -> Self {
        let (latest, readers) = mpsc::channel(READERS);
        tokio::spawn(answer_latest(inner.clone(), readers));
        EtcdStore { inner, latest, alive: watch::Sender::new(()) }
    }
}

impl Store for EtcdStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        Box::pin(async move {
            mvcc::check(&txn, self.inner.max_value_bytes)?;
            self.inner.txn(txn).await
        })
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(self.inner.range(req))
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            let from = match from_revision {
                0 => self.inner.cluster_revision().await? + 1,
                from => {
                    self.inner.check_watch(from).await?;
                    from
                }
            };
            let feed = feed::EtcdFeed::start(self.inner.clone(), prefix, from, self.alive.subscribe());
            Ok(Watch::from_feed(Box::new(feed)))
        })
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.inner.compact(revision))
    }

    fn revision(&self) -> u64 {
        self.inner.known.load(Ordering::Acquire)
    }

    fn latest(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.latest.send(reply).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
    }

    fn is_shared(&self) -> bool {
        true
    }
}
