//! Definitions of custom resources as objects: made, watched, listed, removed; and what their objects' watchers see.

use crate::common::*;
use serde_json::{Value, json};

const NOXUS: &str = "/apis/mygroup.example.com/v1/noxus";

fn definition(plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.mygroup.example.com")},
        "spec": {
            "group": "mygroup.example.com", "scope": "Cluster",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}],
        },
    })
}

fn noxu(name: &str) -> Value {
    json!({"apiVersion": "mygroup.example.com/v1", "kind": "Noxu", "metadata": {"name": name}, "content": {"key": "value"}})
}

// conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition creating/deleting custom resource definition objects works
#[tokio::test]
async fn a_definition_is_made_watched_changed_and_removed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let from = admin.get(CRDS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = admin.watch(&format!("{CRDS}?watch=1&resourceVersion={from}")).await;
    let made = established(&admin, &definition("noxus", "Noxu")).await;
    assert_eq!(made["status"]["acceptedNames"]["kind"], "Noxu");
    let one = format!("{CRDS}/noxus.mygroup.example.com");
    assert_eq!(admin.get(&one).await.body["metadata"]["uid"], made["metadata"]["uid"]);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(admin.patch(&one, "merge", &label).await.code, 200);
    assert_eq!(admin.delete(&one).await.code, 200);
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|last| last != "DELETED") {
        let (word, name) = watch.brief().await;
        assert_eq!(name, "noxus.mygroup.example.com");
        seen.push(word);
    }
    assert_eq!((seen[0].as_str(), seen[1].as_str()), ("ADDED", "MODIFIED"));
    assert_eq!(admin.get(&one).await.code, 404);
    assert_eq!(admin.get(NOXUS).await.code, 404);
}

// conformance: [sig-api-machinery] CustomResourceDefinition Watch [Privileged:ClusterAdmin] CustomResourceDefinition Watch watch on custom resource definition objects
#[tokio::test]
async fn a_watch_of_one_custom_object_sees_its_life_and_no_other() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition("noxus", "Noxu")).await;
    let watch = async |name: &str| {
        admin.watch(&format!("{NOXUS}?watch=1&fieldSelector=metadata.name%3D{name}&timeoutSeconds=600")).await
    };
    let (mut first, mut second) = (watch("name1").await, watch("name2").await);
    for name in ["name1", "name2"] {
        admin.create(NOXUS, &noxu(name)).await;
    }
    for name in ["name1", "name2"] {
        let patch = json!([{"op": "add", "path": "/dummy", "value": "test"}]);
        let patched = admin.patch(&format!("{NOXUS}/{name}"), "json", &patch).await;
        assert_eq!((patched.code, &patched.body["dummy"]), (200, &json!("test")));
    }
    for name in ["name1", "name2"] {
        assert_eq!(admin.delete(&format!("{NOXUS}/{name}")).await.code, 200);
    }
    // Each has its own three events one after the other: nothing of the other is between them.
    for (name, watch) in [("name1", &mut first), ("name2", &mut second)] {
        for (word, dummy) in [("ADDED", Value::Null), ("MODIFIED", json!("test")), ("DELETED", json!("test"))] {
            let event = watch.next().await.unwrap();
            assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(word), &json!(name)));
            assert_eq!((&event["object"]["dummy"], &event["object"]["content"]["key"]), (&dummy, &json!("value")));
        }
    }
}

// conformance: [sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition listing custom resource definition objects works
#[tokio::test]
async fn ten_labelled_definitions_are_listed_and_removed_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut specs = std::collections::BTreeMap::new();
    for i in 0..10 {
        let mut one = definition(&format!("many{i}s"), &format!("Many{i}"));
        one["metadata"]["labels"] = json!({"e2e-list-test-uuid": "x"});
        let mut made = established(&admin, &one).await;
        specs.insert(made["metadata"]["name"].to_string(), made["spec"].take());
    }
    established(&admin, &definition("others", "Other")).await;
    let selected = format!("{CRDS}?labelSelector=e2e-list-test-uuid%3Dx");
    let list = admin.get(&selected).await.body;
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 10);
    for item in items {
        assert_eq!(specs.get(&item["metadata"]["name"].to_string()), Some(&item["spec"]));
    }
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = admin.watch(&format!("{CRDS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(admin.delete(&selected).await.code, 200);
    let mut left = 10;
    while left > 0 {
        let (word, name) = watch.brief().await;
        assert_ne!(name, "others.mygroup.example.com");
        left -= usize::from(word == "DELETED");
    }
    let list = admin.get(CRDS).await.body;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert_eq!(names, ["others.mygroup.example.com"]);
}
