//! ValidatingAdmissionPolicy: checks written as expressions, and the bindings that say where they count.
//!
//! What cannot be evaluated denies, unless the policy's failure policy is `Ignore`.

use std::sync::Arc;

use api::kinds::registry;
use api::selectors::LabelSelector;
use api::status::ApiError;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::rules::{self, Match};
use super::{Admission, review};

mod compile;

use compile::{Binding, Policy};
pub(crate) use compile::{check, observe};

const GROUP: &str = "admissionregistration.k8s.io";
/// Most objects that one binding takes as parameters.
const PARAMS_MAX: usize = 256;

/// Policies with their bindings, as of positions in the changes of both.
#[derive(Default)]
pub(crate) struct Policies(Mutex<Option<Compiled>>);

struct Compiled {
    positions: (u64, u64),
    policies: Arc<Vec<Policy>>,
}

/// Why a request is refused.
struct Denial {
    policy: String,
    binding: String,
    message: String,
    reason: String,
}

/// One failed check, or a check that failed to run.
struct Finding {
    message: String,
    reason: String,
}

/// Whether no policy is in force, or none may be asked about this object.
pub(super) fn are_none(admission: &Admission<'_>) -> bool {
    let cache = admission.caches().by(GROUP, "validatingadmissionpolicybindings");
    cache.is_none_or(|c| c.is_empty()) || rules::is_exempt(admission)
}

impl Policies {
    fn current(&self, admission: &Admission<'_>) -> Arc<Vec<Policy>> {
        let caches = admission.caches();
        let of = |plural| caches.by(GROUP, plural);
        let (Some(policies), Some(bindings)) =
            (of("validatingadmissionpolicies"), of("validatingadmissionpolicybindings"))
        else {
            return Arc::default();
        };
        let positions = (*policies.head().borrow(), *bindings.head().borrow());
        let mut slot = self.0.lock();
        if let Some(compiled) = slot.as_ref().filter(|c| c.positions == positions) {
            return compiled.policies.clone();
        }
        let values = |cache: &crate::cache::KindCache| -> Vec<Value> {
            cache.snapshot("", None, 0, false, |_| true).entries.iter().map(|e| e.value()).collect()
        };
        let bindings = values(bindings);
        let all =
            values(policies).iter().map(|p| Policy::new(p, &bindings)).filter(|p| !p.bindings.is_empty()).collect();
        slot.insert(Compiled { positions, policies: Arc::new(all) }).policies.clone()
    }
}

/// Checks an object against all policies.
pub(super) fn validate(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let policies = admission.server.admission.policies.current(admission);
    let mut denied = None;
    for policy in policies.iter() {
        let Some(target) = policy.selection.target(admission, object, old) else { continue };
        let mut request = review::request(admission, &target, object, old);
        let (object, old) = (request["object"].take(), request["oldObject"].take());
        if let Some(map) = request.as_object_mut() {
            map.remove("object");
            map.remove("oldObject");
        }
        for binding in policy.bindings.iter().filter(|b| b.selection.target(admission, &object, &old).is_some()) {
            let found = judge(admission, policy, binding, [&object, &old, &request]);
            for finding in found {
                act(admission, policy, binding, finding, &mut denied);
            }
        }
    }
    match denied {
        None => Ok(()),
        Some(denial) => Err(error(admission, &denial)),
    }
}

/// What the policy finds, with every parameter of the binding.
fn judge(admission: &Admission<'_>, policy: &Policy, binding: &Binding, given: [&Value; 3]) -> Vec<Finding> {
    let params = match params(admission, policy, binding) {
        Ok(params) => params,
        Err(_) if policy.ignore => return Vec::new(),
        Err(why) => {
            let message = format!("failed to configure binding: {why}");
            return vec![Finding { message, reason: "Forbidden".into() }];
        }
    };
    let namespace = match admission.asked_namespace() {
        "" => Value::Null,
        name => admission.caches().core("namespaces").get(name).map_or(Value::Null, |e| e.value()),
    };
    params.iter().flat_map(|params| policy.evaluate(given, params, &namespace)).collect()
}

/// Does with a finding what the binding says.
fn act(admission: &Admission<'_>, policy: &Policy, binding: &Binding, finding: Finding, denied: &mut Option<Denial>) {
    let (name, by) = (&policy.name, &binding.name);
    for action in &binding.actions {
        match action.as_str() {
            "Warn" => admission.warnings.add(format!(
                "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{by}': {}",
                finding.message
            )),
            "Audit" => {
                let (kind, object) = (admission.kind.kind, admission.name);
                tracing::info!(target: "audit", policy = name, binding = by, kind, object, finding.message, "validation failed");
            }
            _ => {
                denied.get_or_insert_with(|| Denial {
                    policy: name.clone(),
                    binding: by.clone(),
                    message: finding.message.clone(),
                    reason: finding.reason.clone(),
                });
            }
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

/// The objects a binding takes as parameters; one null when there are none to take.
fn params(admission: &Admission<'_>, policy: &Policy, binding: &Binding) -> Result<Vec<Value>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.param_ref) else {
        return Ok(vec![Value::Null]);
    };
    let unknown = || format!("paramKind kind `{api_version}, Kind={kind}` not known");
    let kind = registry().by_api_version(api_version, kind).ok_or_else(unknown)?;
    let cache = admission.caches().of(kind);
    let given = reference["namespace"].as_str().unwrap_or("");
    let namespace = match (kind.namespaced, given) {
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "") if admission.namespace.is_empty() => {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
        (true, "") => admission.namespace,
        (true, given) => given,
    };
    let found: Vec<Value> = match reference["name"].as_str().filter(|n| !n.is_empty()) {
        Some(name) => {
            let key = if kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() };
            cache.get(&key).into_iter().map(|e| e.value()).collect()
        }
        None => {
            let selector = LabelSelector::from_json(&reference["selector"])?;
            let all = cache.snapshot(namespace, None, PARAMS_MAX, false, |e| selector.matches(&e.facts.labels));
            if all.remaining > 0 {
                return Err(format!("more than {PARAMS_MAX} params found for policy binding"));
            }
            all.entries.iter().map(|e| e.value()).collect()
        }
    };
    if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}
