//! Files of a container's root, read and written from outside as tar. Every path is resolved as if that root were `/`
//! (openat2(2) with RESOLVE_IN_ROOT) and then gone by descriptors, so that no link, and no race with the container, leads out.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Archive, Builder, EntryType, Header};

/// Folders in folders at most.
const DEPTH_MAX: usize = 256;
/// Entries of an archive at most.
const ENTRIES_MAX: usize = 4_000_000;

/// A root.
pub struct Root {
    fd: OwnedFd,
}

fn dir_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// A path below a root: its folders and its last part; `.` for the root itself.
fn split(path: &Path) -> (PathBuf, PathBuf) {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    match (clean.parent(), clean.file_name()) {
        (Some(parent), Some(name)) => (Path::new(".").join(parent), PathBuf::from(name)),
        _ => (PathBuf::from("."), PathBuf::from(".")),
    }
}

/// What a file is, in the bits of Go's `FileMode`.
pub fn go_mode(stat: &FileStat) -> u32 {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let mut mode = stat.st_mode & 0o777;
    mode |= match kind {
        SFlag::S_IFDIR => 1 << 31,
        SFlag::S_IFLNK => 1 << 27,
        SFlag::S_IFBLK => 1 << 26,
        SFlag::S_IFCHR => (1 << 26) | (1 << 21),
        SFlag::S_IFIFO => 1 << 25,
        SFlag::S_IFSOCK => 1 << 24,
        _ => 0,
    };
    for (bit, go) in [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)] {
        if stat.st_mode & bit != 0 {
            mode |= go;
        }
    }
    mode
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

impl Root {
    /// Of a folder of the host.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Root { fd: open(path, dir_flags(), Mode::empty())? })
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.fd.as_fd(), path, how)
    }

    fn place(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let (parent, name) = split(path);
        Ok((self.resolve(&parent, dir_flags())?, name))
    }

    /// What is at a path; a link is not followed. With where it leads, if it is a link.
    ///
    /// # Errors
    /// When nothing is there.
    pub fn stat(&self, path: &Path) -> io::Result<(FileStat, Option<PathBuf>)> {
        let (parent, name) = self.place(path)?;
        let stat = fstatat(&parent, &name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let link = is(&stat, SFlag::S_IFLNK).then(|| readlinkat(&parent, name.as_path())).transpose()?;
        Ok((stat, link.map(PathBuf::from)))
    }

    /// Whether a folder is at a path, perhaps by a link.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.resolve(&Path::new(".").join(path.strip_prefix("/").unwrap_or(path)), dir_flags()).is_ok()
    }

    /// Writes what is at a path, and below it, as `name`.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn pack<W: Write>(&self, path: &Path, name: &Path, tar: &mut Builder<W>) -> io::Result<()> {
        let (parent, own) = self.place(path)?;
        pack(&parent, own.as_os_str(), name, tar, 0)
    }

    /// Unpacks an archive into a folder. `keep_kinds`: a folder is not replaced by what is none, nor the other way.
    ///
    /// # Errors
    /// When it cannot be read or written, or wants out of the folder.
    pub fn unpack<R: Read>(&self, folder: &Path, source: R, keep_kinds: bool) -> io::Result<()> {
        let mut archive = Archive::new(source);
        let mut dirs: Vec<(OwnedFd, PathBuf, TimeSpec)> = Vec::new();
        for (n, entry) in archive.entries()?.enumerate() {
            let mut entry = entry?;
            if n >= ENTRIES_MAX {
                return Err(io::Error::other(format!("the archive has more than {ENTRIES_MAX} entries")));
            }
            let kind = entry.header().entry_type();
            if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
                continue;
            }
            let path = inside(folder, &entry.path()?)?;
            let header = entry.header().clone();
            let link = entry.link_name()?.map(|l| l.into_owned());
            let (parent, name) = self.make_parents(&path)?;
            if name == Path::new(".") {
                continue;
            }
            let target = match (kind, link) {
                (EntryType::Link, Some(link)) => Some(inside(folder, &link)?),
                (EntryType::Symlink, link) => link,
                _ => None,
            };
            self.put(&parent, &name, &header, target.as_deref(), &mut entry, keep_kinds)?;
            let when = TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0);
            if kind == EntryType::Directory {
                dirs.push((parent, name, when));
            } else {
                touch(&parent, &name, when);
            }
        }
        // Last, since what came into them changed it.
        dirs.iter().rev().for_each(|(parent, name, when)| touch(parent, name, *when));
        Ok(())
    }

    /// The folder of a path, made if it is missing.
    fn make_parents(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let (parent, name) = split(path);
        let mut so_far = PathBuf::from(".");
        let mut at = self.resolve(&so_far, dir_flags())?;
        for part in parent.components() {
            let Component::Normal(part) = part else { continue };
            so_far.push(part);
            at = match self.resolve(&so_far, dir_flags()) {
                Err(Errno::ENOENT) => {
                    nix::sys::stat::mkdirat(&at, Path::new(part), Mode::from_bits_truncate(0o755))?;
                    self.resolve(&so_far, dir_flags())?
                }
                other => other?,
            };
        }
        Ok((at, name))
    }

    fn put(
        &self,
        parent: &OwnedFd,
        name: &Path,
        header: &Header,
        link: Option<&Path>,
        content: &mut impl Read,
        keep_kinds: bool,
    ) -> io::Result<()> {
        let kind = header.entry_type();
        let there = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        let (is_dir, was_dir) = (kind == EntryType::Directory, there.as_ref().map(|s| is(s, SFlag::S_IFDIR)));
        match was_dir {
            Some(was) if was != is_dir && keep_kinds => {
                let (old, new) = if was { ("directory", "non-directory") } else { ("non-directory", "directory") };
                return Err(io::Error::other(format!(
                    "cannot overwrite {old} {:?} with {new}",
                    name.display().to_string()
                )));
            }
            Some(true) if is_dir => {}
            Some(true) => remove_all(parent, name, 0)?,
            Some(false) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?,
            None => {}
        }
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        match kind {
            EntryType::Directory => {
                if was_dir != Some(true) {
                    nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o700))?;
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
                io::copy(content, &mut file)?;
            }
            EntryType::Symlink => symlinkat(link.unwrap_or(Path::new("")), parent, name)?,
            EntryType::Link => {
                let (from, old) = self.place(link.unwrap_or(Path::new("/")))?;
                linkat(&from, old.as_path(), parent, name, LinkatFlags::empty())?;
                return Ok(());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let number = |n: Option<u32>| u64::from(n.unwrap_or(0));
                let device = makedev(number(header.device_major()?), number(header.device_minor()?));
                let flag = match kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                mknodat(parent, name, flag, Mode::from_bits_truncate(0o600), device)?;
            }
            other => {
                return Err(io::Error::other(format!("{:?} is a {other:?}, which is not unpacked", name.display())));
            }
        }
        let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind != EntryType::Symlink {
            // What it is was just made by us, or is a folder: no link.
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        Ok(())
    }
}

