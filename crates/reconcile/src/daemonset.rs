//! DaemonSet: one pod on every node that takes it. The pods are bound by the scheduler; a required node affinity on the
//! node's name says where each belongs.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::labels;
use crate::plan::{DAEMON_SETS, Plan, controlled_by, name, terminating, uid};
use crate::pods;
use crate::revisions::{self, HASH_LABEL, Recorded};

mod placement;
mod rolling;
#[cfg(test)]
mod tests;

use placement::Fit;

/// Most pods created in one pass.
const BURST_MAX: usize = 250;
/// A daemon pod that ended is replaced no sooner than this after it was made: a node that refuses it would otherwise be
/// asked without pause.
const REPLACE_AFTER: Duration = Duration::from_secs(10);

/// Decides for one DaemonSet, given every pod and revision of its namespace, and every node.
pub fn plan(
    ds: &DaemonSet,
    all_pods: &[&Pod],
    all_nodes: &[&Node],
    all_revisions: &[&ControllerRevision],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &ds.spec else { return plan };
    if terminating(&ds.metadata) {
        return plan;
    }
    let everything = spec.selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && spec.selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if everything {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.event(DAEMON_SETS, &ds.metadata, "Warning", "SelectingAll", message);
        return plan;
    }
    let selector = labels::selector(&spec.selector);
    if crate::replicas::claim(DAEMON_SETS, &ds.metadata, &selector, all_pods, &mut plan) {
        return plan; // counting waits until ownership is settled
    }
    let collisions = ds.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let current =
        match revisions::record(DAEMON_SETS, &ds.metadata, &spec.template, collisions, all_revisions, &mut plan) {
            Recorded::Yes(revision) => revision,
            Recorded::Making => return plan,
            Recorded::Collision => {
                let mut status = ds.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions + 1);
                plan.set_status(DAEMON_SETS, &ds.metadata, ds.status.as_ref(), &status);
                return plan;
            }
        };
    let own = uid(&ds.metadata);
    let mine: Vec<&Pod> = all_pods
        .iter()
        .copied()
        .filter(|p| controlled_by(&p.metadata, own) && labels::matches(&selector, &p.metadata))
        .collect();
    let state = State::new(ds, spec, revisions::hash_of(current), &mine, all_nodes, now);
    state.act(&mut plan);
    let status = state.status(&mut plan);
    plan.set_status(DAEMON_SETS, &ds.metadata, ds.status.as_ref(), &status);
    let live = |r: &ControllerRevision| {
        let hash = revisions::hash_of(r);
        hash == state.hash || mine.iter().any(|p| hash_of(p) == Some(hash))
    };
    revisions::trim(&ds.metadata, spec.revision_history_limit, all_revisions, live, &mut plan);
    plan
}

/// A node, whether it takes the pod, and the pods of the set that are there or on their way.
struct Place<'a> {
    node: &'a str,
    fit: Fit,
    /// Oldest first.
    pods: Vec<&'a Pod>,
}

impl<'a> Place<'a> {
    fn active(&self) -> impl Iterator<Item = &'a Pod> + '_ {
        self.pods.iter().copied().filter(|p| pods::active(p))
    }
}

struct State<'a> {
    ds: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    /// Of the template now.
    hash: &'a str,
    places: Vec<Place<'a>>,
    /// Pods for nodes that do not exist, not yet bound.
    lost: Vec<&'a Pod>,
    now: Timestamp,
}

