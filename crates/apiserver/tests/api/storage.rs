//! The kinds of `storage.k8s.io` and what else of storage is only API: their whole lives, verb by verb.

use crate::common::*;
use serde_json::{Value, json};

const GROUP: &str = "/apis/storage.k8s.io/v1";

/// An object of a kind of the group, labelled so that only this test's are found.
fn object(kind: &str, name: &str, rest: &Value) -> Value {
    let mut out = rest.clone();
    out["apiVersion"] = json!("storage.k8s.io/v1");
    out["kind"] = json!(kind);
    out["metadata"] = json!({"name": name, "labels": {"of": "this-test"}});
    out
}

async fn names(admin: &Client, path: &str) -> Vec<String> {
    let list = admin.get(path).await;
    assert_eq!(list.code, 200, "{}", list.body);
    let items = list.body["items"].as_array().unwrap();
    items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Reads, labels by PUT and reads again.
async fn update(admin: &Client, path: &str, label: &str) {
    let mut read = admin.get(path).await.body;
    read["metadata"]["labels"][label] = json!("updated");
    let updated = admin.put(path, &read).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert_eq!(updated.body["metadata"]["labels"][label], "updated");
    assert_eq!(admin.get(path).await.body["metadata"]["labels"][label], "updated");
}

async fn patch(admin: &Client, path: &str, label: &str) {
    for form in ["merge", "strategic"] {
        let answer = admin.patch(path, form, &json!({"metadata": {"labels": {label: form}}})).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(answer.body["metadata"]["labels"][label], form);
    }
}

/// Create, read, list, patch, update, delete, make again, delete the collection; each step is looked at.
async fn lives(cluster: &Cluster, collection: &str, kind: &str, rest: Value) {
    let admin = cluster.admin();
    let (first, second) = ("first.example.com", "second.example.com");
    let at = |name: &str| format!("{collection}/{name}");
    let selected = format!("{collection}?labelSelector=of%3Dthis-test");
    let made = admin.create(collection, &object(kind, first, &rest)).await;
    let read = admin.get(&at(first)).await;
    assert_eq!(read.code, 200);
    assert_eq!(
        (&read.body["metadata"]["name"], &read.body["metadata"]["uid"]),
        (&json!(first), &made["metadata"]["uid"])
    );
    patch(&admin, &at(first), "patched").await;
    assert_eq!(names(&admin, &format!("{collection}?labelSelector=patched%3Dstrategic")).await, [first]);
    admin.create(collection, &object(kind, second, &rest)).await;
    assert_eq!(names(&admin, &selected).await, [first, second]);
    update(&admin, &at(second), "changed").await;
    let gone = admin.delete(&at(first)).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    assert_eq!(admin.get(&at(first)).await.code, 404);
    assert_eq!(names(&admin, &selected).await, [second]);
    // A name is free again, and what has it then is another object.
    let again = admin.create(collection, &object(kind, first, &rest)).await;
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);
    update(&admin, &at(first), "changed").await;
    let all = admin.delete(&format!("{collection}?labelSelector=changed%3Dupdated")).await;
    assert_eq!(all.code, 200, "{}", all.body);
    assert_eq!(names(&admin, &selected).await, Vec::<String>::new());
    assert_eq!(admin.get(&at(second)).await.code, 404);
}

// conformance: [sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass
#[tokio::test]
async fn a_storage_class_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let class = json!({"provisioner": "driver.example.com"});
    lives(&cluster, &format!("{GROUP}/storageclasses"), "StorageClass", class).await;
}

// conformance: [sig-storage] VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass
#[tokio::test]
async fn a_volume_attributes_class_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let class = json!({"driverName": "driver.example.com", "parameters": {"iops": "100"}});
    lives(&cluster, &format!("{GROUP}/volumeattributesclasses"), "VolumeAttributesClass", class).await;
}

