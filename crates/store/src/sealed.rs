//! A layer over a store that seals the values below some prefixes (Secrets), so that they are on disk encrypted and
//! nowhere else changed: ranges, watches and transactions give and take the plain values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    BoxFuture, Compare, Event, KeyValue, Op, RangeRequest, RangeResponse, Store, StoreError, Txn, TxnOutcome, Watch,
};

mod keys;

pub use keys::{KEYS_MAX, Keyring, SealError};

/// Values rewritten before others get their turn.
const REWRITE_PAGE: usize = 100;

/// The layer.
pub struct SealedStore {
    inner: Arc<dyn Store>,
    opener: Arc<Opener>,
}

struct Opener {
    file: PathBuf,
    keys: RwLock<Arc<Keyring>>,
    prefixes: Vec<Bytes>,
}

impl Opener {
    fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|p| key.starts_with(p))
    }

    fn seal(&self, key: &Bytes, value: Bytes) -> Result<Bytes, StoreError> {
        if !self.covers(key) {
            return Ok(value);
        }
        let keys = self.keys.read().clone();
        keys.seal(key, &value).map(Bytes::from).map_err(failed("seal a value"))
    }

    /// Plain values stay as they are: they were written before the layer was there.
    fn open(&self, kv: &mut KeyValue) -> Result<(), StoreError> {
        if !self.covers(&kv.key) || kv.value.is_empty() {
            return Ok(());
        }
        let keys = self.keys.read().clone();
        let opened = match keys.open_value(&kv.key, &kv.value) {
            // Another server of the same store may have added the key to a file that both use.
            Err(SealError::UnknownKey(_)) => {
                let keys = Arc::new(Keyring::open(&self.file).map_err(failed("read the keys anew"))?);
                let opened = keys.open_value(&kv.key, &kv.value);
                if opened.is_ok() {
                    *self.keys.write() = keys;
                }
                opened
            }
            opened => opened,
        };
        if let Some(value) = opened.map_err(failed("open a sealed value"))? {
            kv.value = value.into();
        }
        Ok(())
    }

    fn open_event(&self, event: &mut Event) -> Result<(), StoreError> {
        self.open(&mut event.kv)?;
        event.previous.as_mut().map_or(Ok(()), |kv| self.open(kv))
    }
}

fn failed(doing: &'static str) -> impl Fn(SealError) -> StoreError {
    move |error| StoreError::Backend { doing, source: Arc::new(error) }
}

impl SealedStore {
    /// Seals the values of keys with one of the prefixes, with the keys of the file, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(inner: Arc<dyn Store>, key_file: &Path, prefixes: &[&str]) -> Result<Self, SealError> {
        let prefixes = prefixes.iter().map(|p| Bytes::copy_from_slice(p.as_bytes())).collect();
        let keys = RwLock::new(Arc::new(Keyring::open(key_file)?));
        Ok(SealedStore { inner, opener: Arc::new(Opener { file: key_file.to_path_buf(), keys, prefixes }) })
    }

    /// Reads the key file anew: a key was added to it.
    ///
    /// # Errors
    /// When the file cannot be used; the keys in use stay then.
    pub fn reload(&self, key_file: &Path) -> Result<(), SealError> {
        *self.opener.keys.write() = Arc::new(Keyring::open(key_file)?);
        Ok(())
    }

    /// Names of the keys, the one that seals first.
    pub fn key_names(&self) -> Vec<String> {
        self.opener.keys.read().names().into_iter().map(str::to_owned).collect()
    }

    /// Seals with the newest key whatever is not, and says how many values that were. Others may write meanwhile: what
    /// they write is sealed with the newest key already.
    ///
    /// # Errors
    /// When the store fails or a value does not open.
    pub async fn rewrite(&self) -> Result<usize, StoreError> {
        let mut rewritten = 0;
        for prefix in &self.opener.prefixes {
            let mut range = RangeRequest::prefix(prefix.clone()).limit(REWRITE_PAGE);
            loop {
                let found = self.inner.range(range.clone()).await?;
                for kv in &found.kvs {
                    rewritten += usize::from(self.rewrite_one(kv.clone()).await?);
                }
                let Some(last) = found.kvs.last().filter(|_| found.more) else { break };
                // The key after a key is the key and a zero byte.
                range.start = [&last.key[..], &[0]].concat().into();
            }
        }
        Ok(rewritten)
    }

    async fn rewrite_one(&self, mut kv: KeyValue) -> Result<bool, StoreError> {
        if self.opener.keys.read().is_current(&kv.value) {
            return Ok(false);
        }
        self.opener.open(&mut kv)?;
        let compare = vec![Compare::ModRevision(kv.key.clone(), kv.mod_revision)];
        let ops = vec![Op::Put { key: kv.key, value: kv.value, lease_ttl_s: None }];
        // A conflict: somebody has just written it, with the newest key.
        Ok(matches!(self.txn(Txn { compare, ops }).await?, TxnOutcome::Committed { .. }))
    }
}

