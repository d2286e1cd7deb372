//! MutatingAdmissionPolicies.

use crate::common::*;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn policy(name: &str, mutations: Value, more: Value) -> Value {
    let rule = json!({
        "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE", "UPDATE"],
    });
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never", "mutations": mutations,
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn apply(expression: &str) -> Value {
    json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}])
}

fn patch(expression: &str) -> Value {
    json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}])
}

async fn bound(admin: &Client, policy: &Value, more: Value) {
    admin.create(&format!("{GROUP}/mutatingadmissionpolicies"), policy).await;
    let name = policy["metadata"]["name"].clone();
    let mut spec = json!({"policyName": name});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": spec,
    });
    admin.create(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding).await;
}

// conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment
// conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment with annotations
#[tokio::test]
async fn a_policy_mutates_a_deployment() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let annotate = r#"
        Object{
            metadata: Object.metadata{
                annotations: {
                    "mutated-by": "admission-policy"
                }
            }
        }"#;
    bound(&admin, &policy("annotate", apply(annotate), json!({})), json!({})).await;
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    let namespace = "/api/v1/namespaces/default";
    assert_eq!(admin.patch(namespace, "merge", &label("true".into())).await.code, 200);
    let scale = policy("scale", apply("Object{spec: Object.spec{replicas: 1337}}"), json!({}));
    let selector = json!({"matchResources": {"namespaceSelector": {"matchLabels": {"on": "true"}}}});
    bound(&admin, &scale, selector).await;
    let made = admin.create(DEPLOYMENTS, &deployment("d")).await;
    assert_eq!(made["metadata"]["annotations"]["mutated-by"], "admission-policy");
    assert_eq!(made["spec"]["replicas"], 1337);
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "nginx:1");
    assert_eq!(admin.patch(namespace, "merge", &label(Value::Null)).await.code, 200);
    let other = admin.create(DEPLOYMENTS, &deployment("other")).await;
    assert_eq!(other["spec"]["replicas"], 1);
    let gone = admin.delete(&format!("{GROUP}/mutatingadmissionpolicybindings/annotate")).await;
    assert_eq!(gone.code, 200);
    let bare = admin.create(DEPLOYMENTS, &deployment("bare")).await;
    assert!(bare["metadata"]["annotations"].get("mutated-by").is_none(), "{bare}");
}

#[tokio::test]
async fn lists_merge_by_their_keys_and_json_patches_may_be_conditional() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let sidecar = r#"Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
        initContainers: [Object.spec.template.spec.initContainers{name: "side", image: "side:1", restartPolicy: "Always"}]
    }}}}"#;
    bound(&admin, &policy("sidecar", apply(sidecar), json!({})), json!({})).await;
    let conditional = r#"[
        JSONPatch{op: "test", path: "/spec/replicas", value: 2},
        JSONPatch{op: "add", path: "/metadata/labels", value: {}},
        JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/two"), value: "yes"},
    ]"#;
    bound(&admin, &policy("two", patch(conditional), json!({})), json!({})).await;
    let made = admin.create(DEPLOYMENTS, &deployment("d")).await;
    let init = &made["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!((&init["name"], &init["restartPolicy"]), (&json!("side"), &json!("Always")));
    // Defaults are filled in after the policies, too.
    assert_eq!(init["imagePullPolicy"], "IfNotPresent");
    assert!(made["metadata"].get("labels").is_none());
    let mut two = deployment("two");
    two["spec"]["replicas"] = 2.into();
    assert_eq!(admin.create(DEPLOYMENTS, &two).await["metadata"]["labels"], json!({"example.com/two": "yes"}));
}

#[tokio::test]
async fn parameters_variables_and_conditions_decide_what_is_made() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let more = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "team", "expression": "params.data.team + '-' + namespaceObject.metadata.name"}],
        "matchConditions": [{"name": "people", "expression": "request.userInfo.username != 'robot'"}],
    });
    let label = apply("Object{metadata: Object.metadata{labels: {'team': variables.team}}}");
    let reference = json!({"paramRef": {"selector": {}, "namespace": "default", "parameterNotFoundAction": "Deny"}});
    bound(&admin, &policy("team", label, more), reference).await;
    let refused = admin.post(DEPLOYMENTS, &deployment("d")).await;
    let want = "policy 'team' with binding 'team' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!((refused.code, refused.body["message"].as_str()), (403, Some(want)), "{}", refused.body);
    let mut params = config_map("params");
    params["data"] = json!({"team": "a"});
    admin.create(CONFIG_MAPS, &params).await;
    assert_eq!(admin.create(DEPLOYMENTS, &deployment("d")).await["metadata"]["labels"]["team"], "a-default");
    let robot = cluster.user(apiserver::UserInfo::new("robot", &["system:masters"]));
    assert!(robot.create(DEPLOYMENTS, &deployment("e")).await["metadata"].get("labels").is_none());
}

