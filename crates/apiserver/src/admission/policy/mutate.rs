//! MutatingAdmissionPolicy: objects are changed on their way in, by configurations that are merged into them or by JSON
//! patches.

use api::cel::Form;
use api::schema::strict_decoding_error;
use api::status::ApiError;
use serde_json::{Value, json};

use super::super::expression::{Change, Given, Names};
use super::super::rules::Target;
use super::super::{Admission, authorizer};
use super::base::{Base, Binding, Shown, namespace_of};
use super::{changes_nothing, items};

/// A policy.
pub(super) struct Policy {
    base: Base,
    mutations: Vec<Mutation>,
    /// It wants to see once more what others made of the object.
    again: bool,
}

struct Mutation {
    text: String,
    form: Form,
    change: Result<Change, String>,
}

/// A policy through a binding with one parameter.
struct Invocation<'p, 'a> {
    policy: &'p Policy,
    binding: &'p Binding,
    target: Target<'a>,
    params: Value,
}

/// Policy, binding and parameter by their names.
type Key = (String, String, String);

/// Why an invocation did not do what it should.
enum Problem {
    /// The failure policy decides.
    Policy(String),
    /// It does not.
    Status(ApiError),
}

/// A refusal, for the client.
struct Refusal {
    message: String,
    /// The policy or binding itself is wrong, not what it makes of the object.
    configuration: bool,
}

/// What was invoked for one request and may be invoked once more.
#[derive(Default)]
pub(in super::super) struct Round {
    again: Vec<Key>,
}

impl Round {
    /// Lets all policies change the object, and says whether any did.
    ///
    /// # Errors
    /// 403 with what could not be evaluated; 500 for an object that came out malformed.
    pub async fn first(
        &mut self,
        admission: &Admission<'_>,
        object: &mut Value,
        old: &Value,
    ) -> Result<bool, ApiError> {
        if changes_nothing(admission) || object.is_null() {
            return Ok(false);
        }
        let before = object.clone();
        self.run(admission, object, old, None).await?;
        Ok(*object != before)
    }

    /// Lets those change it once more that want to.
    ///
    /// # Errors
    /// As [`Round::first`].
    pub async fn again(&mut self, admission: &Admission<'_>, object: &mut Value, old: &Value) -> Result<(), ApiError> {
        let wanted = std::mem::take(&mut self.again);
        if wanted.is_empty() {
            return Ok(());
        }
        self.run(admission, object, old, Some(&wanted)).await
    }

    async fn run(
        &mut self,
        admission: &Admission<'_>,
        object: &mut Value,
        old: &Value,
        only: Option<&[Key]>,
    ) -> Result<(), ApiError> {
        let kinds = ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];
        let policies = admission.server.admission.policies.mutating.current(admission.caches(), kinds, Policy::new);
        let mut refused = Vec::new();
        // Who is asked is settled before anything changes.
        let invocations = invocations(admission, &policies, object, old, &mut refused);
        for invocation in invocations {
            if only.is_some_and(|only| !only.contains(&invocation.key())) {
                continue;
            }
            match invocation.run_in_version(admission, object, old).await {
                Ok(true) if invocation.policy.again => self.again.push(invocation.key()),
                Ok(_) => {}
                Err(Problem::Status(error)) => return Err(error),
                Err(Problem::Policy(_)) if invocation.policy.base.ignore => {}
                Err(Problem::Policy(why)) => refused.push(Refusal {
                    message: refusal(&invocation.policy.base.name, &invocation.binding.name, &why),
                    configuration: false,
                }),
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(denied(admission, &refused)) }
    }
}

fn refusal(policy: &str, binding: &str, why: &str) -> String {
    format!("policy '{policy}' with binding '{binding}' denied request: {why}")
}

fn denied(admission: &Admission<'_>, refused: &[Refusal]) -> ApiError {
    let mut error = admission.forbidden("admission request denied by policy");
    if let Some(first) = refused.first() {
        error.message.clone_from(&first.message);
        if !first.configuration {
            error.reason = "Invalid";
        }
    }
    let causes: Vec<Value> = refused.iter().map(|r| json!({"message": r.message})).collect();
    error.details.get_or_insert_with(|| json!({}))["causes"] = causes.into();
    error
}

fn invocations<'p, 'a>(
    admission: &Admission<'a>,
    policies: &'p [Policy],
    object: &Value,
    old: &Value,
    refused: &mut Vec<Refusal>,
) -> Vec<Invocation<'p, 'a>> {
    let mut out = Vec::new();
    for policy in policies {
        let Some(target) = policy.base.selection.target(admission, object, old) else { continue };
        for binding in policy.base.bindings.iter().filter(|b| b.selection.target(admission, object, old).is_some()) {
            match policy.base.params(admission, binding) {
                Ok(params) => {
                    let of = |params| Invocation { policy, binding, target: target.clone(), params };
                    out.extend(params.into_iter().map(of));
                }
                Err(_) if policy.base.ignore => {}
                Err(why) => {
                    let why = format!("failed to configure binding: {why}");
                    let message = refusal(&policy.base.name, &binding.name, &why);
                    refused.push(Refusal { message, configuration: true });
                }
            }
        }
    }
    out
}

