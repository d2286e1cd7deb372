//! A folder of files that changes at once: files live in a folder of their own, `..data` points to it, and each name is a
//! link through `..data`. A reader sees the old files or the new ones, never a mix (the layout of Kubernetes volumes).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::ownership::Owner;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// A file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner, if not root.
    pub(crate) user: Option<u32>,
}

/// Relative paths and their files.
pub(crate) type Payload = BTreeMap<String, File>;

/// Whether a path stays in its folder and does not look like one of the writer's own names.
pub(crate) fn is_safe(path: &str) -> bool {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    plain && !path.is_empty() && !path.starts_with("..") && path.len() <= 4096
}

fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// Makes the folder hold exactly these files. Returns whether anything changed.
pub(crate) fn write(folder: &Path, payload: &Payload, owner: &Owner) -> io::Result<bool> {
    if let Some(path) = payload.keys().find(|p| !is_safe(p)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("path {path:?} leaves the volume")));
    }
    let old = std::fs::read_link(folder.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&folder.join(old), payload, owner)) {
        links(folder, payload)?;
        return Ok(false);
    }
    let name = fresh(folder)?;
    fill(&folder.join(&name), payload, owner)?;
    let tmp = folder.join(DATA_TMP);
    remove_link(&tmp)?;
    symlink(&name, &tmp)?;
    std::fs::rename(&tmp, folder.join(DATA))?;
    links(folder, payload)?;
    sweep(folder, &name)?;
    Ok(true)
}

/// A new folder with a name nobody used.
fn fresh(folder: &Path) -> io::Result<OsString> {
    loop {
        let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
        let name = OsString::from(format!("..{stamp}.{:08x}", rand::random::<u32>()));
        match std::fs::DirBuilder::new().mode(0o755).create(folder.join(&name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(()) => return Ok(name),
        }
    }
}

fn fill(folder: &Path, payload: &Payload, owner: &Owner) -> io::Result<()> {
    owner.folder(folder)?;
    for (path, file) in payload {
        let target = folder.join(path);
        let mut at = folder.to_path_buf();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            at.push(part);
            match std::fs::DirBuilder::new().mode(0o755).create(&at) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(()) => owner.folder(&at)?,
            }
        }
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        io::Write::write_all(&mut out, &file.data)?;
        let mode = owner.file_mode(file.mode);
        std::os::unix::fs::fchown(&out, file.user, owner.group)?;
        out.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn files(folder: &Path, below: &Path, out: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(folder, &path, out)?;
        } else {
            out.insert(path);
        }
    }
    Ok(())
}

/// Whether the folder already holds these files, with these rights.
fn same(folder: &Path, payload: &Payload, owner: &Owner) -> bool {
    let mut present = BTreeSet::new();
    if files(folder, Path::new(""), &mut present).is_err() || present.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let path = folder.join(path);
        let Ok(meta) = std::fs::symlink_metadata(&path) else { return false };
        meta.is_file()
            && meta.mode() & 0o7777 == owner.file_mode(file.mode)
            && meta.uid() == file.user.unwrap_or(meta.uid())
            && owner.group.is_none_or(|g| meta.gid() == g)
            && meta.len() == file.data.len() as u64
            && std::fs::read(&path).is_ok_and(|data| data == file.data)
    })
}

fn remove_link(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes the names that users see, and removes those that are no more.
fn links(folder: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|p| top(p)).collect();
    for name in &wanted {
        let link = folder.join(name);
        let target = Path::new(DATA).join(name);
        if std::fs::read_link(&link).ok().as_deref() != Some(&target) {
            remove_link(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !wanted.contains(text.as_ref()) && entry.file_type()?.is_symlink() {
            remove_link(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the folders of former contents.
fn sweep(folder: &Path, current: &OsString) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("..") && name != *current && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |data: &str, mode| File { data: data.as_bytes().to_vec(), mode, user: None };
        files.iter().map(|(p, d, m)| ((*p).to_owned(), file(d, *m))).collect()
    }

    fn read(folder: &Path, name: &str) -> Option<String> {
        std::fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn files_appear_change_and_go_away() {
        let dir = tempfile::tempdir().expect("dir");
        let none = Owner::default();
        let d = dir.path();
        assert!(write(d, &payload(&[("a", "1", 0o644), ("sub/b", "2", 0o400)]), &none).expect("write"));
        assert_eq!((read(d, "a").as_deref(), read(d, "sub/b").as_deref()), (Some("1"), Some("2")));
        let mode = std::fs::metadata(d.join("sub/b")).expect("meta").mode() & 0o777;
        assert_eq!(mode, 0o400);
        assert!(!write(d, &payload(&[("a", "1", 0o644), ("sub/b", "2", 0o400)]), &none).expect("write"));
        assert!(write(d, &payload(&[("a", "3", 0o644)]), &none).expect("write"));
        assert_eq!((read(d, "a").as_deref(), read(d, "sub/b")), (Some("3"), None));
        let left: Vec<_> = std::fs::read_dir(d).expect("dir").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 3, "a, ..data and one folder: {left:?}");
    }

    #[test]
    fn a_reader_that_holds_the_old_folder_keeps_it_until_it_looks_again() {
        let dir = tempfile::tempdir().expect("dir");
        let none = Owner::default();
        write(dir.path(), &payload(&[("a", "1", 0o644), ("b", "1", 0o644)]), &none).expect("write");
        let before = std::fs::canonicalize(dir.path().join("a")).expect("path");
        write(dir.path(), &payload(&[("a", "2", 0o644), ("b", "2", 0o644)]), &none).expect("write");
        let after = std::fs::canonicalize(dir.path().join("a")).expect("path");
        assert_ne!(before.parent(), after.parent());
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        for bad in ["../x", "/x", "a/../../x", "..x", ""] {
            assert!(write(dir.path(), &payload(&[(bad, "1", 0o644)]), &Owner::default()).is_err(), "{bad}");
        }
    }
}
