//! Types of expressions, as far as a schema tells them.

use std::fmt;

use serde_json::Value;

use super::sizes;

/// A type. Lists and maps know how many elements they can have.
#[derive(Debug, Clone)]
pub(crate) enum Type<'s> {
    /// Anything; nothing is said about it.
    Dyn,
    Null,
    Bool,
    Int,
    UInt,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Type<'s>>, u64),
    Map(Box<Type<'s>>, Box<Type<'s>>, u64),
    /// An object with the fields of a schema. The root and embedded objects have a few more.
    Object {
        schema: &'s Value,
        root: bool,
    },
    Optional(Box<Type<'s>>),
    /// Index and value, or key and value.
    Pair(Box<Type<'s>>, Box<Type<'s>>),
    /// One of Kubernetes' own.
    Named(&'static str),
    /// The variables of a policy, each with its type.
    Variables(Vec<(String, Type<'s>)>),
}

/// What is asked about rights, up to the question itself.
pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// The answer.
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

impl<'s> Type<'s> {
    /// What a schema describes; `None` for a field that rules do not see.
    pub fn of(schema: &'s Value, root: bool) -> Option<Self> {
        if schema["x-kubernetes-int-or-string"] == true {
            return Some(Type::Dyn);
        }
        let format = schema["format"].as_str().unwrap_or("");
        Some(match schema["type"].as_str()? {
            "boolean" => Type::Bool,
            "integer" => Type::Int,
            "number" => Type::Double,
            "string" => match format {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String,
            },
            "array" => {
                let items = &schema["items"];
                Type::List(Box::new(Type::of(items, false)?), sizes::elements(schema))
            }
            "object" => {
                let root = root || schema["x-kubernetes-embedded-resource"] == true;
                match schema.get("additionalProperties") {
                    Some(values) if values.is_object() => {
                        let of = Type::of(values, false)?;
                        Type::Map(Box::new(Type::String), Box::new(of), sizes::elements(schema))
                    }
                    Some(Value::Bool(true)) => Type::Map(Box::new(Type::String), Box::new(Type::Dyn), 1),
                    _ => Type::Object { schema, root },
                }
            }
            _ => Type::Dyn,
        })
    }

    /// A field of an object; `None` when there is none of that name, as rules spell it.
    pub fn field(&self, name: &str) -> Option<Type<'s>> {
        match self {
            Type::Object { schema, root } => {
                let property = schema["properties"].as_object().into_iter().flatten();
                let named = |key: &str| super::super::convert::escaped(key).as_deref().unwrap_or(key) == name;
                let found = property.into_iter().find(|(key, _)| named(key)).map(|(_, schema)| schema);
                match (name, root) {
                    ("apiVersion" | "kind", true) => Some(Type::String),
                    ("metadata", true) => Some(Type::Object { schema: metadata(), root: false }),
                    _ => Type::of(found?, false),
                }
            }
            Type::Map(_, value, _) => Some((**value).clone()),
            Type::Variables(list) => list.iter().find(|(known, _)| known == name).map(|(_, ty)| ty.clone()),
            Type::Named(AUTHORIZER) if name == "requestResource" => Some(self.clone()),
            Type::Dyn | Type::Null => Some(Type::Dyn),
            _ => None,
        }
    }

    /// Whether one may stand for the other, as far as is known.
    pub fn agrees(&self, other: &Type<'_>) -> bool {
        match (self, other) {
            (Type::Dyn | Type::Null, _) | (_, Type::Dyn | Type::Null) => true,
            (Type::List(a, _), Type::List(b, _)) | (Type::Optional(a), Type::Optional(b)) => a.agrees(b),
            (Type::Map(k, v, _), Type::Map(l, w, _)) | (Type::Pair(k, v), Type::Pair(l, w)) => {
                k.agrees(l) && v.agrees(w)
            }
            (Type::Object { .. } | Type::Map(..), Type::Object { .. } | Type::Map(..)) => true,
            (Type::Named(a), Type::Named(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// What is either.
    pub fn join(self, other: Type<'s>) -> Type<'s> {
        match (self, other) {
            (Type::Dyn | Type::Null, known) | (known, Type::Dyn | Type::Null) => known,
            (Type::List(a, m), Type::List(b, n)) => Type::List(Box::new(a.join(*b)), m.saturating_add(n)),
            (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(a.join(*b))),
            (Type::Map(k, v, m), Type::Map(l, w, n)) => {
                Type::Map(Box::new(k.join(*l)), Box::new(v.join(*w)), m.saturating_add(n))
            }
            (a, b) if a.agrees(&b) => a,
            _ => Type::Dyn,
        }
    }

    /// Whether it is one that `<` orders together with other numbers.
    pub fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::UInt | Type::Double)
    }
}

/// What rules see of metadata.
fn metadata() -> &'static Value {
    static METADATA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(
        || serde_json::json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}}),
    );
    &METADATA
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::List(item, _) => return write!(f, "list({item})"),
            Type::Map(key, value, _) => return write!(f, "map({key}, {value})"),
            Type::Optional(value) => return write!(f, "optional_type({value})"),
            Type::Dyn | Type::Pair(..) => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::UInt => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Object { .. } => "object",
            Type::Variables(_) => "kubernetes.variables",
            Type::Named(name) => name,
        })
    }
}
