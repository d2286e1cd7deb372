//! Bringing a pod up and keeping it up: volumes and sandbox at once, then init containers in order, then the others in
//! order, each through pull, create, start and postStart.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Container;

use super::memory::probe_of;
use super::{Action, ContainerView, Op, Plan, Policy, Role, Run, Sandbox, Snapshot, grace_seconds, restarts};
use crate::probe::{Kind, Settings};

/// Whether the containers after this one may be created.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    May,
    Wait,
}

pub(super) fn plan(s: &Snapshot<'_>, out: &mut Plan) {
    if let Some(at) = super::stop::deadline(s) {
        out.wake(at);
    }
    ground(s, out);
    if s.sandbox == Sandbox::Lost {
        return;
    }
    // Before the others: somebody may want to see why an init container does not end.
    for c in s.added {
        container(s, out, Role::Ephemeral, c, true);
    }
    if super::reset::under_way(s) {
        super::reset::plan(s, out);
        return;
    }
    if !init(s, out) {
        return;
    }
    let mut next = Next::May;
    for (_, c) in s.containers_of_spec().filter(|(role, _)| *role == Role::Main) {
        if container(s, out, Role::Main, c, next == Next::May) == Next::Wait {
            next = Next::Wait;
        }
    }
}

/// Volumes and sandbox.
fn ground(s: &Snapshot<'_>, out: &mut Plan) {
    let m = s.memory;
    if !m.volumes.done && !m.in_flight(&Op::Volumes) {
        match m.volumes.ready_at(s.now) {
            Ok(()) => out.actions.push(Action::MountVolumes),
            Err(at) => out.wake(at),
        }
    }
    let missing = match s.sandbox {
        Sandbox::Ready { .. } => return,
        Sandbox::Absent => Action::RunSandbox,
        Sandbox::Lost => Action::RemoveSandbox,
    };
    if !m.in_flight(&Op::Sandbox) {
        match m.sandbox.ready_at(s.now) {
            Ok(()) => out.actions.push(missing),
            Err(at) => out.wake(at),
        }
    }
}

/// Whether any ordinary container was ever made in this sandbox: then init is over, whatever is left of it.
pub(super) fn began(s: &Snapshot<'_>) -> bool {
    s.containers_of_spec().any(|(role, c)| role == Role::Main && s.latest(&c.name).is_some())
}

/// Plans the init containers; true when the others may run.
fn init(s: &Snapshot<'_>, out: &mut Plan) -> bool {
    let began = began(s);
    for (role, c) in s.containers_of_spec() {
        let latest = s.latest(&c.name);
        match role {
            Role::Main | Role::Ephemeral => {}
            Role::Init if began => {}
            Role::Init => {
                if latest.and_then(|v| v.exit()).is_some_and(|e| e.code == 0) {
                    continue;
                }
                container(s, out, role, c, true);
                return false;
            }
            Role::Sidecar => {
                let next = container(s, out, role, c, true);
                let up = latest.is_some_and(|v| v.running() && started(s, c, v));
                if !began && (!up || next == Next::Wait) {
                    return false;
                }
            }
        }
    }
    true
}

/// Whether a running container has started: its startup probe succeeded, or it has none; and its postStart hook is over.
pub(super) fn started(s: &Snapshot<'_>, c: &Container, view: &ContainerView) -> bool {
    let Some(m) = s.memory.of(&c.name) else { return c.startup_probe.is_none() && !has_post_start(c) };
    let probed = c.startup_probe.is_none() || m.tracker(&view.id, Kind::Startup).verdict() == Some(true);
    probed && (!has_post_start(c) || m.post_start.as_deref() == Some(&view.id))
}

fn has_post_start(c: &Container) -> bool {
    c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some())
}

/// Takes one container a step on.
fn container(s: &Snapshot<'_>, out: &mut Plan, role: Role, c: &Container, may_create: bool) -> Next {
    if s.memory.in_flight(&Op::Container(c.name.clone())) {
        return Next::Wait;
    }
    let Some(view) = s.latest(&c.name) else {
        return first_run(s, out, role, c, may_create);
    };
    match &view.run {
        Run::Created => {
            match s.memory.of(&c.name).map_or(Ok(()), |m| m.create.ready_at(s.now)) {
                Ok(()) => out.actions.push(Action::Start { name: c.name.clone(), id: view.id.clone() }),
                Err(at) => out.wake(at),
            }
            Next::Wait
        }
        Run::Running { started_at } => running(s, out, role, c, view, *started_at),
        Run::Exited(exit) => {
            if resized(s, view) {
                return make(s, out, c, view.attempt + 1, None, may_create);
            }
            if !restarts(Policy::of(s.pod), role, c, exit.code) {
                return Next::May;
            }
            again(s, out, c, view.attempt + 1, exit.finished_at, may_create)
        }
    }
}

