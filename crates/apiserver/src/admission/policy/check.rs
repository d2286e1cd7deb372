//! Checks on what configures admission, when it is written: expressions that do not compile, and parameters that the
//! writer may not read himself.

use api::cel::Form;
use api::kinds::split_api_version;
use api::status::{ApiError, FieldError};
use serde_json::{Map, Value};

use super::super::expression::{Change, Names, Program};
use super::super::{Admission, Operation};
use super::base::known;
use super::{GROUP, items, text};
use crate::authz::Attributes;
use crate::cache::Caches;
use crate::pki::MASTERS;

/// An expression, where it stands.
struct Found {
    field: String,
    text: String,
    names: Names,
    /// Of one that says how an object is to change.
    form: Option<Form>,
}

impl Found {
    fn error(self) -> Option<FieldError> {
        let text = self.text.trim();
        let why = match self.form {
            Some(form) => Change::compile(text, self.names, form).err(),
            None => Program::compile(text, self.names).err(),
        }?;
        // That it is of the wrong type is found after it was compiled.
        let detail = if why.starts_with("must evaluate to") { why } else { format!("compilation failed: {why}") };
        Some(FieldError::invalid(self.field, self.text, detail))
    }
}

/// The expressions of an object that configures admission.
fn expressions(kind: &str, object: &Value) -> Vec<Found> {
    let mut out = Vec::new();
    let spec = &object["spec"];
    let params = spec["paramKind"].is_object();
    let has_variables = kind == "MutatingAdmissionPolicy" || items(spec, "variables").next().is_some();
    let all = Names { params, variables: has_variables, authorizer: true };
    let mut list = |owner: &Value, at: &str, key: &str, field: &str, names: Names| {
        for (i, item) in items(owner, key).enumerate().filter(|(_, item)| item[field].is_string()) {
            out.push(Found { field: format!("{at}{key}[{i}].{field}"), text: text(item, field), names, form: None });
        }
    };
    match kind {
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            list(spec, "spec.", "matchConditions", "expression", Names { variables: false, ..all });
            list(spec, "spec.", "variables", "expression", all);
            list(spec, "spec.", "validations", "expression", all);
            list(spec, "spec.", "validations", "messageExpression", Names { authorizer: false, ..all });
            list(spec, "spec.", "auditAnnotations", "valueExpression", all);
        }
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            let names = Names { params: false, variables: false, authorizer: true };
            for (i, webhook) in items(object, "webhooks").enumerate() {
                list(webhook, &format!("webhooks[{i}]."), "matchConditions", "expression", names);
            }
        }
        _ => {}
    }
    for (i, mutation) in items(spec, "mutations").enumerate() {
        let forms = [("applyConfiguration", Form::ApplyConfiguration), ("jsonPatch", Form::JsonPatch)];
        for (key, form) in forms.into_iter().filter(|(key, _)| mutation[*key]["expression"].is_string()) {
            let field = format!("spec.mutations[{i}].{key}.expression");
            out.push(Found { field, text: text(&mutation[key], "expression"), names: all, form: Some(form) });
        }
    }
    out
}

/// Refuses expressions that do not compile, unless they were there before, and parameters that the writer cannot read.
///
/// # Errors
/// 422.
pub(crate) fn check(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let writes = matches!(admission.operation, Operation::Create | Operation::Update);
    if !writes || admission.kind.group != GROUP {
        return Ok(());
    }
    let kind = admission.kind.kind;
    let before: Vec<String> = expressions(kind, old).into_iter().map(|found| found.text).collect();
    let new = expressions(kind, object).into_iter().filter(|found| !before.contains(&found.text));
    let mut errors: Vec<FieldError> = new.filter_map(Found::error).collect();
    if errors.is_empty() {
        errors.extend(params(admission, object, old));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(kind, GROUP, admission.name, errors)),
    }
}

/// A policy reads its parameters for everybody: who writes one must be able to read them himself.
fn params(admission: &Admission<'_>, object: &Value, old: &Value) -> Option<FieldError> {
    if admission.user.in_group(MASTERS) {
        return None;
    }
    let kind = admission.kind.kind;
    let spec = &object["spec"];
    let user = &admission.user.name;
    match kind.strip_suffix("Binding") {
        None if kind.ends_with("AdmissionPolicy") => {
            let param_kind = Some(&spec["paramKind"]).filter(|k| k.is_object() && **k != old["spec"]["paramKind"])?;
            let (group, resource) = resource_of(admission, param_kind);
            let asked = Attributes {
                verb: "get",
                group: &group,
                resource: &resource,
                namespace: "*",
                name: "*",
                ..Attributes::blank(admission.user)
            };
            let why = || {
                let (kind, version) = (text(param_kind, "kind"), text(param_kind, "apiVersion"));
                format!(
                    "user {user:?} must have \"get\" permission on all objects of the referenced paramKind (kind={kind}, apiVersion={version})"
                )
            };
            (!admission.rights().allow(&asked)).then(|| FieldError::forbidden("spec.paramKind", why()))
        }
        Some(owner) if owner.ends_with("AdmissionPolicy") => {
            let reference = Some(&spec["paramRef"]).filter(|r| r.is_object())?;
            let before = &old["spec"];
            if before["paramRef"] == *reference && before["policyName"] == spec["policyName"] {
                return None;
            }
            let plural = if owner.starts_with("Mutating") { "mutating" } else { "validating" };
            let policies = admission.caches().by(GROUP, &format!("{plural}admissionpolicies"))?;
            let policy = policies.get(&text(spec, "policyName")).map_or(Value::Null, |p| p.value());
            let (group, resource) = resource_of(admission, &policy["spec"]["paramKind"]);
            let (name, namespace) = (text(reference, "name"), text(reference, "namespace"));
            let verb = if name.is_empty() { "list" } else { "get" };
            let asked = Attributes {
                verb,
                group: &group,
                resource: &resource,
                namespace: &namespace,
                name: &name,
                ..Attributes::blank(admission.user)
            };
            let why =
                || format!("user {user:?} does not have {verb:?} permission on the object referenced by paramRef");
            (!admission.rights().allow(&asked)).then(|| FieldError::forbidden("spec.paramRef", why()))
        }
        _ => None,
    }
}

/// Group and plural of a `paramKind`; all of them as far as it is not known.
fn resource_of(admission: &Admission<'_>, param_kind: &Value) -> (String, String) {
    let (version, kind) = (text(param_kind, "apiVersion"), text(param_kind, "kind"));
    if version.is_empty() {
        return ("*".to_owned(), "*".to_owned());
    }
    let plural = known(admission, &version, &kind).map_or("*", |held| held.kind().plural);
    (split_api_version(&version).0.to_owned(), plural.to_owned())
}

/// The status of a policy that has just been accepted: which generation was looked at, and where the types of its expressions
/// do not go together.
pub(crate) fn observe(kind: &api::kinds::KindInfo, object: &mut Value, caches: &Caches) {
    if kind.group != GROUP || kind.kind != "ValidatingAdmissionPolicy" {
        return;
    }
    let generation = api::meta::generation(object);
    let mut status = object["status"].as_object().cloned().unwrap_or_else(Map::new);
    if status.get("observedGeneration").and_then(Value::as_i64) == Some(generation) {
        return;
    }
    status.insert("observedGeneration".into(), generation.into());
    status.insert("typeChecking".into(), api::kinds::type_checking(object, caches.custom().kinds()));
    object["status"] = Value::Object(status);
}
