//! Which operations a webhook or policy is for: `rules`, `matchPolicy` and selectors.

use std::sync::Arc;

use api::kinds::{KindInfo, registry};
use api::labels::Labels;
use api::schema::TypeRef;
use api::selectors::LabelSelector;
use api::status::ApiError;
use serde_json::Value;

use super::{Admission, Operation};
use crate::conversion::Family;
use crate::handlers::write::{check_types, storage_schema_of};

/// Kinds that configure admission; were they subject to it, a mistake could not be taken back.
const EXEMPT: [&str; 6] = [
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];

/// Whether the object configures admission itself.
pub(super) fn is_exempt(admission: &Admission<'_>) -> bool {
    admission.kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&admission.kind.kind)
}

/// Group, version and kind of what is exchanged at a subresource.
pub(super) fn exchanged<'a>(kind: &'a KindInfo, subresource: &str) -> (&'a str, &'a str, &'a str) {
    match (subresource, kind.subresources.iter().find(|s| s.name == subresource)) {
        ("scale", _) => ("autoscaling", "v1", "Scale"),
        (_, Some(sub)) => (sub.group, sub.version, sub.kind),
        _ => (kind.group, kind.version, kind.kind),
    }
}

/// Resources that policies never see: were questions about rights subject to rules that ask them, a mistake could lock
/// everybody out (Kubernetes' own list).
const ANSWERED: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether policies leave the object alone.
pub(super) fn is_no_concern_of_policies(admission: &Admission<'_>) -> bool {
    is_exempt(admission) || ANSWERED.contains(&(admission.kind.group, admission.kind.plural))
}

/// A kind that is built in, or one of the custom kinds of the moment.
#[derive(Debug, Clone)]
pub(super) enum Held<'a> {
    BuiltIn(&'a KindInfo),
    Custom(Arc<KindInfo>),
}

impl Held<'_> {
    /// The kind.
    pub fn kind(&self) -> &KindInfo {
        match self {
            Held::BuiltIn(kind) => kind,
            Held::Custom(kind) => kind,
        }
    }
}

/// As what an object is shown.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    held: Held<'a>,
    /// Whether what is exchanged is an object of the kind, and not a Scale or the like.
    whole: bool,
}

impl<'a> Target<'a> {
    /// As the request has it.
    pub fn of(admission: &Admission<'a>) -> Self {
        Self::new(admission, Held::BuiltIn(admission.kind))
    }

    fn new(admission: &Admission<'a>, held: Held<'a>) -> Self {
        let (group, version, kind) = exchanged(admission.kind, admission.subresource);
        let own = admission.kind;
        Target { held, whole: (group, version, kind) == (own.group, own.version, own.kind) }
    }

    /// The kind in the version of the target.
    pub fn kind(&self) -> &KindInfo {
        self.held.kind()
    }

    /// Who converts the object for this target; `None` where at most the label differs.
    fn converter(&self, admission: &Admission<'_>) -> Option<Arc<Family>> {
        let own = admission.kind;
        if !self.whole || own.custom.is_none() || self.kind().version == own.version {
            return None;
        }
        let custom = admission.caches().custom();
        custom.objects(own.group, own.plural)?.family().filter(|family| family.has_webhook())
    }

    /// Object and predecessor as the definition's webhook makes them for the version of the target; `None` where there is
    /// nothing to convert.
    ///
    /// # Errors
    /// 500: what the webhook did wrong.
    pub async fn converted(
        &self,
        admission: &Admission<'_>,
        object: &Value,
        old: &Value,
    ) -> Result<Option<[Value; 2]>, ApiError> {
        let Some(family) = self.converter(admission) else { return Ok(None) };
        let there: Vec<Value> = [object, old].into_iter().filter(|v| v.is_object()).cloned().collect();
        let mut made = family.convert(admission.caches(), self.kind(), there).await?.into_iter();
        let mut next = |of: &Value| if of.is_object() { made.next().unwrap_or(Value::Null) } else { of.clone() };
        Ok(Some([next(object), next(old)]))
    }

