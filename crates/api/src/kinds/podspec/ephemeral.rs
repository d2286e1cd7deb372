//! Ephemeral containers: what the `pods/ephemeralcontainers` subresource may write (KEP-277).

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{PodContext, validate_container};
use crate::json::{at, carry, ensure_object, list_at, semantic_eq, str_at};
use crate::kinds::check::Check;
use crate::meta;
use crate::status::FieldError;

/// What a container that is added to a running pod may say. Everything else speaks of work that a pod relies on.
const ALLOWED: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "name",
    "securityContext",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// Labels, annotations, finalizers and owners stay as stored: these subresources are about the spec.
pub(super) fn keep_metadata(new: &mut Value, old: &Value) {
    meta::prepare_update(new, old);
    let Some(stored) = old.get("metadata") else { return };
    let metadata = ensure_object(new, "metadata");
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        carry(metadata, stored, key);
    }
}

/// For `pods/ephemeralcontainers`: the stored pod with the new list.
pub fn prepare_ephemeral(new: &mut Value, old: &Value) {
    keep_metadata(new, old);
    carry(new, old, "status");
    let wanted = at(new, &["spec", "ephemeralContainers"]).cloned();
    carry(new, old, "spec");
    let spec = ensure_object(new, "spec");
    match wanted {
        Some(list) => spec["ephemeralContainers"] = list,
        None => crate::json::drop_key(spec, "ephemeralContainers"),
    }
    meta::bump_generation(new, old, &[&["spec"]]);
}

/// Findings on what [`prepare_ephemeral`] made.
pub fn validate_ephemeral_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    if meta::annotations(old).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        check.forbidden("", "static pods do not support ephemeral containers");
        return check.errors;
    }
    check.extend(meta::validate_update(new, old));
    super::validate_spec(&mut check, at(new, &["spec"]).unwrap_or(&Value::Null), "spec");
    let field = "spec.ephemeralContainers";
    let news = list_at(new, &["spec", "ephemeralContainers"]);
    for before in list_at(old, &["spec", "ephemeralContainers"]) {
        let name = str_at(before, &["name"]);
        match news.iter().find(|c| str_at(c, &["name"]) == name) {
            None => check.forbidden(field, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if !semantic_eq(Some(now), Some(before)) => {
                check.forbidden(field, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
    check.errors
}

/// Checks the list in a pod's spec.
pub(super) fn validate_list(check: &mut Check, spec: &Value, field: &str, context: &PodContext<'_>) {
    let list = list_at(spec, &["ephemeralContainers"]);
    if list.is_empty() {
        return;
    }
    let ordinary = ["containers", "initContainers"].into_iter().flat_map(|l| list_at(spec, &[l]));
    let others: BTreeSet<&str> = ordinary.map(|c| str_at(c, &["name"])).collect();
    let mut names = others.clone();
    for (i, container) in list.iter().enumerate() {
        let field = format!("{field}.ephemeralContainers[{i}]");
        validate_container(check, container, &field, context);
        let name = str_at(container, &["name"]);
        if !name.is_empty() && !names.insert(name) {
            check.duplicate(format!("{field}.name"), name);
        }
        let target = str_at(container, &["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            check.not_found(format!("{field}.targetContainerName"), target);
        }
        let fields = container.as_object().into_iter().flatten();
        let set = |v: &&Value| !semantic_eq(Some(*v), None) && **v != false && **v != 0;
        for (key, _) in fields.filter(|(key, value)| !ALLOWED.contains(&key.as_str()) && set(value)) {
            check.forbidden(format!("{field}.{key}"), "cannot be set for an Ephemeral Container");
        }
        for (j, mount) in list_at(container, &["volumeMounts"]).iter().enumerate() {
            for key in ["subPath", "subPathExpr"].into_iter().filter(|key| !str_at(mount, &[key]).is_empty()) {
                check.forbidden(format!("{field}.volumeMounts[{j}].{key}"), "cannot be set for an Ephemeral Container");
            }
        }
    }
}
