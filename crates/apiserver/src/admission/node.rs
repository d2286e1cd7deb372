//! What a node's agent may not do although its verb and resource are allowed: the rules that need the object.

use api::kinds::KindInfo;
use api::status::ApiError;
use serde_json::{Value, json};

use crate::authn::UserInfo;

/// Domain of labels that only administrators set, so that a node cannot attract protected pods.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Where the pods are that stand for Docker's containers; what says so of one; and what says that it comes from a node.
const NAMESPACE: &str = "docker";
const CONTAINER: &str = "windlass.dev/docker-container";
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn create(user: &UserInfo, kind: &KindInfo, object: &Value) -> Result<(), ApiError> {
    let name = api::meta::name(object);
    let refuse = |why: String| Err(ApiError::forbidden(kind.plural, kind.group, name, &why));
    let Some(node) = user.node() else {
        return match kind.group.is_empty() && kind.kind == "Pod" && is_mirror(object) {
            true => refuse(format!(
                "only nodes may create pods with the annotation {CONTAINER:?}: they stand for Docker's containers"
            )),
            false => Ok(()),
        };
    };
    match kind.kind {
        "Namespace" if name != NAMESPACE => {
            refuse(format!("node {node:?} can only create the namespace {NAMESPACE:?}"))
        }
        "Pod" => mirror(node, object).or_else(refuse),
        "Node" if name != node => refuse(format!("node {node:?} is not allowed to create node {name:?}")),
        "CSINode" if name != node => {
            refuse(format!("can only access CSINode with the same name as the requesting node {node:?}"))
        }
        "Lease" if name != node => {
            refuse(format!("can only access node lease with the same name as the requesting node {node:?}"))
        }
        "Node" => match forbidden_labels(object, &Value::Null).as_slice() {
            [] => Ok(()),
            labels => refuse(format!("is not allowed to set the following labels: {}", labels.join(", "))),
        },
        _ => Ok(()),
    }
}

/// Whether a pod stands for a container of Docker's API on some node.
pub(super) fn is_mirror(pod: &Value) -> bool {
    api::meta::annotations(pod).is_some_and(|a| a.contains_key(CONTAINER))
}

/// Whether it is about such a pod, which describes what is there anyway: defaults would make it wrong, and bounds, quotas and
/// standards come too late. Nodes alone make them.
pub(super) fn is_about_mirror(kind: &KindInfo, object: &Value, old: &Value) -> bool {
    let pod = if object.is_null() { old } else { object };
    kind.group.is_empty() && kind.kind == "Pod" && is_mirror(pod)
}

/// What a node may create of pods: those that stand for its own containers. They refer to nothing, or the node would have a
/// reason to read it.
fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    if !is_mirror(pod) || !api::meta::annotations(pod).is_some_and(|a| a.contains_key(MIRROR)) {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if api::meta::namespace(pod) != NAMESPACE {
        return Err(format!("node {node:?} can only create pods in the namespace {NAMESPACE:?}"));
    }
    let spec = &pod["spec"];
    if spec["nodeName"] != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let said = |key: &str| spec.get(key).is_some_and(|v| !v.is_null() && v.as_str() != Some("") && *v != json!([]));
    if said("serviceAccountName") || said("imagePullSecrets") || said("resourceClaims") {
        return Err(format!(
            "node {node:?} can not create pods that reference a service account, secrets or resource claims"
        ));
    }
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let plain = |volume: &Value| {
        volume.as_object().is_some_and(|v| v.keys().all(|key| ["name", "hostPath", "emptyDir"].contains(&key.as_str())))
    };
    let literal =
        |c: &Value| list(&c["envFrom"]).is_empty() && list(&c["env"]).iter().all(|e| e["valueFrom"].is_null());
    let all = list(&spec["containers"]).into_iter().chain(list(&spec["initContainers"]));
    if !list(&spec["volumes"]).iter().all(plain) || !all.into_iter().all(|c| literal(&c)) {
        return Err(format!(
            "node {node:?} can not create pods that reference secrets, configmaps or persistentvolumeclaims"
        ));
    }
    Ok(())
}