impl Store for SealedStore {
    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        Box::pin(async move {
            for op in &mut txn.ops {
                if let Op::Put { key, value, .. } = op {
                    *value = self.opener.seal(key, std::mem::take(value))?;
                }
            }
            let mut outcome = self.inner.txn(txn).await?;
            let (TxnOutcome::Committed { previous: found, .. } | TxnOutcome::Conflict { current: found }) =
                &mut outcome;
            for kv in found.iter_mut().flatten() {
                self.opener.open(kv)?;
            }
            Ok(outcome)
        })
    }

    fn range(&self, req: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, StoreError>> {
        Box::pin(async move {
            let mut found = self.inner.range(req).await?;
            for kv in &mut found.kvs {
                self.opener.open(kv)?;
            }
            Ok(found)
        })
    }

    fn watch(&self, prefix: Bytes, from_revision: u64) -> BoxFuture<'_, Result<Watch, StoreError>> {
        Box::pin(async move {
            let opener = self.opener.clone();
            let watch = self.inner.watch(prefix, from_revision).await?;
            Ok(watch.mapped(Arc::new(move |event: &mut Event| opener.open_event(event))))
        })
    }

    fn compact(&self, revision: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(revision)
    }

    fn revision(&self) -> u64 {
        self.inner.revision()
    }

    fn latest(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.latest()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const SECRETS: &str = "/registry/core/secrets/";

    async fn put(store: &dyn Store, key: &str, value: &str) {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
        let ops = vec![Op::Put { key, value, lease_ttl_s: None }];
        assert!(matches!(store.txn(Txn { compare: vec![], ops }).await.unwrap(), TxnOutcome::Committed { .. }));
    }

    async fn values(store: &dyn Store) -> Vec<Bytes> {
        store.range(RangeRequest::prefix("")).await.unwrap().kvs.into_iter().map(|kv| kv.value).collect()
    }

    #[tokio::test]
    async fn secrets_are_sealed_below_and_plain_above() {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let store = SealedStore::open(inner.clone(), &dir.path().join("keys"), &[SECRETS]).unwrap();
        let mut watch = store.watch("".into(), 0).await.unwrap();
        put(&store, "/registry/core/secrets/a/b", "hush").await;
        put(&store, "/registry/core/pods/a/b", "open").await;
        assert_eq!(values(&store).await, ["open", "hush"]);
        let below = values(&*inner).await;
        assert_eq!(below[0], "open");
        assert!(!below[1].windows(4).any(|w| w == b"hush"));
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watch.next().await.unwrap().events);
        }
        assert_eq!(seen[0].kv.value, "hush");
        put(&store, "/registry/core/secrets/a/b", "psst").await;
        let event = watch.next().await.unwrap().events.remove(0);
        assert_eq!((event.kv.value, event.previous.unwrap().value), ("psst".into(), "hush".into()));
        let key = Bytes::from_static(b"/registry/core/secrets/a/b");
        let txn = Txn { compare: vec![Compare::ModRevision(key.clone(), 1)], ops: vec![Op::Delete { key }] };
        let TxnOutcome::Conflict { current } = store.txn(txn).await.unwrap() else { panic!("a conflict") };
        assert_eq!(current[0].as_ref().unwrap().value, "psst");
    }

    #[tokio::test]
    async fn a_new_key_seals_everything_anew_and_old_plain_values_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
        for n in 0..250 {
            put(&*inner, &format!("{SECRETS}a/{n:03}"), "from before").await;
        }
        let store = SealedStore::open(inner.clone(), &file, &[SECRETS]).unwrap();
        assert_eq!(store.rewrite().await.unwrap(), 250);
        assert_eq!(store.rewrite().await.unwrap(), 0);
        Keyring::open(&file).unwrap().rotate().unwrap();
        store.reload(&file).unwrap();
        put(&store, &format!("{SECRETS}a/000"), "new").await;
        assert_eq!(store.rewrite().await.unwrap(), 249);
        let ring = Keyring::open(&file).unwrap();
        assert!(values(&*inner).await.iter().all(|v| ring.is_current(v)));
        assert!(values(&store).await.iter().all(|v| v == "from before" || v == "new"));
    }

    #[tokio::test]
    async fn a_key_that_another_server_added_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let store = SealedStore::open(inner.clone(), &file, &[SECRETS]).unwrap();
        Keyring::open(&file).unwrap().rotate().unwrap();
        let other = SealedStore::open(inner, &file, &[SECRETS]).unwrap();
        put(&other, &format!("{SECRETS}a/b"), "hush").await;
        assert_eq!(values(&store).await, ["hush"]);
        assert_eq!(store.key_names(), other.key_names());
    }

    #[tokio::test]
    async fn a_value_whose_key_is_lost_is_an_error_not_a_guess() {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let store = SealedStore::open(inner.clone(), &dir.path().join("one"), &[SECRETS]).unwrap();
        put(&store, &format!("{SECRETS}a/b"), "hush").await;
        let other = SealedStore::open(inner, &dir.path().join("two"), &[SECRETS]).unwrap();
        let error = other.range(RangeRequest::prefix(SECRETS)).await.unwrap_err();
        assert!(base::chain(&error).contains("not in the key file"), "{}", base::chain(&error));
    }
}
