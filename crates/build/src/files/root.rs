//! A folder that nothing leads out of: every path is resolved by the kernel as if the folder were `/` (openat2(2)), so
//! neither a hostile context nor a link in an image reaches the host's files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

/// Most bytes read of a file such as `/etc/passwd`.
const TEXT_MAX: u64 = 1 << 20;

/// The folder.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens an existing folder.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Root { fd: open(path, flags, Mode::empty())? })
    }

    fn resolve(&self, path: &Path, flags: OFlag, how: ResolveFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(how | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // The kernel asks for another try when a rename elsewhere raced with `..` in a link.
        for _ in 0..32 {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// A folder; links on the way are followed, inside.
    pub fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_IN_ROOT)?)
    }

    /// A folder as a root of its own.
    pub fn sub(&self, path: &Path) -> io::Result<Root> {
        Ok(Root { fd: self.dir(path)? })
    }

    /// A folder to which no link leads: the path is what it is.
    pub fn exact_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let how = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        Ok(self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY, how)?)
    }

    /// A file to be read, to which no link leads. What is no regular file is not waited for.
    pub fn exact_file(&self, path: &Path) -> io::Result<File> {
        let how = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        Ok(File::from(self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, how)?))
    }

    /// Where a path leads, links followed: a path below the root that has none.
    pub fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let target = self.resolve(path, OFlag::O_PATH, ResolveFlag::RESOLVE_IN_ROOT)?;
        let (base, found) = (name_of(&self.fd)?, name_of(&target)?);
        let outside = || io::Error::new(io::ErrorKind::NotFound, "the path leads out");
        found.strip_prefix(&base).map(Path::to_path_buf).map_err(|_| outside())
    }

    /// What is at a path whose folder is resolved with links, itself as it is.
    pub fn look(&self, path: &Path) -> io::Result<FileStat> {
        let Some(name) = path.file_name() else {
            let dir = self.dir(path)?;
            return Ok(fstatat(&dir, "", AtFlags::AT_EMPTY_PATH)?);
        };
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        Ok(fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Whether a folder is there, links followed.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.dir(path).is_ok()
    }

    /// Names in a folder, sorted.
    pub fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut dir = Dir::from_fd(self.resolve(path, flags, ResolveFlag::RESOLVE_IN_ROOT)?)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The text of a small regular file; `None` when there is none.
    pub fn text(&self, path: &Path) -> io::Result<Option<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let file = match self.resolve(path, flags, ResolveFlag::RESOLVE_IN_ROOT) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(TEXT_MAX).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Makes a folder and those it is in, where missing, and opens it. Answers how many were made.
    pub fn make_dirs(&self, path: &Path, owner: (u32, u32), mode: u32) -> io::Result<(OwnedFd, usize)> {
        let mut so_far = PathBuf::new();
        let mut parent = self.dir(Path::new(""))?;
        let mut made = 0;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            so_far.push(name);
            parent = match self.dir(&so_far) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // The parent is an opened folder below the root, so a plain name in it stays there.
                    mkdirat(&parent, name, Mode::from_bits_truncate(mode))?;
                    fchownat(
                        &parent,
                        name,
                        Some(Uid::from_raw(owner.0)),
                        Some(Gid::from_raw(owner.1)),
                        AtFlags::AT_SYMLINK_NOFOLLOW,
                    )?;
                    // mkdirat takes the process's mask into account.
                    std::fs::set_permissions(
                        by_descriptor(&parent, name),
                        std::os::unix::fs::PermissionsExt::from_mode(mode),
                    )?;
                    made += 1;
                    self.dir(&so_far)?
                }
                other => other?,
            };
        }
        Ok((parent, made))
    }
}

fn name_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A path for the calls that take no descriptor; its last component must be one they do not follow.
pub fn by_descriptor(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        symlink("../../secret", inside.join("etc/passwd")).unwrap();
        symlink("/../..", inside.join("up")).unwrap();
        symlink(dir.path(), inside.join("abs")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert_eq!(root.text(Path::new("/etc/passwd")).unwrap(), None);
        assert_eq!(root.real(Path::new("up/etc")).unwrap(), Path::new("etc"));
        assert!(root.dir(Path::new("abs")).is_err());
        root.make_dirs(
            Path::new("up/made/here"),
            (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()),
            0o750,
        )
        .unwrap();
        assert!(inside.join("made/here").is_dir() && !dir.path().join("made").exists());
        assert!(root.exact_dir(Path::new("up")).is_err());
        assert_eq!(root.list(Path::new("")).unwrap(), ["abs", "etc", "made", "up"]);
    }
}
