//! The node row.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{bool_at, list_at, str_at};
use crate::meta;
use crate::table::object_age;

fn address<'a>(o: &'a Value, kind: &str) -> &'a str {
    list_at(o, &["status", "addresses"])
        .iter()
        .find(|a| str_at(a, &["type"]) == kind)
        .map_or("<none>", |a| str_at(a, &["address"]))
}

fn roles(o: &Value) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in meta::labels(o).into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            roles.insert(role.to_owned());
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str().filter(|v| !v.is_empty()).map(str::to_owned));
        }
    }
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

pub(super) fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list_at(o, &["status", "conditions"]).iter().find(|c| str_at(c, &["type"]) == "Ready");
    let mut status = match ready {
        None => "Unknown".to_owned(),
        Some(c) if str_at(c, &["status"]) == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
    };
    if bool_at(o, &["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    let info = |key: &str| match str_at(o, &["status", "nodeInfo", key]) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    vec![
        json!(meta::name(o)),
        json!(status),
        json!(roles(o)),
        json!(object_age(o, now)),
        json!(str_at(o, &["status", "nodeInfo", "kubeletVersion"])),
        json!(address(o, "InternalIP")),
        json!(address(o, "ExternalIP")),
        json!(info("osImage")),
        json!(info("kernelVersion")),
        json!(info("containerRuntimeVersion")),
    ]
}
