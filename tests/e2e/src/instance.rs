//! A Windlass of its own: unique name, temporary data, free ports. Taken down when dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command::{self, Output};
use crate::{IMAGE, Kubectl, eventually, leaks, patient};

/// How long a start, and a taking down, may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
/// Lines of the server's log that are shown when something failed.
const LOG_LINES: usize = 40;

/// The binary under test: `WINDLASS_BIN`, or the release build beside the test programs; `None` when there is none.
pub fn windlass() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WINDLASS_BIN") {
        return Some(PathBuf::from(path)).filter(|p| p.is_file());
    }
    let here = std::env::current_exe().ok()?;
    // TARGET/debug/deps/SUITE-hash
    let target = here.parent()?.parent()?.parent()?;
    Some(target.join("release/windlass")).filter(|p| p.is_file())
}

/// What every server is started with, but where a test has the flag itself: the disk of the machine, which may be rather full,
/// is none of a test's business.
const USUAL_FLAGS: [&str; 2] = [
    "--eviction-hard=memory.available<100Mi,nodefs.available<64Mi,imagefs.available<64Mi",
    "--image-gc-high-threshold=100",
];

/// How an instance is to be started.
#[derive(Debug, Clone)]
pub struct InstanceBuilder {
    name: String,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    image: bool,
    /// Flags of the import of a second image.
    entry: Vec<String>,
    /// What starts its programs.
    prefix: Vec<String>,
}

impl InstanceBuilder {
    /// With one more image: the base image under another name, with a program and arguments of its own.
    pub fn entry_image(mut self, tag: &str, entrypoint: &[&str], cmd: &[&str]) -> Self {
        let flags = |flag: &'static str, words: &[&str]| -> Vec<String> {
            words.iter().flat_map(|w| [flag.to_owned(), (*w).to_owned()]).collect()
        };
        self.entry = [flags("--tag", &[tag]), flags("--entrypoint", entrypoint), flags("--cmd", cmd)].concat();
        self
    }

    /// One more flag of `windlass server`.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Its programs are started by this command, as `nsenter`.
    pub fn started_by(mut self, command: &[&str]) -> Self {
        self.prefix = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// A variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Without the base image.
    pub fn without_image(mut self) -> Self {
        self.image = false;
        self
    }

    /// Starts it and waits until its node is ready.
    pub fn start(self) -> Result<Instance> {
        let instance = self.prepare()?;
        instance.spawn()?;
        instance.wait_ready()?;
        Ok(instance)
    }

    /// Everything but the start.
    pub fn prepare(self) -> Result<Instance> {
        let dir = tempfile::Builder::new().prefix("windlass-e2e-").tempdir()?;
        let data = dir.path().join("data");
        let inner = base::instance::Instance::new(&self.name)?.with_data_dir(&data);
        let instance = Instance {
            kubectl: Kubectl::new(&data.join("admin.kubeconfig"), &dir.path().join("kubectl-cache")),
            api: free_port()?,
            http: free_port()?,
            dir: Some(dir),
            inner,
            flags: self.flags,
            env: self.env,
            prefix: self.prefix,
            server: Mutex::new(None),
            down: Mutex::new(false),
        };
        if self.image {
            let tar = instance.import_image()?;
            if !self.entry.is_empty() {
                let flags = self.entry.iter().map(String::as_str);
                instance.windlass(&["image", "import", &tar].into_iter().chain(flags).collect::<Vec<_>>())?.ok()?;
            }
        }
        Ok(instance)
    }
}

/// A running Windlass.
pub struct Instance {
    inner: base::instance::Instance,
    dir: Option<tempfile::TempDir>,
    api: SocketAddr,
    http: SocketAddr,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    prefix: Vec<String>,
    server: Mutex<Option<Child>>,
    down: Mutex<bool>,
    kubectl: Kubectl,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A port that was free a moment ago, from below the range from which the kernel takes ports for outgoing connections
/// (`ip_local_port_range`), so that no client takes it before the server that it is for listens, and below those of NodePorts.
pub fn free_port() -> Result<SocketAddr> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 17_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let n = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(FIRST + n % COUNT)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    anyhow::bail!("no port of 127.0.0.1 from {FIRST} on is free")
}

