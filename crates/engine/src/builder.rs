//! Runs the commands of image builds. Each gets a sandbox of its own: a shim, a cgroup, a container over a file system that
//! the build has mounted. It is not the engine's: a build works whether or not an engine of the instance runs, and several
//! do at once.
//!
//! The network is the host's, as with BuildKit where no other is set up, or none.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::instance::Instance;
use build::dockerfile::Network;
use build::{RunMount, RunSpec, Runner, Sink, Stream};
use serde_json::json;
use shim::proto::{ContainerInit, Reply, Request, SandboxInit, Streams};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::context::{Shims, blocking, failed, shim_cgroup};
use crate::driver::teardown::{kill_shim_of, remove_pod_dir};
use crate::fdio::FdStream;
use crate::link::{Link, ShimEvent};
use crate::oci::{Host, ImageDefaults, Inputs};
use crate::runtime::{ContainerSpec, Mount, Owner, RuntimeError, SandboxSpec, Security};
use crate::{files, user};

/// The container's name in its sandbox.
const CONTAINER: &str = "run";
/// Messages of a shim that wait at most.
const EVENTS_MAX: usize = 64;
/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// How long the last output may take to come after the command has ended: a process that it left may hold the pipe.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of output read at once.
const CHUNK: usize = 32 << 10;

/// The run folders of builds' sandboxes.
pub(crate) fn builds_dir(instance: &Instance) -> PathBuf {
    instance.run_dir().join("builds")
}

/// Runs commands of builds on this host.
pub struct Builder {
    instance: Instance,
    host: Host,
    shims: Arc<Shims>,
    runtime: Handle,
}

impl Builder {
    /// For builds of this instance. What builds left whose process is gone is removed. Blocks.
    ///
    /// # Errors
    /// When the run folder cannot be made.
    pub fn open(instance: &Instance, runtime: Handle) -> Result<Self, RuntimeError> {
        let dir = builds_dir(instance);
        std::fs::create_dir_all(&dir).map_err(failed("make folder of builds"))?;
        sweep(instance, &dir)?;
        let copies = instance.data_dir().join("build/exe");
        let shims = Arc::new(Shims::new(Path::new("/proc/self/exe"), &copies));
        Ok(Builder { instance: instance.clone(), host: Host::probe(), shims, runtime })
    }

    /// Runs a command in the sandbox that is `pod_dir`.
    async fn run_in(
        &self,
        place: &Place,
        spec: &RunSpec,
        output: Sink<'_>,
        cancel: watch::Receiver<bool>,
    ) -> Result<i32, RuntimeError> {
        let sandbox = sandbox_of(&place.id, spec);
        self.launch(place, &sandbox).await?;
        let (events_tx, mut events) = mpsc::channel(EVENTS_MAX);
        let link = Link::open(&place.dir, events_tx).map_err(failed("connect to shim"))?;
        let init = self.lay_out(place, &sandbox, spec)?;
        link.call("create container", CONTAINER, Request::Create(Box::new(init))).await?;
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let attach = Request::Attach { id: CONTAINER.to_owned(), streams, patient: true };
        let answer = link.call("attach", CONTAINER, attach).await?;
        let mut fds = answer.fds.into_iter();
        let mut stream = || {
            let fd = fds.next().ok_or_else(|| RuntimeError::Failed {
                operation: "attach",
                message: "a stream is missing from the shim's answer".to_owned(),
            })?;
            FdStream::new(fd).map_err(failed("attach"))
        };
        let (mut stdout, mut stderr) = (stream()?, stream()?);
        let started = link.call("start container", CONTAINER, Request::Start { id: CONTAINER.to_owned() }).await?;
        if !matches!(started.reply, Reply::Started { .. }) {
            let message = format!("the shim answered {:?}", started.reply);
            return Err(RuntimeError::Failed { operation: "start container", message });
        }
        let printed =
            async { tokio::join!(pass(&mut stdout, Stream::Out, output), pass(&mut stderr, Stream::Err, output)) };
        let ended = async {
            loop {
                match events.recv().await {
                    Some(ShimEvent::Exited { id, info }) if id == CONTAINER => return Ok(info.exit_code),
                    Some(ShimEvent::Exited { .. }) => {}
                    Some(ShimEvent::Gone) | None => {
                        let message = "the sandbox's shim is gone".to_owned();
                        return Err(RuntimeError::Failed { operation: "run", message });
                    }
                }
            }
        };
        let canceled = build::canceled(cancel);
        tokio::pin!(printed, ended, canceled);
        let mut silent = false;
        let code = loop {
            tokio::select! {
                _ = &mut printed, if !silent => silent = true,
                code = &mut ended => break code?,
                () = &mut canceled => {
                    return Err(RuntimeError::Failed { operation: "run", message: "canceled".to_owned() });
                }
            }
        };
        if !silent {
            // Late output is better lost than waited for without end.
            let _ = tokio::time::timeout(DRAIN_LIMIT, printed).await;
        }
        Ok(code)
    }

