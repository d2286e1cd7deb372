//! Namespaces, nodes, config maps, secrets, service accounts.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Hooks;
use super::check::{Check, IMMUTABLE};
use super::pod::text;
use super::resources::canonicalize_list;
use crate::json::{
    at, bool_at, carry, drop_key, ensure_object, list_at, map_at, object_mut, semantic_eq, set_default, str_at,
};
use crate::meta;
use crate::names;
use crate::status::FieldError;

/// Largest total of a config map's or secret's data.
const MAX_DATA: usize = 1024 * 1024;
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) const NAMESPACE: Hooks = Hooks {
    default: label_namespace,
    prepare_create: |o| {
        label_namespace(o);
        let spec = ensure_object(o, "spec");
        let mut finalizers = list_at(spec, &["finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        spec["finalizers"] = Value::Array(finalizers);
        o["status"] = json!({"phase": "Active"});
    },
    // Only the finalize subresource may touch the spec.
    prepare_update: |new, old| carry(new, old, "spec"),
    validate: |o| {
        let mut check = Check::default();
        let name = meta::name(o);
        if str_at(o, &["metadata", "labels", NAME_LABEL]) != name {
            let labels = at(o, &["metadata", "labels"]).cloned().unwrap_or(Value::Null);
            check.invalid(format!("metadata.labels[{NAME_LABEL}]"), labels, format!("must be '{name}'"));
        }
        for finalizer in list_at(o, &["spec", "finalizers"]).iter().filter_map(Value::as_str) {
            check.extend(meta::validate_finalizer(finalizer, "spec.finalizers"));
        }
        check.errors
    },
    selectable: &[("status.phase", |o| text(o, &["status", "phase"])), ("name", |o| meta::name(o).to_owned())],
    ..Hooks::NONE
};

fn label_namespace(o: &mut Value) {
    let name = meta::name(o).to_owned();
    if !name.is_empty() {
        let labels = ensure_object(ensure_object(o, "metadata"), "labels");
        labels[NAME_LABEL] = name.into();
    }
}

/// For `namespaces/<name>/finalize`: only `spec.finalizers` changes.
pub fn finalize_namespace(new: &Value, old: &Value) -> Value {
    let mut out = old.clone();
    let spec = ensure_object(&mut out, "spec");
    match at(new, &["spec", "finalizers"]) {
        Some(finalizers) => spec["finalizers"] = finalizers.clone(),
        None => drop_key(spec, "finalizers"),
    }
    out
}

pub(super) const NODE: Hooks = Hooks {
    default: |o| {
        ensure_object(o, "spec");
        let Some(status) = object_mut(o, &["status"]) else { return };
        for key in ["capacity", "allocatable"] {
            canonicalize_list(status, key, true);
        }
        if at(status, &["allocatable"]).is_none()
            && let Some(capacity) = at(status, &["capacity"]).cloned()
        {
            status["allocatable"] = capacity;
        }
    },
    validate: validate_node,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_node(new) };
        for key in ["podCIDR", "podCIDRs"] {
            let path = ["spec", key];
            if at(old, &path).is_some() && !semantic_eq(at(old, &path), at(new, &path)) {
                let detail = "node updates may not change podCIDR except from \"\" to valid";
                check.forbidden(format!("spec.{key}"), detail);
            }
        }
        let provider = ["spec", "providerID"];
        if !str_at(old, &provider).is_empty() && str_at(old, &provider) != str_at(new, &provider) {
            check.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
        }
        check.errors
    },
    warnings: |o| {
        let mut out = Vec::new();
        if at(o, &["spec", "configSource"]).is_some() {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !str_at(o, &["spec", "externalID"]).is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        out
    },
    selectable: &[("spec.unschedulable", |o| bool_at(o, &["spec", "unschedulable"]).to_string())],
    ..Hooks::NONE
};

fn validate_node(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let mut seen = BTreeSet::new();
    for (i, taint) in list_at(o, &["spec", "taints"]).iter().enumerate() {
        let field = format!("spec.taints[{i}]");
        let (key, value) = (str_at(taint, &["key"]), str_at(taint, &["value"]));
        check.syntax(&format!("{field}.key"), key, names::qualified_name(key));
        check.syntax(&format!("{field}.value"), value, names::label_value(value));
        check.need_one_of(taint, "effect", &field, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key, str_at(taint, &["effect"]))) {
            check.duplicate(field, format!("taints must be unique by key and effect pair: {key}"));
        }
    }
    let mut addresses = BTreeSet::new();
    for (i, address) in list_at(o, &["status", "addresses"]).iter().enumerate() {
        if !addresses.insert((str_at(address, &["type"]), str_at(address, &["address"]))) {
            check.duplicate(format!("status.addresses[{i}]"), address.clone());
        }
    }
    for key in ["capacity", "allocatable"] {
        for (name, value) in map_at(o, &["status", key]).into_iter().flatten() {
            check.quantity(value, &format!("status.{key}.{name}"));
        }
    }
    for (i, cidr) in list_at(o, &["spec", "podCIDRs"]).iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or("");
        let valid = cidr.split_once('/').is_some_and(|(ip, bits)| {
            ip.parse::<std::net::IpAddr>()
                .is_ok_and(|ip| bits.parse::<u8>().is_ok_and(|b| b <= if ip.is_ipv4() { 32 } else { 128 }))
        });
        if !valid {
            check.invalid(
                format!("spec.podCIDRs[{i}]"),
                cidr,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            );
        }
    }
    check.errors
}

