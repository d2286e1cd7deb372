use serde_json::json;

use super::*;
use crate::cache::entry::encode;

fn cache(events: usize) -> KindCache {
    let kind = api::kinds::registry().by_resource("", "v1", "configmaps").unwrap();
    KindCache::new(std::sync::Arc::new(kind.clone()), RingLimits { events, bytes: 1 << 20 })
}

fn put(cache: &KindCache, key: &str, revision: u64) {
    let (namespace, name) = key.split_once('/').unwrap();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}});
    let entry = Entry::decode(&cache.kind(), key, &encode(&object), revision).unwrap();
    cache.apply(vec![Applied { key: key.into(), revision, entry: Some(entry) }]);
}

fn delete(cache: &KindCache, key: &str, revision: u64) {
    cache.apply(vec![Applied { key: key.into(), revision, entry: None }]);
}

fn keys(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.entries.iter().map(|e| &*e.key).collect()
}

#[test]
fn a_namespace_is_a_range_and_pages_go_on_after_a_key() {
    let cache = cache(100);
    for (i, key) in ["a/1", "a/2", "a/3", "a-b/1", "b/1"].iter().enumerate() {
        put(&cache, key, i as u64 + 1);
    }
    assert_eq!(keys(&cache.snapshot("a", None, 0, true, |_| true)), ["a/1", "a/2", "a/3"]);
    let page = cache.snapshot("a", None, 2, true, |_| true);
    assert_eq!((keys(&page), page.remaining), (vec!["a/1", "a/2"], 1));
    assert_eq!(keys(&cache.snapshot("a", Some("a/2"), 2, true, |_| true)), ["a/3"]);
    assert_eq!(keys(&cache.snapshot("", None, 0, true, |_| true)).len(), 5);
    assert!(cache.snapshot("a", Some("z/z"), 0, true, |_| true).entries.is_empty());
}

#[test]
fn events_are_added_modified_deleted_with_the_right_revision() {
    let cache = cache(100);
    put(&cache, "a/1", 1);
    put(&cache, "a/1", 2);
    delete(&cache, "a/1", 3);
    let mut events = Vec::new();
    let end = cache.read_from(0, 100, &mut events).unwrap();
    assert_eq!(end, 3);
    let got: Vec<(Change, u64)> = events.iter().map(|e| (e.change, e.entry.revision)).collect();
    assert_eq!(got, [(Change::Added, 1), (Change::Modified, 2), (Change::Deleted, 3)]);
    assert!(String::from_utf8_lossy(&events[2].line()).contains(r#""resourceVersion":"3""#));
    assert!(cache.get("a/1").is_none());
}

#[test]
fn a_position_that_left_the_ring_is_too_old() {
    let cache = cache(2);
    for revision in 1..=5 {
        put(&cache, "a/1", revision);
    }
    assert_eq!(cache.position_after(2), Err(TooOld { oldest: 3 }));
    assert_eq!(cache.position_after(3), Ok(3));
    assert_eq!(cache.read_from(0, 10, &mut Vec::new()), Err(TooOld { oldest: 3 }));
}

#[test]
fn a_reset_ends_open_watches() {
    let cache = cache(10);
    put(&cache, "a/1", 1);
    let position = cache.position_after(1).unwrap();
    cache.reset(BTreeMap::new(), 9);
    assert!(cache.read_from(position, 10, &mut Vec::new()).is_err());
    assert_eq!(cache.position_after(9), Ok(cache.snapshot("", None, 0, false, |_| true).position));
}

#[test]
fn a_piece_ends_with_the_object_that_fills_it() {
    let cache = cache(100);
    (1..=3).for_each(|revision| put(&cache, "a/1", revision));
    let mut events = Vec::new();
    assert_eq!(cache.read_bounded(0, 100, 1, &mut events).unwrap(), 1);
    assert_eq!(cache.read_bounded(1, 100, usize::MAX, &mut events).unwrap(), 3);
    assert_eq!(cache.read_bounded(3, 100, 1, &mut events).unwrap(), 3);
    assert_eq!(events.len(), 3);
}
