//! Certificate signing requests: who asks, who may approve, and who may sign.

use api::kinds::KindInfo;
use api::status::{ApiError, FieldError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::rbac::Rights;
use crate::authz::Attributes;
use crate::pki::{self, MASTERS};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
/// Conditions that only an approver sets.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

pub(super) fn is(kind: &KindInfo) -> bool {
    kind.group == GROUP && kind.kind == "CertificateSigningRequest"
}

/// The request comes from whom the server sees, whatever it says itself.
///
/// # Errors
/// 422 for a request that cannot be read or whose signature is wrong; 403 for one that asks for `system:masters`.
pub(super) fn create(rights: &Rights<'_>, object: &mut Value) -> Result<(), ApiError> {
    let user = rights.user;
    let name = api::meta::name(object).to_owned();
    let Some(spec) = object["spec"].as_object_mut() else { return Ok(()) };
    for key in ["username", "uid", "groups", "extra"] {
        spec.remove(key);
    }
    spec.insert("username".into(), user.name.as_str().into());
    spec.insert("groups".into(), json!(user.groups));
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    let text = spec.get("request").and_then(Value::as_str).unwrap_or("");
    let pem = STANDARD.decode(text).map_err(|e| e.to_string());
    let subject = match pem.and_then(|pem| pki::inspect(&pem)) {
        Ok(subject) => subject,
        Err(why) => {
            let error = FieldError::invalid("spec.request", text, why);
            return Err(ApiError::invalid("CertificateSigningRequest", GROUP, &name, vec![error]));
        }
    };
    if spec.get("signerName").and_then(Value::as_str) == Some(pki::CLIENT)
        && subject.organizations.iter().any(|o| o == MASTERS)
    {
        let why = format!("use of {} signer with system:masters group is not allowed", pki::CLIENT);
        return Err(ApiError::forbidden(RESOURCE, GROUP, &name, &why));
    }
    Ok(())
}

/// A write of `approval`: only the conditions change, and only by whom the signer's approval is entrusted to.
///
/// # Errors
/// 403, or 422 for conditions that make no sense.
pub(super) fn approve(rights: &Rights<'_>, new: &mut Value, old: &Value, now: &str) -> Result<(), ApiError> {
    may(rights, "approve", old)?;
    let conditions = new["status"]["conditions"].take();
    new["spec"] = old["spec"].clone();
    new["status"] = old.get("status").cloned().unwrap_or_else(|| json!({}));
    new["status"]["conditions"] = stamped(conditions, old, now);
    refuse(old, check(new, old))
}

/// A write of `status`: certificate and conditions are the signer's, the decision stays.
///
/// # Errors
/// 403, or 422 for conditions that make no sense.
pub(super) fn sign(rights: &Rights<'_>, new: &mut Value, old: &Value, now: &str) -> Result<(), ApiError> {
    let changed = |key: &str| new["status"].get(key) != old["status"].get(key);
    if !changed("certificate") && !changed("conditions") {
        return Ok(());
    }
    may(rights, "sign", old)?;
    if let Some(conditions) = new["status"].get("conditions").cloned() {
        new["status"]["conditions"] = stamped(conditions, old, now);
    }
    let mut errors = check(new, old);
    for decision in DECISIONS {
        let of =
            |v: &Value| conditions_of(v).into_iter().filter(|c| c["type"] == decision).cloned().collect::<Vec<_>>();
        let (before, after) = (of(old), of(new));
        if after.len() > before.len() {
            let why = format!("updates may not add a condition of type {decision:?}");
            errors.push(FieldError::forbidden("status.conditions", why));
        } else if after.len() == before.len() && after != before {
            let why = format!("updates may not modify a condition of type {decision:?}");
            errors.push(FieldError::forbidden("status.conditions", why));
        }
    }
    let certificate = |v: &Value| v["status"]["certificate"].as_str().unwrap_or("").to_owned();
    if !certificate(old).is_empty() && certificate(new) != certificate(old) {
        let why = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden("status.certificate", why));
    }
    refuse(old, errors)
}

fn refuse(old: &Value, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("CertificateSigningRequest", GROUP, api::meta::name(old), errors))
}

/// Rights over a signer are rights over the resource `signers` of its name, or of `DOMAIN/*`.
fn may(rights: &Rights<'_>, verb: &str, old: &Value) -> Result<(), ApiError> {
    let signer = old["spec"]["signerName"].as_str().unwrap_or("");
    let domain = format!("{}/*", signer.split('/').next().unwrap_or(""));
    let allowed = [signer, &domain].into_iter().any(|name| {
        rights.allow(&Attributes { verb, group: GROUP, resource: "signers", name, ..Attributes::blank(rights.user) })
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(ApiError::forbidden(RESOURCE, GROUP, api::meta::name(old), &why))
}

fn conditions_of(object: &Value) -> Vec<&Value> {
    object["status"]["conditions"].as_array().into_iter().flatten().collect()
}

/// Fills in the times that are missing.
fn stamped(mut conditions: Value, old: &Value, now: &str) -> Value {
    for condition in conditions.as_array_mut().into_iter().flatten() {
        let before = conditions_of(old)
            .into_iter()
            .find(|c| c["type"] == condition["type"] && c["status"] == condition["status"])
            .and_then(|c| c["lastTransitionTime"].as_str());
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = before.unwrap_or(now).into();
        }
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.into();
        }
    }
    if conditions.is_array() { conditions } else { json!([]) }
}

fn check(new: &Value, old: &Value) -> Vec<FieldError> {
    const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions_of(new).into_iter().enumerate() {
        let at = format!("status.conditions[{i}]");
        let (kind, status) = (condition["type"].as_str().unwrap_or(""), condition["status"].as_str().unwrap_or(""));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), ""));
        }
        let allowed: &[&str] = if FINAL.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(FieldError::required(format!("{at}.status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::not_supported(format!("{at}.status"), status, allowed));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(format!("{at}.type"), kind));
        }
        seen.push(kind);
    }
    if DECISIONS.iter().all(|d| seen.contains(d)) {
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid("status.conditions", *seen.last().unwrap_or(&""), why));
    }
    for kind in FINAL {
        let had = conditions_of(old).iter().any(|c| c["type"] == kind);
        if had && !seen.contains(&kind) {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden("status.conditions", why));
        }
    }
    errors
}
