//! A service as it is kept, and as Docker shows it. Pure.

use dockerapi::swarm::{Fault, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::{self, DAEMON_SETS, DEPLOYMENTS, JOBS, Kind, RECORD, text};
use crate::tasks;
use crate::workload::TEMPLATE;

/// What Docker knows of a service and Kubernetes does not; an annotation of its workload.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The spec, as it was sent.
    pub spec: Value,
    /// The one before it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub previous: Value,
    /// Counts what is written of it: who writes says which one he has seen.
    pub version: u64,
    /// When it was written.
    pub updated: String,
    /// Its published ports, with the numbers that they got.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Value>,
    /// New tasks take the place of the old since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Rollout>,
    /// Its image is pulled with credentials.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pull: bool,
}

/// New tasks in the place of old ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rollout {
    /// When it began.
    pub started: String,
    /// It goes back to the spec of before.
    pub rollback: bool,
    /// The task whose failure made it go back.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub because: String,
}

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// What its workload is.
    pub kind: Kind,
    /// The workload.
    pub object: Value,
    /// What Docker knows of it.
    pub record: Record,
}

impl Service {
    /// From its workload; `None` when that has no record that can be read.
    pub fn of(kind: Kind, object: Value) -> Option<Service> {
        let record = serde_json::from_str(object["metadata"]["annotations"][RECORD].as_str()?).ok()?;
        Some(Service { kind, object, record })
    }

    /// Docker's id.
    pub fn id(&self) -> String {
        cluster::id(&self.object)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        text(&self.record.spec["Name"])
    }

    /// The name of its workload, which its pods carry as a label.
    pub fn object_name(&self) -> &str {
        text(&self.object["metadata"]["name"])
    }

    /// Of which template its tasks are, when they are as they should be.
    pub fn template(&self) -> &str {
        text(&self.object["spec"]["template"]["metadata"]["annotations"][TEMPLATE])
    }

    /// How many tasks there should be.
    pub fn desired(&self) -> u64 {
        let number = |v: &Value| v.as_u64().unwrap_or_default();
        match self.kind {
            DEPLOYMENTS => number(&self.object["spec"]["replicas"]),
            DAEMON_SETS => number(&self.object["status"]["desiredNumberScheduled"]),
            _ => {
                let (most, done) =
                    (number(&self.object["spec"]["completions"]), number(&self.object["status"]["succeeded"]));
                number(&self.object["spec"]["parallelism"]).min(most.saturating_sub(done))
            }
        }
    }

    /// Whether all its tasks are as they should be.
    pub fn is_settled(&self) -> bool {
        let (status, spec) = (&self.object["status"], &self.object["spec"]);
        let number = |v: &Value| v.as_i64().unwrap_or_default();
        if number(&status["observedGeneration"]) < number(&self.object["metadata"]["generation"]) {
            return false;
        }
        let (wanted, counts) = match self.kind {
            DEPLOYMENTS => (number(&spec["replicas"]), ["replicas", "updatedReplicas", "availableReplicas"]),
            DAEMON_SETS => (
                number(&status["desiredNumberScheduled"]),
                ["currentNumberScheduled", "updatedNumberScheduled", "numberAvailable"],
            ),
            _ => return true,
        };
        counts.iter().all(|c| number(&status[*c]) == wanted)
    }

    /// The task of the newest template that has failed, if one has.
    pub fn failed<'a>(&self, pods: impl Iterator<Item = &'a Value>) -> Option<String> {
        pods.filter(|p| tasks::is_of(p, self) && tasks::template(p) == self.template()).find_map(tasks::failure)
    }

    /// How its last update goes; `pods` are those of the swarm.
    pub fn update_status(&self, pods: &[Value]) -> Value {
        let Some(rollout) = &self.record.update else { return Value::Null };
        let goes_on = self.record.spec["UpdateConfig"]["FailureAction"] == "continue";
        let word = if rollout.rollback { "rollback" } else { "update" };
        let failed = || self.failed(pods.iter()).filter(|_| !goes_on);
        let (state, message) = match (self.is_settled(), rollout.rollback) {
            (true, true) => ("rollback_completed", "rollback completed".to_owned()),
            (true, false) => ("completed", "update completed".to_owned()),
            (false, back) => match failed() {
                Some(task) => (
                    if back { "rollback_paused" } else { "paused" },
                    format!("{word} paused due to failure or early termination of task {task}"),
                ),
                None if !rollout.because.is_empty() => (
                    "rollback_started",
                    format!("update rolled back due to failure or early termination of task {}", rollout.because),
                ),
                None => (if back { "rollback_started" } else { "updating" }, format!("{word} in progress")),
            },
        };
        let mut document = json!({"State": state, "StartedAt": rollout.started, "Message": message});
        if self.is_settled() {
            let conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
            let done = conditions.filter(|c| c["type"] == "Progressing").find_map(|c| c["lastUpdateTime"].as_str());
            document["CompletedAt"] = done.unwrap_or(&rollout.started).into();
        }
        document
    }

    /// As Docker shows it.
    pub fn document(&self, pods: &[Value], with_status: bool) -> Value {
        let record = &self.record;
        let mut spec = record.spec.clone();
        if spec["Labels"].is_null() {
            spec["Labels"] = json!({});
        }
        if spec["EndpointSpec"]["Mode"].is_null() {
            spec["EndpointSpec"]["Mode"] = "vip".into();
        }
        let mut document = json!({
            "ID": self.id(), "Version": {"Index": record.version}, "CreatedAt": self.object["metadata"]["creationTimestamp"],
            "UpdatedAt": record.updated, "Endpoint": {"Spec": spec["EndpointSpec"]}, "Spec": spec,
        });
        if !record.previous.is_null() {
            document["PreviousSpec"] = record.previous.clone();
        }
        if !record.ports.is_empty() {
            document["Endpoint"]["Ports"] = record.ports.clone().into();
        }
        let update = self.update_status(pods);
        if !update.is_null() {
            document["UpdateStatus"] = update;
        }
        if self.kind == JOBS {
            let began = &self.object["metadata"]["creationTimestamp"];
            document["JobStatus"] = json!({"JobIteration": {"Index": 0}, "LastExecution": began});
        }
        if with_status {
            let own = pods.iter().filter(|p| tasks::is_of(p, self));
            let running = own.filter(|p| tasks::is_running(p)).count();
            let completed = self.object["status"]["succeeded"].as_u64().unwrap_or_default();
            document["ServiceStatus"] =
                json!({"RunningTasks": running, "DesiredTasks": self.desired(), "CompletedTasks": completed});
        }
        document
    }
}

