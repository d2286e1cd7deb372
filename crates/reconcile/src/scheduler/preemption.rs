//! Preemption: a pod that fits nowhere may end pods of lower priority where that makes room (core/v1 PodPriority,
//! KEP-268). As few and as unimportant ones as possible; budgets are kept where there is a choice.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::placed::{Placed, Subject};
use super::{Cluster, Storage, Want};
use crate::labels::Selector;
use crate::plan::name;

/// A disruption budget as far as preemption asks.
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// Its pods.
    pub selector: Selector,
    /// How many of them may go now.
    pub allowed: i32,
}

/// A pod that must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Where room can be made, and at whose cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// The node.
    pub node: String,
    /// The pods that must go, most important first.
    pub victims: Vec<Victim>,
}

/// The priority of a pod; admission has worked it out from its class.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

/// One possible node.
struct Candidate {
    node: String,
    victims: Vec<Arc<Placed>>,
    violations: usize,
}

impl Cluster {
    /// Finds the node where ending pods of lower priority hurts least. `None` if none helps, if the pod must not preempt,
    /// or if what it preempted before is still on its way out.
    pub fn preempt(&self, pod: &Pod, storage: &Storage<'_>, budgets: &[Budget]) -> Option<Preemption> {
        let spec = pod.spec.as_ref()?;
        if spec.preemption_policy.as_deref() == Some("Never") || storage.unusable.is_some() {
            return None;
        }
        let own = priority(pod);
        let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default();
        let waits =
            self.hosts.get(nominated).is_some_and(|h| h.pods.values().any(|p| p.priority < own && p.terminating));
        let any_lower = self.hosts.values().any(|h| h.pods.values().any(|p| p.priority < own));
        if waits || !any_lower {
            return None;
        }
        let want = Want::new(pod);
        let mut trial = self.clone();
        let mut candidates = Vec::new();
        for host in self.hosts.values() {
            let Some(node) = &host.node else { continue };
            candidates.extend(trial.candidate(&want, node, storage, budgets));
        }
        let best = candidates.into_iter().min_by_key(|c| {
            let highest = c.victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
            let sum: i64 = c.victims.iter().map(|v| i64::from(v.priority) + (1 << 31)).sum();
            // Of the most important victims the one that runs longest: the younger, the less is lost.
            let started = c.victims.iter().filter(|v| v.priority == highest).map(|v| v.started).min().unwrap_or(0);
            (c.violations, highest, sum, c.victims.len(), Reverse(started), c.node.clone())
        })?;
        let victim = |p: Arc<Placed>| Victim {
            namespace: p.namespace().to_owned(),
            name: p.name().to_owned(),
            uid: p.uid.as_ref().to_owned(),
        };
        let going = best.victims.into_iter().filter(|p| !p.terminating);
        Some(Preemption { node: best.node, victims: going.map(victim).collect() })
    }

    /// What would have to go from one node. Leaves the cluster as it was.
    fn candidate(
        &mut self,
        want: &Want<'_>,
        node: &Node,
        storage: &Storage<'_>,
        budgets: &[Budget],
    ) -> Option<Candidate> {
        let node_name = name(&node.metadata);
        let own = priority(want.pod);
        let host = self.hosts.get(node_name)?;
        let lower: Vec<Arc<Placed>> = host.pods.values().filter(|p| p.priority < own).cloned().collect();
        if lower.is_empty() {
            return None;
        }
        for placed in &lower {
            self.remove_pod(&placed.uid);
        }
        let mut gone: Vec<Arc<Placed>> = Vec::new();
        let fits = self.fits(want, node, storage);
        let (breaking, free) = split(&lower, budgets);
        let mut violations = 0;
        for (group, breaks) in [(breaking, true), (free, false)] {
            for placed in group {
                self.put(node_name, placed.clone());
                if fits && !self.fits(want, node, storage) {
                    self.remove_pod(&placed.uid);
                    violations += usize::from(breaks);
                    gone.push(placed);
                }
            }
        }
        for placed in &gone {
            self.put(node_name, placed.clone());
        }
        gone.sort_by_key(|p| Reverse(importance(p)));
        (fits && !gone.is_empty()).then(|| Candidate { node: node_name.to_owned(), victims: gone, violations })
    }

    fn fits(&self, want: &Want<'_>, node: &Node, storage: &Storage<'_>) -> bool {
        let host = self.hosts.get(name(&node.metadata));
        host.is_some_and(|h| self.filter(want, h, node, storage).is_ok())
    }
}

/// Higher priority is more important, then having started earlier.
fn importance(p: &Placed) -> (i32, Reverse<i64>, Arc<str>) {
    (p.priority, Reverse(p.started), p.uid.clone())
}

/// Most important first: those whose loss a budget does not allow, and the others.
fn split(lower: &[Arc<Placed>], budgets: &[Budget]) -> (Vec<Arc<Placed>>, Vec<Arc<Placed>>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    let mut order = lower.to_vec();
    order.sort_by_key(|p| Reverse(importance(p)));
    order.into_iter().partition(|p| {
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            let hit = !p.labels.is_empty() && budget.namespace == p.namespace() && p.meets(&budget.selector);
            if hit {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        breaks
    })
}
