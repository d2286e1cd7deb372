//! Comprehensions of two variables (cel-go's `ext.TwoVarComprehensions`): index and value of a list, key and value of a map.
//!
//! The evaluator's loops have one variable. So these become loops over pairs: `m.all(k, v, p)` is the loop of `all` over
//! `m.@pairs()` with a variable `@pair`, in which `k` and `v` are bound to its two parts.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, LiteralValue, operators};
use cel::common::types::{CelInt, CelList, CelMap, DYN_TYPE, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::parser::{Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, ExecutionError};

use super::failed;

const PAIR: &str = "@pair";
const RESULT: &str = "@result";
const PAIRS: &str = "@pairs";
const AS_MAP: &str = "@asMap";
const MERGED: &str = "@merged";

type Helper<'a> = MacroExprHelper<'a>;
type Expanded = Result<Option<IdedExpr>, ParseError>;

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(PAIRS, PAIRS, vec![DYN_TYPE], pairs)?;
    env.add_overload(AS_MAP, AS_MAP, vec![LIST_TYPE], as_map)?;
    env.add_overload(MERGED, MERGED, vec![LIST_TYPE], merged)?;
    env.add_macro(Macro::receiver("all", 3, |h, t, a| quantifier(h, t, a, true)))?;
    env.add_macro(Macro::receiver("exists", 3, |h, t, a| quantifier(h, t, a, false)))?;
    env.add_macro(Macro::receiver("existsOne", 3, exists_one))?;
    env.add_macro(Macro::receiver("exists_one", 3, exists_one))?;
    env.add_macro(Macro::receiver("transformList", 3, |h, t, a| transform(h, t, a, "")))?;
    env.add_macro(Macro::receiver("transformList", 4, |h, t, a| transform(h, t, a, "")))?;
    env.add_macro(Macro::receiver("transformMap", 3, |h, t, a| transform(h, t, a, AS_MAP)))?;
    env.add_macro(Macro::receiver("transformMap", 4, |h, t, a| transform(h, t, a, AS_MAP)))?;
    env.add_macro(Macro::receiver("transformMapEntry", 3, |h, t, a| transform(h, t, a, MERGED)))?;
    env.add_macro(Macro::receiver("transformMapEntry", 4, |h, t, a| transform(h, t, a, MERGED)))
}

/// The two variables and what comes after them.
struct Taken {
    names: [String; 2],
    range: IdedExpr,
    rest: Vec<IdedExpr>,
}

fn take(h: &mut Helper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>) -> Result<Taken, ParseError> {
    let name = |at: usize, h: &mut Helper<'_>| match args.get(at).map(|a| (&a.expr, a.id)) {
        Some((Expr::Ident(name), _)) => Ok(name.clone()),
        Some((_, id)) => Err(h.new_error(id, "argument must be a simple name")),
        None => Err(h.new_error(0, "argument must be a simple name")),
    };
    let names = [name(0, h)?, name(1, h)?];
    let Some(range) = target.take() else { return Err(h.new_error(0, "a list or map is missing")) };
    let rest = args.split_off(2);
    args.clear();
    let range = call(h, PAIRS, vec![range]);
    Ok(Taken { names, range, rest })
}

fn call(h: &mut Helper<'_>, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    h.next_expr(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
}

fn ident(h: &mut Helper<'_>, name: &str) -> IdedExpr {
    h.next_expr(Expr::Ident(name.to_owned()))
}

fn boolean(h: &mut Helper<'_>, value: bool) -> IdedExpr {
    h.next_expr(Expr::Literal(LiteralValue::Boolean(value.into())))
}

fn integer(h: &mut Helper<'_>, value: i64) -> IdedExpr {
    h.next_expr(Expr::Literal(LiteralValue::Int(value.into())))
}

fn listed(h: &mut Helper<'_>, elements: Vec<IdedExpr>) -> IdedExpr {
    h.next_expr(Expr::List(ListExpr::new(elements)))
}

/// `body` with the two variables bound to the parts of the pair.
fn bound(h: &mut Helper<'_>, names: &[String; 2], body: IdedExpr) -> IdedExpr {
    names.iter().enumerate().fold(body, |body, (at, name)| {
        let (pair, at) = (ident(h, PAIR), integer(h, at as i64));
        let part = call(h, operators::INDEX, vec![pair, at]);
        let bind = ComprehensionExpr {
            iter_range: listed(h, Vec::new()),
            iter_var: "#unused".to_owned(),
            iter_var2: None,
            accu_var: name.clone(),
            accu_init: part,
            loop_cond: boolean(h, false),
            loop_step: ident(h, name),
            result: body,
        };
        h.next_expr(Expr::Comprehension(Box::new(bind)))
    })
}

