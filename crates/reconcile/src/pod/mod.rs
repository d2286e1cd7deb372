//! What a node does next for one pod, and what it reports: from the pod's spec, what the runtime says is there, what the
//! agent did before ([`Memory`]) and the time, to actions and a status. The rules are those of the kubelet.
//!
//! The agent calls [`plan`] whenever anything changed, hands the plan to [`Memory::accept`], runs the actions as tasks, and
//! records each outcome in [`Memory`]; an action is not planned again while it is in flight.

mod admission;
mod conditions;
mod containers;
mod critical;
mod garbage;
mod memory;
mod phase;
mod qos;
mod reset;
mod resize;
mod start;
mod status;
mod stop;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, LinuxContainerUser, Pod, PodStatus};

pub use admission::{Shortage, admission_refusal, is_placement, is_shortage, shortages};
pub use containers::{Policy, Role, each, ephemeral, find, find_any, grace_seconds, init_role, restarts};
pub use critical::{SYSTEM_CRITICAL, is_critical, victims};
pub use memory::{ContainerMemory, Memory};
pub use qos::{QosClass, oom_score_adj, qos_class};
pub use resize::{Allocation, Room, allocated_pod, is_wanted};
use start::doom_grace;
pub use stop::{Eviction, Stop, StopCause};

use crate::probe::Kind;

/// The scheme of container ids in a status.
pub const CONTAINER_ID_SCHEME: &str = "windlass://";

/// Why something did not work, in the words of a status: a CamelCase reason and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// CamelCase, e.g. `ErrImagePull`.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure with that reason and message.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { reason: reason.into(), message: message.into() }
    }
}

/// What the runtime says of the pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    /// There is none.
    Absent,
    /// It is up, with that address (`None` on the host's network).
    Ready {
        /// The pod's address.
        ip: Option<IpAddr>,
    },
    /// There is one, but its shim is gone: nothing runs in it.
    Lost,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Its process was reaped.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit status; 128 + signal when killed by one.
    pub code: i32,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// When it started; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it was reaped.
    pub finished_at: Timestamp,
    /// Why it could not be started, if so.
    pub start_error: Option<String>,
    /// The termination message.
    pub message: Option<String>,
}

/// One container the runtime has.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerView {
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// 0 for the first of that name, then 1, 2, …
    pub attempt: u32,
    /// The image as the pod asked for it when it was made.
    pub image: String,
    /// Digest reference of what it runs.
    pub image_id: String,
    /// Who its first process runs as, once that is known.
    pub user: Option<LinuxContainerUser>,
    /// The signal that asks it to end, `SIGTERM` and such.
    pub stop_signal: Option<String>,
    /// Where it is in its life.
    pub run: Run,
}

impl ContainerView {
    /// Whether its process runs.
    pub fn running(&self) -> bool {
        matches!(self.run, Run::Running { .. })
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(e) => Some(e),
            _ => None,
        }
    }
}

/// Everything a decision is made from.
#[derive(Debug, Clone)]
pub struct Snapshot<'a> {
    /// The pod as the API server has it.
    pub pod: &'a Pod,
    /// The status last reported (or the API server's when nothing was reported yet).
    pub previous: &'a PodStatus,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its containers, in any order.
    pub containers: &'a [ContainerView],
    /// What the agent did and saw.
    pub memory: &'a Memory,
    /// The pod's ephemeral containers, from [`ephemeral`].
    pub added: &'a [Container],
    /// What the node has for a pod that asks for other amounts than it has; `None` when there is as much as one likes.
    pub room: Option<&'a Room>,
    /// The node's addresses, first the primary one.
    pub host_ips: &'a [IpAddr],
    /// Now.
    pub now: Timestamp,
}

impl<'a> Snapshot<'a> {
    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&'a ContainerView> {
        self.containers.iter().filter(|v| v.name == name).max_by_key(|v| v.attempt)
    }

    /// The newest ended container of that name before attempt `before`.
    pub fn earlier(&self, name: &str, before: u32) -> Option<&'a ContainerView> {
        self.containers
            .iter()
            .filter(|v| v.name == name && v.attempt < before && v.exit().is_some())
            .max_by_key(|v| v.attempt)
    }

    fn deleting(&self) -> bool {
        self.memory.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn containers_of_spec(&self) -> impl Iterator<Item = (Role, &'a Container)> {
        let added = self.added.iter().map(|c| (Role::Ephemeral, c));
        self.pod.spec.iter().flat_map(each).chain(added)
    }
}

