//! Turns a layer's tar into a folder that overlayfs can take as a lower layer (OCI image spec, layer.md).
//!
//! The tar is hostile. Every parent folder is resolved by the kernel inside the layer (`openat2`, RESOLVE_IN_ROOT), so
//! that no name, symbolic link or order of entries leads outside; the last component is made with calls that follow
//! nothing. Whiteouts become what overlayfs reads: character device 0:0, and `trusted.overlay.opaque`.

mod tree;

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use tar::EntryType;

use crate::compress::Plain;
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use tree::{Meta, Tree};

/// Longest run of tar headers without a file between: extended names, attributes.
const HEADER_BYTES_MAX: u64 = 1 << 20;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// What a layer may grow to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// A plain archive: names that mean removal in a layer are names like any other.
    pub(crate) plain: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Bytes of the plain tar.
    pub(crate) tar_bytes: u64,
}

/// Unpacks a layer, compressed or not, into an existing empty folder.
pub(crate) fn unpack(layer: &str, source: impl Read, into: &Path, limits: Limits) -> Result<Unpacked> {
    let broken = |e: io::Error| read_error(layer, e);
    let plain = Plain::new(source).map_err(broken)?;
    let budget = Budget { left: Rc::new(Cell::new(HEADER_BYTES_MAX)), total: Rc::new(Cell::new(limits.bytes)) };
    let mut archive = tar::Archive::new(Metered { inner: Hashing::new(plain), budget: budget.clone() });
    let faults = Faults { layer, into };
    let mut unpacker =
        Unpacker { faults, tree: Tree::open(into)?, limits, entries: 0, bytes: 0, dir_times: Vec::new() };
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        // tar reads headers whole into memory: between files it may not read more than this.
        budget.left.set(entry.size().saturating_add(HEADER_BYTES_MAX));
        unpacker.entry(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
        budget.left.set(HEADER_BYTES_MAX);
    }
    unpacker.finish()?;
    let bytes = unpacker.bytes;
    // The digest covers what follows the end marker too.
    budget.left.set(u64::MAX);
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    let (_, diff_id, tar_bytes) = rest.inner.finish();
    Ok(Unpacked { diff_id, bytes, tar_bytes })
}

/// Errors that say what is wrong with the archive rather than with the disk.
fn read_error(layer: &str, error: io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::StorageFull => ImageError::NoSpace(PathBuf::from(layer)),
        io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ImageError::archive(layer, format!("{error} (unpacks to more than is allowed)"))
        }
        _ => ImageError::archive(layer, error.to_string()),
    }
}

#[derive(Clone)]
struct Budget {
    left: Rc<Cell<u64>>,
    total: Rc<Cell<u64>>,
}

struct Metered<R> {
    inner: R,
    budget: Budget,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        for cell in [&self.budget.left, &self.budget.total] {
            let over = || io::Error::new(io::ErrorKind::FileTooLarge, "size limit reached");
            cell.set(cell.get().checked_sub(n as u64).ok_or_else(over)?);
        }
        Ok(n)
    }
}

/// Words errors; apart from the unpacker so that it can be borrowed beside the tree.
#[derive(Clone, Copy)]
struct Faults<'a> {
    layer: &'a str,
    into: &'a Path,
}

impl Faults<'_> {
    fn bad(self, path: &[u8], reason: impl Into<String>) -> ImageError {
        ImageError::archive(format!("{}: {}", self.layer, String::from_utf8_lossy(path)), reason)
    }

    fn failed(self, raw: &[u8], error: io::Error) -> ImageError {
        use nix::libc::{EEXIST, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EXDEV};
        match error.raw_os_error() {
            // Only the names in the archive can cause these: the folder is ours alone.
            Some(EEXIST | EINVAL | EISDIR | ELOOP | ENAMETOOLONG | ENOENT | ENOTDIR | EXDEV) => {
                self.bad(raw, error.to_string())
            }
            _ => {
                let name = raw.iter().position(|&b| b != b'/').map_or(raw, |at| &raw[at..]);
                io_error("unpack", &self.into.join(OsStr::from_bytes(name)))(error)
            }
        }
    }
}

