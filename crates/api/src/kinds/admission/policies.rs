//! Admission policies and their bindings.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_matching, default_rules, validate_conditions,
    validate_rule, validate_selectors,
};
use crate::json::{at, list_at, object_mut, set_default, str_at};
use crate::kinds::check::{Check, join};
use crate::kinds::{Hooks, split_api_version};
use crate::meta;
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

/// Most audit annotations of one policy.
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation, bytes.
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;
/// Operations a mutating policy can have an effect on.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];

pub(in crate::kinds) const VALIDATING_POLICY: Hooks = Hooks {
    default: default_policy,
    validate: validate_validating_policy,
    validate_update: |new, _| validate_validating_policy(new),
    validate_status_update: |new, _| {
        let mut check = Check::default();
        let status = at(new, &["status"]).unwrap_or(&Value::Null);
        for (i, warning) in list_at(status, &["typeChecking", "expressionWarnings"]).iter().enumerate() {
            let field = format!("status.typeChecking.expressionWarnings[{i}]");
            check.need_str(warning, "warning", &field);
            check.need_str(warning, "fieldRef", &field);
        }
        check.conditions(status, "status.conditions");
        check.errors
    },
    ..Hooks::NONE
};

pub(in crate::kinds) const MUTATING_POLICY: Hooks = Hooks {
    default: default_policy,
    validate: validate_mutating_policy,
    validate_update: |new, _| validate_mutating_policy(new),
    ..Hooks::NONE
};

pub(in crate::kinds) const VALIDATING_BINDING: Hooks = Hooks {
    default: default_binding,
    validate: validate_validating_binding,
    validate_update: |new, _| validate_validating_binding(new),
    ..Hooks::NONE
};

pub(in crate::kinds) const MUTATING_BINDING: Hooks = Hooks {
    default: default_binding,
    validate: validate_mutating_binding,
    validate_update: |new, _| validate_mutating_binding(new),
    ..Hooks::NONE
};

fn default_match_resources(matching: &mut Value) {
    default_matching(matching);
    default_rules(matching, "resourceRules");
    default_rules(matching, "excludeResourceRules");
}

fn default_policy(o: &mut Value) {
    let Some(spec) = object_mut(o, &["spec"]) else { return };
    set_default(spec, "failurePolicy", "Fail");
    if let Some(matching) = object_mut(spec, &["matchConstraints"]) {
        default_match_resources(matching);
    }
}

fn default_binding(o: &mut Value) {
    if let Some(matching) = object_mut(o, &["spec", "matchResources"]) {
        default_match_resources(matching);
    }
}

/// What both kinds of policy have: failure policy, parameters, constraints, conditions, variables.
fn validate_policy(check: &mut Check, spec: &Value) {
    check.need_one_of(spec, "failurePolicy", "spec", FAILURE_POLICIES);
    if let Some(kind) = at(spec, &["paramKind"]) {
        validate_param_kind(check, kind, "spec.paramKind");
    }
    match at(spec, &["matchConstraints"]) {
        None => check.required("spec.matchConstraints", ""),
        Some(matching) => {
            validate_match_resources(check, matching, "spec.matchConstraints");
            if list_at(matching, &["resourceRules"]).is_empty() {
                check.required("spec.matchConstraints.resourceRules", "");
            }
        }
    }
    validate_conditions(check, spec, "spec");
    for (i, variable) in list_at(spec, &["variables"]).iter().enumerate() {
        let field = format!("spec.variables[{i}]");
        let name = str_at(variable, &["name"]);
        if name.trim().is_empty() {
            check.required(join(&field, "name"), "name is not specified");
        } else if !crate::cel::is_identifier(name) {
            check.invalid(join(&field, "name"), name, "must be a valid CEL identifier");
        }
        if str_at(variable, &["expression"]).trim().is_empty() {
            check.required(join(&field, "expression"), "expression is not specified");
        }
    }
}