/// The one of that id, name, or beginning of an id.
///
/// # Errors
/// 404; 400 when several ids begin so.
pub fn pick<'a, T>(
    all: &'a [T],
    what: &str,
    wanted: &str,
    id: impl Fn(&T) -> String,
    name: impl Fn(&T) -> String,
) -> Result<&'a T> {
    if let Some(found) = all.iter().find(|t| id(t) == wanted).or_else(|| all.iter().find(|t| name(t) == wanted)) {
        return Ok(found);
    }
    let fitting: Vec<&T> = all.iter().filter(|t| !wanted.is_empty() && id(t).starts_with(wanted)).collect();
    match fitting[..] {
        [one] => Ok(one),
        [] => Err(Fault::missing(format!("{what} {wanted} not found"))),
        _ => Err(Fault::bad(format!("{what} {wanted} is ambiguous ({} matches found)", fitting.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(update: Option<Rollout>, status: Value) -> Service {
        let record = Record { spec: json!({"Name": "web"}), version: 3, update, ..Record::default() };
        let object = json!({
            "metadata": {"name": "web", "uid": "1", "generation": 2, "annotations": {RECORD: json!(record).to_string()}},
            "spec": {"replicas": 2, "template": {"metadata": {"annotations": {TEMPLATE: "new"}}}}, "status": status,
        });
        Service::of(DEPLOYMENTS, object).unwrap()
    }

    #[test]
    fn an_update_is_told_until_all_tasks_are_new() {
        let rollout = Rollout { started: "2026-01-01T00:00:00Z".to_owned(), ..Rollout::default() };
        let settled = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        let state = |s: &Service, pods: &[Value]| text(&s.update_status(pods)["State"]).to_owned();
        assert_eq!(state(&service(None, settled.clone()), &[]), "");
        assert_eq!(state(&service(Some(rollout.clone()), settled.clone()), &[]), "completed");
        let mut behind = settled.clone();
        behind["observedGeneration"] = json!(1);
        assert_eq!(state(&service(Some(rollout.clone()), behind.clone()), &[]), "updating");
        let back = Rollout { rollback: true, ..rollout.clone() };
        assert_eq!(state(&service(Some(back.clone()), behind.clone()), &[]), "rollback_started");
        assert_eq!(state(&service(Some(back), settled), &[]), "rollback_completed");
        let pod = json!({
            "metadata": {"uid": "2", "labels": {"app.kubernetes.io/name": "web"}, "annotations": {TEMPLATE: "new"}},
            "status": {"containerStatuses": [{"restartCount": 1}]},
        });
        let paused = service(Some(rollout), behind);
        assert_eq!(state(&paused, std::slice::from_ref(&pod)), "paused");
        let mut old = pod;
        old["metadata"]["annotations"][TEMPLATE] = json!("old");
        assert_eq!(state(&paused, &[old]), "updating");
    }

    #[test]
    fn names_come_before_beginnings_of_ids() {
        let all = [("abc", "x"), ("abd", "ab")];
        let find = |wanted| pick(&all, "service", wanted, |t| t.0.to_owned(), |t| t.1.to_owned());
        assert_eq!(find("ab").unwrap().0, "abd");
        assert_eq!(find("abc").unwrap().1, "x");
        assert_eq!(find("a").unwrap_err().message, "service a is ambiguous (2 matches found)");
        assert_eq!(find("z").unwrap_err().message, "service z not found");
    }
}
