//! A blob on its way into the store. What came is kept when the transfer breaks; it becomes a blob only when all of it
//! is there and has the digest it was asked for by.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::{ImageError, Result, io_error};
use crate::layout::{self, Layout};

/// Bytes gathered before the disk is bothered.
const BUFFER: usize = 1 << 20;

pub(crate) struct Ingest {
    layout: Layout,
    digest: Digest,
    path: PathBuf,
    /// Locked: one writer among all processes.
    file: File,
    hasher: Sha256,
    written: u64,
    size: u64,
    pending: Vec<u8>,
}

impl Ingest {
    /// `None` when the blob is in the store, perhaps because another pull just brought it: this waits for that pull.
    pub(crate) fn open(layout: &Layout, digest: &Digest, size: u64) -> Result<Option<Self>> {
        let path = layout.partial(digest);
        let fail = |action| io_error(action, &path);
        let mut file = loop {
            if layout::exists(&layout.blob(digest))? {
                return Ok(None);
            }
            let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            let file = file.map_err(fail("open"))?;
            file.lock().map_err(fail("lock"))?;
            // The one before may have finished: then this file is no longer the partial but the blob, or nothing.
            let ours = file.metadata().map_err(fail("look up"))?.ino();
            match fs::metadata(&path) {
                Ok(meta) if meta.ino() == ours => break file,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(fail("look up")(e)),
            }
        };
        let mut hasher = Sha256::new();
        let mut written = 0;
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = file.read(&mut buffer).map_err(fail("read"))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            written += n as u64;
        }
        let pending = Vec::with_capacity(BUFFER);
        let ingest =
            Ingest { layout: layout.clone(), digest: digest.clone(), path, file, hasher, written, size, pending };
        Ok(Some(if written > size { ingest.restart()? } else { ingest }))
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes received, buffered ones included.
    pub(crate) fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.len() == self.size
    }

    pub(crate) fn interrupted(&self) -> ImageError {
        let what = format!("blob {}", self.digest);
        ImageError::Interrupted { what, received: self.len(), expected: self.size }
    }

    /// Forgets what came.
    pub(crate) fn restart(mut self) -> Result<Self> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(io_error("empty", &self.path))?;
        self.hasher = Sha256::new();
        self.written = 0;
        self.pending.clear();
        Ok(self)
    }

    /// Takes bytes; true asks for a flush.
    pub(crate) fn take(&mut self, chunk: Bytes) -> Result<bool> {
        if self.len() + chunk.len() as u64 > self.size {
            // More than announced is not what was announced; nothing of it is worth keeping.
            let _ = fs::remove_file(&self.path);
            return Err(ImageError::TooLarge {
                what: format!("blob {}", self.digest),
                limit: self.size,
                unit: "bytes",
            });
        }
        self.pending.extend_from_slice(&chunk);
        Ok(self.pending.len() >= BUFFER)
    }

    pub(crate) fn flush(mut self) -> Result<Self> {
        self.file.write_all(&self.pending).map_err(io_error("write", &self.path))?;
        self.hasher.update(&self.pending);
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(self)
    }

    /// Checks the digest and makes it a blob.
    pub(crate) fn finish(self) -> Result<()> {
        let actual = Digest::from_hasher(self.hasher);
        if actual != self.digest {
            fs::remove_file(&self.path).map_err(io_error("remove", &self.path))?;
            let what = "blob from the registry".to_owned();
            return Err(ImageError::DigestMismatch { what, expected: self.digest, actual });
        }
        self.file.sync_all().map_err(io_error("sync", &self.path))?;
        let target = self.layout.blob(&self.digest);
        fs::rename(&self.path, &target).map_err(io_error("rename to", &target))?;
        layout::sync_parent(&target)
    }
}
