//! Values of a custom resource against its schema, in the words of Kubernetes' validator.

use std::collections::HashMap;

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::status::{FieldError, FieldErrorKind};

/// Findings beyond this many are not looked for.
const ENOUGH: usize = 100;

struct Check<'a> {
    patterns: &'a HashMap<String, Regex>,
    errors: Vec<FieldError>,
}

/// Everything that is wrong with the object; `metadata` is checked elsewhere. What is as it was in `old` passes: a schema may
/// have become stricter since (KEP-4008).
pub(super) fn validate(
    schema: &Value,
    patterns: &HashMap<String, Regex>,
    object: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let mut check = Check { patterns, errors: Vec::new() };
    check.value(schema, object, old, "", true);
    check.errors
}

/// The item of an old list that an item of the new one replaces; `None` where items cannot be told apart.
pub(super) fn counterpart<'a>(schema: &Value, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array().filter(|_| schema["x-kubernetes-list-type"] == "map")?;
    let same = |o: &&Value| keys.iter().filter_map(Value::as_str).all(|k| o.get(k) == item.get(k));
    old?.as_array()?.iter().find(same)
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn number(value: &Value) -> String {
    value.to_string()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(wanted: &str, value: &Value) -> bool {
    match (wanted, value) {
        ("number", Value::Number(_)) => true,
        ("integer", Value::Number(n)) => n.as_f64().is_some_and(|f| f.fract() == 0.0),
        (wanted, value) => wanted == type_of(value),
    }
}

impl Check<'_> {
    fn invalid(&mut self, path: &str, value: &Value, words: &str) {
        let detail = format!("{path} in body {words}");
        self.errors.push(FieldError::invalid(path, value.clone(), detail));
    }

    fn value(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, root: bool) {
        if self.errors.len() >= ENOUGH || !schema.is_object() || old == Some(value) {
            return;
        }
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        if !self.typed(schema, value, path) {
            return;
        }
        self.allowed(schema, value, path);
        self.combined(schema, value, old, path, root);
        match value {
            Value::String(text) => self.text(schema, value, text, path),
            Value::Number(n) => self.number(schema, value, n.as_f64().unwrap_or(0.0), path),
            Value::Array(list) => self.list(schema, list, old, path),
            Value::Object(map) => self.object(schema, map, old, path, root),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn typed(&mut self, schema: &Value, value: &Value, path: &str) -> bool {
        let wanted = schema["type"].as_str();
        let fits = match wanted {
            _ if schema["x-kubernetes-int-or-string"] == true => has_type("integer", value) || value.is_string(),
            Some(wanted) => has_type(wanted, value),
            None => true,
        };
        if fits {
            return true;
        }
        let wanted = wanted.unwrap_or("integer,string");
        let found = type_of(value);
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        self.errors.push(FieldError::type_invalid(path, found, detail));
        false
    }

    fn allowed(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(list) = schema["enum"].as_array() else { return };
        if list.contains(value) {
            return;
        }
        let shown: Vec<String> =
            list.iter().map(|v| if let Value::String(s) = v { format!("{s:?}") } else { v.to_string() }).collect();
        self.errors.push(FieldError {
            kind: FieldErrorKind::NotSupported,
            field: path.to_owned(),
            detail: format!("supported values: {}", shown.join(", ")),
            value: value.clone(),
        });
    }

    /// `allOf`, `anyOf`, `oneOf`, `not`.
    fn combined(&mut self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, root: bool) {
        let branch = |schema: &Value| {
            let mut check = Check { patterns: self.patterns, errors: Vec::new() };
            check.value(schema, value, old, path, root);
            check.errors
        };
        let mut found = Vec::new();
        let mut say = |words: &str| {
            let detail = format!("{path:?} {words}");
            found.push(FieldError::invalid(path, value.clone(), detail));
        };
        let list = |key: &str| schema[key].as_array().filter(|l| !l.is_empty());
        let mut inner = Vec::new();
        if let Some(all) = list("allOf") {
            inner.extend(all.iter().flat_map(&branch));
            if !inner.is_empty() {
                say("must validate all the schemas (allOf)");
            }
        }
        if let Some(any) = list("anyOf") {
            let tried: Vec<_> = any.iter().map(&branch).collect();
            if tried.iter().all(|e| !e.is_empty()) {
                say("must validate at least one schema (anyOf)");
                inner.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if let Some(one) = list("oneOf") {
            let tried: Vec<_> = one.iter().map(&branch).collect();
            match tried.iter().filter(|e| e.is_empty()).count() {
                1 => {}
                0 => {
                    say("must validate one and only one schema (oneOf). Found none valid");
                    inner.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
                n => say(&format!("must validate one and only one schema (oneOf). Found {n} valid alternatives")),
            }
        }
        if schema["not"].is_object() && branch(&schema["not"]).is_empty() {
            say("must not validate the schema (not)");
        }
        self.errors.extend(found);
        self.errors.extend(inner);
    }

    fn text(&mut self, schema: &Value, value: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
            self.errors.push(FieldError { value: value.clone(), ..FieldError::too_long(path, max as usize) });
        }
        if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && self.patterns.get(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            self.invalid(path, value, &format!("should match '{pattern}'"));
        }
        if let Some(format) = schema["format"].as_str()
            && !has_format(format, text)
        {
            self.invalid(path, value, &format!("must be of type {format}: {text:?}"));
        }
    }

    fn number(&mut self, schema: &Value, value: &Value, n: f64, path: &str) {
        let range: Option<(f64, f64)> = match schema["format"].as_str() {
            Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if range.is_some_and(|(low, high)| n < low || n > high) {
            self.invalid(path, value, "must be of type int32: \"int64\"");
        }
        if let Some(max) = schema["maximum"].as_f64() {
            let exclusive = schema["exclusiveMaximum"] == true;
            if n > max || (exclusive && n >= max) {
                let words = if exclusive { "should be less than" } else { "should be less than or equal to" };
                self.invalid(path, value, &format!("{words} {}", number(&schema["maximum"])));
            }
        }
        if let Some(min) = schema["minimum"].as_f64() {
            let exclusive = schema["exclusiveMinimum"] == true;
            if n < min || (exclusive && n <= min) {
                let words = if exclusive { "should be greater than" } else { "should be greater than or equal to" };
                self.invalid(path, value, &format!("{words} {}", number(&schema["minimum"])));
            }
        }
        if let Some(of) = schema["multipleOf"].as_f64().filter(|of| *of > 0.0) {
            let times = n / of;
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(path, value, &format!("should be a multiple of {}", number(&schema["multipleOf"])));
            }
        }
    }

    fn list(&mut self, schema: &Value, list: &[Value], old: Option<&Value>, path: &str) {
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| list.len() as u64 > *max) {
            self.errors.push(FieldError::too_many(path, list.len(), max as usize));
        }
        if let Some(min) = schema["minItems"].as_u64().filter(|min| (list.len() as u64) < *min) {
            self.invalid(path, &list.len().into(), &format!("should have at least {min} items"));
        }
        let keys = schema["x-kubernetes-list-map-keys"].as_array();
        let identity = |item: &Value| match (schema["x-kubernetes-list-type"].as_str(), keys) {
            (Some("set"), _) => Some(item.clone()),
            (Some("map"), Some(keys)) => {
                let keys = keys.iter().filter_map(Value::as_str);
                Some(Value::Object(
                    keys.filter_map(|k| item.get(k).map(|v| (k.to_owned(), v.clone()))).collect::<Map<_, _>>(),
                ))
            }
            _ => None,
        };
        let mut seen = std::collections::HashSet::new();
        for (index, item) in list.iter().enumerate() {
            let at = format!("{path}[{index}]");
            if let Some(identity) = identity(item)
                && !seen.insert(identity.to_string())
            {
                self.errors.push(FieldError::duplicate(at.clone(), identity));
            }
            self.value(&schema["items"], item, counterpart(schema, item, old), &at, false);
        }
    }

    fn object(&mut self, schema: &Value, map: &Map<String, Value>, old: Option<&Value>, path: &str, root: bool) {
        if let Some(max) = schema["maxProperties"].as_u64().filter(|max| map.len() as u64 > *max) {
            self.errors.push(FieldError::too_many(path, map.len(), max as usize));
        }
        if let Some(min) = schema["minProperties"].as_u64().filter(|min| (map.len() as u64) < *min) {
            self.invalid(path, &json!(map.len()), &format!("should have at least {min} properties"));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                self.errors.push(FieldError::required(child(path, name), ""));
            }
        }
        if schema["x-kubernetes-embedded-resource"] == true {
            for name in ["apiVersion", "kind"] {
                if map.get(name).and_then(Value::as_str).unwrap_or("").is_empty() {
                    self.errors.push(FieldError::required(child(path, name), "must not be empty"));
                }
            }
        }
        let properties = schema["properties"].as_object();
        for (name, value) in map {
            if root && name == "metadata" {
                self.metadata(&schema["properties"]["metadata"], value);
                continue;
            }
            let before = old.and_then(|o| o.get(name));
            if let Some(property) = properties.and_then(|p| p.get(name)) {
                self.value(property, value, before, &child(path, name), false);
            } else if schema["additionalProperties"].is_object() {
                self.value(&schema["additionalProperties"], value, before, &child(path, name), false);
            }
        }
    }

    /// A schema may restrict the name, and nothing else of the metadata.
    fn metadata(&mut self, schema: &Value, metadata: &Value) {
        for name in ["name", "generateName"] {
            if let (Some(schema), Some(value)) = (schema["properties"].get(name), metadata.get(name)) {
                self.value(schema, value, None, &child("metadata", name), false);
            }
        }
    }
}

/// Whether the text has a format that Kubernetes knows; others are not checked.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.len() > 10 && text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, bits)| {
            let max = ip.parse::<std::net::IpAddr>().map(|ip| if ip.is_ipv4() { 32 } else { 128 });
            max.is_ok_and(|max| bits.parse::<u8>().is_ok_and(|bits| bits <= max))
        }),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let hex: String = text.chars().filter(|c| *c != '-').collect();
            hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "duration" => is_duration(text),
        _ => true,
    }
}

/// Go's durations, and the longer words of Kubernetes' format library: `3 days`, `2w`.
fn is_duration(text: &str) -> bool {
    const WORDS: &str =
        r"^(?:\d+\s*(?:ns|nano|us|µs|micro|ms|milli|s|sec|second|m|min|minute|h|hr|hour|d|day|w|week)s?\s*)+$";
    static LONG: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(WORDS).ok());
    crate::duration::parse(text).is_ok() || LONG.as_ref().is_some_and(|long| long.is_match(text))
}
