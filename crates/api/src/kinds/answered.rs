//! The resources that are never stored, as kinds: what admission and tables know a kind by.

use std::sync::OnceLock;

use serde_json::Value;

use super::check::{Check, join};
use crate::json::{at, list_at, str_at};
use crate::status::FieldError;
use crate::table::columns as table;

use super::{Columns, Hooks, KindInfo, NameRule, VIRTUAL, VirtualKind};

const NO_COLUMNS: Columns = Columns { list: &[], row: |_, _| Vec::new() };

/// The kind of a resource of which nothing is stored.
pub fn answered(of: &VirtualKind) -> Option<&'static KindInfo> {
    static KINDS: OnceLock<Vec<KindInfo>> = OnceLock::new();
    let kinds = KINDS.get_or_init(|| VIRTUAL.iter().map(info).collect());
    kinds.iter().find(|kind| kind.group == of.group && kind.version == of.version && kind.plural == of.plural)
}

fn info(of: &VirtualKind) -> KindInfo {
    KindInfo {
        group: of.group,
        version: of.version,
        kind: of.kind,
        list_kind: if of.kind == "ComponentStatus" { "ComponentStatusList" } else { "" },
        plural: of.plural,
        singular: of.singular,
        short_names: of.short_names,
        categories: &[],
        namespaced: of.namespaced,
        has_status: false,
        scale: None,
        verbs: of.verbs,
        subresources: &[],
        storage_group: of.group,
        storage_version: of.version,
        name_rule: NameRule::PathSegment,
        create_on_update: false,
        has_generation: false,
        status_on_create: false,
        default_orphan: false,
        ttl_s: None,
        hooks: match of.kind {
            "SelfSubjectAccessReview" => SELF_REVIEW,
            "SubjectAccessReview" => REVIEW,
            "LocalSubjectAccessReview" => LOCAL_REVIEW,
            _ => Hooks::NONE,
        },
        columns: if of.kind == "ComponentStatus" { table::COMPONENT_STATUS } else { NO_COLUMNS },
        custom: None,
    }
}

const SELF_REVIEW: Hooks = Hooks { validate: |o| validate_review(o, false, false), ..Hooks::NONE };
const REVIEW: Hooks = Hooks { validate: |o| validate_review(o, true, false), ..Hooks::NONE };
const LOCAL_REVIEW: Hooks = Hooks { validate: |o| validate_review(o, true, true), ..Hooks::NONE };

/// Checks a question about rights: of somebody whom it names, and in one namespace only.
fn validate_review(o: &Value, somebody: bool, local: bool) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let (resource, other) = (at(spec, &["resourceAttributes"]), at(spec, &["nonResourceAttributes"]));
    let field = "spec.resourceAttributes";
    match (resource, other) {
        (Some(_), Some(other)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            check.invalid("spec.nonResourceAttributes", other.clone(), detail);
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            check.invalid(field, Value::Null, detail);
        }
        _ => {}
    }
    if somebody && str_at(spec, &["user"]).is_empty() && list_at(spec, &["groups"]).is_empty() {
        check.invalid("spec.user", "", "at least one of user or group must be specified");
    }
    for key in ["fieldSelector", "labelSelector"] {
        if let Some(selector) = resource.and_then(|r| at(r, &[key])) {
            validate_selector(&mut check, selector, &join(field, key));
        }
    }
    let metadata = at(o, &["metadata"]).and_then(Value::as_object).into_iter().flatten();
    let mut told = metadata.filter(|(key, value)| {
        let left_out = key.as_str() == "managedFields" || local && key.as_str() == "namespace";
        !left_out && !value.is_null() && value.as_str() != Some("")
    });
    if told.next().is_some() {
        let detail = if local { "must be empty except for namespace" } else { "must be empty" };
        check.invalid("metadata", o["metadata"].clone(), detail);
    }
    if local {
        let own = str_at(o, &["metadata", "namespace"]);
        if let Some(asked) = resource.map(|r| str_at(r, &["namespace"])).filter(|asked| *asked != own) {
            check.invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace");
        }
        if let Some(other) = other {
            check.invalid("spec.nonResourceAttributes", other.clone(), "disallowed on this kind of request");
        }
    }
    check.errors
}

/// Checks a selector as the request for a list had it, as a text or as requirements.
fn validate_selector(check: &mut Check, selector: &Value, field: &str) {
    let (raw, requirements) = (str_at(selector, &["rawSelector"]), list_at(selector, &["requirements"]));
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => {
            let detail = "may not specified at the same time as requirements";
            check.invalid(join(field, "rawSelector"), raw, detail);
        }
        (true, true) => {
            let detail = format!("when {field} is specified, requirements or rawSelector is required");
            check.required(join(field, "requirements"), &detail);
        }
        _ => {}
    }
    for (i, requirement) in requirements.iter().enumerate() {
        let field = format!("{field}.requirements[{i}]");
        check.need_str(requirement, "key", &field);
        let given = !list_at(requirement, &["values"]).is_empty();
        match str_at(requirement, &["operator"]) {
            "In" | "NotIn" if !given => {
                check.required(join(&field, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if given => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                check.forbidden(join(&field, "values"), detail);
            }
            // Who asks may know operators that are newer than this server.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reviews_ask_one_thing_of_somebody() {
        let of = |kind: &str, metadata: Value, spec: Value| -> Vec<String> {
            let virtual_kind = VIRTUAL.iter().find(|v| v.kind == kind).unwrap();
            let object = json!({"metadata": metadata, "spec": spec});
            (answered(virtual_kind).unwrap().hooks.validate)(&object).into_iter().map(|e| e.field).collect()
        };
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "n"});
        let path = json!({"verb": "get", "path": "/x"});
        let (none, n) = (json!({}), json!({"namespace": "n"}));
        for (kind, metadata, spec, want) in [
            ("SubjectAccessReview", &none, json!({"user": "u", "resourceAttributes": pods}), vec![]),
            ("SubjectAccessReview", &none, json!({"groups": ["g"], "nonResourceAttributes": path}), vec![]),
            ("SubjectAccessReview", &none, json!({"resourceAttributes": pods}), vec!["spec.user"]),
            ("SubjectAccessReview", &n, json!({"user": "u", "resourceAttributes": pods}), vec!["metadata"]),
            ("SelfSubjectAccessReview", &none, json!({}), vec!["spec.resourceAttributes"]),
            ("LocalSubjectAccessReview", &n, json!({"user": "u", "resourceAttributes": pods}), vec![]),
            (
                "LocalSubjectAccessReview",
                &json!({"namespace": "m"}),
                json!({"user": "u", "resourceAttributes": pods}),
                vec!["spec.resourceAttributes.namespace"],
            ),
            (
                "SelfSubjectAccessReview",
                &none,
                json!({"resourceAttributes": {"fieldSelector": {"requirements": [{"key": "k", "operator": "In"}]}}}),
                vec!["spec.resourceAttributes.fieldSelector.requirements[0].values"],
            ),
        ] {
            assert_eq!(of(kind, metadata.clone(), spec.clone()), want, "{kind} {spec}");
        }
    }

    #[test]
    fn every_resource_that_is_never_stored_has_a_kind() {
        for of in VIRTUAL {
            assert_eq!(answered(of).map(|k| (k.kind, k.namespaced)), Some((of.kind, of.namespaced)));
        }
    }
}
