//! Binding of claims to volumes, the built-in `local-path` class, and the protection of what is in use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeSpec, Pod, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::ephemeralvolume;
use crate::labels;
use crate::plan::{Action, CLAIMS, Plan, VOLUMES, name, namespace, terminating, uid};
use crate::pods;
use snapshot::{VolumeSnapshot, VolumeSnapshotContent};

pub mod attach;
pub mod snapshot;
#[cfg(test)]
mod tests;

/// The provisioner of the built-in class.
pub const LOCAL_PATH: &str = "windlass.dev/local-path";
/// Who made a volume; the node that has it removes its data when it is released.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a volume of the built-in class that holds no more than its capacity, and the value that says so. The class
/// asks for it with a parameter of that name without the domain.
pub const CAPACITY: &str = "windlass.dev/capacity";
/// See [`CAPACITY`].
pub const ENFORCED: &str = "enforced";
/// Annotation of a volume of the built-in class that begins as a copy of another: that one's name.
pub const COPY_OF: &str = "windlass.dev/copy-of";
/// Annotation of a volume of the built-in class that begins as what a snapshot has kept: the name of that on its node.
pub const RESTORE_OF: &str = "windlass.dev/restore-of";
/// The condition of a claim whose volume has grown, while its file system has not.
const RESIZE_PENDING: &str = "FileSystemResizePending";
/// The node that the scheduler picked for a claim's first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Whose turn it is to make a volume for a claim: provisioners outside look for their name here, older ones under the second.
const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const HOSTNAME: &str = "kubernetes.io/hostname";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// What volumes of the built-in class are made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local<'a> {
    /// The folder of local volumes on every node.
    pub root: &'a str,
    /// The snapshot that the claim names, see [`snapshot::restored`].
    pub snapshot: Option<&'a VolumeSnapshot>,
    /// That snapshot's content.
    pub content: Option<&'a VolumeSnapshotContent>,
}

impl<'a> From<&'a str> for Local<'a> {
    fn from(root: &'a str) -> Self {
        Local { root, ..Local::default() }
    }
}

/// Why a claim gets no volume.
struct Refused {
    why: String,
    /// On another node it would.
    elsewhere: bool,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Refused { why, elsewhere: false }
    }
}

/// What a new volume begins as.
enum Origin<'a> {
    Empty,
    CopyOf(&'a PersistentVolume),
    RestoreOf(&'a str),
}

/// Decides for one claim. `volumes` are all volumes, `in_use` whether a pod that has not ended uses it.
pub fn plan_claim<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &[&PersistentVolume],
    class: Option<&StorageClass>,
    in_use: bool,
    local: impl Into<Local<'a>>,
) -> Plan {
    let local = local.into();
    let mut plan = Plan::default();
    if terminating(&claim.metadata) {
        if !in_use {
            drop_finalizer(CLAIMS, &claim.metadata, CLAIM_PROTECTION, &mut plan);
        }
        return plan;
    }
    let Some(spec) = &claim.spec else { return plan };
    let bound_name = spec.volume_name.as_deref().filter(|v| !v.is_empty());
    if let Some(wanted) = bound_name {
        follow(claim, volumes.iter().copied().find(|v| name(&v.metadata) == wanted), &mut plan);
        return plan;
    }
    let delayed = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let selected = annotation(&claim.metadata, SELECTED_NODE);
    if let Some(volume) = best_match(claim, volumes, delayed && selected.is_none()) {
        bind(claim, volume, &mut plan);
        return plan;
    }
    let provisioner = class.map(|c| c.provisioner.as_str());
    match (provisioner, selected) {
        (Some(LOCAL_PATH), Some(node)) => match origin(claim, volumes, node, &local) {
            Ok(origin) => provision(claim, class, node, local.root, &origin, &mut plan),
            Err(refused) => {
                note(claim, "ProvisioningFailed", &refused.why, &mut plan);
                if refused.elsewhere {
                    // The scheduler knows by now where it has to be, and picks again.
                    let m = json!({"uid": claim.metadata.uid, "annotations": {SELECTED_NODE: null}});
                    plan.patch(CLAIMS, &claim.metadata, json!({"metadata": m}));
                }
            }
        },
        (Some(_), None) if delayed => {
            note(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding", &mut plan)
        }
        (Some(LOCAL_PATH), None) => note(
            claim,
            "ProvisioningFailed",
            "volumes of this class are made on the node of their first pod: its volumeBindingMode must be WaitForFirstConsumer",
            &mut plan,
        ),
        (Some(other), _) => {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{other}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
            );
            note(claim, "ExternalProvisioning", &message, &mut plan);
            if PROVISIONER.iter().any(|key| annotation(&claim.metadata, key) != Some(other)) {
                let annotations: BTreeMap<&str, &str> = PROVISIONER.iter().map(|key| (*key, other)).collect();
                let m = json!({"uid": claim.metadata.uid, "annotations": annotations});
                plan.patch(CLAIMS, &claim.metadata, json!({"metadata": m}));
            }
        }
        (None, _) => note(
            claim,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
            &mut plan,
        ),
    }
    set_phase(claim, "Pending", None, &mut plan);
    plan
}

