//! Small accessors over JSON objects, so that defaulting and validation read like the rules they state.

use serde_json::{Map, Value};

/// Follows object keys; `None` when any step is absent or not an object.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key)).filter(|v| !v.is_null())
}

/// The string at `path`, or the empty string, which Kubernetes treats as absent.
pub(crate) fn str_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The integer at `path`.
pub(crate) fn int_at(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The boolean at `path`; absent is `false`.
pub(crate) fn bool_at(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at `path`; absent is empty.
pub(crate) fn list_at<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at `path`, if it is one.
pub(crate) fn map_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// The objects in the list at `path` for editing; absent is empty. Items that are no objects are left alone: the type check
/// refuses them.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    let mut here = Some(value);
    for key in path {
        here = here.and_then(|v| v.get_mut(key));
    }
    here.and_then(Value::as_array_mut).into_iter().flatten().filter(|v| v.is_object())
}

/// The value at `path` for editing, if it is an object.
pub(crate) fn object_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    let mut here = value;
    for key in path {
        here = here.get_mut(key)?;
    }
    here.is_object().then_some(here)
}

/// The object under `key`, created when absent or null. `value` must be an object.
pub(crate) fn ensure_object<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot
}

/// True when `key` is absent, null, or an empty string: the zero values a Go default function fills in.
pub(crate) fn is_unset(value: &Value, key: &str) -> bool {
    match value.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(_) => false,
    }
}

/// Sets `key` when [`is_unset`].
pub(crate) fn set_default(value: &mut Value, key: &str, default: impl Into<Value>) {
    if value.is_object() && is_unset(value, key) {
        value[key] = default.into();
    }
}

/// Sets `key` when [`is_unset`] or the number zero (for Go fields that are plain integers).
pub(crate) fn set_default_nonzero(value: &mut Value, key: &str, default: i64) {
    if value.is_object() && (is_unset(value, key) || value[key].as_i64() == Some(0)) {
        value[key] = default.into();
    }
}

/// Replaces or removes `key` so that it equals the source's.
pub(crate) fn carry(to: &mut Value, from: &Value, key: &str) {
    let Some(map) = to.as_object_mut() else { return };
    match from.get(key).filter(|v| !v.is_null()) {
        Some(v) => {
            map.insert(key.to_owned(), v.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// Removes `key`.
pub(crate) fn drop_key(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// Equality in which absent, null, `{}`, `[]` and `""` are the same, as Go's `DeepEqual` on decoded structs with
/// `omitempty` fields sees them.
pub(crate) fn semantic_eq(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !is_empty(v)), b.filter(|v| !is_empty(v))) {
        (None, None) => true,
        (Some(Value::Object(x)), Some(Value::Object(y))) => {
            x.keys().chain(y.keys()).all(|k| semantic_eq(x.get(k), y.get(k)))
        }
        (Some(Value::Array(x)), Some(Value::Array(y))) => {
            x.len() == y.len() && x.iter().zip(y).all(|(p, q)| semantic_eq(Some(p), Some(q)))
        }
        (Some(x), Some(y)) => x == y,
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
        _ => false,
    }
}
