//! Ingresses and their classes, endpoints, endpoint slices; leases.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::Hooks;
use super::check::{Check, PORT_RANGE, join};
use crate::json::{at, int_at, list_at, list_mut, map_at, object_mut, set_default, str_at};
use crate::meta;
use crate::names;
use crate::status::FieldError;

pub(super) const INGRESS: Hooks = Hooks {
    validate: validate_ingress,
    validate_create: |o| {
        let mut check = Check::default();
        let old = "kubernetes.io/ingress.class";
        let annotated = meta::annotations(o).and_then(|a| a.get(old));
        if let (Some(class), Some(field)) = (annotated, at(o, &["spec", "ingressClassName"]))
            && class != field
        {
            let detail = "must match `ingressClassName` when both are specified";
            check.invalid(format!("annotations.{old}"), class.clone(), detail);
        }
        check.errors
    },
    validate_update: |new, _| validate_ingress(new),
    warnings: |o| {
        let old = "kubernetes.io/ingress.class";
        let annotated = meta::annotations(o).is_some_and(|a| a.contains_key(old));
        if annotated && at(o, &["spec", "ingressClassName"]).is_none() {
            vec![format!("annotation {old:?} is deprecated, please use 'spec.ingressClassName' instead")]
        } else {
            Vec::new()
        }
    },
    ..Hooks::NONE
};

pub(super) const INGRESS_CLASS: Hooks = Hooks {
    default: |o| {
        if let Some(parameters) = object_mut(o, &["spec", "parameters"]) {
            set_default(parameters, "scope", "Cluster");
        }
    },
    validate: validate_class,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_class(new) };
        check.immutable(new, old, &["spec", "controller"]);
        check.errors
    },
    ..Hooks::NONE
};

pub(super) const ENDPOINTS: Hooks = Hooks {
    default: |o| {
        for subset in list_mut(o, &["subsets"]) {
            for port in list_mut(subset, &["ports"]) {
                set_default(port, "protocol", "TCP");
            }
        }
    },
    validate: validate_endpoints,
    validate_update: |new, _| validate_endpoints(new),
    warnings: |_| vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()],
    ..Hooks::NONE
};

pub(super) const ENDPOINT_SLICE: Hooks = Hooks {
    default: |o| {
        for port in list_mut(o, &["ports"]) {
            if port.get("name").is_none_or(Value::is_null) {
                port["name"] = "".into();
            }
            set_default(port, "protocol", "TCP");
        }
    },
    validate: validate_slice,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_slice(new) };
        check.immutable(new, old, &["addressType"]);
        check.errors
    },
    warnings: |o| match str_at(o, &["addressType"]) {
        "FQDN" => vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()],
        _ => Vec::new(),
    },
    generation_keys: &[&["endpoints"], &["ports"], &["addressType"], &["metadata", "labels"]],
    ..Hooks::NONE
};

pub(super) const LEASE: Hooks =
    Hooks { validate: validate_lease, validate_update: |new, _| validate_lease(new), ..Hooks::NONE };

