//! Whether the rules of a schema can hold at all: what they name is there, their operands go together, and what they may
//! cost is within the budget (KEP-2876).

use serde_json::Value;

use crate::cel::check::{Sound, Type, cardinality, check as check_types};
use crate::cel::{self, Program};
use crate::json::{bool_at, str_at};
use crate::status::FieldError;

/// What one rule may cost by the estimate, and all of a schema together.
const RULE: u64 = 10_000_000;
const SCHEMA: u64 = 100_000_000;
/// Schemas nested deeper have been refused before.
const DEPTH: usize = 64;

/// Of a schema that costs too much, so many rules are named, if they are at least a hundredth of what it may cost.
const NAMED: usize = 4;

struct Walk {
    errors: Vec<FieldError>,
    total: u64,
    /// Costs and places of rules that may have to be named.
    dear: Vec<(u64, String)>,
}

/// Where in the schema the walk is.
#[derive(Clone, Copy)]
struct Place<'a> {
    at: &'a str,
    root: bool,
    depth: usize,
    /// How many values of the schema an object can have; `None` when only the size of a request bounds it.
    values: Option<u64>,
    /// The list or map above, whose elements have no old values.
    unrelated: Option<&'a str>,
}

/// Everything that is wrong with the rules of a version's schema.
pub(super) fn check(schema: &Value, at: &str) -> Vec<FieldError> {
    let mut walk = Walk { errors: Vec::new(), total: 0, dear: Vec::new() };
    walk.schema(schema, Place { at, root: true, depth: 0, values: Some(1), unrelated: None });
    if walk.total > SCHEMA {
        // Stable: of equal ones the first.
        walk.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, field) in walk.dear.into_iter().take(NAMED) {
            let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            walk.errors.push(FieldError::forbidden(field, detail));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        walk.errors.push(FieldError::forbidden(at, exceeds(what, walk.total, SCHEMA)));
    }
    walk.errors
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

impl Walk {
    fn schema(&mut self, schema: &Value, place: Place<'_>) {
        if place.depth > DEPTH {
            return;
        }
        for (i, rule) in schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
            let at = format!("{}.x-kubernetes-validations[{i}]", place.at);
            self.rule(schema, rule, &at, place);
        }
        let depth = place.depth + 1;
        let atomic = schema["x-kubernetes-map-type"] == "atomic";
        let unrelated = place.unrelated.or(atomic.then_some(place.at));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{}.properties[{name}]", place.at);
            self.schema(property, Place { at: &at, root: false, depth, values: place.values, unrelated });
        }
        for (key, max, related) in [
            ("items", "maxItems", schema["x-kubernetes-list-type"] == "map"),
            ("additionalProperties", "maxProperties", !atomic),
        ] {
            if schema[key].is_object() {
                let at = format!("{}.{key}", place.at);
                let most = schema[max].as_u64();
                let values = place.values.zip(most).map(|(above, most)| above.saturating_mul(most));
                let unrelated = place.unrelated.or((!related).then_some(place.at));
                self.schema(&schema[key], Place { at: &at, root: false, depth, values, unrelated });
            }
        }
    }

    fn rule(&mut self, schema: &Value, rule: &Value, at: &str, place: Place<'_>) {
        let Some(ty) = Type::of(schema, place.root) else { return };
        let old = if bool_at(rule, &["optionalOldSelf"]) { Type::Optional(Box::new(ty.clone())) } else { ty.clone() };
        let variables = [("self", ty), ("oldSelf", old)];
        let values = place.values.unwrap_or_else(|| cardinality(schema));
        let text = str_at(rule, &["rule"]);
        // What does not compile has been told.
        if let Ok(program) = cel::compile(text, &["self", "oldSelf"]) {
            let field = format!("{at}.rule");
            self.typed(&program, text, &field, &variables, |sound| {
                sound.cost(&program, schema, place.root).saturating_mul(values)
            });
            if !rule["optionalOldSelf"].is_null() && !program.uses("oldSelf") {
                let detail = "may not be set if oldSelf is not used in rule";
                let field = format!("{at}.optionalOldSelf");
                self.errors.push(FieldError::invalid(field, rule["optionalOldSelf"].clone(), detail));
            }
            if let Some(list) = place.unrelated.filter(|_| program.uses("oldSelf")) {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                self.errors.push(FieldError::invalid(field, text, detail));
            }
        }
        let text = str_at(rule, &["messageExpression"]);
        if text.trim().is_empty() {
            return;
        }
        let Ok(program) = cel::compile(text, &["self", "oldSelf"]) else { return };
        let field = format!("{at}.messageExpression");
        match check_types(&program, &variables) {
            Err(why) => {
                let detail = format!("messageExpression compilation failed: {why}");
                self.errors.push(FieldError::invalid(field, text, detail));
            }
            Ok(sound) if !matches!(sound.ty, Type::String | Type::Dyn) => {
                let detail = "messageExpression must evaluate to a string";
                self.errors.push(FieldError::invalid(field, text, detail));
            }
            Ok(sound) => self.pay("estimated messageExpression cost", &field, sound.cost(&program, schema, place.root)),
        }
    }

    fn typed<'s>(
        &mut self,
        program: &Program,
        text: &str,
        field: &str,
        variables: &[(&str, Type<'s>)],
        cost: impl FnOnce(&Sound<'s>) -> u64,
    ) {
        match check_types(program, variables) {
            Err(why) => self.errors.push(FieldError::invalid(field, text, format!("compilation failed: {why}"))),
            Ok(sound) if !matches!(sound.ty, Type::Bool | Type::Dyn) => {
                self.errors.push(FieldError::invalid(field, text, "cel expression must evaluate to a bool"));
            }
            Ok(sound) => self.pay("estimated rule cost", field, cost(&sound)),
        }
    }

    fn pay(&mut self, what: &str, field: &str, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA / 100 {
            self.dear.push((cost, field.to_owned()));
        }
        if cost > RULE {
            self.errors.push(FieldError::forbidden(field, exceeds(what, cost, RULE)));
        }
    }
}
