//! The watch cache: everything in the store, encoded and in memory, kept current by one watch over all of it. Because
//! one task applies the changes of all kinds in order, one number says how far the cache is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::kinds::{KindInfo, registry};
use api::status::ApiError;
use arc_swap::ArcSwap;
use store::{RangeRequest, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::handlers::write::store_error;

pub mod custom;
pub mod entry;
mod herald;
pub mod kind;
pub mod pieces;
mod pump;

use custom::CustomCaches;
pub use entry::Entry;
pub use kind::KindCache;

/// Everything this server stores is below it.
const ROOT: &str = "/registry/";

/// Keys that are read from the store at once.
const PAGE: usize = 2000;

/// How long a read waits for the cache to catch up with a revision that it names.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long a request waits for the cache to catch up with what is durable: longer means that the server is not well.
const CONSISTENT: Duration = Duration::from_secs(10);

/// The caches of all kinds.
pub struct Caches {
    store: Arc<dyn Store>,
    kinds: Vec<Arc<KindCache>>,
    by_prefix: HashMap<Box<str>, usize>,
    by_resource: HashMap<(&'static str, &'static str), usize>,
    custom: ArcSwap<CustomCaches>,
    limits: kind::RingLimits,
    applied: watch::Sender<u64>,
}

impl Caches {
    /// Reads the store and starts to follow it, until `stop`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        limits: kind::RingLimits,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let mut kinds: Vec<Arc<KindCache>> = Vec::new();
        let (mut by_prefix, mut by_resource) = (HashMap::new(), HashMap::new());
        for kind in registry().all() {
            if entry::is_converted(kind) {
                continue;
            }
            let cache = Arc::new(KindCache::new(Arc::new(kind.clone()), limits));
            by_prefix.insert(cache.prefix.clone(), kinds.len());
            by_resource.insert((kind.storage_group, kind.plural), kinds.len());
            kinds.push(cache);
        }
        let custom = ArcSwap::default();
        let applied = watch::Sender::new(0);
        let caches = Arc::new(Caches { store, kinds, by_prefix, by_resource, custom, limits, applied });
        let revision = caches.reload().await?;
        let watch = caches.store.watch(ROOT.into(), revision + 1).await?;
        tokio::spawn(pump::run(caches.clone(), watch, stop));
        Ok(caches)
    }

    /// The cache of a kind, in whatever version.
    ///
    /// # Panics
    /// Never for kinds of the registry.
    pub fn of(&self, kind: &KindInfo) -> &Arc<KindCache> {
        self.by(kind.storage_group, kind.plural).expect("every kind of the registry has a cache")
    }

    /// The cache of a resource.
    pub fn by(&self, group: &str, plural: &str) -> Option<&Arc<KindCache>> {
        self.by_resource.get(&(group, plural)).map(|&i| &self.kinds[i])
    }

    /// A core resource that certainly exists, as `pods`.
    ///
    /// # Panics
    /// When it does not.
    pub fn core(&self, plural: &'static str) -> &Arc<KindCache> {
        self.by("", plural).expect("the named core resources are built in")
    }

    /// The custom kinds of the moment.
    pub fn custom(&self) -> Arc<CustomCaches> {
        self.custom.load_full()
    }

    /// All caches of built-in kinds.
    pub fn all(&self) -> &[Arc<KindCache>] {
        &self.kinds
    }

    /// The store behind.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How far the cache is: every change up to this revision is in it.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Tells how far the cache is.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until the cache holds everything that is durable now, which is what a plain read promises.
    ///
    /// # Errors
    /// 504 when the cache does not get there.
    pub async fn consistent(&self) -> Result<u64, ApiError> {
        let want = match self.store.is_shared() {
            true => self.store.latest().await.map_err(|e| store_error(&e))?,
            false => self.store.revision(),
        };
        if self.applied() >= want {
            return Ok(want);
        }
        self.wait(want, CONSISTENT).await.map_err(|()| ApiError::timeout("the watch cache is behind the store", 1))?;
        Ok(want)
    }

    /// Waits until the custom kinds are those of the definitions that watchers have been told of: who has just heard that his
    /// is established is to find it.
    pub async fn defined(&self) {
        // One that cannot be read is logged where it is tried; what is known already is served.
        let _ = self.wait(self.definitions().newest(), CONSISTENT).await;
    }

    /// Waits for a revision that this server has written.
    ///
    /// # Errors
    /// 504 when the cache does not get there.
    pub async fn written(&self, revision: u64) -> Result<(), ApiError> {
        self.wait(revision, CONSISTENT).await.map_err(|()| ApiError::timeout("the watch cache is behind the store", 1))
    }

    /// Waits for a revision that a client names.
    ///
    /// # Errors
    /// 504 in the form that clients retry on.
    pub async fn not_older_than(&self, revision: u64) -> Result<(), ApiError> {
        self.wait(revision, CATCH_UP).await.map_err(|()| ApiError::too_large_resource_version(revision, self.applied()))
    }

    async fn wait(&self, revision: u64, patience: Duration) -> Result<(), ()> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        match tokio::time::timeout(patience, applied.wait_for(|&at| at >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(()),
        }
    }

    /// Reads everything anew and says at which revision.
    async fn reload(&self) -> Result<u64, StoreError> {
        loop {
            match self.read_all().await {
                // The pages are of one revision, which was dropped before the last of them was read.
                Err(StoreError::Compacted { .. }) => {}
                read => return read,
            }
        }
    }

    async fn read_all(&self) -> Result<u64, StoreError> {
        let mut objects: Vec<BTreeMap<Arc<str>, Arc<Entry>>> = vec![BTreeMap::new(); self.kinds.len()];
        // The definitions say which of the other keys are objects.
        let mut others = Vec::new();
        // Page by page: two copies of a large cluster would be more than what runs on afterwards.
        let mut wanted = RangeRequest::prefix(ROOT).limit(PAGE);
        loop {
            let found = self.store.range(wanted.clone()).await?;
            wanted.revision = found.revision;
            let last = found.kvs.last().filter(|_| found.more).map(|kv| kv.key.clone());
            for kv in found.kvs {
                let Some((index, key)) = self.locate(&kv.key) else {
                    others.push(kv);
                    continue;
                };
                if let Some(entry) = decode(&self.kinds[index], key, &kv.value, kv.mod_revision) {
                    objects[index].insert(entry.key.clone(), Arc::new(entry));
                }
            }
            let Some(last) = last else { break };
            // The first key that can come after it.
            wanted.start = [&last[..], &[0]].concat().into();
        }
        for (cache, objects) in self.kinds.iter().zip(objects) {
            cache.reset(objects, wanted.revision);
        }
        self.define(&others, wanted.revision);
        self.applied.send_replace(wanted.revision);
        Ok(wanted.revision)
    }

    /// Which kind a store key belongs to, and the rest of it.
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(usize, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(ROOT)?;
        let group = rest.find('/')?;
        let plural = rest[group + 1..].find('/')?;
        let (prefix, rest) = key.split_at(ROOT.len() + group + plural + 2);
        Some((*self.by_prefix.get(prefix)?, rest))
    }
}

fn decode(cache: &KindCache, key: &str, value: &[u8], revision: u64) -> Option<Entry> {
    match cache.decode(key, value, revision) {
        Ok(entry) => Some(entry),
        Err(error) => {
            tracing::error!(kind = cache.kind().kind, key, revision, %error, "stored object cannot be read");
            None
        }
    }
}
