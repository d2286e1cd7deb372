//! `quantity('1.5Gi')` and what can be asked of it (KEP-2876, `resource.Quantity`).

use cel::common::types::{CelBool, CelDouble, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};

use super::failed;
use super::value::value;
use crate::quantity;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantity(quantity::Quantity);

value!(Quantity, "kubernetes.Quantity");

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(Quantity::TYPE)?;
    add_overload!(env, fn parse: (CelString) -> Result<Quantity>, name = "quantity")?;
    add_overload!(env, fn is_quantity: (CelString) -> CelBool, name = "isQuantity")?;
    add_member_overload!(env, fn sign: (Quantity) -> CelInt, name = "sign")?;
    add_member_overload!(env, fn is_integer: (Quantity) -> CelBool, name = "isInteger")?;
    add_member_overload!(env, fn as_integer: (Quantity) -> Result<CelInt>, name = "asInteger")?;
    add_member_overload!(env, fn as_float: (Quantity) -> CelDouble, name = "asApproximateFloat")?;
    add_member_overload!(env, fn add: (Quantity, Quantity) -> Result<Quantity>, name = "add")?;
    add_member_overload!(env, fn add_int: (Quantity, CelInt) -> Result<Quantity>, name = "add")?;
    add_member_overload!(env, fn sub: (Quantity, Quantity) -> Result<Quantity>, name = "sub")?;
    add_member_overload!(env, fn sub_int: (Quantity, CelInt) -> Result<Quantity>, name = "sub")?;
    add_member_overload!(env, fn less: (Quantity, Quantity) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn greater: (Quantity, Quantity) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn compare: (Quantity, Quantity) -> CelInt, name = "compareTo")?;
    Ok(())
}

fn parse(text: &CelString<'_>) -> Result<Quantity, ExecutionError> {
    quantity::Quantity::parse(text.inner()).map(Quantity).map_err(|e| failed("quantity", e))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    CelBool::from(quantity::Quantity::parse(text.inner()).is_ok())
}

fn sign(this: &Quantity) -> CelInt {
    CelInt::from(i64::from(this.0.signum()))
}

/// Whether it is a whole number that fits into an int.
fn whole(this: &Quantity) -> Option<i64> {
    let value = this.0.value();
    let same = quantity::Quantity::from_value(value, this.0.format()) == this.0;
    (this.0.is_integer() && same).then_some(value)
}

fn is_integer(this: &Quantity) -> CelBool {
    CelBool::from(whole(this).is_some())
}

fn as_integer(this: &Quantity) -> Result<CelInt, ExecutionError> {
    whole(this).map(CelInt::from).ok_or_else(|| failed("asInteger", "cannot convert value to integer"))
}

fn as_float(this: &Quantity) -> CelDouble {
    CelDouble::from(this.0.as_f64())
}

fn of(value: &CelInt) -> Quantity {
    Quantity(quantity::Quantity::from_value(*value.inner(), quantity::Format::DecimalSi))
}

fn add(this: &Quantity, other: &Quantity) -> Result<Quantity, ExecutionError> {
    this.0.checked_add(other.0).map(Quantity).ok_or_else(|| failed("add", "quantity overflow"))
}

fn add_int(this: &Quantity, other: &CelInt) -> Result<Quantity, ExecutionError> {
    add(this, &of(other))
}

fn sub(this: &Quantity, other: &Quantity) -> Result<Quantity, ExecutionError> {
    this.0.checked_sub(other.0).map(Quantity).ok_or_else(|| failed("sub", "quantity overflow"))
}

fn sub_int(this: &Quantity, other: &CelInt) -> Result<Quantity, ExecutionError> {
    sub(this, &of(other))
}

fn less(this: &Quantity, other: &Quantity) -> CelBool {
    CelBool::from(this.0 < other.0)
}

fn greater(this: &Quantity, other: &Quantity) -> CelBool {
    CelBool::from(this.0 > other.0)
}

fn compare(this: &Quantity, other: &Quantity) -> CelInt {
    CelInt::from(this.0.cmp(&other.0) as i64)
}