fn quantifier(h: &mut Helper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>, all: bool) -> Expanded {
    let Taken { names, range, mut rest } = take(h, target, args)?;
    let Some(predicate) = rest.pop() else { return Ok(None) };
    let predicate = bound(h, &names, predicate);
    let result = ident(h, RESULT);
    let (undecided, operator) = match all {
        true => (result, operators::LOGICAL_AND),
        false => (call(h, operators::LOGICAL_NOT, vec![result]), operators::LOGICAL_OR),
    };
    let result = ident(h, RESULT);
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: boolean(h, all),
        loop_cond: call(h, operators::NOT_STRICTLY_FALSE, vec![undecided]),
        loop_step: call(h, operator, vec![result, predicate]),
        result: ident(h, RESULT),
    };
    Ok(Some(h.next_expr(Expr::Comprehension(Box::new(comprehension)))))
}

fn exists_one(h: &mut Helper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>) -> Expanded {
    let Taken { names, range, mut rest } = take(h, target, args)?;
    let Some(predicate) = rest.pop() else { return Ok(None) };
    let predicate = bound(h, &names, predicate);
    let (result, one) = (ident(h, RESULT), integer(h, 1));
    let more = call(h, operators::ADD, vec![result, one]);
    let result = ident(h, RESULT);
    let step = call(h, operators::CONDITIONAL, vec![predicate, more, result]);
    let (result, one) = (ident(h, RESULT), integer(h, 1));
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: integer(h, 0),
        loop_cond: boolean(h, true),
        loop_step: step,
        result: call(h, operators::EQUALS, vec![result, one]),
    };
    Ok(Some(h.next_expr(Expr::Comprehension(Box::new(comprehension)))))
}

/// A list of what the last argument makes of each pair that the one before it, if any, keeps; `into` makes a map of them.
fn transform(h: &mut Helper<'_>, target: &mut Option<IdedExpr>, args: &mut Vec<IdedExpr>, into: &str) -> Expanded {
    let Taken { names, range, mut rest } = take(h, target, args)?;
    let Some(made) = rest.pop() else { return Ok(None) };
    let made = match into {
        AS_MAP => {
            let key = ident(h, &names[0]);
            listed(h, vec![key, made])
        }
        _ => made,
    };
    let made = bound(h, &names, made);
    let (result, made) = (ident(h, RESULT), listed(h, vec![made]));
    let mut step = call(h, operators::ADD, vec![result, made]);
    if let Some(filter) = rest.pop() {
        let (filter, result) = (bound(h, &names, filter), ident(h, RESULT));
        step = call(h, operators::CONDITIONAL, vec![filter, step, result]);
    }
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: listed(h, Vec::new()),
        loop_cond: boolean(h, true),
        loop_step: step,
        result: ident(h, RESULT),
    };
    let list = h.next_expr(Expr::Comprehension(Box::new(comprehension)));
    Ok(Some(if into.is_empty() { list } else { call(h, into, vec![list]) }))
}

fn argument<'a, 'b, 'v>(args: &'a [CowVal<'b, 'v>]) -> Result<&'a CowVal<'b, 'v>, ExecutionError> {
    args.first().ok_or_else(ExecutionError::missing_argument_or_target)
}

/// The elements of a list with their indexes, or the entries of a map, as lists of two.
fn pairs<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let argument = argument(&args)?;
    let pair = |one: Box<dyn Val + 'v>, two: Box<dyn Val + 'v>| -> Box<dyn Val + 'v> {
        Box::new(CelList::from(vec![one, two]))
    };
    if let Some(map) = argument.downcast_ref::<CelMap<'v>>() {
        let entries = map.inner().iter().map(|(key, value)| pair(key.inner().clone_as_boxed(), value.clone_as_boxed()));
        return Ok(CowVal::owned(CelList::from(entries.collect::<Vec<_>>())));
    }
    let list = argument.downcast_ref::<CelList<'v>>().ok_or_else(|| failed("@pairs", "no such overload"))?;
    let entries = list.inner().iter().enumerate();
    let entries = entries.map(|(at, value)| pair(Box::new(CelInt::from(at as i64)), value.clone_as_boxed()));
    Ok(CowVal::owned(CelList::from(entries.collect::<Vec<_>>())))
}

/// A list of keys and values as a map.
fn as_map<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wrong = || failed("transformMap", "no such overload");
    let list = argument(&args)?.downcast_ref::<CelList<'v>>().ok_or_else(wrong)?;
    let mut out = std::collections::HashMap::new();
    for pair in list.inner() {
        let [key, value] = pair.downcast_ref::<CelList<'v>>().ok_or_else(wrong)?.inner() else { return Err(wrong()) };
        out.insert(key.clone_as_boxed().try_into()?, value.clone_as_boxed());
    }
    Ok(CowVal::owned(CelMap::from(out)))
}

/// A list of maps as one map. A key must not come twice.
fn merged<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wrong = || failed("transformMapEntry", "no such overload");
    let list = argument(&args)?.downcast_ref::<CelList<'v>>().ok_or_else(wrong)?;
    let mut out = std::collections::HashMap::new();
    for map in list.inner() {
        for (key, value) in map.downcast_ref::<CelMap<'v>>().ok_or_else(wrong)?.inner() {
            if out.insert(key.clone(), value.clone_as_boxed()).is_some() {
                return Err(failed(
                    "transformMapEntry",
                    format!("insert failed: key {:?} already exists", key.inner()),
                ));
            }
        }
    }
    Ok(CowVal::owned(CelMap::from(out)))
}