impl<'a> State<'a> {
    fn new(
        ds: &'a DaemonSet,
        spec: &'a DaemonSetSpec,
        hash: &'a str,
        mine: &[&'a Pod],
        nodes: &[&'a Node],
        now: Timestamp,
    ) -> Self {
        let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in mine {
            by_node.entry(placement::node_of(pod)).or_default().push(pod);
        }
        let sample = placement::sample(ds, spec);
        let mut places = Vec::new();
        for node in nodes {
            let node_name = name(&node.metadata);
            let mut there = by_node.remove(node_name).unwrap_or_default();
            there.sort_by_key(|p| (!placed(p), pods::created_ms(&p.metadata), name(&p.metadata).to_owned()));
            places.push(Place { node: node_name, fit: placement::fit(&sample, node), pods: there });
        }
        let lost = by_node.into_values().flatten().filter(|p| !placed(p) && !terminating(&p.metadata)).collect();
        State { ds, spec, hash, places, lost, now }
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn available(&self, pod: &Pod) -> bool {
        pods::available(pod, self.min_ready(), self.now) == Ok(true)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        hash_of(pod) == Some(self.hash)
    }

    fn desired(&self) -> i32 {
        count(self.places.iter().filter(|p| p.fit.run).count())
    }

    /// Most pods above one per node, and most nodes without an available pod, while a rollout is under way; never both 0.
    fn bounds(&self) -> (i32, i32) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let of = |v: Option<&_>, none| v.map_or(none, |v| pods::resolve(v, self.desired(), true));
        let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let missing = of(rolling.and_then(|r| r.max_unavailable.as_ref()), if surge > 0 { 0 } else { 1 });
        if surge == 0 && missing == 0 { (0, 1) } else { (surge, missing) }
    }

    fn on_delete(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    fn act(&self, plan: &mut Plan) {
        let before = plan.actions.len();
        let mut missing = Vec::new();
        for place in &self.places {
            self.tend(place, &mut missing, plan);
        }
        for pod in &self.lost {
            plan.delete_for(DAEMON_SETS, &self.ds.metadata, &pod.metadata);
        }
        // Updates count what is there: they wait for a pass that finds one pod where one belongs.
        if plan.actions.len() == before && missing.is_empty() && !self.on_delete() {
            rolling::roll(self, &mut missing, plan);
        }
        for node in missing.into_iter().take(BURST_MAX) {
            placement::create(self.ds, self.spec, self.hash, node, plan);
        }
    }

    /// One node: no pod where none belongs, one where one does, and none that has ended.
    fn tend(&self, place: &Place<'a>, missing: &mut Vec<&'a str>, plan: &mut Plan) {
        let meta = &self.ds.metadata;
        if !place.fit.stay {
            for pod in place.pods.iter().filter(|p| !terminating(&p.metadata)) {
                plan.delete_for(DAEMON_SETS, meta, &pod.metadata);
            }
            return;
        }
        for pod in place.pods.iter().filter(|p| pods::finished(p) && !terminating(&p.metadata)) {
            let age = self.now.as_millisecond() - pods::created_ms(&pod.metadata);
            let left = REPLACE_AFTER.saturating_sub(Duration::from_millis(u64::try_from(age).unwrap_or(0)));
            if !left.is_zero() {
                plan.requeue(left);
                continue;
            }
            let (type_, reason, word) = match pods::phase(pod) {
                "Failed" => ("Warning", "FailedDaemonPod", "failed"),
                _ => ("Normal", "SucceededDaemonPod", "succeeded"),
            };
            let pod_name = crate::scheduler::key(pod);
            let message = format!("Found {word} daemon pod {pod_name} on node {}, will try to kill it", place.node);
            plan.event(DAEMON_SETS, meta, type_, reason, message);
            plan.delete_for(DAEMON_SETS, meta, &pod.metadata);
        }
        if place.pods.is_empty() {
            if place.fit.run {
                missing.push(place.node);
            }
            return;
        }
        // One pod; while a surge is under way, one of each revision.
        let surging = self.bounds().0 > 0 && !self.on_delete();
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = place.active().partition(|p| surging && self.is_current(p));
        for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
            plan.delete_for(DAEMON_SETS, meta, &pod.metadata);
        }
    }

    fn status(&self, plan: &mut Plan) -> DaemonSetStatus {
        let mut s = DaemonSetStatus {
            observed_generation: self.ds.metadata.generation,
            collision_count: self.ds.status.as_ref().and_then(|s| s.collision_count),
            conditions: self.ds.status.as_ref().and_then(|s| s.conditions.clone()),
            desired_number_scheduled: self.desired(),
            ..Default::default()
        };
        let (mut updated, mut available) = (0, 0);
        for place in &self.places {
            let mut there = place.pods.iter().copied().filter(|p| !pods::finished(p));
            // The oldest stands for the node: a surge counts once the pod before it is gone.
            let Some(pod) = there.next() else { continue };
            if !place.fit.run {
                s.number_misscheduled += 1;
                continue;
            }
            s.current_number_scheduled += 1;
            s.number_ready += i32::from(pods::ready(pod));
            updated += i32::from(self.is_current(pod));
            available += pods::count_available(&[pod], self.min_ready(), self.now, plan);
        }
        s.updated_number_scheduled = (updated > 0).then_some(updated);
        s.number_available = (available > 0).then_some(available);
        let unavailable = s.desired_number_scheduled - available;
        s.number_unavailable = (unavailable > 0).then_some(unavailable);
        s
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

fn hash_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(HASH_LABEL).map(String::as_str)
}
