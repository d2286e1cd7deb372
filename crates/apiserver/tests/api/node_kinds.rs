//! The kinds that nodes and their pods live by, through all that a client may do with them.

use crate::common::*;
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const TEMPLATES: &str = "/api/v1/namespaces/default/podtemplates";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

/// What a round of [`Round::go`] is about.
struct Round {
    /// `node.k8s.io/v1`.
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// All but the metadata.
    content: Value,
    /// A merge patch, and where it is seen afterwards with what.
    change: (Value, &'static str, Value),
    /// The same for the status, where there is one.
    status: Option<(Value, &'static str, Value)>,
}

impl Round {
    fn object(&self, name: &str) -> Value {
        let mut object = self.content.clone();
        object["apiVersion"] = self.version.into();
        object["kind"] = self.kind.into();
        object["metadata"] = json!({"name": name, "labels": {"round": "one"}});
        object
    }

    /// Discovery, create, get, list, watch, update, every form of patch, status, delete, delete of a collection.
    async fn go(&self, admin: &Client) {
        self.is_discovered(admin).await;
        let base = format!("/apis/{}", self.version);
        let folder = match self.namespaced {
            true => format!("{base}/namespaces/default/{}", self.plural),
            false => format!("{base}/{}", self.plural),
        };
        let made = admin.create(&folder, &self.object("a")).await;
        assert_eq!(admin.post(&folder, &self.object("a")).await.code, 409);
        let since = made["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch =
            admin.watch(&format!("{folder}?watch=1&labelSelector=round%3Done&resourceVersion={since}")).await;
        for name in ["b", "c"] {
            admin.create(&folder, &self.object(name)).await;
            assert_eq!(watch.brief().await, ("ADDED".to_owned(), name.to_owned()));
        }
        let one = format!("{folder}/a");
        assert_eq!(admin.get(&one).await.body["metadata"]["uid"], made["metadata"]["uid"]);
        assert_eq!(self.count(admin, &folder).await, 3);
        assert_eq!(self.count(admin, &format!("{base}/{}", self.plural)).await, 3);
        self.patches(admin, &one, &made).await;
        assert_eq!(watch.brief().await, ("MODIFIED".to_owned(), "a".to_owned()));
        let mut whole = admin.get(&one).await.body;
        whole["metadata"]["annotations"] = json!({"updated": "true"});
        let updated = admin.put(&one, &whole).await;
        assert_eq!((updated.code, &updated.body["metadata"]["annotations"]["updated"]), (200, &json!("true")));
        assert_eq!(admin.put(&one, &whole).await.code, 409, "an old revision is refused");
        self.status(admin, &one).await;
        assert_eq!(admin.delete(&one).await.code, 200);
        assert_eq!(admin.get(&one).await.code, 404);
        assert_eq!(self.count(admin, &folder).await, 2);
        assert_eq!(admin.delete(&format!("{folder}?labelSelector=round%3Dtwo")).await.code, 200);
        assert_eq!(self.count(admin, &folder).await, 2, "others are not in the selection");
        assert_eq!(admin.delete(&format!("{folder}?labelSelector=round%3Done")).await.code, 200);
        assert_eq!(self.count(admin, &folder).await, 0);
    }

    async fn count(&self, admin: &Client, folder: &str) -> usize {
        let list = admin.get(&format!("{folder}?labelSelector=round%3Done")).await.body;
        assert_eq!(list["kind"], format!("{}List", self.kind));
        list["items"].as_array().unwrap().len()
    }

    async fn is_discovered(&self, admin: &Client) {
        let (group, version) = self.version.split_once('/').unwrap();
        let all = admin.get("/apis").await.body;
        let listed = all["groups"].as_array().unwrap().iter().find(|g| g["name"] == group).unwrap();
        let has = |g: &Value| g["versions"].as_array().unwrap().iter().any(|v| v["version"] == version);
        assert!(has(listed) && has(&admin.get(&format!("/apis/{group}")).await.body));
        let resources = admin.get(&format!("/apis/{}", self.version)).await.body;
        let own = resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == self.plural).unwrap();
        let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        assert!(verbs.iter().all(|v| own["verbs"].as_array().unwrap().contains(&json!(v))), "{own}");
    }

    async fn patches(&self, admin: &Client, one: &str, made: &Value) {
        let (patch, at, value) = &self.change;
        let mut before = made["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        let first = admin.patch(one, "merge", patch).await;
        assert_eq!((first.code, first.body.pointer(at)), (200, Some(value)), "{}", first.body);
        for (form, key) in [("merge", "m"), ("strategic", "s"), ("json", "j"), ("apply", "y")] {
            let note = json!({"metadata": {"annotations": {key: "patched"}}});
            let answer = match form {
                "json" => {
                    let steps =
                        json!([{"op": "add", "path": format!("/metadata/annotations/{key}"), "value": "patched"}]);
                    admin.patch(one, form, &steps).await
                }
                "apply" => {
                    let mut note = note.clone();
                    note["apiVersion"] = self.version.into();
                    note["kind"] = self.kind.into();
                    admin.patch(&format!("{one}?fieldManager=round"), form, &note).await
                }
                _ => admin.patch(one, form, &note).await,
            };
            assert_eq!((answer.code, &answer.body["metadata"]["annotations"][key]), (200, &json!("patched")), "{form}");
            let after = answer.body["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
            assert!(after > before);
            before = after;
        }
    }

    async fn status(&self, admin: &Client, one: &str) {
        let Some((patch, at, value)) = &self.status else { return };
        let path = format!("{one}/status");
        for form in ["merge", "strategic"] {
            let answer = admin.patch(&path, form, patch).await;
            assert_eq!((answer.code, answer.body.pointer(at)), (200, Some(value)), "{form}: {}", answer.body);
        }
        let mut whole = admin.get(&path).await.body;
        assert_eq!(whole.pointer(at), Some(value));
        whole["metadata"]["annotations"]["round/status"] = "put".into();
        assert_eq!(admin.put(&path, &whole).await.code, 200);
        assert_eq!(admin.get(one).await.body.pointer(at), Some(value));
    }
}

// conformance: [sig-node] RuntimeClass should support RuntimeClasses API operations
#[tokio::test]
async fn runtime_classes_take_every_verb() {
    let cluster = Cluster::start().await;
    Round {
        version: "node.k8s.io/v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        namespaced: false,
        content: json!({"handler": "h"}),
        change: (json!({"metadata": {"labels": {"more": "yes"}}}), "/metadata/labels/more", json!("yes")),
        status: None,
    }
    .go(&cluster.admin())
    .await;
}

fn request() -> Value {
    json!({"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": "dra.example.com"}}]}})
}

// conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 DeviceClass
#[tokio::test]
async fn device_classes_take_every_verb() {
    let cluster = Cluster::start().await;
    let selectors = |text: &str| json!({"spec": {"selectors": [{"cel": {"expression": text}}]}});
    Round {
        version: "resource.k8s.io/v1",
        kind: "DeviceClass",
        plural: "deviceclasses",
        namespaced: false,
        content: selectors("false"),
        change: (selectors("1 == 0"), "/spec/selectors/0/cel/expression", json!("1 == 0")),
        status: None,
    }
    .go(&cluster.admin())
    .await;
}

// conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim
#[tokio::test]
async fn resource_claims_take_every_verb() {
    let cluster = Cluster::start().await;
    let labelled = json!({"metadata": {"labels": {"test.dra.example.com": "test"}}});
    Round {
        version: "resource.k8s.io/v1",
        kind: "ResourceClaim",
        plural: "resourceclaims",
        namespaced: true,
        content: json!({"spec": request()}),
        change: (labelled, "/metadata/labels/test.dra.example.com", json!("test")),
        // Nothing allocated is an allocation too.
        status: Some((json!({"status": {"allocation": {}}}), "/status/allocation", json!({}))),
    }
    .go(&cluster.admin())
    .await;
}

// conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate
#[tokio::test]
async fn resource_claim_templates_take_every_verb() {
    let cluster = Cluster::start().await;
    let labelled = json!({"metadata": {"labels": {"test.dra.example.com": "test"}}});
    Round {
        version: "resource.k8s.io/v1",
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        namespaced: true,
        content: json!({"spec": {"spec": request()}}),
        change: (labelled, "/metadata/labels/test.dra.example.com", json!("test")),
        status: None,
    }
    .go(&cluster.admin())
    .await;
}

