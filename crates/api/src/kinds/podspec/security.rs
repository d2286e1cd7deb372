//! Rules of pod and container security contexts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::json::{at, bool_at, int_at, list_at, str_at};
use crate::kinds::check::Check;

/// Largest user or group id Kubernetes accepts.
const MAX_ID: i64 = i32::MAX as i64;

fn validate_ids(check: &mut Check, context: &Value, field: &str) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        check.in_range(context, key, field, 0, MAX_ID);
    }
}

fn validate_profiles(check: &mut Check, context: &Value, field: &str) {
    for key in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = at(context, &[key]) else { continue };
        let field = format!("{field}.{key}");
        check.need_one_of(profile, "type", &field, &["Localhost", "RuntimeDefault", "Unconfined"]);
        let local = str_at(profile, &["localhostProfile"]);
        let is_local = str_at(profile, &["type"]) == "Localhost";
        if is_local && local.is_empty() {
            check.required(format!("{field}.localhostProfile"), "must be set when type is Localhost");
        } else if !is_local && !local.is_empty() {
            let detail = "can only be set when type is Localhost";
            check.invalid(format!("{field}.localhostProfile"), local, detail);
        }
    }
}

/// Checks a container's `securityContext`.
pub(super) fn validate_container_context(check: &mut Check, container: &Value, field: &str) {
    let Some(context) = at(container, &["securityContext"]) else { return };
    let field = format!("{field}.securityContext");
    validate_ids(check, context, &field);
    validate_profiles(check, context, &field);
    check.one_of(context, "procMount", &field, &["Default", "Unmasked"]);
    if at(context, &["allowPrivilegeEscalation"]).and_then(Value::as_bool) == Some(false) {
        if bool_at(context, &["privileged"]) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            check.invalid(field.clone(), context.clone(), detail);
        }
        let caps = list_at(context, &["capabilities", "add"]);
        if caps.iter().any(|c| matches!(c.as_str(), Some("SYS_ADMIN" | "CAP_SYS_ADMIN"))) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            check.invalid(field, context.clone(), detail);
        }
    }
}

/// Checks a pod's `securityContext` and host namespaces.
pub(super) fn validate_pod_context(check: &mut Check, spec: &Value, field: &str) {
    validate_host_users(check, spec, field);
    if bool_at(spec, &["hostPID"]) && bool_at(spec, &["shareProcessNamespace"]) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        check.invalid(format!("{field}.shareProcessNamespace"), true, detail);
    }
    let Some(context) = at(spec, &["securityContext"]) else { return };
    let field = format!("{field}.securityContext");
    validate_ids(check, context, &field);
    validate_profiles(check, context, &field);
    for (i, id) in list_at(context, &["supplementalGroups"]).iter().enumerate() {
        if let Some(id) = id.as_i64().filter(|id| !(0..=MAX_ID).contains(id)) {
            let detail = format!("must be between 0 and {MAX_ID}, inclusive");
            check.invalid(format!("{field}.supplementalGroups[{i}]"), id, detail);
        }
    }
    check.one_of(context, "fsGroupChangePolicy", &field, &["Always", "OnRootMismatch"]);
    check.one_of(context, "supplementalGroupsPolicy", &field, &["Merge", "Strict"]);
    let mut seen = BTreeSet::new();
    for (i, sysctl) in list_at(context, &["sysctls"]).iter().enumerate() {
        let field = format!("{field}.sysctls[{i}].name");
        let name = str_at(sysctl, &["name"]);
        if name.is_empty() {
            check.required(field, "");
        } else if !valid_sysctl(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            check.invalid(field, name, detail);
        } else if !seen.insert(name.replace('/', ".")) {
            check.duplicate(field, name);
        }
    }
}

/// What goes together with a user namespace of the pod's own, and what does not without (KEP-127, KEP-4265).
fn validate_host_users(check: &mut Check, spec: &Value, field: &str) {
    let own_users = at(spec, &["hostUsers"]).and_then(Value::as_bool) == Some(false);
    const WHEN: &str = "when `hostUsers` is false";
    // The names as Kubernetes writes them in these errors.
    for (key, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if own_users && bool_at(spec, &[key]) {
            check.forbidden(format!("{field}.{name}"), WHEN);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list_at(spec, &[list]).iter().enumerate() {
            let field = format!("{field}.{list}[{i}]");
            if own_users && !list_at(container, &["volumeDevices"]).is_empty() {
                check.forbidden(format!("{field}.volumeDevices"), WHEN);
            }
            if !own_users && str_at(container, &["securityContext", "procMount"]) == "Unmasked" {
                let detail = "`hostUsers` must be false to use `Unmasked`";
                check.invalid(format!("{field}.securityContext.procMount"), "Unmasked", detail);
            }
        }
    }
}

fn valid_sysctl(name: &str) -> bool {
    let alnum = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            alnum(part.bytes().next())
                && alnum(part.bytes().last())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        })
}

/// Grace and deadline numbers of a spec.
pub(super) fn validate_times(check: &mut Check, spec: &Value, field: &str) {
    if let Some(v) = int_at(spec, &["activeDeadlineSeconds"]).filter(|v| !(1..=MAX_ID).contains(v)) {
        let detail = format!("must be between 1 and {MAX_ID}, inclusive");
        check.invalid(format!("{field}.activeDeadlineSeconds"), v, detail);
    }
}