    async fn launch(&self, place: &Place, sandbox: &SandboxSpec) -> Result<(), RuntimeError> {
        let init = SandboxInit {
            pod_dir: place.dir.clone(),
            hostname: (!sandbox.host_network).then(|| sandbox.hostname.clone()),
            own_net: !sandbox.host_network,
            join_net: None,
            own_ipc: true,
            shared_pid: false,
            user_base: None,
            sysctls: Vec::new(),
            shim_cgroup: shim_cgroup(&self.instance),
        };
        let (shims, cgroup, dir, spec) = (self.shims.clone(), place.cgroup.clone(), place.dir.clone(), sandbox.clone());
        blocking("make sandbox", move || {
            shim::cgroup::create(&cgroup).map_err(failed("make cgroup"))?;
            shims.launch(&init)?;
            files::prepare(&dir, &spec, None).map_err(failed("write sandbox files"))
        })
        .await
    }

    /// `config.json` of the container.
    fn lay_out(&self, place: &Place, sandbox: &SandboxSpec, spec: &RunSpec) -> Result<ContainerInit, RuntimeError> {
        let bundle = place.dir.join("bundle");
        std::fs::create_dir_all(&bundle).map_err(failed("make container folder"))?;
        let security = Security { privileged: spec.insecure, ..Security::default() };
        let user = user::resolve(&spec.rootfs, &spec.user, &security)?;
        let container = ContainerSpec {
            id: CONTAINER.to_owned(),
            sandbox_id: place.id.clone(),
            name: CONTAINER.to_owned(),
            command: spec.args.clone(),
            env: spec.env.clone(),
            working_dir: Some(spec.working_dir.clone()),
            mounts: spec.mounts.iter().filter_map(bind).collect(),
            security,
            ..ContainerSpec::default()
        };
        let cgroup = format!("{}/{CONTAINER}", place.cgroup);
        let inputs = Inputs {
            sandbox,
            container: &container,
            image: &ImageDefaults::default(),
            user: &user,
            pod_dir: &place.dir,
            rootfs: &spec.rootfs,
            cgroup: &cgroup,
            host: &self.host,
        };
        let mut document = inputs.config()?;
        if let Some(list) = document["mounts"].as_array_mut() {
            list.extend(spec.mounts.iter().filter_map(tmpfs));
        }
        let bytes = serde_json::to_vec(&document).map_err(failed("write config.json"))?;
        std::fs::write(bundle.join("config.json"), bytes).map_err(failed("write config.json"))?;
        Ok(ContainerInit {
            id: CONTAINER.to_owned(),
            bundle,
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: PathBuf::new(),
            log_max_size: 0,
            log_max_files: 0,
            uid: user.uid,
            gid: user.gid,
            cgroup,
            own_pid_ns: true,
            oom_score_adj: None,
            mapped: None,
        })
    }
}

impl Runner for Builder {
    fn run(&self, spec: &RunSpec, output: Sink<'_>, cancel: watch::Receiver<bool>) -> Result<i32, String> {
        let said = |e: RuntimeError| base::chain(&e);
        let place = Place::new(&self.instance).map_err(said)?;
        let result = self.runtime.block_on(self.run_in(&place, spec, output, cancel)).map_err(said);
        // Nothing of it may write on when its files are taken for a layer.
        let gone = place.remove(&self.instance).map_err(said);
        result.and_then(|code| gone.map(|()| code))
    }
}

