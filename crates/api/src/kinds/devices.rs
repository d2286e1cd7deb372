//! Dynamic resource allocation: claims for devices, their templates and classes, and what drivers publish.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Hooks;
use super::check::{Check, join};
use super::csi::validate_driver;
use super::pod::text;
use super::podspec;
use crate::json::{
    at, bool_at, int_at, list_at, list_mut, map_at, object_mut, semantic_eq, set_default, set_default_nonzero, str_at,
};
use crate::names;
use crate::status::FieldError;

const NOT_ALLOCATED: &str =
    "this release stores the objects of resource.k8s.io and allocates no devices: pods that use a claim do not start";
/// Most requests, constraints, configurations, selectors and alternatives of a claim.
const MAX_ITEMS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
/// Longest expression of a selector, bytes.
const MAX_EXPRESSION: usize = 10 * 1024;
/// Most consumers of a claim.
const MAX_CONSUMERS: usize = 256;
/// Most devices of a slice, and when they have taints, counters or lists.
const MAX_DEVICES: usize = 128;
const MAX_DEVICES_ADVANCED: usize = 64;
/// Most attributes and capacities of a device together.
const MAX_ATTRIBUTES: usize = 32;
/// Longest name of a pool.
const MAX_POOL: usize = 253;

fn not_allocated(_: &Value) -> Vec<String> {
    vec![NOT_ALLOCATED.to_owned()]
}

pub(super) const CLAIM: Hooks = Hooks {
    default: |o| {
        if let Some(spec) = object_mut(o, &["spec"]) {
            default_claim(spec);
        }
    },
    validate: |o| {
        let mut check = Check::default();
        validate_claim(&mut check, at(o, &["spec"]).unwrap_or(&Value::Null), "spec");
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        check.immutable(new, old, &["spec"]);
        check.errors
    },
    validate_status_update: update_claim_status,
    warnings: not_allocated,
    ..Hooks::NONE
};

pub(super) const CLAIM_TEMPLATE: Hooks = Hooks {
    default: |o| {
        if let Some(spec) = object_mut(o, &["spec", "spec"]) {
            default_claim(spec);
        }
    },
    validate: |o| {
        let mut check = Check::default();
        validate_claim(&mut check, at(o, &["spec", "spec"]).unwrap_or(&Value::Null), "spec.spec");
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        check.immutable(new, old, &["spec"]);
        check.errors
    },
    warnings: not_allocated,
    ..Hooks::NONE
};

pub(super) const CLASS: Hooks = Hooks {
    validate: validate_class,
    validate_update: |new, _| validate_class(new),
    warnings: not_allocated,
    ..Hooks::NONE
};

pub(super) const SLICE: Hooks = Hooks {
    validate: validate_slice,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_slice(new) };
        for path in [&["spec", "driver"][..], &["spec", "nodeName"], &["spec", "pool", "name"]] {
            check.immutable(new, old, path);
        }
        check.errors
    },
    selectable: &[
        ("spec.nodeName", |o| text(o, &["spec", "nodeName"])),
        ("spec.driver", |o| text(o, &["spec", "driver"])),
    ],
    warnings: not_allocated,
    ..Hooks::NONE
};

fn default_request(request: &mut Value) {
    set_default(request, "allocationMode", "ExactCount");
    if str_at(request, &["allocationMode"]) == "ExactCount" {
        set_default_nonzero(request, "count", 1);
    }
}

fn default_claim(spec: &mut Value) {
    for request in list_mut(spec, &["devices", "requests"]) {
        if let Some(exactly) = object_mut(request, &["exactly"]) {
            default_request(exactly);
        }
        list_mut(request, &["firstAvailable"]).for_each(default_request);
    }
}

/// A list of at most `max` items; says whether it is worth looking at them.
fn bounded(check: &mut Check, items: &[Value], field: &str, max: usize) {
    if items.len() > max {
        check.extend([FieldError::too_many(field, items.len(), max)]);
    }
}

