//! Definitions of the kinds of `snapshot.storage.k8s.io/v1`, after the API that kubernetes-csi publishes.

use reconcile::plan::{Resource, SNAPSHOT_CLASSES, SNAPSHOT_CONTENTS, SNAPSHOTS};
use serde_json::{Value, json};

/// Where the API was approved: groups below `k8s.io` must say so (KEP-1111).
const APPROVED: &str = "https://github.com/kubernetes/enhancements/tree/master/keps/sig-storage/177-volume-snapshot";

/// All of them.
pub fn definitions() -> [Value; 3] {
    [snapshots(), contents(), classes()]
}

fn definition(
    resource: Resource,
    namespaced: bool,
    short: &[&str],
    columns: Value,
    schema: Value,
    status: bool,
) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", resource.plural, resource.group),
            "annotations": {"api-approved.kubernetes.io": APPROVED},
        },
        "spec": {
            "group": resource.group,
            "names": {
                "kind": resource.kind, "listKind": format!("{}List", resource.kind), "plural": resource.plural,
                "singular": resource.kind.to_lowercase(), "shortNames": short,
            },
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": resource.version, "served": true, "storage": true,
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema},
                "subresources": if status { json!({"status": {}}) } else { json!({}) },
            }],
        },
    })
}

fn column(name: &str, type_: &str, path: &str) -> Value {
    json!({"name": name, "type": type_, "jsonPath": path})
}

fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp")
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// A string that stays as it was made.
fn fixed(description: &str, message: &str) -> Value {
    json!({
        "type": "string", "description": description,
        "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": message}],
    })
}

/// What is set stays set.
fn kept(field: &str) -> Value {
    let rule = format!("!has(oldSelf.{field}) || has(self.{field})");
    json!({"rule": rule, "message": format!("{field} is required once set")})
}

fn policy() -> Value {
    json!({
        "type": "string", "enum": ["Delete", "Retain"],
        "description": "Whether what was kept goes with its VolumeSnapshot (Delete) or stays (Retain).",
    })
}

fn error() -> Value {
    json!({
        "type": "object", "description": "What went wrong last; gone once the snapshot is ready.",
        "properties": {
            "message": text("What went wrong."),
            "time": {"type": "string", "format": "date-time", "description": "When."},
        },
    })
}

/// A whole object.
fn object(description: &str, mut properties: Value, required: &[&str]) -> Value {
    properties["apiVersion"] = text("Version of this representation of the object.");
    properties["kind"] = text("What the object is.");
    properties["metadata"] = json!({"type": "object"});
    json!({"type": "object", "description": description, "properties": properties, "required": required})
}

fn snapshots() -> Value {
    let columns = json!([
        column("ReadyToUse", "boolean", ".status.readyToUse"),
        column("SourcePVC", "string", ".spec.source.persistentVolumeClaimName"),
        column("SourceSnapshotContent", "string", ".spec.source.volumeSnapshotContentName"),
        column("RestoreSize", "string", ".status.restoreSize"),
        column("SnapshotClass", "string", ".spec.volumeSnapshotClassName"),
        column("SnapshotContent", "string", ".status.boundVolumeSnapshotContentName"),
        column("CreationTime", "date", ".status.creationTime"),
        age(),
    ]);
    let one_of = "(has(self.volumeSnapshotContentName) && !has(self.persistentVolumeClaimName)) || (!has(self.volumeSnapshotContentName) && has(self.persistentVolumeClaimName))";
    let source = json!({
        "type": "object", "description": "Of what the snapshot is: exactly one of the two. It never changes.",
        "properties": {
            "persistentVolumeClaimName": fixed(
                "A claim of the same namespace, of whose volume a snapshot is to be taken.",
                "persistentVolumeClaimName is immutable",
            ),
            "volumeSnapshotContentName": fixed(
                "A VolumeSnapshotContent that is there already.",
                "volumeSnapshotContentName is immutable",
            ),
        },
        "x-kubernetes-validations": [
            kept("persistentVolumeClaimName"),
            kept("volumeSnapshotContentName"),
            {"rule": one_of, "message": "exactly one of volumeSnapshotContentName and persistentVolumeClaimName must be set"},
        ],
    });
    let spec = json!({
        "type": "object", "description": "What is wanted.", "required": ["source"],
        "properties": {
            "source": source,
            "volumeSnapshotClassName": {
                "type": "string",
                "description": "The VolumeSnapshotClass; without it, the default one of the driver of the claim's volume.",
                "x-kubernetes-validations": [
                    {"rule": "size(self) > 0", "message": "volumeSnapshotClassName must not be the empty string when set"},
                ],
            },
        },
    });
    let status = json!({
        "type": "object", "description": "What there is. Bound is only what its content points back at.",
        "properties": {
            "boundVolumeSnapshotContentName": text("The VolumeSnapshotContent that it is to be bound to."),
            "creationTime": {"type": "string", "format": "date-time", "description": "When the snapshot was taken."},
            "readyToUse": {"type": "boolean", "description": "Whether a volume can be made of it."},
            "restoreSize": {
                "description": "The least size of a volume that is made of it.",
                "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
                "x-kubernetes-int-or-string": true,
            },
            "error": error(),
            "volumeGroupSnapshotName": text("The VolumeGroupSnapshot that it is part of."),
        },
    });
    let schema = object("What is to be kept of a claim's volume.", json!({"spec": spec, "status": status}), &["spec"]);
    definition(SNAPSHOTS, true, &["vs"], columns, schema, true)
}

