//! One step of a field path, its order, and its two texts: the key in `fieldsV1` and the form people read.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

use crate::schema::{ListKeys, ListType, Scalar, Shape, TypeRef};

/// A step from a value to something inside it.
#[derive(Debug, Clone, PartialEq)]
pub enum PathElement {
    /// A field of an object or a key of a map.
    Field(Box<str>),
    /// The list item whose key fields have these values, sorted by field name.
    Key(Box<[(Box<str>, Value)]>),
    /// The item of a list of scalars with this value.
    Value(Value),
    /// The item at a position.
    Index(i64),
}

/// A `fieldsV1` key that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {key:?} as a path element")]
pub struct ElementError {
    /// The key as found.
    pub key: String,
}

impl PathElement {
    /// The step to a field.
    pub fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// Reads a `fieldsV1` key. `None` for a kind of element that this version does not know: those are dropped, as
    /// Kubernetes does, since a later version may add some.
    ///
    /// # Errors
    /// When the key has a known kind and a body that does not parse.
    pub fn parse(key: &str) -> Result<Option<Self>, ElementError> {
        let fail = || ElementError { key: key.to_owned() };
        let Some((kind, body)) = key.split_once(':') else { return Err(fail()) };
        Ok(Some(match kind {
            "f" => Self::Field(body.into()),
            "v" => Self::Value(serde_json::from_str(body).map_err(|_| fail())?),
            "i" => Self::Index(body.parse().map_err(|_| fail())?),
            "k" => {
                let fields: serde_json::Map<String, Value> = serde_json::from_str(body).map_err(|_| fail())?;
                Self::key(fields.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect())
            }
            _ if kind.len() == 1 => return Ok(None),
            _ => return Err(fail()),
        }))
    }

    fn key(mut fields: Vec<(Box<str>, Value)>) -> Self {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Key(fields.into_boxed_slice())
    }

    /// The `fieldsV1` key.
    pub fn encode(&self) -> String {
        match self {
            Self::Field(name) => {
                let mut out = String::with_capacity(name.len() + 2);
                out.push_str("f:");
                out.push_str(name);
                out
            }
            Self::Key(fields) => {
                let mut out = String::from("k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_json_string(&mut out, name);
                    out.push(':');
                    push_json(&mut out, value);
                }
                out.push('}');
                out
            }
            Self::Value(value) => {
                let mut out = String::from("v:");
                push_json(&mut out, value);
                out
            }
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

fn push_json(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_json_string(out, text),
        other => out.push_str(&other.to_string()),
    }
}

fn push_json_string(out: &mut String, text: &str) {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((a_name, a_value), (b_name, b_value)) in a.iter().zip(b.iter()) {
                    let order = a_name.cmp(b_name).then_with(|| compare_values(a_value, b_value));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// A total order over JSON values: numbers, strings, booleans, lists, objects, null. Numbers equal in value but not in
/// form (`1`, `1.0`) are told apart, so that the order agrees with equality.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => {
                let order = a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default());
                order.then_with(|| if a == b { Ordering::Equal } else { a.to_string().cmp(&b.to_string()) })
            }
        },
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            if a == b {
                Ordering::Equal
            } else {
                a.to_string().cmp(&b.to_string())
            }
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

/// As in conflict messages: `.spec`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A list item that cannot be identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// `null` in a list of objects.
    #[error("associative list with keys may not have a null element")]
    NullItem,
    /// A scalar or list in a list of objects.
    #[error("associative list with keys may not have non-map elements")]
    NotAnObject,
    /// An item without any of its key fields.
    #[error(
        "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default values for any key fields)"
    )]
    NoKey {
        /// The key fields.
        keys: Vec<String>,
    },
    /// An object in a set.
    #[error("associative list without keys has an element that's a map type")]
    ObjectInSet,
    /// A list in a set.
    #[error("not supported: associative list with lists as elements")]
    ListInSet,
    /// `null` in a set.
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

/// What identifies `item` in a list whose items have type `ty`. The list must not be atomic; of one that is, the items are
/// taken as a set.
pub(crate) fn item_element(ty: TypeRef<'_>, list: ListType<'_>, item: &Value) -> Result<PathElement, ItemError> {
    match list {
        ListType::Map(keys) => keyed(ty, keys, item),
        ListType::Set | ListType::Atomic => match item {
            Value::Object(_) => Err(ItemError::ObjectInSet),
            Value::Array(_) => Err(ItemError::ListInSet),
            Value::Null => Err(ItemError::NullInSet),
            scalar => Ok(PathElement::Value(scalar.clone())),
        },
    }
}

fn keyed(ty: TypeRef<'_>, keys: ListKeys<'_>, item: &Value) -> Result<PathElement, ItemError> {
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err(ItemError::NullItem),
        _ => return Err(ItemError::NotAnObject),
    };
    let mut found = Vec::with_capacity(keys.iter().len());
    for name in keys.iter() {
        if let Some(value) = map.get(name) {
            found.push((name.into(), value.clone()));
        } else if let Some(default) = ty.field(name).and_then(|f| f.default.map(|d| default_value(f.ty, d))) {
            found.push((name.into(), default));
        }
    }
    if found.is_empty() {
        return Err(ItemError::NoKey { keys: keys.iter().map(str::to_owned).collect() });
    }
    Ok(PathElement::key(found))
}

fn default_value(ty: TypeRef<'_>, text: &str) -> Value {
    match ty.shape() {
        Shape::Scalar(Scalar::String) => text.into(),
        _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}
