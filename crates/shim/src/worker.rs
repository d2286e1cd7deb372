//! The process that calls libcontainer. The shim forks one for every start and exec: what libcontainer allocates, what
//! it does to the calling process (`oom_score_adj`, dumpable, working directory) and how long it takes stay out of the
//! shim, which keeps serving. The container's processes are made as siblings, so they are the shim's children.
//!
//! ```text
//! shim ──fork── worker ── libcontainer ──clone(PARENT)── intermediate ──clone(PARENT)── init → exec
//!   ▲  └──────────────────── children of the shim ─────────┘───────────────────────────┘
//!   └─ report socket: Pid, Console + fd, Started | Failed
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{Capability, LinuxCapabilities, LinuxNamespaceType, Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::executor::{Confinement, Identity, Program, chain};
use crate::proto::{ExecProcess, ExecUser};
use crate::{cgroup, devices, sys, users, wire};

/// What a worker tells the shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The process exists (it may have ended since).
    Pid(i32),
    /// The terminal's master follows as a descriptor.
    Console,
    /// The program runs.
    Started,
    /// It does not, for this reason.
    Failed(String),
}

/// The container's ends of its streams; absent ones are `/dev/null`.
#[derive(Default)]
pub(crate) struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// What a worker is to do.
pub(crate) struct Job {
    /// The container.
    pub id: String,
    /// Folder of libcontainer's state.
    pub state_dir: PathBuf,
    /// Folder with `config.json`.
    pub bundle: PathBuf,
    /// A terminal instead of streams.
    pub tty: bool,
    /// The streams.
    pub stdio: Stdio,
    /// `oom_score_adj` to try for.
    pub oom_score_adj: Option<i32>,
    /// Mounts to be mapped into the sandbox's user namespace first, if it has one.
    pub mapped: Option<Vec<crate::proto::Mapped>>,
    /// User and group of the host that the streams belong to.
    pub owner: (u32, u32),
    /// The command of an exec; `None` starts the container itself.
    pub exec: Option<Command>,
    /// A name for this job's files, unique in the sandbox.
    pub serial: u64,
}

/// A command to run in a container.
pub(crate) struct Command {
    /// Program and arguments.
    pub args: Vec<String>,
    /// What differs from the container's own process.
    pub process: ExecProcess,
}

/// Forks a worker. The result is its process id and the socket it reports on.
pub(crate) fn spawn(job: Job) -> io::Result<(i32, OwnedFd)> {
    let (ours, theirs) = wire::pair()?;
    match sys::fork()? {
        sys::Fork::Parent(pid) => Ok((pid.as_raw(), ours)),
        sys::Fork::Child => {
            drop(ours);
            // The shim's listener and its clients' sockets above all: held by what outlives a killed shim for a moment,
            // they would make it look alive.
            let stdio = [&job.stdio.stdin, &job.stdio.stdout, &job.stdio.stderr];
            let kept = stdio.into_iter().flatten().chain([&theirs]).map(AsRawFd::as_raw_fd);
            crate::sandbox::close_all_but(&kept.collect::<Vec<_>>());
            sys::reset_signals();
            // Without it, what it makes could outlive a shim that was killed, and whoever cleaned up after that.
            let _ = sys::die_with_parent();
            let report = match run(job, &theirs) {
                Ok(()) => Report::Started,
                Err(message) => Report::Failed(message),
            };
            let sent = tell(&theirs, &report, None);
            sys::exit_now(i32::from(sent.is_err()))
        }
    }
}

fn tell(socket: &OwnedFd, report: &Report, fd: Option<&OwnedFd>) -> io::Result<()> {
    let bytes = serde_json::to_vec(report)?;
    match fd {
        Some(fd) => wire::send(socket.as_fd(), &bytes, &[fd.as_fd()]),
        None => wire::send(socket.as_fd(), &bytes, &[]),
    }
}

fn io_words(what: &'static str) -> impl Fn(io::Error) -> String {
    move |e| format!("{what}: {e}")
}