// conformance: [sig-storage] CSIInlineVolumes should run through the lifecycle of a CSIDriver
#[tokio::test]
async fn a_csi_driver_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let driver = json!({"spec": {"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}});
    lives(&cluster, &format!("{GROUP}/csidrivers"), "CSIDriver", driver).await;
}

// conformance: [sig-storage] CSINodes CSI Conformance should run through the lifecycle of a csinode
#[tokio::test]
async fn a_csi_node_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let node = json!({"spec": {"drivers": [{"name": "driver.example.com", "nodeID": "n", "topologyKeys": []}]}});
    lives(&cluster, &format!("{GROUP}/csinodes"), "CSINode", node).await;
}

fn attachment() -> Value {
    json!({"spec": {"attacher": "driver.example.com", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}})
}

// conformance: [sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment
#[tokio::test]
async fn a_volume_attachment_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    lives(&cluster, &format!("{GROUP}/volumeattachments"), "VolumeAttachment", attachment()).await;
}

// conformance: [sig-storage] VolumeAttachment Conformance should apply changes to a volumeattachment status
#[tokio::test]
async fn the_status_of_a_volume_attachment_is_written_apart() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let collection = format!("{GROUP}/volumeattachments");
    admin.create(&collection, &object("VolumeAttachment", "a", &attachment())).await;
    let (path, status) = (format!("{collection}/a"), format!("{collection}/a/status"));
    patch(&admin, &path, "patched").await;
    let read = admin.get(&status).await;
    assert_eq!((read.code, &read.body["status"]["attached"]), (200, &json!(false)));
    let patched = admin.patch(&status, "merge", &json!({"status": {"attached": true}})).await;
    assert_eq!((patched.code, &patched.body["status"]["attached"]), (200, &json!(true)), "{}", patched.body);
    // The main resource does not write the status, nor the status the rest.
    let mut whole = admin.get(&path).await.body;
    whole["status"]["attached"] = json!(false);
    assert_eq!(admin.put(&path, &whole).await.body["status"]["attached"], true);
    let mut whole = admin.get(&status).await.body;
    whole["status"]["attached"] = json!(false);
    whole["spec"]["attacher"] = json!("other.example.com");
    let updated = admin.put(&status, &whole).await;
    assert_eq!((updated.code, &updated.body["status"]["attached"]), (200, &json!(false)), "{}", updated.body);
    assert_eq!(updated.body["spec"]["attacher"], "driver.example.com");
    assert_eq!(admin.delete(&path).await.code, 200);
    assert_eq!(admin.get(&path).await.code, 404);
}

// conformance: [sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations
#[tokio::test]
async fn a_csi_storage_capacity_is_found_and_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let groups = admin.get("/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "storage.k8s.io").unwrap();
    assert!(group["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1"), "{group}");
    let versions = admin.get("/apis/storage.k8s.io").await.body;
    assert!(versions["versions"].as_array().unwrap().iter().any(|v| v["groupVersion"] == "storage.k8s.io/v1"));
    let resources = admin.get(GROUP).await.body;
    let found = resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == "csistoragecapacities");
    let verbs = found.unwrap()["verbs"].as_array().unwrap();
    for verb in ["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"] {
        assert!(verbs.contains(&json!(verb)), "{verb}: {verbs:?}");
    }
    let collection = format!("{GROUP}/namespaces/default/csistoragecapacities");
    let rest = json!({"storageClassName": "fast", "capacity": "1Gi"});
    let mut watch = admin.watch(&format!("{collection}?watch=true&labelSelector=of%3Dthis-test")).await;
    lives(&cluster, &collection, "CSIStorageCapacity", rest.clone()).await;
    let mut seen = Vec::new();
    while seen.iter().filter(|kind| *kind == "DELETED").count() < 3 {
        seen.push(watch.brief().await.0);
    }
    let count = |kind: &str| seen.iter().filter(|k| *k == kind).count();
    assert_eq!((count("ADDED"), count("MODIFIED")), (3, 4), "{seen:?}");
    // Across namespaces too.
    admin.create(&collection, &object("CSIStorageCapacity", "c", &rest)).await;
    assert_eq!(names(&admin, &format!("{GROUP}/csistoragecapacities?labelSelector=of%3Dthis-test")).await, ["c"]);
}

