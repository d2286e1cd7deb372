//! The registry's files.
//!
//! ```text
//! blobs/sha256/<hex>                         content, shared by all repositories
//! repositories/<name>/_blobs/<hex>           that the repository has the blob (empty file)
//! repositories/<name>/_manifests/<hex>       that it has the manifest; holds its media type
//! repositories/<name>/_tags/<tag>            the digest a tag points to
//! repositories/<name>/_referrers/<subject hex>/<hex>   a descriptor of what refers to the subject
//! uploads/<id>                               bytes on their way in
//! tmp/                                       what is being written
//! lock                                       shared by who adds content, exclusive for who removes it
//! ```
//! No component of a repository's name begins with `_`, so the folders cannot be mistaken for repositories. Files appear by write to
//! `tmp/`, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::Digest;

/// Most repositories, or tags of one, that a walk looks at.
pub(crate) const ENTRIES: usize = 1_000_000;
/// Deepest name of a repository, in components; names are at most 255 bytes.
const DEPTH: usize = 128;

/// A file of the registry cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    /// Whether the disk has no room.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

pub(crate) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError { action, path: path.to_owned(), source }
}

/// Content and names below one folder. Cheap to clone; several processes may use the same folder.
#[derive(Debug, Clone)]
pub struct RegistryStore {
    root: PathBuf,
}