// conformance: [sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice
#[tokio::test]
async fn resource_slices_take_every_verb() {
    let cluster = Cluster::start().await;
    let pool = json!({"name": "cluster", "generation": 1, "resourceSliceCount": 1});
    Round {
        version: "resource.k8s.io/v1",
        kind: "ResourceSlice",
        plural: "resourceslices",
        namespaced: false,
        content: json!({"spec": {"driver": "dra.example.com", "pool": pool, "nodeName": "no-such-node"}}),
        change: (json!({"spec": {"devices": [{"name": "device-0"}]}}), "/spec/devices/0/name", json!("device-0")),
        status: None,
    }
    .go(&cluster.admin())
    .await;
}

// conformance: [sig-node] ConfigMap should fail to create ConfigMap with empty key
// conformance: [sig-node] Secrets should fail to create secret due to empty secret key
#[tokio::test]
async fn a_key_has_at_least_one_character() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (folder, kind) in [(CONFIG_MAPS, "ConfigMap"), (SECRETS, "Secret")] {
        let object =
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "empty"}, "data": {"": "dmFsdWUtMQ=="}});
        let answer = admin.post(folder, &object).await;
        assert_eq!((answer.code, answer.body["reason"].as_str()), (422, Some("Invalid")), "{}", answer.body);
        assert_eq!(answer.body["details"]["causes"][0]["field"], "data[]");
        assert_eq!(admin.get(&format!("{folder}/empty")).await.code, 404);
    }
}

// conformance: [sig-node] ConfigMap should run through a ConfigMap lifecycle
// conformance: [sig-node] ConfigMap should update ConfigMap successfully
#[tokio::test]
async fn a_config_map_is_made_changed_found_and_deleted_by_selection() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.create(CONFIG_MAPS, &labelled("c", "static", "flat")).await;
    assert_eq!(made["data"]["k"], "v");
    let mut whole = made.clone();
    whole["data"] = json!({"value": "updated"});
    let updated = admin.put(&format!("{CONFIG_MAPS}/c"), &whole).await;
    assert_eq!((updated.code, &updated.body["data"]), (200, &json!({"value": "updated"})));
    let patch = json!({"metadata": {"labels": {"test-configmap": "patched"}}, "data": {"value": "patched"}});
    assert_eq!(admin.patch(&format!("{CONFIG_MAPS}/c"), "strategic", &patch).await.code, 200);
    let got = admin.get(&format!("{CONFIG_MAPS}/c")).await.body;
    assert_eq!(
        (&got["data"]["value"], &got["metadata"]["labels"]["test-configmap"]),
        (&json!("patched"), &json!("patched"))
    );
    let everywhere = admin.get("/api/v1/configmaps?labelSelector=static%3Dflat,test-configmap%3Dpatched").await.body;
    assert_eq!(everywhere["items"].as_array().unwrap().len(), 1);
    assert_eq!(everywhere["items"][0]["data"]["value"], "patched");
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}?labelSelector=static%3Dflat")).await.code, 200);
    let left = admin.get("/api/v1/configmaps?labelSelector=static%3Dflat").await.body;
    assert_eq!(left["items"], json!([]));
}

// conformance: [sig-node] Secrets should patch a secret
#[tokio::test]
async fn a_secret_is_made_patched_found_and_deleted_by_selection() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"testsecret-constant": "true"}}});
    secret["data"] = json!({"key": "dmFsdWU="});
    secret["type"] = "Opaque".into();
    let listed = |admin: Client, selector: &'static str| async move {
        let list = admin.get(&format!("/api/v1/secrets?labelSelector={selector}")).await.body;
        list["items"].as_array().unwrap().clone()
    };
    assert!(listed(admin.clone(), "testsecret-constant%3Dtrue").await.is_empty());
    admin.create(SECRETS, &secret).await;
    assert_eq!(listed(admin.clone(), "testsecret-constant%3Dtrue").await.len(), 1);
    let patch = json!({"metadata": {"labels": {"testsecret": "true"}}, "data": {"key": "dmFsdWUx"}});
    assert_eq!(admin.patch(&format!("{SECRETS}/s"), "strategic", &patch).await.code, 200);
    let found = listed(admin.clone(), "testsecret%3Dtrue").await;
    assert_eq!((found.len(), &found[0]["data"]["key"]), (1, &json!("dmFsdWUx")));
    assert_eq!(admin.delete(&format!("{SECRETS}?labelSelector=testsecret%3Dtrue")).await.code, 200);
    assert!(listed(admin.clone(), "testsecret-constant%3Dtrue").await.is_empty());
    assert_eq!(admin.get(&format!("{SECRETS}/s")).await.code, 404);
}

