//! metav1 `Table`: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::KindInfo;
use crate::meta;

pub mod columns;
mod duration;

pub use duration::{age, human_duration};

/// How much of each object a row carries, from `?includeObject=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// No object.
    None,
    /// `PartialObjectMetadata`: the default.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl IncludeObject {
    /// Parses the query parameter; absent or empty is the default. `None` for an unknown word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The table of `objects`. The caller fills `metadata` (resourceVersion, continue, remainingItemCount).
pub fn table<'a>(
    kind: &KindInfo,
    objects: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
    include: IncludeObject,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|o| row(kind, o, now, include)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": column_definitions(kind),
        "rows": rows,
    })
}

/// The `columnDefinitions` of a kind.
pub fn column_definitions(kind: &KindInfo) -> Vec<Value> {
    kind.column_definitions()
}

/// One `TableRow`.
pub fn row(kind: &KindInfo, object: &Value, now: Timestamp, include: IncludeObject) -> Value {
    let mut row = json!({"cells": kind.row(object, now)});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = partial_metadata(object),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    if kind.kind == "Pod" {
        let phase = crate::json::str_at(object, &["status", "phase"]);
        if let "Succeeded" | "Failed" = phase {
            let (reason, message) = if phase == "Succeeded" {
                ("Succeeded", "The pod has completed successfully.")
            } else {
                ("Failed", "The pod failed.")
            };
            row["conditions"] = json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
        }
    }
    row
}

/// `PartialObjectMetadata` of an object.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `PartialObjectMetadataList` of objects; the caller fills `metadata`.
pub fn partial_metadata_list<'a>(objects: impl IntoIterator<Item = &'a Value>) -> Value {
    let items: Vec<Value> = objects.into_iter().map(partial_metadata).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
}

/// The one word kubectl shows for a pod: `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`, ...
pub fn pod_status_word(pod: &Value) -> String {
    columns::pod_status_word(pod)
}

/// Age of the object, or `<unknown>`.
pub(crate) fn object_age(object: &Value, now: Timestamp) -> String {
    age(meta::creation_timestamp(object), now)
}

#[cfg(test)]
mod tests;
