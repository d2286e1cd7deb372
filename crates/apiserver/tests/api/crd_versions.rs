//! Custom resources that are served in several versions, without a webhook between them.

use crate::common::{CRDS, Cluster, established};
use serde_json::{Value, json};

fn at(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/orders")
}

fn version(name: &str, storage: bool, fields: &Value, more: &Value) -> Value {
    let mut out = json!({
        "name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": fields},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "note": {"type": "string"}}},
        }}},
    });
    for (key, value) in more.as_object().unwrap() {
        out[key] = value.clone();
    }
    out
}

/// `v1` is stored; `v1beta1` has no `color`, a bound of its own, and is deprecated.
fn definition() -> Value {
    let v1 = json!({"size": {"type": "integer"}, "color": {"type": "string"}, "replicas": {"type": "integer"}});
    let beta = json!({
        "size": {"type": "integer", "maximum": 10}, "old": {"type": "string"}, "replicas": {"type": "integer"},
    });
    let column = |name: &str, path: &str| json!([{"name": name, "type": "integer", "jsonPath": path}]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "orders.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "orders", "kind": "Order"},
            "versions": [
                version("v1beta1", false, &beta, &json!({
                    "deprecated": true, "additionalPrinterColumns": column("Beta", ".spec.size"),
                    "selectableFields": [{"jsonPath": ".spec.old"}],
                })),
                version("v1", true, &v1, &json!({"additionalPrinterColumns": column("Size", ".spec.size")})),
            ],
        },
    })
}

fn order(version: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Order", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn each_version_defaults_prunes_and_validates_by_its_own_schema() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let made = admin.create(&at("v1"), &order("v1", "a", &json!({"size": 20, "color": "red", "old": "no"}))).await;
    assert_eq!(made["spec"], json!({"size": 20, "color": "red"}));
    let read = admin.get(&format!("{}/a", at("v1beta1"))).await;
    assert_eq!((&read.body["apiVersion"], &read.body["spec"]), (&json!("example.com/v1beta1"), &json!({"size": 20})));
    assert_eq!(read.headers["warning"], r#"299 - "example.com/v1beta1 Order is deprecated; use example.com/v1 Order""#);
    assert!(!admin.get(&format!("{}/a", at("v1"))).await.headers.contains_key("warning"));

    let bad = admin.post(&at("v1beta1"), &order("v1beta1", "b", &json!({"size": 11}))).await;
    assert_eq!(bad.code, 422);
    assert!(bad.body["message"].as_str().unwrap().contains("spec.size in body should be less than or equal to 10"));
    let made = admin.create(&at("v1beta1"), &order("v1beta1", "b", &json!({"size": 3, "color": "red"}))).await;
    // What the stored version does not know is not stored.
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v1beta1"), &json!({"size": 3})));
    let table = admin.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(&at("v1beta1")).await.body;
    assert_eq!(table["columnDefinitions"][1]["name"], "Beta");
    assert_eq!(table["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1");
    let list = admin.get(&at("v1beta1")).await.body;
    let versions: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|i| &i["apiVersion"]).collect();
    assert_eq!(versions, [&json!("example.com/v1beta1"); 2]);
}

#[tokio::test]
async fn every_verb_works_in_a_version_that_is_not_stored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let (beta, one) = (at("v1beta1"), format!("{}/a", at("v1beta1")));
    let mut watch = admin.watch(&format!("{beta}?watch=true")).await;
    let applied = order("v1beta1", "a", &json!({"size": 1}));
    let made = admin.patch(&format!("{one}?fieldManager=me"), "apply", &applied).await;
    assert_eq!(
        (made.code, &made.body["metadata"]["managedFields"][0]["apiVersion"]),
        (201, &json!("example.com/v1beta1"))
    );
    let patched = admin.patch(&one, "merge", &json!({"spec": {"replicas": 2}})).await;
    assert_eq!((patched.code, &patched.body["spec"]["replicas"]), (200, &json!(2)), "{}", patched.body);
    let status = admin.patch(&format!("{one}/status"), "merge", &json!({"status": {"note": "x"}})).await;
    assert_eq!(
        (&status.body["status"]["note"], &status.body["apiVersion"]),
        (&json!("x"), &json!("example.com/v1beta1"))
    );
    let scale = admin.patch(&format!("{one}/scale"), "merge", &json!({"spec": {"replicas": 4}})).await;
    assert_eq!((scale.code, &scale.body["spec"]["replicas"]), (200, &json!(4)), "{}", scale.body);
    let mut whole = admin.get(&one).await.body;
    whole["spec"]["size"] = 5.into();
    let put = admin.put(&one, &whole).await;
    assert_eq!((put.code, &put.body["metadata"]["generation"]), (200, &json!(4)), "{}", put.body);
    let again = admin.put(&one, &put.body).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], put.body["metadata"]["resourceVersion"]);
    let stored = admin.get(&format!("{}/a", at("v1"))).await.body;
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]),
        (&json!("example.com/v1"), &json!({"size": 5, "replicas": 4}))
    );
    let writers: Vec<&Value> =
        stored["metadata"]["managedFields"].as_array().unwrap().iter().map(|m| &m["apiVersion"]).collect();
    assert!(writers.iter().all(|v| **v == "example.com/v1beta1"), "{writers:?}");
    assert_eq!(admin.delete(&one).await.code, 200);
    let mut seen = Vec::new();
    while seen.last() != Some(&"DELETED".to_owned()) {
        let event = watch.next().await.unwrap();
        assert_eq!(event["object"]["apiVersion"], "example.com/v1beta1");
        seen.push(event["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]);
}

#[tokio::test]
async fn objects_in_an_older_stored_version_are_served_and_migrated_by_a_write() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    admin.create(&at("v1"), &order("v1", "old", &json!({"size": 1, "color": "red"}))).await;
    let name = format!("{CRDS}/orders.example.com");
    let flip = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": true},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": false},
    ]);
    let flipped = admin.patch(&name, "json", &flip).await;
    assert_eq!(flipped.body["status"]["storedVersions"], json!(["v1", "v1beta1"]), "{}", flipped.body);
    // Stored as v1, with what only v1 knows.
    assert_eq!(admin.get(&format!("{}/old", at("v1"))).await.body["spec"]["color"], "red");
    admin.create(&at("v1"), &order("v1", "new", &json!({"size": 2}))).await;
    let list = admin.get(&at("v1")).await.body;
    let versions: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|i| &i["apiVersion"]).collect();
    assert_eq!(versions, [&json!("example.com/v1"); 2]);
    let again = cluster.again().await;
    assert_eq!(again.admin().get(&format!("{}/old", at("v1"))).await.body["spec"]["color"], "red");

    // A write that changes nothing moves the object to the version that is stored now.
    let whole = admin.get(&format!("{}/old", at("v1"))).await.body;
    let put = admin.put(&format!("{}/old", at("v1")), &whole).await.body;
    assert_ne!(put["metadata"]["resourceVersion"], whole["metadata"]["resourceVersion"]);
    let put_again = admin.put(&format!("{}/old", at("v1")), &put).await.body;
    assert_eq!(put_again["metadata"]["resourceVersion"], put["metadata"]["resourceVersion"]);
    let gone = admin.patch(&name, "json", &json!([{"op": "remove", "path": "/spec/versions/1"}])).await;
    assert_eq!(gone.code, 422, "{}", gone.body);
    let forgotten = json!({"status": {"storedVersions": ["v1beta1"]}});
    assert_eq!(admin.patch(&format!("{name}/status"), "merge", &forgotten).await.code, 200);
    let gone = admin.patch(&name, "json", &json!([{"op": "remove", "path": "/spec/versions/1"}])).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(admin.get(&format!("{}/old", at("v1"))).await.code, 404);
    assert_eq!(admin.get(&format!("{}/old", at("v1beta1"))).await.body["spec"]["size"], 1);
}

