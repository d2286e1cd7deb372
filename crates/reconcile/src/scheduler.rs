//! Where a pod goes: filter the nodes that could take it, score what is left, take the best. The [`Cluster`] is kept up to
//! date event by event, so that a decision costs what the number of nodes costs, not the number of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, PersistentVolume, PersistentVolumeClaim, Pod, Toleration};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::node_lifecycle::tolerates;
use crate::plan::{name, namespace, terminating, uid};
use crate::pods;

mod affinity;
mod placed;
mod preemption;
mod resources;
mod spread;
#[cfg(test)]
mod tests;
mod volumes;

pub use affinity::node_fits;
use placed::Placed;
pub use preemption::{Budget, Preemption, Victim, priority};
pub use resources::{Amounts, is_extended};
pub use volumes::{Counted, Limits, Room};

/// The scheduler's name in `spec.schedulerName`.
pub const NAME: &str = "default-scheduler";

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
struct Host {
    node: Option<Node>,
    capacity: Amounts,
    used: Amounts,
    pods: BTreeMap<Arc<str>, Arc<Placed>>,
}

/// Nodes with the pods assigned to them.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    hosts: BTreeMap<Arc<str>, Host>,
    /// Where each pod is, by UID.
    assigned: BTreeMap<Arc<str>, Arc<str>>,
    /// Labels of namespaces, for affinity terms that select them.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods that made room on a node by preemption and wait for it, by UID: the room is theirs.
    nominated: BTreeMap<String, (String, Arc<Placed>)>,
}

/// Claims of a pod with what decides about their place.
#[derive(Debug, Default)]
pub struct Storage<'a> {
    /// Each claim with its class and, once bound, its volume.
    pub claims: Vec<(&'a PersistentVolumeClaim, Option<&'a StorageClass>, Option<&'a PersistentVolume>)>,
    /// Why the pod cannot use one of its claims, wherever it runs: there is none, or it is another's.
    pub unusable: Option<String>,
    /// Nodes where volumes of claims have to be made.
    pub pinned: Vec<String>,
    /// How many volumes nodes can have.
    pub limits: Limits<'a>,
    /// Where drivers have room for new ones.
    pub room: Room<'a>,
}

/// What was decided for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Bind(String),
    /// Its claims must first get volumes on this node.
    SelectNodeForClaims {
        /// The node.
        node: String,
        /// The claims.
        claims: Vec<String>,
    },
    /// No node can take it now; the sentence goes to its `PodScheduled` condition.
    Unschedulable(String),
}

