//! Which files are meant, and what they are: found without following anything out of their root.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, SFlag};
use sha2::{Digest as _, Sha256};

use super::root::Root;
use crate::pattern::{Ignore, Pattern, clean};

/// Most files that one instruction copies.
const ENTRIES_MAX: usize = 4_000_000;
/// Deepest folder.
const DEPTH_MAX: usize = 1000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of that many bytes.
    File(u64),
    /// A folder.
    Dir,
    /// A link and what it says.
    Link(OsString),
    /// A pipe.
    Fifo,
    /// A device's number.
    Char(u64),
    /// A device's number.
    Block(u64),
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below what it is copied with; empty for that itself.
    pub inside: PathBuf,
    /// Below the root it comes from, without links.
    pub source: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// What tells it from others, if it has several names.
    pub inode: Option<(u64, u64)>,
}

/// A file or folder that an instruction names, with all that is in it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Where it is.
    pub root: Arc<Root>,
    /// What it is called where it goes: its name, or its path with `--parents`.
    pub name: PathBuf,
    /// Itself first; empty when all of it was left out.
    pub entries: Vec<Entry>,
}

impl Chosen {
    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        matches!(self.entries.first(), Some(Entry { kind: Kind::Dir, .. }))
    }
}

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where from.
    pub root: Arc<Root>,
    /// Paths, perhaps with wildcards.
    pub sources: &'a [String],
    /// What is not there: of a context.
    pub ignore: &'a Ignore,
    /// What stays behind.
    pub exclude: &'a Ignore,
    /// Folders on the way are kept.
    pub parents: bool,
}

/// Finds the files.
///
/// # Errors
/// A source that is not there, in Docker's words; faults of the disk.
pub fn choose(request: &Request<'_>) -> io::Result<Vec<Chosen>> {
    let mut all = Vec::new();
    let mut left = ENTRIES_MAX;
    for source in request.sources {
        // What is before `/./` is not kept.
        let pivot = source.split_once("/./").filter(|_| request.parents).map(|(before, _)| clean(before));
        let wild = Pattern::is_wild(source);
        let mut found = match wild {
            true => expand(request, source)?,
            false => vec![clean(source)],
        };
        if wild {
            found.retain(|path| !out(request, Path::new(path), Path::new("")));
        }
        for path in found {
            let chosen = one(request, source, &path, pivot.as_deref(), &mut left)?;
            all.extend(Some(chosen).filter(|c| !c.entries.is_empty() || !wild));
        }
    }
    Ok(all)
}

fn not_found(source: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("\"/{}\": not found", clean(source)))
}

fn one(request: &Request<'_>, source: &str, path: &str, pivot: Option<&str>, left: &mut usize) -> io::Result<Chosen> {
    let root = &request.root;
    let real = root.real(Path::new(path)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => not_found(source),
        _ => e,
    })?;
    let hidden = |p: &Path| !request.ignore.puts_back() && leaves_out(request.ignore, p);
    if hidden(Path::new(path)) || hidden(&real) {
        return Err(not_found(source));
    }
    let name = match request.parents {
        true => {
            let kept = pivot.and_then(|p| path.strip_prefix(p)).unwrap_or(path);
            PathBuf::from(kept.trim_start_matches('/'))
        }
        false => Path::new(path).file_name().map(PathBuf::from).unwrap_or_default(),
    };
    let mut walk = Walk { request, entries: Vec::new(), left };
    walk.visit(&real, Path::new(""), 0)?;
    let entries = walk.entries;
    if entries.is_empty() && leaves_out(request.ignore, &real) {
        return Err(not_found(source));
    }
    Ok(Chosen { root: root.clone(), name, entries })
}

fn leaves_out(ignore: &Ignore, path: &Path) -> bool {
    let text = path.to_string_lossy();
    !ignore.is_empty() && !text.is_empty() && ignore.leaves_out(&text)
}

/// Whether the entry stays behind. Patterns of `--exclude` fit below the source and below its root.
fn out(request: &Request<'_>, source: &Path, inside: &Path) -> bool {
    leaves_out(request.ignore, source) || leaves_out(request.exclude, source) || leaves_out(request.exclude, inside)
}

struct Walk<'a> {
    request: &'a Request<'a>,
    entries: Vec<Entry>,
    left: &'a mut usize,
}

