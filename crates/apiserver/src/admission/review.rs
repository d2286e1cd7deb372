//! `AdmissionReview` of admission.k8s.io/v1: what is asked, and how the answer is read.

use api::status::ApiError;
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};

use super::rules::{Target, exchanged};
use super::{Admission, Operation, Warnings};

const API_VERSION: &str = "admission.k8s.io/v1";

/// Why there is no verdict.
pub(super) enum Failure {
    /// The failure policy decides.
    Call(String),
    /// It does not.
    Refused(ApiError),
}

/// What a webhook says.
pub(super) enum Verdict {
    Allowed {
        patch: Option<Value>,
    },
    /// With the status it gave.
    Denied(Value),
}

impl Verdict {
    /// Turns a refusal into its error.
    pub fn or_refusal(self, webhook: &str) -> Result<Self, ApiError> {
        match self {
            Verdict::Denied(status) => Err(refusal(webhook, &status)),
            allowed @ Verdict::Allowed { .. } => Ok(allowed),
        }
    }
}

/// The request of a review.
pub(super) fn request(admission: &Admission<'_>, target: &Target<'_>, object: &Value, old: &Value) -> Value {
    let kind = |of| {
        let (group, version, kind) = exchanged(of, admission.subresource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let resource = |of: &api::kinds::KindInfo| json!({"group": of.group, "version": of.version, "resource": of.plural});
    let mut out = json!({
        "uid": uuid::Uuid::new_v4().to_string(),
        "kind": kind(target.kind()),
        "resource": resource(target.kind()),
        "requestKind": kind(admission.kind),
        "requestResource": resource(admission.kind),
        "operation": admission.operation.as_str(),
        "userInfo": admission.user.to_json(),
        "object": target.view(object, old),
        "oldObject": target.view(old, &Value::Null),
        "dryRun": admission.dry_run,
        "options": admission.options(),
    });
    let namespace = admission.asked_namespace();
    let subresource = admission.subresource;
    let texts = [
        ("name", admission.name),
        ("namespace", namespace),
        ("subResource", subresource),
        ("requestSubResource", subresource),
    ];
    for (key, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        out[*key] = (*text).into();
    }
    if admission.operation == Operation::Connect {
        out["oldObject"] = Value::Null;
    }
    out
}

/// The document around a request.
pub(super) fn document(request: Value) -> Bytes {
    json!({"kind": "AdmissionReview", "apiVersion": API_VERSION, "request": request}).to_string().into()
}

/// Reads an answer. Warnings go to the client.
pub(super) fn read(bytes: &[u8], uid: &str, webhook: &str, warnings: &Warnings) -> Result<Verdict, Failure> {
    let fail = |why: String| Err(Failure::Call(why));
    let answer: Value = match serde_json::from_slice(bytes) {
        Ok(answer) => answer,
        Err(error) => return fail(format!("failed to call webhook: couldn't decode the answer: {error}")),
    };
    if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != API_VERSION {
        return fail(format!(
            "expected webhook response of {API_VERSION}, Kind=AdmissionReview, got {}, Kind={}",
            answer["apiVersion"].as_str().unwrap_or(""),
            answer["kind"].as_str().unwrap_or("")
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return fail("webhook response was absent".to_owned());
    }
    if response["uid"] != uid {
        return fail(format!("expected response.uid={uid:?}, got {:?}", response["uid"].as_str().unwrap_or("")));
    }
    for warning in response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        warnings.add(warning);
    }
    for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
        warnings.annotate(format!("{webhook}/{key}"), value.as_str().unwrap_or(""));
    }
    if response["allowed"] != true {
        return Ok(Verdict::Denied(response["status"].clone()));
    }
    match patch(response) {
        Ok(patch) => Ok(Verdict::Allowed { patch }),
        Err(why) => fail(why),
    }
}

fn patch(response: &Value) -> Result<Option<Value>, String> {
    let form = response["patchType"].as_str();
    match (response["patch"].as_str().filter(|p| !p.is_empty()), form) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (Some(_), None) => Err("webhook returned response.patch but not response.patchType".into()),
        (Some(text), Some("JSONPatch")) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            let bytes = bytes.map_err(|e| format!("response.patch is not base64: {e}"))?;
            serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("response.patch is not JSON: {e}"))
        }
        (Some(_), Some(other)) => Err(format!("webhook returned invalid response.patchType of {other:?}")),
    }
}

/// Reasons that an error of this server can have.
const REASONS: [&str; 17] = [
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "ServiceUnavailable",
];

/// The error for a refusal: the webhook's own code, reason and details, never a code of success.
fn refusal(webhook: &str, status: &Value) -> ApiError {
    let text = |key: &str| status[key].as_str().unwrap_or("");
    let why = [text("message"), text("reason")].into_iter().find(|t| !t.is_empty());
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match why {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c));
    let reason = REASONS.iter().find(|r| **r == text("reason")).copied().unwrap_or("");
    let details = status.get("details").filter(|d| d.is_object()).cloned();
    ApiError { code: code.unwrap_or(400), reason, message, details }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Vec<u8> {
        json!({"kind": "AdmissionReview", "apiVersion": API_VERSION, "response": response}).to_string().into_bytes()
    }

    fn failure(bytes: &[u8]) -> String {
        match read(bytes, "u", "h", &Warnings::default()) {
            Err(Failure::Call(why)) => why,
            _ => "no failure".into(),
        }
    }

    #[test]
    fn answers_that_mean_nothing_are_failures() {
        assert!(failure(b"no").starts_with("failed to call webhook"));
        assert!(failure(b"{}").starts_with("expected webhook response of admission.k8s.io/v1"));
        assert_eq!(failure(&answer(json!({"uid": "v"}))), r#"expected response.uid="u", got "v""#);
        let half = json!({"uid": "u", "allowed": true, "patch": "W10="});
        assert_eq!(failure(&answer(half)), "webhook returned response.patch but not response.patchType");
    }

    #[test]
    fn a_refusal_says_who_and_why_and_is_never_a_success() {
        let bare = refusal("h.x", &Value::Null);
        assert_eq!(
            (bare.code, bare.message.as_str()),
            (400, r#"admission webhook "h.x" denied the request without explanation"#)
        );
        let full = refusal("h.x", &json!({"code": 403, "reason": "Forbidden", "message": "no"}));
        assert_eq!((full.code, full.reason), (403, "Forbidden"));
        assert_eq!(full.message, r#"admission webhook "h.x" denied the request: no"#);
        assert_eq!(refusal("h", &json!({"code": 200})).code, 400);
    }

    #[test]
    fn warnings_reach_the_client() {
        let warnings = Warnings::default();
        let read = read(&answer(json!({"uid": "u", "allowed": true, "warnings": ["w"]})), "u", "h", &warnings);
        assert!(matches!(read, Ok(Verdict::Allowed { patch: None })));
        assert_eq!(warnings.take(), ["w"]);
    }
}
