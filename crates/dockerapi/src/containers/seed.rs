//! A container's files on the host, whether it runs or not; and what a fresh volume gets of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image::RootFs;

use crate::containers::create::root_key;
use crate::containers::record::Record;
use crate::containers::tree::{Root, copy_into};
use crate::face::Face;
use crate::fault::{Fault, Result, blocking};

/// A file system that is mounted for as long as this lives.
pub struct Mounted {
    path: PathBuf,
    ours: bool,
}

impl Mounted {
    /// The root of a container. One that runs has it mounted; another's is mounted now, and whoever asks keeps it from being
    /// started meanwhile. Blocks.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn of(face: &Arc<Face>, record: &Record) -> Result<Self> {
        if let Ok(path) = face.engine.mounted_root(&record.id) {
            return Ok(Mounted { path, ours: false });
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let images = face.engine.images();
        let info =
            images.get(&record.image_id)?.ok_or_else(|| Fault::missing(format!("No such image: {}", record.image)))?;
        let layers = images.snapshot(&root_key(&record.id), &info)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Below the engine's folder of mounts, so that taking the instance down finds it.
        let path =
            face.engine.instance().run_dir().join("docker-mounts").join(format!("{}-{number}", &record.id[..12]));
        std::fs::create_dir_all(&path).map_err(|e| Fault::io("make a folder to mount on", &e))?;
        layers.mount(&path)?;
        Ok(Mounted { path, ours: true })
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.ours {
            if let Err(error) = RootFs::unmount(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "not unmounted");
            }
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Gives a volume that has nothing yet what the image has where it is mounted, as Docker does.
///
/// # Errors
/// When it cannot be copied.
pub async fn volumes(face: &Arc<Face>, record: &Record) -> Result<()> {
    let fresh: Vec<(PathBuf, PathBuf)> = record
        .mounts
        .iter()
        .filter(|m| m.kind == "volume" && !m.no_copy && is_empty(&m.source))
        .map(|m| (m.target.clone(), m.source.clone()))
        .collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let (face, record) = (face.clone(), record.clone());
    blocking(move || {
        let mounted = Mounted::of(&face, &record)?;
        let root = Root::open(mounted.path()).map_err(|e| Fault::io("open the container's files", &e))?;
        for (path, volume) in fresh {
            if root.stat(&path).is_ok() {
                copy_into(&root, &path, &volume).map_err(|e| Fault::io("copy the image's files into a volume", &e))?;
            }
        }
        Ok::<_, Fault>(())
    })
    .await
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
