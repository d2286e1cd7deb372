//! What a node's agent may not do although its verb and resource are allowed: the rules that need the object.

use api::kinds::KindInfo;
use api::status::ApiError;
use serde_json::Value;

use crate::authn::UserInfo;

/// Label prefix that only administrators set, so that a node cannot attract protected pods.
const RESTRICTED: &str = "node-restriction.kubernetes.io/";

pub(super) fn create(user: &UserInfo, kind: &KindInfo, object: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = api::meta::name(object);
    let refuse = |why: String| Err(ApiError::forbidden(kind.plural, kind.group, name, &why));
    match kind.kind {
        "Node" if name != node => refuse(format!("node {node:?} is not allowed to create node {name:?}")),
        "Lease" if name != node => {
            refuse(format!("can only access node lease with the same name as the requesting node {node:?}"))
        }
        "Node" if restricted(object).next().is_some() => refuse(label_refusal(node)),
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
    if restricted(new).eq(restricted(old)) {
        return Ok(());
    }
    Err(ApiError::forbidden("nodes", "", node, &label_refusal(node)))
}

fn restricted(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    api::meta::labels(object).into_iter().flatten().filter(|(key, _)| key.contains(RESTRICTED))
}

fn label_refusal(node: &str) -> String {
    format!("node {node:?} is not allowed to modify labels with the prefix {RESTRICTED}")
}
