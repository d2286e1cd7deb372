//! JSON patch (RFC 6902).

use serde_json::Value;

use super::{MAX_DEPTH, MAX_JSON_PATCH_OPERATIONS, depth, unprocessable};
use crate::status::ApiError;

/// Bytes that the `copy` operations of one patch may copy in all, as JSON (Kubernetes' limit): copies of copies double.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Why an operation could not be applied.
#[derive(Debug, thiserror::Error)]
enum OperationError {
    #[error("Unexpected kind: {0}")]
    UnknownOperation(String),
    #[error("{op} operation is missing {field:?}")]
    MissingField { op: String, field: &'static str },
    #[error("{0:?} is not a JSON pointer")]
    Pointer(String),
    #[error("{op} operation does not apply: doc is missing path: {path}: missing value")]
    MissingPath { op: &'static str, path: String },
    #[error("{op} operation does not apply: doc is missing key: {path}: missing value")]
    MissingKey { op: &'static str, path: String },
    #[error("{op} operation does not apply: {path}: invalid index referenced")]
    Index { op: &'static str, path: String },
    #[error("testing value {0} failed: test failed")]
    TestFailed(String),
    #[error("move operation does not apply: {0} lies inside what is moved")]
    IntoItself(String),
    #[error("{0} would be nested deeper than {MAX_DEPTH} levels")]
    TooDeep(String),
    #[error("Unable to complete the copy, the accumulated size increase of copy is over the limit {MAX_COPIED_BYTES}")]
    TooMuchCopied,
}

/// Applies a JSON patch.
///
/// # Errors
/// 400 when `patch` is not a list of operations, 413 beyond 10,000 operations, 422 when an operation does not apply.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    run(doc, operations(patch)?).map_err(unprocessable)
}

/// Applies a JSON patch whose `test` operations are conditions: when one fails, the patch changes nothing, and the
/// result is `None`. So admission policies understand their patches.
///
/// # Errors
/// As [`json_patch`], and the message says which operation does not apply.
pub fn conditional_json_patch(doc: &Value, patch: &Value) -> Result<Option<Value>, ApiError> {
    match run(doc, operations(patch)?) {
        Ok(new) => Ok(Some(new)),
        Err(OperationError::TestFailed(_)) => Ok(None),
        Err(why) => Err(ApiError { message: why.to_string(), ..unprocessable(&why) }),
    }
}

fn operations(patch: &Value) -> Result<&[Value], ApiError> {
    let Value::Array(operations) = patch else {
        return Err(ApiError::bad_request("error decoding patch: a JSON patch is a list of operations"));
    };
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(ApiError::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    if operations.iter().any(|op| !op.is_object()) {
        return Err(ApiError::bad_request("error decoding patch: an operation is not an object"));
    }
    Ok(operations)
}

fn run(doc: &Value, operations: &[Value]) -> Result<Value, OperationError> {
    let mut out = doc.clone();
    let mut copied = 0;
    for operation in operations {
        apply(&mut out, operation, &mut copied)?;
    }
    Ok(out)
}

fn apply(doc: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), OperationError> {
    let op = operation["op"].as_str().unwrap_or_default();
    let missing = |field| OperationError::MissingField { op: op.to_owned(), field };
    let text = |field: &'static str| operation.get(field).and_then(Value::as_str).ok_or_else(|| missing(field));
    let path = || Pointer::parse(text("path")?);
    let value = || operation.get("value").cloned();
    match op {
        "add" => add(doc, &path()?, value().ok_or_else(|| missing("value"))?, "add"),
        "remove" => remove(doc, &path()?, "remove").map(drop),
        "replace" => replace(doc, &path()?, value().ok_or_else(|| missing("value"))?),
        "test" => test(doc, &path()?, &value().unwrap_or(Value::Null)),
        "move" => {
            let (from, to) = (Pointer::parse(text("from")?)?, path()?);
            if to.tokens.len() > from.tokens.len() && to.tokens.starts_with(&from.tokens) {
                return Err(OperationError::IntoItself(to.text));
            }
            let value = remove(doc, &from, "move")?;
            add(doc, &to, value, "move")
        }
        "copy" => {
            let from = Pointer::parse(text("from")?)?;
            let value = get(doc, &from).ok_or_else(|| from.missing_path("copy"))?.clone();
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(OperationError::TooMuchCopied);
            }
            add(doc, &path()?, value, "copy")
        }
        other => Err(OperationError::UnknownOperation(other.to_owned())),
    }
}

/// A parsed JSON pointer (RFC 6901).
struct Pointer {
    text: String,
    tokens: Vec<String>,
}

impl Pointer {
    fn parse(text: &str) -> Result<Self, OperationError> {
        let fail = || OperationError::Pointer(text.to_owned());
        let tokens = match text.strip_prefix('/') {
            Some(rest) => rest.split('/').map(|t| t.replace("~1", "/").replace("~0", "~")).collect(),
            None if text.is_empty() => Vec::new(),
            None => return Err(fail()),
        };
        Ok(Self { text: text.to_owned(), tokens })
    }

    fn missing_path(&self, op: &'static str) -> OperationError {
        OperationError::MissingPath { op, path: self.text.clone() }
    }

    fn missing_key(&self, op: &'static str) -> OperationError {
        OperationError::MissingKey { op, path: self.text.clone() }
    }

    fn bad_index(&self, op: &'static str) -> OperationError {
        OperationError::Index { op, path: self.text.clone() }
    }
}

/// An array index: digits without leading zeros.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if canonical { token.parse().ok() } else { None }
}

fn step<'v>(value: &'v Value, token: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(token),
        Value::Array(list) => list.get(index(token)?),
        _ => None,
    }
}

