//! Horizontal pod autoscalers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, NAME, col};
use crate::json::{at, int_at, list_at, str_at};
use crate::kinds::{Columns, autoscaler_as_v2};
use crate::meta;
use crate::table::object_age;

/// How many metrics a cell lists before it counts the rest.
const MAX_SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

/// Columns of horizontal pod autoscalers, of either version.
pub const AUTOSCALER: Columns = Columns {
    list: &[
        NAME,
        col("Reference", "string", "Object that is scaled."),
        col("Targets", "string", "Metrics as they are, and as they should be."),
        col("MinPods", "string", "Fewest pods."),
        col("MaxPods", "string", "Most pods."),
        col("Replicas", "string", "Pods at the last look."),
        AGE,
    ],
    row: autoscaler,
};

fn autoscaler(o: &Value, now: Timestamp) -> Vec<Value> {
    let o = &*autoscaler_as_v2(o);
    let target = at(o, &["spec", "scaleTargetRef"]).unwrap_or(&Value::Null);
    let min = int_at(o, &["spec", "minReplicas"]).map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        json!(meta::name(o)),
        json!(format!("{}/{}", str_at(target, &["kind"]), str_at(target, &["name"]))),
        json!(metrics(o)),
        json!(min),
        json!(int_at(o, &["spec", "maxReplicas"]).unwrap_or(0)),
        json!(int_at(o, &["status", "currentReplicas"]).unwrap_or(0)),
        json!(object_age(o, now)),
    ]
}

fn metrics(o: &Value) -> String {
    let wanted = list_at(o, &["spec", "metrics"]);
    let found = list_at(o, &["status", "currentMetrics"]);
    if wanted.is_empty() {
        return "<none>".to_owned();
    }
    let lines: Vec<String> =
        wanted.iter().enumerate().take(MAX_SHOWN).map(|(i, spec)| metric(spec, found.get(i))).collect();
    match wanted.len().saturating_sub(MAX_SHOWN) {
        0 => lines.join(", "),
        more => format!("{} + {more} more...", lines.join(", ")),
    }
}

fn amount(value: Option<&Value>) -> Option<String> {
    value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let key = match str_at(spec, &["type"]) {
        "Object" => "object",
        "Pods" => "pods",
        "External" => "external",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let unknown = || UNKNOWN.to_owned();
    let target = |what: &str| at(spec, &[key, "target", what]);
    let current = |what: &str| amount(status.and_then(|s| at(s, &[key, "current", what])));
    let average = amount(target("averageValue"));
    match (key, average) {
        ("resource" | "containerResource", average) => {
            let name = str_at(spec, &[key, "name"]);
            match average {
                Some(average) => format!("{name}: {}/{average}", current("averageValue").unwrap_or_else(unknown)),
                None => {
                    let percent =
                        |n: Option<String>, none: &str| n.map_or_else(|| none.to_owned(), |n| format!("{n}%"));
                    let have = percent(current("averageUtilization"), UNKNOWN);
                    let want = percent(amount(target("averageUtilization")), "<auto>");
                    format!("{name}: {have}/{want}")
                }
            }
        }
        ("pods", average) => {
            format!("{}/{}", current("averageValue").unwrap_or_else(unknown), average.unwrap_or_else(unknown))
        }
        (_, Some(average)) => format!("{}/{average} (avg)", current("averageValue").unwrap_or_else(unknown)),
        (_, None) => {
            let want = amount(target("value")).unwrap_or_else(unknown);
            format!("{}/{want}", current("value").unwrap_or_else(unknown))
        }
    }
}
