//! The CPU manager: which CPUs containers run on. Decisions are [`reconcile::cpus`]'; here they are remembered in a file, so
//! that the next agent goes on with them, and those who share are moved when what they share changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use engine::runtime::{ContainerState, Resources};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use reconcile::cpus::{CpuSet, Given, Topology, give};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::context::Context;

/// Where the kernel tells of its CPUs.
const KERNEL: &str = "/sys/devices/system/cpu";
const FILE: &str = "cpu_manager_state";
/// A container that could not be moved is tried again after this long (the kubelet's period).
const AGAIN: Duration = Duration::from_secs(10);

/// How CPUs are given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CpuPolicy {
    /// Every container runs on all of them.
    #[default]
    None,
    /// Some have CPUs for themselves. Those that are kept for the system are never given.
    Static {
        /// They are shared by all others.
        reserved: CpuSet,
    },
}

/// What is in the file; named as in the kubelet's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    entries: Given,
}

/// Why the manager cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// CPUs are to be kept that the machine does not have, or none, or all.
    #[error("reserved CPUs {reserved} are not a part of the CPUs {all} of this machine")]
    Reserved {
        /// Those to be kept.
        reserved: CpuSet,
        /// Those there are.
        all: CpuSet,
    },
    /// The file of what was given cannot be read or written.
    #[error("keep CPU assignments in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Gives and takes back. Without a policy it does neither.
pub(crate) struct Cpus {
    policy: CpuPolicy,
    topology: Topology,
    path: PathBuf,
    given: Mutex<Given>,
    /// What is shared; it changes with what is given.
    shared: watch::Sender<CpuSet>,
}

fn list(path: &Path) -> Option<CpuSet> {
    std::fs::read_to_string(path).ok()?.parse().ok()
}

/// On which CPUs this process may run.
fn allowed() -> Option<CpuSet> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?.parse().ok()
}

/// The CPUs of this machine.
fn topology(kernel: &Path) -> Topology {
    let all = list(&kernel.join("online")).unwrap_or_else(|| {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (0..u32::try_from(count).unwrap_or(1)).collect()
    });
    let mut seen = BTreeSet::new();
    let threads = |cpu: u32| {
        let told = list(&kernel.join(format!("cpu{cpu}/topology/thread_siblings_list")));
        told.map(|core| core.shared_with(&all))
            .filter(|core| !core.is_empty())
            .unwrap_or_else(|| [cpu].into_iter().collect())
    };
    let cores = all.iter().map(threads).filter(|core| seen.insert(core.to_string())).collect();
    Topology { all, cores }
}

impl Cpus {
    /// Goes on with what the agent before this one gave.
    ///
    /// # Errors
    /// The settings do not fit the machine, or the file cannot be read.
    pub(crate) fn open(policy: CpuPolicy, data: &Path) -> Result<Self, CpuError> {
        let mut machine = topology(Path::new(KERNEL));
        // Where this agent may not run, its containers may not either: it may be in a container itself.
        if let Some(own) = allowed() {
            machine.all = machine.all.shared_with(&own);
            machine.cores = machine.cores.iter().map(|core| core.shared_with(&own)).collect();
            machine.cores.retain(|core| !core.is_empty());
        }
        Cpus::with(policy, data, machine)
    }