fn validate_ingress(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let rules = list_at(spec, &["rules"]);
    let backend = at(spec, &["defaultBackend"]);
    if rules.is_empty() && backend.is_none() {
        let rules = at(spec, &["rules"]).cloned().unwrap_or(Value::Null);
        check.invalid("spec", rules, "either `defaultBackend` or `rules` must be specified");
    }
    for (i, tls) in list_at(spec, &["tls"]).iter().enumerate() {
        for (j, host) in list_at(tls, &["hosts"]).iter().filter_map(Value::as_str).enumerate() {
            check_host(&mut check, host, &format!("spec.tls[{i}].hosts[{j}]"));
        }
        let secret = str_at(tls, &["secretName"]);
        if !secret.is_empty() {
            check.syntax(&format!("spec.tls[{i}].secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if let Some(backend) = backend {
        validate_backend(&mut check, backend, "spec.defaultBackend");
    }
    let class = str_at(spec, &["ingressClassName"]);
    if !class.is_empty() {
        check.syntax("spec.ingressClassName", class, names::dns1123_subdomain(class));
    }
    for (i, rule) in rules.iter().enumerate() {
        validate_rule(&mut check, rule, &format!("spec.rules[{i}]"));
    }
    check.errors
}

fn check_host(check: &mut Check, host: &str, field: &str) {
    if host.contains('*') {
        check.syntax(field, host, names::wildcard_dns1123_subdomain(host));
    } else {
        check.syntax(field, host, names::dns1123_subdomain(host));
    }
}

fn validate_rule(check: &mut Check, rule: &Value, field: &str) {
    let host = str_at(rule, &["host"]);
    if !host.is_empty() {
        if host.parse::<IpAddr>().is_ok() {
            check.invalid(format!("{field}.host"), host, "must be a DNS name, not an IP address");
        }
        check_host(check, host, &format!("{field}.host"));
    }
    let Some(http) = at(rule, &["http"]) else { return };
    let field = format!("{field}.http.paths");
    let paths = list_at(http, &["paths"]);
    if paths.is_empty() {
        check.required(field.clone(), "");
    }
    for (i, path) in paths.iter().enumerate() {
        let field = format!("{field}[{i}]");
        validate_path(check, path, &field);
        match at(path, &["backend"]) {
            Some(backend) => validate_backend(check, backend, &format!("{field}.backend")),
            None => check.required(format!("{field}.backend"), ""),
        }
    }
}

fn validate_path(check: &mut Check, path: &Value, field: &str) {
    let text = str_at(path, &["path"]);
    let kind = str_at(path, &["pathType"]);
    match kind {
        "" => check.required(format!("{field}.pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                check.invalid(format!("{field}.path"), text, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(bad) {
                    check.invalid(format!("{field}.path"), text, format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if text.ends_with(bad) {
                    check.invalid(format!("{field}.path"), text, format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                check.invalid(format!("{field}.path"), text, "must be an absolute path");
            }
        }
        _ => check.one_of(path, "pathType", field, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
}

fn validate_backend(check: &mut Check, backend: &Value, field: &str) {
    match (at(backend, &["resource"]), at(backend, &["service"])) {
        (Some(_), Some(_)) => {
            check.invalid(field, "", "cannot set both resource and service backends");
        }
        (None, None) => check.required(field, "resource or service backend is required"),
        (Some(resource), None) => {
            for key in ["kind", "name"] {
                check.need_str(resource, key, &format!("{field}.resource"));
            }
        }
        (None, Some(service)) => {
            let name = str_at(service, &["name"]);
            if check.need_str(service, "name", &format!("{field}.service")) {
                check.syntax(&format!("{field}.service.name"), name, names::dns1035_label(name));
            }
            let field = format!("{field}.service.port");
            let port_name = str_at(service, &["port", "name"]);
            let number = int_at(service, &["port", "number"]).unwrap_or(0);
            match (port_name.is_empty(), number) {
                (false, n) if n != 0 => check.invalid(field, port_name, "cannot set both port name & port number"),
                (false, _) => check.syntax(&format!("{field}.name"), port_name, names::port_name(port_name)),
                (true, 0) => check.required(field, "port name or number is required"),
                (true, n) if !(1..=65535).contains(&n) => check.invalid(format!("{field}.number"), n, PORT_RANGE),
                (true, _) => {}
            }
        }
    }
}

fn validate_class(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let controller = str_at(o, &["spec", "controller"]);
    if controller.is_empty() {
        check.required("spec.controller", "");
    } else if controller.len() > 250 {
        check.extend([FieldError::too_long("spec.controller", 250)]);
    } else {
        match controller.split_once('/') {
            Some((domain, path)) if !path.is_empty() => {
                check.syntax("spec.controller", domain, names::dns1123_subdomain(domain));
            }
            _ => {
                check.invalid("spec.controller", controller, "must be a domain-prefixed path (such as \"acme.io/foo\")")
            }
        }
    }
    if let Some(p) = at(o, &["spec", "parameters"]) {
        for key in ["kind", "name"] {
            check.need_str(p, key, "spec.parameters");
        }
        check.one_of(p, "scope", "spec.parameters", &["Cluster", "Namespace"]);
        match (str_at(p, &["scope"]), str_at(p, &["namespace"]).is_empty()) {
            ("Namespace", true) => {
                check.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'");
            }
            ("Cluster", false) => {
                check.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
            }
            _ => {}
        }
    }
    check.errors
}

/// Why an address cannot be an endpoint's.
fn check_endpoint_ip(check: &mut Check, ip: &str, field: &str) {
    match ip.parse::<IpAddr>() {
        Err(_) => check.invalid(field, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        Ok(addr) if addr.is_unspecified() => check.invalid(field, ip, format!("may not be unspecified ({ip})")),
        Ok(addr) if addr.is_loopback() => {
            check.invalid(field, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
        }
        Ok(IpAddr::V4(v4)) if v4.is_link_local() => {
            check.invalid(field, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        Ok(addr) if addr.is_multicast() => {
            check.invalid(field, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
        Ok(_) => {}
    }
}

fn validate_endpoints(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    for (i, subset) in list_at(o, &["subsets"]).iter().enumerate() {
        let field = format!("subsets[{i}]");
        let ready = list_at(subset, &["addresses"]);
        let not_ready = list_at(subset, &["notReadyAddresses"]);
        if ready.is_empty() && not_ready.is_empty() {
            check.required(field.clone(), "must specify `addresses` or `notReadyAddresses`");
        }
        for (key, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (j, address) in list.iter().enumerate() {
                check_endpoint_ip(&mut check, str_at(address, &["ip"]), &format!("{field}.{key}[{j}].ip"));
            }
        }
        let ports = list_at(subset, &["ports"]);
        for (j, port) in ports.iter().enumerate() {
            let field = format!("{field}.ports[{j}]");
            let name = str_at(port, &["name"]);
            if ports.len() > 1 && name.is_empty() {
                check.required(format!("{field}.name"), "");
            } else if !name.is_empty() {
                check.syntax(&format!("{field}.name"), name, names::dns1123_label(name));
            }
            let number = int_at(port, &["port"]).unwrap_or(0);
            if !(1..=65535).contains(&number) {
                check.invalid(format!("{field}.port"), number, PORT_RANGE);
            }
            check.need_one_of(port, "protocol", &field, &["SCTP", "TCP", "UDP"]);
        }
    }
    check.errors
}

fn validate_slice(o: &Value) -> Vec<FieldError> {
    /// Bounds of one slice and of one endpoint.
    const MAX_ENDPOINTS: usize = 1000;
    const MAX_PORTS: usize = 20_000;
    const MAX_ADDRESSES: usize = 100;
    let mut check = Check::default();
    check.need_one_of(o, "addressType", "", &["FQDN", "IPv4", "IPv6"]);
    let kind = str_at(o, &["addressType"]);
    let endpoints = list_at(o, &["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        check.extend([FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS)]);
        return check.errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{i}]");
        let addresses = list_at(endpoint, &["addresses"]);
        if addresses.is_empty() {
            check.required(format!("{field}.addresses"), "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            check.extend([FieldError::too_many(format!("{field}.addresses"), addresses.len(), MAX_ADDRESSES)]);
        }
        for (j, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            check_slice_address(&mut check, address, kind, &format!("{field}.addresses[{j}]"));
        }
        for key in ["nodeName", "hostname"] {
            let value = str_at(endpoint, &[key]);
            if !value.is_empty() {
                let problems =
                    if key == "hostname" { names::dns1123_label(value) } else { names::dns1123_subdomain(value) };
                check.syntax(&format!("{field}.{key}"), value, problems);
            }
        }
        if let Some(topology) = map_at(endpoint, &["deprecatedTopology"]) {
            check.extend(meta::validate_labels(topology, &join(&field, "deprecatedTopology")));
        }
    }
    let mut seen = BTreeSet::new();
    let ports = list_at(o, &["ports"]);
    if ports.len() > MAX_PORTS {
        check.extend([FieldError::too_many("ports", ports.len(), MAX_PORTS)]);
        return check.errors;
    }
    for (i, port) in ports.iter().enumerate() {
        let field = format!("ports[{i}]");
        let name = str_at(port, &["name"]);
        if !name.is_empty() {
            check.syntax(&format!("{field}.name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            check.duplicate(format!("{field}.name"), name);
        }
        check.need_one_of(port, "protocol", &field, &["SCTP", "TCP", "UDP"]);
        check.in_range(port, "port", &field, 1, 65535);
    }
    check.errors
}

fn check_slice_address(check: &mut Check, address: &str, kind: &str, field: &str) {
    match kind {
        "FQDN" => check.syntax(field, address, names::dns1123_subdomain(address)),
        "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
            check.invalid(field, address, "must be a valid IPv4 address");
        }
        "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
            check.invalid(field, address, "must be a valid IPv6 address");
        }
        _ => check_endpoint_ip(check, address, field),
    }
}

fn validate_lease(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    if let Some(n) = int_at(spec, &["leaseDurationSeconds"]).filter(|n| *n <= 0) {
        check.invalid("spec.leaseDurationSeconds", n, "must be greater than 0");
    }
    if let Some(n) = int_at(spec, &["leaseTransitions"]).filter(|n| *n < 0) {
        check.invalid("spec.leaseTransitions", n, "must be greater than or equal to 0");
    }
    if at(spec, &["preferredHolder"]).is_some() && at(spec, &["strategy"]).is_none() {
        check.invalid(
            "spec.preferredHolder",
            str_at(spec, &["preferredHolder"]),
            "strategy must be specified when preferredHolder is set",
        );
    }
    check.errors
}