/// Whether a run was ended to be made anew with other amounts of resources: no crash, whatever it said at its end.
pub(super) fn resized(s: &Snapshot<'_>, view: &ContainerView) -> bool {
    s.memory.of(&view.name).is_some_and(|m| m.resizing.as_deref() == Some(&view.id))
}

/// A container that has not run in this sandbox, though perhaps in one before.
fn first_run(s: &Snapshot<'_>, out: &mut Plan, role: Role, c: &Container, may_create: bool) -> Next {
    let Some(carried) = s.memory.of(&c.name).and_then(|m| m.carried.as_ref()) else {
        return make(s, out, c, 0, None, may_create);
    };
    let finished = carried.ended.finished_at.as_ref().map_or(s.now, |t| t.0);
    if super::reset::is(&carried.ended) {
        // No crash of its own: it waits for no back-off.
        let at = super::reset::next_round(finished);
        if at > s.now {
            out.wake(at);
            return Next::Wait;
        }
        return make(s, out, c, carried.attempt + 1, None, may_create);
    }
    if matches!(role, Role::Main | Role::Ephemeral) && !restarts(Policy::of(s.pod), role, c, carried.ended.exit_code) {
        return Next::May;
    }
    again(s, out, c, carried.attempt + 1, finished, may_create)
}

/// A container that ended and is to run again, after its back-off.
fn again(
    s: &Snapshot<'_>,
    out: &mut Plan,
    c: &Container,
    attempt: u32,
    finished: jiff::Timestamp,
    may_create: bool,
) -> Next {
    if let Some((at, delay)) = s.memory.of(&c.name).and_then(|m| m.held_until(finished, s.now)) {
        out.wake(at);
        out.held_back.push((c.name.clone(), super::status::held_back(s, &c.name, delay)));
        return Next::May;
    }
    make(s, out, c, attempt, Some(finished), may_create)
}

/// Pull, then create.
fn make(
    s: &Snapshot<'_>,
    out: &mut Plan,
    c: &Container,
    attempt: u32,
    after: Option<jiff::Timestamp>,
    may_create: bool,
) -> Next {
    let name = &c.name;
    if s.memory.in_flight(&Op::Pull(name.clone())) {
        return Next::Wait;
    }
    let m = s.memory.of(name);
    let wanted = c.image.as_deref().unwrap_or_default();
    let present = m.and_then(|m| m.image.as_ref()).is_some_and(|(a, image)| *a == attempt && image == wanted);
    if !present {
        match m.map_or(Ok(()), |m| m.pull.ready_at(s.now)) {
            Ok(()) => {
                out.actions.push(Action::Pull { name: name.clone(), attempt });
                return Next::Wait;
            }
            Err(at) => {
                out.wake(at);
                if let Some(turn) = super::status::pull_reason_turns(m)
                    && turn > s.now
                {
                    out.wake(turn);
                }
                return Next::May;
            }
        }
    }
    if let Err(at) = m.map_or(Ok(()), |m| m.create.ready_at(s.now)) {
        out.wake(at);
        return Next::May;
    }
    if may_create && s.memory.volumes.done && matches!(s.sandbox, Sandbox::Ready { .. }) {
        out.actions.push(Action::Create { name: name.clone(), attempt, after });
    }
    Next::Wait
}

/// A container that runs: kill it if it must go, else its hook and its probes.
fn running(
    s: &Snapshot<'_>,
    out: &mut Plan,
    role: Role,
    c: &Container,
    view: &ContainerView,
    started_at: jiff::Timestamp,
) -> Next {
    let m = s.memory.of(&c.name);
    let doomed = m.and_then(|m| m.doomed.as_ref()).filter(|(id, _)| *id == view.id).map(|(_, why)| why.clone());
    let changed = c.image.as_deref().is_some_and(|image| image != view.image);
    let why = doomed.or_else(|| changed.then(|| format!("Container {} definition changed, will be restarted", c.name)));
    if let Some(why) = why {
        kill(s, out, c, view, doom_grace(s, c, view), why);
        return Next::May;
    }
    let hook = has_post_start(c) && m.is_none_or(|m| m.post_start.as_deref() != Some(&view.id));
    let hook_runs = s.memory.in_flight(&Op::PostStart(c.name.clone()));
    if hook && !hook_runs {
        out.actions.push(Action::PostStart { name: c.name.clone(), id: view.id.clone() });
    }
    if matches!(role, Role::Main | Role::Sidecar) {
        probes(s, out, c, view, started_at, true);
    }
    if hook { Next::Wait } else { Next::May }
}

