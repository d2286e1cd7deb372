//! Mutating and validating webhook configurations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, default_matching, default_rules, validate_conditions,
    validate_rule, validate_selectors,
};
use crate::json::{at, int_at, list_at, list_mut, object_mut, set_default, str_at};
use crate::kinds::Hooks;
use crate::kinds::check::{Check, PORT_RANGE, join};
use crate::names;
use crate::status::FieldError;

/// `AdmissionReview` versions that a webhook may name so that this server can call it.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
/// Bounds of `timeoutSeconds`.
const TIMEOUT_S: std::ops::RangeInclusive<i64> = 1..=30;

pub(in crate::kinds) const MUTATING_WEBHOOKS: Hooks = Hooks {
    default: |o| {
        for hook in list_mut(o, &["webhooks"]) {
            default_hook(hook);
            set_default(hook, "reinvocationPolicy", "Never");
        }
    },
    ..VALIDATING_WEBHOOKS
};

pub(in crate::kinds) const VALIDATING_WEBHOOKS: Hooks = Hooks {
    default: |o| list_mut(o, &["webhooks"]).for_each(default_hook),
    validate: validate_webhooks,
    validate_update: |new, _| validate_webhooks(new),
    generation_keys: &[&["webhooks"]],
    ..Hooks::NONE
};

fn default_hook(hook: &mut Value) {
    set_default(hook, "failurePolicy", "Fail");
    set_default(hook, "timeoutSeconds", 10);
    default_matching(hook);
    default_rules(hook, "rules");
    if let Some(service) = object_mut(hook, &["clientConfig", "service"]) {
        set_default(service, "port", 443);
    }
}

fn validate_webhooks(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let mut seen = BTreeSet::new();
    for (i, hook) in list_at(o, &["webhooks"]).iter().enumerate() {
        let field = format!("webhooks[{i}]");
        validate_hook(&mut check, hook, &field);
        let name = str_at(hook, &["name"]);
        if !name.is_empty() && !seen.insert(name) {
            check.duplicate(join(&field, "name"), name);
        }
    }
    check.errors
}

fn validate_hook(check: &mut Check, hook: &Value, field: &str) {
    qualified_domain(check, str_at(hook, &["name"]), &join(field, "name"));
    for (i, rule) in list_at(hook, &["rules"]).iter().enumerate() {
        validate_rule(check, rule, &format!("{field}.rules[{i}]"));
    }
    check.one_of(hook, "failurePolicy", field, FAILURE_POLICIES);
    check.one_of(hook, "matchPolicy", field, MATCH_POLICIES);
    check.one_of(hook, "reinvocationPolicy", field, REINVOCATION_POLICIES);
    match str_at(hook, &["sideEffects"]) {
        "" => check.required(join(field, "sideEffects"), "must specify one of None, NoneOnDryRun"),
        _ => check.one_of(hook, "sideEffects", field, &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = int_at(hook, &["timeoutSeconds"]).filter(|s| !TIMEOUT_S.contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        check.invalid(join(field, "timeoutSeconds"), seconds, detail);
    }
    validate_selectors(check, hook, field);
    let client = at(hook, &["clientConfig"]).unwrap_or(&Value::Null);
    validate_client(check, client, &join(field, "clientConfig"));
    validate_conditions(check, hook, field);
    validate_versions(check, hook, &join(field, "admissionReviewVersions"));
}

fn validate_client(check: &mut Check, client: &Value, field: &str) {
    match (at(client, &["url"]).and_then(Value::as_str), at(client, &["service"])) {
        (Some(url), None) => validate_url(check, url, &join(field, "url")),
        (None, Some(service)) => validate_service(check, service, &join(field, "service")),
        _ => check.required(field, "exactly one of url or service is required"),
    }
}

/// Findings on the `clientConfig` of a webhook, also of one that converts custom resources.
pub(crate) fn client_config(client: &Value, field: &str) -> Vec<FieldError> {
    let mut check = Check::default();
    validate_client(&mut check, client, field);
    check.errors
}

/// A DNS name of at least three labels, so that two vendors' webhooks do not collide.
fn qualified_domain(check: &mut Check, name: &str, field: &str) {
    let problems = names::dns1123_subdomain(name);
    if name.is_empty() {
        check.required(field, "");
    } else if !problems.is_empty() {
        check.invalid(field, name, problems.join(","));
    } else if name.split('.').count() < 3 {
        check.invalid(field, name, "should be a domain with at least three segments separated by dots");
    }
}

fn validate_versions(check: &mut Check, hook: &Value, field: &str) {
    let versions = list_at(hook, &["admissionReviewVersions"]);
    if versions.is_empty() {
        check.required(field, &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().map(|v| v.as_str().unwrap_or("")).enumerate() {
        let field = format!("{field}[{i}]");
        if seen.insert(version) {
            check.syntax(&field, version, names::dns1035_label(version));
        } else {
            check.invalid(field, version, "duplicate version");
        }
    }
    if !REVIEW_VERSIONS.iter().any(|v| seen.contains(v)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        check.invalid(field, Value::from(versions), detail);
    }
}

/// An `https` URL of a host and a path.
pub(in crate::kinds) fn validate_url(check: &mut Check, url: &str, field: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        check.invalid(field, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let rest = if scheme.is_empty() { "" } else { rest };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if host.is_empty() {
        check.invalid(field, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        check.invalid(field, user, "user information is not permitted in the URL");
    }
    let (tail, fragment) = tail.split_once('#').unwrap_or((tail, ""));
    if !fragment.is_empty() {
        check.invalid(field, fragment, "fragments are not permitted in the URL");
    }
    let query = tail.split_once('?').map_or("", |(_, q)| q);
    if !query.is_empty() {
        check.invalid(field, query, "query parameters are not permitted in the URL");
    }
}

/// A service with a port and a clean path.
pub(in crate::kinds) fn validate_service(check: &mut Check, service: &Value, field: &str) {
    check.need_str(service, "name", field);
    check.need_str(service, "namespace", field);
    let port = int_at(service, &["port"]).unwrap_or(0);
    if !(1..=65535).contains(&port) {
        check.invalid(join(field, "port"), port, format!("port is not valid: {PORT_RANGE}"));
    }
    let path = str_at(service, &["path"]);
    if path.is_empty() || path == "/" {
        return;
    }
    let field = join(field, "path");
    if path == "//" {
        check.invalid(field, path, "segment[0] may not be empty");
        return;
    }
    if !path.starts_with('/') {
        check.invalid(field.clone(), path, "must start with a '/'");
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            check.invalid(field.clone(), path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in names::dns1123_subdomain(segment) {
            check.invalid(field.clone(), path, format!("segment[{i}]: {problem}"));
        }
    }
}
