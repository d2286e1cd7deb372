//! What an evaluation may cost. Every loop pays for its turns before it begins, and for what it keeps; an evaluation that has
//! spent its budget ends.
//!
//! The evaluator has no counter of its own. So calls are put into the expression: `@turns(list, n)` around what is looped
//! over, where `n` is how many nodes one turn evaluates, `@kept(value)` around what is copied into a list or map and around sums,
//! and `@paid(n)` around the length of a list that is made of nothing. What makes long texts of short ones pays by itself.

use std::cell::Cell;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelBytes, CelInt, CelList, CelMap, CelString, DYN_TYPE, INT_TYPE};
use cel::common::value::Val;
use cel::{DeclarationError, Env, ExecutionError};

use super::library::texts::{JOIN, REPLACE};

const TURNS: &str = "@turns";
const KEPT: &str = "@kept";
const PAID: &str = "@paid";

/// So many comparisons of numbers are a step.
const LOOK_UPS: usize = 64;
/// So many bytes of a text are a step: an evaluation makes at most some 100 MiB of them.
const BYTES: usize = 64;

thread_local! {
    /// Steps left of the evaluation under way on this thread; `None` when they were not enough.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs an evaluation with a budget, and says what is left of it; `None` when it was not enough.
pub(super) fn within<T>(steps: u64, evaluate: impl FnOnce() -> T) -> (T, Option<u64>) {
    let before = LEFT.replace(Some(steps));
    let out = evaluate();
    let left = LEFT.replace(before);
    (out, left)
}

/// Takes steps from the budget.
pub(super) fn spend(steps: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().and_then(|left| left.checked_sub(steps));
    LEFT.set(left);
    left.map(drop).ok_or_else(|| ExecutionError::function_error(TURNS, "actual cost limit exceeded"))
}

/// Takes the steps for a text of that length.
pub(super) fn pay_for_bytes(bytes: usize) -> Result<(), ExecutionError> {
    spend((bytes / BYTES) as u64)
}

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(TURNS, TURNS, vec![DYN_TYPE, INT_TYPE], |mut args| {
        let nodes = args.pop().and_then(|n| n.downcast_ref::<CelInt>().map(|n| *n.inner())).unwrap_or(1);
        let list = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
        let size = list.as_sizer().map_or(0, |sizer| *sizer.size().inner());
        spend((size.unsigned_abs()).saturating_mul(nodes.unsigned_abs()))?;
        Ok(list)
    })?;
    env.add_overload(PAID, PAID, vec![INT_TYPE], |mut args| {
        let length = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
        spend(length.downcast_ref::<CelInt>().map_or(0, |n| u64::try_from(*n.inner()).unwrap_or(0)))?;
        Ok(length)
    })?;
    env.add_overload(KEPT, KEPT, vec![DYN_TYPE], |mut args| {
        let value = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
        spend(weight(value.as_ref()))?;
        Ok(value)
    })
}

/// How many values are in a value, a long text counting as several.
fn weight(value: &dyn Val) -> u64 {
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return list.inner().iter().map(|v| weight(v.as_ref())).sum::<u64>() + 1;
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        return map.inner().values().map(|v| weight(v.as_ref())).sum::<u64>() + 1;
    }
    let text = value.downcast_ref::<CelString<'_>>().map(|text| text.inner().len());
    let bytes = || value.downcast_ref::<CelBytes<'_>>().map(|bytes| bytes.inner().len());
    1 + (text.or_else(bytes).unwrap_or(0) / BYTES) as u64
}

