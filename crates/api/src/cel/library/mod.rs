//! The functions Kubernetes adds to CEL: lists, regular expressions, sets, URLs, addresses, quantities, formats, versions, and
//! comprehensions of two variables.

mod format;
mod net;
pub(super) mod pairs;
mod quantity;
mod semver;
mod sets;
pub(super) mod texts;
mod urls;
mod value;

use std::cmp::Ordering;

use cel::common::types::{CelString, DYN_TYPE, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, Value, extensions};

/// A pattern given in an expression may take this much memory when compiled, in bytes.
const PATTERN: usize = 1 << 20;

/// The standard library with CEL's string, list and math extensions, and what is Kubernetes' own.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    let own = [functions, quantity::extension, net::extension, urls::extension, format::extension, semver::extension];
    let more = [sets::extension, pairs::extension, texts::extension, super::budget::extension];
    let all = [extensions::strings, extensions::lists, extensions::math];
    for extension in all.into_iter().chain(own).chain(more) {
        // Each is added to a fresh environment, once; a test sees that nothing conflicts.
        if let Err(error) = env.add_extension(extension) {
            debug_assert!(false, "{error}");
        }
    }
    env
}

/// Lists and regular expressions.
fn functions(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_member_overload("find", "string_find", STRING_TYPE, vec![STRING_TYPE], |args| {
        let (text, pattern) = (text(&args, 0)?, text(&args, 1)?);
        made(regex("find", pattern)?.find(text).map_or("", |m| m.as_str()).into())
    })?;
    env.add_member_overload("findAll", "string_find_all", STRING_TYPE, vec![STRING_TYPE], |args| {
        let (text, pattern) = (text(&args, 0)?, text(&args, 1)?);
        made(regex("findAll", pattern)?.find_iter(text).map(|m| m.as_str()).collect::<Vec<_>>().into())
    })?;
    let int = cel::common::types::INT_TYPE;
    env.add_member_overload("findAll", "string_find_all_n", STRING_TYPE, vec![STRING_TYPE, int], |args| {
        let (text, pattern) = (text(&args, 0)?, text(&args, 1)?);
        let Value::Int(limit) = value(&args, 2)? else { return Err(failed("findAll", "no such overload")) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        made(regex("findAll", pattern)?.find_iter(text).take(limit).map(|m| m.as_str()).collect::<Vec<_>>().into())
    })?;
    env.add_member_overload("isSorted", "list_is_sorted", LIST_TYPE, vec![], |args| {
        let le = |w: &[Value]| matches!(w[0].partial_cmp(&w[1]), Some(Ordering::Less | Ordering::Equal));
        made(list(&args)?.windows(2).all(le).into())
    })?;
    env.add_member_overload("sum", "list_sum", LIST_TYPE, vec![], |args| made(sum(&list(&args)?)?))?;
    env.add_member_overload("min", "list_min", LIST_TYPE, vec![], |args| {
        made(extreme("min", &list(&args)?, Ordering::Less)?)
    })?;
    env.add_member_overload("max", "list_max", LIST_TYPE, vec![], |args| {
        made(extreme("max", &list(&args)?, Ordering::Greater)?)
    })?;
    env.add_member_overload("indexOf", "list_index_of", LIST_TYPE, vec![DYN_TYPE], |args| {
        let wanted = value(&args, 1)?;
        made(position(list(&args)?.iter().position(|v| *v == wanted)))
    })?;
    env.add_member_overload("lastIndexOf", "list_last_index_of", LIST_TYPE, vec![DYN_TYPE], |args| {
        let wanted = value(&args, 1)?;
        made(position(list(&args)?.iter().rposition(|v| *v == wanted)))
    })
}

fn position(found: Option<usize>) -> Value {
    Value::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

/// An argument, copied.
fn value(args: &[CowVal<'_, '_>], at: usize) -> Result<Value, ExecutionError> {
    let arg = args.get(at).ok_or_else(ExecutionError::missing_argument_or_target)?;
    Value::try_from(arg.as_ref())
}

/// The target of a list's method, copied.
fn list(args: &[CowVal<'_, '_>]) -> Result<Vec<Value>, ExecutionError> {
    match value(args, 0)? {
        Value::List(list) => Ok(list.to_vec()),
        other => Err(ExecutionError::unsupported_target_type(other)),
    }
}

fn text<'a>(args: &'a [CowVal<'_, '_>], at: usize) -> Result<&'a str, ExecutionError> {
    let text = args.get(at).and_then(|arg| arg.downcast_ref::<CelString<'_>>());
    text.map(|text| text.inner()).ok_or_else(ExecutionError::missing_argument_or_target)
}

/// A result.
fn made<'b, 'v>(value: Value) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value: Box<dyn Val> = value.try_into()?;
    Ok(CowVal::Owned(value))
}

fn failed(function: &str, why: impl ToString) -> ExecutionError {
    ExecutionError::function_error(function, why)
}

fn regex(function: &str, pattern: &str) -> Result<regex::Regex, ExecutionError> {
    regex::RegexBuilder::new(pattern).size_limit(PATTERN).build().map_err(|e| failed(function, e))
}

fn sum(list: &[Value]) -> Result<Value, ExecutionError> {
    let mut out = Value::Int(0);
    for (i, item) in list.iter().enumerate() {
        out = match (out, item) {
            (_, first) if i == 0 => first.clone(),
            (Value::Int(a), Value::Int(b)) => {
                Value::Int(a.checked_add(*b).ok_or_else(|| failed("sum", "integer overflow"))?)
            }
            (Value::UInt(a), Value::UInt(b)) => {
                Value::UInt(a.checked_add(*b).ok_or_else(|| failed("sum", "integer overflow"))?)
            }
            (Value::Float(a), Value::Float(b)) => Value::Float(a + b),
            _ => return Err(failed("sum", "no such overload")),
        };
    }
    Ok(out)
}

fn extreme(function: &str, list: &[Value], wanted: Ordering) -> Result<Value, ExecutionError> {
    let mut items = list.iter();
    let first = items.next().ok_or_else(|| failed(function, format!("{function} called on empty list")))?;
    let mut best = first;
    for item in items {
        match item.partial_cmp(best) {
            Some(order) if order == wanted => best = item,
            Some(_) => {}
            None => return Err(failed(function, "no such overload")),
        }
    }
    Ok(best.clone())
}
