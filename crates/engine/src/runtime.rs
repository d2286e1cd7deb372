//! The seam between the kubelet (or the Docker API) and what runs containers. One implementation drives shims; tests use
//! a fake; CRI may follow.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};

/// What went wrong in the runtime. `NotFound` and `Gone` are answers, the rest are faults.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// No sandbox or container of that id.
    #[error("no such {kind}: {id}")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// The id asked for.
        id: String,
    },
    /// The object is in a state that does not allow the operation.
    #[error("{id}: {message}")]
    Conflict {
        /// The id asked for.
        id: String,
        /// What stands in the way.
        message: String,
    },
    /// The spec cannot be run here; retrying the same spec will not help.
    #[error("{0}")]
    Invalid(String),
    /// The runtime or the kernel failed; `message` is fit for a pod status.
    #[error("{operation}: {message}")]
    Failed {
        /// The step, e.g. `create container`.
        operation: &'static str,
        /// What the kernel, shim or libcontainer said.
        message: String,
    },
    /// The deadline passed.
    #[error("{operation} took longer than {limit:?}")]
    Timeout {
        /// The step.
        operation: &'static str,
        /// The limit.
        limit: Duration,
    },
}

/// Resolver settings of a sandbox, written to `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub nameservers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// Address of the host to listen on; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port inside the sandbox.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// Limits as the kernel takes them; `None` leaves the kernel's default. Same meaning on cgroup v1 and v2.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// CPU weight in v1 shares (2 to 262144); converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period, microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Most tasks.
    pub pids_limit: Option<i64>,
    /// `oom_score_adj` of the processes; values below the caller's own are raised to it where the host forbids lowering.
    pub oom_score_adj: Option<i32>,
    /// The CPUs it may run on, as the kernel lists them, e.g. `0-3,5`; `None` for all of its parent's.
    #[serde(default)]
    pub cpus: Option<String>,
    /// Bytes of huge pages by their size as cgroups name it, e.g. `2MB`; a size that is not listed is not limited.
    #[serde(default)]
    pub huge_pages: Vec<(String, u64)>,
    /// Quality of service of memory, cgroups v2 only; `None` leaves all of it as it is.
    #[serde(default)]
    pub memory_qos: Option<MemoryQos>,
}

/// Whose memory is taken back, and when (`memory.high`, `memory.min`, `memory.low`), bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemoryQos {
    /// Above it processes are slowed down; `None` for no such limit.
    pub high: Option<u64>,
    /// So much is never taken back.
    pub min: u64,
    /// So much is taken back last.
    pub low: u64,
}

/// Who has a sandbox made, and alone may remove it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Owner {
    /// The node agent, for a pod.
    #[default]
    Pod,
    /// The Docker API, for a container of its own.
    Docker,
}

/// A pod's shared ground: namespaces, network, cgroup.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    /// The id, unique on the node: the pod's UID. `[a-zA-Z0-9-]`, at most 64.
    pub id: String,
    /// Whose it is.
    #[serde(default)]
    pub owner: Owner,
    /// Namespace of the pod, for listings and log paths.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// The full name that `/etc/hosts` has before the host name, when the pod has one.
    #[serde(default)]
    pub fqdn: Option<String>,
    /// Resolver settings; `None` copies the host's.
    pub dns: Option<DnsConfig>,
    /// Further `/etc/hosts` lines: address and names.
    pub host_aliases: Vec<(String, Vec<String>)>,
    /// Use the host's network, process or IPC namespace.
    pub host_network: bool,
    /// A network namespace with a loopback interface and nothing else.
    #[serde(default)]
    pub no_network: bool,
    /// The network namespace of the sandbox of this id, which is ready.
    #[serde(default)]
    pub join_network: Option<String>,
    /// Use the host's process namespace.
    pub host_pid: bool,
    /// Use the host's IPC namespace.
    pub host_ipc: bool,
    /// One process namespace for all containers of the sandbox.
    pub share_process_namespace: bool,
    /// A user namespace of its own: ids inside are ids of the host that nobody else has (user_namespaces(7)).
    #[serde(default)]
    pub own_users: bool,
    /// Published ports.
    pub host_ports: Vec<HostPort>,
    /// Cgroup of the sandbox, relative to the instance's parent, e.g. `burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the sandbox as a whole.
    pub resources: Resources,
    /// Kernel parameters set inside.
    pub sysctls: Vec<(String, String)>,
    /// Labels, returned by listings.
    pub labels: Vec<(String, String)>,
}

