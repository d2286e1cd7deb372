//! Expressions in the Common Expression Language, as custom resources and admission policies use them.
//!
//! The evaluator has no step counter, so what an evaluation can cost is bounded before it begins: the nodes of the expression
//! times the largest collection to the power of how deep the expression nests its loops.

mod authorizer;
mod convert;
mod library;
mod made;
mod mutation;
mod nesting;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use ::cel as engine;
use engine::common::ast::{EntryExpr, Expr, IdedExpr};
use serde_json::Value;

pub use authorizer::{AUTHORIZER, Answer, Authorize, Authorizer, Question, REQUEST_RESOURCE};
pub use made::{Made, Scope, VARIABLES};
pub use mutation::{Form, Mutation, compile_mutation};

/// An evaluation may take this many steps by the estimate.
pub const STEP_LIMIT: u64 = 20_000_000;
/// An expression may be this long, in bytes.
const LENGTH: usize = 64 << 10;

/// Why an expression does not compile, or has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not an expression, or names what is not there.
    #[error("{0}")]
    Compile(String),
    /// It has no value for these variables: a missing key, an unknown function, operands of types that do not go together.
    #[error("{0}")]
    Evaluate(String),
    /// It might take too long.
    #[error("expression may take {estimate} steps, which is more than {STEP_LIMIT}")]
    Cost {
        /// Steps.
        estimate: u64,
    },
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    program: engine::Program,
    shape: Shape,
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
}

/// What evaluation costs are estimated from.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    nodes: u64,
    loops: u32,
}

/// Names of types and function libraries, which are no variables.
const TYPES: [&str; 14] = [
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
];

static ENVIRONMENT: LazyLock<Arc<engine::Env>> = LazyLock::new(|| Arc::new(library::environment()));

/// Compiles an expression that may use these variables.
///
/// # Errors
/// [`Error::Compile`]: syntax, or a variable that is not among them.
pub fn compile(expression: &str, variables: &[&str]) -> Result<Program, Error> {
    if expression.len() > LENGTH {
        return Err(Error::Compile(format!("expression is longer than {LENGTH} bytes")));
    }
    nesting::with_stack(nesting::depth(expression)?, || compile_here(expression, variables))
}

