//! As many pods as asked for, no more, no fewer: what ReplicaSet and ReplicationController have in common, and which pods
//! belong to a controller at all.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::labels::{self, Selector};
use crate::plan::{
    PODS, Plan, Resource, controlled_by, controller, name, namespace, owner_reference, owners_patch, terminating, uid,
};
use crate::pods;

/// Most pods created or deleted in one pass: a mistake in a manifest must not flood the API at once.
const BURST_MAX: usize = 250;

/// A controller that keeps a number of equal pods.
pub struct Keeper<'a> {
    /// Its resource.
    pub resource: Resource,
    /// Its metadata.
    pub meta: &'a ObjectMeta,
    /// Which pods it counts.
    pub selector: Selector,
    /// How many it wants.
    pub replicas: i32,
    /// How long a pod must be ready to be available, in seconds.
    pub min_ready_seconds: i32,
    /// What it makes pods from.
    pub template: Option<&'a PodTemplateSpec>,
}

/// Why the API server refused the last pod of a controller, for the `ReplicaFailure` condition.
pub type Refusal<'a> = Option<&'a str>;

/// Type and reason of the condition that tells of a refusal.
pub const REPLICA_FAILURE: (&str, &str) = ("ReplicaFailure", "FailedCreate");

/// What there is of the pods wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Neither ended nor ending.
    pub replicas: i32,
    /// Those with every label of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that are ready for long enough.
    pub available: i32,
    /// On their way out.
    pub terminating: i32,
}

/// Decides for one controller, given every pod of its namespace. `None` while ownership is being settled: until then
/// nothing can be counted.
pub fn keep(keeper: &Keeper<'_>, all_pods: &[&Pod], now: Timestamp, plan: &mut Plan) -> Option<Counts> {
    let leaving = terminating(keeper.meta);
    if !leaving && claim(keeper.resource, keeper.meta, &keeper.selector, all_pods, plan) {
        return None;
    }
    let own = uid(keeper.meta);
    let mine = all_pods.iter().copied().filter(|p| controlled_by(&p.metadata, own));
    let matching: Vec<&Pod> = mine.filter(|p| labels::matches(&keeper.selector, &p.metadata)).collect();
    let active: Vec<&Pod> = matching.iter().copied().filter(|p| pods::active(p)).collect();
    if !leaving {
        scale(keeper, &active, plan);
    }
    Some(count(keeper, &matching, &active, now, plan))
}

/// Adds the status patch; after a refusal it comes first, as the next refusal would end the plan before it.
pub fn store<S: serde::Serialize>(
    plan: &mut Plan,
    keeper: &Keeper<'_>,
    refused: Refusal<'_>,
    old: Option<&S>,
    new: &S,
) {
    let before = plan.actions.len();
    plan.set_status(keeper.resource, keeper.meta, old, new);
    if refused.is_some() && plan.actions.len() > before {
        plan.actions.rotate_right(1);
    }
}

/// Adopts pods that match and belong to nobody, releases those that do not match any more. Says whether there were any.
pub fn claim(resource: Resource, meta: &ObjectMeta, selector: &Selector, all_pods: &[&Pod], plan: &mut Plan) -> bool {
    claim_with(resource, meta, selector, None, all_pods, plan)
}

/// [`claim`], for a controller that holds its pods by a finalizer: adopted pods get it, released ones lose it.
pub fn claim_with(
    resource: Resource,
    meta: &ObjectMeta,
    selector: &Selector,
    finalizer: Option<&str>,
    all_pods: &[&Pod],
    plan: &mut Plan,
) -> bool {
    let own = uid(meta);
    let before = plan.actions.len();
    for pod in all_pods {
        let matches = labels::matches(selector, &pod.metadata);
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        let mut held = pod.metadata.finalizers.clone().unwrap_or_default();
        held.retain(|f| Some(f.as_str()) != finalizer);
        match controller(&pod.metadata) {
            None if matches && pods::active(pod) => {
                owners.push(owner_reference(resource, meta));
                held.extend(finalizer.map(str::to_owned));
            }
            Some(o) if o.uid == own && !matches && !terminating(&pod.metadata) => owners.retain(|o| o.uid != own),
            _ => continue,
        }
        let mut patch = owners_patch(&pod.metadata, &owners);
        if finalizer.is_some() {
            patch["metadata"]["finalizers"] = held.into();
        }
        plan.patch(PODS, &pod.metadata, patch);
    }
    plan.actions.len() > before
}

fn scale(keeper: &Keeper<'_>, active: &[&Pod], plan: &mut Plan) {
    let wanted = usize::try_from(keeper.replicas).unwrap_or(0);
    let Some(template) = keeper.template else { return };
    for _ in active.len()..wanted.min(active.len() + BURST_MAX) {
        let owner = owner_reference(keeper.resource, keeper.meta);
        let mut pod = pods::from_template(template, owner, namespace(keeper.meta));
        pod.metadata.generate_name = Some(format!("{}-", name(keeper.meta)));
        plan.create_for(keeper.resource, keeper.meta, PODS, &pod);
    }
    if active.len() > wanted {
        let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
        let mut crowds: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for pod in active {
            *crowds.entry(node(pod)).or_default() += 1;
        }
        let mut order = active.to_vec();
        order.sort_by_cached_key(|p| (pods::deletion_rank(p, crowds[&node(p)]), name(&p.metadata).to_owned()));
        for pod in order.into_iter().take((active.len() - wanted).min(BURST_MAX)) {
            plan.delete_for(keeper.resource, keeper.meta, &pod.metadata);
        }
    }
}

fn count(keeper: &Keeper<'_>, matching: &[&Pod], active: &[&Pod], now: Timestamp, plan: &mut Plan) -> Counts {
    let template_labels: BTreeSet<(&String, &String)> =
        keeper.template.iter().flat_map(|t| t.metadata.iter()).flat_map(|m| m.labels.iter().flatten()).collect();
    let fully = |p: &&&Pod| {
        let own: BTreeSet<(&String, &String)> = p.metadata.labels.iter().flatten().collect();
        template_labels.is_subset(&own)
    };
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    Counts {
        replicas: count(active.len()),
        fully_labeled: count(active.iter().filter(fully).count()),
        ready: count(active.iter().filter(|p| pods::ready(p)).count()),
        available: pods::count_available(active, keeper.min_ready_seconds, now, plan),
        terminating: count(matching.iter().filter(|p| terminating(&p.metadata) && !pods::finished(p)).count()),
    }
}
