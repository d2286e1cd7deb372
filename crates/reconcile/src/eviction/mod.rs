//! Pressure on a node: which thresholds are met, which conditions the node reports, and which pod it ends to get something
//! back. The rules and words are those of the kubelet (pkg/kubelet/eviction).
//!
//! Times are since the agent's start, from a clock that nobody sets.

mod flags;
mod rank;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Pod, Taint};

pub use flags::{DEFAULT_HARD, Pairs, above, below, thresholds};
pub use rank::{ContainerUsage, PodUsage, Taken, grace, message, order};

use crate::node_lifecycle::tolerates;
use crate::pod::{Failure, QosClass, is_critical, qos_class};

/// Reason of a pod that is ended, or not taken, for pressure.
pub const REASON: &str = "Evicted";

/// Something of the node that may run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory that is not in use, but for files that can be dropped.
    MemoryAvailable,
    /// Room where volumes and logs of pods are.
    NodeFsAvailable,
    /// Inodes there.
    NodeFsInodesFree,
    /// Room where images and what containers write are.
    ImageFsAvailable,
    /// Inodes there.
    ImageFsInodesFree,
    /// Process ids.
    PidAvailable,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 6] = [
        Signal::MemoryAvailable,
        Signal::NodeFsAvailable,
        Signal::NodeFsInodesFree,
        Signal::ImageFsAvailable,
        Signal::ImageFsInodesFree,
        Signal::PidAvailable,
    ];

    /// As flags name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory.available",
            Signal::NodeFsAvailable => "nodefs.available",
            Signal::NodeFsInodesFree => "nodefs.inodesFree",
            Signal::ImageFsAvailable => "imagefs.available",
            Signal::ImageFsInodesFree => "imagefs.inodesFree",
            Signal::PidAvailable => "pid.available",
        }
    }

    /// The condition of a node that has too little of it.
    pub fn condition(self) -> Condition {
        match self {
            Signal::MemoryAvailable => Condition::Memory,
            Signal::PidAvailable => Condition::Pid,
            _ => Condition::Disk,
        }
    }

    /// What a pod takes of it.
    pub fn resource(self) -> Resource {
        match self {
            Signal::MemoryAvailable => Resource::Memory,
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => Resource::EphemeralStorage,
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => Resource::Inodes,
            Signal::PidAvailable => Resource::Pids,
        }
    }

    fn format(self) -> Format {
        match self.resource() {
            Resource::Memory | Resource::EphemeralStorage => Format::BinarySi,
            Resource::Inodes | Resource::Pids => Format::DecimalSi,
        }
    }
}

/// What is taken back from pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes on disk.
    EphemeralStorage,
    /// Files on disk.
    Inodes,
    /// Processes.
    Pids,
}

impl Resource {
    /// As messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }
}

/// A condition of a node under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

impl Condition {
    /// All of them, in the order in which a node lists them.
    pub const ALL: [Condition; 3] = [Condition::Memory, Condition::Disk, Condition::Pid];

    /// Its type.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Pid => "PIDPressure",
        }
    }

    /// Reason and message of the condition of a node.
    pub fn words(self, pressed: bool) -> (&'static str, &'static str) {
        match (self, pressed) {
            (Condition::Memory, true) => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            (Condition::Memory, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Condition::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Condition::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Condition::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Condition::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        }
    }

    /// Reason of the event of its coming and going.
    pub fn event(self, pressed: bool) -> &'static str {
        match (self, pressed) {
            (Condition::Memory, true) => "NodeHasInsufficientMemory",
            (Condition::Memory, false) => "NodeHasSufficientMemory",
            (Condition::Disk, true) => "NodeHasDiskPressure",
            (Condition::Disk, false) => "NodeHasNoDiskPressure",
            (Condition::Pid, true) => "NodeHasInsufficientPID",
            (Condition::Pid, false) => "NodeHasSufficientPID",
        }
    }
}

/// The conditions a node is in.
pub type Pressure = BTreeSet<Condition>;

/// How much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So much.
    Exact(Quantity),
    /// That part of all there is.
    Part(f64),
}

impl Amount {
    /// Of so much.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part")]
    pub fn of(self, capacity: u64) -> Quantity {
        match self {
            Amount::Exact(quantity) => quantity,
            Amount::Part(part) => Quantity::from_value((capacity as f64 * part) as i64, Format::BinarySi),
        }
    }
}

