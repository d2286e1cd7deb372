//! Volumes that are devices (`volumeMode: Block`): whether a pod uses them as such, the device behind a path, and those of the
//! local-path class, each a file of its capacity behind a loop device.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};
use reconcile::pod::{each, ephemeral};

use super::disk::{absent_is_fine, tool};
use super::mounts;

/// Where the files of devices are, beside the folders of the class's other volumes: a folder for each volume.
const BLOCKS: &str = ".blocks";
/// In it: a file for each pod that uses it, by UID. While there is one, the device stays.
const USERS: &str = "users";
const IMAGE: &str = "image";

/// A device that a container is given.
pub(crate) struct Device {
    /// Its node on this host.
    pub(crate) path: PathBuf,
    pub(crate) rule: engine::runtime::Device,
}

impl Device {
    /// The device at a path, whatever leads there.
    pub(super) fn at(path: &Path, read_only: bool) -> io::Result<Self> {
        check(path)?;
        let device = std::fs::metadata(path)?.rdev();
        let rule = engine::runtime::Device { major: major(device), minor: minor(device), read_only };
        Ok(Device { path: path.to_path_buf(), rule })
    }
}

/// An error unless there is a block device at the path.
pub(super) fn check(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::other(format!("path {} does not exist", path.display())))
        }
        Err(e) => Err(e),
        Ok(meta) if meta.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(io::Error::other(format!("path {} is not a block device", path.display()))),
    }
}

/// Whether a volume is a device.
pub(super) fn is_device(pv: &PersistentVolume) -> bool {
    pv.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block")
}

/// An error when a container uses a volume as what it is not, in the kubelet's words.
pub(super) fn check_use(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let added = ephemeral(spec);
    let mut all = each(spec).map(|(_, c)| c).chain(&added);
    if block {
        let wrong = all.any(|c| c.volume_mounts.iter().flatten().any(|m| m.name == volume));
        return if wrong { Err(mismatch(volume, "Block", "volumeMounts")) } else { Ok(()) };
    }
    let wrong = all.any(|c| c.volume_devices.iter().flatten().any(|d| d.name == volume));
    if wrong { Err(mismatch(volume, "Filesystem", "volumeDevices")) } else { Ok(()) }
}

fn mismatch(volume: &str, mode: &str, place: &str) -> String {
    format!("volume {volume} has volumeMode {mode}, but is specified in {place}")
}

/// A volume of the local-path class that is a device.
#[derive(Debug)]
pub(super) struct Block {
    folder: PathBuf,
}

/// The device of a volume whose folder, if it had one, would be this.
pub(super) fn of(folder: &Path) -> Block {
    let beside = folder.parent().unwrap_or(folder).join(BLOCKS);
    Block { folder: beside.join(folder.file_name().unwrap_or_default()) }
}

impl Block {
    fn image(&self) -> PathBuf {
        self.folder.join(IMAGE)
    }

    fn users(&self) -> PathBuf {
        self.folder.join(USERS)
    }

