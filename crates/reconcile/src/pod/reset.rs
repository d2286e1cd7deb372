//! Beginning a pod anew in its sandbox (KEP-5532): a container ended with a code for which one of its rules says
//! `RestartAllContainers`. Everything that runs is killed, every run is removed, and the pod starts as it did at first, init
//! containers included. Address, volumes and ephemeral containers stay.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{Verdict, because};
use super::containers::restart_rule;
use super::{Action, CONTAINER_ID_SCHEME, ContainerView, Failure, Op, Plan, Run, Snapshot, each, start};
use crate::probe::later;

/// The action of a rule.
pub(super) const ACTION: &str = "RestartAllContainers";
/// Reason of a run that was ended and removed for it, and of a container that waits for the others to be removed.
const REASON: &str = "RestartingAllContainers";
const MESSAGE: &str = "The container is removed because RestartAllContainers in place";
const CONDITION: &str = "AllContainersRestarting";
/// The exit code of a run whose own nobody asks for any more.
const EXIT_CODE: i32 = 137;
/// A pod begins anew at most this often: the kubelet looks at its containers once in a second.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// Whether any container of the pod may have all of them restarted.
pub(super) fn possible(pod: &Pod) -> bool {
    let rules = |c: &Container| c.restart_policy_rules.iter().flatten().any(|r| r.action == ACTION);
    pod.spec.as_ref().is_some_and(|spec| each(spec).any(|(_, c)| rules(c)))
}

/// Whether an end that a status tells was for this.
pub(super) fn is(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some(REASON)
}

/// When a container that was removed at `finished` may be made again.
pub(super) fn next_round(finished: Timestamp) -> Timestamp {
    later(finished, PAUSE)
}

/// Why a container that was removed does not run yet.
pub(super) fn waiting() -> Failure {
    Failure::new(REASON, MESSAGE)
}

/// Whether an agent before this one had begun.
pub(super) fn reported(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == CONDITION && c.status == "True")
}

/// Whether this run is one that sets it off.
fn sets_off(s: &Snapshot<'_>, c: &Container, view: &ContainerView) -> bool {
    let exit = view.exit().filter(|_| !start::resized(s, view));
    exit.is_some_and(|e| restart_rule(c, e.code).is_some_and(|rule| rule.action == ACTION))
}

/// Whether the containers are to be taken away: until none is left.
pub(super) fn under_way(s: &Snapshot<'_>) -> bool {
    let Some(spec) = s.pod.spec.as_ref().filter(|_| possible(s.pod)) else { return false };
    let there = |c: &Container| {
        s.latest(&c.name).is_some() || s.memory.resetting && s.memory.in_flight(&Op::Container(c.name.clone()))
    };
    let set_off = || each(spec).any(|(_, c)| s.latest(&c.name).is_some_and(|view| sets_off(s, c, view)));
    (s.memory.resetting || set_off()) && each(spec).any(|(_, c)| there(c))
}

/// Plans the kills and removals. Those that set it off go last: as long as one is there, an agent that comes back knows.
pub(super) fn plan(s: &Snapshot<'_>, out: &mut Plan) {
    out.resetting = true;
    let Some(spec) = &s.pod.spec else { return };
    let mut sources = Vec::new();
    let mut others = false;
    for (_, c) in each(spec) {
        let pull = Op::Pull(c.name.clone());
        if s.memory.in_flight(&pull) {
            out.actions.push(Action::Abort(pull));
        }
        // What is being made is seen when it is there.
        others |= s.memory.in_flight(&Op::Container(c.name.clone()));
        for view in s.containers.iter().filter(|v| v.name == c.name) {
            if sets_off(s, c, view) {
                sources.push((c, view));
            } else {
                others = true;
                take_away(s, out, c, view);
            }
        }
    }
    if !others {
        sources.into_iter().for_each(|(c, view)| take_away(s, out, c, view));
    }
}

fn take_away(s: &Snapshot<'_>, out: &mut Plan, c: &Container, view: &ContainerView) {
    if view.running() {
        let message = format!("Stopping container {}", c.name);
        start::kill(s, out, c, view, SignedDuration::ZERO, message);
        return;
    }
    let busy = [Op::Kill(c.name.clone()), Op::Container(c.name.clone()), Op::Remove(view.id.clone())];
    if busy.iter().any(|op| s.memory.in_flight(op)) {
        return;
    }
    let exit = match &view.run {
        Run::Exited(exit) => Some(exit),
        _ => None,
    };
    let ended = ContainerStateTerminated {
        container_id: Some(format!("{CONTAINER_ID_SCHEME}{}", view.id)),
        exit_code: EXIT_CODE,
        reason: Some(REASON.to_owned()),
        message: Some(MESSAGE.to_owned()),
        signal: None,
        started_at: exit.and_then(|e| e.started_at).map(Time),
        finished_at: Some(Time(exit.map_or(s.now, |e| e.finished_at))),
    };
    out.removed.push((view.name.clone(), view.attempt, ended));
    out.actions.push(Action::Remove { name: view.name.clone(), id: view.id.clone(), attempt: view.attempt });
}

/// What a pod with such a rule says of it.
pub(super) fn condition(s: &Snapshot<'_>, stopping: bool, phase: &str) -> Option<(&'static str, Verdict)> {
    let verdict = match phase {
        "Succeeded" => because("PodCompleted"),
        "Failed" => because("PodFailed"),
        _ if !stopping && under_way(s) => {
            let (reason, message) = ("RestartAllContainersStarted", "container exited with restart policy rule");
            (true, Some(reason.to_owned()), Some(message.to_owned()))
        }
        _ => (false, None, None),
    };
    possible(s.pod).then_some((CONDITION, verdict))
}
