//! Webhook configurations and admission policies.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::selector_line;
use super::{AGE, NAME, col};
use crate::json::{at, list_at, str_at};
use crate::kinds::{Column, Columns};
use crate::meta;
use crate::table::object_age;

const PARAM_KIND: Column = col("ParamKind", "string", "Kind of the objects that parameterize the policy.");

/// Columns of webhook configurations.
pub const WEBHOOKS: Columns = Columns {
    list: &[NAME, col("Webhooks", "integer", "Number of webhooks."), AGE],
    row: |o, now| vec![json!(meta::name(o)), json!(list_at(o, &["webhooks"]).len()), json!(object_age(o, now))],
};

/// Columns of validating admission policies.
pub const VALIDATING_POLICY: Columns = Columns {
    list: &[NAME, col("Validations", "integer", "Number of validation rules."), PARAM_KIND, AGE],
    row: |o, now| policy(o, now, "validations"),
};

/// Columns of mutating admission policies.
pub const MUTATING_POLICY: Columns = Columns {
    list: &[NAME, col("Mutations", "integer", "Number of mutations."), PARAM_KIND, AGE],
    row: |o, now| policy(o, now, "mutations"),
};

/// Columns of the bindings of both kinds of policy.
pub const POLICY_BINDING: Columns = Columns {
    list: &[
        NAME,
        col("PolicyName", "string", "Policy that is bound."),
        col("ParamRef", "string", "Object that parameterizes the policy."),
        AGE,
    ],
    row: binding,
};

fn policy(o: &Value, now: Timestamp, rules: &str) -> Vec<Value> {
    let kind = at(o, &["spec", "paramKind"])
        .map_or_else(|| "<unset>".to_owned(), |k| format!("{}/{}", str_at(k, &["apiVersion"]), str_at(k, &["kind"])));
    let rules = list_at(o, &["spec", rules]).len();
    vec![json!(meta::name(o)), json!(rules), json!(kind), json!(object_age(o, now))]
}

fn binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let reference = at(o, &["spec", "paramRef"]).unwrap_or(&Value::Null);
    let shown = match (str_at(reference, &["namespace"]), str_at(reference, &["name"])) {
        (_, "") => match at(reference, &["selector"]) {
            None => "<unset>".to_owned(),
            selector => selector_line(selector),
        },
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![json!(meta::name(o)), json!(str_at(o, &["spec", "policyName"])), json!(shown), json!(object_age(o, now))]
}