impl Cluster {
    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: &Node) {
        let host = self.hosts.entry(name(&node.metadata).into()).or_default();
        host.capacity = Amounts::allocatable(node);
        host.node = Some(node.clone());
    }

    /// Forgets a node; pods assigned to it stay known until they are gone.
    pub fn remove_node(&mut self, node: &str) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.node = None;
            if host.pods.is_empty() {
                self.hosts.remove(node);
            }
        }
    }

    /// Notes the labels of a namespace.
    pub fn set_namespace(&mut self, meta: &ObjectMeta) {
        self.namespaces.insert(name(meta).to_owned(), meta.labels.clone().unwrap_or_default());
    }

    /// Adds, moves or forgets a pod according to its state now.
    pub fn set_pod(&mut self, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        self.remove_pod(uid(&pod.metadata));
        if !node.is_empty() && !pods::finished(pod) {
            self.assume(pod, node);
        }
    }

    /// Counts a pod as running on a node: at once when it is decided, before the API server has confirmed it.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        self.remove_pod(uid(&pod.metadata));
        self.nominate(pod, None);
        self.put(node, Arc::new(Placed::new(pod)));
    }

    fn put(&mut self, node: &str, placed: Arc<Placed>) {
        let (id, node) = match self.hosts.get_key_value(node) {
            Some((known, _)) => (placed.uid.clone(), known.clone()),
            None => (placed.uid.clone(), Arc::from(node)),
        };
        let host = self.hosts.entry(node.clone()).or_default();
        host.used.add(&placed.amounts);
        host.pods.insert(id.clone(), placed);
        self.assigned.insert(id, node);
    }

    /// Keeps room on a node for a pod that waits for it, or gives it back.
    pub fn nominate(&mut self, pod: &Pod, node: Option<&str>) {
        match node {
            Some(node) => {
                self.nominated.insert(uid(&pod.metadata).to_owned(), (node.to_owned(), Arc::new(Placed::new(pod))));
            }
            None => {
                self.nominated.remove(uid(&pod.metadata));
            }
        }
    }

    /// What is used on a node, with the room that is kept for others that are at least as important.
    fn used(&self, host: &Host, node: &str, want: &Want<'_>) -> Amounts {
        let mut used = host.used.clone();
        let own = uid(&want.pod.metadata);
        for (id, (at, placed)) in &self.nominated {
            if at == node && id != own && placed.priority >= priority(want.pod) {
                used.add(&placed.amounts);
            }
        }
        used
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, id: &str) {
        let Some(node) = self.assigned.remove(id) else { return };
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if let Some(placed) = host.pods.remove(id) {
            host.used.subtract(&placed.amounts);
        }
        if host.node.is_none() && host.pods.is_empty() {
            self.hosts.remove(&node);
        }
    }

    /// Decides for one pod.
    pub fn decide(&self, pod: &Pod, storage: &Storage<'_>) -> Decision {
        if let Some(why) = &storage.unusable {
            return Decision::Unschedulable(why.clone());
        }
        for (claim, class, volume) in &storage.claims {
            if let Some(why) = unready_claim(claim, *class, *volume) {
                return Decision::Unschedulable(why);
            }
        }
        let nodes: Vec<(&Host, &Node)> = self.hosts.values().filter_map(|h| Some((h, h.node.as_ref()?))).collect();
        if nodes.is_empty() {
            return Decision::Unschedulable("no nodes available to schedule pods".into());
        }
        let want = Want::new(pod);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut feasible = Vec::new();
        for (host, node) in &nodes {
            match self.filter(&want, host, node, storage) {
                Ok(()) => feasible.push((*host, *node)),
                Err(whys) => whys.into_iter().for_each(|w| *reasons.entry(w).or_default() += 1),
            }
        }
        let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
        let best = feasible.iter().max_by_key(|(host, node)| {
            let here = name(&node.metadata);
            (nominated == Some(here), self.score(&want, host, node), std::cmp::Reverse(here))
        });
        let Some((_, node)) = best else { return Decision::Unschedulable(explain(nodes.len(), &reasons)) };
        let node = name(&node.metadata).to_owned();
        let waiting: Vec<String> = storage
            .claims
            .iter()
            .filter(|(c, _, v)| v.is_none() && crate::volume::selected_node(c).is_none())
            .map(|(c, _, _)| name(&c.metadata).to_owned())
            .collect();
        let unbound = storage.claims.iter().any(|(_, _, v)| v.is_none());
        if unbound { Decision::SelectNodeForClaims { node, claims: waiting } } else { Decision::Bind(node) }
    }

    fn filter(&self, want: &Want<'_>, host: &Host, node: &Node, storage: &Storage<'_>) -> Result<(), Vec<String>> {
        let spec = node.spec.as_ref();
        let unschedulable = spec.and_then(|s| s.unschedulable) == Some(true);
        if unschedulable && !want.tolerates_unschedulable() {
            return Err(vec!["node(s) were unschedulable".into()]);
        }
        for taint in spec.iter().flat_map(|s| s.taints.iter().flatten()) {
            let hard = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
            if hard && !want.tolerations.iter().any(|t| tolerates(t, taint)) {
                let value = taint.value.as_deref().unwrap_or_default();
                return Err(vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)]);
            }
        }
        if !affinity::node_fits(want.pod, node) {
            return Err(vec!["node(s) didn't match Pod's node affinity/selector".into()]);
        }
        if host.pods.values().any(|p| conflicts(&p.ports, &want.ports)) {
            return Err(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
        }
        let short = want.amounts.short_of(&host.capacity, &self.used(host, name(&node.metadata), want));
        if !short.is_empty() {
            return Err(short);
        }
        if storage.pinned.iter().any(|pinned| pinned != name(&node.metadata)) {
            return Err(vec!["node(s) had volume node affinity conflict".into()]);
        }
        for (claim, _, volume) in &storage.claims {
            let elsewhere = volume.is_some_and(|v| !affinity::volume_fits(v, node));
            let picked = crate::volume::selected_node(claim);
            if elsewhere || (volume.is_none() && picked.is_some_and(|n| n != name(&node.metadata))) {
                return Err(vec!["node(s) had volume node affinity conflict".into()]);
            }
        }
        let others = host.pods.values().map(AsRef::as_ref);
        if let Some(why) = storage.refusal(namespace(&want.pod.metadata), node, others) {
            return Err(vec![why.into()]);
        }
        affinity::pods_fit(self, want.pod, node)?;
        spread::fits(self, want.pod, node)
    }

    /// Larger is better; every part is 0 to 100 times its weight.
    fn score(&self, want: &Want<'_>, host: &Host, node: &Node) -> i64 {
        let balance = want.amounts.free_share_after(&host.capacity, &host.used);
        let soft_taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        let disliked = soft_taints
            .filter(|t| t.effect == "PreferNoSchedule" && !want.tolerations.iter().any(|o| tolerates(o, t)))
            .count();
        let siblings = host.pods.values().filter(|p| want.owner.is_some_and(|o| p.is_controlled_by(o))).count();
        balance + 2 * affinity::node_preference(want.pod, node) + 2 * affinity::pod_preference(self, want.pod, node)
            - 300 * i64::try_from(disliked).unwrap_or(0)
            - 20 * i64::try_from(siblings).unwrap_or(0)
            - spread::penalty(self, want.pod, node)
    }
}

