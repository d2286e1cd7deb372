//! Between JSON and the evaluator's values.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map, OptionalValue};
use serde_json::Value;

/// Words of the language: no names of variables and functions, and those of fields only in their escaped form.
pub(super) const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn from_json(value: &Value, escapes: bool) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Cel::Int(n),
            (None, Some(n)) => Cel::UInt(n),
            _ => Cel::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => Cel::String(Arc::new(s.clone())),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(|v| from_json(v, escapes)).collect())),
        Value::Object(map) => object(map, escapes, |_, value| from_json(value, escapes)),
    }
}

/// A value as its schema types it: a `number` is a double also without a fraction, and texts of some formats are times,
/// durations and bytes.
pub(super) fn typed(value: &Value, schema: &Value, escapes: bool) -> Cel {
    if schema["x-kubernetes-int-or-string"] == true {
        return from_json(value, escapes);
    }
    match (value, schema["type"].as_str().unwrap_or("")) {
        (Value::Number(n), "number") => Cel::Float(n.as_f64().unwrap_or(f64::NAN)),
        (Value::String(text), _) => {
            formatted(text, schema["format"].as_str().unwrap_or("")).unwrap_or_else(|| from_json(value, escapes))
        }
        (Value::Array(list), _) => {
            Cel::List(Arc::new(list.iter().map(|v| typed(v, &schema["items"], escapes)).collect()))
        }
        (Value::Object(map), _) => {
            let below = |key: &str| schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]);
            object(map, escapes, |key, value| typed(value, below(key), escapes))
        }
        _ => from_json(value, escapes),
    }
}

fn formatted(text: &str, format: &str) -> Option<Cel> {
    let time = |at: jiff::Timestamp| {
        let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
        chrono::DateTime::from_timestamp(at.as_second(), nanos).map(|at| Cel::Timestamp(at.fixed_offset()))
    };
    match format {
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Cel::Bytes(Arc::new(bytes)))
        }
        "date-time" => time(text.parse().ok()?),
        "date" => {
            let day: jiff::civil::Date = text.parse().ok()?;
            time(day.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        }
        "duration" => {
            let length = crate::duration::parse(text).ok()?;
            i64::try_from(length.as_nanos()).ok().map(|nanos| Cel::Duration(chrono::Duration::nanoseconds(nanos)))
        }
        _ => None,
    }
}

fn object(map: &serde_json::Map<String, Value>, escapes: bool, convert: impl Fn(&str, &Value) -> Cel) -> Cel {
    let mut out = HashMap::with_capacity(map.len());
    for (key, value) in map {
        let value = convert(key, value);
        if escapes && let Some(escaped) = escaped(key) {
            out.insert(Key::String(Arc::new(escaped)), value.clone());
        }
        out.insert(Key::String(Arc::new(key.clone())), value);
    }
    Cel::Map(Map { map: Arc::new(out) })
}

/// How Kubernetes spells a field name that is no identifier, if it is none.
pub(super) fn escaped(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let out = name
        .replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__");
    (out != name).then_some(out)
}

pub(super) fn optional(value: Option<Cel>) -> Cel {
    Cel::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}

pub(super) fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(b) => (*b).into(),
        Cel::Int(n) => (*n).into(),
        Cel::UInt(n) => (*n).into(),
        Cel::Float(n) => serde_json::Number::from_f64(*n).map(Value::Number)?,
        Cel::String(s) => s.as_str().into(),
        Cel::List(list) => Value::Array(list.iter().map(to_json).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let mut out = serde_json::Map::new();
            for (key, value) in map.map.iter() {
                let Key::String(key) = key else { return None };
                out.insert(key.to_string(), to_json(value)?);
            }
            Value::Object(out)
        }
        Cel::Bytes(bytes) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()).into()
        }
        Cel::Timestamp(time) => time.to_rfc3339().into(),
        _ => return None,
    })
}