/// The same on whatever stack there is.
fn compile_here(expression: &str, variables: &[&str]) -> Result<Program, Error> {
    let program = ENVIRONMENT.compile(expression).map_err(|e| Error::Compile(one_line(&e.to_string())))?;
    let mut visit = Visit::default();
    visit.node(program.expression(), 0);
    let declared = |name: &str| variables.contains(&name) || TYPES.contains(&name);
    if let Some(name) = visit.free.iter().find(|name| !declared(name)) {
        return Err(Error::Compile(format!("undeclared reference to '{name}' (in container '')")));
    }
    if visit.makes_lists {
        return Err(Error::Compile("undeclared reference to 'lists.range' (in container '')".to_owned()));
    }
    let shape = visit.shape;
    Ok(Program { program, shape, escapes: expression.contains("__") })
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
        self.program.references().has_variable(variable)
    }

    /// The value of the expression.
    ///
    /// # Errors
    /// [`Error::Evaluate`], and [`Error::Cost`] before anything is evaluated.
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
        extend: impl FnOnce(&mut engine::Context<'_, '_>) -> Result<(), engine::DeclarationError>,
    ) -> Result<engine::Value, Error> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, Variable::Value(value))).collect();
        self.run_variables(environment, &variables, scope.width(), |context| {
            scope.add_to(self, context)?;
            extend(context)
        })
    }

    /// The same with variables that may be optional.
    ///
    /// # Errors
    /// As [`Program::eval`].
    pub fn eval_variables(&self, variables: &[(&str, Variable<'_>)]) -> Result<Value, Error> {
        let value = self.run_variables(&ENVIRONMENT, variables, 1, |_| Ok(()))?;
        convert::to_json(&value).ok_or_else(|| Error::Evaluate("the value has no JSON form".to_owned()))
    }

    /// `width` is the least that the size of the largest collection is taken for.
    fn run_variables(
        &self,
        environment: &Arc<engine::Env>,
        variables: &[(&str, Variable<'_>)],
        width: u64,
        extend: impl FnOnce(&mut engine::Context<'_, '_>) -> Result<(), engine::DeclarationError>,
    ) -> Result<engine::Value, Error> {
        let widest = variables.iter().map(|(_, v)| match v {
            Variable::Value(value) | Variable::Optional(Some(value)) => widest(value),
            Variable::Optional(None) => 1,
        });
        let estimate = self.shape.steps(widest.max().unwrap_or(1).max(width));
        if estimate > STEP_LIMIT {
            return Err(Error::Cost { estimate });
        }
        let mut context = engine::Context::with_env(environment.clone());
        let extended = library::functions(&mut context).and_then(|()| extend(&mut context));
        extended.map_err(|e| Error::Evaluate(e.to_string()))?;
        for (name, value) in variables {
            if !self.uses(name) {
                continue;
            }
            let value = match value {
                Variable::Value(value) => convert::from_json(value, self.escapes),
                Variable::Optional(value) => convert::optional(value.map(|v| convert::from_json(v, self.escapes))),
            };
            context.add_variable_from_value(*name, value);
        }
        self.program.execute(&context).map_err(|e| Error::Evaluate(one_line(&e.to_string())))
    }
}

impl Shape {
    fn steps(&self, widest: u64) -> u64 {
        (0..self.loops).fold(self.nodes, |steps, _| steps.saturating_mul(widest.max(1)))
    }
}

/// A walk over an expression.
#[derive(Default)]
struct Visit {
    shape: Shape,
    /// Names that no loop around them binds.
    free: Vec<String>,
    bound: Vec<String>,
    /// It makes lists of any length, which no estimate covers.
    makes_lists: bool,
}

impl Visit {
    fn node(&mut self, node: &IdedExpr, depth: u32) {
        self.shape.nodes += 1;
        self.shape.loops = self.shape.loops.max(depth);
        match &node.expr {
            Expr::Call(call) => {
                self.makes_lists |= matches!(call.func_name.as_str(), "range" | "lists.range");
                call.target.iter().for_each(|t| self.node(t, depth));
                call.args.iter().for_each(|a| self.node(a, depth));
            }
            Expr::Comprehension(c) => {
                self.node(&c.iter_range, depth);
                self.node(&c.accu_init, depth);
                let before = self.bound.len();
                self.bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
                self.bound.extend(c.iter_var2.clone());
                self.node(&c.loop_cond, depth + 1);
                self.node(&c.loop_step, depth + 1);
                self.node(&c.result, depth);
                self.bound.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|e| self.node(e, depth)),
            Expr::Select(select) => self.node(&select.operand, depth),
            Expr::Map(map) => map.entries.iter().for_each(|e| self.entry(&e.expr, depth)),
            Expr::Struct(map) => map.entries.iter().for_each(|e| self.entry(&e.expr, depth)),
            Expr::Ident(name) if !self.bound.contains(name) => self.free.push(name.clone()),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &EntryExpr, depth: u32) {
        match entry {
            EntryExpr::MapEntry(e) => {
                self.node(&e.key, depth);
                self.node(&e.value, depth);
            }
            EntryExpr::StructField(e) => self.node(&e.value, depth),
        }
    }
}

/// The size of the largest collection in a value; texts count as what splitting them can give.
fn widest(value: &Value) -> u64 {
    match value {
        Value::Array(list) => list.iter().map(widest).max().unwrap_or(1).max(list.len() as u64),
        Value::Object(map) => map.values().map(widest).max().unwrap_or(1).max(map.len() as u64),
        Value::String(text) => text.len() as u64 / 16,
        _ => 1,
    }
}
