//! ValidatingAdmissionPolicies.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
use common::*;
use serde_json::{Value, json};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";

fn policy(name: &str, more: Value) -> Value {
    let rule = json!({
        "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE", "UPDATE"],
    });
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule]}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn binding(name: &str, policy: &str, more: Value) -> Value {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn of(replicas: i64) -> Value {
    let mut out = deployment("d");
    out["spec"]["replicas"] = replicas.into();
    out
}

#[tokio::test]
async fn a_policy_denies_in_kubernetes_words_once_it_is_bound() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!({"validations": [{"expression": "object.spec.replicas <= 5"}]});
    let made = admin.create(POLICIES, &policy("few", rules)).await;
    assert_eq!(made["status"]["observedGeneration"], 1, "{made}");
    assert_eq!(admin.post(&format!("{DEPLOYMENTS}?dryRun=All"), &of(9)).await.code, 201);
    admin.create(BINDINGS, &binding("here", "few", json!({}))).await;
    let refused = admin.post(DEPLOYMENTS, &of(9)).await;
    let want = "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'here' denied request: failed expression: object.spec.replicas <= 5";
    assert_eq!(refused.body["message"], want);
    assert_eq!((refused.code, &refused.body["reason"]), (422, &"Invalid".into()));
    admin.create(DEPLOYMENTS, &of(5)).await;
    let up = admin.patch(&format!("{DEPLOYMENTS}/d"), "merge", &json!({"spec": {"replicas": 6}})).await;
    assert_eq!(up.code, 422, "{}", up.body);
    assert_eq!(admin.delete(&format!("{BINDINGS}/here")).await.code, 200);
    let up = admin.patch(&format!("{DEPLOYMENTS}/d"), "merge", &json!({"spec": {"replicas": 6}})).await;
    assert_eq!(up.code, 200, "{}", up.body);
}

#[tokio::test]
async fn params_variables_messages_and_actions() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "most", "expression": "int(params.data.most)"}],
        "matchConditions": [{"name": "people", "expression": "request.userInfo.username != 'robot'"}],
        "validations": [{
            "expression": "object.spec.replicas <= variables.most",
            "messageExpression": "'at most ' + string(variables.most)",
            "reason": "Forbidden",
        }],
    });
    admin.create(POLICIES, &policy("few", rules)).await;
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    admin.create(BINDINGS, &binding("b", "few", json!({"paramRef": reference}))).await;
    let refused = admin.post(DEPLOYMENTS, &of(1)).await;
    assert!(
        refused.body["message"].as_str().unwrap().contains("no params found for policy binding"),
        "{}",
        refused.body
    );
    let mut limits = config_map("limits");
    limits["data"] = json!({"most": "3"});
    admin.create(CONFIG_MAPS, &limits).await;
    let refused = admin.post(DEPLOYMENTS, &of(4)).await;
    assert_eq!(refused.code, 403);
    assert!(refused.body["message"].as_str().unwrap().ends_with("denied request: at most 3"), "{}", refused.body);
    let robot = cluster.user(apiserver::UserInfo::new("robot", &["system:masters"]));
    assert_eq!(robot.post(&format!("{DEPLOYMENTS}?dryRun=All"), &of(4)).await.code, 201);
    let warn = json!({"spec": {"validationActions": ["Warn"]}});
    assert_eq!(admin.patch(&format!("{BINDINGS}/b"), "merge", &warn).await.code, 200);
    let warned = admin.post(DEPLOYMENTS, &of(4)).await;
    let want = r#"299 - "Validation failed for ValidatingAdmissionPolicy 'few' with binding 'b': at most 3""#;
    assert_eq!((warned.code, warned.headers["warning"].to_str().unwrap()), (201, want));
}

#[tokio::test]
async fn what_cannot_be_evaluated_denies_unless_failures_are_ignored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = |failure: &str| json!({"failurePolicy": failure, "validations": [{"expression": "object.spec.nothing.more == 1"}]});
    admin.create(POLICIES, &policy("odd", rules("Fail"))).await;
    admin.create(BINDINGS, &binding("b", "odd", json!({}))).await;
    let refused = admin.post(DEPLOYMENTS, &of(1)).await;
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("expression 'object.spec.nothing.more == 1' resulted in error: "), "{message}");
    assert_eq!(admin.put(&format!("{POLICIES}/odd"), &policy("odd", rules("Ignore"))).await.code, 200);
    admin.create(DEPLOYMENTS, &of(1)).await;
    let broken = policy("broken", json!({"validations": [{"expression": "object.spec. <= 5"}]}));
    let refused = admin.post(POLICIES, &broken).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.validations[0].expression", "{}", refused.body);
}

#[tokio::test]
async fn mutating_policies_are_refused_clearly() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut object = policy(
        "m",
        json!({"reinvocationPolicy": "Never", "mutations": [{
            "patchType": "JSONPatch", "jsonPatch": {"expression": "[]"},
        }]}),
    );
    object["kind"] = "MutatingAdmissionPolicy".into();
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
    let refused = admin.post(path, &object).await;
    assert!(refused.body["message"].as_str().unwrap().contains("not supported by this server"), "{}", refused.body);
}
