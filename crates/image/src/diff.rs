//! From what was written above a file system to the tar of a layer (OCI image spec, layer.md): the inverse of `unpack`.
//!
//! The order of entries is that of their names, and times can be clamped, so that the same change gives the same bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use tar::{Builder, EntryType, Header};

use crate::error::{ImageError, Result, io_error};

/// Deepest folder: each level is a call.
const DEPTH_MAX: usize = 1000;
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What is packed.
pub(crate) struct Source<'a> {
    /// The upper folder of an overlay that is not mounted any more.
    pub(crate) upper: &'a Path,
    /// The folders below it, topmost first.
    pub(crate) lower: &'a [PathBuf],
    /// No time is later, seconds since the epoch.
    pub(crate) latest: Option<i64>,
    /// Left out, named from the root.
    pub(crate) skip: &'a [PathBuf],
}

/// Writes the tar and says how many entries it has; with none the output is an empty archive.
pub(crate) fn write_layer<W: Write>(source: &Source<'_>, out: W) -> Result<(W, u64)> {
    let mut builder = Builder::new(out);
    builder.sparse(false);
    let mut packer = Packer { source, tar: builder, links: HashMap::new(), entries: 0, pending: Vec::new() };
    packer.folder(Path::new(""), true, 0)?;
    let entries = packer.entries;
    let out = packer.tar.into_inner().map_err(io_error("pack", source.upper))?;
    Ok((out, entries))
}

struct Packer<'a, W: Write> {
    source: &'a Source<'a>,
    tar: Builder<W>,
    /// Files with several names: the first of them.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    /// Folders that are as they were below, written only if something in them is not.
    pending: Vec<(PathBuf, Metadata)>,
}

