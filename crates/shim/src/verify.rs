//! The last look before a container's program runs, from inside its mount namespace: is everything hidden and frozen
//! that the spec says is? libcontainer puts the masks in place by name, and what a name leads to may be a container's
//! choice: a volume may hold links, and a container that shares it may swap them meanwhile (CVE-2025-31133,
//! CVE-2025-52565, CVE-2025-52881). So what came of it is looked at, and a container whose masks are not there does not
//! run.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

/// What was found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing: the kernel has no such file.
    Nothing,
    Dir {
        tmpfs: bool,
        read_only: bool,
    },
    /// A character device, by major and minor number.
    Device(u64, u64),
    Other {
        read_only: bool,
    },
}

impl Found {
    /// A file is masked by the null device, a folder by an empty file system that cannot be written.
    fn is_mask(self) -> bool {
        matches!(self, Found::Nothing | Found::Device(1, 3) | Found::Dir { tmpfs: true, read_only: true })
    }

    fn is_read_only(self) -> bool {
        matches!(self, Found::Nothing | Found::Dir { read_only: true, .. } | Found::Other { read_only: true })
    }
}

fn look(path: &Path) -> io::Result<Found> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENOTDIR)) => {
            return Ok(Found::Nothing);
        }
        Err(e) => return Err(e),
    };
    if meta.file_type().is_char_device() {
        return Ok(Found::Device(major(meta.rdev()), minor(meta.rdev())));
    }
    let read_only = statvfs(path)?.flags().contains(FsFlags::ST_RDONLY);
    Ok(match meta.is_dir() {
        true => Found::Dir { tmpfs: is_of(path, TMPFS_MAGIC)?, read_only },
        false => Found::Other { read_only },
    })
}

fn is_of(path: &Path, kind: FsType) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == kind)
}

/// Says what is not as the spec wants it. A filter of the pod's own may forbid the look itself, with an error that these
/// file systems never give: then there is nothing to say.
///
/// # Errors
/// The sentence for the pod's status: a path that is seen and should not be, or can be written and should not.
pub(crate) fn masks(spec: &Spec) -> Result<(), String> {
    match compare(spec) {
        Err(Wrong::Look(_, e)) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => Ok(()),
        Err(Wrong::Look(path, e)) => Err(format!("look at {path}: {e}")),
        Err(Wrong::Open(sentence)) => Err(sentence),
        Ok(()) => Ok(()),
    }
}

enum Wrong {
    /// This path could not be looked at.
    Look(String, io::Error),
    /// A mask is missing.
    Open(String),
}

fn compare(spec: &Spec) -> Result<(), Wrong> {
    let at = |path: &str, e: io::Error| Wrong::Look(path.to_owned(), e);
    let proc_wanted =
        spec.mounts().iter().flatten().any(|m| m.typ().as_deref() == Some("proc") && m.destination() == "/proc");
    if proc_wanted && !is_of(Path::new("/proc"), PROC_SUPER_MAGIC).map_err(|e| at("/proc", e))? {
        return Err(Wrong::Open("/proc is not the kernel's: another mount covers it".to_owned()));
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.masked_paths().iter().flatten() {
        if !look(Path::new(path)).map_err(|e| at(path, e))?.is_mask() {
            return Err(Wrong::Open(format!("{path} should be masked and is not")));
        }
    }
    if proc_wanted {
        let masks = linux.masked_paths().iter().chain(linux.readonly_paths().iter()).flatten();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| at("/proc/self/mountinfo", e))?;
        if let Some(point) = in_proc(&mounts, &masks.map(String::as_str).collect::<Vec<_>>()) {
            return Err(Wrong::Open(format!("{point:?} cannot be mounted because it is inside /proc")));
        }
    }
    for path in linux.readonly_paths().iter().flatten() {
        let found = look(Path::new(path)).map_err(|e| at(path, e))?;
        let kernels = |path: &str| is_of(Path::new(path), PROC_SUPER_MAGIC).map_err(|e| at(path, e));
        if found != Found::Nothing && path.starts_with("/proc/") && !kernels(path)? {
            return Err(Wrong::Open(format!("{path:?} cannot be mounted because it is inside /proc")));
        }
        // A mask is stricter than what is asked for.
        if !found.is_read_only() && !found.is_mask() {
            return Err(Wrong::Open(format!("{path} should be read-only and is not")));
        }
    }
    Ok(())
}

