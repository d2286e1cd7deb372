//! Limits on local disk, of `emptyDir` volumes and of `ephemeral-storage`: nothing in the kernel holds a folder to a size,
//! so it is measured, as the kubelet does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use reconcile::eviction::Taken;
use reconcile::pod::Failure;

use crate::paths::{Paths, PodId};

/// How often a pod with such a limit is measured (the kubelet's eviction interval).
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Folders deeper than this are not entered: a container may make them as deep as it likes.
const DEPTH: usize = 256;
/// More files than this are not counted: whoever has so many is chosen by that.
const FILES: u64 = 1 << 20;

/// A limit on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The volume, or the container.
    volume: String,
    bytes: u64,
    text: String,
}

/// The limits of a pod that are measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    volumes: Vec<Limit>,
    /// Of containers: what they write to their own file system and to their log.
    containers: Vec<Limit>,
    /// Of all of it together, with the volumes on disk.
    pod: Option<Limit>,
    /// Volumes on disk.
    on_disk: Vec<String>,
}

impl Limits {
    pub(crate) fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.containers.is_empty()
    }
}

/// Volumes in memory or of huge pages take nothing of the disk.
fn is_on_disk(volume: &EmptyDirVolumeSource) -> bool {
    volume.medium.as_deref().is_none_or(str::is_empty)
}

fn on_disk(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let disk = volumes.filter(|v| v.empty_dir.as_ref().is_some_and(is_on_disk));
    disk.map(|v| v.name.clone()).collect()
}

/// All limits of a pod.
pub(crate) fn limits(pod: &Pod) -> Limits {
    let containers: Vec<Limit> = pod
        .spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
        .filter_map(|c| {
            let text = c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0.clone();
            let bytes = u64::try_from(Quantity::parse(&text).ok()?.value()).ok().filter(|b| *b > 0)?;
            Some(Limit { volume: c.name.clone(), bytes, text })
        })
        .collect();
    let sum = containers.iter().map(|l| l.bytes).sum::<u64>();
    let text = if containers.len() == 1 { containers[0].text.clone() } else { sum.to_string() };
    let pod_limit = (!containers.is_empty()).then(|| Limit { volume: String::new(), bytes: sum, text });
    Limits { volumes: volume_limits(pod), containers, pod: pod_limit, on_disk: on_disk(pod) }
}

/// The limits a pod's volumes on disk have. Those in memory are held by their file system.
fn volume_limits(pod: &Pod) -> Vec<Limit> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| {
            let e = v.empty_dir.as_ref().filter(|e| is_on_disk(e))?;
            let text = e.size_limit.as_ref()?.0.clone();
            let bytes = u64::try_from(Quantity::parse(&text).ok()?.value()).ok().filter(|b| *b > 0)?;
            Some(Limit { volume: v.name.clone(), bytes, text })
        })
        .collect()
}

/// Bytes a folder takes on disk, at least; counting stops above `enough`. A file with several names counts once.
fn measure(folder: &Path, enough: u64, depth: usize, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<u64> {
    let mut sum = 0u64;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(meta) => meta,
            // Containers go on while we count.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
            sum = sum.saturating_add(meta.blocks().saturating_mul(512));
        }
        if meta.is_dir() && depth < DEPTH && sum <= enough {
            sum = sum.saturating_add(measure(&entry.path(), enough - sum, depth + 1, seen).unwrap_or(0));
        }
        if sum > enough {
            break;
        }
    }
    Ok(sum)
}

