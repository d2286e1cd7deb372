//! Mount points. A runtime makes files and folders to mount on where an image has none; they are no part of what a command
//! did, and go again when it has ended, with the time of the folder they were in.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FileStat, SFlag, UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::files::root::{Root, by_descriptor};

/// What is mounted in every container.
const ALWAYS: [&str; 10] = [
    "/proc",
    "/sys",
    "/sys/fs/cgroup",
    "/dev",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
];

/// A name that was not there.
struct MountPoint {
    dir: PathBuf,
    name: OsString,
}

/// What was not there before.
pub struct MountPoints {
    missing: Vec<MountPoint>,
    /// Folders that were there and may get one, with their times.
    times: Vec<(PathBuf, FileStat)>,
}

impl MountPoints {
    /// Looks, before the command runs.
    pub fn before(root: &Root, targets: &[&Path]) -> io::Result<MountPoints> {
        let mut points = MountPoints { missing: Vec::new(), times: Vec::new() };
        for target in ALWAYS.iter().map(Path::new).chain(targets.iter().copied()) {
            points.look(root, target)?;
        }
        Ok(points)
    }

    fn look(&mut self, root: &Root, target: &Path) -> io::Result<()> {
        let mut dir = PathBuf::new();
        let mut gone = false;
        for component in target.components() {
            let Component::Normal(name) = component else { continue };
            let path = dir.join(name);
            if !gone {
                gone = match root.look(&path) {
                    Ok(_) => false,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => true,
                    // What is in the way is the runtime's to report.
                    Err(_) => return Ok(()),
                };
                if gone && !self.times.iter().any(|(known, _)| *known == dir) {
                    let fd = root.dir(&dir)?;
                    self.times.push((dir.clone(), fstatat(&fd, "", AtFlags::AT_EMPTY_PATH)?));
                }
            }
            if gone && !self.missing.iter().any(|s| s.dir == dir && s.name == *name) {
                self.missing.push(MountPoint { dir: dir.clone(), name: name.to_owned() });
            }
            dir = path;
        }
        Ok(())
    }

    /// Takes away what is still empty, the innermost first.
    pub fn after(&self, root: &Root) -> io::Result<()> {
        let mut removed = Vec::new();
        let mut points: Vec<&MountPoint> = self.missing.iter().collect();
        points.sort_by_key(|s| std::cmp::Reverse(s.dir.components().count()));
        for point in points {
            let Ok(dir) = root.dir(&point.dir) else { continue };
            let Ok(stat) = fstatat(&dir, point.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let flag = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFDIR => UnlinkatFlags::RemoveDir,
                SFlag::S_IFREG if stat.st_size == 0 => UnlinkatFlags::NoRemoveDir,
                _ => continue,
            };
            match unlinkat(&dir, point.name.as_os_str(), flag) {
                Ok(()) => removed.push(&point.dir),
                // The command put something there.
                Err(Errno::ENOTEMPTY | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for (path, stat) in self.times.iter().filter(|(path, _)| removed.contains(&path)) {
            let dir = root.dir(path)?;
            let now = fstatat(&dir, "", AtFlags::AT_EMPTY_PATH)?;
            let (access, change) =
                (TimeSpec::new(now.st_atime, now.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
            let here = by_descriptor(&dir, ".".as_ref());
            utimensat(AT_FDCWD, &here, &access, &change, UtimensatFlags::FollowSymlink)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_empty_mount_points_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
        fs::File::open(dir.path().join("etc")).unwrap().set_modified(then).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let points = MountPoints::before(&root, &[Path::new("/run/secrets/x"), Path::new("/cache/y")]).unwrap();
        for name in ["run/secrets", "cache/y", "proc"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for (name, text) in [("run/secrets/x", ""), ("etc/hosts", ""), ("etc/hostname", "said"), ("cache/kept", "")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::remove_file(dir.path().join("etc/hostname")).unwrap();
        points.after(&root).unwrap();
        let left = |name: &str| fs::symlink_metadata(dir.path().join(name)).is_ok();
        assert!(!left("run") && !left("proc") && !left("etc/hosts") && !left("cache/y"));
        assert!(left("cache/kept") && left("etc"));
        assert_eq!(fs::metadata(dir.path().join("etc")).unwrap().modified().unwrap(), then);
    }
}
