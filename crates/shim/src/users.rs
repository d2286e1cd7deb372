//! A user namespace for a sandbox (KEP-127): root in its containers is nobody on the host.
//!
//! ```text
//! shim ──fork── child: unshare(user) ◂── maps ── shim;  child: setuid 0, unshare(net, ipc, uts) → owned by the new one
//!   └─ pins /proc/CHILD/ns/*, joins net, ipc and uts itself, keeps its own users; the child ends
//! ```
//!
//! Files keep the owners that they have on the disk. A container sees them by way of mounts whose owners are mapped
//! (mount_setattr(2), MOUNT_ATTR_IDMAP): what root in the pod writes belongs to root in the volume, and to any pod that
//! gets the volume next.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, pipe2, setgroups, setresgid, setresuid};

use crate::proto::{Mapped, SandboxInit};
use crate::sandbox::{SandboxError, at, bind, close_all_but, flags, furnish, pin, run_pod_init, wanted};
use crate::sys;

/// Ids of a pod's user namespace: what Kubernetes gives to a pod, and all that most images use.
pub const RANGE: u32 = 65_536;
/// What the pinned user namespace is called.
pub const KIND: &str = "user";

/// Makes the sandbox's namespaces below a user namespace of their own, pins them, and joins those that the shim itself
/// works in. Answers the first process of the shared process namespace, if one is asked for.
pub(crate) fn enter(init: &SandboxInit, base: u32, ns_dir: &Path) -> Result<Option<Pid>, SandboxError> {
    let pipe = || pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at("pipe"));
    let ((from_child, to_shim), (from_shim, to_child)) = (pipe()?, pipe()?);
    let child = match sys::fork().map_err(at("fork"))? {
        sys::Fork::Child => {
            close_all_but(&[to_shim.as_raw_fd(), from_shim.as_raw_fd()]);
            let _ = sys::die_with_parent();
            let word = match make(init, &to_shim, &from_shim) {
                Ok(pod_init) => format!("+{}", pod_init.map_or(0, Pid::as_raw)),
                Err(e) => format!("-{}", crate::executor::chain("user namespace", &e)),
            };
            let _ = nix::unistd::write(&to_shim, word.as_bytes());
            // Its namespaces live as long as it, until they are pinned.
            let _ = nix::unistd::read(&from_shim, &mut [0u8; 1]);
            sys::exit_now(0);
        }
        sys::Fork::Parent(child) => child,
    };
    drop((to_shim, from_shim));
    let made = take_over(init, base, ns_dir, child, (&from_child, &to_child));
    if made.is_err() {
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    }
    drop(to_child);
    let _ = waitpid(child, None);
    made
}

/// The shim's part: maps, pins, joins.
fn take_over(
    init: &SandboxInit,
    base: u32,
    ns_dir: &Path,
    child: Pid,
    (from_child, to_child): (&OwnedFd, &OwnedFd),
) -> Result<Option<Pid>, SandboxError> {
    let failed = |word: String| at(word.trim_start_matches('-').to_owned())(io::Error::other("it could not be made"));
    let ready = word(from_child).map_err(at("make user namespace"))?;
    if ready != "unshared" {
        return Err(failed(ready));
    }
    let map = format!("0 {base} {RANGE}\n");
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{child}/{file}"), &map).map_err(at(format!("write {file}")))?;
    }
    nix::unistd::write(to_child, b"m").map_err(at("make user namespace"))?;
    let done = word(from_child).map_err(at("make user namespace"))?;
    let Some(pid) = done.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()) else { return Err(failed(done)) };
    let own = [(KIND, CloneFlags::CLONE_NEWUSER)];
    for (kind, _) in own.into_iter().chain(wanted(init)) {
        bind(Path::new(&format!("/proc/{child}/ns/{kind}")), &ns_dir.join(kind))?;
    }
    for (kind, flag) in wanted(init) {
        let pinned = File::open(ns_dir.join(kind)).map_err(at(format!("open namespace {kind}")))?;
        setns(pinned, flag).map_err(at(format!("join namespace {kind}")))?;
    }
    if pid == 0 {
        return Ok(None);
    }
    bind(Path::new(&format!("/proc/{pid}/ns/pid")), &ns_dir.join("pid"))?;
    Ok(Some(Pid::from_raw(pid)))
}

