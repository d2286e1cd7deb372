//! In-place resize (KEP-1287): amounts of processor time and memory that change while a container runs. What a pod asks
//! for is first allocated, if the node has room, and then given to its containers; what is asked for, allocated and given
//! may differ for a while, and the pod's status says so.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{Action, ContainerView, Failure, Op, Plan, Role, Snapshot, doom_grace, each};
use crate::scheduler::Amounts;

/// Resources that may change.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What a node has for its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// What it can give to all of them.
    pub allocatable: Amounts,
    /// What its other pods have.
    pub used: Amounts,
}

/// What was allocated to a pod: to its containers by name, and to itself under the empty name.
pub type Allocation = BTreeMap<String, ResourceRequirements>;

fn amount(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Option<i64> {
    Quantity::parse(&list?.get(resource)?.0).ok().map(Quantity::milli_value)
}

fn differs_in(a: &ResourceRequirements, b: &ResourceRequirements, resource: &str) -> bool {
    let of = |r: &ResourceRequirements| (amount(r.requests.as_ref(), resource), amount(r.limits.as_ref(), resource));
    of(a) != of(b)
}

/// Whether two sets of amounts differ in what may be resized.
fn differ(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.iter().any(|resource| differs_in(a, b, resource))
}

fn of_container(c: &Container) -> ResourceRequirements {
    c.resources.clone().unwrap_or_default()
}

/// What a pod asks for.
fn asked(pod: &Pod) -> Allocation {
    let Some(spec) = &pod.spec else { return Allocation::new() };
    let own = spec.resources.clone().map(|r| (String::new(), r));
    each(spec).map(|(_, c)| (c.name.clone(), of_container(c))).chain(own).collect()
}

/// What an agent before this one had allocated and reported.
pub(super) fn adopted(status: &PodStatus) -> Allocation {
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let containers = all.filter_map(|c| {
        let given = c.resources.clone()?;
        let requests = c.allocated_resources.clone().or_else(|| given.requests.clone());
        Some((c.name.clone(), ResourceRequirements { requests, ..given }))
    });
    let whole = status.resources.clone().map(|given| {
        let requests = status.allocated_resources.clone().or_else(|| given.requests.clone());
        (String::new(), ResourceRequirements { requests, ..given })
    });
    containers.chain(whole).collect()
}

/// Whether a pod asks for something else than was allocated to it.
pub fn is_wanted(pod: &Pod, allocated: &Allocation) -> bool {
    let none = ResourceRequirements::default();
    asked(pod).iter().any(|(name, r)| match allocated.get(name) {
        Some(held) => differ(held, r),
        // A pod that had no amounts of its own until now; a container that is new to us has what it asks for.
        None => name.is_empty() && !allocated.is_empty() && differ(&none, r),
    })
}

/// The pod with what was allocated in the place of what it asks for; `None` when that is the same.
pub fn allocated_pod(pod: &Pod, allocated: &Allocation) -> Option<Pod> {
    if !is_wanted(pod, allocated) {
        return None;
    }
    let mut pod = pod.clone();
    let spec = pod.spec.as_mut()?;
    for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(held) = allocated.get(&c.name) {
            c.resources = Some(held.clone());
        }
    }
    spec.resources = allocated.get("").cloned();
    Some(pod)
}

/// Why the node does not allocate what the pod asks for.
fn refusal(pod: &Pod, room: &Room) -> Option<Failure> {
    let wanted = Amounts::asked_by(pod);
    for resource in RESIZABLE {
        let (asked, all, used) = (wanted.get(resource), room.allocatable.get(resource), room.used.get(resource));
        if asked > all {
            let message = format!("Node didn't have enough capacity: {resource}, requested: {asked}, capacity: {all}");
            return Some(Failure::new("Infeasible", message));
        }
        if asked.saturating_add(used) > all {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {all}"
            );
            return Some(Failure::new("Deferred", message));
        }
    }
    None
}