fn run(job: Job, report: &OwnedFd) -> Result<(), String> {
    // Inherited by all that follows. Without CAP_SYS_RESOURCE a value below our own is refused: then ours stays, which
    // is the nearest allowed one.
    // Never left out: the shim's own value is not for containers.
    let _ = std::fs::write("/proc/self/oom_score_adj", job.oom_score_adj.unwrap_or(0).to_string());
    if let Some(mapped) = &job.mapped {
        let pod_dir = job.state_dir.parent().unwrap_or(Path::new("/"));
        users::stage(pod_dir, mapped).map_err(|e| chain("user namespace", &e))?;
    }
    let (failure_r, failure_w) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    let console_path = job.state_dir.join(format!("console-{}.sock", job.serial));
    let console = if job.tty { Some(listen_console(&console_path).map_err(io_words("console socket"))?) } else { None };
    // The container's own terminal is given to its user by the shim.
    let owner = job.exec.is_some().then_some(job.owner);
    let built = build(job, console.as_ref().map(|_| console_path.as_path()), failure_w.as_raw_fd());
    drop(failure_w);
    let built = match built {
        // The program's own words are better than what libcontainer wraps around them.
        Err(wrapped) => Err(read_all(&failure_r).filter(|m| !m.is_empty()).unwrap_or(wrapped)),
        Ok(built) => Ok(built),
    };
    let _ = std::fs::remove_file(&console_path);
    let built = built?;
    tell(report, &Report::Pid(built.pid), None).map_err(io_words("report"))?;
    if let Some(listener) = console {
        let master = receive_console(&listener).map_err(io_words("console"))?;
        if let Some((uid, gid)) = owner {
            let peer = sys::tty_peer(master.as_fd()).map_err(io_words("console"))?;
            nix::unistd::fchown(&peer, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| format!("console: {e}"))?;
        }
        tell(report, &Report::Console, Some(&master)).map_err(io_words("report"))?;
        // The size and owner of the terminal are set before the program looks.
        let _ = wire::recv(report.as_fd()).map_err(io_words("report"))?;
    }
    if let Some(mut container) = built.container {
        container.start().map_err(|e| chain("start", &e))?;
    }
    match read_all(&failure_r) {
        Some(message) if message.is_empty() => Ok(()),
        Some(message) => Err(message),
        None => Err("the failure pipe cannot be read".to_owned()),
    }
}

struct Built {
    pid: i32,
    /// To be started; `None` for an exec, which runs already.
    container: Option<Container>,
}

fn build(job: Job, console: Option<&Path>, failure: i32) -> Result<Built, String> {
    let spec = Spec::load(job.bundle.join("config.json")).map_err(|e| chain("config.json", &e))?;
    let chosen = job.exec.as_ref().map(|c| c.process.user.as_ref());
    let confine = if let Some(user) = chosen { confinement(&spec, user)? } else { None };
    let full = confine.as_ref().is_some_and(|c| c.identity.is_some());
    let filtered = confine.as_ref().is_some_and(|c| c.seccomp.is_some());
    let privileged_filter = filtered && !no_new_privileges(&spec);
    let mut builder = ContainerBuilder::new(job.id.clone(), SyscallType::default())
        .with_root_path(&job.state_dir)
        .map_err(|e| chain("state folder", &e))?
        .with_console_socket(console)
        .with_executor(Program { failure, confine, first: job.exec.is_none() });
    builder.stdin = job.stdio.stdin;
    builder.stdout = job.stdio.stdout;
    builder.stderr = job.stdio.stderr;
    let Some(command) = job.exec else {
        prepare_cgroup(&spec)?;
        let container = builder
            .as_init(&job.bundle)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|e| chain("create", &e))?;
        let pid = container.pid().ok_or("libcontainer gave no process id")?.as_raw();
        return Ok(Built { pid, container: Some(container) });
    };
    let mut process = exec_process(&spec, command, job.tty, privileged_filter)?;
    if full {
        as_root_of_the_host(&mut process);
    }
    let path = job.state_dir.join(format!("exec-{}.json", job.serial));
    let json = serde_json::to_vec(&process).map_err(|e| e.to_string())?;
    std::fs::write(&path, json).map_err(io_words("process.json"))?;
    let pid = builder.as_tenant().with_process(Some(&path)).with_detach(true).as_sibling(true).build();
    let _ = std::fs::remove_file(&path);
    let pid = pid.map_err(|e| chain("exec", &e))?.as_raw();
    Ok(Built { pid, container: None })
}

/// What libcontainer leaves to us for a command in that container: its filter, and its user namespace.
fn confinement(spec: &Spec, chosen: Option<&ExecUser>) -> Result<Option<Confinement>, String> {
    let Some((linux, process)) = spec.linux().as_ref().zip(spec.process().as_ref()) else { return Ok(None) };
    let namespaces = linux.namespaces().iter().flatten();
    let users = namespaces.filter(|n| n.typ() == LinuxNamespaceType::User).find_map(|n| n.path().clone());
    let user = process.user();
    let users = users.map(std::fs::File::open).transpose().map_err(io_words("open user namespace"))?;
    let (uid, gid, groups) = match chosen {
        Some(user) => (user.uid, user.gid, user.groups.clone()),
        None => (user.uid(), user.gid(), user.additional_gids().clone().unwrap_or_default()),
    };
    let identity = users.map(|file| Identity { users: Arc::new(file.into()), uid, gid, groups });
    let seccomp = linux.seccomp().clone();
    if identity.is_none() && seccomp.is_none() {
        return Ok(None);
    }
    Ok(Some(Confinement { identity, seccomp, capabilities: process.capabilities().clone() }))
}