// conformance: [sig-node] Lease lease API should be available
#[tokio::test]
async fn leases_keep_what_they_are_given() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = |holder: &str, seconds: u32, transitions: u32| {
        json!({
            "holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": transitions,
            "acquireTime": "2024-01-01T00:00:00.000001Z", "renewTime": "2024-01-01T00:00:05.000002Z",
        })
    };
    let lease = |name: &str, spec: Value| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
    let one = format!("{LEASES}/a");
    let first = spec("holder", 30, 0);
    admin.create(LEASES, &lease("a", first.clone())).await;
    let mut read = admin.get(&one).await.body;
    assert_eq!(read["spec"], first);
    let second = spec("holder2", 45, 1);
    read["spec"] = second.clone();
    assert_eq!(admin.put(&one, &read).await.code, 200);
    assert_eq!(admin.get(&one).await.body["spec"], second);
    let third = spec("holder3", 60, 2);
    assert_eq!(admin.patch(&one, "strategic", &json!({"spec": third})).await.code, 200);
    assert_eq!(admin.get(&one).await.body["spec"], third);
    let mut other = lease("b", spec("holder4", 30, 0));
    other["metadata"]["labels"] = json!({"deletecollection": "true"});
    admin.create(LEASES, &other).await;
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().clone();
        items.iter().map(|l| l["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(admin.get(LEASES).await.body), ["a", "b"]);
    assert_eq!(admin.delete(&format!("{LEASES}?labelSelector=deletecollection%3Dtrue")).await.code, 200);
    assert_eq!(names(admin.get(LEASES).await.body), ["a"]);
    assert_eq!(admin.delete(&one).await.code, 200);
    assert_eq!(admin.get(&one).await.code, 404);
}

fn template(name: &str) -> Value {
    let spec = json!({"containers": [{"name": "nginx", "image": "nginx:1"}]});
    json!({
        "apiVersion": "v1", "kind": "PodTemplate",
        "metadata": {"name": name, "labels": {"podtemplate-static": "true"}},
        "template": {"spec": spec},
    })
}

// conformance: [sig-node] PodTemplates should delete a collection of pod templates
// conformance: [sig-node] PodTemplates should replace a pod template
// conformance: [sig-node] PodTemplates should run the lifecycle of PodTemplates
#[tokio::test]
async fn pod_templates_are_made_changed_found_and_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let everywhere = "/api/v1/podtemplates?labelSelector=podtemplate-static%3Dtrue";
    let count = |list: Value| list["items"].as_array().unwrap().len();
    for name in ["a", "b", "c"] {
        admin.create(TEMPLATES, &template(name)).await;
    }
    assert_eq!(count(admin.get(everywhere).await.body), 3);
    let one = format!("{TEMPLATES}/a");
    let patch = json!({"metadata": {"labels": {"podtemplate": "patched"}}});
    assert_eq!(admin.patch(&one, "strategic", &patch).await.code, 200);
    let mut got = admin.get(&one).await.body;
    assert_eq!(got["metadata"]["labels"]["podtemplate"], "patched");
    let found = admin.get("/api/v1/podtemplates?labelSelector=podtemplate%3Dpatched").await.body;
    assert_eq!((count(found.clone()), &found["items"][0]["metadata"]["name"]), (1, &json!("a")));
    got["metadata"]["annotations"] = json!({"updated": "true"});
    let replaced = admin.put(&one, &got).await;
    assert_eq!((replaced.code, &replaced.body["metadata"]["annotations"]["updated"]), (200, &json!("true")));
    assert_eq!(admin.get(&one).await.body["metadata"]["annotations"]["updated"], "true");
    assert_eq!(admin.delete(&one).await.code, 200);
    assert_eq!((admin.get(&one).await.code, count(admin.get(everywhere).await.body)), (404, 2));
    assert_eq!(admin.delete(&format!("{TEMPLATES}?labelSelector=podtemplate-static%3Dtrue")).await.code, 200);
    assert_eq!(count(admin.get(everywhere).await.body), 0);
}

