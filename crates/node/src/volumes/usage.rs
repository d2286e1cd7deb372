//! `emptyDir.sizeLimit` on disk: nothing in the kernel holds a folder to a size, so it is measured, as the kubelet does.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;
use reconcile::pod::Failure;

use crate::paths::Paths;

/// How often a pod with such a limit is measured (the kubelet's eviction interval).
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Folders deeper than this are not entered: a container may make them as deep as it likes.
const DEPTH: usize = 256;

/// A limit on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    volume: String,
    bytes: u64,
    text: String,
}

/// The limits a pod's volumes on disk have. Those in memory are held by their file system.
pub(crate) fn limits(pod: &Pod) -> Vec<Limit> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| {
            let e = v.empty_dir.as_ref().filter(|e| e.medium.as_deref() != Some("Memory"))?;
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

/// The first limit that is exceeded, as the reason to evict the pod. Blocks.
pub(crate) fn exceeded(paths: &Paths, uid: &str, limits: &[Limit]) -> Option<Failure> {
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
        assert_eq!(limits(&pod), [Limit { volume: "a".into(), bytes: 1 << 20, text: "1Mi".into() }]);
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
    }
}
