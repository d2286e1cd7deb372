//! What functions cost at most, beside their arguments, and how large their results are.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::super::cost::{Estimate, Size, TRAVERSAL, scaled};
use super::super::types::Type;

/// Of a pattern, for each of its characters and each unit of what it is applied to.
const PATTERN: f64 = 0.25;
/// A question about rights: two of them in an expression are as many as it may have.
const QUESTION: u64 = 350_000;
/// A list of requirements, and each of them, which is two characters at least.
const REQUIREMENTS: u64 = 10;
const REQUIREMENT: f64 = 50.0;
const REQUIREMENT_LENGTH: f64 = 0.5;
/// Characters of the longest pattern behind a named format, and of the name of a format.
const FORMAT_PATTERN: f64 = 128.0;
const FORMAT: u64 = 64;
/// Bytes of an address.
const ADDRESS: u64 = 16;

/// The cost and the size of the result, if that is a text or a list whose size can be told.
pub(in super::super) fn of(
    e: &Estimate<'_, '_>,
    name: &str,
    target: Option<&IdedExpr>,
    args: &[IdedExpr],
) -> (u64, Option<Size>) {
    let size = |node: &IdedExpr| e.size_or_unknown(node);
    let read = |node: &IdedExpr| scaled(size(node).most, TRAVERSAL);
    match (name, target, args) {
        ("check", ..) => (QUESTION, None),
        ("fieldSelector" | "labelSelector", _, [selector]) => {
            let count = scaled(size(selector).most, REQUIREMENT_LENGTH);
            (REQUIREMENTS.saturating_add(read(selector)).saturating_add(scaled(count, REQUIREMENT)), None)
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(on), _) => (elements(e, on), None),
        ("url" | "jsonpatch.escapeKey", _, [text]) => (read(text), Some(size(text))),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(on), _) => (read(on), Some(size(on))),
        ("replace", Some(on), [old, new, ..]) => {
            (scaled(size(on).most, 2.0 * TRAVERSAL), Some(replaced(size(on), size(old), size(new))))
        }
        ("split", Some(on), _) => {
            let limit = args.get(1).and_then(|limit| match &limit.expr {
                Expr::Literal(LiteralValue::Int(limit)) => Some(*limit.inner() as u64),
                _ => None,
            });
            let most = limit.unwrap_or(size(on).most);
            (scaled(size(on).most, 2.0 * TRAVERSAL), Some(Size { least: 0, most }))
        }
        ("join", Some(on), _) => {
            let joined = joined(e, on, args.first());
            (scaled(joined.most, TRAVERSAL), Some(joined))
        }
        ("find" | "findAll", Some(on), [pattern, ..]) => {
            let found = Size { least: 0, most: size(on).most };
            (matching(size(on), size(pattern)), Some(found))
        }
        ("ip", Some(_), []) => (1, None),
        ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [text, ..]) => {
            (read(text), None)
        }
        ("ip.isCanonical", _, [text, ..]) => (scaled(size(text).most, 2.0 * TRAVERSAL), None),
        ("containsIP" | "containsCIDR", _, [other, ..]) => {
            let mut cost = scaled(2 * ADDRESS, TRAVERSAL);
            if name == "containsCIDR" {
                cost += scaled(ADDRESS, TRAVERSAL) + 1;
            }
            let parsed = if matches!(e.ty(other), Type::String | Type::Dyn) { read(other) } else { 0 };
            (cost.saturating_add(parsed), None)
        }
        ("validate", _, [text, ..]) => (scaled(read(text), FORMAT_PATTERN * PATTERN), None),
        ("format" | "startsWith" | "endsWith", Some(on), [arg]) => {
            (read(if name == "format" { on } else { arg }), None)
        }
        ("matches", Some(on), [pattern]) => (matching(size(on), size(pattern)), None),
        ("contains", Some(on), [part]) => (read(on).saturating_mul(read(part)), None),
        ("bytes" | "string" | "strings.quote", None, [value]) => converted(e, name, value),
        ("sets.contains" | "sets.intersects" | "sets.equivalent", _, [one, other]) => {
            let pairs = size(one).times(size(other)).most;
            let factor = if name == "sets.equivalent" { 2.0 } else { 1.0 };
            (scaled(pairs, factor).saturating_add(1), None)
        }
        (_, _, [one, other]) => (compared(e, name, one, other), None),
        _ => (1, None),
    }
}

