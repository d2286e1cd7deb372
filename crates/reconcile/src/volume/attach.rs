//! Which volumes of CSI drivers are attached to which nodes (the attach/detach controller of Kubernetes). What is decided here
//! is a VolumeAttachment for each volume and node; the driver's attacher carries it out and says so in the status. The Node
//! says what the attachments mean for it: `volumesAttached` is written here, `volumesInUse` by the node, and neither side acts
//! against what the other has written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{AttachedVolume, Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, VolumeError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::plan::{ATTACHMENTS, Action, NODES, PODS, Plan, VOLUMES, name, namespace, terminating};
use crate::pods;

#[cfg(test)]
mod tests;

/// Annotation of a node that leaves attaching and detaching to the controller.
pub const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Annotation of a node that keeps the volumes of pods that have ended.
const KEEPS: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
/// Taint of a node of which somebody has made sure that it runs nothing any more (KEP-2268).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A volume that a node which does not answer has not unmounted is detached after this long (`maxWaitForUnmountDuration`).
const UNMOUNT_MAX: SignedDuration = SignedDuration::from_mins(6);
/// An attacher that has said nothing is complained about after this long.
const ATTACH_MAX: SignedDuration = SignedDuration::from_mins(2);
/// How volumes of CSI drivers are named in the status of a node.
const PREFIX: &str = "kubernetes.io/csi/";

/// The name of a volume in the status of a node.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("{PREFIX}{driver}^{handle}")
}

/// The name of the VolumeAttachment of a volume and a node.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let mut sum = Sha256::new();
    [handle, driver, node].iter().for_each(|text| sum.update(text));
    let hex: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

/// The name of the VolumeAttachment to a name in the status of a node, if it is one of a CSI driver.
fn attachment_of(unique: &str, node: &str) -> Option<String> {
    let (driver, handle) = unique.strip_prefix(PREFIX)?.split_once('^')?;
    Some(attachment_name(driver, handle, node))
}

/// Whether an attachment has a name as they are made here; others are left to whoever made them.
fn is_ours(attachment: &VolumeAttachment) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name(&attachment.metadata).strip_prefix("csi-").is_some_and(|sum| sum.len() == 64 && sum.bytes().all(hex))
}

/// The names of the claims in a pod's volumes, with those that the pod describes itself.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let own = |volume: &str| format!("{}-{volume}", name(&pod.metadata));
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(move |v| {
        let named = v.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
        named.or_else(|| v.ephemeral.as_ref().map(|_| own(&v.name)))
    })
}

/// Whether the pod needs its volumes no more: it has ended, or is to end and nothing of it runs.
pub fn released(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let stopped = || {
        let all = status.into_iter().flat_map(|s| s.container_statuses.iter().flatten());
        let mut states = all.map(|c| c.state.as_ref());
        states.all(|s| s.is_some_and(|s| s.running.is_none() && (s.terminated.is_some() || s.waiting.is_some())))
    };
    pods::finished(pod) || (terminating(&pod.metadata) && stopped())
}

/// See [`View::users`].
pub type Users<'a> = dyn Fn(&str, &PersistentVolume) -> Vec<(String, String)> + 'a;

/// What is known when it is decided for a node.
pub struct View<'a> {
    /// Its name.
    pub node_name: &'a str,
    /// Its object; a node that is gone may still have volumes.
    pub node: Option<&'a Node>,
    /// The pods that are assigned to it.
    pub pods: &'a [&'a Pod],
    /// The attachments of all nodes.
    pub attachments: &'a [&'a VolumeAttachment],
    /// The volume that a claim is bound to, by namespace and name of the claim.
    pub volume_of: &'a dyn Fn(&str, &str) -> Option<Arc<PersistentVolume>>,
    /// Whether volumes of a driver must be attached (`attachRequired`, which is so unless it says otherwise).
    pub attaches: &'a dyn Fn(&str) -> bool,
    /// Pods of another node that use a volume: namespace and name.
    pub users: &'a Users<'a>,
}

/// What was seen and said about a node before. A controller that starts anew begins with none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Since when attachments are to be taken away, by name.
    since: BTreeMap<String, Timestamp>,
    /// What was last said about an attachment, by name.
    told: BTreeMap<String, String>,
    /// Whether a volume waits for its attachment to another node to go.
    pub blocked: bool,
}

impl Memory {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.since.is_empty() && self.told.is_empty() && !self.blocked
    }
}

/// A volume that is to be attached to the node.
struct Wanted<'a> {
    volume: Arc<PersistentVolume>,
    driver: String,
    handle: String,
    pods: Vec<&'a Pod>,
}

