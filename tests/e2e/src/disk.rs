//! A small disk of a test's own: nothing fills that of the machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};

use crate::{Instance, InstanceBuilder, command, skip};

/// In a file that has blocks only where something was written; unmounted when dropped.
pub struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// Makes one of `size` bytes in `file` and mounts it.
    pub fn mounted(file: &Path, mount: &Path, size: u64) -> Result<Disk> {
        File::create(file)?.set_len(size)?;
        let (file, point) = (file.display().to_string(), mount.display().to_string());
        let mut make = Command::new("mkfs.ext4");
        // No blocks are put aside for root: the instance is root.
        make.args(["-q", "-m", "0", "-E", "lazy_itable_init=0,nodiscard", &file]);
        command::run(&mut make, None, command::LIMIT)?.ok()?;
        std::fs::create_dir_all(mount)?;
        let mut attach = Command::new("mount");
        attach.args(["-o", "loop", &file, &point]);
        if let Err(error) = command::run(&mut attach, None, command::LIMIT)?.ok() {
            return Err(skip(format!("no loop device: {error:#}")));
        }
        Ok(Disk { mount: mount.to_path_buf() })
    }

    /// Bytes that are free.
    pub fn free(&self) -> Result<u64> {
        let s = nix::sys::statvfs::statvfs(&self.mount)?;
        Ok(s.blocks_available() * s.fragment_size())
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes all room but so many bytes; again until it is so, since others give and take meanwhile.
    pub fn fill(&self, but: u64) -> Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(self.ballast())?;
        for _ in 0..100 {
            let spare = self.free()?.saturating_sub(but);
            if spare < 64 << 10 {
                break;
            }
            let (end, more) = (i64::try_from(file.metadata()?.len())?, i64::try_from(spare)?);
            // Where a file system needs some blocks to say where the others are, it takes a smaller bite next time.
            if fallocate(&file, FallocateFlags::empty(), end, more).is_err() && but == 0 {
                break;
            }
        }
        // The last blocks one by one.
        let mut end = file.metadata()?.len();
        while but == 0 && file.write_all_at(&[1; 4096], end).is_ok() {
            end += 4096;
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub fn clear(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("remove the ballast")
    }
}

/// An instance whose data directory, or a part of it, is on a small disk of its own.
pub struct Small {
    /// It, started.
    pub instance: Arc<Instance>,
    /// The disk.
    pub disk: Disk,
    /// The archive that its image was imported from.
    pub archive: String,
}

/// Runs a test with an instance that has `part` of its data directory (empty: all of it) on a disk of that size, and takes
/// both down.
pub fn on_small_disk(
    builder: InstanceBuilder,
    part: &str,
    size: u64,
    test: impl FnOnce(&Small) -> Result<()>,
) -> Result<()> {
    let instance = Arc::new(builder.without_image().prepare()?);
    let mount = instance.names().data_dir().join(part);
    let disk = Disk::mounted(&instance.dir().join("disk.img"), &mount, size)?;
    let mut small = Small { instance: instance.clone(), disk, archive: String::new() };
    let outcome = (|| -> Result<()> {
        small.archive = instance.import_image()?;
        instance.spawn()?;
        instance.wait_ready()?;
        test(&small)
    })();
    if outcome.is_err() {
        let show = |args: &[&str]| instance.kubectl().run(args).map(|o| o.stdout).unwrap_or_default();
        let (objects, events) = (show(&["get", "nodes,pods", "-A", "-o", "wide"]), show(&["get", "events", "-A"]));
        eprintln!("{objects}{events}{}", instance.log_tail());
        let _ = small.disk.clear();
    }
    // What is mounted only who mounted it can remove.
    let down = instance.windlass_with(&["down"], None, command::LIMIT * 2);
    let ended = instance.was_ended();
    drop(small);
    outcome?;
    ended?;
    down?.ok()?;
    instance.down()
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}
