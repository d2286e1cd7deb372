//! Mounts of the host's own: tmpfs for what must not reach a disk, binds for subpaths, and taking all of them away again.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Undoes the octal escapes of /proc/self/mountinfo.
pub(super) fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.as_bytes();
    while let Some((&b, rest)) = bytes.split_first() {
        let octal = |b: u8| (b'0'..=b'7').contains(&b).then(|| u32::from(b - b'0'));
        if b == b'\\'
            && rest.len() >= 3
            && let (Some(x), Some(y), Some(z)) = (octal(rest[0]), octal(rest[1]), octal(rest[2]))
        {
            out.push((x * 64 + y * 8 + z) as u8);
            bytes = &rest[3..];
        } else {
            out.push(b);
            bytes = rest;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Mount points at or below a path, deepest last.
pub(crate) fn below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|p| p.starts_with(path)).collect())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|p| p == path))
}

/// Mounts a tmpfs with these options unless one is there.
pub(crate) fn tmpfs(path: &Path, options: &str) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options))?)
}

/// Mounts a file system of huge pages of that size unless something is there.
pub(crate) fn huge_pages(path: &Path, size: u64) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let options = format!("pagesize={size},mode=0777");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("nodev"), path, Some("hugetlbfs"), flags, Some(options.as_str()))?)
}

/// Binds what `source` is onto `target`.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Unmounts everything at or below a path, deepest first. What is busy is detached.
pub(crate) fn unmount_below(path: &Path) -> io::Result<()> {
    super::nfs::let_go(path)?;
    // Several mounts may lie over each other at one point, and a detached one may uncover another.
    for _ in 0..16 {
        let points = below(path)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            let flags = MntFlags::UMOUNT_NOFOLLOW;
            if umount2(point, flags).is_err() {
                match umount2(point, flags | MntFlags::MNT_DETACH) {
                    // It was taken away with the one above it.
                    Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }
    Err(io::Error::other(format!("mounts below {} keep coming back", path.display())))
}

/// Removes a folder after unmounting all below it; never crosses into a file system that is still mounted.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    unmount_below(path)?;
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_mount_table_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape("/plain"), PathBuf::from("/plain"));
    }

    #[test]
    fn removing_a_tree_unmounts_first_and_spares_what_was_bound() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let precious = dir.path().join("precious");
        let pod = dir.path().join("pod");
        std::fs::create_dir_all(&precious).expect("dir");
        std::fs::create_dir_all(pod.join("v/mem")).expect("dir");
        std::fs::create_dir_all(pod.join("bound")).expect("dir");
        std::fs::write(precious.join("f"), "x").expect("file");
        tmpfs(&pod.join("v/mem"), "size=1m").expect("tmpfs");
        bind(&precious, &pod.join("bound")).expect("bind");
        remove_tree(&pod).expect("removed");
        assert!(!pod.exists());
        assert!(precious.join("f").exists());
    }
}
