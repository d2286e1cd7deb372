//! What the API server has, kept here by watching. One cache per kind, filled by one task; readers never wait for it
//! except to see their own writes.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use parking_lot::RwLock;
use reconcile::plan::{name, namespace};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

mod kinds;
mod shelf;

pub use kinds::PodSketch;
pub use shelf::Kept;
use shelf::{Body, Shelf};

/// Namespace (empty for cluster-scoped) and name.
pub type Key = (String, String);

/// How long a writer waits to see its write: a watch that stands still longer is broken, and the next pass decides anew.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// What a change looks like to those who listen.
pub type Listener<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// See the module.
pub struct Cache<K: Kept> {
    objects: RwLock<Shelf<K>>,
    revision: watch::Sender<u64>,
    changed: Notify,
    synced: watch::Sender<bool>,
}

impl<K: Kept> Default for Cache<K> {
    fn default() -> Self {
        Cache {
            objects: RwLock::default(),
            revision: watch::Sender::new(0),
            changed: Notify::new(),
            synced: watch::Sender::new(false),
        }
    }
}

fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Kinds of which controllers read everything.
impl<K: Kept<Sketch = ()>> Cache<K> {
    /// Every object of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.pick(Some(namespace), |_, ()| true)
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.pick(None, |_, ()| true)
    }
}

