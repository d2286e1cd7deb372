//! Volumes of the local-path class: plain folders, or, where capacity is enforced, an ext4 file system in a file of that size.
//! That works on any file system of the host; quotas of projects (xfs, ext4) would cost less, but ask for mount options that
//! few hosts have.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::mounts;

/// Runs a tool of the host to its end; what it says on standard error is the error.
pub(super) fn tool(name: &str, args: &[&OsStr]) -> io::Result<String> {
    tool_up_to(0, name, args)
}

/// The same for a tool that ends well with codes up to this one.
fn tool_up_to(worst: i32, name: &str, args: &[&OsStr]) -> io::Result<String> {
    let run = Command::new(name).args(args).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output =
        run.map_err(|e| io::Error::other(format!("run {name}: {e}\nfix: apt-get install e2fsprogs util-linux")))?;
    if output.status.code().is_some_and(|code| code <= worst) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(512).collect();
    Err(io::Error::other(format!("{name} ended with {}: {said}", output.status)))
}

/// Copies what is in a folder, with owners, modes and attributes; blocks are shared where the file system can, and holes stay
/// holes.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let options: [&OsStr; 3] = ["-a".as_ref(), "--reflink=auto".as_ref(), "--".as_ref()];
    tool("cp", &[&options[..], &[from.join(".").as_os_str(), to.as_os_str()]].concat()).map(drop)
}

/// Has what is in a folder reach the disk: a name that is given to it afterwards never stands for half of it.
pub(super) fn durable(folder: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(folder)?)?)
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Folder of the users of a volume: a file for each pod, by UID. While there is one, the volume stays mounted.
const USERS: &str = "users";
/// Is there while the file is larger than the file system in it.
const UNFILLED: &str = "unfilled";
/// How often, and how many times, it is looked whether the kernel has let go of an image.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: u32 = 100;
/// Users of this process while volumes are copied begin with it. One that another process left is nobody's.
static LENT: LazyLock<String> = LazyLock::new(|| format!("lent-{:016x}-", rand::random::<u64>()));
/// Each copy is a user of its own.
static COPIES: AtomicU64 = AtomicU64::new(0);
/// Where images are, beside the folders where they are mounted.
const IMAGES: &str = ".images";

/// One volume of the local-path class: its folder, and the file that holds its file system if it has one of its own.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) image: PathBuf,
    pub(super) at: PathBuf,
}

impl Disk {
    /// Its file or folder while it is made, and a file that says who is at it.
    fn beside(&self, what: &str) -> PathBuf {
        self.image.with_extension(what)
    }

