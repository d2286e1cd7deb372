//! Horizontal pod autoscalers: v2 is what is stored, v1 a view that keeps in annotations what it has no fields for.

mod convert;
mod metrics;

use serde_json::{Value, json};

use self::metrics::validate_metrics;
use super::Hooks;
use super::check::{Check, join};
use super::split_api_version;
use crate::json::{at, ensure_object, int_at, is_unset, list_at, object_mut, set_default, str_at};
use crate::names;
use crate::status::FieldError;

/// Longest look back of a scaling rule.
const MAX_WINDOW_S: i64 = 3600;
/// Longest period of a scaling policy.
const MAX_PERIOD_S: i64 = 1800;
/// Wanted share of the requested processor time when nothing else is asked for.
const DEFAULT_UTILIZATION: i64 = 80;

pub(super) const V2: Hooks = Hooks {
    default,
    validate: |o| validate(o, None),
    validate_update: |new, old| validate(new, Some(old)),
    validate_status_update,
    ..Hooks::NONE
};

pub(super) const V1: Hooks = Hooks {
    default: |o| {
        if is_v1(o) {
            set_default(ensure_object(o, "spec"), "minReplicas", 1);
        } else {
            default(o);
        }
    },
    to_storage: convert::to_v2,
    from_storage: convert::to_v1,
    validate: |o| validate(&stored(o), None),
    validate_update: |new, old| validate(&stored(new), Some(&stored(old))),
    ..V2
};

/// Whether the object has the fields of v1.
fn is_v1(o: &Value) -> bool {
    str_at(o, &["apiVersion"]) == "autoscaling/v1"
}

/// The object as it is stored.
fn stored(o: &Value) -> Value {
    let mut o = o.clone();
    convert::to_v2(&mut o);
    o
}

/// The v2 form, for columns.
pub(crate) fn as_v2(o: &Value) -> std::borrow::Cow<'_, Value> {
    if is_v1(o) { std::borrow::Cow::Owned(stored(o)) } else { std::borrow::Cow::Borrowed(o) }
}

/// Use of the processor as the only metric.
fn default_metric() -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": DEFAULT_UTILIZATION}}})
}

fn default(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "minReplicas", 1);
    if list_at(spec, &["metrics"]).is_empty() {
        spec["metrics"] = json!([default_metric()]);
    }
    metrics::canonicalize_all(spec);
    let Some(behavior) = object_mut(spec, &["behavior"]) else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    for (key, policies) in [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))] {
        let rules = ensure_object(behavior, key);
        set_default(rules, "selectPolicy", "Max");
        if is_unset(rules, "policies") {
            rules["policies"] = policies;
        }
        if key == "scaleUp" {
            set_default(rules, "stabilizationWindowSeconds", 0);
        }
    }
}

fn validate(o: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let min = int_at(spec, &["minReplicas"]);
    let max = int_at(spec, &["maxReplicas"]).unwrap_or(0);
    let was_zero = old.is_some_and(|o| int_at(o, &["spec", "minReplicas"]) == Some(0));
    let lowest = if was_zero { 0 } else { 1 };
    if let Some(min) = min.filter(|m| *m < lowest) {
        check.invalid("spec.minReplicas", min, format!("must be greater than or equal to {lowest}"));
    }
    match max {
        0 => check.required("spec.maxReplicas", "must be set and greater than 0"),
        max if max < 0 => check.invalid("spec.maxReplicas", max, "must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        check.invalid("spec.maxReplicas", max, "must be greater than or equal to `minReplicas`");
    }
    let target = at(spec, &["scaleTargetRef"]).unwrap_or(&Value::Null);
    let of = |o: &Value, key: &str| str_at(o, &["spec", "scaleTargetRef", key]).to_owned();
    let kept = old.is_some_and(|old| ["apiVersion", "kind"].iter().all(|k| of(old, k) == of(o, k)));
    let core = kept || str_at(target, &["kind"]) == "ReplicationController";
    validate_reference(&mut check, target, "spec.scaleTargetRef", core);
    validate_metrics(&mut check, spec);
    for key in ["scaleUp", "scaleDown"] {
        if let Some(rules) = at(spec, &["behavior", key]) {
            validate_rules(&mut check, rules, &format!("spec.behavior.{key}"));
        }
    }
    check.errors
}

/// A reference to an object of any version; only some may be of the core group.
fn validate_reference(check: &mut Check, reference: &Value, field: &str, core: bool) {
    for key in ["kind", "name"] {
        if check.need_str(reference, key, field) {
            let value = str_at(reference, &[key]);
            check.syntax(&join(field, key), value, names::path_segment(value));
        }
    }
    let version = str_at(reference, &["apiVersion"]);
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        check.invalid(join(field, "apiVersion"), version, detail);
    } else if !core && split_api_version(version).0.is_empty() {
        check.invalid(join(field, "apiVersion"), version, "apiVersion must specify API group");
    }
}

fn validate_rules(check: &mut Check, rules: &Value, field: &str) {
    let at_window = join(field, "stabilizationWindowSeconds");
    match int_at(rules, &["stabilizationWindowSeconds"]) {
        Some(s) if s < 0 => check.invalid(at_window, s, "must be greater than or equal to zero"),
        Some(s) if s > MAX_WINDOW_S => {
            check.invalid(at_window, s, format!("must be less than or equal to {MAX_WINDOW_S}"));
        }
        _ => {}
    }
    check.one_of(rules, "selectPolicy", field, &["Disabled", "Max", "Min"]);
    let policies = list_at(rules, &["policies"]);
    if policies.is_empty() {
        check.required(join(field, "policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let field = format!("{field}.policies[{i}]");
        let kind = str_at(policy, &["type"]);
        if !matches!(kind, "Pods" | "Percent") {
            check.extend([FieldError::not_supported(join(&field, "type"), kind, &["Percent", "Pods"])]);
        }
        for key in ["value", "periodSeconds"] {
            let value = int_at(policy, &[key]).unwrap_or(0);
            if value <= 0 {
                check.invalid(join(&field, key), value, "must be greater than zero");
            } else if key == "periodSeconds" && value > MAX_PERIOD_S {
                check.invalid(join(&field, key), value, format!("must be less than or equal to {MAX_PERIOD_S}"));
            }
        }
    }
    if let Some(tolerance) = at(rules, &["tolerance"]) {
        check.quantity(tolerance, &join(field, "tolerance"));
    }
}

fn validate_status_update(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let status = at(new, &["status"]).unwrap_or(&Value::Null);
    for key in ["currentReplicas", "desiredReplicas"] {
        check.non_negative(status, key, "status");
    }
    check.errors
}
