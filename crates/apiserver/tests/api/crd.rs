//! CustomResourceDefinitions and their objects.

use crate::common::{CRDS, Cluster, established};
use serde_json::{Value, json};

const BACKUPS: &str = "/apis/example.com/v1/namespaces/default/backups";

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}],
        "selectableFields": [{"jsonPath": ".spec.schedule"}],
        "schema": {"openAPIV3Schema": {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["schedule"],
                    "properties": {
                        "schedule": {"type": "string"},
                        "replicas": {"type": "integer", "maximum": 5, "default": 2},
                        "targets": {
                            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}}},
                        },
                    },
                    "x-kubernetes-validations": [{"rule": "self.schedule != 'never'", "message": "it must happen"}],
                },
                "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}},
            },
        }},
    })
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "backups.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "backups", "kind": "Backup", "shortNames": ["bk"]},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    })
}

fn backup(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Backup", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn objects_of_a_definition_are_objects_like_others() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get(BACKUPS).await.code, 404);
    established(&admin, &definition()).await;
    let made = admin.create(BACKUPS, &backup("a", &json!({"schedule": "daily", "extra": 1}))).await;
    assert_eq!(made["spec"], json!({"schedule": "daily", "replicas": 2}));
    assert_eq!(made["metadata"]["generation"], 1);
    let list = admin.get(BACKUPS).await.body;
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("BackupList"), 1));

    let bad = admin.post(BACKUPS, &backup("b", &json!({"schedule": "x", "replicas": 9}))).await;
    assert_eq!(bad.code, 422);
    assert_eq!(
        bad.body["message"],
        "Backup.example.com \"b\" is invalid: spec.replicas: Invalid value: 9: spec.replicas in body should be less than or equal to 5"
    );
    let rule = admin.post(BACKUPS, &backup("b", &json!({"schedule": "never"}))).await;
    assert_eq!(
        rule.body["message"],
        "Backup.example.com \"b\" is invalid: spec: Invalid value: \"object\": it must happen"
    );
    let strict =
        admin.post(&format!("{BACKUPS}?fieldValidation=Strict"), &backup("b", &json!({"schedule": "x", "y": 1}))).await;
    assert_eq!(strict.code, 400);
    assert!(strict.body["message"].as_str().unwrap().contains("unknown field \"spec.y\""), "{}", strict.body);

    let patched = admin.patch(&format!("{BACKUPS}/a"), "merge", &json!({"spec": {"schedule": "weekly"}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(admin.patch(&format!("{BACKUPS}/a"), "strategic", &json!({})).await.code, 415);
    let status = admin
        .patch(
            &format!("{BACKUPS}/a/status"),
            "merge",
            &json!({"status": {"replicas": 2, "selector": "a=b"}, "spec": {"schedule": "no"}}),
        )
        .await;
    assert_eq!((&status.body["status"]["replicas"], &status.body["spec"]["schedule"]), (&json!(2), &json!("weekly")));
    assert_eq!(status.body["metadata"]["generation"], 2);
    let scale = admin.patch(&format!("{BACKUPS}/a/scale"), "merge", &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((&scale.body["spec"]["replicas"], &scale.body["status"]["selector"]), (&json!(4), &json!("a=b")));

    let selected = admin.get(&format!("{BACKUPS}?fieldSelector=spec.schedule=weekly")).await.body;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let table =
        admin.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").get(BACKUPS).await;
    assert_eq!(table.body["columnDefinitions"][1]["name"], "Schedule");
    assert_eq!(table.body["rows"][0]["cells"], json!(["a", "weekly"]));
    assert_eq!(admin.delete(&format!("{BACKUPS}/a")).await.code, 200);
}

#[tokio::test]
async fn apply_merges_lists_by_the_keys_of_the_schema() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let apply = |who: &'static str, target: &'static str| {
        let admin = admin.clone();
        async move {
            let mut object = backup("a", &json!({"targets": [{"name": target, "weight": 1}]}));
            if who == "one" {
                object["spec"]["schedule"] = "daily".into();
            }
            admin.patch(&format!("{BACKUPS}/a?fieldManager={who}"), "apply", &object).await
        }
    };
    assert_eq!(apply("one", "x").await.code, 201);
    let second = apply("two", "y").await;
    assert_eq!(second.code, 200, "{}", second.body);
    assert_eq!(second.body["spec"]["targets"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn all_served_versions_show_the_same_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    admin.create(BACKUPS, &backup("a", &json!({"schedule": "daily"}))).await;
    let old = "/apis/example.com/v1beta1/namespaces/default/backups";
    let read = admin.get(&format!("{old}/a")).await.body;
    assert_eq!((&read["apiVersion"], &read["spec"]["schedule"]), (&json!("example.com/v1beta1"), &json!("daily")));
    let list = admin.get(old).await.body;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    let patched = admin.patch(&format!("{old}/a"), "merge", &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(patched.body["apiVersion"], "example.com/v1beta1", "{}", patched.body);
    assert_eq!(admin.get(&format!("{BACKUPS}/a")).await.body["spec"]["replicas"], 3);
}

#[tokio::test]
async fn discovery_and_openapi_follow_the_definition() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let before = admin.get("/apis").await.headers["etag"].clone();
    established(&admin, &definition()).await;
    let groups = admin.get("/apis").await;
    assert_ne!(groups.headers["etag"], before);
    let group = groups.body["groups"].as_array().unwrap().iter().find(|g| g["name"] == "example.com").cloned().unwrap();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let list = admin.get("/apis/example.com/v1").await.body;
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["backups", "backups/scale", "backups/status"]);
    let index = admin.get("/openapi/v3").await.body;
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = admin.get(&url).await.body;
    assert!(document["components"]["schemas"]["com.example.v1.Backup"]["properties"]["spec"].is_object());
}

#[tokio::test]
async fn a_definition_goes_after_its_objects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    admin.create(BACKUPS, &backup("a", &json!({"schedule": "daily"}))).await;
    let mut held = backup("held", &json!({"schedule": "daily"}));
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    admin.create(BACKUPS, &held).await;
    let revision = admin.get(CRDS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut objects = admin.watch(&format!("{BACKUPS}?watch=true&resourceVersion={revision}")).await;
    let mut watch = admin.watch(&format!("{CRDS}?watch=true&resourceVersion={revision}")).await;
    assert_eq!(admin.delete(&format!("{CRDS}/backups.example.com")).await.code, 200);
    while objects.next().await.unwrap()["type"] != "DELETED" {}
    let refused = admin.post(BACKUPS, &backup("late", &json!({"schedule": "daily"}))).await;
    assert_eq!(refused.code, 405, "{}", refused.body);
    assert_eq!(admin.get(&format!("{CRDS}/backups.example.com")).await.code, 200);
    let freed = admin.patch(&format!("{BACKUPS}/held"), "merge", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200, "{}", freed.body);
    while watch.next().await.unwrap()["type"] != "DELETED" {}
    assert_eq!(admin.get(BACKUPS).await.code, 404);
    established(&admin, &definition()).await;
    assert_eq!(admin.get(BACKUPS).await.body["items"], json!([]));
}

#[tokio::test]
async fn names_that_are_taken_are_not_accepted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let mut other = definition();
    other["metadata"]["name"] = "others.example.com".into();
    other["spec"]["names"] = json!({"plural": "others", "kind": "Backup"});
    let made = admin.create(CRDS, &other).await;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = admin.watch(&format!("{CRDS}?watch=true&resourceVersion={revision}")).await;
    let event = watch.next().await.unwrap();
    let conditions = event["object"]["status"]["conditions"].as_array().unwrap();
    let accepted = conditions.iter().find(|c| c["type"] == "NamesAccepted").unwrap();
    assert_eq!((accepted["status"].as_str(), accepted["reason"].as_str()), (Some("False"), Some("ListKindConflict")));
    assert_eq!(admin.get("/apis/example.com/v1/others").await.code, 404);
}

#[tokio::test]
async fn a_restart_finds_definitions_and_objects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    admin.create(BACKUPS, &backup("a", &json!({"schedule": "daily"}))).await;
    let again = cluster.again().await;
    let read = again.admin().get(&format!("{BACKUPS}/a")).await;
    assert_eq!((read.code, &read.body["spec"]["schedule"]), (200, &json!("daily")));
}