    /// One at a time works on a volume: a task that was given up may still be at it.
    fn turn(&self) -> io::Result<Flock<File>> {
        if let Some(folder) = self.image.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).append(true).open(self.beside("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// Makes the volume a plain folder, with what is in `from`, or empty and for any user to write: whose it is, its pods
    /// decide. What is there already stays.
    pub(super) fn folder(&self, from: Option<&Path>) -> io::Result<()> {
        if self.at.is_dir() {
            return Ok(());
        }
        let _turn = self.turn()?;
        if self.at.is_dir() {
            // Whoever had the turn before has made it, and a pod may have it already.
            return Ok(());
        }
        let new = self.beside("folder");
        mounts::remove_tree(&new)?;
        std::fs::create_dir_all(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o777))?;
        if let Some(from) = from {
            copy(from, &new)?;
            durable(&new)?;
        }
        std::fs::rename(&new, &self.at)
    }

    /// Makes a new file of that many bytes with a file system of its own; what is there already stays.
    fn make(&self, bytes: u64, from: Option<&Path>) -> io::Result<()> {
        if self.image.exists() {
            return Ok(());
        }
        let new = self.beside("new");
        let file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        // Blocks are taken from the host's disk as they are written.
        file.set_len(bytes)?;
        tool("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), new.as_os_str()])?;
        let at = self.beside("folder");
        mounts::remove_tree(&at)?;
        std::fs::create_dir_all(&at)?;
        let filled = attach(&new, &at).and_then(|()| {
            std::fs::remove_dir(at.join("lost+found"))?;
            std::fs::set_permissions(&at, Permissions::from_mode(0o777))?;
            from.map_or(Ok(()), |from| copy(from, &at))
        });
        mounts::unmount_below(&at)?;
        filled?;
        std::fs::remove_dir(&at)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.image)
    }

    /// Makes the volume be there for a user, as a file system of that many bytes. It is made first if it is new, with what is
    /// in `from`.
    pub(super) fn mount(&self, bytes: u64, from: Option<&Path>, user: &str) -> io::Result<()> {
        let _turn = self.turn()?;
        std::fs::create_dir_all(self.beside(USERS))?;
        File::create(self.beside(USERS).join(user))?;
        if mounts::is_mounted(&self.at)? {
            return Ok(());
        }
        self.make(bytes, from)?;
        let checked = self.fit(bytes)?;
        std::fs::create_dir_all(&self.at)?;
        attach(&self.image, &self.at)?;
        if checked {
            // The check makes it anew; one with something in it stays.
            let _kept = std::fs::remove_dir(self.at.join("lost+found"));
        }
        Ok(())
    }

    /// Unmounts the volume once the last user has gone.
    pub(super) fn release(&self, user: &str) -> io::Result<()> {
        let _turn = self.turn()?;
        let users = self.beside(USERS);
        absent_is_fine(std::fs::remove_file(users.join(user)))?;
        if std::fs::read_dir(&users).is_ok_and(|mut left| left.next().is_none()) {
            mounts::unmount_below(&self.at)?;
            absent_is_fine(std::fs::remove_dir(&users))?;
        }
        Ok(())
    }

    /// Fills a larger image while nobody uses it; whether there was something to do.
    fn fit(&self, bytes: u64) -> io::Result<bool> {
        let file = File::options().write(true).open(&self.image)?;
        let larger = file.metadata()?.len() < bytes;
        if larger {
            File::create(self.beside(UNFILLED))?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        if !larger && !self.beside(UNFILLED).exists() {
            return Ok(false);
        }
        self.detached()?;
        // e2fsck(8): 1 says that what was wrong is right again.
        tool_up_to(1, "e2fsck", &["-f".as_ref(), "-p".as_ref(), self.image.as_os_str()])?;
        tool("resize2fs", &[self.image.as_os_str()])?;
        absent_is_fine(std::fs::remove_file(self.beside(UNFILLED)))?;
        Ok(true)
    }

    /// Waits until no loop device has the image: the kernel lets go of it some time after the unmount, and tells nobody.
    fn detached(&self) -> io::Result<()> {
        let mut devices = String::new();
        for _ in 0..LOOKS {
            devices = tool("losetup", &["--associated".as_ref(), self.image.as_os_str()])?;
            if devices.trim().is_empty() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(io::Error::other(format!("{} is still in use: {}", self.image.display(), devices.trim())))
    }

    /// Lets a mounted volume hold more. One that is larger already stays as it is.
    pub(super) fn grow(&self, bytes: u64) -> io::Result<()> {
        let _turn = self.turn()?;
        let file = File::options().write(true).open(&self.image)?;
        if file.metadata()?.len() < bytes {
            File::create(self.beside(UNFILLED))?;
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        let source = tool("findmnt", &["-n".as_ref(), "-o".as_ref(), "SOURCE".as_ref(), self.at.as_os_str()])?;
        let device = source.lines().next().unwrap_or_default().trim();
        tool("losetup", &["--set-capacity".as_ref(), device.as_ref()])?;
        // It takes CAP_SYS_RESOURCE, which root may lack in a container; `fit` does without.
        let grown = tool("resize2fs", &[device.as_ref()]);
        grown.map_err(|e| io::Error::other(format!("{e}; it grows when no pod of the node uses it any more")))?;
        absent_is_fine(std::fs::remove_file(self.beside(UNFILLED)))
    }

    /// Whether the volume has been made.
    pub(super) fn exists(&self) -> bool {
        self.image.exists() || self.at.is_dir()
    }

    /// Lends the folder to whoever makes a copy of it.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let user = format!("{}{}", *LENT, COPIES.fetch_add(1, Ordering::Relaxed));
        let image = self.image.exists();
        if image {
            self.mount(0, None, &user)?;
        }
        if !self.at.is_dir() {
            return Err(io::Error::other(format!("there is no volume {} to copy", self.at.display())));
        }
        let done = work(&self.at);
        if image {
            self.release(&user)?;
        }
        done
    }

    /// Unmounts it and removes all that was in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        mounts::remove_tree(&self.at)?;
        mounts::remove_tree(&self.beside("folder"))?;
        mounts::remove_tree(&self.beside(USERS))?;
        for file in [self.image.clone(), self.beside("new"), self.beside(UNFILLED), self.beside("lock")] {
            absent_is_fine(std::fs::remove_file(file))?;
        }
        Ok(())
    }
}

/// Mounts an image; its loop device goes with the mount.
fn attach(image: &Path, at: &Path) -> io::Result<()> {
    let options: [&OsStr; 2] = ["-o".as_ref(), "loop,nodev".as_ref()];
    tool("mount", &[&options[..], &[image.as_os_str(), at.as_os_str()]].concat()).map(drop)
}

/// The volume of a folder; its image is beside the folder where it is mounted.
pub(super) fn of(folder: &Path) -> Disk {
    let name = folder.file_name().unwrap_or_default();
    let images = folder.parent().unwrap_or(folder).join(IMAGES);
    let mut file = name.to_os_string();
    file.push(".ext4");
    Disk { image: images.join(file), at: folder.to_path_buf() }
}

/// Takes users of all volumes away that `gone` names; what nobody uses any more is unmounted.
pub(super) fn release(volumes: &Path, gone: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match std::fs::read_dir(volumes.join(IMAGES)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension() != Some(OsStr::new(USERS)) {
            continue;
        }
        let volume = of(&volumes.join(path.file_stem().unwrap_or_default()));
        for user in std::fs::read_dir(&path)? {
            let user = user?.file_name().to_string_lossy().into_owned();
            if gone(&user) && !user.starts_with(LENT.as_str()) {
                volume.release(&user)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> bool {
        let found =
            |name: &str| ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(name).exists());
        nix::unistd::geteuid().is_root() && found("mkfs.ext4") && Path::new("/dev/loop-control").exists()
    }

    #[test]
    fn a_disk_holds_what_was_asked_for_until_it_grows() {
        if !able() {
            eprintln!("skipped: needs root, mkfs.ext4 and loop devices");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let disk = of(&dir.path().join("pvc-1"));
        disk.mount(16 << 20, None, "a").expect("mounted");
        disk.mount(16 << 20, None, "b").expect("once is enough");
        let full = std::fs::write(disk.at.join("much"), vec![1u8; 24 << 20]).expect_err("it does not fit");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::metadata(&disk.at).expect("meta").permissions().mode() & 0o777, 0o777);
        release(dir.path(), |user| user == "a").expect("released");
        assert!(mounts::is_mounted(&disk.at).expect("looked"), "another uses it");
        // Where root may not, it grows once nobody uses it.
        let _grown_at_once = disk.grow(64 << 20);
        release(dir.path(), |user| user == "b").expect("released");
        assert!(!mounts::is_mounted(&disk.at).expect("looked"));
        disk.mount(64 << 20, None, "c").expect("mounted again");
        std::fs::write(disk.at.join("much"), vec![1u8; 24 << 20]).expect("now it fits");
        disk.grow(64 << 20).expect("there is nothing to do");
        let copy = of(&dir.path().join("pvc-2"));
        disk.lend(|from| copy.mount(64 << 20, Some(from), "d")).expect("copied");
        disk.remove().expect("removed");
        assert!(!disk.at.exists() && !disk.image.exists());
        assert_eq!(std::fs::metadata(copy.at.join("much")).expect("copied").len(), 24 << 20);
        let plain = of(&dir.path().join("pvc-3"));
        copy.lend(|from| plain.folder(Some(from))).expect("copied");
        assert_eq!(std::fs::metadata(plain.at.join("much")).expect("copied").len(), 24 << 20);
        copy.remove().expect("removed");
        plain.remove().expect("removed");
        let left = std::fs::read_dir(dir.path().join(IMAGES)).expect("folder").count();
        assert_eq!(left, 0, "nothing of them is left");
    }
}
