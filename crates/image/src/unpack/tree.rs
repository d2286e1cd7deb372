//! The folder a layer is unpacked into, reached only through descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use tar::EntryType;

use crate::error::{Result, sys_error};

/// Dangling links followed while making a missing folder.
const LINKS_MAX: u32 = 16;
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What a tar entry says of a file besides its content.
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_ns: u32,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Meta {
    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    fn time(&self) -> TimeSpec {
        TimeSpec::new(self.mtime, i64::from(self.mtime_ns))
    }
}

pub(super) struct Tree {
    root: OwnedFd,
    /// The folder used last: most entries follow their siblings. Emptied by whatever may change what a path means.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(sys_error("open", path))?;
        Ok(Tree { root, last: None })
    }

    /// The folder of that path, resolved inside the layer.
    fn resolve(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // The kernel asks for another try when a rename elsewhere raced with `..` in a link.
        for _ in 0..32 {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The parent folder, made if missing.
    fn parent(&mut self, path: &Path) -> nix::Result<&OwnedFd> {
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let fd = match self.resolve(path) {
                Err(Errno::ENOENT) => {
                    self.make_all(path, LINKS_MAX)?;
                    self.resolve(path)?
                }
                other => other?,
            };
            self.last = Some((path.to_path_buf(), fd));
        }
        Ok(&self.last.as_ref().expect("set just above").1)
    }

    fn make_all(&self, path: &Path, links: u32) -> nix::Result<()> {
        let mut done = PathBuf::new();
        for component in path.components() {
            let parent = self.resolve(&done)?;
            let name = component.as_os_str();
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {}
                // A link to a folder that a lower layer has and this one has not: make what it means, inside.
                Err(Errno::EEXIST) if is_link(&parent, name)? => {
                    let target = PathBuf::from(readlinkat(&parent, name)?);
                    let target = join_inside(&done, &target);
                    match self.resolve(&target) {
                        Err(Errno::ENOENT) if links > 0 => self.make_all(&target, links - 1)?,
                        Err(Errno::ENOENT) => return Err(Errno::ELOOP),
                        other => drop(other?),
                    }
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            done.push(name);
        }
        Ok(())
    }

    /// Makes room for a new name: whatever has it goes, whole trees included.
    fn clear(&mut self, parent: &Path, name: &OsStr) -> io::Result<Option<FileStat>> {
        let dir = self.parent(parent)?;
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if kind(&stat) == SFlag::S_IFDIR {
            // Follows no link, and the parent cannot be swapped: nobody else can reach it.
            std::fs::remove_dir_all(by_descriptor(dir, name))?;
        } else {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        }
        self.last = None;
        Ok(Some(stat))
    }

    pub(super) fn root(&mut self, meta: &Meta) -> io::Result<()> {
        let dir = openat(&self.root, ".", dir_flags(), Mode::empty())?;
        finish(&dir, meta)
    }

    pub(super) fn directory(&mut self, parent: &Path, name: &OsStr, meta: &Meta) -> io::Result<()> {
        let dir = self.parent(parent)?;
        let found = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFDIR => None,
            Ok(stat) => Some(is_whiteout(&stat)),
            Err(Errno::ENOENT) => Some(false),
            Err(errno) => return Err(errno.into()),
        };
        if let Some(was_whiteout) = found {
            self.clear(parent, name)?;
            let dir = self.parent(parent)?;
            mkdirat(dir, name, Mode::from_bits_truncate(0o700))?;
            if was_whiteout {
                // The same layer removed the old folder and made a new one.
                xattr::set(by_descriptor(dir, name), OPAQUE_XATTR, b"y")?;
            }
        }
        let fd = openat(self.parent(parent)?, name, dir_flags(), Mode::empty())?;
        finish(&fd, meta)
    }

    pub(super) fn create(&mut self, parent: &Path, name: &OsStr) -> io::Result<File> {
        self.clear(parent, name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.parent(parent)?, name, flags, Mode::from_bits_truncate(0o600))?))
    }

    pub(super) fn finish_file(&self, file: &File, meta: &Meta) -> io::Result<()> {
        finish(file, meta)?;
        Ok(futimens(file, &meta.time(), &meta.time())?)
    }

    pub(super) fn symlink(&mut self, parent: &Path, name: &OsStr, target: &OsStr, meta: &Meta) -> io::Result<()> {
        self.clear(parent, name)?;
        let dir = self.parent(parent)?;
        symlinkat(target, dir, name)?;
        finish_node(dir, name, meta)
    }

    pub(super) fn hard_link(&mut self, parent: &Path, name: &OsStr, target: &Path) -> io::Result<()> {
        let Some(target_name) = target.file_name() else { return Err(Errno::EINVAL.into()) };
        let target_dir = self.resolve(target.parent().unwrap_or(Path::new("")))?;
        let stat = fstatat(&target_dir, target_name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(&stat) == SFlag::S_IFDIR || is_whiteout(&stat) {
            return Err(Errno::EINVAL.into());
        }
        let dir = self.parent(parent)?;
        if let Ok(own) = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            && (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)
        {
            // A link to itself: clearing the name would lose the file.
            return Ok(());
        }
        self.clear(parent, name)?;
        Ok(linkat(&target_dir, target_name, self.parent(parent)?, name, AtFlags::empty())?)
    }

    pub(super) fn node(
        &mut self,
        parent: &Path,
        name: &OsStr,
        kind: EntryType,
        (major, minor): (u32, u32),
        meta: &Meta,
    ) -> io::Result<()> {
        self.clear(parent, name)?;
        let dir = self.parent(parent)?;
        let (kind, device) = match kind {
            EntryType::Char => (SFlag::S_IFCHR, makedev(major.into(), minor.into())),
            EntryType::Block => (SFlag::S_IFBLK, makedev(major.into(), minor.into())),
            _ => (SFlag::S_IFIFO, 0),
        };
        mknodat(dir, name, kind, Mode::from_bits_truncate(0o600), device)?;
        finish_node(dir, name, meta)?;
        Ok(fchmodat(dir, name, Mode::from_bits_truncate(meta.mode), FchmodatFlags::FollowSymlink)?)
    }

    /// Hides a name of the layers below. What this layer itself has under the name stays, whatever came first.
    pub(super) fn whiteout(&mut self, parent: &Path, name: &OsStr) -> io::Result<()> {
        let dir = self.parent(parent)?;
        match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFDIR => xattr::set(by_descriptor(dir, name), OPAQUE_XATTR, b"y"),
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => Ok(mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hides everything the layers below have in a folder.
    pub(super) fn make_opaque(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.parent(path)?;
        xattr::set(by_descriptor(dir, OsStr::new(".")), OPAQUE_XATTR, b"y")
    }

    pub(super) fn set_dir_time(&mut self, path: &Path, seconds: i64, nanos: u32) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            let time = TimeSpec::new(seconds, i64::from(nanos));
            return Ok(utimensat(&self.root, ".", &time, &time, UtimensatFlags::NoFollowSymlink)?);
        };
        let time = TimeSpec::new(seconds, i64::from(nanos));
        let dir = match self.resolve(path.parent().unwrap_or(Path::new(""))) {
            Ok(dir) => dir,
            // A later entry replaced the folder.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        match utimensat(&dir, name, &time, &time, UtimensatFlags::NoFollowSymlink) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == makedev(0, 0)
}

fn is_link(dir: &OwnedFd, name: &OsStr) -> nix::Result<bool> {
    Ok(kind(&fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) == SFlag::S_IFLNK)
}

/// A path for the calls that take no descriptor; its last component must be one they do not follow.
fn by_descriptor(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(name);
    path
}

/// A link's target as a path below the root, whatever it says.
fn join_inside(base: &Path, target: &Path) -> PathBuf {
    let mut path = if target.is_absolute() { PathBuf::new() } else { base.to_path_buf() };
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// Owner, then attributes (a change of owner drops capabilities), then mode (it drops set-uid too).
fn finish(file: &(impl AsFd + AsRawFd), meta: &Meta) -> io::Result<()> {
    let (uid, gid) = meta.owner();
    fchown(file, uid, gid)?;
    if !meta.xattrs.is_empty() {
        set_xattrs(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), true, meta)?;
    }
    Ok(fchmod(file, Mode::from_bits_truncate(meta.mode))?)
}

/// For what cannot be opened: links, devices, pipes.
fn finish_node(dir: &OwnedFd, name: &OsStr, meta: &Meta) -> io::Result<()> {
    let (uid, gid) = meta.owner();
    fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    set_xattrs(&by_descriptor(dir, name), false, meta)?;
    Ok(utimensat(dir, name, &meta.time(), &meta.time(), UtimensatFlags::NoFollowSymlink)?)
}

fn set_xattrs(path: &Path, follow: bool, meta: &Meta) -> io::Result<()> {
    for (name, value) in &meta.xattrs {
        let result = if follow { xattr::set_deref(path, name, value) } else { xattr::set(path, name, value) };
        match result {
            // The file system, or this kind of file, has no such attributes: Docker goes on too.
            Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
            Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) && name.as_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    Ok(())
}
