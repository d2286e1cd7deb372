//! `subPath`: a part of a volume as the source of a mount. What is in the volume may come from a container, also while
//! we look, so every step is resolved beneath the volume by the kernel, and the inode found is what gets bound.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::mounts;

fn open(folder: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(folder.as_fd(), path, how)
}

/// Opens a path beneath `root`, making missing folders with the root's mode.
fn open_or_make(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(root, flags, Mode::empty())?;
    if let Ok(found) = open(&root, path) {
        return Ok(found);
    }
    let mode = nix::sys::stat::fstat(&root)?.st_mode & 0o7777;
    let mut at = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must stay in its volume"));
        };
        let parent = if at.as_os_str().is_empty() { root.try_clone()? } else { open(&root, &at)? };
        at.push(name);
        match open(&root, &at) {
            Ok(_) => {}
            Err(nix::errno::Errno::ENOENT) => match mkdirat(&parent, name, Mode::from_bits_truncate(0o750)) {
                Ok(()) => {
                    let made = open(&root, &at)?;
                    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
                }
                Err(nix::errno::Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            },
            Err(e) => return Err(e.into()),
        }
    }
    Ok(open(&root, path)?)
}

/// Binds `volume/subpath` at `target`, which is made as a file or folder like it. Done before, it is done again: the
/// volume's contents may have been swapped.
pub(crate) fn bind(volume: &Path, subpath: &str, target: &Path) -> io::Result<()> {
    if !super::atomic::is_safe(subpath) && !Path::new(subpath).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("subPath {subpath:?} must stay in its volume"),
        ));
    }
    let found = open_or_make(volume, Path::new(subpath))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_folder = std::fs::metadata(&source)?.is_dir();
    mounts::unmount_below(target)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if target.symlink_metadata().is_ok_and(|m| m.is_dir() != is_folder) {
        if is_folder { std::fs::remove_file(target)? } else { std::fs::remove_dir(target)? }
    }
    if is_folder {
        std::fs::create_dir_all(target)?;
    } else {
        std::fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mounts::bind(&source, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_subpath_is_bound_and_made_when_missing() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let (volume, target) = (dir.path().join("v"), dir.path().join("t/0"));
        std::fs::create_dir_all(&volume).expect("dir");
        bind(&volume, "a/b", &target).expect("bound");
        std::fs::write(target.join("f"), "x").expect("file");
        assert!(volume.join("a/b/f").exists());
        std::fs::write(volume.join("one"), "1").expect("file");
        bind(&volume, "one", &dir.path().join("t/1")).expect("bound");
        assert_eq!(std::fs::read_to_string(dir.path().join("t/1")).expect("read"), "1");
        mounts::unmount_below(dir.path()).expect("unmounted");
    }

    #[test]
    fn a_link_out_of_the_volume_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("real")).expect("dir");
        symlink("/etc", volume.join("abs")).expect("link");
        symlink("../..", volume.join("up")).expect("link");
        symlink("real", volume.join("inside")).expect("link");
        for bad in ["abs", "abs/passwd", "up", "up/x", "../v", "/etc"] {
            assert!(open_or_make(&volume, Path::new(bad)).is_err(), "{bad}");
        }
        assert!(open_or_make(&volume, Path::new("inside")).is_ok());
        assert!(open_or_make(&volume, Path::new("inside/made")).is_ok());
        assert!(volume.join("real/made").is_dir());
    }
}
