//! Daemon sets, cron jobs, replication controllers, pod templates, disruption budgets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::{count, label_line, selector, selector_line, template_containers};
use super::{AGE, CONTAINERS, IMAGES, NAME, col, wide};
use crate::json::{at, bool_at, list_at, map_at, str_at};
use crate::kinds::Columns;
use crate::meta;
use crate::table::{age, object_age};

/// Columns of daemon sets.
pub const DAEMON_SET: Columns = Columns {
    list: &[
        NAME,
        col("Desired", "integer", "Nodes that should run the pod."),
        col("Current", "integer", "Nodes that run a pod and should."),
        col("Ready", "integer", "Nodes whose pod is ready."),
        col("Up-to-date", "integer", "Nodes whose pod is of the newest template."),
        col("Available", "integer", "Nodes whose pod is ready for long enough."),
        col("Node Selector", "string", "Labels of the nodes."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: daemon_set,
};

fn template(o: &Value) -> &Value {
    at(o, &["spec", "template"]).unwrap_or(&Value::Null)
}

fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = template_containers(template(o));
    let mut row = vec![json!(meta::name(o))];
    for key in
        ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"]
    {
        row.push(json!(count(o, &["status", key])));
    }
    row.extend([
        json!(label_line(map_at(template(o), &["spec", "nodeSelector"]))),
        json!(object_age(o, now)),
        json!(names),
        json!(images),
        json!(selector(o)),
    ]);
    row
}

/// Columns of cron jobs.
pub const CRON_JOB: Columns = Columns {
    list: &[
        NAME,
        col("Schedule", "string", "When jobs start, in cron's notation."),
        col("Timezone", "string", "Time zone of the schedule."),
        col("Suspend", "boolean", "Whether no further jobs start."),
        col("Active", "integer", "Running jobs."),
        col("Last Schedule", "string", "Time since a job was last scheduled."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: cron_job,
};

fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let job = at(o, &["spec", "jobTemplate", "spec"]).unwrap_or(&Value::Null);
    let (names, images) = template_containers(at(job, &["template"]).unwrap_or(&Value::Null));
    let last =
        str_at(o, &["status", "lastScheduleTime"]).parse().map_or_else(|_| "<none>".to_owned(), |t| age(Some(t), now));
    let zone = match str_at(o, &["spec", "timeZone"]) {
        "" => "<none>",
        zone => zone,
    };
    let suspend = if bool_at(o, &["spec", "suspend"]) { "True" } else { "False" };
    vec![
        json!(meta::name(o)),
        json!(str_at(o, &["spec", "schedule"])),
        json!(zone),
        json!(suspend),
        json!(list_at(o, &["status", "active"]).len()),
        json!(last),
        json!(object_age(o, now)),
        json!(names),
        json!(images),
        json!(selector_line(at(job, &["selector"]))),
    ]
}

/// Columns of replication controllers.
pub const REPLICATION_CONTROLLER: Columns = Columns {
    list: &[
        NAME,
        col("Desired", "integer", "Wanted pods."),
        col("Current", "integer", "Existing pods."),
        col("Ready", "integer", "Ready pods."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "Labels of the pods."),
    ],
    row: |o, now| {
        let (names, images) = template_containers(template(o));
        vec![
            json!(meta::name(o)),
            json!(count(o, &["spec", "replicas"])),
            json!(count(o, &["status", "replicas"])),
            json!(count(o, &["status", "readyReplicas"])),
            json!(object_age(o, now)),
            json!(names),
            json!(images),
            json!(label_line(map_at(o, &["spec", "selector"]))),
        ]
    },
};

/// Columns of pod templates.
pub const POD_TEMPLATE: Columns = Columns {
    list: &[
        NAME,
        col("Containers", "string", "Container names of the template."),
        col("Images", "string", "Container images of the template."),
        col("Pod Labels", "string", "Labels of the pods."),
    ],
    row: |o, _| {
        let template = at(o, &["template"]).unwrap_or(&Value::Null);
        let (names, images) = template_containers(template);
        vec![json!(meta::name(o)), json!(names), json!(images), json!(label_line(meta::labels(template)))]
    },
};

/// Columns of pod disruption budgets.
pub const DISRUPTION_BUDGET: Columns = Columns {
    list: &[
        NAME,
        col("Min Available", "string", "Pods that must stay available."),
        col("Max Unavailable", "string", "Pods that may be unavailable."),
        col("Allowed Disruptions", "integer", "Pods that may be evicted now."),
        AGE,
    ],
    row: |o, now| {
        let bound = |key: &str| match at(o, &["spec", key]) {
            None => "N/A".to_owned(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        };
        vec![
            json!(meta::name(o)),
            json!(bound("minAvailable")),
            json!(bound("maxUnavailable")),
            json!(count(o, &["status", "disruptionsAllowed"])),
            json!(object_age(o, now)),
        ]
    },
};