/// Where one command runs; locked as long as it does.
struct Place {
    id: String,
    dir: PathBuf,
    cgroup: String,
    lock: PathBuf,
    _held: File,
}

impl Place {
    fn new(instance: &Instance) -> Result<Place, RuntimeError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let all = builds_dir(instance);
        let fail = |e: std::io::Error| failed("make sandbox folder")(e);
        // A lock that was just made must not look like one that was left.
        let _guard = guard(&all).map_err(fail)?;
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("build-{}-{:x}-{nth}", std::process::id(), shim::time::now_ms());
        let lock = all.join(format!("{id}.lock"));
        let held = File::create_new(&lock).map_err(fail)?;
        held.lock().map_err(fail)?;
        let dir = all.join(&id);
        std::fs::create_dir(&dir).map_err(fail)?;
        let cgroup = cgroup_of(instance, &id);
        Ok(Place { id, dir, cgroup, lock, _held: held })
    }

    fn remove(self, instance: &Instance) -> Result<(), RuntimeError> {
        clear(instance, &self.dir, &self.cgroup)?;
        std::fs::remove_file(&self.lock).map_err(failed("remove lock"))
    }
}

fn guard(all: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(all)?;
    let guard = File::create(all.join("guard"))?;
    guard.lock()?;
    Ok(guard)
}

fn cgroup_of(instance: &Instance, id: &str) -> String {
    format!("{}/{id}", instance.cgroup_parent())
}

/// Ends and removes all of a sandbox. What is not there is fine.
fn clear(instance: &Instance, dir: &Path, cgroup: &str) -> Result<(), RuntimeError> {
    shim::cgroup::kill_all(cgroup, KILL_LIMIT);
    kill_shim_of(dir, &shim_cgroup(instance));
    shim::cgroup::kill_all(cgroup, KILL_LIMIT);
    shim::cgroup::remove(cgroup, KILL_LIMIT).map_err(failed("remove cgroup"))?;
    files::release(dir);
    remove_pod_dir(dir)
}

/// Removes what is left of builds whose process is gone.
fn sweep(instance: &Instance, all: &Path) -> Result<(), RuntimeError> {
    let _guard = guard(all).map_err(failed("lock builds"))?;
    for entry in std::fs::read_dir(all).map_err(failed("list builds"))?.flatten() {
        let lock = entry.path();
        let Some(id) = lock.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".lock")) else {
            continue;
        };
        if File::options().write(true).open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
            clear(instance, &all.join(id), &cgroup_of(instance, id))?;
            std::fs::remove_file(&lock).map_err(failed("remove lock"))?;
        }
    }
    Ok(())
}

fn sandbox_of(id: &str, spec: &RunSpec) -> SandboxSpec {
    SandboxSpec {
        id: id.to_owned(),
        hostname: "buildkitsandbox".to_owned(),
        owner: Owner::Docker,
        host_network: spec.network != Network::None,
        host_aliases: spec.hosts.iter().map(|(name, ip)| (ip.to_string(), vec![name.clone()])).collect(),
        ..SandboxSpec::default()
    }
}

fn bind(mount: &RunMount) -> Option<Mount> {
    match mount {
        RunMount::Bind { source, target, read_only } => Some(Mount {
            source: source.clone(),
            target: target.clone(),
            read_only: *read_only,
            recursive_read_only: false,
            inert: false,
            propagation: crate::runtime::Propagation::Private,
        }),
        RunMount::Tmpfs { .. } => None,
    }
}

fn tmpfs(mount: &RunMount) -> Option<serde_json::Value> {
    let RunMount::Tmpfs { target, size } = mount else { return None };
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "mode=1777".to_owned()];
    options.extend(size.map(|bytes| format!("size={bytes}")));
    Some(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options }))
}

/// Hands on what comes until it ends.
async fn pass(from: &mut FdStream, stream: Stream, output: Sink<'_>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        output(stream, &buffer[..n]);
    }
}
