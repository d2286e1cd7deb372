//! `semver('1.2.3')` (semver.org 2.0.0).

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};

use super::failed;
use super::value::value;

#[derive(Debug, Clone)]
pub(super) struct Semver(semver::Version);

impl PartialEq for Semver {
    /// Build metadata has no precedence.
    fn eq(&self, other: &Self) -> bool {
        self.0.cmp_precedence(&other.0).is_eq()
    }
}

value!(Semver, "kubernetes.Semver");

pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(Semver::TYPE)?;
    add_overload!(env, fn strict: (CelString) -> Result<Semver>, name = "semver")?;
    add_overload!(env, fn lenient: (CelString, CelBool) -> Result<Semver>, name = "semver")?;
    add_overload!(env, fn is_strict: (CelString) -> CelBool, name = "isSemver")?;
    add_overload!(env, fn is_lenient: (CelString, CelBool) -> CelBool, name = "isSemver")?;
    add_member_overload!(env, fn major: (Semver) -> CelInt, name = "major")?;
    add_member_overload!(env, fn minor: (Semver) -> CelInt, name = "minor")?;
    add_member_overload!(env, fn patch: (Semver) -> CelInt, name = "patch")?;
    add_member_overload!(env, fn less: (Semver, Semver) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn greater: (Semver, Semver) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn compare: (Semver, Semver) -> CelInt, name = "compareTo")?;
    Ok(())
}

fn parse(text: &str, normalize: bool) -> Result<Semver, ExecutionError> {
    let normal = if normalize { normalized(text)? } else { text.to_owned() };
    semver::Version::parse(&normal).map(Semver).map_err(|e| failed("semver", e))
}

/// Without a `v` in front and leading zeros, and with all three numbers.
fn normalized(text: &str) -> Result<String, ExecutionError> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(bare).collect();
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err(failed("semver", "short version cannot contain PreRelease/Build meta data"));
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}

/// A part without leading zeros.
fn bare(part: &str) -> String {
    if part.len() < 2 {
        return part.to_owned();
    }
    let rest = part.trim_start_matches('0');
    if rest.starts_with(|c: char| c.is_ascii_digit()) { rest.to_owned() } else { format!("0{rest}") }
}

fn strict(text: &CelString<'_>) -> Result<Semver, ExecutionError> {
    parse(text.inner(), false)
}

fn lenient(text: &CelString<'_>, normalize: &CelBool) -> Result<Semver, ExecutionError> {
    parse(text.inner(), *normalize.inner())
}

fn is_strict(text: &CelString<'_>) -> CelBool {
    CelBool::from(parse(text.inner(), false).is_ok())
}

fn is_lenient(text: &CelString<'_>, normalize: &CelBool) -> CelBool {
    CelBool::from(parse(text.inner(), *normalize.inner()).is_ok())
}

fn number(n: u64) -> CelInt {
    CelInt::from(i64::try_from(n).unwrap_or(i64::MAX))
}

fn major(this: &Semver) -> CelInt {
    number(this.0.major)
}

fn minor(this: &Semver) -> CelInt {
    number(this.0.minor)
}

fn patch(this: &Semver) -> CelInt {
    number(this.0.patch)
}

fn less(this: &Semver, other: &Semver) -> CelBool {
    CelBool::from(this.0.cmp_precedence(&other.0).is_lt())
}

fn greater(this: &Semver, other: &Semver) -> CelBool {
    CelBool::from(this.0.cmp_precedence(&other.0).is_gt())
}

fn compare(this: &Semver, other: &Semver) -> CelInt {
    CelInt::from(this.0.cmp_precedence(&other.0) as i64)
}
