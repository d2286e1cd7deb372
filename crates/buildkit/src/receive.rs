//! Files of the client, into a folder: it tells what it has, we ask for the content of what is not here yet.
//! <https://github.com/tonistiigi/fsutil> has the protocol at the head of `receive.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use grpc::Requests;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::messages::{Packet, PacketKind, Stat};
use crate::mode::{Kind, from_go};
use crate::session::{Session, SessionError};

const PATH: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// Files on their way at once.
const AT_ONCE: usize = 64;
/// Bytes of paths in all: they are kept as long as a transfer takes.
const NAMES_MAX: usize = 256 << 20;

/// What is wanted of a client's folder.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// What the client calls the folder.
    pub dir: &'a str,
    /// Only these and what they lead to; empty is everything.
    pub follow: &'a [String],
    /// Patterns of what is left out (`.dockerignore`).
    pub exclude: &'a [String],
}

/// The limits of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct ReceiveLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u32,
}

/// What a transfer brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Files whose content came.
    pub files: u64,
    /// Bytes of content that came.
    pub bytes: u64,
    /// Bytes of all files that are there now.
    pub all: u64,
}

impl Session {
    /// Makes a folder be as the client's is. What is there already with the same size, time and mode is not asked for; what the
    /// client does not have goes. `aside` is a folder on the same disk for what is on its way. Blocks on the disk, so it is not
    /// for a thread that others need.
    ///
    /// # Errors
    /// What the client or the disk says; a limit that is reached; paths that lead out.
    pub async fn receive(
        &self,
        wanted: Wanted<'_>,
        into: &Path,
        aside: &Path,
        limits: ReceiveLimits,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Received, SessionError> {
        let encoded = |values: &[String]| -> (Vec<String>, bool) {
            if values.iter().all(|v| v.bytes().all(|b| (b' '..=b'~').contains(&b))) {
                return (values.to_vec(), false);
            }
            (values.iter().map(|v| url::form_urlencoded::byte_serialize(v.as_bytes()).collect()).collect(), true)
        };
        let mut headers: Vec<(&str, String)> = vec![("dir-name", wanted.dir.to_owned())];
        for (name, flag, values) in [
            ("followpaths", "followpaths-encoded", wanted.follow),
            ("exclude-patterns", "exclude-patterns-encoded", wanted.exclude),
        ] {
            let (values, is_encoded) = encoded(values);
            headers.extend(values.into_iter().map(|v| (name, v)));
            headers.extend(is_encoded.then(|| (flag, "1".to_owned())));
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let (requests, mut answers) = self.needs(PATH)?.duplex(PATH, &headers).await?;
        let mut tree = Tree::new(into, aside, limits)?;
        while let Some(packet) = answers.next::<Packet>().await? {
            match PacketKind::try_from(packet.kind) {
                Ok(PacketKind::Stat) => match packet.stat {
                    Some(stat) => tree.told(&stat)?,
                    None => tree.all_told = true,
                },
                Ok(PacketKind::Data) => {
                    tree.data(packet.id, &packet.data)?;
                    progress(tree.received.bytes);
                }
                Ok(PacketKind::Fin) => break,
                Ok(PacketKind::Err) => {
                    let said = String::from_utf8_lossy(&packet.data).into_owned();
                    return Err(SessionError::Wrong(format!("error from sender: {said}")));
                }
                _ => return Err(SessionError::Wrong("a packet of the transfer is of no known kind".to_owned())),
            }
            tree.ask(&requests).await?;
        }
        if !tree.finished {
            return Err(SessionError::Wrong("the client ended the transfer of its files early".to_owned()));
        }
        Ok(tree.received)
    }
}

fn packet(kind: PacketKind, id: u32) -> Packet {
    Packet { kind: kind as i32, id, ..Packet::default() }
}

/// A file on its way.
struct Part {
    file: File,
    stat: Stat,
}

struct Tree<'a> {
    into: &'a Path,
    aside: &'a Path,
    limits: ReceiveLimits,
    /// What the client has.
    seen: BTreeSet<PathBuf>,
    /// Folders among it, with what they should be like at the end.
    dirs: BTreeMap<PathBuf, (u32, i64)>,
    names: usize,
    next: u32,
    queue: VecDeque<(u32, Stat)>,
    parts: HashMap<u32, Part>,
    all_told: bool,
    finished: bool,
    received: Received,
}

impl<'a> Tree<'a> {
    fn new(into: &'a Path, aside: &'a Path, limits: ReceiveLimits) -> Result<Self, SessionError> {
        fs::create_dir_all(into).map_err(SessionError::io("make", into))?;
        // Of a transfer that broke off.
        match fs::remove_dir_all(aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(SessionError::io("remove", aside)(e)),
            _ => {}
        }
        fs::create_dir_all(aside).map_err(SessionError::io("make", aside))?;
        Ok(Tree {
            into,
            aside,
            limits,
            seen: BTreeSet::new(),
            dirs: BTreeMap::new(),
            names: 0,
            next: 0,
            queue: VecDeque::new(),
            parts: HashMap::new(),
            all_told: false,
            finished: false,
            received: Received::default(),
        })
    }

