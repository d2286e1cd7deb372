//! How a container is, as the status of a pod.

use convert::Inspect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::Node;
use crate::pod::{CONTAINER_ID_SCHEME, qos_class};

/// Whether it has processes.
pub fn is_live(container: &Inspect) -> bool {
    matches!(container.state.status.as_str(), "running" | "paused")
}

/// Whether it has ended, and nothing starts it again. One that could not be started has ended, too.
pub fn is_over(container: &Inspect) -> bool {
    match container.state.status.as_str() {
        "exited" | "dead" => true,
        "created" => !container.state.error.is_empty(),
        _ => false,
    }
}

/// A time as Docker writes it; never is the year 1.
fn time(text: &str) -> Option<Timestamp> {
    let at: Timestamp = text.parse().ok()?;
    // Kubernetes' times have no fractions.
    (at > Timestamp::UNIX_EPOCH).then(|| Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn terminated(container: &Inspect) -> Value {
    let state = &container.state;
    let reason = match state {
        s if !s.error.is_empty() => "ContainerCannotRun",
        s if s.oom_killed => "OOMKilled",
        s if s.exit_code == 0 => "Completed",
        _ => "Error",
    };
    let mut made = json!({
        "exitCode": state.exit_code, "reason": reason, "containerID": format!("{CONTAINER_ID_SCHEME}{}", container.id),
        "startedAt": time(&state.started_at), "finishedAt": time(&state.finished_at),
    });
    if !state.error.is_empty() {
        made["message"] = state.error.clone().into();
    }
    made
}

fn state_of(container: &Inspect) -> Value {
    match container.state.status.as_str() {
        "running" | "paused" => json!({"running": {"startedAt": time(&container.state.started_at)}}),
        "restarting" => {
            let message = format!("its restart policy starts container {} again", container.plain_name());
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
        }
        _ if is_over(container) => json!({"terminated": terminated(container)}),
        _ => json!({"waiting": {"reason": "Created", "message": "the container was made and not started"}}),
    }
}

/// Why it is not ready, if it is not.
fn unready(container: &Inspect) -> Option<(&'static str, String)> {
    let named = |what: &str| format!("container {} {what}", container.plain_name());
    let health = container.state.health.as_ref().map(|h| h.status.as_str());
    match (container.state.status.as_str(), health) {
        ("running", Some("starting")) => Some(("ContainersNotReady", named("was not found healthy yet"))),
        ("running", Some("unhealthy")) => Some(("ContainersNotReady", named("is unhealthy"))),
        ("running", _) => None,
        ("paused", _) => Some(("ContainersNotReady", named("is paused"))),
        _ if is_over(container) && container.state.exit_code == 0 => Some(("PodCompleted", String::new())),
        _ if is_over(container) => Some(("PodFailed", String::new())),
        (other, _) => Some(("ContainersNotReady", named(&format!("is {other}")))),
    }
}

/// Whether a condition holds, and where not, its reason and message.
type Holds<'a> = (bool, Option<(&'a str, String)>);

fn conditions(container: &Inspect, pod: &Pod, now: Timestamp) -> Vec<Value> {
    let ready = match unready(container) {
        None => (true, None),
        Some((reason, message)) => (false, Some((reason, message))),
    };
    let all = [
        ("PodReadyToStartContainers", (is_live(container), None)),
        ("Initialized", (true, None)),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
        ("PodScheduled", (true, None)),
    ];
    let before = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let one = |(kind, (holds, why)): (&str, Holds)| {
        let status = if holds { "True" } else { "False" };
        let same = before.clone().find(|c| c.type_ == kind && c.status == status);
        let since = same.and_then(|c| c.last_transition_time.as_ref()).map_or(now, |t| t.0);
        let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
        let mut made = json!({"type": kind, "status": status, "lastTransitionTime": since});
        if let Some((reason, message)) = why {
            made["reason"] = reason.into();
            if !message.is_empty() {
                made["message"] = message.into();
            }
        }
        made
    };
    all.into_iter().map(one).collect()
}

/// What is to be said of the pod.
pub fn of(container: &Inspect, pod: &Pod, node: &Node, now: Timestamp) -> PodStatus {
    let phase = match container.state.status.as_str() {
        _ if is_over(container) => {
            if container.state.exit_code == 0 {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        "created" => "Pending",
        _ => "Running",
    };
    let name = pod.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.as_str()).unwrap_or_default();
    let live = is_live(container);
    let mut main = json!({
        "name": name, "image": container.config.image, "imageID": container.image,
        "containerID": format!("{CONTAINER_ID_SCHEME}{}", container.id),
        "restartCount": container.restart_count, "ready": unready(container).is_none(), "started": live,
        "state": state_of(container),
    });
    // Docker forgets how it ended as soon as it runs again.
    let before = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).next();
    match before.and_then(|c| c.last_state.as_ref()) {
        _ if container.state.status == "restarting" => main["lastState"] = json!({"terminated": terminated(container)}),
        Some(last) if live && container.restart_count > 0 => main["lastState"] = json!(last),
        _ => {}
    }
    let mut status = json!({
        "phase": phase, "conditions": conditions(container, pod, now), "qosClass": qos_class(pod).as_str(),
        "hostIP": node.ip, "hostIPs": [{"ip": node.ip}], "startTime": time(&container.created),
        "containerStatuses": [main],
    });
    let host = (container.host_config.network_mode == "host").then(|| node.ip.to_string());
    let own = container.network_settings.address().map(str::to_owned);
    if let Some(ip) = host.or(own).filter(|_| live) {
        status["podIPs"] = json!([{"ip": ip}]);
        status["podIP"] = ip.into();
    }
    serde_json::from_value(status).expect("every field is of its type")
}
