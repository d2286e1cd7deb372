//! ValidatingAdmissionPolicy: objects are refused, or the client is warned, or the audit log is told.

use std::collections::BTreeMap;

use api::status::ApiError;
use serde_json::{Value, json};

use super::super::expression::Given;
use super::super::{Admission, authorizer};
use super::base::{Base, Binding, Expression, Shown, namespace_of};
use super::{items, text};

/// Longest message that an expression may make, bytes (Kubernetes' own limit).
const MESSAGE_MAX: usize = 5 << 10;
/// Longest value of an audit annotation, bytes (Kubernetes' own limit).
const ANNOTATION_MAX: usize = 10 << 10;

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// A policy.
pub(super) struct Policy {
    base: Base,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// One failed check, or a check that failed to run.
struct Finding {
    /// Position of the check in the policy.
    index: usize,
    message: String,
    reason: String,
}

/// What a policy says of an object, with one parameter.
#[derive(Default)]
struct Verdict {
    /// For these the binding says what to do.
    findings: Vec<Finding>,
    /// These refuse the request.
    broken: Vec<String>,
    annotations: Vec<(String, String)>,
}

/// Why a request is refused.
struct Denial {
    policy: String,
    binding: String,
    message: String,
    reason: String,
}

/// Checks an object against all policies.
///
/// # Errors
/// The first refusal.
pub(in super::super) async fn validate(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let kinds = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
    let policies = admission.server.admission.policies.validating.current(admission.caches(), kinds, Policy::new);
    let mut denied: Option<Denial> = None;
    for policy in policies.iter() {
        let Some(target) = policy.base.selection.target(admission, object, old) else { continue };
        let bindings = policy.base.bindings.iter();
        let bindings: Vec<_> = bindings.filter(|b| b.selection.target(admission, object, old).is_some()).collect();
        if bindings.is_empty() {
            continue;
        }
        let converted = target.converted(admission, object, old).await?;
        let [object, old] = converted.as_ref().map_or([object, old], |both| both.each_ref());
        let shown = Shown::new(admission, &target, object, old);
        let (namespace, authorizer) = (namespace_of(admission), authorizer::of(admission));
        let values = vec![
            ("object", &shown.object),
            ("oldObject", &shown.old),
            ("request", &shown.request),
            ("namespaceObject", &namespace),
        ];
        let given = Given { values, authorizer: &authorizer, made: None };
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in bindings {
            policy.judge(admission, binding, &given, &mut annotations, &mut denied);
        }
        for (key, values) in annotations {
            admission.warnings.annotate(format!("{}/{key}", policy.base.name), values.join(", "));
        }
    }
    denied.map_or(Ok(()), |denial| Err(error(admission, &denial)))
}

impl Policy {
    fn new(policy: &Value, bindings: &[&Value]) -> Self {
        let spec = &policy["spec"];
        Policy {
            validations: items(spec, "validations").map(Validation::new).collect(),
            annotations: items(spec, "auditAnnotations")
                .map(|a| (text(a, "key"), Expression::new(&a["valueExpression"])))
                .collect(),
            base: Base::new(policy, bindings),
        }
    }

