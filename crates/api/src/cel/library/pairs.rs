//! What the loops of two variables become: functions between lists of pairs and maps (`syntax::pairs`).

use cel::common::types::{CelInt, CelList, CelMap, DYN_TYPE, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

use super::failed;

/// The pairs of a list or a map.
pub(in crate::cel) const PAIRS: &str = "@pairs";
/// The map of a list of pairs.
pub(in crate::cel) const AS_MAP: &str = "@asMap";
/// The map of a list of maps.
pub(in crate::cel) const MERGED: &str = "@merged";

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(PAIRS, PAIRS, vec![DYN_TYPE], pairs)?;
    env.add_overload(AS_MAP, AS_MAP, vec![LIST_TYPE], as_map)?;
    env.add_overload(MERGED, MERGED, vec![LIST_TYPE], merged)
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
