//! Loops of two variables (cel-go's `ext.TwoVarComprehensions`): index and value of a list, key and value of a map.
//!
//! The evaluator's loops have one variable. So these become loops over pairs: `m.all(k, v, p)` is the loop of `all` over
//! `@pairs(m)` with a variable `@pair`, in which `k` and `v` are bound to its two parts.

use cel::common::ast::{ComprehensionExpr, IdedExpr, operators};

use super::macros::RESULT;
use super::nodes::{Made, Maker};
use crate::cel::library::pairs::{AS_MAP, MERGED, PAIRS};

const PAIR: &str = "@pair";

/// Whether a call with so many arguments is one of these.
pub(super) fn is_macro(name: &str, args: usize) -> bool {
    match name {
        "all" | "exists" | "existsOne" | "exists_one" => args == 3,
        "transformList" | "transformMap" | "transformMapEntry" => args == 3 || args == 4,
        _ => false,
    }
}

/// What such a call stands for.
pub(super) fn expand(m: &mut Maker<'_>, name: &str, target: IdedExpr, mut args: Vec<IdedExpr>) -> Made {
    let names = [m.name(&args[0])?, m.name(&args[1])?];
    let mut rest = args.split_off(2);
    let range = m.call(PAIRS, vec![target]);
    let last = rest.remove(rest.len() - 1);
    Ok(match name {
        "all" => quantifier(m, range, &names, last, true),
        "exists" => quantifier(m, range, &names, last, false),
        "existsOne" | "exists_one" => exists_one(m, range, &names, last),
        _ => transform(m, range, &names, rest.pop(), last, name),
    })
}

/// `body` with the two variables bound to the parts of the pair.
fn bound(m: &mut Maker<'_>, names: &[String; 2], body: IdedExpr) -> IdedExpr {
    names.iter().enumerate().fold(body, |body, (at, name)| {
        let part = vec![m.ident(PAIR), m.integer(at as i64)];
        let part = m.call(operators::INDEX, part);
        m.bound(name, part, body)
    })
}

fn quantifier(m: &mut Maker<'_>, range: IdedExpr, names: &[String; 2], predicate: IdedExpr, all: bool) -> IdedExpr {
    let predicate = bound(m, names, predicate);
    let result = m.ident(RESULT);
    let (undecided, operator) = match all {
        true => (result, operators::LOGICAL_AND),
        false => (m.call(operators::LOGICAL_NOT, vec![result]), operators::LOGICAL_OR),
    };
    let result = m.ident(RESULT);
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.boolean(all),
        loop_cond: m.call(operators::NOT_STRICTLY_FALSE, vec![undecided]),
        loop_step: m.call(operator, vec![result, predicate]),
        result: m.ident(RESULT),
    };
    m.comprehension(comprehension)
}

fn exists_one(m: &mut Maker<'_>, range: IdedExpr, names: &[String; 2], predicate: IdedExpr) -> IdedExpr {
    let predicate = bound(m, names, predicate);
    let more = vec![m.ident(RESULT), m.integer(1)];
    let step = vec![predicate, m.call(operators::ADD, more), m.ident(RESULT)];
    let one = vec![m.ident(RESULT), m.integer(1)];
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.integer(0),
        loop_cond: m.boolean(true),
        loop_step: m.call(operators::CONDITIONAL, step),
        result: m.call(operators::EQUALS, one),
    };
    m.comprehension(comprehension)
}

/// A list of what `made` is of each pair that the filter, if any, keeps; or the map that this list stands for.
fn transform(
    m: &mut Maker<'_>,
    range: IdedExpr,
    names: &[String; 2],
    keep: Option<IdedExpr>,
    made: IdedExpr,
    name: &str,
) -> IdedExpr {
    let made = match name {
        "transformMap" => {
            let entry = vec![m.ident(&names[0]), made];
            m.list(entry)
        }
        _ => made,
    };
    let made = bound(m, names, made);
    let more = vec![m.ident(RESULT), m.list(vec![made])];
    let mut step = m.call(operators::ADD, more);
    if let Some(keep) = keep {
        let choice = vec![bound(m, names, keep), step, m.ident(RESULT)];
        step = m.call(operators::CONDITIONAL, choice);
    }
    let comprehension = ComprehensionExpr {
        iter_range: range,
        iter_var: PAIR.to_owned(),
        iter_var2: None,
        accu_var: RESULT.to_owned(),
        accu_init: m.list(Vec::new()),
        loop_cond: m.boolean(true),
        loop_step: step,
        result: m.ident(RESULT),
    };
    let list = m.comprehension(comprehension);
    match name {
        "transformMap" => m.call(AS_MAP, vec![list]),
        "transformMapEntry" => m.call(MERGED, vec![list]),
        _ => list,
    }
}