impl View<'_> {
    fn annotation(&self, key: &str) -> Option<&str> {
        self.node?.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn is_ready(&self) -> bool {
        let conditions = self.node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_deref());
        conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    fn is_out_of_service(&self) -> bool {
        let taints = self.node.and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_deref());
        taints.unwrap_or_default().iter().any(|t| t.key == OUT_OF_SERVICE)
    }

    /// By the name of the attachment.
    fn wanted(&self) -> BTreeMap<String, Wanted<'_>> {
        let mut wanted: BTreeMap<String, Wanted<'_>> = BTreeMap::new();
        let keeps = self.annotation(KEEPS) == Some("true");
        for pod in self.pods.iter().filter(|p| keeps || !released(p)) {
            for claim in claim_names(pod) {
                let Some(volume) = (self.volume_of)(namespace(&pod.metadata), &claim) else { continue };
                let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) else { continue };
                if !(self.attaches)(&csi.driver) {
                    continue;
                }
                let (driver, handle) = (csi.driver.clone(), csi.volume_handle.clone());
                let id = attachment_name(&driver, &handle, self.node_name);
                let entry = wanted.entry(id);
                let entry = entry.or_insert_with(|| Wanted { volume, driver, handle, pods: Vec::new() });
                entry.pods.push(pod);
            }
        }
        wanted
    }

    fn own(&self) -> impl Iterator<Item = &VolumeAttachment> {
        self.attachments.iter().copied().filter(|a| a.spec.node_name == self.node_name && is_ours(a))
    }
}

/// Decides for one node.
pub fn plan(view: &View<'_>, memory: &mut Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if view.node.is_some() && view.annotation(MANAGED) != Some("true") {
        return plan;
    }
    let wanted = view.wanted();
    let own: BTreeMap<&str, &VolumeAttachment> = view.own().map(|a| (name(&a.metadata), a)).collect();
    memory.since.retain(|id, _| own.contains_key(id.as_str()) && !wanted.contains_key(id));
    memory.told.retain(|id, _| own.contains_key(id.as_str()) || wanted.contains_key(id));
    memory.blocked = false;
    let mut leaving = Vec::new();
    // Attachments that the node may go on to rely on.
    let mut standing: BTreeSet<&str> = BTreeSet::new();
    for (id, attachment) in own.iter().filter(|(id, _)| !wanted.contains_key(**id)) {
        if terminating(&attachment.metadata) {
            complain_of_detaching(attachment, view, memory, &mut plan);
        } else if may_leave(id, view, memory, now, &mut plan) {
            leaving.push(*attachment);
        } else {
            standing.insert(id);
        }
    }
    let mut creating = Vec::new();
    for (id, wish) in &wanted {
        match own.get(id.as_str()) {
            Some(attachment) if terminating(&attachment.metadata) => {}
            Some(attachment) if attachment.status.as_ref().is_some_and(|s| s.attached) => {
                memory.told.remove(id);
                standing.insert(id);
            }
            Some(attachment) => complain_of_attaching(wish, attachment, memory, now, &mut plan),
            None if is_elsewhere(wish, view, id, memory, &mut plan) => memory.blocked = true,
            None => creating.push(new_attachment(id, wish, view.node_name)),
        }
    }
    // First the node learns what it may no longer mount, then the attachments go: its answer cannot come too late.
    report(view, &standing, &wanted, &mut plan);
    for attachment in leaving {
        plan.delete(ATTACHMENTS, &attachment.metadata, None);
    }
    for attachment in &creating {
        plan.create(ATTACHMENTS, None, attachment);
    }
    plan
}

/// Whether an attachment that nobody wants may be taken away now.
fn may_leave(id: &str, view: &View<'_>, memory: &mut Memory, now: Timestamp, plan: &mut Plan) -> bool {
    let since = *memory.since.entry(id.to_owned()).or_insert(now);
    let used = view.node.and_then(|n| n.status.as_ref()).and_then(|s| s.volumes_in_use.as_deref());
    let used = used.unwrap_or_default().iter().any(|n| attachment_of(n, view.node_name).as_deref() == Some(id));
    // A node that is gone cannot say that it has unmounted anything.
    if (view.node.is_some() && !used) || view.is_out_of_service() {
        return true;
    }
    if view.is_ready() {
        return false;
    }
    let left = UNMOUNT_MAX - now.duration_since(since);
    if left.is_positive() {
        plan.requeue(Duration::try_from(left).unwrap_or_default());
    }
    !left.is_positive()
}

/// Whether the volume is still attached to another node and may be attached to one only; its pods are told once.
fn is_elsewhere(wish: &Wanted<'_>, view: &View<'_>, id: &str, memory: &mut Memory, plan: &mut Plan) -> bool {
    let modes = wish.volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    if modes.is_empty() || modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany") {
        return false;
    }
    let same = |a: &&&VolumeAttachment| {
        let by_name = a.spec.source.persistent_volume_name.as_deref() == Some(name(&wish.volume.metadata));
        a.spec.attacher == wish.driver
            && a.spec.node_name != view.node_name
            && (by_name || name(&a.metadata) == attachment_name(&wish.driver, &wish.handle, &a.spec.node_name))
    };
    let nodes: BTreeSet<&str> = view.attachments.iter().filter(same).map(|a| a.spec.node_name.as_str()).collect();
    if nodes.is_empty() {
        return false;
    }
    let users: Vec<(String, String)> = nodes.iter().flat_map(|n| (view.users)(n, &wish.volume)).collect();
    if memory.told.insert(id.to_owned(), "elsewhere".to_owned()).as_deref() == Some("elsewhere") {
        return true;
    }
    let volume = name(&wish.volume.metadata);
    for pod in &wish.pods {
        let near: Vec<&str> =
            users.iter().filter(|(n, _)| n == namespace(&pod.metadata)).map(|(_, p)| p.as_str()).collect();
        let far = users.len() - near.len();
        let why = match (near.is_empty(), far) {
            (true, 0) => {
                "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
            }
            (true, _) => format!("Volume is already used by {far} pod(s) in different namespaces"),
            (false, 0) => format!("Volume is already used by pod(s) {}", near.join(", ")),
            (false, _) => {
                format!("Volume is already used by pod(s) {} and {far} pod(s) in different namespaces", near.join(", "))
            }
        };
        let message = format!("Multi-Attach error for volume {volume:?} {why}");
        plan.event(PODS, &pod.metadata, "Warning", "FailedAttachVolume", message);
    }
    true
}

