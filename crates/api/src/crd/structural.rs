//! The rules of structural schemas (KEP-1693 and apiextensions.k8s.io/v1).

use serde_json::Value;

use super::values;
use crate::cel;
use crate::json::str_at;
use crate::status::FieldError;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Rules in one schema may be this long, in bytes.
const RULE: usize = 10 << 10;
/// Schemas nested deeper are refused.
const DEPTH: usize = 64;
/// Findings beyond this many are not looked for.
const ENOUGH: usize = 64;

/// Whether a schema stands below a junctor (`allOf` and the like), where it may only restrict.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Inside,
    Junctor,
}

/// Everything that is wrong with a version's schema.
pub(super) fn check(schema: &Value, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if str_at(schema, &["type"]) != "object" {
        let found = str_at(schema, &["type"]);
        if found.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), "must not be empty at the root"));
        } else {
            errors.push(FieldError::invalid(format!("{at}.type"), found, "must be object at the root"));
        }
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{at}.nullable"), "nullable cannot be true at the root"));
    }
    visit(schema, at, Place::Root, 0, &mut errors);
    errors
}

fn visit(schema: &Value, at: &str, place: Place, depth: usize, errors: &mut Vec<FieldError>) {
    if errors.len() >= ENOUGH {
        return;
    }
    if depth > DEPTH {
        errors.push(FieldError::forbidden(at, format!("schemas may be nested {DEPTH} deep at most")));
        return;
    }
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::invalid(at, schema.clone(), "must be a schema"));
        return;
    };
    for key in ["$ref", "definitions", "dependencies", "id", "patternProperties", "additionalItems", "uniqueItems"] {
        let unused = key == "uniqueItems" && map.get(key) == Some(&Value::Bool(false));
        if map.contains_key(key) && !unused {
            let detail = match key {
                "uniqueItems" => "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                _ => "must not be set: it is not supported",
            };
            errors.push(FieldError::forbidden(format!("{at}.{key}"), detail));
        }
    }
    let ty = str_at(schema, &["type"]);
    let free = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    match ty {
        "" if free || place == Place::Junctor => {}
        "" => errors.push(FieldError::required(format!("{at}.type"), "must not be empty for specified object fields")),
        ty if !TYPES.contains(&ty) => {
            errors.push(FieldError::not_supported(format!("{at}.type"), ty, &TYPES));
        }
        _ => {}
    }
    if place == Place::Junctor {
        for key in ["type", "default", "additionalProperties", "nullable", "description"] {
            let allowed = key == "type" && ["integer", "string"].contains(&ty);
            if map.get(key).is_some_and(|v| !v.is_null()) && !allowed && key != "description" {
                errors.push(FieldError::forbidden(format!("{at}.{key}"), "must be empty to be structural"));
            }
        }
    }
    if map.contains_key("properties") && map.get("additionalProperties").is_some_and(|a| *a != Value::Bool(false)) {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{at}.additionalProperties"), detail));
    }
    if map.get("additionalProperties") == Some(&Value::Bool(false)) {
        errors.push(FieldError::forbidden(
            format!("{at}.additionalProperties"),
            "additionalProperties cannot be set to false",
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(why) = super::pattern(pattern)
    {
        errors.push(FieldError::invalid(
            format!("{at}.pattern"),
            pattern,
            format!("must be a valid regular expression, but isn't: {why}"),
        ));
    }
    lists(schema, ty, at, place, errors);
    default(schema, at, errors);
    rules(schema, at, errors);
    children(schema, at, place, depth, errors);
}

fn children(schema: &Value, at: &str, place: Place, depth: usize, errors: &mut Vec<FieldError>) {
    let below = if place == Place::Junctor { Place::Junctor } else { Place::Inside };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.properties[{name}]");
        if place == Place::Root && name == "metadata" {
            let extra = property["properties"].as_object().into_iter().flat_map(|m| m.keys());
            for key in extra.filter(|k| !matches!(k.as_str(), "name" | "generateName")) {
                let detail =
                    "must not specify anything other than name and generateName, but metadata is implicitly specified";
                errors.push(FieldError::forbidden(format!("{path}.properties[{key}]"), detail));
            }
            continue;
        }
        visit(property, &path, below, depth + 1, errors);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            visit(&schema[key], &format!("{at}.{key}"), below, depth + 1, errors);
        } else if schema[key].is_array() {
            errors.push(FieldError::forbidden(format!("{at}.{key}"), "items must be a schema object and not an array"));
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, branch) in schema[key].as_array().into_iter().flatten().enumerate() {
            visit(branch, &format!("{at}.{key}[{i}]"), Place::Junctor, depth + 1, errors);
        }
    }
    if schema["not"].is_object() {
        visit(&schema["not"], &format!("{at}.not"), Place::Junctor, depth + 1, errors);
    }
}

