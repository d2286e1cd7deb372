//! Models of custom resources in `/openapi/v2`, and what kubectl makes of them.

use crate::common::*;
use crate::kubectl::{Kubectl, kubectl};
use serde_json::{Value, json};

fn foo() -> Value {
    let text = |description: &str| json!({"description": description, "type": "string"});
    json!({
        "description": "Foo CRD for Testing", "type": "object",
        "properties": {
            "spec": {"type": "object", "description": "Specification of Foo", "properties": {"bars": {
                "description": "List of Bars and their specs.", "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": text("Name of Bar."), "age": text("Age of Bar."),
                    "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
                    "bazs": {"description": "List of Bazs.", "items": {"type": "string"}, "type": "array"},
                }},
            }}},
            "status": {"description": "Status of Foo", "type": "object", "properties": {"bars": {
                "description": "List of Bars and their statuses.", "type": "array",
                "items": {"type": "object", "properties": {
                    "name": text("Name of Bar."),
                    "available": {"description": "Whether the Bar is installed.", "type": "boolean"},
                    "quxType": {
                        "description": "Indicates to external qux type.", "pattern": "in-tree|out-of-tree", "type": "string",
                    },
                }},
            }}},
        },
    })
}

fn waldo() -> Value {
    json!({
        "description": "Waldo CRD for Testing", "type": "object",
        "properties": {
            "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
                "dummy": {"description": "Dummy property.", "type": "object"},
            }},
            "status": {"description": "Status of Waldo", "type": "object", "properties": {"bars": {
                "description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"},
            }}},
        },
    })
}

/// Kind `E2eFoo` of this group in these versions; the first is stored.
fn definition(name: &str, group: &str, versions: &[&str], schema: &Value) -> Value {
    let version = |(i, name): (usize, &&str)| json!({"name": name, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": schema}});
    let versions: Vec<Value> = versions.iter().enumerate().map(version).collect();
    let plural = format!("e2e-{name}s");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}.example.com")},
        "spec": {
            "group": format!("{group}.example.com"), "scope": "Namespaced", "versions": versions,
            "names": {"plural": plural, "singular": format!("e2e-{name}"), "kind": format!("E2e{name}"),
                "listKind": format!("E2e{name}List")},
        },
    })
}

/// The model without what the server adds to each; null where there is none.
async fn model(admin: &Client, group: &str, version: &str, name: &str) -> Value {
    let mut document = admin.get("/openapi/v2").await.body;
    let mut model = document["definitions"][format!("com.example.{group}.{version}.E2e{name}")].take();
    if let Some(fields) = model.as_object_mut() {
        let kind = json!([{"group": format!("{group}.example.com"), "kind": format!("E2e{name}"), "version": version}]);
        assert_eq!(fields.remove("x-kubernetes-group-version-kind"), Some(kind));
        if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
            for added in ["apiVersion", "kind", "metadata"] {
                assert!(properties.remove(added).is_some(), "{added} of {name}");
            }
        }
    }
    model
}

async fn removed(admin: &Client, name: &str) {
    let from = admin.get(CRDS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = admin.watch(&format!("{CRDS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(admin.delete(&format!("{CRDS}/{name}")).await.code, 200);
    while watch.next().await.unwrap()["type"] != "DELETED" {}
}

// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of different groups
// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group but different versions
// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group and version but different kinds
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_version_and_kind_has_a_model_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // Kind, group, version: two groups; two versions of a group; two kinds of a version.
    let foos: [(&str, &[&str]); 3] = [("foo", &["v1"]), ("common", &["v4", "v2", "v3"]), ("same", &["v6"])];
    let waldos: [(&str, &[&str]); 3] = [("waldo", &["v1beta1"]), ("common", &["v5"]), ("same", &["v6"])];
    for (group, versions) in foos {
        established(&admin, &definition("foo", group, versions, &foo())).await;
    }
    for (group, versions) in waldos {
        established(&admin, &definition("waldo", group, versions, &waldo())).await;
    }
    for (kinds, name, schema) in [(foos, "foo", foo()), (waldos, "waldo", waldo())] {
        for (group, versions) in kinds {
            for version in versions {
                assert_eq!(model(&admin, group, version, name).await, schema, "{group} {version} {name}");
            }
        }
    }
    removed(&admin, "e2e-foos.same.example.com").await;
    assert_eq!(model(&admin, "same", "v6", "foo").await, Value::Null);
    assert_eq!(model(&admin, "same", "v6", "waldo").await, waldo());
}

// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] updates the published spec when one version gets renamed
// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] removes definition from spec when one version gets changed to not be served
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_follow_versions_that_are_renamed_or_no_longer_served() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition("foo", "multi", &["v2", "v3"], &foo())).await;
    for version in ["v2", "v3"] {
        assert_eq!(model(&admin, "multi", version, "foo").await, foo());
    }
    let one = format!("{CRDS}/e2e-foos.multi.example.com");
    let rename = json!([
        {"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"},
    ]);
    let renamed = admin.patch(&one, "json", &rename).await;
    assert_eq!(renamed.code, 200, "{}", renamed.body);
    for (version, schema) in [("v4", foo()), ("v3", Value::Null), ("v2", foo())] {
        assert_eq!(model(&admin, "multi", version, "foo").await, schema, "{version}");
    }
    loop {
        let mut object = admin.get(&one).await.body;
        object["spec"]["versions"][1]["served"] = false.into();
        let updated = admin.put(&one, &object).await;
        if updated.code != 409 {
            assert_eq!(updated.code, 200, "{}", updated.body);
            break;
        }
    }
    for (version, schema) in [("v4", Value::Null), ("v2", foo())] {
        assert_eq!(model(&admin, "multi", version, "foo").await, schema, "{version}");
    }
}

