//! One webhook of a configuration, ready to be asked.

use std::time::Duration;

use api::selectors::LabelSelector;
use serde_json::Value;

use super::super::Admission;
use super::super::conditions::Conditions;
use super::super::expression::Given;
use super::super::review::Failure;
use super::super::rules::{Match, Target};
use crate::webhook::Client;

/// A webhook.
pub(super) struct Hook {
    /// The object that configures it.
    pub configuration: String,
    pub name: String,
    pub client: Client,
    /// How long it has.
    pub timeout: Duration,
    /// Go on when it cannot be asked.
    pub ignore: bool,
    /// It has no effects on a dry run.
    pub dry: bool,
    /// Ask once more when something changed after it was asked.
    pub again: bool,
    matching: Match,
    namespaces: LabelSelector,
    objects: LabelSelector,
    conditions: Conditions,
}

/// Reads the webhooks of a configuration.
pub(super) fn compile(configuration: &Value) -> Vec<Hook> {
    let name = api::meta::name(configuration);
    configuration["webhooks"].as_array().into_iter().flatten().map(|webhook| read(name, webhook)).collect()
}

fn read(configuration: &str, webhook: &Value) -> Hook {
    let is = |key: &str, value: &str| webhook[key] == value;
    // What cannot be read selects everything: the webhook is asked rather than passed by.
    let selector = |key: &str| match &webhook[key] {
        Value::Null => LabelSelector::everything(),
        value => LabelSelector::from_json(value).unwrap_or_else(|_| LabelSelector::everything()),
    };
    let ignore = is("failurePolicy", "Ignore");
    Hook {
        configuration: configuration.to_owned(),
        name: webhook["name"].as_str().unwrap_or("").to_owned(),
        client: Client::new(&webhook["clientConfig"]),
        timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
        ignore,
        dry: is("sideEffects", "None") || is("sideEffects", "NoneOnDryRun"),
        again: is("reinvocationPolicy", "IfNeeded"),
        matching: Match::new(&webhook["rules"], !is("matchPolicy", "Exact")),
        namespaces: selector("namespaceSelector"),
        objects: selector("objectSelector"),
        conditions: Conditions::compile(&webhook["matchConditions"]),
    }
}

impl Hook {
    /// As what the webhook wants to see the object, if it does.
    pub fn selects<'a>(&self, admission: &Admission<'a>, object: &Value, old: &Value) -> Option<Target<'a>> {
        let target = self.matching.target(admission)?;
        let selected = super::super::rules::in_namespaces(&self.namespaces, admission, object, old)
            && super::super::rules::has_labels(&self.objects, object, old);
        selected.then_some(target)
    }

    /// Whether its conditions hold. What cannot be said is for the failure policy: it keeps the webhook out, or refuses.
    pub fn concerns(&self, admission: &Admission<'_>, request: &Value) -> Result<bool, Failure> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let authorizer = super::super::authorizer::of(admission);
        let values = vec![
            ("object", &request["object"]),
            ("oldObject", &request["oldObject"]),
            ("request", request),
            ("namespaceObject", &Value::Null),
        ];
        let given = Given { values, authorizer: &authorizer, made: None };
        match self.conditions.hold(&given) {
            Err(_) if self.ignore => Ok(false),
            Err(why) => Err(Failure::Refused(admission.forbidden(&why))),
            Ok(held) => Ok(held),
        }
    }
}