/// What an attacher has said, and when: the same is not told twice.
fn said(error: &VolumeError) -> String {
    let at = error.time.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    format!("{at} {}", error.message.as_deref().unwrap_or_default())
}

fn complain_of_attaching(
    wish: &Wanted<'_>,
    attachment: &VolumeAttachment,
    memory: &mut Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    let id = name(&attachment.metadata);
    let error = attachment.status.as_ref().and_then(|s| s.attach_error.as_ref());
    let (key, why) = match error {
        Some(error) => (said(error), error.message.clone().unwrap_or_default()),
        None => {
            let made = attachment.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
            let left = ATTACH_MAX - now.duration_since(made);
            if left.is_positive() {
                plan.requeue(Duration::try_from(left).unwrap_or_default());
                return;
            }
            let why = format!(
                "timed out waiting for external-attacher of {} CSI driver to attach volume {}",
                wish.driver, wish.handle
            );
            ("late".to_owned(), why)
        }
    };
    if memory.told.insert(id.to_owned(), key.clone()) == Some(key) {
        return;
    }
    let message = format!("AttachVolume.Attach failed for volume {:?} : {why}", name(&wish.volume.metadata));
    for pod in &wish.pods {
        plan.event(PODS, &pod.metadata, "Warning", "FailedAttachVolume", message.clone());
    }
}

/// An attacher that cannot detach: nobody waits for it but the volume.
fn complain_of_detaching(attachment: &VolumeAttachment, view: &View<'_>, memory: &mut Memory, plan: &mut Plan) {
    let Some(error) = attachment.status.as_ref().and_then(|s| s.detach_error.as_ref()) else { return };
    let key = said(error);
    if memory.told.insert(name(&attachment.metadata).to_owned(), key.clone()) == Some(key) {
        return;
    }
    let volume = attachment.spec.source.persistent_volume_name.clone().unwrap_or_default();
    let why = error.message.as_deref().unwrap_or_default();
    let message = format!("DetachVolume.Detach failed for volume {volume:?} on node {:?} : {why}", view.node_name);
    let about = ObjectMeta { name: Some(volume), ..ObjectMeta::default() };
    plan.event(VOLUMES, &about, "Warning", "FailedDetachVolume", message);
}

fn new_attachment(id: &str, wish: &Wanted<'_>, node: &str) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(id.to_owned()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: wish.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: wish.volume.metadata.name.clone(),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    }
}

/// Has the node's status say which volumes it may mount. What others than CSI drivers have attached is left as it is.
fn report(view: &View<'_>, standing: &BTreeSet<&str>, wanted: &BTreeMap<String, Wanted<'_>>, plan: &mut Plan) {
    let Some(node) = view.node else { return };
    let old = node.status.as_ref().and_then(|s| s.volumes_attached.clone()).unwrap_or_default();
    let id_of = |v: &AttachedVolume| attachment_of(&v.name, view.node_name);
    let stays = |v: &&AttachedVolume| id_of(v).is_none_or(|id| standing.contains(id.as_str()));
    let mut new: Vec<AttachedVolume> = old.iter().filter(stays).cloned().collect();
    let known: BTreeSet<String> = new.iter().filter_map(id_of).collect();
    let mut events = Plan::default();
    for (_, wish) in wanted.iter().filter(|(id, _)| standing.contains(id.as_str()) && !known.contains(*id)) {
        let name_of = unique_name(&wish.driver, &wish.handle);
        new.push(AttachedVolume { name: name_of, device_path: String::new() });
        let message = format!("AttachVolume.Attach succeeded for volume {:?} ", name(&wish.volume.metadata));
        for pod in &wish.pods {
            events.event(PODS, &pod.metadata, "Normal", "SuccessfulAttachVolume", message.clone());
        }
    }
    if new == old {
        return;
    }
    let list = if new.is_empty() { json!(null) } else { json!(new) };
    plan.actions.push(Action::Patch {
        resource: NODES,
        namespace: None,
        name: view.node_name.to_owned(),
        subresource: Some("status"),
        patch: json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "status": {"volumesAttached": list},
        }),
    });
    plan.actions.append(&mut events.actions);
}
