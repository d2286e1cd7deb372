//! `matchConditions`: expressions that must all hold for a webhook or policy to be asked.

use super::expression::{Given, Names, Program};
use serde_json::Value;

/// Conditions, compiled.
pub(super) struct Conditions {
    list: Vec<(String, Result<Program, String>)>,
}

impl Conditions {
    /// Reads a list of named expressions.
    pub fn compile(list: &Value) -> Self {
        let text = |c: &Value, key: &str| c[key].as_str().unwrap_or("").to_owned();
        let read = |c: &Value| (text(c, "name"), Program::compile(&text(c, "expression"), Names::ALL));
        Conditions { list: list.as_array().into_iter().flatten().map(read).collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether they hold. One that does not settles it, also when another cannot be evaluated.
    ///
    /// # Errors
    /// Why that cannot be said.
    pub fn hold(&self, given: &Given<'_>) -> Result<bool, String> {
        let mut failed = None;
        for (name, program) in &self.list {
            let value = program.as_ref().map_err(Clone::clone).and_then(|p| p.eval(given));
            match value {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => failed = Some(format!("match condition {name:?} must evaluate to a bool")),
                Err(why) => failed = Some(format!("match condition {name:?} cannot be evaluated: {why}")),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}