/// Decides for one volume, given its claim if that still exists.
pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let mut plan = Plan::default();
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if terminating(&volume.metadata) {
        let bound = claim.is_some_and(|c| claims(c, volume));
        if !bound {
            drop_finalizer(VOLUMES, &volume.metadata, VOLUME_PROTECTION, &mut plan);
        }
        return plan;
    }
    let Some(reference) = reference else {
        set_volume_phase(volume, phase, "Available", &mut plan);
        return plan;
    };
    let reserved = reference.uid.as_deref().is_none_or(str::is_empty);
    let same = claim.is_some_and(|c| Some(uid(&c.metadata)) == reference.uid.as_deref());
    if reserved {
        // Set aside by hand for a claim of that name: free until the claim takes it.
        set_volume_phase(volume, phase, "Available", &mut plan);
    } else if same {
        if claim.is_some_and(|c| claims(c, volume)) {
            set_volume_phase(volume, phase, "Bound", &mut plan);
        }
    } else {
        // The claim is gone. `Delete` is carried out by the node that has the data.
        set_volume_phase(volume, phase, "Released", &mut plan);
    }
    plan
}

fn claims(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(name(&volume.metadata))
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The node that was picked for a claim that waits for its first pod.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, SELECTED_NODE)
}

/// Whether a pod that has not ended uses the claim: names it, or has it for its own.
pub fn in_use(claim: &PersistentVolumeClaim, pods_: &[&Pod]) -> bool {
    let wanted = name(&claim.metadata);
    pods_.iter().filter(|p| namespace(&p.metadata) == namespace(&claim.metadata) && !pods::finished(p)).any(|p| {
        let uses = |v| ephemeralvolume::unusable(p, v, Some(claim)).is_none();
        ephemeralvolume::claims(p).any(|(volume, name)| name == wanted && uses(volume))
    })
}

fn capacity(v: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    v.and_then(|m| m.get("storage")).and_then(|q| api::quantity::Quantity::parse(&q.0).ok()).map_or(0, |q| q.value())
}

/// Whether both are devices, or both file systems.
fn same_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    mode(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
        == mode(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

/// The smallest volume that is large enough and fits in every other way; one set aside for this claim first.
fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &[&'a PersistentVolume],
    reserved_only: bool,
) -> Option<&'a PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let wanted = capacity(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let selector = spec.selector.as_ref().map(labels::selector);
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    let fits = |v: &&&PersistentVolume| {
        let Some(s) = &v.spec else { return false };
        let modes = s.access_modes.as_deref().unwrap_or_default();
        !terminating(&v.metadata)
            && capacity(s.capacity.as_ref()) >= wanted
            && s.storage_class_name.as_deref().unwrap_or_default() == class
            && same_mode(claim, v)
            && spec.access_modes.iter().flatten().all(|m| modes.contains(m))
            && selector.as_ref().is_none_or(|sel| labels::matches(sel, &v.metadata))
    };
    let reserved = |v: &PersistentVolume| {
        v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).map(|r| {
            r.namespace == claim.metadata.namespace
                && r.name == claim.metadata.name
                && r.uid.as_deref().is_none_or(|u| u.is_empty() || u == uid(&claim.metadata))
        })
    };
    if let Some(v) = volumes.iter().find(|v| reserved(v) == Some(true) && same_mode(claim, v)) {
        return Some(v);
    }
    if reserved_only {
        return None;
    }
    let free = volumes.iter().filter(fits).filter(|v| reserved(v).is_none());
    free.min_by_key(|v| (capacity(v.spec.as_ref().and_then(|s| s.capacity.as_ref())), name(&v.metadata).to_owned()))
        .copied()
}