/// Names of requests, each with the names of its alternatives.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn validate_claim(check: &mut Check, spec: &Value, field: &str) {
    let devices = at(spec, &["devices"]).unwrap_or(&Value::Null);
    let field = join(field, "devices");
    let requests = list_at(devices, &["requests"]);
    let mut known = Requests::new();
    bounded(check, requests, &join(&field, "requests"), MAX_ITEMS);
    for (i, request) in requests.iter().enumerate() {
        let field = format!("{field}.requests[{i}]");
        let name = str_at(request, &["name"]);
        let alternatives = list_at(request, &["firstAvailable"]);
        check.syntax(&join(&field, "name"), name, names::dns1123_label(name));
        if known.contains_key(name) {
            check.duplicate(join(&field, "name"), name);
        }
        known.insert(name, alternatives.iter().map(|a| str_at(a, &["name"])).collect());
        validate_request(check, request, alternatives, &field);
    }
    let constraints = list_at(devices, &["constraints"]);
    bounded(check, constraints, &join(&field, "constraints"), MAX_ITEMS);
    for (i, constraint) in constraints.iter().enumerate() {
        let field = format!("{field}.constraints[{i}]");
        validate_references(check, constraint, &field, &known);
        match (str_at(constraint, &["matchAttribute"]), str_at(constraint, &["distinctAttribute"])) {
            ("", "") => check.required(join(&field, "matchAttribute"), ""),
            ("", name) => qualified_name(check, name, &join(&field, "distinctAttribute"), true),
            (name, _) => qualified_name(check, name, &join(&field, "matchAttribute"), true),
        }
    }
    let config = list_at(devices, &["config"]);
    bounded(check, config, &join(&field, "config"), MAX_ITEMS);
    for (i, config) in config.iter().enumerate() {
        let field = format!("{field}.config[{i}]");
        validate_references(check, config, &field, &known);
        validate_config(check, config, &field);
    }
}

fn validate_request(check: &mut Check, request: &Value, alternatives: &[Value], field: &str) {
    match (at(request, &["exactly"]), alternatives.is_empty()) {
        (None, true) => check.required(field, "exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            check.invalid(field, Value::Null, detail);
        }
        (Some(exactly), true) => validate_exact(check, exactly, &join(field, "exactly")),
        (None, false) => {
            bounded(check, alternatives, &join(field, "firstAvailable"), MAX_ALTERNATIVES);
            let mut seen = BTreeSet::new();
            for (i, alternative) in alternatives.iter().enumerate() {
                let field = format!("{field}.firstAvailable[{i}]");
                let name = str_at(alternative, &["name"]);
                check.syntax(&join(&field, "name"), name, names::dns1123_label(name));
                if !seen.insert(name) {
                    check.duplicate(join(&field, "name"), name);
                }
                validate_exact(check, alternative, &field);
            }
        }
    }
}

