//! The LimitRanges of a namespace, on new pods and on claims.

use api::policy::limits;
use api::status::ApiError;
use serde_json::Value;

use super::{Admission, Operation};

/// The ranges of the namespace, in order of their names.
fn ranges(admission: &Admission<'_>) -> Vec<Value> {
    let cache = admission.caches().core("limitranges");
    if cache.is_empty() {
        return Vec::new();
    }
    let found = cache.snapshot(admission.namespace, None, 0, false, |_| true);
    found.entries.iter().map(|e| e.value()).collect()
}

/// Fills in defaults.
pub(super) fn complete(admission: &Admission<'_>, pod: &mut Value) {
    for range in ranges(admission) {
        limits::default_pod(pod, &range);
    }
}

/// # Errors
/// 403 when a bound is broken.
pub(super) fn check(admission: &Admission<'_>, object: &Value) -> Result<(), ApiError> {
    let find = match (admission.operation, admission.kind.group, admission.kind.kind) {
        (Operation::Create, "", "Pod") => limits::check_pod,
        (Operation::Update, "", "Pod") if admission.subresource == "resize" => limits::check_pod,
        (Operation::Create | Operation::Update, "", "PersistentVolumeClaim") => limits::check_claim,
        _ => return Ok(()),
    };
    for range in ranges(admission) {
        let findings = find(object, &range);
        if !findings.is_empty() {
            return Err(admission.forbidden(&limits::join(findings)));
        }
    }
    Ok(())
}
