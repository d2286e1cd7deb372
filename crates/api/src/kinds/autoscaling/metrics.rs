//! The metrics an autoscaler goes by.

use serde_json::Value;

use super::validate_reference;
use crate::json::{at, int_at, list_at, list_mut, object_mut, str_at};
use crate::kinds::check::{Check, join};
use crate::kinds::resources::canonicalize;
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

/// `(type, field)`, in the order in which Kubernetes looks at the fields.
pub(super) const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// Quantities of targets in canonical form.
pub(super) fn canonicalize_targets(metric: &mut Value) {
    for (_, key) in SOURCES {
        let Some(target) = object_mut(metric, &[key, "target"]) else { continue };
        for amount in ["value", "averageValue"] {
            if let Some(value) = target.get_mut(amount) {
                canonicalize(value, false);
            }
        }
    }
}

pub(super) fn canonicalize_all(spec: &mut Value) {
    list_mut(spec, &["metrics"]).for_each(canonicalize_targets);
}

pub(super) fn validate_metrics(check: &mut Check, spec: &Value) {
    let metrics = list_at(spec, &["metrics"]);
    for (i, metric) in metrics.iter().enumerate() {
        validate_metric(check, metric, &format!("spec.metrics[{i}]"));
    }
    let measurable = metrics.iter().any(|m| matches!(str_at(m, &["type"]), "Object" | "External"));
    if int_at(spec, &["minReplicas"]) == Some(0) && !measurable {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        check.forbidden("spec.metrics", detail);
    }
}

fn validate_metric(check: &mut Check, metric: &Value, field: &str) {
    let kind = str_at(metric, &["type"]);
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, key)| *key);
    if kind.is_empty() {
        check.required(join(field, "type"), "must specify a metric source type");
    }
    if expected.is_none() {
        let allowed = &["ContainerResource", "External", "Object", "Pods", "Resource"];
        check.extend([FieldError::not_supported(join(field, "type"), kind, allowed)]);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, key)| *key).filter(|key| at(metric, &[key]).is_some()).collect();
    if let Some(first) = present.first() {
        validate_source(check, first, &metric[*first], &join(field, first));
    }
    if let Some(expected) = expected
        && !present.contains(&expected)
    {
        check.required(join(field, expected), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for key in present.iter().filter(|key| Some(**key) != expected) {
            check.forbidden(join(field, key), "must populate the given metric source only");
        }
    }
}

fn validate_source(check: &mut Check, kind: &str, source: &Value, field: &str) {
    let target = at(source, &["target"]).unwrap_or(&Value::Null);
    if kind == "object" {
        let described = at(source, &["describedObject"]).unwrap_or(&Value::Null);
        validate_reference(check, described, &join(field, "describedObject"), true);
    }
    match kind {
        "object" | "external" | "pods" => validate_identifier(check, source, &join(field, "metric")),
        _ => {
            if str_at(source, &["name"]).is_empty() {
                check.required(join(field, "name"), "must specify a resource name");
            }
        }
    }
    if kind == "containerResource" {
        let container = str_at(source, &["container"]);
        if container.is_empty() {
            check.required(join(field, "container"), "must specify a container");
        } else {
            check.syntax(&join(field, "container"), container, names::dns1123_label(container));
        }
    }
    let field = join(field, "target");
    validate_target(check, target, &field);
    let has = |key: &str| at(target, &[key]).is_some();
    let (value, average, utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    match kind {
        "object" if !value && !average => {
            check.required(join(&field, "averageValue"), "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            let detail = "must set either a target value for metric or a per-pod target";
            check.required(join(&field, "averageValue"), detail);
        }
        "external" if value && average => {
            let detail = "may not set both a target value for metric and a per-pod target";
            check.forbidden(join(&field, "value"), detail);
        }
        "pods" if !average => {
            check.required(join(&field, "averageValue"), "must specify a positive target averageValue")
        }
        "resource" | "containerResource" if !utilization && !average => {
            let detail = "must set either a target raw value or a target utilization";
            check.required(join(&field, "averageUtilization"), detail);
        }
        "resource" | "containerResource" if utilization && average => {
            let detail = "may not set both a target raw value and a target utilization";
            check.forbidden(join(&field, "averageValue"), detail);
        }
        _ => {}
    }
}

fn validate_identifier(check: &mut Check, source: &Value, field: &str) {
    let name = str_at(source, &["metric", "name"]);
    if name.is_empty() {
        check.required(join(field, "name"), "must specify a metric name");
    } else {
        check.syntax(&join(field, "name"), name, names::path_segment(name));
    }
}

fn validate_target(check: &mut Check, target: &Value, field: &str) {
    let kind = str_at(target, &["type"]);
    if kind.is_empty() {
        check.required(join(field, "type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        check.invalid(join(field, "type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for key in ["value", "averageValue"] {
        let Some(value) = at(target, &[key]) else { continue };
        match Quantity::from_json(value) {
            Ok(q) if q.signum() <= 0 => check.invalid(join(field, key), q.to_string(), "must be positive"),
            Ok(_) => {}
            Err(e) => check.invalid(join(field, key), value.clone(), e.to_string()),
        }
    }
    if let Some(n) = int_at(target, &["averageUtilization"]).filter(|n| *n < 1) {
        check.invalid(join(field, "averageUtilization"), n, "must be greater than 0");
    }
}
