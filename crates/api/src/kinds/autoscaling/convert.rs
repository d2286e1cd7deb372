//! autoscaling/v1 to v2 and back. v1 has one field, the use of the processor; the rest of v2 travels in annotations.

use serde_json::{Map, Value, json};

use crate::json::{at, drop_key, ensure_object, int_at, list_at, map_at, object_mut, str_at};
use crate::meta;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const ALL: [&str; 4] = [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR];

/// Moves fields of `from` under other names; `(old path's key, new path)`.
type Names = &'static [(&'static str, &'static [&'static str])];

/// v1 name and v2 path of what each kind of metric says it wants.
fn spec_names(kind: &str) -> Names {
    match kind {
        "object" => &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("averageValue", &["target", "averageValue"]),
        ],
        "pods" => &[
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
        "external" => &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("targetValue", &["target", "value"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
        _ => &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("targetAverageUtilization", &["target", "averageUtilization"]),
            ("targetAverageValue", &["target", "averageValue"]),
        ],
    }
}

/// v1 name and v2 path of what each kind of metric was found to be.
fn status_names(kind: &str) -> Names {
    match kind {
        "object" => &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("averageValue", &["current", "averageValue"]),
        ],
        "pods" => &[
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
        "external" => &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("currentValue", &["current", "value"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
        _ => &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("currentAverageUtilization", &["current", "averageUtilization"]),
            ("currentAverageValue", &["current", "averageValue"]),
        ],
    }
}

fn put(object: &mut Value, path: &[&str], value: Value) {
    if let Some((last, parents)) = path.split_last() {
        let owner = parents.iter().fold(object, |o, key| ensure_object(o, key));
        owner[*last] = value;
    }
}

/// Renames the fields of the metric's source; `None` when it has none.
fn renamed(metric: &Value, names: fn(&str) -> Names, to_v2: bool) -> Value {
    let mut out = json!({"type": str_at(metric, &["type"])});
    for (_, kind) in super::metrics::SOURCES {
        let Some(source) = map_at(metric, &[kind]) else { continue };
        let source = Value::Object(source.clone());
        let mut to = json!({});
        for (v1, v2) in names(kind) {
            let (from, path): (&[&str], &[&str]) = if to_v2 { (&[v1], v2) } else { (v2, &[v1]) };
            if let Some(value) = at(&source, from) {
                put(&mut to, path, value.clone());
            }
        }
        out[kind] = to;
    }
    out
}

fn metric_to_v2(metric: &Value) -> Value {
    let mut out = renamed(metric, spec_names, true);
    for (_, kind) in super::metrics::SOURCES {
        let Some(source) = object_mut(&mut out, &[kind]) else { continue };
        let target = ensure_object(source, "target");
        let has = |key: &str| target.get(key).is_some();
        let word = match kind {
            "pods" => "AverageValue",
            "object" if has("averageValue") => "AverageValue",
            "object" => "Value",
            "external" if has("value") => "Value",
            "resource" | "containerResource" if has("averageUtilization") => "Utilization",
            _ => "AverageValue",
        };
        target["type"] = word.into();
        // v1 cannot leave the value of an object's metric out, and writes a zero.
        if kind == "object" && word == "AverageValue" && target.get("value").is_some_and(|v| v == "0" || v == 0) {
            drop_key(target, "value");
        }
    }
    out
}

fn is_cpu_utilization(metric: &Value) -> bool {
    str_at(metric, &["type"]) == "Resource"
        && str_at(metric, &["resource", "name"]) == "cpu"
        && int_at(metric, &["resource", "target", "averageUtilization"]).is_some()
}

/// The annotation's JSON; nothing when it is absent or malformed.
fn annotation(o: &Value, key: &str) -> Option<Value> {
    serde_json::from_str(meta::annotations(o)?.get(key)?.as_str()?).ok()
}

fn drop_annotations(o: &mut Value) {
    if let Some(annotations) = object_mut(o, &["metadata", "annotations"]) {
        for key in ALL {
            drop_key(annotations, key);
        }
        if annotations.as_object().is_some_and(Map::is_empty) {
            drop_key(&mut o["metadata"], "annotations");
        }
    }
}

/// Changes the first letter of every key: the annotation of the behavior has the names of Go's fields.
fn recased(value: &Value, upper: bool) -> Value {
    match value {
        Value::Array(list) => list.iter().map(|v| recased(v, upper)).collect(),
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(key, v)| {
                let mut letters = key.chars();
                let first = letters.next().map(|c| if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
                (first.into_iter().chain(letters).collect::<String>(), recased(v, upper))
            })
            .collect::<Map<String, Value>>()
            .into(),
        other => other.clone(),
    }
}

/// To the stored version.
pub(super) fn to_v2(o: &mut Value) {
    if !o.is_object() {
        return;
    }
    let saved: Vec<Value> =
        list_at(&annotation(o, METRICS).unwrap_or(Value::Null), &[]).iter().map(metric_to_v2).collect();
    let current = annotation(o, CURRENT_METRICS);
    let conditions = annotation(o, CONDITIONS).filter(Value::is_array);
    let behavior =
        annotation(o, BEHAVIOR).map(|b| recased(&b, false)).filter(|b| b.as_object().is_some_and(|b| !b.is_empty()));
    drop_annotations(o);
    if let Some(spec) = object_mut(o, &["spec"]) {
        let cpu = int_at(spec, &["targetCPUUtilizationPercentage"]);
        drop_key(spec, "targetCPUUtilizationPercentage");
        let mut metrics = list_at(spec, &["metrics"]).to_vec();
        metrics.extend(saved);
        if let Some(cpu) = cpu {
            let mut metric = super::default_metric();
            metric["resource"]["target"]["averageUtilization"] = cpu.into();
            metrics.push(metric);
        }
        if metrics.is_empty() {
            metrics.push(super::default_metric());
        }
        spec["metrics"] = Value::Array(metrics);
        if let Some(behavior) = behavior {
            spec["behavior"] = behavior;
        }
    }
    if let Some(status) = object_mut(o, &["status"]) {
        let cpu = int_at(status, &["currentCPUUtilizationPercentage"]);
        drop_key(status, "currentCPUUtilizationPercentage");
        if let Some(current) = current.as_ref().and_then(Value::as_array) {
            status["currentMetrics"] = current.iter().map(|m| renamed(m, status_names, true)).collect();
        } else if let Some(cpu) = cpu {
            status["currentMetrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": cpu}}}]);
        }
        if let Some(conditions) = conditions {
            status["conditions"] = conditions;
        }
    }
    if o.get("apiVersion").is_some() {
        o["apiVersion"] = "autoscaling/v2".into();
    }
}

