//! Reading an object against its type: unknown fields, wrong types, pruning. Words follow Kubernetes' decoder, because
//! people search for them and tests match them.

use base64::Engine as _;
use serde_json::Value;

use super::{Scalar, Shape, TypeRef};

/// At most this many unknown fields are reported; Kubernetes stops there too.
const MAX_UNKNOWN: usize = 100;

/// A value whose JSON type does not fit its declared type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TypeMismatch {
    /// The field, as `spec.containers.env.value` (Kubernetes leaves list indices out).
    pub field: String,
    /// The decoder's words.
    pub message: String,
}

/// The message of a request whose object does not decode.
pub fn decode_error(kind: &str, version: &str, why: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}")
}

/// The decoder's words for unknown (and repeated) fields: `strict decoding error: unknown field "spec.foo", ...`.
/// `findings` are complete findings, such as `unknown field "spec.foo"`.
pub fn strict_decoding_error(findings: &[String]) -> String {
    format!("strict decoding error: {}", findings.join(", "))
}

impl<'a> TypeRef<'a> {
    /// Paths of the fields that the type does not declare, such as `spec.containers[0].foo`.
    pub fn validate_unknown(self, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.unknown_into(value, &mut String::new(), &mut found);
        found
    }

    fn unknown_into(self, value: &Value, path: &mut String, found: &mut Vec<String>) {
        if found.len() >= MAX_UNKNOWN {
            return;
        }
        let depth = path.len();
        match (self.shape(), value) {
            (Shape::Struct { open, .. }, Value::Object(map)) => {
                for (key, child) in map {
                    let field = self.field(key);
                    if field.is_none() && open {
                        continue;
                    }
                    push_key(path, key);
                    match field {
                        Some(field) => field.ty.unknown_into(child, path, found),
                        None if found.len() < MAX_UNKNOWN => found.push(path.clone()),
                        None => {}
                    }
                    path.truncate(depth);
                }
            }
            (Shape::Map { value: ty, .. }, Value::Object(map)) if !ty.is_scalar() => {
                for (key, child) in map {
                    push_key(path, key);
                    ty.unknown_into(child, path, found);
                    path.truncate(depth);
                }
            }
            (Shape::List { item, .. }, Value::Array(list)) if !item.is_scalar() => {
                for (index, child) in list.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    item.unknown_into(child, path, found);
                    path.truncate(depth);
                }
            }
            _ => {}
        }
    }

    fn is_scalar(self) -> bool {
        matches!(self.shape(), Shape::Scalar(_) | Shape::Any)
    }

    /// Removes the fields that the type does not declare.
    pub fn prune(self, value: &mut Value) {
        match (self.shape(), value) {
            (Shape::Struct { open, .. }, Value::Object(map)) => map.retain(|key, child| match self.field(key) {
                Some(field) => {
                    field.ty.prune(child);
                    true
                }
                None => open,
            }),
            (Shape::Map { value: ty, .. }, Value::Object(map)) if !ty.is_scalar() => {
                map.values_mut().for_each(|child| ty.prune(child));
            }
            (Shape::List { item, .. }, Value::Array(list)) if !item.is_scalar() => {
                list.iter_mut().for_each(|child| item.prune(child));
            }
            _ => {}
        }
    }

    /// Checks that every value has the JSON type its declaration asks for. `null` fits everything, as it does for
    /// Kubernetes' decoder.
    ///
    /// # Errors
    /// The first mismatch: the decoder reports no more than one.
    pub fn type_check(self, value: &Value) -> Result<(), TypeMismatch> {
        let mut walk = Walk { owner: None, path: Vec::new() };
        walk.check(self, value)
    }
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Where the walk is: the innermost struct's name and the fields from the root.
struct Walk<'v, 's> {
    owner: Option<&'s str>,
    path: Vec<&'v str>,
}

