//! Calls that stand for something else: the macros of the language, of its optional values, and of the libraries for lists,
//! numbers and two variables.
//!
//! A loop is a `Comprehension`: the accumulator begins as `accu_init`, becomes `loop_step` for each element of `iter_range` while
//! `loop_cond` holds, and `result` is made of it.

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};

use super::nodes::{Fault, Made, Maker, Nodes};
use super::pairs;

/// The accumulator of a loop.
pub(super) const RESULT: &str = "@result";
/// What `optMap` looks at, when that is no name.
const TARGET: &str = "@target";
/// What `sortBy` sorts, and the function that does it.
const SORTED: &str = "@__sortBy_input__";
const SORT: &str = "@sortByAssociatedKeys";

/// A call as it is written, or what it stands for.
pub(super) fn call(
    nodes: &mut Nodes,
    at: usize,
    name: &str,
    target: Option<IdedExpr>,
    mut args: Vec<IdedExpr>,
) -> Made {
    let mut m = Maker { nodes, at };
    let Some(target) = target else {
        if name == "has"
            && let [_] = args.as_slice()
            && let Some(field) = args.pop()
        {
            return has(&mut m, field);
        }
        return Ok(m.call(name, args));
    };
    match (name, args.len()) {
        ("all", 2) => quantifier(&mut m, target, args, true),
        ("exists", 2) => quantifier(&mut m, target, args, false),
        ("exists_one" | "existsOne", 2) => exists_one(&mut m, target, args),
        ("map", 2 | 3) => map(&mut m, target, args),
        ("filter", 2) => filter(&mut m, target, args),
        ("optMap" | "optFlatMap", 2) => optional(&mut m, target, args, name == "optMap"),
        ("sortBy", 2) => sort(&mut m, target, args),
        ("greatest" | "least", _) if matches!(&target.expr, Expr::Ident(name) if name == "math") => {
            extreme(&mut m, &target, args, name)
        }
        (_, 3 | 4) if pairs::is_macro(name, args.len()) => pairs::expand(&mut m, name, target, args),
        _ => Ok(m.method(target, name, args)),
    }
}

/// The name of a loop's variable, and what comes after it.
fn variable(m: &Maker<'_>, mut args: Vec<IdedExpr>) -> Result<(String, Vec<IdedExpr>), Fault> {
    let rest = args.split_off(1);
    Ok((m.name(&args[0])?, rest))
}

fn has(m: &mut Maker<'_>, argument: IdedExpr) -> Made {
    let place = m.fault(&argument, "invalid argument to has() macro");
    match argument.expr {
        Expr::Select(mut select) => {
            select.test = true;
            Ok(m.node(Expr::Select(select)))
        }
        _ => Err(place),
    }
}

fn quantifier(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>, all: bool) -> Made {
    let (variable, mut rest) = variable(m, args)?;
    let result = m.ident(RESULT);
    let (undecided, operator) = match all {
        true => (result, operators::LOGICAL_AND),
        false => (m.call(operators::LOGICAL_NOT, vec![result]), operators::LOGICAL_OR),
    };
    rest.insert(0, m.ident(RESULT));
    let comprehension = ComprehensionExpr {
        iter_range: target,
        iter_var: variable,
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.boolean(all),
        loop_cond: m.call(operators::NOT_STRICTLY_FALSE, vec![undecided]),
        loop_step: m.call(operator, rest),
        result: m.ident(RESULT),
    };
    Ok(m.comprehension(comprehension))
}

fn exists_one(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>) -> Made {
    let (variable, mut step) = variable(m, args)?;
    let more = vec![m.ident(RESULT), m.integer(1)];
    step.extend([m.call(operators::ADD, more), m.ident(RESULT)]);
    let one = vec![m.ident(RESULT), m.integer(1)];
    let comprehension = ComprehensionExpr {
        iter_range: target,
        iter_var: variable,
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.integer(0),
        loop_cond: m.boolean(true),
        loop_step: m.call(operators::CONDITIONAL, step),
        result: m.call(operators::EQUALS, one),
    };
    Ok(m.comprehension(comprehension))
}

