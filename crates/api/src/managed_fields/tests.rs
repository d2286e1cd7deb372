use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema::{TypeRef, for_kind};

const T1: &str = "2024-01-01T00:00:00Z";
const T2: &str = "2024-01-02T00:00:00Z";

fn ty(group: &str, kind: &str) -> TypeRef<'static> {
    for_kind(group, "v1", kind).expect("a stable kind")
}

fn set(value: Value) -> FieldSet {
    FieldSet::from_json(&value).expect("well-formed fieldsV1")
}

fn entries(object: &Value) -> Vec<(String, Value)> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    list.into_iter()
        .map(|e| {
            let text = |name: &str| e[name].as_str().unwrap_or_default().to_owned();
            let name = format!("{} {} {} {}", text("manager"), text("operation"), text("subresource"), text("time"));
            (name, e["fieldsV1"].clone())
        })
        .collect()
}

#[test]
fn path_elements_survive_their_text() {
    for key in
        [r#"f:spec"#, r#"f:a.b/c"#, r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"v:"x""#, "v:1", "v:true", "i:3"]
    {
        let element = PathElement::parse(key).expect("parses").expect("is known");
        assert_eq!(element.encode(), key);
    }
    assert_eq!(PathElement::parse("x:future"), Ok(None));
    for bad in ["", "f", "k:{", "v:", "i:x", "long:x"] {
        assert!(PathElement::parse(bad).is_err(), "{bad}");
    }
    let unsorted = PathElement::parse(r#"k:{"b":1,"a":"x"}"#).expect("parses").expect("is known");
    assert_eq!(unsorted.encode(), r#"k:{"a":"x","b":1}"#);
    assert_eq!(unsorted.to_string(), r#"[a="x",b=1]"#);
}

#[test]
fn an_object_mentions_its_leaves_and_its_items() {
    let pod = json!({
        "apiVersion": "v1",
        "metadata": {"name": "a", "labels": {"app": "x"}, "annotations": {}, "finalizers": ["f"]},
        "spec": {
            "containers": [{"name": "c", "command": ["a", "b"], "ports": [{"containerPort": 80}], "securityContext": {}}],
            "nodeSelector": {"k": "v"}, "volumes": [], "restartPolicy": null,
        },
    });
    let found = field_set(ty("", "Pod"), &pod).expect("items have keys");
    assert_eq!(
        found.to_json(),
        json!({
            "f:apiVersion": {},
            "f:metadata": {"f:name": {}, "f:labels": {"f:app": {}}, "f:annotations": {}, "f:finalizers": {"v:\"f\"": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:command": {}, "f:securityContext": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }},
                "f:nodeSelector": {}, "f:restartPolicy": {},
            },
        })
    );
}

#[test]
fn repeated_items_are_owned_as_one() {
    let pod = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}});
    let found = field_set(ty("", "Pod"), &pod).expect("items have keys").to_json();
    assert_eq!(found["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"], json!({"k:{\"name\":\"A\"}": {}}));
}

#[test]
fn items_without_keys_are_an_error() {
    let found = field_set(ty("", "Pod"), &json!({"spec": {"containers": [{"image": "x"}]}}));
    assert_eq!(found, Err(ItemError::NoKey { keys: vec!["name".into()] }));
}

#[test]
fn a_comparison_tells_added_modified_and_removed_apart() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
        "containers": [{"name": "x", "image": "1"}, {"name": "y", "image": "1"}], "nodeSelector": {"a": "b"}}});
    let new = json!({"metadata": {"labels": {"b": "3", "c": "4"}}, "spec": {
        "containers": [{"name": "y", "image": "2"}, {"name": "z"}], "nodeSelector": {"a": "c"}}});
    let found = compare(ty("", "Pod"), Some(&old), Some(&new)).expect("items have keys");
    assert_eq!(
        found.removed.to_json(),
        json!({"f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:name": {}, "f:image": {}}}}})
    );
    assert_eq!(
        found.modified.to_json(),
        json!({"f:metadata": {"f:labels": {"f:b": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"y\"}": {"f:image": {}}}, "f:nodeSelector": {}}})
    );
    assert_eq!(
        found.added.to_json(),
        json!({"f:metadata": {"f:labels": {"f:c": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"z\"}": {".": {}, "f:name": {}}}}})
    );
}

