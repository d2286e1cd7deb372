//! Folders of clients that are kept for their next build, so that only what changed is transferred.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use buildkit::Received;

/// Folders that are kept.
const FOLDERS_MAX: usize = 32;
/// Bytes of those that are kept.
const BYTES_MAX: u64 = 10 << 30;

/// A folder of a client, for one build at a time.
pub struct Synced {
    place: PathBuf,
    /// Removed when the build has ended.
    once: bool,
    #[allow(dead_code, reason = "the open file is the lock")]
    lock: Option<File>,
}

/// One that is kept, and no build uses.
pub struct Kept {
    /// What it is called.
    pub key: String,
    /// Bytes.
    pub bytes: u64,
    /// When a build used it.
    pub used: SystemTime,
    lock: File,
    place: PathBuf,
}

impl Synced {
    /// The folder of a key below `all`; one of its own, below `work`, where there is no key or another build has it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn take(all: &Path, key: Option<String>, work: &Path, name: &str) -> io::Result<Synced> {
        if let Some(key) = key {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(all)?;
            let lock =
                File::options().create(true).truncate(false).write(true).open(all.join(format!("{key}.lock")))?;
            if lock.try_lock().is_ok() {
                let place = all.join(key);
                fs::create_dir_all(&place)?;
                lock.set_modified(SystemTime::now())?;
                return Ok(Synced { place, once: false, lock: Some(lock) });
            }
        }
        let place = work.join(name);
        fs::create_dir_all(&place)?;
        Ok(Synced { place, once: true, lock: None })
    }

    /// Where the client's files are.
    pub fn tree(&self) -> PathBuf {
        self.place.join("tree")
    }

    /// For files that are on their way.
    pub fn aside(&self) -> PathBuf {
        self.place.join("aside")
    }

    /// Remembers how large it is.
    pub fn measured(&self, received: Received) {
        let _ = fs::write(self.place.join("bytes"), received.all.to_string());
    }
}

impl Drop for Synced {
    fn drop(&mut self) {
        if self.once {
            let _ = fs::remove_dir_all(&self.place);
        }
    }
}

/// Those that no build uses, the last used first.
///
/// # Errors
/// When they cannot be looked at.
pub fn kept(all: &Path) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(all) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(key) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".lock")) else { continue };
        let Ok(lock) = File::options().write(true).open(&path) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let place = path.with_extension("");
        let bytes = fs::read_to_string(place.join("bytes")).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
        let used = lock.metadata()?.modified()?;
        found.push(Kept { key: key.to_owned(), bytes, used, lock, place });
    }
    found.sort_by_key(|kept| std::cmp::Reverse(kept.used));
    Ok(found)
}

impl Kept {
    /// Removes it.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn remove(self) -> io::Result<()> {
        match fs::remove_dir_all(&self.place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::remove_file(self.place.with_extension("lock"))?;
        drop(self.lock);
        Ok(())
    }
}

/// Removes what is too much, the longest unused first.
pub fn cut_down(all: &Path) {
    let Ok(kept) = kept(all) else { return };
    let mut bytes = 0u64;
    for (n, folder) in kept.into_iter().enumerate() {
        bytes = bytes.saturating_add(folder.bytes);
        if (n >= FOLDERS_MAX || bytes > BYTES_MAX)
            && let Err(error) = folder.remove()
        {
            tracing::debug!(%error, "a client's folder stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_by_one_and_kept_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (all, work) = (dir.path().join("all"), dir.path().join("work"));
        let take = |name: &str| Synced::take(&all, Some("key".to_owned()), &work, name).unwrap();
        let (one, two) = (take("one"), take("two"));
        assert!(one.tree().starts_with(&all) && two.tree().starts_with(&work));
        assert!(kept(&all).unwrap().is_empty());
        fs::create_dir(one.tree()).unwrap();
        one.measured(Received { all: 7, ..Received::default() });
        drop((one, two));
        assert!(!work.join("two").exists());
        let found = kept(&all).unwrap();
        assert_eq!((found[0].key.as_str(), found[0].bytes), ("key", 7));
        drop(found);
        assert!(take("three").tree().is_dir());
        cut_down(&all);
        kept(&all).unwrap().into_iter().for_each(|folder| folder.remove().unwrap());
        assert_eq!(fs::read_dir(&all).unwrap().count(), 0);
    }
}
