//! What webhooks and policies have in common: which requests they see, and under which conditions.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::json::{at, is_unset, list_at, list_mut, set_default, str_at};
use crate::kinds::check::{Check, join};
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// Most match conditions of one webhook or policy.
const MAX_CONDITIONS: usize = 64;

/// Sets `matchPolicy` and selectors that match everything.
pub(super) fn default_matching(owner: &mut Value) {
    set_default(owner, "matchPolicy", "Equivalent");
    for key in ["namespaceSelector", "objectSelector"] {
        if owner.is_object() && is_unset(owner, key) {
            owner[key] = json!({});
        }
    }
}

/// Rules without a scope are for all scopes.
pub(super) fn default_rules(owner: &mut Value, key: &str) {
    for rule in list_mut(owner, &[key]) {
        set_default(rule, "scope", "*");
    }
}

fn strings<'a>(owner: &'a Value, key: &str) -> Vec<&'a str> {
    list_at(owner, &[key]).iter().map(|v| v.as_str().unwrap_or("")).collect()
}

/// A list that must not be empty, and in which `*` stands alone.
fn exclusive_wildcard(check: &mut Check, rule: &Value, key: &str, field: &str, what: &str) {
    let values = strings(rule, key);
    if values.is_empty() {
        check.required(join(field, key), "");
    }
    if values.len() > 1 && values.contains(&"*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        check.invalid(join(field, key), Value::from(values), detail);
    }
}

/// Checks a `RuleWithOperations`.
pub(super) fn validate_rule(check: &mut Check, rule: &Value, field: &str) {
    exclusive_wildcard(check, rule, "operations", field, "operations");
    for (i, operation) in strings(rule, "operations").into_iter().enumerate() {
        if !OPERATIONS.contains(&operation) {
            check.extend([FieldError::not_supported(format!("{field}.operations[{i}]"), operation, OPERATIONS)]);
        }
    }
    exclusive_wildcard(check, rule, "apiGroups", field, "API groups");
    exclusive_wildcard(check, rule, "apiVersions", field, "API versions");
    for (i, version) in strings(rule, "apiVersions").into_iter().enumerate() {
        if version.is_empty() {
            check.required(format!("{field}.apiVersions[{i}]"), "");
        }
    }
    validate_resources(check, &strings(rule, "resources"), &join(field, "resources"));
    check.one_of(rule, "scope", field, &["*", "Cluster", "Namespaced"]);
}

/// Resources with subresources (`pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`) that do not overlap.
fn validate_resources(check: &mut Check, resources: &[&str], field: &str) {
    if resources.is_empty() {
        check.required(field, "");
    }
    let mut whole = BTreeSet::new();
    let mut anywhere = BTreeSet::new();
    let mut plain = false;
    for (i, resource) in resources.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if resource.is_empty() {
            check.required(field, "");
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else {
            plain |= *resource != "*";
            continue;
        };
        if whole.contains(name) {
            let detail = format!("if '{name}/*' is present, must not specify {resource}");
            check.invalid(field.clone(), *resource, detail);
        }
        if anywhere.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {resource}");
            check.invalid(field, *resource, detail);
        }
        if sub == "*" {
            whole.insert(name);
        }
        if name == "*" {
            anywhere.insert(sub);
        }
    }
    let all = || Value::from(resources.to_vec());
    if resources.len() > 1 && resources.contains(&"*/*") {
        check.invalid(field, all(), "if '*/*' is present, must not specify other resources");
    }
    if resources.contains(&"*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        check.invalid(field, all(), detail);
    }
}

/// Checks `matchConditions`: named once each, with an expression.
pub(super) fn validate_conditions(check: &mut Check, owner: &Value, field: &str) {
    let field = join(field, "matchConditions");
    let conditions = list_at(owner, &["matchConditions"]);
    if conditions.len() > MAX_CONDITIONS {
        check.extend([FieldError::too_many(field.clone(), conditions.len(), MAX_CONDITIONS)]);
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if str_at(condition, &["expression"]).trim().is_empty() {
            check.required(join(&field, "expression"), "");
        }
        let name = str_at(condition, &["name"]);
        if check.need_str(condition, "name", &field) {
            let field = join(&field, "name");
            check.syntax(&field, name, names::qualified_name(name));
            if !seen.insert(name) {
                check.duplicate(field, name);
            }
        }
    }
}

/// Checks `namespaceSelector` and `objectSelector` where set.
pub(super) fn validate_selectors(check: &mut Check, owner: &Value, field: &str) {
    for key in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = at(owner, &[key]) {
            check.extend(validate_label_selector(selector, &join(field, key)));
        }
    }
}
