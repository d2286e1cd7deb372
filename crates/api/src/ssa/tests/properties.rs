//! Laws that hold for any configuration.

use proptest::prelude::*;

use super::*;
use crate::managed_fields::{PathElement, is_hollow, item_element};

fn container() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[x-z]", 0..3);
    ("[a-d]", prop::option::of("[i-k]"), prop::option::of(env), prop::option::of(prop::collection::vec("[a-b]", 0..3)))
        .prop_map(|(name, image, env, args)| {
            let mut out = json!({"name": name});
            if let Some(image) = image {
                out["image"] = image.into();
            }
            if let Some(env) = env {
                out["env"] = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            }
            if let Some(args) = args {
                out["args"] = args.into();
            }
            out
        })
}

fn pods() -> impl Strategy<Value = Value> {
    let containers = prop::collection::vec(container(), 0..4).prop_map(|mut list| {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|c| seen.insert(c["name"].to_string()));
        list
    });
    let labels = prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
    let finalizers = prop::collection::btree_set("[a-c]", 0..3);
    let selector = prop::option::of(prop::collection::btree_map("[a-b]", "[x-z]", 0..2));
    (containers, labels, finalizers, selector).prop_map(|(containers, labels, finalizers, selector)| {
        let mut pod = a_pod(json!({"containers": containers}));
        pod["metadata"]["labels"] = json!(labels);
        pod["metadata"]["finalizers"] = json!(finalizers);
        if let Some(selector) = selector {
            pod["spec"]["nodeSelector"] = json!(selector);
        }
        pod
    })
}

/// Every leaf of `part` is in `whole`: what one applied is what one finds.
fn holds(ty: TypeRef<'_>, whole: &Value, part: &Value) -> bool {
    let changes = compare(ty, Some(part), Some(whole)).expect("items have names");
    changes.modified.is_empty() && changes.removed.is_empty()
}

fn without_hollow(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, without_hollow(v)));
            Value::Object(kept.filter(|(_, v)| !is_hollow(Some(v))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_hollow).collect()),
        other => other,
    }
}

/// Whether the path leads to a value.
fn exists(ty: TypeRef<'_>, value: &Value, path: &[PathElement]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match first {
        PathElement::Field(name) => {
            let (Some(child), Some(value)) = (ty.child(name), value.get(&**name)) else { return false };
            exists(child, value, rest)
        }
        _ => {
            let (Some(item), Some(list), Some(values)) = (ty.item(), ty.list_type(), value.as_array()) else {
                return false;
            };
            values.iter().any(|v| item_element(item, list, v).as_ref() == Ok(first) && exists(item, v, rest))
        }
    }
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(a in pods(), b in pods()) {
        let live = apply_to(None, &a, "one");
        let once = try_apply(Some(&live), &b, "two", true).expect("forced");
        let later = ApplyOptions { now: T2, ..opts("two", "v1") };
        prop_assert_eq!(apply(pod(), Some(&once), &b, &later).expect("no conflict with oneself"), once);
    }

    #[test]
    fn what_was_applied_is_there(a in pods(), b in pods()) {
        let live = apply_to(None, &a, "one");
        let forced = try_apply(Some(&live), &b, "two", true).expect("forced");
        prop_assert!(holds(pod(), &forced, &b));
        // Without force, either both hold or it is refused.
        if let Ok(merged) = try_apply(Some(&live), &b, "two", false) {
            prop_assert!(holds(pod(), &merged, &b) && holds(pod(), &merged, &a));
        }
    }

    #[test]
    fn a_single_applier_gets_exactly_what_it_applies_last(a in pods(), b in pods()) {
        let live = apply_to(None, &a, "me");
        let next = apply_to(Some(&live), &b, "me");
        // A list or map that was emptied by removal is as good as one that is not there.
        let changes = compare(pod(), Some(&without_hollow(bare(&next))), Some(&without_hollow(b))).expect("items have names");
        prop_assert!(changes.is_empty(), "{:?}", changes);
    }

    #[test]
    fn managers_that_say_disjoint_things_do_not_depend_on_order(a in pods(), b in pods()) {
        let (one, two) = (apply_to(None, &a, "one"), apply_to(None, &b, "two"));
        let ab = try_apply(Some(&one), &b, "two", false);
        let ba = try_apply(Some(&two), &a, "one", false);
        prop_assert_eq!(ab.is_ok(), ba.is_ok());
        if let (Ok(ab), Ok(ba)) = (ab, ba) {
            prop_assert!(compare(pod(), Some(&bare(&ab)), Some(&bare(&ba))).expect("items have names").is_empty());
        }
    }

    #[test]
    fn nobody_owns_what_is_not_there(a in pods(), b in pods(), c in pods()) {
        let live = apply_to(None, &a, "one");
        let live = try_apply(Some(&live), &b, "two", true).expect("forced");
        let mut changed = bare(&c);
        changed["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
        let live = update(pod(), Some(&live), changed, "three", T2, "");
        let managers = Managers::decode(managed_of(&live)).expect("well-formed");
        for entry in managers.entries() {
            for path in entry.set.paths() {
                prop_assert!(exists(pod(), &live, &path), "{} owns {:?}", entry.manager, path);
            }
        }
    }
}
