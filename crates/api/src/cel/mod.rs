//! Expressions in the Common Expression Language, as custom resources and admission policies use them.
//!
//! What an evaluation costs is counted: see [`budget`].

mod authorizer;
mod budget;
pub(crate) mod check;
mod convert;
mod library;
mod made;
mod mutation;
mod stack;
mod syntax;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use ::cel as engine;
use engine::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::Value;

pub use authorizer::{AUTHORIZER, Answer, Authorize, Authorizer, Question, REQUEST_RESOURCE};
pub use made::{Made, Scope, VARIABLES};
pub use mutation::{Form, Mutation, compile_mutation};

/// An evaluation may take this many steps: nodes of the expression that are evaluated, and values that are kept. Kubernetes
/// gives a call a million units of a cost that counts much the same but also the lengths of texts.
pub const STEP_LIMIT: u64 = 2_000_000;

/// Why an expression does not compile, or has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not an expression, or names what is not there.
    #[error("{0}")]
    Compile(String),
    /// It has no value for these variables: a missing key, an unknown function, operands of types that do not go together.
    #[error("{0}")]
    Evaluate(String),
    /// It takes too long.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    /// Together with others, it takes too long.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Budget,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    expr: IdedExpr,
    /// How deep it goes.
    depth: usize,
    source: syntax::Source,
    /// The variables it names.
    names: HashSet<String>,
    /// The same with what counts the steps.
    counted: IdedExpr,
    /// Steps without loops.
    nodes: u64,
    /// Names that are written escaped, as `__dash__`: fields get such names beside their own.
    escapes: bool,
}