fn step_mut<'v>(value: &'v mut Value, token: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(map) => map.get_mut(token),
        Value::Array(list) => list.get_mut(index(token)?),
        _ => None,
    }
}

fn get<'v>(doc: &'v Value, pointer: &Pointer) -> Option<&'v Value> {
    pointer.tokens.iter().try_fold(doc, |at, token| step(at, token))
}

/// The value that holds what the pointer points to, and the last token.
fn parent<'v, 'p>(
    doc: &'v mut Value,
    pointer: &'p Pointer,
    op: &'static str,
) -> Result<Option<(&'v mut Value, &'p str)>, OperationError> {
    let Some((last, tokens)) = pointer.tokens.split_last() else { return Ok(None) };
    let holder = tokens.iter().try_fold(doc, |at, token| step_mut(at, token));
    holder.map(|holder| Some((holder, last.as_str()))).ok_or_else(|| pointer.missing_path(op))
}

fn add(doc: &mut Value, pointer: &Pointer, value: Value, op: &'static str) -> Result<(), OperationError> {
    if pointer.tokens.len() + depth(&value) > MAX_DEPTH {
        return Err(OperationError::TooDeep(pointer.text.clone()));
    }
    let Some((holder, token)) = parent(doc, pointer, op)? else {
        *doc = value;
        return Ok(());
    };
    match holder {
        Value::Object(map) => {
            map.insert(token.to_owned(), value);
        }
        Value::Array(list) if token == "-" => list.push(value),
        Value::Array(list) => {
            let at = index(token).filter(|at| *at <= list.len()).ok_or_else(|| pointer.bad_index(op))?;
            list.insert(at, value);
        }
        _ => return Err(pointer.missing_path(op)),
    }
    Ok(())
}

fn remove(doc: &mut Value, pointer: &Pointer, op: &'static str) -> Result<Value, OperationError> {
    let Some((holder, token)) = parent(doc, pointer, op)? else { return Ok(doc.take()) };
    match holder {
        Value::Object(map) => map.remove(token).ok_or_else(|| pointer.missing_key(op)),
        Value::Array(list) => {
            let at = index(token).filter(|at| *at < list.len()).ok_or_else(|| pointer.bad_index(op))?;
            Ok(list.remove(at))
        }
        _ => Err(pointer.missing_path(op)),
    }
}

fn replace(doc: &mut Value, pointer: &Pointer, value: Value) -> Result<(), OperationError> {
    if pointer.tokens.len() + depth(&value) > MAX_DEPTH {
        return Err(OperationError::TooDeep(pointer.text.clone()));
    }
    let Some((holder, token)) = parent(doc, pointer, "replace")? else {
        *doc = value;
        return Ok(());
    };
    let target = step_mut(holder, token).ok_or_else(|| pointer.missing_key("replace"))?;
    *target = value;
    Ok(())
}

fn test(doc: &Value, pointer: &Pointer, expected: &Value) -> Result<(), OperationError> {
    // An absent value passes for null, as it does in Kubernetes.
    let found = get(doc, pointer).unwrap_or(&Value::Null);
    if same(found, expected) { Ok(()) } else { Err(OperationError::TestFailed(pointer.text.clone())) }
}

/// Equality that takes `1` and `1.0` for the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, x)| y.get(k).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}