fn word(from: &OwnedFd) -> io::Result<String> {
    let mut bytes = [0u8; 512];
    let n = nix::unistd::read(from, &mut bytes)?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
}

/// The child's part. It ends as root of the new namespaces, without a right on the host.
fn make(init: &SandboxInit, to_shim: &OwnedFd, from_shim: &OwnedFd) -> Result<Option<Pid>, SandboxError> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(at("unshare user namespace"))?;
    nix::unistd::write(to_shim, b"unshared").map_err(at("report"))?;
    nix::unistd::read(from_shim, &mut [0u8; 1]).map_err(at("wait for the maps"))?;
    setgroups(&[]).map_err(at("give up groups"))?;
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).map_err(at("become group 0"))?;
    setresuid(uid, uid, uid).map_err(at("become user 0"))?;
    unshare(flags(init)).map_err(at("unshare"))?;
    furnish(init)?;
    if !init.shared_pid {
        return Ok(None);
    }
    unshare(CloneFlags::CLONE_NEWPID).map_err(at("unshare process namespace"))?;
    match sys::fork_sibling().map_err(at("fork pod init"))? {
        sys::Fork::Parent(pid) => Ok(Some(pid)),
        sys::Fork::Child => run_pod_init(),
    }
}

/// A view of the mount that `path` is on, from that path down, with owners mapped into a user namespace; attached
/// nowhere.
///
/// # Errors
/// `EINVAL` when the file system (or one mounted below) cannot be mapped, `EPERM` when it is mapped already.
pub fn mapped_view(path: &Path, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let view = sys::open_tree(path)?;
    sys::map_owners(view.as_fd(), users)?;
    Ok(view)
}

/// The pinned user namespace of a sandbox.
///
/// # Errors
/// When it has none.
pub fn open(pod_dir: &Path) -> io::Result<File> {
    File::open(pin(pod_dir, KIND))
}

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct StageError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Gives this process, and the container that it is about to make, a mount namespace in which the sandbox's folder can
/// be reached by root of the sandbox's user namespace, and the mounts are where `config.json` looks for them. On the
/// host nothing changes: the folder of all sandboxes stays closed to others.
pub(crate) fn stage(pod_dir: &Path, mapped: &[Mapped]) -> Result<(), StageError> {
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| StageError { what, path, source }
    };
    let users = open(pod_dir).map_err(failed("open the user namespace of", pod_dir))?;
    let views = mapped.iter().map(|m| {
        let is_dir = m.source.is_dir();
        let view = mapped_view(&m.source, users.as_fd());
        let what = "its file system cannot be mapped into the pod's user namespace:";
        Ok((view.map_err(failed(what, &m.source))?, is_dir, &m.at))
    });
    let views: Vec<_> = views.collect::<Result<_, StageError>>()?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed("unshare mount namespace for", pod_dir)(e.into()))?;
    let receive = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, receive, None::<&str>)
        .map_err(|e| failed("receive mounts at", Path::new("/"))(e.into()))?;
    // With the root file systems and namespaces that are mounted in it.
    let own = sys::open_tree(pod_dir).map_err(failed("copy", pod_dir))?;
    let stage = pod_dir.parent().unwrap_or(pod_dir);
    let none = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("stage"), stage, Some("tmpfs"), none, Some("mode=755,size=1m"))
        .map_err(|e| failed("cover", stage)(e.into()))?;
    std::fs::create_dir(pod_dir).map_err(failed("make", pod_dir))?;
    sys::move_mount(own.as_fd(), pod_dir).map_err(failed("attach", pod_dir))?;
    for (view, is_dir, at) in views {
        let parent = at.parent().unwrap_or(at);
        std::fs::create_dir_all(parent).map_err(failed("make", parent))?;
        match is_dir {
            true => std::fs::create_dir(at),
            false => File::create(at).map(drop),
        }
        .map_err(failed("make", at))?;
        sys::move_mount(view.as_fd(), at).map_err(failed("attach", at))?;
    }
    Ok(())
}

/// Where the mapped view of a container's `n`th mount is while the container is made: beside the sandboxes' folders, in
/// a mount namespace of its maker's only.
pub fn staged(pod_dir: &Path, n: usize) -> PathBuf {
    pod_dir.parent().unwrap_or(pod_dir).join(".mapped").join(n.to_string())
}
