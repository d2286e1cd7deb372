//! How full the volumes behind claims are: asked of their driver where it can say, else of the file system.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::csi::{self, Csi};

/// A file system that says nothing, such as that of a server that is gone, is not waited for.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A look is good for this long.
const FRESH: Duration = Duration::from_secs(10);
/// Volumes looked at at the same time.
const AT_ONCE: usize = 8;

/// What is in a volume; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) used_bytes: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) inodes_free: Option<u64>,
    pub(crate) inodes_used: Option<u64>,
}

/// A volume of a pod that is behind a claim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claimed {
    /// Its name in the pod.
    pub(crate) name: String,
    pub(crate) claim: String,
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    /// The driver to ask.
    pub(crate) driver: Option<csi::Volume>,
}

/// One that was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) claim: String,
    pub(crate) fill: Fill,
}

#[derive(Debug)]
struct Entry {
    volume: Claimed,
    last: Mutex<Option<(Instant, Fill)>>,
    /// A look that is not over, perhaps never will be: no second one is begun.
    busy: Arc<AtomicBool>,
}

/// The volumes of all pods, by the pod's UID.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<HashMap<String, Vec<Arc<Entry>>>>,
    drivers: OnceLock<Arc<Csi>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("entries", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// Who is asked for volumes of drivers.
    pub(crate) fn with(&self, drivers: Arc<Csi>) {
        let _first_stays = self.drivers.set(drivers);
    }

    /// A pod has the volume now.
    pub(super) fn add(&self, uid: &str, volume: Claimed) {
        let mut entries = self.entries.lock();
        let of_pod = entries.entry(uid.to_owned()).or_default();
        if of_pod.iter().any(|e| e.volume == volume) {
            return;
        }
        of_pod.retain(|e| e.volume.name != volume.name);
        of_pod.push(Arc::new(Entry { volume, last: Mutex::default(), busy: Arc::default() }));
    }

    /// The pod has no volumes any more.
    pub(super) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Looks at the volumes of all pods, by UID.
    pub(crate) async fn look(&self) -> BTreeMap<String, Vec<Seen>> {
        let all: Vec<(String, Arc<Entry>)> = {
            let entries = self.entries.lock();
            entries.iter().flat_map(|(uid, list)| list.iter().map(move |e| (uid.clone(), e.clone()))).collect()
        };
        let looks = all.into_iter().map(|(uid, entry)| async move {
            let fill = self.fill(&uid, &entry).await?;
            let Claimed { name, claim, .. } = entry.volume.clone();
            Some((uid, Seen { name, claim, fill }))
        });
        let looks: Vec<_> = looks.collect();
        let found: Vec<_> = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        let mut seen: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for (uid, one) in found.into_iter().flatten() {
            seen.entry(uid).or_default().push(one);
        }
        seen.values_mut().for_each(|list| list.sort_by(|a, b| a.name.cmp(&b.name)));
        seen
    }

    async fn fill(&self, uid: &str, entry: &Entry) -> Option<Fill> {
        if let Some((at, fill)) = *entry.last.lock()
            && at.elapsed() < FRESH
        {
            return Some(fill);
        }
        let fill = match self.of_driver(uid, &entry.volume).await {
            Some(fill) => fill,
            None if entry.busy.swap(true, Ordering::AcqRel) => return None,
            None => {
                let (path, block, busy) = (entry.volume.path.clone(), entry.volume.block, entry.busy.clone());
                let look = tokio::task::spawn_blocking(move || {
                    let fill = of_host(&path, block);
                    busy.store(false, Ordering::Release);
                    fill
                });
                tokio::time::timeout(LOOK_MAX, look).await.ok()?.ok()??
            }
        };
        *entry.last.lock() = Some((Instant::now(), fill));
        Some(fill)
    }

    async fn of_driver(&self, uid: &str, volume: &Claimed) -> Option<Fill> {
        let look = self.drivers.get()?.fill(uid, volume.driver.as_ref()?);
        tokio::time::timeout(LOOK_MAX, look).await.ok()?.ok()?
    }
}

/// What the host says of the file system or the device at a path.
fn of_host(path: &Path, block: bool) -> Option<Fill> {
    if block {
        use std::io::Seek;
        let size = std::fs::File::open(path).and_then(|mut device| device.seek(std::io::SeekFrom::End(0))).ok()?;
        return Some(Fill { capacity_bytes: Some(size), ..Fill::default() });
    }
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks * s.fragment_size();
    Some(Fill {
        capacity_bytes: Some(bytes(s.blocks())),
        available_bytes: Some(bytes(s.blocks_available())),
        used_bytes: Some(bytes(s.blocks().saturating_sub(s.blocks_free()))),
        inodes: Some(s.files()),
        inodes_free: Some(s.files_free()),
        inodes_used: Some(s.files().saturating_sub(s.files_free())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(name: &str, path: &Path, block: bool) -> Claimed {
        Claimed { name: name.into(), claim: "data".into(), path: path.to_path_buf(), block, driver: None }
    }

    #[tokio::test]
    async fn the_file_system_of_a_volume_says_how_full_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("device");
        std::fs::write(&file, vec![0; 4096]).expect("file");
        let registry = Registry::default();
        registry.add("u", claimed("v", dir.path(), false));
        registry.add("u", claimed("b", &file, true));
        registry.add("u", claimed("gone", &dir.path().join("none"), false));
        let seen = registry.look().await;
        let names: Vec<_> = seen["u"].iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["b", "v"]);
        assert_eq!(seen["u"][0].fill, Fill { capacity_bytes: Some(4096), ..Fill::default() });
        let fill = seen["u"][1].fill;
        assert!(fill.capacity_bytes > fill.available_bytes && fill.available_bytes > Some(0));
        assert!(fill.used_bytes > Some(0) && fill.inodes >= fill.inodes_free);
        registry.forget("u");
        assert!(registry.look().await.is_empty());
    }
}