// conformance: [sig-node] Node Lifecycle should run through the lifecycle of a node
#[tokio::test]
async fn a_node_is_made_labelled_found_and_deleted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let condition = json!({"type": "Ready", "status": "True", "reason": "E2E", "message": "of a test"});
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "fake"},
        "spec": {"unschedulable": true}, "status": {"conditions": [condition]},
    });
    let (nodes, one) = ("/api/v1/nodes", "/api/v1/nodes/fake");
    let made = admin.create(nodes, &node).await;
    let revision = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(admin.get(one).await.body["metadata"]["name"], "fake");
    let patched = admin.patch(one, "strategic", &json!({"metadata": {"labels": {"fake": "patched"}}})).await;
    assert_eq!((patched.code, &patched.body["metadata"]["labels"]["fake"]), (200, &json!("patched")));
    assert!(revision(&patched.body) > revision(&made));
    let list = admin.get(&format!("{nodes}?labelSelector=fake%3Dpatched")).await.body;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let mut whole = patched.body;
    whole["metadata"]["labels"]["fake"] = "updated".into();
    let updated = admin.put(one, &whole).await;
    assert_eq!((updated.code, &updated.body["metadata"]["labels"]["fake"]), (200, &json!("updated")));
    assert_eq!(admin.delete(one).await.code, 200);
    assert_eq!(admin.get(one).await.code, 404);
}

// conformance: [sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass
// conformance: [sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass
#[tokio::test]
async fn a_pod_of_a_runtime_class_that_is_not_there_is_forbidden() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let mut classy = pod("p");
    classy["spec"]["runtimeClassName"] = "deleted".into();
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "deleted"}, "handler": "runc"});
    admin.create(CLASSES, &class).await;
    assert_eq!(admin.post(&format!("{PODS}?dryRun=All"), &classy).await.code, 201);
    assert_eq!(admin.delete(&format!("{CLASSES}/deleted")).await.code, 200);
    for name in ["deleted", "never-made"] {
        classy["spec"]["runtimeClassName"] = name.into();
        let answer = admin.post(&format!("{PODS}?dryRun=All"), &classy).await;
        assert_eq!((answer.code, answer.body["reason"].as_str()), (403, Some("Forbidden")), "{}", answer.body);
        assert!(answer.body["message"].as_str().unwrap().contains(name));
        assert_eq!(admin.post(PODS, &classy).await.code, 403);
    }
}

// conformance: [sig-node] Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu
#[tokio::test]
async fn a_pod_that_asks_for_all_that_it_may_use_is_guaranteed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let amounts = json!({"cpu": "100m", "memory": "100Mi"});
    let mut guaranteed = pod("p");
    guaranteed["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
    admin.create(PODS, &guaranteed).await;
    assert_eq!(admin.get(&format!("{PODS}/p")).await.body["status"]["qosClass"], "Guaranteed");
}

// conformance: [sig-node] Sysctls [LinuxOnly] [NodeConformance] should reject invalid sysctls
#[tokio::test]
async fn a_pod_with_kernel_parameters_that_are_none_is_invalid() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let named = |name: &str| json!({"name": name, "value": "100000000"});
    let mut wrong = pod("p");
    let list = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar..", "kernel.shm_rmid_forced"];
    wrong["spec"]["securityContext"] = json!({"sysctls": list.map(named)});
    let answer = admin.post(PODS, &wrong).await;
    assert_eq!((answer.code, answer.body["reason"].as_str()), (422, Some("Invalid")), "{}", answer.body);
    let message = answer.body["message"].as_str().unwrap();
    for (name, refused) in [("foo-", true), ("bar..", true), ("kernel.shmmax", false), ("safe-and-unsafe", false)] {
        assert_eq!(message.contains(&format!("Invalid value: {name:?}")), refused, "{name}: {message}");
        assert_eq!(message.contains(name), refused, "{name}: {message}");
    }
    assert_eq!(admin.get(&format!("{PODS}/p")).await.code, 404);
}
