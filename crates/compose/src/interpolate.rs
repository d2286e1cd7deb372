//! Variables in values (compose-spec, "Interpolation"): `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`,
//! `${NAME:?error}`, `${NAME?error}`, `${NAME:+instead}`, `${NAME+instead}`, one in another, and `$$` for a `$`.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::yaml::{Node, Value};

/// Deepest nesting of defaults in defaults.
const DEPTH_MAX: usize = 16;
/// Longest result of one value, bytes: a default may name a variable many times.
const TEXT_MAX: usize = 1 << 20;

/// Whoever knows the values of variables.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces the variables of every value below a node. Names that have no value are added to `unset`.
///
/// # Errors
/// The place of a value that is not written as it must be, or that demands a variable.
pub fn node(node: &mut Node, lookup: &Lookup<'_>, unset: &mut BTreeSet<String>) -> Result<()> {
    walk(node, "", lookup, unset)
}

fn walk(node: &mut Node, path: &str, lookup: &Lookup<'_>, unset: &mut BTreeSet<String>) -> Result<()> {
    let place = node.place.clone();
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(value) if value.contains('$') => {
            *value = text(value, lookup, unset).map_err(|m| Error::new(&place, path, m))?;
        }
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}[{i}]"), lookup, unset)?;
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(value, &below, lookup, unset)?;
            }
        }
    }
    Ok(())
}

/// Replaces the variables of a text.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn text(value: &str, lookup: &Lookup<'_>, unset: &mut BTreeSet<String>) -> std::result::Result<String, String> {
    let mut reader = Reader { all: value, rest: value, lookup, unset };
    let out = reader.until(false, 0, true)?;
    Ok(out)
}

struct Reader<'a, 'b> {
    all: &'a str,
    rest: &'a str,
    lookup: &'a Lookup<'b>,
    unset: &'a mut BTreeSet<String>,
}

impl Reader<'_, '_> {
    /// Up to the end, or to the `}` that closes a default. `wanted`: whether what is read will be used; what is not can
    /// neither fail nor be missing.
    fn until(&mut self, closed: bool, depth: usize, wanted: bool) -> std::result::Result<String, String> {
        if depth > DEPTH_MAX {
            return Err(format!("{:?} has more than {DEPTH_MAX} levels", self.all));
        }
        let mut out = String::new();
        while let Some(c) = self.rest.chars().next() {
            match c {
                '}' if closed => {
                    self.rest = &self.rest[1..];
                    return Ok(out);
                }
                '$' => {
                    self.rest = &self.rest[1..];
                    let value = self.variable(depth, wanted)?;
                    out.push_str(&value);
                }
                c => {
                    out.push(c);
                    self.rest = &self.rest[c.len_utf8()..];
                }
            }
            if out.len() > TEXT_MAX {
                return Err(format!("the value is longer than {TEXT_MAX} bytes"));
            }
        }
        if closed { Err(self.wrong()) } else { Ok(out) }
    }

    fn wrong(&self) -> String {
        format!("invalid interpolation format {:?}: you may need to write $$ for a $", self.all)
    }

    fn name(&mut self) -> Option<String> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins {
            return None;
        }
        self.rest = &self.rest[end..];
        Some(name.to_owned())
    }

    /// What follows a `$`.
    fn variable(&mut self, depth: usize, wanted: bool) -> std::result::Result<String, String> {
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            return Ok("$".to_owned());
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            let name = self.name().ok_or_else(|| self.wrong())?;
            return Ok(self.value(&name, wanted));
        };
        self.rest = rest;
        let name = self.name().ok_or_else(|| self.wrong())?;
        let found = (self.lookup)(&name);
        if let Some(rest) = self.rest.strip_prefix('}') {
            self.rest = rest;
            return Ok(self.value(&name, wanted));
        }
        let filled = self.rest.starts_with(':');
        let operator = self.rest.trim_start_matches(':').chars().next();
        let there = found.filter(|v| !(filled && v.is_empty()));
        let skip = usize::from(filled) + 1;
        let Some(operator) = operator.filter(|o| ['-', '?', '+'].contains(o)) else { return Err(self.wrong()) };
        if self.rest.len() < skip || !self.rest[skip - 1..].starts_with(operator) {
            return Err(self.wrong());
        }
        self.rest = &self.rest[skip..];
        let used = wanted && (there.is_some() == (operator == '+'));
        let word = self.until(true, depth + 1, used)?;
        match operator {
            '-' => Ok(there.unwrap_or(word)),
            '+' => Ok(if there.is_some() { word } else { String::new() }),
            _ => match there {
                Some(value) => Ok(value),
                None if !wanted => Ok(String::new()),
                None if word.is_empty() => Err(format!("required variable {name} is missing a value")),
                None => Err(format!("required variable {name} is missing a value: {word}")),
            },
        }
    }

    fn value(&mut self, name: &str, wanted: bool) -> String {
        match (self.lookup)(name) {
            Some(value) => value,
            None => {
                if wanted {
                    self.unset.insert(name.to_owned());
                }
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn of(t: &str) -> std::result::Result<String, String> {
        text(t, &get, &mut BTreeSet::new())
    }

    #[test]
    fn every_form_means_what_a_shell_means() {
        for (given, wanted) in [
            ("$A-$$A-${A}", "a-$A-a"),
            ("${A:-d}${EMPTY:-d}${NO:-d}", "add"),
            ("${A-d}${EMPTY-d}${NO-d}", "ad"),
            ("${A:+r}${EMPTY:+r}${NO:+r}", "r"),
            ("${A+r}${EMPTY+r}${NO+r}", "rr"),
            ("${NO:-${NONE-${A}}}", "a"),
            ("${NO:-$A/$$x}", "a/$x"),
            ("${A:?gone}", "a"),
            ("${A:-${NO:?never asked}}", "a"),
            ("${NO}${NO:-}", ""),
            ("plain } {", "plain } {"),
        ] {
            assert_eq!(of(given).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn what_is_demanded_or_badly_written_is_refused() {
        assert_eq!(of("${NO:?set it}").unwrap_err(), "required variable NO is missing a value: set it");
        assert_eq!(of("${EMPTY:?}").unwrap_err(), "required variable EMPTY is missing a value");
        assert_eq!(of("${EMPTY?}").unwrap(), "");
        for bad in ["$", "a $ b", "${", "${}", "${A", "${A:}", "${A:x}", "${1}", "$1", "${A::-x}", "${A-", "${A!}"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("{}x{}", "${NO-".repeat(40), "}".repeat(40))).is_err());
    }

    #[test]
    fn names_without_a_value_are_told_but_not_those_that_are_not_used() {
        let mut unset = BTreeSet::new();
        text("$X ${Y} ${Z:-d} ${A:-$W} ${NO:+$V}", &get, &mut unset).unwrap();
        assert_eq!(unset.into_iter().collect::<Vec<_>>(), ["X", "Y"]);
    }

    proptest! {
        #[test]
        fn a_text_whose_dollars_are_doubled_stays_itself(s in "[ -~]{0,40}") {
            prop_assert_eq!(of(&s.replace('$', "$$")), Ok(s));
        }

        #[test]
        fn no_text_makes_it_panic(s in "[${}:?+A\\-é ]{0,40}") {
            let _ = of(&s);
        }
    }
}
