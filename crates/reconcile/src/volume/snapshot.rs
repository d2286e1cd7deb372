//! Snapshots of volumes of the built-in class, through the API of kubernetes-csi's external-snapshotter (KEP-177): which
//! content a snapshot is bound to, what protects it, and when it goes. The node that has a volume takes its snapshots and
//! removes them; what it has to do is in [`work`]. Snapshots of other drivers are their own controllers'.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::{LOCAL_PATH, PROVISIONED_BY, annotation, claims, node_of};
use crate::plan::{CLAIMS, Plan, SNAPSHOT_CONTENTS, SNAPSHOTS, name, namespace, terminating, uid};

mod content;
mod objects;
#[cfg(test)]
mod tests;

pub(super) use content::origin;
pub use content::{Work, failed, nothing_left, plan_content, work};
pub use objects::{
    ContentSource, ContentSpec, ContentStatus, SnapshotError, SnapshotSource, SnapshotSpec, SnapshotStatus,
    VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent,
};

/// The API group of snapshots.
pub const GROUP: &str = SNAPSHOTS.group;
/// Label of a content whose driver is on each node by itself: the node that has the snapshot.
pub const MANAGED_BY: &str = "snapshot.storage.kubernetes.io/managed-by";
/// Annotation of the class that is taken where none is named.
pub const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// Annotation of a content whose snapshot is on its way out: its data may go, if the content does.
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// Holds a snapshot while volumes may be made of it.
const AS_SOURCE: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
/// Holds a snapshot until its content, which goes with it, is gone.
const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
/// Holds a content until its data is gone.
const CONTENT: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// Holds a claim while snapshots of it are being taken.
const CLAIM: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
/// The deletion policy that takes the data with the snapshot.
const DELETE: &str = "Delete";

/// What else decides about a snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// The claim that it is of.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// That claim's volume.
    pub volume: Option<&'a PersistentVolume>,
    /// That claim's class.
    pub storage_class: Option<&'a StorageClass>,
    /// What is there by the name of [`content_name`].
    pub content: Option<&'a VolumeSnapshotContent>,
    /// All classes of snapshots.
    pub classes: &'a [&'a VolumeSnapshotClass],
    /// Whether a claim waits for a volume that is made of it.
    pub restoring: bool,
}

