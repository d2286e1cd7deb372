//! Keeping `metadata.managedFields` true for create, update and patch.

use serde_json::Value;

use super::compare;
use super::element::PathElement;
use super::entries::{Id, Managers, Operation};
use super::set::FieldSet;
use super::walk::Comparison;
use crate::schema::TypeRef;

/// Fields of `metadata` that nobody owns: the system sets them, or they identify the object.
const UNTRACKED_METADATA: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// The manager of requests that do not name one.
const UNKNOWN: &str = "unknown";

/// Takes the fields that are never owned out of a set.
pub(crate) fn strip_untracked(set: &mut FieldSet) {
    let metadata = PathElement::field("metadata");
    if set.nodes().is_empty() {
        return;
    }
    set.retain_nodes(|node| {
        let PathElement::Field(name) = &node.element else { return true };
        if matches!(&**name, "apiVersion" | "kind") {
            node.member = false;
        } else if node.element == metadata {
            node.member = false;
            node.children.retain_nodes(|child| {
                let PathElement::Field(name) = &child.element else { return true };
                if UNTRACKED_METADATA.contains(&&**name) {
                    // Only the field itself is untracked; all of these are leaves.
                    child.member = false;
                    return false;
                }
                true
            });
        }
        true
    });
}

/// The top-level field that a request to `subresource` cannot change, if the type has it: the status through the object,
/// the spec through the status. What the request says of it is nobody's.
pub(crate) fn reset_field(schema: TypeRef<'_>, subresource: &str) -> Option<&'static str> {
    let name = match subresource {
        "" => "status",
        "status" => "spec",
        _ => return None,
    };
    schema.has_status_subresource().then_some(name)
}

/// Takes a top-level field, with all in it, out of a set.
pub(crate) fn without_field(set: &mut FieldSet, name: Option<&str>) {
    let Some(name) = name else { return };
    set.retain_nodes(|node| !matches!(&node.element, PathElement::Field(have) if &**have == name));
}

/// What changed, as far as ownership goes.
pub(crate) fn tracked_changes(comparison: &mut Comparison, reset: Option<&str>) {
    comparison.each(|set| {
        without_field(set, reset);
        strip_untracked(set);
    });
}

/// `metadata.managedFields` of an object.
pub(crate) fn managed_of(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// Replaces `metadata.managedFields`.
pub(crate) fn set_managed(object: &mut Value, list: Option<Value>) {
    let Some(root) = object.as_object_mut() else { return };
    match list {
        Some(list) => {
            let metadata = root.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("managedFields".into(), list);
            }
        }
        None => {
            if let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
    }
}

/// `[]` and `[{}]` ask for all ownership to be forgotten.
fn is_reset(list: Option<&Value>) -> bool {
    match list.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// The list a request starts from: its own if it sends a readable one, else the stored one. Subresources always use the
/// stored one.
fn starting_list<'v>(live: Option<&'v Value>, sent: Option<&'v Value>, subresource: &str) -> Option<&'v Value> {
    let stored = live.and_then(managed_of);
    if subresource.is_empty() {
        if is_reset(sent) {
            return None;
        }
        if sent.is_some() && sent == stored {
            return stored;
        }
        if Managers::decode(sent).is_ok_and(|m| !m.is_empty()) {
            return sent;
        }
    }
    stored
}

/// Records a create, update or patch in `metadata.managedFields` of `new`.
///
/// `live` is the stored object, `None` on create. Fields that changed move to `manager` (empty: `unknown`) and leave all
/// others; the time moves only with them. `now` is an RFC 3339 time in UTC with whole seconds. An object whose ownership
/// was reset is not tracked until it is applied. When the objects cannot be compared, ownership stays as stored.
pub fn update(
    schema: TypeRef<'_>,
    live: Option<&Value>,
    mut new: Value,
    manager: &str,
    now: &str,
    subresource: &str,
) -> Value {
    let sent =
        new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|metadata| metadata.remove("managedFields"));
    let start = starting_list(live, sent.as_ref(), subresource);
    if start.is_none() && live.is_some() {
        return new;
    }
    let Ok(mut changes) = compare(schema, live, Some(&new)) else {
        set_managed(&mut new, live.and_then(managed_of).cloned());
        return new;
    };
    tracked_changes(&mut changes, reset_field(schema, subresource));
    if changes.is_empty() {
        set_managed(&mut new, start.cloned());
        return new;
    }
    // A stored list that does not decode is as good as none.
    let mut managers = Managers::decode(start).unwrap_or_default();
    if managers.is_empty() && live.is_some() {
        return new;
    }
    let api_version = new.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let id = Id {
        manager: if manager.is_empty() { UNKNOWN } else { manager },
        operation: Operation::Update,
        api_version,
        subresource,
    };
    record(&mut managers, changes, id, now);
    let list = managers.encode();
    set_managed(&mut new, list);
    new
}

/// Moves what changed to the entry `id`.
pub(crate) fn record(managers: &mut Managers, changes: Comparison, id: Id<'_>, now: &str) {
    let taken = changes.modified.union(changes.added);
    if !managers.is_empty() {
        let changed = taken.clone().union(changes.removed);
        managers.release(&changed, None);
    }
    if !taken.is_empty() {
        managers.extend(id, taken, now);
    }
    managers.cap();
}