/// A variable's value.
#[derive(Debug, Clone, Copy)]
pub enum Variable<'a> {
    /// A value.
    Value(&'a Value),
    /// A value that may be absent, as CEL's `optional`.
    Optional(Option<&'a Value>),
    /// A value, optional or not, with the schema that types it.
    Typed {
        /// The value; one that is absent and not optional is null.
        value: Option<&'a Value>,
        /// Its structural schema.
        schema: &'a Value,
        /// Whether it is CEL's `optional`.
        optional: bool,
    },
}

/// Names of types and function libraries, which are no variables.
const TYPES: &[&str] = &[
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional",
    "math",
    "google",
    "timestamp",
    "duration",
    "optional_type",
    "strings",
    "lists",
    "sets",
    "ip",
    "format",
    "net",
    "kubernetes",
];

static ENVIRONMENT: LazyLock<Arc<engine::Env>> = LazyLock::new(|| Arc::new(library::environment()));

/// Compiles an expression that may use these variables.
///
/// # Errors
/// [`Error::Compile`]: syntax, or a variable that is not among them.
pub fn compile(expression: &str, variables: &[&str]) -> Result<Program, Error> {
    let parsed = syntax::parse(expression)?;
    let program = stack::with_room(parsed.depth > stack::SHALLOW, || compiled(parsed, variables));
    let mut program = program.map_err(|e| Error::Compile(format!("expression cannot be compiled: {e}")))??;
    program.escapes = expression.contains("__");
    Ok(program)
}

fn compiled(parsed: syntax::Parsed, variables: &[&str]) -> Result<Program, Error> {
    let syntax::Parsed { expr, depth, source } = parsed;
    let mut visit = Visit::default();
    visit.node(&expr);
    let declared = |name: &str| variables.contains(&name) || TYPES.contains(&name);
    if let Some((name, node)) = visit.free.iter().find(|(name, _)| !declared(name)) {
        return Err(Error::Compile(source.mistake(*node, &undeclared(name))));
    }
    let mut counted = expr.clone();
    let nodes = budget::counted(&mut counted);
    Ok(Program {
        expr,
        depth,
        source,
        names: visit.free.into_iter().map(|(name, _)| name).collect(),
        counted,
        nodes,
        escapes: false,
    })
}

/// cel-go's words for a name of nothing.
fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

/// Whether a variable may be called so: an identifier that is no word of the language.
pub fn is_identifier(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !convert::RESERVED.contains(&name)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Program {
    /// Whether the expression names the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.names.contains(variable)
    }

    /// The value of the expression.
    ///
    /// # Errors
    /// [`Error::Evaluate`], and [`Error::Cost`] when it takes too long.
    pub fn eval(&self, variables: &[(&str, &Value)]) -> Result<Value, Error> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, Variable::Value(value))).collect();
        self.eval_variables(&variables)
    }

    /// The value in an environment, a scope, and with functions of the caller's own.
    fn run(
        &self,
        environment: &Arc<engine::Env>,
        variables: &[(&str, &Value)],
        scope: &Scope<'_>,
        budget: &mut u64,
        extend: impl FnOnce(&mut engine::Context<'_, '_>) -> Result<(), engine::DeclarationError> + Send,
    ) -> Result<engine::Value, Error> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, Variable::Value(value))).collect();
        self.run_variables(environment, &variables, budget, |context| {
            scope.add_to(self, context)?;
            extend(context)
        })
    }

    /// The same with variables that may be optional.
    ///
    /// # Errors
    /// As [`Program::eval`].
    pub fn eval_variables(&self, variables: &[(&str, Variable<'_>)]) -> Result<Value, Error> {
        self.eval_within(variables, &mut STEP_LIMIT.clone())
    }

    /// The same with no more steps than are left of a budget for several evaluations, and than one may take.
    ///
    /// # Errors
    /// As [`Program::eval`], and [`Error::Budget`].
    pub fn eval_within(&self, variables: &[(&str, Variable<'_>)], budget: &mut u64) -> Result<Value, Error> {
        let value = self.run_variables(&ENVIRONMENT, variables, budget, |_| Ok(()))?;
        convert::to_json(&value).ok_or_else(|| Error::Evaluate("the value has no JSON form".to_owned()))
    }

    /// The value in an environment, with functions of the caller's own.
    fn run_variables(
        &self,
        environment: &Arc<engine::Env>,
        variables: &[(&str, Variable<'_>)],
        budget: &mut u64,
        extend: impl FnOnce(&mut engine::Context<'_, '_>) -> Result<(), engine::DeclarationError> + Send,
    ) -> Result<engine::Value, Error> {
        let run = || self.run_here(environment, variables, budget, extend);
        let value = stack::with_room(self.depth > stack::SHALLOW, run);
        value.map_err(|e| Error::Evaluate(format!("expression cannot be evaluated: {e}")))?
    }

    /// The same on whatever stack there is.
    fn run_here(
        &self,
        environment: &Arc<engine::Env>,
        variables: &[(&str, Variable<'_>)],
        budget: &mut u64,
        extend: impl FnOnce(&mut engine::Context<'_, '_>) -> Result<(), engine::DeclarationError>,
    ) -> Result<engine::Value, Error> {
        let mut context = engine::Context::with_env(environment.clone());
        extend(&mut context).map_err(|e| Error::Evaluate(e.to_string()))?;
        for (name, value) in variables {
            if !self.uses(name) {
                continue;
            }
            let value = match value {
                Variable::Value(value) => convert::from_json(value, self.escapes),
                Variable::Optional(value) => convert::optional(value.map(|v| convert::from_json(v, self.escapes))),
                Variable::Typed { value, schema, optional } => {
                    let value = value.map(|v| convert::typed(v, schema, self.escapes));
                    if *optional { convert::optional(value) } else { value.unwrap_or(engine::Value::Null) }
                }
            };
            context.add_variable_from_value(*name, value);
        }
        let evaluate = || engine::Value::resolve(&self.counted, &context);
        let limit = STEP_LIMIT.min(*budget);
        let (value, left) = budget::within(limit.saturating_sub(self.nodes), evaluate);
        *budget -= limit - left.unwrap_or(0);
        if left.is_none() {
            return Err(if limit < STEP_LIMIT { Error::Budget } else { Error::Cost });
        }
        // What pays first is not called so by who wrote the expression.
        value.map_err(|e| {
            Error::Evaluate(one_line(&e.to_string()).replace("@replace", "replace").replace("@join", "join"))
        })
    }
}

/// A walk over an expression.
#[derive(Default)]
struct Visit {
    /// Names that no loop around them binds, and the nodes that say them.
    free: Vec<(String, u64)>,
    bound: Vec<String>,
}

impl Visit {
    fn node(&mut self, node: &IdedExpr) {
        match &node.expr {
            Expr::Call(call) => {
                call.target.iter().for_each(|t| self.node(t));
                call.args.iter().for_each(|a| self.node(a));
            }
            Expr::Comprehension(c) => {
                self.node(&c.iter_range);
                self.node(&c.accu_init);
                let before = self.bound.len();
                self.bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
                self.bound.extend(c.iter_var2.clone());
                self.node(&c.loop_cond);
                self.node(&c.loop_step);
                self.node(&c.result);
                self.bound.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.node(e)),
            Expr::Select(select) => self.node(&select.operand),
            Expr::Map(map) => map.entries.iter().for_each(|e| self.entry(&e.expr)),
            Expr::Struct(map) => map.entries.iter().for_each(|e| self.entry(&e.expr)),
            Expr::Ident(name) if !self.bound.contains(name) => self.free.push((name.clone(), node.id)),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::MapEntry(e) => {
                self.node(&e.key);
                self.node(&e.value);
            }
            EntryExpr::StructField(e) => self.node(&e.value),
        }
    }
}
