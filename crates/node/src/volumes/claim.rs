//! Claims: the folder of this node behind a bound volume, and giving released volumes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume};
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use reconcile::volume::{CAPACITY, COPY_OF, ENFORCED, LOCAL_PATH, PROVISIONED_BY, RESTORE_OF};

use super::{block, disk, snapshot};
use crate::context::Context;
use crate::csi;

/// A volume found.
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Files may be given to the pod's group: not on a plain path of the host.
    pub(crate) owned: bool,
}

fn provisioned_here(pv: &PersistentVolume) -> bool {
    let by = pv.metadata.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY));
    by.is_some_and(|by| by == LOCAL_PATH)
}

/// Whether the volume holds no more than its capacity.
fn enforced(pv: &PersistentVolume) -> bool {
    pv.metadata.annotations.as_ref().and_then(|a| a.get(CAPACITY)).is_some_and(|value| value == ENFORCED)
}

pub(super) fn bytes(pv: &PersistentVolume) -> Result<u64, String> {
    let bytes = csi::capacity(pv).and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        format!("persistentvolume {:?} has no capacity", pv.metadata.name.as_deref().unwrap_or_default())
    })
}

/// Makes a volume of the class if it is not there: empty, or as a copy of another of this node.
fn make(ctx: &Context, pv: &PersistentVolume, path: &Path, uid: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("make {}: {e}", path.display());
    let volume = disk::of(path);
    // What was copied once is the volume's own: its source may be gone.
    let source = if volume.exists() { Source::Nothing } else { Source::of(ctx, pv)? };
    let size = if enforced(pv) { Some(bytes(pv)?) } else { None };
    let make = |from: Option<&Path>| match size {
        Some(bytes) => volume.mount(bytes, from, uid),
        None => volume.folder(from),
    };
    let made = match source {
        Source::Nothing => make(None),
        Source::Volume(source) => source.lend(|from| make(Some(from))),
        Source::Snapshot(from) => make(Some(&from)),
    };
    made.map_err(failed)
}

/// What a volume begins with.
enum Source {
    Nothing,
    Volume(disk::Disk),
    Snapshot(PathBuf),
}

impl Source {
    fn of(ctx: &Context, pv: &PersistentVolume) -> Result<Source, String> {
        let named = |key: &str| pv.metadata.annotations.as_ref().and_then(|a| a.get(key));
        if let Some(name) = named(RESTORE_OF) {
            return snapshot::data(ctx, name).map(Source::Snapshot);
        }
        match named(COPY_OF) {
            None => Ok(Source::Nothing),
            Some(name) if !super::atomic::is_safe(name) => Err(format!("{name:?} is no name of a volume to copy")),
            Some(name) => Ok(Source::Volume(disk::of(&ctx.paths.local_volume(name)))),
        }
    }
}

/// Makes a volume of the class that no pod has used yet, and has it used by nobody.
pub(super) fn fill(ctx: &Context, pv: &PersistentVolume) -> Result<(), String> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let path = ctx.paths.local_volume(name);
    let local = pv.spec.as_ref().and_then(|s| s.local.as_ref());
    if !provisioned_here(pv) || !on_node(pv, &ctx.config.node_name) || local.is_none_or(|l| Path::new(&l.path) != path)
    {
        return Err(format!("persistentvolume {name:?} is no volume of class local-path on this node"));
    }
    let volume = disk::of(&path);
    if volume.exists() {
        return Ok(());
    }
    make(ctx, pv, &path, FILLER)?;
    if enforced(pv) {
        volume.release(FILLER).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The user of a volume that is filled before a pod uses it.
const FILLER: &str = "filler";

/// Has a volume that is there hold what its object says now.
pub(crate) fn grow(ctx: &Context, pv: &PersistentVolume) -> Result<(), String> {
    let folder = ctx.paths.local_volume(pv.metadata.name.as_deref().unwrap_or_default());
    if !provisioned_here(pv) || !enforced(pv) {
        return Ok(());
    }
    if block::is_device(pv) {
        return block::of(&folder).grow(bytes(pv)?).map_err(|e| e.to_string());
    }
    disk::of(&folder).grow(bytes(pv)?).map_err(|e| e.to_string())
}

/// The folder behind a persistent volume for the pod of that UID, made if it is one of the local-path class and was not used yet.
pub(crate) fn locate(ctx: &Context, pv: &PersistentVolume, uid: &str) -> Result<Found, String> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let spec = pv.spec.as_ref().ok_or_else(|| format!("persistentvolume {name:?} has no spec"))?;
    if !on_node(pv, &ctx.config.node_name) {
        return Err(format!("persistentvolume {name:?} is not on node {:?}", ctx.config.node_name));
    }
    if let Some(host) = &spec.host_path {
        let path = PathBuf::from(&host.path);
        if block::is_device(pv) {
            return Err(format!("persistentvolume {name:?}: a hostPath volume is no device"));
        }
        super::hostpath::check(&path, host.type_.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
        return Ok(Found { path, owned: false });
    }
    let Some(local) = &spec.local else {
        return Err(format!("persistentvolume {name:?}: its volume source is not supported by this node"));
    };
    let path = PathBuf::from(&local.path);
    if block::is_device(pv) {
        let made = provisioned_here(pv) && path == ctx.paths.local_volume(name);
        let found = if made { block::of(&path).attach(bytes(pv)?, uid) } else { block::check(&path).map(|()| path) };
        return Ok(Found { path: found.map_err(|e| e.to_string())?, owned: false });
    }
    if provisioned_here(pv) && path == ctx.paths.local_volume(name) {
        make(ctx, pv, &path, uid)?;
    }
    if !path.is_dir() {
        return Err(format!("path {} does not exist", path.display()));
    }
    Ok(Found { path, owned: true })
}

fn term_matches(term: &NodeSelectorTerm, node: &str) -> bool {
    term.match_expressions.iter().flatten().all(|e| {
        let host = e.key == "kubernetes.io/hostname";
        let listed = e.values.iter().flatten().any(|v| v == node);
        // Only the host name is known to place local volumes; other keys were the scheduler's to judge.
        !host || (e.operator == "In") == listed
    })
}

fn on_node(pv: &PersistentVolume, node: &str) -> bool {
    let required = pv.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)))
}

