//! What the host is and has.

use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

/// Facts of the host, read once at the start.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) cpus: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) hostname: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn os_image() -> String {
    let text = line("/etc/os-release");
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

/// The memory there is: the host's, or less where a cgroup of this process limits it.
fn memory() -> u64 {
    let total = sysinfo().map(|s| s.ram_total()).unwrap_or(0);
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    limits.iter().filter_map(|p| line(p).parse::<u64>().ok()).fold(total, u64::min)
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u64 {
    let found = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    found.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// What is neither free nor of files that were not used lately (proc_meminfo(5)), bytes.
fn in_use(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let rest = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    let idle = kib("MemFree:")?.saturating_add(kib("Inactive(file):")?);
    Some(kib("MemTotal:")?.saturating_sub(idle).saturating_mul(1024))
}

/// First kernel on which the mounts of a pod with users of its own can all be mapped: tmpfs can since then (mount_setattr(2)).
const MAPS_MOUNTS: (u32, u32) = (6, 3);

/// `6.18` of `6.18.44-cloud`.
fn release(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Host {
    /// Whether pods can have users of their own here (KEP-127).
    pub(crate) fn has_user_namespaces(&self) -> bool {
        let allowed = line("/proc/sys/user/max_user_namespaces").parse::<u64>().is_ok_and(|max| max > 0);
        allowed && release(&self.kernel).is_some_and(|version| version >= MAPS_MOUNTS)
    }

    /// Reads the facts; the disk is that of the data folder.
    pub(crate) fn read(data: &Path) -> Self {
        let names = uname().ok();
        let text = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            names.as_ref().map(|n| f(n).to_string_lossy().into_owned()).unwrap_or_default()
        };
        let disk = nix::sys::statvfs::statvfs(data).map(|s| s.blocks() * s.fragment_size()).unwrap_or(0);
        Host {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: memory(),
            disk_bytes: disk,
            hostname: text(|n| n.nodename()),
            kernel: text(|n| n.release()),
            os_image: os_image(),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }

    /// The architecture as Go and container images name it.
    pub(crate) fn arch() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    /// Bytes and inodes of the file system of `path` that are free, and how many there are.
    pub(crate) fn disk(path: &Path) -> Option<Disk> {
        let s = nix::sys::statvfs::statvfs(path).ok()?;
        Some(Disk {
            free: s.blocks_available() * s.fragment_size(),
            total: s.blocks() * s.fragment_size(),
            free_inodes: s.files_available(),
            inodes: s.files(),
        })
    }

    /// The memory there is now, bytes.
    pub(crate) fn memory_total() -> u64 {
        memory()
    }

    /// Memory in use but for files that were not used lately, bytes, as the kubelet computes it: by the root cgroup, or where
    /// that says nothing (v2) by the kernel as a whole.
    pub(crate) fn memory_working_set() -> Option<u64> {
        match engine::of_host().working_set_bytes {
            0 => in_use(&std::fs::read_to_string("/proc/meminfo").ok()?),
            bytes => Some(bytes),
        }
    }

    /// What is left of the memory beside that, bytes.
    pub(crate) fn memory_available() -> Option<u64> {
        Some(memory().saturating_sub(Self::memory_working_set()?))
    }

    /// How many tasks there can be and how many there are.
    pub(crate) fn tasks() -> Option<(u64, u64)> {
        let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
        let most = most.iter().filter_map(|p| line(p).parse::<u64>().ok()).min()?;
        // proc_loadavg(5): the fourth field is of those that can run now and of all.
        let load = line("/proc/loadavg");
        let all = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
        Some((most, all))
    }
}

/// Room on a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) free: u64,
    pub(crate) total: u64,
    pub(crate) free_inodes: u64,
    pub(crate) inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_leaves_out_old_files() {
        let text = "MemTotal:  1000 kB\nMemFree:  300 kB\nCached: 500 kB\nInactive(file):  200 kB\n";
        assert_eq!(in_use(text), Some(500 << 10));
        assert_eq!(in_use("MemTotal: 5 kB"), None);
        assert!(Host::memory_available().is_some_and(|b| b < Host::memory_total()));
        assert!(Host::tasks().is_some_and(|(most, now)| 0 < now && now < most));
    }

    #[test]
    fn a_kernels_release_begins_with_two_numbers() {
        assert_eq!(release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(release("6.3-rc1"), Some((6, 3)));
        assert!(release("5.10.0-30-amd64").is_some_and(|v| v < MAPS_MOUNTS));
        assert_eq!(release("unknown"), None);
    }
}