/// A mount in `/proc` that is neither a mask nor a frozen piece of the kernel's own nor one that emulators make.
fn in_proc<'a>(mountinfo: &'a str, masks: &[&str]) -> Option<&'a str> {
    const EMULATED: [&str; 8] = ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];
    mountinfo.lines().find_map(|line| {
        // proc_pid_mountinfo(5): the mount point is the fifth field, the file system's type the first after the dash.
        let (fields, of) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        let inside = point.strip_prefix("/proc/")?;
        let kind = of.split(' ').next()?;
        // A mask was looked at; a frozen path shows what was there, which must be the kernel's.
        let ours = masks.contains(&point) && matches!(kind, "proc" | "tmpfs" | "devtmpfs" | "ramfs");
        // Comes along with a bind of the host's own /proc.
        let formats = inside == "sys/fs/binfmt_misc" && matches!(kind, "autofs" | "binfmt_misc");
        (!ours && !formats && !EMULATED.contains(&inside)).then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_proc_is_found_whatever_led_there() {
        let masks = ["/proc/keys", "/proc/sys", "/proc/acpi"];
        let line = |point: &str, kind: &str| format!("1 2 0:3 / {point} rw,nosuid - {kind} none rw\n");
        let ordinary = line("/", "overlay")
            + &line("/proc", "proc")
            + &line("/proc/sys", "proc")
            + &line("/proc/keys", "devtmpfs")
            + &line("/proc/acpi", "tmpfs")
            + &line("/proc/cpuinfo", "fuse.lxcfs")
            + &line("/process", "ext4");
        assert_eq!(in_proc(&ordinary, &masks), None);
        for (point, kind) in [("/proc/7/attr", "ext4"), ("/proc/sys", "ext4"), ("/proc/sys/kernel", "tmpfs")] {
            assert_eq!(in_proc(&(ordinary.clone() + &line(point, kind)), &masks), Some(point));
        }
    }

    #[test]
    fn a_mask_is_the_null_device_or_a_frozen_empty_folder_and_nothing_else() {
        for mask in [Found::Nothing, Found::Device(1, 3), Found::Dir { tmpfs: true, read_only: true }] {
            assert!(mask.is_mask(), "{mask:?}");
        }
        for open in [
            // /dev/zero, the file itself, its folder, a folder that a container may fill.
            Found::Device(1, 5),
            Found::Other { read_only: true },
            Found::Other { read_only: false },
            Found::Dir { tmpfs: false, read_only: true },
            Found::Dir { tmpfs: true, read_only: false },
        ] {
            assert!(!open.is_mask(), "{open:?}");
        }
        assert!(Found::Dir { tmpfs: false, read_only: true }.is_read_only());
        assert!(!Found::Other { read_only: false }.is_read_only());
        assert!(!Found::Device(1, 1).is_read_only());
    }

    #[test]
    fn what_the_host_shows_is_told_apart() {
        assert_eq!(look(Path::new("/dev/null")).unwrap(), Found::Device(1, 3));
        assert_eq!(look(Path::new("/proc/no-such-file")).unwrap(), Found::Nothing);
        assert_eq!(look(Path::new("/proc/self/stat/below")).unwrap(), Found::Nothing);
        let dir = tempfile::tempdir().unwrap();
        // A link is not what it leads to: a mask that was put there by name is elsewhere.
        let link = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(!look(&link).unwrap().is_mask());
        assert!(!look(dir.path()).unwrap().is_read_only());
    }

    #[test]
    fn a_spec_whose_masks_are_not_there_is_refused() {
        let spec = |linux: serde_json::Value| -> Spec {
            serde_json::from_value(serde_json::json!({ "ociVersion": "1.0.2", "linux": linux })).unwrap()
        };
        let refused = masks(&spec(serde_json::json!({ "maskedPaths": ["/proc/version"] }))).unwrap_err();
        assert_eq!(refused, "/proc/version should be masked and is not");
        let refused = masks(&spec(serde_json::json!({ "readonlyPaths": ["/dev/shm"] })));
        assert!(refused.is_err() || !Path::new("/dev/shm").exists());
        assert_eq!(masks(&spec(serde_json::json!({ "maskedPaths": ["/dev/null", "/proc/none"] }))), Ok(()));
    }
}
