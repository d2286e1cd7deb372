//! Quotas that count only some pods.

use crate::common::*;
use serde_json::{Value, json};

pub const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

async fn quota(admin: &Client, scope: &str, hard: Value) {
    let name = scope.to_lowercase();
    let spec = json!({"hard": hard, "scopes": [scope]});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    admin.create(QUOTAS, &quota).await;
}

/// Waits until a quota has counted this and says its bounds.
pub async fn used(admin: &Client, scope: &str, want: Value) {
    let path = format!("{QUOTAS}/{}", scope.to_lowercase());
    let mut watch = admin.watch(&format!("{QUOTAS}?watch=1&allowWatchBookmarks=false")).await;
    loop {
        let quota = admin.get(&path).await.body;
        let (status, spec) = (&quota["status"], &quota["spec"]);
        let counted = want.as_object().unwrap().iter().all(|(name, amount)| status["used"][name] == *amount);
        if counted && status["hard"] == spec["hard"] {
            return;
        }
        // Any change of a quota is a reason to look again; the watch gives up in time.
        watch.next().await.expect("the quota changes");
    }
}

pub async fn gone(admin: &Client, name: &str) {
    assert_eq!(admin.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0")).await.code, 200);
}

fn stated(name: &str) -> Value {
    let mut out = pod(name);
    out["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "500m", "memory": "200Mi"}, "limits": {"cpu": "1", "memory": "400Mi"}});
    out
}

// conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with terminating scopes.
#[tokio::test]
async fn terminating_scopes_are_for_pods_with_and_without_a_deadline() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let hard = json!({"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "1Gi"});
    quota(&admin, "Terminating", hard.clone()).await;
    quota(&admin, "NotTerminating", hard).await;
    let full = json!({
        "pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi", "limits.cpu": "1", "limits.memory": "400Mi",
    });
    let none = json!({"pods": "0", "requests.cpu": "0", "limits.memory": "0"});
    used(&admin, "Terminating", none.clone()).await;
    used(&admin, "NotTerminating", none.clone()).await;
    admin.create(PODS, &stated("long")).await;
    used(&admin, "NotTerminating", full.clone()).await;
    used(&admin, "Terminating", none.clone()).await;
    gone(&admin, "long").await;
    used(&admin, "NotTerminating", none.clone()).await;
    let mut short = stated("short");
    short["spec"]["activeDeadlineSeconds"] = 3600.into();
    admin.create(PODS, &short).await;
    used(&admin, "Terminating", full).await;
    used(&admin, "NotTerminating", none.clone()).await;
    gone(&admin, "short").await;
    used(&admin, "Terminating", none).await;
}

// conformance: [sig-api-machinery] ResourceQuota should verify ResourceQuota with best effort scope.
#[tokio::test]
async fn best_effort_scopes_are_for_pods_with_and_without_resources() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    default_account(&admin).await;
    quota(&admin, "BestEffort", json!({"pods": "5"})).await;
    quota(&admin, "NotBestEffort", json!({"pods": "5"})).await;
    let (one, none) = (json!({"pods": "1"}), json!({"pods": "0"}));
    used(&admin, "BestEffort", none.clone()).await;
    used(&admin, "NotBestEffort", none.clone()).await;
    admin.create(PODS, &pod("bare")).await;
    used(&admin, "BestEffort", one.clone()).await;
    used(&admin, "NotBestEffort", none.clone()).await;
    gone(&admin, "bare").await;
    used(&admin, "BestEffort", none.clone()).await;
    admin.create(PODS, &stated("burstable")).await;
    used(&admin, "NotBestEffort", one).await;
    used(&admin, "BestEffort", none.clone()).await;
    gone(&admin, "burstable").await;
    used(&admin, "NotBestEffort", none).await;
}

#[tokio::test]
async fn the_status_of_a_quota_can_be_written_without_its_spec() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"cpu": "500m", "memory": "500Mi"}},
    });
    admin.create(QUOTAS, &quota).await;
    let more = json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi"}}});
    let patched = admin.patch(&format!("{QUOTAS}/q"), "strategic", &more).await;
    assert_eq!(patched.body["spec"]["hard"], json!({"cpu": "1", "memory": "1Gi"}));
    let status = json!({"status": {"hard": {"cpu": "2", "memory": "2Gi"}}, "spec": {"hard": {"cpu": "9"}}});
    let patched = admin.patch(&format!("{QUOTAS}/q/status"), "strategic", &status).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(patched.body["spec"]["hard"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(patched.body["status"]["hard"], json!({"cpu": "2", "memory": "2Gi"}));
}
