//! `x-kubernetes-validations` of a schema: compiled once, checked on every write.

use std::collections::HashMap;

use serde_json::Value;

use super::values;
use crate::cel::{self, Program};
use crate::json::{bool_at, str_at};
use crate::status::{FieldError, FieldErrorKind};

/// Steps that all rules of an object may take together: ten times what one may, as in Kubernetes.
const BUDGET: u64 = 10 * cel::STEP_LIMIT;

/// The rules of a schema by their text.
#[derive(Debug, Default)]
pub(super) struct Rules {
    programs: HashMap<String, Program>,
}

/// One look at an object.
struct Pass {
    errors: Vec<FieldError>,
    budget: u64,
    /// A rule took too long: no others are looked at.
    ended: bool,
}

impl Rules {
    /// Compiles every rule in the schema.
    ///
    /// # Errors
    /// The first expression that does not compile.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        let mut rules = Rules::default();
        rules.add(schema)?;
        Ok(rules)
    }

    fn add(&mut self, schema: &Value) -> Result<(), String> {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            for key in ["rule", "messageExpression"] {
                let text = str_at(rule, &[key]);
                if !text.is_empty() && !self.programs.contains_key(text) {
                    let program = cel::compile(text, &["self", "oldSelf"])
                        .map_err(|e| format!("compilation failed: {e} in {text:?}"))?;
                    self.programs.insert(text.to_owned(), program);
                }
            }
        }
        for property in schema["properties"].as_object().into_iter().flat_map(|m| m.values()) {
            self.add(property)?;
        }
        ["items", "additionalProperties"]
            .iter()
            .filter(|k| schema[**k].is_object())
            .try_for_each(|k| self.add(&schema[*k]))
    }

    /// What the rules find.
    pub fn check(&self, schema: &Value, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut pass = Pass { errors: Vec::new(), budget: BUDGET, ended: false };
        if !self.programs.is_empty() {
            self.value(schema, object, old, "", &mut pass);
        }
        pass.errors
    }

    fn value(&self, schema: &Value, value: &Value, old: Option<&Value>, path: &str, pass: &mut Pass) {
        if value.is_null() || pass.ended {
            return;
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            self.rule(schema, rule, value, old, path, pass);
        }
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Object(map) => {
                for (name, child) in map {
                    let rest = Some(&schema["additionalProperties"]).filter(|s| s.is_object());
                    if let Some(property) = schema["properties"].get(name).or(rest) {
                        self.value(property, child, old.and_then(|o| o.get(name)), &join(name), pass);
                    }
                }
            }
            Value::Array(list) => {
                for (index, item) in list.iter().enumerate() {
                    let before = values::counterpart(schema, item, old);
                    self.value(&schema["items"], item, before, &format!("{path}[{index}]"), pass);
                }
            }
            _ => {}
        }
    }

    fn rule(&self, schema: &Value, rule: &Value, value: &Value, old: Option<&Value>, path: &str, pass: &mut Pass) {
        if pass.ended {
            return;
        }
        let text = str_at(rule, &["rule"]);
        let Some(program) = self.programs.get(text) else { return };
        let transition = program.uses("oldSelf");
        let optional = bool_at(rule, &["optionalOldSelf"]);
        if transition && old.is_none() && !optional {
            return;
        }
        if !transition && old == Some(value) {
            // It passed, or was there before the rule (KEP-4008).
            return;
        }
        let ty = str_at(schema, &["type"]);
        let typed = |value, optional| cel::Variable::Typed { value, schema, optional };
        let mut vars: Vec<(&str, cel::Variable<'_>)> = vec![("self", typed(Some(value), false))];
        if transition {
            vars.push(("oldSelf", typed(old, optional)));
        }
        let (kind, detail) = match program.eval_within(&vars, &mut pass.budget) {
            Ok(Value::Bool(true)) => return,
            Ok(Value::Bool(false)) => {
                let message = self.message(rule, text, &vars, &mut pass.budget);
                (reason(str_at(rule, &["reason"])), message)
            }
            Ok(_) => (FieldErrorKind::Invalid, format!("rule does not evaluate to a boolean: {text}")),
            Err(error @ cel::Error::Cost) => {
                pass.ended = true;
                let words = "no further validation rules will be run due to call cost exceeds limit for rule";
                (FieldErrorKind::Invalid, format!("'{error}': {words}: {text}"))
            }
            Err(error @ cel::Error::Budget) => {
                pass.ended = true;
                (FieldErrorKind::Invalid, error.to_string())
            }
            Err(error) => (FieldErrorKind::Invalid, format!("rule compile or evaluation error: {error}: {text}")),
        };
        let field = match str_at(rule, &["fieldPath"]) {
            "" => path.to_owned(),
            below if path.is_empty() => below.trim_start_matches('.').to_owned(),
            below => format!("{path}{below}"),
        };
        let value = if kind == FieldErrorKind::Duplicate { value.clone() } else { ty.into() };
        pass.errors.push(FieldError { kind, field, detail, value });
    }

    fn message(&self, rule: &Value, text: &str, vars: &[(&str, cel::Variable<'_>)], budget: &mut u64) -> String {
        let program = self.programs.get(str_at(rule, &["messageExpression"]));
        let computed = program.and_then(|p| p.eval_within(vars, budget).ok());
        match (computed, str_at(rule, &["message"])) {
            (Some(Value::String(words)), _) if !words.trim().is_empty() && !words.contains('\n') => words,
            (_, "") => format!("failed rule: {}", text.trim()),
            (_, words) => words.to_owned(),
        }
    }
}

fn reason(word: &str) -> FieldErrorKind {
    match word {
        "FieldValueForbidden" => FieldErrorKind::Forbidden,
        "FieldValueRequired" => FieldErrorKind::Required,
        "FieldValueDuplicate" => FieldErrorKind::Duplicate,
        _ => FieldErrorKind::Invalid,
    }
}