pub(super) const SERVICE_ACCOUNT: Hooks = Hooks {
    warnings: |o| {
        super::warnings::annotations_of(
            o,
            &[(
                "kubernetes.io/enforce-mountable-secrets",
                "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
            )],
        )
    },
    ..Hooks::NONE
};

pub(super) const CONFIG_MAP: Hooks =
    Hooks { validate: validate_config_map, validate_update: update_config_map, ..Hooks::NONE };

fn validate_config_map(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let empty = Map::new();
    let data = map_at(o, &["data"]).unwrap_or(&empty);
    let binary = map_at(o, &["binaryData"]).unwrap_or(&empty);
    let mut total = 0;
    for (key, value) in data {
        let field = format!("data[{key}]");
        check.syntax(&field, key, names::config_map_key(key));
        if binary.contains_key(key) {
            check.invalid(field, key.as_str(), "duplicate of key present in binaryData");
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary {
        check.syntax(&format!("binaryData[{key}]"), key, names::config_map_key(key));
        total += decoded_len(&mut check, value, &format!("binaryData[{key}]"));
    }
    if total > MAX_DATA {
        // Kubernetes writes the root of an object so.
        check.extend([FieldError::too_long("[]", MAX_DATA)]);
    }
    check.errors
}

/// Bytes behind a base64 string; a malformed one is a finding.
fn decoded_len(check: &mut Check, value: &Value, field: &str) -> usize {
    match STANDARD.decode(value.as_str().unwrap_or("")) {
        Ok(bytes) => bytes.len(),
        Err(_) => {
            check.invalid(field, value.clone(), "must be base64");
            0
        }
    }
}

/// Once `immutable` is true it stays so, and the data with it.
fn check_immutable(check: &mut Check, new: &Value, old: &Value, keys: &[&str]) {
    if !bool_at(old, &["immutable"]) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !bool_at(new, &["immutable"]) {
        check.forbidden("immutable", detail);
    }
    for key in keys {
        if !semantic_eq(at(new, &[key]), at(old, &[key])) {
            check.forbidden(*key, detail);
        }
    }
}

fn update_config_map(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    check_immutable(&mut check, new, old, &["data", "binaryData"]);
    check.extend(validate_config_map(new));
    check.errors
}

pub(super) const SECRET: Hooks = Hooks {
    default: |o| {
        merge_string_data(o);
        set_default(o, "type", "Opaque");
    },
    prepare_update: |new, old| {
        // A client that leaves the type out means the one it has.
        if crate::json::is_unset(new, "type") {
            carry(new, old, "type");
        }
    },
    validate: validate_secret,
    validate_update: |new, old| {
        let mut check = Check::default();
        if str_at(new, &["type"]) != str_at(old, &["type"]) {
            check.invalid("type", str_at(new, &["type"]), IMMUTABLE);
        }
        check_immutable(&mut check, new, old, &["data"]);
        check.extend(validate_secret(new));
        check.errors
    },
    selectable: &[("type", |o| text(o, &["type"]))],
    ..Hooks::NONE
};

/// `stringData` is write-only: it overrides `data` and is gone.
fn merge_string_data(o: &mut Value) {
    let Some(strings) = map_at(o, &["stringData"]).cloned() else {
        drop_key(o, "stringData");
        return;
    };
    let data = ensure_object(o, "data");
    for (key, value) in strings {
        if let Some(text) = value.as_str() {
            data[key] = STANDARD.encode(text).into();
        }
    }
    drop_key(o, "stringData");
}

fn validate_secret(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let empty = Map::new();
    let data = map_at(o, &["data"]).unwrap_or(&empty);
    let mut total = 0;
    for (key, value) in data {
        let field = format!("data[{key}]");
        check.syntax(&field, key, names::config_map_key(key));
        total += decoded_len(&mut check, value, &field);
    }
    if total > MAX_DATA {
        check.extend([FieldError::too_long("data", MAX_DATA)]);
    }
    match str_at(o, &["type"]) {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if meta::annotations(o).and_then(|a| a.get(key)).and_then(Value::as_str).unwrap_or("").is_empty() {
                check.required(format!("metadata.annotations[{key}]"), "");
            }
        }
        "kubernetes.io/dockercfg" => check_json(&mut check, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => check_json(&mut check, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            check.required("data[username]", "");
            check.required("data[password]", "");
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|v| v == "") => {
            check.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.contains_key(key) {
                    check.required(format!("data[{key}]"), "");
                }
            }
        }
        _ => {}
    }
    check.errors
}

fn check_json(check: &mut Check, data: &Map<String, Value>, key: &str) {
    let field = format!("data[{key}]");
    match data.get(key).and_then(Value::as_str) {
        None => check.required(field, ""),
        Some(encoded) => {
            let valid = STANDARD.decode(encoded).is_ok_and(|b| serde_json::from_slice::<Value>(&b).is_ok());
            if !valid {
                check.invalid(field, "<secret contents redacted>", "invalid JSON");
            }
        }
    }
}
