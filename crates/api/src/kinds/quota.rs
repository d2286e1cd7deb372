//! Limit ranges and resource quotas.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Hooks;
use super::check::{Check, IMMUTABLE, join};
use super::resources::{canonicalize_list, is_extended};
use crate::json::{at, list_at, list_mut, map_at, object_mut, str_at};
use crate::names;
use crate::quantity::Quantity;
use crate::status::FieldError;

const NOT_INTEGER: &str = "must be an integer";

pub(super) const LIMIT_RANGE: Hooks = Hooks {
    default: default_limit_range,
    validate: validate_limit_range,
    validate_update: |new, _| validate_limit_range(new),
    ..Hooks::NONE
};

pub(super) const RESOURCE_QUOTA: Hooks = Hooks {
    default: |o| {
        if let Some(spec) = object_mut(o, &["spec"]) {
            canonicalize_list(spec, "hard", true);
        }
        if let Some(status) = object_mut(o, &["status"]) {
            canonicalize_list(status, "hard", true);
            canonicalize_list(status, "used", true);
        }
    },
    validate: validate_quota,
    validate_update: update_quota,
    validate_status_update: |new, _| {
        let mut check = Check::default();
        for key in ["hard", "used"] {
            quota_amounts(&mut check, at(new, &["status", key]), &format!("status.{key}"));
        }
        check.errors
    },
    warnings: quota_warnings,
    ..Hooks::NONE
};

/// The quantity lists of a limit.
const LIMIT_LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

/// Container limits without a default take the maximum, requests the default limit, else the minimum.
fn default_limit_range(o: &mut Value) {
    for limit in list_mut(o, &["spec", "limits"]) {
        for key in LIMIT_LISTS {
            canonicalize_list(limit, key, true);
        }
        if str_at(limit, &["type"]) != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(source) = map_at(limit, &[from]).filter(|m| !m.is_empty()).cloned() else { continue };
            if let Some(target) = crate::json::ensure_object(limit, to).as_object_mut() {
                for (name, value) in source {
                    target.entry(name).or_insert(value);
                }
            }
        }
    }
}

fn validate_limit_range(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let mut types = BTreeSet::new();
    for (i, limit) in list_at(o, &["spec", "limits"]).iter().enumerate() {
        let field = format!("spec.limits[{i}]");
        let kind = str_at(limit, &["type"]);
        validate_limit_type(&mut check, kind, &join(&field, "type"));
        if !types.insert(kind) {
            check.duplicate(join(&field, "type"), kind);
        }
        let of_pod = kind == "Pod";
        let mut resources = BTreeSet::new();
        for key in LIMIT_LISTS {
            let list = map_at(limit, &[key]);
            if of_pod && matches!(key, "default" | "defaultRequest") {
                if list.is_some_and(|l| !l.is_empty()) {
                    check.forbidden(join(&field, key), "may not be specified when `type` is 'Pod'");
                }
                continue;
            }
            for name in list.into_iter().flat_map(Map::keys) {
                let field = format!("{field}.{key}[{name}]");
                if matches!(kind, "Pod" | "Container") {
                    container_resource_name(&mut check, name, &field);
                } else {
                    resource_name(&mut check, name, &field);
                }
                resources.insert(name);
            }
        }
        let bounds_storage = at(limit, &["min", "storage"]).is_some() || at(limit, &["max", "storage"]).is_some();
        if kind == "PersistentVolumeClaim" && !bounds_storage {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            check.required(join(&field, "limits"), detail);
        }
        for name in resources {
            validate_limit(&mut check, limit, name, &field, of_pod);
        }
    }
    check.errors
}

fn validate_limit_type(check: &mut Check, kind: &str, field: &str) {
    let problems = names::qualified_name(kind);
    if problems.is_empty() && !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        check.invalid(field, kind, "must be a standard limit type or fully qualified");
    }
    check.syntax(field, kind, problems);
}

