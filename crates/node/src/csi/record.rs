//! What a volume's folder says of it, so that an agent that knows nothing else can take it away: written before the driver is
//! asked for anything, removed after it has undone all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::volumes::mounts;

const FILE: &str = "vol_data.json";
/// A record is some hundred bytes.
const FILE_MAX: u64 = 64 << 10;

/// Whose a volume is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) driver_name: String,
    pub(super) volume_handle: String,
    /// It lives and ends with its pod.
    #[serde(default)]
    pub(super) ephemeral: bool,
    /// The driver has mounted it: while the mount is there, it need not be asked again.
    #[serde(default)]
    pub(super) mounted: bool,
    /// It is attached to the node, and detached when the node says that it uses it no more.
    #[serde(default)]
    pub(super) attached: bool,
    /// The driver was not asked for anything yet.
    #[serde(default)]
    pub(super) unasked: bool,
}

/// The folder's record, if there is one.
pub(super) fn read(folder: &Path) -> io::Result<Option<Record>> {
    let path = folder.join(FILE);
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(meta) if meta.len() > FILE_MAX => Err(io::Error::other(format!("{} is too large", path.display()))),
        Ok(_) => Ok(Some(serde_json::from_slice(&std::fs::read(&path)?)?)),
    }
}

/// Writes the record, whole or not at all, and on the disk when this returns.
pub(super) fn write(folder: &Path, record: &Record) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let new = folder.join(".vol_data.new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(FILE))?;
    std::fs::File::open(folder)?.sync_all()
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a folder with its record and its mount point, which must be empty: what is in a volume is never removed here.
pub(super) fn remove(folder: &Path, mount_point: &str) -> io::Result<()> {
    let at = folder.join(mount_point);
    // A driver that does not take its mount away leaves it to us.
    mounts::unmount_below(&at)?;
    match std::fs::symlink_metadata(&at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(meta) if meta.is_dir() => std::fs::remove_dir(&at)?,
        Ok(_) => std::fs::remove_file(&at)?,
    }
    absent_is_fine(std::fs::remove_file(folder.join(".vol_data.new")))?;
    absent_is_fine(std::fs::remove_file(folder.join(FILE)))?;
    absent_is_fine(std::fs::remove_dir(folder))
}

/// The folders in a folder, in order; none when it is not there.
pub(super) fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(of) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_data_in_it_is_not_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().join("v");
        let record = Record {
            driver_name: "d.example.com".into(),
            volume_handle: "h".into(),
            mounted: true,
            ..Record::default()
        };
        assert_eq!(read(&folder).expect("read"), None);
        write(&folder, &record).expect("written");
        assert_eq!(read(&folder).expect("read"), Some(record));
        std::fs::create_dir(folder.join("mount")).expect("dir");
        std::fs::write(folder.join("mount/precious"), "x").expect("file");
        remove(&folder, "mount").expect_err("it is not empty");
        assert!(folder.join("mount/precious").exists() && read(&folder).expect("read").is_some());
        std::fs::remove_file(folder.join("mount/precious")).expect("removed");
        remove(&folder, "mount").expect("it is empty");
        assert!(!folder.exists());
        remove(&folder, "mount").expect("gone is gone");
    }
}
