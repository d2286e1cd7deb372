//! Documents that no honest client would send: whatever they are, the answer is a Status below 500, and the server lives.

use crate::common::*;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

// allow-long: one object after the other
/// One honest object of most kinds, with the path of its collection.
fn honest() -> Vec<(&'static str, Value)> {
    let spec = json!({
        "serviceAccountName": "default",
        "containers": [{
            "name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "securityContext": {"capabilities": {"drop": ["ALL"]}},
        }],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "x", "items": [{"key": "k", "path": "p"}]}}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}},
    });
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": spec});
    let object = |api: &str, kind: &str, rest: Value| {
        let mut out = rest;
        out["apiVersion"] = api.into();
        out["kind"] = kind.into();
        out["metadata"] = json!({
            "name": "x", "labels": {"app": "x"}, "annotations": {"a": "b"}, "finalizers": ["example.com/f"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
        });
        out
    };
    let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]});
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    vec![
        (PODS, object("v1", "Pod", json!({"spec": spec, "status": {"phase": "Running"}}))),
        (CONFIG_MAPS, object("v1", "ConfigMap", json!({"data": {"k": "v"}, "binaryData": {"b": "AA=="}}))),
        (
            "/api/v1/namespaces/default/secrets",
            object("v1", "Secret", json!({"type": "Opaque", "data": {"k": "AA=="}, "stringData": {"s": "t"}})),
        ),
        (
            SERVICES,
            object(
                "v1",
                "Service",
                json!({"spec": {"type": "NodePort", "selector": {"app": "x"}, "ports": [{"name": "a", "port": 80, "targetPort": "http", "nodePort": 30123}]}}),
            ),
        ),
        (
            "/api/v1/nodes",
            object(
                "v1",
                "Node",
                json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "1"}}}),
            ),
        ),
        ("/api/v1/namespaces", object("v1", "Namespace", json!({"spec": {"finalizers": ["kubernetes"]}}))),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            object("v1", "PersistentVolumeClaim", json!({"spec": claim["spec"]})),
        ),
        (
            "/api/v1/persistentvolumes",
            object(
                "v1",
                "PersistentVolume",
                json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "claimRef": {"name": "x", "namespace": "default"}}}),
            ),
        ),
        (
            DEPLOYMENTS,
            object(
                "apps/v1",
                "Deployment",
                json!({"spec": {"replicas": 2, "selector": selector, "template": template, "strategy": {"rollingUpdate": {"maxSurge": "25%"}}}}),
            ),
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            object(
                "apps/v1",
                "StatefulSet",
                json!({"spec": {"serviceName": "x", "selector": selector, "template": template, "volumeClaimTemplates": [claim]}}),
            ),
        ),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            object("batch/v1", "Job", json!({"spec": {"template": once, "backoffLimit": 3, "completions": 2}})),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            object(
                "networking.k8s.io/v1",
                "Ingress",
                json!({"spec": {"rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"number": 80}}}}]}}], "tls": [{"hosts": ["a.example"], "secretName": "s"}]}}),
            ),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            object(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}], "ports": [{"port": 80}]}),
            ),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            object(
                "coordination.k8s.io/v1",
                "Lease",
                json!({"spec": {"holderIdentity": "a", "renewTime": "2024-01-01T00:00:00.000000Z"}}),
            ),
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            object("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "a/b", "parameters": {"a": "b"}})),
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events",
            object(
                "events.k8s.io/v1",
                "Event",
                json!({"eventTime": "2024-01-01T00:00:00.000000Z", "reason": "R", "action": "A", "reportingController": "a/b", "reportingInstance": "i", "type": "Normal", "regarding": {"kind": "Pod", "name": "x", "namespace": "default"}}),
            ),
        ),
    ]
}

fn junk(rng: &mut SmallRng) -> Value {
    let all = [
        Value::Null,
        true.into(),
        0.into(),
        (-1).into(),
        i64::MAX.into(),
        u64::MAX.into(),
        1e300.into(),
        "".into(),
        "x".into(),
        "\u{0}\u{202e}é".into(),
        "999999999999999999999999Gi".into(),
        "2024-13-45T99:99:99Z".into(),
        "-5%".into(),
        "a".repeat(300).into(),
        json!([]),
        json!({}),
        json!([null, [], {}, "a", 1]),
        json!({"": null, "name": [], "key": {}}),
    ];
    all.choose(rng).unwrap().clone()
}

