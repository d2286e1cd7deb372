//! Object metadata: accessors, the system fields the server owns, and the rules every kind shares.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::json::{carry, drop_key, ensure_object, list_at, map_at, object_mut, semantic_eq, str_at};
use crate::kinds::NameRule;
use crate::names;
use crate::status::FieldError;

/// Longest `generateName` prefix that still leaves room for a suffix.
const GENERATE_NAME_MAX: usize = 63 - 5;
/// Total size of annotation keys and values.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// `metadata.name`, or "".
pub fn name(object: &Value) -> &str {
    str_at(object, &["metadata", "name"])
}
/// `metadata.generateName`, or "".
pub fn generate_name(object: &Value) -> &str {
    str_at(object, &["metadata", "generateName"])
}
/// `metadata.namespace`, or "".
pub fn namespace(object: &Value) -> &str {
    str_at(object, &["metadata", "namespace"])
}
/// `metadata.uid`, or "".
pub fn uid(object: &Value) -> &str {
    str_at(object, &["metadata", "uid"])
}
/// `metadata.resourceVersion`, or "".
pub fn resource_version(object: &Value) -> &str {
    str_at(object, &["metadata", "resourceVersion"])
}
/// `metadata.generation`, or 0.
pub fn generation(object: &Value) -> i64 {
    crate::json::int_at(object, &["metadata", "generation"]).unwrap_or(0)
}
/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    map_at(object, &["metadata", "labels"])
}
/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    map_at(object, &["metadata", "annotations"])
}
/// On a namespace: the ConfigMap in kube-system with the public keys, one of which must have signed the images of its pods. The
/// server writes it on every new pod of the namespace, where it stays.
pub const REQUIRE_SIGNATURE: &str = "windlass.dev/require-signature";
/// Namespace of the ConfigMaps with the keys of who signs images: what administrators keep.
pub const SIGNERS_NAMESPACE: &str = "kube-system";

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    list_at(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
}
/// Whether a deletion has been requested.
pub fn is_deleting(object: &Value) -> bool {
    !str_at(object, &["metadata", "deletionTimestamp"]).is_empty()
}
/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    str_at(object, &["metadata", "creationTimestamp"]).parse().ok()
}

/// Sets `metadata.resourceVersion`.
pub fn set_resource_version(object: &mut Value, revision: u64) {
    ensure_object(object, "metadata")["resourceVersion"] = revision.to_string().into();
}
/// Removes `metadata.resourceVersion` (stored objects carry none).
pub fn clear_resource_version(object: &mut Value) {
    if let Some(meta) = object_mut(object, &["metadata"]) {
        drop_key(meta, "resourceVersion");
    }
}

/// metav1 `Time` on the wire: UTC, whole seconds.
pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
/// metav1 `MicroTime` on the wire: UTC, microseconds.
pub fn format_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// What the server contributes to a new object.
#[derive(Debug, Clone, Copy)]
pub struct NewMeta<'a> {
    /// Namespace from the URL; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Fresh UID.
    pub uid: &'a str,
    /// Time of the request.
    pub now: Timestamp,
    /// Five characters from [`SUFFIX_ALPHABET`], appended to `generateName`.
    pub name_suffix: &'a str,
}

/// The letters Kubernetes draws generated-name suffixes from: no vowels, no look-alikes.
pub const SUFFIX_ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";

/// Fills the system metadata of a new object and clears what a creator may not set.
pub fn prepare_create(object: &mut Value, new: NewMeta<'_>) {
    let generated = match (name(object), generate_name(object)) {
        ("", "") => None,
        ("", prefix) => {
            let cut =
                prefix.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= GENERATE_NAME_MAX).last();
            Some(format!("{}{}", &prefix[..cut.unwrap_or(0)], new.name_suffix))
        }
        _ => None,
    };
    let meta = ensure_object(object, "metadata");
    if let Some(name) = generated {
        meta["name"] = name.into();
    }
    if new.namespace.is_empty() {
        drop_key(meta, "namespace");
    } else {
        meta["namespace"] = new.namespace.into();
    }
    for key in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        drop_key(meta, key);
    }
    meta["uid"] = new.uid.into();
    meta["creationTimestamp"] = format_time(new.now).into();
    drop_empty(meta);
}

