//! Huge pages: what the kernel has of each size, and what a pod may use of them
//! (Documentation/admin-guide/mm/hugetlbpage.rst).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use reconcile::pod::each;

/// What the names of the resources begin with; the size follows.
pub(crate) const PREFIX: &str = "hugepages-";
/// The medium of a volume of such pages; a size may follow.
const MEDIUM: &str = "HugePages";
const KERNEL: &str = "/sys/kernel/mm/hugepages";

/// Pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Bytes of a page.
    pub(crate) size: u64,
    /// How many there are, in use or not.
    pub(crate) count: u64,
}

impl Pool {
    pub(crate) fn bytes(self) -> u64 {
        self.size.saturating_mul(self.count)
    }
}

/// The pages that the kernel has now, smallest first. A kernel without any has no sizes either.
pub(crate) fn pools() -> Vec<Pool> {
    read(Path::new(KERNEL))
}

fn read(dir: &Path) -> Vec<Pool> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let pool = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix(PREFIX)?.strip_suffix("kB")?.parse().ok()?;
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some(Pool { size: kib.checked_mul(1024)?, count })
    };
    let mut pools: Vec<Pool> = entries.filter_map(pool).collect();
    pools.sort_by_key(|p| p.size);
    pools
}

/// The sizes of this kernel; they do not change.
pub(crate) fn sizes() -> &'static [u64] {
    static SIZES: LazyLock<Vec<u64>> = LazyLock::new(|| pools().into_iter().map(|p| p.size).collect());
    &SIZES
}

