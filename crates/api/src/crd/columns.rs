//! Printer columns of custom resources.

use serde_json::{Value, json};

use super::jsonpath::Path;
use crate::json::{list_at, str_at};

#[derive(Debug)]
pub(super) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Path,
}

/// `additionalPrinterColumns` of a version, or the age when there are none.
pub(super) fn of(version: &Value) -> Result<Vec<Column>, String> {
    let list = list_at(version, &["additionalPrinterColumns"]);
    if list.is_empty() {
        let words = "CreationTimestamp is a timestamp representing the server time when this object was created.";
        return Ok(vec![Column {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: words.into(),
            priority: 0,
            path: Path::parse(".metadata.creationTimestamp")?,
        }]);
    }
    let column = |c: &Value| {
        let text = |key: &str| str_at(c, &[key]).to_owned();
        let path = Path::parse(str_at(c, &["jsonPath"]))?;
        let priority = c["priority"].as_i64().unwrap_or(0);
        Ok(Column {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description: text("description"),
            priority,
            path,
        })
    };
    list.iter().map(column).collect()
}

/// Headings, with the name first.
pub(super) fn definitions(columns: &[Column]) -> Vec<Value> {
    let name = json!({
        "name": "Name",
        "type": "string",
        "format": "name",
        "description": "Name must be unique within a namespace.",
        "priority": 0,
    });
    let own = columns.iter().map(|c| {
        let words = match c.description.as_str() {
            "" => format!("Custom resource definition column (in JSONPath format): {:?}", c.name),
            words => words.to_owned(),
        };
        json!({"name": c.name, "type": c.kind, "format": c.format, "description": words, "priority": c.priority})
    });
    std::iter::once(name).chain(own).collect()
}

/// Cells.
pub(super) fn row(columns: &[Column], object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let name = Value::from(crate::meta::name(object));
    std::iter::once(name).chain(columns.iter().map(|c| cell(c, object, now))).collect()
}

fn cell(column: &Column, object: &Value, now: jiff::Timestamp) -> Value {
    let found = column.path.find(object);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        "integer" => match first.as_f64() {
            Some(number) => (number as i64).into(),
            None => Value::Null,
        },
        "number" if first.is_number() => (*first).clone(),
        "boolean" if first.is_boolean() => (*first).clone(),
        "string" => found.iter().map(|v| shown(v)).collect::<Vec<_>>().join(" ").into(),
        "date" => match first.as_str() {
            Some(text) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => crate::table::age(Some(time), now).into(),
                Err(_) => "<invalid>".into(),
            },
            None => Value::Null,
        },
        _ => Value::Null,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