// conformance: [sig-storage] CSIInlineVolumes should support CSIVolumeSource in Pod API
#[tokio::test]
async fn a_pod_may_have_a_csi_volume_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let collection = "/api/v1/namespaces/default/pods";
    let mut inline = pod("inline");
    let csi = json!({"driver": "driver.example.com", "readOnly": false, "volumeAttributes": {"k": "v"}});
    inline["metadata"]["labels"] = json!({"of": "this-test"});
    inline["spec"]["volumes"] = json!([{"name": "v", "csi": csi}]);
    let made = admin.create(collection, &inline).await;
    let path = format!("{collection}/inline");
    let source = |pod: &Value| {
        let volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
        volumes.into_iter().find(|v| v["name"] == "v").unwrap()["csi"].clone()
    };
    assert_eq!(source(&made), csi);
    assert_eq!(source(&admin.get(&path).await.body), csi);
    assert_eq!(names(&admin, &format!("{collection}?labelSelector=of%3Dthis-test")).await, ["inline"]);
    let patched = admin.patch(&path, "strategic", &json!({"metadata": {"labels": {"patched": "yes"}}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["labels"]["patched"]), (200, &json!("yes")));
    assert_eq!(source(&patched.body), csi);
    assert_eq!(admin.delete(&format!("{path}?gracePeriodSeconds=0")).await.code, 200);
    assert_eq!(admin.get(&path).await.code, 404);
}

/// What holds of an immutable object holds of ConfigMaps and Secrets alike.
async fn immutability(collection: &str, made: Value) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{collection}/fixed");
    let data = |value: &str| match made["kind"].as_str() {
        Some("Secret") => json!({"k": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, value)}),
        _ => json!({"k": value}),
    };
    let mut object = made.clone();
    object["metadata"] = json!({"name": "fixed"});
    object["data"] = data("one");
    admin.create(collection, &object).await;
    let write = async |change: &dyn Fn(&mut Value)| {
        let mut read = admin.get(&path).await.body;
        change(&mut read);
        admin.put(&path, &read).await
    };
    assert_eq!(write(&|o| o["data"] = data("two")).await.code, 200);
    let marked = write(&|o| o["immutable"] = json!(true)).await;
    assert_eq!((marked.code, &marked.body["immutable"]), (200, &json!(true)));
    for (field, change) in [
        ("data", &(|o: &mut Value| o["data"] = data("three")) as &dyn Fn(&mut Value)),
        ("immutable", &|o| o["immutable"] = json!(false)),
        ("immutable", &|o| drop(o.as_object_mut().unwrap().remove("immutable"))),
    ] {
        let refused = write(change).await;
        assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{}", refused.body);
        let causes = refused.body["details"]["causes"].to_string();
        assert!(causes.contains(field), "{causes}");
    }
    let labelled = write(&|o| o["metadata"]["labels"] = json!({"l": "v"})).await;
    assert_eq!((labelled.code, &labelled.body["data"]), (200, &data("two")));
    assert_eq!(admin.delete(&path).await.code, 200);
    assert_eq!(admin.get(&path).await.code, 404);
}

// conformance: [sig-storage] ConfigMap should be immutable if `immutable` field is set
#[tokio::test]
async fn an_immutable_config_map_keeps_its_data() {
    immutability("/api/v1/namespaces/default/configmaps", json!({"apiVersion": "v1", "kind": "ConfigMap"})).await;
}

// conformance: [sig-storage] Secrets should be immutable if `immutable` field is set
#[tokio::test]
async fn an_immutable_secret_keeps_its_data() {
    immutability("/api/v1/namespaces/default/secrets", json!({"apiVersion": "v1", "kind": "Secret"})).await;
}

