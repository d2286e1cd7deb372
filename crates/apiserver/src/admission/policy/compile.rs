//! Policies and bindings as they are stored, made ready to be evaluated.

use api::selectors::LabelSelector;
use api::status::{ApiError, FieldError};
use serde_json::{Map, Value, json};

use super::super::conditions::Conditions;
use super::super::expression::Program;
use super::super::rules::{Target, has_labels, in_namespaces};
use super::super::{Admission, Operation};
use super::{Finding, Match};

/// Longest message that an expression may make, bytes (Kubernetes' own limit).
const MESSAGE_MAX: usize = 5 << 10;

/// `MatchResources`.
pub(super) struct Selection {
    rules: Match,
    excluded: Match,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// No rules mean everything: so in bindings.
    open: bool,
}

impl Selection {
    fn new(resources: &Value, open: bool) -> Self {
        let equivalent = resources["matchPolicy"] != "Exact";
        // What cannot be read selects everything: the policy is asked rather than passed by.
        let selector = |key: &str| match &resources[key] {
            Value::Null => LabelSelector::everything(),
            value => LabelSelector::from_json(value).unwrap_or_else(|_| LabelSelector::everything()),
        };
        Selection {
            rules: Match::new(&resources["resourceRules"], equivalent),
            excluded: Match::new(&resources["excludeResourceRules"], equivalent),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            open,
        }
    }

    /// As what the object is selected, if it is.
    pub fn target<'a>(&self, admission: &Admission<'a>, object: &Value, old: &Value) -> Option<Target<'a>> {
        let target = if self.open && self.rules.is_empty() {
            Target { kind: admission.kind }
        } else {
            self.rules.target(admission)?
        };
        let selected = self.excluded.target(admission).is_none()
            && in_namespaces(&self.namespaces, admission, object, old)
            && has_labels(&self.objects, object, old);
        selected.then_some(target)
    }
}

/// An expression with its text.
struct Expression {
    text: String,
    program: Result<Program, String>,
}

impl Expression {
    fn new(text: &Value) -> Self {
        let text = text.as_str().unwrap_or("").trim().to_owned();
        let program = Program::compile(&text).map_err(|e| format!("compilation error: {e}"));
        Expression { text, program }
    }

    fn eval(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        let failed = |why: String| format!("expression '{}' resulted in error: {why}", self.text);
        self.program.as_ref().map_err(Clone::clone)?.eval(variables).map_err(failed)
    }
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: String,
}

/// A ValidatingAdmissionPolicy.
pub(super) struct Policy {
    pub name: String,
    pub selection: Selection,
    /// What cannot be evaluated passes.
    pub ignore: bool,
    /// `apiVersion` and `kind`.
    pub param_kind: Option<(String, String)>,
    pub bindings: Vec<Binding>,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) struct Binding {
    pub name: String,
    pub selection: Selection,
    pub actions: Vec<String>,
    pub param_ref: Option<Value>,
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("").to_owned()
}

impl Policy {
    /// A policy with those of all bindings that name it.
    pub fn new(policy: &Value, bindings: &[Value]) -> Self {
        let (name, spec) = (api::meta::name(policy).to_owned(), &policy["spec"]);
        let param_kind = &spec["paramKind"];
        let own = bindings.iter().filter(|b| b["spec"]["policyName"] == name.as_str());
        Policy {
            selection: Selection::new(&spec["matchConstraints"], false),
            ignore: spec["failurePolicy"] == "Ignore",
            param_kind: param_kind.is_object().then(|| (text(param_kind, "apiVersion"), text(param_kind, "kind"))),
            bindings: own.map(Binding::new).collect(),
            conditions: Conditions::compile(&spec["matchConditions"]),
            variables: items(spec, "variables").map(|v| (text(v, "name"), Expression::new(&v["expression"]))).collect(),
            validations: items(spec, "validations").map(Validation::new).collect(),
            annotations: items(spec, "auditAnnotations")
                .map(|a| (text(a, "key"), Expression::new(&a["valueExpression"])))
                .collect(),
            name,
        }
    }

