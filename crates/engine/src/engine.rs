//! The engine: sandboxes and containers of one instance on this host, by way of shims.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::instance::Instance;
use image::ImageStore;
use net::Network;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use shim::proto::{Request, Streams};
use tokio::sync::{broadcast, watch};

use crate::context::{Context, SNAPSHOT_PREFIX, Shims, blocking, failed, pods_dir, shim_cgroup, snapshot_key};
use crate::driver::teardown::{kill_shim_of, remove_pod_dir};
use crate::driver::{Command, Handle, Kill, View};
use crate::link::Link;
use crate::oci::Host;
use crate::record::{ContainerRecord, Records};
use crate::runtime::{
    ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, Duplex, ExecSpec, Resources, RuntimeError,
    RuntimeEvent, SandboxSpec, SandboxStatus, Session, Usage, Written,
};
use crate::users::Ranges;
use crate::{session, usage};

/// Hints that a slow listener may lag behind before it has to list everything again.
const HINTS_MAX: usize = 4096;
/// After SIGKILL: a process in uninterruptible sleep ends when the kernel lets it.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// Connecting to a port on a pod's loopback address.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How to open an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Whose engine.
    pub instance: Instance,
    /// The program that answers to the shim verb: this one, but for tests.
    pub shim_exe: PathBuf,
    /// Limits and registries of the image store.
    pub images: image::Options,
}

