//! Priority classes and runtime classes.

use serde_json::Value;

use super::Hooks;
use super::check::{Check, NON_NEGATIVE};
use super::podspec;
use super::resources::canonicalize_list;
use crate::json::{bool_at, int_at, list_at, map_at, object_mut, semantic_eq, set_default, str_at};
use crate::meta;
use crate::names;
use crate::status::FieldError;

/// Largest value of a priority class that is not the system's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
/// Names that only the system's own classes may begin with.
const SYSTEM_PREFIX: &str = "system-";
/// The system's classes and their values.
const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-node-critical", 2 * HIGHEST_USER_PRIORITY + 1000),
    ("system-cluster-critical", 2 * HIGHEST_USER_PRIORITY),
];

pub(super) const PRIORITY_CLASS: Hooks = Hooks {
    default: |o| set_default(o, "preemptionPolicy", "PreemptLowerPriority"),
    validate: validate_priority_class,
    validate_update: |new, old| {
        let mut check = Check::default();
        if int_at(new, &["value"]).unwrap_or(0) != int_at(old, &["value"]).unwrap_or(0) {
            check.forbidden("value", "may not be changed in an update.");
        }
        check.immutable(new, old, &["preemptionPolicy"]);
        check.errors
    },
    // Nothing of a class that matters can change.
    generation_keys: &[],
    ..Hooks::NONE
};

fn validate_priority_class(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let (name, value) = (meta::name(o), int_at(o, &["value"]).unwrap_or(0));
    if name.starts_with(SYSTEM_PREFIX) {
        let problem = match SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, want)) if *want != value => Some(format!("value of {name} PriorityClass must be {want}")),
            Some(_) if bool_at(o, &["globalDefault"]) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {problem}"
            );
            check.forbidden("metadata.name", detail);
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        check.forbidden("value", detail);
    }
    check.one_of(o, "preemptionPolicy", "", &["PreemptLowerPriority", "Never"]);
    check.errors
}

pub(super) const RUNTIME_CLASS: Hooks = Hooks {
    default: |o| {
        if let Some(overhead) = object_mut(o, &["overhead"]) {
            canonicalize_list(overhead, "podFixed", true);
        }
    },
    validate: validate_runtime_class,
    validate_update: |new, old| {
        let mut check = Check::default();
        check.immutable(new, old, &["handler"]);
        check.errors
    },
    warnings: |o| {
        let labels = map_at(o, &["scheduling", "nodeSelector"]).into_iter().flatten();
        let advice = labels.filter_map(|(key, _)| super::warnings::deprecated_node_label(key));
        advice.map(|a| format!("scheduling.nodeSelector: {a}")).collect()
    },
    ..Hooks::NONE
};

fn validate_runtime_class(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    if check.need_str(o, "handler", "") {
        let handler = str_at(o, &["handler"]);
        check.syntax("handler", handler, names::dns1123_label(handler));
    }
    for (name, amount) in map_at(o, &["overhead", "podFixed"]).into_iter().flatten() {
        let field = format!("overhead.limits[{name}]");
        if !name.contains('/') && !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            check.invalid(field.clone(), name.as_str(), "must be a standard resource type or fully qualified");
        }
        match crate::quantity::Quantity::from_json(amount) {
            Ok(q) if q.signum() < 0 => check.invalid(field, q.to_string(), NON_NEGATIVE),
            Ok(_) => {}
            Err(e) => check.invalid(field, amount.clone(), e.to_string()),
        }
    }
    if let Some(labels) = map_at(o, &["scheduling", "nodeSelector"]) {
        check.extend(meta::validate_labels(labels, "scheduling.nodeSelector"));
    }
    let tolerations = list_at(o, &["scheduling", "tolerations"]);
    for (i, toleration) in tolerations.iter().enumerate() {
        let field = format!("scheduling.tolerations[{i}]");
        podspec::validate_toleration(&mut check, toleration, &field);
        if tolerations[..i].iter().any(|t| semantic_eq(Some(t), Some(toleration))) {
            check.duplicate(field, toleration.clone());
        }
    }
    check.errors
}
