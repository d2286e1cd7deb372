//! What all drivers of an engine share.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::instance::Instance;
use image::ImageStore;
use net::Network;
use parking_lot::Mutex;
use shim::launch::Launcher;
use shim::proto::{LaunchReply, SandboxInit};
use tokio::sync::broadcast;

use crate::driver::Handle;
use crate::oci::Host;
use crate::record::Records;
use crate::runtime::{Resources, RuntimeError, RuntimeEvent, SandboxSpec};
use crate::users::Ranges;
use crate::weights::{Asked, Weights};

/// Shared by the engine and its drivers.
pub struct Context {
    pub instance: Instance,
    pub records: Records,
    pub images: ImageStore,
    pub network: Network,
    pub host: Host,
    pub shims: Shims,
    pub weights: Weights,
    pub events: broadcast::Sender<RuntimeEvent>,
    pub users: Ranges,
    pub sandboxes: Mutex<BTreeMap<String, Handle>>,
}

impl Context {
    /// The run folder of a sandbox.
    pub fn pod_dir(&self, id: &str) -> PathBuf {
        pods_dir(&self.instance).join(id)
    }

    /// The cgroup of a sandbox, below the root of each tree.
    pub fn sandbox_cgroup(&self, spec: &SandboxSpec) -> String {
        let own = spec.cgroup.trim_matches('/');
        let own = if own.is_empty() { format!("pod{}", spec.id) } else { own.to_owned() };
        format!("{}/{own}", self.instance.cgroup_parent())
    }

    /// Has the class of a sandbox, and all of them together, have what their sandboxes ask for, this one `resources`, or nothing
    /// when it runs no more. Blocks for writes. That a class could not be given it ends no pod: it is logged.
    pub fn weigh(&self, spec: &SandboxSpec, resources: Option<&Resources>) {
        let root = self.instance.cgroup_parent();
        let note = |path: &str, shares: bool| {
            let asked = resources.map(|r| Asked {
                shares: shares.then(|| r.cpu_shares.unwrap_or(0)),
                memory: r.memory_qos.map_or((0, 0), |qos| (qos.min, qos.low)),
            });
            if let Err(error) = self.weights.note(path, &spec.id, asked) {
                tracing::warn!(cgroup = path, %error, "what a class of pods has could not be set");
            }
        };
        note(&root, false);
        if let Some((class, _)) = spec.cgroup.trim_matches('/').rsplit_once('/') {
            note(&format!("{root}/{class}"), true);
        }
    }

    /// Says that something about a container may have changed.
    pub fn hint_container(&self, sandbox_id: &str, container_id: &str) {
        let (sandbox_id, container_id) = (sandbox_id.to_owned(), container_id.to_owned());
        // No receiver is no problem: hints are for whoever listens.
        let _ = self.events.send(RuntimeEvent::Container { sandbox_id, container_id });
    }

    /// Says that something about a sandbox may have changed.
    pub fn hint_sandbox(&self, sandbox_id: &str) {
        let _ = self.events.send(RuntimeEvent::Sandbox { sandbox_id: sandbox_id.to_owned() });
    }
}

/// Folder of the sandboxes' run folders.
pub fn pods_dir(instance: &Instance) -> PathBuf {
    instance.run_dir().join("pods")
}

/// The cgroup that shims live in, away from any service manager's.
pub fn shim_cgroup(instance: &Instance) -> String {
    format!("{}/{SHIM_CGROUP}", instance.cgroup_parent())
}

/// Name of that cgroup below the instance's.
pub const SHIM_CGROUP: &str = "shims";

/// The key of a container's writable file system in the image store.
pub fn snapshot_key(container_id: &str) -> String {
    format!("{SNAPSHOT_PREFIX}{container_id}")
}

/// Start of those keys; other users of the store have other keys.
pub const SNAPSHOT_PREFIX: &str = "c-";

/// Starts shims, by way of one launcher that is made when the first is needed.
pub struct Shims {
    exe: PathBuf,
    copies: PathBuf,
    launcher: Mutex<Option<Arc<Launcher>>>,
}

impl Shims {
    /// Nothing is started yet. `exe` is the program that answers to the shim verb, `copies` keeps the copy that runs.
    pub fn new(exe: &Path, copies: &Path) -> Self {
        Shims { exe: exe.to_path_buf(), copies: copies.to_path_buf(), launcher: Mutex::new(None) }
    }

    /// Starts a shim. Blocks.
    pub fn launch(&self, init: &SandboxInit) -> Result<i32, RuntimeError> {
        let failed = |message: String| RuntimeError::Failed { operation: "start shim", message };
        let mut result = self.attempt(init);
        if result.is_err() {
            // The launcher may have been killed; a new one is as good.
            *self.launcher.lock() = None;
            result = self.attempt(init);
        }
        match result.map_err(|e| failed(e.to_string()))? {
            LaunchReply::Ready { pid } => Ok(pid),
            LaunchReply::Failed(message) => Err(failed(message)),
        }
    }

    fn attempt(&self, init: &SandboxInit) -> io::Result<LaunchReply> {
        let launcher = {
            let mut slot = self.launcher.lock();
            match &*slot {
                Some(launcher) => launcher.clone(),
                None => {
                    let started = Arc::new(Launcher::start(&self.exe, &self.copies)?);
                    *slot = Some(started.clone());
                    started
                }
            }
        };
        launcher.launch(init)
    }
}

/// Runs something that blocks, off the runtime's threads.
pub async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(RuntimeError::Failed { operation, message: e.to_string() }),
    }
}

/// An error of a step, causes included.
pub fn failed<E: std::error::Error + 'static>(operation: &'static str) -> impl Fn(E) -> RuntimeError {
    move |e| RuntimeError::Failed { operation, message: base::chain(&e) }
}