/// Joining a user namespace takes the host's root; who the command is in it, and what it may do, is set right after
/// (see [`Identity`]), before the command runs.
fn as_root_of_the_host(process: &mut Process) {
    let mut user = process.user().clone();
    user.set_uid(0).set_gid(0).set_additional_gids(None);
    process.set_user(user);
    let mut capabilities = process.capabilities().clone().unwrap_or_default();
    let needed = [Capability::SysAdmin, Capability::Setpcap, Capability::Setuid, Capability::Setgid];
    let set = Some(std::collections::HashSet::from(needed));
    capabilities.set_bounding(set.clone()).set_permitted(set.clone()).set_effective(set);
    process.set_capabilities(Some(capabilities));
}

/// On v2, before anything of the container runs. Its cgroup is made here, which libcontainer then finds.
fn prepare_cgroup(spec: &Spec) -> Result<(), String> {
    let linux = spec.linux().as_ref().ok_or("no linux section in the spec")?;
    let rules = linux.resources().as_ref().and_then(|r| r.devices().clone()).unwrap_or_default();
    let all_allowed = rules.iter().any(|d| d.allow() && d.major().is_none() && d.minor().is_none());
    let (true, Some(path)) = (cgroup::is_unified(), linux.cgroups_path()) else { return Ok(()) };
    let path = path.to_string_lossy();
    let path = path.trim_start_matches('/');
    cgroup::create(path).map_err(io_words("cgroup"))?;
    cgroup::set_container_defaults(path).map_err(io_words("cgroup"))?;
    if all_allowed {
        return Ok(());
    }
    let tree = cgroup::hierarchies().first().ok_or("no cgroups are mounted")?;
    devices::confine(&tree.root.join(path), &devices::blocks(&rules)).map_err(io_words("device rules"))
}

fn no_new_privileges(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(Process::no_new_privileges).unwrap_or(false)
}

/// The container's own process with other arguments: same rights, and same user, environment and folder unless others are
/// asked for.
fn exec_process(spec: &Spec, command: Command, tty: bool, privileged_filter: bool) -> Result<Process, String> {
    let Command { args, process: wanted } = command;
    let mut process = spec.process().clone().ok_or("no process in the spec")?;
    let mut environment = process.env().clone().unwrap_or_default();
    for (name, value) in wanted.env {
        environment.retain(|e| e.split('=').next() != Some(name.as_str()));
        environment.push(format!("{name}={value}"));
    }
    if let Some(cwd) = wanted.cwd {
        process.set_cwd(cwd.into());
    }
    if let Some(chosen) = wanted.user {
        let mut user = process.user().clone();
        user.set_uid(chosen.uid).set_gid(chosen.gid).set_additional_gids(Some(chosen.groups));
        process.set_user(user);
    }
    if tty && !environment.iter().any(|e| e.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    process.set_args(Some(args)).set_env(Some(environment)).set_terminal(Some(tty));
    if privileged_filter && let Some(capabilities) = process.capabilities().clone() {
        process.set_capabilities(Some(able_to_filter(capabilities)));
    }
    Ok(process)
}

/// Loading a filter without no_new_privs takes CAP_SYS_ADMIN, shrinking the bounding set after it CAP_SETPCAP. Both are
/// dropped before the command runs (see [`Confinement`]).
fn able_to_filter(mut capabilities: LinuxCapabilities) -> LinuxCapabilities {
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend([Capability::SysAdmin, Capability::Setpcap]);
        Some(set)
    };
    let (bounding, permitted) = (with(capabilities.bounding()), with(capabilities.permitted()));
    let effective = with(capabilities.effective());
    capabilities.set_bounding(bounding).set_permitted(permitted).set_effective(effective);
    capabilities
}

fn listen_console(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let _ = std::fs::remove_file(path);
    let dir = std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    std::os::unix::net::UnixListener::bind(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

fn receive_console(listener: &std::os::unix::net::UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let packet = wire::recv_stream(stream.as_fd())?;
    packet.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

fn read_all(pipe: &OwnedFd) -> Option<String> {
    let mut text = Vec::new();
    let mut chunk = [0u8; 512];
    loop {
        match nix::unistd::read(pipe, &mut chunk) {
            Ok(0) => return Some(String::from_utf8_lossy(&text).into_owned()),
            Ok(n) if text.len() < 4096 => text.extend_from_slice(&chunk[..n]),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}
