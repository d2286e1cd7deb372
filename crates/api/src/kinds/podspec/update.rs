//! What may change in the spec of an existing pod.

use serde_json::Value;

use crate::json::{at, carry, int_at, list_at, semantic_eq, str_at};
use crate::kinds::check::Check;

/// Names the updatable fields, in the words clients know.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a pod's new spec against the stored one.
pub(in crate::kinds) fn validate_update(check: &mut Check, new: &Value, old: &Value) {
    let (Some(new_spec), Some(old_spec)) = (at(new, &["spec"]), at(old, &["spec"])) else { return };
    for (list, what) in [("containers", "containers"), ("initContainers", "init containers")] {
        if list_at(new_spec, &[list]).len() != list_at(old_spec, &[list]).len() {
            check.forbidden(format!("spec.{list}"), format!("pod updates may not add or remove {what}"));
            return;
        }
        for (i, container) in list_at(new_spec, &[list]).iter().enumerate() {
            let image = str_at(container, &["image"]);
            if image.is_empty() {
                check.required(format!("spec.{list}[{i}].image"), "");
            } else if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                check.invalid(format!("spec.{list}[{i}].image"), image, detail);
            }
        }
    }
    validate_deadline(check, new_spec, old_spec);
    tolerations_only_grow(check, new_spec, old_spec);
    // Put the old values back wherever a change is allowed; what still differs is not.
    let mut munged = new_spec.clone();
    for list in ["containers", "initContainers"] {
        let olds = list_at(old_spec, &[list]);
        for (container, old) in crate::json::list_mut(&mut munged, &[list]).zip(olds) {
            carry(container, old, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations"] {
        carry(&mut munged, old_spec, key);
    }
    if int_at(old_spec, &["terminationGracePeriodSeconds"]).is_some_and(|s| s < 0)
        && int_at(new_spec, &["terminationGracePeriodSeconds"]) == Some(1)
    {
        carry(&mut munged, old_spec, "terminationGracePeriodSeconds");
    }
    carry(&mut munged, old_spec, "schedulingGates");
    validate_gates(check, new_spec, old_spec);
    if !list_at(old_spec, &["schedulingGates"]).is_empty() {
        munge_gated(check, &mut munged, new_spec, old_spec);
    }
    if !semantic_eq(Some(&munged), Some(old_spec)) {
        let mut paths = Vec::new();
        differences(&munged, old_spec, "spec".to_owned(), &mut paths);
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\nchanged: {}", paths.join(", "));
        check.forbidden("spec", detail);
    }
}

fn validate_deadline(check: &mut Check, new: &Value, old: &Value) {
    let field = "spec.activeDeadlineSeconds";
    match (int_at(new, &["activeDeadlineSeconds"]), int_at(old, &["activeDeadlineSeconds"])) {
        (Some(n), _) if !(1..=i64::from(i32::MAX)).contains(&n) => {
            check.invalid(field, n, format!("must be between 1 and {}, inclusive", i32::MAX));
        }
        (Some(n), Some(o)) if n > o => check.invalid(field, n, "must be less than or equal to previous value"),
        (None, Some(_)) => check.invalid(field, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

/// Tolerations may be added, and only `tolerationSeconds` of existing ones may change.
fn tolerations_only_grow(check: &mut Check, new: &Value, old: &Value) {
    let strip = |t: &Value| {
        let mut t = t.clone();
        crate::json::drop_key(&mut t, "tolerationSeconds");
        t
    };
    let new: Vec<Value> = list_at(new, &["tolerations"]).iter().map(strip).collect();
    for old in list_at(old, &["tolerations"]).iter().map(strip) {
        if !new.iter().any(|n| semantic_eq(Some(n), Some(&old))) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            check.forbidden("spec.tolerations", detail);
            return;
        }
    }
}

fn validate_gates(check: &mut Check, new: &Value, old: &Value) {
    let olds = list_at(old, &["schedulingGates"]);
    for (i, gate) in list_at(new, &["schedulingGates"]).iter().enumerate() {
        if !olds.contains(gate) {
            let name = str_at(gate, &["name"]);
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            check.forbidden(format!("spec.schedulingGates[{i}].name"), detail);
        }
    }
}

/// While a pod is gated its node selector may grow and its node affinity may be set.
fn munge_gated(check: &mut Check, munged: &mut Value, new: &Value, old: &Value) {
    let grown = crate::json::map_at(old, &["nodeSelector"])
        .is_none_or(|o| o.iter().all(|(k, v)| at(new, &["nodeSelector", k.as_str()]) == Some(v)));
    if grown {
        carry(munged, old, "nodeSelector");
    } else {
        let value = at(new, &["nodeSelector"]).cloned().unwrap_or(Value::Null);
        check.invalid("spec.nodeSelector", value, "only additions are allowed (no mutations or deletions)");
        carry(munged, old, "nodeSelector");
    }
    let required = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    if at(old, &required).is_none() {
        carry(munged, old, "affinity");
    }
}

/// Paths at which two values differ, for people; bounded.
fn differences(a: &Value, b: &Value, path: String, out: &mut Vec<String>) {
    const MAX_SHOWN: usize = 16;
    if out.len() >= MAX_SHOWN || semantic_eq(Some(a), Some(b)) {
        return;
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for key in keys {
                let (p, q) = (x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null));
                differences(p, q, format!("{path}.{key}"), out);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (p, q)) in x.iter().zip(y).enumerate() {
                differences(p, q, format!("{path}[{i}]"), out);
            }
        }
        _ => out.push(path),
    }
}
