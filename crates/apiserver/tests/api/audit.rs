//! The audit log: what it tells of requests.

use std::path::Path;
use std::sync::Arc;

use crate::common::*;
use apiserver::{ApiServer, AuditConfig, Config, UserInfo};
use serde_json::{Value, json};
use store::memory::MemoryStore;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["quiet"]
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
- level: RequestResponse
  resources: [{group: "", resources: ["configmaps"]}]
"#;

async fn start(dir: &Path, policy: &str) -> Result<Cluster, apiserver::StartError> {
    let pki = tempfile::tempdir().unwrap();
    std::fs::write(dir.join("policy.yaml"), policy).unwrap();
    let store: Arc<dyn store::Store> = Arc::new(MemoryStore::new());
    let advertise = "127.0.0.1:6443".parse().unwrap();
    let mut config = Config::new(pki.path().join("pki"), advertise, "10.96.0.0/20".parse().unwrap());
    let (policy, log) = (dir.join("policy.yaml"), dir.join("audit.log"));
    config.audit = Some(AuditConfig { policy, log, max_bytes: 1 << 20, max_backups: 2 });
    Ok(Cluster { server: ApiServer::new(store.clone(), config).await?, store, pki })
}

fn events(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn requests_are_recorded_as_the_policy_says() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), POLICY).await.unwrap();
    let admin = cluster.admin().header("user-agent", "test/1");
    admin.create(CONFIG_MAPS, &config_map("c")).await;
    admin.get(&format!("{CONFIG_MAPS}?limit=5")).await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "hidden"}});
    admin.create("/api/v1/namespaces/default/secrets", &secret).await;
    admin.get(PODS).await;
    cluster.user(UserInfo::new("quiet", &["system:masters"])).get(CONFIG_MAPS).await;
    let refused = admin.header("impersonate-user", "eve").get(&format!("{CONFIG_MAPS}/c")).await;
    assert_eq!(refused.code, 403);
    let events = events(dir.path());
    let brief: Vec<String> = events
        .iter()
        .map(|e| format!("{} {} {} {}", e["level"], e["verb"], e["objectRef"]["resource"], e["responseStatus"]["code"]))
        .map(|line| line.replace('"', ""))
        .collect();
    let want = [
        "RequestResponse create configmaps 201",
        "RequestResponse list configmaps 200",
        "Metadata create secrets 201",
        "RequestResponse get configmaps 403",
    ];
    assert_eq!(brief, want);
    let created = &events[0];
    assert_eq!((&created["stage"], &created["userAgent"]), (&json!("ResponseComplete"), &json!("test/1")));
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["requestObject"]["data"]["k"], "v");
    assert_eq!(created["responseObject"]["metadata"]["name"], "c");
    assert!(created["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(events[1]["responseObject"]["items"].as_array().unwrap().len(), 1);
    assert!(!events[2].to_string().contains("hidden"));
    assert_eq!(events[3]["impersonatedUser"]["username"], "eve");
    assert_eq!(events[3]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[3]["annotations"]["authorization.k8s.io/decision"], "forbid");
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), POLICY).await.unwrap();
    let watch = cluster.admin().watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let stages = |dir: &Path| -> Vec<Value> { events(dir).iter().map(|e| e["stage"].clone()).collect() };
    assert_eq!(stages(dir.path()), ["ResponseStarted"]);
    drop(watch);
    assert_eq!(stages(dir.path()), ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn a_policy_that_is_not_understood_keeps_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    assert!(start(dir.path(), "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Most}]").await.is_err());
}

#[tokio::test]
async fn what_policies_and_pod_security_find_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(dir.path(), POLICY).await.unwrap();
    let admin = cluster.admin();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p.x"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"],
            }]},
            "validations": [{"expression": "true"}, {"expression": "object.data.k == 'w'", "message": "want w"}],
            "auditAnnotations": [
                {"key": "k", "valueExpression": "'k is ' + object.data.k"}, {"key": "none", "valueExpression": "null"},
            ],
        },
    });
    let group = "/apis/admissionregistration.k8s.io/v1";
    admin.create(&format!("{group}/validatingadmissionpolicies"), &policy).await;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p.x", "validationActions": ["Audit"]},
    });
    admin.create(&format!("{group}/validatingadmissionpolicybindings"), &binding).await;
    admin.create(CONFIG_MAPS, &config_map("c")).await;
    let created = events(dir.path()).pop().unwrap();
    let annotations = &created["annotations"];
    assert_eq!(annotations["p.x/k"], "k is v", "{created}");
    assert!(annotations.get("p.x/none").is_none());
    let failure = annotations["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap();
    let failure: Value = serde_json::from_str(failure).unwrap();
    let want = json!([{
        "message": "want w", "policy": "p.x", "binding": "b", "expressionIndex": 1, "validationActions": ["Audit"],
    }]);
    assert_eq!(failure, want);
}

#[tokio::test]
async fn pods_that_violate_what_their_namespace_audits_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let all = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]";
    let cluster = start(dir.path(), all).await.unwrap();
    let admin = cluster.admin();
    default_account(&admin).await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    assert_eq!(admin.patch("/api/v1/namespaces/default", "merge", &labels).await.code, 200);
    admin.create(PODS, &pod("p")).await;
    let created = events(dir.path()).pop().unwrap();
    let annotations = &created["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest", "{created}");
    let violations = annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(violations.starts_with(r#"would violate PodSecurity "restricted:latest": "#), "{violations}");
}