fn validate_exact(check: &mut Check, request: &Value, field: &str) {
    if check.need_str(request, "deviceClassName", field) {
        let class = str_at(request, &["deviceClassName"]);
        check.syntax(&join(field, "deviceClassName"), class, names::dns1123_subdomain(class));
    }
    validate_selectors(check, request, field);
    let mode = str_at(request, &["allocationMode"]);
    let count = int_at(request, &["count"]).unwrap_or(0);
    match mode {
        "All" if count != 0 => {
            check.invalid(join(field, "count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => check.invalid(join(field, "count"), count, "must be greater than zero"),
        "All" | "ExactCount" => {}
        _ => {
            let allowed = &["All", "ExactCount"];
            check.extend([FieldError::not_supported(join(field, "allocationMode"), mode, allowed)]);
        }
    }
    for (i, toleration) in list_at(request, &["tolerations"]).iter().enumerate() {
        podspec::validate_toleration(check, toleration, &format!("{field}.tolerations[{i}]"));
    }
}

fn validate_selectors(check: &mut Check, owner: &Value, field: &str) {
    let selectors = list_at(owner, &["selectors"]);
    let field = join(field, "selectors");
    bounded(check, selectors, &field, MAX_ITEMS);
    for (i, selector) in selectors.iter().enumerate() {
        let field = format!("{field}[{i}].cel");
        match at(selector, &["cel"]) {
            None => check.required(field, ""),
            Some(cel) => {
                let field = join(&field, "expression");
                let expression = str_at(cel, &["expression"]);
                if expression.is_empty() {
                    check.required(field, "");
                } else if expression.len() > MAX_EXPRESSION {
                    check.extend([FieldError::too_long(field, MAX_EXPRESSION)]);
                }
            }
        }
    }
}

/// `requests` of a constraint or configuration: names of the claim's requests, or `REQUEST/ALTERNATIVE`.
fn validate_references(check: &mut Check, owner: &Value, field: &str, known: &Requests<'_>) {
    let references = list_at(owner, &["requests"]);
    let field = join(field, "requests");
    bounded(check, references, &field, MAX_ITEMS);
    let mut seen = BTreeSet::new();
    for (i, name) in references.iter().map(|r| r.as_str().unwrap_or("")).enumerate() {
        let field = format!("{field}[{i}]");
        let found = match name.split_once('/') {
            None => known.contains_key(name),
            Some((request, alternative)) => known.get(request).is_some_and(|a| a.contains(alternative)),
        };
        if !found {
            let detail =
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            check.invalid(field.clone(), name, detail);
        }
        if !seen.insert(name) {
            check.duplicate(field, name);
        }
    }
}

fn validate_config(check: &mut Check, config: &Value, field: &str) {
    let field = join(field, "opaque");
    match at(config, &["opaque"]) {
        None => check.required(field, ""),
        Some(opaque) => {
            validate_driver(check, str_at(opaque, &["driver"]), &join(&field, "driver"));
            match at(opaque, &["parameters"]) {
                None => check.required(join(&field, "parameters"), ""),
                Some(Value::Object(_)) => {}
                Some(other) => check.invalid(join(&field, "parameters"), other.clone(), "must be a valid JSON object"),
            }
        }
    }
}

/// `[DOMAIN/]IDENTIFIER`, the identifier in C's notation.
fn qualified_name(check: &mut Check, name: &str, field: &str, needs_domain: bool) {
    const MAX_ID: usize = 32;
    let (domain, id) = name.split_once('/').map_or((None, name), |(d, id)| (Some(d), id));
    match domain {
        Some(domain) => check.syntax(field, domain, names::dns1123_subdomain(domain)),
        None if needs_domain => check.invalid(field, name, "must include a domain"),
        None => {}
    }
    let identifier = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if id.is_empty() {
        check.required(field, "the name must not be empty");
    } else if id.len() > MAX_ID {
        check.extend([FieldError::too_long(field, MAX_ID)]);
    } else if !identifier {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        check.invalid(field, id, detail);
    }
}

fn update_claim_status(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let status = at(new, &["status"]).unwrap_or(&Value::Null);
    let consumers = list_at(status, &["reservedFor"]);
    let field = "status.reservedFor";
    bounded(&mut check, consumers, field, MAX_CONSUMERS);
    let mut seen = BTreeSet::new();
    for (i, consumer) in consumers.iter().enumerate() {
        let field = format!("{field}[{i}]");
        for key in ["resource", "name", "uid"] {
            check.need_str(consumer, key, &field);
        }
        if !seen.insert(str_at(consumer, &["uid"])) {
            check.duplicate(field, str_at(consumer, &["uid"]));
        }
    }
    let allocation = |o: &Value| at(o, &["status", "allocation"]).cloned();
    match (allocation(new), allocation(old)) {
        (None, _) if !consumers.is_empty() => {
            check.forbidden(field, "may not be specified when `allocated` is not set");
        }
        (Some(want), Some(have)) if !semantic_eq(Some(&want), Some(&have)) => {
            check.invalid("status.allocation", want, super::check::IMMUTABLE);
        }
        _ => {}
    }
    let before = list_at(old, &["status", "reservedFor"]);
    if crate::meta::is_deleting(new) && consumers.iter().any(|c| !before.contains(c)) {
        let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        check.forbidden(field, detail);
    }
    check.errors
}

fn validate_class(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_selectors(&mut check, spec, "spec");
    let config = list_at(spec, &["config"]);
    bounded(&mut check, config, "spec.config", MAX_ITEMS);
    for (i, config) in config.iter().enumerate() {
        validate_config(&mut check, config, &format!("spec.config[{i}]"));
    }
    let name = str_at(spec, &["extendedResourceName"]);
    if !name.is_empty() && !super::resources::is_extended(name) {
        check.invalid("spec.extendedResourceName", name, "must be a valid extended resource name");
    }
    check.errors
}

fn validate_slice(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_driver(&mut check, str_at(spec, &["driver"]), "spec.driver");
    validate_pool(&mut check, at(spec, &["pool"]).unwrap_or(&Value::Null), "spec.pool");
    let keys = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    validate_place(&mut check, spec, "spec", &keys, "");
    let devices = list_at(spec, &["devices"]);
    let counters = list_at(spec, &["sharedCounters"]);
    if !devices.is_empty() && !counters.is_empty() {
        check.invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced =
        devices.iter().any(|d| ["taints", "consumesCounters"].iter().any(|key| !list_at(d, &[key]).is_empty()));
    bounded(&mut check, devices, "spec.devices", if advanced { MAX_DEVICES_ADVANCED } else { MAX_DEVICES });
    let mut seen = BTreeSet::new();
    let per_device = bool_at(spec, &["perDeviceNodeSelection"]);
    for (i, device) in devices.iter().enumerate() {
        let field = format!("spec.devices[{i}]");
        let name = str_at(device, &["name"]);
        if !seen.insert(name) {
            check.duplicate(join(&field, "name"), name);
        }
        validate_device(&mut check, device, &field, per_device);
    }
    check.errors
}

fn validate_pool(check: &mut Check, pool: &Value, field: &str) {
    let name = str_at(pool, &["name"]);
    if check.need_str(pool, "name", field) {
        let field = join(field, "name");
        if name.len() > MAX_POOL {
            check.extend([FieldError::too_long(field.clone(), MAX_POOL)]);
        }
        for part in name.split('/') {
            check.syntax(&field, part, names::dns1123_subdomain(part));
        }
    }
    if int_at(pool, &["resourceSliceCount"]).unwrap_or(0) <= 0 {
        let count = int_at(pool, &["resourceSliceCount"]).unwrap_or(0);
        check.invalid(join(field, "resourceSliceCount"), count, "must be greater than zero");
    }
    if let Some(n) = int_at(pool, &["generation"]).filter(|n| *n < 0) {
        check.invalid(join(field, "generation"), n, "must be greater than or equal to zero");
    }
}

/// Exactly one of `keys` says on which nodes the devices are.
fn validate_place(check: &mut Check, owner: &Value, field: &str, keys: &[&str], when: &str) {
    let mut set = Vec::new();
    for &key in keys {
        let Some(value) = at(owner, &[key]) else { continue };
        let field = join(field, key);
        match value {
            Value::String(s) if s.is_empty() => {
                check.invalid(field, "", "must be either unset or set to a non-empty string");
            }
            Value::Bool(false) => check.invalid(field, false, "must be either unset or set to true"),
            Value::String(s) => {
                set.push(format!("`{key}`"));
                check.syntax(&field, s, names::dns1123_subdomain(s));
            }
            Value::Bool(true) => set.push(format!("`{key}`")),
            selector => {
                set.push(format!("`{key}`"));
                podspec::validate_node_selector(check, selector, &field);
                if list_at(selector, &["nodeSelectorTerms"]).len() > 1 {
                    let terms = Value::from(list_at(selector, &["nodeSelectorTerms"]));
                    let detail = "must have exactly one node selector term";
                    check.invalid(join(&field, "nodeSelectorTerms"), terms, detail);
                }
            }
        }
    }
    let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let rule = format!("exactly one of {} is required{when}", quoted.join(", "));
    match set.len() {
        0 => check.required(field, &rule),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            check.invalid(field, shown, format!("{rule}, but multiple fields are set"));
        }
    }
}

fn validate_device(check: &mut Check, device: &Value, field: &str, per_device: bool) {
    let name = str_at(device, &["name"]);
    check.syntax(&join(field, "name"), name, names::dns1123_label(name));
    let empty = Map::new();
    let attributes = map_at(device, &["attributes"]).unwrap_or(&empty);
    let capacity = map_at(device, &["capacity"]).unwrap_or(&empty);
    let total = attributes.len() + capacity.len();
    if total > MAX_ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        check.invalid(field, total, detail);
    }
    for (key, attribute) in attributes {
        let field = format!("{field}.attributes[{key}]");
        qualified_name(check, key, &field, false);
        let values = attribute.as_object().map_or(0, |a| a.values().filter(|v| !v.is_null()).count());
        match values {
            1 => {}
            0 => check.required(field, "exactly one value must be specified"),
            _ => check.invalid(field, attribute.clone(), "exactly one value must be specified"),
        }
    }
    for (key, amount) in capacity {
        let field = format!("{field}.capacity[{key}]");
        qualified_name(check, key, &field, false);
        match at(amount, &["value"]) {
            None => check.required(join(&field, "value"), ""),
            Some(value) => {
                check.quantity(value, &join(&field, "value"));
            }
        }
    }
    for (i, taint) in list_at(device, &["taints"]).iter().enumerate() {
        let field = format!("{field}.taints[{i}]");
        let key = str_at(taint, &["key"]);
        check.syntax(&join(&field, "key"), key, names::qualified_name(key));
        check.need_one_of(taint, "effect", &field, &["NoExecute", "NoSchedule", "None"]);
    }
    let keys = ["nodeName", "nodeSelector", "allNodes"];
    if per_device {
        let when = " when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        validate_place(check, device, field, &keys, when);
    } else if keys.iter().any(|key| at(device, &[key]).is_some()) {
        let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        check.invalid(field, Value::Null, detail);
    }
}