/// Puts the calls into an expression, and counts its nodes.
pub(super) fn counted(node: &mut IdedExpr) -> u64 {
    let mut nodes = 1;
    match &mut node.expr {
        Expr::Call(call) => {
            nodes += call.target.as_deref_mut().map_or(0, counted);
            nodes += call.args.iter_mut().map(counted).sum::<u64>();
            if call.func_name == "range" || call.func_name == "lists.range" {
                for length in &mut call.args {
                    let value = std::mem::take(length);
                    *length = self::call(PAID, vec![value]);
                }
            }
            match (call.func_name.as_str(), call.args.len(), &call.target) {
                ("replace", 2 | 3, Some(_)) => REPLACE.clone_into(&mut call.func_name),
                ("join", 1, Some(_)) => JOIN.clone_into(&mut call.func_name),
                _ => {}
            }
        }
        Expr::Comprehension(c) => {
            nodes += counted(&mut c.iter_range) + counted(&mut c.accu_init);
            let turn = counted(&mut c.loop_cond) + counted(&mut c.loop_step);
            nodes += counted(&mut c.result);
            if matches!(&c.iter_range.expr, Expr::List(list) if list.elements.is_empty()) {
                // Not a loop, but a name for a value.
                return nodes;
            }
            nodes += turn;
            keep(&mut c.loop_step, &c.accu_var);
            let range = std::mem::take(&mut c.iter_range);
            let turn = Expr::Literal(LiteralValue::Int(CelInt::from(i64::try_from(turn).unwrap_or(i64::MAX))));
            c.iter_range = call(TURNS, vec![range, IdedExpr { id: 0, expr: turn }]);
        }
        Expr::List(list) => {
            // The evaluator looks each element up among the optional ones.
            nodes += (list.elements.len() * list.optional_indices.len() / LOOK_UPS) as u64;
            nodes += list.elements.iter_mut().map(copied).sum::<u64>();
        }
        Expr::Select(select) => nodes += counted(&mut select.operand),
        Expr::Map(map) => nodes += map.entries.iter_mut().map(|e| entry(&mut e.expr)).sum::<u64>(),
        Expr::Struct(map) => nodes += map.entries.iter_mut().map(|e| entry(&mut e.expr)).sum::<u64>(),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
    if is_sum(&node.expr) {
        let sum = std::mem::take(node);
        *node = call(KEPT, vec![sum]);
    }
    nodes
}

fn entry(entry: &mut EntryExpr) -> u64 {
    match entry {
        EntryExpr::MapEntry(e) => counted(&mut e.key) + copied(&mut e.value),
        EntryExpr::StructField(e) => copied(&mut e.value),
    }
}

/// A node whose value is copied: a literal is no longer than the expression.
fn copied(node: &mut IdedExpr) -> u64 {
    let nodes = counted(node);
    if !matches!(node.expr, Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Struct(_)) {
        pay(node);
    }
    nodes
}

/// Puts the call around a node, once.
fn pay(node: &mut IdedExpr) {
    if !matches!(&node.expr, Expr::Call(call) if call.func_name == KEPT) {
        let value = std::mem::take(node);
        *node = call(KEPT, vec![value]);
    }
}

/// Whether a sum may be longer than a number: no loop's own, which pays for what it adds.
fn is_sum(expr: &Expr) -> bool {
    let of = |arg: &IdedExpr| match &arg.expr {
        Expr::Ident(name) => !name.starts_with('@'),
        Expr::Literal(literal) => matches!(literal, LiteralValue::String(_) | LiteralValue::Bytes(_)),
        _ => true,
    };
    matches!(expr, Expr::Call(call) if call.func_name == operators::ADD && call.args.iter().all(of))
}

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id: 0, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

/// In `result + [value]`, also behind a condition, the value is paid for.
fn keep(step: &mut IdedExpr, result: &str) {
    let Expr::Call(step) = &mut step.expr else { return };
    if step.func_name == operators::CONDITIONAL {
        return step.args.iter_mut().skip(1).for_each(|branch| keep(branch, result));
    }
    if step.func_name != operators::ADD {
        return;
    }
    if let [IdedExpr { expr: Expr::Ident(name), .. }, IdedExpr { expr: Expr::List(list), .. }] =
        step.args.as_mut_slice()
        && name == result
    {
        list.elements.iter_mut().for_each(pay);
    }
}