#[tokio::test]
async fn what_cannot_be_done_refuses_unless_failures_are_ignored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (name, mutations, code, reason, want) in [
        ("a", apply("Object{spec: Object.spec{replicas: object.nothing}}"), 403, "Invalid", "resulted in error: "),
        (
            "b",
            apply("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}"),
            403,
            "Invalid",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (
            "c",
            patch("[JSONPatch{op: 'add', path: '/spec/nothing', value: 1}]"),
            500,
            "InternalError",
            r#"unknown field "spec.nothing""#,
        ),
        (
            "d",
            patch("[JSONPatch{op: 'remove', path: '/spec/paused'}]"),
            403,
            "Invalid",
            "JSON Patch: remove operation does not apply",
        ),
    ] {
        bound(&admin, &policy(name, mutations, json!({})), json!({})).await;
        let refused = admin.post(DEPLOYMENTS, &deployment("d")).await;
        assert_eq!((refused.code, refused.body["reason"].as_str()), (code, Some(reason)), "{}", refused.body);
        assert!(refused.body["message"].as_str().unwrap().contains(want), "{}", refused.body);
        let path = format!("{GROUP}/mutatingadmissionpolicies/{name}");
        let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
        assert_eq!(admin.patch(&path, "merge", &ignore).await.code, 200);
        let again = admin.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment("d")).await;
        assert_eq!(again.code, if code == 500 { 500 } else { 201 }, "{}", again.body);
        assert_eq!(admin.delete(&path).await.code, 200);
    }
}

#[tokio::test]
async fn a_policy_sees_once_more_what_others_made_if_it_wants_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let count = |key: &str| {
        apply(&format!(
            "Object{{metadata: Object.metadata{{annotations: {{'{key}': object.metadata.?annotations['{key}'].orValue('') + 'x'}}}}}}"
        ))
    };
    bound(&admin, &policy("a", count("if-needed"), json!({"reinvocationPolicy": "IfNeeded"})), json!({})).await;
    bound(&admin, &policy("b", count("never"), json!({})), json!({})).await;
    let made = admin.create(DEPLOYMENTS, &deployment("d")).await;
    let annotations = &made["metadata"]["annotations"];
    assert_eq!((&annotations["if-needed"], &annotations["never"]), (&json!("xx"), &json!("x")));
}

#[tokio::test]
async fn policies_are_checked_when_they_are_written() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let both = json!([{
        "patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}, "applyConfiguration": {"expression": "Object{}"},
    }]);
    for (mutations, field, want) in [
        (apply("1"), "spec.mutations[0].applyConfiguration.expression", "must evaluate to Object but got int"),
        (apply("Object{spec: }"), "spec.mutations[0].applyConfiguration.expression", "compilation failed: "),
        (patch("other"), "spec.mutations[0].jsonPatch.expression", "undeclared reference to 'other'"),
        (json!([]), "spec.mutations", "mutations must contain at least one item"),
        (both, "spec.mutations[0].applyConfiguration", "must not be specified when patchType is JSONPatch"),
    ] {
        let refused =
            admin.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy("p", mutations, json!({}))).await;
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!((refused.code, cause["field"].as_str()), (422, Some(field)), "{}", refused.body);
        assert!(cause["message"].as_str().unwrap().contains(want), "{cause}");
    }
}

#[tokio::test]
async fn custom_resources_are_parameters_and_are_changed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
    }}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    admin.create(CRDS, &definition).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    let thing = |name: &str, spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec});
    admin.create(things, &thing("defaults", json!({"size": 5}))).await;
    let rule = json!([{"apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["things"], "operations": ["CREATE"]}]);
    let more = json!({
        "paramKind": {"apiVersion": "example.com/v1", "kind": "Thing"},
        "matchConstraints": {"resourceRules": rule},
        "matchConditions": [{"name": "unset", "expression": "!has(object.spec.size)"}],
    });
    let expression = "Object{spec: Object.spec{size: params.spec.size, tags: ['sized']}}";
    let reference = json!({"paramRef": {"name": "defaults", "parameterNotFoundAction": "Deny"}});
    bound(&admin, &policy("size", apply(expression), more), reference).await;
    let made = admin.create(things, &thing("t", json!({"tags": ["mine"]}))).await;
    assert_eq!(made["spec"], json!({"size": 5, "tags": ["mine", "sized"]}));
    let kept = admin.create(things, &thing("u", json!({"size": 7}))).await;
    assert_eq!(kept["spec"], json!({"size": 7}));
}

#[tokio::test]
async fn a_rule_for_another_version_of_a_custom_resource_sees_it_in_that_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version =
        |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [version("v1", true), version("v2", false)],
        },
    });
    admin.create(CRDS, &definition).await;
    let rule = json!([{"apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"], "operations": ["CREATE"]}]);
    let seen = patch("[JSONPatch{op: 'add', path: '/seen', value: object.apiVersion + ' ' + request.kind.version}]");
    bound(&admin, &policy("seen", seen, json!({"matchConstraints": {"resourceRules": rule}})), json!({})).await;
    let thing = json!({"apiVersion": "example.com/v2", "kind": "Thing", "metadata": {"name": "t"}});
    let made = admin.create("/apis/example.com/v2/namespaces/default/things", &thing).await;
    assert_eq!((&made["apiVersion"], &made["seen"]), (&json!("example.com/v2"), &json!("example.com/v1 v1")));
    let read = admin.get("/apis/example.com/v1/namespaces/default/things/t").await.body;
    assert_eq!((&read["apiVersion"], &read["seen"]), (&json!("example.com/v1"), &json!("example.com/v1 v1")));
}
