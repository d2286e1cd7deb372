//! The pod row: readiness and the one word that says how the pod is.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{at, bool_at, int_at, list_at, str_at};
use crate::meta;
use crate::table::{age, object_age};

/// What the container statuses add up to.
#[derive(Default)]
struct Tally {
    restarts: i64,
    last_restart: Option<Timestamp>,
    ready: usize,
}

impl Tally {
    fn restarted(&mut self, status: &Value) {
        self.restarts += int_at(status, &["restartCount"]).unwrap_or(0);
        let finished = str_at(status, &["lastState", "terminated", "finishedAt"]).parse().ok();
        self.last_restart = self.last_restart.max(finished);
    }
}

fn condition(pod: &Value, kind: &str) -> bool {
    list_at(pod, &["status", "conditions"])
        .iter()
        .any(|c| str_at(c, &["type"]) == kind && str_at(c, &["status"]) == "True")
}

/// Why a terminated container is: its reason, else the signal or exit code.
fn terminated(state: &Value, prefix: &str) -> String {
    let reason = str_at(state, &["reason"]);
    if !reason.is_empty() {
        return format!("{prefix}{reason}");
    }
    match int_at(state, &["signal"]).unwrap_or(0) {
        0 => format!("{prefix}ExitCode:{}", int_at(state, &["exitCode"]).unwrap_or(0)),
        signal => format!("{prefix}Signal:{signal}"),
    }
}

/// The status word of a pod, as in kubectl's STATUS column.
pub(in crate::table) fn status_word(pod: &Value) -> String {
    summarize(pod).0
}

/// Status word, tally, number of containers that count for readiness.
fn summarize(pod: &Value) -> (String, Tally, usize) {
    let phase = str_at(pod, &["status", "phase"]);
    let mut reason = match str_at(pod, &["status", "reason"]) {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |c: &&Value| str_at(c, &["type"]) == "PodScheduled" && str_at(c, &["reason"]) == "SchedulingGated";
    if list_at(pod, &["status", "conditions"]).iter().any(|c| gated(&c)) {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars: BTreeSet<&str> = list_at(pod, &["spec", "initContainers"])
        .iter()
        .filter(|c| str_at(c, &["restartPolicy"]) == "Always")
        .map(|c| str_at(c, &["name"]))
        .collect();
    let total = list_at(pod, &["spec", "containers"]).len() + sidecars.len();
    let mut tally = Tally::default();
    let mut sidecar_tally = Tally::default();
    let initializing = init_reason(pod, &sidecars, &mut tally, &mut sidecar_tally);
    if let Some(word) = &initializing {
        reason.clone_from(word);
    }
    if initializing.is_none() || condition(pod, "Initialized") {
        tally.restarts = sidecar_tally.restarts;
        tally.last_restart = sidecar_tally.last_restart;
        if let Some(word) = running_reason(pod, &mut tally, &reason) {
            reason = word;
        }
    }
    if meta::is_deleting(pod) {
        if str_at(pod, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    (reason, tally, total)
}

/// The word of a pod whose init containers are not through, else none.
fn init_reason(pod: &Value, sidecars: &BTreeSet<&str>, tally: &mut Tally, sidecar_tally: &mut Tally) -> Option<String> {
    for (i, status) in list_at(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let sidecar = sidecars.contains(str_at(status, &["name"]));
        tally.restarted(status);
        if sidecar {
            sidecar_tally.restarted(status);
        }
        let ended = at(status, &["state", "terminated"]);
        if ended.is_some_and(|t| int_at(t, &["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && bool_at(status, &["started"]) {
            tally.ready += usize::from(bool_at(status, &["ready"]));
            continue;
        }
        if let Some(ended) = ended {
            return Some(terminated(ended, "Init:"));
        }
        return Some(match str_at(status, &["state", "waiting", "reason"]) {
            "" | "PodInitializing" => format!("Init:{i}/{}", list_at(pod, &["spec", "initContainers"]).len()),
            waiting => format!("Init:{waiting}"),
        });
    }
    None
}

/// The word the app containers give; the first container's wins.
fn running_reason(pod: &Value, tally: &mut Tally, reason: &str) -> Option<String> {
    let mut word = None;
    let mut running = false;
    for status in list_at(pod, &["status", "containerStatuses"]).iter().rev() {
        tally.restarted(status);
        let waiting = str_at(status, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            word = Some(waiting.to_owned());
        } else if let Some(ended) = at(status, &["state", "terminated"]) {
            word = Some(terminated(ended, ""));
        } else if bool_at(status, &["ready"]) && at(status, &["state", "running"]).is_some() {
            running = true;
            tally.ready += 1;
        }
    }
    if running && word.as_deref().unwrap_or(reason) == "Completed" {
        word = Some(if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned());
    }
    word
}

/// Passed gates of all gates.
fn gates(pod: &Value) -> String {
    let gates = list_at(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|g| condition(pod, str_at(g, &["conditionType"]))).count();
    format!("{passed}/{}", gates.len())
}

pub(super) fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (status, tally, total) = summarize(pod);
    let restarts = match tally.last_restart {
        Some(last) if tally.restarts != 0 => format!("{} ({} ago)", tally.restarts, age(Some(last), now)),
        _ => tally.restarts.to_string(),
    };
    let or_none = |s: &str| if s.is_empty() { "<none>".to_owned() } else { s.to_owned() };
    let ip = list_at(pod, &["status", "podIPs"]).first().map_or("", |p| str_at(p, &["ip"]));
    let ip = if ip.is_empty() { str_at(pod, &["status", "podIP"]) } else { ip };
    vec![
        json!(meta::name(pod)),
        json!(format!("{}/{total}", tally.ready)),
        json!(status),
        json!(restarts),
        json!(object_age(pod, now)),
        json!(or_none(ip)),
        json!(or_none(str_at(pod, &["spec", "nodeName"]))),
        json!(or_none(str_at(pod, &["status", "nominatedNodeName"]))),
        json!(gates(pod)),
    ]
}
