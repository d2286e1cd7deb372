//! Files of a container's root, opened from outside: every path is resolved as if that root were `/` (openat2(2) with
//! RESOLVE_IN_ROOT), so a link in an image cannot lead to the host's files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

/// Most bytes read of a file such as `/etc/passwd`.
const FILE_MAX: u64 = 1 << 20;

fn root_of(root: &Path) -> io::Result<OwnedFd> {
    Ok(open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn resolve(root: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root.as_fd(), path, how)
}

/// The text of a regular file; `None` if it is not there.
pub fn read_text(root: &Path, path: &Path) -> io::Result<Option<String>> {
    let fd = match resolve(&root_of(root)?, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let file = File::from(fd);
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Makes the folder and its parents where they are missing; those belong to user and group `owner`.
pub fn create_dir_all(root: &Path, path: &Path, owner: u32) -> io::Result<()> {
    let root = root_of(root)?;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut so_far = std::path::PathBuf::new();
    let mut parent = resolve(&root, Path::new("."), folder)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        let opened = match resolve(&root, &so_far, folder) {
            Err(Errno::ENOENT) => {
                // The parent is an opened folder below the root, so a plain name in it stays there.
                mkdirat(parent.as_fd(), Path::new(name), Mode::from_bits_truncate(0o755))?;
                let made = resolve(&root, &so_far, folder)?;
                if owner != 0 {
                    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
                    fchownat(made.as_fd(), Path::new(""), Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
                }
                made
            }
            other => other?,
        };
        parent = opened;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/../..", root.join("up")).unwrap();
        assert_eq!(read_text(&root, Path::new("/etc/passwd")).unwrap(), None);
        create_dir_all(&root, Path::new("/up/made/here"), 0).unwrap();
        assert!(root.join("made/here").is_dir());
        assert!(!dir.path().join("made").exists());
        std::fs::write(root.join("secret"), "mine").unwrap();
        assert_eq!(read_text(&root, Path::new("/etc/passwd")).unwrap().as_deref(), Some("mine"));
    }
}