/// The order of minimum, defaults and maximum of one resource.
fn validate_limit(check: &mut Check, limit: &Value, name: &str, field: &str, of_pod: bool) {
    let read = |key: &str| {
        let used = !of_pod || !matches!(key, "default" | "defaultRequest");
        at(limit, &[key, name]).filter(|_| used).and_then(|v| Quantity::from_json(v).ok())
    };
    for key in LIMIT_LISTS {
        if let Some(value) = at(limit, &[key, name])
            && let Err(e) = Quantity::from_json(value)
        {
            check.invalid(format!("{field}.{key}[{name}]"), value.clone(), e.to_string());
        }
    }
    let (min, max, default, request) = (read("min"), read("max"), read("default"), read("defaultRequest"));
    // Field, lower bound, upper bound, and the words for both; the value shown is that of the field.
    let rules = [
        ("min", (min, "min"), (max, "max"), min),
        ("defaultRequest", (min, "min"), (request, "default request"), request),
        ("defaultRequest", (request, "default request"), (max, "max"), request),
        ("defaultRequest", (request, "default request"), (default, "default limit"), request),
        ("default", (min, "min"), (default, "default"), min),
        ("default", (default, "default"), (max, "max"), max),
    ];
    for (key, (low, low_name), (high, high_name), shown) in rules {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && low > high
        {
            let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
            check.invalid(format!("{field}.{key}[{name}]"), shown.to_string(), detail);
        }
    }
    if let Some(ratio) = read("maxLimitRequestRatio") {
        let field = format!("{field}.maxLimitRequestRatio[{name}]");
        if ratio.as_f64() < 1.0 {
            check.invalid(field.clone(), ratio.to_string(), format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let limit = max.as_f64() / min.as_f64();
            if ratio.as_f64() > limit {
                check.invalid(field, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {limit:.6}"));
            }
        }
    }
    let overcommits = !is_extended(name) && !name.starts_with("hugepages-");
    if let (false, Some(default), Some(request)) = (overcommits, default, request)
        && default != request
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        check.invalid(format!("{field}.defaultRequest[{name}]"), request.to_string(), detail);
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// Names without a domain that a quota may bound.
fn is_quota_resource(name: &str) -> bool {
    const STANDARD: &[&str] = &[
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    ];
    STANDARD.contains(&name) || is_object_count(name) || is_huge_page(name)
}

/// Names that count objects, in whole numbers.
fn is_object_count(name: &str) -> bool {
    const COUNTS: &[&str] = &[
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    ];
    COUNTS.contains(&name)
}

fn resource_name(check: &mut Check, name: &str, field: &str) -> bool {
    let problems = names::qualified_name(name);
    if !problems.is_empty() {
        check.syntax(field, name, problems);
        return false;
    }
    if !name.contains('/') && !is_quota_resource(name) && name != "storage" {
        check.invalid(field, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

fn container_resource_name(check: &mut Check, name: &str, field: &str) {
    resource_name(check, name, field);
    let native = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !native {
        check.invalid(field, name, "must be a standard resource for containers");
    } else if is_extended(name) && name.starts_with("requests.") {
        check.invalid(field, name, "doesn't follow extended resource name standard");
    }
}

fn quota_amounts(check: &mut Check, list: Option<&Value>, field: &str) {
    for (name, value) in list.and_then(Value::as_object).into_iter().flatten() {
        let field = format!("{field}[{name}]");
        let known = resource_name(check, name, &field);
        if known && !name.contains('/') && !is_quota_resource(name) {
            check.invalid(field.clone(), name.as_str(), "must be a standard resource for quota");
        }
        let counted = is_object_count(name) || (is_extended(name) && !name.starts_with("requests."));
        if let Some(q) = check.quantity(value, &field)
            && counted
            && !q.is_integer()
        {
            check.invalid(field, q.to_string(), NOT_INTEGER);
        }
    }
}

fn validate_quota(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    quota_amounts(&mut check, at(spec, &["hard"]), "spec.hard");
    let scopes = list_at(spec, &["scopes"]);
    let shown = Value::from(scopes);
    for scope in scopes.iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            check.invalid("spec.scopes", shown.clone(), "unsupported scope");
        }
        scope_applies(&mut check, spec, scope, "spec.scopes", &shown);
    }
    conflicting(&mut check, scopes.iter().filter_map(Value::as_str), "spec.scopes", &shown);
    if let Some(selector) = at(spec, &["scopeSelector"]) {
        validate_scope_selector(&mut check, spec, selector);
    }
    check.errors
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

/// Every bounded resource must be one that the scope can tell apart.
fn scope_applies(check: &mut Check, spec: &Value, scope: &str, field: &str, shown: &Value) {
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    for name in map_at(spec, &["hard"]).into_iter().flat_map(Map::keys).filter(|n| is_quota_resource(n)) {
        let fits = match scope {
            "BestEffort" => name == "pods",
            "VolumeAttributesClass" => matches!(name.as_str(), "persistentvolumeclaims" | "requests.storage"),
            s if SCOPES.contains(&s) => name == "pods" || compute.contains(&name.as_str()),
            _ => true,
        };
        if !fits {
            check.invalid(field, shown.clone(), "unsupported scope applied to resource");
        }
    }
}

fn conflicting<'a>(check: &mut Check, scopes: impl Iterator<Item = &'a str>, field: &str, shown: &Value) {
    let scopes: BTreeSet<&str> = scopes.collect();
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(a) && scopes.contains(b) {
            check.invalid(field, shown.clone(), "conflicting scopes");
        }
    }
}

fn validate_scope_selector(check: &mut Check, spec: &Value, selector: &Value) {
    let field = "spec.scopeSelector.matchExpressions";
    let expressions = list_at(selector, &["matchExpressions"]);
    for e in expressions {
        let (scope, operator) = (str_at(e, &["scopeName"]), str_at(e, &["operator"]));
        if !SCOPES.contains(&scope) {
            check.invalid(join(field, "scopeName"), scope, "unsupported scope");
        }
        scope_applies(check, spec, scope, field, selector);
        let binary = SCOPES.contains(&scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if binary && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            check.invalid(join(field, "operator"), operator, detail);
        }
        let values = list_at(e, &["values"]);
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                check.required(join(field, "values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                check.invalid(join(field, "values"), Value::from(values), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => check.invalid(join(field, "operator"), operator, "not a valid selector operator"),
        }
    }
    let shown = at(spec, &["scopes"]).cloned().unwrap_or(Value::Null);
    conflicting(check, expressions.iter().map(|e| str_at(e, &["scopeName"])), field, &shown);
}

fn update_quota(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate_quota(new) };
    let scopes = |o: &Value| -> BTreeSet<String> {
        list_at(o, &["spec", "scopes"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if scopes(new) != scopes(old) {
        check.invalid("spec.scopes", Value::from(list_at(new, &["spec", "scopes"])), IMMUTABLE);
    }
    check.errors
}

/// Requests bounded above the limits make no sense together, though each is valid.
fn quota_warnings(o: &Value) -> Vec<String> {
    let hard = |name: &str| at(o, &["spec", "hard", name]).and_then(|v| Quantity::from_json(v).ok());
    let mut out = Vec::new();
    for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let mut name = format!("requests.{resource}");
        let mut request = hard(&name);
        if request.is_none() && matches!(resource, "cpu" | "memory") {
            name = resource.to_owned();
            request = hard(resource);
        }
        let limit_name = format!("limits.{resource}");
        if let (Some(request), Some(limit)) = (request, hard(&limit_name))
            && request > limit
        {
            out.push(format!("ResourceQuota {name} ({request}) should be less than {limit_name} ({limit})"));
        }
    }
    out
}
