//! Every stable kind that has no test file of its own: made, read, shown, changed, applied and deleted.

use crate::common::*;
use serde_json::{Value, json};

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn job_spec() -> Value {
    json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}})
}

fn rules() -> Value {
    json!([{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"]}])
}

fn webhooks() -> Value {
    json!({"webhooks": [{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/x"}, "rules": rules(), "failurePolicy": "Ignore"}]})
}

/// `(apiVersion, kind, plural, name, namespaced, the rest of the object)`.
pub type Sample = (&'static str, &'static str, &'static str, &'static str, bool, Value);

// allow-long: one line for each kind.
pub fn samples() -> Vec<Sample> {
    let (admission, flow) = ("admissionregistration.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1");
    let (rbac, storage, device) = ("rbac.authorization.k8s.io/v1", "storage.k8s.io/v1", "resource.k8s.io/v1");
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let users = json!([{"kind": "User", "name": "u"}]);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let matching = json!({"resourceRules": rules()});
    vec![
        (
            "v1",
            "LimitRange",
            "limitranges",
            "a",
            true,
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
        ),
        ("v1", "ResourceQuota", "resourcequotas", "a", true, json!({"spec": {"hard": {"pods": "100"}}})),
        ("v1", "PodTemplate", "podtemplates", "a", true, json!({"template": template()})),
        (
            "v1",
            "ReplicationController",
            "replicationcontrollers",
            "a",
            true,
            json!({"spec": {"replicas": 0, "template": template()}}),
        ),
        (
            "apps/v1",
            "DaemonSet",
            "daemonsets",
            "a",
            true,
            json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template()}}),
        ),
        (
            "batch/v1",
            "CronJob",
            "cronjobs",
            "a",
            true,
            json!({"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job_spec()}}}),
        ),
        (
            "policy/v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            "a",
            true,
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}}),
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "a",
            true,
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target}}),
        ),
        (
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "b",
            true,
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50}}),
        ),
        ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "a", true, json!({"spec": {"podSelector": {}}})),
        (
            "networking.k8s.io/v1",
            "ServiceCIDR",
            "servicecidrs",
            "a",
            false,
            json!({"spec": {"cidrs": ["10.200.0.0/24"]}}),
        ),
        (
            "networking.k8s.io/v1",
            "IPAddress",
            "ipaddresses",
            "10.200.0.9",
            false,
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}}),
        ),
        ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "a", false, json!({"value": 10})),
        ("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", "a", false, json!({"handler": "h"})),
        (
            rbac,
            "Role",
            "roles",
            "a:b",
            true,
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            rbac,
            "ClusterRole",
            "clusterroles",
            "a:b",
            false,
            json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
        ),
        (rbac, "RoleBinding", "rolebindings", "a:b", true, json!({"roleRef": role, "subjects": users})),
        (rbac, "ClusterRoleBinding", "clusterrolebindings", "a:b", false, json!({"roleRef": role, "subjects": users})),
        (admission, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "a", false, webhooks()),
        (admission, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "a", false, webhooks()),
        (
            admission,
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "a",
            false,
            json!({"spec": {"matchConstraints": matching, "validations": [{"expression": "true"}]}}),
        ),
        (
            admission,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "a",
            false,
            json!({"spec": {"policyName": "a", "validationActions": ["Deny"]}}),
        ),
        (
            "apiregistration.k8s.io/v1",
            "APIService",
            "apiservices",
            "v1.things.example.com",
            false,
            json!({"spec": {"group": "things.example.com", "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10}}),
        ),
        (flow, "FlowSchema", "flowschemas", "a", false, json!({"spec": {"priorityLevelConfiguration": {"name": "a"}}})),
        (
            flow,
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "a",
            false,
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
        ),
        (storage, "CSIDriver", "csidrivers", "d.example.com", false, json!({"spec": {}})),
        (
            storage,
            "CSINode",
            "csinodes",
            "n",
            false,
            json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "n"}]}}),
        ),
        (
            storage,
            "CSIStorageCapacity",
            "csistoragecapacities",
            "a",
            true,
            json!({"storageClassName": "s", "capacity": "1Gi"}),
        ),
        (
            storage,
            "VolumeAttachment",
            "volumeattachments",
            "a",
            false,
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        ),
        (
            storage,
            "VolumeAttributesClass",
            "volumeattributesclasses",
            "a",
            false,
            json!({"driverName": "d.example.com", "parameters": {"iops": "1"}}),
        ),
        (device, "DeviceClass", "deviceclasses", "a", false, json!({"spec": {}})),
        (
            device,
            "ResourceClaim",
            "resourceclaims",
            "a",
            true,
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "a"}}]}}}),
        ),
        (
            device,
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            "a",
            true,
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "a"}}]}}}}),
        ),
        (
            device,
            "ResourceSlice",
            "resourceslices",
            "a",
            false,
            json!({"spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d"}]}}),
        ),
    ]
}