fn validate_param_kind(check: &mut Check, kind: &Value, field: &str) {
    let text = str_at(kind, &["apiVersion"]);
    let field_version = join(field, "apiVersion");
    if text.is_empty() {
        check.required(field_version, "");
    } else if text.matches('/').count() > 1 {
        check.invalid(field_version, text, format!("unexpected GroupVersion string: {text}"));
    } else {
        let (group, version) = split_api_version(text);
        let problems = names::dns1123_subdomain(group);
        if !group.is_empty() && !problems.is_empty() {
            check.invalid(field_version.clone(), group, problems.join(","));
        }
        let problems = names::dns1035_label(version);
        if version.is_empty() {
            check.invalid(field_version, text, "version must be specified");
        } else if !problems.is_empty() {
            check.invalid(field_version, version, problems.join(","));
        }
    }
    if check.need_str(kind, "kind", field) {
        let name = str_at(kind, &["kind"]);
        let problems = names::dns1035_label(&name.to_lowercase());
        if !problems.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            check.invalid(join(field, "kind"), name, detail);
        }
    }
}

fn validate_match_resources(check: &mut Check, matching: &Value, field: &str) {
    check.need_one_of(matching, "matchPolicy", field, MATCH_POLICIES);
    validate_selectors(check, matching, field);
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list_at(matching, &[key]).iter().enumerate() {
            let field = format!("{field}.{key}[{i}]");
            let mut seen = BTreeSet::new();
            for (j, name) in list_at(rule, &["resourceNames"]).iter().filter_map(Value::as_str).enumerate() {
                let field = format!("{field}.resourceNames[{j}]");
                check.syntax(&field, name, names::path_segment(name));
                if !seen.insert(name) {
                    check.duplicate(field, name);
                }
            }
            validate_rule(check, rule, &field);
        }
    }
}

fn only_mutating_operations(check: &mut Check, matching: &Value, field: &str) {
    for rule in list_at(matching, &["resourceRules"]) {
        for operation in list_at(rule, &["operations"]).iter().filter_map(Value::as_str) {
            if !MUTATING_OPERATIONS.contains(&operation) {
                let field = format!("{field}.resourceRules.operations");
                check.extend([FieldError::not_supported(field, operation, MUTATING_OPERATIONS)]);
            }
        }
    }
}

fn validate_validating_policy(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_policy(&mut check, spec);
    let validations = list_at(spec, &["validations"]);
    let annotations = list_at(spec, &["auditAnnotations"]);
    if validations.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            check.required(join("spec", key), detail);
        }
    }
    for (i, validation) in validations.iter().enumerate() {
        validate_validation(&mut check, validation, &format!("spec.validations[{i}]"));
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        check.invalid("spec.auditAnnotations", Value::from(annotations), detail);
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let field = format!("spec.auditAnnotations[{i}]");
        let key = str_at(annotation, &["key"]);
        let full = format!("{}/{key}", meta::name(o));
        check.syntax(&join(&field, "key"), &full, names::qualified_name(&full));
        if !seen.insert(key) {
            check.duplicate(join(&field, "key"), key);
        }
        let expression = str_at(annotation, &["valueExpression"]).trim();
        if expression.is_empty() {
            check.required(join(&field, "valueExpression"), "valueExpression is not specified");
        } else if expression.len() > MAX_VALUE_EXPRESSION {
            let detail = format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length");
            check.required(join(&field, "valueExpression"), &detail);
        }
    }
    check.errors
}

