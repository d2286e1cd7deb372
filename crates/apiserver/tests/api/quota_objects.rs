//! ResourceQuotas as objects: their limits are changed, and their status says what holds.

use crate::common::*;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn quota(name: &str, cpu: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name, "labels": {"e2e-rq-label": name}},
        "spec": {"hard": {"cpu": cpu, "memory": memory}},
    })
}

// conformance: [sig-api-machinery] ResourceQuota should be able to update and delete ResourceQuota.
#[tokio::test]
async fn a_quota_is_updated_and_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = format!("{QUOTAS}/test-quota");
    admin.create(QUOTAS, &quota("test-quota", "1", "500Mi")).await;
    let hard = async || admin.get(&one).await.body["spec"]["hard"].take();
    assert_eq!(hard().await, json!({"cpu": "1", "memory": "500Mi"}));
    // Without a revision, as the object was written by its author.
    let updated = admin.put(&one, &quota("test-quota", "2", "1Gi")).await;
    assert_eq!((updated.code, &updated.body["spec"]["hard"]), (200, &json!({"cpu": "2", "memory": "1Gi"})));
    assert_eq!(hard().await, json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(admin.delete(&one).await.code, 200);
    assert_eq!(admin.get(&one).await.code, 404);
    assert_eq!(admin.get(QUOTAS).await.body["items"], json!([]));
}

/// Waits until the status has these limits.
async fn until(watch: &mut Watch, wanted: &Value) {
    while watch.next().await.expect("the watch is open")["object"]["status"]["hard"] != *wanted {}
}

// conformance: [sig-api-machinery] ResourceQuota should apply changes to a resourcequota status
#[tokio::test]
async fn the_status_of_a_quota_follows_its_spec_whatever_is_written_there() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = format!("{QUOTAS}/q");
    let status = format!("{one}/status");
    let limits = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let from = admin.get(QUOTAS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch =
        admin.watch(&format!("{QUOTAS}?watch=1&resourceVersion={from}&labelSelector=e2e-rq-label%3Dq")).await;
    admin.create(QUOTAS, &quota("q", "500m", "500Mi")).await;
    assert_eq!(admin.get(&one).await.body["spec"]["hard"], limits("500m", "500Mi"));
    let updated = loop {
        let mut object = admin.get(&one).await.body;
        object["status"] = json!({"hard": limits("500m", "500Mi")});
        let answer = admin.put(&status, &object).await;
        if answer.code != 409 {
            break answer;
        }
    };
    assert_eq!((updated.code, &updated.body["status"]["hard"]), (200, &limits("500m", "500Mi")), "{}", updated.body);
    until(&mut watch, &limits("500m", "500Mi")).await;
    let patched = admin.patch(&one, "strategic", &json!({"spec": {"hard": limits("1", "1Gi")}})).await;
    assert_eq!((patched.code, &patched.body["spec"]["hard"]), (200, &limits("1", "1Gi")));
    let patched = admin.patch(&status, "strategic", &json!({"status": {"hard": limits("1", "1Gi")}})).await;
    assert_eq!((patched.code, &patched.body["status"]["hard"]), (200, &limits("1", "1Gi")), "{}", patched.body);
    until(&mut watch, &limits("1", "1Gi")).await;
    let read = admin.get(&status).await;
    assert_eq!((read.code, &read.body["status"]["hard"]), (200, &limits("1", "1Gi")));
    // Limits that are not those of the spec are told once, and put right.
    let repatched = admin.patch(&status, "strategic", &json!({"status": {"hard": limits("2", "2Gi")}})).await;
    assert_eq!((repatched.code, &repatched.body["status"]["hard"]), (200, &limits("2", "2Gi")));
    assert_eq!(repatched.body["spec"]["hard"], limits("1", "1Gi"));
    until(&mut watch, &limits("2", "2Gi")).await;
    until(&mut watch, &limits("1", "1Gi")).await;
    assert_eq!(admin.get(&one).await.body["spec"]["hard"], limits("1", "1Gi"));
}
