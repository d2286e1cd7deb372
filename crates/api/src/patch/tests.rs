use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::{TypeRef, for_kind};

fn pod() -> TypeRef<'static> {
    for_kind("", "v1", "Pod").expect("a stable kind")
}

#[test]
fn json_patch_operations_apply_in_order() {
    let doc = json!({"a": {"b": [1, 2, 3]}, "x/y": 1, "m~n": 2});
    let cases = [
        (
            json!([{"op": "add", "path": "/a/c", "value": null}]),
            json!({"a": {"b": [1, 2, 3], "c": null}, "x/y": 1, "m~n": 2}),
        ),
        (json!([{"op": "add", "path": "/a/b/1", "value": 9}]), json!({"a": {"b": [1, 9, 2, 3]}, "x/y": 1, "m~n": 2})),
        (json!([{"op": "add", "path": "/a/b/-", "value": 9}]), json!({"a": {"b": [1, 2, 3, 9]}, "x/y": 1, "m~n": 2})),
        (json!([{"op": "remove", "path": "/x~1y"}, {"op": "remove", "path": "/m~0n"}]), json!({"a": {"b": [1, 2, 3]}})),
        (
            json!([{"op": "replace", "path": "/a/b/0", "value": [0]}]),
            json!({"a": {"b": [[0], 2, 3]}, "x/y": 1, "m~n": 2}),
        ),
        (
            json!([{"op": "move", "from": "/a/b/0", "path": "/a/b/2"}]),
            json!({"a": {"b": [2, 3, 1]}, "x/y": 1, "m~n": 2}),
        ),
        (
            json!([{"op": "copy", "from": "/a/b", "path": "/c"}]),
            json!({"a": {"b": [1, 2, 3]}, "c": [1, 2, 3], "x/y": 1, "m~n": 2}),
        ),
        (
            json!([{"op": "test", "path": "/a/b", "value": [1.0, 2, 3]}, {"op": "test", "path": "/no", "value": null}]),
            doc.clone(),
        ),
        (json!([]), doc.clone()),
    ];
    for (patch, expected) in cases {
        assert_eq!(json_patch(&doc, &patch), Ok(expected), "{patch}");
    }
}

#[test]
fn json_patches_that_do_not_fit_are_422_and_say_why() {
    let doc = json!({"a": {"b": [1]}, "s": "text"});
    let cases = [
        (json!([{"op": "test", "path": "/a/b/0", "value": 2}]), "testing value /a/b/0 failed: test failed"),
        (
            json!([{"op": "remove", "path": "/z"}]),
            "remove operation does not apply: doc is missing key: /z: missing value",
        ),
        (
            json!([{"op": "replace", "path": "/z", "value": 1}]),
            "replace operation does not apply: doc is missing key: /z: missing value",
        ),
        (
            json!([{"op": "add", "path": "/z/y", "value": 1}]),
            "add operation does not apply: doc is missing path: /z/y: missing value",
        ),
        (
            json!([{"op": "add", "path": "/s/y", "value": 1}]),
            "add operation does not apply: doc is missing path: /s/y: missing value",
        ),
        (
            json!([{"op": "add", "path": "/a/b/2", "value": 1}]),
            "add operation does not apply: /a/b/2: invalid index referenced",
        ),
        (
            json!([{"op": "remove", "path": "/a/b/01"}]),
            "remove operation does not apply: /a/b/01: invalid index referenced",
        ),
        (
            json!([{"op": "move", "from": "/a", "path": "/a/c"}]),
            "move operation does not apply: /a/c lies inside what is moved",
        ),
        (json!([{"op": "jump", "path": "/a"}]), "Unexpected kind: jump"),
        (json!([{"op": "add", "path": "/c"}]), "add operation is missing \"value\""),
        (json!([{"op": "remove", "path": "a"}]), "\"a\" is not a JSON pointer"),
    ];
    for (patch, why) in cases {
        let error = json_patch(&doc, &patch).expect_err("does not apply");
        assert_eq!((error.code, error.reason), (422, "Invalid"), "{patch}");
        assert_eq!(error.message, "the server rejected our request due to an error in our request");
        assert_eq!(error.details.expect("a cause")["causes"][0]["message"], why, "{patch}");
    }
    for patch in [json!({"op": "add"}), json!(["add"]), json!(null)] {
        assert_eq!(json_patch(&doc, &patch).expect_err("malformed").code, 400);
    }
}

