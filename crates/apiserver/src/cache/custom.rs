//! The kinds that CustomResourceDefinitions make: they come, change and go with the definitions. The task that follows the
//! store makes them, in the same step in which the definition becomes visible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::crd;
use api::kinds::KindInfo;
use store::{KeyValue, RangeRequest, StoreError};

use super::kind::{Applied, KindCache};
use super::{Caches, ROOT, decode};
use crate::conversion::Family;

/// Group and plural of the definitions themselves.
const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Store keys of definitions begin with it.
pub(super) const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// One definition at work.
#[derive(Clone)]
struct Defined {
    name: Arc<str>,
    /// Of the definition: what has not changed is not read again.
    revision: u64,
    fingerprint: u64,
    cache: Arc<KindCache>,
    served: Vec<Arc<KindInfo>>,
}

/// The custom kinds at one moment.
#[derive(Default)]
pub struct CustomCaches {
    by_prefix: HashMap<Box<str>, Defined>,
    served: Vec<Arc<KindInfo>>,
}

impl CustomCaches {
    /// Every served kind in every served version.
    pub fn kinds(&self) -> &[Arc<KindInfo>] {
        &self.served
    }

    /// The kind of every definition, in the version that is stored.
    pub fn stored(&self) -> impl Iterator<Item = Arc<KindInfo>> {
        self.by_prefix.values().map(|d| d.cache.kind())
    }

    /// The kind served at a path, and its cache.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<(&Arc<KindInfo>, &Arc<KindCache>)> {
        let defined = self.by_prefix.get(prefix(group, plural).as_str())?;
        let kind = defined.served.iter().find(|k| k.version == version)?;
        Some((kind, &defined.cache))
    }

    /// The cache of a definition's objects.
    pub fn objects(&self, group: &str, plural: &str) -> Option<&Arc<KindCache>> {
        self.by_prefix.get(prefix(group, plural).as_str()).map(|d| &d.cache)
    }
}

fn prefix(group: &str, plural: &str) -> String {
    format!("{ROOT}{group}/{plural}/")
}

impl Caches {
    /// The definitions.
    ///
    /// # Panics
    /// Never: their kind is built in.
    pub fn definitions(&self) -> &Arc<KindCache> {
        self.by(GROUP, PLURAL).expect("definitions are a built-in kind")
    }

    /// The cache and the rest of a key below a custom kind.
    pub(super) fn locate_custom<'k>(&self, custom: &CustomCaches, key: &'k [u8]) -> Option<(Arc<KindCache>, &'k str)> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix(ROOT)?;
        let group = rest.find('/')?;
        let plural = rest[group + 1..].find('/')?;
        let (prefix, rest) = key.split_at(ROOT.len() + group + plural + 2);
        Some((custom.by_prefix.get(prefix)?.cache.clone(), rest))
    }

    /// Makes the kinds of the definitions that are cached, with the objects among `found`.
    pub(super) fn define(&self, found: &[KeyValue], revision: u64) {
        let added = self.refresh();
        for cache in added {
            fill(&cache, found, revision);
        }
    }

    /// After a change to definitions: makes, changes and removes kinds. Objects of new kinds are read from the store, where
    /// there are some when the definition was away for a while.
    ///
    /// # Errors
    /// The store cannot be read; the kinds are there, without what was in the store before them.
    pub(super) async fn redefine(&self, revision: u64) -> Result<(), StoreError> {
        for cache in self.refresh() {
            let mut request = RangeRequest::prefix(cache.store_key(""));
            request.revision = revision;
            let found = self.store.range(request).await?;
            fill(&cache, &found.kvs, revision);
        }
        Ok(())
    }

    /// Brings the kinds up to the cached definitions; gives the caches that are new.
    fn refresh(&self) -> Vec<Arc<KindCache>> {
        let before = self.custom.load_full();
        let (mut after, mut added) = (CustomCaches::default(), Vec::new());
        let definitions = self.definitions().snapshot("", None, 0, false, |_| true);
        let known: HashMap<&str, &Defined> = before.by_prefix.values().map(|d| (&*d.name, d)).collect();
        for entry in definitions.entries {
            let old = known.get(&*entry.key).copied();
            if let Some(old) = old.filter(|old| old.revision == entry.revision) {
                after.by_prefix.insert(old.cache.prefix.clone(), old.clone());
                continue;
            }
            let definition = entry.value();
            if !crd::is_established(&definition) {
                continue;
            }
            let group = definition["spec"]["group"].as_str().unwrap_or("");
            let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or("");
            let prefix = prefix(group, plural);
            let fingerprint = crd::fingerprint(&definition);
            let (name, revision) = (entry.key.clone(), entry.revision);
            if let Some(old) = old.filter(|old| old.fingerprint == fingerprint) {
                after.by_prefix.insert(prefix.into(), Defined { revision, ..old.clone() });
                continue;
            }
            let kinds = match crd::kinds(&definition) {
                Ok(kinds) => kinds,
                Err(error) => {
                    tracing::error!(definition = &*entry.key, %error, "custom resource cannot be served");
                    continue;
                }
            };
            let served = kinds.served.clone();
            let (stored, family) = (kinds.stored.clone(), Family::new(kinds));
            let cache = match old {
                Some(old) => {
                    old.cache.redefine(stored, family);
                    old.cache.clone()
                }
                None => {
                    let cache = Arc::new(KindCache::custom(stored, family, self.limits));
                    added.push(cache.clone());
                    cache
                }
            };
            after.by_prefix.insert(prefix.into(), Defined { name, revision, fingerprint, cache, served });
        }
        for (prefix, gone) in &before.by_prefix {
            if !after.by_prefix.contains_key(prefix) {
                // Ends the watches that are open.
                gone.cache.reset(BTreeMap::new(), gone.cache.newest());
            }
        }
        after.served = after.by_prefix.values().flat_map(|d| d.served.iter().cloned()).collect();
        after.served.sort_by_key(|k| (k.group, k.plural, k.version));
        self.custom.store(Arc::new(after));
        added
    }
}

fn fill(cache: &KindCache, found: &[KeyValue], revision: u64) {
    let mut objects = BTreeMap::new();
    for kv in found {
        let Some(key) = kv.key.strip_prefix(cache.prefix.as_bytes()) else { continue };
        let Ok(key) = std::str::from_utf8(key) else { continue };
        if let Some(entry) = decode(cache, key, &kv.value, kv.mod_revision) {
            objects.insert(entry.key.clone(), Arc::new(entry));
        }
    }
    cache.reset(objects, revision);
}

/// Changes of custom objects that are to be applied together.
#[derive(Default)]
pub(super) struct Pending(HashMap<Box<str>, (Arc<KindCache>, Vec<Applied>)>);

impl Pending {
    pub fn push(&mut self, cache: Arc<KindCache>, change: Applied) {
        let (_, changes) = self.0.entry(cache.prefix.clone()).or_insert_with(|| (cache, Vec::new()));
        changes.push(change);
    }

    pub fn apply(self) {
        for (cache, changes) in self.0.into_values() {
            cache.apply(changes);
        }
    }
}
