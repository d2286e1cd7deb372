//! What a job makes of failed and succeeded pods: pod failure policy, success policy.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::{Check, join};
use crate::json::{at, int_at, list_at, str_at};
use crate::names;
use crate::status::FieldError;

/// Most rules of either policy.
const MAX_RULES: usize = 20;
/// Most exit codes and most conditions of one rule.
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
/// Longest `succeededIndexes`, bytes.
const MAX_INDEXES: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

/// Checks `podFailurePolicy` and `successPolicy` of a job's spec.
pub(super) fn validate(check: &mut Check, spec: &Value) {
    if let Some(policy) = at(spec, &["podFailurePolicy"]) {
        validate_failure(check, spec, policy, "spec.podFailurePolicy.rules");
    }
    let Some(policy) = at(spec, &["successPolicy"]) else { return };
    if str_at(spec, &["completionMode"]) != "Indexed" {
        check.invalid("spec.successPolicy", policy.clone(), "requires indexed completion mode");
        return;
    }
    let field = "spec.successPolicy.rules";
    let rules = list_at(policy, &["rules"]);
    if rules.is_empty() {
        check.required(field, "at least one rules must be specified when the successPolicy is specified");
    } else if rules.len() > MAX_RULES {
        check.extend([FieldError::too_many(field, rules.len(), MAX_RULES)]);
    }
    // Without completions an indexed job is refused anyway.
    if let Some(completions) = int_at(spec, &["completions"]) {
        for (i, rule) in rules.iter().enumerate() {
            validate_success(check, rule, &format!("{field}[{i}]"), completions);
        }
    }
}

fn validate_failure(check: &mut Check, spec: &Value, policy: &Value, field: &str) {
    let rules = list_at(policy, &["rules"]);
    if rules.len() > MAX_RULES {
        check.extend([FieldError::too_many(field, rules.len(), MAX_RULES)]);
    }
    let pod = at(spec, &["template", "spec"]).unwrap_or(&Value::Null);
    let lists = ["containers", "initContainers"];
    let containers: BTreeSet<&str> =
        lists.iter().flat_map(|l| list_at(pod, &[l])).map(|c| str_at(c, &["name"])).collect();
    for (i, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let action = str_at(rule, &["action"]);
        if action.is_empty() {
            check.required(join(&field, "action"), &format!("valid values: {ACTIONS:?}").replace(',', ""));
        } else if action == "FailIndex" && at(spec, &["backoffLimitPerIndex"]).is_none() {
            check.invalid(join(&field, "action"), action, "requires the backoffLimitPerIndex to be set");
        } else {
            check.one_of(rule, "action", &field, ACTIONS);
        }
        let conditions = list_at(rule, &["onPodConditions"]);
        if conditions.len() > MAX_CONDITIONS {
            check.extend([FieldError::too_many(join(&field, "onPodConditions"), conditions.len(), MAX_CONDITIONS)]);
        }
        for (j, pattern) in conditions.iter().enumerate() {
            let field = format!("{field}.onPodConditions[{j}]");
            let kind = str_at(pattern, &["type"]);
            check.syntax(&join(&field, "type"), kind, names::qualified_name(kind));
            check.need_one_of(pattern, "status", &field, &["False", "True", "Unknown"]);
        }
        match (at(rule, &["onExitCodes"]), conditions.is_empty()) {
            (Some(codes), true) => validate_exit_codes(check, codes, &join(&field, "onExitCodes"), &containers),
            (None, false) => {}
            (Some(_), false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                check.invalid(field, rule.clone(), detail);
            }
            (None, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                check.invalid(field, rule.clone(), detail);
            }
        }
    }
}

fn validate_exit_codes(check: &mut Check, codes: &Value, field: &str, containers: &BTreeSet<&str>) {
    check.need_one_of(codes, "operator", field, &["In", "NotIn"]);
    if let Some(name) = at(codes, &["containerName"]).and_then(Value::as_str)
        && !containers.contains(name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        check.invalid(join(field, "containerName"), name, detail);
    }
    let values = list_at(codes, &["values"]);
    let field = join(field, "values");
    let shown = || Value::from(values);
    if values.is_empty() {
        check.invalid(field.clone(), shown(), "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        check.extend([FieldError::too_many(field.clone(), values.len(), MAX_EXIT_CODES)]);
    }
    let numbers: Vec<i64> = values.iter().map(|v| v.as_i64().unwrap_or(0)).collect();
    let mut seen = BTreeSet::new();
    for (i, code) in numbers.iter().enumerate() {
        if *code == 0 && str_at(codes, &["operator"]) == "In" {
            check.invalid(format!("{field}[{i}]"), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            check.duplicate(format!("{field}[{i}]"), *code);
        }
    }
    if !numbers.is_sorted() {
        check.invalid(field, shown(), "must be ordered");
    }
}

fn validate_success(check: &mut Check, rule: &Value, field: &str, completions: i64) {
    let indexes = at(rule, &["succeededIndexes"]).and_then(Value::as_str);
    let count = int_at(rule, &["succeededCount"]);
    if indexes.is_none() && count.is_none() {
        check.required(field, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let field = join(field, "succeededIndexes");
        if indexes.len() > MAX_INDEXES {
            check.extend([FieldError::too_long(field.clone(), MAX_INDEXES)]);
        }
        match count_indexes(indexes, completions) {
            Ok(n) => total = n,
            Err(why) => check.invalid(field, indexes, format!("error parsing succeededIndexes: {why}")),
        }
    }
    if let Some(count) = count {
        check.non_negative(rule, "succeededCount", field);
        let field = join(field, "succeededCount");
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            check.invalid(field.clone(), count, detail);
        }
        if indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            check.invalid(field, count, detail);
        }
    }
}

/// How many indexes `1,3-5,7` names, in ascending order and below `completions`.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last = -1;
    if text.is_empty() {
        return Ok(0);
    }
    for interval in text.split(',') {
        let limits: Vec<&str> = interval.split('-').collect();
        let parse = |text: &str| -> Result<i64, String> {
            let what = || format!("cannot convert string to integer for index: {text:?}");
            let number = text.parse::<i64>().map_err(|_| what())?;
            if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
        };
        let (first, end) = match limits[..] {
            [one] => (parse(one)?, parse(one)?),
            [first, end] => {
                let (x, y) = (parse(first)?, parse(end)?);
                if x >= y {
                    return Err(format!("non-increasing order, previous: {x}, current: {y}"));
                }
                (x, y)
            }
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        if first <= last {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        last = end;
        total += end - first + 1;
    }
    Ok(total)
}
