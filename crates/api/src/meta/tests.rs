use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00.123456Z".parse().unwrap()
}

fn new_meta() -> NewMeta<'static> {
    NewMeta { namespace: "ns", uid: "u", now: now(), name_suffix: "abcde" }
}

#[test]
fn creation_fills_system_metadata_and_drops_what_is_not_the_clients() {
    let mut o = json!({"metadata": {"generateName": "web-", "resourceVersion": "7", "uid": "mine", "generation": 9,
        "deletionTimestamp": "2020-01-01T00:00:00Z", "labels": {"a": "b"}}});
    prepare_create(&mut o, new_meta());
    assert_eq!(
        o["metadata"],
        json!({"generateName": "web-", "name": "web-abcde", "namespace": "ns", "uid": "u",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}})
    );
    let mut long = json!({"metadata": {"generateName": "x".repeat(80)}});
    prepare_create(&mut long, new_meta());
    assert_eq!(name(&long).len(), 63);
}

#[test]
fn times_have_the_wire_precision() {
    assert_eq!(format_time(now()), "2026-01-01T00:00:00Z");
    assert_eq!(format_micro_time(now()), "2026-01-01T00:00:00.123456Z");
    let mut o = json!({"metadata": {"generation": 2}});
    mark_deleted(&mut o, now(), 30);
    assert_eq!(o["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(o["metadata"]["generation"], 3);
    assert!(shortens_deletion(&o, 10) && !shortens_deletion(&o, 30));
}

#[test]
fn an_update_keeps_identity_and_refuses_to_change_it() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 4,
        "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"x": 1}});
    let mut new = json!({"metadata": {"name": "a", "generation": 77}, "spec": {"x": 1, "y": {}}});
    prepare_update(&mut new, &old);
    bump_generation(&mut new, &old, &[&["spec"]]);
    assert_eq!(new["metadata"], old["metadata"], "an empty field is no change");
    new["spec"]["x"] = 2.into();
    bump_generation(&mut new, &old, &[&["spec"]]);
    assert_eq!(generation(&new), 5);
    assert!(validate_update(&new, &old).is_empty());
    new["metadata"]["uid"] = "other".into();
    let errors = validate_update(&new, &old);
    assert_eq!(errors[0].to_string(), "metadata.uid: Invalid value: \"other\": field is immutable");
}

#[test]
fn a_status_write_touches_status_and_labels_only() {
    let old = json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"x": 1}, "status": {"s": 1}});
    let mut new =
        json!({"metadata": {"name": "a", "annotations": {"k": "v"}}, "spec": {"x": 2}, "status": {"s": 2}, "extra": 1});
    prepare_status_update(&mut new, &old);
    assert_eq!(
        new,
        json!({"metadata": {"name": "a", "annotations": {"k": "v"}}, "spec": {"x": 1}, "status": {"s": 2}})
    );
}

#[test]
fn no_finalizer_is_added_while_deleting() {
    let old = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!([]);
    assert!(validate_update(&new, &old).is_empty());
    new["metadata"]["finalizers"] = json!(["a.b/c", "d.e/f"]);
    assert_eq!(
        validate_update(&new, &old)[0].to_string(),
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"d.e/f\"}"
    );
}

#[test]
fn metadata_is_validated() {
    let o = json!({"metadata": {"name": "Bad", "namespace": "ns", "labels": {"a/b/c": "x", "ok": "no good"},
        "annotations": {"": "x"}, "finalizers": ["plain"],
        "ownerReferences": [{"kind": "X", "name": "", "uid": "u", "apiVersion": "v1"}]}});
    let fields: Vec<String> = validate(&o, true, NameRule::Subdomain).into_iter().map(|e| e.field).collect();
    for field in [
        "metadata.name",
        "metadata.labels",
        "metadata.annotations",
        "metadata.finalizers",
        "metadata.ownerReferences[0].name",
    ] {
        assert!(fields.iter().any(|f| f == field), "{field} in {fields:?}");
    }
    let none = json!({"metadata": {"namespace": "ns"}});
    assert_eq!(
        validate(&none, true, NameRule::Subdomain)[0].to_string(),
        "metadata.name: Required value: name or generateName is required"
    );
}
