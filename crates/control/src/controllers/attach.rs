//! Attaching and detaching volumes of CSI drivers: what asks for a look at a node, and the look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use reconcile::plan::{name, namespace};
use reconcile::volume::attach::{MANAGED, Memory, View, claim_names, plan, released};

use super::{Context, Pass};
use crate::cache::{Key, Listener};

/// What passes remember of nodes, by name: only of those with something unfinished.
#[derive(Default)]
pub(super) struct Attaching {
    memory: Mutex<BTreeMap<String, Memory>>,
}

/// The volume that a claim is bound to.
fn volume_of(c: &Context, ns: &str, claim: &str) -> Option<Arc<PersistentVolume>> {
    let claim = c.caches.claims.get(ns, claim)?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|_| bound)?;
    let volume = c.caches.volumes.get("", volume)?;
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let mutual = reference.is_some_and(|r| r.uid == claim.metadata.uid);
    mutual.then_some(volume)
}

/// Whether a volume may be one that is attached; of one that is not known yet nobody can say.
fn concerns(c: &Context, ns: &str, claim: &str) -> bool {
    volume_of(c, ns, claim).is_none_or(|v| v.spec.as_ref().is_some_and(|s| s.csi.is_some()))
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// A pod that begins or ceases to need its volumes on a node.
pub(super) fn on_pod(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let place = |p: Option<&Arc<Pod>>| p.and_then(|p| Some((node_of(p)?.to_owned(), released(p))));
        if place(old) == place(new) {
            return;
        }
        for pod in [old, new].into_iter().flatten() {
            let Some(node) = node_of(pod) else { continue };
            if claim_names(pod).any(|claim| concerns(&c, namespace(&pod.metadata), &claim)) {
                c.queues.attachments.add("", node);
            }
        }
    })
}

/// What of a node decides about its volumes; heartbeats change none of it.
fn facts(node: &Node) -> impl PartialEq + use<> {
    let status = node.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    (
        status.and_then(|s| s.volumes_in_use.clone()),
        status.and_then(|s| s.volumes_attached.clone()),
        conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone()),
        node.spec.as_ref().and_then(|s| s.taints.clone()),
        node.metadata.annotations.as_ref().and_then(|a| a.get(MANAGED).cloned()),
    )
}

/// A node that comes, goes, or says something else about its volumes.
pub(super) fn on_node(context: &Arc<Context>) -> Listener<Node> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(node)) = (weak.upgrade(), new.or(old)) else { return };
        let same = matches!((old, new), (Some(a), Some(b)) if facts(a) == facts(b));
        if !same {
            c.queues.attachments.add("", name(&node.metadata));
        }
    })
}

/// A claim that is bound after its pod has been given a node.
pub(super) fn on_claim(context: &Arc<Context>) -> Listener<PersistentVolumeClaim> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(claim)) = (weak.upgrade(), new) else { return };
        let phase = |c: &Arc<PersistentVolumeClaim>| c.status.as_ref().and_then(|s| s.phase.clone());
        if old.and_then(phase) == phase(claim) {
            return;
        }
        look_at_users(&c, namespace(&claim.metadata), name(&claim.metadata));
    })
}

/// A volume that is seen later than its claim.
pub(super) fn on_volume(context: &Arc<Context>) -> Listener<PersistentVolume> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(volume)) = (weak.upgrade(), new) else { return };
        let claim = |v: &Arc<PersistentVolume>| v.spec.as_ref().and_then(|s| s.claim_ref.clone());
        let Some(reference) = claim(volume).filter(|_| volume.spec.as_ref().is_some_and(|s| s.csi.is_some())) else {
            return;
        };
        if old.and_then(claim).and_then(|r| r.uid) != reference.uid {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            look_at_users(&c, &text(&reference.namespace), &text(&reference.name));
        }
    })
}

/// Looks at the nodes of the pods that name a claim.
fn look_at_users(c: &Context, ns: &str, claim: &str) {
    if concerns(c, ns, claim) {
        for pod in c.caches.pods.pick(Some(ns), |_, pod| !pod.node.is_empty() && pod.names_claim(claim)) {
            c.queues.attachments.add("", node_of(&pod).unwrap_or_default());
        }
    }
}

/// What an attacher says. When an attachment has gone, nodes that wait for its volume are looked at, and
/// pods for which nodes had too many.
pub(super) fn on_attachment(context: &Arc<Context>) -> Listener<VolumeAttachment> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(attachment)) = (weak.upgrade(), new.or(old)) else { return };
        c.queues.attachments.add("", &attachment.spec.node_name);
        if new.is_none() {
            // Its node can have one volume more.
            crate::scheduling::retry_waiting(&c);
            let memory = c.attaching.memory.lock();
            memory.iter().filter(|(_, m)| m.blocked).for_each(|(node, _)| c.queues.attachments.add("", node));
        }
    })
}

/// A driver that comes or goes may say that its volumes are not attached.
pub(super) fn on_driver(context: &Arc<Context>) -> Listener<CSIDriver> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        if old.is_none() || new.is_none() {
            for node in c.caches.nodes.all() {
                c.queues.attachments.add("", name(&node.metadata));
            }
        }
    })
}

/// Pods of a node that use a volume.
fn users(c: &Context, node: &str, volume: &PersistentVolume) -> Vec<(String, String)> {
    let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return Vec::new() };
    let (ns, claim) = (claim.namespace.as_deref().unwrap_or_default(), claim.name.as_deref().unwrap_or_default());
    let found = c.caches.pods.pick(Some(ns), |_, pod| *pod.node == *node && pod.names_claim(claim));
    let used = found.iter().filter(|p| !released(p));
    used.map(|p| (ns.to_owned(), name(&p.metadata).to_owned())).collect()
}

pub(super) fn pass(c: Arc<Context>, (_, node_name): Key) -> Pass {
    Box::pin(async move {
        let attachments = c.caches.attachments.all();
        let pods = c.caches.pods.pick(None, |_, pod| *pod.node == *node_name);
        let node = c.caches.nodes.get("", &node_name);
        let drivers: BTreeSet<String> = {
            let all = c.caches.drivers.all();
            let unattached = all.iter().filter(|d| d.spec.attach_required == Some(false));
            unattached.map(|d| name(&d.metadata).to_owned()).collect()
        };
        let decided = {
            let mut all = c.attaching.memory.lock();
            let mut memory = all.remove(&node_name).unwrap_or_default();
            let decided = plan(
                &View {
                    node_name: &node_name,
                    node: node.as_deref(),
                    pods: &pods.iter().map(Arc::as_ref).collect::<Vec<_>>(),
                    attachments: &attachments.iter().map(Arc::as_ref).collect::<Vec<_>>(),
                    volume_of: &|ns, claim| volume_of(&c, ns, claim),
                    attaches: &|driver| !drivers.contains(driver),
                    users: &|node, volume| users(&c, node, volume),
                },
                &mut memory,
                Timestamp::now(),
            );
            if !memory.is_empty() {
                all.insert(node_name, memory);
            }
            decided
        };
        c.carry_out(decided).await
    })
}
