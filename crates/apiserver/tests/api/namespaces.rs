//! Namespaces as objects. How one is emptied is a matter of the controllers.

use crate::common::*;
use serde_json::{Value, json};

const NAMESPACES: &str = "/api/v1/namespaces";

async fn made(admin: &Client, name: &str) -> (Value, String) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"e2e": "x"}}});
    (admin.create(NAMESPACES, &object).await, format!("{NAMESPACES}/{name}"))
}

// conformance: [sig-api-machinery] Namespaces [Serial] should patch a Namespace
// conformance: [sig-api-machinery] Namespaces [Serial] should apply an update to a Namespace
#[tokio::test]
async fn labels_of_a_namespace_are_patched_and_updated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (namespace, one) = made(&admin, "nspatchtest").await;
    let patched = admin.patch(&one, "strategic", &json!({"metadata": {"labels": {"testLabel": "testValue"}}})).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let revision = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&namespace) < revision(&patched.body));
    let mut read = admin.get(&one).await.body;
    assert_eq!(read["metadata"]["labels"]["testLabel"], "testValue");
    read["metadata"]["labels"]["nspatchtest"] = "updated".into();
    let updated = admin.put(&one, &read).await;
    assert_eq!((updated.code, &updated.body["metadata"]["labels"]["nspatchtest"]), (200, &json!("updated")));
    let read = admin.get(&one).await.body;
    assert_eq!(
        (&read["metadata"]["labels"]["nspatchtest"], &read["metadata"]["labels"]["testLabel"]),
        (&json!("updated"), &json!("testValue"))
    );
}

// conformance: [sig-api-machinery] Namespaces [Serial] should apply changes to a namespace status
#[tokio::test]
async fn the_status_of_a_namespace_is_patched_and_updated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (_, one) = made(&admin, "status").await;
    let status = format!("{one}/status");
    let read = admin.get(&status).await;
    assert_eq!((read.code, &read.body["status"]["phase"]), (200, &json!("Active")), "{}", read.body);
    let condition =
        |kind: &str, message: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": message});
    let patch = json!({
        "metadata": {"annotations": {"e2e-patched-ns-status": "status"}},
        "status": {"conditions": [condition("StatusPatch", "Patched by an e2e test")]},
    });
    let patched = admin.patch(&status, "merge", &patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(patched.body["metadata"]["annotations"]["e2e-patched-ns-status"], "status");
    let last = |object: &Value| object["status"]["conditions"].as_array().unwrap().last().unwrap().clone();
    let of = |object: &Value| {
        [&last(object)["type"], &last(object)["reason"], &last(object)["message"]]
            .map(|v| v.as_str().unwrap().to_owned())
    };
    assert_eq!(of(&patched.body), ["StatusPatch", "E2E", "Patched by an e2e test"]);
    let mut object = admin.get(&status).await.body;
    object["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdate", "Updated by an e2e test"));
    let updated = admin.put(&status, &object).await;
    assert_eq!(
        (updated.code, of(&updated.body)),
        (200, ["StatusUpdate", "E2E", "Updated by an e2e test"].map(str::to_owned))
    );
    let read = admin.get(&one).await.body;
    assert_eq!(
        (read["status"]["conditions"].as_array().unwrap().len(), &read["status"]["phase"]),
        (2, &json!("Active"))
    );
}

// conformance: [sig-api-machinery] Namespaces [Serial] should apply a finalizer to a Namespace
#[tokio::test]
async fn a_finalizer_is_put_on_a_namespace_and_taken_off() {
    const FAKE: &str = "e2e.example.com/fakeFinalizer";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (namespace, one) = made(&admin, "finalizers").await;
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    let finalize = format!("{one}/finalize");
    for wanted in [json!(["kubernetes", FAKE]), json!(["kubernetes"])] {
        let mut object = admin.get(&one).await.body;
        object["spec"]["finalizers"] = wanted.clone();
        let updated = admin.put(&finalize, &object).await;
        assert_eq!((updated.code, &updated.body["spec"]["finalizers"]), (200, &wanted), "{}", updated.body);
        assert_eq!(admin.get(&one).await.body["spec"]["finalizers"], wanted);
    }
    // One that is deleted stays as long as a finalizer is on it.
    let mut object = admin.get(&one).await.body;
    object["spec"]["finalizers"] = json!([FAKE]);
    admin.put(&finalize, &object).await;
    let going = admin.delete(&one).await;
    assert_eq!((going.code, &going.body["status"]["phase"]), (200, &json!("Terminating")));
    assert_eq!(admin.get(&one).await.code, 200);
    let mut object = admin.get(&one).await.body;
    object["spec"]["finalizers"] = json!([]);
    assert_eq!(admin.put(&finalize, &object).await.code, 200);
    assert_eq!(admin.get(&one).await.code, 404);
}
