//! What the caches know of CSI drivers, gathered for the decision about one pod with such volumes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use reconcile::plan::{name, namespace};
use reconcile::scheduler::{Counted, Limits, Room};

use crate::controllers::Context;

/// Objects that decide where volumes of drivers can be. All empty for a pod that has none.
#[derive(Default)]
pub(super) struct Drivers {
    nodes: Vec<Arc<CSINode>>,
    drivers: Vec<Arc<CSIDriver>>,
    capacities: Vec<Arc<CSIStorageCapacity>>,
    /// Attachments with their volumes.
    attached: Vec<(Arc<VolumeAttachment>, Arc<PersistentVolume>)>,
    /// Claims with their volumes, of whole drivers that have a limit somewhere.
    counted: Vec<(Arc<PersistentVolumeClaim>, Counted)>,
}

/// Whether a claim's volume is, or will be, one of a driver.
pub(super) fn of_driver(class: &Option<Arc<StorageClass>>, volume: &Option<Arc<PersistentVolume>>) -> bool {
    match volume {
        Some(volume) => volume.spec.as_ref().is_some_and(|s| s.csi.is_some()),
        None => class.as_ref().is_some_and(|c| c.provisioner != reconcile::volume::LOCAL_PATH),
    }
}

fn counted(volume: &PersistentVolume) -> Option<Counted> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some((csi.driver.clone(), csi.volume_handle.clone()))
}

/// What a claim counts as: its volume, or one that its class's driver is to make.
fn of_claim(c: &Context, claim: &PersistentVolumeClaim) -> Option<Counted> {
    let spec = claim.spec.as_ref()?;
    if let Some(volume) = spec.volume_name.as_deref().filter(|v| !v.is_empty()) {
        return counted(c.caches.volumes.get("", volume)?.as_ref());
    }
    let class = c.caches.classes.get("", spec.storage_class_name.as_deref()?)?;
    let id = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
    (class.provisioner != reconcile::volume::LOCAL_PATH).then(|| (class.provisioner.clone(), id))
}

impl Drivers {
    pub(super) fn of(c: &Context, wanted: bool) -> Self {
        if !wanted {
            return Drivers::default();
        }
        let nodes = c.caches.csi_nodes.all();
        let limited = nodes.iter().any(|n| n.spec.drivers.iter().any(|d| d.allocatable.is_some()));
        let attachments = if limited { c.caches.attachments.all() } else { Vec::new() };
        let claims = if limited { c.caches.claims.all() } else { Vec::new() };
        Drivers {
            attached: attachments
                .into_iter()
                .filter_map(|a| {
                    let volume = c.caches.volumes.get("", a.spec.source.persistent_volume_name.as_deref()?)?;
                    Some((a, volume))
                })
                .collect(),
            counted: claims.into_iter().filter_map(|claim| Some((claim.clone(), of_claim(c, &claim)?))).collect(),
            drivers: c.caches.drivers.all(),
            capacities: c.caches.capacities.all(),
            nodes,
        }
    }

    pub(super) fn limits(&self) -> Limits<'_> {
        let mut limits = Limits::default();
        for node in &self.nodes {
            let most = limits.most.entry(name(&node.metadata)).or_default();
            for driver in &node.spec.drivers {
                if let Some(count) = driver.allocatable.as_ref().and_then(|a| a.count) {
                    most.insert(&driver.name, count);
                }
            }
        }
        for (attachment, volume) in &self.attached {
            limits.attached.entry(&attachment.spec.node_name).or_default().extend(counted(volume));
        }
        for (claim, volume) in &self.counted {
            let of_namespace = limits.of_claims.entry(namespace(&claim.metadata)).or_default();
            of_namespace.insert(name(&claim.metadata), volume.clone());
        }
        limits
    }

    pub(super) fn room(&self) -> Room<'_> {
        let tells = |d: &&Arc<CSIDriver>| d.spec.storage_capacity == Some(true);
        Room {
            drivers: self.drivers.iter().filter(tells).map(|d| name(&d.metadata)).collect(),
            capacities: self.capacities.iter().map(AsRef::as_ref).collect(),
        }
    }
}