fn id(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other(format!("{number} is no user or group")))
}

fn touch(parent: &OwnedFd, name: &Path, when: TimeSpec) {
    // A file system that takes no times is no reason to fail.
    let _ = utimensat(parent, name, &when, &when, UtimensatFlags::NoFollowSymlink);
}

/// An entry's path in the folder; one that leads out is refused.
fn inside(folder: &Path, entry: &Path) -> io::Result<PathBuf> {
    if entry.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(io::Error::other(format!(
            "the path {:?} of the archive leads out of it",
            entry.display().to_string()
        )));
    }
    Ok(entry.components().filter(|c| matches!(c, Component::Normal(_))).fold(folder.to_owned(), |p, c| p.join(c)))
}

fn remove_all(parent: &OwnedFd, name: &Path, depth: usize) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(parent, name, flags, Mode::empty())?;
    for child in children(&dir)? {
        match unlinkat(&dir, child.as_path(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) if depth < DEPTH_MAX => remove_all(&dir, &child, depth + 1)?,
            other => other?,
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

fn children(dir: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    let mut listing = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = PathBuf::from(OsStr::new(entry?.file_name().to_str().unwrap_or_default()));
        if name.as_os_str() != "." && name.as_os_str() != ".." && !name.as_os_str().is_empty() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn header_of(stat: &FileStat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

fn pack<W: Write>(parent: &OwnedFd, own: &OsStr, name: &Path, tar: &mut Builder<W>, depth: usize) -> io::Result<()> {
    let stat = fstatat(parent, own, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFDIR => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let dir = openat(parent, own, flags, Mode::empty())?;
            // With a slash behind: by that, clients know a folder.
            let shown = PathBuf::from(format!("{}/", name.display()));
            tar.append_data(&mut header_of(&stat, EntryType::Directory, 0), &shown, io::empty())?;
            if depth >= DEPTH_MAX {
                return Err(io::Error::other(format!("more than {DEPTH_MAX} folders in folders")));
            }
            for child in children(&dir)? {
                match pack(&dir, child.as_os_str(), &name.join(&child), tar, depth + 1) {
                    // Removed by the container meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
            Ok(())
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = File::from(openat(parent, own, flags, Mode::empty())?);
            let size = file.metadata()?.len();
            // As long as was said, whatever the container does to it meanwhile.
            let content = file.take(size).chain(io::repeat(0)).take(size);
            tar.append_data(&mut header_of(&stat, EntryType::Regular, size), name, content)
        }
        SFlag::S_IFLNK => {
            let link = PathBuf::from(readlinkat(parent, own)?);
            tar.append_link(&mut header_of(&stat, EntryType::Symlink, 0), name, link)
        }
        SFlag::S_IFCHR | SFlag::S_IFBLK | SFlag::S_IFIFO => {
            let entry = match kind {
                SFlag::S_IFCHR => EntryType::Char,
                SFlag::S_IFBLK => EntryType::Block,
                _ => EntryType::Fifo,
            };
            let mut header = header_of(&stat, entry, 0);
            let number = |n: u64| u32::try_from(n).unwrap_or(0);
            header.set_device_major(number(nix::sys::stat::major(stat.st_rdev)))?;
            header.set_device_minor(number(nix::sys::stat::minor(stat.st_rdev)))?;
            tar.append_data(&mut header, name, io::empty())
        }
        // Sockets mean nothing elsewhere.
        _ => Ok(()),
    }
}

/// Copies what is in a folder of one root into a folder of the host, owner and mode of the folder too.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_into(root: &Root, path: &Path, target: &Path) -> io::Result<()> {
    let (stat, _) = root.stat(path)?;
    if !is(&stat, SFlag::S_IFDIR) {
        return Ok(());
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let to = Root::open(target)?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut tar = Builder::new(theirs);
            root.pack(path, Path::new("."), &mut tar)?;
            tar.into_inner().map(drop)
        });
        let unpacked = to.unpack(Path::new("/"), io::BufReader::new(ours), false);
        let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("the copy was given up")));
        unpacked.and(packed)
    })?;
    fchownat(AT_FDCWD, target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), AtFlags::empty())?;
    Ok(fchmodat(AT_FDCWD, target, Mode::from_bits_truncate(stat.st_mode & 0o7777), FchmodatFlags::FollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_stays_in_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root_dir = dir.path().join("root");
        std::fs::create_dir_all(root_dir.join("etc")).unwrap();
        std::os::unix::fs::symlink("../../..", root_dir.join("up")).unwrap();
        std::os::unix::fs::symlink(dir.path(), root_dir.join("abs")).unwrap();
        let root = Root::open(&root_dir).unwrap();
        let archive = |name: &str| {
            let mut tar = Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            header.set_uid(nix::unistd::getuid().as_raw().into());
            header.set_gid(nix::unistd::getgid().as_raw().into());
            tar.append_data(&mut header, name, &b"hi"[..]).unwrap();
            tar.into_inner().unwrap()
        };
        root.unpack(Path::new("/"), &archive("up/a")[..], false).unwrap();
        assert!(root_dir.join("a").exists(), "a link to above the root is the root");
        // Below the root there is no such folder, and none is made by way of a link.
        assert!(root.unpack(Path::new("/"), &archive("abs/b")[..], false).is_err());
        assert!(!dir.path().join("a").exists() && !dir.path().join("b").exists());
        assert!(inside(Path::new("/x"), Path::new("a/../../b")).is_err());
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("d/e")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("d/e/f"), "text").unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("d/l")).unwrap();
        copy_into(&Root::open(&from).unwrap(), Path::new("/d"), &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("e/f")).unwrap(), "text");
        assert_eq!(std::fs::read_link(to.join("l")).unwrap(), Path::new("/nowhere"));
        let (stat, _) = Root::open(&from).unwrap().stat(Path::new("/d")).unwrap();
        assert_eq!(go_mode(&stat) >> 31, 1);
    }
}
