//! Rules of a whole pod spec and of pod templates.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::containers::{PodContext, validate_containers};
use super::processes::validate_processes;
use super::scheduling::validate_scheduling;
use super::security::{validate_pod_context, validate_times};
use super::volumes::validate_volumes;
use crate::json::{at, list_at, map_at, str_at};
use crate::kinds::check::Check;
use crate::kinds::resources::validate_requirements;
use crate::meta::{validate_annotations, validate_labels};
use crate::names;

pub(super) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Checks `{metadata, spec}` of a template.
pub(in crate::kinds) fn validate_template(check: &mut Check, template: &Value, field: &str) {
    let empty = Map::new();
    let labels = map_at(template, &["metadata", "labels"]).unwrap_or(&empty);
    check.extend(validate_labels(labels, &format!("{field}.labels")));
    let annotations = map_at(template, &["metadata", "annotations"]).unwrap_or(&empty);
    check.extend(validate_annotations(annotations, &format!("{field}.annotations")));
    let field = format!("{field}.spec");
    let spec = at(template, &["spec"]).unwrap_or(&Value::Null);
    validate_spec(check, spec, &field);
    if !list_at(spec, &["ephemeralContainers"]).is_empty() {
        check.forbidden(format!("{field}.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Checks a pod spec.
pub(in crate::kinds) fn validate_spec(check: &mut Check, spec: &Value, field: &str) {
    validate_volumes(check, spec, field);
    let context = PodContext::of(spec);
    validate_containers(check, spec, field, &context);
    super::ephemeral::validate_list(check, spec, field, &context);
    validate_processes(check, spec, field);
    check.need_one_of(spec, "restartPolicy", field, &["Always", "OnFailure", "Never"]);
    check.need_one_of(spec, "dnsPolicy", field, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    if at(spec, &["terminationGracePeriodSeconds"]).is_none() {
        check.required(format!("{field}.terminationGracePeriodSeconds"), "");
    }
    validate_pod_context(check, spec, field);
    validate_times(check, spec, field);
    validate_names(check, spec, field);
    validate_dns_config(check, spec, field);
    validate_host_aliases(check, spec, field);
    validate_scheduling(check, spec, field);
    validate_requirements(check, spec, field);
    check.one_of(spec, "preemptionPolicy", field, &["Never", "PreemptLowerPriority"]);
    if let Some(os) = at(spec, &["os"]) {
        check.need_one_of(os, "name", &format!("{field}.os"), &["linux", "windows"]);
    }
}

fn validate_names(check: &mut Check, spec: &Value, field: &str) {
    for key in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        let value = str_at(spec, &[key]);
        if !value.is_empty() {
            check.syntax(&format!("{field}.{key}"), value, names::dns1123_subdomain(value));
        }
    }
    for key in ["hostname", "subdomain"] {
        let value = str_at(spec, &[key]);
        if !value.is_empty() {
            check.syntax(&format!("{field}.{key}"), value, names::dns1123_label(value));
        }
    }
}

fn validate_dns_config(check: &mut Check, spec: &Value, field: &str) {
    /// Limits of the resolver libraries in containers.
    const MAX_SERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    let field = format!("{field}.dnsConfig");
    let none = str_at(spec, &["dnsPolicy"]) == "None";
    let config = at(spec, &["dnsConfig"]);
    let servers = config.map_or(&[][..], |c| list_at(c, &["nameservers"]));
    if none && config.is_none() {
        let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
        check.required(field.clone(), detail);
    } else if none && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        check.required(format!("{field}.nameservers"), detail);
    }
    let Some(config) = config else { return };
    if servers.len() > MAX_SERVERS {
        let detail = format!("must not have more than {MAX_SERVERS} nameservers");
        check.invalid(format!("{field}.nameservers"), Value::from(servers), detail);
    }
    for (i, server) in servers.iter().enumerate() {
        let text = server.as_str().unwrap_or("");
        if text.parse::<IpAddr>().is_err() {
            check.invalid(format!("{field}.nameservers[{i}]"), text, BAD_IP);
        }
    }
    let searches = list_at(config, &["searches"]);
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        check.invalid(format!("{field}.searches"), Value::from(searches), detail);
    }
    for (i, option) in list_at(config, &["options"]).iter().enumerate() {
        if str_at(option, &["name"]).is_empty() {
            check.required(format!("{field}.options[{i}]"), "must not be empty");
        }
    }
}

fn validate_host_aliases(check: &mut Check, spec: &Value, field: &str) {
    for (i, alias) in list_at(spec, &["hostAliases"]).iter().enumerate() {
        let field = format!("{field}.hostAliases[{i}]");
        let ip = str_at(alias, &["ip"]);
        if ip.parse::<IpAddr>().is_err() {
            check.invalid(format!("{field}.ip"), ip, BAD_IP);
        }
        for name in list_at(alias, &["hostnames"]).iter().filter_map(Value::as_str) {
            check.syntax(&format!("{field}.hostnames"), name, names::dns1123_subdomain(name));
        }
    }
}
