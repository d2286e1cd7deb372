//! Rules of what the processes of a pod are given: a host name that replaces all others, variables from files, and the
//! signal that asks them to end.

use serde_json::Value;

use super::containers::validate_relative_path;
use crate::json::{at, bool_at, list_at, str_at};
use crate::kinds::check::Check;
use crate::names;
use crate::status::FieldError;

/// Linux's signals that may ask a container to end, but for the real-time ones (KEP-4960).
const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
/// Longest host name of Linux (`HOST_NAME_MAX`, gethostname(2)).
const HOST_NAME_MAX: usize = 64;

/// Checks the three.
pub(super) fn validate_processes(check: &mut Check, spec: &Value, field: &str) {
    hostname_override(check, spec, field);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, container) in list_at(spec, &[list]).iter().enumerate() {
            let field = format!("{field}.{list}[{i}]");
            stop_signal(check, spec, container, &field);
            for (i, env) in list_at(container, &["env"]).iter().enumerate() {
                if let Some(key) = at(env, &["valueFrom", "fileKeyRef"]) {
                    file_key(check, spec, key, &format!("{field}.env[{i}].valueFrom.fileKeyRef"));
                }
            }
        }
    }
}

/// KEP-4762.
fn hostname_override(check: &mut Check, spec: &Value, field: &str) {
    let Some(name) = at(spec, &["hostnameOverride"]).and_then(Value::as_str) else { return };
    let field = format!("{field}.hostnameOverride");
    for (key, words) in [("setHostnameAsFQDN", "setHostnameAsFQDN is true"), ("hostNetwork", "hostNetwork is true")] {
        if bool_at(spec, &[key]) {
            check.forbidden(field.clone(), format!("may not be specified when {words}"));
        }
    }
    if name.len() > HOST_NAME_MAX {
        check.extend([FieldError::too_long(field.clone(), HOST_NAME_MAX)]);
    }
    check.syntax(&field, name, names::dns1123_subdomain(name));
}

fn is_real_time(signal: &str) -> bool {
    let within = |rest: &str, sign: char, most: u32| {
        let digits = rest.strip_prefix(sign).filter(|d| !d.starts_with('0'));
        rest.is_empty() || digits.and_then(|d| d.parse::<u32>().ok()).is_some_and(|n| (1..=most).contains(&n))
    };
    signal.strip_prefix("SIGRTMIN").is_some_and(|rest| within(rest, '+', 15))
        || signal.strip_prefix("SIGRTMAX").is_some_and(|rest| within(rest, '-', 14))
}

fn stop_signal(check: &mut Check, spec: &Value, container: &Value, field: &str) {
    let Some(signal) = at(container, &["lifecycle", "stopSignal"]).and_then(Value::as_str) else { return };
    let field = format!("{field}.lifecycle");
    match str_at(spec, &["os", "name"]) {
        "" => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            check.forbidden(format!("{field}.stopSignal"), detail);
        }
        "windows" => check.one_of(&container["lifecycle"], "stopSignal", &field, &["SIGKILL", "SIGTERM"]),
        _ if is_real_time(signal) => {}
        _ => check.one_of(&container["lifecycle"], "stopSignal", &field, &SIGNALS),
    }
}

/// KEP-3721: the file is one that a container of the pod wrote, so its volume is the pod's own.
fn file_key(check: &mut Check, spec: &Value, key: &Value, field: &str) {
    let name = str_at(key, &["key"]);
    if !name.is_empty() {
        check.syntax(&format!("{field}.key"), name, names::env_var_name(name));
    }
    if check.need_str(key, "path", field) {
        validate_relative_path(check, str_at(key, &["path"]), &format!("{field}.path"));
    }
    if !check.need_str(key, "volumeName", field) {
        return;
    }
    let volume = str_at(key, &["volumeName"]);
    let field = format!("{field}.volumeName");
    check.syntax(&field, volume, names::dns1123_label(volume));
    match list_at(spec, &["volumes"]).iter().find(|v| str_at(v, &["name"]) == volume) {
        None => check.not_found(field, volume),
        Some(v) if at(v, &["emptyDir"]).is_none() => {
            check.invalid(field, volume, "referenced volume must be of type emptyDir");
        }
        Some(_) => {}
    }
}