/// Reason of an event, and the sentence that the status tells too.
type Fault = (&'static str, String);

/// The content that a snapshot is bound to, or is to be.
pub fn content_name(snapshot: &VolumeSnapshot) -> String {
    let bound = snapshot.status.as_ref().and_then(|s| s.bound_volume_snapshot_content_name.clone());
    let named = || snapshot.spec.source.volume_snapshot_content_name.clone();
    bound.or_else(named).unwrap_or_else(|| format!("snapcontent-{}", uid(&snapshot.metadata)))
}

/// What a node calls a snapshot that it has.
pub fn handle(node: &str, snapshot: &str) -> String {
    format!("{node}/{snapshot}")
}

/// Node and name of a handle.
pub fn parse_handle(handle: &str) -> Option<(&str, &str)> {
    let (node, snapshot) = handle.split_once('/')?;
    let plain = !snapshot.is_empty() && !snapshot.starts_with('.') && !snapshot.contains('/');
    (plain && !node.is_empty()).then_some((node, snapshot))
}

/// The snapshot that a claim's volume is to be made of, in the claim's namespace.
pub fn restored(claim: &PersistentVolumeClaim) -> Option<&str> {
    let source = claim.spec.as_ref()?.data_source_ref.as_ref()?;
    let own = source.namespace.as_deref().is_none_or(|n| n == namespace(&claim.metadata));
    let snapshot = source.kind == SNAPSHOTS.kind && source.api_group.as_deref() == Some(GROUP);
    (own && snapshot).then_some(source.name.as_str())
}

/// Whether the claim waits for a volume that is made of the snapshot.
pub fn waits_for(claim: &PersistentVolumeClaim, snapshot: &str) -> bool {
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    restored(claim) == Some(snapshot) && phase == "Pending"
}

/// The node that has what is in a content.
pub fn managed_by(content: &VolumeSnapshotContent) -> Option<&str> {
    content.metadata.labels.as_ref()?.get(MANAGED_BY).map(String::as_str)
}

fn is_ready(snapshot: &VolumeSnapshot) -> bool {
    snapshot.status.as_ref().and_then(|s| s.ready_to_use) == Some(true)
}

fn holds(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

/// Whether the content points back at the snapshot.
fn points_back(content: &VolumeSnapshotContent, snapshot: &VolumeSnapshot) -> bool {
    names(&content.spec.volume_snapshot_ref, snapshot)
        && content.spec.volume_snapshot_ref.uid.as_deref() == Some(uid(&snapshot.metadata))
}

fn names(reference: &ObjectReference, snapshot: &VolumeSnapshot) -> bool {
    reference.namespace == snapshot.metadata.namespace && reference.name == snapshot.metadata.name
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Local,
    Other,
    /// Nothing that is there tells yet.
    Unknown,
}

impl Driver {
    fn of(name: &str) -> Driver {
        if name == LOCAL_PATH { Driver::Local } else { Driver::Other }
    }
}

/// Whose snapshot it is.
fn driver(snapshot: &VolumeSnapshot, around: &Around<'_>) -> Driver {
    if let Some(content) = around.content {
        return Driver::of(&content.spec.driver);
    }
    if let Some(volume) = around.volume {
        if volume.spec.as_ref().is_some_and(|s| s.csi.is_some()) {
            return Driver::Other;
        }
        return annotation(&volume.metadata, PROVISIONED_BY).map_or(Driver::Unknown, Driver::of);
    }
    if let Some(class) = around.storage_class {
        return Driver::of(&class.provisioner);
    }
    let named = snapshot.spec.volume_snapshot_class_name.as_deref();
    let class = around.classes.iter().find(|c| Some(name(&c.metadata)) == named);
    class.map_or(Driver::Unknown, |c| Driver::of(&c.driver))
}

/// Decides for one snapshot.
pub fn plan(snapshot: &VolumeSnapshot, around: &Around<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let driver = driver(snapshot, around);
    if driver == Driver::Other {
        return plan;
    }
    if terminating(&snapshot.metadata) {
        release(snapshot, around, &mut plan);
        return plan;
    }
    if let Err((reason, message)) = progress(snapshot, around, driver, &mut plan) {
        let told = snapshot.status.as_ref().and_then(|s| s.error.as_ref()?.message.as_deref());
        // Of what may be another driver's, that one's controller tells: two would write over each other for ever.
        if told != Some(message.as_str()) && (told.is_none() || driver == Driver::Local) {
            let mut status = snapshot.status.clone().unwrap_or_default();
            status.ready_to_use = Some(false);
            status.error = Some(SnapshotError { time: Some(crate::pods::time(now)), message: Some(message.clone()) });
            plan.set_status(SNAPSHOTS, &snapshot.metadata, snapshot.status.as_ref(), &status);
            plan.event(SNAPSHOTS, &snapshot.metadata, "Warning", reason, message);
        }
    }
    plan
}

/// The next step of a snapshot that is to stay.
fn progress(snapshot: &VolumeSnapshot, around: &Around<'_>, driver: Driver, plan: &mut Plan) -> Result<(), Fault> {
    if let Some(content) = around.content {
        fits(snapshot, content)?;
    }
    if driver == Driver::Local && protect(snapshot, around.content, plan) {
        return Ok(());
    }
    let bound = snapshot.status.as_ref().is_some_and(|s| s.bound_volume_snapshot_content_name.is_some());
    let claim = snapshot.spec.source.persistent_volume_claim_name.as_deref();
    match (around.content, claim) {
        (Some(content), _) => {
            bind(snapshot, content, plan);
            mirror(snapshot, content, plan);
            Ok(())
        }
        (None, Some(claim)) if !bound => take(snapshot, claim, around, driver, plan),
        (None, _) => Err(("SnapshotContentMissing", "VolumeSnapshotContent is missing".to_owned())),
    }
}

/// Whether the content can be the snapshot's.
fn fits(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent) -> Result<(), Fault> {
    let wants_one_that_is = snapshot.spec.source.volume_snapshot_content_name.is_some();
    if wants_one_that_is && content.spec.source.snapshot_handle.is_none() {
        let why = "VolumeSnapshotContent is dynamically provisioned while expecting a pre-provisioned one";
        return Err(("SnapshotContentMismatch", why.to_owned()));
    }
    if !wants_one_that_is && content.spec.source.volume_handle.is_none() {
        let content = name(&content.metadata);
        let why =
            format!("VolumeSnapshotContent {content} is pre-provisioned while expecting a dynamically provisioned one");
        return Err(("SnapshotContentMismatch", why));
    }
    let reference = &content.spec.volume_snapshot_ref;
    let open = wants_one_that_is && reference.uid.as_deref().is_none_or(str::is_empty);
    let is_its = points_back(content, snapshot) || open && names(reference, snapshot);
    if !is_its {
        let why = format!("VolumeSnapshotContent [{}] is bound to a different snapshot", name(&content.metadata));
        return Err(("SnapshotContentMisbound", why));
    }
    Ok(())
}

/// Adds the finalizers that are missing; whether there were any.
fn protect(snapshot: &VolumeSnapshot, content: Option<&VolumeSnapshotContent>, plan: &mut Plan) -> bool {
    let bound = snapshot.status.as_ref().is_some_and(|s| s.bound_volume_snapshot_content_name.is_some());
    let goes_with_it = content.is_some_and(|c| c.spec.deletion_policy == DELETE);
    let wanted = [(AS_SOURCE, true), (BOUND, bound && goes_with_it)];
    let missing = wanted.iter().filter(|(f, wanted)| *wanted && !holds(&snapshot.metadata, f)).map(|(f, _)| *f);
    let mut all: Vec<&str> = snapshot.metadata.finalizers.iter().flatten().map(String::as_str).collect();
    let before = all.len();
    all.extend(missing);
    let changed = all.len() > before;
    if changed {
        set_finalizers(SNAPSHOTS, &snapshot.metadata, &all, plan);
    }
    changed
}

fn set_finalizers(resource: crate::plan::Resource, meta: &ObjectMeta, all: &[&str], plan: &mut Plan) {
    let m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": all});
    plan.patch(resource, meta, json!({"metadata": m}));
}

/// Lets a content that waits for a snapshot of this name point at this one.
fn bind(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent, plan: &mut Plan) {
    if points_back(content, snapshot) {
        return;
    }
    let meta = &content.metadata;
    let mut spec = json!({"volumeSnapshotRef": {"uid": uid(&snapshot.metadata)}});
    if let Some(class) = &snapshot.spec.volume_snapshot_class_name {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    let m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
    plan.patch(SNAPSHOT_CONTENTS, meta, json!({"metadata": m, "spec": spec}));
}

/// Tells in the snapshot what its content says.
fn mirror(snapshot: &VolumeSnapshot, content: &VolumeSnapshotContent, plan: &mut Plan) {
    if is_ready(snapshot) {
        return;
    }
    let said = content.status.clone().unwrap_or_default();
    let ready = said.ready_to_use == Some(true);
    let size =
        |bytes: i64| Quantity(api::quantity::Quantity::from_value(bytes, api::quantity::Format::BinarySi).to_string());
    let taken = said.creation_time.and_then(|t| Timestamp::from_nanosecond(t.into()).ok());
    let status = SnapshotStatus {
        bound_volume_snapshot_content_name: Some(name(&content.metadata).to_owned()),
        creation_time: taken.map(crate::pods::time),
        ready_to_use: Some(ready),
        restore_size: said.restore_size.map(size),
        error: said.error.filter(|_| !ready),
    };
    plan.set_status(SNAPSHOTS, &snapshot.metadata, snapshot.status.as_ref(), &status);
    if ready {
        let (ns, name) = (namespace(&snapshot.metadata), name(&snapshot.metadata));
        let message = format!("Snapshot {ns}/{name} is ready to use.");
        plan.event(SNAPSHOTS, &snapshot.metadata, "Normal", "SnapshotReady", message);
    }
}

/// The class of a snapshot; none when the default one was written into it first.
fn class<'a>(
    snapshot: &VolumeSnapshot,
    around: &Around<'a>,
    plan: &mut Plan,
) -> Result<Option<&'a VolumeSnapshotClass>, Fault> {
    if let Some(wanted) = &snapshot.spec.volume_snapshot_class_name {
        let found = around.classes.iter().find(|c| name(&c.metadata) == wanted).copied();
        let missing = || {
            let why = format!("volumesnapshotclass.{GROUP} {wanted:?} not found");
            ("GetSnapshotClassFailed", format!("Failed to get snapshot class with error {why}"))
        };
        return found.map(Some).ok_or_else(missing);
    }
    let is_default = |c: &VolumeSnapshotClass| annotation(&c.metadata, DEFAULT_CLASS) == Some("true");
    let defaults: Vec<_> = around.classes.iter().filter(|c| c.driver == LOCAL_PATH && is_default(c)).collect();
    let why = match defaults[..] {
        [class] => {
            let meta = &snapshot.metadata;
            let m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
            let spec = json!({"volumeSnapshotClassName": name(&class.metadata)});
            plan.patch(SNAPSHOTS, meta, json!({"metadata": m, "spec": spec}));
            return Ok(None);
        }
        [] => "cannot find default snapshot class".to_owned(),
        _ => format!("{} default snapshot classes were found", defaults.len()),
    };
    Err(("SetDefaultSnapshotClassFailed", format!("Failed to set default snapshot class with error {why}")))
}

/// Has a snapshot of the claim's volume taken: makes the content that asks its node for it.
fn take(
    snapshot: &VolumeSnapshot,
    wanted: &str,
    around: &Around<'_>,
    driver: Driver,
    plan: &mut Plan,
) -> Result<(), Fault> {
    let failed =
        |why: String| ("SnapshotContentCreationFailed", format!("Failed to create snapshot content with error {why}"));
    let claim = around.claim.ok_or_else(|| failed(format!("persistentvolumeclaim {wanted:?} not found")))?;
    if driver == Driver::Unknown && around.volume.is_some() {
        return Err(failed(format!("the volume of the PVC {wanted} is of no driver that takes snapshots")));
    }
    let Some(class) = class(snapshot, around, plan)? else { return Ok(()) };
    if class.driver != LOCAL_PATH {
        let (class, of) = (name(&class.metadata), &class.driver);
        return Err(failed(format!("the PVC {wanted} is of driver {LOCAL_PATH}, and snapshot class {class} of {of}")));
    }
    if let Some(key) = class.parameters.iter().flatten().map(|(key, _)| key).next() {
        return Err(failed(format!("parameter {key:?} is not known to driver {LOCAL_PATH}")));
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(volume) = around.volume.filter(|v| bound && claims(claim, v)) else {
        let why = format!("the PVC {wanted} is not yet bound to a PV, will not attempt to take a snapshot");
        return Err(failed(why));
    };
    if terminating(&claim.metadata) {
        return Err(failed(format!("the PVC {wanted} is being deleted")));
    }
    if volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block") {
        return Err(failed(format!("the PVC {wanted} has volumeMode Block, of which there are no snapshots")));
    }
    let Some(node) = node_of(volume) else {
        return Err(failed(format!("the volume of the PVC {wanted} is on no node")));
    };
    if !holds(&claim.metadata, CLAIM) {
        let mut all: Vec<&str> = claim.metadata.finalizers.iter().flatten().map(String::as_str).collect();
        all.push(CLAIM);
        set_finalizers(CLAIMS, &claim.metadata, &all, plan);
    }
    let meta = &snapshot.metadata;
    let content = content_of(snapshot, class, volume, node);
    plan.create(SNAPSHOT_CONTENTS, None, &content);
    let message = format!("Waiting for a snapshot {}/{} to be created by the CSI driver.", namespace(meta), name(meta));
    plan.event(SNAPSHOTS, meta, "Normal", "CreatingSnapshot", message);
    Ok(())
}

/// The content that asks the node of a volume for a snapshot.
fn content_of(
    snapshot: &VolumeSnapshot,
    class: &VolumeSnapshotClass,
    volume: &PersistentVolume,
    node: &str,
) -> VolumeSnapshotContent {
    let meta = &snapshot.metadata;
    VolumeSnapshotContent {
        metadata: ObjectMeta {
            name: Some(content_name(snapshot)),
            labels: Some([(MANAGED_BY.to_owned(), node.to_owned())].into()),
            finalizers: Some(vec![CONTENT.to_owned()]),
            ..Default::default()
        },
        spec: ContentSpec {
            volume_snapshot_ref: ObjectReference {
                api_version: Some(SNAPSHOTS.api_version()),
                kind: Some(SNAPSHOTS.kind.to_owned()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                field_path: None,
            },
            deletion_policy: class.deletion_policy.clone(),
            driver: class.driver.clone(),
            volume_snapshot_class_name: Some(name(&class.metadata).to_owned()),
            source: ContentSource { volume_handle: Some(name(&volume.metadata).to_owned()), snapshot_handle: None },
            source_volume_mode: volume.spec.as_ref().and_then(|s| s.volume_mode.clone()),
        },
        status: None,
    }
}

/// Lets a snapshot go that is to go, and its content with it if that is the policy.
fn release(snapshot: &VolumeSnapshot, around: &Around<'_>, plan: &mut Plan) {
    let meta = &snapshot.metadata;
    if !holds(meta, AS_SOURCE) && !holds(meta, BOUND) {
        return;
    }
    let content = around.content.filter(|c| points_back(c, snapshot));
    if content.is_some() && around.restoring {
        plan.event(SNAPSHOTS, meta, "Warning", "SnapshotDeletePending", "Snapshot is being used to restore a PVC");
        return;
    }
    let goes_too = content.filter(|c| c.spec.deletion_policy == DELETE);
    if let Some(content) = content.filter(|c| annotation(&c.metadata, BEING_DELETED).is_none()) {
        let m = json!({"uid": content.metadata.uid, "annotations": {BEING_DELETED: "yes"}});
        plan.patch(SNAPSHOT_CONTENTS, &content.metadata, json!({"metadata": m}));
    }
    if let Some(content) = goes_too.filter(|c| !terminating(&c.metadata)) {
        plan.delete(SNAPSHOT_CONTENTS, &content.metadata, None);
    }
    let all = meta.finalizers.iter().flatten().map(String::as_str);
    let left: Vec<&str> = all.filter(|f| *f != AS_SOURCE && (*f != BOUND || goes_too.is_some())).collect();
    if left.len() < meta.finalizers.iter().flatten().count() {
        set_finalizers(SNAPSHOTS, meta, &left, plan);
    }
}

/// Lets go of a claim of which no snapshot is being taken any more. `snapshots` are those of its namespace.
pub fn plan_claim(
    claim: &PersistentVolumeClaim,
    volume: Option<&PersistentVolume>,
    snapshots: &[&VolumeSnapshot],
) -> Plan {
    let mut plan = Plan::default();
    let local = volume.is_some_and(|v| annotation(&v.metadata, PROVISIONED_BY) == Some(LOCAL_PATH));
    let of_it =
        |s: &&&VolumeSnapshot| s.spec.source.persistent_volume_claim_name.as_deref() == Some(name(&claim.metadata));
    let busy = snapshots.iter().filter(of_it).any(|s| !is_ready(s) && !terminating(&s.metadata));
    if local && !busy && holds(&claim.metadata, CLAIM) {
        let all = claim.metadata.finalizers.iter().flatten().map(String::as_str);
        set_finalizers(CLAIMS, &claim.metadata, &all.filter(|f| *f != CLAIM).collect::<Vec<_>>(), &mut plan);
    }
    plan
}
