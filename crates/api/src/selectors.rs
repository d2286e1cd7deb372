//! Label and field selectors: the string syntax of URLs and the JSON form of objects.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::json::{list_at, str_at};
use crate::labels::Labelled;
use crate::names;
use crate::status::{ApiError, FieldError};

/// Relation between a key and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of the set.
    In,
    /// The value is absent or not one of the set.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
    /// The value is an integer above the operand (node affinity only in practice).
    Gt,
    /// The value is an integer below the operand.
    Lt,
}

/// One condition of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Relation.
    pub operator: Operator,
    /// Operands.
    pub values: BTreeSet<String>,
    /// Written as `=` or `!=`: only matters for printing.
    equality: bool,
}

impl Requirement {
    /// A condition as the JSON forms write it (`operator` is `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`).
    pub fn new(key: &str, operator: Operator, values: impl IntoIterator<Item = String>) -> Self {
        Self { key: key.to_owned(), operator, values: values.into_iter().collect(), equality: false }
    }

    /// Whether the labels meet this condition.
    pub fn matches(&self, labels: &impl Labelled) -> bool {
        let value = labels.label(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => {
                let number = |s: &str| s.parse::<i64>().ok();
                let (Some(have), Some(want)) = (value.and_then(number), self.values.first().and_then(|v| number(v)))
                else {
                    return false;
                };
                if self.operator == Operator::Gt { have > want } else { have < want }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::In if self.equality => write!(f, "{}={}", self.key, values()),
            Operator::NotIn if self.equality => write!(f, "{}!={}", self.key, values()),
            Operator::In => write!(f, "{} in ({})", self.key, values()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, values()),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::Gt => write!(f, "{}>{}", self.key, values()),
            Operator::Lt => write!(f, "{}<{}", self.key, values()),
        }
    }
}

/// A conjunction of conditions, or a selector that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object: what an absent metav1 selector means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// From conditions.
    pub fn from_requirements(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }

    /// From the string syntax of `labelSelector=`; the empty string matches everything.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut parser = Parser { text, pos: 0 };
        let mut requirements =
            parser.selector().map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From metav1 `LabelSelector` JSON; null matches nothing, `{}` everything. The error is one line of explanation.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let Some(object) = value.as_object() else {
            return if value.is_null() {
                Ok(Self::nothing())
            } else {
                Err("label selector must be an object".to_owned())
            };
        };
        let mut requirements = Vec::new();
        if let Some(labels) = object.get("matchLabels").and_then(Value::as_object) {
            for (key, v) in labels {
                let v = v.as_str().ok_or_else(|| format!("matchLabels[{key}] must be a string"))?;
                let mut r = Requirement::new(key, Operator::In, [v.to_owned()]);
                r.equality = true;
                requirements.push(r);
            }
        }
        for e in list_at(value, &["matchExpressions"]) {
            let operator = match str_at(e, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = list_at(e, &["values"]).iter().filter_map(Value::as_str).map(str::to_owned);
            requirements.push(Requirement::new(str_at(e, &["key"]), operator, values));
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a map of required labels (services, `matchLabels`); empty matches everything.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        let requirements = labels
            .iter()
            .map(|(k, v)| Requirement {
                key: k.clone(),
                operator: Operator::In,
                values: BTreeSet::from([v.as_str().unwrap_or("").to_owned()]),
                equality: true,
            })
            .collect();
        Self { requirements, nothing: false }
    }

    /// Whether labels match.
    pub fn matches(&self, labels: &impl Labelled) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether an object's `metadata.labels` match.
    pub fn matches_object(&self, object: &Value) -> bool {
        match crate::meta::labels(object) {
            Some(labels) => self.matches(labels),
            None => self.matches(&Map::new()),
        }
    }

    /// True when every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

/// Checks a metav1 `LabelSelector` inside an object.
pub fn validate_label_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        errors.extend(crate::meta::validate_labels(labels, &format!("{field}.matchLabels")));
    }
    for (i, e) in list_at(selector, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        let values = list_at(e, &["values"]);
        match str_at(e, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(format!("{field}.operator"), other, "not a valid selector operator"))
            }
        }
        let key = str_at(e, &["key"]);
        errors.extend(
            names::qualified_name(key).into_iter().map(|m| FieldError::invalid(format!("{field}.key"), key, m)),
        );
        for (j, v) in values.iter().filter_map(Value::as_str).enumerate() {
            let problems = names::label_value(v).into_iter();
            errors.extend(problems.map(|m| FieldError::invalid(format!("{field}.values[{j}]"), v, m)));
        }
    }
    errors
}

