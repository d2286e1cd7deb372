//! What the API server does with a definition itself: defaults, and what it keeps in the status.

use serde_json::{Value, json};

use super::validation;
use crate::json::{bool_at, carry, drop_key, ensure_object, list_at, list_mut, str_at};
use crate::kinds::Hooks;

/// Holds a definition until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Behaviour of `CustomResourceDefinition`.
pub const HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate: validation::definition,
    validate_create: validation::ca_bundle,
    validate_update: validation::replacement,
    ..Hooks::NONE
};

fn default(definition: &mut Value) {
    let kind = str_at(definition, &["spec", "names", "kind"]).to_owned();
    if let Some(names) = definition["spec"].get_mut("names").filter(|n| n.is_object()) {
        if str_at(names, &["singular"]).is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if str_at(names, &["listKind"]).is_empty() && !kind.is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
    }
    let Some(spec) = definition.get_mut("spec").filter(|s| s.is_object()) else { return };
    if spec["conversion"].is_null() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    if let Some(client) = spec["conversion"].get_mut("webhook").and_then(|w| w.get_mut("clientConfig"))
        && let Some(service) = client.get_mut("service").filter(|s| s.is_object())
        && service["port"].is_null()
    {
        service["port"] = 443.into();
    }
    for version in list_mut(definition, &["spec", "versions"]) {
        // Subresources are there or not; null is not.
        if version["subresources"].is_null() {
            drop_key(version, "subresources");
        }
    }
}

fn remember_storage(definition: &mut Value) {
    let storage = list_at(definition, &["spec", "versions"]).iter().find(|v| bool_at(v, &["storage"]));
    let Some(name) = storage.map(|v| str_at(v, &["name"]).to_owned()) else { return };
    let status = ensure_object(definition, "status");
    if !status["storedVersions"].is_array() {
        status["storedVersions"] = json!([]);
    }
    if let Some(list) = status["storedVersions"].as_array_mut()
        && !list.iter().any(|v| *v == name.as_str())
    {
        list.push(name.into());
    }
}

fn hold(definition: &mut Value) {
    let metadata = ensure_object(definition, "metadata");
    if !metadata["finalizers"].is_array() {
        metadata["finalizers"] = json!([]);
    }
    if let Some(list) = metadata["finalizers"].as_array_mut()
        && !list.iter().any(|f| f == FINALIZER)
    {
        list.push(FINALIZER.into());
    }
}

fn prepare_create(definition: &mut Value) {
    drop_key(definition, "status");
    remember_storage(definition);
    hold(definition);
}

fn prepare_update(new: &mut Value, old: &Value) {
    carry(new, old, "status");
    remember_storage(new);
    if !crate::meta::is_deleting(old) {
        hold(new);
    }
}

/// A condition of the status.
pub fn condition<'a>(definition: &'a Value, name: &str) -> Option<&'a Value> {
    list_at(definition, &["status", "conditions"]).iter().find(|c| c["type"] == name)
}

/// Whether a condition is there and true.
pub fn is_true(definition: &Value, name: &str) -> bool {
    condition(definition, name).is_some_and(|c| c["status"] == "True")
}

/// Sets a condition; its time changes only with its status.
pub fn set_condition(definition: &mut Value, name: &str, status: bool, [reason, message]: [&str; 2], now: &str) {
    let word = if status { "True" } else { "False" };
    let since = match condition(definition, name) {
        Some(old) if old["status"] == word => old["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    let new = json!({
        "type": name, "status": word, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    let status = ensure_object(definition, "status");
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(list) = status["conditions"].as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == name) {
        Some(old) => *old = new,
        None => list.push(new),
    }
}
