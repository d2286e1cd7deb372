//! Whether an applied configuration fits its type. Stricter than decoding: what is not declared cannot be owned.

use std::fmt::Write as _;

use serde_json::Value;

use crate::managed_fields::{PathElement, item_element};
use crate::schema::{ListType, Scalar, Shape, TypeRef};

/// Findings reported at most.
const MAX_FINDINGS: usize = 20;

/// What does not fit, in Kubernetes' words; `None` if all does.
pub(super) fn validate(ty: TypeRef<'_>, applied: &Value) -> Option<String> {
    let mut found = Vec::new();
    check(ty, applied, &mut String::new(), &mut found);
    match found.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(ty: TypeRef<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    if found.len() >= MAX_FINDINGS {
        return;
    }
    let depth = path.len();
    match (ty.shape(), value) {
        (_, Value::Null) | (Shape::Any, _) => {}
        (Shape::Scalar(scalar), value) => {
            if let Some(wrong) = wrong_scalar(scalar, value) {
                report(found, path, &wrong);
            }
        }
        (Shape::Struct { .. } | Shape::Map { .. }, Value::Object(map)) => {
            for (key, child) in map {
                let _ = write!(path, ".{key}");
                match ty.child(key) {
                    Some(child_ty) => check(child_ty, child, path, found),
                    None => report(found, path, "field not declared in schema"),
                }
                path.truncate(depth);
            }
        }
        (Shape::List { item, list }, Value::Array(items)) => check_list(item, list, items, path, found),
        (Shape::Struct { .. } | Shape::Map { .. }, value) => report(found, path, &format!("expected map, got {value}")),
        (Shape::List { .. }, value) => report(found, path, &format!("expected list, got {value}")),
    }
}

fn check_list(item: TypeRef<'_>, list: ListType<'_>, items: &[Value], path: &mut String, found: &mut Vec<String>) {
    let depth = path.len();
    let mut seen = std::collections::BTreeSet::new();
    for (index, value) in items.iter().enumerate() {
        let element = match list {
            ListType::Atomic => PathElement::Index(index as i64),
            _ => match item_element(item, list, value) {
                Ok(element) => element,
                Err(error) => {
                    report(found, path, &format!("element {index}: {error}"));
                    return;
                }
            },
        };
        let text = element.to_string();
        if !seen.insert(element) {
            report(found, path, &format!("duplicate entries for key {text}"));
        }
        path.push_str(&text);
        check(item, value, path, found);
        path.truncate(depth);
    }
}

fn report(found: &mut Vec<String>, path: &str, message: &str) {
    if found.len() < MAX_FINDINGS {
        found.push(if path.is_empty() { message.to_owned() } else { format!("{path}: {message}") });
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    let (fits, wanted) = match scalar {
        Scalar::String | Scalar::Bytes => (value.is_string(), "string"),
        Scalar::Int32 | Scalar::Int64 | Scalar::Number => (value.is_number(), "numeric (int or float)"),
        Scalar::Boolean => (value.is_boolean(), "boolean"),
        Scalar::Time | Scalar::Quantity | Scalar::IntOrString => {
            (!value.is_object() && !value.is_array(), "any scalar")
        }
    };
    (!fits).then(|| format!("expected {wanted}, got {value}"))
}
