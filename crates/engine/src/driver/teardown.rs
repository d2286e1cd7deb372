//! Removing a sandbox's process and folder by what is on the host alone.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use crate::context::failed;
use crate::runtime::RuntimeError;

/// Kills the shim of that folder, if the process of that number is still it, then what it was about to start: a process
/// that had not reached its container's cgroup `shims` (the cgroup of all shims) still holds. Blocks until the shim is
/// gone.
pub(crate) fn kill_shim_of(pod_dir: &Path, shims: &str) {
    let recorded = std::fs::read_to_string(pod_dir.join("shim.pid")).ok();
    if let Some(pid) = recorded.and_then(|text| text.trim().parse::<i32>().ok()) {
        kill_marked(pid, pod_dir);
    }
    for pid in shim::cgroup::processes(shims) {
        kill_marked(pid, pod_dir);
    }
}

/// Whether the shim of that folder is there. A socket that takes connections does not say so: whoever inherited it keeps
/// it open.
pub(crate) fn shim_lives(pod_dir: &Path) -> bool {
    shim_pid(pod_dir).is_some()
}

/// The process id of the shim of that folder, if it is there.
pub(crate) fn shim_pid(pod_dir: &Path) -> Option<i32> {
    let recorded = std::fs::read_to_string(pod_dir.join("shim.pid")).ok();
    recorded.and_then(|text| text.trim().parse().ok()).filter(|pid| is_marked(*pid, pod_dir))
}

fn is_marked(pid: i32, pod_dir: &Path) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mark = format!("--pod-dir={}", pod_dir.display());
    title.split(|b| *b == 0).any(|part| part == mark.as_bytes())
}

/// Kills the process if its title names that folder, as those of a shim and of its forks do, and waits for its end.
fn kill_marked(pid: i32, pod_dir: &Path) {
    use std::os::fd::AsFd;
    // First the descriptor, then the look: the number cannot change hands in between.
    let Ok(pidfd) = shim::sys::pidfd_open(pid) else { return };
    if is_marked(pid, pod_dir) && shim::sys::pidfd_signal(pidfd.as_fd(), 9).is_ok() {
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