/// When there is too little of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this.
    pub value: Amount,
    /// For how long until pods are ended; zero: a hard threshold.
    pub grace: Duration,
    /// How much more than the threshold there has to be again.
    pub reclaim: Option<Amount>,
}

impl Threshold {
    /// Whether it acts at once.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    fn is_met(&self, seen: &Observations, with_reclaim: bool) -> bool {
        let Some(observed) = seen.get(&self.signal) else { return false };
        let value = self.value.of(observed.capacity);
        let more = self.reclaim.filter(|_| with_reclaim).map_or(Quantity::ZERO, |r| r.of(observed.capacity));
        value.checked_add(more).unwrap_or(value) > observed.quantity(self.signal)
    }

    /// What of so much is kept from pods by it.
    pub fn reserve(&self, capacity: u64) -> u64 {
        u64::try_from(self.value.of(capacity).value()).unwrap_or(0)
    }
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// In all.
    pub capacity: u64,
    /// Not taken.
    pub available: u64,
}

impl Observation {
    fn quantity(&self, signal: Signal) -> Quantity {
        Quantity::from_value(i64::try_from(self.available).unwrap_or(i64::MAX), signal.format())
    }
}

/// Of what could be looked at.
pub type Observations = BTreeMap<Signal, Observation>;

/// What was seen before.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Those that pods were ended for at the last look.
    acting: Vec<Threshold>,
    since: Vec<(Threshold, Duration)>,
    last: BTreeMap<Condition, Duration>,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The conditions of the node.
    pub pressure: Pressure,
    /// Thresholds that were met for as long as they allow, memory first.
    pub starved: Vec<Threshold>,
}

impl State {
    /// Takes in a look. A condition stays for the time of `transition` after it was last seen.
    pub fn look(&mut self, all: &[Threshold], seen: &Observations, transition: Duration, now: Duration) -> Look {
        let mut met: Vec<Threshold> = all.iter().filter(|t| t.is_met(seen, false)).copied().collect();
        // What was acted on is over only when there is as much more as was asked for.
        let again = self.acting.iter().filter(|t| t.is_met(seen, true) && !met.contains(t));
        let again: Vec<Threshold> = again.copied().collect();
        met.extend(again);
        let before = std::mem::take(&mut self.since);
        let since = |t: &Threshold| before.iter().find(|(b, _)| b == t).map_or(now, |(_, at)| *at);
        self.since = met.iter().map(|t| (*t, since(t))).collect();
        self.last.extend(met.iter().map(|t| (t.signal.condition(), now)));
        let lasting = |at: &Duration, seen_now: bool| seen_now || now.saturating_sub(*at) < transition;
        let met_now = |c: Condition| met.iter().any(|t| t.signal.condition() == c);
        let pressure: Pressure =
            self.last.iter().filter(|(c, at)| lasting(at, met_now(**c))).map(|(c, _)| *c).collect();
        self.last.retain(|c, _| pressure.contains(c));
        let mut starved: Vec<Threshold> =
            self.since.iter().filter(|(t, at)| now.saturating_sub(*at) >= t.grace).map(|(t, _)| *t).collect();
        self.acting.clone_from(&starved);
        starved.sort_by_key(|t| t.signal != Signal::MemoryAvailable);
        Look { pressure, starved }
    }
}

/// Whether what is seen now is enough, with what was to be won back.
pub fn is_enough(all: &[Threshold], seen: &Observations) -> bool {
    !all.iter().any(|t| t.is_met(seen, true))
}

/// Why a node under pressure does not take a pod. Critical ones it takes always; short of memory only, it takes all that
/// ask for some, or say that they bear it.
pub fn refusal(pod: &Pod, pressure: &Pressure) -> Option<Failure> {
    if pressure.is_empty() || is_critical(pod) {
        return None;
    }
    let memory_only = pressure.len() == 1 && pressure.contains(&Condition::Memory);
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let bears = || {
        let mut list = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten());
        list.any(|t| tolerates(t, &taint))
    };
    if memory_only && (qos_class(pod) != QosClass::BestEffort || bears()) {
        return None;
    }
    let names: Vec<&str> = pressure.iter().map(|c| c.as_str()).collect();
    Some(Failure::new(REASON, format!("The node had condition: [{}]. ", names.join(" "))))
}