/// Replaces, removes or repeats something somewhere.
fn spoil(value: &mut Value, rng: &mut SmallRng) {
    match value {
        Value::Object(map) if !map.is_empty() && rng.random_bool(0.85) => {
            let key = map.keys().nth(rng.random_range(0..map.len())).unwrap().clone();
            match rng.random_range(0..10) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(
                    ["name", "type", "x", "", "$patch", "namespace", "kind"].choose(rng).unwrap().to_string(),
                    junk(rng),
                )),
                _ => spoil(map.get_mut(&key).unwrap(), rng),
            }
        }
        Value::Array(list) if !list.is_empty() && rng.random_bool(0.85) => {
            let index = rng.random_range(0..list.len());
            match rng.random_range(0..6) {
                0 => list.push(list[index].clone()),
                1 => list.push(junk(rng)),
                _ => spoil(&mut list[index], rng),
            }
        }
        other => *other = junk(rng),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoiled_objects_and_patches_are_answered() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let seed = 42;
    let mut rng = SmallRng::seed_from_u64(seed);
    for (path, object) in honest() {
        let made = admin.post(path, &object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
        let one = format!("{path}/x");
        for round in 0..150 {
            let mut bad = object.clone();
            for _ in 0..rng.random_range(1..4) {
                spoil(&mut bad, &mut rng);
            }
            let form = ["merge", "strategic", "apply", "json"][round % 4];
            let patch = if form == "json" {
                json!([{"op": "replace", "path": "/spec", "value": bad["spec"]}, bad])
            } else {
                bad.clone()
            };
            let query = ["", "?dryRun=All&fieldManager=m&force=true", "?fieldManager=m&force=true"][round % 3];
            let query = if form == "apply" { query } else { &query.replace("&force=true", "") };
            let answers = [
                ("create", admin.post(&format!("{path}?dryRun=All"), &bad).await),
                ("update", admin.put(&one, &bad).await),
                (form, admin.patch(&format!("{one}{query}"), form, &patch).await),
                ("status", admin.patch(&format!("{one}/status"), "merge", &bad).await),
            ];
            for (what, answer) in answers {
                assert!(
                    answer.code < 500,
                    "seed {seed} round {round} {what} {path}: {} {}\n{bad}",
                    answer.code,
                    answer.body
                );
                assert!(answer.body.is_object(), "{what} {path}");
            }
        }
        let table = admin.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        assert_eq!(table.get(path).await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn spoiled_requests_beside_objects_are_answered() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(PODS, &pod("p")).await;
    admin.create(DEPLOYMENTS, &deployment("d")).await;
    let requests = [
        (
            format!("{PODS}/p/binding"),
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": ""}}),
        ),
        (
            format!("{PODS}/p/eviction"),
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}, "deleteOptions": {"gracePeriodSeconds": 1, "preconditions": {"uid": "x"}}}),
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts/default/token".into(),
            json!({"spec": {"audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "name": "p"}}}),
        ),
        ("/apis/authentication.k8s.io/v1/tokenreviews".into(), json!({"spec": {"token": "a.b.c", "audiences": ["x"]}})),
        (
            "/apis/authorization.k8s.io/v1/subjectaccessreviews".into(),
            json!({"spec": {"user": "u", "groups": ["g"], "extra": {"k": ["v"]}, "resourceAttributes": {"verb": "get"}}}),
        ),
        ("/apis/authentication.k8s.io/v1/selfsubjectreviews".into(), json!({"metadata": {"name": "x"}})),
    ];
    let mut rng = SmallRng::seed_from_u64(7);
    for (path, honest) in requests {
        for _ in 0..150 {
            let mut bad = honest.clone();
            spoil(&mut bad, &mut rng);
            let answer = admin.post(&path, &bad).await;
            assert!(answer.code < 500, "{path}: {} {}\n{bad}", answer.code, answer.body);
        }
    }
    let scale = admin.get(&format!("{DEPLOYMENTS}/d/scale")).await.body;
    for round in 0..200 {
        let mut bad = scale.clone();
        spoil(&mut bad, &mut rng);
        let form = ["merge", "strategic", "apply"][round % 3];
        let path = format!("{DEPLOYMENTS}/d/scale");
        for answer in [admin.put(&path, &bad).await, admin.patch(&path, form, &bad).await] {
            assert!(answer.code < 500, "{} {}\n{bad}", answer.code, answer.body);
        }
        let options = json!({"preconditions": {"uid": "none"}, "gracePeriodSeconds": 1, "dryRun": ["All"], "propagationPolicy": "Orphan"});
        let mut bad = options;
        spoil(&mut bad, &mut rng);
        let answer = admin.send("DELETE", &format!("{PODS}/nothing"), "application/json", bad.to_string()).await;
        assert!(answer.code < 500, "{}", answer.body);
    }
}
