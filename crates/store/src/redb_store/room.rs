//! A disk without room. The file has its blocks before they are needed, so that only growing it can fail for want of room;
//! when that fails, nothing of the transaction was made durable, and the file is opened anew as it was before.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::RwLock;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, Database, StorageBackend};

use super::create;
use super::tables::failed;
use crate::StoreError;

type Outcome<T> = std::result::Result<T, StoreError>;

/// With so much room left, bytes, the file may grow without having its blocks: it doubles, and need not fill what it gets.
const AMPLE: u64 = 64 << 20;

/// Set when the disk refused a write, or the file to grow, for want of room.
#[derive(Debug, Clone, Default)]
pub(super) struct Full(Arc<AtomicBool>);

impl Full {
    /// Whether it was set; it is not any more.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }

    fn note(&self, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            self.0.store(true, Ordering::Release);
        }
        error
    }
}

/// The store's file as redb sees it.
#[derive(Debug)]
pub(super) struct Disk {
    inner: FileBackend,
    file: File,
    full: Full,
}

impl Disk {
    pub(super) fn new(file: File, full: Full) -> std::result::Result<Self, StoreError> {
        let own = file.try_clone().map_err(failed::<Error>("opening the store's file failed"))?;
        let inner = FileBackend::new(file).map_err(failed("opening the store failed"))?;
        Ok(Disk { inner, file: own, full })
    }

    /// Gives the file the blocks between two lengths. A file system that cannot do so gives them when they are written.
    fn allocate(&self, from: u64, to: u64) -> Result<()> {
        let signed = |n: u64| i64::try_from(n).map_err(Error::other);
        let (offset, length) = (signed(from)?, signed(to - from)?);
        loop {
            return match fallocate(&self.file, FallocateFlags::empty(), offset, length) {
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    fn ample(&self) -> bool {
        nix::sys::statvfs::fstatvfs(&self.file).is_ok_and(|s| s.blocks_available() * s.fragment_size() >= AMPLE)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let before = self.inner.len()?;
        if len > before
            && let Err(error) = self.allocate(before, len)
        {
            // What was given of it is given back.
            self.inner.set_len(before)?;
            if !self.ample() {
                return Err(self.full.note(error));
            }
        }
        self.inner.set_len(len).map_err(|e| self.full.note(e))
    }

    fn sync_data(&self) -> Result<()> {
        // A failed sync is never taken for want of room: nobody knows what it left on the disk.
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.inner.write(offset, data).map_err(|e| self.full.note(e))
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> std::result::Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// How the file is opened again.
struct Again {
    path: PathBuf,
    builder: Box<dyn Fn() -> Builder + Send + Sync>,
    full: Full,
}

impl Again {
    fn open(&self) -> Outcome<Database> {
        let disk = Disk::new(create::open(&self.path)?, self.full.clone())?;
        (self.builder)().create_with_backend(disk).map_err(failed("opening the store failed"))
    }
}

/// The database, which the writer may have to open anew; absent while it cannot be.
pub(super) struct Handle {
    db: RwLock<Option<Database>>,
    again: Option<Again>,
}

impl Handle {
    /// Opens the file at a path, made with `create::open`.
    pub(super) fn open(path: PathBuf, builder: impl Fn() -> Builder + Send + Sync + 'static) -> Outcome<Self> {
        let again = Again { path, builder: Box::new(builder), full: Full::default() };
        let db = again.open()?;
        Ok(Handle { db: RwLock::new(Some(db)), again: Some(again) })
    }

    /// A database that cannot be opened again.
    pub(super) fn of(db: Database) -> Self {
        Handle { db: RwLock::new(Some(db)), again: None }
    }

    /// Does something with the database; while that runs it is not opened anew.
    pub(super) fn with<T>(&self, f: impl FnOnce(&Database) -> Outcome<T>) -> Outcome<T> {
        self.db.read().as_ref().map_or(Err(StoreError::NoSpace), f)
    }

    /// Whether what failed just now failed for want of room, and the file can be opened as it was before.
    pub(super) fn was_full(&self) -> bool {
        self.again.as_ref().is_some_and(|again| again.full.take())
    }

    /// Whether the database is there.
    pub(super) fn is_open(&self) -> bool {
        self.db.read().is_some()
    }

    /// Closes the database and opens it anew. Waits for those who read. After [`StoreError::NoSpace`] it is not there.
    pub(super) fn reopen(&self) -> Outcome<()> {
        let Some(again) = &self.again else { return Err(StoreError::NoSpace) };
        let mut db = self.db.write();
        // One file is open once.
        drop(db.take());
        match again.open() {
            Ok(opened) => *db = Some(opened),
            Err(_) if again.full.take() => return Err(StoreError::NoSpace),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
