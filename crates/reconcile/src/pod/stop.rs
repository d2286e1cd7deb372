//! Taking a pod down: why, and in which order.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::{
    Action, ContainerView, Failure, Op, Plan, Policy, Role, Run, Sandbox, Snapshot, grace_seconds, restarts, status,
};
use crate::probe::later;

/// What takes too much of the node is not given long (the kubelet's rule for local storage).
const EVICTION_GRACE: SignedDuration = SignedDuration::from_secs(1);

/// The node ends a pod for a reason of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Reason and message of the pod's status.
    pub why: Failure,
    /// Message of its condition `DisruptionTarget`.
    pub condition: String,
    /// The most time it is given to end; `None` for as long as it asks for.
    pub grace: Option<SignedDuration>,
}

impl Eviction {
    /// Of a pod that takes more of the node's disk than it may.
    pub fn of_storage(why: Failure) -> Self {
        Eviction { condition: why.message.clone(), why, grace: Some(EVICTION_GRACE) }
    }

    /// To get back something that the node has too little of.
    pub fn of_pressure(message: String, grace: Option<SignedDuration>) -> Self {
        Eviction { condition: message.clone(), why: Failure::new(crate::eviction::REASON, message), grace }
    }

    /// To make room for a critical pod.
    pub fn preempting() -> Self {
        Eviction {
            why: Failure::new("Preempting", "Preempted in order to admit critical pod"),
            condition: "Pod was preempted by Kubelet to accommodate a critical pod.".to_owned(),
            grace: None,
        }
    }

    /// As the node goes down.
    pub fn of_shutdown(grace: SignedDuration) -> Self {
        let message = "Pod was terminated in response to imminent node shutdown.";
        Eviction { why: Failure::new("Terminated", message), condition: message.to_owned(), grace: Some(grace) }
    }
}

/// Why a pod is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    /// Its object is being deleted, or is gone.
    Deleted,
    /// All its containers ended and none is started again.
    Completed,
    /// `activeDeadlineSeconds` passed.
    DeadlineExceeded,
    /// The node took its resources back.
    Evicted(Eviction),
    /// The node does not support what it asks for.
    Refused(Failure),
    /// Its sandbox was lost and its restart policy is `Never`.
    SandboxLost,
    /// It was reported to have ended already.
    Ended,
}

/// A stop under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// When it began.
    pub since: Timestamp,
    /// From then to the kill.
    pub grace: SignedDuration,
    /// Why.
    pub cause: StopCause,
}

/// Whether the pod is to be stopped. Once it is, it stays so; deletion may only shorten the grace.
pub(super) fn decide(s: &Snapshot<'_>) -> Option<Stop> {
    let grace = SignedDuration::from_secs(effective_grace(s));
    if let Some(stop) = &s.memory.stop {
        let mut stop = stop.clone();
        if s.deleting() {
            stop.grace = stop.grace.min(grace);
        }
        // A pod that ends already when the node wants it gone has no longer than one that runs.
        if let Some((Eviction { grace: Some(most), .. }, at)) = &s.memory.evicted {
            stop.grace = stop.grace.min(later(*at, *most).duration_since(stop.since));
        }
        return Some(stop);
    }
    let cause = cause(s)?;
    let most = if let StopCause::Evicted(eviction) = &cause { eviction.grace } else { None };
    let grace = most.map_or(grace, |most| grace.min(most));
    Some(Stop { since: s.now, grace, cause })
}

fn effective_grace(s: &Snapshot<'_>) -> i64 {
    let asked = s.pod.metadata.deletion_grace_period_seconds.filter(|_| s.deleting());
    match asked {
        // An object removed by force leaves its containers one second.
        Some(0) if s.memory.gone => 1,
        Some(seconds) => seconds.max(0),
        None => grace_seconds(s.pod),
    }
}