/// Operators that look at both of their operands.
fn compared(e: &Estimate<'_, '_>, name: &str, one: &IdedExpr, other: &IdedExpr) -> u64 {
    let (a, b) = (e.ty(one), e.ty(other));
    let both = e.size_or_unknown(one).most.min(e.size_or_unknown(other).most);
    let text = |ty: &Type<'_>| matches!(ty, Type::String | Type::Bytes);
    match name {
        operators::EQUALS => match (a, b) {
            (Type::Named(a), Type::Named(b)) if a == b => {
                if *a == super::FORMAT {
                    scaled(FORMAT, TRAVERSAL)
                } else {
                    1
                }
            }
            _ => scaled(both, TRAVERSAL),
        },
        operators::NOT_EQUALS => scaled(both, TRAVERSAL),
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS => match (a, b) {
            _ if text(a) || text(b) => scaled(both, TRAVERSAL),
            (Type::Dyn, Type::Dyn) => scaled(both, TRAVERSAL).max(1),
            _ => 1,
        },
        operators::IN => match b {
            Type::List(..) => e.size_or_unknown(other).most,
            Type::Dyn => e.size_or_unknown(other).most.max(1),
            _ => 1,
        },
        _ => 1,
    }
}

/// Looking at every element of a list, or at every character of a text.
fn elements(e: &Estimate<'_, '_>, on: &IdedExpr) -> u64 {
    let count = e.size_or_unknown(on).most;
    let Type::List(item, _) = e.ty(on) else { return scaled(count, TRAVERSAL) };
    let each = match **item {
        Type::String | Type::Bytes => 1u64.saturating_add(scaled(e.element_size(on).most, TRAVERSAL)),
        _ => 1,
    };
    count.saturating_mul(each)
}

/// Finding a pattern. An empty text is no reason why a pattern should cost nothing.
fn matching(text: Size, pattern: Size) -> u64 {
    scaled(text.most.saturating_add(1), TRAVERSAL).saturating_mul(scaled(pattern.most, PATTERN))
}

/// The size of a text in which something is replaced.
fn replaced(text: Size, old: Size, new: Size) -> Size {
    // Most: as often as it fits, the shortest by the longest. What is empty stands around every character.
    let (most_times, most_kept) = match old.least {
        0 => (text.most.saturating_add(1), text.most),
        shortest if new.most <= shortest => (0, text.most),
        shortest => (text.most.div_ceil(shortest), 0),
    };
    let (least_times, least_kept) = match old.most {
        0 => (text.least.saturating_add(1), text.least),
        longest if longest <= new.least => (0, text.least),
        longest => (text.least.div_ceil(longest), 0),
    };
    Size {
        least: least_times.saturating_mul(new.least).saturating_add(least_kept),
        most: most_times.saturating_mul(new.most).saturating_add(most_kept),
    }
}

/// The size of the elements of a list in a row.
fn joined(e: &Estimate<'_, '_>, on: &IdedExpr, separator: Option<&IdedExpr>) -> Size {
    let count = e.size_or_unknown(on);
    let parts = if matches!(e.ty(on), Type::List(..)) { count.times(e.element_size(on)) } else { Size::of(0) };
    let Some(separator) = separator else { return parts };
    let gaps = Size { least: count.least.saturating_sub(1), most: count.most.saturating_sub(1) };
    parts.plus(e.size_or_unknown(separator).times(gaps))
}

/// Text as bytes, bytes as text, and text in quotes; what else becomes a text costs one.
fn converted(e: &Estimate<'_, '_>, name: &str, value: &IdedExpr) -> (u64, Option<Size>) {
    let size = e.size_or_unknown(value);
    let read = scaled(size.most, TRAVERSAL);
    match (name, e.ty(value)) {
        ("bytes", Type::String) => (read, Some(Size { most: size.most.saturating_mul(4), ..size })),
        ("string", Type::Bytes) => (read, Some(Size { least: size.least / 4, ..size })),
        ("strings.quote", _) => (read, Some(size.times(Size { least: 1, most: 2 }).plus(Size::of(2)))),
        ("bytes" | "string", Type::Dyn) => (read.max(1), Some(Size { most: size.most.saturating_mul(4), ..size })),
        _ => (1, None),
    }
}
