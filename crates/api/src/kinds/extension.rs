//! API services: group-versions and who serves them.

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, PORT_RANGE};
use crate::json::{at, bool_at, carry, int_at, list_at, object_mut, set_default, str_at};
use crate::meta;
use crate::names;
use crate::status::FieldError;

pub(super) const API_SERVICE: Hooks = Hooks {
    default: |o| {
        if let Some(service) = object_mut(o, &["spec", "service"]) {
            set_default(service, "port", 443);
        }
    },
    prepare_create: |o| {
        // What this server serves itself needs nobody to look whether it is there.
        if at(o, &["spec", "service"]).is_none() {
            let time = at(o, &["metadata", "creationTimestamp"]).cloned().unwrap_or(Value::Null);
            o["status"] = json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": time}]});
        }
    },
    prepare_status_update: |new, old| {
        if let (Some(meta), Some(old)) = (new.get_mut("metadata"), old.get("metadata")) {
            for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
                carry(meta, old, key);
            }
        }
    },
    validate,
    validate_update: |new, _| validate(new),
    validate_status_update: |new, _| {
        let mut check = Check::default();
        for (i, condition) in list_at(new, &["status", "conditions"]).iter().enumerate() {
            let status = str_at(condition, &["status"]);
            if !matches!(status, "True" | "False" | "Unknown") {
                let allowed = &["True", "False", "Unknown"];
                let field = format!("status.conditions[{i}].status");
                check.extend([FieldError::not_supported(field, status, allowed)]);
            }
        }
        check.errors
    },
    ..Hooks::NONE
};

fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let (group, version) = (str_at(spec, &["group"]), str_at(spec, &["version"]));
    let required = format!("{version}.{group}");
    let name = meta::name(o);
    if name != required && names::path_segment(name).is_empty() {
        check.invalid("metadata.name", name, format!("must be `spec.version+\".\"+spec.group`: {required:?}"));
    }
    if !group.is_empty() {
        check.syntax("spec.group", group, names::dns1123_subdomain(group));
    } else if version != "v1" {
        check.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    check.syntax("spec.version", version, names::dns1035_label(version));
    for (key, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = int_at(spec, &[key]).unwrap_or(0);
        if !(1..=max).contains(&priority) {
            check.invalid(format!("spec.{key}"), priority, format!("must be positive and less than {max}"));
        }
    }
    let bundle = str_at(spec, &["caBundle"]);
    let insecure = bool_at(spec, &["insecureSkipTLSVerify"]);
    let Some(service) = at(spec, &["service"]) else {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", bundle.len());
            check.invalid("spec.caBundle", shown, "local APIServices may not have a caBundle");
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            check.invalid("spec.insecureSkipTLSVerify", true, detail);
        }
        return check.errors;
    };
    for key in ["namespace", "name"] {
        check.need_str(service, key, "spec.service");
    }
    let port = int_at(service, &["port"]).unwrap_or(0);
    if !(1..=65535).contains(&port) {
        check.invalid("spec.service.port", port, format!("port is not valid: {PORT_RANGE}"));
    }
    if insecure && !bundle.is_empty() {
        check.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
    check.errors
}
