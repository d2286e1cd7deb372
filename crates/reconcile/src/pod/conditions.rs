//! The conditions a kubelet owns: `PodReadyToStartContainers`, `Initialized`, `Ready`, `ContainersReady`, `PodScheduled`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::stop::{Stop, StopCause};
use super::{Plan, Role, Sandbox, Snapshot};

/// Status, reason and message of a condition.
pub(super) type Verdict = (bool, Option<String>, Option<String>);

fn truth() -> Verdict {
    (true, None, None)
}

pub(super) fn because(reason: &str) -> Verdict {
    (false, Some(reason.to_owned()), None)
}

fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

fn initialized(s: &Snapshot<'_>, phase: &str, statuses: &[(Role, ContainerStatus)]) -> Verdict {
    let incomplete: Vec<&str> = statuses
        .iter()
        .filter(|(role, c)| match role {
            Role::Main | Role::Ephemeral => false,
            Role::Sidecar => c.started != Some(true),
            Role::Init => !c.ready,
        })
        .map(|(_, c)| c.name.as_str())
        .collect();
    if phase == "Succeeded" {
        return (true, Some("PodCompleted".to_owned()), None);
    }
    let began = statuses.iter().any(|(role, c)| *role == Role::Main && c.container_id.is_some());
    let held = |c: &PodCondition| c.type_ == "Initialized" && c.status == "True";
    // A pod that begins anew in its sandbox was initialized once, and stays so.
    let once = super::reset::possible(s.pod) && s.previous.conditions.iter().flatten().any(held);
    if incomplete.is_empty() || began || once {
        return truth();
    }
    let message = format!("containers with incomplete status: {}", names(&incomplete));
    (false, Some("ContainersNotInitialized".to_owned()), Some(message))
}

fn containers_ready(phase: &str, statuses: &[(Role, ContainerStatus)]) -> Verdict {
    match phase {
        "Succeeded" => return because("PodCompleted"),
        "Failed" => return because("PodFailed"),
        _ => {}
    }
    let unready: Vec<&str> = statuses
        .iter()
        .filter(|(role, c)| matches!(role, Role::Main | Role::Sidecar) && !c.ready)
        .map(|(_, c)| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return truth();
    }
    let message = format!("containers with unready status: {}", names(&unready));
    (false, Some("ContainersNotReady".to_owned()), Some(message))
}

fn ready(s: &Snapshot<'_>, containers: &Verdict) -> Verdict {
    if !containers.0 {
        return containers.clone();
    }
    let held = s.pod.status.as_ref().and_then(|st| st.conditions.as_ref());
    let mut missing = Vec::new();
    for gate in s.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()) {
        let kind = &gate.condition_type;
        match held.into_iter().flatten().find(|c| c.type_ == *kind) {
            None => missing.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    if missing.is_empty() {
        return truth();
    }
    (false, Some("ReadinessGatesNotReady".to_owned()), Some(missing.join(", ")))
}

/// The node's conditions, with the time of the last change kept where nothing changed.
pub(super) fn of(
    s: &Snapshot<'_>,
    stop: Option<&Stop>,
    phase: &str,
    statuses: &[(Role, ContainerStatus)],
    plan: &Plan,
) -> Vec<PodCondition> {
    let containers = containers_ready(phase, statuses);
    let sandbox = matches!(s.sandbox, Sandbox::Ready { .. }) && !s.memory.sandbox_stopped;
    let verdicts = [
        ("PodReadyToStartContainers", (sandbox, None, None)),
        ("Initialized", initialized(s, phase, statuses)),
        ("Ready", ready(s, &containers)),
        ("ContainersReady", containers),
        ("PodScheduled", truth()),
    ];
    let evicted = match stop.map(|s| &s.cause) {
        Some(StopCause::Evicted(why)) => {
            let verdict = (true, Some("TerminationByKubelet".to_owned()), Some(why.condition.clone()));
            Some(("DisruptionTarget", verdict))
        }
        _ => None,
    };
    let generation = s.pod.metadata.generation;
    let all = verdicts
        .into_iter()
        .chain(super::reset::condition(s, stop.is_some(), phase))
        .chain(evicted)
        .chain(resize(s, plan).into_iter().filter(|_| stop.is_none()).flatten());
    all.map(|(kind, verdict)| condition(s.previous, kind, verdict, generation, s.now)).collect()
}

/// What stands between the amounts a pod asks for and those it has.
fn resize(s: &Snapshot<'_>, plan: &Plan) -> [Option<(&'static str, Verdict)>; 2] {
    let pending = plan.resize_pending.as_ref();
    let pending = pending.map(|why| {
        ("PodResizePending", (true, Some(why.reason.clone()), Some(why.message.clone()).filter(|m| !m.is_empty())))
    });
    let error = s.memory.resize.error.as_ref();
    let progress = super::resize::in_progress(s, &plan.allocated).then(|| {
        let reason = error.map(|_| "Error".to_owned());
        ("PodResizeInProgress", (true, reason, error.map(|e| e.message.clone())))
    });
    [pending, progress]
}

fn condition(
    previous: &PodStatus,
    kind: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let (yes, reason, message) = verdict;
    let status = if yes { "True" } else { "False" };
    let before = previous.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: generation,
    }
}