    /// A path as the client says it, below the folder: its folder must have been told before.
    fn place(&mut self, path: &str) -> Result<PathBuf, SessionError> {
        let wrong = |why: &str| SessionError::Wrong(format!("the client's path {path:?} {why}"));
        let clean =
            !path.is_empty() && !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean {
            return Err(wrong("is not a plain one"));
        }
        let path = PathBuf::from(path);
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent != Path::new("") && !self.dirs.contains_key(parent) {
            return Err(wrong("is in a folder that was not told"));
        }
        self.names += path.as_os_str().len();
        if self.names > NAMES_MAX || self.next >= self.limits.entries {
            let most = self.limits.entries;
            return Err(SessionError::Wrong(format!("the client's folder has more than {most} files and folders")));
        }
        if !self.seen.insert(path.clone()) {
            return Err(wrong("was told twice"));
        }
        Ok(path)
    }

    fn told(&mut self, stat: &Stat) -> Result<(), SessionError> {
        let relative = self.place(&stat.path)?;
        let id = self.next;
        self.next += 1;
        let path = self.into.join(&relative);
        let fail = SessionError::io("receive", &path);
        let here = match fs::symlink_metadata(&path) {
            Ok(here) => Some(here),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(fail(e)),
        };
        let (kind, mode) = from_go(stat.mode);
        match kind {
            Kind::Dir => {
                if !here.as_ref().is_some_and(Metadata::is_dir) {
                    self.clear(&path, here.as_ref())?;
                    fs::create_dir(&path).map_err(&fail)?;
                }
                self.dirs.insert(relative, (mode, stat.mod_time));
            }
            Kind::Symlink => {
                let same = fs::read_link(&path).is_ok_and(|to| to.as_os_str().as_bytes() == stat.linkname.as_bytes());
                if !same {
                    self.clear(&path, here.as_ref())?;
                    std::os::unix::fs::symlink(&stat.linkname, &path).map_err(&fail)?;
                }
                set_time(&path, stat.mod_time).map_err(&fail)?;
            }
            Kind::Pipe => {
                self.clear(&path, here.as_ref())?;
                nix::unistd::mkfifo(&path, Mode::from_bits_truncate(mode)).map_err(|e| fail(e.into()))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(&fail)?;
                set_time(&path, stat.mod_time).map_err(&fail)?;
            }
            Kind::File => {
                self.count(u64::try_from(stat.size).unwrap_or(0))?;
                if !here.is_some_and(|here| is_same(&path, &here, stat, mode)) {
                    self.queue.push_back((id, stat.clone()));
                }
            }
            Kind::Other => {
                return Err(SessionError::Wrong(format!("{} is a device, which a context cannot have", stat.path)));
            }
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), SessionError> {
        self.received.all = self.received.all.saturating_add(bytes);
        self.check(self.received.all)
    }

    fn check(&self, bytes: u64) -> Result<(), SessionError> {
        let most = self.limits.bytes;
        if bytes > most {
            return Err(SessionError::Wrong(format!("the client's folder is larger than {most} bytes")));
        }
        Ok(())
    }

    /// Takes away what is in the way.
    fn clear(&self, path: &Path, here: Option<&Metadata>) -> Result<(), SessionError> {
        let removed = match here {
            None => return Ok(()),
            Some(here) if here.is_dir() => fs::remove_dir_all(path),
            Some(_) => fs::remove_file(path),
        };
        removed.map_err(SessionError::io("remove", path))
    }

    /// Asks for as much as may be on its way; at the end, says so.
    async fn ask(&mut self, requests: &Requests) -> Result<(), SessionError> {
        while self.parts.len() < AT_ONCE
            && let Some((id, stat)) = self.queue.pop_front()
        {
            let path = self.aside.join(id.to_string());
            let file = File::create_new(&path).map_err(SessionError::io("make", &path))?;
            self.parts.insert(id, Part { file, stat });
            requests.send(&packet(PacketKind::Req, id)).await?;
        }
        if self.all_told && self.parts.is_empty() && self.queue.is_empty() && !self.finished {
            self.finish()?;
            self.finished = true;
            requests.send(&packet(PacketKind::Fin, 0)).await?;
        }
        Ok(())
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), SessionError> {
        let aside = self.aside.join(id.to_string());
        let fail = SessionError::io("write", &aside);
        if !data.is_empty() {
            let part = self.parts.get_mut(&id);
            let part = part.ok_or_else(|| SessionError::Wrong(format!("invalid file request {id}")))?;
            part.file.write_all(data).map_err(&fail)?;
            self.received.bytes += data.len() as u64;
            return self.check(self.received.bytes);
        }
        let part = self.parts.remove(&id).ok_or_else(|| SessionError::Wrong(format!("invalid file request {id}")))?;
        self.received.files += 1;
        let (_, mode) = from_go(part.stat.mode);
        part.file.set_permissions(fs::Permissions::from_mode(mode)).map_err(&fail)?;
        for (name, value) in kept(&part.stat.xattrs) {
            xattr::set(&aside, name, value).map_err(&fail)?;
        }
        set_time(&aside, part.stat.mod_time).map_err(&fail)?;
        let path = self.into.join(&part.stat.path);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
            fs::remove_dir_all(&path).map_err(SessionError::io("remove", &path))?;
        }
        fs::rename(&aside, &path).map_err(SessionError::io("receive", &path))
    }