const UNITS: [(u64, char); 3] = [(1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')];

/// A size with the largest unit of which it is a multiple.
fn in_units(bytes: u64) -> (u64, char) {
    let (unit, letter) = UNITS.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or((1 << 10, 'K'));
    (bytes / unit, letter)
}

/// The name of the resource, e.g. `hugepages-2Mi`.
pub(crate) fn resource(size: u64) -> String {
    let (n, unit) = in_units(size);
    format!("{PREFIX}{n}{unit}i")
}

/// A size as cgroups name it, e.g. `2MB`.
fn kernel_name(size: u64) -> String {
    let (n, unit) = in_units(size);
    format!("{n}{unit}B")
}

fn bytes(text: &str) -> Option<u64> {
    u64::try_from(Quantity::parse(text).ok()?.value()).ok()
}

/// Bytes of a page of such a resource.
pub(crate) fn size_of(resource: &str) -> Option<u64> {
    bytes(resource.strip_prefix(PREFIX)?)
}

fn listed(list: Option<&BTreeMap<String, Text>>, size: u64) -> Option<u64> {
    let mut found = list?.iter().filter(|(name, _)| size_of(name) == Some(size));
    bytes(&found.next()?.1.0)
}

/// How much may be used of each of these sizes by what has these resources; nothing of what is not asked for. What the pod
/// as a whole has is for all of its containers that ask for none (KEP-2837).
pub(crate) fn limits_of(
    own: Option<&ResourceRequirements>,
    whole: Option<&ResourceRequirements>,
    sizes: &[u64],
) -> Vec<(String, u64)> {
    let of = |r: Option<&ResourceRequirements>, size: u64| listed(r?.limits.as_ref(), size);
    let limit = |size: &u64| of(own, *size).or_else(|| of(whole, *size)).unwrap_or(0);
    sizes.iter().map(|size| (kernel_name(*size), limit(size))).collect()
}

/// The same for a pod as a whole.
pub(crate) fn limits_of_pod(pod: &Pod, sizes: &[u64]) -> Vec<(String, u64)> {
    let asked = reconcile::scheduler::Amounts::asked_by(pod);
    let limit = |size: u64| -> u64 {
        let names = asked.names().filter(|name| size_of(name) == Some(size));
        names.map(|name| u64::try_from(asked.get(name)).unwrap_or(0)).sum()
    };
    sizes.iter().map(|size| (kernel_name(*size), limit(*size))).collect()
}

/// Whether a medium is one of huge pages.
pub(crate) fn is_medium(medium: &str) -> bool {
    medium == MEDIUM || medium.strip_prefix(MEDIUM).and_then(|m| m.strip_prefix('-')).and_then(bytes).is_some()
}

/// The size of the pages of a volume with that medium: that which it names, or the only one its pod asks for.
///
/// # Errors
/// The pod asks for none of that size, or for several.
pub(crate) fn size_for(medium: &str, pod: &Pod) -> Result<u64, String> {
    let wanted = medium.strip_prefix(MEDIUM).and_then(|m| m.strip_prefix('-')).and_then(bytes);
    let spec = pod.spec.as_ref();
    let owners = spec.iter().flat_map(|s| each(s)).map(|(_, c)| c.resources.as_ref());
    let all = owners.chain([spec.and_then(|s| s.resources.as_ref())]).flatten();
    let names = all.flat_map(|r| r.requests.iter().chain(r.limits.iter())).flat_map(BTreeMap::keys);
    let mut asked: Vec<u64> = names.filter_map(|name| size_of(name)).collect();
    asked.sort_unstable();
    asked.dedup();
    match (wanted, asked.as_slice()) {
        (Some(size), list) if list.contains(&size) => Ok(size),
        (None, [only]) => Ok(*only),
        (None, [_, _, ..]) => {
            Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"))
        }
        _ => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MIB: u64 = 1 << 20;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers}})).expect("a pod")
    }

    fn asks(list: serde_json::Value) -> serde_json::Value {
        json!({"name": "c", "resources": {"limits": list, "requests": list}})
    }

    #[test]
    fn pools_are_read_from_the_kernels_folders() {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, count) in [("hugepages-1048576kB", "0\n"), ("hugepages-2048kB", "12\n"), ("other", "1")] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
            std::fs::write(dir.path().join(name).join("nr_hugepages"), count).expect("written");
        }
        let pools = read(dir.path());
        assert_eq!(pools, [Pool { size: 2 * MIB, count: 12 }, Pool { size: 1024 * MIB, count: 0 }]);
        assert_eq!(pools[0].bytes(), 24 * MIB);
        assert_eq!(read(&dir.path().join("gone")), []);
    }

    #[test]
    fn sizes_have_a_name_each_for_people_and_kernels() {
        for (size, name, kernel) in [
            (64 << 10, "hugepages-64Ki", "64KB"),
            (2 * MIB, "hugepages-2Mi", "2MB"),
            (1024 * MIB, "hugepages-1Gi", "1GB"),
        ] {
            assert_eq!(
                (resource(size).as_str(), kernel_name(size).as_str(), size_of(name)),
                (name, kernel, Some(size))
            );
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_to_be_had() {
        let p = pod(json!([asks(json!({"hugepages-2Mi": "4Mi", "memory": "1Mi"})), {"name": "d"}]));
        let c = &p.spec.as_ref().expect("a spec").containers;
        let sizes = [2 * MIB, 1024 * MIB];
        let limits = |two: u64| vec![("2MB".to_owned(), two), ("1GB".to_owned(), 0)];
        assert_eq!(limits_of(c[0].resources.as_ref(), None, &sizes), limits(4 * MIB));
        assert_eq!(limits_of(c[1].resources.as_ref(), None, &sizes), limits(0));
        assert_eq!(limits_of(c[1].resources.as_ref(), c[0].resources.as_ref(), &sizes), limits(4 * MIB));
        assert_eq!(limits_of_pod(&p, &sizes), limits(4 * MIB));
    }

    #[test]
    fn a_volume_has_the_pages_that_its_pod_asks_for() {
        let two = pod(json!([asks(json!({"hugepages-2Mi": "4Mi"}))]));
        let both = pod(json!([asks(json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}))]));
        assert_eq!(size_for("HugePages", &two), Ok(2 * MIB));
        assert_eq!(size_for("HugePages-2Mi", &both), Ok(2 * MIB));
        assert_eq!(size_for("HugePages-1Gi", &both), Ok(1024 * MIB));
        for (medium, pod) in [("HugePages", &both), ("HugePages-1Gi", &two), ("HugePages", &pod(json!([])))] {
            assert!(size_for(medium, pod).is_err(), "{medium}");
        }
        assert!(is_medium("HugePages") && is_medium("HugePages-2Mi"));
        assert!(!is_medium("HugePages-") && !is_medium("HugePagesX") && !is_medium("Memory"));
    }
}
