//! Daemon sets.

use serde_json::{Value, json};

use super::Hooks;
use super::apps::{int_or_percent, labels_match};
use super::check::Check;
use super::podspec;
use crate::json::{at, ensure_object, int_at, semantic_eq, set_default, str_at};
use crate::meta;
use crate::selectors::{LabelSelector, validate_label_selector};
use crate::status::FieldError;

/// Counts the changes of the template, for clients that read it from the days before controller revisions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) const HOOKS: Hooks = Hooks {
    default: |o| {
        let spec = ensure_object(o, "spec");
        let strategy = ensure_object(spec, "updateStrategy");
        set_default(strategy, "type", "RollingUpdate");
        if str_at(strategy, &["type"]) == "RollingUpdate" {
            let rolling = ensure_object(strategy, "rollingUpdate");
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
        set_default(spec, "revisionHistoryLimit", 10);
        podspec::default_template(spec, "template");
    },
    prepare_create: |o| {
        let generation = template_generation(o).max(1);
        set_template_generation(o, generation);
    },
    prepare_update: |new, old| {
        let template = |o| at(o, &["spec", "template"]);
        let changed = !semantic_eq(template(new), template(old));
        let generation = template_generation(old) + i64::from(changed);
        set_template_generation(new, generation);
    },
    validate,
    validate_update: |new, old| {
        let mut check = Check { errors: validate(new) };
        check.immutable(new, old, &["spec", "selector"]);
        check.errors
    },
    validate_status_update,
    warnings: |o| super::warnings::template(at(o, &["spec", "template"]), "spec.template"),
    ..Hooks::NONE
};

fn template_generation(o: &Value) -> i64 {
    meta::annotations(o)
        .and_then(|a| a.get(TEMPLATE_GENERATION))
        .and_then(Value::as_str)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0)
}

fn set_template_generation(o: &mut Value, generation: i64) {
    let annotations = ensure_object(ensure_object(o, "metadata"), "annotations");
    annotations[TEMPLATE_GENERATION] = generation.to_string().into();
}

fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let selector = at(spec, &["selector"]);
    if let Some(selector) = selector {
        check.extend(validate_label_selector(selector, "spec.selector"));
        if LabelSelector::from_json(selector).is_ok_and(|s| s.is_everything()) {
            check.invalid("spec.selector", selector.clone(), "empty selector is invalid for daemonset");
        }
    }
    labels_match(&mut check, spec, selector.unwrap_or(&Value::Null));
    let template = at(spec, &["template"]).unwrap_or(&Value::Null);
    podspec::validate_template(&mut check, template, "spec.template");
    super::apps::restart_policy(&mut check, template, &["Always"], "DaemonSet");
    for key in ["minReadySeconds", "revisionHistoryLimit"] {
        check.non_negative(spec, key, "spec");
    }
    validate_strategy(&mut check, at(spec, &["updateStrategy"]).unwrap_or(&Value::Null));
    check.errors
}

fn validate_strategy(check: &mut Check, strategy: &Value) {
    let field = "spec.updateStrategy";
    match str_at(strategy, &["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => match at(strategy, &["rollingUpdate"]) {
            None => check.required(format!("{field}.rollingUpdate"), ""),
            Some(rolling) => validate_rolling(check, rolling, &format!("{field}.rollingUpdate")),
        },
        _ => {
            let allowed = &["RollingUpdate", "OnDelete"];
            check.extend([FieldError::not_supported(field, strategy.clone(), allowed)]);
        }
    }
}

/// A node has its old pod or its new one first: one of the two bounds is zero, and one is not.
fn validate_rolling(check: &mut Check, rolling: &Value, field: &str) {
    for key in ["maxUnavailable", "maxSurge"] {
        int_or_percent(check, rolling, key, field, true);
    }
    let set = |key: &str| match at(rolling, &[key]) {
        Some(Value::Number(n)) => n.as_i64() != Some(0),
        Some(Value::String(s)) => s.trim_end_matches('%').parse::<i64>() != Ok(0),
        _ => false,
    };
    match (set("maxUnavailable"), set("maxSurge")) {
        (true, true) => {
            let value = at(rolling, &["maxSurge"]).cloned().unwrap_or(json!(0));
            let detail = "may not be set when maxUnavailable is non-zero";
            check.invalid(format!("{field}.maxSurge"), value, detail);
        }
        (false, false) => check.required(format!("{field}.maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}

fn validate_status_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let status = at(new, &["status"]).unwrap_or(&Value::Null);
    for key in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        check.non_negative(status, key, "status");
    }
    let collisions = |o: &Value| int_at(o, &["status", "collisionCount"]).unwrap_or(0);
    if collisions(new) < collisions(old) {
        check.invalid("status.collisionCount", collisions(new), "cannot be decremented");
    }
    check.errors
}