    /// Takes away what the client does not have, and makes folders as they should be.
    fn finish(&self) -> Result<(), SessionError> {
        let mut left = vec![PathBuf::new()];
        while let Some(dir) = left.pop() {
            let path = self.into.join(&dir);
            let fail = SessionError::io("look into", &path);
            for entry in fs::read_dir(&path).map_err(&fail)? {
                let entry = entry.map_err(&fail)?;
                let relative = dir.join(entry.file_name());
                if !self.seen.contains(&relative) {
                    let gone = entry.metadata().map_err(&fail)?;
                    self.clear(&entry.path(), Some(&gone))?;
                } else if self.dirs.contains_key(&relative) {
                    left.push(relative);
                }
            }
        }
        // The innermost first: what happens in a folder changes its time.
        for (dir, (mode, time)) in self.dirs.iter().rev() {
            let path = self.into.join(dir);
            let fail = SessionError::io("receive", &path);
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).map_err(&fail)?;
            set_time(&path, *time).map_err(&fail)?;
        }
        Ok(())
    }
}

/// Attributes that images keep; the others are the client's own.
fn kept(xattrs: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (&String, &Vec<u8>)> {
    xattrs.iter().filter(|(name, _)| is_kept(name))
}

fn is_kept(name: &str) -> bool {
    name == "security.capability" || name.starts_with("user.")
}

fn is_same(path: &Path, here: &Metadata, stat: &Stat, mode: u32) -> bool {
    let time = here.mtime().saturating_mul(1_000_000_000).saturating_add(here.mtime_nsec());
    let plain = here.is_file()
        && i64::try_from(here.len()) == Ok(stat.size)
        && time == stat.mod_time
        && here.mode() & 0o7777 == mode;
    let names = || {
        let names = xattr::list(path).into_iter().flatten();
        names.filter(|n: &OsString| n.to_str().is_some_and(is_kept))
    };
    plain
        && names().count() == kept(&stat.xattrs).count()
        && kept(&stat.xattrs).all(|(name, value)| xattr::get(path, name).ok().flatten().as_ref() == Some(value))
}

fn set_time(path: &Path, nanos: i64) -> io::Result<()> {
    let time = TimeSpec::new(nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    Ok(utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}
