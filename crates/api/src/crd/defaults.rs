//! Defaults of structural schemas.

use serde_json::Value;

/// Depth to which defaults are filled in; stored documents are not nested deeper.
const DEPTH: usize = 128;

/// Whether there is a default anywhere in the schema.
pub(super) fn has_defaults(schema: &Value) -> bool {
    schema.get("default").is_some()
        || ["properties"].iter().filter_map(|k| schema[*k].as_object()).flat_map(|m| m.values()).any(has_defaults)
        || ["items", "additionalProperties"].iter().any(|k| schema[*k].is_object() && has_defaults(&schema[*k]))
}

/// Fills in what is absent, and what is null where null is no value.
pub(super) fn apply(schema: &Value, value: &mut Value, depth: usize) {
    if depth > DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let null = map.get(name).is_some_and(Value::is_null);
                if let Some(default) = property.get("default")
                    && (!map.contains_key(name) || (null && property["nullable"] != true))
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(child) = map.get_mut(name) {
                    apply(property, child, depth + 1);
                }
            }
            let Some(rest) = schema.get("additionalProperties").filter(|s| s.is_object()) else { return };
            let declared = schema["properties"].as_object();
            for (name, child) in map.iter_mut() {
                if declared.is_none_or(|d| !d.contains_key(name)) {
                    if child.is_null()
                        && rest["nullable"] != true
                        && let Some(default) = rest.get("default")
                    {
                        *child = default.clone();
                    }
                    apply(rest, child, depth + 1);
                }
            }
        }
        Value::Array(list) => {
            let items = &schema["items"];
            for item in list.iter_mut().filter(|_| items.is_object()) {
                if item.is_null()
                    && items["nullable"] != true
                    && let Some(default) = items.get("default")
                {
                    *item = default.clone();
                }
                apply(items, item, depth + 1);
            }
        }
        _ => {}
    }
}