/// What folders take on disk. A file with several names counts once; of very many files the first ones count.
pub(crate) fn taken(folders: impl IntoIterator<Item = PathBuf>) -> Taken {
    let (mut sum, mut seen) = (Taken::default(), BTreeSet::new());
    let mut open: Vec<(PathBuf, usize)> = folders.into_iter().map(|f| (f, 0)).collect();
    while let Some((folder, depth)) = open.pop() {
        // Containers go on while we count.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() || meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
                sum.bytes = sum.bytes.saturating_add(meta.blocks().saturating_mul(512));
                sum.inodes += 1;
            }
            if sum.inodes >= FILES {
                return sum;
            }
            if meta.is_dir() && depth < DEPTH {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    sum
}

/// What a pod's volumes take of the node's disk. Blocks.
pub(crate) fn of_volumes(paths: &Paths, pod: &Pod) -> Taken {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    taken(on_disk(pod).iter().map(|name| paths.volume(uid, name)))
}

/// The first limit that is exceeded, as the reason to evict the pod. `written` is what its containers wrote to their own
/// file systems, bytes by name. Blocks.
pub(crate) fn exceeded(
    paths: &Paths,
    pod: &PodId,
    limits: &Limits,
    written: &BTreeMap<String, u64>,
) -> Option<Failure> {
    let uid = pod.uid.as_str();
    volume_exceeded(paths, uid, &limits.volumes).or_else(|| storage_exceeded(paths, pod, limits, written))
}

fn storage_exceeded(paths: &Paths, pod: &PodId, limits: &Limits, written: &BTreeMap<String, u64>) -> Option<Failure> {
    let whole = limits.pod.as_ref()?;
    let size = |folder: &Path, enough: u64| measure(folder, enough, 0, &mut BTreeSet::new()).unwrap_or(0);
    let logs = paths.pod_logs(&pod.namespace, &pod.name, &pod.uid);
    for Limit { volume: name, bytes, text } in &limits.containers {
        let used = written.get(name).copied().unwrap_or(0);
        let used = used.saturating_add(size(&logs.join(name), bytes.saturating_sub(used)));
        if used > *bytes {
            let message = format!("Container {name} exceeded its local ephemeral storage limit {text:?}. ");
            return Some(Failure::new("Evicted", message));
        }
    }
    let mut used = written.values().sum::<u64>();
    let folders = limits.on_disk.iter().map(|name| paths.volume(&pod.uid, name)).chain([logs]);
    for folder in folders {
        used = used.saturating_add(size(&folder, whole.bytes.saturating_sub(used)));
    }
    let text = &whole.text;
    (used > whole.bytes).then(|| {
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ");
        Failure::new("Evicted", message)
    })
}

fn volume_exceeded(paths: &Paths, uid: &str, limits: &[Limit]) -> Option<Failure> {
    limits.iter().find_map(|limit| {
        let folder = paths.volume(uid, &limit.volume);
        let used = measure(&folder, limit.bytes, 0, &mut BTreeSet::new()).unwrap_or(0);
        (used > limit.bytes).then(|| {
            let Limit { volume, text, .. } = limit;
            Failure::new("Evicted", format!("Usage of EmptyDir volume {volume:?} exceeds the limit {text:?}. "))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_volumes_on_disk_with_a_limit_are_measured() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "a", "emptyDir": {"sizeLimit": "1Mi"}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
        ]}}))
        .expect("a pod");
        assert_eq!(volume_limits(&pod), [Limit { volume: "a".into(), bytes: 1 << 20, text: "1Mi".into() }]);
    }

    #[test]
    fn what_containers_write_counts_with_their_logs_and_the_pods_volumes() {
        let dir = tempfile::tempdir().expect("dir");
        let instance = base::instance::Instance::new("t").expect("a name").with_data_dir(dir.path());
        let paths = Paths::of(&instance);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {
                "containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "1Mi"}}}, {"name": "b"}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        }))
        .expect("a pod");
        let (id, limits) = (PodId::of(&pod), limits(&pod));
        let told = |a: u64, b: u64| {
            let written = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
            exceeded(&paths, &id, &limits, &written).map(|f| f.message).unwrap_or_default()
        };
        assert_eq!(told(1000, 1000), "");
        assert_eq!(told(2 << 20, 0), "Container a exceeded its local ephemeral storage limit \"1Mi\". ");
        let log = paths.log(&id, "a", 0);
        std::fs::create_dir_all(log.parent().expect("a folder")).expect("dir");
        std::fs::write(&log, vec![b'x'; 600 << 10]).expect("log");
        assert!(told(500 << 10, 0).starts_with("Container a"));
        assert_eq!(told(0, 0), "");
        let volume = paths.volume("u", "v");
        std::fs::create_dir_all(&volume).expect("dir");
        std::fs::write(volume.join("f"), vec![b'x'; 600 << 10]).expect("file");
        assert_eq!(told(0, 0), "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ");
    }

    #[test]
    fn a_folder_is_measured_by_its_blocks_and_links_count_once() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir(dir.path().join("sub")).expect("dir");
        std::fs::write(dir.path().join("sub/a"), vec![1u8; 100_000]).expect("file");
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).expect("link");
        std::os::unix::fs::symlink("/", dir.path().join("root")).expect("link");
        let used = measure(dir.path(), u64::MAX, 0, &mut BTreeSet::new()).expect("measured");
        assert!((100_000..150_000).contains(&used), "{used}");
        assert!(measure(dir.path(), 10, 0, &mut BTreeSet::new()).expect("measured") > 10);
        let all = taken([dir.path().to_path_buf(), dir.path().join("none")]);
        assert_eq!((all.bytes, all.inodes), (used, 3), "a folder, a file with two names and a link");
    }
}
