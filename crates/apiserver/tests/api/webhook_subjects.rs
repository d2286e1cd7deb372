//! What webhooks are asked about, and what becomes of their answers.

use crate::common::hooks::{Hooks, MUTATING, VALIDATING, configuration, patch};
use crate::common::*;
use serde_json::{Value, json};

fn things(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/things")
}

fn thing(name: &str, data: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "data": data})
}

/// A definition whose versions, the first of them stored, have one schema.
fn definition(versions: &[&str], schema: &Value) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(n, v)| json!({"name": v, "served": true, "storage": n == 0, "schema": {"openAPIV3Schema": schema}}))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": versions,
        },
    })
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

async fn established(admin: &Client, definition: &Value) {
    let made = admin.create(CRDS, definition).await;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = admin.watch(&format!("{CRDS}?watch=true&resourceVersion={revision}")).await;
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
    }
}

/// Webhooks in two stages: each adds its mark to objects that have the one before.
async fn stages(cluster: &Cluster) -> Hooks {
    Hooks::serve(cluster, |path, request| {
        let (before, mark) = match path {
            "/first.x.example" => ("mutation-start", "mutation-stage-1"),
            _ => ("mutation-stage-1", "mutation-stage-2"),
        };
        match request["object"]["data"][before] == "yes" {
            true => patch(&json!([{"op": "add", "path": format!("/data/{mark}"), "value": "yes"}])),
            false => json!({"allowed": true}),
        }
    })
    .await
}

