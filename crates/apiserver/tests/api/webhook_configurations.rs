//! Webhook configurations as resources: what is written to them holds for the next request.

use crate::common::hooks::{Hooks, MUTATING, VALIDATING, configuration, patch};
use crate::common::*;
use serde_json::{Value, json};

/// A kind of configuration: its name and path.
const KINDS: [(&str, &str); 2] =
    [("MutatingWebhookConfiguration", MUTATING), ("ValidatingWebhookConfiguration", VALIDATING)];

/// Webhooks that mark config maps, and refuse those that are bad.
async fn serve(cluster: &Cluster) -> Hooks {
    Hooks::serve(cluster, |path, request| match path {
        "/mark.x.example" => patch(&json!([{"op": "add", "path": "/data/mutation-stage-1", "value": "yes"}])),
        _ => json!({"allowed": request["object"]["data"]["k"] != "bad", "status": {"message": "unwanted data"}}),
    })
    .await
}

/// The webhook of that kind of configuration for some operations on config maps.
fn hook(hooks: &Hooks, kind: &str, operations: &[&str]) -> Value {
    let name = if kind == "MutatingWebhookConfiguration" { "mark.x.example" } else { "deny.x.example" };
    hooks.hook(name, operations, &["configmaps"], json!({}))
}

/// Whether a webhook of that kind took part in the making of a config map, which is then deleted.
async fn takes_part(admin: &Client, kind: &str) -> bool {
    let mut object = config_map("probe");
    object["data"]["k"] = "bad".into();
    let answer = admin.post(CONFIG_MAPS, &object).await;
    if kind == "ValidatingWebhookConfiguration" && answer.code != 201 {
        let message = answer.body["message"].as_str().unwrap();
        assert!(message.ends_with("denied the request: unwanted data"), "{message}");
        return true;
    }
    assert_eq!(answer.code, 201, "{}", answer.body);
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/probe")).await.code, 200);
    answer.body["data"]["mutation-stage-1"] == "yes"
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should include webhook resources in discovery documents
#[tokio::test]
async fn discovery_tells_of_webhook_configurations() {
    let admin = Cluster::start().await.admin();
    let version = json!({"groupVersion": "admissionregistration.k8s.io/v1", "version": "v1"});
    let groups = admin.get("/apis").await.body;
    let listed = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "admissionregistration.k8s.io");
    let own = admin.get("/apis/admissionregistration.k8s.io").await.body;
    assert_eq!(own["name"], "admissionregistration.k8s.io");
    for group in [listed.unwrap(), &own] {
        assert!(group["versions"].as_array().unwrap().contains(&version), "{group}");
    }
    let served = admin.get("/apis/admissionregistration.k8s.io/v1").await.body;
    assert_eq!(served["groupVersion"], "admissionregistration.k8s.io/v1");
    for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert!(served["resources"].as_array().unwrap().iter().any(|r| r["name"] == plural), "{served}");
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing mutating webhooks should work
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing validating webhooks should work
#[tokio::test]
async fn ten_configurations_are_listed_obeyed_and_deleted_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = serve(&cluster).await;
    for (kind, path) in KINDS {
        for n in 0..10 {
            let mut object = configuration(kind, &format!("c{n}"), &[hook(&hooks, kind, &["CREATE"])]);
            object["metadata"]["labels"] = json!({"of": "test"});
            admin.create(path, &object).await;
        }
        admin.create(path, &configuration(kind, "other", &[hook(&hooks, kind, &["UPDATE"])])).await;
        let labelled = format!("{path}?labelSelector=of%3Dtest");
        let count = async || admin.get(&labelled).await.body["items"].as_array().unwrap().len();
        assert_eq!(count().await, 10);
        assert!(takes_part(&admin, kind).await);
        assert_eq!(admin.delete(&labelled).await.code, 200);
        assert_eq!(count().await, 0);
        assert!(!takes_part(&admin, kind).await);
        assert_eq!(admin.delete(&format!("{path}/other")).await.code, 200, "it was not picked");
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a mutating webhook should work
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a validating webhook should work
#[tokio::test]
async fn the_operations_of_a_webhook_are_changed_by_update_and_patch() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = serve(&cluster).await;
    for (kind, path) in KINDS {
        let own = format!("{path}/c");
        let mut object = admin.create(path, &configuration(kind, "c", &[hook(&hooks, kind, &["CREATE"])])).await;
        assert!(takes_part(&admin, kind).await);
        object["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
        let updated = admin.put(&own, &object).await;
        assert_eq!(updated.code, 200, "{}", updated.body);
        assert!(!takes_part(&admin, kind).await);
        let create = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
        let patched = admin.patch(&own, "json", &create).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        let revision = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(revision(&patched.body) > revision(&updated.body));
        assert!(takes_part(&admin, kind).await);
        assert_eq!(admin.delete(&own).await.code, 200);
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update mutating webhook configurations with match conditions
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update validating webhook configurations with match conditions
#[tokio::test]
async fn match_conditions_are_stored_and_updated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = serve(&cluster).await;
    let condition = |name: &str| json!({"name": name, "expression": format!("object.metadata.namespace == '{name}'")});
    for (kind, path) in KINDS {
        let own = format!("{path}/c");
        let mut object = configuration(kind, "c", &[hook(&hooks, kind, &["CREATE"])]);
        object["webhooks"][0]["matchConditions"] = json!([condition("production")]);
        admin.create(path, &object).await;
        let mut stored = admin.get(&own).await.body;
        assert_eq!(stored["webhooks"][0]["matchConditions"], json!([condition("production")]));
        assert!(!takes_part(&admin, kind).await);
        let both = json!([condition("production"), condition("default")]);
        stored["webhooks"][0]["matchConditions"] = both.clone();
        assert_eq!(admin.put(&own, &stored).await.code, 200);
        assert_eq!(admin.get(&own).await.body["webhooks"][0]["matchConditions"], both);
        assert!(!takes_part(&admin, kind).await, "all of them must hold");
        stored = admin.get(&own).await.body;
        stored["webhooks"][0]["matchConditions"] = json!([condition("default")]);
        assert_eq!(admin.put(&own, &stored).await.code, 200);
        assert!(takes_part(&admin, kind).await);
        assert_eq!(admin.delete(&own).await.code, 200);
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should not be able to mutate or prevent deletion of webhook configuration objects
#[tokio::test]
async fn no_webhook_changes_or_keeps_webhook_configurations() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |path, _| match path {
        "/label.x.example" => patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"added": "yes"}}])),
        _ => json!({"allowed": false}),
    })
    .await;
    let both = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
    let label = hooks.hook("label.x.example", &["CREATE", "UPDATE"], &both, json!({}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "label", &[label])).await;
    let keep = hooks.hook("keep.x.example", &["DELETE"], &both, json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "keep", &[keep])).await;
    for (kind, path) in KINDS {
        let made = admin.create(path, &configuration(kind, "c", &[hook(&hooks, kind, &["CREATE"])])).await;
        assert!(made["metadata"].get("labels").is_none(), "{made}");
        assert_eq!(admin.delete(&format!("{path}/c")).await.code, 200);
        assert_eq!(admin.get(&format!("{path}/c")).await.code, 404);
    }
    assert!(hooks.paths().is_empty(), "they were not even asked");
}