struct Unpacker<'a> {
    faults: Faults<'a>,
    tree: Tree,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Set last: filling a folder changes its time.
    dir_times: Vec<(PathBuf, i64, u32)>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ImageError::TooLarge {
                what: self.faults.layer.to_owned(),
                limit: self.limits.entries,
                unit: "entries",
            });
        }
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let path = self.clean(&raw)?;
        let meta = self.meta(entry, &raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root(kind, &raw, &meta);
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if name.as_bytes().starts_with(WHITEOUT) && !self.limits.plain {
            return self.whiteout(parent, &name, &raw);
        }
        let faults = self.faults;
        let io = |e: io::Error| faults.failed(&raw, e);
        match kind {
            EntryType::Directory => {
                self.tree.directory(parent, &name, &meta).map_err(io)?;
                self.dir_times.push((path, meta.mtime, meta.mtime_ns));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = self.tree.create(parent, &name).map_err(io)?;
                let written = copy_file(entry, &mut file).map_err(|e| match e {
                    CopyError::Read(e) => read_error(self.faults.layer, e),
                    CopyError::Write(e) => self.faults.failed(&raw, e),
                })?;
                self.bytes += written;
                self.tree.finish_file(&file, &meta).map_err(|e| self.faults.failed(&raw, e))?;
            }
            EntryType::Symlink => {
                let target = self.link_target(entry, &raw)?;
                self.tree.symlink(parent, &name, &target, &meta).map_err(io)?;
            }
            EntryType::Link => {
                let target = self.link_target(entry, &raw)?;
                let target = self.clean(target.as_bytes())?;
                self.tree.hard_link(parent, &name, &target).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => self
                        .faults
                        .bad(&raw, format!("hard link to {}, which the layer does not have", target.display())),
                    _ => self.faults.failed(&raw, e),
                })?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
                let device = (number(header.device_major()), number(header.device_minor()));
                self.tree.node(parent, &name, kind, device, &meta).map_err(io)?;
            }
            other => return Err(self.faults.bad(&raw, format!("unsupported entry type {other:?}"))),
        }
        Ok(())
    }

    fn root(&mut self, kind: EntryType, raw: &[u8], meta: &Meta) -> Result<()> {
        if kind != EntryType::Directory {
            return Err(self.faults.bad(raw, "the root of a layer must be a folder"));
        }
        self.tree.root(meta).map_err(|e| self.faults.failed(raw, e))?;
        self.dir_times.push((PathBuf::new(), meta.mtime, meta.mtime_ns));
        Ok(())
    }

    /// The path below the layer's root; `..` is refused: no tool that makes images writes it.
    fn clean(&self, raw: &[u8]) -> Result<PathBuf> {
        let mut path = PathBuf::new();
        for component in Path::new(OsStr::from_bytes(raw)).components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(self.faults.bad(raw, "the path leads out of the layer"));
                }
            }
        }
        Ok(path)
    }

    fn whiteout(&mut self, parent: &Path, name: &OsStr, raw: &[u8]) -> Result<()> {
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            return self.tree.make_opaque(parent).map_err(|e| self.faults.failed(raw, e));
        }
        if bytes.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &bytes[WHITEOUT.len()..];
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(self.faults.bad(raw, "a whiteout of nothing"));
        }
        self.tree.whiteout(parent, OsStr::from_bytes(hidden)).map_err(|e| self.faults.failed(raw, e))
    }

    fn link_target<R: Read>(&self, entry: &tar::Entry<'_, R>, raw: &[u8]) -> Result<OsString> {
        match entry.link_name_bytes() {
            Some(target) if !target.is_empty() => Ok(OsStr::from_bytes(&target).to_owned()),
            _ => Err(self.faults.bad(raw, "a link without a target")),
        }
    }

    fn meta<R: Read>(&self, entry: &mut tar::Entry<'_, R>, raw: &[u8]) -> Result<Meta> {
        let bad = |e: io::Error| self.faults.bad(raw, e.to_string());
        let header = entry.header();
        // Tools leave fields they do not care for empty, which is 0 to everyone but this tar library.
        let fields = header.as_old();
        let id = |field: &[u8], id: io::Result<u64>| match id {
            Err(_) if blank(field) => Ok(0),
            id => u32::try_from(id.map_err(bad)?).map_err(|_| self.faults.bad(raw, "owner id over 32 bits")),
        };
        let mut meta = Meta {
            mode: if blank(&fields.mode) { 0 } else { header.mode().map_err(bad)? & 0o7777 },
            uid: id(&fields.uid, header.uid())?,
            gid: id(&fields.gid, header.gid())?,
            // Times outside what the kernel takes are not worth refusing an image for.
            mtime: i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
            mtime_ns: 0,
            xattrs: Vec::new(),
        };
        let Some(extensions) = entry.pax_extensions().map_err(bad)? else { return Ok(meta) };
        for extension in extensions {
            let extension = extension.map_err(bad)?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            if key.starts_with(b"GNU.sparse.") {
                return Err(self.faults.bad(raw, "PAX sparse files are not supported"));
            } else if key == b"mtime" {
                (meta.mtime, meta.mtime_ns) = pax_time(value).unwrap_or((meta.mtime, 0));
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                // What overlayfs reads is ours to write: a layer could redirect or hide with it.
                if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                    meta.xattrs.push((OsStr::from_bytes(name).to_owned(), value.to_vec()));
                }
            }
        }
        Ok(meta)
    }

    fn finish(&mut self) -> Result<()> {
        for (path, seconds, nanos) in std::mem::take(&mut self.dir_times).into_iter().rev() {
            self.tree
                .set_dir_time(&path, seconds, nanos)
                .map_err(|e| self.faults.failed(path.as_os_str().as_bytes(), e))?;
        }
        Ok(())
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn copy_file(from: &mut impl Read, to: &mut File) -> std::result::Result<u64, CopyError> {
    let mut buffer = vec![0; 128 * 1024];
    let mut total = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        io::Write::write_all(to, &buffer[..n]).map_err(CopyError::Write)?;
        total += n as u64;
    }
}

fn blank(field: &[u8]) -> bool {
    field.iter().all(|b| matches!(b, 0 | b' '))
}

/// `1700000000.123456789`
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((whole.parse().ok()?, digits.parse().ok()?))
}

#[cfg(test)]
mod tests;