/// First the volume, with the claim's UID; then the claim. Either half alone is finished by the next pass.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if reference.and_then(|r| r.uid.as_deref()) != Some(uid(&claim.metadata)) {
        let mut meta = json!({"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version});
        if reference.is_none() {
            meta["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        plan.patch(VOLUMES, &volume.metadata, json!({"metadata": meta, "spec": {"claimRef": claim_reference(claim)}}));
    }
    let annotations = json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"});
    let meta = json!({"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version, "annotations": annotations});
    plan.patch(CLAIMS, &claim.metadata, json!({"metadata": meta, "spec": {"volumeName": name(&volume.metadata)}}));
}

fn claim_reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        ..Default::default()
    }
}

/// A claim that names its volume: bound when the volume names it back, lost when the volume is gone.
fn follow(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>, plan: &mut Plan) {
    let Some(volume) = volume else {
        if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
            set_phase(claim, "Lost", None, plan);
        } else {
            set_phase(claim, "Pending", None, plan); // named by hand, and not there yet
        }
        return;
    };
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() && !same_mode(claim, volume) {
        let why = format!("Cannot bind to requested volume {:?}: incompatible volumeMode", name(&volume.metadata));
        plan.event(CLAIMS, &claim.metadata, "Warning", "VolumeMismatch", why);
        set_phase(claim, "Pending", None, plan);
        return;
    }
    match reference
        .map(|r| (r.namespace == claim.metadata.namespace && r.name == claim.metadata.name, r.uid.as_deref()))
    {
        Some((_, Some(u))) if u == uid(&claim.metadata) => {
            set_phase(claim, "Bound", Some(volume), plan);
            grow(claim, volume, plan);
        }
        None | Some((true, None | Some(""))) => bind(claim, volume, plan),
        Some(_) => set_phase(
            claim,
            if annotation(&claim.metadata, BIND_COMPLETED).is_some() { "Lost" } else { "Pending" },
            None,
            plan,
        ),
    }
}

/// A bound claim of the built-in class that asks for more gets it: first the volume says so, then the claim waits for the node
/// that has the volume to grow what is in it.
fn grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let status = claim.status.as_ref();
    let bound = status.and_then(|s| s.phase.as_deref()) == Some("Bound");
    if !bound || annotation(&volume.metadata, PROVISIONED_BY) != Some(LOCAL_PATH) {
        return;
    }
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
    let has = capacity(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()));
    if capacity(requests) > has {
        let wanted = requests.and_then(|r| r.get("storage"));
        let m = json!({"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version});
        plan.patch(VOLUMES, &volume.metadata, json!({"metadata": m, "spec": {"capacity": {"storage": wanted}}}));
        return;
    }
    let mut conditions = status.and_then(|s| s.conditions.clone()).unwrap_or_default();
    let told = capacity(status.and_then(|s| s.capacity.as_ref()));
    if told < has && !conditions.iter().any(|c| c.type_ == RESIZE_PENDING) {
        conditions.push(PersistentVolumeClaimCondition {
            type_: RESIZE_PENDING.into(),
            status: "True".into(),
            message: Some(
                "Waiting for a pod to use the volume to finish the resize of its file system on the node.".into(),
            ),
            ..Default::default()
        });
        plan.actions.push(Action::Patch {
            resource: CLAIMS,
            namespace: claim.metadata.namespace.clone(),
            name: name(&claim.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({
                "metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version},
                "status": {"conditions": conditions},
            }),
        });
    }
}

fn set_phase(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>, plan: &mut Plan) {
    let mut status = json!({"phase": phase});
    if let Some(spec) = volume.and_then(|v| v.spec.as_ref()) {
        status["accessModes"] = json!(spec.access_modes);
        status["capacity"] = json!(spec.capacity);
    }
    let old = serde_json::to_value(&claim.status).unwrap_or(Value::Null);
    if old["phase"] == phase && !old["capacity"].is_null() {
        // That of a bound claim changes when its file system has grown, which the node says.
        status.as_object_mut().expect("made above").remove("capacity");
    }
    let same = ["phase", "accessModes", "capacity"].iter().all(|k| status[*k].is_null() || status[*k] == old[*k]);
    if !same {
        plan.actions.push(Action::Patch {
            resource: CLAIMS,
            namespace: claim.metadata.namespace.clone(),
            name: name(&claim.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": claim.metadata.uid}, "status": status}),
        });
    }
}

fn set_volume_phase(volume: &PersistentVolume, old: &str, phase: &str, plan: &mut Plan) {
    if old != phase {
        plan.actions.push(Action::Patch {
            resource: VOLUMES,
            namespace: None,
            name: name(&volume.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": volume.metadata.uid}, "status": {"phase": phase}}),
        });
    }
}

/// What the claim's volume is to begin as; an error says why it cannot.
fn origin<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &[&'a PersistentVolume],
    node: &str,
    local: &Local<'a>,
) -> Result<Origin<'a>, Refused> {
    let Some(wanted) = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref()) else { return Ok(Origin::Empty) };
    if let Some(wanted) = snapshot::restored(claim) {
        let (at, kept) = snapshot::origin(claim, wanted, local.snapshot, local.content)?;
        if at != node {
            let why = format!("snapshot {wanted} is on node {at:?}, not on {node:?}, where the volume is to be");
            return Err(Refused { why, elsewhere: true });
        }
        return Ok(Origin::RestoreOf(kept));
    }
    let Some(name) = copied(claim) else {
        return Err(Refused::from(format!(
            "volumes of this class are empty, or made of a PersistentVolumeClaim or VolumeSnapshot of the same namespace, not of {} {:?}",
            wanted.kind, wanted.name
        )));
    };
    let found = volumes.iter().find(|v| is_of(v, claim, name)).copied();
    let found = found.ok_or_else(|| format!("claim {name:?} to copy is not bound to a volume"))?;
    if annotation(&found.metadata, PROVISIONED_BY) != Some(LOCAL_PATH) {
        return Err(format!("the volume of claim {name:?} is not of this class and cannot be copied").into());
    }
    if node_of(found) != Some(node) {
        let why = format!("the volume of claim {name:?} is not on node {node:?}, where its copy is to be");
        return Err(Refused { why, elsewhere: true });
    }
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref());
    if capacity(requests) < capacity(found.spec.as_ref().and_then(|s| s.capacity.as_ref())) {
        return Err(format!("the volume of claim {name:?} is larger than its copy is to be").into());
    }
    Ok(Origin::CopyOf(found))
}

/// The claim that another's volume is to be a copy of, in its namespace.
fn copied(claim: &PersistentVolumeClaim) -> Option<&str> {
    let source = claim.spec.as_ref()?.data_source_ref.as_ref()?;
    let own = source.namespace.as_deref().is_none_or(|n| n == namespace(&claim.metadata));
    let core = source.api_group.as_deref().is_none_or(str::is_empty);
    (own && core && source.kind == CLAIMS.kind).then_some(source.name.as_str())
}

/// Whether the volume is bound to the claim of that name beside this one.
fn is_of(volume: &PersistentVolume, beside: &PersistentVolumeClaim, name: &str) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let named = reference.is_some_and(|r| {
        r.name.as_deref() == Some(name)
            && r.namespace == beside.metadata.namespace
            && r.uid.as_deref().is_some_and(|u| !u.is_empty())
    });
    named && volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

/// The node that a volume of the built-in class is on.
pub(crate) fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref())?;
    let terms = affinity.node_selector_terms.iter().flat_map(|t| t.match_expressions.iter().flatten());
    let mut names = terms.filter(|e| e.key == HOSTNAME && e.operator == "In").flat_map(|e| e.values.iter().flatten());
    names.next().map(String::as_str)
}

