//! What a decision may ask for. Actions are data: `control` carries them out against an API server, the simulator against
//! a world of maps. Nothing is left to choose when an action is carried out.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Map, Value, json};

/// A resource that actions work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural, lower case, as in URLs.
    pub plural: &'static str,
    /// Kind.
    pub kind: &'static str,
}

impl Resource {
    const fn new(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Self {
        Resource { group, version, plural, kind }
    }

    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// URL path of the collection.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".into() } else { format!("/apis/{}", self.group) };
        match namespace {
            Some(ns) => format!("{root}/{}/namespaces/{ns}/{}", self.version, self.plural),
            None => format!("{root}/{}/{}", self.version, self.plural),
        }
    }
}

/// `pods`
pub const PODS: Resource = Resource::new("", "v1", "pods", "Pod");
/// `nodes`
pub const NODES: Resource = Resource::new("", "v1", "nodes", "Node");
/// `namespaces`
pub const NAMESPACES: Resource = Resource::new("", "v1", "namespaces", "Namespace");
/// `services`
pub const SERVICES: Resource = Resource::new("", "v1", "services", "Service");
/// `endpoints`
pub const ENDPOINTS: Resource = Resource::new("", "v1", "endpoints", "Endpoints");
/// `configmaps`
pub const CONFIG_MAPS: Resource = Resource::new("", "v1", "configmaps", "ConfigMap");
/// `serviceaccounts`
pub const SERVICE_ACCOUNTS: Resource = Resource::new("", "v1", "serviceaccounts", "ServiceAccount");
/// `persistentvolumeclaims`
pub const CLAIMS: Resource = Resource::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
/// `persistentvolumes`
pub const VOLUMES: Resource = Resource::new("", "v1", "persistentvolumes", "PersistentVolume");
/// `events`
pub const EVENTS: Resource = Resource::new("", "v1", "events", "Event");
/// `storageclasses.storage.k8s.io`
pub const STORAGE_CLASSES: Resource = Resource::new("storage.k8s.io", "v1", "storageclasses", "StorageClass");
/// `volumeattachments.storage.k8s.io`
pub const ATTACHMENTS: Resource = Resource::new("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment");
/// `deployments.apps`
pub const DEPLOYMENTS: Resource = Resource::new("apps", "v1", "deployments", "Deployment");
/// `replicasets.apps`
pub const REPLICA_SETS: Resource = Resource::new("apps", "v1", "replicasets", "ReplicaSet");
/// `statefulsets.apps`
pub const STATEFUL_SETS: Resource = Resource::new("apps", "v1", "statefulsets", "StatefulSet");
/// `controllerrevisions.apps`
pub const CONTROLLER_REVISIONS: Resource = Resource::new("apps", "v1", "controllerrevisions", "ControllerRevision");
/// `jobs.batch`
pub const JOBS: Resource = Resource::new("batch", "v1", "jobs", "Job");
/// `daemonsets.apps`
pub const DAEMON_SETS: Resource = Resource::new("apps", "v1", "daemonsets", "DaemonSet");
/// `replicationcontrollers`
pub const REPLICATION_CONTROLLERS: Resource =
    Resource::new("", "v1", "replicationcontrollers", "ReplicationController");
