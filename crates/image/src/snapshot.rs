//! Writable file systems of containers: the image's layers below, a folder of their own above, overlayfs between.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result, io_error, sys_error};
use crate::layout;
use crate::store::{ImageInfo, ImageStore};

const KEY_MAX: usize = 128;
/// mount(2) takes one page of options.
const OPTIONS_MAX: usize = 4095;

/// `snapshots/<key>/meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) key: String,
    pub(crate) image: Digest,
    pub(crate) layers: Vec<Digest>,
}

/// A container's file system, not yet mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// Read-only folders, topmost first, as overlayfs lists them; never empty.
    pub lower: Vec<PathBuf>,
    /// Where writes go.
    pub upper: PathBuf,
    /// Scratch space of overlayfs.
    pub work: PathBuf,
}

impl RootFs {
    /// Mounts it on an existing folder.
    ///
    /// # Errors
    /// When the kernel refuses; needs CAP_SYS_ADMIN.
    pub fn mount(&self, target: &Path) -> Result<()> {
        self.mount_views(target, &|_| None, b"")
    }

    /// The same, such that the upper folder says all that was changed: a folder that is renamed is copied, and so is a
    /// file whose owner or mode changes, whatever the kernel's defaults are.
    ///
    /// # Errors
    /// As [`RootFs::mount`].
    pub fn mount_for_diff(&self, target: &Path) -> Result<()> {
        self.mount_views(target, &|_| None, b",redirect_dir=off,metacopy=off,index=off")
    }

    /// The same for a user namespace whose user and group 0 are `base` on the host: the layers stay as they are on the
    /// disk and are seen through `view`, which maps their owners; what is written belongs to the ids of the namespace.
    /// Overlayfs takes layers with mapped owners since Linux 5.19.
    ///
    /// # Errors
    /// When the kernel refuses, or the layers' file system cannot be mapped.
    pub fn mount_mapped(&self, target: &Path, base: u32, view: &dyn Fn(&Path) -> io::Result<OwnedFd>) -> Result<()> {
        if let Some(top) = self.lower.first() {
            // The upper folder is written by the kernel in the name of the mounter, so it is not seen through a view.
            let meta = fs::metadata(top).map_err(io_error("look up", top))?;
            let (uid, gid) = (base.saturating_add(meta.uid()), base.saturating_add(meta.gid()));
            std::os::unix::fs::chown(&self.upper, Some(uid), Some(gid))
                .map_err(io_error("change the owner of", &self.upper))?;
        }
        let views = self.lower.iter().map(|path| Ok((path, view(path).map_err(io_error("map the owners of", path))?)));
        let views: std::collections::BTreeMap<&PathBuf, OwnedFd> = views.collect::<Result<_>>()?;
        self.mount_views(target, &|path| views.get(path).map(AsRawFd::as_raw_fd), b"")
    }

    fn mount_views(&self, target: &Path, view: &dyn Fn(&PathBuf) -> Option<RawFd>, more: &[u8]) -> Result<()> {
        let named = |fd: RawFd| format!("/proc/self/fd/{fd}").into_bytes();
        let plain = |path: &PathBuf| view(path).map_or_else(|| path.as_os_str().as_bytes().to_vec(), named);
        let options = [self.options(plain).as_slice(), more].concat();
        // Separators in a path would need escapes that differ between kernels, and many layers do not fit in the
        // page of options: then every folder is named by a descriptor, 17 bytes or so, whatever its path.
        let separator = |path: &PathBuf| path.as_os_str().as_bytes().iter().any(|b| b",:\\".contains(b));
        if options.len() <= OPTIONS_MAX && !self.folders().any(separator) {
            return overlay(target, &options);
        }
        let open_dir = |path: &PathBuf| {
            open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(sys_error("open", path))
        };
        let fds: Vec<OwnedFd> = self.folders().map(open_dir).collect::<Result<_>>()?;
        let mut next = fds.iter();
        let by_fd = |path: &PathBuf| {
            let fd = next.next().expect("one descriptor was opened for every folder");
            named(view(path).unwrap_or(fd.as_raw_fd()))
        };
        let options = [self.options(by_fd).as_slice(), more].concat();
        if options.len() > OPTIONS_MAX {
            let what = format!("mount options of {}", target.display());
            return Err(ImageError::TooLarge { what, limit: OPTIONS_MAX as u64, unit: "bytes" });
        }
        overlay(target, &options)
    }

    /// Unmounts what [`RootFs::mount`] mounted; not mounted is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unmount(target: &Path) -> Result<()> {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
            Err(errno) => Err(sys_error("unmount", target)(errno)),
        }
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.lower.iter().chain([&self.upper, &self.work])
    }

    fn options(&self, mut name: impl FnMut(&PathBuf) -> Vec<u8>) -> Vec<u8> {
        let mut options = b"lowerdir=".to_vec();
        for (n, dir) in self.lower.iter().enumerate() {
            if n > 0 {
                options.push(b':');
            }
            options.extend(name(dir));
        }
        options.extend(b",upperdir=");
        options.extend(name(&self.upper));
        options.extend(b",workdir=");
        options.extend(name(&self.work));
        options
    }
}

fn overlay(target: &Path, options: &[u8]) -> Result<()> {
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))
        .map_err(sys_error("mount overlay on", target))
}