fn contents() -> Value {
    let columns = json!([
        column("ReadyToUse", "boolean", ".status.readyToUse"),
        column("RestoreSize", "integer", ".status.restoreSize"),
        column("DeletionPolicy", "string", ".spec.deletionPolicy"),
        column("Driver", "string", ".spec.driver"),
        column("VolumeSnapshotClass", "string", ".spec.volumeSnapshotClassName"),
        column("VolumeSnapshot", "string", ".spec.volumeSnapshotRef.name"),
        column("VolumeSnapshotNamespace", "string", ".spec.volumeSnapshotRef.namespace"),
        age(),
    ]);
    let one_of = "(has(self.volumeHandle) && !has(self.snapshotHandle)) || (!has(self.volumeHandle) && has(self.snapshotHandle))";
    let source = json!({
        "type": "object", "description": "Of what it is: exactly one of the two. It never changes.",
        "properties": {
            "volumeHandle": fixed("The driver's name of the volume of which a snapshot is taken.", "volumeHandle is immutable"),
            "snapshotHandle": fixed("The driver's name of a snapshot that is there already.", "snapshotHandle is immutable"),
        },
        "x-kubernetes-validations": [
            kept("volumeHandle"),
            kept("snapshotHandle"),
            {"rule": one_of, "message": "exactly one of volumeHandle and snapshotHandle must be set"},
        ],
    });
    let fields = ["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];
    let reference: serde_json::Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
    let spec = json!({
        "type": "object", "description": "What is wanted.",
        "required": ["deletionPolicy", "driver", "source", "volumeSnapshotRef"],
        "properties": {
            "deletionPolicy": policy(),
            "driver": text("The driver that has the snapshot."),
            "source": source,
            "sourceVolumeMode": fixed("Filesystem or Block, as the volume is.", "sourceVolumeMode is immutable"),
            "volumeSnapshotClassName": text("The VolumeSnapshotClass that it was made with."),
            "volumeSnapshotRef": {
                "type": "object", "description": "The VolumeSnapshot that it is bound to.", "properties": reference,
                "x-kubernetes-map-type": "atomic",
                "x-kubernetes-validations": [{
                    "rule": "has(self.name) && has(self.__namespace__)",
                    "message": "both spec.volumeSnapshotRef.name and spec.volumeSnapshotRef.namespace must be set",
                }],
            },
        },
        "x-kubernetes-validations": [kept("sourceVolumeMode")],
    });
    let status = json!({
        "type": "object", "description": "What its driver says.",
        "properties": {
            "creationTime": {
                "type": "integer", "format": "int64",
                "description": "When the snapshot was taken, in nanoseconds since 1970-01-01 00:00:00 UTC.",
            },
            "readyToUse": {"type": "boolean", "description": "Whether a volume can be made of it."},
            "restoreSize": {
                "type": "integer", "format": "int64", "minimum": 0,
                "description": "The least size of a volume that is made of it, in bytes.",
            },
            "snapshotHandle": text("The driver's name of the snapshot."),
            "volumeGroupSnapshotHandle": text("The driver's name of the group of snapshots that it is part of."),
            "error": error(),
        },
    });
    let schema = object("What is there of a snapshot.", json!({"spec": spec, "status": status}), &["spec"]);
    definition(SNAPSHOT_CONTENTS, false, &["vsc", "vscs"], columns, schema, true)
}

fn classes() -> Value {
    let columns =
        json!([column("Driver", "string", ".driver"), column("DeletionPolicy", "string", ".deletionPolicy"), age()]);
    let parameters = json!({
        "type": "object", "description": "What the driver is told.", "additionalProperties": {"type": "string"},
    });
    let properties = json!({
        "driver": text("The driver that takes snapshots of this class."),
        "deletionPolicy": policy(),
        "parameters": parameters,
    });
    let schema = object("How snapshots are taken.", properties, &["deletionPolicy", "driver"]);
    definition(SNAPSHOT_CLASSES, false, &["vsclass", "vsclasses"], columns, schema, false)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::kinds::KindInfo;
    use api::status::FieldError;

    use super::*;

    /// The kind that a definition makes.
    fn kind(mut definition: Value) -> Arc<KindInfo> {
        let registry = api::kinds::registry();
        let info = registry.by_api_version("apiextensions.k8s.io/v1", "CustomResourceDefinition").expect("built in");
        info.default(&mut definition);
        info.prepare_create(&mut definition);
        assert_eq!(words(&info.validate_create(&definition)), [""; 0], "{definition:#}");
        api::crd::kinds(&definition).expect("its schema and rules compile").stored
    }

    fn words(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn snapshot(spec: Value) -> Value {
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": {"name": "s", "namespace": "d"}, "spec": spec})
    }

    fn content(spec: Value) -> Value {
        let mut all = json!({"deletionPolicy": "Delete", "driver": "x", "source": {"volumeHandle": "v"},
            "volumeSnapshotRef": {"namespace": "d", "name": "s"}});
        spec.as_object().expect("fields").iter().for_each(|(k, v)| all[k] = v.clone());
        json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "c"}, "spec": all})
    }

    #[test]
    fn a_snapshot_has_one_source_that_stays() {
        let kind = kind(snapshots());
        assert!(kind.namespaced && kind.short_names.contains(&"vs"));
        let made = |spec: Value| words(&kind.validate_create(&snapshot(spec)));
        let claim = json!({"source": {"persistentVolumeClaimName": "a"}});
        assert_eq!(made(claim.clone()), [""; 0]);
        assert_eq!(made(json!({"source": {"volumeSnapshotContentName": "a"}})), [""; 0]);
        let both = json!({"source": {"persistentVolumeClaimName": "a", "volumeSnapshotContentName": "a"}});
        for (wrong, why) in [
            (json!({}), "spec.source: Required value"),
            (
                json!({"source": {}}),
                "exactly one of volumeSnapshotContentName and persistentVolumeClaimName must be set",
            ),
            (both.clone(), "exactly one of volumeSnapshotContentName and persistentVolumeClaimName must be set"),
            (
                json!({"source": {"persistentVolumeClaimName": "a"}, "volumeSnapshotClassName": ""}),
                "volumeSnapshotClassName must not be the empty string when set",
            ),
        ] {
            let found = made(wrong);
            assert!(found.iter().any(|w| w.contains(why)), "{why}: {found:?}");
        }
        let changed = |spec: Value| words(&kind.validate_update(&snapshot(spec), &snapshot(claim.clone())));
        let other = changed(json!({"source": {"persistentVolumeClaimName": "b"}}));
        assert!(other.iter().any(|w| w.contains("persistentVolumeClaimName is immutable")), "{other:?}");
        let gone = changed(json!({"source": {"volumeSnapshotContentName": "a"}}));
        assert!(gone.iter().any(|w| w.contains("persistentVolumeClaimName is required once set")), "{gone:?}");
        let named = changed(json!({"source": {"persistentVolumeClaimName": "a"}, "volumeSnapshotClassName": "b"}));
        assert_eq!(named, [""; 0], "the default class is written into it");
    }

    #[test]
    fn content_names_what_it_is_of_and_whose_it_is() {
        let kind = kind(contents());
        let made = |spec: Value| words(&kind.validate_create(&content(spec)));
        assert_eq!(made(json!({})), [""; 0]);
        assert_eq!(made(json!({"source": {"snapshotHandle": "n/s"}})), [""; 0]);
        for (wrong, why) in [
            (json!({"source": {}}), "exactly one of volumeHandle and snapshotHandle must be set"),
            (json!({"deletionPolicy": "Keep"}), "spec.deletionPolicy: Unsupported value"),
            (
                json!({"volumeSnapshotRef": {"name": "s"}}),
                "both spec.volumeSnapshotRef.name and spec.volumeSnapshotRef.namespace must be set",
            ),
        ] {
            let found = made(wrong);
            assert!(found.iter().any(|w| w.contains(why)), "{why}: {found:?}");
        }
        let changed =
            words(&kind.validate_update(&content(json!({"source": {"volumeHandle": "w"}})), &content(json!({}))));
        assert!(changed.iter().any(|w| w.contains("volumeHandle is immutable")), "{changed:?}");
    }

    #[test]
    fn a_class_has_a_driver_and_a_policy() {
        let kind = kind(classes());
        let class = |fields: Value| {
            let mut class = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": "c"}});
            fields.as_object().expect("fields").iter().for_each(|(k, v)| class[k] = v.clone());
            words(&kind.validate_create(&class))
        };
        assert_eq!(class(json!({"driver": "x", "deletionPolicy": "Retain", "parameters": {"a": "b"}})), [""; 0]);
        assert!(!class(json!({"deletionPolicy": "Retain"})).is_empty());
        assert!(!class(json!({"driver": "x"})).is_empty());
    }
}