/// `cronjobs.batch`
pub const CRON_JOBS: Resource = Resource::new("batch", "v1", "cronjobs", "CronJob");
/// `poddisruptionbudgets.policy`
pub const BUDGETS: Resource = Resource::new("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
/// `horizontalpodautoscalers.autoscaling`
pub const AUTOSCALERS: Resource =
    Resource::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler");
/// `endpointslices.discovery.k8s.io`
pub const ENDPOINT_SLICES: Resource = Resource::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
/// `leases.coordination.k8s.io`
pub const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases", "Lease");
/// `volumesnapshots.snapshot.storage.k8s.io`
pub const SNAPSHOTS: Resource = Resource::new("snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot");
/// `volumesnapshotcontents.snapshot.storage.k8s.io`
pub const SNAPSHOT_CONTENTS: Resource =
    Resource::new("snapshot.storage.k8s.io", "v1", "volumesnapshotcontents", "VolumeSnapshotContent");
/// `volumesnapshotclasses.snapshot.storage.k8s.io`
pub const SNAPSHOT_CLASSES: Resource =
    Resource::new("snapshot.storage.k8s.io", "v1", "volumesnapshotclasses", "VolumeSnapshotClass");
/// `customresourcedefinitions.apiextensions.k8s.io`
pub const DEFINITIONS: Resource =
    Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition");
/// `ingressclasses.networking.k8s.io`
pub const INGRESS_CLASSES: Resource = Resource::new("networking.k8s.io", "v1", "ingressclasses", "IngressClass");

/// One API call.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// POST an object.
    Create {
        /// Its resource.
        resource: Resource,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// The object.
        body: Value,
        /// Whose events tell that it was made (`SuccessfulCreate`) or refused (`FailedCreate`), if anybody's.
        told: Option<Value>,
    },
    /// PATCH with a JSON merge patch (RFC 7386); a `metadata.uid` or `metadata.resourceVersion` in it is a precondition.
    Patch {
        /// Its resource.
        resource: Resource,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// `status`, or none.
        subresource: Option<&'static str>,
        /// The patch.
        patch: Value,
    },
    /// PUT an object, to itself or a subresource; its resourceVersion is the precondition.
    Update {
        /// Its resource.
        resource: Resource,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// `finalize`, or none.
        subresource: Option<&'static str>,
        /// The object.
        body: Value,
    },
    /// DELETE an object, if it still is that one.
    Delete {
        /// Its resource.
        resource: Resource,
        /// Its namespace, if it has one.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// Its UID: a new object of the same name is left alone.
        uid: String,
        /// `Background`, `Foreground`, `Orphan`, or the default of the kind.
        propagation: Option<&'static str>,
        /// Grace period in seconds, or the pod's own.
        grace_seconds: Option<i64>,
    },
    /// Assign a pod to a node.
    Bind {
        /// Namespace of the pod.
        namespace: String,
        /// The pod.
        name: String,
        /// Its UID.
        uid: String,
        /// The node.
        node: String,
    },
    /// Tell people.
    Event {
        /// What it is about.
        about: Value,
        /// `Normal` or `Warning`.
        type_: &'static str,
        /// CamelCase word.
        reason: &'static str,
        /// Sentence.
        message: String,
    },
}

/// What to do now, and when to look again without being told to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In this order; the first that fails ends the plan, and the next pass decides anew.
    pub actions: Vec<Action>,
    /// Time decides something then.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// Looks again after `d`, or sooner if that was asked for already.
    pub fn requeue(&mut self, d: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(d, |old| old.min(d)));
    }

    /// Patches the status if it differs; fields that are gone are removed. The object must still be the one that was seen:
    /// a status worked out from an older one would undo what was counted since.
    pub fn set_status<S: serde::Serialize>(&mut self, resource: Resource, meta: &ObjectMeta, old: Option<&S>, new: &S) {
        let value = |s: &S| serde_json::to_value(s).expect("a status always serialises");
        let old = old.map_or(Value::Null, value);
        if let Some(patch) = merge_diff(&old, &value(new)) {
            self.actions.push(Action::Patch {
                resource,
                namespace: meta.namespace.clone(),
                name: name(meta).to_owned(),
                subresource: Some("status"),
                patch: json!({"metadata": {"uid": uid(meta), "resourceVersion": meta.resource_version}, "status": patch}),
            });
        }
    }

    /// Patches an object.
    pub fn patch(&mut self, resource: Resource, meta: &ObjectMeta, patch: Value) {
        self.actions.push(Action::Patch {
            resource,
            namespace: meta.namespace.clone(),
            name: name(meta).to_owned(),
            subresource: None,
            patch,
        });
    }

    /// Deletes an object.
    pub fn delete(&mut self, resource: Resource, meta: &ObjectMeta, propagation: Option<&'static str>) {
        self.actions.push(Action::Delete {
            resource,
            namespace: meta.namespace.clone(),
            name: name(meta).to_owned(),
            uid: uid(meta).to_owned(),
            propagation,
            grace_seconds: None,
        });
    }

    /// Creates an object, with its apiVersion and kind filled in.
    pub fn create<T: serde::Serialize>(&mut self, resource: Resource, namespace: Option<&str>, object: &T) {
        let mut body = serde_json::to_value(object).expect("an API object always serialises");
        body["apiVersion"] = resource.api_version().into();
        body["kind"] = resource.kind.into();
        self.actions.push(Action::Create { resource, namespace: namespace.map(str::to_owned), body, told: None });
    }

    /// Creates an object for its owner, in the owner's namespace; the owner's events tell what came of it.
    pub fn create_for<T: serde::Serialize>(
        &mut self,
        owner: Resource,
        owner_meta: &ObjectMeta,
        resource: Resource,
        object: &T,
    ) {
        self.create(resource, owner_meta.namespace.as_deref(), object);
        if let Some(Action::Create { told, .. }) = self.actions.last_mut() {
            *told = Some(reference(owner, owner_meta));
        }
    }

    /// Deletes a pod for its owner, whose events tell of it.
    pub fn delete_for(&mut self, owner: Resource, owner_meta: &ObjectMeta, pod: &ObjectMeta) {
        self.delete(PODS, pod, None);
        self.event(owner, owner_meta, "Normal", "SuccessfulDelete", format!("Deleted pod: {}", name(pod)));
    }

    /// Records an event about an object.
    pub fn event(
        &mut self,
        resource: Resource,
        meta: &ObjectMeta,
        type_: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.actions.push(Action::Event { about: reference(resource, meta), type_, reason, message: message.into() });
    }
}

