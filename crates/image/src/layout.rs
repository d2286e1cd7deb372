//! Where things are under the root, how they get there whole, and who may remove them.
//!
//! ```text
//! blobs/sha256/<hex>     compressed layers, configs, manifests, as they came
//! layers/<hex>/          one unpacked layer by diff id: fs/ (a lowerdir) and meta.json
//! images/<hex>.json      one image by config digest: its manifest and layers
//! refs/<hash>.json       one reference: its text and the image it names
//! snapshots/<key>/       upper/, work/ and meta.json of one container
//! cached/<hex>.json      layers that a build may use again, by what they were made from; its time is its last use
//! ingest/<hex>.partial   a blob on its way; kept when interrupted, so that the next pull goes on from there
//! tmp/                   what is being made; nothing here is ever read after its maker is gone
//! index.lock             taken by who changes images/ and refs/
//! content.lock           shared by who adds content, exclusive for who removes it
//! ```
//! Files appear by write to tmp/, fsync, rename, fsync of the folder; a layer by rename of its folder after syncfs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::{ImageError, Result, io_error, sys_error};

/// No index file is larger; what is, is damage.
const INDEX_FILE_MAX: u64 = 1 << 20;

/// The folders of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Held while content is added: nobody removes content meanwhile.
#[derive(Debug)]
pub(crate) struct ContentHold(#[allow(dead_code, reason = "the open file is the lock")] File);

/// Held while images and references change.
#[derive(Debug)]
pub(crate) struct IndexLock(#[allow(dead_code, reason = "the open file is the lock")] File);

impl Layout {
    pub(crate) fn create(root: &Path) -> Result<Self> {
        // Unpacked layers hold set-uid programs: nobody else may walk in.
        let make = |path: &Path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
        };
        make(root)?;
        let root = root.canonicalize().map_err(io_error("resolve", root))?;
        for dir in ["blobs/sha256", "layers", "images", "refs", "snapshots", "cached", "ingest", "tmp"] {
            make(&root.join(dir))?;
        }
        Ok(Layout { root })
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("ingest").join(format!("{}.partial", digest.hex()))
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn layer_fs(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    pub(crate) fn image(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    pub(crate) fn reference(&self, reference: &str) -> PathBuf {
        // A reference may be longer than a file name; its text is in the file.
        self.root.join("refs").join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    pub(crate) fn snapshot(&self, key: &str) -> PathBuf {
        self.root.join("snapshots").join(key)
    }

    pub(crate) fn cached(&self, key: &str) -> PathBuf {
        self.root.join("cached").join(format!("{}.json", Digest::of(key.as_bytes()).hex()))
    }

    fn open_lock(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.root.join(name);
        let file = File::options().create(true).truncate(false).write(true).read(true).open(&path);
        Ok((file.map_err(io_error("open", &path))?, path))
    }

    /// Waits for the right to change the index. Held for moments only.
    pub(crate) fn lock_index(&self) -> Result<IndexLock> {
        let (file, path) = self.open_lock("index.lock")?;
        file.lock().map_err(io_error("lock", &path))?;
        Ok(IndexLock(file))
    }

    /// Waits until nobody removes content, and keeps it so.
    pub(crate) fn hold_content(&self) -> Result<ContentHold> {
        let (file, path) = self.open_lock("content.lock")?;
        file.lock_shared().map_err(io_error("lock", &path))?;
        Ok(ContentHold(file))
    }

    /// The right to remove content, or `None` while somebody adds some.
    pub(crate) fn try_own_content(&self) -> Result<Option<ContentHold>> {
        let (file, path) = self.open_lock("content.lock")?;
        match file.try_lock() {
            Ok(()) => Ok(Some(ContentHold(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(io_error("lock", &path)(e)),
        }
    }

    /// A new folder in tmp/, removed with its content when dropped.
    pub(crate) fn temp_dir(&self) -> Result<TempDir> {
        let path = self.temp_path();
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(io_error("create", &path))?;
        Ok(TempDir(path))
    }

    fn temp_path(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // The clock keeps names apart when process ids repeat (containers, reboots).
        let t = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        self.root.join("tmp").join(format!("{}-{n}-{t:x}", std::process::id()))
    }

    /// Puts a file in place whole, or not at all.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = TempFile(self.temp_path());
        let mut file = File::create_new(&temp.0).map_err(io_error("create", &temp.0))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", &temp.0))?;
        fs::rename(&temp.0, path).map_err(io_error("rename to", path))?;
        sync_parent(path)
    }

    pub(crate) fn write_json<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|e| ImageError::document(path.display().to_string(), e))?;
        self.write_file(path, &bytes)
    }

    /// Stores small content under its digest and answers it.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob(&digest);
        if !exists(&path)? {
            self.write_file(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads small content back, checking that it still is what it was.
    pub(crate) fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let Some(bytes) = read_file(&path, max)? else {
            return Err(ImageError::MissingContent { what: "blob", digest: digest.clone() });
        };
        let actual = Digest::of(&bytes);
        if actual != *digest {
            let what = path.display().to_string();
            return Err(ImageError::DigestMismatch { what, expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Flushes everything written to the file system of the store.
    pub(crate) fn sync(&self) -> Result<()> {
        let dir = File::open(&self.root).map_err(io_error("open", &self.root))?;
        nix::unistd::syncfs(&dir).map_err(sys_error("sync", &self.root))
    }
}

/// A folder that goes away with its owner.
#[derive(Debug)]
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "temporary folder stays until the store is next opened");
        }
    }
}

struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        // Renamed away when all went well.
        let _ = fs::remove_file(&self.0);
    }
}

pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("sync", parent))
}

pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(io_error("look up", path))
}

/// The file's bytes, `None` if there is none.
pub(crate) fn read_file(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > max {
        return Err(ImageError::TooLarge { what: path.display().to_string(), limit: max, unit: "bytes" });
    }
    Ok(Some(bytes))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_file(path, INDEX_FILE_MAX)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| ImageError::document(path.display().to_string(), e))
}

/// The entries of a folder, by name.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes on disk below a path, hard links counted once each time they are met; what vanishes meanwhile is skipped.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let Ok(children) = fs::read_dir(path) else { return own };
    own + children.flatten().map(|child| disk_bytes(&child.path())).sum::<u64>()
}

/// Bytes on disk of a folder, and how many files and folders are in it.
pub(crate) fn disk_usage(path: &Path) -> (u64, u64) {
    let Ok(meta) = fs::symlink_metadata(path) else { return (0, 0) };
    let mut sum = (meta.blocks() * 512, 1);
    let children = if meta.is_dir() { fs::read_dir(path).ok() } else { None };
    for child in children.into_iter().flatten().flatten() {
        let (bytes, files) = disk_usage(&child.path());
        sum = (sum.0 + bytes, sum.1 + files);
    }
    sum
}

/// Removes a file or a folder; already gone is fine. Answers the bytes freed.
pub(crate) fn remove(path: &Path) -> Result<u64> {
    let bytes = disk_bytes(path);
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(io_error("remove", path)(e)),
    }
}