impl ImageStore {
    /// The container's file system over this image, made on the first call; the same on later ones, with what the
    /// container wrote. The key is `[A-Za-z0-9_.-]`, at most 128, not starting with a dot.
    ///
    /// # Errors
    /// [`ImageError::InvalidName`]; [`ImageError::InUse`] when the key has a snapshot of another image;
    /// [`ImageError::MissingContent`] when a layer is gone.
    pub fn snapshot(&self, key: &str, image: &ImageInfo) -> Result<RootFs> {
        let dir = self.snapshot_dir(key)?;
        let _hold = self.layout.hold_content()?;
        let wanted = SnapshotRecord { key: key.to_owned(), image: image.id.clone(), layers: image.layers.clone() };
        for layer in &image.layers {
            if !layout::exists(&self.layout.layer_fs(layer))? {
                return Err(ImageError::MissingContent { what: "layer", digest: layer.clone() });
            }
        }
        match layout::read_json::<SnapshotRecord>(&dir.join("meta.json"))? {
            Some(found) if found == wanted => return Ok(self.rootfs(&dir, &found)),
            Some(found) => {
                let by = format!("a container of image {}", found.image);
                return Err(ImageError::InUse { what: format!("snapshot {key}"), by });
            }
            None => {}
        }
        let temp = self.layout.temp_dir()?;
        for name in ["upper", "work", "lower"] {
            let path = temp.path().join(name);
            fs::DirBuilder::new().mode(0o755).create(&path).map_err(io_error("create", &path))?;
        }
        if let Some(top) = image.layers.last() {
            // The root of the merged tree has the owner and mode of the upper folder.
            copy_owner_and_mode(&self.layout.layer_fs(top), &temp.path().join("upper"))?;
        }
        self.layout.write_json(&temp.path().join("meta.json"), &wanted)?;
        match fs::rename(temp.path(), &dir) {
            Ok(()) => layout::sync_parent(&dir)?,
            // Somebody made the same one meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => return self.snapshot(key, image),
            Err(e) => return Err(io_error("rename to", &dir)(e)),
        }
        Ok(self.rootfs(&dir, &wanted))
    }

    /// Removes a container's file system; none is fine.
    ///
    /// # Errors
    /// [`ImageError::InUse`] while it is mounted where this process can see it.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        let dir = self.snapshot_dir(key)?;
        if let Some(target) = mounted_at(&dir.join("upper"))? {
            return Err(ImageError::InUse { what: format!("snapshot {key}"), by: format!("the mount {target}") });
        }
        let _hold = self.layout.hold_content()?;
        // Out of sight first: a crash while deleting leaves rubbish in tmp/, not half a snapshot.
        let temp = self.layout.temp_dir()?;
        match fs::rename(&dir, temp.path().join("gone")) {
            Ok(()) => layout::sync_parent(&dir),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("remove", &dir)(e)),
        }
    }

    /// The keys of all snapshots, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        Ok(layout::entries(&self.layout.dir("snapshots"))?.into_iter().map(|(key, _)| key).collect())
    }

    /// What a container wrote, bytes on disk.
    ///
    /// # Errors
    /// [`ImageError::InvalidName`].
    pub fn snapshot_usage(&self, key: &str) -> Result<u64> {
        Ok(layout::disk_bytes(&self.snapshot_dir(key)?.join("upper")))
    }

    /// The same, with how many files and folders that is.
    ///
    /// # Errors
    /// As [`ImageStore::snapshot_usage`].
    pub fn snapshot_files(&self, key: &str) -> Result<(u64, u64)> {
        Ok(layout::disk_usage(&self.snapshot_dir(key)?.join("upper")))
    }

    pub(crate) fn snapshot_records(&self) -> Result<Vec<SnapshotRecord>> {
        let mut records = Vec::new();
        for (_, path) in layout::entries(&self.layout.dir("snapshots"))? {
            records.extend(layout::read_json::<SnapshotRecord>(&path.join("meta.json"))?);
        }
        Ok(records)
    }

    pub(crate) fn snapshot_users(&self, image: &Digest) -> Result<Vec<String>> {
        let records = self.snapshot_records()?;
        Ok(records.into_iter().filter(|s| s.image == *image).map(|s| format!("container {}", s.key)).collect())
    }

    fn snapshot_dir(&self, key: &str) -> Result<PathBuf> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if key.is_empty() || key.len() > KEY_MAX || key.starts_with('.') || !key.bytes().all(allowed) {
            let reason = "it must be 1 to 128 of [A-Za-z0-9_.-] and not start with a dot";
            return Err(ImageError::InvalidName {
                what: "snapshot key",
                value: key.chars().take(160).collect(),
                reason,
            });
        }
        Ok(self.layout.snapshot(key))
    }

    fn rootfs(&self, dir: &Path, record: &SnapshotRecord) -> RootFs {
        // An image may have one layer twice, overlayfs may not; the upper one covers all that the lower one has.
        let mut seen = BTreeSet::new();
        let tops = record.layers.iter().rev().filter(|l| seen.insert(*l));
        let mut lower: Vec<PathBuf> = tops.map(|l| self.layout.layer_fs(l)).collect();
        if lower.is_empty() {
            lower.push(dir.join("lower"));
        }
        RootFs { lower, upper: dir.join("upper"), work: dir.join("work") }
    }
}

fn copy_owner_and_mode(from: &Path, to: &Path) -> Result<()> {
    let meta = fs::metadata(from).map_err(io_error("look up", from))?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).map_err(io_error("change the owner of", to))?;
    let mode = fs::Permissions::from_mode(meta.permissions().mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(io_error("change the mode of", to))
}

/// Where an overlay with this upper folder is mounted in this mount namespace, if anywhere.
fn mounted_at(upper: &Path) -> Result<Option<String>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(io_error("read", table))?;
    let wanted = format!("upperdir={}", upper.display());
    let line = text.lines().find(|line| line.split([' ', ',']).any(|option| option == wanted));
    Ok(line.and_then(|line| line.split(' ').nth(4)).map(str::to_owned))
}
