//! The parts of a pod that have a path of their own: ephemeral containers and resources.

use crate::common::*;
use serde_json::{Value, json};

const POD: &str = "/api/v1/namespaces/default/pods/p";

fn at(part: &str) -> String {
    format!("{POD}/{part}")
}

async fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    (cluster, admin)
}

fn sized(cpu: &str) -> Value {
    let amount = json!({"cpu": cpu, "memory": "64Mi"});
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": amount, "limits": amount});
    pod
}

fn resources(cpu: &str) -> Value {
    let amount = json!({"cpu": cpu, "memory": "64Mi"});
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": amount, "limits": amount}}]}})
}

fn causes(answer: &Answer) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = answer.body["details"]["causes"].as_array().cloned().unwrap_or_default();
    list.iter().map(|c| (text(&c["field"]), text(&c["message"]))).collect()
}

#[tokio::test]
async fn an_ephemeral_container_is_added_and_then_stays() {
    let (_cluster, admin) = cluster().await;
    admin.create(PODS, &pod("p")).await;
    let debug = json!({"name": "debug", "image": "busybox", "stdin": true, "tty": true, "targetContainerName": "c", "resources": {}});
    let list = |container: &Value| json!({"spec": {"ephemeralContainers": [container]}});
    // The pod itself does not take it, neither new nor later.
    let mut with = pod("q");
    with["spec"]["ephemeralContainers"] = json!([debug]);
    assert_eq!(admin.post(PODS, &with).await.code, 422);
    assert_eq!(admin.patch(POD, "strategic", &list(&debug)).await.code, 422);
    let mut wish = list(&debug);
    wish["metadata"] = json!({"labels": {"other": "thing"}});
    wish["spec"]["terminationGracePeriodSeconds"] = 5.into();
    let added = admin.patch(&at("ephemeralcontainers"), "strategic", &wish).await;
    assert_eq!(added.code, 200, "{}", added.body);
    let stored = admin.get(POD).await.body;
    let spec = &stored["spec"];
    assert_eq!(spec["ephemeralContainers"][0]["targetContainerName"], "c");
    assert_eq!(spec["ephemeralContainers"][0]["imagePullPolicy"], "Always");
    assert_eq!(spec["ephemeralContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!((&spec["terminationGracePeriodSeconds"], &stored["metadata"]["labels"]), (&json!(30), &Value::Null));
    assert_eq!(stored["metadata"]["generation"], 2);
    // PUT of the whole pod, with one more.
    let mut whole = admin.get(&at("ephemeralcontainers")).await.body;
    let more = json!({"name": "more", "image": "busybox"});
    whole["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(more);
    assert_eq!(admin.put(&at("ephemeralcontainers"), &whole).await.code, 200);
    let mut fewer = admin.get(POD).await.body;
    fewer["spec"]["ephemeralContainers"].as_array_mut().unwrap().remove(0);
    let refused = admin.put(&at("ephemeralcontainers"), &fewer).await;
    assert_eq!(refused.code, 422);
    assert!(causes(&refused)[0].1.contains("existing ephemeral containers \"debug\" may not be removed"));
    let other = list(&json!({"name": "debug", "image": "other"}));
    let refused = admin.patch(&at("ephemeralcontainers"), "strategic", &other).await;
    assert!(causes(&refused)[0].1.contains("existing ephemeral containers \"debug\" may not be changed"));
}

#[tokio::test]
async fn an_ephemeral_container_is_not_for_work_that_a_pod_relies_on() {
    let (_cluster, admin) = cluster().await;
    admin.create(PODS, &pod("p")).await;
    for (more, field, message) in [
        (json!({"ports": [{"containerPort": 1}]}), "ports", "cannot be set for an Ephemeral Container"),
        (json!({"resources": {"limits": {"cpu": "1"}}}), "resources", "cannot be set for an Ephemeral Container"),
        (json!({"livenessProbe": {"exec": {"command": ["x"]}}}), "livenessProbe", "cannot be set"),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), "lifecycle", "cannot be set"),
        (json!({"targetContainerName": "no"}), "targetContainerName", "Not found"),
        (json!({"name": "c"}), "name", "Duplicate value"),
        (json!({"image": ""}), "image", "Required value"),
    ] {
        let mut container = json!({"name": "debug", "image": "busybox"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"spec": {"ephemeralContainers": [container]}});
        let refused = admin.patch(&at("ephemeralcontainers"), "merge", &body).await;
        assert_eq!(refused.code, 422, "{field}: {}", refused.body);
        let found = causes(&refused);
        let named = format!("spec.ephemeralContainers[0].{field}");
        assert!(found.iter().any(|(f, m)| *f == named && m.contains(message)), "{field}: {found:?}");
    }
}

#[tokio::test]
async fn a_namespaces_pod_security_holds_for_ephemeral_containers() {
    let (_cluster, admin) = cluster().await;
    admin.create(PODS, &pod("p")).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    assert_eq!(admin.patch("/api/v1/namespaces/default", "merge", &label).await.code, 200);
    let add = |privileged: bool| {
        let container = json!({"name": "debug", "image": "busybox", "securityContext": {"privileged": privileged}});
        json!({"spec": {"ephemeralContainers": [container]}})
    };
    assert_eq!(admin.patch(&at("ephemeralcontainers"), "strategic", &add(true)).await.code, 403);
    assert_eq!(admin.patch(&at("ephemeralcontainers"), "strategic", &add(false)).await.code, 200);
}

#[tokio::test]
async fn a_resize_changes_processor_and_memory_and_nothing_else() {
    let (_cluster, admin) = cluster().await;
    admin.create(PODS, &sized("1")).await;
    // Not by way of the pod itself.
    assert_eq!(admin.patch(POD, "strategic", &resources("2")).await.code, 422);
    let mut wish = resources("2");
    wish["spec"]["containers"][0]["image"] = "other".into();
    wish["metadata"] = json!({"labels": {"other": "thing"}});
    let done = admin.patch(&at("resize"), "strategic", &wish).await;
    assert_eq!(done.code, 200, "{}", done.body);
    let stored = admin.get(POD).await.body;
    let c = &stored["spec"]["containers"][0];
    assert_eq!((&c["resources"]["limits"]["cpu"], &c["image"]), (&json!("2"), &json!("busybox")));
    assert_eq!((&stored["metadata"]["generation"], &stored["metadata"]["labels"]), (&json!(2), &Value::Null));
    let mut whole = admin.get(&at("resize")).await.body;
    whole["spec"]["containers"][0]["resources"] = sized("3")["spec"]["containers"][0]["resources"].clone();
    assert_eq!(admin.put(&at("resize"), &whole).await.code, 200);
    let mut without = admin.get(POD).await.body;
    without["spec"]["containers"][0]["resources"]["limits"].as_object_mut().unwrap().remove("memory");
    let refused = admin.put(&at("resize"), &without).await;
    let found = causes(&refused);
    assert!(
        found.contains(&(
            "spec.containers[0].resources.limits".into(),
            "Forbidden: resource limits cannot be removed".into()
        )),
        "{found:?}"
    );
    let class = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "4"}}}]}});
    let found = causes(&admin.patch(&at("resize"), "strategic", &class).await);
    let changed = "Pod QOS Class may not change as a result of resizing";
    assert!(found.iter().any(|(_, m)| m.contains(changed)), "{found:?}");
    let more = json!({"spec": {"containers": [{"name": "c", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]}});
    let found = causes(&admin.patch(&at("resize"), "strategic", &more).await);
    assert!(
        found.contains(&("spec".into(), "Forbidden: only cpu and memory resources are mutable".into())),
        "{found:?}"
    );
    let disk = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}]}});
    let found = causes(&admin.patch(&at("resize"), "strategic", &disk).await);
    assert!(
        found.contains(&("spec".into(), "Forbidden: only cpu and memory resources are mutable".into())),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_resize_is_bound_by_limit_ranges_and_quotas() {
    let (_cluster, admin) = cluster().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "4"}}]}});
    admin.create("/api/v1/namespaces/default/limitranges", &range).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"requests.cpu": "3"}}});
    admin.create("/api/v1/namespaces/default/resourcequotas", &quota).await;
    admin.create(PODS, &sized("1")).await;
    let refused = admin.patch(&at("resize"), "strategic", &resources("5")).await;
    assert_eq!(refused.code, 403);
    assert!(refused.body["message"].as_str().unwrap().contains("maximum cpu usage per Container is 4"));
    let refused = admin.patch(&at("resize"), "strategic", &resources("4")).await;
    assert_eq!(refused.code, 403);
    assert!(refused.body["message"].as_str().unwrap().contains("exceeded quota: q"), "{}", refused.body);
    assert_eq!(admin.patch(&at("resize"), "strategic", &resources("2")).await.code, 200);
    let held = admin.get("/api/v1/namespaces/default/resourcequotas/q").await.body;
    assert_eq!(held["status"]["used"]["requests.cpu"], "2");
}

