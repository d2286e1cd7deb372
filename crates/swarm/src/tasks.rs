//! Pods as Docker's tasks. Pure.
//!
//! A pod is a task of its service. The run of its container that is now is the task; the run before it, if there was one, is a task
//! that has ended, as swarmkit makes a new task where Kubernetes starts a container again.

use std::collections::BTreeMap;

use convert::NAME;
use dockerapi::swarm::Filters;
use serde_json::{Value, json};

use crate::cluster::{self, JOBS, id_of, text};
use crate::record::{Service, pick};
use crate::workload::TEMPLATE;

/// Reasons for which a container does not come to its start: swarmkit calls such tasks rejected.
const REJECTED: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
];

/// Whether a pod is of a service.
pub fn is_of(pod: &Value, service: &Service) -> bool {
    pod["metadata"]["labels"][NAME] == service.object_name()
}

/// Of which template a pod is.
pub fn template(pod: &Value) -> &str {
    text(&pod["metadata"]["annotations"][TEMPLATE])
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn attempt(pod: &Value) -> u64 {
    container(pod)["restartCount"].as_u64().unwrap_or_default()
}

fn is_leaving(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_over(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// The id of a pod's task that is now.
pub fn id(pod: &Value) -> String {
    id_of(text(&pod["metadata"]["uid"]), attempt(pod))
}

/// Whether its task runs and should.
pub fn is_running(pod: &Value) -> bool {
    !is_leaving(pod) && state(pod).0 == "running"
}

/// The task that has failed, if the pod has.
pub fn failure(pod: &Value) -> Option<String> {
    if is_leaving(pod) {
        return None;
    }
    if attempt(pod) > 0 {
        return Some(id_of(text(&pod["metadata"]["uid"]), attempt(pod) - 1));
    }
    matches!(state(pod).0, "rejected" | "failed").then(|| id(pod))
}

fn ended(terminated: &Value) -> (&'static str, String) {
    let code = terminated["exitCode"].as_i64().unwrap_or_default();
    match (code, text(&terminated["reason"])) {
        (0, _) => ("complete", String::new()),
        (_, "StartError" | "ContainerCannotRun") => ("rejected", text(&terminated["message"]).to_owned()),
        (code, "OOMKilled") => ("failed", format!("task: non-zero exit ({code}): out of memory")),
        (code, _) => ("failed", format!("task: non-zero exit ({code})")),
    }
}

/// State, message and error of a pod's task that is now.
fn state(pod: &Value) -> (&'static str, &'static str, String) {
    let status = &pod["status"];
    let none = String::new;
    let (waiting, running, terminated) = (
        &container(pod)["state"]["waiting"],
        &container(pod)["state"]["running"],
        &container(pod)["state"]["terminated"],
    );
    let condition = |name: &str| {
        let all = status["conditions"].as_array().into_iter().flatten();
        all.filter(|c| c["type"] == name).map(|c| (c["status"] == "True", text(&c["message"]).to_owned())).next()
    };
    match text(&status["phase"]) {
        "Failed" if !terminated.is_object() => {
            let why = [text(&status["message"]), text(&status["reason"])].into_iter().find(|w| !w.is_empty());
            return ("rejected", "rejected", why.unwrap_or("the pod failed").to_owned());
        }
        "Pending" | "" if text(&pod["spec"]["nodeName"]).is_empty() => {
            let why = condition("PodScheduled").filter(|(done, _)| !done).map(|(_, message)| message);
            let why = why.filter(|w| !w.is_empty()).map(|w| format!("no suitable node ({w})"));
            return ("pending", "pending task scheduling", why.unwrap_or_default());
        }
        _ => {}
    }
    if terminated.is_object() {
        let (state, why) = ended(terminated);
        return (state, if state == "complete" { "finished" } else { "started" }, why);
    }
    if running.is_object() {
        let ready = container(pod)["ready"] == true || condition("Ready").is_some_and(|(ready, _)| ready);
        return match ready {
            true => ("running", "started", none()),
            false => ("starting", "starting", none()),
        };
    }
    match text(&waiting["reason"]) {
        reason if REJECTED.contains(&reason) => ("rejected", "preparing", text(&waiting["message"]).to_owned()),
        "CrashLoopBackOff" => ("ready", "ready", none()),
        _ => ("preparing", "preparing", none()),
    }
}

/// Whether nobody else has its number: one that has failed is replaced, one of a job that is complete is not.
fn holds(pod: &Value) -> bool {
    !is_leaving(pod) && pod["status"]["phase"] != "Failed"
}

/// The numbers of pods in their services, by UID. Who has one keeps it; one of a newer template may have that of an old one, whose place
/// it takes.
pub fn slots(pods: &[Value], known: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut sorted: Vec<&Value> = pods.iter().collect();
    sorted.sort_by_key(|p| (text(&p["metadata"]["creationTimestamp"]), text(&p["metadata"]["name"])));
    let mut given = BTreeMap::new();
    let key = |p: &Value| (text(&p["metadata"]["labels"][NAME]).to_owned(), template(p).to_owned());
    let mut held: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    let uid = |p: &Value| text(&p["metadata"]["uid"]).to_owned();
    for pod in &sorted {
        if let Some(slot) = known.get(&uid(pod)) {
            given.insert(uid(pod), *slot);
            if holds(pod) {
                held.entry(key(pod)).or_default().push(*slot);
            }
        }
    }
    for pod in &sorted {
        if given.contains_key(&uid(pod)) {
            continue;
        }
        let held = held.entry(key(pod)).or_default();
        let slot = (1..).find(|n| !held.contains(n)).unwrap_or(1);
        given.insert(uid(pod), slot);
        if holds(pod) {
            held.push(slot);
        }
    }
    given
}

/// The tasks of a pod: the one that is now, and the run before it.
fn documents(pod: &Value, service: &Service, slot: u64, node: &str) -> Vec<Value> {
    let (uid, attempt) = (text(&pod["metadata"]["uid"]), attempt(pod));
    let created = &pod["metadata"]["creationTimestamp"];
    let (state, message, error) = state(pod);
    let container = container(pod);
    let (now, last) = (&container["state"], &container["lastState"]["terminated"]);
    let since = [&now["running"]["startedAt"], &now["terminated"]["finishedAt"], &last["finishedAt"]];
    let since = since.into_iter().find(|v| v.is_string()).unwrap_or(created);
    let mut spec = service.record.spec["TaskTemplate"].clone();
    spec["ContainerSpec"]["Image"] = pod["spec"]["containers"][0]["image"].clone();
    let desired = match (is_leaving(pod), service.kind == JOBS) {
        (true, _) => "shutdown",
        (false, true) => "complete",
        (false, false) if is_over(pod) => "shutdown",
        (false, false) => "running",
    };
    let document = |attempt: u64, began: &Value, desired: &str, status: Value| {
        let mut document = json!({
            "ID": id_of(uid, attempt), "Version": {"Index": attempt + 1}, "CreatedAt": began, "UpdatedAt": status["Timestamp"],
            "Labels": {}, "Spec": spec, "ServiceID": service.id(), "Status": status, "DesiredState": desired,
            "NetworksAttachments": [],
        });
        if service.kind != cluster::DAEMON_SETS {
            // Those of jobs begin with 0 (swarmkit), and clients count on it.
            document["Slot"] = if service.kind == JOBS { slot.saturating_sub(1) } else { slot }.into();
        }
        if service.kind == JOBS {
            // A job is never begun again: it is made anew.
            document["JobIteration"] = json!({"Index": 0});
        }
        if !node.is_empty() {
            document["NodeID"] = node.into();
        }
        document
    };
    let docker_id = |full: &Value| text(full).rsplit('/').next().unwrap_or_default().to_owned();
    let mut status = json!({"Timestamp": since, "State": state, "Message": message, "PortStatus": {}});
    if !error.is_empty() {
        status["Err"] = error.into();
    }
    if container["containerID"].is_string() {
        let code = now["terminated"]["exitCode"].as_i64().unwrap_or_default();
        status["ContainerStatus"] =
            json!({"ContainerID": docker_id(&container["containerID"]), "PID": 0, "ExitCode": code});
    }
    let began = if attempt > 0 { since } else { created };
    let mut all = vec![document(attempt, began, desired, status)];
    if attempt > 0 && last.is_object() {
        let (state, error) = ended(last);
        let mut status = json!({
            "Timestamp": last["finishedAt"], "State": state, "Message": "started", "PortStatus": {},
            "ContainerStatus": {"ContainerID": docker_id(&last["containerID"]), "PID": 0, "ExitCode": last["exitCode"]},
        });
        if !error.is_empty() {
            status["Err"] = error.into();
        }
        all.push(document(attempt - 1, &last["startedAt"], "shutdown", status));
    }
    all
}

/// A task with what filters ask of it.
#[derive(Debug, Clone)]
pub struct Task {
    /// As Docker shows it.
    pub document: Value,
    /// `SERVICE.SLOT`, or `SERVICE.NODE`.
    pub name: String,
    /// The pod that it is or was.
    pub pod: String,
    /// It is of its service's newest template.
    current: bool,
    /// The node's name.
    node: String,
}

impl Task {
    /// Docker's id.
    pub fn id(&self) -> &str {
        text(&self.document["ID"])
    }

    /// Whether it is the one that its pod has now.
    pub fn is_now(&self) -> bool {
        self.document["DesiredState"] != "shutdown"
    }

    /// Whether it is wanted; `services` are the swarm's, of which filters may give the names.
    pub fn fits(&self, filters: &Filters, service: &Service) -> bool {
        let document = &self.document;
        let begins = |whole: &str, wanted: &str| !wanted.is_empty() && whole.starts_with(wanted);
        let labels = service.record.spec["Labels"].as_object().into_iter().flatten();
        let labels = labels.map(|(k, v)| (k.clone(), text(v).to_owned())).collect();
        filters.any("id", |v| begins(self.id(), v))
            && filters.any("name", |v| begins(&self.name, v))
            && filters.any("service", |v| begins(&service.id(), v) || service.name() == v)
            && filters.any("node", |v| begins(text(&document["NodeID"]), v) || self.node == v)
            && filters.any("desired-state", |v| document["DesiredState"] == v)
            && filters.any("runtime", |v| v == "container")
            && filters.any("_up-to-date", |v| self.current == (v == "true") && (self.is_now() || v != "true"))
            && filters.any("up-to-date", |v| self.current == (v == "true"))
            && filters.labels(&labels)
    }
}

/// All tasks of these pods, with their services; `nodes` are ids by name.
pub fn all<'a>(
    pods: &[Value],
    services: &'a [Service],
    slots: &BTreeMap<String, u64>,
    nodes: &BTreeMap<String, String>,
) -> Vec<(Task, &'a Service)> {
    let mut found = Vec::new();
    for pod in pods {
        let Some(service) = services.iter().find(|s| is_of(pod, s)) else { continue };
        let node = text(&pod["spec"]["nodeName"]);
        let node_id = nodes.get(node).map_or("", String::as_str);
        let slot = slots.get(text(&pod["metadata"]["uid"])).copied().unwrap_or_default();
        let current = template(pod) == service.template();
        for document in documents(pod, service, slot, node_id) {
            let place = document["Slot"].as_u64().map_or_else(|| node_id.to_owned(), |slot| slot.to_string());
            let (name, pod) = (format!("{}.{place}", service.name()), text(&pod["metadata"]["name"]).to_owned());
            found.push((Task { document, name, pod, current, node: node.to_owned() }, service));
        }
    }
    found
}

/// The task of that id, name, or beginning of an id.
///
/// # Errors
/// As [`pick`].
pub fn find<'a, 'b>(all: &'b [(Task, &'a Service)], wanted: &str) -> dockerapi::swarm::Result<&'b (Task, &'a Service)> {
    pick(all, "task", wanted, |(t, _)| t.id().to_owned(), |(t, _)| format!("{}.{}", t.name, t.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, template: &str, state: Value) -> Value {
        json!({
            "metadata": {"uid": uid, "name": uid, "creationTimestamp": format!("2026-01-01T00:00:0{uid}Z"),
                         "labels": {NAME: "web"}, "annotations": {TEMPLATE: template}},
            "spec": {"nodeName": "n", "containers": [{"image": "web:1"}]},
            "status": {"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 0, "state": state}]},
        })
    }

    #[test]
    fn states_are_dockers() {
        let of = |state: Value| super::state(&pod("1", "a", state)).0;
        assert_eq!(of(json!({"running": {"startedAt": "x"}})), "running");
        assert_eq!(of(json!({"waiting": {"reason": "ContainerCreating"}})), "preparing");
        assert_eq!(of(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no"}})), "rejected");
        assert_eq!(of(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "ready");
        assert_eq!(of(json!({"terminated": {"exitCode": 0}})), "complete");
        assert_eq!(of(json!({"terminated": {"exitCode": 3}})), "failed");
        let mut waits = pod("1", "a", json!({}));
        waits["spec"]["nodeName"] = Value::Null;
        waits["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]});
        assert_eq!(super::state(&waits).2, "no suitable node (0/1 nodes are available)");
    }

    #[test]
    fn slots_are_kept_and_given_on() {
        let running = json!({"running": {}});
        let pods = [pod("1", "a", running.clone()), pod("2", "a", running.clone())];
        let first = slots(&pods, &BTreeMap::new());
        assert_eq!((first["1"], first["2"]), (1, 2));
        // The first is gone: who comes has its number; one of a new template has that of whom it replaces.
        let pods = [pods[1].clone(), pod("3", "a", running.clone()), pod("4", "b", running)];
        let next = slots(&pods, &first);
        assert_eq!((next["2"], next["3"], next["4"]), (2, 1, 1));
    }
}
