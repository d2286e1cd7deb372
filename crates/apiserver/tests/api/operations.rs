//! What can be done with the kinds that configure fairness and admission, step by step as clients do it.

use crate::common::*;
use serde_json::{Value, json};

/// A kind: group, plural, the object without its name, what a patch and an update set in its spec, and whether it has a status.
struct Operated {
    group: &'static str,
    plural: &'static str,
    template: Value,
    patched: Value,
    updated: Value,
    status: bool,
}

impl Operated {
    fn new(api: (&'static str, &'static str, &str), spec: Value, patched: Value, updated: Value) -> Self {
        let (group, plural, kind) = api;
        let template = json!({
            "apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec,
            "metadata": {"generateName": "e2e-example-", "labels": {"example-e2e-label": "x"}},
        });
        Operated { group, plural, template, patched, updated, status: group == "flowcontrol.apiserver.k8s.io" }
    }

    fn path(&self) -> String {
        format!("/apis/{}/v1/{}", self.group, self.plural)
    }

    /// It is in the documents of its group.
    async fn discovered(&self, admin: &Client) {
        let groups = admin.get("/apis").await.body;
        let group = admin.get(&format!("/apis/{}", self.group)).await.body;
        let listed = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == self.group).unwrap();
        for of in [listed, &group] {
            assert!(of["versions"].as_array().unwrap().iter().any(|v| v["version"] == "v1"), "{of}");
        }
        let list = admin.get(&format!("/apis/{}/v1", self.group)).await.body;
        let has = |name: &str| list["resources"].as_array().unwrap().iter().any(|r| r["name"] == name);
        assert!(has(self.plural));
        assert!(!self.status || has(&format!("{}/status", self.plural)));
    }

    async fn operate(&self) {
        let cluster = Cluster::start().await;
        let admin = cluster.admin();
        self.discovered(&admin).await;
        let path = self.path();
        for _ in 0..2 {
            admin.create(&path, &self.template).await;
        }
        let made = admin.create(&path, &self.template).await;
        let one = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap());
        let read = admin.get(&one).await.body;
        assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
        let selected = format!("{path}?labelSelector=example-e2e-label%3Dx");
        let list = admin.get(&selected).await.body;
        assert_eq!(list["items"].as_array().unwrap().len(), 3);
        let from = list["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch = admin.watch(&format!("{selected}&watch=1&resourceVersion={from}")).await;
        self.change(&admin, &one, &made).await;
        loop {
            // The server itself may write a status in between.
            let event = watch.next().await.unwrap();
            assert_eq!(event["type"], "MODIFIED");
            if event["object"]["metadata"]["annotations"]["patched"] == "true" {
                break;
            }
        }
        if self.status {
            self.write_status(&admin, &one, &made).await;
        }
        assert_eq!(admin.delete(&one).await.code, 200);
        assert_eq!(admin.get(&one).await.code, 404);
        assert_eq!(admin.get(&selected).await.body["items"].as_array().unwrap().len(), 2);
        assert_eq!(admin.delete(&selected).await.code, 200);
        assert_eq!(admin.get(&selected).await.body["items"], json!([]));
    }

    async fn change(&self, admin: &Client, one: &str, made: &Value) {
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}, "spec": self.patched});
        let patched = admin.patch(one, "merge", &patch).await;
        assert_eq!((patched.code, &patched.body["metadata"]["annotations"]["patched"]), (200, &json!("true")));
        let revision = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        assert!(revision(made) < revision(&patched.body));
        let holds = |object: &Value, wanted: &Value| {
            wanted.as_object().unwrap().iter().all(|(key, value)| object["spec"][key] == *value)
        };
        assert!(holds(&patched.body, &self.patched), "{}", patched.body);
        let updated = retried(admin, one, one, |object| {
            object["metadata"]["annotations"]["updated"] = "true".into();
            for (key, value) in self.updated.as_object().unwrap() {
                object["spec"][key] = value.clone();
            }
        });
        let updated = updated.await;
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        assert!(holds(&updated, &self.updated), "{updated}");
    }

    async fn write_status(&self, admin: &Client, one: &str, made: &Value) {
        let status = format!("{one}/status");
        let read = admin.get(&status).await.body;
        assert_eq!((&read["kind"], &read["metadata"]["uid"]), (&self.template["kind"], &made["metadata"]["uid"]));
        let has = |object: &Value, kind: &str| {
            object["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == kind)
        };
        let patch =
            json!({"status": {"conditions": [{"type": "PatchStatusFailed", "status": "False", "reason": "e2e"}]}});
        let patched = admin.patch(&status, "merge", &patch).await;
        assert!(patched.code == 200 && has(&patched.body, "PatchStatusFailed"), "{}", patched.body);
        let condition = json!({"type": "StatusUpdateFailed", "status": "False", "reason": "E2E", "message": "m"});
        let updated = retried(admin, one, &status, |object| {
            object["status"]["conditions"].as_array_mut().unwrap().push(condition.clone());
        });
        assert!(has(&updated.await, "StatusUpdateFailed"));
    }
}

/// Reads at `from`, changes, and puts at `to`, again when something else was faster.
async fn retried(admin: &Client, from: &str, to: &str, change: impl Fn(&mut Value)) -> Value {
    loop {
        let mut object = admin.get(from).await.body;
        change(&mut object);
        let answer = admin.put(to, &object).await;
        if answer.code != 409 {
            assert_eq!(answer.code, 200, "{}", answer.body);
            return answer.body;
        }
    }
}

// conformance: [sig-api-machinery] API priority and fairness should support FlowSchema API operations
#[tokio::test]
async fn flow_schemas_support_every_operation() {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let spec = json!({
        "matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [rule],
    });
    let (patched, updated) = (json!({"matchingPrecedence": 9999}), json!({"matchingPrecedence": 9000}));
    let api = ("flowcontrol.apiserver.k8s.io", "flowschemas", "FlowSchema");
    Operated::new(api, spec, patched, updated).operate().await;
}

// conformance: [sig-api-machinery] API priority and fairness should support PriorityLevelConfiguration API operations
#[tokio::test]
async fn priority_levels_support_every_operation() {
    let limited = |shares: u64| json!({"nominalConcurrencyShares": shares, "limitResponse": {"type": "Reject"}, "lendablePercent": 0});
    let spec = json!({"type": "Limited", "limited": limited(2)});
    let (patched, updated) = (json!({"limited": limited(4)}), json!({"limited": limited(6)}));
    let api = ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "PriorityLevelConfiguration");
    Operated::new(api, spec, patched, updated).operate().await;
}

// conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicy API operations
#[tokio::test]
async fn mutating_policies_support_every_operation() {
    let rule = json!({
        "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
    });
    let mutation = json!({
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 100}}"},
    });
    let spec = json!({
        "reinvocationPolicy": "Never", "mutations": [mutation], "matchConstraints": {"resourceRules": [rule]},
    });
    let (patched, updated) = (json!({"reinvocationPolicy": "IfNeeded"}), json!({"reinvocationPolicy": "Never"}));
    let api = ("admissionregistration.k8s.io", "mutatingadmissionpolicies", "MutatingAdmissionPolicy");
    Operated::new(api, spec, patched, updated).operate().await;
}

// conformance: [sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicyBinding API operations
#[tokio::test]
async fn bindings_of_mutating_policies_support_every_operation() {
    let named = |name: &str| json!({"policyName": name});
    let api = ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding");
    let (patched, updated) = (named("patched.example.com"), named("updated.example.com"));
    Operated::new(api, named("policy.example.com"), patched, updated).operate().await;
}