struct Parser<'a> {
    text: &'a str,
    pos: usize,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        let rest = &self.text[self.pos..];
        self.pos += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.pos).copied()
    }

    fn eat(&mut self, symbol: &str) -> bool {
        self.skip_space();
        let found = self.text[self.pos..].starts_with(symbol);
        if found {
            self.pos += symbol.len();
        }
        found
    }

    /// A run of characters that are neither space nor punctuation; may be empty.
    fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = &self.text[self.pos..];
        let end = rest.find(|c: char| c.is_ascii_whitespace() || "=!(),<>".contains(c)).unwrap_or(rest.len());
        self.pos += end;
        &rest[..end]
    }

    fn found(&mut self) -> String {
        self.skip_space();
        self.text[self.pos..].chars().next().map(String::from).unwrap_or_default()
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        if self.peek().is_none() {
            return Ok(out);
        }
        loop {
            out.push(self.requirement()?);
            if self.peek().is_none() {
                return Ok(out);
            }
            if !self.eat(",") {
                return Err(format!("found '{}', expected: ',' or 'end of string'", self.found()));
            }
            if self.peek().is_none() {
                return Err("found '', expected: identifier after ','".to_owned());
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.eat("!");
        let key = self.word();
        if key.is_empty() {
            return Err(format!("found '{}', expected: !, identifier, or 'end of string'", self.found()));
        }
        check("key", key, &names::qualified_name(key))?;
        if negated || matches!(self.peek(), None | Some(b',')) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(Requirement::new(key, operator, []));
        }
        let (operator, equality) = self.operator()?;
        let values: BTreeSet<String> = match (operator, equality) {
            (_, true) => BTreeSet::from([self.word().to_owned()]),
            (Operator::Gt | Operator::Lt, _) => {
                let value = self.word();
                if value.parse::<i64>().is_err() {
                    return Err(format!(
                        "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
                BTreeSet::from([value.to_owned()])
            }
            _ => self.value_set()?,
        };
        for v in &values {
            check(&format!("values[0][{key}]"), v, &names::label_value(v))?;
        }
        Ok(Requirement { key: key.to_owned(), operator, values, equality })
    }

    fn operator(&mut self) -> Result<(Operator, bool), String> {
        for (symbol, operator, equality) in [
            ("==", Operator::In, true),
            ("=", Operator::In, true),
            ("!=", Operator::NotIn, true),
            (">", Operator::Gt, false),
            ("<", Operator::Lt, false),
        ] {
            if self.eat(symbol) {
                return Ok((operator, equality));
            }
        }
        match self.word() {
            "in" => Ok((Operator::In, false)),
            "notin" => Ok((Operator::NotIn, false)),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn value_set(&mut self) -> Result<BTreeSet<String>, String> {
        if !self.eat("(") {
            return Err(format!("found '{}' expected: '('", self.found()));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.word().to_owned());
            if self.eat(")") {
                return Ok(values);
            }
            if !self.eat(",") {
                return Err(format!("found '{}', expected: ',' or ')'", self.found()));
            }
        }
    }
}

fn check(field: &str, value: &str, problems: &[String]) -> Result<(), String> {
    problems.first().map_or(Ok(()), |p| Err(format!("{field}: Invalid value: {value:?}: {p}")))
}

/// A conjunction of `field=value` conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One condition of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// Label of the field, e.g. `spec.nodeName`.
    pub field: String,
    /// True for `!=`.
    pub negated: bool,
    /// Operand.
    pub value: String,
}

impl FieldSelector {
    /// From the string syntax of `fieldSelector=`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let invalid = || ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"));
            let (field, negated, value) = split_term(term).ok_or_else(invalid)?;
            terms.push(FieldTerm { field: field.to_owned(), negated, value: unescape(value).ok_or_else(invalid)? });
        }
        Ok(Self { terms })
    }

    /// Refuses fields the kind cannot be selected by, as Kubernetes words it.
    pub fn check(&self, kind: &crate::kinds::KindInfo) -> Result<(), ApiError> {
        match self.terms.iter().find(|t| !kind.is_selectable(&t.field)) {
            None => Ok(()),
            Some(t) => Err(ApiError::bad_request(format!("field label not supported: {}", t.field))),
        }
    }

    /// Whether an object matches, given the values of its fields; one that is not set is empty.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|t| (value(&t.field) == t.value) != t.negated)
    }

    /// The value `field` must have, if the selector says so: lets a list go straight to one key.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }

    /// The conditions.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// True when every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (negated, value) = if let Some(v) = rest.strip_prefix("!=") {
        (true, v)
    } else if let Some(v) = rest.strip_prefix("==") {
        (false, v)
    } else {
        (false, rest.strip_prefix('=')?)
    };
    Some((field, negated, value))
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            '=' | ',' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
