//! Rows of volumes, claims and storage classes.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json::{at, bool_at, list_at, str_at};
use crate::meta;
use crate::table::object_age;

/// Modes as their initials, in a fixed order.
fn modes(list: &[Value]) -> String {
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    known.iter().filter(|(m, _)| list.iter().any(|v| v == m)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn phase(o: &Value) -> &str {
    if meta::is_deleting(o) { "Terminating" } else { str_at(o, &["status", "phase"]) }
}

pub(super) fn claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let volume = str_at(o, &["spec", "volumeName"]);
    let bound = !volume.is_empty();
    let capacity = if bound { str_at(o, &["status", "capacity", "storage"]) } else { "" };
    let access = if bound { modes(list_at(o, &["status", "accessModes"])) } else { String::new() };
    vec![
        json!(meta::name(o)),
        json!(phase(o)),
        json!(volume),
        json!(capacity),
        json!(access),
        json!(str_at(o, &["spec", "storageClassName"])),
        json!(or(str_at(o, &["spec", "volumeAttributesClassName"]), "<unset>")),
        json!(object_age(o, now)),
        json!(or(str_at(o, &["spec", "volumeMode"]), "<unset>")),
    ]
}

pub(super) fn volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = at(o, &["spec", "claimRef"])
        .map(|c| format!("{}/{}", str_at(c, &["namespace"]), str_at(c, &["name"])))
        .unwrap_or_default();
    vec![
        json!(meta::name(o)),
        json!(str_at(o, &["spec", "capacity", "storage"])),
        json!(modes(list_at(o, &["spec", "accessModes"]))),
        json!(str_at(o, &["spec", "persistentVolumeReclaimPolicy"])),
        json!(phase(o)),
        json!(claim),
        json!(str_at(o, &["spec", "storageClassName"])),
        json!(or(str_at(o, &["spec", "volumeAttributesClassName"]), "<unset>")),
        json!(str_at(o, &["status", "reason"])),
        json!(object_age(o, now)),
        json!(or(str_at(o, &["spec", "volumeMode"]), "<unset>")),
    ]
}

pub(super) fn class(o: &Value, now: Timestamp) -> Vec<Value> {
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| meta::annotations(o).and_then(|a| a.get(*key)).is_some_and(|v| v == "true"));
    let name = if default { format!("{} (default)", meta::name(o)) } else { meta::name(o).to_owned() };
    vec![
        json!(name),
        json!(str_at(o, &["provisioner"])),
        json!(or(str_at(o, &["reclaimPolicy"]), "Delete")),
        json!(or(str_at(o, &["volumeBindingMode"]), "Immediate")),
        json!(bool_at(o, &["allowVolumeExpansion"])),
        json!(object_age(o, now)),
    ]
}