fn cause(s: &Snapshot<'_>) -> Option<StopCause> {
    if let Some(failure) = &s.memory.refused {
        return Some(StopCause::Refused(failure.clone()));
    }
    if matches!(s.previous.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Some(StopCause::Ended);
    }
    if let Some((eviction, _)) = &s.memory.evicted {
        return Some(StopCause::Evicted(eviction.clone()));
    }
    if deadline(s).is_some_and(|at| at <= s.now) {
        return Some(StopCause::DeadlineExceeded);
    }
    if completed(s) {
        return Some(StopCause::Completed);
    }
    if s.deleting() {
        return Some(StopCause::Deleted);
    }
    lost(s).then_some(StopCause::SandboxLost)
}

/// When `activeDeadlineSeconds` passes.
pub(super) fn deadline(s: &Snapshot<'_>) -> Option<Timestamp> {
    let seconds = s.pod.spec.as_ref()?.active_deadline_seconds?;
    let start = s.previous.start_time.as_ref().map_or(s.memory.first_seen, |t| t.0);
    Some(later(start, SignedDuration::from_secs(seconds)))
}

/// How the newest run of a container ended, if it did, in this sandbox or in one before.
fn ended(s: &Snapshot<'_>, c: &Container) -> Option<i32> {
    match s.latest(&c.name) {
        Some(view) => view.exit().map(|e| e.code),
        None => {
            let carried = s.memory.of(&c.name)?.carried.as_ref();
            carried.filter(|c| !super::reset::is(&c.ended)).map(|c| c.ended.exit_code)
        }
    }
}

/// Every ordinary container ended for good, or init failed for good.
fn completed(s: &Snapshot<'_>) -> bool {
    if super::reset::under_way(s) {
        return false;
    }
    let policy = Policy::of(s.pod);
    let mut all = true;
    for (role, c) in s.containers_of_spec() {
        match role {
            Role::Init => {
                let failed = s
                    .latest(&c.name)
                    .and_then(|v| v.exit())
                    .is_some_and(|e| e.code != 0 && !restarts(policy, role, c, e.code));
                if failed && !super::start::began(s) {
                    return true;
                }
            }
            Role::Sidecar | Role::Ephemeral => {}
            Role::Main => {
                let resized = s.latest(&c.name).is_some_and(|v| super::start::resized(s, v));
                let busy = resized || s.memory.in_flight(&Op::Container(c.name.clone()));
                all &= !busy && ended(s, c).is_some_and(|code| !restarts(policy, role, c, code));
            }
        }
    }
    all
}

/// The sandbox is gone though containers ran in it, and they may not be started again.
fn lost(s: &Snapshot<'_>) -> bool {
    let ran = s
        .containers_of_spec()
        .any(|(_, c)| s.latest(&c.name).is_some() || s.memory.of(&c.name).is_some_and(|m| m.carried.is_some()));
    let gone = match s.sandbox {
        Sandbox::Ready { .. } => false,
        Sandbox::Lost => true,
        Sandbox::Absent => !s.memory.in_flight(&Op::Sandbox),
    };
    gone && ran && Policy::of(s.pod) == Policy::Never
}

/// Whether anything of the pod may still run.
pub(super) fn alive(s: &Snapshot<'_>) -> bool {
    let starting = s.containers_of_spec().any(|(_, c)| s.memory.in_flight(&Op::Container(c.name.clone())));
    starting || (s.sandbox != Sandbox::Lost && s.containers.iter().any(ContainerView::running))
}

pub(super) fn plan(s: &Snapshot<'_>, stop: &Stop, out: &mut Plan) {
    let left = later(stop.since, stop.grace).duration_since(s.now).max(SignedDuration::ZERO);
    for (_, c) in s.containers_of_spec() {
        let pull = Op::Pull(c.name.clone());
        if s.memory.in_flight(&pull) {
            out.actions.push(Action::Abort(pull));
        }
    }
    if alive(s) {
        kill_in_order(s, out, left);
        return;
    }
    let kills = s.containers_of_spec().any(|(_, c)| s.memory.in_flight(&Op::Kill(c.name.clone())));
    if kills || s.memory.in_flight(&Op::Sandbox) || s.memory.in_flight(&Op::Volumes) {
        return;
    }
    take_down(s, out);
}

