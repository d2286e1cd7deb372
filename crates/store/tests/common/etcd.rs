//! An etcd of a test's own on loopback, from the package `etcd-server`, and a view of a store in it whose revisions begin
//! at 0 as those of the other back ends do.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use store::{
    Batch, BoxFuture, Compare, EtcdConfig, EtcdStore, Event, Feed, KeyValue, Options, RangeRequest, RangeResponse,
    Store, StoreError, Txn, TxnOutcome, Watch,
};

use super::{Fixture, LIMIT};

/// An etcd with one member.
pub struct Etcd {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

/// Whether etcd is installed. Says so when it is not: the test is over then.
pub fn installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: etcd is not installed");
    }
    found
}

impl Etcd {
    /// Without TLS.
    pub fn start() -> Self {
        Self::with("http", &[])
    }

    /// With further flags; the scheme is that of clients.
    pub fn with(scheme: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The kernel picks the ports; etcd's log says which.
        let (client, peer) = (format!("{scheme}://127.0.0.1:0"), "http://127.0.0.1:0");
        let mut child = Command::new("etcd")
            .args([
                "--name=t",
                "--logger=zap",
                "--unsafe-no-fsync",
                "--heartbeat-interval=20",
                "--election-timeout=200",
            ])
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=t={peer}"))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, address) = mpsc::channel();
        // Reads to the end, so that etcd is never held up by its log.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains(r#""msg":"serving client traffic"#)
                    && let Some((_, rest)) = line.split_once(r#""address":""#)
                {
                    let _done = found.send(rest.split('"').next().unwrap_or_default().to_owned());
                }
            }
        });
        let address = address.recv_timeout(LIMIT).expect("etcd does not start");
        Etcd { child, address: address.clone(), _dir: dir }
    }

    /// Address and port of the member.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Settings for the member.
    pub fn config(&self, prefix: &str) -> EtcdConfig {
        let mut config = EtcdConfig::new(vec![format!("http://{}", self.address)], prefix);
        // Nothing here takes as long unless it hangs.
        (config.dial_timeout, config.call_timeout) = (LIMIT, LIMIT);
        config
    }

    /// A store in it.
    pub async fn store(&self, prefix: &str) -> EtcdStore {
        EtcdStore::open(&self.config(prefix)).await.unwrap_or_else(|e| panic!("{}", base::chain(&e)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store in an etcd of its own.
pub fn open(options: Options) -> BoxFuture<'static, Fixture> {
    Box::pin(async move {
        let etcd = Etcd::start();
        let mut config = etcd.config("/windlass");
        config.max_value_bytes = options.max_value_bytes;
        let store = EtcdStore::open(&config).await.unwrap_or_else(|e| panic!("{}", base::chain(&e)));
        Fixture { store: Arc::new(Rebased::new(store)), dir: None, etcd: Some(etcd) }
    })
}

/// A store whose revisions count from where it was opened.
pub struct Rebased {
    inner: EtcdStore,
    base: u64,
}

impl Rebased {
    pub fn new(inner: EtcdStore) -> Self {
        Rebased { base: inner.revision(), inner }
    }

    fn out(&self, revision: u64) -> u64 {
        if revision == 0 { 0 } else { revision + self.base }
    }
}

fn kv(base: u64, kv: &mut KeyValue) {
    // 0 means that it is a deletion's.
    kv.create_revision = kv.create_revision.saturating_sub(base);
    kv.mod_revision -= base;
}

fn error(base: u64, error: StoreError) -> StoreError {
    match error {
        StoreError::Compacted { compact_revision } => {
            StoreError::Compacted { compact_revision: compact_revision - base }
        }
        StoreError::FutureRevision { requested, current } => {
            StoreError::FutureRevision { requested: requested - base, current: current - base }
        }
        other => other,
    }
}

struct RebasedFeed {
    inner: Watch,
    base: u64,
}

impl Feed for RebasedFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, StoreError>> {
        Box::pin(async move {
            let base = self.base;
            let mut batch = self.inner.next().await.map_err(|e| error(base, e))?;
            batch.revision -= base;
            for Event { kv: now, previous, .. } in &mut batch.events {
                kv(base, now);
                previous.iter_mut().for_each(|before| kv(base, before));
            }
            Ok(batch)
        })
    }

    fn progress(&self) -> u64 {
        self.inner.progress() - self.base
    }
}

impl Store for Rebased {
    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        for Compare::ModRevision(_, revision) in &mut txn.compare {
            *revision = self.out(*revision);
        }
        Box::pin(async move {
            let mut outcome = self.inner.txn(txn).await?;
            match &mut outcome {
                TxnOutcome::Committed { revision, previous } => {
                    *revision -= self.base;
                    previous.iter_mut().flatten().for_each(|found| kv(self.base, found));
                }
                TxnOutcome::Conflict { current } => {
                    current.iter_mut().flatten().for_each(|found| kv(self.base, found));
                }
            }
            Ok(outcome)
        })
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(async move {
            let revision = self.out(req.revision);
            let mut found = self.inner.range(req.at(revision)).await.map_err(|e| error(self.base, e))?;
            found.revision -= self.base;
            found.kvs.iter_mut().for_each(|found| kv(self.base, found));
            Ok(found)
        })
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            let watch = self.inner.watch(prefix, self.out(from_revision)).await;
            let inner = watch.map_err(|e| error(self.base, e))?;
            Ok(Watch::from_feed(Box::new(RebasedFeed { inner, base: self.base })))
        })
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.inner.compact(revision + self.base).await.map_err(|e| error(self.base, e)) })
    }

    fn revision(&self) -> u64 {
        self.inner.revision() - self.base
    }
}