impl<'v, 's> Walk<'v, 's> {
    fn check(&mut self, ty: TypeRef<'s>, value: &'v Value) -> Result<(), TypeMismatch> {
        match (ty.shape(), value) {
            (_, Value::Null) | (Shape::Any, _) => Ok(()),
            (Shape::Scalar(scalar), value) => self.scalar(scalar, ty, value),
            (Shape::Struct { .. }, Value::Object(map)) => {
                let outer = self.owner.replace(ty.name().unwrap_or_default());
                for (key, child) in map {
                    if let Some(field) = ty.field(key) {
                        self.path.push(key);
                        self.check(field.ty, child)?;
                        self.path.pop();
                    }
                }
                self.owner = outer;
                Ok(())
            }
            (Shape::Map { value: ty, .. }, Value::Object(map)) => {
                map.values().try_for_each(|child| self.check(ty, child))
            }
            (Shape::List { item, .. }, Value::Array(list)) => list.iter().try_for_each(|child| self.check(item, child)),
            (_, value) => Err(self.mismatch(kind_of(value), &ty.go_name())),
        }
    }

    fn scalar(&self, scalar: Scalar, ty: TypeRef<'s>, value: &Value) -> Result<(), TypeMismatch> {
        match (scalar, value) {
            (Scalar::String, Value::String(_))
            | (Scalar::Boolean, Value::Bool(_))
            | (Scalar::Number, Value::Number(_)) => Ok(()),
            (Scalar::Int32 | Scalar::Int64, Value::Number(number)) => {
                let fits = match number.as_i64() {
                    Some(n) => scalar == Scalar::Int64 || i32::try_from(n).is_ok(),
                    None => false,
                };
                if fits { Ok(()) } else { Err(self.mismatch(&format!("number {number}"), &ty.go_name())) }
            }
            (Scalar::IntOrString, Value::String(_)) => Ok(()),
            (Scalar::IntOrString, value) => match value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
                true => Ok(()),
                false => {
                    Err(self.plain(format!("json: cannot unmarshal {} into Go value of type int32", shown(value))))
                }
            },
            (Scalar::Quantity, Value::String(text)) if is_quantity(text) => Ok(()),
            (Scalar::Quantity, Value::Number(_)) => Ok(()),
            (Scalar::Quantity, _) => Err(self.plain(
                r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into(),
            )),
            (Scalar::Bytes, Value::String(text)) => self.base64(text),
            (Scalar::Time, Value::String(text)) => self.time(text),
            (Scalar::Time, value) => {
                Err(self.plain(format!("json: cannot unmarshal {} into Go value of type string", kind_of(value))))
            }
            (_, value) => Err(self.mismatch(kind_of(value), &ty.go_name())),
        }
    }

    fn base64(&self, text: &str) -> Result<(), TypeMismatch> {
        let check = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).map(drop);
        // Line breaks inside are allowed; they are rare, so the text is copied only then.
        let result = match text.contains(['\r', '\n']) {
            true => check(&text.replace(['\r', '\n'], "")),
            false => check(text),
        };
        result.map_err(|error| {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len() / 4 * 4,
            };
            self.plain(format!("illegal base64 data at input byte {at}"))
        })
    }

    fn time(&self, text: &str) -> Result<(), TypeMismatch> {
        // A four-digit year first, as RFC 3339 has it: the parser alone would take more forms.
        let plain_year = text.len() > 10 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit);
        if plain_year && text.parse::<jiff::Timestamp>().is_ok() {
            return Ok(());
        }
        let layout = "2006-01-02T15:04:05Z07:00";
        Err(self.plain(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")))
    }

    fn mismatch(&self, found: &str, wanted: &str) -> TypeMismatch {
        let field = self.path.join(".");
        let message = match self.owner {
            Some(owner) if !field.is_empty() => {
                let owner = owner.rsplit('.').next().unwrap_or(owner);
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{field} of type {wanted}")
            }
            _ => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        };
        TypeMismatch { field, message }
    }

    fn plain(&self, message: String) -> TypeMismatch {
        TypeMismatch { field: self.path.join("."), message }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => kind_of(other).to_owned(),
    }
}

/// The pattern quantities must match; what they mean is checked with the rest of the object's values.
fn is_quantity(text: &str) -> bool {
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if digits.len() == rest.len() {
        return false;
    }
    let suffix = digits.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let exponent = suffix.strip_prefix(['+', '-']).unwrap_or(suffix);
    exponent.bytes().all(|b| b.is_ascii_digit())
}
