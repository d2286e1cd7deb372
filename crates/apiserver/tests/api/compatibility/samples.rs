//! A small valid object of every kind.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::kinds::{Sample, samples};

fn signing_request() -> Value {
    let params = rcgen::CertificateParams::default();
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"spec": {
        "request": base64::engine::general_purpose::STANDARD.encode(pem), "usages": ["client auth"],
        "signerName": "example.com/nobody",
    }})
}

fn definition() -> Value {
    json!({"spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
    }})
}

fn workload() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {
        "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    }}})
}

fn core() -> Vec<Sample> {
    let container = json!([{"name": "c", "image": "i"}]);
    let place = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let volume = json!({"spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "hostPath": {"path": "/v"},
    }});
    vec![
        ("v1", "ConfigMap", "configmaps", "a", true, json!({"data": {"k": "v"}})),
        ("v1", "Secret", "secrets", "a", true, json!({"stringData": {"k": "v"}})),
        ("v1", "Endpoints", "endpoints", "a", true, json!({})),
        ("v1", "Event", "events", "a", true, json!({"involvedObject": place, "reason": "r", "message": "m"})),
        ("v1", "Namespace", "namespaces", "a", false, json!({})),
        ("v1", "Node", "nodes", "a", false, json!({})),
        ("v1", "PersistentVolume", "persistentvolumes", "a", false, volume),
        ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "a", true, claim),
        ("v1", "Pod", "pods", "a", true, json!({"spec": {"containers": container}})),
        ("v1", "Service", "services", "a", true, json!({"spec": {"ports": [{"port": 80}]}})),
        ("v1", "ServiceAccount", "serviceaccounts", "a", true, json!({})),
    ]
}

fn grouped() -> Vec<Sample> {
    let (admission, networking) = ("admissionregistration.k8s.io/v1", "networking.k8s.io/v1");
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"]}]);
    let mutation = json!({"spec": {
        "matchConstraints": {"resourceRules": rules}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
    }});
    let place = json!({"kind": "Pod", "namespace": "default", "name": "p"});
    let event = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/c",
        "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal", "regarding": place});
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let once = json!({"spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}],
    }}}});
    vec![
        (admission, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", "a", false, mutation),
        (
            admission,
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "a",
            false,
            json!({"spec": {"policyName": "a"}}),
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "things.example.com",
            false,
            definition(),
        ),
        ("apps/v1", "ControllerRevision", "controllerrevisions", "a", true, json!({"revision": 1, "data": {}})),
        ("apps/v1", "Deployment", "deployments", "a", true, workload()),
        ("apps/v1", "ReplicaSet", "replicasets", "a", true, workload()),
        ("apps/v1", "StatefulSet", "statefulsets", "a", true, workload()),
        ("batch/v1", "Job", "jobs", "a", true, once),
        (
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "a",
            false,
            signing_request(),
        ),
        ("coordination.k8s.io/v1", "Lease", "leases", "a", true, json!({"spec": {}})),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "endpointslices",
            "a",
            true,
            json!({"addressType": "IPv4", "endpoints": []}),
        ),
        ("events.k8s.io/v1", "Event", "events", "a", true, event),
        (networking, "Ingress", "ingresses", "a", true, json!({"spec": {"defaultBackend": backend}})),
        (networking, "IngressClass", "ingressclasses", "a", false, json!({"spec": {"controller": "example.com/c"}})),
        ("storage.k8s.io/v1", "StorageClass", "storageclasses", "a", false, json!({"provisioner": "example.com/p"})),
    ]
}

/// What is asked of resources that keep nothing; pods `waiting` and `p` are there.
fn questions() -> Vec<Sample> {
    let (authentication, authorization) = ("authentication.k8s.io/v1", "authorization.k8s.io/v1");
    let attributes = json!({"namespace": "default", "verb": "get", "resource": "pods"});
    let of = |spec: Value| json!({"spec": spec});
    let who = json!({"user": "u", "resourceAttributes": attributes});
    vec![
        ("v1", "Binding", "bindings", "waiting", true, json!({"target": {"kind": "Node", "name": "n1"}})),
        (authentication, "SelfSubjectReview", "selfsubjectreviews", "a", false, json!({})),
        (authentication, "TokenReview", "tokenreviews", "a", false, of(json!({"token": "x"}))),
        (authorization, "LocalSubjectAccessReview", "localsubjectaccessreviews", "a", true, of(who.clone())),
        (
            authorization,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "a",
            false,
            of(json!({"resourceAttributes": attributes})),
        ),
        (
            authorization,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "a",
            false,
            of(json!({"namespace": "default"})),
        ),
        (authorization, "SubjectAccessReview", "subjectaccessreviews", "a", false, of(who)),
        ("v1", "ComponentStatus", "componentstatuses", "etcd-0", false, json!({})),
        ("metrics.k8s.io/v1beta1", "NodeMetrics", "nodes", "n1", false, json!({})),
        ("metrics.k8s.io/v1beta1", "PodMetrics", "pods", "p", true, json!({})),
    ]
}

/// The object of a resource and its name; whole but for the namespace.
pub fn sample(api_version: &str, plural: &str) -> Option<(Value, &'static str, bool)> {
    let all = [core(), grouped(), questions(), samples()].concat();
    let (api_version, kind, _, name, namespaced, mut object) =
        all.into_iter().find(|(v, _, p, ..)| *v == api_version && *p == plural)?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    // Questions have no name of their own.
    object["metadata"] = if kind.ends_with("Review") { json!({}) } else { json!({"name": name}) };
    Some((object, name, namespaced))
}
