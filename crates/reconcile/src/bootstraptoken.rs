//! What becomes of a bootstrap token's Secret: it goes when it has expired (KEP-130).

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;

/// The type of the Secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they are.
pub const NAMESPACE: &str = "kube-system";

/// What to do about a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it never expires, or is no token.
    Keep,
    /// Look again in a while.
    Wait(Duration),
    /// It has expired.
    Delete,
}

/// Decides. An end that cannot be read has come.
pub fn step(secret: &Secret, now: Timestamp) -> Step {
    let end = secret.data.as_ref().and_then(|data| data.get("expiration"));
    let Some(end) = end.filter(|end| !end.0.is_empty() && secret.type_.as_deref() == Some(TYPE)) else {
        return Step::Keep;
    };
    let end = std::str::from_utf8(&end.0).ok().and_then(|end| end.parse::<Timestamp>().ok());
    match end.map(|end| end.duration_since(now)) {
        Some(left) if left.is_positive() => Step::Wait(left.unsigned_abs()),
        _ => Step::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_when_they_have_expired() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for (kind, end, want) in [
            (TYPE, "", Step::Keep),
            (TYPE, "2026-01-01T00:01:00Z", Step::Wait(Duration::from_secs(60))),
            (TYPE, "2026-01-01T00:00:00Z", Step::Delete),
            (TYPE, "never", Step::Delete),
            ("Opaque", "2025-01-01T00:00:00Z", Step::Keep),
        ] {
            let mut secret = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
            let end = k8s_openapi::ByteString(end.as_bytes().to_vec());
            secret.data = Some([("expiration".to_owned(), end)].into());
            assert_eq!(step(&secret, now), want, "{kind} {secret:?}");
        }
    }
}