/// What an event says it is about (core/v1 ObjectReference).
fn reference(resource: Resource, meta: &ObjectMeta) -> Value {
    json!({
        "apiVersion": resource.api_version(), "kind": resource.kind, "name": name(meta),
        "namespace": meta.namespace, "uid": uid(meta), "resourceVersion": meta.resource_version,
    })
}

/// A patch of the owner references of an object that must still be the one that was seen.
pub fn owners_patch(meta: &ObjectMeta, owners: &[OwnerReference]) -> Value {
    json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}})
}

/// The name, which every stored object has.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The namespace, empty for cluster-scoped objects.
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The UID, which every stored object has.
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// Whether deletion was asked for.
pub fn terminating(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// The managing owner, if there is one.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether the object is managed by the owner of that UID.
pub fn controlled_by(meta: &ObjectMeta, owner_uid: &str) -> bool {
    controller(meta).is_some_and(|o| o.uid == owner_uid)
}

/// A managing reference to an owner.
pub fn owner_reference(resource: Resource, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.to_owned(),
        name: name(owner).to_owned(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The merge patch (RFC 7386) that turns `old` into `new`, or `None` when they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(a), Value::Object(b)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for key in a.keys().filter(|k| !b.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in b {
        match a.get(key) {
            None => patch.insert(key.clone(), value.clone()),
            Some(before) => merge_diff(before, value).and_then(|d| patch.insert(key.clone(), d)),
        };
    }
    Some(Value::Object(patch))
}

/// FNV-1a over the canonical JSON of a value (object keys are sorted), as the short suffix that names revisions. Only
/// letters and digits that cannot form words, like Kubernetes' own suffixes.
pub fn short_hash(value: &Value, salt: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let text = value.to_string();
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let mut h = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    if salt > 0 {
        h = salt.to_le_bytes().into_iter().fold(h, step);
    }
    // The low bits of FNV mix poorly: fold the halves before taking digits.
    h ^= h >> 32;
    let mut out = String::with_capacity(10);
    for _ in 0..10 {
        out.push(char::from(ALPHABET[(h % ALPHABET.len() as u64) as usize]));
        h = h.rotate_right(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_diff_turns_old_into_new() {
        let old = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        let new = json!({"a": 1, "b": {"c": 4}, "e": [1, 2]});
        assert_eq!(merge_diff(&old, &new), Some(json!({"b": {"c": 4, "d": null}, "e": [1, 2]})));
        assert_eq!(merge_diff(&new, &new), None);
    }

    #[test]
    fn hashes_differ_with_content_and_salt() {
        let a = short_hash(&json!({"x": 1}), 0);
        assert_eq!(a, short_hash(&json!({"x": 1}), 0));
        assert_ne!(a, short_hash(&json!({"x": 2}), 0));
        assert_ne!(a, short_hash(&json!({"x": 1}), 1));
        assert_eq!(a.len(), 10);
    }
}
