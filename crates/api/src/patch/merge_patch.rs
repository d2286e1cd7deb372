//! JSON merge patch (RFC 7386).

use serde_json::{Map, Value};

use super::check_depth;
use crate::status::ApiError;

/// Merges `patch` into `doc`: `null` removes, objects merge, everything else replaces.
///
/// # Errors
/// 400 when the patch is not an object or is nested too deeply.
pub fn merge_patch(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch_map) = patch else {
        return Err(ApiError::bad_request("Invalid JSON Patch"));
    };
    check_depth(patch)?;
    let mut out = doc.clone();
    if !out.is_object() {
        out = Value::Object(Map::new());
    }
    if let Value::Object(map) = &mut out {
        merge_map(map, patch_map);
    }
    Ok(out)
}

fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                let entry = target.entry(key.clone()).or_insert(Value::Null);
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(map) = entry {
                    merge_map(map, patch);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}
