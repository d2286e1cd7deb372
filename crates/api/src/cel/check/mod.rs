//! Types and costs of expressions before they are evaluated: fields that a schema does not have, operands that do not go
//! together, and results of the wrong type; and what they cost at most. Of types, what is not known passes.

mod cost;
mod functions;
mod sizes;
#[cfg(test)]
mod tests;
mod types;

use std::collections::HashMap;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

pub(crate) use sizes::cardinality;
pub(crate) use types::{AUTHORIZER, Type};

use serde_json::Value;

use super::{Program, stack, undeclared};
use cost::Estimate;
use functions::Found;
use sizes::Place;

/// What is wrong with an expression, and at which of its nodes.
struct Mistake {
    node: u64,
    what: String,
}

type Checked<'s> = Result<Type<'s>, Mistake>;

struct Check<'s> {
    /// Variables, the innermost last.
    scope: Vec<(String, Type<'s>)>,
    /// Of the nodes so far.
    types: HashMap<u64, Type<'s>>,
}

/// An expression whose types go together.
pub(crate) struct Sound<'s> {
    /// Of its value.
    pub ty: Type<'s>,
    /// Of all nodes.
    types: HashMap<u64, Type<'s>>,
}

impl<'s> Sound<'s> {
    /// What an evaluation costs at most when `self` and `oldSelf` are values of the schema, `root` or in another object.
    pub fn cost(&self, program: &Program, schema: &'s Value, root: bool) -> u64 {
        let place = Place::Of(schema, root || schema["x-kubernetes-embedded-resource"] == true);
        let estimate = || Estimate::new(&self.types, place).cost(&program.expr);
        // Without a thread to be had nothing is known, and what is not known costs most.
        stack::with_room(program.depth > stack::SHALLOW, estimate).unwrap_or(u64::MAX)
    }
}

/// Checks an expression with these variables.
///
/// # Errors
/// What is wrong, with the place in the source, in the form that Kubernetes shows.
pub(crate) fn check<'s>(program: &Program, variables: &[(&str, Type<'s>)]) -> Result<Sound<'s>, String> {
    let scope = variables.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect();
    let mut check = Check { scope, types: HashMap::new() };
    match stack::with_room(program.depth > stack::SHALLOW, || check.node(&program.expr)) {
        Ok(Ok(ty)) => Ok(Sound { ty, types: check.types }),
        Ok(Err(mistake)) => Err(program.source.mistake(mistake.node, &mistake.what)),
        Err(error) => Err(format!("expression cannot be checked: {error}")),
    }
}

fn wrong<T>(node: &IdedExpr, what: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { node: node.id, what: what.into() })
}