/// A failed startup or liveness probe may give less (or more) grace than the pod.
pub(super) fn doom_grace(s: &Snapshot<'_>, c: &Container, view: &ContainerView) -> SignedDuration {
    let failed = [Kind::Startup, Kind::Liveness]
        .into_iter()
        .find(|kind| s.memory.of(&c.name).is_some_and(|m| m.tracker(&view.id, *kind).verdict() == Some(false)));
    let own = failed.and_then(|kind| probe_of(c, kind)?.termination_grace_period_seconds);
    SignedDuration::from_secs(own.unwrap_or_else(|| grace_seconds(s.pod)))
}

/// How long a container that the agent itself ended, to run it with another image, may be away without the status saying
/// so: the kubelet looks so much later at the earliest (its relist period), and finds the next one running.
const REPLACING: SignedDuration = SignedDuration::from_secs(1);

/// Notes until when a container is being replaced.
pub(super) fn replacing(s: &Snapshot<'_>, out: &mut Plan) {
    let until = |c: &Container| {
        let latest = s.latest(&c.name).filter(|v| !v.running())?;
        let ended = latest.exit().map_or_else(|| s.earlier(&c.name, latest.attempt), |_| Some(latest))?;
        let failed = s.memory.of(&c.name).is_some_and(|m| m.create.error.is_some() || m.pull.error.is_some());
        let changed = c.image.as_deref().is_some_and(|image| image != ended.image);
        (changed && !failed).then(|| crate::probe::later(ended.exit().map_or(s.now, |e| e.finished_at), REPLACING))
    };
    let main = s.containers_of_spec().filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
    out.report_at = main.filter_map(|(_, c)| until(c)).filter(|at| *at > s.now).max();
    if let Some(at) = out.report_at {
        out.wake(at);
    }
}

/// Plans the probes that are due. While a pod stops, only readiness goes on.
pub(super) fn probes(
    s: &Snapshot<'_>,
    out: &mut Plan,
    c: &Container,
    view: &ContainerView,
    started_at: jiff::Timestamp,
    all: bool,
) {
    let up = match (&c.startup_probe, s.memory.of(&c.name)) {
        (None, _) => true,
        (Some(_), m) => m.is_some_and(|m| m.tracker(&view.id, Kind::Startup).verdict() == Some(true)),
    };
    for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
        let wanted = match kind {
            Kind::Startup => !up && all,
            Kind::Readiness => up,
            Kind::Liveness => up && all,
        };
        let Some(spec) = probe_of(c, kind).filter(|_| wanted) else { continue };
        if s.memory.in_flight(&Op::Probe(c.name.clone(), kind)) {
            continue;
        }
        let tracker = s.memory.of(&c.name).map(|m| m.tracker(&view.id, kind)).unwrap_or_default();
        let due = tracker.due_at(&Settings::of(spec), started_at);
        if due <= s.now {
            out.actions.push(Action::Probe { name: c.name.clone(), id: view.id.clone(), kind });
        } else {
            out.wake(due);
        }
    }
}

/// Plans a kill, unless one with no later deadline is under way.
pub(super) fn kill(
    s: &Snapshot<'_>,
    out: &mut Plan,
    c: &Container,
    view: &ContainerView,
    grace: SignedDuration,
    message: String,
) {
    let m = s.memory.of(&c.name);
    if s.memory.in_flight(&Op::PostStart(c.name.clone())) {
        out.actions.push(Action::Abort(Op::PostStart(c.name.clone())));
    }
    if s.memory.in_flight(&Op::Kill(c.name.clone())) {
        let deadline = crate::probe::later(s.now, grace);
        // A second of slack: the same deadline computed again must not restart the kill.
        let slack = SignedDuration::from_secs(1);
        let sooner = m.and_then(|m| m.kill_deadline).is_some_and(|d| crate::probe::later(deadline, slack) < d);
        if !sooner {
            return;
        }
    } else if let Err(at) = m.map_or(Ok(()), |m| m.kill.ready_at(s.now)) {
        out.wake(at);
        return;
    }
    out.actions.push(Action::Kill { name: c.name.clone(), id: view.id.clone(), grace, message });
}