/// Whether this node is to remove the volume's data and then its object.
fn is_ours_to_remove(pv: &PersistentVolume, node: &str) -> bool {
    let released = pv.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Released");
    let delete = pv.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let placed = pv.spec.as_ref().is_some_and(|s| s.node_affinity.is_some());
    released && delete && placed && provisioned_here(pv) && on_node(pv, node)
}

/// A volume that could not be removed is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);

/// Follows persistent volumes and removes those of the local-path class on this node once they are released.
pub(crate) async fn reclaim(ctx: Arc<Context>, drain: Drain) {
    let api: Api<PersistentVolume> = Api::all(ctx.client());
    let mut events =
        follow::watch::<PersistentVolume>(ctx.client(), None, watcher::Config::default()).default_backoff().boxed();
    let mut left: BTreeMap<String, PersistentVolume> = BTreeMap::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep(RETRY), if !left.is_empty() => {
                for (name, pv) in std::mem::take(&mut left) {
                    if !remove(&ctx, &api, &pv).await {
                        left.insert(name, pv);
                    }
                }
                continue;
            }
            () = drain.cancelled() => return,
        };
        match event {
            None => return,
            Some(Ok(watcher::Event::Apply(pv) | watcher::Event::InitApply(pv))) => {
                let name = pv.metadata.name.clone().unwrap_or_default();
                left.remove(&name);
                if is_ours_to_remove(&pv, &ctx.config.node_name) && !remove(&ctx, &api, &pv).await {
                    left.insert(name, pv);
                }
            }
            Some(Ok(watcher::Event::Delete(pv))) => {
                left.remove(pv.metadata.name.as_deref().unwrap_or_default());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::debug!(%error, "watch of persistent volumes failed"),
        }
    }
}

/// Removes a volume's data and then its object; false when that is to be tried again.
async fn remove(ctx: &Context, api: &Api<PersistentVolume>, pv: &PersistentVolume) -> bool {
    let name = pv.metadata.name.clone().unwrap_or_default();
    let path = ctx.paths.local_volume(&name);
    let given = pv.spec.as_ref().and_then(|s| s.local.as_ref()).map(|l| PathBuf::from(&l.path));
    // Never remove what is not exactly the folder this node would have made.
    if given.as_ref() != Some(&path) || !super::atomic::is_safe(&name) {
        tracing::warn!(volume = name, "released volume has a path that is not its own: left alone");
        return true;
    }
    let removed = move || block::of(&path).remove().and_then(|()| disk::of(&path).remove());
    let gone = tokio::task::spawn_blocking(removed).await;
    if let Ok(Err(error)) = gone {
        tracing::warn!(volume = name, %error, "released volume not removed");
        return false;
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pv.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => true,
        Err(error) => {
            tracing::warn!(volume = name, %error, "object of a released volume not deleted");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pv(phase: &str, policy: &str, by: &str, node: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "pv", "annotations": {PROVISIONED_BY: by}},
            "spec": {"persistentVolumeReclaimPolicy": policy, "local": {"path": "/x"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}},
            "status": {"phase": phase},
        }))
        .expect("a volume")
    }

    #[test]
    fn only_released_volumes_of_our_class_on_our_node_are_removed() {
        assert!(is_ours_to_remove(&pv("Released", "Delete", LOCAL_PATH, "n"), "n"));
        for other in [
            pv("Bound", "Delete", LOCAL_PATH, "n"),
            pv("Released", "Retain", LOCAL_PATH, "n"),
            pv("Released", "Delete", "other", "n"),
            pv("Released", "Delete", LOCAL_PATH, "m"),
        ] {
            assert!(!is_ours_to_remove(&other, "n"));
        }
    }
}
