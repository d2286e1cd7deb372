//! Classes and quotas.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{AGE, NAME, col, wide};
use crate::json::{bool_at, int_at, map_at, str_at};
use crate::kinds::Columns;
use crate::meta;
use crate::table::object_age;

/// Columns of priority classes.
pub const PRIORITY_CLASS: Columns = Columns {
    list: &[
        NAME,
        col("Value", "integer", "Priority that pods of the class get."),
        col("Global-Default", "boolean", "Whether pods without a class get this one."),
        AGE,
        wide("PreemptionPolicy", "Whether pods of the class evict others."),
    ],
    row: |o, now| {
        vec![
            json!(meta::name(o)),
            json!(int_at(o, &["value"]).unwrap_or(0)),
            json!(bool_at(o, &["globalDefault"])),
            json!(object_age(o, now)),
            json!(str_at(o, &["preemptionPolicy"])),
        ]
    },
};

/// Columns of runtime classes.
pub const RUNTIME_CLASS: Columns = Columns {
    list: &[NAME, col("Handler", "string", "Runtime that nodes use for the class."), AGE],
    row: |o, now| vec![json!(meta::name(o)), json!(str_at(o, &["handler"])), json!(object_age(o, now))],
};

/// Columns of resource quotas.
pub const RESOURCE_QUOTA: Columns = Columns {
    list: &[
        NAME,
        col("Request", "string", "Use of requests and objects, and their bounds."),
        col("Limit", "string", "Use of limits, and their bounds."),
        AGE,
    ],
    row: resource_quota,
};

fn resource_quota(o: &Value, now: Timestamp) -> Vec<Value> {
    let empty = Map::new();
    let hard = map_at(o, &["status", "hard"]).unwrap_or(&empty);
    let mut names: Vec<&String> = hard.keys().collect();
    names.sort();
    let amount = |list: &str, name: &str| match crate::json::at(o, &["status", list, name]) {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => "0".to_owned(),
    };
    let line = |limits: bool| {
        let shown: Vec<String> = names
            .iter()
            .filter(|n| n.starts_with("limits.") == limits)
            .map(|n| format!("{n}: {}/{}", amount("used", n), amount("hard", n)))
            .collect();
        shown.join(", ")
    };
    vec![json!(meta::name(o)), json!(line(false)), json!(line(true)), json!(object_age(o, now))]
}
