//! Flow schemas and priority levels.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, join};
use crate::json::{
    at, bool_at, ensure_object, int_at, list_at, object_mut, semantic_eq, set_default, set_default_nonzero, str_at,
};
use crate::meta;
use crate::names;
use crate::status::FieldError;

/// Largest `matchingPrecedence`.
const MAX_PRECEDENCE: i64 = 10_000;
/// Most queues of one level.
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals requests to queues.
const HASH_BITS: u32 = 60;
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) const FLOW_SCHEMA: Hooks = Hooks {
    default: |o| {
        if let Some(spec) = object_mut(o, &["spec"]) {
            set_default_nonzero(spec, "matchingPrecedence", 1000);
        }
    },
    validate: validate_schema,
    validate_update: |new, _| validate_schema(new),
    validate_status_update: |new, _| status_conditions(new),
    ..Hooks::NONE
};

pub(super) const PRIORITY_LEVEL: Hooks = Hooks {
    default: default_level,
    validate: validate_level,
    validate_update: |new, _| validate_level(new),
    validate_status_update: |new, _| status_conditions(new),
    ..Hooks::NONE
};

fn status_conditions(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let mut seen = BTreeSet::new();
    for (i, condition) in list_at(o, &["status", "conditions"]).iter().enumerate() {
        let field = format!("status.conditions[{i}]");
        let kind = str_at(condition, &["type"]);
        if check.need_str(condition, "type", &field) && !seen.insert(kind) {
            check.duplicate(join(&field, "type"), kind);
        }
    }
    check.errors
}