    fn with(policy: CpuPolicy, data: &Path, topology: Topology) -> Result<Self, CpuError> {
        let path = data.join(FILE);
        if let CpuPolicy::Static { reserved } = &policy
            && (reserved.is_empty() || !reserved.is_part_of(&topology.all))
        {
            return Err(CpuError::Reserved { reserved: reserved.clone(), all: topology.all });
        }
        let state: State = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| CpuError::File { path: path.clone(), source: e.into() })?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(CpuError::File { path, source }),
        };
        // What was given under another policy, or of CPUs that are gone or kept now, is not kept: its containers share.
        let mut given = state.entries;
        match &policy {
            CpuPolicy::None => given = Given::default(),
            CpuPolicy::Static { reserved } => {
                let free = topology.all.without(reserved);
                given.0.retain(|_, own| own.values().all(|s| s.parse::<CpuSet>().is_ok_and(|s| s.is_part_of(&free))));
            }
        }
        let shared = watch::Sender::new(topology.all.without(&given.taken()));
        Ok(Cpus { policy, topology, path, given: Mutex::new(given), shared })
    }

    fn reserved(&self) -> Option<&CpuSet> {
        match &self.policy {
            CpuPolicy::None => None,
            CpuPolicy::Static { reserved } => Some(reserved),
        }
    }

    /// How many CPUs are kept from pods.
    pub(crate) fn kept(&self) -> u64 {
        self.reserved().map_or(0, |set| set.len() as u64)
    }

    /// Gives a pod that was not there before what its containers are to have for themselves.
    ///
    /// # Errors
    /// There is not enough, or it cannot be remembered.
    pub(crate) fn give(&self, pod: &Pod) -> Result<(), String> {
        let Some(reserved) = self.reserved() else { return Ok(()) };
        let mut given = self.given.lock();
        let before = given.clone();
        if give(&self.topology, reserved, &mut given, pod)? {
            if let Err(error) = self.write(&given) {
                *given = before;
                return Err(base::chain(&error));
            }
            self.spread(&given);
        }
        Ok(())
    }

    /// Takes back what a pod had that has ended.
    pub(crate) fn release(&self, uid: &str) {
        self.retain(|pod| pod != uid);
    }

    /// Takes back what pods had that are not there any more.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        let gone: Vec<String> = given.0.keys().filter(|uid| !is_there(uid)).cloned().collect();
        if gone.is_empty() {
            return;
        }
        for uid in &gone {
            given.release(uid);
        }
        if let Err(error) = self.write(&given) {
            // The next agent takes them back again.
            tracing::warn!(error = %base::chain(&error), "CPU assignments not written");
        }
        self.spread(&given);
    }

    fn spread(&self, given: &Given) {
        let now = self.topology.all.without(&given.taken());
        self.shared.send_if_modified(|shared| std::mem::replace(shared, now.clone()) != now);
    }

    /// Whether a container has CPUs for itself.
    pub(crate) fn has_own(&self, uid: &str, container: &str) -> bool {
        self.given.lock().of(uid, container).is_some()
    }

    /// Where a container is to run; `None`: anywhere.
    pub(crate) fn of(&self, uid: &str, container: &str) -> Option<CpuSet> {
        self.reserved()?;
        let own = self.given.lock().of(uid, container);
        Some(own.unwrap_or_else(|| self.shared.borrow().clone()))
    }

    /// The settings of a container with its CPUs. One that has them for itself is not held back by a quota on top.
    pub(crate) fn settle(&self, uid: &str, container: &str, resources: Resources) -> Resources {
        let cpus = self.of(uid, container).map(|set| set.to_string());
        match self.has_own(uid, container) {
            true => Resources { cpus, cpu_quota_us: None, cpu_period_us: None, ..resources },
            false => Resources { cpus, ..resources },
        }
    }

    /// The settings of a pod as a whole: its quota would hold back those that have CPUs for themselves.
    pub(crate) fn settle_pod(&self, uid: &str, resources: Resources) -> Resources {
        match self.given.lock().0.contains_key(uid) {
            true => Resources { cpu_quota_us: None, cpu_period_us: None, ..resources },
            false => resources,
        }
    }

    fn write(&self, given: &Given) -> Result<(), CpuError> {
        let failed = |source: std::io::Error| CpuError::File { path: self.path.clone(), source };
        let state = State { policy_name: "static".to_owned(), entries: given.clone() };
        let bytes = serde_json::to_vec(&state).map_err(|e| failed(e.into()))?;
        let new = self.path.with_extension("new");
        std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &self.path)).map_err(failed)
    }
}

/// Moves those who share whenever what they share has changed; at the start all, as it may have changed since.
pub(crate) async fn run(ctx: Arc<Context>, drain: Drain) {
    let cpus = &ctx.cpus;
    let mut shared = cpus.shared.subscribe();
    if cpus.reserved().is_none() && !cpus.path.exists() {
        return;
    }
    let mut events = ctx.runtime.events();
    loop {
        shared.mark_unchanged();
        let moved = place(&ctx).await;
        if moved && cpus.reserved().is_none() {
            // A policy of before is forgotten.
            let _gone = std::fs::remove_file(&cpus.path);
            return;
        }
        tokio::select! {
            Ok(()) = shared.changed() => {}
            // One that was made before the last change may have started after it.
            event = events.recv() => if matches!(event, Err(RecvError::Closed)) { return },
            () = tokio::time::sleep(AGAIN), if !moved => {}
            () = drain.cancelled() => return,
        }
    }
}