#[tokio::test]
async fn a_node_reads_and_writes_of_storage_what_its_own_pods_need() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let node = |name: &str| cluster.user(apiserver::UserInfo::new(format!("system:node:{name}"), &["system:nodes"]));
    let (me, other) = (node("n1"), node("n2"));
    let nodes = format!("{GROUP}/csinodes");
    let of = |name: &str| object("CSINode", name, &json!({"spec": {"drivers": []}}));
    assert_eq!(me.post(&nodes, &of("n1")).await.code, 201);
    assert_eq!(me.post(&nodes, &of("n2")).await.code, 403);
    let mine = me.get(&format!("{nodes}/n1")).await;
    assert_eq!((mine.code, me.put(&format!("{nodes}/n1"), &mine.body).await.code), (200, 200));
    assert_eq!((other.get(&format!("{nodes}/n1")).await.code, me.get(&nodes).await.code), (403, 403));
    let attachments = format!("{GROUP}/volumeattachments");
    let attachment =
        json!({"spec": {"attacher": "d.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv"}}});
    admin.create(&attachments, &object("VolumeAttachment", "a", &attachment)).await;
    let path = format!("{attachments}/a");
    assert_eq!((me.get(&path).await.code, other.get(&path).await.code), (200, 403));
    assert_eq!(me.patch(&format!("{path}/status"), "merge", &json!({"status": {"attached": true}})).await.code, 403);
    // A driver's secret, in whatever namespace, for as long as a pod of the node claims the volume that names it.
    default_account(&admin).await;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    for name in ["stage", "else"] {
        admin.create("/api/v1/namespaces/kube-system/secrets", &secret(name)).await;
    }
    let reference = json!({"name": "stage", "namespace": "kube-system"});
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": "data"},
            "csi": {"driver": "d.example.com", "volumeHandle": "h", "nodeStageSecretRef": reference}},
    });
    admin.create("/api/v1/persistentvolumes", &volume).await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv", "resources": {"requests": {"storage": "1Gi"}}},
    });
    admin.create("/api/v1/namespaces/default/persistentvolumeclaims", &claim).await;
    let stage = "/api/v1/namespaces/kube-system/secrets/stage";
    let status = "/api/v1/namespaces/default/persistentvolumeclaims/data/status";
    let grown = json!({"status": {"capacity": {"storage": "2Gi"}}});
    assert_eq!((me.get(stage).await.code, me.patch(status, "merge", &grown).await.code), (403, 403));
    let mut using = pod("p");
    using["spec"]["nodeName"] = json!("n1");
    using["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    admin.create("/api/v1/namespaces/default/pods", &using).await;
    assert_eq!((me.get(stage).await.code, me.patch(status, "merge", &grown).await.code), (200, 200));
    assert_eq!((other.get(stage).await.code, other.patch(status, "merge", &grown).await.code), (403, 403));
    assert_eq!(me.get("/api/v1/namespaces/kube-system/secrets/else").await.code, 403);
    assert_eq!(me.get("/api/v1/namespaces/kube-system/secrets").await.code, 403);
}

#[tokio::test]
async fn a_node_says_what_there_is_of_the_snapshots_of_its_own_volumes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "volumesnapshotcontents.snapshot.storage.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://example.com/approved"}},
        "spec": {"group": "snapshot.storage.k8s.io", "scope": "Cluster",
            "names": {"kind": "VolumeSnapshotContent", "plural": "volumesnapshotcontents"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}}}]},
    });
    established(&admin, &definition).await;
    let path = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents";
    for (name, driver, node) in [("mine", "windlass.dev/local-path", "n1"), ("csi", "d.example.com", "n1")] {
        let labels = json!({"snapshot.storage.kubernetes.io/managed-by": node});
        let content = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent",
            "metadata": {"name": name, "labels": labels}, "spec": {"driver": driver}});
        admin.create(path, &content).await;
    }
    let node = |name: &str| cluster.user(apiserver::UserInfo::new(format!("system:node:{name}"), &["system:nodes"]));
    let (me, other) = (node("n1"), node("n2"));
    assert_eq!(
        names(&me, &format!("{path}?labelSelector=snapshot.storage.kubernetes.io/managed-by=n1")).await.len(),
        2
    );
    let ready = json!({"status": {"readyToUse": true}});
    let say = async |who: &Client, at: &str| who.patch(&format!("{path}/{at}"), "merge", &ready).await.code;
    assert_eq!((say(&me, "mine/status").await, say(&other, "mine/status").await), (200, 403));
    assert_eq!(say(&me, "csi/status").await, 403);
    assert_eq!(say(&me, "mine").await, 403);
    assert_eq!(me.delete(&format!("{path}/mine")).await.code, 403);
}
