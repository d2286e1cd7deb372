use serde_json::{Value, json};

use super::*;
use crate::schema::for_kind;

mod properties;

const T1: &str = "2024-01-01T00:00:00Z";
const T2: &str = "2024-01-02T00:00:00Z";

fn opts<'a>(manager: &'a str, version: &'a str) -> ApplyOptions<'a> {
    ApplyOptions { manager, now: T1, api_version: version, ..ApplyOptions::default() }
}

fn deployment() -> TypeRef<'static> {
    for_kind("apps", "v1", "Deployment").expect("a stable kind")
}

fn pod() -> TypeRef<'static> {
    for_kind("", "v1", "Pod").expect("a stable kind")
}

fn web(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"}, "spec": spec})
}

fn a_pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": spec})
}

fn apply_to(live: Option<&Value>, applied: &Value, manager: &str) -> Value {
    try_apply(live, applied, manager, false).expect("no conflict")
}

fn try_apply(live: Option<&Value>, applied: &Value, manager: &str, force: bool) -> Result<Value, ApiError> {
    let version = applied["apiVersion"].as_str().expect("test objects have a version");
    let ty = if version == "apps/v1" { deployment() } else { pod() };
    apply(ty, live, applied, &ApplyOptions { force, ..opts(manager, version) })
}

fn fields(object: &Value, manager: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|e| e["manager"] == manager);
    found.map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    set_managed(&mut object, None);
    object
}

#[test]
fn a_new_object_is_what_was_applied_and_owned_by_the_applier() {
    let applied = web(json!({"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}}}}));
    let object = apply_to(None, &applied, "me");
    assert_eq!(bare(&object), applied);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}}}}}}])
    );
}

