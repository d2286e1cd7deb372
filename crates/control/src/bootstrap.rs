//! Objects that a fresh cluster has: the default storage class, the ingress class, and the kinds of snapshots with their
//! default class.

use http::Method;
use reconcile::plan::{DEFINITIONS, INGRESS_CLASSES, SNAPSHOT_CLASSES, STORAGE_CLASSES};
use reconcile::volume::LOCAL_PATH;
use reconcile::volume::snapshot::DEFAULT_CLASS;
use serde_json::{Value, json};

use crate::actuator::{ActError, Actuator};

/// Makes what is missing; what people changed stays as they left it.
pub async fn ensure(actuator: &Actuator) -> Result<(), ActError> {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": LOCAL_PATH, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true});
    create(actuator, &STORAGE_CLASSES.path(None), class).await?;
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "windlass", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "windlass.dev/ingress"}});
    create(actuator, &INGRESS_CLASSES.path(None), ingress).await?;
    for definition in crate::snapshots::definitions() {
        create(actuator, &DEFINITIONS.path(None), definition).await?;
    }
    Ok(())
}

/// Makes the default class of snapshots, if there is none of its name. Its kind must be served.
pub async fn ensure_snapshot_class(actuator: &Actuator) -> Result<(), ActError> {
    let class = json!({"apiVersion": SNAPSHOT_CLASSES.api_version(), "kind": SNAPSHOT_CLASSES.kind,
        "metadata": {"name": "local-path", "annotations": {DEFAULT_CLASS: "true"}},
        "driver": LOCAL_PATH, "deletionPolicy": "Delete"});
    create(actuator, &SNAPSHOT_CLASSES.path(None), class).await
}

async fn create(actuator: &Actuator, path: &str, body: Value) -> Result<(), ActError> {
    match actuator.call(Method::POST, path, Some(&body), None).await {
        Err(e) if !e.is_conflict() => Err(e),
        _ => Ok(()),
    }
}