    /// What the policy finds, with one parameter.
    pub fn evaluate(&self, [object, old, request]: [&Value; 3], params: &Value, namespace: &Value) -> Vec<Finding> {
        let mut given: Vec<(&str, &Value)> = vec![("object", object), ("oldObject", old), ("request", request)];
        given.push(("namespaceObject", namespace));
        given.push(("params", params));
        let broken = |message: String| match self.ignore {
            true => Vec::new(),
            false => vec![Finding { message, reason: String::new() }],
        };
        match self.conditions.hold(&given) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(why) => return broken(why),
        }
        let variables = self.variables(&given);
        given.push(("variables", &variables));
        let mut found = Vec::new();
        for validation in &self.validations {
            match validation.expression.eval(&given) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => {
                    let message = validation.message(&given);
                    found.push(Finding { message, reason: validation.reason.clone() });
                }
                Ok(_) => found.extend(broken(format!(
                    "expression '{}' resulted in error: must evaluate to a bool",
                    validation.expression.text
                ))),
                Err(why) => found.extend(broken(why)),
            }
        }
        for (key, expression) in &self.annotations {
            match expression.eval(&given) {
                Ok(Value::String(value)) => {
                    let policy = &self.name;
                    tracing::info!(target: "audit", policy, key, value, "audit annotation");
                }
                Ok(_) => {}
                Err(why) => found.extend(broken(why)),
            }
        }
        found
    }

    /// The policy's own variables, each of which sees those before it. One that fails is absent: an expression that needs
    /// it fails, and no other.
    fn variables(&self, given: &[(&str, &Value)]) -> Value {
        let mut out = json!({});
        for (name, expression) in &self.variables {
            let mut all = given.to_vec();
            all.push(("variables", &out));
            let value = expression.eval(&all);
            drop(all);
            match value {
                Ok(value) => out[name.as_str()] = value,
                Err(why) => tracing::debug!(policy = self.name, variable = name, why, "variable has no value"),
            }
        }
        out
    }
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
    fn message(&self, given: &[(&str, &Value)]) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.eval(given).ok());
        let usable = |m: &&str| !m.is_empty() && m.len() <= MESSAGE_MAX && !m.contains('\n');
        match made.as_ref().and_then(Value::as_str).map(str::trim).filter(usable) {
            Some(made) => made.to_owned(),
            None if self.message.is_empty() => format!("failed expression: {}", self.expression.text),
            None => self.message.clone(),
        }
    }
}

impl Binding {
    fn new(binding: &Value) -> Self {
        let spec = &binding["spec"];
        Binding {
            name: api::meta::name(binding).to_owned(),
            selection: Selection::new(&spec["matchResources"], true),
            actions: items(spec, "validationActions").filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            param_ref: spec.get("paramRef").filter(|r| r.is_object()).cloned(),
        }
    }
}

/// The expressions of an object that configures admission, with their paths.
fn expressions(kind: &str, object: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut list = |owner: &Value, at: &str, key: &str, fields: &[&str]| {
        for (i, item) in items(owner, key).enumerate() {
            for field in fields.iter().filter(|f| item[**f].is_string()) {
                out.push((format!("{at}{key}[{i}].{field}"), text(item, field)));
            }
        }
    };
    match kind {
        "ValidatingAdmissionPolicy" => {
            let spec = &object["spec"];
            list(spec, "spec.", "matchConditions", &["expression"]);
            list(spec, "spec.", "variables", &["expression"]);
            list(spec, "spec.", "validations", &["expression", "messageExpression"]);
            list(spec, "spec.", "auditAnnotations", &["valueExpression"]);
        }
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            for (i, webhook) in items(object, "webhooks").enumerate() {
                list(webhook, &format!("webhooks[{i}]."), "matchConditions", &["expression"]);
            }
        }
        _ => {}
    }
    out
}

/// Refuses expressions that do not compile, unless they were there before, and what this server does not do.
pub(crate) fn check(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let writes = matches!(admission.operation, Operation::Create | Operation::Update);
    if !writes || admission.kind.group != super::GROUP {
        return Ok(());
    }
    let kind = admission.kind.kind;
    if kind.starts_with("MutatingAdmissionPolicy") {
        let why = "mutating admission policies are not supported by this server; use a mutating webhook";
        return Err(admission.forbidden(why));
    }
    let before: Vec<String> = expressions(kind, old).into_iter().map(|(_, text)| text).collect();
    let new = expressions(kind, object).into_iter().filter(|(_, text)| !before.contains(text));
    let errors: Vec<FieldError> = new
        .filter_map(|(field, text)| {
            let why = Program::compile(text.trim()).err()?;
            Some(FieldError::invalid(field, text, format!("compilation failed: {why}")))
        })
        .collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(kind, super::GROUP, admission.name, errors)),
    }
}

/// The status of a policy that has just been accepted: which generation was looked at, and that its types are in order.
pub(crate) fn observe(kind: &api::kinds::KindInfo, object: &mut Value) {
    if kind.group != super::GROUP || kind.kind != "ValidatingAdmissionPolicy" {
        return;
    }
    let generation = api::meta::generation(object);
    let mut status = object["status"].as_object().cloned().unwrap_or_else(Map::new);
    status.insert("observedGeneration".into(), generation.into());
    status.insert("typeChecking".into(), json!({}));
    object["status"] = Value::Object(status);
}
