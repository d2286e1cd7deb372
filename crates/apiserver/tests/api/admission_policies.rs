//! ValidatingAdmissionPolicies.

use crate::common::*;
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
async fn expressions_ask_what_the_sender_and_others_may_do() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!({"validations": [{
        "expression": "authorizer.group('').resource('pods').namespace('default').check('delete').allowed()",
        "messageExpression": "request.userInfo.username + ' may not delete pods'",
    }, {
        "expression": "authorizer.requestResource.check('create').allowed()",
    }, {
        "expression": "!authorizer.serviceAccount('default', 'x').group('').resource('pods').namespace('default').check('get').allowed()",
    }]});
    admin.create(POLICIES, &policy("rights", rules)).await;
    admin.create(BINDINGS, &binding("b", "rights", json!({}))).await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.create(&format!("{rbac}/roles"), &role).await;
    let bound = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    admin.create(&format!("{rbac}/rolebindings"), &bound).await;
    let eve = cluster.user(apiserver::UserInfo::new("eve", &[]));
    let refused = eve.post(DEPLOYMENTS, &of(1)).await;
    assert_eq!(refused.code, 422);
    assert!(refused.body["message"].as_str().unwrap().ends_with("eve may not delete pods"), "{}", refused.body);
    admin.create(DEPLOYMENTS, &of(1)).await;
}

#[tokio::test]
async fn expressions_use_only_the_variables_that_are_there() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (more, field, name) in [
        (json!({"validations": [{"expression": "params.x == 1"}]}), "spec.validations[0].expression", "params"),
        (json!({"validations": [{"expression": "variables.x == 1"}]}), "spec.validations[0].expression", "variables"),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "authorizer.path('/x').check('get').reason()"}]}),
            "spec.validations[0].messageExpression",
            "authorizer",
        ),
        (
            json!({
                "validations": [{"expression": "true"}],
                "variables": [{"name": "v", "expression": "1"}],
                "matchConditions": [{"name": "m", "expression": "variables.v == 1"}],
            }),
            "spec.matchConditions[0].expression",
            "variables",
        ),
    ] {
        let refused = admin.post(POLICIES, &policy("p", more)).await;
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!((refused.code, cause["field"].as_str()), (422, Some(field)), "{}", refused.body);
        let message = cause["message"].as_str().unwrap();
        let want = format!("undeclared reference to '{name}' (in container '')\n | ");
        assert!(message.contains("compilation failed: ERROR: <input>:1:") && message.contains(&want), "{cause}");
    }
}

#[tokio::test]
async fn who_binds_parameters_can_read_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    admin.create(&format!("{rbac}/clusterroles"), &role).await;
    let bound = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    admin.create(&format!("{rbac}/clusterrolebindings"), &bound).await;
    let eve = cluster.user(apiserver::UserInfo::new("eve", &[]));
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "Secret"}, "validations": [{"expression": "params.data.x == ''"}],
    });
    let refused = eve.post(POLICIES, &policy("p", rules.clone())).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.paramKind", "{}", refused.body);
    admin.create(POLICIES, &policy("p", rules)).await;
    let reference = json!({"paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    let refused = eve.post(BINDINGS, &binding("b", "p", reference)).await;
    assert_eq!(refused.code, 422);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.paramRef", "{}", refused.body);
}

/// A ReplicaSet of one, which no policy of this file is about.
fn replica_set() -> Value {
    let mut out = deployment("alone");
    out["kind"] = "ReplicaSet".into();
    out
}

// conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate against a Deployment
// conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should allow expressions to refer variables.
#[tokio::test]
async fn a_deployment_is_validated_by_its_fields_its_namespace_and_variables_of_variables() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let apart =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apart", "labels": {"policy": "here"}}});
    admin.create("/api/v1/namespaces", &apart).await;
    let here = json!({"matchResources": {"namespaceSelector": {"matchLabels": {"policy": "here"}}}});
    let plain = json!({"validations": [
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": "namespaceObject.metadata.name == 'apart'", "message": "another namespace"},
    ]});
    let variables = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}],
    });
    let path = "/apis/apps/v1/namespaces/apart";
    for (name, rules, replicas, even) in [("plain", plain, 2, 201), ("variables", variables, 3, 422)] {
        admin.create(POLICIES, &policy(name, rules)).await;
        admin.create(BINDINGS, &binding(name, name, here.clone())).await;
        let dry = |set: &str| format!("{path}/{set}?dryRun=All");
        let one = admin.post(&dry("deployments"), &of(1)).await;
        assert_eq!((one.code, one.body["reason"].as_str()), (422, Some("Invalid")), "{}", one.body);
        let why =
            if name == "plain" { "wants replicas > 1, got 1" } else { "failed expression: variables.replicas > 1" };
        assert!(one.body["message"].as_str().unwrap().ends_with(why), "{}", one.body);
        assert_eq!(admin.post(&dry("deployments"), &of(4)).await.code, even);
        assert_eq!(admin.get(&format!("{path}/deployments/d")).await.code, 404);
        admin.create(&format!("{path}/deployments"), &of(replicas)).await;
        admin.create(&format!("{path}/replicasets"), &replica_set()).await;
        // Elsewhere it is not bound.
        admin.create(&format!("{DEPLOYMENTS}?dryRun=All"), &of(1)).await;
        for one in [format!("{path}/deployments/d"), format!("{path}/replicasets/alone"), format!("{BINDINGS}/{name}")]
        {
            assert_eq!(admin.delete(&format!("{one}?propagationPolicy=Background")).await.code, 200, "{one}");
        }
    }
}

