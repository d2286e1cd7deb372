//! How shims come to be. The engine starts one *launcher* from a copy of its own binary; the launcher forks a shim for
//! each sandbox asked for over its socket. So the multi-threaded engine never forks, and all shims share the pages that
//! dynamic relocation dirtied once in the launcher. A shim is in a session of its own and outlives launcher and engine.
//!
//! The copy is a file of our own, run through a detached read-only mount. A container that gets at `/proc/<pid>/exe`
//! cannot write to it (CVE-2019-5736), an administrator who copies a new version over the old binary does not pull the
//! text from under running shims, and, unlike a sealed memfd (which is the fallback on kernels before 5.12), it costs
//! page cache that the kernel can reclaim instead of tens of megabytes that it cannot.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::proto::{LaunchReply, SandboxInit};
use crate::{limits, server, sys, wire};

/// The verb that makes a process a launcher.
pub const VERB: &str = "shim";
/// Names the file that says how a preloaded library moves the time of day (`tests/e2e/tests/survival/clock.c`).
const TEST_CLOCK: &str = "WINDLASS_E2E_CLOCK";
/// Room in the argument list that a shim overwrites with its folder, so that `ps` shows whose it is.
const TITLE_ROOM: usize = 160;

/// A sealed, anonymous copy of `exe`: nobody can write to it any more.
pub fn sealed_copy(exe: &Path) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"windlass", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut copy = std::fs::File::from(fd);
    io::copy(&mut std::fs::File::open(exe)?, &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

/// The copy of `exe` in `dir`, made if it is not there, and other copies removed: those that still run keep their file
/// without its name. Named by what identifies the original, so that restarts find it.
fn kept_copy(exe: &Path, dir: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut source = std::fs::File::open(exe)?;
    let m = source.metadata()?;
    let name = format!("windlass-{:x}-{:x}-{:x}-{:x}.{:x}", m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    let path = dir.join(&name);
    if std::fs::metadata(&path).is_ok_and(|kept| kept.len() == m.len()) {
        return Ok(path);
    }
    for old in std::fs::read_dir(dir)?.filter_map(Result::ok) {
        let _ = std::fs::remove_file(old.path());
    }
    let temporary = dir.join(format!("{name}.{}", std::process::id()));
    let mut copy = std::fs::File::create(&temporary)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(std::fs::Permissions::from_mode(0o500))?;
    // Executing a file that is open for writing fails (ETXTBSY).
    drop(copy);
    std::fs::rename(&temporary, &path)?;
    Ok(path)
}

/// The engine's end of a launcher. Dropping it ends the launcher, not its shims.
pub struct Launcher {
    child: Child,
    socket: OwnedFd,
}

impl Launcher {
    /// Starts a launcher from a protected copy, kept in `dir`, of `exe` (`/proc/self/exe` outside of tests). Blocks.
    pub fn start(exe: &Path, dir: &Path) -> io::Result<Self> {
        let view = kept_copy(exe, dir).and_then(|copy| sys::read_only_view(&copy));
        // The folder may be on a file system without exec, or the kernel too old.
        view.and_then(Self::execute).or_else(|_| Self::execute(sealed_copy(exe)?))
    }

    fn execute(image: OwnedFd) -> io::Result<Self> {
        let (ours, theirs) = wire::pair()?;
        let mut command = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()));
        // The room is made of one argument, so that the kernel lays it out in one piece.
        command.arg0("windlass").arg(VERB).arg("-".repeat(TITLE_ROOM)).env_clear().current_dir("/");
        // A test that sets the clock of an instance sets that of its shims: their records have times.
        if let (Some(library), Some(clock)) = (std::env::var_os("LD_PRELOAD"), std::env::var_os(TEST_CLOCK)) {
            command.env("LD_PRELOAD", library).env(TEST_CLOCK, clock);
        }
        if let Some(limit) = limits::of_containers() {
            command.env(limits::VARIABLE, limit);
        }
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        Ok(Launcher { child, socket: ours })
    }

    /// Asks for a shim and waits until it serves or failed. Blocks; the answer comes within the kernel's pace.
    pub fn launch(&self, init: &SandboxInit) -> io::Result<LaunchReply> {
        let (ours, theirs) = wire::pair()?;
        wire::send(self.socket.as_fd(), &serde_json::to_vec(init)?, &[theirs.as_fd()])?;
        drop(theirs);
        match wire::recv(ours.as_fd())? {
            Some((bytes, _)) => {
                let reply = serde_json::from_slice(&bytes)?;
                if matches!(reply, LaunchReply::Ready { .. }) {
                    wire::send(ours.as_fd(), b"taken", &[])?;
                }
                Ok(reply)
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the shim ended before it was ready")),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Its socket ends with us, upon which it exits; killing it spares the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the launcher when this process was started as one. To be called before any thread exists.
pub(crate) fn main() -> ExitCode {
    sys::frugal_heap();
    limits::take();
    // Shims that end are reaped by the kernel; a shim sets its own way back.
    sys::ignore_signal(Signal::SIGCHLD);
    let _ = nix::sys::prctl::set_name(c"windlass-launch");
    let Ok(requests) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    // Children must not hold the engine's socket as their standard input.
    if quiet_stdin().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match wire::recv(requests.as_fd()) {
            Ok(Some((bytes, fds))) => {
                let Some(answer) = fds.into_iter().next() else { continue };
                match sys::fork() {
                    Ok(sys::Fork::Parent(_)) => {}
                    Ok(sys::Fork::Child) => {
                        drop(requests);
                        sys::exit_now(i32::from(!shim(&bytes, answer)));
                    }
                    Err(e) => reply(&answer, &LaunchReply::Failed(format!("fork: {e}"))),
                }
            }
            Ok(None) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

fn quiet_stdin() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(())
}

fn reply(to: &OwnedFd, reply: &LaunchReply) {
    if let Ok(bytes) = serde_json::to_vec(reply) {
        let _ = wire::send(to.as_fd(), &bytes, &[]);
    }
}

/// The life of a shim; false if it could not be made.
fn shim(bytes: &[u8], answer: OwnedFd) -> bool {
    let prepared = serde_json::from_slice::<SandboxInit>(bytes).map_err(|e| format!("launch request: {e}"));
    let prepared = prepared.and_then(|init| {
        detach(&init.pod_dir).map_err(|e| format!("detach: {e}"))?;
        server::Server::new(&init).map_err(|e| crate::executor::chain("sandbox", &*e))
    });
    match prepared {
        Ok(server) => {
            reply(&answer, &LaunchReply::Ready { pid: nix::unistd::getpid().as_raw() });
            // An engine that died before it took us may have a successor that has cleaned up already: a shim that
            // nobody knows of must not stay.
            if !matches!(wire::recv(answer.as_fd()), Ok(Some(_))) {
                server.abandon();
                return false;
            }
            drop(answer);
            sys::trim_heap();
            server.run();
            true
        }
        Err(message) => {
            reply(&answer, &LaunchReply::Failed(message));
            false
        }
    }
}

/// Out of the launcher's session, streams on `/dev/null` (errors go to a small file in the sandbox's folder), named.
fn detach(pod_dir: &Path) -> io::Result<()> {
    sys::reset_signals();
    nix::unistd::setsid()?;
    sys::ignore_signal(Signal::SIGPIPE);
    sys::ignore_signal(Signal::SIGHUP);
    sys::ignore_signal(Signal::SIGINT);
    let log = std::fs::OpenOptions::new().append(true).create(true).open(pod_dir.join("shim.err"))?;
    nix::unistd::dup2_stderr(&log)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let _ = nix::sys::prctl::set_name(c"windlass-shim");
    let _ = set_title(pod_dir);
    Ok(())
}

/// Overwrites the room in the argument list (through /proc/self/mem: no pointer arithmetic) with `--pod-dir=...`.
fn set_title(pod_dir: &Path) -> io::Result<()> {
    let mut stat = String::new();
    std::fs::File::open("/proc/self/stat")?.read_to_string(&mut stat)?;
    // Fields after the name in parentheses, which may hold anything; arg_start is field 48, arg_end 49.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, f)| f).split(' ').collect();
    let number = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let (start, end) = (number(48), number(49));
    let room = TITLE_ROOM as u64 + 1;
    if end < start + room {
        return Ok(());
    }
    let title = CString::new(format!("--pod-dir={}", pod_dir.display()))?;
    let mut bytes = title.into_bytes();
    bytes.resize(TITLE_ROOM, 0);
    let mut memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    io::Seek::seek(&mut memory, io::SeekFrom::Start(end - room))?;
    memory.write_all(&bytes)
}

/// Where a shim of that sandbox listens.
pub fn socket_path(pod_dir: &Path) -> PathBuf {
    pod_dir.join("shim.sock")
}
