//! `sets.contains`, `sets.equivalent` and `sets.intersects` of two lists, as cel-go's `ext.Sets` has them.

use cel::common::types::LIST_TYPE;
use cel::{DeclarationError, Env, Value};

use super::{made, value};

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    macro_rules! set {
        ($name:literal, $holds:expr) => {
            env.add_overload($name, $name, vec![LIST_TYPE, LIST_TYPE], |args| {
                let (Value::List(one), Value::List(two)) = (value(&args, 0)?, value(&args, 1)?) else {
                    return Err(super::failed($name, "no such overload"));
                };
                super::super::budget::spend(one.len() as u64 * two.len() as u64)?;
                let holds: fn(&[Value], &[Value]) -> bool = $holds;
                made(holds(&one, &two).into())
            })?
        };
    }
    set!("sets.contains", |one, two| two.iter().all(|v| one.contains(v)));
    set!("sets.equivalent", |one, two| two.iter().all(|v| one.contains(v)) && one.iter().all(|v| two.contains(v)));
    set!("sets.intersects", |one, two| one.iter().any(|v| two.contains(v)));
    Ok(())
}
