//! The annotation of client-side apply, for objects that move to `kubectl apply --server-side`: what kubectl itself
//! applied before is no conflict, and the annotation follows, so that moving back works too.

use serde_json::Value;

use crate::managed_fields::{FieldSet, compare, field_set};
use crate::schema::TypeRef;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager name of kubectl's server-side apply; other managers keep their hands off the annotation.
pub(super) const MANAGER: &str = "kubectl";
/// All annotations together may not be longer; a configuration that is, is not recorded.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    let text = object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The fields that client-side apply set and that still have the value it gave them. Empty without the annotation, or
/// when it is unreadable or in another version.
pub(super) fn still_applied(ty: TypeRef<'_>, live: &Value, api_version: &str) -> FieldSet {
    let read = || {
        let applied: Value = serde_json::from_str(annotation(live)?).ok()?;
        if applied.get("apiVersion")?.as_str()? != api_version {
            return None;
        }
        let set = field_set(ty, &applied).ok()?;
        let changed = compare(ty, Some(&applied), Some(live)).ok()?;
        Some(set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
    };
    read().unwrap_or_default()
}

/// Records `applied` in the annotation, if the object has one.
pub(super) fn follow(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    // As kubectl writes it: JSON on one line with a newline at the end.
    let text = format!("{applied}\n");
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    let others: usize = annotations
        .iter()
        .filter(|(name, _)| *name != ANNOTATION)
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + ANNOTATION.len() + text.len() > MAX_ANNOTATIONS_BYTES {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.into(), text.into());
    }
}