    /// One at a time: agents of an old and a new process, and pods that come and go.
    fn turn(&self) -> io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).open(self.folder.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// The loop device that has the file, if one has.
    fn device(&self) -> io::Result<Option<PathBuf>> {
        let said = tool("losetup", &["--associated".as_ref(), self.image().as_os_str()])?;
        // `/dev/loop0: [2049]:1234 (/path)`, one line for each.
        let first = said.lines().next().and_then(|line| line.split_once(':')).map(|(device, _)| device.trim());
        Ok(first.filter(|d| d.starts_with('/')).map(PathBuf::from))
    }

    /// Has a device of that many bytes be there for a user; it is made if it is new.
    pub(super) fn attach(&self, bytes: u64, user: &str) -> io::Result<PathBuf> {
        std::fs::create_dir_all(self.users())?;
        let _turn = self.turn()?;
        File::create(self.users().join(user))?;
        let file = File::options().create(true).append(true).open(self.image())?;
        if file.metadata()?.len() < bytes {
            file.set_permissions(Permissions::from_mode(0o600))?;
            // Blocks are taken from the host's disk as they are written.
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        if let Some(device) = self.device()? {
            return Ok(device);
        }
        let said = tool("losetup", &["--find".as_ref(), "--show".as_ref(), self.image().as_os_str()])?;
        let device = PathBuf::from(said.trim());
        check(&device).map_err(|e| {
            let fix = "give this host the nodes of loop devices, e.g. with the whole of /dev of the machine around it";
            io::Error::other(format!("{e}\nfix: {fix}"))
        })?;
        Ok(device)
    }

    /// Lets a device hold more. One that is larger already stays as it is.
    pub(super) fn grow(&self, bytes: u64) -> io::Result<()> {
        let _turn = self.turn()?;
        let file = File::options().write(true).open(self.image())?;
        if file.metadata()?.len() < bytes {
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        match self.device()? {
            Some(device) => tool("losetup", &["--set-capacity".as_ref(), device.as_os_str()]).map(drop),
            None => Ok(()),
        }
    }

    fn detach(&self) -> io::Result<()> {
        while let Some(device) = self.device()? {
            let arguments: [&OsStr; 2] = ["--detach".as_ref(), device.as_os_str()];
            tool("losetup", &arguments)?;
            // The kernel takes it from a device that somebody has open when it is closed.
            if self.device()? == Some(device) {
                break;
            }
        }
        Ok(())
    }

    /// Takes the device away once the last user has gone.
    fn release(&self, user: &str) -> io::Result<()> {
        let _turn = self.turn()?;
        absent_is_fine(std::fs::remove_file(self.users().join(user)))?;
        if std::fs::read_dir(self.users()).is_ok_and(|mut left| left.next().is_none()) {
            self.detach()?;
            absent_is_fine(std::fs::remove_dir(self.users()))?;
        }
        Ok(())
    }

    /// Takes the device away and removes what was on it.
    pub(super) fn remove(&self) -> io::Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        self.detach()?;
        mounts::remove_tree(&self.folder)
    }
}

/// The volumes of the class that are devices.
fn all(volumes: &Path) -> io::Result<Vec<Block>> {
    let entries = match std::fs::read_dir(volumes.join(BLOCKS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(Block { folder: entry?.path() })).collect()
}

/// Takes users of all devices away that `gone` names; a device that nobody uses any more goes.
pub(super) fn release(volumes: &Path, gone: impl Fn(&str) -> bool) -> io::Result<()> {
    for volume in all(volumes)? {
        let users = match std::fs::read_dir(volume.users()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for user in users {
            let user = user?.file_name().to_string_lossy().into_owned();
            if gone(&user) {
                volume.release(&user)?;
            }
        }
    }
    Ok(())
}

/// Takes all devices away; what is on them stays.
pub(crate) fn detach_all(volumes: &Path) -> io::Result<()> {
    for volume in all(volumes)? {
        if volume.users().exists() {
            volume.detach()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_is_used_as_what_it_is() {
        let pod = |container: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [container]}})).expect("a pod")
        };
        let mounts = pod(json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        let devices = pod(json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/v"}]}));
        assert_eq!(check_use(&mounts, "v", false), Ok(()));
        assert_eq!(check_use(&devices, "v", true), Ok(()));
        let told = |pod: &Pod, block: bool| check_use(pod, "v", block).expect_err("refused");
        assert_eq!(told(&mounts, true), "volume v has volumeMode Block, but is specified in volumeMounts");
        assert_eq!(told(&devices, false), "volume v has volumeMode Filesystem, but is specified in volumeDevices");
        assert_eq!(check_use(&devices, "other", false), Ok(()));
    }

    #[test]
    fn what_is_no_device_is_none() {
        let dir = tempfile::tempdir().expect("dir");
        let told = |path: &Path| Device::at(path, false).map(|_| ()).expect_err("refused").to_string();
        assert!(told(dir.path()).ends_with("is not a block device"));
        assert!(told(&dir.path().join("none")).ends_with("does not exist"));
    }

    fn able() -> bool {
        let loops = || Command::new("losetup").arg("--find").output().is_ok_and(|o| o.status.success());
        nix::unistd::geteuid().is_root() && loops()
    }

    #[test]
    fn a_device_is_there_until_its_last_user_goes_and_keeps_what_is_on_it() {
        if !able() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let dir = tempfile::tempdir().expect("dir");
        let volume = of(&dir.path().join("pvc-1"));
        let Ok(device) = volume.attach(1 << 20, "a") else {
            volume.remove().expect("removed");
            println!("skipped: no node of a loop device can be had");
            return;
        };
        assert_eq!(volume.attach(1 << 20, "b").expect("again"), device);
        let given = Device::at(&device, true).expect("a device");
        assert!(given.rule.read_only && given.rule.major == 7);
        std::fs::write(volume.image(), vec![b'x'; 1 << 20]).expect("written");
        volume.grow(2 << 20).expect("grown");
        release(dir.path(), |user| user == "a").expect("released");
        assert!(volume.device().expect("asked").is_some(), "another uses it");
        release(dir.path(), |user| user == "b").expect("released");
        assert!(volume.device().expect("asked").is_none());
        assert_eq!(std::fs::metadata(volume.image()).expect("kept").len(), 2 << 20);
        volume.attach(2 << 20, "c").expect("again");
        volume.remove().expect("removed");
        assert!(!volume.folder.exists());
    }
}