impl EngineConfig {
    /// The engine of an instance, with shims run from this very program.
    pub fn of(instance: &Instance) -> Self {
        EngineConfig {
            instance: instance.clone(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            images: image::Options::default(),
        }
    }
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the instance.
    #[error("another engine of instance {name} is running (it holds {})", path.display())]
    Taken {
        /// The instance.
        name: String,
        /// The lock.
        path: PathBuf,
    },
    /// A folder or file of the engine cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The image store.
    #[error("cannot open the image store")]
    Images(#[from] image::ImageError),
    /// The network.
    #[error("cannot set up the pod network")]
    Network(#[from] net::NetError),
}

fn io_at(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { path: path.clone(), source }
}

/// The engine. Dropping it leaves everything running; [`crate::destroy_all`] does not.
pub struct Engine {
    pub(crate) cx: Arc<Context>,
    /// Held as long as the engine: two of them would fight.
    _lock: Flock<File>,
}

impl Engine {
    /// Opens the engine: finds the shims that live, learns what ended meanwhile, removes what was half made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let instance = config.instance;
        let lock = take_lock(&instance)?;
        let pods = pods_dir(&instance);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&pods).map_err(io_at(&pods))?;
        let dir = instance.data_dir().join("engine");
        let records = Records::open(&dir).map_err(io_at(&dir))?;
        if let Err(error) = shim::cgroup::clear_root() {
            tracing::warn!(%error, "processes in the root cgroup are in the way of limits");
        }
        let host = Host::probe();
        for controller in ["cpu", "memory", "pids"].iter().filter(|c| !host.controllers.contains(**c)) {
            tracing::warn!(controller, "this host has no such cgroup controller; limits of it are not enforced");
        }
        let cx = Arc::new(Context {
            images: ImageStore::open_with(&instance.data_dir().join("images"), config.images)?,
            network: Network::open(net::NetworkConfig::of(&instance)).await?,
            shims: Shims::new(&config.shim_exe, &dir.join("exe")),
            weights: crate::weights::Weights::default(),
            events: broadcast::channel(HINTS_MAX).0,
            users: Ranges::default(),
            sandboxes: Mutex::new(BTreeMap::new()),
            instance,
            records,
            host,
        });
        forget_before_boot(&cx.instance).map_err(io_at(&pods))?;
        let engine = Engine { cx, _lock: lock };
        engine.resume().await.map_err(io_at(&dir))?;
        Ok(engine)
    }

    /// The images.
    pub fn images(&self) -> &ImageStore {
        &self.cx.images
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.cx.network
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.cx.instance
    }

    /// Where the network namespace of a sandbox is pinned, while it is there.
    pub fn netns(&self, sandbox_id: &str) -> PathBuf {
        shim::sandbox::pin(&self.cx.pod_dir(sandbox_id), "net")
    }

    /// Gives the containers of a sandbox another resolver, from now on.
    ///
    /// # Errors
    /// When the sandbox is not there, or its file cannot be written.
    pub fn change_resolver(&self, sandbox_id: &str, dns: &crate::runtime::DnsConfig) -> Result<(), RuntimeError> {
        crate::files::change_resolver(&self.cx.pod_dir(sandbox_id), dns).map_err(failed("write resolver"))
    }

    /// Configuration digests of the images that containers run on: not to be removed.
    pub fn images_in_use(&self) -> BTreeSet<image::Digest> {
        let (_, containers) = self.cx.records.load().unwrap_or_default();
        containers.iter().filter_map(|c| c.image_digest.parse().ok()).collect()
    }

    /// Pid of a sandbox's shim and the first process of its shared process namespace, for diagnosis.
    ///
    /// # Errors
    /// When the sandbox is not there or not ready.
    pub async fn shim_pid(&self, sandbox_id: &str) -> Result<i32, RuntimeError> {
        let link = self.link_of("sandbox", sandbox_id, &self.sandbox(sandbox_id)?)?;
        match link.call("ask shim", sandbox_id, Request::State).await?.reply {
            shim::proto::Reply::State(state) => Ok(state.pid),
            other => Err(RuntimeError::Failed { operation: "ask shim", message: format!("it answered {other:?}") }),
        }
    }

    async fn resume(&self) -> std::io::Result<()> {
        let (sandboxes, containers) = self.cx.records.load()?;
        let mut by_sandbox: BTreeMap<String, Vec<ContainerRecord>> = BTreeMap::new();
        for container in containers {
            by_sandbox.entry(container.spec.sandbox_id.clone()).or_default().push(container);
        }
        let known: BTreeSet<String> = sandboxes.iter().map(|s| s.spec.id.clone()).collect();
        for orphan in by_sandbox.iter().filter(|(id, _)| !known.contains(*id)).flat_map(|(_, list)| list) {
            self.cx.records.remove_container(&orphan.spec.id)?;
        }
        let resumed = sandboxes.into_iter().map(|record| {
            let (id, containers) = (record.spec.id.clone(), by_sandbox.remove(&record.spec.id).unwrap_or_default());
            let cx = self.cx.clone();
            async move { Some((id, Handle::resume(cx, record, containers).await?)) }
        });
        // Each asks its shim; a slow one does not hold up the rest.
        let handles: Vec<_> = futures::future::join_all(resumed).await;
        self.cx.sandboxes.lock().extend(handles.into_iter().flatten());
        self.remove_strays().await;
        Ok(())
    }

    /// What belongs to no sandbox any more: folders, addresses, writable file systems.
    async fn remove_strays(&self) {
        let (known, containers, networked) = {
            let sandboxes = self.cx.sandboxes.lock();
            let views: Vec<_> = sandboxes.values().map(|h| h.view.borrow().clone()).collect();
            let known: BTreeSet<String> = sandboxes.keys().cloned().collect();
            let containers: BTreeSet<String> = views.iter().flat_map(|v| v.containers.keys().cloned()).collect();
            // A stopped sandbox has given its address back.
            let attached = views.iter().filter_map(|v| v.sandbox.as_ref()).filter(|s| !s.spec.host_network && s.ready);
            (known, containers, attached.map(|s| s.spec.id.clone()).collect::<BTreeSet<_>>())
        };
        let cx = self.cx.clone();
        let local = blocking("remove strays", move || remove_stray_files(&cx, &known, &containers)).await;
        if let Err(error) = local {
            tracing::warn!(%error, "strays from before the start are not fully removed");
        }
        if let Err(error) = self.cx.network.retain(&networked).await {
            tracing::warn!(error = %base::chain(&error), "addresses from before the start are not fully freed");
        }
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Handle, RuntimeError> {
        let found = self.cx.sandboxes.lock().get(id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    /// The driver that has this container, and what it shows of it.
    pub(crate) fn container(&self, id: &str) -> Result<(Handle, ContainerStatus), RuntimeError> {
        let sandboxes = self.cx.sandboxes.lock();
        let found = sandboxes.values().find_map(|h| Some((h.clone(), h.view.borrow().containers.get(id)?.clone())));
        found.ok_or_else(|| RuntimeError::NotFound { kind: "container", id: id.to_owned() })
    }

    pub(crate) fn link_of(&self, kind: &'static str, id: &str, handle: &Handle) -> Result<Link, RuntimeError> {
        let link = handle.view.borrow().link.clone().filter(Link::is_open);
        let message = format!("the {kind} is not ready");
        link.ok_or_else(|| RuntimeError::Conflict { id: id.to_owned(), message })
    }

    async fn command<T>(
        &self,
        id: &str,
        handle: &Handle,
        make: impl FnOnce(crate::driver::Answer<T>) -> Command,
    ) -> Result<T, RuntimeError> {
        let gone = || RuntimeError::NotFound { kind: "sandbox", id: id.to_owned() };
        handle.ask(make).await.unwrap_or_else(|| Err(gone()))
    }

    async fn signal(&self, handle: &Handle, id: &str, kill: Kill) -> Result<(), RuntimeError> {
        match handle.ask(|tx| Command::Signal(id.to_owned(), kill, tx)).await {
            // Removed meanwhile: it does not run.
            None | Some(Err(RuntimeError::NotFound { .. })) => Ok(()),
            Some(result) => result,
        }
    }
}

fn take_lock(instance: &Instance) -> Result<Flock<File>, OpenError> {
    let dir = instance.run_dir();
    std::fs::create_dir_all(dir).map_err(io_at(dir))?;
    let path = dir.join("engine.lock");
    let file = File::create(&path).map_err(io_at(&path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(OpenError::Taken { name: instance.name().to_owned(), path }),
        Err((_, e)) => Err(io_at(&path)(e.into())),
    }
}

/// A run folder that is not on tmpfs survives a reboot; what it describes does not.
fn forget_before_boot(instance: &Instance) -> std::io::Result<()> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mark = instance.run_dir().join("boot_id");
    let same = std::fs::read_to_string(&mark).is_ok_and(|m| m == boot);
    if !same {
        for entry in std::fs::read_dir(pods_dir(instance))? {
            let dir = entry?.path();
            // Without a mark nothing is known: a shim that answers was not started before the boot.
            if shim::client::Connection::open(&dir).is_err() {
                remove_pod_dir(&dir).map_err(std::io::Error::other)?;
            }
        }
        std::fs::write(&mark, boot)?;
    }
    Ok(())
}

fn remove_stray_files(
    cx: &Context,
    known: &BTreeSet<String>,
    containers: &BTreeSet<String>,
) -> Result<(), RuntimeError> {
    for entry in std::fs::read_dir(pods_dir(&cx.instance)).map_err(failed("list sandboxes"))? {
        let dir = entry.map_err(failed("list sandboxes"))?.path();
        let stray = dir.file_name().and_then(|n| n.to_str()).is_none_or(|n| !known.contains(n));
        if stray {
            tracing::warn!(dir = %dir.display(), "a sandbox without a record is removed");
            kill_shim_of(&dir, &shim_cgroup(&cx.instance));
            remove_pod_dir(&dir)?;
        }
    }
    for key in cx.images.snapshots().map_err(failed("list root file systems"))? {
        if key.strip_prefix(SNAPSHOT_PREFIX).is_some_and(|id| !containers.contains(id)) {
            cx.images.remove_snapshot(&key).map_err(failed("remove root file system"))?;
        }
    }
    Ok(())
}

/// True when the container was seen to have ended within the limit.
async fn ended(id: &str, view: &watch::Receiver<View>, limit: Duration) -> bool {
    tokio::time::timeout(limit, session::container_exit(id.to_owned(), view.clone())).await.is_ok()
}

impl ContainerRuntime for Engine {
    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let id = spec.id.clone();
        if id.is_empty() || id.len() > 64 || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            let message = format!("sandbox id {id:?} must be 1 to 64 of a-z, A-Z, 0-9 and '-'");
            return Err(RuntimeError::Invalid(message));
        }
        loop {
            let handle = {
                let mut sandboxes = self.cx.sandboxes.lock();
                sandboxes.entry(id.clone()).or_insert_with(|| Handle::spawn(self.cx.clone(), &id)).clone()
            };
            let spec = Box::new(spec.clone());
            if let Some(result) = handle.ask(|tx| Command::Run(spec, tx)).await {
                return result;
            }
            // That driver was ending: its sandbox was removed or could not be made. A new one takes over.
            let mut sandboxes = self.cx.sandboxes.lock();
            if sandboxes.get(&id).is_some_and(|h| h.same(&handle)) {
                sandboxes.remove(&id);
            }
        }
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        match self.sandbox(id) {
            Ok(handle) => handle.ask(Command::Stop).await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        match self.sandbox(id) {
            Ok(handle) => handle.ask(Command::Remove).await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        let sandboxes = self.cx.sandboxes.lock();
        sandboxes.values().filter_map(|h| h.view.borrow().sandbox.clone()).collect()
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<(), RuntimeError> {
        let handle = self.sandbox(&spec.sandbox_id)?;
        if let Ok((other, _)) = self.container(&spec.id)
            && !other.same(&handle)
        {
            let message = "a container of that id exists in another sandbox".to_owned();
            return Err(RuntimeError::Conflict { id: spec.id, message });
        }
        let sandbox_id = spec.sandbox_id.clone();
        self.command(&sandbox_id, &handle, |tx| Command::Create(Box::new(spec), tx)).await
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let (handle, _) = self.container(id)?;
        self.command(id, &handle, |tx| Command::Start(id.to_owned(), tx)).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok((handle, status)) = self.container(id) else { return Ok(()) };
        if !matches!(status.state, ContainerState::Running { .. }) {
            return Ok(());
        }
        if !grace.is_zero() {
            self.signal(&handle, id, Kill::Ask).await?;
            if ended(id, &handle.view, grace).await {
                return Ok(());
            }
        }
        self.signal(&handle, id, Kill::Force).await?;
        match ended(id, &handle.view, KILL_LIMIT).await {
            true => Ok(()),
            false => Err(RuntimeError::Timeout { operation: "kill container", limit: KILL_LIMIT }),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        match self.container(id) {
            Ok((handle, _)) => handle.ask(|tx| Command::RemoveContainer(id.to_owned(), tx)).await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    async fn containers(&self, sandbox_id: Option<&str>) -> Vec<ContainerStatus> {
        let sandboxes = self.cx.sandboxes.lock();
        let wanted = sandboxes.iter().filter(|(id, _)| sandbox_id.is_none_or(|s| s == id.as_str()));
        wanted.flat_map(|(_, h)| h.view.borrow().containers.values().cloned().collect::<Vec<_>>()).collect()
    }

    async fn update_resources(&self, id: &str, r: Resources) -> Result<(), RuntimeError> {
        let (handle, _) = self.container(id)?;
        self.command(id, &handle, |tx| Command::Update(id.to_owned(), r, tx)).await
    }

    async fn update_sandbox(&self, id: &str, r: Resources) -> Result<(), RuntimeError> {
        let handle = self.sandbox(id)?;
        self.command(id, &handle, |tx| Command::UpdateSandbox(r, tx)).await
    }

    async fn written(&self, container_id: &str) -> Result<Written, RuntimeError> {
        let (_, status) = self.container(container_id)?;
        let key = status.spec.extra.root_key.unwrap_or_else(|| snapshot_key(container_id));
        let images = self.cx.images.clone();
        let measure = move || images.snapshot_files(&key).map_err(failed("measure root file system"));
        let (bytes, files) = blocking("measure", measure).await?;
        Ok(Written { bytes, files })
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Session, RuntimeError> {
        let (handle, status) = self.container(&spec.container_id)?;
        let link = self.link_of("container's sandbox", &spec.container_id, &handle)?;
        let user = self.exec_user(&status, spec.user.clone()).await?;
        session::exec(link, spec, user).await
    }

    async fn attach(&self, container_id: &str) -> Result<Session, RuntimeError> {
        let (handle, status) = self.container(container_id)?;
        let link = self.link_of("container's sandbox", container_id, &handle)?;
        let streams = Streams { stdin: true, stdout: true, stderr: !status.spec.tty };
        session::attach(link, container_id, status.spec.tty, handle.view, (streams, false)).await
    }

    async fn connect(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        let link = self.link_of("sandbox", sandbox_id, &self.sandbox(sandbox_id)?)?;
        let mut last = None;
        for v6 in [false, true] {
            let address: SocketAddr =
                if v6 { ([0, 0, 0, 0, 0, 0, 0, 1], port).into() } else { ([127, 0, 0, 1], port).into() };
            let mut answer = link.call("connect", sandbox_id, Request::Socket { v6 }).await?;
            let Some(fd) = answer.fds.pop() else { continue };
            // The socket belongs to the sandbox's network namespace, whoever connects it.
            let socket = tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
            match tokio::time::timeout(CONNECT_LIMIT, socket.connect(address)).await {
                Ok(Ok(stream)) => return Ok(Box::new(stream)),
                Ok(Err(e)) => last = last.or(Some(format!("{address}: {e}"))),
                Err(_) => return Err(RuntimeError::Timeout { operation: "connect", limit: CONNECT_LIMIT }),
            }
        }
        let message = last.unwrap_or_else(|| "the shim gave no socket".to_owned());
        Err(RuntimeError::Failed { operation: "connect", message })
    }

    async fn usage(&self, container_id: &str) -> Result<Usage, RuntimeError> {
        let (handle, _) = self.container(container_id)?;
        let spec = handle.view.borrow().sandbox.as_ref().map(|s| s.spec.clone());
        let spec = spec.ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: container_id.to_owned() })?;
        let path = format!("{}/{container_id}", self.cx.sandbox_cgroup(&spec));
        blocking("read usage", move || Ok(usage::of_cgroup(&path))).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.cx.events.subscribe()
    }
}
