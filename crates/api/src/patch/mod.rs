//! The three patch formats of the API: JSON patch, JSON merge patch, strategic merge patch.
//!
//! All take the whole document and return a new one; a failed patch changes nothing.

mod json_patch;
mod merge_patch;
mod order;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::status::ApiError;

pub use json_patch::{conditional_json_patch, json_patch};
pub use merge_patch::merge_patch;
pub use strategic::strategic_merge;

/// Operations in one JSON patch (Kubernetes' limit).
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Nesting of a patch and of what it makes. The JSON parser has the same limit for documents.
pub const MAX_DEPTH: usize = 128;

/// Levels of nesting below and including `value`: a scalar has one.
fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn check_depth(patch: &Value) -> Result<(), ApiError> {
    if depth(patch) > MAX_DEPTH {
        return Err(ApiError::bad_request(format!("the patch is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(())
}

/// 422 for a well-formed patch that does not fit the document. Kubernetes leaves out why; the cause says it.
fn unprocessable(why: impl std::fmt::Display) -> ApiError {
    ApiError {
        code: 422,
        reason: "Invalid",
        message: "the server rejected our request due to an error in our request".into(),
        details: Some(json!({"causes": [{"reason": "UnexpectedServerResponse", "message": why.to_string()}]})),
    }
}
