//! Rules of what steers the scheduler: affinity, tolerations, spread, gates.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::json::{at, int_at, list_at, str_at};
use crate::kinds::check::Check;
use crate::meta::validate_labels;
use crate::names;
use crate::selectors::validate_label_selector;

/// Checks all scheduling fields of a spec.
pub(super) fn validate_scheduling(check: &mut Check, spec: &Value, field: &str) {
    if let Some(labels) = at(spec, &["nodeSelector"]).and_then(Value::as_object) {
        check.extend(validate_labels(labels, &format!("{field}.nodeSelector")));
    }
    if let Some(affinity) = at(spec, &["affinity"]) {
        validate_affinity(check, affinity, &format!("{field}.affinity"));
    }
    for (i, toleration) in list_at(spec, &["tolerations"]).iter().enumerate() {
        validate_toleration(check, toleration, &format!("{field}.tolerations[{i}]"));
    }
    validate_spread(check, spec, field);
    let mut gates = BTreeSet::new();
    for (i, gate) in list_at(spec, &["schedulingGates"]).iter().enumerate() {
        let name = str_at(gate, &["name"]);
        let at = format!("{field}.schedulingGates[{i}]");
        check.syntax(&at, name, names::qualified_name(name));
        if !gates.insert(name) {
            check.duplicate(at, name);
        }
    }
    for (i, gate) in list_at(spec, &["readinessGates"]).iter().enumerate() {
        let kind = str_at(gate, &["conditionType"]);
        check.syntax(&format!("{field}.readinessGates[{i}].conditionType"), kind, names::qualified_name(kind));
    }
}

fn validate_affinity(check: &mut Check, affinity: &Value, field: &str) {
    if let Some(node) = at(affinity, &["nodeAffinity"]) {
        let field = format!("{field}.nodeAffinity");
        let key = "requiredDuringSchedulingIgnoredDuringExecution";
        if let Some(selector) = at(node, &[key]) {
            validate_node_selector(check, selector, &format!("{field}.{key}"));
        }
        let key = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list_at(node, &[key]).iter().enumerate() {
            let field = format!("{field}.{key}[{i}]");
            validate_weight(check, term, &field);
            validate_node_term(check, &term["preference"], &format!("{field}.preference"));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pod) = at(affinity, &[kind]) else { continue };
        let field = format!("{field}.{kind}");
        let key = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list_at(pod, &[key]).iter().enumerate() {
            validate_pod_term(check, term, &format!("{field}.{key}[{i}]"));
        }
        let key = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in list_at(pod, &[key]).iter().enumerate() {
            let field = format!("{field}.{key}[{i}]");
            validate_weight(check, term, &field);
            validate_pod_term(check, &term["podAffinityTerm"], &format!("{field}.podAffinityTerm"));
        }
    }
}

fn validate_weight(check: &mut Check, term: &Value, field: &str) {
    let weight = int_at(term, &["weight"]).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        check.invalid(format!("{field}.weight"), weight, "must be in the range 1-100");
    }
}

fn validate_pod_term(check: &mut Check, term: &Value, field: &str) {
    for key in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = at(term, &[key]) {
            check.extend(validate_label_selector(selector, &format!("{field}.{key}")));
        }
    }
    for ns in list_at(term, &["namespaces"]).iter().filter_map(Value::as_str) {
        check.syntax(&format!("{field}.namespace"), ns, names::dns1123_label(ns));
    }
    let key = str_at(term, &["topologyKey"]);
    if key.is_empty() {
        check.required(format!("{field}.topologyKey"), "can not be empty");
    } else {
        check.syntax(&format!("{field}.topologyKey"), key, names::qualified_name(key));
    }
}

/// Checks a core v1 `NodeSelector`.
pub(in crate::kinds) fn validate_node_selector(check: &mut Check, selector: &Value, field: &str) {
    let field = format!("{field}.nodeSelectorTerms");
    let terms = list_at(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        check.required(field, "must have at least one node selector term");
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        validate_node_term(check, term, &format!("{field}[{i}]"));
    }
}

fn validate_node_term(check: &mut Check, term: &Value, field: &str) {
    for (i, e) in list_at(term, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        validate_node_requirement(check, e, &field);
        let key = str_at(e, &["key"]);
        check.syntax(&format!("{field}.key"), key, names::qualified_name(key));
    }
    for (i, e) in list_at(term, &["matchFields"]).iter().enumerate() {
        let field = format!("{field}.matchFields[{i}]");
        check.need_one_of(e, "operator", &field, &["In", "NotIn"]);
        if list_at(e, &["values"]).len() != 1 {
            check.required(
                format!("{field}.values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if str_at(e, &["key"]) != "metadata.name" {
            check.invalid(format!("{field}.key"), str_at(e, &["key"]), "not a valid field selector key");
        }
    }
}

fn validate_node_requirement(check: &mut Check, e: &Value, field: &str) {
    let values = list_at(e, &["values"]).len();
    match str_at(e, &["operator"]) {
        "In" | "NotIn" if values == 0 => {
            check.required(format!("{field}.values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            check.forbidden(
                format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if values != 1 => {
            check.required(format!("{field}.values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => check.invalid(format!("{field}.operator"), other, "not a valid selector operator"),
    }
}

/// Checks one toleration.
pub(in crate::kinds) fn validate_toleration(check: &mut Check, toleration: &Value, field: &str) {
    let key = str_at(toleration, &["key"]);
    let operator = str_at(toleration, &["operator"]);
    let value = str_at(toleration, &["value"]);
    if !key.is_empty() {
        check.syntax(&format!("{field}.key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        check.invalid(format!("{field}.operator"), operator, detail);
    }
    if at(toleration, &["tolerationSeconds"]).is_some() && str_at(toleration, &["effect"]) != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        check.invalid(format!("{field}.effect"), str_at(toleration, &["effect"]), detail);
    }
    match operator {
        "" | "Equal" => {
            if let Some(problem) = names::label_value(value).into_iter().next() {
                check.invalid(format!("{field}.operator"), value, problem);
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                check.invalid(format!("{field}.operator"), toleration.clone(), detail);
            }
        }
        _ => check.one_of(toleration, "operator", field, &["Equal", "Exists"]),
    }
    check.one_of(toleration, "effect", field, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
}

fn validate_spread(check: &mut Check, spec: &Value, field: &str) {
    let mut seen = BTreeSet::new();
    for (i, c) in list_at(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let field = format!("{field}.topologySpreadConstraints[{i}]");
        let skew = int_at(c, &["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            check.invalid(format!("{field}.maxSkew"), skew, "must be greater than zero");
        }
        let key = str_at(c, &["topologyKey"]);
        if key.is_empty() {
            check.required(format!("{field}.topologyKey"), "can not be empty");
        } else {
            check.syntax(&format!("{field}.topologyKey"), key, names::qualified_name(key));
        }
        let when = str_at(c, &["whenUnsatisfiable"]);
        check.need_one_of(c, "whenUnsatisfiable", &field, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key, when)) {
            check.duplicate(format!("{field}.{{topologyKey, whenUnsatisfiable}}"), format!("{{{key}, {when}}}"));
        }
        if let Some(min) = int_at(c, &["minDomains"]) {
            if min <= 0 {
                check.invalid(format!("{field}.minDomains"), min, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                check.invalid(format!("{field}.minDomains"), min, detail);
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check.one_of(c, key, &field, &["Honor", "Ignore"]);
        }
        if let Some(selector) = at(c, &["labelSelector"]) {
            check.extend(validate_label_selector(selector, &format!("{field}.labelSelector")));
        }
    }
}
