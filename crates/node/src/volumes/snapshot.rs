//! Snapshots of volumes of the local-path class: a folder for each, beside the volumes, with what was in the volume and a few
//! words about it. A folder that has its name is whole: it is filled under another, written to the disk, and then renamed.
//!
//! What is written to a volume while it is copied may be in the snapshot or not, file by file.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use reconcile::volume::RESTORE_OF;
use reconcile::volume::snapshot::{
    ContentStatus, MANAGED_BY, VolumeSnapshotContent, Work, failed, handle, nothing_left, work,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{claim, disk, mounts};
use crate::context::Context;

/// A snapshot that could not be taken or removed is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);
/// Names of folders that are being filled begin with it.
const NEW: &str = ".new-";
/// What was in the volume.
const DATA: &str = "data";
/// The words about it.
const ABOUT: &str = "snapshot.json";

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    /// The PersistentVolume that it is of.
    volume: String,
    /// When the copying began, in nanoseconds since 1970: what was written before is in it.
    created: i64,
    /// What the volume holds, in bytes.
    size: i64,
}

impl About {
    fn status(&self, node: &str, name: &str) -> ContentStatus {
        ContentStatus {
            snapshot_handle: Some(handle(node, name)),
            creation_time: Some(self.created),
            restore_size: Some(self.size),
            ready_to_use: Some(true),
            error: None,
        }
    }
}

/// Whether it can be the name of a snapshot's folder.
fn check(name: &str) -> Result<(), String> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    plain.then_some(()).ok_or_else(|| format!("{name:?} is no name of a snapshot"))
}

/// The folder with what was in the volume.
///
/// # Errors
/// There is no such snapshot on this node.
pub(super) fn data(ctx: &Context, name: &str) -> Result<PathBuf, String> {
    check(name)?;
    let at = ctx.paths.local_snapshot(name).join(DATA);
    if at.is_dir() { Ok(at) } else { Err(format!("there is no snapshot {name:?} on this node")) }
}

/// What is known of the snapshot in a folder; none if there is none.
fn find(at: &Path) -> io::Result<Option<About>> {
    match std::fs::read(at.join(ABOUT)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(serde_json::from_slice(&other?)?)),
    }
}

/// Makes the folder `at` a snapshot of what is in `from`.
fn store(from: &Path, at: &Path, about: &About) -> io::Result<()> {
    let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(io::Error::other(format!("{} is no place for a snapshot", at.display())));
    };
    let mut new = std::ffi::OsString::from(NEW);
    new.push(name);
    let new = folder.join(new);
    mounts::remove_tree(&new)?;
    // Whoever may read a volume is its pods' matter; a snapshot is the node's alone.
    DirBuilder::new().recursive(true).mode(0o700).create(&new)?;
    std::fs::create_dir(new.join(DATA))?;
    disk::copy(from, &new.join(DATA))?;
    std::fs::write(new.join(ABOUT), serde_json::to_vec(about)?)?;
    disk::durable(&new)?;
    std::fs::rename(&new, at)?;
    File::open(folder)?.sync_all()
}

/// Takes a snapshot of a volume, unless it is there already.
fn take(ctx: &Context, pv: &PersistentVolume, name: &str) -> Result<About, String> {
    check(name)?;
    let at = ctx.paths.local_snapshot(name);
    let fault = |e: io::Error| format!("take snapshot {}: {e}", at.display());
    if let Some(about) = find(&at).map_err(fault)? {
        return Ok(about);
    }
    let volume = pv.metadata.name.clone().unwrap_or_default();
    let size = i64::try_from(claim::bytes(pv)?).unwrap_or(i64::MAX);
    // Nobody may have used it yet: then it is empty, or a copy.
    claim::fill(ctx, pv)?;
    let created = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let about = About { volume, created, size };
    let source = disk::of(&ctx.paths.local_volume(&about.volume));
    source.lend(|from| store(from, &at, &about)).map_err(fault)?;
    Ok(about)
}

/// Removes a snapshot. `made_of_it` are the volumes that begin as it: those that nobody has used yet are filled first.
fn remove(ctx: &Context, name: &str, made_of_it: &[PersistentVolume]) -> Result<(), String> {
    check(name)?;
    let at = ctx.paths.local_snapshot(name);
    if find(&at).is_ok_and(|found| found.is_some()) {
        made_of_it.iter().try_for_each(|pv| claim::fill(ctx, pv))?;
    }
    let unfinished = ctx.paths.local_snapshot(&format!("{NEW}{name}"));
    [at, unfinished]
        .iter()
        .try_for_each(|at| mounts::remove_tree(at))
        .map_err(|e| format!("remove snapshot {name}: {e}"))
}