    /// Back from the version of the target, as the request has it.
    ///
    /// # Errors
    /// 500: what the webhook did wrong.
    pub async fn converted_back(&self, admission: &Admission<'_>, object: Value) -> Result<Value, ApiError> {
        let Some(family) = self.converter(admission) else { return Ok(object) };
        let made = family.convert(admission.caches(), admission.kind, vec![object]).await?;
        let mut object = made.into_iter().next().unwrap_or(Value::Null);
        if let Some(ty) = admission.kind.schema() {
            ty.prune(&mut object);
        }
        admission.kind.default(&mut object);
        Ok(object)
    }

    /// The object in the version of the target, with the revision it is based on.
    pub fn view(&self, object: &Value, old: &Value) -> Value {
        let mut view = object.clone();
        if view.is_object() && self.whole {
            show(self.kind(), &mut view);
            let seen = api::meta::resource_version(old);
            if !seen.is_empty() && api::meta::resource_version(&view).is_empty() && view["metadata"].is_object() {
                view["metadata"]["resourceVersion"] = seen.into();
            }
        }
        view
    }

    /// The type of a view.
    pub fn schema(&self, admission: &Admission<'_>) -> Option<TypeRef<'_>> {
        if self.whole {
            return self.kind().schema();
        }
        let (group, version, kind) = exchanged(admission.kind, admission.subresource);
        api::schema::for_kind(group, version, kind)
    }

    /// Makes of a view that was changed the object in the form it is stored in: types checked, unknown fields dropped,
    /// defaults filled in, and still the same object.
    ///
    /// # Errors
    /// 500 for values of a wrong type, 400 when it has become another object.
    pub fn settle(&self, admission: &Admission<'_>, mut view: Value, object: &mut Value) -> Result<(), ApiError> {
        if self.whole {
            let kind = self.kind();
            if kind.custom.is_some() {
                if view["apiVersion"] != kind.api_version() {
                    return Err(not_the_same(admission));
                }
                // Back from the version of the target.
                view["apiVersion"] = object["apiVersion"].clone();
            }
            kind.to_storage(&mut view);
            if admission.operation == Operation::Update {
                api::meta::clear_resource_version(&mut view);
            }
            // Bindings are of a kind that the schema leaves out.
            if let Ok(ty) = storage_schema_of(kind) {
                check_types(ty, kind.kind, kind.version, &view).map_err(|e| ApiError::internal(e.message))?;
                ty.prune(&mut view);
            }
            // One that was converted is in the version of the target until all changes are made.
            let own = if object["apiVersion"] == kind.api_version() { kind } else { admission.kind };
            own.default(&mut view);
        } else if let Some(ty) = self.schema(admission) {
            let (_, version, kind) = exchanged(admission.kind, admission.subresource);
            check_types(ty, kind, version, &view).map_err(|e| ApiError::internal(e.message))?;
            ty.prune(&mut view);
        }
        keeps_identity(admission, &view, object)?;
        *object = view;
        Ok(())
    }
}

/// Nothing turns an object into another one.
fn keeps_identity(admission: &Admission<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let facts = |v: &Value| {
        let text = |key: &str| v[key].as_str().unwrap_or("").to_owned();
        (text("apiVersion"), text("kind"), api::meta::namespace(v).to_owned(), api::meta::name(v).to_owned())
    };
    if facts(new) == facts(old) { Ok(()) } else { Err(not_the_same(admission)) }
}

fn not_the_same(admission: &Admission<'_>) -> ApiError {
    ApiError::bad_request(format!(
        "admission changed the kind, namespace or name of {} {:?}",
        admission.kind.qualified_resource(),
        admission.name
    ))
}

/// Shows an object in the version of a kind. Of custom objects only the label differs between versions, and which fields
/// they specify.
pub(super) fn show(kind: &KindInfo, object: &mut Value) {
    kind.from_storage(object);
    if kind.custom.is_some() && object["apiVersion"] != kind.api_version() {
        object["apiVersion"] = kind.api_version().into();
        if let Some(ty) = kind.schema() {
            ty.prune(object);
        }
    }
}

/// `RuleWithOperations`, and the names of a policy's `NamedRuleWithOperations`.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

/// A list of rules, one of which must fit.
#[derive(Debug)]
pub(super) struct Match {
    rules: Vec<Rule>,
    /// Also when a rule fits another version of the same objects.
    equivalent: bool,
}

impl Match {
    /// Reads a list of rules.
    pub fn new(rules: &Value, equivalent: bool) -> Self {
        let read = |rule: &Value| {
            let texts = |key: &str| -> Vec<String> {
                rule[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
            };
            Rule {
                operations: texts("operations"),
                groups: texts("apiGroups"),
                versions: texts("apiVersions"),
                resources: texts("resources"),
                names: texts("resourceNames"),
                scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            }
        };
        Match { rules: rules.as_array().into_iter().flatten().map(read).collect(), equivalent }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// As what the operation's object is meant by a rule.
    pub fn target<'a>(&self, admission: &Admission<'a>) -> Option<Target<'a>> {
        let own = admission.kind;
        let fits = |kind: &KindInfo| self.rules.iter().any(|rule| rule.fits(admission, kind));
        if fits(own) {
            return Some(Target::of(admission));
        }
        if !self.equivalent {
            return None;
        }
        let same = |k: &KindInfo| k.storage_group == own.storage_group && k.plural == own.plural;
        let held = if own.custom.is_some() {
            let custom = admission.caches().custom();
            Held::Custom(custom.kinds().iter().find(|k| same(k) && fits(k))?.clone())
        } else {
            Held::BuiltIn(registry().all().iter().find(|k| same(k) && fits(k))?)
        };
        Some(Target::new(admission, held))
    }
}

impl Rule {
    fn fits(&self, admission: &Admission<'_>, kind: &KindInfo) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|v| v == "*" || v == text);
        has(&self.operations, admission.operation.as_str())
            && has(&self.groups, kind.group)
            && has(&self.versions, kind.version)
            && self.resources.iter().any(|r| of_resource(r, kind.plural, admission.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == admission.name))
            && match self.scope.as_str() {
                "Namespaced" => kind.namespaced,
                "Cluster" => !kind.namespaced,
                _ => true,
            }
    }
}

/// `pods`, `pods/status`, `pods/*`, `*`, `*/scale`, `*/*`.
fn of_resource(rule: &str, plural: &str, subresource: &str) -> bool {
    let (resource, sub) = rule.split_once('/').unwrap_or((rule, ""));
    (resource == "*" || resource == plural) && (sub == "*" || sub == subresource)
}

/// Whether the namespace of an operation is selected. Objects outside of namespaces always are; a Namespace is by itself.
pub(super) fn in_namespaces(selector: &LabelSelector, admission: &Admission<'_>, object: &Value, old: &Value) -> bool {
    if selector.is_everything() {
        return true;
    }
    if admission.is("", "Namespace") {
        let own = if admission.operation == Operation::Delete || object.is_null() { old } else { object };
        return selector.matches_object(own);
    }
    if admission.namespace.is_empty() {
        return true;
    }
    let none = Labels::default();
    let entry = admission.caches().core("namespaces").get(admission.namespace);
    selector.matches(entry.as_ref().map_or(&none, |e| &e.facts.labels))
}

/// Whether the object, as it was or as it is to be, is selected.
pub(super) fn has_labels(selector: &LabelSelector, object: &Value, old: &Value) -> bool {
    let selected = |v: &Value| v.is_object() && selector.matches_object(v);
    selector.is_everything() || selected(object) || selected(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_match_with_their_subresources() {
        for (rule, plural, sub, want) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/*", "pods", "status", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "status", true),
            ("*/scale", "deployments", "scale", true),
            ("*/scale", "deployments", "", false),
            ("services", "pods", "", false),
        ] {
            assert_eq!(of_resource(rule, plural, sub), want, "{rule} {plural}/{sub}");
        }
    }
}