/// What is known of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxStatus {
    /// The spec it was made from.
    pub spec: SandboxSpec,
    /// False once its shim is gone.
    pub ready: bool,
    /// Its address; `None` on the host's network.
    pub ip: Option<IpAddr>,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// A directory or file of the host seen in a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// No writes through it.
    pub read_only: bool,
    /// Nor through what is mounted below it.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// No programs, devices or set-user-id files in it.
    #[serde(default)]
    pub inert: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: Propagation,
}

/// A block device that a container may use; what it finds it as is one of its mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// It may not be written.
    pub read_only: bool,
}

/// How mounts made later travel (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// Host to container.
    HostToContainer,
    /// Both ways; privileged containers only.
    Bidirectional,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    /// The built-in default profile.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A profile file of the node (OCI JSON).
    Localhost(PathBuf),
}

/// Who the process is and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Security {
    /// All capabilities and devices, no seccomp filter, no masked paths.
    pub privileged: bool,
    /// User id; `None` takes the image's user.
    pub run_as_user: Option<u32>,
    /// Group id; `None` takes the image's group.
    pub run_as_group: Option<u32>,
    /// Refuse to start as user 0.
    pub run_as_non_root: bool,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
    /// Only those: not also the groups that the image gives its user.
    #[serde(default)]
    pub strict_groups: bool,
    /// Capabilities added to the default set, without `CAP_`; `ALL` is all.
    pub cap_add: Vec<String>,
    /// Capabilities dropped from the default set; `ALL` is all.
    pub cap_drop: Vec<String>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The root file system cannot be written.
    pub read_only_rootfs: bool,
    /// The system call filter.
    pub seccomp: Seccomp,
    /// Leave `/proc` paths unmasked (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// The AppArmor profile that it runs under, which is loaded; `None` for none.
    #[serde(default)]
    pub app_armor: Option<String>,
}

/// A file system in memory for a container alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tmpfs {
    /// Path in the container.
    pub target: PathBuf,
    /// Options of the mount (tmpfs(5)), `size=64m` and such.
    pub options: Vec<String>,
}

/// A limit of a process (getrlimit(2)).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rlimit {
    /// Which, `RLIMIT_NOFILE` and such.
    pub kind: String,
    /// What holds.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// What Docker's API offers and a pod's manifest does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extra {
    /// Key in the image store of a writable file system that outlives the container and that whoever made it removes; `None`:
    /// the container's own, which goes with it.
    #[serde(default)]
    pub root_key: Option<String>,
    /// `user[:group]`, by name or number, in place of the image's.
    #[serde(default)]
    pub user: Option<String>,
    /// File systems in memory.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Limits of its processes; the shim's where none are given.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Devices that are made for it, beside those that every container has.
    #[serde(default)]
    pub nodes: Vec<DeviceNode>,
}

/// A device that is made in a container's `/dev` or elsewhere in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceNode {
    /// Where, in the container.
    pub path: PathBuf,
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// What is allowed, of `rwm` (read, write, make).
    pub access: String,
}

/// One container to be made in a sandbox.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ContainerSpec {
    /// The id, unique on the node, at most 64 of `[a-zA-Z0-9_.-]`.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// 0 for the first container of that name in the sandbox, then 1, 2, …
    pub attempt: u32,
    /// The image, as a reference or digest that the image store has.
    pub image: String,
    /// Replaces the image's entrypoint when not empty (and drops the image's arguments, as Kubernetes does).
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Added to the image's environment; the same name replaces.
    pub env: Vec<(String, String)>,
    /// Working directory; `None` takes the image's.
    pub working_dir: Option<String>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Block devices, beside the devices that every container may use.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Limits.
    pub resources: Resources,
    /// Identity and rights.
    pub security: Security,
    /// A running container of the sandbox whose process namespace this one joins.
    #[serde(default)]
    pub pid_of: Option<String>,
    /// The signal that asks it to end, by name (`SIGUSR1`); `None` takes the image's, else `SIGTERM`.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// A terminal as standard input, output and error.
    pub tty: bool,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Log file, CRI format: `<RFC3339Nano> stdout|stderr F|P <text>`.
    pub log_path: PathBuf,
    /// Rotate the log at this size, bytes (0: never), keeping `log_max_files` files.
    pub log_max_size: u64,
    /// Files kept, the current one included.
    pub log_max_files: u32,
    /// Labels, returned by listings.
    pub labels: Vec<(String, String)>,
    /// What pods do not ask for.
    #[serde(default)]
    pub extra: Extra,
}

/// Where a container is in its life. Never guessed: `Exited` means reaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// When it started, milliseconds since the epoch.
        started_at_ms: i64,
    },
    /// Its process was reaped.
    Exited(ExitRecord),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExitRecord {
    /// Exit status; 128 + signal when killed by one.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// When it started, milliseconds since the epoch; 0 if it never did.
    pub started_at_ms: i64,
    /// When it was reaped, milliseconds since the epoch.
    pub finished_at_ms: i64,
    /// Why it could not be started, if so.
    pub start_error: Option<String>,
}

