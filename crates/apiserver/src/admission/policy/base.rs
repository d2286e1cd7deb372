//! What both kinds of policies are made of: constraints, conditions, variables, bindings and parameters.

use api::cel::Made;
use api::kinds::registry;
use api::selectors::LabelSelector;
use serde_json::Value;

use super::super::conditions::Conditions;
use super::super::expression::{Given, Names, Program};
use super::super::rules::{Held, Match, Target, has_labels, in_namespaces, show};
use super::super::{Admission, review};
use super::{items, text};

/// Most objects that one binding takes as parameters.
const PARAMS_MAX: usize = 256;

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
        let target =
            if self.open && self.rules.is_empty() { Target::of(admission) } else { self.rules.target(admission)? };
        let selected = self.excluded.target(admission).is_none()
            && in_namespaces(&self.namespaces, admission, object, old)
            && has_labels(&self.objects, object, old);
        selected.then_some(target)
    }
}

/// An expression with its text.
pub(super) struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

impl Expression {
    pub fn new(text: &Value) -> Self {
        let text = text.as_str().unwrap_or("").trim().to_owned();
        let program = Program::compile(&text, Names::ALL).map_err(|e| format!("compilation error: {e}"));
        Expression { text, program }
    }

    pub fn eval(&self, given: &Given<'_>) -> Result<Value, String> {
        let failed = |why: String| format!("expression '{}' resulted in error: {why}", self.text);
        self.program.as_ref().map_err(Clone::clone)?.eval(given).map_err(failed)
    }
}

/// A binding.
pub(super) struct Binding {
    pub name: String,
    pub selection: Selection,
    /// `validationActions`.
    pub actions: Vec<String>,
    param_ref: Option<Value>,
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

/// A policy but for what it does.
pub(super) struct Base {
    pub name: String,
    pub selection: Selection,
    /// What cannot be evaluated passes.
    pub ignore: bool,
    pub bindings: Vec<Binding>,
    pub conditions: Conditions,
    /// `apiVersion` and `kind`.
    param_kind: Option<(String, String)>,
    variables: Vec<(String, Expression)>,
}

impl Base {
    /// A policy with the bindings that name it.
    pub fn new(policy: &Value, bindings: &[&Value]) -> Self {
        let (name, spec) = (api::meta::name(policy).to_owned(), &policy["spec"]);
        let param_kind = &spec["paramKind"];
        Base {
            selection: Selection::new(&spec["matchConstraints"], false),
            ignore: spec["failurePolicy"] == "Ignore",
            param_kind: param_kind.is_object().then(|| (text(param_kind, "apiVersion"), text(param_kind, "kind"))),
            bindings: bindings.iter().map(|b| Binding::new(b)).collect(),
            conditions: Conditions::compile(&spec["matchConditions"]),
            variables: items(spec, "variables").map(|v| (text(v, "name"), Expression::new(&v["expression"]))).collect(),
            name,
        }
    }

    /// The policy's own variables, each of which sees those before it. One that fails is absent: an expression that needs
    /// it fails, and no other.
    pub fn variables(&self, given: &Given<'_>) -> Made {
        let mut made = Made::default();
        for (name, expression) in &self.variables {
            let program = expression.program.as_ref().map_err(Clone::clone);
            if let Err(why) = program.and_then(|program| program.make(name, given, &mut made)) {
                tracing::debug!(policy = self.name, variable = name, why, "variable has no value");
            }
        }
        made
    }

    /// The objects a binding takes as parameters; one null when there are none to take.
    ///
    /// # Errors
    /// Why that cannot be said.
    pub fn params(&self, admission: &Admission<'_>, binding: &Binding) -> Result<Vec<Value>, String> {
        let (Some((api_version, kind)), Some(reference)) = (&self.param_kind, &binding.param_ref) else {
            return Ok(vec![Value::Null]);
        };
        let caches = admission.caches();
        let held = known(admission, api_version, kind);
        let held = held.ok_or_else(|| format!("paramKind kind `{api_version}, Kind={kind}` not known"))?;
        let kind = held.kind();
        let custom = caches.custom();
        let cache = match kind.custom {
            Some(_) => custom.objects(kind.group, kind.plural),
            None => Some(caches.of(kind)),
        };
        let Some(cache) = cache else {
            return Err(format!("paramKind kind `{api_version}, Kind={}` not known", kind.kind));
        };
        let given = reference["namespace"].as_str().unwrap_or("");
        let namespace = match (kind.namespaced, given, admission.asked_namespace()) {
            (false, "", _) => "",
            (false, ..) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
            (true, "", "") => {
                let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.into());
            }
            (true, "", own) => own,
            (true, given, _) => given,
        };
        let served = |entry: &crate::cache::Entry| {
            let mut value = entry.value();
            show(kind, &mut value);
            value
        };
        let found: Vec<Value> = match reference["name"].as_str().filter(|n| !n.is_empty()) {
            Some(name) => {
                let key = if kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() };
                cache.get(&key).into_iter().map(|e| served(&e)).collect()
            }
            None => {
                let selector = LabelSelector::from_json(&reference["selector"])?;
                let all = cache.snapshot(namespace, None, PARAMS_MAX, false, |e| selector.matches(&e.facts.labels));
                if all.remaining > 0 {
                    return Err(format!("more than {PARAMS_MAX} params found for policy binding"));
                }
                all.entries.iter().map(|e| served(e)).collect()
            }
        };
        if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        Ok(found)
    }
}

/// The kind that is served under a name, built in or custom.
pub(super) fn known(admission: &Admission<'_>, api_version: &str, kind: &str) -> Option<Held<'static>> {
    if let Some(kind) = registry().by_api_version(api_version, kind) {
        return Some(Held::BuiltIn(kind));
    }
    let custom = admission.caches().custom();
    let found = custom.kinds().iter().find(|k| k.kind == kind && k.api_version() == api_version);
    found.map(|kind| Held::Custom(kind.clone()))
}

/// What the expressions of a policy see of an operation, in the version that the policy asks for.
pub(super) struct Shown {
    pub object: Value,
    pub old: Value,
    pub request: Value,
}

impl Shown {
    pub fn new(admission: &Admission<'_>, target: &Target<'_>, object: &Value, old: &Value) -> Self {
        let mut request = review::request(admission, target, object, old);
        let (object, old) = (request["object"].take(), request["oldObject"].take());
        if let Some(map) = request.as_object_mut() {
            map.remove("object");
            map.remove("oldObject");
        }
        Shown { object, old, request }
    }
}

/// The namespace of the object; null for a Namespace and outside of namespaces.
pub(super) fn namespace_of(admission: &Admission<'_>) -> Value {
    if admission.namespace.is_empty() || admission.is("", "Namespace") {
        return Value::Null;
    }
    let mut namespace =
        admission.caches().core("namespaces").get(admission.namespace).map_or(Value::Null, |e| e.value());
    for key in ["managedFields", "ownerReferences"] {
        namespace.get_mut("metadata").and_then(Value::as_object_mut).map(|m| m.remove(key));
    }
    namespace
}