/// What an action is about; at most one of each is in flight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Mounting or unmounting the volumes.
    Volumes,
    /// Making, stopping or removing the sandbox.
    Sandbox,
    /// Pulling the image of a container.
    Pull(String),
    /// Creating or starting a container.
    Container(String),
    /// A container's postStart hook.
    PostStart(String),
    /// Stopping a container.
    Kill(String),
    /// Probing a container.
    Probe(String, Kind),
    /// Giving containers other amounts of resources.
    Resize,
    /// Removing a container, by id.
    Remove(String),
    /// Removing the pod's last traces and its object.
    Finish,
}

/// Something for the agent to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Set up all volumes.
    MountVolumes,
    /// Make the sandbox.
    RunSandbox,
    /// Remove a sandbox that lost its shim, so that it can be made anew.
    RemoveSandbox,
    /// Make the image present, as the pull policy says.
    Pull {
        /// The container.
        name: String,
        /// The attempt the image is for.
        attempt: u32,
    },
    /// Make a container.
    Create {
        /// The container.
        name: String,
        /// Which attempt.
        attempt: u32,
        /// When the attempt before ended, if there was one.
        after: Option<Timestamp>,
    },
    /// Start a container that was made.
    Start {
        /// The container.
        name: String,
        /// Its id.
        id: String,
    },
    /// Run the postStart hook.
    PostStart {
        /// The container.
        name: String,
        /// Its id.
        id: String,
    },
    /// Probe once.
    Probe {
        /// The container.
        name: String,
        /// Its id.
        id: String,
        /// Which probe.
        kind: Kind,
    },
    /// Run the preStop hook, send the stop signal, and kill at the end of the grace.
    Kill {
        /// The container.
        name: String,
        /// Its id.
        id: String,
        /// From now to the kill, hook included.
        grace: SignedDuration,
        /// For the `Killing` event.
        message: String,
    },
    /// Give the pod as a whole, and these of its running containers, what is allocated to them.
    Resize {
        /// Names and ids.
        containers: Vec<(String, String)>,
    },
    /// Remove an ended container and its log.
    Remove {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// Which attempt.
        attempt: u32,
    },
    /// Stop waiting for something in flight.
    Abort(Op),
    /// Take the sandbox down; its ended containers stay readable.
    StopSandbox,
    /// Unmount all volumes.
    TearDownVolumes,
    /// Remove the sandbox, the pod's folder and logs, then the pod's object.
    Finish,
}

impl Action {
    /// What it is about.
    pub fn op(&self) -> Op {
        match self {
            Action::MountVolumes | Action::TearDownVolumes => Op::Volumes,
            Action::RunSandbox | Action::RemoveSandbox | Action::StopSandbox => Op::Sandbox,
            Action::Pull { name, .. } => Op::Pull(name.clone()),
            Action::Create { name, .. } | Action::Start { name, .. } => Op::Container(name.clone()),
            Action::PostStart { name, .. } => Op::PostStart(name.clone()),
            Action::Probe { name, kind, .. } => Op::Probe(name.clone(), *kind),
            Action::Kill { name, .. } => Op::Kill(name.clone()),
            Action::Resize { .. } => Op::Resize,
            Action::Remove { id, .. } => Op::Remove(id.clone()),
            Action::Abort(op) => op.clone(),
            Action::Finish => Op::Finish,
        }
    }
}

/// What to do now, what to report, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In order; each may run at the same time as the others.
    pub actions: Vec<Action>,
    /// The status to report.
    pub status: PodStatus,
    /// Look again then.
    pub wake_at: Option<Timestamp>,
    /// The pod is being stopped.
    pub stop: Option<Stop>,
    /// Containers held back by a crash back-off, with the event's message.
    pub held_back: Vec<(String, String)>,
    /// What is allocated to the pod from now on.
    pub allocated: Allocation,
    /// Why the node does not allocate what the pod asks for.
    pub resize_pending: Option<Failure>,
    /// Containers killed to be made anew with other amounts: names and ids.
    pub resizing: Vec<(String, String)>,
    /// All containers are being taken away, to begin the pod anew in its sandbox (KEP-5532).
    pub resetting: bool,
    /// The status need not be reported before: it says that something is away which is about to be back.
    pub report_at: Option<Timestamp>,
    /// Runs that are removed: names, attempts and how they are said to have ended.
    pub removed: Vec<(String, u32, ContainerStateTerminated)>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Decides.
pub fn plan(s: &Snapshot<'_>) -> Plan {
    let mut out = Plan::default();
    resize::allocate(s, &mut out);
    let stop = stop::decide(s);
    match &stop {
        Some(stop) => stop::plan(s, stop, &mut out),
        None => {
            start::plan(s, &mut out);
            if !out.resetting {
                resize::plan(s, &mut out);
            }
        }
    }
    if !out.resetting {
        garbage::collect(s, &mut out);
    }
    out.status = status::of(s, stop.as_ref(), &out);
    if stop.is_none() {
        start::replacing(s, &mut out);
    }
    out.stop = stop;
    out
}
