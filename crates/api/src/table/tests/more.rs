use super::*;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The headings kubectl prints, wide ones in brackets.
fn headings(api_version: &str, kind: &str) -> String {
    let kind = registry().by_api_version(api_version, kind).unwrap();
    let name = |c: &crate::kinds::Column| {
        let name = c.name.to_uppercase();
        if c.priority > 0 { format!("[{name}]") } else { name }
    };
    kind.columns.list.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn headings_are_those_of_kubectl() {
    for (api_version, kind, expected) in [
        (RBAC, "Role", "NAME CREATED AT"),
        (RBAC, "ClusterRole", "NAME CREATED AT"),
        (RBAC, "ClusterRoleBinding", "NAME ROLE AGE [USERS] [GROUPS] [SERVICEACCOUNTS]"),
        ("v1", "LimitRange", "NAME CREATED AT"),
        ("v1", "ResourceQuota", "NAME REQUEST LIMIT AGE"),
        ("v1", "ServiceAccount", "NAME AGE"),
        ("v1", "ReplicationController", "NAME DESIRED CURRENT READY AGE [CONTAINERS] [IMAGES] [SELECTOR]"),
        ("v1", "PodTemplate", "NAME CONTAINERS IMAGES POD LABELS"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "NAME CREATED AT"),
        ("autoscaling/v2", "HorizontalPodAutoscaler", "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE"),
        ("autoscaling/v1", "HorizontalPodAutoscaler", "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE"),
        (
            "batch/v1",
            "CronJob",
            "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE [CONTAINERS] [IMAGES] [SELECTOR]",
        ),
        (
            "apps/v1",
            "DaemonSet",
            "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE [CONTAINERS] [IMAGES] [SELECTOR]",
        ),
        ("policy/v1", "PodDisruptionBudget", "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE"),
        ("scheduling.k8s.io/v1", "PriorityClass", "NAME VALUE GLOBAL-DEFAULT AGE [PREEMPTIONPOLICY]"),
        ("node.k8s.io/v1", "RuntimeClass", "NAME HANDLER AGE"),
        ("networking.k8s.io/v1", "NetworkPolicy", "NAME POD-SELECTOR AGE"),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION",
        ),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "NAME WEBHOOKS AGE"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "NAME VALIDATIONS PARAMKIND AGE"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", "NAME POLICYNAME PARAMREF AGE"),
        ("apiregistration.k8s.io/v1", "APIService", "NAME SERVICE AVAILABLE AGE"),
        (
            "flowcontrol.apiserver.k8s.io/v1",
            "FlowSchema",
            "NAME PRIORITYLEVEL MATCHINGPRECEDENCE DISTINGUISHERMETHOD AGE MISSINGPL",
        ),
        (
            "storage.k8s.io/v1",
            "CSIDriver",
            "NAME ATTACHREQUIRED PODINFOONMOUNT STORAGECAPACITY TOKENREQUESTS REQUIRESREPUBLISH MODES AGE",
        ),
        ("resource.k8s.io/v1", "ResourceSlice", "NAME NODE DRIVER POOL AGE"),
    ] {
        assert_eq!(headings(api_version, kind), expected, "{kind}");
    }
}

