//! Create, read, update, patch, delete, in process over a memory store.

use crate::common::*;
use serde_json::{Value, json};

#[tokio::test]
async fn the_cluster_begins_with_its_namespaces_and_its_own_service() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let list = admin.get("/api/v1/namespaces").await.body;
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let service = admin.get(&format!("{SERVICES}/kubernetes")).await.body;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slice = admin.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.body;
    assert_eq!(slice["endpoints"][0]["addresses"][0], "127.0.0.1");
}

#[tokio::test]
async fn create_fills_in_what_the_server_owns_and_get_returns_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(CONFIG_MAPS, &config_map("a")).await;
    assert!(made["metadata"]["uid"].as_str().unwrap().len() == 36);
    assert!(made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(made["metadata"]["namespace"], "default");
    let got = admin.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!((got.code, &got.body), (200, &made));
    let again = admin.post(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!((again.code, again.body["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(again.body["message"], "configmaps \"a\" already exists");
    let missing = admin.get(&format!("{CONFIG_MAPS}/b")).await;
    assert_eq!((missing.code, missing.body["message"].as_str()), (404, Some("configmaps \"b\" not found")));
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "gen-"});
    let a = admin.create(CONFIG_MAPS, &object).await;
    let b = admin.create(CONFIG_MAPS, &object).await;
    let name = a["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    assert_ne!(a["metadata"]["name"], b["metadata"]["name"]);
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_missing_or_going() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let missing = admin.post("/api/v1/namespaces/nope/configmaps", &config_map("a")).await;
    assert_eq!((missing.code, missing.body["message"].as_str()), (404, Some("namespaces \"nope\" not found")));
    admin
        .create("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}))
        .await;
    let going = admin.delete("/api/v1/namespaces/x").await;
    assert_eq!((going.code, going.body["status"]["phase"].as_str()), (200, Some("Terminating")));
    let refused = admin.post("/api/v1/namespaces/x/configmaps", &config_map("a")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut namespace = admin.get("/api/v1/namespaces/x").await.body;
    namespace["spec"]["finalizers"] = json!([]);
    let finalized = admin.put("/api/v1/namespaces/x/finalize", &namespace).await;
    assert_eq!(finalized.code, 200, "{}", finalized.body);
    assert_eq!(admin.get("/api/v1/namespaces/x").await.code, 404);
    assert_eq!(admin.delete("/api/v1/namespaces/default").await.code, 403);
}

#[tokio::test]
async fn an_update_from_an_old_revision_is_a_conflict_and_one_that_changes_nothing_writes_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let first = admin.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let same = admin.put(&path, &first).await;
    assert_eq!(same.body["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let mut second = first.clone();
    second["data"]["k"] = "w".into();
    assert_eq!(admin.put(&path, &second).await.code, 200);
    let stale = admin.put(&path, &second).await;
    assert_eq!((stale.code, stale.body["reason"].as_str()), (409, Some("Conflict")));
    second["metadata"]["resourceVersion"] = Value::Null;
    second["data"]["k"] = "x".into();
    assert_eq!(admin.put(&path, &second).await.body["data"]["k"], "x");
    second["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    assert_eq!(admin.put(&path, &second).await.code, 409);
    let absent = admin.put(&format!("{CONFIG_MAPS}/zzz"), &config_map("zzz")).await;
    assert_eq!(absent.code, 404);
    let mismatch = admin.put(&path, &config_map("b")).await;
    assert_eq!(mismatch.code, 400);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let all = (0..16).map(|i| {
        let (admin, path) = (admin.clone(), path.clone());
        tokio::spawn(async move { admin.patch(&path, "merge", &json!({"data": {format!("k{i}"): "v"}})).await.code })
    });
    for code in futures::future::join_all(all).await {
        assert_eq!(code.unwrap(), 200);
    }
    assert_eq!(admin.get(&path).await.body["data"].as_object().unwrap().len(), 17);
}

#[tokio::test]
async fn every_form_of_patch() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(DEPLOYMENTS, &deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let container = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx:2"}, {"name": "s", "image": "b"}]}}}});
    let done = admin.patch(&path, "strategic", &container).await;
    assert_eq!(done.code, 200, "{}", done.body);
    assert_eq!(done.body["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(done.body["metadata"]["generation"], 2);
    let done = admin.patch(&path, "merge", &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(
        (done.body["metadata"]["labels"]["x"].as_str(), done.body["metadata"]["generation"].as_i64()),
        (Some("y"), Some(2))
    );
    let ops = json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 3}]);
    assert_eq!(admin.patch(&path, "json", &ops).await.body["spec"]["replicas"], 3);
    assert_eq!(admin.patch(&path, "json", &ops).await.code, 422);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 4}});
    assert_eq!(admin.patch(&path, "merge", &stale).await.code, 409);
    let unknown = admin.send("PATCH", &path, "application/json", "{}").await;
    assert_eq!(unknown.code, 415);
    assert_eq!(admin.patch(&path, "merge", &json!({"spec": {"replicas": "many"}})).await.code, 400);
}

#[tokio::test]
async fn apply_creates_merges_and_reports_conflicts() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = |manager: &str, more: &str| format!("{DEPLOYMENTS}/d?fieldManager={manager}{more}");
    let made = admin.patch(&path("one", ""), "apply", &deployment("d")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["managedFields"][0]["operation"], "Apply");
    let mut other = deployment("d");
    other["spec"]["replicas"] = 5.into();
    let conflict = admin.patch(&path("two", ""), "apply", &other).await;
    assert_eq!((conflict.code, conflict.body["reason"].as_str()), (409, Some("Conflict")));
    assert!(conflict.body["message"].as_str().unwrap().contains("conflict with \"one\""), "{}", conflict.body);
    let forced = admin.patch(&path("two", "&force=true"), "apply", &other).await;
    assert_eq!((forced.code, forced.body["spec"]["replicas"].as_i64()), (200, Some(5)));
    let again = admin.patch(&path("two", "&force=true"), "apply", &other).await;
    assert_eq!(again.body["metadata"]["resourceVersion"], forced.body["metadata"]["resourceVersion"]);
    assert_eq!(admin.patch(&format!("{DEPLOYMENTS}/d"), "apply", &other).await.code, 422);
}

#[tokio::test]
async fn status_is_written_only_through_its_subresource() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = deployment("d");
    object["status"] = json!({"replicas": 9});
    let made = admin.create(DEPLOYMENTS, &object).await;
    assert_eq!(made["status"]["replicas"].as_i64().unwrap_or(0), 0);
    let path = format!("{DEPLOYMENTS}/d");
    let done = admin
        .patch(&format!("{path}/status"), "merge", &json!({"status": {"replicas": 2}, "spec": {"replicas": 7}}))
        .await;
    assert_eq!(done.code, 200, "{}", done.body);
    assert_eq!((done.body["status"]["replicas"].as_i64(), done.body["spec"]["replicas"].as_i64()), (Some(2), Some(1)));
    let done = admin.patch(&path, "merge", &json!({"status": {"replicas": 3}})).await;
    assert_eq!(done.body["status"]["replicas"], 2);
    assert_eq!(admin.get(&format!("{path}/status")).await.body["status"]["replicas"], 2);
}

#[tokio::test]
async fn scale_reads_and_writes_one_number() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.create(DEPLOYMENTS, &deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = admin.get(&path).await.body;
    assert_eq!((scale["kind"].as_str(), scale["status"]["selector"].as_str()), (Some("Scale"), Some("app=d")));
    scale["spec"]["replicas"] = 4.into();
    let done = admin.put(&path, &scale).await;
    assert_eq!((done.code, done.body["spec"]["replicas"].as_i64()), (200, Some(4)), "{}", done.body);
    assert_eq!(admin.put(&path, &scale).await.code, 409);
    assert_eq!(admin.patch(&path, "merge", &json!({"spec": {"replicas": 6}})).await.body["spec"]["replicas"], 6);
    assert_eq!(admin.patch(&path, "merge", &json!({"spec": {"replicas": -1}})).await.code, 422);
    assert_eq!(admin.get(&format!("{DEPLOYMENTS}/d")).await.body["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let before = cluster.store.revision();
    let made = admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a")).await;
    assert_eq!((made.code, made.body["metadata"]["name"].as_str()), (201, Some("a")));
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    assert_eq!(cluster.store.revision(), before);
    admin.create(CONFIG_MAPS, &config_map("a")).await;
    let before = cluster.store.revision();
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    assert_eq!(admin.patch(&path, "merge", &json!({"data": {"k": "z"}})).await.body["data"]["k"], "z");
    assert_eq!(admin.delete(&path).await.code, 200);
    assert_eq!(cluster.store.revision(), before);
    assert_eq!(admin.post(&format!("{CONFIG_MAPS}?dryRun=Maybe"), &config_map("b")).await.code, 400);
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_refused_warned_about_or_ignored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = deployment("d");
    object["spec"]["replicass"] = 3.into();
    let strict = admin.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.code, 400);
    let message = strict.body["message"].as_str().unwrap();
    assert!(message.contains("strict decoding error: unknown field \"spec.replicass\""), "{message}");
    let warned = admin.post(&format!("{DEPLOYMENTS}?dryRun=All"), &object).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"spec.replicass\"""#);
    let ignored = admin.post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), &object).await;
    assert!(ignored.code == 201 && !ignored.headers.contains_key("warning"));
    assert!(ignored.body["spec"]["replicass"].is_null());
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#;
    let strict = admin.send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/json", twice).await;
    assert!(strict.body["message"].as_str().unwrap().contains("duplicate field \"data.a\""), "{}", strict.body);
}