pub fn paths(api_version: &str, plural: &str, name: &str, namespaced: bool) -> (String, String) {
    let root = if api_version.contains('/') { "apis" } else { "api" };
    let place = if namespaced { "/namespaces/default" } else { "" };
    let all = format!("/{root}/{api_version}{place}/{plural}");
    (all.clone(), format!("{all}/{name}"))
}

/// The object once it has a condition.
async fn settled(admin: &Client, all: &str, name: &str) -> Value {
    let mut watch = admin.watch(&format!("{all}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let object = watch.next().await.unwrap()["object"].take();
        if object["status"]["conditions"][0].is_object() {
            return object;
        }
    }
}

#[tokio::test]
async fn every_kind_lives_through_its_verbs() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (api_version, kind, plural, name, namespaced, mut object) in samples() {
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        object["metadata"] = json!({"name": name});
        let (all, one) = paths(api_version, plural, name, namespaced);
        let made = admin.post(&format!("{all}?fieldValidation=Strict"), &object).await;
        assert_eq!(made.code, 201, "{kind}: {}", made.body);
        let got = match kind {
            // The server adds whether its level exists.
            "FlowSchema" => settled(&admin, &all, name).await,
            _ => admin.get(&one).await.body,
        };
        if kind != "FlowSchema" {
            assert_eq!(got, made.body, "{kind}");
        }
        assert_eq!((got["apiVersion"].as_str(), got["kind"].as_str()), (Some(api_version), Some(kind)));
        let same = admin.put(&one, &got).await;
        assert_eq!((same.code, &same.body), (200, &got), "{kind}: nothing has changed");
        let labelled = admin.patch(&one, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await;
        assert_eq!(labelled.code, 200, "{kind}: {}", labelled.body);
        assert_eq!(
            labelled.body["metadata"]["generation"], got["metadata"]["generation"],
            "{kind}: a label is no spec"
        );
        let applied = admin.patch(&format!("{one}?fieldManager=t&force=true"), "apply", &object).await;
        assert_eq!(applied.code, 200, "{kind}: {}", applied.body);
        let table = admin.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io").get(&all).await.body;
        assert_eq!(table["kind"], "Table", "{kind}");
        let gone = admin.delete(&one).await;
        assert_eq!(gone.code, 200, "{kind}: {}", gone.body);
    }
}

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let v2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = admin
        .create(
            v1,
            &json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
        )
        .await;
    assert_eq!(made["spec"]["minReplicas"], 1);
    let other = admin.get(&format!("{v2}/h")).await.body;
    assert_eq!(other["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let changed = admin.patch(&format!("{v2}/h"), "merge", &json!({"spec": {"metrics": [memory]}})).await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    let back = admin.get(&format!("{v1}/h")).await.body;
    assert!(back["spec"].get("targetCPUUtilizationPercentage").is_none());
    assert!(
        back["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap().contains("memory")
    );
    let bounded = admin.patch(&format!("{v1}/h"), "merge", &json!({"spec": {"maxReplicas": 7}})).await;
    assert_eq!(bounded.code, 200, "{}", bounded.body);
    let both = admin.get(&format!("{v2}/h")).await.body;
    assert_eq!((&both["spec"]["maxReplicas"], &both["spec"]["metrics"]), (&json!(7), &json!([memory])));
    assert!(both["metadata"].get("annotations").is_none());
}
