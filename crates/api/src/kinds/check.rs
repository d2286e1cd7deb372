//! A collector of findings with the checks that recur in every kind.

use serde_json::Value;

use crate::json::{at, int_at, str_at};
use crate::quantity::Quantity;
use crate::status::FieldError;

/// Range of ports, in Kubernetes' words.
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
pub(super) const NON_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";

const BAD_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// The one word of a condition: a CamelCase identifier, or several.
fn is_reason(reason: &str) -> bool {
    let ends = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    reason.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && reason.bytes().last().is_some_and(ends)
        && reason.bytes().all(|b| ends(b) || b == b',' || b == b':')
}

/// Findings of one object.
#[derive(Default)]
pub(super) struct Check {
    pub(super) errors: Vec<FieldError>,
}

impl Check {
    pub(super) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.errors.push(FieldError::required(field, detail));
    }
    pub(super) fn invalid(&mut self, field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) {
        self.errors.push(FieldError::invalid(field, value, detail));
    }
    pub(super) fn forbidden(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::forbidden(field, detail));
    }
    pub(super) fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.errors.push(FieldError::duplicate(field, value));
    }
    pub(super) fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.errors.push(FieldError::not_found(field, value));
    }
    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.errors.extend(errors);
    }

    /// Each problem of a name becomes an `Invalid` finding.
    pub(super) fn syntax(&mut self, field: &str, value: &str, problems: Vec<String>) {
        self.errors.extend(problems.into_iter().map(|m| FieldError::invalid(field, value, m)));
    }

    /// `key` of `object` must be a non-empty string.
    pub(super) fn need_str(&mut self, object: &Value, key: &str, field: &str) -> bool {
        let missing = str_at(object, &[key]).is_empty();
        if missing {
            self.required(join(field, key), "");
        }
        !missing
    }

    /// A set string must be one of `allowed`; absent is fine.
    pub(super) fn one_of(&mut self, object: &Value, key: &str, field: &str, allowed: &[&str]) {
        if let Some(v) = at(object, &[key]).and_then(Value::as_str).filter(|v| !v.is_empty() && !allowed.contains(v)) {
            self.errors.push(FieldError::not_supported(join(field, key), v, allowed));
        }
    }

    /// Like [`Check::one_of`], but the string must be there.
    pub(super) fn need_one_of(&mut self, object: &Value, key: &str, field: &str, allowed: &[&str]) {
        if self.need_str(object, key, field) {
            self.one_of(object, key, field, allowed);
        }
    }

    /// A set integer must not be negative.
    pub(super) fn non_negative(&mut self, object: &Value, key: &str, field: &str) {
        if let Some(v) = int_at(object, &[key]).filter(|v| *v < 0) {
            self.invalid(join(field, key), v, NON_NEGATIVE);
        }
    }

    /// A set integer must lie in `min..=max`.
    pub(super) fn in_range(&mut self, object: &Value, key: &str, field: &str, min: i64, max: i64) {
        if let Some(v) = int_at(object, &[key]).filter(|v| *v < min || *v > max) {
            self.invalid(join(field, key), v, format!("must be between {min} and {max}, inclusive"));
        }
    }

    /// A port number or name, as in probes and target ports.
    pub(super) fn port_number_or_name(&mut self, value: &Value, field: &str) {
        match value {
            Value::Number(n) if n.as_i64().is_some_and(|n| (1..=65535).contains(&n)) => {}
            Value::Number(_) => self.invalid(field, value.clone(), PORT_RANGE),
            Value::String(s) => self.syntax(field, s, crate::names::port_name(s)),
            _ => self.required(field, ""),
        }
    }

    /// `key` must equal the stored value.
    pub(super) fn immutable(&mut self, new: &Value, old: &Value, path: &[&str]) {
        let value = at(new, path);
        if !crate::json::semantic_eq(value, at(old, path)) {
            self.invalid(path.join("."), value.cloned().unwrap_or(Value::Null), IMMUTABLE);
        }
    }

    /// Rules of metav1 `Condition` lists: each type once, with a status, a reason and a time.
    pub(super) fn conditions(&mut self, owner: &Value, field: &str) {
        /// Longest texts, bytes.
        const MAX_REASON: usize = 1024;
        const MAX_MESSAGE: usize = 32 * 1024;
        let mut seen = std::collections::BTreeSet::new();
        for (i, condition) in crate::json::list_at(owner, &["conditions"]).iter().enumerate() {
            let field = format!("{field}[{i}]");
            let kind = str_at(condition, &["type"]);
            if !seen.insert(kind) {
                self.duplicate(join(&field, "type"), kind);
            }
            self.syntax(&join(&field, "type"), kind, crate::names::qualified_name(kind));
            let status = str_at(condition, &["status"]);
            if !matches!(status, "True" | "False" | "Unknown") {
                let allowed = &["False", "True", "Unknown"];
                self.errors.push(FieldError::not_supported(join(&field, "status"), status, allowed));
            }
            if let Some(n) = int_at(condition, &["observedGeneration"]).filter(|n| *n < 0) {
                self.invalid(join(&field, "observedGeneration"), n, "must be greater than or equal to zero");
            }
            self.need_str(condition, "lastTransitionTime", &field);
            if self.need_str(condition, "reason", &field) {
                let reason = str_at(condition, &["reason"]);
                if !is_reason(reason) {
                    self.invalid(join(&field, "reason"), reason, BAD_REASON);
                }
                if reason.len() > MAX_REASON {
                    self.errors.push(FieldError::too_long(join(&field, "reason"), MAX_REASON));
                }
            }
            if str_at(condition, &["message"]).len() > MAX_MESSAGE {
                self.errors.push(FieldError::too_long(join(&field, "message"), MAX_MESSAGE));
            }
        }
    }

    /// A quantity that must parse and not be negative; gives it back.
    pub(super) fn quantity(&mut self, value: &Value, field: &str) -> Option<Quantity> {
        match Quantity::from_json(value) {
            Ok(q) if q.signum() < 0 => {
                self.invalid(field, q.to_string(), NON_NEGATIVE);
                None
            }
            Ok(q) => Some(q),
            Err(e) => {
                self.invalid(field, value.clone(), e.to_string());
                None
            }
        }
    }
}

/// `parent.key`, or `key` at the top.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}
