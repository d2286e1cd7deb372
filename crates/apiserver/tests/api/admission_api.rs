//! The kinds that configure admission, as resources.

use crate::common::*;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Plural, the object without its name, and a merge patch that fits its spec.
fn kinds() -> [(&'static str, Value, Value); 4] {
    let rule = json!([{
        "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
    }]);
    let of = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "spec": spec,
            "metadata": {"generateName": "e2e-example-", "labels": {"e2e": "yes"}},
        })
    };
    let mutation = json!({
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 100}}"},
    });
    let matching = json!({"resourceRules": rule});
    [
        (
            "mutatingadmissionpolicies",
            of(
                "MutatingAdmissionPolicy",
                json!({
                    "reinvocationPolicy": "Never", "mutations": [mutation], "matchConstraints": matching,
                }),
            ),
            json!({"reinvocationPolicy": "IfNeeded"}),
        ),
        (
            "mutatingadmissionpolicybindings",
            of("MutatingAdmissionPolicyBinding", json!({"policyName": "replicalimit-policy.example.com"})),
            json!({"policyName": "new-policy.example.com"}),
        ),
        (
            "validatingadmissionpolicies",
            of(
                "ValidatingAdmissionPolicy",
                json!({
                    "validations": [{"expression": "object.spec.replicas <= 100"}], "matchConstraints": matching,
                }),
            ),
            json!({"failurePolicy": "Ignore"}),
        ),
        (
            "validatingadmissionpolicybindings",
            of(
                "ValidatingAdmissionPolicyBinding",
                json!({
                    "policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"],
                }),
            ),
            json!({"validationActions": ["Warn"]}),
        ),
    ]
}

// conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations
// conformance: [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations
#[tokio::test]
async fn policies_and_bindings_are_resources_like_any() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let version = json!({"groupVersion": "admissionregistration.k8s.io/v1", "version": "v1"});
    let groups = admin.get("/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "admissionregistration.k8s.io");
    assert!(group.unwrap()["versions"].as_array().unwrap().contains(&version), "{group:?}");
    let group = admin.get("/apis/admissionregistration.k8s.io").await.body;
    assert!(group["versions"].as_array().unwrap().contains(&version), "{group}");
    let served = admin.get(GROUP).await.body;
    let served = served["resources"].as_array().unwrap();
    let names: Vec<&str> = served.iter().filter_map(|r| r["name"].as_str()).collect();
    for (plural, template, change) in kinds() {
        let resource = served.iter().find(|r| r["name"] == plural).unwrap();
        let all = json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
        assert_eq!(resource["verbs"], all, "{plural}");
        let path = format!("{GROUP}/{plural}");
        admin.create(&path, &template).await;
        admin.create(&path, &template).await;
        let made = admin.create(&path, &template).await;
        let name = made["metadata"]["name"].as_str().unwrap();
        let own = format!("{path}/{name}");
        assert_eq!(admin.get(&own).await.body["metadata"]["uid"], made["metadata"]["uid"]);
        let list = admin.get(&format!("{path}?labelSelector=e2e%3Dyes")).await.body;
        let from = list["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = admin.watch(&format!("{path}?watch=1&labelSelector=e2e%3Dyes&resourceVersion={from}")).await;
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}, "spec": change});
        let patched = admin.patch(&own, "merge", &patch).await;
        assert_eq!(patched.code, 200, "{}", patched.body);
        for (key, value) in change.as_object().unwrap() {
            assert_eq!(patched.body["spec"][key], *value);
        }
        let mut object = admin.get(&own).await.body;
        object["metadata"]["annotations"]["updated"] = "true".into();
        let updated = admin.put(&own, &object).await;
        assert_eq!((updated.code, &updated.body["metadata"]["annotations"]["updated"]), (200, &json!("true")));
        let seen = watch.next().await.unwrap();
        assert_eq!(
            (&seen["type"], &seen["object"]["metadata"]["annotations"]["patched"]),
            (&json!("MODIFIED"), &json!("true"))
        );
        assert_eq!(admin.delete(&own).await.code, 200);
        assert_eq!(admin.get(&own).await.code, 404);
        let left = admin.get(&format!("{path}?labelSelector=e2e%3Dyes")).await.body;
        assert_eq!(left["items"].as_array().unwrap().len(), 2);
        assert_eq!(admin.delete(&format!("{path}?labelSelector=e2e%3Dyes")).await.code, 200);
        let left = admin.get(&format!("{path}?labelSelector=e2e%3Dyes")).await.body;
        assert!(left["items"].as_array().unwrap().is_empty());
    }
    assert!(names.contains(&"validatingadmissionpolicies/status"), "{names:?}");
}

#[tokio::test]
async fn the_conditions_of_a_policy_are_written_through_its_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plural, mut policy, _) = kinds()[2].clone();
    policy["metadata"] = json!({"name": "p"});
    admin.create(&format!("{GROUP}/{plural}"), &policy).await;
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "False", "reason": "e2e", "message": "Set from an e2e test",
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        })
    };
    let status = format!("{GROUP}/{plural}/p/status");
    let patch = json!({"status": {"conditions": [condition("PatchStatusFailed")]}});
    let patched = admin.patch(&status, "merge", &patch).await;
    assert_eq!((patched.code, &patched.body["status"]["conditions"][0]["type"]), (200, &json!("PatchStatusFailed")));
    let mut object = admin.get(&status).await.body;
    object["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdateFailed"));
    let updated = admin.put(&status, &object).await;
    assert_eq!(updated.body["status"]["conditions"].as_array().unwrap().len(), 2, "{}", updated.body);
}

#[tokio::test]
async fn a_rule_for_another_version_sees_the_object_in_that_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let policy = |name: &str, matching: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "validations": [{"expression": "object.note != 'bad' && request.kind.group == 'events.k8s.io'"}],
                "matchConstraints": {"matchPolicy": matching, "resourceRules": [{
                    "operations": ["CREATE"], "apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "resources": ["events"],
                }]},
            },
        })
    };
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]},
    });
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    admin.create(&policies, &policy("p", "Equivalent")).await;
    admin.create(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding).await;
    let event = |name: &str, message: &str| {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "message": message, "reason": "r",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "type": "Normal",
        })
    };
    let events = "/api/v1/namespaces/default/events";
    assert_eq!(admin.post(events, &event("a", "bad")).await.code, 422);
    admin.create(events, &event("b", "good")).await;
    assert_eq!(admin.put(&format!("{policies}/p"), &policy("p", "Exact")).await.code, 200);
    admin.create(events, &event("c", "bad")).await;
}