/// Held while content is added, or (exclusively) removed.
pub(crate) struct Hold(#[allow(dead_code, reason = "the open file is the lock")] File);

impl RegistryStore {
    /// Opens the folder, making it if there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(root: &Path) -> Result<Self> {
        for dir in ["", "blobs/sha256", "repositories", "uploads", "tmp"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(at("create", &dir))?;
        }
        let store = RegistryStore { root: root.to_owned() };
        if let Some(_alone) = store.try_alone()? {
            // What is left here had a maker that is gone.
            for path in children(&store.root.join("tmp"))? {
                remove(&path)?;
            }
        }
        Ok(store)
    }

    fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        File::options().create(true).truncate(false).write(true).open(&path).map_err(at("open", &path))
    }

    /// Until it is dropped, nobody removes content.
    pub(crate) fn hold(&self) -> Result<Hold> {
        let file = self.lock()?;
        file.lock_shared().map_err(at("lock", &self.root))?;
        Ok(Hold(file))
    }

    /// Until it is dropped, nobody adds content.
    pub(crate) fn alone(&self) -> Result<Hold> {
        let file = self.lock()?;
        file.lock().map_err(at("lock", &self.root))?;
        Ok(Hold(file))
    }

    fn try_alone(&self) -> Result<Option<Hold>> {
        let file = self.lock()?;
        Ok(file.try_lock().is_ok().then_some(Hold(file)))
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(crate) fn upload_path(&self, id: &str) -> PathBuf {
        self.uploads().join(id)
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    fn link(&self, name: &str, digest: &Digest) -> PathBuf {
        self.repository(name).join("_blobs").join(digest.hex())
    }

    fn manifest_link(&self, name: &str, digest: &Digest) -> PathBuf {
        self.repository(name).join("_manifests").join(digest.hex())
    }

    fn tag_path(&self, name: &str, tag: &str) -> PathBuf {
        self.repository(name).join("_tags").join(tag)
    }

    fn referrers_path(&self, name: &str, subject: &Digest) -> PathBuf {
        self.repository(name).join("_referrers").join(subject.hex())
    }

    /// Writes a small file whole.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(at("create", parent))?;
        let temp = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
        let write = || {
            let mut file = File::create_new(&temp)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(at("write", &temp)).inspect_err(|_| drop(fs::remove_file(&temp)))?;
        self.place(&temp, path)
    }

    /// Moves a file, which is on disk already, to where it is seen.
    fn place(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(at("rename to", to))?;
        let parent = to.parent().unwrap_or(&self.root);
        File::open(parent).and_then(|d| d.sync_all()).map_err(at("sync", parent))
    }

    /// Whether a repository was ever pushed to.
    pub(crate) fn exists(&self, name: &str) -> bool {
        let dir = self.repository(name);
        ["_blobs", "_manifests"].iter().any(|sub| dir.join(sub).is_dir())
    }

    /// The length of a blob that the repository has. Who asks may be about to push a manifest that needs it: its age starts anew.
    pub(crate) fn blob(&self, name: &str, digest: &Digest) -> Result<Option<u64>> {
        if !self.link(name, digest).exists() {
            return Ok(None);
        }
        let _hold = self.hold()?;
        let path = self.blob_path(digest);
        match File::options().append(true).open(&path) {
            Ok(file) => {
                let meta = file.metadata().map_err(at("look up", &path))?;
                file.set_modified(SystemTime::now()).map_err(at("touch", &path))?;
                Ok(Some(meta.len()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("open", &path)(e)),
        }
    }

    /// Makes an upload, whose bytes have that digest, a blob of the repository.
    pub(crate) fn adopt(&self, name: &str, upload: &Path, digest: &Digest) -> Result<()> {
        let _hold = self.hold()?;
        let target = self.blob_path(digest);
        File::options().append(true).open(upload).and_then(|f| f.sync_all()).map_err(at("sync", upload))?;
        self.place(upload, &target)?;
        self.put(&self.link(name, digest), b"")
    }

    /// Whether content is here, of whichever repository; if so, its age starts anew.
    pub(crate) fn touch(&self, digest: &Digest) -> Result<bool> {
        let _hold = self.hold()?;
        let path = self.blob_path(digest);
        match File::options().append(true).open(&path) {
            Ok(file) => file.set_modified(SystemTime::now()).map(|()| true).map_err(at("touch", &path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(at("open", &path)(e)),
        }
    }

    /// Gives the repository a blob that is here; false when it is not.
    pub(crate) fn claim(&self, name: &str, digest: &Digest) -> Result<bool> {
        if !self.touch(digest)? {
            return Ok(false);
        }
        self.put(&self.link(name, digest), b"").map(|()| true)
    }

    /// Gives the repository a blob of another one; false when that has it not.
    pub(crate) fn mount(&self, name: &str, from: &str, digest: &Digest) -> Result<bool> {
        if self.blob(from, digest)?.is_none() {
            return Ok(false);
        }
        self.put(&self.link(name, digest), b"").map(|()| true)
    }

    /// Takes the blob from the repository; false when it has it not. Its bytes go with the next sweep.
    pub(crate) fn unlink(&self, name: &str, digest: &Digest) -> Result<bool> {
        remove(&self.link(name, digest))
    }

    /// The media type and bytes of a manifest that the repository has.
    pub(crate) fn manifest(&self, name: &str, digest: &Digest) -> Result<Option<(String, Vec<u8>)>> {
        let Some(media_type) = read(&self.manifest_link(name, digest))? else { return Ok(None) };
        let Some(bytes) = read(&self.blob_path(digest))? else { return Ok(None) };
        Ok(Some((String::from_utf8_lossy(&media_type).into_owned(), bytes)))
    }

    /// Whether the repository has the manifest.
    pub(crate) fn has_manifest(&self, name: &str, digest: &Digest) -> bool {
        self.manifest_link(name, digest).exists()
    }

    /// Stores a manifest; `refers` is what it is about, with its own descriptor. The caller holds the lock since it looked
    /// whether everything that the manifest needs is there.
    pub(crate) fn put_manifest(
        &self,
        _hold: &Hold,
        name: &str,
        (digest, media_type, bytes): (&Digest, &str, &[u8]),
        tag: Option<&str>,
        refers: Option<(&Digest, String)>,
    ) -> Result<()> {
        self.put(&self.blob_path(digest), bytes)?;
        self.put(&self.manifest_link(name, digest), media_type.as_bytes())?;
        if let Some((subject, descriptor)) = refers {
            self.put(&self.referrers_path(name, subject).join(digest.hex()), descriptor.as_bytes())?;
        }
        // Last: a tag never points to what is not there.
        match tag {
            Some(tag) => self.put(&self.tag_path(name, tag), digest.as_str().as_bytes()),
            None => Ok(()),
        }
    }

    /// What a tag points to.
    pub(crate) fn tag(&self, name: &str, tag: &str) -> Result<Option<Digest>> {
        let text = read(&self.tag_path(name, tag))?;
        Ok(text.and_then(|text| String::from_utf8_lossy(&text).trim().parse().ok()))
    }

    /// Points a tag to a manifest.
    pub(crate) fn point(&self, name: &str, tag: &str, digest: &Digest) -> Result<()> {
        self.put(&self.tag_path(name, tag), digest.as_str().as_bytes())
    }

    /// How long ago a tag was written; `None` when there is none.
    pub(crate) fn tag_age(&self, name: &str, tag: &str, now: SystemTime) -> Result<Option<Duration>> {
        let path = self.tag_path(name, tag);
        match fs::metadata(&path).and_then(|meta| meta.modified()) {
            // Written in the future, after the clock was set back: not to be believed.
            Ok(written) => Ok(Some(now.duration_since(written).unwrap_or(Duration::MAX))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(at("look up", &path)(e)),
        }
    }

    /// Removes a tag; false when there is none.
    pub(crate) fn untag(&self, name: &str, tag: &str) -> Result<bool> {
        remove(&self.tag_path(name, tag))
    }

    /// Removes a manifest with the tags that point to it; false when there is none. `subject` is what it was about.
    pub(crate) fn remove_manifest(&self, name: &str, digest: &Digest, subject: Option<&Digest>) -> Result<bool> {
        for tag in self.tags(name)? {
            if self.tag(name, &tag)?.as_ref() == Some(digest) {
                self.untag(name, &tag)?;
            }
        }
        if let Some(subject) = subject {
            remove(&self.referrers_path(name, subject).join(digest.hex()))?;
        }
        remove(&self.manifest_link(name, digest))
    }

    /// Tags in order.
    pub(crate) fn tags(&self, name: &str) -> Result<Vec<String>> {
        names(&self.repository(name).join("_tags"))
    }

    /// Descriptors of what refers to a manifest, in order of their digests.
    pub(crate) fn referrers(&self, name: &str, subject: &Digest) -> Result<Vec<Vec<u8>>> {
        let dir = self.referrers_path(name, subject);
        let mut out = Vec::new();
        for file in names(&dir)? {
            out.extend(read(&dir.join(file))?);
        }
        Ok(out)
    }

    /// Names of the repositories, in order.
    pub(crate) fn repositories(&self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        self.walk(String::new(), 0, &mut out)?;
        out.sort_unstable();
        Ok(out)
    }

    fn walk(&self, name: String, depth: usize, out: &mut Vec<String>) -> Result<()> {
        for child in names(&self.repository(&name))? {
            if child.starts_with('_') || out.len() >= ENTRIES || depth >= DEPTH {
                continue;
            }
            let name = if name.is_empty() { child } else { format!("{name}/{child}") };
            if self.exists(&name) {
                out.push(name.clone());
            }
            self.walk(name, depth + 1, out)?;
        }
        Ok(())
    }

    /// Digests of the manifests of a repository.
    pub(crate) fn manifests(&self, name: &str) -> Result<Vec<Digest>> {
        Ok(digests(names(&self.repository(name).join("_manifests"))?))
    }

    /// Blobs that the repository has.
    pub(crate) fn links(&self, name: &str) -> Result<Vec<Digest>> {
        Ok(digests(names(&self.repository(name).join("_blobs"))?))
    }
}

/// Digests of files that are named by their hex digits.
pub(crate) fn digests(names: Vec<String>) -> Vec<Digest> {
    names.iter().filter_map(|hex| format!("sha256:{hex}").parse().ok()).collect()
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(at("read", path)(e)),
    }
}

/// False when there was no such file.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(at("remove", path)(e)),
    }
}

/// Paths in a folder; none when there is no such folder.
pub(crate) fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(names(dir)?.iter().map(|name| dir.join(name)).collect())
}

/// Names in a folder, in order; none when there is no such folder.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(at("list", dir)(e)),
    };
    let mut out = Vec::new();
    for entry in entries.take(ENTRIES) {
        let name = entry.map_err(at("list", dir))?.file_name();
        out.extend(name.to_str().map(str::to_owned));
    }
    out.sort_unstable();
    Ok(out)
}
