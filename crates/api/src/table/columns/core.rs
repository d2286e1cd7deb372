//! Rows of configuration, namespaces, events, leases.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::entries;
use crate::json::{at, int_at, str_at};
use crate::meta;
use crate::table::{age, object_age};

pub(super) fn plain(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(meta::name(o)), json!(object_age(o, now))]
}

pub(super) fn created_at(o: &Value, _: Timestamp) -> Vec<Value> {
    vec![json!(meta::name(o)), json!(str_at(o, &["metadata", "creationTimestamp"]))]
}

pub(super) fn config_map(o: &Value, now: Timestamp) -> Vec<Value> {
    let keys = entries(o, &["data"]) + entries(o, &["binaryData"]);
    vec![json!(meta::name(o)), json!(keys.to_string()), json!(object_age(o, now))]
}

pub(super) fn secret(o: &Value, now: Timestamp) -> Vec<Value> {
    let keys = entries(o, &["data"]).to_string();
    vec![json!(meta::name(o)), json!(str_at(o, &["type"])), json!(keys), json!(object_age(o, now))]
}

pub(super) fn namespace(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(meta::name(o)), json!(str_at(o, &["status", "phase"])), json!(object_age(o, now))]
}

pub(super) fn lease(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![json!(meta::name(o)), json!(str_at(o, &["spec", "holderIdentity"])), json!(object_age(o, now))]
}

/// Both event APIs share this row; the first name is core's, the second that of events.k8s.io.
fn either<'a>(o: &'a Value, core: &str, events: &str) -> &'a str {
    match str_at(o, &[core]) {
        "" => str_at(o, &[events]),
        text => text,
    }
}

fn reporter(o: &Value) -> String {
    let source = at(o, &["source"]).or_else(|| at(o, &["deprecatedSource"])).unwrap_or(&Value::Null);
    let component = match str_at(source, &["component"]) {
        "" => either(o, "reportingComponent", "reportingController"),
        component => component,
    };
    match str_at(source, &["host"]) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

pub(super) fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let since = |text: &str| text.parse::<Timestamp>().ok().map(|t| age(Some(t), now));
    let unknown = || "<unknown>".to_owned();
    let first = since(either(o, "firstTimestamp", "deprecatedFirstTimestamp"))
        .or_else(|| since(str_at(o, &["eventTime"])))
        .unwrap_or_else(unknown);
    let mut last = since(either(o, "lastTimestamp", "deprecatedLastTimestamp")).unwrap_or_else(|| first.clone());
    let mut count = int_at(o, &["count"]).or_else(|| int_at(o, &["deprecatedCount"])).unwrap_or(0).max(1);
    if let Some(series) = at(o, &["series"]) {
        last = since(str_at(series, &["lastObservedTime"])).unwrap_or_else(unknown);
        count = int_at(series, &["count"]).unwrap_or(0);
    }
    let regarding = at(o, &["involvedObject"]).or_else(|| at(o, &["regarding"])).unwrap_or(&Value::Null);
    let kind = str_at(regarding, &["kind"]).to_lowercase();
    let target = match str_at(regarding, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        json!(last),
        json!(str_at(o, &["type"])),
        json!(str_at(o, &["reason"])),
        json!(target),
        json!(str_at(regarding, &["fieldPath"])),
        json!(reporter(o)),
        json!(either(o, "message", "note").trim()),
        json!(first),
        json!(count.to_string()),
        json!(meta::name(o)),
    ]
}
