//! A sandbox's ground: namespaces made by the shim, which then lives in them, and pinned by bind mounts so that they
//! outlive it and others can join them by path. No pause container is needed.

use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::proto::SandboxInit;
use crate::{cgroup, sys, users};

/// Folder of the pinned namespaces in a sandbox's run folder.
pub const NS_DIR: &str = "ns";

/// What went wrong while making a sandbox.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct SandboxError {
    step: String,
    #[source]
    source: io::Error,
}

pub(crate) fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> SandboxError {
    let step = step.into();
    move |e| SandboxError { step, source: e.into() }
}

/// The pinned namespace of that kind (`net`, `ipc`, `uts`, `pid`).
pub fn pin(pod_dir: &Path, kind: &str) -> PathBuf {
    pod_dir.join(NS_DIR).join(kind)
}

/// What the process namespace of a container is called while another container shares it.
pub fn shared_with(container: &str) -> String {
    format!("pid-{container}")
}

/// Pins the process namespace of process `pid` for container `container`. The caller makes sure that the process was the
/// one it means, before and after: a number may change hands.
///
/// # Errors
/// The process is no more, or the kernel refuses.
pub fn pin_pid(pod_dir: &Path, container: &str, pid: i32) -> Result<(), SandboxError> {
    std::fs::create_dir_all(pod_dir.join(NS_DIR)).map_err(at("make namespace folder"))?;
    unpin_pid(pod_dir, container);
    bind(Path::new(&format!("/proc/{pid}/ns/pid")), &pin(pod_dir, &shared_with(container)))
}

/// Undoes [`pin_pid`]. What is not there is not an error.
pub fn unpin_pid(pod_dir: &Path, container: &str) {
    remove_pin(&pin(pod_dir, &shared_with(container)));
}

fn remove_pin(pin: &Path) {
    if pin.exists() {
        let _ = umount2(pin, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(pin);
    }
}

/// Makes this process the sandbox's: own session, subreaper, own cgroup, own namespaces, pinned. Answers the first
/// process of the shared process namespace, if one is asked for.
pub(crate) fn enter(init: &SandboxInit) -> Result<Option<Pid>, SandboxError> {
    nix::sys::prctl::set_child_subreaper(true).map_err(at("become subreaper"))?;
    cgroup::join(&init.shim_cgroup);
    // The OOM killer should take a container, not its keeper; not every host lets us say so.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    let ns_dir = init.pod_dir.join(NS_DIR);
    std::fs::create_dir_all(&ns_dir).map_err(at("make namespace folder"))?;
    if let Some(base) = init.user_base {
        return users::enter(init, base, &ns_dir);
    }
    if let Some(other) = &init.join_net {
        let namespace = std::fs::File::open(other).map_err(at(format!("open {}", other.display())))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(at("join network namespace"))?;
        bind(Path::new("/proc/self/ns/net"), &ns_dir.join("net"))?;
    }
    unshare(flags(init)).map_err(at("unshare"))?;
    for (kind, ..) in wanted(init) {
        bind(Path::new(&format!("/proc/self/ns/{kind}")), &ns_dir.join(kind))?;
    }
    furnish(init)?;
    if init.shared_pid { start_pod_init(&ns_dir.join("pid")).map(Some) } else { Ok(None) }
}

/// The namespaces asked for, by the names that /proc has for them.
pub(crate) fn wanted(init: &SandboxInit) -> impl Iterator<Item = (&'static str, CloneFlags)> {
    let all = [
        ("net", CloneFlags::CLONE_NEWNET, init.own_net),
        ("ipc", CloneFlags::CLONE_NEWIPC, init.own_ipc),
        ("uts", CloneFlags::CLONE_NEWUTS, init.hostname.is_some()),
    ];
    all.into_iter().filter(|w| w.2).map(|w| (w.0, w.1))
}

pub(crate) fn flags(init: &SandboxInit) -> CloneFlags {
    wanted(init).fold(CloneFlags::empty(), |all, (_, flag)| all | flag)
}

/// What is in the namespaces that this process is in: loopback, host name, kernel parameters.
pub(crate) fn furnish(init: &SandboxInit) -> Result<(), SandboxError> {
    if init.own_net {
        sys::loopback_up().map_err(at("bring loopback up"))?;
    }
    if let Some(name) = &init.hostname {
        nix::unistd::sethostname(name).map_err(at("set host name"))?;
    }
    init.sysctls.iter().try_for_each(|(name, value)| set_sysctl(name, value))
}

pub(crate) fn bind(source: &Path, target: &Path) -> Result<(), SandboxError> {
    std::fs::File::create(target).map_err(at(format!("make {}", target.display())))?;
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(at(format!("pin {}", source.display())))
}

/// Our own namespaces are the sandbox's, so `/proc/sys` shows the sandbox's values.
fn set_sysctl(name: &str, value: &str) -> Result<(), SandboxError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if !name.chars().all(plain) || name.split(['.', '/']).any(str::is_empty) {
        return Err(at(format!("sysctl {name:?}"))(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    // Dots separate, as in sysctl(8); where a component holds a dot (an interface name) it is written with slashes.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    std::fs::write(Path::new("/proc/sys").join(path), value).map_err(at(format!("sysctl {name}")))
}

/// A process namespace needs a first process, and dies with it. Ours reaps orphans and does nothing else.
fn start_pod_init(pin: &Path) -> Result<Pid, SandboxError> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(at("unshare process namespace"))?;
    let child = match sys::fork().map_err(at("fork pod init"))? {
        sys::Fork::Parent(child) => child,
        sys::Fork::Child => run_pod_init(),
    };
    // Later children of ours (workers) belong to the host's namespace again.
    let own = std::fs::File::open("/proc/self/ns/pid").map_err(at("open own process namespace"))?;
    setns(own, CloneFlags::CLONE_NEWPID).map_err(at("return to own process namespace"))?;
    bind(Path::new(&format!("/proc/{child}/ns/pid")), pin)?;
    Ok(child)
}

pub(crate) fn run_pod_init() -> ! {
    sys::reset_signals();
    let _ = sys::die_with_parent();
    let _ = nix::sys::prctl::set_name(c"pod-init");
    let _ = nix::unistd::setsid();
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    let _ = wanted.thread_block();
    close_all_but(&[]);
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        let _ = wanted.wait();
    }
}

/// Closes every descriptor but the standard ones and `kept`. For a process just forked, which owns none of the others.
pub(crate) fn close_all_but(kept: &[RawFd]) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let fds: Vec<i32> = entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|n| *n > 2 && !kept.contains(n))
        .collect();
    for fd in fds {
        let _ = nix::unistd::close(fd);
    }
}

/// Unpins every namespace of the sandbox. What is not there is not an error.
pub fn unpin(pod_dir: &Path) {
    for entry in std::fs::read_dir(pod_dir.join(NS_DIR)).into_iter().flatten().flatten() {
        remove_pin(&entry.path());
    }
}