fn lists(schema: &Value, ty: &str, at: &str, place: Place, errors: &mut Vec<FieldError>) {
    if ty == "array" && !schema["items"].is_object() && place != Place::Junctor {
        errors.push(FieldError::required(format!("{at}.items"), "must be specified"));
    }
    let list = str_at(schema, &["x-kubernetes-list-type"]);
    let field = format!("{at}.x-kubernetes-list-type");
    if !list.is_empty() && ty != "array" {
        errors.push(FieldError::invalid(
            format!("{at}.type"),
            ty,
            "must be array if x-kubernetes-list-type is specified",
        ));
    }
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    match list {
        "" | "atomic" | "set" if keys.is_some_and(|k| !k.is_empty()) => {
            errors.push(FieldError::invalid(field, list, "must be map if x-kubernetes-list-map-keys is non-empty"));
        }
        "" | "atomic" | "set" => {}
        "map" => {
            let keys = keys.map(Vec::as_slice).unwrap_or_default();
            if keys.is_empty() {
                let detail = "must not be empty if x-kubernetes-list-type is map";
                errors.push(FieldError::required(format!("{at}.x-kubernetes-list-map-keys"), detail));
            }
            for (i, key) in keys.iter().enumerate() {
                let name = key.as_str().unwrap_or("");
                let property = schema["items"]["properties"].get(name);
                if property.is_none() {
                    let detail = "entries must all be names of item properties";
                    errors.push(FieldError::invalid(format!("{at}.x-kubernetes-list-map-keys[{i}]"), name, detail));
                    continue;
                }
                let required = schema["items"]["required"].as_array().is_some_and(|r| r.contains(key));
                if !required && property.is_some_and(|p| p.get("default").is_none()) {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(format!("{at}.items.properties[{name}].default"), detail));
                }
            }
        }
        other => errors.push(FieldError::not_supported(field, other, &["atomic", "map", "set"])),
    }
    match str_at(schema, &["x-kubernetes-map-type"]) {
        "" | "atomic" | "granular" => {}
        other => {
            errors.push(FieldError::not_supported(
                format!("{at}.x-kubernetes-map-type"),
                other,
                &["atomic", "granular"],
            ));
        }
    }
}

/// A default must satisfy its own schema.
fn default(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(default) = schema.get("default") else { return };
    let mut patterns = std::collections::HashMap::new();
    if super::compile_patterns(schema, &mut patterns).is_err() {
        return;
    }
    let mut whole = default.clone();
    super::defaults::apply(schema, &mut whole, 0);
    for error in values::validate(schema, &patterns, &whole, None) {
        let below = if error.field.is_empty() { String::new() } else { format!(".{}", error.field) };
        errors.push(FieldError { field: format!("{at}.default{below}"), ..error });
    }
}

fn rules(schema: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.x-kubernetes-validations[{i}]");
        let text = str_at(rule, &["rule"]);
        if text.trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.rule"), "rule is not specified"));
        } else if text.len() > RULE {
            errors.push(FieldError::too_long(format!("{at}.rule"), RULE));
        }
        for key in ["rule", "messageExpression"] {
            let text = str_at(rule, &[key]);
            if let Some(Err(why)) = (!text.trim().is_empty()).then(|| cel::compile(text, &["self", "oldSelf"])) {
                errors.push(FieldError::invalid(format!("{at}.{key}"), text, format!("compilation failed: {why}")));
            }
        }
        let reasons = ["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];
        let reason = str_at(rule, &["reason"]);
        if !reason.is_empty() && !reasons.contains(&reason) {
            errors.push(FieldError::not_supported(format!("{at}.reason"), reason, &reasons));
        }
    }
}