fn object(group: &str, name: &str, rest: &str) -> String {
    format!(
        r#"{{"kind":"E2e{name}","apiVersion":"{group}.example.com/v1","metadata":{{"name":"test-{name}"}},{rest}}}"#
    )
}

/// kubectl creates and applies the object, and deletes it each time.
async fn taken(k: &Kubectl, name: &str, object: &str) {
    for verb in ["create", "apply"] {
        k.ok_in(&[verb, "-f", "-"], object).await;
        k.ok_in(&["delete", &format!("e2e-{name}s"), &format!("test-{name}")], "").await;
    }
}

/// Each of these comes after the one before.
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} of {parts:?} is missing in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD with validation schema
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_checks_and_explains_what_a_schema_says() {
    let Some(k) = kubectl().await else { return };
    let admin = k.cluster.admin();
    established(&admin, &definition("foo", "foo", &["v1"], &foo())).await;
    assert_eq!(model(&admin, "foo", "v1", "foo").await, foo());
    taken(&k, "foo", &object("foo", "foo", r#""spec":{"bars":[{"name":"test-bar"}]}"#)).await;
    for (spec, wanted) in [
        (r#"{"bars":[{"name":"test-bar","feeling":"NonExistentValue"}]}"#, r#"Unsupported value: "NonExistentValue""#),
        (r#"{"foo":true}"#, r#"unknown field "spec.foo""#),
        (r#"{"bars":[{"age":"10"}]}"#, "spec.bars[0].name: Required value"),
    ] {
        for verb in ["create", "apply"] {
            let error = k.fails(&[verb, "-f", "-"], &object("foo", "foo", &format!(r#""spec":{spec}"#))).await;
            assert!(error.contains(wanted), "{verb} {spec}: {error}");
        }
    }
    let cases: [(&str, &[&str]); 4] = [
        (
            "e2e-foos",
            &[
                "DESCRIPTION:",
                "Foo CRD for Testing",
                "FIELDS:",
                "apiVersion",
                "<string>",
                "APIVersion defines",
                "spec",
                "<Object>",
                "Specification of Foo",
            ],
        ),
        (
            "e2e-foos.metadata",
            &[
                "DESCRIPTION:",
                "Standard object's metadata",
                "FIELDS:",
                "creationTimestamp",
                "<string>",
                "CreationTimestamp is a timestamp",
            ],
        ),
        (
            "e2e-foos.spec",
            &["DESCRIPTION:", "Specification of Foo", "FIELDS:", "bars", "<[]Object>", "List of Bars and their specs"],
        ),
        (
            "e2e-foos.spec.bars",
            &[
                "FIELD",
                "bars",
                "<[]Object>",
                "DESCRIPTION:",
                "List of Bars and their specs",
                "FIELDS:",
                "bazs",
                "<[]string>",
                "List of Bazs",
                "name",
                "<string>",
                "Name of Bar",
            ],
        ),
    ];
    for (path, parts) in cases {
        in_order(&k.ok_in(&["explain", path], "").await, parts);
    }
    let error = k.fails(&["explain", "e2e-foos.spec.bars2"], "").await;
    assert!(error.contains(r#"field "bars2" does not exist"#), "{error}");
}

// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD without validation schema
// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields at the schema root
// conformance: [sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields in an embedded object
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_lets_pass_what_a_schema_leaves_open() {
    let Some(k) = kubectl().await else { return };
    let admin = k.cluster.admin();
    let open = "x-kubernetes-preserve-unknown-fields";
    let empty = json!({"type": "object", open: true});
    let mut root = waldo();
    root[open] = true.into();
    root["description"] = "preserve-unknown-properties at root for Testing".into();
    let mut nested = waldo();
    nested["properties"]["spec"][open] = true.into();
    nested["description"] = "preserve-unknown-properties in nested field for Testing".into();
    let any = r#""a":{"b":[{"c":"d"}]}"#;
    let cases: [(&str, &Value, &str, &[&str]); 3] = [
        ("empty", &empty, any, &["DESCRIPTION:", "<empty>"]),
        ("root", &root, any, &["KIND:", "E2eroot"]),
        (
            "nested",
            &nested,
            r#""spec":{"a":null,"b":[{"c":"d"}]}"#,
            &["DESCRIPTION:", "preserve-unknown-properties in nested field for Testing"],
        ),
    ];
    for (name, schema, fields, explained) in cases {
        established(&admin, &definition(name, name, &["v1"], schema)).await;
        taken(&k, name, &object(name, name, fields)).await;
        in_order(&k.ok_in(&["explain", &format!("e2e-{name}s")], "").await, explained);
    }
    assert_eq!(model(&admin, "empty", "v1", "empty").await, json!({"type": "object"}));
}
