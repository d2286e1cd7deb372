//! Fields that no schema knows, and fields that are there twice.

use crate::common::*;
use serde_json::{Value, json};

const NOXUS: &str = "/apis/mygroup.example.com/v1beta1/noxus";

/// What a spec of the definition holds.
fn spec() -> Value {
    json!({"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {
            "type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "x-kubernetes-list-type": "map",
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"format": "int32", "type": "integer"}, "hostIP": {"type": "string"},
                "hostPort": {"format": "int32", "type": "integer"}, "name": {"type": "string"},
                "protocol": {"type": "string"},
            }},
        },
    }})
}

/// A cluster-scoped kind in two versions with this schema.
async fn defined(admin: &Client, schema: &Value) {
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "noxus.mygroup.example.com"},
        "spec": {
            "group": "mygroup.example.com", "scope": "Cluster",
            "names": {"plural": "noxus", "singular": "nonenglishnoxu", "kind": "WishIHadChosenNoxu",
                "shortNames": ["foo", "bar", "abc", "def"], "listKind": "NoxuItemList"},
            "versions": [version("v1beta1", true), version("v1beta2", false)],
        },
    });
    established(admin, &definition).await;
}

/// Applies an object in YAML: lines below `metadata`, at the root, and at the beginning of the spec.
async fn apply(admin: &Client, metadata: &str, root: &str, spec: &str) -> Answer {
    let body = format!(
        "\napiVersion: mygroup.example.com/v1beta1\nkind: WishIHadChosenNoxu\nmetadata:\n  name: mytest\n{metadata}{root}spec:\n{spec}  \
         cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP"
    );
    let path = format!("{NOXUS}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict");
    admin.send("PATCH", &path, "application/apply-patch+yaml", body).await
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

// conformance: [sig-api-machinery] FieldValidation should detect unknown and duplicate fields of a typed object
// conformance: [sig-api-machinery] FieldValidation should detect unknown metadata fields of a typed object
#[tokio::test]
async fn typed_objects_are_refused_for_unknown_and_repeated_fields() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (metadata, spec, wanted) in [
        (
            "",
            r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#,
            r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#,
        ),
        (r#""unknownMeta": "foo","#, "", r#"strict decoding error: unknown field "metadata.unknownMeta""#),
    ] {
        let body = format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {{"name": "my-dep", {metadata} "labels": {{"app": "nginx"}}}},
            "spec": {{{spec} "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{
                "metadata": {{"labels": {{"app": "nginx"}}}},
                "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}
            }}}}}}"#
        );
        let strict = format!("{DEPLOYMENTS}?fieldManager=field_validation_mgr&fieldValidation=Strict");
        let refused = admin.send("POST", &strict, "application/json", body).await;
        assert!(refused.code == 400 && message(&refused).contains(wanted), "{}", refused.body);
        assert_eq!(admin.get(&format!("{DEPLOYMENTS}/my-dep")).await.code, 404);
    }
}

// conformance: [sig-api-machinery] FieldValidation should create/apply a valid CR for CRD with validation schema
// conformance: [sig-api-machinery] FieldValidation should create/apply an invalid CR with extra properties for CRD with validation schema
#[tokio::test]
async fn a_schema_takes_what_it_declares_and_nothing_else() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    defined(&admin, &json!({"type": "object", "properties": {"spec": spec()}})).await;
    let refused = apply(&admin, "", "unknownField: unknown\n", "  foo: foo1\n").await;
    assert!(message(&refused).contains(".unknownField: field not declared in schema"), "{}", refused.body);
    assert_eq!(admin.get(&format!("{NOXUS}/mytest")).await.code, 404);
    let made = apply(&admin, "", "", "  foo: foo1\n").await;
    assert_eq!((made.code, &made.body["spec"]["foo"]), (201, &json!("foo1")), "{}", made.body);
    let created = json!({"apiVersion": "mygroup.example.com/v1beta1", "kind": "WishIHadChosenNoxu",
        "metadata": {"name": "created"}, "unknownField": "unknown", "spec": {"foo": "foo1"}});
    let strict = format!("{NOXUS}?fieldValidation=Strict");
    let refused = admin.post(&strict, &created).await;
    assert!(refused.code == 400 && message(&refused).contains(r#"unknown field "unknownField""#), "{}", refused.body);
    let mut known = created;
    known.as_object_mut().unwrap().remove("unknownField");
    assert_eq!(admin.post(&strict, &known).await.code, 201);
}

// conformance: [sig-api-machinery] FieldValidation should create/apply a CR with unknown fields for CRD with no validation schema
#[tokio::test]
async fn without_a_schema_any_field_is_taken() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    defined(&admin, &json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})).await;
    let made = apply(&admin, "", "", "  unknown: uk1\n").await;
    assert_eq!((made.code, &made.body["spec"]["unknown"]), (201, &json!("uk1")), "{}", made.body);
    let object = json!({"apiVersion": "mygroup.example.com/v1beta1", "kind": "WishIHadChosenNoxu",
        "metadata": {"name": "created"}, "spec": {"unknown": "uk1"}});
    let made = admin.post(&format!("{NOXUS}?fieldValidation=Strict"), &object).await;
    assert_eq!((made.code, &made.body["spec"]["unknown"]), (201, &json!("uk1")), "{}", made.body);
}

