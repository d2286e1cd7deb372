//! Limits, quotas, pod security, classes and disruption budgets.

use crate::common::*;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn named(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut out = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    for (key, value) in rest.as_object().unwrap() {
        out[key] = value.clone();
    }
    out
}

fn quota(name: &str, hard: Value) -> Value {
    named("v1", "ResourceQuota", name, json!({"spec": {"hard": hard}}))
}

fn warnings(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("warning").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn limit_ranges_fill_in_and_refuse() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let limits = json!({"spec": {"limits": [{
        "type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"},
    }]}});
    admin.create("/api/v1/namespaces/default/limitranges", &named("v1", "LimitRange", "l", limits)).await;
    let made = admin.create(PODS, &pod("p")).await;
    let want = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], want);
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let said = &made["metadata"]["annotations"]["kubernetes.io/limit-ranger"];
    assert_eq!(said, "LimitRanger plugin set: cpu request for container c; cpu limit for container c");
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}});
    let refused = admin.post(PODS, &big).await;
    let want = r#"pods "big" is forbidden: maximum cpu usage per Container is 2, but limit is 3"#;
    assert_eq!((refused.code, refused.body["message"].as_str()), (403, Some(want)));
}

#[tokio::test]
async fn namespaces_enforce_the_pod_security_standards() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(PODS, &pod("before")).await;
    let namespace = "/api/v1/namespaces/default";
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let labelled = admin.patch(namespace, "merge", &label("restricted")).await;
    assert_eq!(labelled.code, 200, "{}", labelled.body);
    let said = warnings(&labelled);
    assert!(said[0].contains("existing pods in namespace"), "{said:?}");
    assert!(said[1].contains("before: allowPrivilegeEscalation != false, unrestricted capabilities"), "{said:?}");
    let refused = admin.post(PODS, &pod("p")).await;
    let message = refused.body["message"].as_str().unwrap();
    assert_eq!((refused.code, &refused.body["reason"]), (403, &"Forbidden".into()));
    let head =
        r#"pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false ("#;
    assert!(message.starts_with(head), "{message}");
    // Workloads are told, and not refused: their pods will be.
    let told = admin.post(DEPLOYMENTS, &deployment("d")).await;
    assert_eq!(told.code, 201);
    assert!(warnings(&told)[0].contains("would violate PodSecurity"), "{:?}", warnings(&told));
    let wrong = admin.patch(namespace, "merge", &label("strict")).await;
    assert_eq!(wrong.code, 422);
    assert_eq!(admin.patch(namespace, "merge", &label("baseline")).await.code, 200);
    admin.create(PODS, &pod("p")).await;
}

#[tokio::test]
async fn a_quota_is_exact_whoever_comes_at_once_and_is_given_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create(QUOTAS, &quota("q", json!({"pods": "5", "count/configmaps": "3", "requests.cpu": "10"}))).await;
    let mut some = pod("x");
    some["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    let all = (0..20).map(|i| {
        let (admin, mut pod) = (admin.clone(), some.clone());
        pod["metadata"]["name"] = format!("p{i}").into();
        tokio::spawn(async move { (pod["metadata"]["name"].clone(), admin.post(PODS, &pod).await) })
    });
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for answer in futures::future::join_all(all).await {
        let (name, answer) = answer.unwrap();
        if answer.code == 201 { made.push(name) } else { refused.push((name, answer)) }
    }
    assert_eq!((made.len(), refused.len()), (5, 15));
    let (name, answer) = &refused[0];
    let want = format!("pods {name} is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5");
    assert_eq!((answer.code, answer.body["message"].as_str()), (403, Some(want.as_str())));
    let status = admin.get(&format!("{QUOTAS}/q")).await.body["status"].clone();
    let used = json!({"pods": "5", "count/configmaps": "0", "requests.cpu": "5"});
    assert_eq!(status, json!({"hard": {"pods": "5", "count/configmaps": "3", "requests.cpu": "10"}, "used": used}));
    let unstated = admin.post(PODS, &pod("unstated")).await;
    let want = r#"pods "unstated" is forbidden: failed quota: q: must specify requests.cpu for: c"#;
    assert_eq!(unstated.body["message"], want);
    let gone = admin.delete(&format!("{PODS}/{}?gracePeriodSeconds=0", made[0].as_str().unwrap())).await;
    assert_eq!(gone.code, 200, "{}", gone.body);
    until(&admin, &format!("{QUOTAS}/q"), |a| a.body["status"]["used"]["pods"] == "4").await;
    // A dry run is checked and not charged.
    assert_eq!(admin.post(&format!("{PODS}?dryRun=All"), &some).await.code, 201);
    admin.create(PODS, &some).await;
    assert_eq!(admin.post(&format!("{PODS}?dryRun=All"), &pod("y")).await.code, 403);
    // A pod that is done uses nothing.
    let done = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(admin.patch(&format!("{PODS}/x/status"), "merge", &done).await.code, 200);
    until(&admin, &format!("{QUOTAS}/q"), |a| a.body["status"]["used"]["pods"] == "4").await;
}

