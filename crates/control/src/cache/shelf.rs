//! Where a cache keeps its objects.
//!
//! A typed pod takes some 15 KiB of memory, its JSON two or three, and nearly all pods of a large cluster do nothing: so of
//! pods only those that changed last are kept as they are, and the others packed, as JSON, beside the few facts by which
//! controllers pick theirs. A pass over a key unpacks the pods that it is about. A small cluster never packs anything.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind that is cached.
pub trait Kept: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What can be asked of an object without unpacking it.
    type Sketch: Send + Sync + 'static;
    /// How many objects are kept unpacked, at most.
    const OPEN: usize;
    /// Makes the sketch.
    fn sketch(&self) -> Self::Sketch;
}

/// An object as it is kept.
#[derive(Debug)]
pub enum Body<K> {
    /// As it is.
    Open(Arc<K>),
    /// As JSON.
    Packed(Arc<[u8]>),
}

impl<K> Clone for Body<K> {
    fn clone(&self) -> Self {
        match self {
            Body::Open(object) => Body::Open(object.clone()),
            Body::Packed(bytes) => Body::Packed(bytes.clone()),
        }
    }
}

impl<K: Kept> Body<K> {
    /// The object. Costs some ten microseconds when it is packed: not to be done under a lock.
    ///
    /// # Panics
    /// Never: what is packed was a `K`.
    pub fn open(&self) -> Arc<K> {
        match self {
            Body::Open(object) => object.clone(),
            Body::Packed(bytes) => Arc::new(serde_json::from_slice(bytes).expect("a type reads what it has written")),
        }
    }

    fn pack(&mut self) {
        let Body::Open(object) = self else { return };
        // What cannot be written stays as it is.
        if let Ok(bytes) = serde_json::to_vec(object.as_ref()) {
            *self = Body::Packed(bytes.into());
        }
    }
}

struct Slot<K: Kept> {
    revision: u64,
    /// When it was put in, counted in objects.
    turn: u64,
    sketch: K::Sketch,
    body: Body<K>,
}

type Names<K> = BTreeMap<Box<str>, Slot<K>>;

/// See the module.
pub struct Shelf<K: Kept> {
    namespaces: BTreeMap<Arc<str>, Names<K>>,
    turns: u64,
    /// Those that may be unpacked, the one that changed first in front; more than once when it changed again.
    open: VecDeque<(u64, Arc<str>, Box<str>)>,
}

impl<K: Kept> Default for Shelf<K> {
    fn default() -> Self {
        Shelf { namespaces: BTreeMap::new(), turns: 0, open: VecDeque::new() }
    }
}

impl<K: Kept> Shelf<K> {
    /// Puts an object in the place of the one that had its name, which it gives back.
    pub fn insert(&mut self, revision: u64, object: Arc<K>) -> Option<Body<K>> {
        let (namespace, name) = place(object.as_ref());
        let namespace = match self.namespaces.get_key_value(namespace) {
            Some((known, _)) => known.clone(),
            None => Arc::from(namespace),
        };
        let name: Box<str> = name.into();
        self.turns += 1;
        if K::OPEN < usize::MAX {
            self.open.push_back((self.turns, namespace.clone(), name.clone()));
        }
        let slot = Slot { revision, turn: self.turns, sketch: object.sketch(), body: Body::Open(object) };
        let before = self.namespaces.entry(namespace).or_default().insert(name, slot);
        while self.open.len() > K::OPEN {
            self.pack_one();
        }
        before.map(|slot| slot.body)
    }

    fn pack_one(&mut self) {
        let Some((turn, namespace, name)) = self.open.pop_front() else { return };
        let slot = self.namespaces.get_mut(&namespace).and_then(|names| names.get_mut(&name));
        if let Some(slot) = slot.filter(|slot| slot.turn == turn) {
            slot.body.pack();
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, namespace: &str, name: &str) -> Option<Body<K>> {
        let names = self.namespaces.get_mut(namespace)?;
        let slot = names.remove(name)?;
        if names.is_empty() {
            self.namespaces.remove(namespace);
        }
        Some(slot.body)
    }

    /// The object of that namespace and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Body<K>> {
        Some(self.namespaces.get(namespace)?.get(name)?.body.clone())
    }

