//! What a quota counts, from the making of an object to its end.

use crate::common::*;
use crate::quota_scopes::{QUOTAS, gone, used};
use serde_json::{Value, json};

const DONGLE: &str = "requests.example.com/dongle";

fn hard() -> Value {
    json!({
        "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1", "secrets": "2",
        "configmaps": "2", "replicationcontrollers": "2", "count/replicasets.apps": "2", "resourcequotas": "1",
        "persistentvolumeclaims": "10", "requests.storage": "10Gi", "cpu": "1", "memory": "500Mi",
        "ephemeral-storage": "50Gi", DONGLE: "3",
    })
}

/// A quota named `test` whose status is as it is for an empty namespace.
async fn counted(admin: &Client) {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "test"}, "spec": {"hard": hard()},
    });
    admin.create(QUOTAS, &quota).await;
    let mut none = hard();
    none.as_object_mut().unwrap().values_mut().for_each(|v| *v = "0".into());
    // It counts itself, and the service of the API server is in this namespace.
    none["resourcequotas"] = "1".into();
    none["services"] = "1".into();
    used(admin, "test", none).await;
}

// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.
// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a configMap.
// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a secret.
// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replica set.
// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replication controller.
#[tokio::test]
async fn objects_are_counted_as_long_as_they_are_there_and_refused_beyond_the_bound() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    counted(&admin).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "dg=="}});
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "spec": {"replicas": 0, "selector": {"a": "b"}, "template": template},
    });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    });
    for (path, resource, mut object) in [
        (CONFIG_MAPS, "configmaps", config_map("")),
        ("/api/v1/namespaces/default/secrets", "secrets", secret),
        ("/api/v1/namespaces/default/replicationcontrollers", "replicationcontrollers", controller),
        ("/apis/apps/v1/namespaces/default/replicasets", "count/replicasets.apps", set),
    ] {
        for (n, name) in ["one", "two"].into_iter().enumerate() {
            object["metadata"] = json!({"name": name});
            admin.create(path, &object).await;
            used(&admin, "test", json!({resource: (n + 1).to_string()})).await;
        }
        object["metadata"] = json!({"name": "three"});
        let refused = admin.post(path, &object).await;
        let message = refused.body["message"].as_str().unwrap();
        let want = format!("exceeded quota: test, requested: {resource}=1, used: {resource}=2, limited: {resource}=2");
        assert!(refused.code == 403 && message.ends_with(&want), "{message}");
        for (left, name) in ["one", "two"].into_iter().rev().enumerate() {
            assert_eq!(admin.delete(&format!("{path}/{name}?propagationPolicy=Background")).await.code, 200);
            used(&admin, "test", json!({resource: (1 - left).to_string()})).await;
        }
    }
}

// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a service.
#[tokio::test]
async fn services_are_counted_by_what_they_take() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let existing = admin.get(SERVICES).await.body["items"].as_array().unwrap().len();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "test"}, "spec": {"hard": hard()},
    });
    admin.create(QUOTAS, &quota).await;
    let of = |services: usize, ports: &str| json!({"services": (existing + services).to_string(), "services.nodeports": ports, "services.loadbalancers": "0"});
    used(&admin, "test", of(0, "0")).await;
    let service = |name: &str, kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}]},
        })
    };
    admin.create(SERVICES, &service("plain", "ClusterIP")).await;
    admin.create(SERVICES, &service("ports", "NodePort")).await;
    // A balancer takes a node port too, and the only one is taken.
    let refused = admin.post(SERVICES, &service("balanced", "LoadBalancer")).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 403 && message.contains("requested: services.nodeports=1"), "{message}");
    used(&admin, "test", of(2, "1")).await;
    for name in ["plain", "ports"] {
        assert_eq!(admin.delete(&format!("{SERVICES}/{name}")).await.code, 200);
    }
    used(&admin, "test", of(0, "0")).await;
}

// conformance: [sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a pod.
#[tokio::test]
async fn a_pod_is_counted_by_what_it_requests() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "test"}, "spec": {"hard": hard()},
    });
    admin.create(QUOTAS, &quota).await;
    let none = json!({"pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0", DONGLE: "0"});
    used(&admin, "test", none.clone()).await;
    let requesting = |name: &str, cpu: &str, memory: &str, more: Value| {
        let mut requests = json!({"cpu": cpu, "memory": memory});
        let mut limits = json!({});
        for (key, value) in more.as_object().unwrap() {
            requests[key] = value.clone();
            if key.contains('/') {
                limits[key] = value.clone();
            }
        }
        let mut out = pod(name);
        out["spec"]["containers"][0]["resources"] = json!({"requests": requests, "limits": limits});
        out
    };
    let extended = json!({"ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    let made = admin.create(PODS, &requesting("fits", "500m", "252Mi", extended.clone())).await;
    let full = json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", DONGLE: "2"});
    used(&admin, "test", full.clone()).await;
    for (object, what) in [
        (
            requesting("large", "600m", "100Mi", json!({"ephemeral-storage": "1Gi", "example.com/dongle": "1"})),
            "cpu=600m",
        ),
        (
            requesting("dongles", "500m", "100Mi", json!({"ephemeral-storage": "1Gi", "example.com/dongle": "2"})),
            DONGLE,
        ),
        (
            requesting("storage", "500m", "100Mi", json!({"ephemeral-storage": "30Gi", "example.com/dongle": "1"})),
            "ephemeral-storage=30Gi",
        ),
    ] {
        let refused = admin.post(PODS, &object).await;
        let message = refused.body["message"].as_str().unwrap();
        let requested = message.split("used:").next().unwrap();
        assert!(refused.code == 403 && requested.contains("exceeded quota") && requested.contains(what), "{message}");
    }
    let mut smaller = made;
    smaller["spec"]["containers"][0]["resources"]["requests"] =
        json!({"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"});
    assert_eq!(admin.put(&format!("{PODS}/fits"), &smaller).await.code, 422);
    used(&admin, "test", full).await;
    gone(&admin, "fits").await;
    used(&admin, "test", none).await;
}

// conformance: [sig-api-machinery] ResourceQuota should manage the lifecycle of a ResourceQuota
#[tokio::test]
async fn a_quota_is_listed_patched_and_deleted_by_its_labels() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "labels": {"of": "test"}},
        "spec": {"hard": {"cpu": "500m", "memory": "500Mi"}},
    });
    let made = admin.create(QUOTAS, &quota).await;
    assert_eq!(made["spec"]["hard"], json!({"cpu": "500m", "memory": "500Mi"}));
    assert_eq!(admin.get(&format!("{QUOTAS}/q")).await.body["metadata"]["uid"], made["metadata"]["uid"]);
    let everywhere = "/api/v1/resourcequotas?labelSelector=of%3Dtest";
    assert_eq!(admin.get(everywhere).await.body["items"].as_array().unwrap().len(), 1);
    let change = json!({
        "metadata": {"labels": {"q": "patched"}}, "spec": {"hard": {"memory": "750Mi"}},
    });
    let patched = admin.patch(&format!("{QUOTAS}/q"), "strategic", &change).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let read = admin.get(&format!("{QUOTAS}/q")).await.body;
    assert_eq!(read["metadata"]["labels"], json!({"of": "test", "q": "patched"}));
    assert_eq!(read["spec"]["hard"], json!({"cpu": "500m", "memory": "750Mi"}));
    assert_eq!(admin.delete(&format!("{QUOTAS}?labelSelector=q%3Dpatched")).await.code, 200);
    assert!(admin.get(everywhere).await.body["items"].as_array().unwrap().is_empty());
}
