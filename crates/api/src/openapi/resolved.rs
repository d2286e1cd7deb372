//! The schema of one kind in one piece: what it refers to stands in the place of the reference.

use serde_json::{Map, Value, json};

use super::schemas;
use crate::discovery::CustomKinds;

/// Properties of a schema that types of expressions are made from; the others, descriptions above all, are left out.
const KEPT: [&str; 12] = [
    "type",
    "format",
    "properties",
    "items",
    "additionalProperties",
    "required",
    "default",
    "maxItems",
    "maxProperties",
    "maxLength",
    "x-kubernetes-int-or-string",
    "x-kubernetes-embedded-resource",
];

/// The schema of a kind without references, or `None` when nothing is known of it. A definition within itself is an object
/// without fields, as in Kubernetes.
pub(crate) fn resolved(group: &str, version: &str, kind: &str, custom: CustomKinds<'_>) -> Option<Value> {
    let of_custom = custom.iter().find(|k| k.group == group && k.version == version && k.kind == kind);
    let name = match of_custom {
        Some(kind) => schemas::custom_name(kind),
        None => schemas::definition(group, version, kind)?,
    };
    let definitions = schemas::schemas(group, version, custom);
    let mut resolve = Resolve { definitions: definitions.as_object()?, within: Vec::new() };
    resolve.named(&name)
}

struct Resolve<'a> {
    definitions: &'a Map<String, Value>,
    /// The definitions around the place at hand.
    within: Vec<String>,
}

impl Resolve<'_> {
    fn named(&mut self, name: &str) -> Option<Value> {
        if self.within.iter().any(|outer| outer == name) {
            return Some(json!({"type": "object"}));
        }
        let definition = self.definitions.get(name)?;
        self.within.push(name.to_owned());
        let out = self.schema(definition);
        self.within.pop();
        Some(out)
    }

    fn schema(&mut self, schema: &Value) -> Value {
        if let Some(name) = schemas::target(schema) {
            return self.named(&name).unwrap_or(Value::Null);
        }
        let mut out = Map::new();
        for (key, value) in schema.as_object().into_iter().flatten().filter(|(key, _)| KEPT.contains(&key.as_str())) {
            let value = match key.as_str() {
                "properties" => {
                    let each = value.as_object().into_iter().flatten();
                    Value::Object(each.map(|(name, schema)| (name.clone(), self.schema(schema))).collect())
                }
                "items" => self.schema(value),
                "additionalProperties" if value.is_object() => self.schema(value),
                _ => value.clone(),
            };
            out.insert(key.clone(), value);
        }
        let either = schema["oneOf"].is_array() || schema["anyOf"].is_array();
        if schema["format"] == "int-or-string" || (either && !out.contains_key("type")) {
            out.insert("x-kubernetes-int-or-string".to_owned(), true.into());
        }
        Value::Object(out)
    }
}