    /// Its revision.
    pub fn revision_of(&self, namespace: &str, name: &str) -> Option<u64> {
        Some(self.namespaces.get(namespace)?.get(name)?.revision)
    }

    /// The highest revision of an object; 0 without objects.
    pub fn newest(&self) -> u64 {
        self.namespaces.values().flat_map(BTreeMap::values).map(|slot| slot.revision).max().unwrap_or(0)
    }

    /// Namespaces, names, sketches and objects of one namespace or of all, in order.
    pub fn iter(&self, namespace: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &str, &K::Sketch, &Body<K>)> {
        let (one, all) = match namespace {
            Some(one) => (self.namespaces.get_key_value(one), None),
            None => (None, Some(self.namespaces.iter())),
        };
        one.into_iter().chain(all.into_iter().flatten()).flat_map(|(namespace, names)| {
            names.iter().map(move |(name, slot)| (namespace, &**name, &slot.sketch, &slot.body))
        })
    }
}

/// Namespace (empty for cluster-scoped) and name.
fn place<K: Resource>(object: &K) -> (&str, &str) {
    let meta = object.meta();
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(namespace: &str, name: &str, revision: u64) -> Arc<Pod> {
        let meta = json!({"namespace": namespace, "name": name, "resourceVersion": revision.to_string(),
            "labels": {"app": name}, "creationTimestamp": "2026-01-01T00:00:00Z"});
        let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}},
            "livenessProbe": {"httpGet": {"port": "http", "path": "/"}}}]});
        let status = json!({"phase": "Running", "startTime": "2026-01-01T00:00:01Z"});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap())
    }

    fn is_open(shelf: &Shelf<Pod>, name: &str) -> bool {
        matches!(shelf.get("d", name), Some(Body::Open(_)))
    }

    #[test]
    fn only_what_changed_last_stays_unpacked_and_everything_reads_back_the_same() {
        let mut shelf: Shelf<Pod> = Shelf::default();
        let more = Pod::OPEN + 3;
        for i in 0..more {
            shelf.insert(1, pod("d", &format!("p{i}"), 1));
        }
        for i in 0..3 {
            assert!(!is_open(&shelf, &format!("p{i}")), "{i}");
        }
        assert!(is_open(&shelf, "p3"));
        for i in 0..more {
            let name = format!("p{i}");
            assert_eq!(shelf.get("d", &name).unwrap().open(), pod("d", &name, 1));
        }
        // A change unpacks the one that changed; the oldest of the others goes.
        let before = shelf.insert(2, pod("d", "p0", 2)).unwrap();
        assert_eq!(before.open(), pod("d", "p0", 1));
        assert!(is_open(&shelf, "p0") && !is_open(&shelf, "p3") && is_open(&shelf, "p4"));
        assert_eq!((shelf.revision_of("d", "p0"), shelf.newest()), (Some(2), 2));
    }

    #[test]
    fn changing_one_object_again_and_again_packs_it_never() {
        let mut shelf: Shelf<Pod> = Shelf::default();
        for revision in 1..(2 * Pod::OPEN as u64) {
            shelf.insert(revision, pod("d", "p", revision));
            assert!(is_open(&shelf, "p"));
            assert!(shelf.open.len() <= Pod::OPEN);
        }
    }

    #[test]
    fn objects_come_in_order_and_go() {
        let mut shelf: Shelf<Pod> = Shelf::default();
        for (namespace, name) in [("b", "1"), ("a", "2"), ("a", "1"), ("ab", "1")] {
            shelf.insert(1, pod(namespace, name, 1));
        }
        let keys = |shelf: &Shelf<Pod>, namespace| {
            shelf.iter(namespace).map(|(ns, name, ..)| format!("{ns}/{name}")).collect::<Vec<_>>()
        };
        assert_eq!(keys(&shelf, None), ["a/1", "a/2", "ab/1", "b/1"]);
        assert_eq!(keys(&shelf, Some("a")), ["a/1", "a/2"]);
        assert!(shelf.remove("a", "1").is_some() && shelf.remove("a", "1").is_none());
        assert!(shelf.remove("b", "1").is_some() && shelf.namespaces.len() == 2);
        assert_eq!(keys(&shelf, Some("b")), [""; 0]);
    }
}
