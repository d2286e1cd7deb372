//! One step that changes files: an overlay is mounted, something is done in it, and what was written becomes a layer; or
//! all of that was done before.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use image::{BuiltLayer, LayerSource, RootFs};
use sha2::{Digest as _, Sha256};

use crate::error::{BuildError, Result};
use crate::files::root::Root;
use crate::progress::Step;
use crate::solve::Solver;

/// A key of the cache: a digest over everything a result is made from.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

/// A mounted file system of a build; unmounted and removed when dropped.
pub struct Mounted {
    /// The folder of its parts.
    dir: PathBuf,
    /// Where it is seen.
    pub path: PathBuf,
    /// What is below, topmost first.
    lower: Vec<PathBuf>,
    mounted: bool,
}

impl Mounted {
    /// Mounts layers, lowest first, with an empty folder on top for what is written.
    pub fn new(solver: &Solver<'_>, layers: &[BuiltLayer]) -> Result<Mounted> {
        let dir = solver.work_dir()?;
        let mut mounted = Mounted { path: dir.join("root"), dir, lower: Vec::new(), mounted: false };
        for name in ["root", "upper", "work", "empty"] {
            let path = mounted.dir.join(name);
            fs::create_dir(&path).map_err(|e| BuildError::io("make", &path, &e))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(|e| BuildError::io("change the mode of", &path, &e))?;
        }
        // Overlayfs takes no folder twice; the upper one covers all that the lower one has.
        let mut seen = std::collections::BTreeSet::new();
        let tops = layers.iter().rev().filter(|l| seen.insert(&l.diff_id));
        mounted.lower = tops.map(|l| solver.env.store.layer_dir(&l.diff_id)).collect();
        if mounted.lower.is_empty() {
            mounted.lower.push(mounted.dir.join("empty"));
        }
        if let Ok(meta) = fs::metadata(&mounted.lower[0]) {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            let upper = mounted.dir.join("upper");
            std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
                .and_then(|()| {
                    fs::set_permissions(&upper, fs::Permissions::from_mode(meta.permissions().mode() & 0o7777))
                })
                .map_err(|e| BuildError::io("change the owner of", &upper, &e))?;
        }
        let (upper, work) = (mounted.dir.join("upper"), mounted.dir.join("work"));
        RootFs { lower: mounted.lower.clone(), upper, work }.mount_for_diff(&mounted.path)?;
        mounted.mounted = true;
        Ok(mounted)
    }

    /// Its files.
    pub fn root(&self) -> Result<Root> {
        Root::open(&self.path).map_err(|e| BuildError::io("open", &self.path, &e))
    }

    /// A folder beside it for what a step needs.
    pub fn beside(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).map_err(|e| BuildError::io("make", &path, &e))?;
        Ok(path)
    }

    /// What was written, as a layer; `None` when nothing was.
    pub fn commit(mut self, solver: &Solver<'_>) -> Result<Option<BuiltLayer>> {
        self.unmount()?;
        let upper = self.dir.join("upper");
        let (latest, compression) = (solver.options.epoch, solver.options.compression);
        let source = LayerSource { upper: &upper, lower: &self.lower, latest, compression, skip: &[] };
        Ok(solver.env.store.add_layer(&source)?)
    }

    fn unmount(&mut self) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            RootFs::unmount(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = self.unmount().map_err(|e| e.message).and_then(|()| remove_work(&self.dir));
        if let Err(error) = gone {
            tracing::warn!(dir = %self.dir.display(), error, "what a build worked with stays until the next build");
        }
    }
}

/// Removes a folder of work under way; what is still mounted in it goes first.
pub fn remove_work(dir: &Path) -> Result<(), String> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|p| p.starts_with(dir)).collect();
    below.reverse();
    for point in below {
        RootFs::unmount(&point).map_err(|e| base::chain(&e))?;
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

/// What a step left.
pub struct Outcome {
    pub layer: Option<BuiltLayer>,
    /// When it was made, RFC 3339.
    pub created: String,
}

impl Solver<'_> {
    /// A new folder for work under way.
    pub fn work_dir(&self) -> Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = self.work.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path).map_err(|e| BuildError::io("make", &path, &e))?;
        Ok(path)
    }

    /// Does a step, or takes what it gave before. `below` are the layers it sees.
    pub fn step(
        &self,
        name: String,
        key: &str,
        below: &[BuiltLayer],
        work: impl FnOnce(&Mounted, &Step<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        self.check_canceled()?;
        self.steps.within(name, |step| {
            if !self.options.no_cache
                && let Some((layers, created)) = self.env.store.recall(key)?
            {
                step.cached();
                return Ok(Outcome { layer: layers.into_iter().next(), created });
            }
            let mounted = Mounted::new(self, below)?;
            work(&mounted, step)?;
            self.check_canceled()?;
            let layer = mounted.commit(self)?;
            let created = self.now();
            self.env.store.remember(key, layer.as_slice(), &created)?;
            Ok(Outcome { layer, created })
        })
    }

    /// The time that is written into images.
    pub fn now(&self) -> String {
        let now = jiff::Timestamp::now();
        let clamped = self.options.epoch.and_then(|s| jiff::Timestamp::from_second(s).ok()).map_or(now, |e| e.min(now));
        clamped.to_string()
    }

    /// Ends when somebody wants it to, or another stage failed.
    pub fn check_canceled(&self) -> Result<()> {
        if *self.stop.borrow() {
            return Err(BuildError::canceled());
        }
        Ok(())
    }
}
