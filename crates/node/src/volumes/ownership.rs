//! `fsGroup`: files of a volume belong to a group of the pod's.

use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

/// Who owns the files of a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The group, from `fsGroup`.
    pub(crate) group: Option<u32>,
    /// The volume is read-only for containers: the group may read, not write.
    pub(crate) read_only: bool,
}

impl Owner {
    fn bits(&self) -> u32 {
        if self.read_only { 0o440 } else { 0o660 }
    }

    /// The mode of a file that was to have `mode`.
    pub(crate) fn file_mode(&self, mode: u32) -> u32 {
        if self.group.is_some() { mode | self.bits() } else { mode }
    }

    /// Gives one folder to the group: what is made in it will belong to the group too.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        lchown(path, None, Some(group))?;
        let mode = std::fs::symlink_metadata(path)?.mode() & 0o7777;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | self.bits() | 0o2110))
    }

    /// Gives a whole tree to the group. Links are not followed: what is in the tree may come from a container.
    pub(crate) fn tree(&self, root: &Path, only_on_mismatch: bool) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        let meta = std::fs::symlink_metadata(root)?;
        let right = meta.gid() == group && meta.mode() & 0o2000 != 0;
        if only_on_mismatch && right {
            return Ok(());
        }
        self.below(root, group)?;
        // The root last: when this is interrupted, the mismatch is still seen.
        self.one(root, group)
    }

    fn below(&self, folder: &Path, group: u32) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.below(&entry.path(), group)?;
            }
            self.one(&entry.path(), group)?;
        }
        Ok(())
    }

    fn one(&self, path: &Path, group: u32) -> io::Result<()> {
        lchown(path, None, Some(group))?;
        let meta = std::fs::symlink_metadata(path)?;
        if !meta.is_file() && !meta.is_dir() {
            return Ok(());
        }
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let more = if meta.is_dir() { self.bits() | 0o2110 } else { self.bits() };
        file.set_permissions(std::fs::Permissions::from_mode(meta.mode() & 0o7777 | more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_given_to_the_group_without_following_links() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "x").expect("file");
        let volume = dir.path().join("v");
        std::fs::create_dir_all(volume.join("sub")).expect("dir");
        std::fs::write(volume.join("sub/f"), "x").expect("file");
        std::os::unix::fs::symlink(&outside, volume.join("link")).expect("link");
        let before = std::fs::metadata(&outside).expect("meta");
        Owner { group: Some(4242), read_only: false }.tree(&volume, false).expect("given");
        let f = std::fs::metadata(volume.join("sub/f")).expect("meta");
        assert_eq!((f.gid(), f.mode() & 0o660), (4242, 0o660));
        let sub = std::fs::metadata(volume.join("sub")).expect("meta");
        assert_eq!((sub.gid(), sub.mode() & 0o2000), (4242, 0o2000));
        let after = std::fs::metadata(&outside).expect("meta");
        assert_eq!((before.gid(), before.mode()), (after.gid(), after.mode()));
    }
}