/// Follows contents of snapshots of volumes on this node, and does what is to be done for them, one at a time: the disk is what
/// it takes.
pub(crate) async fn keep(ctx: Arc<Context>, drain: Drain) {
    let api: Api<VolumeSnapshotContent> = Api::all(ctx.client());
    let own = watcher::Config::default().labels(&format!("{MANAGED_BY}={}", ctx.config.node_name));
    let mut events = follow::watch::<VolumeSnapshotContent>(ctx.client(), None, own).default_backoff().boxed();
    let mut left: BTreeMap<String, VolumeSnapshotContent> = BTreeMap::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep(RETRY), if !left.is_empty() => {
                for (name, content) in std::mem::take(&mut left) {
                    if !pass(&ctx, &api, &content).await {
                        left.insert(name, content);
                    }
                }
                continue;
            }
            () = drain.cancelled() => return,
        };
        match event {
            None => return,
            Some(Ok(watcher::Event::Apply(content) | watcher::Event::InitApply(content))) => {
                let name = content.metadata.name.clone().unwrap_or_default();
                left.remove(&name);
                if !pass(&ctx, &api, &content).await {
                    left.insert(name, content);
                }
            }
            Some(Ok(watcher::Event::Delete(content))) => {
                left.remove(content.metadata.name.as_deref().unwrap_or_default());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::debug!(%error, "watch of contents of snapshots failed"),
        }
    }
}

/// Does what is to be done for a content; false when that is to be tried again.
async fn pass(ctx: &Arc<Context>, api: &Api<VolumeSnapshotContent>, content: &VolumeSnapshotContent) -> bool {
    let Some(work) = work(content, &ctx.config.node_name) else { return true };
    let name = content.metadata.name.as_deref().unwrap_or_default();
    let outcome = carry_out(ctx, work).await;
    let (status, done) = match outcome {
        Ok(status) => (Some(status), true),
        Err(why) => {
            tracing::warn!(content = name, why, "snapshot");
            (failed(content, &why, Timestamp::now()), false)
        }
    };
    let Some(status) = status else { return done };
    // What is not said is no more.
    let mut said = json!({"snapshotHandle": null, "creationTime": null, "restoreSize": null, "error": null});
    let status = serde_json::to_value(&status).unwrap_or_default();
    for (key, value) in status.as_object().into_iter().flatten() {
        said[key] = value.clone();
    }
    let patch = json!({"metadata": {"uid": content.metadata.uid}, "status": said});
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => done,
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => true,
        Err(error) => {
            tracing::warn!(content = name, %error, "status of a snapshot not written");
            false
        }
    }
}

async fn carry_out(ctx: &Arc<Context>, work: Work<'_>) -> Result<ContentStatus, String> {
    let volumes: Api<PersistentVolume> = Api::all(ctx.client());
    match work {
        Work::Take { volume, snapshot } => {
            let pv = volumes.get(volume).await.map_err(|e| format!("get persistentvolume {volume:?}: {e}"))?;
            let (of, name) = (ctx.clone(), snapshot.to_owned());
            let about = blocking(move || take(&of, &pv, &name)).await?;
            Ok(about.status(&ctx.config.node_name, snapshot))
        }
        Work::Find(snapshot) => {
            check(snapshot)?;
            let at = ctx.paths.local_snapshot(snapshot);
            let found = blocking(move || find(&at).map_err(|e| format!("read {}: {e}", at.display()))).await?;
            let about = found.ok_or_else(|| format!("there is no snapshot {snapshot:?} on this node"))?;
            Ok(about.status(&ctx.config.node_name, snapshot))
        }
        Work::Remove(snapshot) => {
            let all = volumes.list(&ListParams::default()).await.map_err(|e| format!("list persistentvolumes: {e}"))?;
            // What is released goes, and need not be filled before.
            let of_it = |pv: &PersistentVolume| {
                let bound = pv.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Released");
                let of = pv.metadata.annotations.as_ref().and_then(|a| a.get(RESTORE_OF));
                bound && pv.metadata.deletion_timestamp.is_none() && of.is_some_and(|of| of == snapshot)
            };
            let made_of_it: Vec<PersistentVolume> = all.items.into_iter().filter(of_it).collect();
            let (of, name) = (ctx.clone(), snapshot.to_owned());
            blocking(move || remove(&of, &name, &made_of_it)).await?;
            Ok(nothing_left())
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_whole_or_not_there() {
        let dir = tempfile::tempdir().expect("dir");
        let (from, at) = (dir.path().join("volume"), dir.path().join(".snapshots/s"));
        std::fs::create_dir_all(from.join("sub")).expect("dir");
        std::fs::write(from.join("sub/file"), "before").expect("file");
        std::os::unix::fs::symlink("sub/file", from.join("link")).expect("link");
        let about = About { volume: "pvc-1".into(), created: 1, size: 2 };
        assert_eq!(find(&at).expect("looked"), None);
        // What a copy that was cut short has left is not in the way, nor taken for a snapshot.
        std::fs::create_dir_all(dir.path().join(".snapshots/.new-s/data")).expect("dir");
        std::fs::write(dir.path().join(".snapshots/.new-s/data/half"), "x").expect("file");
        assert_eq!(find(&at).expect("looked"), None);
        store(&from, &at, &about).expect("stored");
        std::fs::write(from.join("sub/file"), "after").expect("file");
        assert_eq!(find(&at).expect("looked"), Some(about));
        assert_eq!(std::fs::read_to_string(at.join("data/sub/file")).expect("kept"), "before");
        assert_eq!(std::fs::read_link(at.join("data/link")).expect("kept"), Path::new("sub/file"));
        assert!(!at.join("data/half").exists() && !dir.path().join(".snapshots/.new-s").exists());
    }

    #[test]
    fn names_stay_in_their_folder() {
        assert_eq!(check("snapcontent-1"), Ok(()));
        for wrong in ["", ".new-s", "..", "a/b", "/a"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