#[test]
fn reordering_items_is_no_change_and_reordering_atomic_lists_is() {
    let container = |c: Value| json!({"spec": {"containers": [{"name": "x", "env": c[0], "args": c[1]}]}});
    let old = container(json!([[{"name": "A"}, {"name": "B"}], ["1", "2"]]));
    let new = container(json!([[{"name": "B"}, {"name": "A"}], ["2", "1"]]));
    let found = compare(ty("", "Pod"), Some(&old), Some(&new)).expect("items have keys");
    assert!(found.removed.is_empty() && found.added.is_empty());
    assert_eq!(
        found.modified.paths().iter().map(|p| path_text(p)).collect::<Vec<_>>(),
        [r#".spec.containers[name="x"].args"#]
    );
}

#[test]
fn create_records_what_the_client_sent_as_kubernetes_shows_it() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "uid": "u", "generation": 1},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}},
        },
        "status": {"replicas": 0},
    });
    let created = update(ty("apps", "Deployment"), None, deployment, "kubectl-create", T1, "");
    let found = entries(&created);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, format!("kubectl-create Update  {T1}"));
    assert_eq!(
        found[0].1,
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }}},
                },
            },
        })
    );
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("apps/v1"), &json!("FieldsV1")));
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "d"}, "data": data})
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    *object.pointer_mut(pointer).expect("the test object has it") = value;
    object
}

#[test]
fn changes_move_fields_between_updaters() {
    let ty = ty("", "ConfigMap");
    let first = update(ty, None, config(json!({"a": "1", "b": "1"})), "one", T1, "");
    let second = update(ty, Some(&first), with(first.clone(), "/data/a", json!("2")), "two", T2, "");
    assert_eq!(
        entries(&second),
        [
            (format!("one Update  {T1}"), json!({"f:data": {".": {}, "f:b": {}}})),
            (format!("two Update  {T2}"), json!({"f:data": {"f:a": {}}})),
        ]
    );
    // A removed field leaves everybody; a manager left with nothing goes.
    let third = update(ty, Some(&second), with(second.clone(), "/data", json!({"b": "1"})), "three", T2, "");
    assert_eq!(entries(&third), [(format!("one Update  {T1}"), json!({"f:data": {".": {}, "f:b": {}}}))]);
}

#[test]
fn an_update_that_changes_nothing_keeps_entries_and_times() {
    let ty = ty("", "ConfigMap");
    let first = update(ty, None, config(json!({"a": "1"})), "one", T1, "");
    assert_eq!(update(ty, Some(&first), first.clone(), "two", T2, ""), first);
    let mut bare = first.clone();
    bare["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    assert_eq!(update(ty, Some(&first), bare, "two", T2, ""), first, "clients that drop managedFields lose nothing");
}

#[test]
fn a_manager_has_an_entry_for_each_subresource() {
    let ty = ty("", "Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"},
        "status": {"phase": "Pending"}});
    let first = update(ty, None, pod, "agent", T1, "");
    assert_eq!(entries(&first), [(format!("agent Update  {T1}"), json!({"f:spec": {"f:nodeName": {}}}))]);
    let running = with(first.clone(), "/status", json!({"phase": "Running", "podIP": "1.2.3.4"}));
    let second = update(ty, Some(&first), running, "agent", T2, "status");
    assert_eq!(
        entries(&second)[1],
        (format!("agent Update status {T2}"), json!({"f:status": {"f:phase": {}, "f:podIP": {}}}))
    );
}

#[test]
fn subresources_cannot_rewrite_the_list_and_objects_can() {
    let ty = ty("", "Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
    let first = update(ty, None, pod, "one", T1, "");
    let renamed = with(first.clone(), "/metadata/managedFields/0/manager", json!("other"));
    assert_eq!(update(ty, Some(&first), renamed.clone(), "x", T2, "status"), first);
    assert_eq!(update(ty, Some(&first), renamed.clone(), "x", T2, ""), renamed);
}

#[test]
fn a_reset_forgets_all_and_tracking_stays_off() {
    let ty = ty("", "ConfigMap");
    let first = update(ty, None, config(json!({"a": "1"})), "one", T1, "");
    for reset in [json!([]), json!([{}])] {
        let sent = with(first.clone(), "/metadata/managedFields", reset);
        let cleared = update(ty, Some(&first), sent, "two", T2, "");
        assert_eq!(cleared, config(json!({"a": "1"})));
        let changed = update(ty, Some(&cleared), with(cleared.clone(), "/data/a", json!("2")), "two", T2, "");
        assert_eq!(entries(&changed), []);
    }
    let broken = with(first.clone(), "/metadata/managedFields/0/operation", json!("Guess"));
    assert_eq!(update(ty, Some(&first), broken, "two", T2, ""), first, "an unreadable list is ignored");
}

#[test]
fn the_oldest_updaters_are_merged_beyond_ten() {
    let ty = ty("", "ConfigMap");
    let mut object = update(ty, None, config(json!({"k0": "v"})), "m0", "2024-01-01T00:00:00Z", "");
    for i in 1..13 {
        let mut next = object.clone();
        next["data"][format!("k{i}")] = "v".into();
        object = update(ty, Some(&object), next, &format!("m{i}"), &format!("2024-01-01T00:00:{i:02}Z"), "");
        assert!(entries(&object).len() <= 10);
    }
    let found = entries(&object);
    assert_eq!(found.len(), 10);
    assert_eq!(found[0].0, "ancient-changes Update  2024-01-01T00:00:03Z");
    assert_eq!(found[0].1, json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}}));
    assert_eq!(found[9].0, "m12 Update  2024-01-01T00:00:12Z");
}