/// From the stored version.
pub(super) fn to_v1(o: &mut Value) {
    if !o.is_object() {
        return;
    }
    drop_annotations(o);
    let mut notes: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object_mut(o, &["spec"]) {
        let metrics = list_at(spec, &["metrics"]);
        let cpu = metrics.iter().find(|m| is_cpu_utilization(m)).cloned();
        let others: Vec<Value> =
            metrics.iter().filter(|m| !is_cpu_utilization(m)).map(|m| renamed(m, spec_names, false)).collect();
        if !others.is_empty() {
            notes.push((METRICS, Value::Array(others)));
        }
        if let Some(behavior) = at(spec, &["behavior"]) {
            notes.push((BEHAVIOR, recased(behavior, true)));
        }
        drop_key(spec, "metrics");
        drop_key(spec, "behavior");
        if let Some(cpu) = cpu {
            spec["targetCPUUtilizationPercentage"] = cpu["resource"]["target"]["averageUtilization"].clone();
        }
    }
    if let Some(status) = object_mut(o, &["status"]) {
        let current = list_at(status, &["currentMetrics"]);
        let cpu = current
            .iter()
            .filter(|m| str_at(m, &["resource", "name"]) == "cpu")
            .find_map(|m| int_at(m, &["resource", "current", "averageUtilization"]));
        if !current.is_empty() {
            notes.push((CURRENT_METRICS, current.iter().map(|m| renamed(m, status_names, false)).collect()));
        }
        if let Some(conditions) = at(status, &["conditions"]).filter(|c| c.as_array().is_some_and(|c| !c.is_empty())) {
            notes.push((CONDITIONS, conditions.clone()));
        }
        drop_key(status, "currentMetrics");
        drop_key(status, "conditions");
        if let Some(cpu) = cpu {
            status["currentCPUUtilizationPercentage"] = cpu.into();
        }
    }
    for (key, value) in notes {
        let annotations = ensure_object(ensure_object(o, "metadata"), "annotations");
        annotations[key] = value.to_string().into();
    }
    if o.get("apiVersion").is_some() {
        o["apiVersion"] = "autoscaling/v1".into();
    }
}