    /// Does what a binding says with what the policy finds, with every parameter of the binding.
    fn judge(
        &self,
        admission: &Admission<'_>,
        binding: &Binding,
        given: &Given<'_>,
        annotations: &mut BTreeMap<String, Vec<String>>,
        denied: &mut Option<Denial>,
    ) {
        let mut deny = |message: String, reason: String| {
            let (policy, binding) = (self.base.name.clone(), binding.name.clone());
            denied.get_or_insert(Denial { policy, binding, message, reason });
        };
        let params = match self.base.params(admission, binding) {
            Ok(params) => params,
            Err(_) if self.base.ignore => return,
            Err(why) => return deny(format!("failed to configure binding: {why}"), String::new()),
        };
        for params in &params {
            let verdict = self.evaluate(&given.with("params", params));
            for finding in verdict.findings {
                act(admission, &self.base.name, binding, &finding);
                if binding.actions.iter().any(|a| a == "Deny") {
                    deny(finding.message, finding.reason);
                }
            }
            verdict.broken.into_iter().for_each(|why| deny(why, String::new()));
            for (key, value) in verdict.annotations {
                let values = annotations.entry(key).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
    }

    fn evaluate(&self, given: &Given<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        let ignore = self.base.ignore;
        let broken = |index, message| (!ignore).then(|| Finding { index, message, reason: String::new() });
        match self.base.conditions.hold(given) {
            Ok(true) => {}
            Ok(false) => return verdict,
            Err(why) => {
                verdict.findings.extend(broken(0, why));
                return verdict;
            }
        }
        let variables = self.base.variables(given);
        let given = &given.with_made(&variables);
        for (index, validation) in self.validations.iter().enumerate() {
            let expression = &validation.expression;
            verdict.findings.extend(match expression.eval(given) {
                Ok(Value::Bool(true)) => None,
                Ok(Value::Bool(false)) => {
                    Some(Finding { index, message: validation.message(given), reason: validation.reason.clone() })
                }
                Ok(_) => {
                    let why = format!("expression '{}' resulted in error: must evaluate to a bool", expression.text);
                    broken(index, why)
                }
                Err(why) => broken(index, why),
            });
        }
        for (key, expression) in &self.annotations {
            match expression.eval(given) {
                Ok(Value::String(value)) if !value.trim().is_empty() => {
                    verdict.annotations.push((key.clone(), cut(value.trim(), ANNOTATION_MAX).to_owned()));
                }
                Ok(Value::Null | Value::String(_)) => {}
                Ok(_) if ignore => {}
                Ok(_) => verdict.broken.push(format!(
                    "valueExpression '{}' resulted in unsupported return type: return type must be either string or null",
                    expression.text
                )),
                Err(_) if ignore => {}
                Err(why) => verdict.broken.push(format!("value{why}")),
            }
        }
        verdict
    }
}

/// At most so many bytes of a text.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Tells of a finding whom the binding wants to be told.
fn act(admission: &Admission<'_>, policy: &str, binding: &Binding, finding: &Finding) {
    let (name, message) = (&binding.name, &finding.message);
    for action in &binding.actions {
        match action.as_str() {
            "Warn" => admission.warnings.add(format!(
                "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"
            )),
            "Audit" => {
                let failure = json!([{
                    "message": message, "policy": policy, "binding": name, "expressionIndex": finding.index,
                    "validationActions": binding.actions,
                }]);
                let key = "validation.policy.admission.k8s.io/validation_failure";
                admission.warnings.annotate(key, failure.to_string());
            }
            _ => {}
        }
    }
}

fn error(admission: &Admission<'_>, denial: &Denial) -> ApiError {
    let Denial { policy, binding, message, reason } = denial;
    let message = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}");
    let mut error = admission.forbidden(&message);
    (error.code, error.reason) = match reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    error.details.get_or_insert_with(|| json!({}))["causes"] = json!([{"message": message}]);
    error
}

impl Validation {
    fn new(validation: &Value) -> Self {
        Validation {
            expression: Expression::new(&validation["expression"]),
            message: text(validation, "message").trim().to_owned(),
            message_expression: validation["messageExpression"]
                .as_str()
                .map(|_| Expression::new(&validation["messageExpression"])),
            reason: text(validation, "reason"),
        }
    }

    /// What a reader is told: made by the expression if that gives one usable line, else as written, else the rule itself.
    fn message(&self, given: &Given<'_>) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.eval(given).ok());
        let usable = |m: &&str| !m.is_empty() && m.len() <= MESSAGE_MAX && !m.contains('\n');
        match made.as_ref().and_then(Value::as_str).map(str::trim).filter(usable) {
            Some(made) => made.to_owned(),
            None if self.message.is_empty() => format!("failed expression: {}", self.expression.text),
            None => self.message.clone(),
        }
    }
}