/// Who the first process of a container is started as, once names were looked up in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    /// The spec it was made from.
    pub spec: ContainerSpec,
    /// Digest reference of the image it runs.
    pub image_id: String,
    /// Who it is started as; `None` when it was made before this was written down.
    pub user: Option<ProcessUser>,
    /// The signal that asks it to end, `SIGTERM` and such.
    pub stop_signal: String,
    /// Where it is in its life.
    pub state: ContainerState,
}

/// Something happened; a hint to look, never the truth itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container's state changed.
    Container {
        /// The sandbox.
        sandbox_id: String,
        /// The container.
        container_id: String,
    },
    /// A sandbox's shim ended or came back.
    Sandbox {
        /// The sandbox.
        sandbox_id: String,
    },
}

/// Bytes out of a container.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// Bytes into a container.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// A connection into a sandbox.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A process run in a container, or the container's own process, with its streams. Dropping it closes the streams; a
/// process started by exec is killed when its session is dropped before it ends.
pub struct Session {
    /// Standard input, if asked for.
    pub stdin: Option<Input>,
    /// Standard output (the terminal, with a TTY).
    pub stdout: Option<Output>,
    /// Standard error; `None` with a TTY.
    pub stderr: Option<Output>,
    /// Columns and rows of the terminal.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Resolves to the exit status when the process ended and was reaped.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, RuntimeError>> + Send>>,
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The container.
    pub container_id: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
    /// Added to the container's environment; the same name replaces.
    pub env: Vec<(String, String)>,
    /// Working directory; `None` takes the container's.
    pub working_dir: Option<String>,
    /// `user[:group]` as the container's files name them; `None` takes the container's.
    pub user: Option<String>,
}

/// What a sandbox or container uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time used since the start, nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged, bytes.
    pub memory_bytes: u64,
    /// Memory less inactive file pages, bytes: what cannot be reclaimed at once.
    pub working_set_bytes: u64,
    /// Tasks.
    pub pids: u64,
}

/// What a container wrote to its own file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
}

/// Runs sandboxes and containers. Calls on one sandbox may come in any order and more than once: each is idempotent
/// (making what exists with the same spec answers it; stopping or removing what is gone succeeds).
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Makes the sandbox: shim, namespaces, network, cgroup, `/etc/hosts`, `/etc/resolv.conf`.
    fn run_sandbox(&self, spec: SandboxSpec) -> impl Future<Output = Result<SandboxStatus, RuntimeError>> + Send;
    /// Kills what runs in it and takes its network away; its containers can still be asked for.
    fn stop_sandbox(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Removes it and everything of it from the host.
    fn remove_sandbox(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// All sandboxes of the instance, also those from before a restart.
    fn sandboxes(&self) -> impl Future<Output = Vec<SandboxStatus>> + Send;
    /// Makes a container, not yet running. The image must be present.
    fn create_container(&self, spec: ContainerSpec) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Starts it. An error here also leaves an `Exited` record with `start_error` (exit code 128, as containerd does).
    fn start_container(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Sends the stop signal, waits, then kills. Returns when it is reaped.
    fn stop_container(&self, id: &str, grace: Duration) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Removes a container that does not run, with its file system; its log stays.
    fn remove_container(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// All containers, or those of one sandbox.
    fn containers(&self, sandbox_id: Option<&str>) -> impl Future<Output = Vec<ContainerStatus>> + Send;
    /// Changes the limits of a running container.
    fn update_resources(&self, id: &str, r: Resources) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Changes the limits of a sandbox as a whole.
    fn update_sandbox(&self, id: &str, r: Resources) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// What a container wrote to its own file system.
    fn written(&self, container_id: &str) -> impl Future<Output = Result<Written, RuntimeError>> + Send;
    /// Runs a command in a container.
    fn exec(&self, spec: ExecSpec) -> impl Future<Output = Result<Session, RuntimeError>> + Send;
    /// Connects to the streams of the container's own process.
    fn attach(&self, container_id: &str) -> impl Future<Output = Result<Session, RuntimeError>> + Send;
    /// Opens a TCP connection to a port on the loopback address inside the sandbox.
    fn connect(
        &self,
        sandbox_id: &str,
        port: u16,
    ) -> impl Future<Output = Result<Box<dyn Duplex>, RuntimeError>> + Send;
    /// What a container uses.
    fn usage(&self, container_id: &str) -> impl Future<Output = Result<Usage, RuntimeError>> + Send;
    /// Hints that something changed. A receiver that lagged lists everything again.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;
}
