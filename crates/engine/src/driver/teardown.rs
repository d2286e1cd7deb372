//! Removing a sandbox's process and folder by what is on the host alone.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::context::failed;
use crate::runtime::RuntimeError;

/// Kills the shim of that folder, if the process of that number is still it. Blocks until it is gone.
pub(crate) fn kill_shim_of(pod_dir: &Path) {
    use std::os::fd::AsFd;
    let Ok(text) = std::fs::read_to_string(pod_dir.join("shim.pid")) else { return };
    let Ok(pid) = text.trim().parse::<i32>() else { return };
    // First the descriptor, then the look: the number cannot change hands in between.
    let Ok(pidfd) = shim::sys::pidfd_open(pid) else { return };
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mark = format!("--pod-dir={}", pod_dir.display());
    let ours = title.split(|b| *b == 0).any(|part| part == mark.as_bytes());
    if ours && shim::sys::pidfd_signal(pidfd.as_fd(), 9).is_ok() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let _ = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(5_000u16));
    }
}

/// Unmounts whatever is mounted in the folder, then removes it. A shim that is being made while its engine dies may
/// still be adding to it; it ends when it finds itself alone, so a few attempts are enough.
pub(crate) fn remove_pod_dir(pod_dir: &Path) -> Result<(), RuntimeError> {
    const ATTEMPTS: u32 = 10;
    for attempt in 1.. {
        shim::sandbox::unpin(pod_dir);
        for target in mounts_below(pod_dir) {
            umount2(&target, MntFlags::MNT_DETACH).map_err(failed("unmount"))?;
        }
        match std::fs::remove_dir_all(pod_dir) {
            Ok(()) => break,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
            Err(e) if attempt == ATTEMPTS => return Err(failed("remove sandbox folder")(e)),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
    Ok(())
}

/// Mount points in or below the folder, the innermost first.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5) writes blanks as octal escapes; no path of ours has any.
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<_> = points.filter(|p| p.starts_with(dir)).collect();
    found.reverse();
    found
}