// conformance: [sig-api-machinery] FieldValidation should detect unknown metadata fields in both the root and embedded object of a CR
#[tokio::test]
async fn metadata_has_no_fields_of_its_own_making_at_the_root_and_in_embedded_objects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut spec = spec();
    spec["x-kubernetes-preserve-unknown-fields"] = true.into();
    spec["properties"]["template"] = json!({
        "type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}},
    });
    defined(&admin, &json!({"type": "object", "properties": {"spec": spec}})).await;
    let template = |meta: &str| {
        format!(
            "  template:\n    apiVersion: foo/v1\n    kind: Sub\n    metadata:\n{meta}      name: subobject\n      \
             namespace: default\n  foo: foo1\n"
        )
    };
    let (root, sub) = ("  unknownMeta: unknown\n", "      unknownSubMeta: unknown\n");
    let (of_root, of_sub) = (".metadata.unknownMeta", ".spec.template.metadata.unknownSubMeta");
    for (root, sub, wanted) in [(root, "", of_root), ("", sub, of_sub), (root, sub, of_root)] {
        let refused = apply(&admin, root, "", &template(sub)).await;
        let wanted = format!("{wanted}: field not declared in schema");
        assert!(refused.code >= 400 && message(&refused).contains(&wanted), "{wanted}: {}", refused.body);
    }
    let made = apply(&admin, "", "", &template("      creationTimestamp: null\n")).await;
    assert_eq!((made.code, &made.body["spec"]["template"]["metadata"]["name"]), (201, &json!("subobject")));
    let created = json!({"apiVersion": "mygroup.example.com/v1beta1", "kind": "WishIHadChosenNoxu",
        "metadata": {"name": "created", "unknownMeta": "unknown"}, "spec": {"template": {
            "apiVersion": "foo/v1", "kind": "Sub", "metadata": {"name": "s", "unknownSubMeta": "unknown"}}}});
    let refused = admin.post(&format!("{NOXUS}?fieldValidation=Strict"), &created).await;
    let wanted = r#"unknown field "metadata.unknownMeta", unknown field "spec.template.metadata.unknownSubMeta""#;
    assert!(refused.code == 400 && message(&refused).contains(wanted), "{}", refused.body);
}

// conformance: [sig-api-machinery] FieldValidation should detect duplicates in a CR when preserving unknown fields
#[tokio::test]
async fn repeated_fields_are_refused_where_unknown_ones_are_kept() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut spec = spec();
    spec["x-kubernetes-preserve-unknown-fields"] = true.into();
    defined(&admin, &json!({"type": "object", "properties": {"spec": spec}})).await;
    let refused = apply(&admin, "", "", "  unknown: uk1\n  foo: foo1\n  foo: foo2\n").await;
    assert!(message(&refused).contains("line 9: key \"foo\" already set in map"), "{}", refused.body);
    let kept = apply(&admin, "", "", "  unknown: uk1\n  foo: foo1\n").await;
    assert_eq!((kept.code, &kept.body["spec"]["unknown"]), (201, &json!("uk1")));
}