#[tokio::test]
async fn selectors_are_about_the_version_of_the_request() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let flip = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": true},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": false},
    ]);
    admin.patch(&format!("{CRDS}/orders.example.com"), "json", &flip).await;
    for (name, old) in [("a", "x"), ("b", "y"), ("c", "x")] {
        admin.create(&at("v1beta1"), &order("v1beta1", name, &json!({"size": 1, "old": old}))).await;
    }
    let selected = admin.get(&format!("{}?fieldSelector=spec.old%3Dx&limit=1", at("v1beta1"))).await.body;
    assert_eq!(selected["items"][0]["metadata"]["name"], "a");
    let next = selected["metadata"]["continue"].as_str().unwrap();
    let rest = admin.get(&format!("{}?fieldSelector=spec.old%3Dx&limit=1&continue={next}", at("v1beta1"))).await.body;
    assert_eq!((&rest["items"][0]["metadata"]["name"], &rest["metadata"]["continue"]), (&json!("c"), &Value::Null));
    let unknown = admin.get(&format!("{}?fieldSelector=spec.old%3Dx", at("v1"))).await;
    assert_eq!(unknown.code, 400, "{}", unknown.body);
}

#[tokio::test]
async fn discovery_lists_the_versions_by_priority_and_openapi_has_each() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    established(&admin, &definition()).await;
    let group = admin.get("/apis/example.com").await.body;
    let versions: Vec<&Value> = group["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(
        (versions, &group["preferredVersion"]["version"]),
        (vec![&json!("v1"), &json!("v1beta1")], &json!("v1"))
    );
    let spec = |document: &Value, version: &str| {
        document["components"]["schemas"][format!("com.example.{version}.Order")]["properties"]["spec"]["properties"]
            .clone()
    };
    for (version, own, other) in [("v1", "color", "old"), ("v1beta1", "old", "color")] {
        let document = admin.get(&format!("/openapi/v3/apis/example.com/{version}")).await.body;
        let spec = spec(&document, version);
        assert!(spec[own].is_object() && spec[other].is_null(), "{spec}");
    }
    let unserved = json!([{"op": "replace", "path": "/spec/versions/0/served", "value": false}]);
    admin.patch(&format!("{CRDS}/orders.example.com"), "json", &unserved).await;
    assert_eq!(admin.get("/apis/example.com/v1beta1").await.code, 404);
    assert_eq!(admin.get(&at("v1beta1")).await.code, 404);
    assert_eq!(admin.get(&at("v1")).await.code, 200);
}
