//! The calls that need `unsafe`, each behind a safe function, and nothing else.
#![allow(unsafe_code, reason = "the one home of raw kernel calls in this crate; every block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

/// Which side of a fork this is.
pub enum Fork {
    /// The parent, with the child's id.
    Parent(Pid),
    /// The child.
    Child,
}

/// fork(2). The caller must be single-threaded: the child of a threaded process may not allocate, and ours does.
///
/// Errors with `EDEADLK` when the process has more than one thread.
pub fn fork() -> io::Result<Fork> {
    if thread_count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: checked just above that no other thread exists, so no lock can be held by a thread that vanishes.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// The same, with the caller's parent as the child's: the child outlives a caller that only made its namespaces. `Parent`
/// is the caller's side.
///
/// Errors with `EDEADLK` when the process has more than one thread.
pub(crate) fn fork_sibling() -> io::Result<Fork> {
    if thread_count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: as for `fork`: one thread, and without CLONE_VM and with no stack given the child goes on with a copy of
    // the caller's memory. The other arguments are not looked at with these flags.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) if pid > 0 => Ok(Fork::Parent(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many threads this process has; 0 if that cannot be told.
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map(|d| d.count()).unwrap_or(0)
}

/// Ends the process without running destructors or exit handlers: those belong to the parent of a fork.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Takes ownership of a descriptor that recvmsg(2) installed in this process.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: only called with descriptors fresh from SCM_RIGHTS, which nobody else knows of.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Writes to a descriptor that came by inheritance over clone(2) and is known by its number only. What cannot be written
/// is dropped.
pub(crate) fn write_inherited(fd: RawFd, bytes: &[u8]) {
    // SAFETY: pointer and length are of one live slice; a wrong descriptor number is answered with EBADF.
    let _ = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Default handlers for every signal and an empty mask: both survive exec, and a container must inherit neither the
/// shim's blocked SIGCHLD nor Rust's ignored SIGPIPE.
pub fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: SIG_DFL runs no code of ours.
        let _ = unsafe { nix::sys::signal::sigaction(signal, &default) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Ignores a signal.
pub fn ignore_signal(signal: Signal) {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN runs no code of ours.
    let _ = unsafe { nix::sys::signal::sigaction(signal, &ignore) };
}

/// Sets the size of a terminal.
pub fn set_winsize(tty: BorrowedFd<'_>, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize` through the pointer, which outlives the call.
    let rc = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size)) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens the slave of a pseudoterminal by its master, whatever mount namespace it lives in (ioctl_tty(2)).
pub fn tty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and answers a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(fd)) }
}

/// A descriptor that names a process for good (pidfd_open(2)).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain values in, a new descriptor out.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(fd)) }
}

/// Signals the process that a pidfd names (pidfd_send_signal(2)).
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the descriptor is borrowed and open.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A copy of the mount that `path` is on, from that path down, and of what is mounted below it, attached nowhere
/// (open_tree(2); Linux 5.2).
pub(crate) fn open_tree(path: &std::path::Path) -> io::Result<OwnedFd> {
    open_tree_with(path, libc::c_long::from(libc::AT_RECURSIVE))
}

fn open_tree_with(path: &std::path::Path, more: libc::c_long) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::c_long::from(libc::OPEN_TREE_CLONE) | libc::c_long::from(libc::O_CLOEXEC) | more;
    // SAFETY: the path is NUL-terminated and outlives the call; the answer is a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(fd)) }
}

fn mount_setattr(tree: BorrowedFd<'_>, more: i32, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: an empty NUL-terminated path names the descriptor itself; `attr` is laid out as `struct mount_attr` and
    // its size is given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | more,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A copy of the mount that `path` is on, of that path alone, read-only, attached nowhere (open_tree(2),
/// mount_setattr(2); Linux 5.12). A program executed through it cannot be opened for writing by way of
/// `/proc/<pid>/exe`, whoever asks.
pub fn read_only_view(path: &std::path::Path) -> io::Result<OwnedFd> {
    let tree = open_tree_with(path, 0)?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    mount_setattr(tree.as_fd(), 0, &MountAttr { set, clear: 0, propagation: 0, userns_fd: 0 })?;
    Ok(tree)
}

/// Maps the owners in a tree of mounts that is attached nowhere into a user namespace (MOUNT_ATTR_IDMAP; Linux 5.12, and
/// whatever its file systems ask for).
pub(crate) fn map_owners(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd };
    mount_setattr(tree, libc::AT_RECURSIVE, &attr)
}

/// Attaches a tree of mounts at a path (move_mount(2); Linux 5.2).
pub(crate) fn move_mount(tree: BorrowedFd<'_>, to: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    /// The tree is the descriptor itself.
    const F_EMPTY_PATH: libc::c_uint = 4;
    let to = std::ffi::CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both paths are NUL-terminated and outlive the call; the descriptor is borrowed and open.
    let rc = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, to.as_ptr(), F_EMPTY_PATH)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel kill this process when its parent ends.
pub fn die_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)
}

/// Brings the loopback interface of the current network namespace up (netdevice(7)).
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid `ifreq`: integers, arrays and pointers that the kernel does not follow here.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq` through the pointer, which outlives the call.
    let rc = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives free heap pages back to the kernel (malloc_trim(3)); a no-op where the C library has none.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps the C library to one small heap: thresholds fixed, top trimmed early.
pub fn frugal_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes plain integers; called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
        libc::mallopt(libc::M_TOP_PAD, 16 * 1024);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
    }
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE (bpf(2)).
pub(crate) fn load_device_program(code: &[crate::devices::Insn]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    /// The start of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what follows as zero.
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let count = u32::try_from(code.len()).map_err(io::Error::other)?;
    let attr = Attr {
        kind: TYPE_CGROUP_DEVICE,
        count,
        code: code.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `attr` is laid out as the kernel's, its size is given, and what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, std::ptr::from_ref(&attr), size_of::<Attr>()) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(adopt(fd)) }
}

/// Attaches a device program to a cgroup; programs of parents keep their say.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const PROG_ATTACH: libc::c_long = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Attr {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    let attr =
        Attr { target: cgroup.as_raw_fd(), program: program.as_raw_fd(), kind: CGROUP_DEVICE, flags: ALLOW_MULTI };
    // SAFETY: as above; the descriptors are borrowed and open.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, std::ptr::from_ref(&attr), size_of::<Attr>()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
