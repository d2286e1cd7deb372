//! Expressions of admission: the variables they may use, and errors as text.

use serde_json::Value;

/// What the expressions of conditions and policies can name.
const VARIABLES: [&str; 6] = ["object", "oldObject", "request", "params", "namespaceObject", "variables"];

/// A compiled expression.
pub(super) struct Program(api::cel::Program);

impl Program {
    /// # Errors
    /// Syntax, or a name that is not there.
    pub fn compile(text: &str) -> Result<Self, String> {
        api::cel::compile(text, &VARIABLES).map(Program).map_err(|e| e.to_string())
    }

    /// # Errors
    /// Why it has no value.
    pub fn eval(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        self.0.eval(variables).map_err(|e| e.to_string())
    }
}
