//! Blobs on their way in: bytes are appended to a file and hashed as they come. An upload outlives the server; what nobody goes on
//! with is dropped.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use image::Digest;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::Refusal;
use crate::store::{self, RegistryStore, at};

/// Uploads that may be open at once.
const OPEN: usize = 1024;
/// An upload to which nothing is added for so long is dropped.
pub(crate) const STALE: Duration = Duration::from_secs(24 * 3600);
const BUFFER: usize = 1 << 20;

/// One upload. Whoever writes to it has it locked.
pub(crate) struct Upload {
    pub path: PathBuf,
    file: File,
    hasher: Sha256,
    /// Bytes received.
    pub len: u64,
}

impl Upload {
    /// # Errors
    /// The disk fails, or the blob gets longer than `max` bytes.
    pub async fn append(&mut self, bytes: &[u8], max: u64) -> Result<(), Refusal> {
        if self.len + bytes.len() as u64 > max {
            return Err(Refusal::size_invalid(format!("blobs are at most {max} bytes long")));
        }
        self.file.write_all(bytes).await.map_err(at("write", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what came, all of which is in the file now.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn digest(&mut self) -> Result<Digest, Refusal> {
        self.file.flush().await.map_err(at("write", &self.path))?;
        let hex = hex::encode(self.hasher.clone().finalize());
        crate::route::digest(&format!("sha256:{hex}"))
    }
}

/// The uploads that this process has open, by repository and id.
pub(crate) struct Uploads {
    store: RegistryStore,
    open: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
}

impl Uploads {
    pub fn new(store: RegistryStore) -> Self {
        Uploads { store, open: Mutex::default() }
    }

    /// Begins an upload to a repository, and says its id.
    ///
    /// # Errors
    /// 429 when too many are open; the disk fails.
    pub async fn begin(&self, name: &str) -> Result<String, Refusal> {
        if self.open.lock().len() >= OPEN {
            return Err(Refusal::too_many(format!("{OPEN} uploads are open")));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let path = self.store.upload_path(&file_name(name, &id));
        let file = File::create_new(&path).await.map_err(at("create", &path))?;
        let upload = Upload { path, file, hasher: Sha256::new(), len: 0 };
        self.open.lock().insert(file_name(name, &id), Arc::new(tokio::sync::Mutex::new(upload)));
        Ok(id)
    }

    /// An upload that was begun, perhaps by a process before this one.
    ///
    /// # Errors
    /// 404 when there is none; the disk fails.
    pub async fn get(&self, name: &str, id: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>, Refusal> {
        let key = file_name(name, id);
        if let Some(upload) = self.open.lock().get(&key) {
            return Ok(upload.clone());
        }
        let path = self.store.upload_path(&key);
        let mut file = match File::options().read(true).write(true).open(&path).await {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Refusal::upload_unknown(id)),
            Err(e) => return Err(at("open", &path)(e).into()),
        };
        let (mut hasher, mut len, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
        loop {
            let n = file.read(&mut buffer).await.map_err(at("read", &path))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            len += n as u64;
        }
        let upload = Arc::new(tokio::sync::Mutex::new(Upload { path, file, hasher, len }));
        // Two that come at once share the first.
        Ok(self.open.lock().entry(key).or_insert(upload).clone())
    }

    /// Ends an upload whose file has become a blob.
    pub fn done(&self, name: &str, id: &str) {
        self.open.lock().remove(&file_name(name, id));
    }

    /// Drops an upload.
    ///
    /// # Errors
    /// The disk fails.
    pub fn cancel(&self, name: &str, id: &str) -> Result<(), Refusal> {
        self.done(name, id);
        store::remove(&self.store.upload_path(&file_name(name, id)))?;
        Ok(())
    }

    /// Drops what nobody goes on with.
    ///
    /// # Errors
    /// The disk fails.
    pub fn expire(&self, now: SystemTime) -> Result<(), store::StoreError> {
        for key in store::names(&self.store.uploads())? {
            let path = self.store.upload_path(&key);
            let idle =
                std::fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|t| now.duration_since(t).ok());
            if idle.is_some_and(|idle| idle > STALE) {
                self.open.lock().remove(&key);
                store::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// The repository is part of the name, so that an upload is found under its own only.
fn file_name(name: &str, id: &str) -> String {
    format!("{}-{id}", &hex::encode(Sha256::digest(name.as_bytes()))[..16])
}
