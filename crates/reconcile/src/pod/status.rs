//! What is reported of a pod. Nothing in it is guessed: running, ended and ready are what the runtime and the probes said.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::ContainerMemory;
use super::stop::{Eviction, Stop, StopCause, alive};
use super::{
    CONTAINER_ID_SCHEME, ContainerView, Exit, Failure, Op, Plan, Policy, Role, Run, Sandbox, Snapshot, conditions,
    phase, qos_class, restarts, start,
};
use crate::probe::{Kind, later};

/// An ended run as the API words it.
pub(super) fn terminated(view: &ContainerView, exit: &Exit) -> ContainerStateTerminated {
    let reason = match exit {
        Exit { start_error: Some(_), .. } => "StartError",
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    };
    ContainerStateTerminated {
        container_id: Some(format!("{CONTAINER_ID_SCHEME}{}", view.id)),
        exit_code: exit.code,
        reason: Some(reason.to_owned()),
        message: exit.start_error.clone().or_else(|| exit.message.clone()).filter(|m| !m.is_empty()),
        signal: None,
        // Of one that never started, runtimes say 0, which the kubelet takes for a time.
        started_at: Some(Time(exit.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(exit.finished_at)),
    }
}

/// A run whose end nobody saw.
pub(super) fn unknown_end(message: &str, id: Option<&str>, now: Timestamp) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: id.map(|id| format!("{CONTAINER_ID_SCHEME}{id}")),
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some(message.to_owned()),
        signal: None,
        started_at: None,
        finished_at: Some(Time(now)),
    }
}

/// The words of a crash back-off.
pub(super) fn held_back(s: &Snapshot<'_>, name: &str, delay: SignedDuration) -> String {
    let meta = &s.pod.metadata;
    format!(
        "back-off {} restarting failed container={name} pod={}_{}({})",
        duration(delay),
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        s.uid()
    )
}

/// As Go prints it: `10s`, `2m40s`, `5m0s`.
fn duration(d: SignedDuration) -> String {
    let s = d.as_secs();
    if s < 60 { format!("{s}s") } else { format!("{}m{}s", s / 60, s % 60) }
}

/// A failed pull is `ErrImagePull` (or `SignatureValidationFailed`) at first and `ImagePullBackOff` from the middle of its back-off on: when that is.
pub(super) fn pull_reason_turns(m: Option<&ContainerMemory>) -> Option<Timestamp> {
    let pull = &m?.pull;
    let (from, to) = (pull.failed_at?, pull.retry_at?);
    Some(later(from, SignedDuration::from_millis(to.duration_since(from).as_millis() as i64 / 2)))
}

/// Why a container that is to run does not run yet.
fn waiting_for(s: &Snapshot<'_>, c: &Container, initializing: bool) -> Failure {
    let m = s.memory.of(&c.name);
    if let Some(error) = m.and_then(|m| m.create.error.as_ref()) {
        return error.clone();
    }
    if let Some(error) = m.and_then(|m| m.pull.error.as_ref()) {
        let pulls = matches!(error.reason.as_str(), "ErrImagePull" | "SignatureValidationFailed");
        let turned = pulls && pull_reason_turns(m).is_some_and(|at| at <= s.now);
        if turned {
            let image = c.image.as_deref().unwrap_or_default();
            let message = format!("Back-off pulling image {image:?}: {}: {}", error.reason, error.message);
            return Failure::new("ImagePullBackOff", message);
        }
        return error.clone();
    }
    Failure::new(if initializing { "PodInitializing" } else { "ContainerCreating" }, "")
}

fn waiting(f: Failure) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(f.reason), message: Some(f.message).filter(|m| !m.is_empty()) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn ended(t: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(t), ..ContainerState::default() }
}