#[test]
fn access_rows_show_role_and_subjects() {
    let role = json!({"metadata": {"name": "r"}});
    assert_eq!(cells(RBAC, "Role", role), ["r", "2026-01-01T00:00:00Z"]);
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [
        {"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "Group", "name": "g"},
        {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    assert_eq!(cells(RBAC, "RoleBinding", binding), ["b", "ClusterRole/view", "60m", "u, v", "g", "n/s"]);
}

#[test]
fn quota_rows_show_use_of_requests_and_limits() {
    let quota = json!({"metadata": {"name": "q"}, "status": {"hard": {"pods": "4", "limits.cpu": "2", "requests.cpu": "1"},
        "used": {"pods": "1", "requests.cpu": "500m"}}});
    assert_eq!(cells("v1", "ResourceQuota", quota), ["q", "pods: 1/4, requests.cpu: 500m/1", "limits.cpu: 0/2", "60m"]);
}

#[test]
fn workload_rows_show_what_kubectl_shows() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"},
        "containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "d"}, "spec": {"template": template, "selector": {"matchLabels": {"a": "b"}}},
        "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "numberAvailable": 1}});
    assert_eq!(cells("apps/v1", "DaemonSet", set), ["d", "3", "2", "1", "0", "1", "disk=ssd", "60m", "c", "i", "a=b"]);
    let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "@daily", "suspend": true,
        "jobTemplate": {"spec": {"template": template}}},
        "status": {"active": [{}], "lastScheduleTime": "2026-01-01T00:59:00Z"}});
    assert_eq!(
        cells("batch/v1", "CronJob", cron),
        ["c", "@daily", "<none>", "True", "1", "60s", "60m", "c", "i", "<none>"]
    );
    let budget =
        json!({"metadata": {"name": "p"}, "spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 2}});
    assert_eq!(cells("policy/v1", "PodDisruptionBudget", budget), ["p", "50%", "N/A", "2", "60m"]);
    let rc = json!({"metadata": {"name": "r"}, "spec": {"replicas": 2, "selector": {"a": "b"}, "template": template},
        "status": {"replicas": 1}});
    assert_eq!(cells("v1", "ReplicationController", rc), ["r", "2", "1", "0", "60m", "c", "i", "a=b"]);
}

#[test]
fn autoscaler_rows_show_metrics_in_either_version() {
    let cpu = |percent: i64| {
        json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}})
    };
    let o = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h"}, "spec": {"minReplicas": 1, "maxReplicas": 5,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [cpu(80),
            {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "5"}}},
            {"type": "External", "external": {"metric": {"name": "m"}, "target": {"value": "9"}}}]},
        "status": {"currentReplicas": 2, "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40}}}]}});
    assert_eq!(
        cells("autoscaling/v2", "HorizontalPodAutoscaler", o),
        ["h", "Deployment/d", "cpu: 40%/80%, <unknown>/5 + 1 more...", "1", "5", "2", "60m"]
    );
    let v1 = json!({"apiVersion": "autoscaling/v1", "metadata": {"name": "h"}, "spec": {"maxReplicas": 5,
        "targetCPUUtilizationPercentage": 70, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    assert_eq!(cells("autoscaling/v1", "HorizontalPodAutoscaler", v1)[2..5], ["cpu: <unknown>/70%", "<unset>", "5"]);
}

#[test]
fn control_plane_rows_show_their_state() {
    let request = |status: Value| {
        let o = json!({"metadata": {"name": "c"}, "spec": {"signerName": "a.b/c", "username": "u", "expirationSeconds": 86400},
            "status": status});
        cells("certificates.k8s.io/v1", "CertificateSigningRequest", o)
    };
    assert_eq!(request(json!({})), ["c", "60m", "a.b/c", "u", "24h", "Pending"]);
    let issued = json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="});
    assert_eq!(request(issued)[5], "Approved,Issued");
    let service = |spec: Value, conditions: Value| {
        let o = json!({"metadata": {"name": "s"}, "spec": spec, "status": {"conditions": conditions}});
        cells("apiregistration.k8s.io/v1", "APIService", o)[1..3].to_vec()
    };
    assert_eq!(
        service(json!({}), json!([{"type": "Available", "status": "True", "reason": "Local"}])),
        ["Local", "True"]
    );
    let remote = json!({"service": {"name": "m", "namespace": "n"}});
    let missing = json!([{"type": "Available", "status": "False", "reason": "MissingEndpoints"}]);
    assert_eq!(service(remote, missing), ["n/m", "False (MissingEndpoints)"]);
    let schema = json!({"metadata": {"name": "f"}, "spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "p"}}});
    assert_eq!(cells("flowcontrol.apiserver.k8s.io/v1", "FlowSchema", schema), ["f", "p", "5", "<none>", "60m", "?"]);
    let level = json!({"metadata": {"name": "p"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 3,
        "limitResponse": {"queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 50}}}}});
    assert_eq!(
        cells("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", level),
        ["p", "Limited", "3", "4", "2", "50", "60m"]
    );
}

#[test]
fn policies_addresses_and_drivers_show_what_they_are_about() {
    let policy = json!({"metadata": {"name": "n"}, "spec": {"podSelector": {"matchLabels": {"app": "x"}}}});
    assert_eq!(cells("networking.k8s.io/v1", "NetworkPolicy", policy), ["n", "app=x", "60m"]);
    let address = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "s"}}});
    assert_eq!(cells("networking.k8s.io/v1", "IPAddress", address), ["10.0.0.1", "services/n/s"]);
    let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "a"}, {"audience": "b"}],
        "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
    assert_eq!(
        cells("storage.k8s.io/v1", "CSIDriver", driver),
        ["d", "true", "false", "false", "a,b", "false", "Persistent,Ephemeral", "60m"]
    );
    let binding = |reference: Value| {
        let o = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "paramRef": reference}});
        cells("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", o)[2].clone()
    };
    assert_eq!(binding(Value::Null), "<unset>");
    assert_eq!(binding(json!({"name": "x"})), "*/x");
    assert_eq!(binding(json!({"name": "x", "namespace": "n"})), "n/x");
    let claim = |status: Value| {
        let o = json!({"metadata": {"name": "c"}, "status": status});
        cells("resource.k8s.io/v1", "ResourceClaim", o)[1].clone()
    };
    assert_eq!(claim(json!({})), "pending");
    assert_eq!(claim(json!({"allocation": {"a": 1}, "reservedFor": [{}]})), "allocated,reserved");
}
