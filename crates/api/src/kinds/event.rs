//! Events: core v1 is what is stored, events.k8s.io/v1 is a view with other names.

use serde_json::Value;

use super::Hooks;
use super::check::Check;
use super::pod::text;
use crate::json::{at, int_at, is_unset, semantic_eq, str_at};
use crate::meta;
use crate::names;
use crate::status::FieldError;

pub(super) const CORE: Hooks = Hooks {
    validate: validate_core,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_core(new) };
        if is_new_style(old) {
            immutable(&mut check, new, old);
        }
        check.errors
    },
    selectable: FIELDS,
    ..Hooks::NONE
};

pub(super) const EVENTS: Hooks = Hooks {
    to_storage: |o| rename(o, true),
    from_storage: |o| rename(o, false),
    validate: validate_events,
    validate_update: |new, old| {
        let mut check = Check::default();
        immutable(&mut check, new, old);
        check.errors
    },
    selectable: EVENTS_FIELDS,
    ..Hooks::NONE
};

type Field = (&'static str, fn(&Value) -> String);

const FIELDS: &[Field] = &[
    ("involvedObject.kind", |o| text(o, &["involvedObject", "kind"])),
    ("involvedObject.namespace", |o| text(o, &["involvedObject", "namespace"])),
    ("involvedObject.name", |o| text(o, &["involvedObject", "name"])),
    ("involvedObject.uid", |o| text(o, &["involvedObject", "uid"])),
    ("involvedObject.apiVersion", |o| text(o, &["involvedObject", "apiVersion"])),
    ("involvedObject.resourceVersion", |o| text(o, &["involvedObject", "resourceVersion"])),
    ("involvedObject.fieldPath", |o| text(o, &["involvedObject", "fieldPath"])),
    ("reason", |o| text(o, &["reason"])),
    ("reportingComponent", |o| text(o, &["reportingComponent"])),
    ("source", source),
    ("type", |o| text(o, &["type"])),
];

const EVENTS_FIELDS: &[Field] = &[
    ("regarding.kind", |o| text(o, &["regarding", "kind"])),
    ("regarding.namespace", |o| text(o, &["regarding", "namespace"])),
    ("regarding.name", |o| text(o, &["regarding", "name"])),
    ("regarding.uid", |o| text(o, &["regarding", "uid"])),
    ("regarding.apiVersion", |o| text(o, &["regarding", "apiVersion"])),
    ("regarding.resourceVersion", |o| text(o, &["regarding", "resourceVersion"])),
    ("regarding.fieldPath", |o| text(o, &["regarding", "fieldPath"])),
    ("reason", |o| text(o, &["reason"])),
    ("reportingController", |o| text(o, &["reportingController"])),
    ("type", |o| text(o, &["type"])),
];

/// Who reported: the old field, or the new one.
fn source(o: &Value) -> String {
    match str_at(o, &["source", "component"]) {
        "" => text(o, &["reportingComponent"]),
        component => component.to_owned(),
    }
}

/// `(events.k8s.io name, core name)` of the fields that differ.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(o: &mut Value, to_core: bool) {
    let Some(map) = o.as_object_mut() else { return };
    for &(events, core) in NAMES {
        let (from, to) = if to_core { (events, core) } else { (core, events) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
    if map.contains_key("apiVersion") {
        map.insert("apiVersion".to_owned(), if to_core { "v1" } else { "events.k8s.io/v1" }.into());
    }
}

/// Events of the new recorder carry a microsecond time and a controller.
fn is_new_style(o: &Value) -> bool {
    !is_unset(o, "eventTime") && !str_at(o, &["reportingComponent"]).is_empty()
}

fn check_namespace(check: &mut Check, o: &Value, field: &str) {
    let involved = str_at(o, &[field, "namespace"]);
    let namespace = meta::namespace(o);
    // Events about cluster-scoped objects live in `default`.
    let fits = involved == namespace || (involved.is_empty() && matches!(namespace, "default" | "kube-system"));
    if !fits {
        check.invalid(format!("{field}.namespace"), involved, "does not match event.namespace");
    }
}

fn validate_core(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    check_namespace(&mut check, o, "involvedObject");
    if is_new_style(o) {
        check_reporter(&mut check, o, "reportingComponent");
    }
    check.errors
}

fn check_reporter(check: &mut Check, o: &Value, controller: &str) {
    /// Longest texts of new-style events.
    const MAX_TEXT: usize = 128;
    const MAX_NOTE: usize = 1024;
    if str_at(o, &[controller]).is_empty() {
        check.required("reportingController", "");
    } else {
        let name = str_at(o, &[controller]);
        check.syntax("reportingController", name, names::qualified_name(name));
    }
    for key in ["reportingInstance", "action", "reason"] {
        if check.need_str(o, key, "") && str_at(o, &[key]).len() > MAX_TEXT {
            check.invalid(key, "", format!("can have at most {MAX_TEXT} characters"));
        }
    }
    for key in ["message", "note"] {
        if str_at(o, &[key]).len() > MAX_NOTE {
            check.invalid("message", "", format!("can have at most {MAX_NOTE} characters"));
        }
    }
    match str_at(o, &["type"]) {
        "Normal" | "Warning" => {}
        other => check.invalid("type", other, "has invalid value: "),
    }
}

fn validate_events(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    check_namespace(&mut check, o, "regarding");
    if is_unset(o, "eventTime") {
        check.required("eventTime", "");
    }
    check_reporter(&mut check, o, "reportingController");
    for key in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        if !is_unset(o, key) {
            check.invalid(key.trim_start_matches("deprecated"), o[key].clone(), "needs to be unset");
        }
    }
    if let Some(n) = int_at(o, &["deprecatedCount"]).filter(|n| *n != 0) {
        check.invalid("count", n, "needs to be unset");
    }
    check.errors
}

/// A recorded event only ever gains a series.
fn immutable(check: &mut Check, new: &Value, old: &Value) {
    for key in [
        "involvedObject",
        "regarding",
        "reason",
        "message",
        "note",
        "source",
        "deprecatedSource",
        "firstTimestamp",
        "deprecatedFirstTimestamp",
        "lastTimestamp",
        "deprecatedLastTimestamp",
        "count",
        "deprecatedCount",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingController",
        "reportingInstance",
    ] {
        if !semantic_eq(at(new, &[key]), at(old, &[key])) {
            let value = at(new, &[key]).cloned().unwrap_or(Value::Null);
            check.invalid(key, value, super::check::IMMUTABLE);
        }
    }
}
