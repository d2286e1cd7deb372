//! What a node's agent may not do although its verb and resource are allowed: the rules that need the object.

use api::kinds::KindInfo;
use api::status::ApiError;
use serde_json::Value;

use crate::authn::UserInfo;

/// Domain of labels that only administrators set, so that a node cannot attract protected pods.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

pub(super) fn create(user: &UserInfo, kind: &KindInfo, object: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = api::meta::name(object);
    let refuse = |why: String| Err(ApiError::forbidden(kind.plural, kind.group, name, &why));
    match kind.kind {
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

pub(super) fn update(user: &UserInfo, kind: &KindInfo, new: &Value, old: &Value) -> Result<(), ApiError> {
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
    use serde_json::json;

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
}
