//! Objects of one version of a custom resource as another: by their label alone, or by a webhook (`ConversionReview` of
//! apiextensions.k8s.io).

use serde_json::{Map, Value, json};

use crate::json::str_at;
use crate::kinds::{Gvk, KindInfo};

const GROUP: &str = "apiextensions.k8s.io";
/// Versions of the review that this server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The first of a definition's `conversionReviewVersions` that is spoken here.
pub fn review_version(webhook: &Value) -> Option<&'static str> {
    let wanted = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
    wanted.filter_map(Value::as_str).find_map(|v| REVIEWS.iter().find(|r| **r == v).copied())
}

/// What is stored becomes an object of its own version as the definition has it now: with defaults, and without fields
/// that are not specified.
pub fn read(kind: &KindInfo, object: &mut Value) {
    kind.default(object);
    settle(kind, object);
}

/// Drops the fields that the version does not specify. Call it with what a conversion gave.
pub fn settle(kind: &KindInfo, object: &mut Value) {
    if let Some(ty) = kind.schema() {
        ty.prune(object);
    }
}

/// Conversion with the strategy `None`: only the label changes, and what the other version does not specify is dropped.
pub fn relabel(kind: &KindInfo, object: &mut Value) {
    object["apiVersion"] = kind.api_version().into();
    settle(kind, object);
}

/// The document that asks for objects in another version.
pub fn review(version: &str, uid: &str, desired: &str, objects: &[Value]) -> Value {
    json!({
        "kind": "ConversionReview",
        "apiVersion": format!("{GROUP}/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
    })
}

/// The objects in an answer, in the order of those that were `sent`. Their metadata is that of the sent ones, but for labels
/// and annotations.
///
/// # Errors
/// What is wrong with the answer, in the words of Kubernetes, which begin with `conversion webhook for`.
pub fn converted(
    answer: &Value,
    version: &str,
    uid: &str,
    desired: &str,
    sent: &[Value],
) -> Result<Vec<Value>, String> {
    let subject = subject(sent);
    let objects = response(answer, version, uid).map_err(|why| format!("{subject} failed: {why}"))?;
    if objects.len() != sent.len() {
        return Err(format!("{subject} returned {} objects, expected {}", objects.len(), sent.len()));
    }
    let pairs = sent.iter().zip(objects).enumerate();
    pairs.map(|(index, (old, new))| one(&subject, index, desired, old, new)).collect()
}

/// How failures about these objects begin.
pub fn subject(sent: &[Value]) -> String {
    let gvk = sent.first().map(Gvk::of);
    let text = gvk.map_or_else(String::new, |gvk| format!("{}, Kind={}", gvk.api_version(), gvk.kind));
    format!("conversion webhook for {text}")
}

fn response(answer: &Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    if version != "v1beta1" {
        let wanted = format!("{GROUP}/{version}");
        if answer["kind"] != "ConversionReview" || answer["apiVersion"] != wanted.as_str() {
            let (found, kind) = (str_at(answer, &["apiVersion"]), str_at(answer, &["kind"]));
            return Err(format!(
                "expected webhook response of {wanted}, Kind=ConversionReview, got {found}, Kind={kind}"
            ));
        }
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if version != "v1beta1" && response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", str_at(response, &["uid"])));
    }
    match (str_at(response, &["result", "status"]), str_at(response, &["result", "message"])) {
        ("Success", _) => Ok(response["convertedObjects"].as_array().cloned().unwrap_or_default()),
        (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}

fn one(subject: &str, index: usize, desired: &str, old: &Value, mut new: Value) -> Result<Value, String> {
    let invalid = |why: String| format!("{subject} returned invalid object at index {index}: {why}");
    let text = |v: &Value, path: &[&str]| str_at(v, path).to_owned();
    let version = text(&new, &["apiVersion"]);
    if version != desired {
        return Err(invalid(format!("invalid groupVersion (expected {desired}, received {version})")));
    }
    let kinds = (text(old, &["kind"]), text(&new, &["kind"]));
    if kinds.0 != kinds.1 {
        return Err(invalid(format!("invalid kind (expected {}, received {})", kinds.0, kinds.1)));
    }
    for (word, key) in [("name", "name"), ("namespace", "namespace"), ("UID", "uid")] {
        let (was, is) = (text(old, &["metadata", key]), text(&new, &["metadata", key]));
        if was != is {
            return Err(invalid(format!("must have the same {word}: {was} != {is}")));
        }
    }
    restore(old, &mut new)
        .map_err(|why| format!("{subject} returned invalid metadata in object at index {index}: {why}"))?;
    Ok(new)
}

/// Of the metadata, a webhook may change labels and annotations only.
fn restore(old: &Value, new: &mut Value) -> Result<(), String> {
    let Some(given) = new.get("metadata") else { return Err("missing metadata in converted object".to_owned()) };
    let given = given.as_object().ok_or("invalid metadata in converted object: must be an object")?;
    let mut metadata = old["metadata"].as_object().cloned().unwrap_or_default();
    for key in ["labels", "annotations"] {
        match given.get(key) {
            None | Some(Value::Null) => drop(metadata.remove(key)),
            Some(Value::Object(map)) => {
                if metadata.get(key).and_then(Value::as_object) != Some(map) {
                    check(key, map)?;
                }
                metadata.insert(key.to_owned(), Value::Object(map.clone()));
            }
            Some(_) => return Err(format!("invalid metadata.{key} in converted object: must be an object")),
        }
    }
    new["metadata"] = Value::Object(metadata);
    Ok(())
}

fn check(key: &str, map: &Map<String, Value>) -> Result<(), String> {
    if let Some((name, _)) = map.iter().find(|(_, v)| !v.is_string()) {
        return Err(format!("metadata.{key}[{name}] must be a string in converted object"));
    }
    let probe = json!({"metadata": {"name": "x", key: map}});
    let found = crate::meta::validate(&probe, false, crate::kinds::NameRule::PathSegment);
    match found.first() {
        Some(error) => Err(error.to_string()),
        None => Ok(()),
    }
}
