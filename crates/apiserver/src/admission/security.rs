//! Pod security admission: the standards that a namespace's labels ask for.

use api::policy::security::{self, Level, Policy, Standard};
use api::status::{ApiError, FieldError};
use serde_json::Value;

use super::{Admission, Operation};

/// Most pods looked at when a namespace begins to enforce more (Kubernetes' own limit).
const PODS_MAX: usize = 3000;

/// # Errors
/// 403 for a pod that violates what its namespace enforces, 422 for labels that mean nothing.
pub(super) fn check(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    if !matches!(admission.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if admission.is("", "Namespace") {
        return namespace(admission, object, old);
    }
    if admission.is("", "Pod") {
        if admission.operation == Operation::Update && !security::is_significant(object, old) {
            return Ok(());
        }
        let Some(policy) = policy(admission) else { return Ok(()) };
        return pod(admission, policy, object);
    }
    let Some((metadata, spec)) = security::template(admission.kind.group, admission.kind.kind, object) else {
        return Ok(());
    };
    if let Some(policy) = policy(admission) {
        warn(admission, policy.warn, metadata, spec);
        audit(admission, policy.audit, metadata, spec);
    }
    Ok(())
}

/// What the namespace asks for; `None` when that is nothing.
fn policy(admission: &Admission<'_>) -> Option<Policy> {
    let entry = admission.caches().core("namespaces").get(admission.namespace)?;
    let (policy, _) = security::policy(&entry.facts.labels.to_map());
    let asks = |s: Standard| s.level != Level::Privileged;
    (asks(policy.enforce) || asks(policy.audit) || asks(policy.warn)).then_some(policy)
}

fn pod(admission: &Admission<'_>, policy: Policy, object: &Value) -> Result<(), ApiError> {
    admission.warnings.annotate("pod-security.kubernetes.io/enforce-policy", policy.enforce.to_string());
    let found = security::violations(policy.enforce, &object["metadata"], &object["spec"]);
    audit(admission, policy.audit, &object["metadata"], &object["spec"]);
    if !found.is_empty() {
        let standard = policy.enforce.to_string();
        return Err(admission.forbidden(&format!("violates PodSecurity {standard:?}: {}", security::details(&found))));
    }
    warn(admission, policy.warn, &object["metadata"], &object["spec"]);
    Ok(())
}

fn warn(admission: &Admission<'_>, standard: Standard, metadata: &Value, spec: &Value) {
    let found = security::violations(standard, metadata, spec);
    if !found.is_empty() {
        let standard = standard.to_string();
        admission.warnings.add(format!("would violate PodSecurity {standard:?}: {}", security::details(&found)));
    }
}

fn audit(admission: &Admission<'_>, standard: Standard, metadata: &Value, spec: &Value) {
    let found = security::violations(standard, metadata, spec);
    if !found.is_empty() {
        let standard = standard.to_string();
        let violations = format!("would violate PodSecurity {standard:?}: {}", security::details(&found));
        admission.warnings.annotate("pod-security.kubernetes.io/audit-violations", violations);
    }
}

/// Labels must be readable, and a namespace that begins to enforce more hears of the pods that it already has.
fn namespace(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let none = serde_json::Map::new();
    let labels = |v| api::meta::labels(v).unwrap_or(&none).clone();
    let (new, errors) = security::policy(&labels(object));
    let (before, old_errors) = security::policy(&labels(old));
    let (is_new, same) = (old.is_null(), |a: &[FieldError], b: &[FieldError]| a == b);
    if !errors.is_empty() && (is_new || !same(&errors, &old_errors)) {
        return Err(ApiError::invalid("Namespace", "", admission.name, errors));
    }
    let (to, from) = (new.enforce, before.enforce);
    let looser = to.minor == from.minor && to.level <= from.level;
    if is_new || to == from || to.level == Level::Privileged || looser {
        return Ok(());
    }
    let pods = admission.caches().core("pods").snapshot(admission.name, None, PODS_MAX, true, |_| true);
    if pods.remaining > 0 {
        admission.warnings.add(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            PODS_MAX + pods.remaining
        ));
    }
    let pods: Vec<Value> = pods.entries.iter().map(|e| e.value()).collect();
    for line in security::existing(to, admission.name, &pods) {
        admission.warnings.add(line);
    }
    Ok(())
}