/// What the pod asks for, worked out once.
struct Want<'a> {
    pod: &'a Pod,
    amounts: Amounts,
    ports: BTreeSet<(String, i32)>,
    tolerations: &'a [Toleration],
    owner: Option<&'a str>,
}

impl<'a> Want<'a> {
    fn new(pod: &'a Pod) -> Self {
        Want {
            pod,
            amounts: Amounts::of_pod(pod),
            ports: host_ports(pod),
            tolerations: pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default(),
            owner: crate::plan::controller(&pod.metadata).map(|o| o.uid.as_str()),
        }
    }

    fn tolerates_unschedulable(&self) -> bool {
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        self.tolerations.iter().any(|t| tolerates(t, &taint))
    }
}

/// Protocol and port, with the address left out when it is every address.
fn host_ports(pod: &Pod) -> BTreeSet<(String, i32)> {
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(sidecar);
    let containers = pod.spec.iter().flat_map(|s| &s.containers).chain(sidecars);
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0").unwrap_or("*");
            Some((format!("{}/{ip}", p.protocol.as_deref().unwrap_or("TCP")), port))
        })
        .collect()
}

fn conflicts(a: &BTreeSet<(String, i32)>, b: &BTreeSet<(String, i32)>) -> bool {
    b.iter().any(|(what, port)| {
        a.iter().any(|(other, n)| {
            let (p1, ip1) = what.split_once('/').unwrap_or((what, "*"));
            let (p2, ip2) = other.split_once('/').unwrap_or((other, "*"));
            n == port && p1 == p2 && (ip1 == ip2 || ip1 == "*" || ip2 == "*")
        })
    })
}

/// Whether two pods want the same port of a host.
pub fn ports_collide(a: &Pod, b: &Pod) -> bool {
    conflicts(&host_ports(a), &host_ports(b))
}

/// Why a claim keeps its pod from every node.
fn unready_claim(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: Option<&PersistentVolume>,
) -> Option<String> {
    let claim_name = name(&claim.metadata);
    if terminating(&claim.metadata) {
        return Some(format!("persistentvolumeclaim {claim_name:?} is being deleted"));
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        return Some(format!("persistentvolumeclaim {claim_name:?} bound to non-existent persistentvolume"));
    }
    let delayed = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    (volume.is_none() && !delayed).then(|| "pod has unbound immediate PersistentVolumeClaims".into())
}

fn explain(total: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}

/// Whether this scheduler is asked to place the pod.
pub fn wants_placement(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    spec.node_name.as_deref().is_none_or(str::is_empty)
        && spec.scheduler_name.as_deref().is_none_or(|s| s == NAME)
        && !gated
        && !terminating(&pod.metadata)
        && !pods::finished(pod)
}

/// The namespace and name of a pod, for messages.
pub fn key(pod: &Pod) -> String {
    format!("{}/{}", namespace(&pod.metadata), name(&pod.metadata))
}
