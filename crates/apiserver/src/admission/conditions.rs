//! `matchConditions`: expressions that must all hold for a webhook or policy to be asked.

use serde_json::Value;

use super::Admission;

/// Conditions, compiled.
pub(super) struct Conditions {
    names: Vec<String>,
    /// An evaluation that fails keeps the webhook out instead of refusing the request.
    ignore: bool,
}

impl Conditions {
    /// Reads a list of named expressions.
    pub fn compile(list: &Value, ignore: bool) -> Self {
        let name = |c: &Value| c["name"].as_str().unwrap_or("").to_owned();
        Conditions { names: list.as_array().into_iter().flatten().map(name).collect(), ignore }
    }

    /// Whether they hold.
    ///
    /// # Errors
    /// Why that cannot be said, when that must refuse the request.
    pub fn hold(&self, _: &Admission<'_>, _: &Value) -> Result<bool, String> {
        match self.names.first() {
            None => Ok(true),
            Some(_) if self.ignore => Ok(false),
            Some(name) => Err(format!("match condition {name:?} cannot be evaluated by this server")),
        }
    }
}