/// Moves every running container to where it is to run. False: not all could be moved.
async fn place(ctx: &Context) -> bool {
    let mut all_moved = true;
    for c in ctx.runtime.containers(None).await {
        if !matches!(c.state, ContainerState::Running { .. }) {
            continue;
        }
        let anywhere = || ctx.cpus.topology.all.to_string();
        let wanted = ctx.cpus.of(&c.spec.sandbox_id, &c.spec.name).map_or_else(anywhere, |set| set.to_string());
        if c.spec.resources.cpus.as_ref() == Some(&wanted) {
            continue;
        }
        let resources = Resources { cpus: Some(wanted.clone()), ..c.spec.resources };
        if let Err(error) = ctx.runtime.update_resources(&c.spec.id, resources).await {
            tracing::debug!(container = c.spec.id, cpus = wanted, error = %base::chain(&error), "not moved");
            all_moved = false;
        }
    }
    all_moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list")
    }

    fn two() -> Topology {
        Topology { all: set("0-1"), cores: vec![set("0"), set("1")] }
    }

    fn fixed() -> CpuPolicy {
        CpuPolicy::Static { reserved: set("0") }
    }

    fn pod(uid: &str) -> Pod {
        let c = json!({"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Mi"}}});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"containers": [c]}})).expect("a pod")
    }

    #[test]
    fn what_was_given_is_known_to_the_next_agent() {
        let dir = tempfile::tempdir().expect("a folder");
        let cpus = Cpus::with(fixed(), dir.path(), two()).expect("a manager");
        assert_eq!(cpus.of("a", "c"), Some(set("0-1")));
        cpus.give(&pod("a")).expect("given");
        assert_eq!((cpus.of("a", "c"), cpus.of("b", "c")), (Some(set("1")), Some(set("0"))));
        assert!(cpus.give(&pod("b")).is_err_and(|e| e.contains("requested=1, available=0")));
        let quota = Resources { cpu_quota_us: Some(7), cpu_period_us: Some(9), ..Resources::default() };
        let own = cpus.settle("a", "c", quota.clone());
        assert_eq!((own.cpus.as_deref(), own.cpu_quota_us), (Some("1"), None));
        let other = cpus.settle("b", "c", quota.clone());
        assert_eq!((other.cpus.as_deref(), other.cpu_quota_us), (Some("0"), Some(7)));
        assert_eq!(cpus.settle_pod("a", quota).cpu_quota_us, None);
        let next = Cpus::with(fixed(), dir.path(), two()).expect("a manager");
        assert_eq!(next.of("a", "c"), Some(set("1")));
        next.retain(|_| true);
        assert_eq!(next.of("a", "c"), Some(set("1")));
        next.release("a");
        assert_eq!(next.of("a", "c"), Some(set("0-1")));
        assert_eq!(Cpus::with(fixed(), dir.path(), two()).expect("a manager").of("b", "c"), Some(set("0-1")));
    }

    #[test]
    fn settings_that_do_not_fit_the_machine_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for reserved in ["", "2", "0-2"] {
            let policy = CpuPolicy::Static { reserved: set(reserved) };
            assert!(matches!(Cpus::with(policy, dir.path(), two()), Err(CpuError::Reserved { .. })), "{reserved}");
        }
    }

    #[test]
    fn another_policy_gives_nobody_anything() {
        let dir = tempfile::tempdir().expect("a folder");
        Cpus::with(fixed(), dir.path(), two()).expect("a manager").give(&pod("a")).expect("given");
        let none = Cpus::with(CpuPolicy::None, dir.path(), two()).expect("a manager");
        assert_eq!((none.of("a", "c"), none.kept()), (None, 0));
        none.give(&pod("b")).expect("nothing to give");
        let kept = CpuPolicy::Static { reserved: set("1") };
        let other = Cpus::with(kept, dir.path(), two()).expect("a manager");
        assert_eq!(other.of("a", "c"), Some(set("0-1")), "its CPU is kept for the system now");
    }

    #[test]
    fn the_machine_is_read_from_the_kernels_files() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("online"), "0-3\n").expect("written");
        for (cpu, threads) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            let at = dir.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&at).expect("made");
            std::fs::write(at.join("thread_siblings_list"), threads).expect("written");
        }
        let read = topology(dir.path());
        assert_eq!(read, Topology { all: set("0-3"), cores: vec![set("0,2"), set("1,3")] });
    }
}