async fn registered(admin: &Client, hooks: &Hooks, resource: &str) {
    let both = ["first.x.example", "second.x.example"]
        .map(|name| hooks.hook(name, &["CREATE", "UPDATE"], &[resource], json!({})));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "stages", &both)).await;
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate configmap
#[tokio::test]
async fn a_webhook_sees_what_the_one_before_it_added() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = stages(&cluster).await;
    registered(&admin, &hooks, "configmaps").await;
    let mut object = config_map("c");
    object["data"] = json!({"mutation-start": "yes"});
    let all = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    assert_eq!(admin.create(CONFIG_MAPS, &object).await["data"], all);
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/c")).await.body["data"], all);
    assert_eq!(hooks.paths(), ["/first.x.example", "/second.x.example"]);
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with pruning
#[tokio::test]
async fn what_webhooks_add_to_custom_resources_is_kept_as_far_as_the_schema_has_it() {
    let fields = json!({"mutation-start": {"type": "string"}, "mutation-stage-1": {"type": "string"}});
    let some = json!({"type": "object", "properties": {"data": {"type": "object", "properties": fields}}});
    let pruned = json!({"mutation-start": "yes", "mutation-stage-1": "yes"});
    let all = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    for (schema, want) in [(anything(), all), (some, pruned)] {
        let cluster = Cluster::start().await;
        let admin = cluster.admin();
        let hooks = stages(&cluster).await;
        established(&admin, &definition(&["v1", "v2"], &schema)).await;
        registered(&admin, &hooks, "things").await;
        let made = admin.create(&things("v1"), &thing("a", json!({"mutation-start": "yes"}))).await;
        assert_eq!(made["data"], want);
        assert_eq!(admin.get(&format!("{}/a", things("v2"))).await.body["data"], want);
        assert_eq!(hooks.paths(), ["/first.x.example", "/second.x.example"]);
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with different stored version
#[tokio::test]
async fn a_custom_resource_is_changed_in_a_version_that_became_the_stored_one() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = stages(&cluster).await;
    established(&admin, &definition(&["v1", "v2"], &anything())).await;
    admin.create(&things("v1"), &thing("a", json!({"mutation-start": "yes"}))).await;
    registered(&admin, &hooks, "things").await;
    let mut versions = definition(&["v2", "v1"], &anything())["spec"]["versions"].take();
    versions.as_array_mut().unwrap().reverse();
    let crd = format!("{CRDS}/things.example.com");
    let moved = admin.patch(&crd, "strategic", &json!({"spec": {"versions": versions}})).await;
    assert_eq!(moved.code, 200, "{}", moved.body);
    assert_eq!(moved.body["spec"]["versions"][1]["storage"], true);
    let add = json!([{"op": "add", "path": "/dummy", "value": "test"}]);
    let patched = admin.patch(&format!("{}/a", things("v2")), "json", &add).await;
    assert_eq!((patched.code, &patched.body["dummy"]), (200, &json!("test")), "{}", patched.body);
    assert_eq!(patched.body["apiVersion"], "example.com/v2");
    let all = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    assert_eq!(patched.body["data"], all);
    assert_eq!(admin.get(&format!("{}/a", things("v1"))).await.body["dummy"], "test");
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny custom resource creation, update and deletion
#[tokio::test]
async fn custom_resources_are_refused_and_kept() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, request| {
        let (object, message) = match request["operation"].as_str().unwrap() {
            "DELETE" => (&request["oldObject"], "it cannot be deleted"),
            _ => (&request["object"], "it contains unwanted data"),
        };
        let unwanted = if request["operation"] == "DELETE" { "keep" } else { "bad" };
        json!({"allowed": object["data"]["k"] != unwanted, "status": {"message": message}})
    })
    .await;
    established(&admin, &definition(&["v1"], &anything())).await;
    let deny = hooks.hook("deny.x.example", &["CREATE", "UPDATE", "DELETE"], &["things"], json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[deny])).await;
    let refused = |answer: Answer, why: &str| {
        let message = answer.body["message"].as_str().unwrap_or_default();
        let want = format!(r#"admission webhook "deny.x.example" denied the request: {why}"#);
        assert!(answer.code >= 400 && message == want, "{}", answer.body);
    };
    refused(admin.post(&things("v1"), &thing("a", json!({"k": "bad"}))).await, "it contains unwanted data");
    let own = format!("{}/a", things("v1"));
    let mut made = admin.create(&things("v1"), &thing("a", json!({"k": "keep"}))).await;
    made["data"]["k"] = "bad".into();
    refused(admin.put(&own, &made).await, "it contains unwanted data");
    refused(admin.patch(&own, "merge", &json!({"data": {"k": "bad"}})).await, "it contains unwanted data");
    refused(admin.delete(&own).await, "it cannot be deleted");
    refused(admin.delete(&things("v1")).await, "it cannot be deleted");
    assert_eq!(admin.get(&own).await.body["data"]["k"], "keep");
    made["data"]["k"] = "good".into();
    assert_eq!(admin.put(&own, &made).await.code, 200);
    assert_eq!(admin.delete(&own).await.code, 200);
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should deny crd creation
#[tokio::test]
async fn a_definition_is_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": false, "status": {"message": "unwanted label"}})).await;
    let labelled = json!({"objectSelector": {"matchLabels": {"deny": "yes"}}});
    let deny = hooks.hook("deny.x.example", &["CREATE"], &["customresourcedefinitions"], labelled);
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[deny])).await;
    let mut crd = definition(&["v1"], &anything());
    crd["metadata"]["labels"] = json!({"deny": "yes"});
    let refused = admin.post(CRDS, &crd).await;
    let want = r#"admission webhook "deny.x.example" denied the request: unwanted label"#;
    assert_eq!(refused.body["message"], want);
    assert_eq!(admin.get(&format!("{CRDS}/things.example.com")).await.code, 404);
    crd["metadata"]["labels"] = json!({});
    admin.create(CRDS, &crd).await;
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate pod and apply defaults after mutation
#[tokio::test]
async fn a_container_that_a_webhook_adds_is_defaulted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let hooks = Hooks::serve(&cluster, |_, _| {
        let container = json!({"image": "i", "name": "added", "resources": {}});
        patch(&json!([{"op": "add", "path": "/spec/initContainers", "value": [container]}]))
    })
    .await;
    let add = hooks.hook("add.x.example", &["CREATE"], &["pods"], json!({}));
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &[add])).await;
    let made = admin.create(PODS, &pod("p")).await;
    let containers = made["spec"]["initContainers"].as_array().unwrap();
    assert_eq!((containers.len(), &containers[0]["name"]), (1, &json!("added")));
    assert_eq!(containers[0]["terminationMessagePolicy"], "File");
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate everything except 'skip-me' configmaps
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject mutating webhook configurations with invalid match conditions
// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject validating webhook configurations with invalid match conditions
#[tokio::test]
async fn a_match_condition_spares_one_name_and_one_that_does_not_compile_is_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = stages(&cluster).await;
    let with = |expression: &str| {
        let conditions = json!({"matchConditions": [{"name": "skip-me", "expression": expression}]});
        [hooks.hook("first.x.example", &["CREATE"], &["configmaps"], conditions)]
    };
    for (path, kind) in [(VALIDATING, "ValidatingWebhookConfiguration"), (MUTATING, "MutatingWebhookConfiguration")] {
        let refused = admin.post(path, &configuration(kind, "bad", &with("... [] bad expression"))).await;
        let message = refused.body["message"].as_str().unwrap();
        assert!(refused.code == 422 && message.contains("compilation failed"), "{message}");
        assert_eq!(refused.body["details"]["causes"][0]["field"], "webhooks[0].matchConditions[0].expression");
    }
    let spare = with("object.metadata.name != 'skip-me'");
    admin.create(MUTATING, &configuration("MutatingWebhookConfiguration", "m", &spare)).await;
    for (name, want) in [("other", json!("yes")), ("skip-me", Value::Null)] {
        let mut object = config_map(name);
        object["data"] = json!({"mutation-start": "yes"});
        assert_eq!(admin.create(CONFIG_MAPS, &object).await["data"]["mutation-stage-1"], want, "{name}");
    }
}