fn validate_validation(check: &mut Check, validation: &Value, field: &str) {
    if str_at(validation, &["expression"]).trim().is_empty() {
        check.required(join(field, "expression"), "expression is not specified");
    }
    for key in ["messageExpression", "message"] {
        let text = str_at(validation, &[key]);
        if !text.is_empty() && text.trim().is_empty() {
            check.invalid(join(field, key), text, "must be non-empty if specified");
        }
    }
    let message = str_at(validation, &["message"]);
    if message.trim().contains(['\n', '\r']) {
        check.invalid(join(field, "message"), message, "must not contain line breaks");
    }
    check.one_of(validation, "reason", field, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
}

fn validate_mutating_policy(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_policy(&mut check, spec);
    if let Some(matching) = at(spec, &["matchConstraints"]) {
        only_mutating_operations(&mut check, matching, "spec.matchConstraints");
    }
    let mutations = list_at(spec, &["mutations"]);
    if mutations.is_empty() {
        check.required("spec.mutations", "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        validate_mutation(&mut check, mutation, &format!("spec.mutations[{i}]"));
    }
    check.need_one_of(spec, "reinvocationPolicy", "spec", REINVOCATION_POLICIES);
    check.errors
}

fn validate_mutation(check: &mut Check, mutation: &Value, field: &str) {
    let (wanted, other) = match str_at(mutation, &["patchType"]) {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => {
            check.need_one_of(mutation, "patchType", field, &["ApplyConfiguration", "JSONPatch"]);
            return;
        }
    };
    let kind = str_at(mutation, &["patchType"]);
    match at(mutation, &[wanted]) {
        None => check.required(join(field, wanted), &format!("must be specified when patchType is {kind}")),
        Some(patch) if str_at(patch, &["expression"]).trim().is_empty() => {
            check.required(format!("{field}.{wanted}.expression"), "");
        }
        Some(_) => {}
    }
    if at(mutation, &[other]).is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        check.invalid(join(field, other), format!("{{{other}}}"), detail);
    }
}

/// What both kinds of binding have: the policy, parameters, constraints.
fn validate_binding(check: &mut Check, spec: &Value) {
    if check.need_str(spec, "policyName", "spec") {
        let name = str_at(spec, &["policyName"]);
        check.syntax("spec.policyName", name, names::dns1123_subdomain(name));
    }
    if let Some(reference) = at(spec, &["paramRef"]) {
        validate_param_ref(check, reference, "spec.paramRef");
    }
    if let Some(matching) = at(spec, &["matchResources"]) {
        validate_match_resources(check, matching, "spec.matchResources");
    }
}

fn validate_param_ref(check: &mut Check, reference: &Value, field: &str) {
    let name = str_at(reference, &["name"]);
    let selector = at(reference, &["selector"]);
    check.syntax(&join(field, "name"), name, names::path_segment(name));
    if !name.is_empty() && selector.is_some() {
        for key in ["name", "selector"] {
            check.forbidden(join(field, key), "name and selector are mutually exclusive");
        }
    }
    if let Some(selector) = selector {
        check.extend(validate_label_selector(selector, &join(field, "selector")));
    } else if name.is_empty() {
        check.required(field, "one of name or selector must be specified");
    }
    check.need_one_of(reference, "parameterNotFoundAction", field, &["Deny", "Allow"]);
}

fn validate_validating_binding(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_binding(&mut check, spec);
    let field = "spec.validationActions";
    let actions = list_at(spec, &["validationActions"]);
    let mut seen = BTreeSet::new();
    for (i, action) in actions.iter().map(|a| a.as_str().unwrap_or("")).enumerate() {
        let field = format!("{field}[{i}]");
        if !["Audit", "Deny", "Warn"].contains(&action) {
            check.extend([FieldError::not_supported(field.clone(), action, &["Audit", "Deny", "Warn"])]);
        }
        if !seen.insert(action) {
            check.duplicate(field, action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        check.invalid(field, Value::from(actions), detail);
    }
    if actions.is_empty() {
        check.required(field, "at least one validation action is required");
    }
    check.errors
}

fn validate_mutating_binding(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_binding(&mut check, spec);
    if let Some(matching) = at(spec, &["matchResources"]) {
        only_mutating_operations(&mut check, matching, "spec.matchResources");
    }
    check.errors
}
