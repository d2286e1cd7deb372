//! Per-kind behaviour as function pointers, with neutral defaults.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use crate::status::FieldError;

/// Reads one field-selector value.
pub type FieldReader = fn(&Value) -> String;

/// What a kind does beyond the generic rules. All functions are pure and total.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Fills in defaults.
    pub default: fn(&mut Value),
    /// To the stored version.
    pub to_storage: fn(&mut Value),
    /// From the stored version.
    pub from_storage: fn(&mut Value),
    /// After the generic preparation on create.
    pub prepare_create: fn(&mut Value),
    /// After the generic preparation on update, before the generation is compared.
    pub prepare_update: fn(&mut Value, &Value),
    /// After the generic preparation of a status write.
    pub prepare_status_update: fn(&mut Value, &Value),
    /// Rules of an object by itself, used on create (and by most kinds again on update).
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Rules that hold on create only.
    pub validate_create: fn(&Value) -> Vec<FieldError>,
    /// Rules of a replacement.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Rules of a status write.
    pub validate_status_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// What a writer should hear though the object is accepted: one sentence each.
    pub warnings: fn(&Value) -> Vec<String>,
    /// Paths whose change bumps the generation.
    pub generation_keys: &'static [&'static [&'static str]],
    /// Field-selector labels beside name and namespace.
    pub selectable: &'static [(&'static str, FieldReader)],
    /// Seconds a deletion waits.
    pub grace_period: Option<fn(&Value, Option<i64>) -> i64>,
}

fn no_mut(_: &mut Value) {}
fn no_mut2(_: &mut Value, _: &Value) {}
fn no_errors(_: &Value) -> Vec<FieldError> {
    Vec::new()
}
fn no_errors2(_: &Value, _: &Value) -> Vec<FieldError> {
    Vec::new()
}

fn no_warnings(_: &Value) -> Vec<String> {
    Vec::new()
}

impl Hooks {
    /// A kind without rules of its own.
    pub const NONE: Hooks = Hooks {
        default: no_mut,
        to_storage: no_mut,
        from_storage: no_mut,
        prepare_create: no_mut,
        prepare_update: no_mut2,
        prepare_status_update: no_mut2,
        validate: no_errors,
        validate_create: no_errors,
        validate_update: no_errors2,
        validate_status_update: no_errors2,
        warnings: no_warnings,
        generation_keys: &[&["spec"]],
        selectable: &[],
        grace_period: None,
    };
}

/// Printer columns and the function that fills them.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Headings.
    pub list: &'static [Column],
    /// Cells.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
}
