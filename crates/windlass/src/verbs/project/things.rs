//! Objects of a project in the cluster: found by their labels, told apart, removed.

use std::collections::BTreeSet;

use kube::Client;
use serde_json::Value;

use super::source::Source;
use crate::kubeapi;
use crate::verbs::apply::label;

/// Kinds that a project is made of: group and version, kind, plural. Those that own pods first.
const KINDS: [(&str, &str, &str); 12] = [
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("batch/v1", "CronJob", "cronjobs"),
    ("batch/v1", "Job", "jobs"),
    ("networking.k8s.io/v1", "Ingress", "ingresses"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    ("v1", "Service", "services"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Secret", "secrets"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
];

/// Kinds that are not removed with a project unless its volumes are to go, too.
const KEPT: [&str; 2] = ["PersistentVolumeClaim", "Namespace"];

/// Whether an object outlives the files that name it.
pub fn is_kept(object: &Value) -> bool {
    KEPT.contains(&object["kind"].as_str().unwrap_or_default())
}

/// What the labels of a project are on, whatever namespace it is in.
pub async fn list(client: &Client, source: &Source) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for (version, kind, plural) in KINDS {
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let selector = source.selector().replace('/', "%2F").replace('=', "%3D").replace(',', "%2C");
        let list =
            kubeapi::get(client, &format!("{root}/{plural}?labelSelector={selector}")).await?.unwrap_or_default();
        for mut object in list["items"].as_array().cloned().unwrap_or_default() {
            object["apiVersion"] = version.into();
            object["kind"] = kind.into();
            all.push(object);
        }
    }
    Ok(all)
}

/// Kind, namespace and name.
pub fn identity(object: &Value) -> (String, String, String) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    (text(&object["kind"]), namespace.to_owned(), text(&object["metadata"]["name"]))
}

/// Removes objects and says which.
pub async fn remove(client: &Client, objects: &[Value]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for object in objects.iter().filter(|o| seen.insert(identity(o))) {
        let Ok(path) = kubeapi::object_path(object) else { continue };
        if kubeapi::delete(client, &path).await? {
            println!("{} removed", label(object));
        }
    }
    Ok(())
}
