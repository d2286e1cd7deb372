//! Expressions of admission: the variables they may use, what those are, and errors as text.

use api::cel::{AUTHORIZER, Authorizer, Form, Made, Mutation, Scope, VARIABLES};
use serde_json::Value;

/// Variables that every expression may use.
const ALWAYS: [&str; 4] = ["object", "oldObject", "request", "namespaceObject"];

/// Which further variables an expression may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    pub params: bool,
    pub variables: bool,
    pub authorizer: bool,
}

impl Names {
    /// All: so of what is stored, which was checked when it was written.
    pub const ALL: Names = Names { params: true, variables: true, authorizer: true };

    fn list(self) -> Vec<&'static str> {
        let more = [(self.params, "params"), (self.variables, VARIABLES), (self.authorizer, AUTHORIZER)];
        ALWAYS.into_iter().chain(more.into_iter().filter(|(is, _)| *is).map(|(_, name)| name)).collect()
    }
}

/// What the variables of an evaluation are.
pub(super) struct Given<'a> {
    pub values: Vec<(&'static str, &'a Value)>,
    pub authorizer: &'a Authorizer,
    /// The variables of a policy, as far as they have been made.
    pub made: Option<&'a Made>,
}

impl<'a> Given<'a> {
    /// With one more.
    pub fn with(&self, name: &'static str, value: &'a Value) -> Given<'a> {
        let mut values = self.values.clone();
        values.push((name, value));
        Given { values, ..*self }
    }

    /// With the variables of a policy.
    pub fn with_made(&self, made: &'a Made) -> Given<'a> {
        Given { values: self.values.clone(), authorizer: self.authorizer, made: Some(made) }
    }

    fn scope(&self) -> Scope<'a> {
        Scope { authorizer: Some(self.authorizer), made: self.made }
    }
}

/// A compiled expression.
pub(super) struct Program(api::cel::Program);

impl Program {
    /// # Errors
    /// Syntax, or a name that is not there.
    pub fn compile(text: &str, names: Names) -> Result<Self, String> {
        api::cel::compile(text, &names.list()).map(Program).map_err(|e| e.to_string())
    }

    /// # Errors
    /// Why it has no value.
    pub fn eval(&self, given: &Given<'_>) -> Result<Value, String> {
        self.0.eval_in(&given.values, &given.scope()).map_err(|e| e.to_string())
    }

    /// Makes a variable of a policy.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn make(&self, name: &str, given: &Given<'_>, made: &mut Made) -> Result<(), String> {
        made.make(name, &self.0, &given.values, given.authorizer).map_err(|e| e.to_string())
    }
}

/// A compiled expression that says how an object is to change.
pub(super) struct Change(Mutation);

impl Change {
    /// # Errors
    /// Syntax, a name that is not there, or a value of another type than the form.
    pub fn compile(text: &str, names: Names, form: Form) -> Result<Self, String> {
        api::cel::compile_mutation(text, &names.list(), form).map(Change).map_err(|e| e.to_string())
    }

    /// # Errors
    /// Why it has no value.
    pub fn eval(&self, given: &Given<'_>) -> Result<Value, String> {
        self.0.eval(&given.values, &given.scope()).map_err(|e| e.to_string())
    }
}
