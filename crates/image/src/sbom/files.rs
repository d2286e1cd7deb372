//! Files of an image, read from its unpacked layers without mounting them. No link is followed: the paths are those at which
//! package managers keep plain files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::error::{ImageError, Result, io_error, sys_error};

/// Longest file, bytes.
const FILE_MAX: u64 = 64 << 20;
/// Entries of a folder at most.
const ENTRIES_MAX: usize = 100_000;
const OPAQUE: &str = "trusted.overlay.opaque";

/// The layers, topmost first.
pub(super) struct Files<'a> {
    layers: &'a [PathBuf],
}

/// What a layer says of a path.
enum Said {
    /// It has it.
    Has(OwnedFd),
    /// The layers below are not to be looked at.
    Hides,
    /// Nothing.
    Nothing,
}

impl<'a> Files<'a> {
    pub(super) fn new(layers: &'a [PathBuf]) -> Self {
        Files { layers }
    }

    /// A file's text; `None` when there is no such plain file.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>> {
        for layer in self.layers {
            match said(layer, path)? {
                Said::Nothing => {}
                Said::Hides => return Ok(None),
                Said::Has(fd) => {
                    let at = layer.join(path);
                    let stat = fstat(&fd).map_err(sys_error("look up", &at))?;
                    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
                        return Ok(None);
                    }
                    let mut bytes = Vec::new();
                    File::from(fd).take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read", &at))?;
                    if bytes.len() as u64 > FILE_MAX {
                        return Err(ImageError::TooLarge { what: path.to_owned(), limit: FILE_MAX, unit: "bytes" });
                    }
                    return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Names in a folder, of all layers that have it; what was removed may be among them.
    pub(super) fn list(&self, path: &str) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for layer in self.layers {
            match said(layer, path)? {
                Said::Nothing => {}
                Said::Hides => break,
                Said::Has(_) => {
                    let at = layer.join(path);
                    let Ok(entries) = std::fs::read_dir(&at) else { break };
                    names.extend(entries.flatten().take(ENTRIES_MAX).filter_map(|e| e.file_name().into_string().ok()));
                    if is_opaque(&at) {
                        break;
                    }
                }
            }
        }
        Ok(names.into_iter().collect())
    }
}

fn is_opaque(path: &Path) -> bool {
    xattr::get(path, OPAQUE).ok().flatten().is_some_and(|value| value == b"y")
}

/// Looks a path up in one layer, component by component.
fn said(layer: &Path, path: &str) -> Result<Said> {
    let at = layer.join(path);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(layer, flags, Mode::empty()).map_err(sys_error("open", layer))?;
    let how = |flags: OFlag| {
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
    };
    let mut hides = false;
    for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
        let part = &path[..end];
        let fd = match openat2(&root, part, how(OFlag::O_PATH)) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(if hides { Said::Hides } else { Said::Nothing }),
            // A link, or a file where a folder was: whatever it leads to is not the plain path.
            Err(Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => return Ok(Said::Hides),
            Err(errno) => return Err(sys_error("look up", &at)(errno)),
        };
        let stat = fstat(&fd).map_err(sys_error("look up", &at))?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            // Removed in this layer.
            SFlag::S_IFCHR if stat.st_rdev == 0 => return Ok(Said::Hides),
            SFlag::S_IFDIR => hides |= end < path.len() && is_opaque(&layer.join(part)),
            _ => {}
        }
    }
    match openat2(&root, path, how(OFlag::O_RDONLY | OFlag::O_NONBLOCK)) {
        Ok(fd) => Ok(Said::Has(fd)),
        Err(Errno::ELOOP | Errno::ENXIO | Errno::ENODEV) => Ok(Said::Hides),
        Err(errno) => Err(sys_error("open", &at)(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_layer_is_right_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let layers = ["top", "low"].map(|name| dir.path().join(name));
        let files = Files::new(&layers);
        for layer in &layers {
            std::fs::create_dir_all(layer.join("a/b")).unwrap();
        }
        std::fs::write(layers[1].join("a/b/f"), "low").unwrap();
        std::fs::write(layers[1].join("a/only"), "only").unwrap();
        assert_eq!(files.read("a/b/f").unwrap().as_deref(), Some("low"));
        std::fs::write(layers[0].join("a/b/f"), "top").unwrap();
        assert_eq!(files.read("a/b/f").unwrap().as_deref(), Some("top"));
        assert_eq!(files.list("a").unwrap(), ["b", "only"]);
        std::os::unix::fs::symlink("/etc/passwd", layers[0].join("a/only")).unwrap();
        std::os::unix::fs::symlink("/etc", layers[0].join("etc")).unwrap();
        assert_eq!((files.read("a/only").unwrap(), files.read("etc/passwd").unwrap()), (None, None));
        assert_eq!((files.read("a").unwrap(), files.read("no/such").unwrap()), (None, None));
        assert!(files.list("etc").unwrap().is_empty());
    }
}
