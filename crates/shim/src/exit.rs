//! Exit records on disk: what a shim saw while nobody listened. One file per container, put in place by rename, so a
//! reader finds a whole record or none.

use std::io;
use std::path::{Path, PathBuf};

use crate::proto::ExitInfo;

/// Folder of the records in a sandbox's run folder.
pub const DIR: &str = "exits";

fn path(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join(DIR).join(format!("{id}.json"))
}

/// Writes the record of container `id`.
pub fn write(pod_dir: &Path, id: &str, info: &ExitInfo) -> io::Result<()> {
    std::fs::create_dir_all(pod_dir.join(DIR))?;
    let path = path(pod_dir, id);
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(info)?)?;
    std::fs::rename(&temporary, &path)
}

/// The record of container `id`, if it was written.
pub fn read(pod_dir: &Path, id: &str) -> io::Result<Option<ExitInfo>> {
    match std::fs::read(path(pod_dir, id)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Takes the record away.
pub fn remove(pod_dir: &Path, id: &str) {
    let _ = std::fs::remove_file(path(pod_dir, id));
}
