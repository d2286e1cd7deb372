//! What becomes of a CertificateSigningRequest: signed once approved, removed when it has served.

use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How long requests stay that have been decided, and that nobody decides on (Kubernetes' csrcleaner).
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is approved: sign it, if its signer is ours.
    Sign,
    /// Look again in a while.
    Wait(Duration),
    /// It has served, or nobody wanted it.
    Delete,
}

/// Decides.
pub fn step(request: &CertificateSigningRequest, now: Timestamp) -> Step {
    let status = request.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    // When the condition came to be; a request without the time has it from its creation.
    let created = request.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let since = |kind: &str| {
        let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
        Some(condition.last_update_time.as_ref().map_or(created, |t| t.0))
    };
    let signed = status.certificate.is_some_and(|c| !c.0.is_empty());
    let (approved, over) = (since("Approved"), since("Denied").or(since("Failed")));
    let end = match (approved, over) {
        (_, Some(over)) => over.checked_add(DECIDED),
        (Some(approved), None) if signed => approved.checked_add(DECIDED),
        // Signed by somebody else, at any time.
        (Some(_), None) => return Step::Sign,
        (None, None) => created.checked_add(PENDING),
    };
    match end.map(|end| end.duration_since(now)) {
        Ok(left) if left.is_positive() => Step::Wait(left.unsigned_abs()),
        _ => Step::Delete,
    }
}

/// Why an agent's request for its client certificate is approved, if its author has a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approval {
    /// The right, to `create` this subresource of requests.
    pub subresource: &'static str,
    /// What the condition says.
    pub message: &'static str,
}

const OWN: Approval = Approval {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const ANY: Approval = Approval {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The rights that let a request be approved on which nobody has decided, in the order in which they are asked for.
/// `node` is the user for whom it wants a client certificate, if that is a node's agent (Kubernetes' csrapproving
/// controller).
pub fn approvals(request: &CertificateSigningRequest, node: Option<&str>) -> &'static [Approval] {
    let status = request.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let signed = status.and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    let decided = conditions.iter().any(|c| matches!(c.type_.as_str(), "Approved" | "Denied"));
    match node {
        Some(node) if !signed && !decided => match request.spec.username.as_deref() == Some(node) {
            true => &[OWN, ANY],
            false => &[ANY],
        },
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn request(status: Value) -> CertificateSigningRequest {
        let spec = json!({"request": "", "signerName": "kubernetes.io/kube-apiserver-client"});
        let metadata = json!({"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn agents_may_get_their_client_certificates_by_rights_alone() {
        let mut new = request(json!({}));
        new.spec.username = Some("system:node:n1".into());
        assert_eq!(approvals(&new, Some("system:node:n1")), &[OWN, ANY]);
        assert_eq!(approvals(&new, Some("system:node:n2")), &[ANY]);
        assert_eq!(approvals(&new, None), &[]);
        let denied = request(json!({"conditions": [{"type": "Denied", "status": "True"}]}));
        assert_eq!(approvals(&denied, Some("system:node:n1")), &[]);
    }

    #[test]
    fn requests_are_signed_when_approved_and_removed_when_they_have_served() {
        let of = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T05:00:00Z"}]);
        let (approved, denied) = (of("Approved"), of("Denied"));
        let hour = Duration::from_secs(3600);
        for (status, now, want) in [
            (json!({}), "2026-01-01T00:00:00Z", Step::Wait(24 * hour)),
            (json!({}), "2026-01-02T00:00:01Z", Step::Delete),
            (json!({"conditions": approved}), "2026-02-01T00:00:00Z", Step::Sign),
            (json!({"conditions": approved, "certificate": "YQ=="}), "2026-01-01T05:30:00Z", Step::Wait(hour / 2)),
            (json!({"conditions": approved, "certificate": "YQ=="}), "2026-01-01T06:00:00Z", Step::Delete),
            (json!({"conditions": denied}), "2026-01-01T05:00:00Z", Step::Wait(hour)),
            (json!({"conditions": denied}), "2026-01-01T06:00:01Z", Step::Delete),
        ] {
            assert_eq!(step(&request(status.clone()), at(now)), want, "{status} at {now}");
        }
        let mut failed = approved.clone();
        failed.as_array_mut().unwrap().push(of("Failed")[0].clone());
        assert_eq!(step(&request(json!({"conditions": failed})), at("2026-01-01T05:00:00Z")), Step::Wait(hour));
    }
}