impl Instance {
    /// An instance whose name begins with `label` and is used by nobody else.
    pub fn builder(label: &str) -> InstanceBuilder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{label}-{:x}-{n}", std::process::id());
        InstanceBuilder { name, flags: Vec::new(), env: Vec::new(), image: true, entry: Vec::new(), prefix: Vec::new() }
    }

    /// Imports the base image; answers the archive it came from.
    pub fn import_image(&self) -> Result<String> {
        let tar = self.dir().join("busybox.tar");
        if !tar.exists() {
            crate::rootfs_tar(&tar)?;
        }
        let tar = tar.display().to_string();
        self.windlass(&["image", "import", &tar, "--tag", IMAGE, "--cmd", "sh"])?.ok()?;
        Ok(tar)
    }

    /// Names of what it makes on the host.
    pub fn names(&self) -> &base::instance::Instance {
        &self.inner
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// A folder of the test, removed at the end, beside the data.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("the folder lives as long as the instance").path()
    }

    /// Where the Kubernetes API listens.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where the HTTP ingress listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// kubectl with the administrator's rights.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A `windlass` verb on this instance.
    pub fn windlass(&self, args: &[&str]) -> Result<Output> {
        self.windlass_with(args, None, command::LIMIT)
    }

    /// The same with standard input and a limit.
    pub fn windlass_with(&self, args: &[&str], stdin: Option<&[u8]>, limit: Duration) -> Result<Output> {
        let mut command = self.program()?;
        command.args(args).args(["--name", self.name(), "--data-dir"]).arg(self.inner.data_dir());
        command::run(&mut command, stdin, limit)
    }

    fn program(&self) -> Result<Command> {
        let windlass = windlass().context("no windlass binary")?;
        let [first, rest @ ..] = self.prefix.as_slice() else { return Ok(Command::new(windlass)) };
        let mut command = Command::new(first);
        command.args(rest).arg(windlass);
        Ok(command)
    }

    /// The command line of its server.
    pub fn server_command(&self) -> Result<Command> {
        let mut command = self.program()?;
        command.args(["server", "--name", self.name(), "--data-dir"]).arg(self.inner.data_dir());
        command.args(["--api-port", &self.api.port().to_string(), "--http-port", &self.http.port().to_string()]);
        for flag in USUAL_FLAGS {
            let name = flag.split('=').next().unwrap_or_default();
            if !self.flags.iter().any(|own| own.split('=').next() == Some(name)) {
                command.arg(flag);
            }
        }
        command.args(&self.flags).envs(self.env.iter().map(|(k, v)| (k, v)));
        Ok(command)
    }

    /// Starts the server process, appending to its log.
    pub fn spawn(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.server_command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Out of the terminal's process group: an interrupted test run must take it down in order, not have it interrupted.
        command.process_group(0);
        *lock(&self.server) = Some(command.spawn().context("start windlass server")?);
        Ok(())
    }

    /// Waits until the API is ready and the node reports Ready.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_api()?;
        let node = eventually(START_MAX, "a node registers", || {
            let name = self.kubectl.ok(&["get", "nodes", "-o", "name"])?;
            ensure!(!name.trim().is_empty(), "there is no node");
            Ok(name.trim().to_owned())
        })
        .with_context(|| self.log_tail())?;
        let limit = format!("--timeout={}s", patient(START_MAX).as_secs());
        let ready = self.kubectl.run_for(&["wait", &node, "--for=condition=Ready", &limit], None, START_MAX * 2);
        ready?.ok().with_context(|| self.log_tail())?;
        Ok(())
    }

    /// Waits until `/readyz` answers.
    pub fn wait_api(&self) -> Result<()> {
        eventually(START_MAX, "the API is ready", || {
            if let Some(status) = self.exited()? {
                // Not worth a further look.
                return Ok(Err(anyhow::anyhow!("the server ended: {status}")));
            }
            std::net::TcpStream::connect(self.api)?;
            ensure!(self.inner.data_dir().join("admin.kubeconfig").exists(), "there is no kubeconfig yet");
            self.kubectl.ok(&["get", "--raw", "/readyz"])?;
            Ok(Ok(()))
        })
        .and_then(|outcome| outcome)
        .with_context(|| self.log_tail())
    }

    /// How the server ended, if it has.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        match lock(&self.server).as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// The server's process id.
    pub fn server_pid(&self) -> Result<u32> {
        Ok(lock(&self.server).as_ref().context("the server was not started")?.id())
    }

    /// The agent's process id: the first word of its lock file.
    pub fn agent_pid(&self) -> Result<u32> {
        let path = self.inner.run_dir().join("agent.lock");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let pid = text.split_whitespace().next().context("the agent's lock file is empty")?.parse()?;
        ensure!(leaks::command_line(pid).contains("agent"), "the agent does not run");
        Ok(pid)
    }

    /// Process ids of the instance's shims.
    pub fn shim_pids(&self) -> Vec<u32> {
        let run = self.inner.run_dir().display().to_string();
        let is_shim = |pid: &u32| {
            let line = leaks::command_line(*pid);
            line.split(' ').any(|w| w == "shim") && line.contains(&run)
        };
        let all: Vec<u32> = leaks::pids().into_iter().filter(is_shim).collect();
        // A container's first process is a copy of the shim until it becomes the container's program.
        let copy = |pid: &u32| leaks::parent(*pid).is_some_and(|parent| all.contains(&parent));
        all.iter().copied().filter(|pid| !copy(pid)).collect()
    }

    /// Sends the server a signal and waits until it is gone.
    pub fn stop(&self, signal: nix::sys::signal::Signal) -> Result<ExitStatus> {
        let mut server = lock(&self.server).take().context("the server was not started")?;
        signal_pid(server.id(), signal)?;
        let deadline = Instant::now() + patient(START_MAX);
        let status = eventually(START_MAX, "the server ends", || server.try_wait()?.context("it still runs"));
        if status.is_err() || Instant::now() > deadline {
            let _ = server.kill();
            let _ = server.wait();
        }
        status.with_context(|| self.log_tail())
    }

    /// `windlass down --purge`, then the check that nothing is left.
    pub fn down(&self) -> Result<()> {
        *lock(&self.down) = true;
        let outcome = self.windlass_with(&["down", "--purge"], None, START_MAX * 2)?;
        self.was_ended().with_context(|| format!("`windlass down`\n{}{}", outcome.stdout, outcome.stderr))?;
        outcome.ok().with_context(|| self.log_tail())?;
        leaks::none(&self.inner)
    }

    /// Collects the exit status of a server that something else, such as `windlass down`, has ended.
    pub fn was_ended(&self) -> Result<()> {
        let Some(mut server) = lock(&self.server).take() else { return Ok(()) };
        let ended = eventually(START_MAX, "the server is gone", || server.try_wait()?.context("it runs"));
        if ended.is_err() {
            server.kill()?;
            server.wait()?;
        }
        ended.map(drop)
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("server.log")
    }

    /// The log of server and agent so far.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The end of the log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("log of {}:\n{}", self.name(), lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
    }
}

/// Sends a signal to a process.
pub fn signal_pid(pid: u32, signal: nix::sys::signal::Signal) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
}

impl Drop for Instance {
    fn drop(&mut self) {
        if !*lock(&self.down)
            && let Err(error) = self.down()
        {
            eprintln!("taking down {}: {error:#}", self.name());
        }
        if std::env::var_os("WINDLASS_E2E_KEEP").is_some()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}
