//! A small disk of a test's own: nothing fills that of the machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};

use crate::{command, skip};

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

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.mount, MntFlags::MNT_DETACH);
    }
}
