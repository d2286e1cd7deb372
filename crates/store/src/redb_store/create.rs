//! The file's name appears only when the file is complete: a power failure while redb lays out a new file would leave
//! one that nobody can open.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::tables::{self, failed};
use crate::StoreError;

/// Opens the file for redb. A file that is not there is made, readable by its owner only.
pub(super) fn open(path: &Path) -> std::result::Result<File, StoreError> {
    let opening = || failed::<std::io::Error>("opening the store's file failed");
    let existing = || OpenOptions::new().read(true).write(true).open(path);
    match existing() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found.map_err(opening()),
    }
    let half_made = half_made_prefix(path);
    let new = path.with_file_name(format!("{half_made}{}", std::process::id()));
    remove(&new).map_err(opening())?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new).map_err(opening())?;
    let db = redb::Builder::new().create_file(file).map_err(failed("making the store failed"))?;
    tables::prepare(&db)?;
    drop(db);
    match std::fs::hard_link(&new, path) {
        // Somebody else was faster: theirs counts.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        linked => linked.map_err(opening())?,
    }
    for left in half_made_files(path, &half_made).map_err(opening())? {
        remove(&left).map_err(opening())?;
    }
    // Else a crash could lose the name of the file, and with it everything acknowledged.
    File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(opening())?;
    existing().map_err(opening())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn half_made_prefix(path: &Path) -> String {
    format!("{}.new.", path.file_name().unwrap_or_default().to_string_lossy())
}

/// What this and earlier, interrupted attempts have left.
fn half_made_files(path: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder(path))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