/// Takes away what is as good as absent, as Kubernetes' `omitempty` does: clients ask for the absence.
fn drop_empty(meta: &mut Value) {
    for key in ["labels", "annotations", "ownerReferences", "finalizers"] {
        let empty = match meta.get(key) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if empty {
            drop_key(meta, key);
        }
    }
}

/// Takes the system metadata from the stored object where the client left it out; values the client did send are kept so
/// that [`validate_update`] can refuse a change.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let Some(old_meta) = old.get("metadata") else { return };
    let meta = ensure_object(new, "metadata");
    carry(meta, old_meta, "generation");
    drop_key(meta, "selfLink");
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name"] {
        if crate::json::is_unset(meta, key) {
            carry(meta, old_meta, key);
        }
    }
    if crate::json::is_unset(meta, "managedFields") {
        // Absent means untouched; an explicit empty list resets ownership and is handled by `ssa`.
        carry(meta, old_meta, "managedFields");
    }
    drop_empty(meta);
}

/// For a status write: the stored object with the new status and, as Kubernetes allows, new labels, annotations,
/// finalizers and managedFields.
pub fn prepare_status_update(new: &mut Value, old: &Value) {
    prepare_update(new, old);
    let keys: Vec<String> = [new.as_object(), old.as_object()]
        .into_iter()
        .flatten()
        .flat_map(Map::keys)
        .filter(|k| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
        .cloned()
        .collect();
    for key in keys {
        carry(new, old, &key);
    }
}

/// Sets the generation to one more than the stored one when any of `paths` differs.
pub fn bump_generation(new: &mut Value, old: &Value, paths: &[&[&str]]) {
    let changed = paths.iter().any(|p| !semantic_eq(crate::json::at(new, p), crate::json::at(old, p)));
    if changed {
        ensure_object(new, "metadata")["generation"] = (generation(old) + 1).into();
    }
}

/// Marks an object for deletion: timestamp (now + grace), grace period, next generation.
pub fn mark_deleted(object: &mut Value, now: Timestamp, grace_s: i64) {
    let generation = generation(object);
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace_s.max(0))).unwrap_or(now);
    let meta = ensure_object(object, "metadata");
    meta["deletionTimestamp"] = format_time(at).into();
    meta["deletionGracePeriodSeconds"] = grace_s.into();
    if generation > 0 {
        meta["generation"] = (generation + 1).into();
    }
}

/// Whether a request for `grace_s` seconds shortens a deletion that is already under way (longer ones are ignored).
pub fn shortens_deletion(object: &Value, grace_s: i64) -> bool {
    crate::json::int_at(object, &["metadata", "deletionGracePeriodSeconds"]).is_none_or(|have| grace_s < have)
}

/// Checks `metadata` of a new object.
pub fn validate(object: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let check = |field: &str, value: &str, errors: &mut Vec<FieldError>| {
        errors.extend(check_name(rule, value).into_iter().map(|m| FieldError::invalid(field, value, m)));
    };
    if !generate_name(object).is_empty() {
        // A trailing dash is fine in a prefix: the suffix ends the name.
        let prefix = generate_name(object);
        let masked = prefix.strip_suffix('-').map_or(prefix.to_owned(), |p| format!("{p}a"));
        errors.extend(
            check_name(rule, &masked).into_iter().map(|m| FieldError::invalid("metadata.generateName", prefix, m)),
        );
    }
    if name(object).is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        check("metadata.name", name(object), &mut errors);
    }
    if namespaced {
        if namespace(object).is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            let ns = namespace(object);
            errors
                .extend(names::dns1123_label(ns).into_iter().map(|m| FieldError::invalid("metadata.namespace", ns, m)));
        }
    }
    errors.extend(validate_common(object));
    errors
}

fn check_name(rule: NameRule, value: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => names::dns1123_subdomain(value),
        NameRule::Label => names::dns1123_label(value),
        NameRule::Label1035 => names::dns1035_label(value),
        NameRule::PathSegment => names::path_segment(value),
    }
}