#[tokio::test]
async fn yaml_bodies_are_understood() {
    let cluster = Cluster::start().await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yy\ndata:\n  k: 'on'\n";
    let made = cluster.admin().send("POST", CONFIG_MAPS, "application/yaml", text).await;
    assert_eq!((made.code, made.body["data"]["k"].as_str()), (201, Some("on")));
}

#[tokio::test]
async fn bad_input_is_refused_with_a_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let deep = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{}1{}}}"#,
        r#"{"a":"#.repeat(5000),
        "}".repeat(5000)
    );
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("application/json", deep.into_bytes(), 400),
        ("application/json", vec![b'['; 100_000], 400),
        ("application/json", b"{\"apiVersion\":\"v1\",\"kind\":\"\xff\xfe\"}".to_vec(), 400),
        ("application/json", b"[]".to_vec(), 400),
        ("application/json", b"".to_vec(), 400),
        ("application/json", b"null".to_vec(), 400),
        ("application/json", br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#.to_vec(), 400),
        ("application/json", br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":[]}"#.to_vec(), 400),
        (
            "application/json",
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":1}}"#.to_vec(),
            400,
        ),
        ("application/json", br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A_b"}}"#.to_vec(), 422),
        ("application/json", br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#.to_vec(), 422),
        ("application/json", vec![b' '; 4 << 20], 413),
        ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec(), 415),
        ("application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff".to_vec(), 400),
        ("text/plain", b"{}".to_vec(), 415),
    ];
    for (i, (kind, body, code)) in cases.into_iter().enumerate() {
        let answer = admin.send("POST", CONFIG_MAPS, kind, body).await;
        assert_eq!(answer.code, code, "case {i}: {}", answer.body);
        assert_eq!(answer.body["kind"], "Status", "case {i}");
    }
    for (method, path, code) in [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/apis/none.example/v1/things", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/api/v1/configmaps", 405),
        ("PUT", CONFIG_MAPS, 405),
        ("TRACE", CONFIG_MAPS, 405),
        ("GET", "/api/v1/namespaces/default/configmaps?limit=x", 400),
        ("GET", "/api/v1/namespaces/default/configmaps?labelSelector=a%3D%3D%3Db", 400),
        ("GET", "/api/v1/namespaces/default/configmaps?fieldSelector=spec.x%3D1", 400),
    ] {
        let answer = admin.send(method, path, "application/json", config_map("a").to_string()).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn events_are_one_thing_in_two_versions() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "e.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "Started container", "type": "Normal", "count": 1,
    });
    admin.create("/api/v1/namespaces/default/events", &event).await;
    let new = admin.get("/apis/events.k8s.io/v1/namespaces/default/events/e.1").await.body;
    assert_eq!(
        (new["apiVersion"].as_str(), new["note"].as_str()),
        (Some("events.k8s.io/v1"), Some("Started container"))
    );
    assert_eq!(new["regarding"]["name"], "p");
    let list = admin.get("/apis/events.k8s.io/v1/events").await.body;
    assert_eq!(list["items"][0]["regarding"]["name"], "p");
    let picked = admin.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.body;
    assert_eq!(picked["items"].as_array().unwrap().len(), 1);
}
