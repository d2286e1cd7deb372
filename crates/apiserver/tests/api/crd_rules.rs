//! Custom resources: rules, field validation, defaults and the status of definitions, as clients meet them.

use crate::common::{CRDS, Cluster, established};
use serde_json::{Value, json};

const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn definition(schema: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn thing(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn rules_hold_and_end_when_they_take_too_long() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ints = |max: u32| json!({"type": "array", "maxItems": max, "items": {"type": "integer"}});
    let schema = json!({"type": "object", "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.x + self.y > 0"},
                {"rule": "self.firstArray.isSorted() && self.secondArray.isSorted() && ((self.firstArray.sum() + self.secondArray.sum()) % 2 == 0)"},
                {"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"},
            ],
            "properties": {
                "x": {"type": "integer"}, "y": {"type": "integer"},
                "firstArray": ints(1000), "secondArray": ints(1000), "largeArray": ints(725),
            },
        },
    }});
    established(&admin, &definition(&schema)).await;
    let mut spec = json!({"x": 1, "y": 0, "firstArray": [3, 4], "secondArray": [5, 10], "largeArray": [2, 2]});
    admin.create(THINGS, &thing("good", &spec)).await;
    let bad = admin.post(THINGS, &thing("bad", &json!({"x": 0, "y": 0}))).await;
    let message = bad.body["message"].as_str().unwrap();
    assert!(bad.code == 422 && message.contains("failed rule: self.x + self.y > 0"), "{message}");
    spec["largeArray"] = json!(vec![20; 725]);
    let slow = admin.post(THINGS, &thing("slow", &spec)).await;
    let message = slow.body["message"].as_str().unwrap();
    assert!(slow.code == 422 && message.contains("call cost exceeds limit"), "{message}");
}

#[tokio::test]
async fn rules_that_cannot_be_compiled_or_afforded_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = |rule: &str| {
        json!({"type": "object", "properties": {"spec": {
            "type": "object", "x-kubernetes-validations": [{"rule": rule}], "properties": {"x": {"type": "integer"}},
        }}})
    };
    let deep = json!({"type": "object", "properties": {"x": {"type": "array", "items": {
        "type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}],
    }}}});
    for (schema, wanted) in
        [(spec("self.z == 100"), "undefined field 'z'"), (spec("self = 42"), "Syntax error"), (deep, "exceeds budget")]
    {
        let refused = admin.post(CRDS, &definition(&schema)).await;
        let message = refused.body["message"].as_str().unwrap();
        assert!(refused.code == 422 && message.contains(wanted), "{wanted}: {message}");
    }
}

#[tokio::test]
async fn transition_rules_see_the_old_value_and_unchanged_values_pass_stricter_schemas() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let number = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]});
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": {"num": number, "text": {"type": "string"}},
    }}});
    established(&admin, &definition(&schema)).await;
    let one = format!("{THINGS}/a");
    admin.create(THINGS, &thing("a", &json!({"num": 10, "text": "long"}))).await;
    let back = admin.patch(&one, "merge", &json!({"spec": {"num": 9}})).await;
    assert!(back.code == 422 && back.body["message"].as_str().unwrap().contains("failed rule: self > oldSelf"));
    let stricter = json!([{
        "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/text/maxLength", "value": 1,
    }]);
    assert_eq!(admin.patch(&format!("{CRDS}/things.example.com"), "json", &stricter).await.code, 200);
    assert_eq!(admin.patch(&one, "merge", &json!({"spec": {"num": 11}})).await.code, 200);
    assert_eq!(admin.patch(&one, "merge", &json!({"spec": {"num": 12, "text": "also long"}})).await.code, 422);
}

#[tokio::test]
async fn apply_refuses_fields_that_no_schema_declares_and_keys_set_twice() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {
            "type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "x-kubernetes-list-type": "map",
            "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                "containerPort": {"format": "int32", "type": "integer"}, "name": {"type": "string"}, "protocol": {"type": "string"},
            }},
        },
    }}}});
    established(&admin, &definition(&schema)).await;
    let apply = async |top: &str, metadata: &str, spec: &str| {
        let body = format!(
            "\napiVersion: example.com/v1\nkind: Thing\nmetadata:\n  name: mytest{metadata}{top}\nspec:\n  foo: foo1{spec}\n  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP"
        );
        let path = format!("{THINGS}/mytest?fieldManager=m&fieldValidation=Strict");
        admin.send("PATCH", &path, "application/apply-patch+yaml", body).await
    };
    assert_eq!(apply("", "", "").await.code, 201);
    for (top, metadata, spec, code, wanted) in [
        ("\nunknownField: unknown", "", "", 500, ".unknownField: field not declared in schema"),
        ("", "\n  unknownMeta: unknown", "", 500, ".metadata.unknownMeta: field not declared in schema"),
        ("", "", "\n  foo: foo2", 400, "line 8: key \"foo\" already set in map"),
    ] {
        let refused = apply(top, metadata, spec).await;
        let message = refused.body["message"].as_str().unwrap();
        assert!(refused.code == code && message.contains(wanted), "{message}");
    }
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut other = definition(&open);
    other["metadata"]["name"] = "frees.example.com".into();
    other["spec"]["names"] = json!({"plural": "frees", "kind": "Free"});
    established(&admin, &other).await;
    let path = "/apis/example.com/v1/namespaces/default/frees/a?fieldManager=m&fieldValidation=Strict";
    let free = json!({"apiVersion": "example.com/v1", "kind": "Free", "metadata": {"name": "a"}, "spec": {"any": [1]}});
    assert_eq!(admin.patch(path, "apply", &free).await.code, 201);
}

// conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] custom resource defaulting for requests and from storage works
#[tokio::test]
async fn defaults_are_filled_in_on_requests_and_on_reads() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let text = json!({"type": "string"});
    established(&admin, &definition(&json!({"type": "object", "properties": {"a": text, "b": text}}))).await;
    let bare = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}});
    admin.create(THINGS, &bare("one")).await;
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let name = format!("{CRDS}/things.example.com");
    let patch = json!([{"op": "add", "path": format!("{properties}/a/default"), "value": "A"}]);
    assert_eq!(admin.patch(&name, "json", &patch).await.code, 200);
    assert_eq!(admin.get(&format!("{THINGS}/one")).await.body["a"], "A");
    assert_eq!(admin.create(THINGS, &bare("two")).await["a"], "A");
    let patch = json!([
        {"op": "remove", "path": format!("{properties}/a/default")},
        {"op": "add", "path": format!("{properties}/b/default"), "value": "B"},
    ]);
    assert_eq!(admin.patch(&name, "json", &patch).await.code, 200);
    let two = admin.get(&format!("{THINGS}/two")).await.body;
    assert_eq!((&two["a"], &two["b"]), (&json!("A"), &json!("B")));
    // Only read, never written: without the default there is no value any more.
    let one = admin.get(&format!("{THINGS}/one")).await.body;
    assert_eq!((&one["a"], &one["b"]), (&Value::Null, &json!("B")));
    // What a schema no longer has is not shown, and is there again when it has.
    let field = json!([{"op": "remove", "path": format!("{properties}/a")}]);
    assert_eq!(admin.patch(&name, "json", &field).await.code, 200);
    assert_eq!(admin.get(&format!("{THINGS}/two")).await.body["a"], Value::Null);
    let field = json!([{"op": "add", "path": format!("{properties}/a"), "value": {"type": "string"}}]);
    assert_eq!(admin.patch(&name, "json", &field).await.code, 200);
    assert_eq!(admin.get(&format!("{THINGS}/two")).await.body["a"], "A");
}

// conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works
#[tokio::test]
async fn the_status_of_a_definition_is_read_updated_and_patched_by_itself() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition(&json!({"type": "object"}))).await;
    let path = format!("{CRDS}/things.example.com/status");
    let spec = admin.get(&format!("{CRDS}/things.example.com")).await.body["spec"].take();
    assert_eq!(admin.get(&path).await.body["spec"], spec);
    let added = json!({"message": "updated", "type": "", "status": "", "lastTransitionTime": null});
    let updated = loop {
        let mut whole = admin.get(&path).await.body;
        whole["status"]["conditions"].as_array_mut().unwrap().push(added.clone());
        whole["spec"]["group"] = "ignored.example.com".into();
        let updated = admin.put(&path, &whole).await;
        if updated.code != 409 {
            break updated;
        }
    };
    assert_eq!((updated.code, &updated.body["spec"]["group"]), (200, &json!("example.com")), "{}", updated.body);
    let says = |body: &Value, words: &str| {
        body["status"]["conditions"].as_array().unwrap().iter().any(|c| c["message"] == words)
    };
    assert!(says(&updated.body, "updated"), "{}", updated.body);
    assert!(says(&admin.get(&path).await.body, "updated"));
    let patch = json!([{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]);
    let patched = admin.patch(&path, "json", &patch).await;
    assert!(patched.code == 200 && says(&patched.body, "patched"), "{}", patched.body);
    assert!(says(&admin.get(&path).await.body, "patched"));
}

#[tokio::test]
async fn definitions_are_deleted_by_their_labels() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for i in 0..3 {
        let mut one = definition(&json!({"type": "object"}));
        one["metadata"] = json!({"name": format!("things{i}.example.com")});
        if i < 2 {
            one["metadata"]["labels"] = json!({"batch": "yes"});
        }
        one["spec"]["names"] = json!({"plural": format!("things{i}"), "kind": format!("Thing{i}")});
        established(&admin, &one).await;
    }
    let selected = format!("{CRDS}?labelSelector=batch%3Dyes");
    assert_eq!(admin.get(&selected).await.body["items"].as_array().unwrap().len(), 2);
    let revision = admin.get(CRDS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = admin.watch(&format!("{CRDS}?watch=true&resourceVersion={revision}")).await;
    assert_eq!(admin.delete(&selected).await.code, 200);
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let (word, name) = watch.brief().await;
        if word == "DELETED" {
            gone.push(name);
        }
    }
    let left = admin.get(CRDS).await.body;
    let names: Vec<&Value> = left["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["things2.example.com"]);
}