#[test]
fn json_patches_have_limits() {
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/x", "value": null})).collect();
    let error = json_patch(&json!({}), &many.into()).expect_err("too many operations");
    assert_eq!(error.code, 413);
    assert!(
        error.message.ends_with("The allowed maximum operations in a JSON patch is 10000, got 10001"),
        "{}",
        error.message
    );
    let doubling: Vec<Value> = (0..60).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
    assert_eq!(json_patch(&json!({"a": ["0123456789"]}), &doubling.into()).expect_err("too much copied").code, 422);
    let mut path = String::new();
    let deep: Vec<Value> = (0..200)
        .map(|_| {
            path.push_str("/a");
            json!({"op": "add", "path": path, "value": {}})
        })
        .collect();
    assert_eq!(json_patch(&json!({}), &deep.into()).expect_err("too deep").code, 422);
}

#[test]
fn merge_patches_follow_the_rfc() {
    // The examples of RFC 7386, as far as the document is an object.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (doc, patch, expected) in cases {
        assert_eq!(merge_patch(&doc, &patch), Ok(expected), "{doc} + {patch}");
    }
    assert_eq!(merge_patch(&json!({}), &json!([1])).expect_err("no object").code, 400);
}

#[test]
fn deep_patches_are_refused() {
    let deep = (0..200).fold(json!({}), |inner, _| json!({"a": inner}));
    assert_eq!(merge_patch(&json!({}), &deep).expect_err("too deep").code, 400);
    assert_eq!(strategic_merge(pod(), &json!({}), &deep).expect_err("too deep").code, 400);
}

fn spec(patch: Value) -> Value {
    json!({ "spec": patch })
}

#[track_caller]
fn strategic(doc: Value, patch: Value, expected: Value) {
    let found = strategic_merge(pod(), &spec(doc.clone()), &spec(patch.clone())).expect("merges");
    assert_eq!(found, spec(expected), "{doc} + {patch}");
}

#[test]
fn lists_of_objects_merge_by_their_key() {
    let doc = json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}]});
    strategic(
        doc.clone(),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3", "args": null}]}),
        json!({"containers": [
            {"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
    );
    strategic(
        doc.clone(),
        json!({"containers": [{"name": "a", "tty": null}, {"$patch": "delete", "name": "b"}]}),
        json!({"containers": [{"name": "a", "image": "1"}]}),
    );
    strategic(
        doc,
        json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
        json!({"containers": [{"name": "z"}]}),
    );
}

#[test]
fn nested_lists_use_their_own_keys() {
    let ports = |list: Value| json!({"containers": [{"name": "a", "ports": list}]});
    strategic(
        ports(json!([{"containerPort": 80, "name": "http"}, {"containerPort": 81}])),
        ports(json!([{"containerPort": 80, "hostPort": 8080}])),
        ports(json!([{"containerPort": 80, "name": "http", "hostPort": 8080}, {"containerPort": 81}])),
    );
    let args = |list: Value| json!({"containers": [{"name": "a", "args": list}]});
    strategic(args(json!(["1", "2"])), args(json!(["3"])), args(json!(["3"])));
}

#[test]
fn directives_on_objects_replace_delete_and_merge() {
    let doc = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2}});
    strategic(
        doc.clone(),
        json!({"securityContext": {"$patch": "replace", "fsGroup": 3, "runAsUser": null}}),
        json!({"securityContext": {"fsGroup": 3}}),
    );
    strategic(doc.clone(), json!({"securityContext": {"$patch": "delete"}}), json!({"securityContext": {}}));
    strategic(
        doc.clone(),
        json!({"securityContext": {"$patch": "merge", "fsGroup": 3}}),
        json!({"securityContext": {"fsGroup": 3, "runAsUser": 1, "runAsGroup": 2}}),
    );
    strategic(doc.clone(), json!({"securityContext": null}), json!({}));
    strategic(doc.clone(), json!({"affinity": {"$patch": "delete"}, "hostname": null}), doc);
}