/// A list of what `made` is for each element that the filter, if any, keeps.
fn listed(
    m: &mut Maker<'_>,
    range: IdedExpr,
    variable: String,
    keep: Option<IdedExpr>,
    made: IdedExpr,
) -> ComprehensionExpr {
    let more = vec![m.ident(RESULT), m.list(vec![made])];
    let mut step = m.call(operators::ADD, more);
    if let Some(keep) = keep {
        let choice = vec![keep, step, m.ident(RESULT)];
        step = m.call(operators::CONDITIONAL, choice);
    }
    ComprehensionExpr {
        iter_range: range,
        iter_var: variable,
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.list(Vec::new()),
        loop_cond: m.boolean(true),
        loop_step: step,
        result: m.ident(RESULT),
    }
}

fn map(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>) -> Made {
    let (variable, mut rest) = variable(m, args)?;
    let made = rest.remove(rest.len() - 1);
    let comprehension = listed(m, target, variable, rest.pop(), made);
    Ok(m.comprehension(comprehension))
}

fn filter(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>) -> Made {
    let (variable, mut rest) = variable(m, args)?;
    let element = m.ident(&variable);
    let comprehension = listed(m, target, variable, rest.pop(), element);
    Ok(m.comprehension(comprehension))
}

/// `t.optMap(v, e)`: `e` in an optional with `v` for the value of `t`, if there is one; `optFlatMap` where `e` is an optional.
fn optional(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>, wrap: bool) -> Made {
    let (variable, mut rest) = variable(m, args)?;
    let (name, target) = match &target.expr {
        Expr::Ident(name) => (name.clone(), None),
        _ => (TARGET.to_owned(), Some(target)),
    };
    let of = m.ident(&name);
    let is = m.method(of, "hasValue", Vec::new());
    let of = m.ident(&name);
    let value = m.method(of, "value", Vec::new());
    let made = rest.remove(0);
    let mut some = m.bound(&variable, value, made);
    let library = m.ident("optional");
    if wrap {
        let library = m.ident("optional");
        some = m.method(library, "of", vec![some]);
    }
    let none = m.method(library, "none", Vec::new());
    let choice = m.call(operators::CONDITIONAL, vec![is, some, none]);
    Ok(match target {
        Some(target) => m.bound(TARGET, target, choice),
        None => choice,
    })
}

fn sort(m: &mut Maker<'_>, target: IdedExpr, args: Vec<IdedExpr>) -> Made {
    if matches!(target.expr, Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_)) {
        let what =
            "sortBy can only be applied to a list, identifier, comprehension, call or select expression".to_owned();
        return Err(m.fault(&target, what));
    }
    let input = m.ident(SORTED);
    let keys = map(m, input, args)?;
    let input = m.ident(SORTED);
    let sorted = m.method(input, SORT, vec![keys]);
    Ok(m.bound(SORTED, target, sorted))
}

/// `math.greatest` and `math.least`.
fn extreme(m: &mut Maker<'_>, target: &IdedExpr, mut args: Vec<IdedExpr>, name: &str) -> Made {
    let invalid = match args.as_slice() {
        [] => Some((target, "requires at least one argument")),
        [one] => (!is_numeric_list(one) && !may_be_number(one)).then_some((one, "invalid single argument value")),
        more => {
            more.iter().find(|arg| !may_be_number(arg)).map(|arg| (arg, "simple literal arguments must be numeric"))
        }
    };
    if let Some((node, what)) = invalid {
        return Err(m.fault(node, format!("math.{name}() {what}")));
    }
    if args.len() > 2 {
        args = vec![m.list(args)];
    }
    Ok(m.call(if name == "greatest" { "math.@max" } else { "math.@min" }, args))
}

fn may_be_number(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Literal(literal) => {
            matches!(literal, LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_))
        }
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => false,
        _ => true,
    }
}

fn is_numeric_list(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::List(list) if !list.elements.is_empty() && list.elements.iter().all(may_be_number))
}