#[tokio::test]
async fn the_status_of_a_policy_tells_of_types_that_do_not_go_together() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let right = json!({"validations": [{"expression": "object.spec.replicas > 1"}]});
    let made = admin.create(POLICIES, &policy("right", right)).await;
    assert_eq!(made["status"], json!({"observedGeneration": 1, "typeChecking": {}}));
    let confused = json!({"validations": [{
        "expression": "object.spec.replicas > '1'",
        "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
    }]});
    let mut made = admin.create(POLICIES, &policy("confused", confused)).await;
    let warnings = made["status"]["typeChecking"]["expressionWarnings"].take();
    for (i, field, what) in [
        (0, "spec.validations[0].expression", "found no matching overload for '_>_' applied to '(int, string)'"),
        (1, "spec.validations[0].messageExpression", "found no matching overload for '_+_' applied to '(string, int)'"),
    ] {
        let warning = warnings[i]["warning"].as_str().unwrap();
        assert_eq!(warnings[i]["fieldRef"], field);
        assert!(
            warning.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:") && warning.contains(what),
            "{warning}"
        );
    }
    // Put right, it is looked at again.
    let good =
        json!([{"op": "replace", "path": "/spec/validations", "value": [{"expression": "object.spec.replicas > 1"}]}]);
    let patched = admin.patch(&format!("{POLICIES}/confused"), "json", &good).await;
    assert_eq!(patched.body["status"], json!({"observedGeneration": 2, "typeChecking": {}}), "{}", patched.body);
}

#[tokio::test]
async fn expressions_about_custom_resources_are_checked_by_their_schema() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "replicas": {"type": "integer"}, "cronSpec": {"type": "string"},
    }}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "crontabs.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let mut watch = admin.watch(&format!("{CRDS}?watch=true")).await;
    admin.create(CRDS, &definition).await;
    while !watch.next().await.unwrap()["object"]["status"]["conditions"].to_string().contains("Established") {}
    for (expression, want) in [
        ("object.spec.replicas > 1 && object.metadata.labels['a'] == 'b'", None),
        ("object.spec.replicas > '1'", Some("applied to '(int, string)'")),
        ("object.spec.nothing > 1", Some("undefined field 'nothing'")),
    ] {
        let mut object = policy("p", json!({"validations": [{"expression": expression}]}));
        object["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["example.com"]);
        object["spec"]["matchConstraints"]["resourceRules"][0]["resources"] = json!(["crontabs"]);
        let made = admin.create(POLICIES, &object).await;
        let warning = made["status"]["typeChecking"]["expressionWarnings"][0]["warning"].as_str();
        assert_eq!(warning.is_some(), want.is_some(), "{made}");
        assert!(warning.is_none_or(|w| w.starts_with("example.com/v1, Kind=CronTab: ") && w.contains(want.unwrap())));
        assert_eq!(admin.delete(&format!("{POLICIES}/p")).await.code, 200);
    }
}
