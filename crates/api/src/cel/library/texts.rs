//! Functions of texts whose results may be much longer than what they are given: these pay before they make them. Expressions name
//! them without the `@`.

use cel::common::types::{CelInt, CelList, CelString, INT_TYPE, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

use super::text;
use crate::cel::budget::{pay_for_bytes, spend};

/// `text.replace(from, to)` and `text.replace(from, to, most)`.
pub(in crate::cel) const REPLACE: &str = "@replace";
/// `list.join(separator)`.
pub(in crate::cel) const JOIN: &str = "@join";

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    let (all, some) = (vec![STRING_TYPE, STRING_TYPE], vec![STRING_TYPE, STRING_TYPE, INT_TYPE]);
    env.add_member_overload(REPLACE, "@replace_all", STRING_TYPE, all, replace)?;
    env.add_member_overload(REPLACE, "@replace_some", STRING_TYPE, some, replace)?;
    env.add_member_overload(JOIN, "@join_with", LIST_TYPE, vec![STRING_TYPE], join)
}

fn replace<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (within, from, to) = (text(&args, 0)?, text(&args, 1)?, text(&args, 2)?);
    let most = args.get(3).and_then(|most| most.downcast_ref::<CelInt>()).map_or(-1, |most| *most.inner());
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = within.matches(from).take(most).count();
    pay_for_bytes(within.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(CowVal::owned(CelString::from(within.replacen(from, to, most))))
}

fn join<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let list = args.first().and_then(|list| list.downcast_ref::<CelList<'v>>());
    let list = list.ok_or_else(ExecutionError::missing_argument_or_target)?.inner();
    let separator = text(&args, 1)?;
    let wrong = |value: &dyn Val| {
        ExecutionError::no_such_member_overload("join", vec![value.get_type().name().to_owned(), "string".to_owned()])
    };
    spend(list.len() as u64)?;
    pay_for_bytes(list.len().saturating_mul(separator.len()))?;
    let mut out = String::new();
    for (i, value) in list.iter().enumerate() {
        let part = value.downcast_ref::<CelString<'_>>().ok_or_else(|| wrong(value.as_ref()))?.inner();
        pay_for_bytes(part.len())?;
        out.push_str(if i > 0 { separator } else { "" });
        out.push_str(part);
    }
    Ok(CowVal::owned(CelString::from(out)))
}
