//! Images as volumes (KEP-4639): pulled like those of containers, mounted read-only, and nothing in them is run.

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Volume};
use reconcile::pod::Failure;

use super::{Mounted, Volumes, blocking, failed, mounts};
use crate::context::Context;
use crate::pods::pull;
use crate::spec::Lookup;

/// What the mount of a volume is called in the image store: the pod's UID, then the volume.
fn key(uid: &str, volume: &str) -> String {
    format!("{uid}.{volume}")
}

/// Gives back what the image volumes of a pod took, once they are unmounted.
pub(super) async fn forget(ctx: &Context, uid: &str) -> Result<(), Failure> {
    let prefix = key(uid, "");
    let gone = ctx.puller.images().forget(&|key: &str| !key.starts_with(&prefix)).await;
    gone.map_err(|e| Failure::new("FailedUnmount", e.to_string()))
}

/// Gives back what the image volumes of pods that are no more took.
pub(crate) async fn forget_all_but(ctx: &Context, wanted: &std::collections::BTreeSet<String>) {
    let keep = |key: &str| key.split_once('.').is_some_and(|(uid, _)| wanted.contains(uid));
    if let Err(error) = ctx.puller.images().forget(&keep).await {
        tracing::warn!(%error, "image volumes of former pods are not fully removed");
    }
}

impl Volumes {
    pub(super) async fn image(
        &self,
        pod: &Pod,
        v: &Volume,
        source: &ImageVolumeSource,
        objects: &Lookup,
    ) -> Result<Mounted, Failure> {
        let path = self.ctx.paths.volume(&self.id.uid, &v.name);
        let mounted = Mounted { path: path.clone(), read_only: true, inert: true, block: false, driver: None };
        let at = path.clone();
        if blocking(&v.name, move || mounts::is_mounted(&at)).await? {
            // Pulled once: what a running pod sees does not change under it.
            return Ok(mounted);
        }
        // It is pulled as a container's image would be: by the same policies, with the same secrets.
        let like = Container {
            name: v.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        let present = pull::ensure(&self.ctx, pod, &like, objects).await?;
        let folder = path.clone();
        blocking(&v.name, move || std::fs::create_dir_all(&folder)).await?;
        let key = key(&self.id.uid, &v.name);
        let done = self.ctx.puller.images().mount(&present.reference, &key, &path).await;
        done.map_err(|e| failed(&v.name, e))?;
        Ok(mounted)
    }
}
