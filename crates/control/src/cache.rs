//! What the API server has, kept here by watching. One cache per kind, filled by one task; readers never wait for it
//! except to see their own writes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Namespace (empty for cluster-scoped) and name.
pub type Key = (String, String);

/// How long a writer waits to see its write: a watch that stands still longer is broken, and the next pass decides anew.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// What a change looks like to those who listen.
pub type Listener<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// See the module.
pub struct Cache<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    revision: watch::Sender<u64>,
    changed: Notify,
    synced: watch::Sender<bool>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Cache {
            objects: RwLock::default(),
            revision: watch::Sender::new(0),
            changed: Notify::new(),
            synced: watch::Sender::new(false),
        }
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K> Cache<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// The object of that namespace and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Every object of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        let objects = self.objects.read();
        objects.range(from..).take_while(|((ns, _), _)| ns == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().values().cloned().collect()
    }

    /// Returns once the first complete list has arrived.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Returns once the cache has seen that revision, or after [`CATCH_UP_MAX`].
    pub async fn wait_for(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        let _ = tokio::time::timeout(CATCH_UP_MAX, seen.wait_for(|r| *r >= revision)).await;
    }

    /// Returns once the object of that UID is gone or on its way out, or after [`CATCH_UP_MAX`].
    pub async fn wait_deleted(&self, namespace: &str, name: &str, uid: &str) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let there = self
                    .get(namespace, name)
                    .is_some_and(|o| o.meta().uid.as_deref() == Some(uid) && o.meta().deletion_timestamp.is_none());
                if !there {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(CATCH_UP_MAX, wait).await;
    }

    /// Follows the API server until `drain`; tells every listener of each change, old and new.
    pub fn follow(
        self: &Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        listeners: Vec<Listener<K>>,
        drain: CancellationToken,
    ) {
        let cache = self.clone();
        tokio::spawn(async move {
            let mut stream = watcher(api, config).boxed();
            let mut listed: Option<BTreeMap<Key, Arc<K>>> = None;
            loop {
                let event = tokio::select! {
                    () = drain.cancelled() => return,
                    event = stream.next() => event,
                };
                match event {
                    Some(Ok(event)) => cache.apply(event, &mut listed, &listeners),
                    Some(Err(error)) => {
                        // The watcher lists again by itself; without a pause it would do so in a tight loop.
                        tracing::warn!(error = %base::chain(&error), "a watch broke and starts again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    None => return,
                }
            }
        });
    }

    fn apply(&self, event: Event<K>, listed: &mut Option<BTreeMap<Key, Arc<K>>>, listeners: &[Listener<K>]) {
        match event {
            Event::Init => *listed = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                if let Some(list) = listed {
                    list.insert(key_of(&object), Arc::new(slim(object)));
                }
            }
            Event::InitDone => {
                if let Some(list) = listed.take() {
                    self.replace(list, listeners);
                }
                self.synced.send_replace(true);
            }
            Event::Apply(object) => {
                let revision = revision_of(&object);
                let new = Arc::new(slim(object));
                let old = self.objects.write().insert(key_of(new.as_ref()), new.clone());
                self.advance(revision);
                listeners.iter().for_each(|l| l(old.as_ref(), Some(&new)));
            }
            Event::Delete(object) => {
                let revision = revision_of(&object);
                let old = self.objects.write().remove(&key_of(&object)).unwrap_or_else(|| Arc::new(slim(object)));
                self.advance(revision);
                listeners.iter().for_each(|l| l(Some(&old), None));
            }
        }
    }

    fn replace(&self, list: BTreeMap<Key, Arc<K>>, listeners: &[Listener<K>]) {
        let newest = list.values().map(|o| revision_of(o.as_ref())).max().unwrap_or(0);
        let before = std::mem::replace(&mut *self.objects.write(), list.clone());
        self.advance(newest);
        for (key, old) in &before {
            if !list.contains_key(key) {
                listeners.iter().for_each(|l| l(Some(old), None));
            }
        }
        for (key, new) in &list {
            let old = before.get(key);
            let same = old.is_some_and(|o| o.meta().resource_version == new.meta().resource_version);
            if !same {
                listeners.iter().for_each(|l| l(old, Some(new)));
            }
        }
    }

    fn advance(&self, revision: u64) {
        self.revision.send_if_modified(|r| {
            let newer = revision > *r;
            *r = revision.max(*r);
            newer
        });
        self.changed.notify_waiters();
    }
}

/// Nobody here reads managedFields, and they are often the larger half of an object.
fn slim<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object.meta_mut().managed_fields = None;
    object
}