impl<K: Kept> Cache<K> {
    /// The object of that namespace and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let found = self.objects.read().get(namespace, name);
        found.map(|body| body.open())
    }

    /// The objects that `wanted` picks by name and sketch, of a namespace or of all, by namespace and name.
    pub fn pick(&self, namespace: Option<&str>, wanted: impl Fn(&str, &K::Sketch) -> bool) -> Vec<Arc<K>> {
        let found: Vec<Body<K>> = {
            let objects = self.objects.read();
            objects
                .iter(namespace)
                .filter(|(_, name, sketch, _)| wanted(name, sketch))
                .map(|(.., b)| b.clone())
                .collect()
        };
        // Without the lock: this is the part that takes time.
        found.iter().map(Body::open).collect()
    }

    /// Namespaces and names of the objects that `wanted` picks.
    pub fn keys(&self, wanted: impl Fn(&K::Sketch) -> bool) -> Vec<Key> {
        let objects = self.objects.read();
        let found = objects.iter(None).filter(|(_, _, sketch, _)| wanted(sketch));
        found.map(|(namespace, name, ..)| (namespace.to_string(), name.to_owned())).collect()
    }

    /// How many objects `wanted` picks.
    pub fn count(&self, wanted: impl Fn(&K::Sketch) -> bool) -> usize {
        self.objects.read().iter(None).filter(|(_, _, sketch, _)| wanted(sketch)).count()
    }

    /// Returns once the first complete list has arrived.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in self: it cannot be gone.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Whether the first complete list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
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

    /// Takes in what a watch of the API server brings until `drain`; tells every listener of each change, old and new.
    pub fn follow(
        self: &Arc<Self>,
        mut events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + Unpin + 'static,
        listeners: Vec<Listener<K>>,
        drain: CancellationToken,
    ) {
        let cache = self.clone();
        tokio::spawn(async move {
            let mut listed: Option<Shelf<K>> = None;
            loop {
                let event = tokio::select! {
                    () = drain.cancelled() => return,
                    event = events.next() => event,
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

    fn apply(&self, event: Event<K>, listed: &mut Option<Shelf<K>>, listeners: &[Listener<K>]) {
        match event {
            Event::Init => *listed = Some(Shelf::default()),
            Event::InitApply(object) => {
                if let Some(list) = listed {
                    list.insert(revision_of(&object), Arc::new(slim(object)));
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
                let old = self.objects.write().insert(revision, new.clone());
                self.advance(revision);
                let old = old.map(|body| body.open());
                listeners.iter().for_each(|l| l(old.as_ref(), Some(&new)));
            }
            Event::Delete(object) => {
                let revision = revision_of(&object);
                let old = self.objects.write().remove(namespace(object.meta()), name(object.meta()));
                self.advance(revision);
                let old = old.map_or_else(|| Arc::new(slim(object)), |body| body.open());
                listeners.iter().for_each(|l| l(Some(&old), None));
            }
        }
    }

    fn replace(&self, list: Shelf<K>, listeners: &[Listener<K>]) {
        let newest = list.newest();
        let before = std::mem::replace(&mut *self.objects.write(), list);
        self.advance(newest);
        // Listeners ask the caches, so no lock is held while they are told; nobody else changes this one meanwhile.
        for (namespace, name, _, old) in before.iter(None) {
            if self.objects.read().revision_of(namespace, name).is_none() {
                let old = old.open();
                listeners.iter().for_each(|l| l(Some(&old), None));
            }
        }
        let other: Vec<(Arc<str>, Box<str>, Body<K>)> = {
            let objects = self.objects.read();
            let changed = objects.iter(None).filter(|(namespace, name, ..)| {
                let now = objects.revision_of(namespace, name);
                now == Some(0) || before.revision_of(namespace, name) != now
            });
            changed.map(|(namespace, name, _, body)| (namespace.clone(), name.into(), body.clone())).collect()
        };
        for (namespace, name, new) in other {
            let (old, new) = (before.get(&namespace, &name).map(|body| body.open()), new.open());
            listeners.iter().for_each(|l| l(old.as_ref(), Some(&new)));
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
    object.meta_mut().managed_fields = None;
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use parking_lot::Mutex;
    use serde_json::json;

    fn pod(name: &str, revision: u64) -> Pod {
        let managed = json!([{"manager": "m", "operation": "Apply"}]);
        let meta = json!({"namespace": "d", "name": name, "resourceVersion": revision.to_string(),
            "managedFields": managed, "uid": name});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    type Told = Arc<Mutex<Vec<(Option<String>, Option<String>)>>>;

    fn listener(told: &Told) -> Vec<Listener<Pod>> {
        let told = told.clone();
        let shown = |p: Option<&Arc<Pod>>| p.map(|p| format!("{}@{}", name(&p.metadata), revision_of(p.as_ref())));
        vec![Box::new(move |old, new| told.lock().push((shown(old), shown(new))))]
    }

    /// What listeners were told since, as `old>new`.
    fn take(told: &Told) -> Vec<String> {
        let side = |s: Option<String>| s.unwrap_or_default();
        told.lock().drain(..).map(|(old, new)| format!("{}>{}", side(old), side(new))).collect()
    }

    fn list(cache: &Cache<Pod>, pods: &[(String, u64)], listeners: &[Listener<Pod>]) {
        let mut listed = None;
        cache.apply(Event::Init, &mut listed, listeners);
        for (name, revision) in pods {
            cache.apply(Event::InitApply(pod(name, *revision)), &mut listed, listeners);
        }
        cache.apply(Event::InitDone, &mut listed, listeners);
    }

    #[tokio::test]
    async fn a_list_tells_of_what_is_new_changed_and_gone_packed_or_not() {
        let (cache, told) = (Cache::<Pod>::default(), Told::default());
        let listeners = listener(&told);
        // More than are kept unpacked.
        let mut pods: Vec<(String, u64)> = (0..Pod::OPEN + 2).map(|i| (format!("p{i:05}"), i as u64 + 1)).collect();
        list(&cache, &pods, &listeners);
        cache.wait_synced().await;
        let all = take(&told);
        assert_eq!((all.len(), all[0].as_str()), (pods.len(), ">p00000@1"));
        cache.wait_for(pods.len() as u64).await;
        // The same again says nothing; then one is gone, one changed and one is new.
        list(&cache, &pods, &listeners);
        assert_eq!(take(&told), [""; 0]);
        pods.remove(1);
        pods[0].1 = 9_000;
        pods.push(("z".into(), 9_001));
        list(&cache, &pods, &listeners);
        assert_eq!(take(&told), ["p00001@2>", "p00000@1>p00000@9000", ">z@9001"]);
        cache.wait_for(9_001).await;
        let found = cache.get("d", "p00000").unwrap();
        assert_eq!((revision_of(found.as_ref()), found.metadata.managed_fields.is_none()), (9_000, true));
    }

    #[tokio::test]
    async fn a_watch_tells_of_each_change() {
        let (cache, told) = (Cache::<Pod>::default(), Told::default());
        let listeners = listener(&told);
        let mut listed = None;
        for event in [Event::Apply(pod("a", 1)), Event::Apply(pod("a", 2)), Event::Delete(pod("a", 3))] {
            cache.apply(event, &mut listed, &listeners);
        }
        cache.apply(Event::Delete(pod("b", 4)), &mut listed, &listeners);
        assert_eq!(take(&told), [">a@1", "a@1>a@2", "a@2>", "b@4>"]);
        cache.wait_for(4).await;
        cache.wait_deleted("d", "a", "a").await;
        assert!(cache.get("d", "a").is_none() && cache.keys(|_| true).is_empty() && cache.count(|_| true) == 0);
    }
}
