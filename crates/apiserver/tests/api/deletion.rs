//! Deletion: at once, gracefully, held by finalizers, and of dependents.

use crate::common::*;
use serde_json::{Value, json};

#[tokio::test]
async fn without_finalizers_an_object_goes_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(CONFIG_MAPS, &config_map("a")).await;
    let gone = admin.delete(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!((gone.code, gone.body["status"].as_str()), (200, Some("Success")));
    assert_eq!(gone.body["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_removed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    admin.create(CONFIG_MAPS, &object).await;
    let path = format!("{CONFIG_MAPS}/a");
    let going = admin.delete(&path).await;
    assert!(going.code == 200 && going.body["metadata"]["deletionTimestamp"].is_string(), "{}", going.body);
    let again = admin.delete(&path).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], going.body["metadata"]["resourceVersion"]);
    let more = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two", "example.com/three"]}});
    assert_eq!(admin.patch(&path, "merge", &more).await.code, 422);
    assert_eq!(admin.patch(&path, "merge", &json!({"metadata": {"finalizers": ["example.com/two"]}})).await.code, 200);
    let mut watch = admin.watch(&format!("{path}?watch=1")).await;
    assert_eq!(watch.brief().await.0, "ADDED");
    assert_eq!(admin.patch(&path, "json", &json!([{"op": "remove", "path": "/metadata/finalizers"}])).await.code, 200);
    assert_eq!(watch.brief().await.0, "DELETED");
    assert_eq!(admin.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_is_written_as_finalizers() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let delete = |name: &str, body: Value| {
        let (admin, path) = (admin.clone(), format!("{DEPLOYMENTS}/{name}"));
        async move {
            admin.create(DEPLOYMENTS, &deployment(path.rsplit('/').next().unwrap())).await;
            admin.send("DELETE", &path, "application/json", body.to_string()).await
        }
    };
    let foreground =
        delete("f", json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"})).await;
    assert_eq!(foreground.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let orphan = delete("o", json!({"propagationPolicy": "Orphan"})).await;
    assert_eq!(orphan.body["metadata"]["finalizers"], json!(["orphan"]));
    let background = delete("b", json!({"propagationPolicy": "Background"})).await;
    assert_eq!(background.body["kind"], "Status");
    assert_eq!(delete("x", json!({"propagationPolicy": "Sideways"})).await.code, 422);
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert_eq!(delete("y", both).await.code, 422);
    admin.create(DEPLOYMENTS, &deployment("q")).await;
    let query = admin.delete(&format!("{DEPLOYMENTS}/q?propagationPolicy=Foreground")).await;
    assert_eq!(query.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn preconditions_must_hold() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let delete =
        |pre: Value| admin.send("DELETE", &path, "application/json", json!({"preconditions": pre}).to_string());
    assert_eq!(delete(json!({"uid": "other"})).await.code, 409);
    assert_eq!(delete(json!({"resourceVersion": "1"})).await.code, 409);
    let right = json!({"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]});
    assert_eq!(delete(right).await.code, 200);
}

async fn running_pod(admin: &Client, name: &str) {
    let mut object = pod(name);
    object["spec"]["nodeName"] = "n1".into();
    admin.create(PODS, &object).await;
    admin.patch(&format!("{PODS}/{name}/status"), "merge", &json!({"status": {"phase": "Running"}})).await;
}

#[tokio::test]
async fn a_running_pod_is_told_to_stop_and_goes_when_its_node_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    running_pod(&admin, "p").await;
    let path = format!("{PODS}/p");
    let going = admin.delete(&path).await;
    assert_eq!((going.code, going.body["metadata"]["deletionGracePeriodSeconds"].as_i64()), (200, Some(30)));
    let longer = admin.delete(&format!("{path}?gracePeriodSeconds=60")).await;
    assert_eq!(longer.body["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = admin.delete(&format!("{path}?gracePeriodSeconds=5")).await;
    assert_eq!(shorter.body["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(
        shorter.body["metadata"]["deletionTimestamp"].as_str() < going.body["metadata"]["deletionTimestamp"].as_str()
    );
    let update = admin.patch(&format!("{path}/status"), "merge", &json!({"status": {"message": "stopping"}})).await;
    assert_eq!(update.code, 200);
    assert_eq!(admin.get(&path).await.code, 200);
    let gone = admin.delete(&format!("{path}?gracePeriodSeconds=0")).await;
    assert_eq!((gone.code, gone.body["kind"].as_str()), (200, Some("Pod")));
    assert_eq!(admin.get(&path).await.code, 404);
}

#[tokio::test]
async fn pods_that_never_ran_or_are_done_go_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(PODS, &pod("new")).await;
    assert_eq!(admin.delete(&format!("{PODS}/new")).await.code, 200);
    assert_eq!(admin.get(&format!("{PODS}/new")).await.code, 404);
    running_pod(&admin, "done").await;
    admin.patch(&format!("{PODS}/done/status"), "merge", &json!({"status": {"phase": "Succeeded"}})).await;
    admin.delete(&format!("{PODS}/done")).await;
    assert_eq!(admin.get(&format!("{PODS}/done")).await.code, 404);
    running_pod(&admin, "held").await;
    admin.patch(&format!("{PODS}/held"), "merge", &json!({"metadata": {"finalizers": ["example.com/x"]}})).await;
    admin.delete(&format!("{PODS}/held?gracePeriodSeconds=0")).await;
    let held = admin.get(&format!("{PODS}/held")).await.body;
    assert_eq!(held["metadata"]["deletionGracePeriodSeconds"], 0);
    admin.patch(&format!("{PODS}/held"), "merge", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(admin.get(&format!("{PODS}/held")).await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "1")] {
        admin.create(CONFIG_MAPS, &labelled(name, "x", value)).await;
    }
    let gone = admin.delete(&format!("{CONFIG_MAPS}?labelSelector=x%3D1")).await;
    assert_eq!((gone.code, gone.body["items"].as_array().unwrap().len()), (200, 2));
    let left = admin.get(CONFIG_MAPS).await.body;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(admin.delete("/api/v1/namespaces").await.code, 405);
    assert_eq!(admin.delete("/api/v1/configmaps").await.code, 405);
}

#[tokio::test]
async fn eviction_is_a_deletion_and_binding_places_a_pod_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(PODS, &pod("p")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/p/binding");
    assert_eq!(admin.post(&path, &binding).await.code, 201);
    let again = admin.post(&path, &binding).await;
    assert_eq!(again.code, 409);
    assert!(again.body["message"].as_str().unwrap().contains("already assigned to node \"n1\""), "{}", again.body);
    let bound = admin.get(&format!("{PODS}/p")).await.body;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    assert_eq!(admin.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    assert_eq!(admin.get(&format!("{PODS}/p")).await.body["metadata"]["deletionGracePeriodSeconds"], 7);
}
