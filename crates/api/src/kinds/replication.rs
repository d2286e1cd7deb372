//! Replication controllers and pod templates.

use serde_json::{Map, Value};

use super::Hooks;
use super::apps::{restart_policy, validate_counts};
use super::check::Check;
use super::podspec;
use crate::json::{at, ensure_object, int_at, map_at, set_default};
use crate::selectors::LabelSelector;
use crate::status::FieldError;

pub(super) const CONTROLLER: Hooks = Hooks {
    default: default_controller,
    validate: validate_controller,
    validate_update: |new, _| validate_controller(new),
    validate_status_update: |new, _| {
        validate_counts(new, &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"])
    },
    selectable: &[("status.replicas", |o| int_at(o, &["status", "replicas"]).unwrap_or(0).to_string())],
    warnings: |o| {
        let mut out = super::warnings::label_name(o);
        out.extend(super::warnings::template(at(o, &["spec", "template"]), "spec.template"));
        out
    },
    ..Hooks::NONE
};

/// Selector and labels are the template's unless given.
fn default_controller(o: &mut Value) {
    let labels = map_at(o, &["spec", "template", "metadata", "labels"]).filter(|l| !l.is_empty()).cloned();
    if let Some(labels) = labels {
        for (owner, key) in [("spec", "selector"), ("metadata", "labels")] {
            let owner = ensure_object(o, owner);
            if map_at(owner, &[key]).is_none_or(Map::is_empty) {
                owner[key] = Value::Object(labels.clone());
            }
        }
    }
    let spec = ensure_object(o, "spec");
    set_default(spec, "replicas", 1);
    podspec::default_template(spec, "template");
}

fn validate_controller(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    check.non_negative(spec, "minReadySeconds", "spec");
    check.non_negative(spec, "replicas", "spec");
    let empty = Map::new();
    let selector = map_at(spec, &["selector"]).unwrap_or(&empty);
    if selector.is_empty() {
        check.required("spec.selector", "");
    }
    let Some(template) = at(spec, &["template"]) else {
        check.required("spec.template", "");
        return check.errors;
    };
    let labels = map_at(template, &["metadata", "labels"]).unwrap_or(&empty);
    if !LabelSelector::from_map(selector).matches(labels) {
        let detail = "`selector` does not match template `labels`";
        check.invalid("spec.template.metadata.labels", Value::Object(labels.clone()), detail);
    }
    podspec::validate_template(&mut check, template, "spec.template");
    restart_policy(&mut check, template, &["Always"], "ReplicationController");
    check.errors
}

pub(super) const POD_TEMPLATE: Hooks = Hooks {
    default: |o| podspec::default_template(o, "template"),
    validate: validate_template,
    validate_update: |new, _| validate_template(new),
    generation_keys: &[&["template"]],
    warnings: |o| super::warnings::template(at(o, &["template"]), "template"),
    ..Hooks::NONE
};

fn validate_template(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    podspec::validate_template(&mut check, at(o, &["template"]).unwrap_or(&Value::Null), "template");
    check.errors
}
