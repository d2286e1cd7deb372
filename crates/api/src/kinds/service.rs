//! Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, PORT_RANGE};
use super::pod::text;
use crate::json::{
    at, carry, drop_key, ensure_object, int_at, is_unset, list_at, list_mut, map_at, set_default, set_default_nonzero,
    str_at,
};
use crate::names;
use crate::status::FieldError;

/// Three hours: how long a client sticks to an endpoint.
const AFFINITY_SECONDS: i64 = 10_800;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) const HOOKS: Hooks = Hooks {
    default,
    prepare_create: |o| o["status"] = json!({"loadBalancer": {}}),
    prepare_update,
    validate,
    validate_update,
    warnings: super::warnings::service,
    selectable: &[
        ("spec.clusterIP", |o| text(o, &["spec", "clusterIP"])),
        ("spec.type", |o| text(o, &["spec", "type"])),
    ],
    ..Hooks::NONE
};

/// Whether the type gets a virtual address.
pub fn needs_cluster_ip(service: &Value) -> bool {
    matches!(str_at(service, &["spec", "type"]), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the type gets node ports.
pub fn needs_node_ports(service: &Value) -> bool {
    match str_at(service, &["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => {
            at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

/// Whether the service is headless (`clusterIP: None`).
pub fn is_headless(service: &Value) -> bool {
    str_at(service, &["spec", "clusterIP"]) == "None"
        || list_at(service, &["spec", "clusterIPs"]).first().is_some_and(|ip| ip == "None")
}

/// Sets the allocated virtual address in both places it stands.
pub fn set_cluster_ip(service: &mut Value, ip: &str) {
    let spec = ensure_object(service, "spec");
    spec["clusterIP"] = ip.into();
    spec["clusterIPs"] = json!([ip]);
}

fn is_external(spec: &Value) -> bool {
    match str_at(spec, &["type"]) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list_at(spec, &["externalIPs"]).is_empty(),
        _ => false,
    }
}

fn default(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "sessionAffinity", "None");
    if str_at(spec, &["sessionAffinity"]) == "None" {
        drop_key(spec, "sessionAffinityConfig");
    } else if str_at(spec, &["sessionAffinity"]) == "ClientIP" {
        let config = ensure_object(ensure_object(spec, "sessionAffinityConfig"), "clientIP");
        set_default(config, "timeoutSeconds", AFFINITY_SECONDS);
    }
    set_default(spec, "type", "ClusterIP");
    for port in list_mut(spec, &["ports"]) {
        set_default(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned()
            && (is_unset(port, "targetPort") || port["targetPort"] == 0)
        {
            port["targetPort"] = number;
        }
    }
    if is_external(spec) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(str_at(spec, &["type"]), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if str_at(spec, &["type"]) == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    default_families(o);
    let status = ensure_object(o, "status");
    ensure_object(status, "loadBalancer");
}

/// Single-stack IPv4, except that headless services without a selector may name addresses of any family.
fn default_families(o: &mut Value) {
    if !needs_cluster_ip(o) {
        return;
    }
    let headless = is_headless(o);
    let spec = ensure_object(o, "spec");
    let open = headless && map_at(spec, &["selector"]).is_none_or(serde_json::Map::is_empty);
    set_default(spec, "ipFamilyPolicy", if open { "RequireDualStack" } else { "SingleStack" });
    if list_at(spec, &["ipFamilies"]).is_empty() {
        let dual = open && str_at(spec, &["ipFamilyPolicy"]) == "RequireDualStack";
        spec["ipFamilies"] = if dual { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    }
    if list_at(spec, &["clusterIPs"]).is_empty() && !is_unset(spec, "clusterIP") {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    } else if is_unset(spec, "clusterIP")
        && let Some(first) = list_at(spec, &["clusterIPs"]).first().cloned()
    {
        spec["clusterIP"] = first;
    }
}

/// Keeps what was allocated when the client left it out, and drops what the new type does not have.
fn prepare_update(new: &mut Value, old: &Value) {
    keep_allocated(new, old);
    drop_for_type(new, old);
    // The address may have been carried over after defaulting: mirror it again.
    default_families(new);
}

fn keep_allocated(new: &mut Value, old: &Value) {
    let Some(old_spec) = old.get("spec") else { return };
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let spec = ensure_object(new, "spec");
        if is_unset(spec, "clusterIP") {
            carry(spec, old_spec, "clusterIP");
        }
        if spec.get("clusterIP") == old_spec.get("clusterIP") && list_at(spec, &["clusterIPs"]).len() <= 1 {
            carry(spec, old_spec, "clusterIPs");
        }
    }
    if needs_node_ports(new) && needs_node_ports(old) {
        keep_node_ports(new, old);
    }
    let has_check = |o: &Value| {
        str_at(o, &["spec", "type"]) == "LoadBalancer" && str_at(o, &["spec", "externalTrafficPolicy"]) == "Local"
    };
    if has_check(new) && has_check(old) {
        let spec = ensure_object(new, "spec");
        if int_at(spec, &["healthCheckNodePort"]).unwrap_or(0) == 0 {
            carry(spec, old_spec, "healthCheckNodePort");
        }
    }
}

fn keep_node_ports(new: &mut Value, old: &Value) {
    let key = |p: &Value| (text(p, &["protocol"]), int_at(p, &["port"]).unwrap_or(0));
    let mut free: Vec<(_, i64)> = list_at(old, &["spec", "ports"])
        .iter()
        .filter_map(|p| int_at(p, &["nodePort"]).filter(|n| *n != 0).map(|n| (key(p), n)))
        .collect();
    let taken: BTreeSet<i64> =
        list_at(new, &["spec", "ports"]).iter().filter_map(|p| int_at(p, &["nodePort"])).collect();
    free.retain(|(_, n)| !taken.contains(n));
    for port in list_mut(new, &["spec", "ports"]) {
        let wanted = key(port);
        if let Some(i) = free.iter().position(|(k, _)| *k == wanted) {
            set_default_nonzero(port, "nodePort", free[i].1);
        }
    }
}

fn drop_for_type(new: &mut Value, old: &Value) {
    let (new_type, old_type) = (text(new, &["spec", "type"]), text(old, &["spec", "type"]));
    if new_type == old_type {
        return;
    }
    let unchanged = |new: &Value, key: &str| at(new, &["spec", key]) == at(old, &["spec", key]);
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(new, key) {
                drop_key(ensure_object(new, "spec"), key);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(new) {
        let olds: Vec<i64> = list_at(old, &["spec", "ports"]).iter().filter_map(|p| int_at(p, &["nodePort"])).collect();
        for port in list_mut(new, &["spec", "ports"]) {
            if int_at(port, &["nodePort"]).is_some_and(|n| olds.contains(&n)) {
                drop_key(port, "nodePort");
            }
        }
    }
    let external = new.get("spec").is_some_and(is_external);
    let spec = ensure_object(new, "spec");
    if !external && at(spec, &["externalTrafficPolicy"]) == at(old, &["spec", "externalTrafficPolicy"]) {
        drop_key(spec, "externalTrafficPolicy");
    }
    if old_type == "LoadBalancer" {
        for key in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if at(spec, &[key]) == at(old, &["spec", key]) {
                drop_key(spec, key);
            }
        }
    }
    if old_type == "ExternalName" && at(spec, &["externalName"]) == at(old, &["spec", "externalName"]) {
        drop_key(spec, "externalName");
    }
}

fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    let kind = str_at(spec, &["type"]);
    if list_at(spec, &["ports"]).is_empty() && !is_headless(o) && kind != "ExternalName" {
        check.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(o) => {
            let words = if kind == "NodePort" { "NodePort" } else { "LoadBalancer" };
            let ips = at(spec, &["clusterIPs"]).cloned().unwrap_or(Value::Null);
            check.invalid("spec.clusterIPs[0]", ips, format!("may not be set to 'None' for {words} services"));
        }
        "ExternalName" => validate_external_name(&mut check, spec),
        _ => {}
    }
    validate_ports(&mut check, spec, kind);
    if let Some(selector) = map_at(spec, &["selector"]) {
        check.extend(crate::meta::validate_labels(selector, "spec.selector"));
    }
    check.need_one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"]);
    if let Some(client) = at(spec, &["sessionAffinityConfig", "clientIP"]) {
        check.in_range(client, "timeoutSeconds", "spec.sessionAffinityConfig.clientIP", 1, 86_400);
    }
    check.one_of(spec, "type", "spec", TYPES);
    validate_policies(&mut check, spec, kind);
    validate_addresses(&mut check, spec);
    check.errors
}

fn validate_external_name(check: &mut Check, spec: &Value) {
    for key in ["clusterIP", "clusterIPs"] {
        let value = at(spec, &[key]).filter(|v| **v != "" && !v.as_array().is_some_and(Vec::is_empty));
        if value.is_some() {
            check.forbidden(format!("spec.{key}"), "may not be set for ExternalName services");
        }
    }
    let name = str_at(spec, &["externalName"]);
    let trimmed = name.strip_suffix('.').unwrap_or(name);
    if trimmed.is_empty() {
        check.required("spec.externalName", "");
    } else {
        check.syntax("spec.externalName", trimmed, names::dns1123_subdomain(&trimmed.to_lowercase()));
    }
}

fn validate_ports(check: &mut Check, spec: &Value, kind: &str) {
    let ports = list_at(spec, &["ports"]);
    let (mut names_seen, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        let name = str_at(port, &["name"]);
        if name.is_empty() && ports.len() > 1 {
            check.required(format!("{field}.name"), "");
        } else if !name.is_empty() {
            check.syntax(&format!("{field}.name"), name, names::dns1123_label(name));
            if !names_seen.insert(name) {
                check.duplicate(format!("{field}.name"), name);
            }
        }
        let number = int_at(port, &["port"]).unwrap_or(0);
        if !(1..=65535).contains(&number) {
            check.invalid(format!("{field}.port"), number, PORT_RANGE);
        }
        check.need_one_of(port, "protocol", &field, &["SCTP", "TCP", "UDP"]);
        if let Some(target) = at(port, &["targetPort"]) {
            check.port_number_or_name(target, &format!("{field}.targetPort"));
        }
        let protocol = str_at(port, &["protocol"]);
        if !numbers.insert((protocol, number)) {
            check.duplicate(field.clone(), json!({"protocol": protocol, "port": number}));
        }
        if let Some(node_port) = int_at(port, &["nodePort"]).filter(|n| *n != 0) {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                let detail = format!("may not be used when `type` is '{kind}'");
                check.forbidden(format!("{field}.nodePort"), detail);
            } else if !node_ports.insert((protocol, node_port)) {
                check.duplicate(format!("{field}.nodePort"), node_port);
            }
        }
    }
}

fn validate_policies(check: &mut Check, spec: &Value, kind: &str) {
    check.one_of(spec, "externalTrafficPolicy", "spec", &["Cluster", "Local"]);
    check.one_of(spec, "internalTrafficPolicy", "spec", &["Cluster", "Local"]);
    check.one_of(spec, "ipFamilyPolicy", "spec", &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    check.one_of(spec, "trafficDistribution", "spec", &["PreferClose", "PreferSameNode", "PreferSameZone"]);
    let external = str_at(spec, &["externalTrafficPolicy"]);
    if !external.is_empty() && !is_external(spec) {
        check.invalid("spec.externalTrafficPolicy", external, "may only be set for externally-accessible services");
    }
    if kind != "LoadBalancer" {
        if at(spec, &["allocateLoadBalancerNodePorts"]).is_some() {
            check.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'");
        }
        if at(spec, &["loadBalancerClass"]).is_some() {
            check.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'");
        }
        if !list_at(spec, &["loadBalancerSourceRanges"]).is_empty() {
            check.forbidden("spec.loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'");
        }
    }
    if let Some(port) = int_at(spec, &["healthCheckNodePort"]).filter(|p| *p != 0)
        && !(kind == "LoadBalancer" && external == "Local")
    {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        check.invalid("spec.healthCheckNodePort", port, detail);
    }
}

fn validate_addresses(check: &mut Check, spec: &Value) {
    const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    for (i, ip) in list_at(spec, &["clusterIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if ip != "None" && ip.parse::<std::net::IpAddr>().is_err() {
            check.invalid(format!("spec.clusterIPs[{i}]"), ip, BAD_IP);
        }
    }
    let first = list_at(spec, &["clusterIPs"]).first().and_then(Value::as_str).unwrap_or("");
    let ip = str_at(spec, &["clusterIP"]);
    if !first.is_empty() && ip != first {
        check.invalid("spec.clusterIP", ip, "must be the same as `spec.clusterIPs[0]`");
    }
    for (i, ip) in list_at(spec, &["externalIPs"]).iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        match ip.parse::<std::net::IpAddr>() {
            Err(_) => check.invalid(format!("spec.externalIPs[{i}]"), ip, BAD_IP),
            Ok(addr) if addr.is_loopback() => {
                check.invalid(
                    format!("spec.externalIPs[{i}]"),
                    ip,
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                );
            }
            Ok(addr) if addr.is_unspecified() => {
                check.invalid(format!("spec.externalIPs[{i}]"), ip, format!("may not be unspecified ({ip})"));
            }
            Ok(_) => {}
        }
    }
    for (i, family) in list_at(spec, &["ipFamilies"]).iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        if !matches!(family, "IPv4" | "IPv6") {
            check.extend([FieldError::not_supported(format!("spec.ipFamilies[{i}]"), family, &["IPv4", "IPv6"])]);
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate(new) };
    // An address, once there, stays as long as the type keeps it.
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let (have, want) = (str_at(old, &["spec", "clusterIP"]), str_at(new, &["spec", "clusterIP"]));
        if !have.is_empty() && have != want {
            let ips = at(new, &["spec", "clusterIPs"]).cloned().unwrap_or_else(|| json!([want]));
            check.invalid("spec.clusterIPs[0]", ips, "may not change once set");
        }
        let primary = |o: &Value| list_at(o, &["spec", "ipFamilies"]).first().cloned();
        if primary(old).is_some() && primary(new) != primary(old) {
            let families = at(new, &["spec", "ipFamilies"]).cloned().unwrap_or(Value::Null);
            check.invalid("spec.ipFamilies[0]", families, "may not change once set");
        }
    }
    if str_at(old, &["spec", "type"]) == "LoadBalancer" && str_at(new, &["spec", "type"]) == "LoadBalancer" {
        let class = ["spec", "loadBalancerClass"];
        if at(old, &class).is_some() && at(old, &class) != at(new, &class) {
            check.invalid("spec.loadBalancerClass", str_at(new, &class), "may not change once set");
        }
    }
    check.errors
}
