//! Rows of workloads.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::json::{at, int_at, list_at, map_at, str_at};
use crate::meta;
use crate::selectors::LabelSelector;
use crate::table::{human_duration, object_age};

pub(super) fn count(o: &Value, path: &[&str]) -> i64 {
    int_at(o, path).unwrap_or(0)
}

/// Container names and images of the template at `spec.template`.
fn containers(o: &Value) -> (String, String) {
    template_containers(at(o, &["spec", "template"]).unwrap_or(&Value::Null))
}

/// Container names and images of a template.
pub(super) fn template_containers(template: &Value) -> (String, String) {
    let list = list_at(template, &["spec", "containers"]);
    let join = |key: &str| list.iter().map(|c| str_at(c, &[key])).collect::<Vec<_>>().join(",");
    (join("name"), join("image"))
}

/// A metav1 selector on one line.
pub(super) fn selector(o: &Value) -> String {
    selector_line(at(o, &["spec", "selector"]))
}

/// A metav1 selector on one line.
pub(super) fn selector_line(selector: Option<&Value>) -> String {
    match selector.map(LabelSelector::from_json) {
        None => "<none>".to_owned(),
        Some(Err(_)) => "<error>".to_owned(),
        Some(Ok(s)) if s.is_everything() => "<none>".to_owned(),
        Some(Ok(s)) => s.to_string(),
    }
}

/// `k=v` pairs of a plain map on one line.
pub(super) fn label_line(labels: Option<&Map<String, Value>>) -> String {
    match labels.filter(|l| !l.is_empty()) {
        None => "<none>".to_owned(),
        Some(l) => l.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect::<Vec<_>>().join(","),
    }
}

pub(super) fn deployment(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(o);
    let ready = format!("{}/{}", count(o, &["status", "readyReplicas"]), count(o, &["spec", "replicas"]));
    vec![
        json!(meta::name(o)),
        json!(ready),
        json!(count(o, &["status", "updatedReplicas"])),
        json!(count(o, &["status", "availableReplicas"])),
        json!(object_age(o, now)),
        json!(names),
        json!(images),
        json!(selector(o)),
    ]
}

pub(super) fn replica_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(o);
    vec![
        json!(meta::name(o)),
        json!(count(o, &["spec", "replicas"])),
        json!(count(o, &["status", "replicas"])),
        json!(count(o, &["status", "readyReplicas"])),
        json!(object_age(o, now)),
        json!(names),
        json!(images),
        json!(selector(o)),
    ]
}

pub(super) fn stateful_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = containers(o);
    let ready = format!("{}/{}", count(o, &["status", "readyReplicas"]), count(o, &["spec", "replicas"]));
    vec![json!(meta::name(o)), json!(ready), json!(object_age(o, now)), json!(names), json!(images)]
}

fn job_status(o: &Value) -> &'static str {
    let has = |kind: &str| {
        let conditions = list_at(o, &["status", "conditions"]);
        conditions.iter().any(|c| str_at(c, &["type"]) == kind && str_at(c, &["status"]) == "True")
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if meta::is_deleting(o) => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = count(o, &["status", "succeeded"]);
    let completions = match (int_at(o, &["spec", "completions"]), count(o, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |key: &str| str_at(o, &["status", key]).parse::<Timestamp>().ok();
    let duration = match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now).as_second() - start.as_second()),
    };
    let (names, images) = containers(o);
    vec![
        json!(meta::name(o)),
        json!(job_status(o)),
        json!(completions),
        json!(duration),
        json!(object_age(o, now)),
        json!(names),
        json!(images),
        json!(selector(o)),
    ]
}

pub(super) fn controller_revision(o: &Value, now: Timestamp) -> Vec<Value> {
    let owners = list_at(o, &["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|r| crate::json::bool_at(r, &["controller"])).map_or_else(
        || "<none>".to_owned(),
        |r| {
            let (group, _) = crate::kinds::split_api_version(str_at(r, &["apiVersion"]));
            let kind = crate::status::qualified_resource(&str_at(r, &["kind"]).to_lowercase(), group);
            format!("{kind}/{}", str_at(r, &["name"]))
        },
    );
    vec![json!(meta::name(o)), json!(controller), json!(count(o, &["revision"])), json!(object_age(o, now))]
}

/// Number of entries of the map at `path`.
pub(super) fn entries(o: &Value, path: &[&str]) -> usize {
    map_at(o, path).map_or(0, Map::len)
}