/// The state and, if there is one, the end of the run before.
fn states(
    s: &Snapshot<'_>,
    stop: Option<&Stop>,
    role: Role,
    c: &Container,
    initializing: bool,
) -> (ContainerState, Option<ContainerStateTerminated>) {
    let m = s.memory.of(&c.name);
    let carried = m.and_then(|m| m.carried.as_ref());
    let again = |code: i32| {
        let over = role == Role::Init && start::began(s);
        stop.is_none() && !over && restarts(Policy::of(s.pod), role, c, code)
    };
    let Some(view) = s.latest(&c.name) else {
        let Some(carried) = carried else { return (waiting(waiting_for(s, c, initializing)), None) };
        if super::reset::is(&carried.ended) && stop.is_none() {
            let going = super::reset::under_way(s);
            let why = if going { super::reset::waiting() } else { waiting_for(s, c, initializing) };
            return (waiting(why), Some(carried.ended.clone()));
        }
        if (matches!(role, Role::Main | Role::Ephemeral) && !again(carried.ended.exit_code)) || stop.is_some() {
            return (ended(carried.ended.clone()), None);
        }
        return (
            waiting(held_or_waiting(s, c, carried.ended.finished_at.as_ref(), initializing)),
            Some(carried.ended.clone()),
        );
    };
    let before = s
        .earlier(&c.name, view.attempt)
        .and_then(|v| v.exit().map(|e| terminated(v, e)))
        .or_else(|| carried.map(|c| c.ended.clone()));
    match &view.run {
        Run::Running { started_at } => {
            let running = ContainerStateRunning { started_at: Some(Time(*started_at)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, before)
        }
        Run::Created => (waiting(waiting_for(s, c, initializing)), before),
        Run::Exited(exit) => {
            let end = terminated(view, exit);
            let failed = m.is_some_and(|m| m.create.error.is_some() || m.pull.error.is_some());
            let held = failed || held_until(s, c, exit.finished_at).is_some();
            if again(exit.code) && held {
                let why = held_or_waiting(s, c, Some(&Time(exit.finished_at)), initializing);
                return (waiting(why), Some(end));
            }
            (ended(end), before)
        }
    }
}

/// Until when the container is held back. One that is being started again has its next wait counted already, and is not.
fn held_until(s: &Snapshot<'_>, c: &Container, finished: Timestamp) -> Option<(Timestamp, SignedDuration)> {
    let starting = s.memory.in_flight(&Op::Container(c.name.clone()));
    s.memory.of(&c.name).filter(|_| !starting)?.held_until(finished, s.now)
}

fn held_or_waiting(s: &Snapshot<'_>, c: &Container, finished: Option<&Time>, initializing: bool) -> Failure {
    let held = finished.and_then(|f| held_until(s, c, f.0));
    match held {
        Some((_, delay)) => Failure::new("CrashLoopBackOff", held_back(s, &c.name, delay)),
        None => waiting_for(s, c, initializing),
    }
}

/// What was said before of a run that was removed since, when none follows it.
fn said_before<'a>(s: &Snapshot<'a>, stop: Option<&Stop>, name: &str) -> Option<&'a ContainerStatus> {
    let carried = s.memory.of(name)?.carried.as_ref().filter(|_| stop.is_some())?;
    let st = s.previous;
    let all = st.init_container_statuses.iter().flatten().chain(st.container_statuses.iter().flatten());
    let mut all = all.chain(st.ephemeral_container_statuses.iter().flatten());
    all.find(|c| c.name == name && c.container_id == carried.ended.container_id)
}

/// Whether readiness was probed and holds; without a readiness probe, a container that has started is ready.
fn is_ready(s: &Snapshot<'_>, c: &Container, view: &ContainerView) -> bool {
    let probed = c.readiness_probe.is_none()
        || s.memory.of(&c.name).is_some_and(|m| m.tracker(&view.id, Kind::Readiness).verdict() == Some(true));
    probed && start::started(s, c, view)
}

