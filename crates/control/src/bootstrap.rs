//! Objects that a fresh cluster has: the default storage class and the ingress class.

use http::Method;
use reconcile::plan::{INGRESS_CLASSES, STORAGE_CLASSES};
use reconcile::volume::LOCAL_PATH;
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
    create(actuator, &INGRESS_CLASSES.path(None), ingress).await
}

async fn create(actuator: &Actuator, path: &str, body: Value) -> Result<(), ActError> {
    match actuator.call(Method::POST, path, Some(&body), None).await {
        Err(e) if !e.is_conflict() => Err(e),
        _ => Ok(()),
    }
}