/// The node where a claim's volume has to be made, because what it begins with is there; anywhere without one.
pub fn pinned<'a>(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volumes: &[&'a PersistentVolume],
    content: Option<&'a VolumeSnapshotContent>,
) -> Option<&'a str> {
    if class.is_none_or(|c| c.provisioner != LOCAL_PATH) {
        return None;
    }
    if snapshot::restored(claim).is_some() {
        return content.and_then(snapshot::managed_by);
    }
    let source = copied(claim)?;
    volumes.iter().find(|v| is_of(v, claim, source)).and_then(|v| node_of(v))
}

/// Whether the class wants its volumes to hold no more than their capacity; an error names what is not known.
fn enforced(class: Option<&StorageClass>) -> Result<bool, String> {
    let mut enforced = false;
    for (key, value) in class.iter().flat_map(|c| c.parameters.iter().flatten()) {
        enforced = match (key.as_str(), value.as_str()) {
            ("capacity", ENFORCED) => true,
            ("capacity", "nominal") => false,
            _ => {
                return Err(format!("parameter {key:?} with value {value:?} is not known to provisioner {LOCAL_PATH}"));
            }
        };
    }
    Ok(enforced)
}

fn provision(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: &str,
    root: &str,
    origin: &Origin<'_>,
    plan: &mut Plan,
) {
    let Some(spec) = &claim.spec else { return };
    let mut annotations = BTreeMap::from([(PROVISIONED_BY.to_owned(), LOCAL_PATH.to_owned())]);
    let block = spec.volume_mode.as_deref() == Some("Block");
    match enforced(class) {
        Ok(enforced) if block && (!enforced || !matches!(origin, Origin::Empty)) => {
            let why = if enforced {
                "volumes of this class that are devices cannot be copies"
            } else {
                "volumes of this class can be devices only where parameter \"capacity\" is \"enforced\""
            };
            return note(claim, "ProvisioningFailed", why, plan);
        }
        Ok(true) => drop(annotations.insert(CAPACITY.to_owned(), ENFORCED.to_owned())),
        Ok(false) => {}
        Err(why) => return note(claim, "ProvisioningFailed", &why, plan),
    }
    match origin {
        Origin::Empty => {}
        Origin::CopyOf(source) => drop(annotations.insert(COPY_OF.to_owned(), name(&source.metadata).to_owned())),
        Origin::RestoreOf(kept) => drop(annotations.insert(RESTORE_OF.to_owned(), (*kept).to_owned())),
    }
    let volume_name = format!("pvc-{}", uid(&claim.metadata));
    let requests = spec.resources.as_ref().and_then(|r| r.requests.clone()).unwrap_or_default();
    let storage = requests.get("storage").cloned().unwrap_or_default();
    let on_node =
        NodeSelectorRequirement { key: HOSTNAME.into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![on_node]), match_fields: None };
    let volume = PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name.clone()),
            annotations: Some(annotations),
            finalizers: Some(vec![VOLUME_PROTECTION.into()]),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: Some([("storage".to_owned(), storage)].into()),
            claim_ref: Some(claim_reference(claim)),
            local: Some(LocalVolumeSource { path: format!("{root}/{volume_name}"), fs_type: None }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class.and_then(|c| c.reclaim_policy.clone()).or(Some("Delete".into())),
            storage_class_name: spec.storage_class_name.clone(),
            volume_mode: spec.volume_mode.clone(),
            ..Default::default()
        }),
        status: None,
    };
    plan.create(VOLUMES, None, &volume);
    let message = format!("Successfully provisioned volume {volume_name}");
    plan.event(CLAIMS, &claim.metadata, "Normal", "ProvisioningSucceeded", message);
}

fn note(claim: &PersistentVolumeClaim, reason: &'static str, message: &str, plan: &mut Plan) {
    let type_ = if reason == "ProvisioningFailed" { "Warning" } else { "Normal" };
    plan.event(CLAIMS, &claim.metadata, type_, reason, message);
}

fn drop_finalizer(resource: crate::plan::Resource, meta: &ObjectMeta, finalizer: &str, plan: &mut Plan) {
    if meta.finalizers.iter().flatten().any(|f| f == finalizer) {
        let rest: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        let m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": rest});
        plan.patch(resource, meta, json!({"metadata": m}));
    }
}
