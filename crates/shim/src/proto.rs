//! What engine and shim say to each other: one JSON document per packet, file descriptors beside it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a container's main process ended, as the shim saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitInfo {
    /// Exit status; 128 + signal when killed by one.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel's OOM killer struck in its cgroup and it did not end well.
    pub oom_killed: bool,
    /// When it started, milliseconds since the epoch; 0 if it never did.
    pub started_at_ms: i64,
    /// When it was reaped, milliseconds since the epoch.
    pub finished_at_ms: i64,
    /// Why it could not be started, if so.
    pub start_error: Option<String>,
}

/// Everything a new shim needs before it can serve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxInit {
    /// Its folder below the instance's run folder; exists, and belongs to this sandbox alone.
    pub pod_dir: PathBuf,
    /// Host name inside; `None` keeps the host's UTS namespace.
    pub hostname: Option<String>,
    /// A network namespace of its own.
    pub own_net: bool,
    /// The network namespace pinned there, instead.
    #[serde(default)]
    pub join_net: Option<PathBuf>,
    /// An IPC namespace of its own.
    pub own_ipc: bool,
    /// A process namespace that all containers share.
    pub shared_pid: bool,
    /// A user namespace of its own, which owns the others: the host's id that is 0 in it.
    #[serde(default)]
    pub user_base: Option<u32>,
    /// Kernel parameters set inside, dotted names.
    pub sysctls: Vec<(String, String)>,
    /// Cgroup (below the root of each hierarchy) that the shim itself moves to.
    pub shim_cgroup: String,
}

/// Where a fresh shim reports to: the launcher passes this on, then closes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchReply {
    /// The shim serves its socket.
    Ready {
        /// Its process id in the host's process namespace.
        pid: i32,
    },
    /// It could not be made; nothing of it runs.
    Failed(String),
}

/// One container, as the shim needs it. All else is in the bundle's `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerInit {
    /// Its id.
    pub id: String,
    /// Folder with `config.json`.
    pub bundle: PathBuf,
    /// A terminal for the main process.
    pub tty: bool,
    /// Standard input is kept open for attach.
    pub stdin: bool,
    /// Standard input closes after the first attach.
    pub stdin_once: bool,
    /// Log file in CRI format; empty: no log.
    pub log_path: PathBuf,
    /// Rotate at this size, bytes; 0: never.
    pub log_max_size: u64,
    /// Files kept, the current one included.
    pub log_max_files: u32,
    /// Owner of the standard streams, so that the process may reopen `/dev/stdout`.
    pub uid: u32,
    /// Group of the standard streams.
    pub gid: u32,
    /// Its cgroup below the root of each hierarchy.
    pub cgroup: String,
    /// It has a process namespace of its own: when its first process ends the kernel ends the rest.
    pub own_pid_ns: bool,
    /// `oom_score_adj` to try for; where lowering is forbidden the shim's own value stays.
    pub oom_score_adj: Option<i32>,
    /// What it mounts, mapped into the sandbox's user namespace; `None` without one.
    #[serde(default)]
    pub mapped: Option<Vec<Mapped>>,
}

/// A file or folder of the host, shown with its owners mapped into the sandbox's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// On the host.
    pub source: PathBuf,
    /// Where `config.json` looks for it: a path that exists while the container is made, and for its maker only.
    pub at: PathBuf,
}

/// Where a container is, as the shim knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    /// Registered; no process.
    Created,
    /// Being started.
    Starting,
    /// Its process runs.
    Running {
        /// Its process id in the host's namespace.
        pid: i32,
        /// When it started, milliseconds since the epoch.
        started_at_ms: i64,
    },
    /// Its process was reaped, or could not be started.
    Exited(ExitInfo),
}

/// A request; each is answered once, with the same sequence number.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Registers a container: log opened, streams made, attach possible. No process yet.
    Create(Box<ContainerInit>),
    /// Makes the process and runs it. Answered when exec succeeded or failed.
    Start {
        /// The container.
        id: String,
    },
    /// Sends a signal to the main process, or to every process of the container.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
        /// Every process, not only the first.
        all: bool,
    },
    /// Forgets a container that does not run.
    Delete {
        /// The container.
        id: String,
    },
    /// Runs a command in a running container. The reply carries the streams asked for, in the order of
    /// [`Streams`], and the command dies with the connection that asked for it.
    Exec {
        /// The container.
        id: String,
        /// Program and arguments.
        args: Vec<String>,
        /// With a terminal.
        tty: bool,
        /// Which streams.
        streams: Streams,
        /// What differs from the container's own process.
        #[serde(default)]
        process: Box<ExecProcess>,
    },
    /// Kills a command that an exec started.
    ExecKill {
        /// The number from the exec's reply.
        session: u64,
    },
    /// Connects to the streams of the main process; the reply carries the descriptors.
    Attach {
        /// The container.
        id: String,
        /// Which streams.
        streams: Streams,
        /// The container waits for this client to read, as a program does for its pipe, instead of the client losing output.
        #[serde(default)]
        patient: bool,
    },
    /// Sets the size of a container's terminal; before the start, the size it will start with.
    Resize {
        /// The container.
        id: String,
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// A fresh, unconnected TCP socket of the sandbox's network namespace, as a descriptor.
    Socket {
        /// IPv6 instead of IPv4.
        v6: bool,
    },
    /// What it holds.
    State,
    /// Kills every process it started, reaps them, and ends.
    Shutdown,
}

/// How a command differs from its container's own process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecProcess {
    /// Added to the environment; the same name replaces.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Who runs it.
    pub user: Option<ExecUser>,
}

/// Who runs a command, in the ids of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// A choice of standard streams; descriptors travel in this order: in, out, err. With a terminal `stdout` alone stands
/// for output and error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A request with its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller, echoed in the reply.
    pub seq: u64,
    /// What is asked.
    pub req: Request,
}

/// What a shim holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The shim.
    pub pid: i32,
    /// First process of the shared process namespace, if there is one.
    pub pod_init: Option<i32>,
    /// Its containers.
    pub containers: Vec<(String, ContainerPhase)>,
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No container (or exec session) of that id.
    NotFound,
    /// Its phase does not allow this.
    Conflict(String),
    /// The container or command could not be started; the text is fit for a pod status.
    Start(String),
    /// The kernel or libcontainer failed.
    Failed(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// Running since then.
    Started {
        /// Process id in the host's namespace.
        pid: i32,
        /// Milliseconds since the epoch.
        started_at_ms: i64,
    },
    /// Streams follow as descriptors, those marked true.
    Streams {
        /// Which streams the descriptors are.
        streams: Streams,
        /// Exec session number; 0 for attach.
        session: u64,
    },
    /// What it holds.
    State(ShimState),
    /// It did not work.
    Fault(Fault),
}

/// What a shim sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to the call of that number.
    Reply {
        /// The call's number.
        seq: u64,
        /// The answer.
        reply: Reply,
    },
    /// A container ended; its record is on disk already.
    Exited {
        /// The container.
        id: String,
        /// How.
        info: ExitInfo,
    },
    /// A command run by exec ended; only its own connection hears of it.
    ExecExited {
        /// The number from the exec's reply.
        session: u64,
        /// Exit status; 128 + signal when killed by one.
        exit_code: i32,
    },
}
