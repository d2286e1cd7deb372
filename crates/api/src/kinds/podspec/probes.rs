//! Rules of probes and lifecycle handlers.

use serde_json::Value;

use crate::json::{at, int_at, list_at, str_at};
use crate::kinds::check::Check;

const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Which probe: their rules differ slightly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    Liveness,
    Readiness,
    Startup,
}

/// Checks the three probes of a container.
pub(super) fn validate_probes(check: &mut Check, container: &Value, field: &str) {
    for (key, probe) in
        [("livenessProbe", Probe::Liveness), ("readinessProbe", Probe::Readiness), ("startupProbe", Probe::Startup)]
    {
        if let Some(value) = at(container, &[key]) {
            validate_probe(check, value, &format!("{field}.{key}"), probe);
        }
    }
}

fn validate_probe(check: &mut Check, value: &Value, field: &str, probe: Probe) {
    validate_handler(check, value, field, PROBE_HANDLERS);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check.non_negative(value, key, field);
    }
    let grace = int_at(value, &["terminationGracePeriodSeconds"]);
    if probe == Probe::Readiness {
        if let Some(grace) = grace {
            let at = format!("{field}.terminationGracePeriodSeconds");
            check.invalid(at, grace, "must not be set for readinessProbes");
        }
        return;
    }
    if let Some(grace) = grace.filter(|g| *g <= 0) {
        check.invalid(format!("{field}.terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
    if let Some(n) = int_at(value, &["successThreshold"]).filter(|n| *n != 1) {
        check.invalid(format!("{field}.successThreshold"), n, "must be 1");
    }
}

/// Checks `lifecycle`.
pub(super) fn validate_lifecycle(check: &mut Check, container: &Value, field: &str) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = at(container, &["lifecycle", hook]) {
            validate_handler(check, handler, &format!("{field}.lifecycle.{hook}"), HOOK_HANDLERS);
        }
    }
}

fn validate_handler(check: &mut Check, handler: &Value, field: &str, kinds: &[&str]) {
    let set: Vec<&str> = kinds.iter().copied().filter(|k| at(handler, &[k]).is_some()).collect();
    let Some((first, others)) = set.split_first() else {
        check.required(field, "must specify a handler type");
        return;
    };
    for other in others {
        check.forbidden(format!("{field}.{other}"), "may not specify more than 1 handler type");
    }
    let field = format!("{field}.{first}");
    let value = &handler[*first];
    match *first {
        "exec" => {
            if list_at(value, &["command"]).is_empty() {
                check.required(format!("{field}.command"), "");
            }
        }
        "httpGet" => validate_http(check, value, &field),
        "tcpSocket" => check.port_number_or_name(&value["port"], &format!("{field}.port")),
        "grpc" => check.port_number_or_name(&value["port"], &format!("{field}.port")),
        _ => check.non_negative(value, "seconds", &field),
    }
}

fn validate_http(check: &mut Check, value: &Value, field: &str) {
    check.need_str(value, "path", field);
    check.port_number_or_name(&value["port"], &format!("{field}.port"));
    check.one_of(value, "scheme", field, &["HTTP", "HTTPS"]);
    for header in list_at(value, &["httpHeaders"]) {
        let name = str_at(header, &["name"]);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            check.invalid(format!("{field}.httpHeaders"), name, message);
        }
    }
}