/// How the mounts of a container came out (KEP-3857). Every mount can be made read-only with all that is below it, so what
/// is asked for is what is there.
fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let status = |m: &k8s_openapi::api::core::v1::VolumeMount| {
        let read_only = m.read_only == Some(true);
        let whole = matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
        VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| if whole { "Enabled" } else { "Disabled" }.to_owned()),
            volume_status: None,
        }
    };
    Some(c.volume_mounts.iter().flatten().map(status).collect()).filter(|list: &Vec<_>| !list.is_empty())
}

fn container(
    s: &Snapshot<'_>,
    stop: Option<&Stop>,
    plan: &Plan,
    role: Role,
    c: &Container,
    initializing: bool,
) -> ContainerStatus {
    let (state, last) = states(s, stop, role, c, initializing);
    let view = s.latest(&c.name);
    let carried = s.memory.of(&c.name).and_then(|m| m.carried.as_ref());
    let said = said_before(s, stop, &c.name).filter(|_| view.is_none());
    let running = view.filter(|v| v.running());
    let started = running.is_some_and(|v| start::started(s, c, v));
    let ready = match role {
        Role::Init => view.and_then(ContainerView::exit).is_some_and(|e| e.code == 0),
        Role::Ephemeral => false,
        _ => running.is_some_and(|v| is_ready(s, c, v)),
    };
    let attempt = view.map(|v| v.attempt).or(carried.map(|c| c.attempt)).unwrap_or(0);
    let id = view
        .map(|v| format!("{CONTAINER_ID_SCHEME}{}", v.id))
        .or_else(|| carried.and_then(|c| c.ended.container_id.clone()));
    let resources = running.and_then(|v| {
        let given = s.memory.of(&c.name).and_then(|m| m.given.as_ref()).filter(|(attempt, _)| *attempt == v.attempt);
        given.map(|(_, r)| r.clone()).or_else(|| c.resources.clone())
    });
    let allocated = plan.allocated.get(&c.name).and_then(|r| r.requests.clone());
    ContainerStatus {
        name: c.name.clone(),
        state: Some(state),
        last_state: said.map_or_else(|| Some(last.map(ended).unwrap_or_default()), |s| s.last_state.clone()),
        ready,
        started: (role != Role::Ephemeral).then_some(started),
        restart_count: i32::try_from(attempt).unwrap_or(i32::MAX),
        image: view
            .map(|v| v.image.clone())
            .or(said.map(|s| s.image.clone()))
            .or_else(|| c.image.clone())
            .unwrap_or_default(),
        image_id: view.map(|v| v.image_id.clone()).or(said.map(|s| s.image_id.clone())).unwrap_or_default(),
        container_id: id,
        allocated_resources: allocated,
        resources,
        user: match view {
            Some(v) => v.user.clone().map(|linux| ContainerUser { linux: Some(linux) }),
            None => said.and_then(|s| s.user.clone()),
        },
        stop_signal: view.map_or_else(|| said.and_then(|s| s.stop_signal.clone()), |v| v.stop_signal.clone()),
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    }
}

fn addresses(s: &Snapshot<'_>) -> Vec<IpAddr> {
    let host = s.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    match &s.sandbox {
        Sandbox::Ready { .. } if host => s.host_ips.first().copied().into_iter().collect(),
        Sandbox::Ready { ip } => ip.iter().copied().collect(),
        // An address once reported stays while the pod ends; a new sandbox brings a new one.
        _ => s.previous.pod_ips.iter().flatten().filter_map(|p| p.ip.parse().ok()).collect(),
    }
}