impl<'s> Check<'s> {
    fn variable(&self, name: &str) -> Option<&Type<'s>> {
        self.scope.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty)
    }

    fn node(&mut self, node: &IdedExpr) -> Checked<'s> {
        let ty = self.typed(node)?;
        self.types.insert(node.id, ty.clone());
        Ok(ty)
    }

    fn typed(&mut self, node: &IdedExpr) -> Checked<'s> {
        match &node.expr {
            // Others than variables are names of types.
            Expr::Ident(name) => Ok(self.variable(name).cloned().unwrap_or(Type::Dyn)),
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::String,
                LiteralValue::UInt(_) => Type::UInt,
            }),
            Expr::Select(select) => {
                let operand = self.node(&select.operand)?;
                let field = field(node, &operand, &select.field)?;
                Ok(if select.test { Type::Bool } else { field })
            }
            Expr::List(list) => {
                let mut item = Type::Dyn;
                for element in &list.elements {
                    item = item.join(self.node(element)?);
                }
                let optional = !list.optional_indices.is_empty();
                let item = if optional { Type::Dyn } else { item };
                Ok(Type::List(Box::new(item), list.elements.len() as u64))
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    self.entry(&entry.expr)?;
                }
                Ok(Type::Map(Box::new(Type::Dyn), Box::new(Type::Dyn), map.entries.len() as u64))
            }
            Expr::Struct(of) => {
                for entry in &of.entries {
                    self.entry(&entry.expr)?;
                }
                Ok(Type::Dyn)
            }
            Expr::Call(call) => self.call(node, call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Unspecified => Ok(Type::Dyn),
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), Mistake> {
        match entry {
            EntryExpr::MapEntry(e) => {
                self.node(&e.key)?;
                self.node(&e.value).map(drop)
            }
            EntryExpr::StructField(e) => self.node(&e.value).map(drop),
        }
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr) -> Checked<'s> {
        let name = call.func_name.as_str();
        // `sets.contains(a, b)` is a call with the namespace for a target.
        let namespace = call.target.as_ref().and_then(|target| match &target.expr {
            Expr::Ident(name) if self.variable(name).is_none() => Some(name.clone()),
            _ => None,
        });
        let target = match (&call.target, &namespace) {
            (Some(target), None) => Some(self.node(target)?),
            _ => None,
        };
        let args: Vec<Type<'s>> = call.args.iter().map(|arg| self.node(arg)).collect::<Result<_, _>>()?;
        if let (None, Some(gives)) = (&call.target, self.operator(node, call, &args)?) {
            return Ok(gives);
        }
        let name = namespace.map_or_else(|| name.to_owned(), |space| format!("{space}.{name}"));
        match functions::call(&name, target.as_ref(), &args) {
            Found::Gives(ty) => Ok(ty),
            Found::Unknown => wrong(node, undeclared(&name)),
            Found::NoOverload => no_overload(node, &name, target.as_ref(), &args),
        }
    }

    /// Operators whose operands only have to be of one type, or that look into them.
    fn operator(&mut self, node: &IdedExpr, call: &CallExpr, args: &[Type<'s>]) -> Result<Option<Type<'s>>, Mistake> {
        let name = call.func_name.as_str();
        let ordered = |a: &Type<'_>, b: &Type<'_>| {
            let kind =
                !matches!(a, Type::List(..) | Type::Map(..) | Type::Object { .. } | Type::Optional(_) | Type::Named(_));
            kind && (a.agrees(b) || (a.is_number() && b.is_number()))
        };
        let bool_like = |ty: &Type<'_>| matches!(ty, Type::Bool | Type::Dyn);
        let (fits, gives) = match (name, args) {
            (operators::EQUALS | operators::NOT_EQUALS, [a, b]) => (a.agrees(b), Type::Bool),
            (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [a, b]) => {
                (ordered(a, b) && ordered(b, a), Type::Bool)
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) => (bool_like(a) && bool_like(b), Type::Bool),
            (operators::CONDITIONAL, [condition, a, b]) => (bool_like(condition), a.clone().join(b.clone())),
            (operators::IN, [item, Type::List(of, _)]) => (item.agrees(of), Type::Bool),
            (operators::IN, [item, Type::Map(key, ..)]) => (item.agrees(key), Type::Bool),
            (operators::IN, [_, within]) => (matches!(within, Type::Dyn), Type::Bool),
            (operators::ADD, [a @ Type::List(..), b @ Type::List(..)]) => (true, a.clone().join(b.clone())),
            (operators::INDEX, [of, index]) => return element(node, call, of, index).map(Some),
            (operators::OPT_INDEX, [of, index]) => {
                let inner = if let Type::Optional(inner) = of { inner } else { of };
                return element(node, call, inner, index).map(|ty| Some(Type::Optional(Box::new(ty))));
            }
            (operators::OPT_SELECT, [of, _]) => {
                let inner = if let Type::Optional(inner) = of { inner } else { of };
                let name = call.args.get(1).and_then(|arg| match &arg.expr {
                    Expr::Literal(LiteralValue::String(name)) => Some(name.inner().to_owned()),
                    _ => None,
                });
                let ty = name.map_or(Ok(Type::Dyn), |name| field(node, inner, &name))?;
                return Ok(Some(Type::Optional(Box::new(ty))));
            }
            ("@pairs", [Type::List(item, max)]) => {
                (true, Type::List(Box::new(Type::Pair(Box::new(Type::Int), item.clone())), *max))
            }
            ("@pairs", [Type::Map(key, value, max)]) => {
                (true, Type::List(Box::new(Type::Pair(key.clone(), value.clone())), *max))
            }
            ("@pairs", [of]) => (matches!(of, Type::Dyn), Type::Dyn),
            _ => return Ok(None),
        };
        if fits { Ok(Some(gives)) } else { no_overload(node, name, None, args) }
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Checked<'s> {
        let range = self.node(&c.iter_range)?;
        let init = self.node(&c.accu_init)?;
        let (item, max) = match range {
            Type::List(item, max) => (*item, max),
            Type::Map(key, _, max) => (*key, max),
            Type::Dyn => (Type::Dyn, 1),
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return wrong(&c.iter_range, what);
            }
        };
        let depth = self.scope.len();
        self.scope.push((c.accu_var.clone(), init.clone()));
        let mut accu = init;
        if max > 0 {
            self.scope.push((c.iter_var.clone(), item));
            self.node(&c.loop_cond)?;
            let step = self.node(&c.loop_step)?;
            accu = match step.join(accu) {
                Type::List(item, _) => Type::List(item, max),
                other => other,
            };
        }
        self.scope.truncate(depth);
        self.scope.push((c.accu_var.clone(), accu));
        let result = self.node(&c.result)?;
        self.scope.truncate(depth);
        Ok(result)
    }
}

fn field<'s>(node: &IdedExpr, of: &Type<'s>, name: &str) -> Checked<'s> {
    if let Type::Optional(inner) = of {
        return field(node, inner, name).map(|ty| Type::Optional(Box::new(ty)));
    }
    match (of.field(name), of) {
        (Some(ty), _) => Ok(ty),
        (None, Type::Object { .. } | Type::Variables(_)) => wrong(node, format!("undefined field '{name}'")),
        (None, other) => wrong(node, format!("type '{other}' does not support field selection")),
    }
}

/// An element of a list or map.
fn element<'s>(node: &IdedExpr, call: &CallExpr, of: &Type<'s>, index: &Type<'s>) -> Checked<'s> {
    match (of, index) {
        (Type::List(item, _), Type::Int | Type::Dyn) => Ok((**item).clone()),
        (Type::Map(key, value, _), index) if index.agrees(key) => Ok((**value).clone()),
        (Type::Pair(one, two), _) => match call.args.get(1).map(|arg| &arg.expr) {
            Some(Expr::Literal(LiteralValue::Int(at))) if *at.inner() == 0 => Ok((**one).clone()),
            _ => Ok((**two).clone()),
        },
        (Type::Optional(inner), index) => element(node, call, inner, index).map(|ty| Type::Optional(Box::new(ty))),
        (Type::Dyn, _) => Ok(Type::Dyn),
        (of, index) => no_overload(node, operators::INDEX, None, &[of.clone(), index.clone()]),
    }
}

fn no_overload<T>(node: &IdedExpr, name: &str, target: Option<&Type<'_>>, args: &[Type<'_>]) -> Result<T, Mistake> {
    let args: Vec<String> = args.iter().map(Type::to_string).collect();
    let args = args.join(", ");
    let applied = target.map_or_else(|| format!("({args})"), |target| format!("{target}.({args})"));
    wrong(node, format!("found no matching overload for '{name}' applied to '{applied}'"))
}