#[test]
fn retained_keys_drop_the_rest_of_a_union() {
    let volume = |v: Value| json!({"volumes": [v]});
    strategic(
        volume(json!({"name": "v", "emptyDir": {}})),
        volume(json!({"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}})),
        volume(json!({"name": "v", "hostPath": {"path": "/x"}})),
    );
    let patch = spec(volume(json!({"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}})));
    let error = strategic_merge(pod(), &spec(volume(json!({"name": "v"}))), &patch).expect_err("a stray key");
    assert_eq!((error.code, error.message.as_str()), (400, "invalid patch format of retainKeys"));
    let deployment = for_kind("apps", "v1", "Deployment").expect("a stable kind");
    let strategy = |s: Value| json!({"spec": {"strategy": s}});
    let found = strategic_merge(
        deployment,
        &strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
        &strategy(json!({"type": "Recreate", "$retainKeys": ["type"]})),
    );
    assert_eq!(found, Ok(strategy(json!({"type": "Recreate"}))));
}

#[test]
fn lists_of_scalars_merge_and_delete_by_value() {
    let meta = |m: Value| json!({ "metadata": m });
    let doc = meta(json!({"finalizers": ["a", "b", "c"]}));
    let cases = [
        (json!({"finalizers": ["d", "a"]}), json!(["d", "a", "b", "c"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["b", "z"]}), json!(["a", "c"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"]}), json!(["d", "a", "c"])),
        (
            json!({"$setElementOrder/finalizers": ["c", "a", "d"], "finalizers": ["d"], "$deleteFromPrimitiveList/finalizers": ["b"]}),
            json!(["c", "a", "d"]),
        ),
    ];
    for (patch, expected) in cases {
        let found = strategic_merge(pod(), &doc, &meta(patch.clone())).expect("merges");
        assert_eq!(found["metadata"]["finalizers"], expected, "{patch}");
    }
}

#[test]
fn element_order_is_that_of_the_directive_with_server_items_in_place() {
    let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Value>();
    type Names = &'static [&'static str];
    let cases: [(Names, Names, Names, Names); 4] = [
        // server, patched items, order, result
        (&["a", "b", "c"], &[], &["c", "b", "a"], &["c", "b", "a"]),
        (&["a", "b", "c"], &["d"], &["d", "c", "a"], &["d", "b", "c", "a"]),
        (&["s", "a", "b"], &["c"], &["a", "c", "b"], &["s", "a", "c", "b"]),
        (&[], &["b", "a"], &["b", "a"], &["b", "a"]),
    ];
    for (server, patched, order, expected) in cases {
        let doc = if server.is_empty() { json!({}) } else { json!({"containers": named(server)}) };
        let mut patch = json!({"$setElementOrder/containers": named(order)});
        if !patched.is_empty() {
            patch["containers"] = named(patched);
        }
        strategic(doc, patch, json!({"containers": named(expected)}));
    }
    let patch = spec(json!({"$setElementOrder/containers": named(&["a"]), "containers": named(&["b"])}));
    let error =
        strategic_merge(pod(), &spec(json!({"containers": named(&["a"])})), &patch).expect_err("b is not ordered");
    assert_eq!(error.code, 400);
    assert!(error.message.starts_with("The order in patch list:"), "{}", error.message);
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let doc = spec(json!({"containers": [{"name": "a"}], "hostname": "x"}));
    let cases = [
        (json!({"containers": [{"image": "x"}]}), 422),
        (json!({"containers": [["x"]]}), 422),
        (json!({"containers": ["x"]}), 400),
        (json!({"containers": [{"name": "a", "$patch": "guess"}]}), 400),
        (json!({"$patch": "guess"}), 400),
        (json!({"$deleteFromPrimitiveList": ["x"]}), 400),
        (json!({"$setElementOrder/containers": "x"}), 400),
        (json!({"$retainKeys": "x"}), 400),
    ];
    for (patch, code) in cases {
        assert_eq!(strategic_merge(pod(), &doc, &spec(patch.clone())).expect_err("malformed").code, code, "{patch}");
    }
    assert_eq!(strategic_merge(pod(), &doc, &json!([])).expect_err("no object").code, 400);
}

#[test]
fn a_replaced_selector_is_not_merged() {
    let budget = for_kind("policy", "v1", "PodDisruptionBudget").expect("a stable kind");
    let selector = |s: Value| json!({"spec": {"selector": s}});
    let found = strategic_merge(
        budget,
        &selector(json!({"matchLabels": {"a": "b"}})),
        &selector(json!({"matchLabels": {"c": "d"}})),
    );
    assert_eq!(found, Ok(selector(json!({"matchLabels": {"c": "d"}}))));
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any::<i8>().prop_map(Value::from), "[a-c/~]{0,3}".prop_map(Value::from), Just(json!(true))];
    let tree = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c/~]{1,2}", inner, 0..4).prop_map(|m| json!(m)),
        ]
    });
    prop::collection::btree_map("[a-c/~]{1,2}", tree, 0..4).prop_map(|m| json!(m))
}

/// The JSON patch from `old` to `new`.
fn diff(old: &Value, new: &Value, path: &str, out: &mut Vec<Value>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, old) in a {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                match b.get(key) {
                    Some(new) => diff(old, new, &path, out),
                    None => out.push(json!({"op": "remove", "path": path})),
                }
            }
            for (key, new) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                out.push(json!({"op": "add", "path": path, "value": new}));
            }
        }
        _ if old == new => {}
        _ => out.push(json!({"op": "replace", "path": path, "value": new})),
    }
}