impl Walk<'_> {
    fn visit(&mut self, source: &Path, inside: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("{} is deeper than {DEPTH_MAX} folders", source.display())));
        }
        let gone = out(self.request, source, inside);
        let stat = match self.request.root.look(source) {
            // Listed, and not there: overlayfs shows removals of nothing this way, which a layer may have.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
            other => other?,
        };
        let kind = kind_of(&self.request.root, source, &stat)?;
        let Some(kind) = kind else { return Ok(()) };
        let is_dir = kind == Kind::Dir;
        let puts_back = self.request.ignore.puts_back() || self.request.exclude.puts_back();
        if gone && !(is_dir && puts_back) {
            return Ok(());
        }
        *self.left = self.left.checked_sub(1).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {ENTRIES_MAX} files to copy"))
        })?;
        let at = self.entries.len();
        self.entries.push(Entry {
            inside: inside.to_path_buf(),
            source: source.to_path_buf(),
            kind,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            inode: (stat.st_nlink > 1 && !is_dir).then_some((stat.st_dev, stat.st_ino)),
        });
        if is_dir {
            for name in self.request.root.list(source)? {
                self.visit(&source.join(&name), &inside.join(&name), depth + 1)?;
            }
            if gone && self.entries.len() == at + 1 {
                // Nothing in it was put back.
                self.entries.pop();
            }
        }
        Ok(())
    }
}

/// `None` for a socket, which is nothing without its process.
fn kind_of(root: &Root, path: &Path, stat: &FileStat) -> io::Result<Option<Kind>> {
    Ok(Some(match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File(u64::try_from(stat.st_size).unwrap_or(0)),
        SFlag::S_IFDIR => Kind::Dir,
        SFlag::S_IFLNK => {
            let dir = root.exact_dir(path.parent().unwrap_or(Path::new("")))?;
            Kind::Link(readlinkat(dir.as_fd(), path.file_name().unwrap_or_default())?)
        }
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFCHR => Kind::Char(stat.st_rdev),
        SFlag::S_IFBLK => Kind::Block(stat.st_rdev),
        _ => return Ok(None),
    }))
}

/// The paths that fit a source with wildcards, one component after the other.
fn expand(request: &Request<'_>, source: &str) -> io::Result<Vec<String>> {
    let bad = |e: crate::pattern::PatternError| io::Error::new(io::ErrorKind::InvalidInput, e);
    let cleaned = clean(source);
    let mut found = vec![String::new()];
    for part in cleaned.split('/') {
        let mut next = Vec::new();
        let deep = part == "**" && request.parents;
        // Outside of `--parents` two stars are one.
        let single = if deep { String::new() } else { part.replace("**", "*") };
        let pattern = Pattern::read(&single).map_err(bad)?;
        for base in &found {
            if deep {
                folders(request, base, &mut next, 0)?;
            } else if Pattern::is_wild(part) {
                let names = request.root.list(Path::new(base)).unwrap_or_default();
                let fits = |name: &OsString| name.to_str().is_some_and(|n| pattern.matches(n));
                next.extend(names.iter().filter(|n| fits(n)).map(|n| join(base, &n.to_string_lossy())));
            } else {
                let path = join(base, part);
                next.extend(request.root.look(Path::new(&path)).is_ok().then_some(path));
            }
            if next.len() > ENTRIES_MAX {
                return Err(io::Error::other(format!("{source} fits more than {ENTRIES_MAX} files")));
            }
        }
        found = next;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn folders(request: &Request<'_>, base: &str, into: &mut Vec<String>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX || into.len() > ENTRIES_MAX {
        return Err(io::Error::other("too many folders for **"));
    }
    into.push(base.to_owned());
    for name in request.root.list(Path::new(base)).unwrap_or_default() {
        let path = join(base, &name.to_string_lossy());
        let is_dir = request
            .root
            .look(Path::new(&path))
            .is_ok_and(|s| s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits());
        if is_dir {
            folders(request, &path, into, depth + 1)?;
        }
    }
    Ok(())
}

fn join(base: &str, name: &str) -> String {
    if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") }
}

/// What the files are, in one digest: names, kinds, modes and content; not their owners and times, which a copy does not
/// keep or nobody means.
pub fn digest(all: &[Chosen]) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for chosen in all {
        field(chosen.name.as_os_str().as_bytes());
        for entry in &chosen.entries {
            field(entry.inside.as_os_str().as_bytes());
            field(&entry.mode.to_le_bytes());
            match &entry.kind {
                Kind::File(_) => {
                    field(b"file");
                    field(&content(&chosen.root, &entry.source)?);
                }
                Kind::Dir => field(b"dir"),
                Kind::Link(target) => {
                    field(b"link");
                    field(target.as_bytes());
                }
                Kind::Fifo => field(b"fifo"),
                Kind::Char(number) => field(format!("char {number}").as_bytes()),
                Kind::Block(number) => field(format!("block {number}").as_bytes()),
            }
        }
        field(b"");
    }
    Ok(hex::encode(hasher.finalize()))
}

fn content(root: &Root, path: &Path) -> io::Result<Vec<u8>> {
    let mut file = root.exact_file(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_vec()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
