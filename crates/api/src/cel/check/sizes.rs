//! How large the values of a schema can be, and how small: what the costs of rules are estimated by. The figures are those of
//! Kubernetes (k8s.io/apiserver/pkg/cel), where a rule that was accepted once must stay acceptable.

use serde_json::Value;

/// Bytes of the largest request, which bound what a schema does not.
const REQUEST: u64 = 3 << 20;
/// Characters of the longest text that a request has room for, without its quotes; members of a list or map without its brackets.
const ROOM: u64 = REQUEST - 2;
/// Depth to which a schema is looked at for the size of its smallest value.
const DEPTH: usize = 16;
/// Longest duration and time, and the length of a date, with their quotes.
const DURATION: u64 = 32;
const TIME: u64 = 32;
const DATE: u64 = 12;
/// Bytes that a character can have.
const CHARACTER: u64 = 4;

/// A place in a schema that a rule can reach from one of its variables.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'s> {
    /// The values of a schema; the root and embedded objects have a few more fields.
    Of(&'s Value, bool),
    /// A field that every object has, or what is in it.
    Own(&'static Value),
    /// The keys of a map.
    Keys,
}

/// Fields that the root and embedded objects have in any case.
fn own(name: &str) -> Option<&'static Value> {
    static OWN: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| {
        let text = serde_json::json!({"type": "string"});
        let metadata = serde_json::json!({"type": "object", "properties": {"name": text, "generateName": text}});
        serde_json::json!({"apiVersion": text, "kind": text, "metadata": metadata})
    });
    OWN.get(name)
}

fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

fn limit(schema: &Value, key: &str) -> Option<u64> {
    // Negative ones are none at all.
    schema[key].as_u64().or_else(|| schema[key].as_i64().map(|_| 0))
}

impl<'s> Place<'s> {
    fn schema(self) -> Option<&'s Value> {
        match self {
            Place::Of(schema, _) => Some(schema),
            Place::Own(schema) => Some(schema),
            Place::Keys => None,
        }
    }

    /// A field, as rules spell it.
    pub fn field(self, name: &str) -> Option<Place<'s>> {
        let schema = self.schema()?;
        if let Place::Of(_, true) = self
            && let Some(own) = own(name)
        {
            return Some(Place::Own(own));
        }
        if values(schema).is_some() {
            return None;
        }
        let named = |key: &str| super::super::convert::escaped(key).as_deref().unwrap_or(key) == name;
        let found = schema["properties"].as_object()?.iter().find(|(key, _)| named(key))?.1;
        Some(Place::Of(found, is_embedded(found)))
    }

    /// The items of a list, or the values of a map.
    pub fn elements(self) -> Option<Place<'s>> {
        let schema = self.schema()?;
        let of = if schema["type"] == "array" { schema.get("items")? } else { values(schema)? };
        Some(Place::Of(of, is_embedded(of)))
    }

    /// The keys of a map.
    pub fn keys(self) -> Option<Place<'s>> {
        values(self.schema()?).map(|_| Place::Keys)
    }

    /// The greatest `size()` of its values, in bytes for text. Objects, numbers and the like have none, and neither have keys.
    pub fn most(self) -> u64 {
        self.schema().map_or(0, most)
    }
}

/// What stands under any key of a map.
fn values(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

fn most(schema: &Value) -> u64 {
    let length = limit(schema, "maxLength");
    if schema["x-kubernetes-int-or-string"] == true {
        return length.map_or(ROOM, |n| n.saturating_mul(CHARACTER));
    }
    match (schema["type"].as_str().unwrap_or(""), schema["format"].as_str().unwrap_or("")) {
        ("array", _) => limit(schema, "maxItems").unwrap_or_else(|| ROOM / (smallest(&schema["items"]) + 1)),
        ("object", _) => match values(schema) {
            // Two quotes, a key of two, a colon and a comma.
            Some(values) => limit(schema, "maxProperties").unwrap_or_else(|| ROOM / (smallest(values) + 6)),
            None => 0,
        },
        ("string", "byte") => length.unwrap_or(ROOM),
        ("string", "duration") => DURATION,
        ("string", "date") => DATE,
        ("string", "date-time") => TIME,
        ("string", _) => match (length, schema["enum"].as_array()) {
            (Some(length), _) => length.saturating_mul(CHARACTER),
            (None, Some(words)) if !words.is_empty() => {
                words.iter().filter_map(Value::as_str).map(|word| word.len() as u64).max().unwrap_or(0)
            }
            _ => ROOM,
        },
        _ => 0,
    }
}

/// Bytes of the smallest value of a schema.
fn smallest(schema: &Value) -> u64 {
    smallest_at(schema, 0)
}

fn smallest_at(schema: &Value, depth: usize) -> u64 {
    if schema["x-kubernetes-int-or-string"] == true || depth > DEPTH {
        return 1;
    }
    match (schema["type"].as_str().unwrap_or(""), schema["format"].as_str().unwrap_or("")) {
        ("string", "duration") => 3,
        ("string", "date") => DATE,
        ("string", "date-time") => 21,
        ("string" | "array", _) => 2,
        ("boolean", _) => 4,
        ("object", _) if values(schema).is_some() => 2,
        ("object", _) => {
            let mut required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            required.sort_unstable();
            required.dedup();
            let size = |name: &str| {
                let property = schema["properties"].get(name)?;
                let given = property.get("default").is_some();
                // Quotes, a colon and a comma.
                Some(if given { 0 } else { name.len() as u64 + 4 + smallest_at(property, depth + 1) })
            };
            2 + required.into_iter().filter_map(size).sum::<u64>()
        }
        _ => 1,
    }
}

/// How many values of a schema a request has room for, with a comma after each.
pub(crate) fn cardinality(schema: &Value) -> u64 {
    REQUEST / (smallest(schema) + 1)
}

/// The greatest number of elements of a list or map.
pub(super) fn elements(schema: &Value) -> u64 {
    most(schema)
}
