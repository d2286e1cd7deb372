//! Roles, cluster roles and their bindings.

use serde_json::Value;

use super::Hooks;
use super::check::{Check, join};
use crate::json::{at, list_at, list_mut, object_mut, semantic_eq, set_default, str_at};
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const ROLE: Hooks =
    Hooks { validate: |o| validate_rules(o, true), validate_update: |new, _| validate_rules(new, true), ..Hooks::NONE };

pub(super) const CLUSTER_ROLE: Hooks =
    Hooks { validate: validate_cluster_role, validate_update: |new, _| validate_cluster_role(new), ..Hooks::NONE };

pub(super) const ROLE_BINDING: Hooks = Hooks {
    default: default_binding,
    validate: |o| validate_binding(o, true),
    validate_update: |new, old| update_binding(new, old, true),
    ..Hooks::NONE
};

pub(super) const CLUSTER_ROLE_BINDING: Hooks = Hooks {
    default: default_binding,
    validate: |o| validate_binding(o, false),
    validate_update: |new, old| update_binding(new, old, false),
    ..Hooks::NONE
};

/// References and subjects that are users or groups belong to the RBAC group unless they say otherwise.
fn default_binding(o: &mut Value) {
    if let Some(role) = object_mut(o, &["roleRef"]) {
        set_default(role, "apiGroup", GROUP);
    }
    for subject in list_mut(o, &["subjects"]) {
        if matches!(str_at(subject, &["kind"]), "User" | "Group") {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_rules(o: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut check = Check::default();
    for (i, rule) in list_at(o, &["rules"]).iter().enumerate() {
        validate_rule(&mut check, rule, &format!("rules[{i}]"), namespaced);
    }
    check.errors
}

fn validate_rule(check: &mut Check, rule: &Value, field: &str, namespaced: bool) {
    let empty = |key: &str| list_at(rule, &[key]).is_empty();
    if empty("verbs") {
        check.required(join(field, "verbs"), "verbs must contain at least one value");
    }
    if !empty("nonResourceURLs") {
        let urls = Value::from(list_at(rule, &["nonResourceURLs"]));
        let field = join(field, "nonResourceURLs");
        if namespaced {
            check.invalid(field.clone(), urls.clone(), "namespaced rules cannot apply to non-resource URLs");
        }
        if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
            check.invalid(field, urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if empty("apiGroups") {
        check.required(join(field, "apiGroups"), "resource rules must supply at least one api group");
    }
    if empty("resources") {
        check.required(join(field, "resources"), "resource rules must supply at least one resource");
    }
}

fn validate_cluster_role(o: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate_rules(o, false) };
    let Some(aggregation) = at(o, &["aggregationRule"]) else { return check.errors };
    let field = "aggregationRule.clusterRoleSelectors";
    let selectors = list_at(aggregation, &["clusterRoleSelectors"]);
    if selectors.is_empty() {
        check.required(field, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        check.extend(validate_label_selector(selector, &format!("{field}[{i}]")));
    }
    check.errors
}

fn validate_binding(o: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut check = Check::default();
    let role = at(o, &["roleRef"]).unwrap_or(&Value::Null);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    for (key, allowed) in [("apiGroup", &[GROUP][..]), ("kind", kinds)] {
        let value = str_at(role, &[key]);
        if !allowed.contains(&value) {
            check.extend([FieldError::not_supported(format!("roleRef.{key}"), value, allowed)]);
        }
    }
    if check.need_str(role, "name", "roleRef") {
        let name = str_at(role, &["name"]);
        check.syntax("roleRef.name", name, names::path_segment(name));
    }
    for (i, subject) in list_at(o, &["subjects"]).iter().enumerate() {
        validate_subject(&mut check, subject, &format!("subjects[{i}]"), namespaced);
    }
    check.errors
}

fn validate_subject(check: &mut Check, subject: &Value, field: &str, namespaced: bool) {
    let named = check.need_str(subject, "name", field);
    let group = str_at(subject, &["apiGroup"]);
    match str_at(subject, &["kind"]) {
        "ServiceAccount" => {
            let name = str_at(subject, &["name"]);
            if named {
                check.syntax(&join(field, "name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                check.extend([FieldError::not_supported(join(field, "apiGroup"), group, &[""])]);
            }
            if !namespaced {
                check.need_str(subject, "namespace", field);
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                check.extend([FieldError::not_supported(join(field, "apiGroup"), group, &[GROUP])]);
            }
        }
        other => {
            let allowed = &["ServiceAccount", "User", "Group"];
            check.extend([FieldError::not_supported(join(field, "kind"), other, allowed)]);
        }
    }
}

/// A binding keeps its role: whoever may edit subjects must not be able to hand out another role.
fn update_binding(new: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut check = Check { errors: validate_binding(new, namespaced) };
    let role = at(new, &["roleRef"]);
    if !semantic_eq(role, at(old, &["roleRef"])) {
        check.invalid("roleRef", role.cloned().unwrap_or(Value::Null), "cannot change roleRef");
    }
    check.errors
}
