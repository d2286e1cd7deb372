//! Which pod is ended first, with how much time, and what is said of it.

use std::cmp::Reverse;

use api::quantity::{Format, Quantity};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Observations, Resource, Signal, Threshold};
use crate::pod::is_critical;
use crate::scheduler::Amounts;

/// Of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl Taken {
    fn add(self, other: Taken) -> Taken {
        Taken { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name in the pod.
    pub name: String,
    /// Bytes of memory that are not given back easily.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// What it wrote to its own file system.
    pub root: Taken,
    /// Its logs.
    pub logs: Taken,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
    /// Its volumes on the node's disk, that go with it.
    pub volumes: Taken,
}

impl PodUsage {
    fn sum(&self, of: impl Fn(&ContainerUsage) -> u64) -> u64 {
        self.containers.iter().map(of).fold(0, u64::saturating_add)
    }

    /// On the disk that a signal is about: with images on a disk of their own, what containers write is there.
    fn disk(&self, signal: Signal, own_image_disk: bool) -> Taken {
        let of_images = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
        let (root, rest) = (!own_image_disk || of_images, !own_image_disk || !of_images);
        let none = Taken::default();
        let of = |c: &ContainerUsage| {
            let root = if root { c.root } else { none };
            if rest { root.add(c.logs) } else { root }
        };
        let written = self.containers.iter().map(of).fold(none, Taken::add);
        if rest { written.add(self.volumes) } else { written }
    }
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

/// What a pod uses of what a signal is about, and what it asked for of that.
fn used(signal: Signal, own_image_disk: bool, pod: &Pod, usage: &PodUsage) -> (i128, i128) {
    let asked = |name: &str| i128::from(Amounts::asked_by(pod).get(name));
    match signal.resource() {
        Resource::Memory => (usage.sum(|c| c.memory).into(), asked("memory")),
        Resource::Pids => (usage.sum(|c| c.pids).into(), 0),
        Resource::EphemeralStorage => (usage.disk(signal, own_image_disk).bytes.into(), asked("ephemeral-storage")),
        Resource::Inodes => (usage.disk(signal, own_image_disk).inodes.into(), 0),
    }
}

/// The pods that may be ended for a signal, first those that are: who uses more than it asked for, then who has a lower
/// priority, then who uses more beyond that; for process ids, priority decides first. Critical pods are never ended.
pub fn order<P: AsRef<Pod>>(signal: Signal, own_image_disk: bool, pods: &[(P, PodUsage)]) -> Vec<usize> {
    let candidates = pods.iter().enumerate().filter(|(_, (pod, _))| !is_critical(pod.as_ref()));
    let mut ranked: Vec<_> = candidates
        .map(|(at, (pod, usage))| {
            let (used, asked) = used(signal, own_image_disk, pod.as_ref(), usage);
            let within = signal.resource() != Resource::Pids && used <= asked;
            ((within, priority(pod.as_ref()), Reverse(used - asked)), at)
        })
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, at)| at).collect()
}

/// The time a pod has at most, by the threshold that ends it: one second, or for a soft one the configured most. The kubelet
/// gives a pod never less than a second.
pub fn grace(threshold: &Threshold, most: Option<SignedDuration>) -> Option<SignedDuration> {
    let least = SignedDuration::from_secs(1);
    if threshold.is_hard() { Some(least) } else { most.map(|most| most.max(least)) }
}

fn bytes(n: u64) -> Quantity {
    Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::BinarySi)
}

fn requested(container: &Container, resource: Resource) -> Quantity {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let text = requests.and_then(|r| r.get(resource.as_str()));
    text.and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or(Quantity::ZERO)
}

/// Why a pod is ended: what the node had too little of, and which containers took more of it than they asked for.
pub fn message(first: &Threshold, starved: &[Threshold], seen: &Observations, pod: &Pod, usage: &PodUsage) -> String {
    let resource = first.signal.resource();
    let what = resource.as_str();
    let mut text = format!("The node was low on resource: {what}. ");
    let same = starved.iter().find(|t| t.signal.resource() == resource);
    if let Some((threshold, observed)) = same.and_then(|t| Some((t, seen.get(&t.signal)?))) {
        let quantity = threshold.value.of(observed.capacity);
        let available = observed.quantity(threshold.signal);
        text += &format!("Threshold quantity: {quantity}, available: {available}. ");
    }
    let of = |c: &ContainerUsage| match resource {
        Resource::Memory => Some(bytes(c.memory)),
        Resource::EphemeralStorage => Some(bytes(c.root.add(c.logs).bytes)),
        Resource::Inodes | Resource::Pids => None,
    };
    let Some(spec) = pod.spec.as_ref() else { return text };
    if let Some(asked) =
        spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(what)).filter(|_| resource == Resource::Memory)
    {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let used = bytes(usage.sum(|c| c.memory));
        text += &format!("Pod {name} was using {used}, request is {}, has larger consumption of {what}. ", asked.0);
    }
    let known: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    for c in &usage.containers {
        let Some(container) = known.iter().find(|k| k.name == c.name) else { continue };
        let asked = requested(container, resource);
        if let Some(used) = of(c).filter(|used| *used > asked) {
            let name = &c.name;
            text +=
                &format!("Container {name} was using {used}, request is {asked}, has larger consumption of {what}. ");
        }
    }
    text
}
