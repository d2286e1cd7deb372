//! Volumes of CSI drivers, as the pod's other volumes are asked for.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::{Api, Patch, PatchParams};
use reconcile::pod::Failure;
use serde_json::json;

use super::{Mounted, Volumes, failed, fs_group};
use crate::csi::{self, Asker};

/// How often a driver that wants it is asked to publish a volume again.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// The condition by which a driver's resizer leaves the file system to the node.
const PENDING: &str = "FileSystemResizePending";

pub(super) fn resize_failed(volume: &str, why: String) -> Failure {
    Failure::new("VolumeResizeFailed", format!("resize volume {volume:?} failed: {why}"))
}

impl Volumes {
    /// The volume, and when its driver wants to be asked again.
    async fn of_driver(
        &self,
        pod: &Pod,
        v: &Volume,
        volume: &csi::Volume,
    ) -> Result<(Mounted, Option<Timestamp>), Failure> {
        let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let on_mismatch = security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
        let asker = Asker { pod, group: fs_group(pod), on_mismatch };
        let published = self.ctx.csi.publish(&asker, volume).await.map_err(|e| failed(&v.name, e))?;
        let again = published.again.then(|| Timestamp::now().checked_add(AGAIN).ok()).flatten();
        let (block, driver) = (volume.is_block(), Some(volume.clone()));
        Ok((Mounted { path: published.path, read_only: published.read_only, inert: false, block, driver }, again))
    }

    /// A volume that the pod describes itself.
    pub(super) async fn inline(
        &self,
        pod: &Pod,
        v: &Volume,
        source: &CSIVolumeSource,
    ) -> Result<(Mounted, Option<Timestamp>), Failure> {
        self.of_driver(pod, v, &csi::Volume::inline(pod, &v.name, source)).await
    }

    /// The volume behind a claim; grown, if that was left to the node.
    pub(super) async fn provided(
        &self,
        pod: &Pod,
        v: &Volume,
        pv: &PersistentVolume,
        claim: &str,
        resized: bool,
    ) -> Result<(Mounted, Option<Timestamp>), Failure> {
        let source = v.persistent_volume_claim.as_ref();
        let read_only = source.is_some_and(|c| c.read_only == Some(true));
        let volume = csi::Volume::persistent(pv, read_only)
            .ok_or_else(|| failed(&v.name, "its volume source is not supported by this node"))?;
        let done = self.of_driver(pod, v, &volume).await?;
        if resized {
            self.grow(pv, claim, &volume).await.map_err(|e| resize_failed(&v.name, e))?;
        }
        Ok(done)
    }

    /// Has the driver grow the file system.
    async fn grow(&self, pv: &PersistentVolume, claim: &str, volume: &csi::Volume) -> Result<(), String> {
        let wanted = csi::capacity(pv).ok_or("its capacity is no quantity")?;
        self.ctx.csi.expand(&self.id.uid, volume, wanted).await?;
        self.has_grown(pv, claim).await
    }

    /// Says in the claim that its volume holds now what it was asked to.
    pub(super) async fn has_grown(&self, pv: &PersistentVolume, claim: &str) -> Result<(), String> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client(), &self.id.namespace);
        let found = api.get(claim).await.map_err(|e| format!("get persistentvolumeclaim {claim:?}: {e}"))?;
        let conditions = found.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let kept: Vec<_> = conditions.into_iter().filter(|c| c.type_ != PENDING && c.type_ != "Resizing").collect();
        let capacity = pv.spec.as_ref().and_then(|s| s.capacity.clone());
        let patch = json!({
            "metadata": {"uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version},
            "status": {"capacity": capacity, "conditions": kept, "allocatedResourceStatuses": {"storage": null}},
        });
        let patched = api.patch_status(claim, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|e| format!("write the status of persistentvolumeclaim {claim:?}: {e}"))
    }
}