fn merge_diff(old: &Value, new: &Value) -> Value {
    let (Some(a), Some(b)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut out = serde_json::Map::new();
    for key in a.keys().filter(|key| !b.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, new) in b {
        match a.get(key) {
            Some(old) if old == new => {}
            Some(old) if old.is_object() && new.is_object() => {
                out.insert(key.clone(), merge_diff(old, new));
            }
            _ => {
                out.insert(key.clone(), new.clone());
            }
        }
    }
    Value::Object(out)
}

/// Containers with unique names, a scalar field and a list that is replaced.
fn containers() -> impl Strategy<Value = Vec<Value>> {
    let item = ("[a-e]", prop::option::of("[x-z]"), prop::option::of(prop::collection::vec("[a-b]", 1..3)));
    prop::collection::vec(item, 0..5).prop_map(|items| {
        let mut seen = std::collections::BTreeSet::new();
        let unique = items.into_iter().filter(|(name, ..)| seen.insert(name.clone()));
        unique
            .map(|(name, image, args)| {
                let mut out = json!({"name": name});
                if let Some(image) = image {
                    out["image"] = image.into();
                }
                if let Some(args) = args {
                    out["args"] = args.into();
                }
                out
            })
            .collect()
    })
}

/// The strategic merge patch between two container lists, with the order, as kubectl computes it.
fn strategic_diff(old: &[Value], new: &[Value]) -> Value {
    let find = |list: &[Value], name: &Value| list.iter().find(|c| c["name"] == *name).cloned();
    let mut items = Vec::new();
    for item in new {
        match find(old, &item["name"]) {
            Some(before) if before == *item => {}
            Some(before) => {
                let mut patch = merge_diff(&before, item);
                patch["name"] = item["name"].clone();
                items.push(patch);
            }
            None => items.push(item.clone()),
        }
    }
    for gone in old.iter().filter(|c| find(new, &c["name"]).is_none()) {
        items.push(json!({"$patch": "delete", "name": gone["name"]}));
    }
    let order: Vec<Value> = new.iter().map(|c| json!({"name": c["name"]})).collect();
    spec(json!({"$setElementOrder/containers": order, "containers": items}))
}

proptest! {
    #[test]
    fn a_json_patch_of_the_difference_gives_the_other(a in json_values(), b in json_values()) {
        let mut patch = Vec::new();
        diff(&a, &b, "", &mut patch);
        prop_assert_eq!(json_patch(&a, &patch.into()).expect("made to fit"), b);
    }

    #[test]
    fn a_merge_patch_of_the_difference_gives_the_other(a in json_values(), b in json_values()) {
        prop_assert_eq!(merge_patch(&a, &merge_diff(&a, &b)).expect("an object"), b);
    }

    #[test]
    fn a_strategic_patch_of_the_difference_gives_the_other(a in containers(), b in containers()) {
        let doc = |list: &[Value]| spec(json!({"containers": list}));
        let found = strategic_merge(pod(), &doc(&a), &strategic_diff(&a, &b)).expect("made to fit");
        prop_assert_eq!(found, doc(&b));
    }

    #[test]
    fn strategic_patches_never_panic(a in json_values(), b in json_values()) {
        let _ = strategic_merge(pod(), &spec(a), &spec(b));
    }
}