impl Policy {
    pub(super) fn new(policy: &Value, bindings: &[&Value]) -> Self {
        let spec = &policy["spec"];
        Policy {
            mutations: items(spec, "mutations").map(Mutation::new).collect(),
            again: spec["reinvocationPolicy"] == "IfNeeded",
            base: Base::new(policy, bindings),
        }
    }
}

impl Mutation {
    fn new(mutation: &Value) -> Self {
        let (form, key) = match mutation["patchType"].as_str() {
            Some("JSONPatch") => (Form::JsonPatch, "jsonPatch"),
            _ => (Form::ApplyConfiguration, "applyConfiguration"),
        };
        let text = mutation[key]["expression"].as_str().unwrap_or("").trim().to_owned();
        let change = Change::compile(&text, Names::ALL, form).map_err(|e| format!("compilation error: {e}"));
        Mutation { text, form, change }
    }

    /// The object as the mutation makes it; `None` when it leaves it as it is.
    fn of(
        &self,
        admission: &Admission<'_>,
        target: &Target<'_>,
        given: &Given<'_>,
        view: &Value,
    ) -> Result<Option<Value>, Problem> {
        let failed = |why: String| Problem::Policy(format!("expression '{}' resulted in error: {why}", self.text));
        let change = self.change.as_ref().map_err(|e| Problem::Policy(e.clone()))?;
        let mut made = change.eval(given).map_err(failed)?;
        let no_type = || ApiError::internal(format!("no schema for {}", admission.kind.qualified_resource()));
        let ty = target.schema(admission).ok_or_else(|| Problem::Status(no_type()))?;
        if self.form == Form::ApplyConfiguration {
            for key in ["apiVersion", "kind"] {
                made[key] = view[key].clone();
            }
            let merged = api::ssa::overlay(ty, view, &made);
            return merged.map(Some).map_err(|why| Problem::Policy(format!("error applying patch: {why}")));
        }
        let patched = api::patch::conditional_json_patch(view, &made);
        let patched = patched.map_err(|e| Problem::Policy(format!("JSON Patch: {}", e.message)))?;
        if let Some(patched) = &patched
            && ty.is_kubernetes()
        {
            let unknown: Vec<String> =
                ty.validate_unknown(patched).iter().map(|path| format!("unknown field {path:?}")).collect();
            if !unknown.is_empty() {
                return Err(Problem::Status(ApiError::internal(strict_decoding_error(&unknown))));
            }
        }
        Ok(patched)
    }
}

impl Invocation<'_, '_> {
    fn key(&self) -> Key {
        let (namespace, name) = (api::meta::namespace(&self.params), api::meta::name(&self.params));
        (self.policy.base.name.clone(), self.binding.name.clone(), format!("{namespace}/{name}"))
    }

    /// Changes the object in the version that the policy asks for, and says whether the policy's conditions let it.
    async fn run_in_version(
        &self,
        admission: &Admission<'_>,
        object: &mut Value,
        old: &Value,
    ) -> Result<bool, Problem> {
        let Some([before, old]) = self.target.converted(admission, object, old).await.map_err(Problem::Status)? else {
            return self.run(admission, object, old);
        };
        let mut made = before.clone();
        let done = self.run(admission, &mut made, &old)?;
        if made != before {
            *object = self.target.converted_back(admission, made).await.map_err(Problem::Status)?;
        }
        Ok(done)
    }

    /// Changes the object, and says whether the policy's conditions let it.
    fn run(&self, admission: &Admission<'_>, object: &mut Value, old: &Value) -> Result<bool, Problem> {
        let base = &self.policy.base;
        let mut shown = Shown::new(admission, &self.target, object, old);
        let (namespace, authorizer) = (namespace_of(admission), authorizer::of(admission));
        let mut variables = None;
        for mutation in &self.policy.mutations {
            let values = vec![
                ("object", &shown.object),
                ("oldObject", &shown.old),
                ("request", &shown.request),
                ("namespaceObject", &namespace),
                ("params", &self.params),
            ];
            let given = Given { values, authorizer: &authorizer, made: None };
            if variables.is_none() && !base.conditions.hold(&given).map_err(Problem::Policy)? {
                return Ok(false);
            }
            let variables = variables.get_or_insert_with(|| base.variables(&given));
            let made = mutation.of(admission, &self.target, &given.with_made(variables), &shown.object)?;
            if let Some(made) = made {
                self.target.settle(admission, made, object).map_err(Problem::Status)?;
                shown.object = self.target.view(object, old);
            }
        }
        Ok(true)
    }
}
