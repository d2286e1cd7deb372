//! API errors, worded and coded as Kubernetes does: clients match on reason and code, people on the message.

use std::fmt;

use serde_json::{Map, Value, json};

/// A failed request. [`ApiError::to_status`] is the body, `code` the HTTP status.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason (`NotFound`, `Conflict`, ...); empty when Kubernetes gives none.
    pub reason: &'static str,
    /// Human-readable sentence.
    pub message: String,
    /// metav1 `StatusDetails`.
    pub details: Option<Value>,
}

/// What is wrong with one field; the name is the cause's `reason` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The value must exist and does not (not used for objects).
    NotFound,
    /// A value is needed.
    Required,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is not one of the allowed ones.
    NotSupported,
    /// The value may not be set (or not changed) here.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// Validation itself failed.
    Internal,
}

impl FieldErrorKind {
    /// The cause's `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

/// One validation finding.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Path, as `spec.containers[0].image`.
    pub field: String,
    /// Explanation; may be empty.
    pub detail: String,
    /// The offending value; `Null` when there is none to show.
    pub value: Value,
}

impl FieldError {
    /// A value is missing.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Required, field: field.into(), detail: detail.into(), value: Value::Null }
    }
    /// A value is malformed.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Invalid, field: field.into(), detail: detail.into(), value: value.into() }
    }
    /// A value is not among `supported` (listed in the order given).
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        Self {
            kind: FieldErrorKind::NotSupported,
            field: field.into(),
            detail: format!("supported values: {}", quoted.join(", ")),
            value: value.into(),
        }
    }
    /// A value occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { kind: FieldErrorKind::Duplicate, field: field.into(), detail: String::new(), value: value.into() }
    }
    /// A value may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Forbidden, field: field.into(), detail: detail.into(), value: Value::Null }
    }
    /// A reference inside the object does not resolve.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { kind: FieldErrorKind::NotFound, field: field.into(), detail: String::new(), value: value.into() }
    }
    /// A value exceeds `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooLong,
            field: field.into(),
            detail: format!("may not be more than {max} bytes"),
            value: Value::Null,
        }
    }
    /// A list exceeds `max` items.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        Self {
            kind: FieldErrorKind::TooMany,
            field: field.into(),
            detail: format!("must have at most {max} items"),
            value: actual.into(),
        }
    }
    /// A value has the wrong JSON type.
    pub fn type_invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::TypeInvalid, field: field.into(), detail: detail.into(), value: value.into() }
    }

    /// The finding without its path: the `message` of a cause.
    pub fn body(&self) -> String {
        use FieldErrorKind as K;
        let mut out = self.kind.words().to_owned();
        match self.kind {
            K::Required | K::Forbidden | K::TooLong | K::Internal => {}
            K::TooMany if self.value.is_null() => {}
            _ => {
                out.push_str(": ");
                out.push_str(&show(&self.value));
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// `deployments.apps`, or `pods` for the core group.
pub fn qualified_resource(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(code: u16, reason: &'static str, group: &str, kind: &str, name: &str, message: String) -> Self {
        Self { code, reason, message, details: details(group, kind, name) }
    }

    /// 404 for one object.
    pub fn not_found(resource: &str, group: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified_resource(resource, group));
        Self::about(404, "NotFound", group, resource, name, message)
    }

    /// 404 for a path or resource that is not served.
    pub fn path_not_found() -> Self {
        Self {
            details: Some(json!({})),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// 409 on create.
    pub fn already_exists(resource: &str, group: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified_resource(resource, group));
        Self::about(409, "AlreadyExists", group, resource, name, message)
    }

    /// 409 with the given cause, worded `Operation cannot be fulfilled on ...: <cause>`.
    pub fn conflict(resource: &str, group: &str, name: &str, cause: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {cause}", qualified_resource(resource, group));
        Self::about(409, "Conflict", group, resource, name, message)
    }

    /// 409 for a stale resourceVersion: what every optimistic writer retries on.
    pub fn conflict_modified(resource: &str, group: &str, name: &str) -> Self {
        let cause = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, group, name, cause)
    }

    /// 409 of server-side apply: `(manager words, field path)` per conflict.
    pub fn apply_conflict(message: String, causes: &[(String, String)]) -> Self {
        let causes: Vec<Value> = causes
            .iter()
            .map(|(message, field)| json!({"reason": "FieldManagerConflict", "message": message, "field": field}))
            .collect();
        Self { details: Some(json!({ "causes": causes })), ..Self::new(409, "Conflict", message) }
    }

    /// 422 with one cause for each finding.
    pub fn invalid(kind: &str, group: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let causes: Vec<Value> =
            errors.iter().map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.field})).collect();
        // Kubernetes aggregates drop repeated messages but keep all causes.
        let mut messages: Vec<String> = Vec::new();
        for e in &errors {
            let message = e.to_string();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let list = match messages.len() {
            0 => String::new(),
            1 => format!(": {}", messages[0]),
            _ => format!(": [{}]", messages.join(", ")),
        };
        let message = format!("{} {name:?} is invalid{list}", qualified_resource(kind, group));
        let mut details = details(group, kind, name).unwrap_or_else(|| json!({}));
        if !causes.is_empty() {
            details["causes"] = Value::Array(causes);
        }
        Self { code: 422, reason: "Invalid", message, details: Some(details) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403 for one object (`name` may be empty).
    pub fn forbidden(resource: &str, group: &str, name: &str, why: &str) -> Self {
        let what = qualified_resource(resource, group);
        let message = if resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Self::about(403, "Forbidden", group, resource, name, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed(resource: &str, group: &str, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {:?}", qualified_resource(resource, group));
        Self::about(405, "MethodNotAllowed", group, resource, "", message)
    }

    /// 405 for a URL without a resource in it.
    pub fn method_not_allowed_path() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self { details: Some(json!({})), ..Self::new(405, "MethodNotAllowed", message) }
    }

    /// 410: the revision or continue token is compacted; clients list again.
    pub fn gone_expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 for a watch or list at a revision older than history.
    pub fn too_old_resource_version(requested: u64, oldest: u64) -> Self {
        Self::gone_expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 504 for a read at a revision that has not happened yet.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        let details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        Self { details: Some(details), ..Self::new(504, "Timeout", message) }
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        let message = format!("Request entity is too large: {}", message.into());
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 500.
    pub fn internal(why: impl fmt::Display) -> Self {
        let details = json!({"causes": [{"message": why.to_string()}]});
        Self { details: Some(details), ..Self::new(500, "InternalError", format!("Internal error occurred: {why}")) }
    }

    /// 504.
    pub fn timeout(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into())).with_retry_after(retry_after_s)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after_s)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// Adds `retryAfterSeconds`, which the server also sends as the `Retry-After` header.
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        let details = self.details.get_or_insert_with(|| json!({}));
        if seconds > 0 {
            details["retryAfterSeconds"] = seconds.into();
        }
        self
    }

    /// Adds the object's uid to the details.
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.details.get_or_insert_with(|| json!({}))["uid"] = uid.into();
        self
    }

    /// Seconds for the `Retry-After` header, if any.
    pub fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }

    /// The metav1 `Status` document.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// The `Status` document of a deletion that completed at once.
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = details(group, resource, name).unwrap_or_else(|| json!({}));
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn details(group: &str, kind: &str, name: &str) -> Option<Value> {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.to_owned(), value.into());
        }
    }
    (!map.is_empty()).then_some(Value::Object(map))
}

#[cfg(test)]
mod tests;