#[tokio::test]
async fn a_resize_policy_is_checked_when_a_pod_is_made() {
    let (_cluster, admin) = cluster().await;
    let with = |policy: Value, restart: &str| {
        let mut pod = sized("1");
        pod["spec"]["containers"][0]["resizePolicy"] = policy;
        pod["spec"]["restartPolicy"] = restart.into();
        pod
    };
    let one = |resource: &str, policy: &str| json!({"resourceName": resource, "restartPolicy": policy});
    for (policy, restart, message) in [
        (json!([one("disk", "NotRequired")]), "Always", "Unsupported value: \"disk\""),
        (json!([one("cpu", "Sometimes")]), "Always", "Unsupported value: \"Sometimes\""),
        (json!([one("cpu", "NotRequired"), one("cpu", "NotRequired")]), "Always", "Duplicate value: \"cpu\""),
        (json!([one("cpu", "RestartContainer")]), "Never", "must be 'NotRequired' when pod `restartPolicy` is 'Never'"),
    ] {
        let refused = admin.post(PODS, &with(policy, restart)).await;
        let found = causes(&refused);
        assert!(refused.code == 422 && found.iter().any(|(_, m)| m.contains(message)), "{message}: {found:?}");
    }
    admin.create(PODS, &with(json!([one("cpu", "RestartContainer")]), "Always")).await;
}