#[test]
fn a_request_without_a_manager_is_recorded_as_unknown() {
    let created = update(ty("", "ConfigMap"), None, config(json!({"a": "1"})), "", T1, "");
    assert_eq!(entries(&created)[0].0, format!("unknown Update  {T1}"));
}

#[test]
fn objects_that_cannot_be_walked_keep_their_owners() {
    let ty = ty("", "Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
    let first = update(ty, None, pod, "one", T1, "");
    let broken = with(first.clone(), "/spec", json!({"containers": [{"image": "no name"}]}));
    let second = update(ty, Some(&first), broken, "two", T2, "");
    assert_eq!(entries(&second), entries(&first));
}

#[test]
fn a_value_of_another_kind_below_anything_is_a_change_of_both() {
    let ty = ty("apps", "ControllerRevision");
    let old = json!({"data": {"a": {"b": 1}}});
    let new = json!({"data": {"a": "text"}});
    let found = compare(ty, Some(&old), Some(&new)).expect("no lists");
    assert_eq!(found.modified.to_json(), json!({"f:data": {"f:a": {}}}));
    assert_eq!(found.removed.to_json(), json!({"f:data": {"f:a": {"f:b": {}}}}));
}

fn element() -> impl Strategy<Value = PathElement> {
    prop_oneof![
        "[a-d]".prop_map(|n| PathElement::field(&n)),
        ("[a-c]", 0..3i64).prop_map(|(n, v)| PathElement::Key(Box::new([(n.into_boxed_str(), json!(v))]))),
        "[a-c\"\\\\]".prop_map(|v| PathElement::Value(json!(v))),
        (0..3i64).prop_map(|v| PathElement::Value(json!(v))),
        (0..3i64).prop_map(PathElement::Index),
    ]
}

fn sets() -> impl Strategy<Value = FieldSet> {
    let paths = prop::collection::vec(prop::collection::vec(element(), 1..4), 0..12);
    paths.prop_map(|paths| FieldSet::from_paths(&paths.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

proptest! {
    #[test]
    fn field_sets_survive_json(a in sets()) {
        prop_assert_eq!(set(a.to_json()), a);
    }

    #[test]
    fn set_operations_obey_their_laws(a in sets(), b in sets(), c in sets()) {
        let union = a.clone().union(b.clone());
        prop_assert_eq!(&union, &b.clone().union(a.clone()));
        prop_assert_eq!(a.clone().union(b.clone().union(c.clone())), union.clone().union(c.clone()));
        prop_assert_eq!(a.clone().union(a.clone()), a.clone());
        let (both, left, right) = (a.intersection(&b), a.difference(&b), b.difference(&a));
        prop_assert_eq!(&both, &b.intersection(&a));
        prop_assert_eq!(a.intersects(&b), !both.is_empty());
        prop_assert!(!left.intersects(&b));
        prop_assert_eq!(left.clone().union(both.clone()), a.clone());
        prop_assert_eq!(left.len() + both.len() + right.len(), union.len());
        prop_assert_eq!(a.difference(&b.clone().union(c.clone())), a.difference(&b).difference(&c));
        prop_assert!(a.difference(&a).is_empty());
    }

    #[test]
    fn membership_agrees_with_the_paths(a in sets(), b in sets()) {
        let union = a.clone().union(b.clone());
        prop_assert_eq!(union.paths().len(), union.len());
        for path in union.paths() {
            let (in_a, in_b) = (a.contains(&path), b.contains(&path));
            prop_assert!(in_a || in_b);
            prop_assert_eq!(a.intersection(&b).contains(&path), in_a && in_b);
            prop_assert_eq!(a.difference(&b).contains(&path), in_a && !in_b);
        }
    }

    #[test]
    fn an_object_compared_with_itself_is_unchanged(data in prop::collection::btree_map("[a-c]", "[a-c]", 0..4)) {
        let object = config(json!(data));
        prop_assert!(compare(ty("", "ConfigMap"), Some(&object), Some(&object)).expect("no lists").is_empty());
    }
}