fn validate_schema(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let precedence = int_at(spec, &["matchingPrecedence"]).unwrap_or(0);
    let field = "spec.matchingPrecedence";
    match precedence {
        n if n <= 0 => check.invalid(field, n, "must be a positive value"),
        n if n > MAX_PRECEDENCE => check.invalid(field, n, format!("must not be greater than {MAX_PRECEDENCE}")),
        1 if meta::name(o) != "exempt" => {
            check.invalid(field, 1, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        _ => {}
    }
    if let Some(method) = at(spec, &["distinguisherMethod"]) {
        check.need_one_of(method, "type", "spec.distinguisherMethod", &["ByNamespace", "ByUser"]);
    }
    let level = str_at(spec, &["priorityLevelConfiguration", "name"]);
    let field = "spec.priorityLevelConfiguration.name";
    if level.is_empty() {
        check.required(field, "must reference a priority level");
    } else {
        check.syntax(field, level, names::dns1123_subdomain(level));
    }
    for (i, rule) in list_at(spec, &["rules"]).iter().enumerate() {
        validate_rule(&mut check, rule, &format!("spec.rules[{i}]"));
    }
    check.errors
}

fn validate_rule(check: &mut Check, rule: &Value, field: &str) {
    let subjects = list_at(rule, &["subjects"]);
    if subjects.is_empty() {
        check.required(join(field, "subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(check, subject, &format!("{field}.subjects[{i}]"));
    }
    let (resources, others) = (list_at(rule, &["resourceRules"]), list_at(rule, &["nonResourceRules"]));
    if resources.is_empty() && others.is_empty() {
        check.required(field, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        validate_resource_rule(check, rule, &format!("{field}.resourceRules[{i}]"));
    }
    for (i, rule) in others.iter().enumerate() {
        let field = format!("{field}.nonResourceRules[{i}]");
        validate_verbs(check, rule, &field);
        let key = "nonResourceURLs";
        let detail = "nonResourceURLs must contain at least one value";
        if exclusive(check, rule, key, &field, detail, "non-resource URLs") {
            for (j, url) in list_at(rule, &[key]).iter().map(|u| u.as_str().unwrap_or("")).enumerate() {
                validate_path(check, url, &format!("{field}.{key}[{j}]"));
            }
        }
    }
}

/// A subject has the one member that its kind names.
fn validate_subject(check: &mut Check, subject: &Value, field: &str) {
    const MEMBERS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = str_at(subject, &["kind"]);
    let Some((_, member)) = MEMBERS.iter().find(|(k, _)| *k == kind) else {
        let allowed = &["Group", "ServiceAccount", "User"];
        check.extend([FieldError::not_supported(join(field, "kind"), kind, allowed)]);
        return;
    };
    match at(subject, &[member]) {
        None => {
            let detail = format!("{member} is required when subject kind is '{kind}'");
            check.required(join(field, member), &detail);
        }
        Some(inner) => {
            let field = join(field, member);
            let name = str_at(inner, &["name"]);
            let named = check.need_str(inner, "name", &field);
            if kind == "ServiceAccount" {
                if named && name != "*" {
                    check.syntax(&join(&field, "name"), name, names::dns1123_subdomain(name));
                }
                let namespace = str_at(inner, &["namespace"]);
                if namespace.is_empty() {
                    check.required(join(&field, "namespace"), "must specify namespace for service account");
                } else {
                    check.syntax(&join(&field, "namespace"), namespace, names::dns1123_label(namespace));
                }
            }
        }
    }
    for (other, member) in MEMBERS.iter().filter(|(k, _)| *k != kind) {
        if at(subject, &[member]).is_some() {
            let detail = format!("{member} is forbidden when subject kind is not '{other}'");
            check.forbidden(join(field, member), detail);
        }
    }
}

/// A list that must have something, in which `*` stands alone; true when it names members.
fn exclusive(check: &mut Check, rule: &Value, key: &str, field: &str, empty: &str, what: &str) -> bool {
    let values = list_at(rule, &[key]);
    if values.is_empty() {
        check.required(join(field, key), empty);
        return false;
    }
    let wildcard = values.iter().any(|v| v == "*");
    if wildcard && values.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {what}");
        check.invalid(join(field, key), Value::from(values), detail);
    }
    !wildcard
}

fn validate_verbs(check: &mut Check, rule: &Value, field: &str) {
    if exclusive(check, rule, "verbs", field, "verbs must contain at least one value", "verbs") {
        let verbs = list_at(rule, &["verbs"]);
        if verbs.iter().any(|v| !VERBS.contains(&v.as_str().unwrap_or(""))) {
            check.extend([FieldError::not_supported(join(field, "verbs"), Value::from(verbs), VERBS)]);
        }
    }
}

fn validate_resource_rule(check: &mut Check, rule: &Value, field: &str) {
    validate_verbs(check, rule, field);
    exclusive(check, rule, "apiGroups", field, "resource rules must supply at least one api group", "api groups");
    exclusive(check, rule, "resources", field, "resource rules must supply at least one resource", "resources");
    if bool_at(rule, &["clusterScope"]) && list_at(rule, &["namespaces"]).is_empty() {
        return;
    }
    let empty = "resource rules that are not cluster scoped must supply at least one namespace";
    if exclusive(check, rule, "namespaces", field, empty, "namespaces") {
        for (i, namespace) in list_at(rule, &["namespaces"]).iter().map(|n| n.as_str().unwrap_or("")).enumerate() {
            for problem in names::dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                check.invalid(format!("{field}.namespaces[{i}]"), namespace, detail);
            }
        }
    }
}

fn validate_path(check: &mut Check, path: &str, field: &str) {
    let stars = path.matches('*').count();
    let problem = match path {
        "/" => return,
        "" => "must not be empty",
        p if !p.starts_with('/') => "must start with slash",
        p if p.contains(' ') => "must not contain white-space",
        p if p.contains("//") => "must not contain double slash",
        p if stars > 1 || (stars == 1 && !p.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return,
    };
    check.invalid(field, path, problem);
}

fn default_level(o: &mut Value) {
    let Some(spec) = object_mut(o, &["spec"]) else { return };
    if let Some(exempt) = object_mut(spec, &["exempt"]) {
        set_default(exempt, "nominalConcurrencyShares", 0);
        set_default(exempt, "lendablePercent", 0);
    }
    let Some(limited) = object_mut(spec, &["limited"]) else { return };
    set_default(limited, "nominalConcurrencyShares", 30);
    set_default(limited, "lendablePercent", 0);
    if let Some(queuing) = object_mut(ensure_object(limited, "limitResponse"), &["queuing"]) {
        set_default_nonzero(queuing, "handSize", 8);
        set_default_nonzero(queuing, "queues", 64);
        set_default_nonzero(queuing, "queueLengthLimit", 50);
    }
}

/// The level every request without another one falls to; nobody may change it.
fn catch_all() -> Value {
    json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}})
}

fn validate_level(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let kind = str_at(spec, &["type"]);
    let (exempt, limited) = (at(spec, &["exempt"]), at(spec, &["limited"]));
    if (meta::name(o) == "exempt") != (kind == "Exempt") {
        check.invalid("spec.type", kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if limited.is_some() {
                check.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
            if let Some(exempt) = exempt {
                validate_shares(&mut check, exempt, "spec.exempt");
            }
        }
        "Limited" => {
            if exempt.is_some() {
                check.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            match limited {
                None => check.required("spec.limited", "must not be empty when type is Limited"),
                Some(limited) => validate_limited(&mut check, limited),
            }
        }
        _ => check.extend([FieldError::not_supported("spec.type", kind, &["Exempt", "Limited"])]),
    }
    if meta::name(o) == "catch-all" && !semantic_eq(Some(spec), Some(&catch_all())) {
        check.invalid("spec", spec.clone(), "spec of 'catch-all' must equal the fixed value");
    }
    check.errors
}

fn validate_shares(check: &mut Check, level: &Value, field: &str) {
    if let Some(n) = int_at(level, &["nominalConcurrencyShares"]).filter(|n| *n < 0) {
        check.invalid(join(field, "nominalConcurrencyShares"), n, "must be a non-negative integer");
    }
    check.in_range(level, "lendablePercent", field, 0, 100);
}

fn validate_limited(check: &mut Check, limited: &Value) {
    let field = "spec.limited";
    validate_shares(check, limited, field);
    if let Some(n) = int_at(limited, &["borrowingLimitPercent"]).filter(|n| *n < 0) {
        let detail = "if specified, must be a non-negative integer";
        check.invalid(join(field, "borrowingLimitPercent"), n, detail);
    }
    let response = at(limited, &["limitResponse"]).unwrap_or(&Value::Null);
    let field = "spec.limited.limitResponse";
    match (str_at(response, &["type"]), at(response, &["queuing"])) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            check.forbidden(join(field, "queuing"), detail);
        }
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            check.required(join(field, "queuing"), detail);
        }
        ("Queue", Some(queuing)) => validate_queuing(check, queuing, &join(field, "queuing")),
        (other, _) => check.extend([FieldError::not_supported(join(field, "type"), other, &["Queue", "Reject"])]),
    }
}

fn validate_queuing(check: &mut Check, queuing: &Value, field: &str) {
    let read = |key: &str| int_at(queuing, &[key]).unwrap_or(0);
    let (length, queues, hand) = (read("queueLengthLimit"), read("queues"), read("handSize"));
    for (key, value) in [("queueLengthLimit", length), ("queues", queues), ("handSize", hand)] {
        if value <= 0 {
            check.invalid(join(field, key), value, "must be positive");
        }
    }
    if queues > MAX_QUEUES {
        check.invalid(join(field, "queues"), queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    if hand <= 0 || queues <= 0 {
        return;
    }
    let field = join(field, "handSize");
    if hand > queues {
        check.invalid(field, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        check.invalid(field, hand, detail);
    }
}

/// Bits needed to deal a hand from that many queues: the logarithm of the falling factorial, rounded up.
fn entropy_bits(queues: i64, hand: i64) -> u32 {
    let bits: f64 = (0..hand.min(64)).map(|i| ((queues - i) as f64).log2()).sum();
    if hand > 64 { u32::MAX } else { bits.ceil() as u32 }
}