/// A namespace with a label.
async fn namespace(admin: &Client, name: &str, label: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {label: "yes"}}});
    admin.create("/api/v1/namespaces", &object).await;
    format!("/api/v1/namespaces/{name}/configmaps")
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny pod and configmap creation
#[tokio::test]
async fn pods_and_config_maps_are_refused_outside_of_exempted_namespaces() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let hooks = Hooks::serve(&cluster, |path, request| {
        let object = &request["object"];
        let bad = match path {
            "/pods.x.example" => object["spec"]["containers"][0]["name"] == "unwanted",
            _ => object["data"]["k"] == "bad",
        };
        json!({"allowed": !bad, "status": {"message": "it contains what is unwanted", "reason": "Forbidden", "code": 403}})
    })
    .await;
    let here = json!({"namespaceSelector": {"matchExpressions": [{"key": "exempt", "operator": "DoesNotExist"}]}});
    let mut slow = here.clone();
    slow["timeoutSeconds"] = 1.into();
    slow["matchConditions"] = json!([{"name": "hanging", "expression": "object.metadata.name == 'hanging'"}]);
    let list = [
        hooks.hook("pods.x.example", &["CREATE"], &["pods"], here.clone()),
        hooks.hook("slow.x.example", &["CREATE"], &["pods"], slow),
        hooks.hook("maps.x.example", &["CREATE", "UPDATE"], &["configmaps"], here),
    ];
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &list)).await;
    let refused = |answer: Answer, hook: &str| {
        let want = format!(r#"admission webhook "{hook}" denied the request: it contains what is unwanted"#);
        assert_eq!((answer.code, answer.body["message"].as_str()), (403, Some(want.as_str())));
    };
    let mut unwanted = pod("unwanted");
    unwanted["spec"]["containers"][0]["name"] = "unwanted".into();
    refused(admin.post(PODS, &unwanted).await, "pods.x.example");
    let late = admin.post(PODS, &pod("hanging")).await;
    let message = late.body["message"].as_str().unwrap();
    assert!(late.code == 500 && message.contains("slow.x.example") && message.contains("deadline"), "{message}");
    for name in ["unwanted", "hanging"] {
        assert_eq!(admin.get(&format!("{PODS}/{name}")).await.code, 404);
    }
    admin.create(PODS, &pod("good")).await;
    let mut bad = config_map("bad");
    bad["data"]["k"] = "bad".into();
    refused(admin.post(CONFIG_MAPS, &bad).await, "maps.x.example");
    let mut good = admin.create(CONFIG_MAPS, &config_map("good")).await;
    good["data"]["k"] = "bad".into();
    let own = format!("{CONFIG_MAPS}/good");
    refused(admin.put(&own, &good).await, "maps.x.example");
    refused(admin.patch(&own, "strategic", &json!({"data": {"k": "bad"}})).await, "maps.x.example");
    assert_eq!(admin.get(&own).await.body["data"]["k"], "v");
    let exempted = namespace(&admin, "exempted", "exempt").await;
    admin.create(&exempted, &bad).await;
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny attaching pod
#[tokio::test]
async fn attaching_to_a_pod_is_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.create("/api/v1/nodes", &node).await;
    let hooks = Hooks::serve(&cluster, |_, request| {
        let name = request["name"].as_str().unwrap();
        let message = format!("attaching to pod '{name}' is not allowed");
        json!({"allowed": name != "closed", "status": {"message": message, "reason": "Forbidden", "code": 403}})
    })
    .await;
    let deny = hooks.hook("deny.x.example", &["CONNECT"], &["pods/attach"], json!({}));
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[deny])).await;
    let upgrade = admin.header("connection", "Upgrade").header("upgrade", "websocket");
    let upgrade = upgrade.header("sec-websocket-protocol", "v5.channel.k8s.io");
    let want = r#"admission webhook "deny.x.example" denied the request: attaching to pod 'closed' is not allowed"#;
    for name in ["closed", "open"] {
        let mut bound = pod(name);
        bound["spec"]["nodeName"] = "n1".into();
        admin.create(PODS, &bound).await;
        for method in ["GET", "POST"] {
            let answer = upgrade.send(method, &format!("{PODS}/{name}/attach?stdin=true&container=c"), "", "").await;
            // There is no kubelet: one that is let through fails for another reason.
            let denied = answer.code == 403 && answer.body["message"] == want;
            assert!(answer.code >= 400 && denied == (name == "closed"), "{}", answer.body);
            let (_, request) = hooks.seen.lock().pop().unwrap();
            assert_eq!((&request["operation"], &request["subResource"]), (&json!("CONNECT"), &json!("attach")));
            assert_eq!(
                (&request["object"]["kind"], &request["object"]["stdin"]),
                (&json!("PodAttachOptions"), &json!(true))
            );
        }
    }
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should unconditionally reject operations on fail closed webhook
#[tokio::test]
async fn a_webhook_that_cannot_be_called_and_fails_closed_refuses_all() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": true})).await;
    let here = json!({"failurePolicy": "Fail", "namespaceSelector": {"matchLabels": {"closed": "yes"}}});
    let mut closed = hooks.hook("closed.x.example", &["CREATE"], &["configmaps"], here);
    // Without the bundle its certificate is nobody's.
    closed["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    admin.create(VALIDATING, &configuration("ValidatingWebhookConfiguration", "v", &[closed])).await;
    let maps = namespace(&admin, "closed", "closed").await;
    for _ in 0..2 {
        let refused = admin.post(&maps, &config_map("c")).await;
        assert_eq!((refused.code, refused.body["reason"].as_str()), (500, Some("InternalError")), "{}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(r#"failed calling webhook "closed.x.example""#), "{message}");
    }
    admin.create(CONFIG_MAPS, &config_map("c")).await;
}

// conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should honor timeout
#[tokio::test]
async fn a_slow_webhook_is_waited_for_as_long_as_it_says() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let hooks = Hooks::serve(&cluster, |_, _| json!({"allowed": true})).await;
    let own = format!("{VALIDATING}/v");
    let slow = |policy: &str, timeout: Option<u64>| {
        let mut more = json!({"failurePolicy": policy});
        if let Some(timeout) = timeout {
            more["timeoutSeconds"] = timeout.into();
        }
        let slow = hooks.hook("slow.x.example", &["CREATE"], &["configmaps"], more);
        configuration("ValidatingWebhookConfiguration", "v", &[slow])
    };
    admin.create(VALIDATING, &slow("Fail", Some(1))).await;
    let late = admin.post(CONFIG_MAPS, &config_map("late")).await;
    let message = late.body["message"].as_str().unwrap();
    assert!(late.code == 500 && message.contains("context deadline exceeded"), "{message}");
    assert!(message.contains("/slow.x.example?timeout=1s"), "{message}");
    assert_eq!(admin.put(&own, &slow("Ignore", Some(1))).await.code, 200);
    admin.create(CONFIG_MAPS, &config_map("ignored")).await;
    // The first request is still waited for when one with a shorter limit has failed after it.
    assert_eq!(admin.put(&own, &slow("Fail", Some(30))).await.code, 200);
    hooks.paths();
    let patient = tokio::spawn({
        let admin = admin.clone();
        async move { admin.post(CONFIG_MAPS, &config_map("patient")).await }
    });
    while hooks.seen.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(admin.put(&own, &slow("Fail", Some(1))).await.code, 200);
    assert_eq!(admin.post(CONFIG_MAPS, &config_map("late")).await.code, 500);
    hooks.permits.add_permits(100);
    let patient = patient.await.unwrap();
    assert_eq!(patient.code, 201, "{}", patient.body);
    // An unset limit is ten seconds.
    let unset = admin.put(&own, &slow("Fail", None)).await;
    assert_eq!((unset.code, &unset.body["webhooks"][0]["timeoutSeconds"]), (200, &json!(10)));
    admin.create(CONFIG_MAPS, &config_map("unset")).await;
    assert_eq!(hooks.queries.lock().last().unwrap(), "timeout=10s");
}
