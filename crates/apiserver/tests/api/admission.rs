//! What admission adds and refuses.

use std::collections::HashSet;

use crate::common::*;
use serde_json::{Value, json};

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_pod_gets_its_account_token_tolerations_and_priority() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let made = admin.create(PODS, &pod("p")).await;
    let spec = &made["spec"];
    assert_eq!((spec["serviceAccountName"].as_str(), spec["priority"].as_i64()), (Some("default"), Some(0)));
    let volume = &spec["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(volume["projected"]["sources"].as_array().unwrap().len(), 3);
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let tolerations: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(tolerations, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!(made["status"]["phase"], "Pending");
    let mut critical = pod("c");
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    assert_eq!(admin.create(PODS, &critical).await["spec"]["priority"], 2_000_001_000);
    critical["spec"]["priorityClassName"] = "vip".into();
    assert_eq!(admin.post(PODS, &critical).await.code, 403);
}

#[tokio::test]
async fn a_pod_waits_a_moment_for_the_account_of_its_new_namespace() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (answer, ()) = tokio::join!(async { admin.post(PODS, &pod("p")).await }, async {
        tokio::task::yield_now().await;
        default_account(&admin).await;
    });
    assert_eq!(answer.code, 201, "{}", answer.body);
    let mut other = pod("q");
    other["spec"]["serviceAccountName"] = "absent".into();
    tokio::time::pause();
    let refused = admin.post(PODS, &other).await;
    let want =
        r#"pods "q" is forbidden: error looking up service account default/absent: serviceaccount "absent" not found"#;
    assert_eq!((refused.code, refused.body["message"].as_str()), (403, Some(want)));
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_nobody_else_has() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let all = (0..40).map(|i| {
        let (admin, ports) = (admin.clone(), ports.clone());
        tokio::spawn(async move {
            let spec = json!({"type": "NodePort", "ports": ports});
            admin.create(SERVICES, &service(&format!("s{i}"), spec)).await
        })
    });
    let (mut ips, mut node_ports) = (HashSet::new(), HashSet::new());
    for made in futures::future::join_all(all).await {
        let spec = &made.unwrap()["spec"];
        ips.insert(spec["clusterIP"].as_str().unwrap().to_owned());
        let port = spec["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((30_000..=32_767).contains(&port));
        node_ports.insert(port);
        assert_eq!(spec["clusterIPs"][0], spec["clusterIP"]);
    }
    assert_eq!((ips.len(), node_ports.len()), (40, 40));
    assert!(!ips.contains("10.96.0.1") && !ips.contains("10.96.0.10"));
}

#[tokio::test]
async fn asked_for_addresses_are_honoured_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ports = json!([{"port": 80}]);
    let dns = admin.create(SERVICES, &service("dns", json!({"clusterIP": "10.96.0.10", "ports": ports}))).await;
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");
    let again = admin.post(SERVICES, &service("b", json!({"clusterIP": "10.96.0.10", "ports": ports}))).await;
    assert_eq!(again.code, 422);
    assert!(again.body["message"].as_str().unwrap().contains("provided IP is already allocated"), "{}", again.body);
    let outside = admin.post(SERVICES, &service("b", json!({"clusterIP": "192.168.0.1", "ports": ports}))).await;
    assert!(outside.body["message"].as_str().unwrap().contains("not in the valid range"), "{}", outside.body);
    let port = |n: u64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": n}]});
    admin.create(SERVICES, &service("np", port(30_080))).await;
    let taken = admin.post(SERVICES, &service("np2", port(30_080))).await;
    assert!(taken.body["message"].as_str().unwrap().contains("provided port is already allocated"), "{}", taken.body);
    assert_eq!(admin.post(SERVICES, &service("np3", port(80))).await.code, 422);
    admin.delete(&format!("{SERVICES}/np")).await;
    admin.create(SERVICES, &service("np2", port(30_080))).await;
    let headless = admin.create(SERVICES, &service("h", json!({"clusterIP": "None"}))).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external =
        admin.create(SERVICES, &service("e", json!({"type": "ExternalName", "externalName": "x.example"}))).await;
    assert!(external["spec"]["clusterIP"].is_null());
}

#[tokio::test]
async fn an_update_keeps_what_was_allocated_and_gives_back_what_is_no_longer_used() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made =
        admin.create(SERVICES, &service("s", json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}]}))).await;
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    let path = format!("{SERVICES}/s");
    let put = admin
        .put(
            &path,
            &service("s", json!({"type": "NodePort", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]})),
        )
        .await;
    assert_eq!(put.code, 200, "{}", put.body);
    assert_eq!((&put.body["spec"]["clusterIP"], &put.body["spec"]["ports"][0]["nodePort"]), (&ip, &port));
    assert!(put.body["spec"]["ports"][1]["nodePort"].is_u64());
    let plain = admin.patch(&path, "merge", &json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(plain.code, 200, "{}", plain.body);
    assert!(plain.body["spec"]["ports"][0]["nodePort"].is_null());
    assert_eq!(plain.body["spec"]["clusterIP"], ip);
    admin.create(SERVICES, &service("t", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}))).await;
    let moved =
        admin.patch(&path, "merge", &json!({"spec": {"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}})).await;
    assert_eq!(moved.code, 422);
}

#[tokio::test]
async fn claims_get_the_default_class() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let class = |name: &str, default: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "x.example/y",
            "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}},
        })
    };
    admin.create("/apis/storage.k8s.io/v1/storageclasses", &class("slow", "false")).await;
    admin.create("/apis/storage.k8s.io/v1/storageclasses", &class("local", "true")).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        })
    };
    assert_eq!(admin.create(claims, &claim("a")).await["spec"]["storageClassName"], "local");
    let mut none = claim("b");
    none["spec"]["storageClassName"] = "".into();
    assert_eq!(admin.create(claims, &none).await["spec"]["storageClassName"], "");
}