/// Ordinary containers at once; sidecars after them, the last first.
fn kill_in_order(s: &Snapshot<'_>, out: &mut Plan, left: SignedDuration) {
    let running = |c: &Container| s.containers.iter().find(|v| v.name == c.name && v.running());
    let mut waits = false;
    for (role, c) in s.containers_of_spec() {
        let starting = s.memory.in_flight(&Op::Container(c.name.clone()));
        let Some(view) = running(c) else {
            waits |= starting && role != Role::Sidecar;
            continue;
        };
        if role != Role::Sidecar {
            waits = true;
            stop_one(s, out, c, view, left);
        }
    }
    let sidecars: Vec<_> = s.containers_of_spec().filter(|(role, _)| *role == Role::Sidecar).map(|(_, c)| c).collect();
    let past = left.is_zero();
    for c in sidecars.into_iter().rev() {
        let Some(view) = running(c) else { continue };
        if waits && !past {
            keep_probing(s, out, c, view);
            continue;
        }
        // The kubelet leaves a sidecar two seconds when the others used up the grace.
        let grace = if stop_is_forced(s) { left } else { left.max(SignedDuration::from_secs(2)) };
        stop_one(s, out, c, view, grace);
        waits = true;
    }
    if waits && !past {
        out.wake(later(s.now, left));
    }
}

fn stop_is_forced(s: &Snapshot<'_>) -> bool {
    s.deleting() && s.pod.metadata.deletion_grace_period_seconds == Some(0)
}

fn stop_one(s: &Snapshot<'_>, out: &mut Plan, c: &Container, view: &ContainerView, grace: SignedDuration) {
    super::start::kill(s, out, c, view, grace, format!("Stopping container {}", c.name));
    keep_probing(s, out, c, view);
}

fn keep_probing(s: &Snapshot<'_>, out: &mut Plan, c: &Container, view: &ContainerView) {
    if let Run::Running { started_at } = view.run {
        super::start::probes(s, out, c, view, started_at, false);
    }
}

/// Whether the pod was ended for what it took of the node: all of that is given back, what its containers wrote as well.
fn gives_back(s: &Snapshot<'_>) -> bool {
    let evicted = |reason: Option<&str>| reason == Some(crate::eviction::REASON);
    match s.memory.stop.as_ref().map(|stop| &stop.cause) {
        Some(StopCause::Evicted(eviction)) => evicted(Some(&eviction.why.reason)),
        Some(StopCause::Ended) => evicted(s.previous.reason.as_deref()),
        _ => false,
    }
}

/// Nothing runs: sandbox down, volumes off, then, if the pod is being deleted, everything away.
fn take_down(s: &Snapshot<'_>, out: &mut Plan) {
    let m = s.memory;
    let step = if s.sandbox != Sandbox::Absent && !m.sandbox_stopped {
        m.sandbox.ready_at(s.now).map(|()| Action::StopSandbox)
    } else if !m.volumes_down {
        m.volumes.ready_at(s.now).map(|()| Action::TearDownVolumes)
    } else if s.deleting() && !m.finish.done && !m.in_flight(&Op::Finish) {
        m.finish.ready_at(s.now).map(|()| Action::Finish)
    } else if !s.deleting() && s.sandbox != Sandbox::Absent && gives_back(s) {
        // Its runs are gone before the sandbox is: what is said of them meanwhile is what was.
        for view in s.containers {
            out.removed
                .extend(view.exit().map(|exit| (view.name.clone(), view.attempt, status::terminated(view, exit))));
        }
        m.sandbox.ready_at(s.now).map(|()| Action::RemoveSandbox)
    } else {
        return;
    };
    match step {
        Ok(action) => out.actions.push(action),
        Err(at) => out.wake(at),
    }
}