impl<W: Write> Packer<'_, W> {
    fn folder(&mut self, at: &Path, comparable: bool, depth: usize) -> Result<()> {
        let dir = self.source.upper.join(at);
        if depth > DEPTH_MAX {
            return Err(ImageError::TooLarge {
                what: dir.display().to_string(),
                limit: DEPTH_MAX as u64,
                unit: "levels",
            });
        }
        let listed = fs::read_dir(&dir).and_then(|list| list.map(|e| e.map(|e| e.file_name())).collect());
        let mut names: Vec<OsString> = listed.map_err(io_error("list", &dir))?;
        names.sort();
        for name in names {
            let path = at.join(&name);
            if self.source.skip.contains(&path) {
                continue;
            }
            if name.as_bytes().starts_with(b".wh.") {
                let reason = "names that begin with .wh. mean removals in a layer, and cannot be kept";
                return Err(ImageError::archive(path.display().to_string(), reason));
            }
            let full = self.source.upper.join(&path);
            let meta = fs::symlink_metadata(&full).map_err(io_error("look up", &full))?;
            if meta.is_dir() {
                self.sub_folder(&path, &meta, comparable, depth)?;
            } else if meta.file_type().is_char_device() && meta.rdev() == 0 {
                self.flush()?;
                let mut hidden = b".wh.".to_vec();
                hidden.extend(name.as_bytes());
                self.mark(&at.join(OsString::from_vec(hidden)))?;
            } else if !meta.file_type().is_socket() {
                // A socket is nothing without its process; no tool keeps them.
                self.flush()?;
                self.leaf(&path, &full, &meta)?;
            }
        }
        Ok(())
    }

    fn sub_folder(&mut self, path: &Path, meta: &Metadata, comparable: bool, depth: usize) -> Result<()> {
        let full = self.source.upper.join(path);
        let opaque = xattr::get(&full, OPAQUE_XATTR).ok().flatten().is_some_and(|v| v == b"y");
        let same = comparable && !opaque && self.is_as_below(path, meta);
        self.pending.push((path.to_path_buf(), meta.clone()));
        let mark = self.pending.len();
        if !same {
            self.flush()?;
        }
        if opaque {
            self.mark(&path.join(".wh..wh..opq"))?;
        }
        self.folder(path, comparable && !opaque, depth + 1)?;
        // Still waiting: nothing in it was worth writing.
        self.pending.truncate(self.pending.len().min(mark - 1));
        Ok(())
    }

    /// Whether the folder was only copied up, on the way to something that then went again.
    fn is_as_below(&self, path: &Path, meta: &Metadata) -> bool {
        let key = |m: &Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        for lower in self.source.lower {
            let below = lower.join(path);
            match fs::symlink_metadata(&below) {
                Ok(found) if found.is_dir() => {
                    return key(&found) == key(meta)
                        && xattrs(&below).ok() == xattrs(&self.source.upper.join(path)).ok();
                }
                Ok(_) => return false,
                Err(_) => {}
            }
        }
        false
    }

    /// Writes the folders that lead to what comes next.
    fn flush(&mut self) -> Result<()> {
        for (path, meta) in std::mem::take(&mut self.pending) {
            let mut header = self.header(&meta, EntryType::Directory);
            header.set_size(0);
            let full = self.source.upper.join(&path);
            self.extended(&full)?;
            let mut name = path.into_os_string();
            name.push("/");
            self.tar.append_data(&mut header, name, std::io::empty()).map_err(io_error("pack", &full))?;
            self.entries += 1;
        }
        Ok(())
    }

    fn mark(&mut self, path: &Path) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.entries += 1;
        self.tar.append_data(&mut header, path, std::io::empty()).map_err(io_error("pack", path))
    }

    fn leaf(&mut self, path: &Path, full: &Path, meta: &Metadata) -> Result<()> {
        self.entries += 1;
        let kind = meta.file_type();
        let fail = || io_error("pack", full);
        if meta.nlink() > 1 {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                let mut header = self.header(meta, EntryType::Link);
                header.set_size(0);
                let first = first.clone();
                return self.tar.append_link(&mut header, path, &first).map_err(fail());
            }
            self.links.insert((meta.dev(), meta.ino()), path.to_path_buf());
        }
        if !kind.is_symlink() {
            self.extended(full)?;
        }
        if kind.is_file() {
            let file = fs::File::open(full).map_err(io_error("open", full))?;
            let mut header = self.header(meta, EntryType::Regular);
            header.set_size(meta.len());
            return self.tar.append_data(&mut header, path, std::io::Read::take(file, meta.len())).map_err(fail());
        }
        if kind.is_symlink() {
            let target = fs::read_link(full).map_err(io_error("read link", full))?;
            let mut header = self.header(meta, EntryType::Symlink);
            header.set_size(0);
            return self.tar.append_link(&mut header, path, target).map_err(fail());
        }
        let entry = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => EntryType::Char,
            (_, true) => EntryType::Block,
            _ => EntryType::Fifo,
        };
        let mut header = self.header(meta, entry);
        header.set_size(0);
        let number = |n: u64| u32::try_from(n).unwrap_or(0);
        header.set_device_major(number(major(meta.rdev()))).map_err(fail())?;
        header.set_device_minor(number(minor(meta.rdev()))).map_err(fail())?;
        self.tar.append_data(&mut header, path, std::io::empty()).map_err(fail())
    }

    fn header(&self, meta: &Metadata, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(meta.uid().into());
        header.set_gid(meta.gid().into());
        let time = self.source.latest.map_or(meta.mtime(), |latest| meta.mtime().min(latest));
        header.set_mtime(u64::try_from(time).unwrap_or(0));
        header
    }

    /// The attributes of what the next header describes.
    fn extended(&mut self, full: &Path) -> Result<()> {
        let found = xattrs(full).map_err(io_error("read attributes of", full))?;
        let named: Vec<(String, Vec<u8>)> =
            found.into_iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)).collect();
        if named.is_empty() {
            return Ok(());
        }
        let pairs = named.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(pairs).map_err(io_error("pack", full))
    }
}

/// What belongs to the file: not what overlayfs, or this host's security module, wrote on it.
fn xattrs(path: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(e) if e.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e),
    };
    for name in names {
        let Some(text) = name.to_str() else { continue };
        let foreign = ["trusted.overlay.", "user.overlay.", "security.selinux", "security.apparmor", "system."];
        if foreign.iter().any(|f| text.starts_with(f)) {
            continue;
        }
        if let Some(value) = xattr::get(path, text)? {
            found.push((text.to_owned(), value));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