#[tokio::test]
async fn a_new_quota_counts_what_is_there() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for i in 0..3 {
        admin.create(CONFIG_MAPS, &config_map(&format!("c{i}"))).await;
    }
    admin.create(QUOTAS, &quota("q", json!({"configmaps": "3", "services.nodeports": "1"}))).await;
    let refused = admin.post(CONFIG_MAPS, &config_map("c3")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    until(&admin, &format!("{QUOTAS}/q"), |a| a.body["status"]["used"]["configmaps"] == "3").await;
    let service =
        |name: &str| named("v1", "Service", name, json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}));
    admin.create(SERVICES, &service("a")).await;
    assert_eq!(admin.post(SERVICES, &service("b")).await.code, 403);
    let more = json!({"spec": {"ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]}});
    let refused = admin.patch(&format!("{SERVICES}/a"), "merge", &more).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.ends_with("requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"),
        "{message}"
    );
}

#[tokio::test]
async fn classes_decide_on_priority_and_overhead() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    assert_eq!(admin.get(&format!("{classes}/system-node-critical")).await.body["value"], 2_000_001_000);
    let class = |name: &str, rest: Value| named("scheduling.k8s.io/v1", "PriorityClass", name, rest);
    admin.create(classes, &class("low", json!({"value": 7, "globalDefault": true, "preemptionPolicy": "Never"}))).await;
    let made = admin.create(PODS, &pod("p")).await;
    let spec = &made["spec"];
    assert_eq!((&spec["priority"], &spec["priorityClassName"]), (&json!(7), &json!("low")));
    assert_eq!(spec["preemptionPolicy"], "Never");
    let second = admin.post(classes, &class("other", json!({"value": 8, "globalDefault": true}))).await;
    assert_eq!(second.code, 403, "{}", second.body);
    let mut sandboxed = pod("s");
    sandboxed["spec"]["runtimeClassName"] = "vm".into();
    let refused = admin.post(PODS, &sandboxed).await;
    let want = r#"pods "s" is forbidden: pod rejected: RuntimeClass "vm" not found"#;
    assert_eq!((refused.code, refused.body["message"].as_str()), (403, Some(want)));
    let runtime = json!({
        "handler": "vm",
        "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}},
    });
    let class = named("node.k8s.io/v1", "RuntimeClass", "vm", runtime);
    admin.create("/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    let made = admin.create(PODS, &sandboxed).await;
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"vm": "yes"}));
}

#[tokio::test]
async fn a_budget_refuses_evictions_beyond_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    admin.create(budgets, &named("policy/v1", "PodDisruptionBudget", "b", spec)).await;
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for name in ["p", "q"] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"app": "a"});
        admin.create(PODS, &pod).await;
        assert_eq!(admin.patch(&format!("{PODS}/{name}/status"), "merge", &running).await.code, 200);
    }
    let evict = |name: &str| named("policy/v1", "Eviction", name, json!({}));
    let early = admin.post(&format!("{PODS}/p/eviction"), &evict("p")).await;
    assert_eq!(early.code, 429, "{}", early.body);
    let cause = &early.body["details"]["causes"][0];
    assert_eq!(cause["message"], "The disruption budget b is still being processed by the server.");
    let status = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }});
    assert_eq!(admin.patch(&format!("{budgets}/b/status"), "merge", &status).await.code, 200);
    let dry = admin.post(&format!("{PODS}/p/eviction?dryRun=All"), &evict("p")).await;
    assert_eq!(dry.code, 201, "{}", dry.body);
    assert_eq!(admin.post(&format!("{PODS}/p/eviction"), &evict("p")).await.code, 201);
    assert_eq!(admin.get(&format!("{PODS}/p")).await.code, 404);
    let status = admin.get(&format!("{budgets}/b")).await.body["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0);
    assert!(status["disruptedPods"]["p"].is_string(), "{status}");
    let refused = admin.post(&format!("{PODS}/q/eviction"), &evict("q")).await;
    assert_eq!((refused.code, &refused.body["reason"]), (429, &"TooManyRequests".into()));
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget b needs 1 healthy pods and has 2 currently");
}

#[tokio::test]
async fn only_bound_claims_of_classes_that_allow_it_grow() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}},
    }});
    admin.create(claims, &named("v1", "PersistentVolumeClaim", "c", spec)).await;
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = admin.patch(&format!("{claims}/c"), "merge", &grow).await;
    assert!(matches!(refused.code, 403 | 422), "{}", refused.body);
}
