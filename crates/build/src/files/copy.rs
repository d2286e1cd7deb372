//! Chosen files into a file system, whose links are followed inside of it only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use xattr::FileExt;

use super::choose::{Chosen, Entry, Kind};
use super::modes::Modes;
use super::owner::Owner;
use super::root::{Root, by_descriptor};

/// Mode of folders that are made on the way.
const FOLDER_MODE: u32 = 0o755;

/// Where chosen files go.
#[derive(Debug)]
pub struct Put<'a> {
    /// The file system.
    pub into: &'a Root,
    /// The path, absolute; one that ends in a slash is a folder.
    pub target: &'a str,
    /// Whose they become.
    pub owner: Owner,
    /// What becomes of their modes.
    pub modes: Option<&'a Modes>,
    /// Paths of sources are kept below the target.
    pub parents: bool,
}

/// Copies.
///
/// # Errors
/// What cannot be put where it is to go, faults of the disk.
pub fn put(what: &[Chosen], how: &Put<'_>) -> io::Result<()> {
    let base = Path::new(how.target);
    let several = what.len() > 1 || how.parents;
    let folder = several || how.target.ends_with('/') || how.target.ends_with("/.") || how.into.is_dir(base);
    let mut job = Job { how, links: HashMap::new(), times: Vec::new() };
    for chosen in what {
        let Some(first) = chosen.entries.first() else { continue };
        let at = match (chosen.is_dir(), how.parents) {
            (_, true) => base.join(&chosen.name),
            (true, false) => base.to_path_buf(),
            (false, false) if folder => base.join(&chosen.name),
            (false, false) => base.to_path_buf(),
        };
        let owner = (how.owner.uid, how.owner.gid);
        if chosen.is_dir() {
            let (dir, _) = how.into.make_dirs(&at, owner, FOLDER_MODE).map_err(|e| in_the_way(e, &at))?;
            if how.parents {
                job.finish(&dir, OsStr::new("."), first)?;
            }
            for entry in &chosen.entries[1..] {
                job.put_below(chosen, entry, &at)?;
            }
        } else {
            let (parent, name) = (at.parent().unwrap_or(Path::new("/")), at.file_name().unwrap_or_default());
            let (dir, _) = how.into.make_dirs(parent, owner, FOLDER_MODE).map_err(|e| in_the_way(e, parent))?;
            job.put_one(chosen, first, &dir, name, &at)?;
        }
    }
    job.set_times()
}

fn in_the_way(error: io::Error, at: &Path) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::ENOTDIR | nix::libc::ELOOP) => {
            io::Error::new(error.kind(), format!("cannot copy to non-directory: {}", at.display()))
        }
        _ => error,
    }
}

struct Job<'a> {
    how: &'a Put<'a>,
    /// Files with several names: where the first was put.
    links: HashMap<(u64, u64), PathBuf>,
    /// Set last: filling a folder changes its time.
    times: Vec<(PathBuf, (i64, i64))>,
}

impl Job<'_> {
    /// Puts an entry of a folder whose place is `base`; folders come before what is in them.
    fn put_below(&mut self, chosen: &Chosen, entry: &Entry, base: &Path) -> io::Result<()> {
        let at = base.join(&entry.inside);
        let (parent, name) = (at.parent().unwrap_or(base), at.file_name().unwrap_or_default());
        // From the target on nothing is followed: what is there as a link is in the way.
        let inside = entry.inside.parent().unwrap_or(Path::new(""));
        let dir = self.how.into.sub(base).and_then(|b| b.exact_dir(inside)).map_err(|e| in_the_way(e, parent))?;
        self.put_one(chosen, entry, &dir, name, &at)
    }

    fn put_one(&mut self, chosen: &Chosen, entry: &Entry, dir: &OwnedFd, name: &OsStr, at: &Path) -> io::Result<()> {
        let there = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let refuse = |message: String| Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        match (&entry.kind, there) {
            (Kind::Dir, Some(true)) => {}
            (Kind::Dir, Some(false)) => return refuse(format!("cannot copy to non-directory: {}", at.display())),
            (Kind::Dir, None) => mkdirat(dir, name, Mode::from_bits_truncate(0o700))?,
            (_, Some(true)) => return refuse(format!("cannot replace to directory {} with file", at.display())),
            (_, Some(false)) => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?,
            (_, None) => {}
        }
        if let Some(inode) = entry.inode {
            if let Some(first) = self.links.get(&inode) {
                let from = self.how.into.dir(first.parent().unwrap_or(Path::new("/")))?;
                let first = first.file_name().unwrap_or_default();
                return Ok(linkat(&from, first, dir, name, AtFlags::empty())?);
            }
            self.links.insert(inode, at.to_path_buf());
        }
        let node = |kind, number| mknodat(dir, name, kind, Mode::from_bits_truncate(0o600), number);
        match &entry.kind {
            Kind::File(_) => copy_file(chosen, entry, dir, name)?,
            Kind::Dir => self.times.push((at.to_path_buf(), entry.mtime)),
            Kind::Link(target) => symlinkat(target.as_os_str(), dir, name)?,
            Kind::Fifo => node(SFlag::S_IFIFO, 0)?,
            Kind::Char(number) => node(SFlag::S_IFCHR, *number)?,
            Kind::Block(number) => node(SFlag::S_IFBLK, *number)?,
        }
        self.finish(dir, name, entry)
    }

    /// Owner, mode (a change of owner drops set-uid), time.
    fn finish(&self, dir: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.how.owner.uid), Gid::from_raw(self.how.owner.gid));
        fchownat(dir.as_fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !matches!(entry.kind, Kind::Link(_)) {
            let is_dir = entry.kind == Kind::Dir;
            let mode = self.how.modes.map_or(entry.mode, |modes| modes.apply(entry.mode, is_dir));
            // Not a link, and nobody else is here: there is nothing to follow.
            fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
        }
        let time = TimeSpec::new(entry.mtime.0, entry.mtime.1);
        Ok(utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    fn set_times(&mut self) -> io::Result<()> {
        for (path, (seconds, nanos)) in std::mem::take(&mut self.times).into_iter().rev() {
            let dir = self.how.into.dir(&path)?;
            let time = TimeSpec::new(seconds, nanos);
            let here = by_descriptor(&dir, OsStr::new("."));
            utimensat(nix::fcntl::AT_FDCWD, &here, &time, &time, UtimensatFlags::FollowSymlink)?;
        }
        Ok(())
    }
}

fn copy_file(chosen: &Chosen, entry: &Entry, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let mut from = chosen.root.exact_file(&entry.source)?;
    if !from.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} changed while it was copied", entry.source.display())));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut to = std::fs::File::from(openat(dir, name, flags, Mode::from_bits_truncate(0o600))?);
    io::copy(&mut from, &mut to)?;
    for name in from.list_xattr().into_iter().flatten() {
        let text = name.to_string_lossy();
        if !text.starts_with("user.") && text != "security.capability" {
            continue;
        }
        if let Some(value) = from.get_xattr(&name)? {
            match to.set_xattr(&name, &value) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