fn validate_common(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = labels(object) {
        errors.extend(validate_labels(labels, "metadata.labels"));
    }
    if let Some(annotations) = annotations(object) {
        errors.extend(validate_annotations(annotations, "metadata.annotations"));
    }
    errors.extend(validate_owners(object));
    // Kubernetes asks for a domain in the finalizers of its own types; definitions and their objects may have plain ones.
    let (group, _) = crate::kinds::split_api_version(crate::json::str_at(object, &["apiVersion"]));
    let custom = group == "apiextensions.k8s.io" || (group.contains('.') && !group.ends_with(".k8s.io"));
    for finalizer in finalizers(object) {
        if custom {
            let problems = names::qualified_name(finalizer).into_iter();
            errors.extend(problems.map(|m| FieldError::invalid("metadata.finalizers", finalizer, m)));
        } else {
            errors.extend(validate_finalizer(finalizer, "metadata.finalizers"));
        }
    }
    errors
}

/// Checks label keys and values.
pub fn validate_labels(labels: &Map<String, Value>, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels {
        errors.extend(names::qualified_name(key).into_iter().map(|m| FieldError::invalid(field, key.as_str(), m)));
        let value = value.as_str().unwrap_or("");
        errors.extend(names::label_value(value).into_iter().map(|m| FieldError::invalid(field, value, m)));
    }
    errors
}

/// Checks annotation keys and the total size.
pub fn validate_annotations(annotations: &Map<String, Value>, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut total = 0;
    for (key, value) in annotations {
        // Keys are case-insensitive here for history's sake.
        let lower = key.to_lowercase();
        errors.extend(names::qualified_name(&lower).into_iter().map(|m| FieldError::invalid(field, key.as_str(), m)));
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(field, ANNOTATIONS_MAX));
    }
    errors
}

fn validate_owners(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for (i, owner) in list_at(object, &["metadata", "ownerReferences"]).iter().enumerate() {
        let field = format!("metadata.ownerReferences[{i}]");
        let api_version = str_at(owner, &["apiVersion"]);
        if api_version.is_empty() || api_version.starts_with('/') {
            errors.push(FieldError::invalid(format!("{field}.apiVersion"), api_version, "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if str_at(owner, &[key]).is_empty() {
                errors.push(FieldError::invalid(format!("{field}.{key}"), "", "must not be empty"));
            }
        }
        if api_version == "v1" && str_at(owner, &["kind"]) == "Event" {
            errors.push(FieldError::invalid(
                field.clone(),
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if crate::json::bool_at(owner, &["controller"]) {
            let name = str_at(owner, &["kind"]).to_owned() + "/" + str_at(owner, &["name"]);
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.push(FieldError::invalid("metadata.ownerReferences", "", detail));
            }
            controller.get_or_insert(name);
        }
    }
    errors
}

/// Checks one finalizer name.
pub fn validate_finalizer(finalizer: &str, field: &str) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        names::qualified_name(finalizer).into_iter().map(|m| FieldError::invalid(field, finalizer, m)).collect();
    if errors.is_empty()
        && !finalizer.contains('/')
        && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes")
    {
        errors.push(FieldError::invalid(
            field,
            finalizer,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
    errors
}

/// Checks `metadata` of a replacement against the stored object.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let value = crate::json::at(new, &["metadata", key]);
        let same = match key {
            "creationTimestamp" | "deletionTimestamp" => same_time(value, crate::json::at(old, &["metadata", key])),
            _ => semantic_eq(value, crate::json::at(old, &["metadata", key])),
        };
        if !same {
            let value = value.cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(format!("metadata.{key}"), value, "field is immutable"));
        }
    }
    if is_deleting(old) {
        let known = finalizers(old);
        let added: Vec<&str> = finalizers(new).into_iter().filter(|f| !known.contains(f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    errors.extend(validate_common(new));
    errors
}

fn same_time(a: Option<&Value>, b: Option<&Value>) -> bool {
    let parse = |v: Option<&Value>| v.and_then(Value::as_str).and_then(|s| s.parse::<Timestamp>().ok());
    semantic_eq(a, b) || (a.is_some() && parse(a).is_some() && parse(a) == parse(b))
}

#[cfg(test)]
mod tests;