pub(super) fn update(user: &UserInfo, kind: &KindInfo, new: &Value, old: &Value) -> Result<(), ApiError> {
    let note = |pod: &Value| api::meta::annotations(pod).and_then(|a| a.get(CONTAINER)).cloned();
    if kind.group.is_empty() && kind.kind == "Pod" && note(new) != note(old) {
        let why = format!("the annotation {CONTAINER:?} may not be changed");
        return Err(ApiError::forbidden("pods", "", api::meta::name(old), &why));
    }
    let Some(node) = user.node() else { return Ok(()) };
    if kind.kind != "Node" {
        return Ok(());
    }
    let taints = |v: &Value| v["spec"].get("taints").filter(|t| !t.is_null()).cloned();
    if taints(new) != taints(old) && api::meta::name(old) == node {
        let why = format!("node {node:?} is not allowed to modify taints");
        return Err(ApiError::forbidden("nodes", "", node, &why));
    }
    if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences") {
        let why = format!("node {node:?} is not allowed to modify ownerReferences");
        return Err(ApiError::forbidden("nodes", "", node, &why));
    }
    match forbidden_labels(new, old).as_slice() {
        [] => Ok(()),
        labels => {
            let why = format!("is not allowed to modify labels: {}", labels.join(", "));
            Err(ApiError::forbidden("nodes", "", node, &why))
        }
    }
}

/// Labels of Kubernetes' own that are set, changed or removed and are not a node's to say, in order.
fn forbidden_labels<'v>(new: &'v Value, old: &'v Value) -> Vec<&'v str> {
    let get = |object: &'v Value, key: &str| api::meta::labels(object).and_then(|l| l.get(key));
    let keys = [new, old].into_iter().filter_map(api::meta::labels).flat_map(|l| l.keys());
    let mut changed: Vec<&str> = keys.map(String::as_str).filter(|key| get(new, key) != get(old, key)).collect();
    changed.sort_unstable();
    changed.dedup();
    changed.retain(|key| is_forbidden(key));
    changed
}

/// Whether a label is in a domain of Kubernetes and not one of those that kubelets set (KEP-279).
fn is_forbidden(label: &str) -> bool {
    const OWN: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let kubelets = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within(RESTRICTED) || kubernetes && !kubelets && !OWN.contains(&label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sets_its_own_labels_and_no_others_of_kubernetes() {
        for (label, want) in [
            ("mine", false),
            ("example.com/x", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.kubelet.kubernetes.io/anything", false),
            ("kubernetes.io/other", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/team", true),
            ("a.node-restriction.kubernetes.io/team", true),
            ("foo.k8s.io/x", true),
            ("notkubernetes.io/x", false),
        ] {
            assert_eq!(is_forbidden(label), want, "{label}");
        }
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        let role = "node-role.kubernetes.io/worker";
        assert_eq!(forbidden_labels(&node(json!({})), &node(json!({role: ""}))), [role], "removing is changing");
        assert!(forbidden_labels(&node(json!({role: ""})), &node(json!({role: ""}))).is_empty());
    }

    #[test]
    fn a_node_creates_pods_that_stand_for_its_containers_and_no_others() {
        let notes = json!({CONTAINER: "ab", MIRROR: "x"});
        let pod = |annotations: &Value, spec: Value| {
            let mut whole =
                json!({"nodeName": "n", "containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]});
            whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap_or_default());
            json!({"metadata": {"name": "p", "namespace": "docker", "annotations": annotations}, "spec": whole})
        };
        let host = json!([{"name": "v", "hostPath": {"path": "/x"}}]);
        mirror("n", &pod(&notes, json!({"volumes": host}))).unwrap();
        let secret = json!({"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
        for (annotations, spec) in [
            (json!({}), json!({})),
            (json!({MIRROR: "x"}), json!({})),
            (notes.clone(), json!({"nodeName": "other"})),
            (notes.clone(), json!({"serviceAccountName": "robot"})),
            (notes.clone(), json!({"imagePullSecrets": [{"name": "s"}]})),
            (notes.clone(), json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})),
            (notes.clone(), json!({"initContainers": [{"name": "c", "env": [secret]}]})),
            (notes.clone(), json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}]})),
        ] {
            assert!(mirror("n", &pod(&annotations, spec.clone())).is_err(), "{annotations} {spec}");
        }
        let mut elsewhere = pod(&notes, json!({}));
        elsewhere["metadata"]["namespace"] = "default".into();
        assert!(mirror("n", &elsewhere).is_err());
    }
}
