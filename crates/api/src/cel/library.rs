//! The functions Kubernetes adds to CEL: lists, regular expressions, URLs, addresses, quantities.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Value, extensions};

/// A pattern given in an expression may take this much memory when compiled, in bytes.
const PATTERN: usize = 1 << 20;

type List = Arc<Vec<Value>>;
type Text = Arc<String>;

/// The standard library with CEL's string, list and math extensions.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    for extension in [extensions::strings, extensions::lists, extensions::math] {
        // Each is added to a fresh environment, once: there is nothing to conflict with.
        let _ = env.add_extension(extension);
    }
    env
}

/// Adds what is Kubernetes' own.
pub(super) fn functions(context: &mut Context<'_, '_>) -> Result<(), cel::DeclarationError> {
    context.add_function("find", |This(text): This<Text>, pattern: Text| -> Result<Value, ExecutionError> {
        Ok(regex("find", &pattern)?.find(&text).map_or("", |m| m.as_str()).into())
    })?;
    context.add_function("findAll", |This(text): This<Text>, pattern: Text| -> Result<Value, ExecutionError> {
        Ok(regex("findAll", &pattern)?.find_iter(&text).map(|m| m.as_str()).collect::<Vec<_>>().into())
    })?;
    context.add_function("isSorted", |This(list): This<List>| {
        list.windows(2).all(|w| matches!(w[0].partial_cmp(&w[1]), Some(Ordering::Less | Ordering::Equal)))
    })?;
    context.add_function("sum", |This(list): This<List>| -> Result<Value, ExecutionError> { sum(&list) })?;
    context.add_function("min", |This(list): This<List>| extreme("min", &list, Ordering::Less))?;
    context.add_function("max", |This(list): This<List>| extreme("max", &list, Ordering::Greater))?;
    context.add_function("isIP", |text: Text| text.parse::<IpAddr>().is_ok())?;
    context.add_function("isCIDR", |text: Text| is_cidr(&text))?;
    context.add_function("isURL", |text: Text| is_url(&text))?;
    context.add_function("isQuantity", |text: Text| crate::quantity::Quantity::parse(&text).is_ok())?;
    Ok(())
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

fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else { return false };
    let max = ip.parse::<IpAddr>().map(|ip| if ip.is_ipv4() { 32 } else { 128 });
    max.is_ok_and(|max| bits.parse::<u8>().is_ok_and(|bits| bits <= max))
}

/// An absolute URI or an absolute path, as Go's `ParseRequestURI` takes.
fn is_url(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.contains(|c: char| c.is_control() || c == ' ');
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    named && !rest.is_empty() && !text.contains(|c: char| c.is_control() || c == ' ')
}