fn reason(s: &Snapshot<'_>, stop: Option<&Stop>) -> (Option<String>, Option<String>) {
    match stop.map(|s| &s.cause) {
        Some(StopCause::DeadlineExceeded) => (
            Some("DeadlineExceeded".to_owned()),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        ),
        Some(StopCause::Evicted(Eviction { why: f, .. }) | StopCause::Refused(f)) => {
            (Some(f.reason.clone()), Some(f.message.clone()))
        }
        Some(StopCause::SandboxLost) => (
            Some("SandboxLost".to_owned()),
            Some("The pod's sandbox was lost and its restart policy is Never".to_owned()),
        ),
        Some(StopCause::Ended) => (s.previous.reason.clone(), s.previous.message.clone()),
        Some(StopCause::Deleted | StopCause::Completed) => (None, None),
        // What keeps the whole pod from starting is worth a line in `kubectl describe`.
        None => (None, None),
    }
}

/// The status of the pod now.
pub(super) fn of(s: &Snapshot<'_>, stop: Option<&Stop>, plan: &Plan) -> PodStatus {
    // As the kubelet has it: with init containers, whatever has not been made yet waits for `PodInitializing`.
    let initializing = s.containers_of_spec().any(|(role, _)| matches!(role, Role::Init | Role::Sidecar));
    // A pod that was refused never had containers: to say that they wait would be wrong.
    let refused = matches!(stop.map(|s| &s.cause), Some(StopCause::Refused(_))) && s.containers.is_empty();
    let mut statuses: Vec<(Role, ContainerStatus)> = s
        .containers_of_spec()
        .filter(|_| !refused)
        .map(|(role, c)| (role, container(s, stop, plan, role, c, initializing && role != Role::Ephemeral)))
        .collect();
    let phase = phase::of(s, stop, &statuses);
    if stop.is_some() && !alive(s) {
        settle(s, &mut statuses);
    }
    let conditions = conditions::of(s, stop, &phase, &statuses, plan);
    let ips = addresses(s);
    let (reason, message) = reason(s, stop);
    let (added, statuses): (Vec<_>, Vec<_>) = statuses.into_iter().partition(|(role, _)| *role == Role::Ephemeral);
    let (init, main): (Vec<_>, Vec<_>) = statuses.into_iter().partition(|(role, _)| *role != Role::Main);
    // What the pod as a whole has, if it has amounts of its own (KEP-2837); until its sandbox is there, what it will have.
    let whole = plan.allocated.get("").filter(|_| !refused);
    let given = s.memory.pod_given.as_ref().and_then(|g| g.get("")).or(whole).filter(|_| whole.is_some());
    let strip = |v: Vec<(Role, ContainerStatus)>| v.into_iter().map(|(_, c)| c).collect::<Vec<_>>();
    PodStatus {
        phase: Some(phase),
        conditions: Some(conditions),
        reason,
        message,
        host_ip: s.host_ips.first().map(ToString::to_string),
        host_ips: Some(s.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()).filter(|v: &Vec<_>| !v.is_empty()),
        start_time: Some(s.previous.start_time.clone().unwrap_or(Time(s.memory.first_seen))),
        init_container_statuses: Some(strip(init)).filter(|v| !v.is_empty()),
        container_statuses: Some(strip(main)).filter(|v| !v.is_empty()),
        ephemeral_container_statuses: Some(strip(added)).filter(|v| !v.is_empty()),
        qos_class: Some(s.previous.qos_class.clone().unwrap_or_else(|| qos_class(s.pod).as_str().to_owned())),
        observed_generation: s.pod.metadata.generation,
        allocated_resources: whole.and_then(|r| r.requests.clone()),
        resources: given.cloned(),
        ..PodStatus::default()
    }
}

/// A container that ran once and whose end nobody saw ended in an unknown way; one that never ran stays waiting.
fn settle(s: &Snapshot<'_>, statuses: &mut [(Role, ContainerStatus)]) {
    for (_, status) in statuses {
        let running = status.state.as_ref().is_some_and(|st| st.running.is_some());
        if running {
            let message = "The container could not be located when the pod was terminated";
            status.state = Some(ended(unknown_end(message, s.latest(&status.name).map(|v| v.id.as_str()), s.now)));
            status.ready = false;
            status.started = Some(false);
        }
    }
}