/// Decides what is allocated from now on.
pub(super) fn allocate(s: &Snapshot<'_>, out: &mut Plan) {
    let held = &s.memory.allocated;
    let mut wanted = asked(s.pod);
    if !is_wanted(s.pod, held) {
        // What an agent before this one had reported stays, and what is new to this one is as asked for.
        wanted.extend(held.clone());
        out.allocated = wanted;
        return;
    }
    match s.room.and_then(|room| refusal(s.pod, room)) {
        None => out.allocated = wanted,
        Some(why) => {
            wanted.extend(held.clone());
            out.allocated = wanted;
            out.resize_pending = Some(why);
        }
    }
}

fn needs_restart(c: &Container, a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.iter().filter(|resource| differs_in(a, b, resource)).any(|resource| {
        c.resize_policy
            .iter()
            .flatten()
            .any(|p| p.resource_name == **resource && p.restart_policy == "RestartContainer")
    })
}

/// Running containers that do not have what is allocated to them.
fn behind<'a>(s: &Snapshot<'a>, allocated: &Allocation) -> Vec<(&'a Container, &'a ContainerView, bool)> {
    let resizable = s.containers_of_spec().filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
    let running = resizable.filter_map(|(_, c)| Some((c, s.latest(&c.name).filter(|v| v.running())?)));
    running
        .filter_map(|(c, view)| {
            let given = s.memory.of(&c.name)?.given.as_ref().filter(|(attempt, _)| *attempt == view.attempt)?;
            let wanted = allocated.get(&c.name)?;
            differ(&given.1, wanted).then(|| (c, view, needs_restart(c, &given.1, wanted)))
        })
        .collect()
}

/// Whether the pod as a whole does not have what is allocated to it.
fn whole_behind(s: &Snapshot<'_>, allocated: &Allocation) -> bool {
    let Some(given) = &s.memory.pod_given else { return false };
    let none = ResourceRequirements::default();
    let of = |a: &Allocation| a.get("").cloned();
    (of(given).is_some() || of(allocated).is_some())
        && differ(&of(given).unwrap_or_else(|| none.clone()), &of(allocated).unwrap_or(none))
}

/// Whether a resize was allocated and not yet carried out.
pub(super) fn in_progress(s: &Snapshot<'_>, allocated: &Allocation) -> bool {
    let restarting = |c: &Container| {
        let view = s.latest(&c.name);
        view.is_some_and(|v| s.memory.of(&c.name).is_some_and(|m| m.resizing.as_deref() == Some(&v.id)))
    };
    !behind(s, allocated).is_empty() || whole_behind(s, allocated) || s.containers_of_spec().any(|(_, c)| restarting(c))
}

/// Plans what gives running containers their new amounts: first the pod as a whole, with those that need no restart.
pub(super) fn plan(s: &Snapshot<'_>, out: &mut Plan) {
    let (behind, whole) = (behind(s, &out.allocated), whole_behind(s, &out.allocated));
    if behind.is_empty() && !whole || s.memory.in_flight(&Op::Resize) {
        return;
    }
    let mut live: Vec<(String, String)> =
        behind.iter().filter(|(_, _, restart)| !restart).map(|(c, v, _)| (c.name.clone(), v.id.clone())).collect();
    if whole {
        // A container without a limit of its own has that of the pod.
        let others = s.containers_of_spec().filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
        let running = others.filter_map(|(_, c)| Some((c.name.clone(), s.latest(&c.name).filter(|v| v.running())?)));
        let unlisted = running.filter(|(name, _)| !behind.iter().any(|(c, ..)| c.name == *name));
        live.extend(unlisted.map(|(name, v)| (name, v.id.clone())).collect::<Vec<_>>());
    }
    if !live.is_empty() || s.memory.pod_given.as_ref() != Some(&out.allocated) {
        match s.memory.resize.ready_at(s.now) {
            Ok(()) => out.actions.push(Action::Resize { containers: live }),
            Err(at) => out.wake(at),
        }
        return;
    }
    for (c, view, _) in behind {
        let message = format!("Container {} resize requires restart", c.name);
        let grace: SignedDuration = doom_grace(s, c, view);
        super::start::kill(s, out, c, view, grace, message);
        out.resizing.push((c.name.clone(), view.id.clone()));
    }
}