#[test]
fn a_conflict_names_manager_version_and_field() {
    let ty = deployment();
    let live = update(ty, None, web(json!({"replicas": 2})), "kubectl-client-side-apply", T1, "");
    let error = try_apply(Some(&live), &web(json!({"replicas": 3})), "me", false).expect_err("a conflict");
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.replicas"#
    );
    assert_eq!(
        error.details.expect("causes")["causes"],
        json!([{"reason": "FieldManagerConflict",
            "message": r#"conflict with "kubectl-client-side-apply" using apps/v1"#, "field": ".spec.replicas"}])
    );
}

#[test]
fn several_conflicts_are_grouped_by_manager() {
    let ty = deployment();
    let live = apply_to(None, &web(json!({"replicas": 2, "paused": true})), "zed");
    let mut scaled = live.clone();
    scaled["spec"]["minReadySeconds"] = 5.into();
    let live = update(ty, Some(&live), scaled, "auto", T2, "status");
    let live = update(ty, Some(&live), live.clone(), "nobody", T2, "");
    let wanted = web(json!({"replicas": 3, "paused": false, "minReadySeconds": 6}));
    let error = try_apply(Some(&live), &wanted, "me", false).expect_err("conflicts");
    // The status subresource may not own spec fields; what it changed there is nobody's.
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"zed\":\n- .spec.paused\n- .spec.replicas"
    );
    let mut scaled = live.clone();
    scaled["spec"]["minReadySeconds"] = 7.into();
    let live = update(ty, Some(&live), scaled, "auto", T2, "scale");
    let error = try_apply(Some(&live), &wanted, "me", false).expect_err("conflicts");
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"auto\" with subresource \"scale\" using apps/v1:\n\
         - .spec.minReadySeconds\nconflicts with \"zed\":\n- .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn force_takes_the_field_from_its_owner() {
    let live = apply_to(None, &web(json!({"replicas": 2, "paused": true})), "one");
    let object = try_apply(Some(&live), &web(json!({"replicas": 3})), "two", true).expect("forced");
    assert_eq!(object["spec"], json!({"replicas": 3, "paused": true}));
    assert_eq!(fields(&object, "one"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(fields(&object, "two"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn equal_values_are_shared_and_survive_one_owner_leaving() {
    let live = apply_to(None, &web(json!({"replicas": 2})), "one");
    let live = apply_to(Some(&live), &web(json!({"replicas": 2})), "two");
    assert_eq!(fields(&live, "one"), fields(&live, "two"));
    let live = apply_to(Some(&live), &web(json!({})), "one");
    assert_eq!(live["spec"]["replicas"], 2);
    assert_eq!(fields(&live, "one"), json!({"f:spec": {}}));
    let live = apply_to(Some(&live), &web(json!({})), "two");
    assert_eq!(live["spec"].get("replicas"), None);
}

#[test]
fn a_field_no_longer_applied_is_removed_unless_an_updater_owns_it() {
    let ty = deployment();
    let live = apply_to(None, &web(json!({"replicas": 2, "paused": true})), "me");
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = 5.into();
    let live = update(ty, Some(&live), scaled, "autoscaler", T2, "");
    let live = apply_to(Some(&live), &web(json!({})), "me");
    assert_eq!(live["spec"], json!({"replicas": 5}));
}

#[test]
fn defaults_filled_in_between_belong_to_nobody_and_stay() {
    let live = apply_to(None, &a_pod(json!({"containers": [{"name": "a", "image": "i"}]})), "me");
    let mut defaulted = live.clone();
    defaulted["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    defaulted["spec"]["dnsPolicy"] = "ClusterFirst".into();
    let next = apply_to(Some(&defaulted), &a_pod(json!({"containers": [{"name": "a", "image": "j"}]})), "me");
    assert_eq!(
        next["spec"],
        json!({"dnsPolicy": "ClusterFirst", "containers": [{"name": "a", "image": "j", "imagePullPolicy": "Always"}]})
    );
    // Defaults are no conflict either.
    let other = apply_to(Some(&defaulted), &a_pod(json!({"dnsPolicy": "Default"})), "other");
    assert_eq!(other["spec"]["dnsPolicy"], "Default");
}

#[test]
fn an_item_no_longer_applied_goes_with_all_its_defaults() {
    let two = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let mut live = apply_to(None, &a_pod(two), "me");
    live["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let next = apply_to(Some(&live), &a_pod(json!({"containers": [{"name": "a", "image": "i"}]})), "me");
    assert_eq!(next["spec"], json!({"containers": [{"name": "a", "image": "i"}]}));
}

#[test]
fn an_item_stays_while_anybody_owns_it_less_what_only_the_leaver_owned() {
    let live = apply_to(None, &a_pod(json!({"containers": [{"name": "a", "image": "i", "tty": true}]})), "one");
    let live = apply_to(Some(&live), &a_pod(json!({"containers": [{"name": "a", "stdin": true}]})), "two");
    let live = apply_to(Some(&live), &a_pod(json!({"hostname": "h"})), "one");
    assert_eq!(live["spec"], json!({"hostname": "h", "containers": [{"name": "a", "stdin": true}]}));
}

#[test]
fn managers_add_to_the_same_set_and_map() {
    let with = |labels: Value, finalizers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels, "finalizers": finalizers}});
    let live = apply_to(None, &with(json!({"a": "1"}), json!(["x/a", "x/b"])), "one");
    let live = apply_to(Some(&live), &with(json!({"b": "2"}), json!(["x/b", "x/c"])), "two");
    assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(live["metadata"]["finalizers"], json!(["x/a", "x/b", "x/c"]));
    let live = apply_to(Some(&live), &with(json!({}), json!([])), "one");
    assert_eq!(live["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(live["metadata"]["finalizers"], json!(["x/b", "x/c"]));
}

#[test]
fn atomic_values_are_owned_whole() {
    let live = apply_to(None, &a_pod(json!({"nodeSelector": {"a": "1"}})), "one");
    let error =
        try_apply(Some(&live), &a_pod(json!({"nodeSelector": {"b": "1"}})), "two", false).expect_err("conflict");
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "one": .spec.nodeSelector"#);
    let live = try_apply(Some(&live), &a_pod(json!({"nodeSelector": {"b": "1"}})), "two", true).expect("forced");
    assert_eq!(live["spec"]["nodeSelector"], json!({"b": "1"}));
    assert_eq!(fields(&live, "one"), Value::Null);
}

#[test]
fn list_keys_that_default_identify_the_same_item() {
    let ports = |ports: Value| a_pod(json!({"containers": [{"name": "a", "ports": ports}]}));
    let live = apply_to(None, &ports(json!([{"containerPort": 80}])), "me");
    let mut defaulted = live.clone();
    defaulted["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into();
    let next = apply_to(Some(&defaulted), &ports(json!([{"containerPort": 80, "name": "http"}])), "me");
    assert_eq!(
        next["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}])
    );
    let both = json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]);
    let next = apply_to(Some(&defaulted), &ports(both), "me");
    assert_eq!(next["spec"]["containers"][0]["ports"].as_array().map(Vec::len), Some(2));
}

#[test]
fn merged_lists_keep_the_order_of_both_sides() {
    // live, applied, merged: one letter an item.
    let cases = [
        ("", "ab", "ab"),
        ("ab", "b", "ab"),
        ("ab", "ba", "ba"),
        ("abc", "cb", "acb"),
        ("ab", "cb", "acb"),
        ("a", "bc", "abc"),
        ("abcd", "eca", "becda"),
        ("abcde", "dfb", "acdefb"),
        ("abb", "b", "ab"),
        ("abc", "xbyc", "axbyc"),
        ("abcd", "dxa", "bcdxa"),
        ("abcdef", "fxb", "acdefxb"),
        ("axb", "ba", "xba"),
    ];
    let object = |items: &str| {
        let list: Vec<String> = items.chars().map(String::from).collect();
        json!({"metadata": {"finalizers": list}})
    };
    for (live, applied, merged) in cases {
        let found = merge(pod(), Some(&object(live)), &object(applied)).expect("scalars");
        assert_eq!(found, object(merged), "{live} + {applied}");
    }
}

#[test]
fn applying_again_changes_nothing_not_even_the_time() {
    let applied = a_pod(json!({"containers": [{"name": "a", "image": "i", "env": [{"name": "A", "value": "1"}]}]}));
    let live = apply_to(None, &applied, "me");
    let again = apply(pod(), Some(&live), &applied, &ApplyOptions { now: T2, ..opts("me", "v1") });
    assert_eq!(again, Ok(live));
}

#[test]
fn metadata_that_identifies_is_never_owned() {
    let mut applied = web(json!({}));
    applied["metadata"]["labels"] = json!({"a": "b"});
    let live = apply_to(None, &applied, "me");
    assert_eq!(fields(&live, "me"), json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {}}));
}

#[test]
fn status_is_owned_through_its_subresource_only() {
    let mut applied = web(json!({"replicas": 1}));
    applied["status"] = json!({"replicas": 1});
    let live = apply_to(None, &applied, "me");
    assert_eq!(fields(&live, "me"), json!({"f:spec": {"f:replicas": {}}}));
    let through = ApplyOptions { subresource: "status", ..opts("me", "apps/v1") };
    let live = apply(deployment(), Some(&live), &applied, &through).expect("no conflict");
    let list = live["metadata"]["managedFields"].as_array().expect("entries");
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["subresource"], "status");
    assert_eq!(list[1]["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn an_object_nobody_owned_gets_an_owner_before_it_is_first_applied_to() {
    let live = web(json!({"replicas": 2, "paused": true}));
    let error = try_apply(Some(&live), &web(json!({"replicas": 3})), "me", false).expect_err("a conflict");
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using apps/v1: .spec.replicas"#
    );
    let object = apply_to(Some(&live), &web(json!({"replicas": 2})), "me");
    assert_eq!(fields(&object, "before-first-apply"), json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}));
}

#[test]
fn what_client_side_apply_set_is_no_conflict_for_kubectl() {
    let last = web(json!({"replicas": 2, "paused": true}));
    let mut live = web(json!({"replicas": 2, "paused": false}));
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    let live = update(deployment(), None, live, "kubectl-client-side-apply", T1, "");
    let moved = apply_to(Some(&live), &web(json!({"replicas": 3, "paused": false})), "kubectl");
    assert_eq!(moved["spec"]["replicas"], 3);
    let annotation = moved["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let recorded: Value = serde_json::from_str(annotation.expect("kept")).expect("JSON");
    assert_eq!(recorded["spec"]["replicas"], 3);
    // Somebody changed `paused` since: that is a conflict, and so is everything for other managers.
    let error =
        try_apply(Some(&live), &web(json!({"replicas": 3, "paused": true})), "kubectl", false).expect_err("conflict");
    assert!(error.message.ends_with(".spec.paused"), "{}", error.message);
    assert!(try_apply(Some(&live), &web(json!({"replicas": 3})), "other", false).is_err());
}

#[test]
fn requests_that_cannot_be_applied_are_refused() {
    let mut with_managed = web(json!({}));
    with_managed["metadata"]["managedFields"] = json!([]);
    let cases = [
        (with_managed, "metadata.managedFields must be nil".to_owned()),
        (
            json!({"apiVersion": "apps/v2", "kind": "Deployment"}),
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, expected: apps/v1".into(),
        ),
        (
            web(json!({"size": 1})),
            "failed to create typed patch object (d/web; apps/v1, Kind=Deployment): .spec.size: field not declared in schema"
                .into(),
        ),
        (
            web(json!({"template": {"spec": {"containers": [{"name": "a", "image": 1}, {"name": "a"}]}}})),
            "failed to create typed patch object (d/web; apps/v1, Kind=Deployment): errors:\n  \
             .spec.template.spec.containers[name=\"a\"].image: expected string, got 1\n  \
             .spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
                .into(),
        ),
    ];
    for (applied, message) in cases {
        let error = apply(deployment(), None, &applied, &opts("me", "apps/v1")).expect_err("refused");
        assert_eq!((error.code, error.message), (400, message));
    }
}

#[test]
fn an_explicit_null_owns_the_field_and_leaves_it_unset() {
    let live = apply_to(None, &web(json!({"replicas": null})), "me");
    assert_eq!(live["spec"], json!({}));
    assert_eq!(fields(&live, "me"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn moving_to_an_empty_configuration_gives_everything_up() {
    let live = apply_to(None, &a_pod(json!({"hostname": "h", "containers": [{"name": "a"}]})), "me");
    let empty = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}});
    let live = apply_to(Some(&live), &empty, "me");
    assert_eq!(live, empty);
}

#[test]
fn custom_resources_merge_by_their_own_schema() {
    let root = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
    }}}});
    let names = crate::schema::StructuralOptions {
        group: "example.com",
        version: "v1",
        kind: "Widget",
        status_subresource: false,
    };
    let schema = crate::schema::Schema::from_structural(&root, names);
    let ty = schema.kind("example.com", "v1", "Widget").expect("the kind is there");
    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "labels": {"a": "b"}}, "spec": spec});
    let first = widget(json!({"free": {"a": {"x": 1}, "l": [1]}, "parts": [{"id": "p", "n": 1}]}));
    let live = apply(ty, None, &first, &opts("one", "example.com/v1")).expect("no conflict");
    let second = widget(json!({"free": {"a": {"y": 2}}, "parts": [{"id": "q", "n": 2}]}));
    let live = apply(ty, Some(&live), &second, &opts("two", "example.com/v1")).expect("no conflict");
    assert_eq!(
        live["spec"],
        json!({"free": {"a": {"x": 1, "y": 2}, "l": [1]}, "parts": [{"id": "p", "n": 1}, {"id": "q", "n": 2}]})
    );
    let error = apply(ty, Some(&live), &widget(json!({"free": {"l": [2]}})), &opts("two", "example.com/v1"));
    assert_eq!(
        error.expect_err("a conflict").message,
        r#"Apply failed with 1 conflict: conflict with "one": .spec.free.l"#
    );
}
