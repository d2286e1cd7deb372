//! Network policies, service address ranges and the addresses taken from them.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, IMMUTABLE, PORT_RANGE, join};
use super::cidr::{Cidr, check_cidr};
use crate::json::{at, ensure_object, int_at, list_at, list_mut, set_default, str_at};
use crate::meta;
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

const NOT_ENFORCED: &str =
    "this release stores network policies and does not enforce them: all pods can reach each other";
const NOT_ALLOCATED: &str =
    "this release stores the object and goes on taking service addresses from the range the server was started with";

pub(super) const NETWORK_POLICY: Hooks = Hooks {
    default: |o| {
        let spec = ensure_object(o, "spec");
        if list_at(spec, &["policyTypes"]).is_empty() {
            let egress = !list_at(spec, &["egress"]).is_empty();
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
        for direction in ["ingress", "egress"] {
            for rule in list_mut(spec, &[direction]) {
                for port in list_mut(rule, &["ports"]) {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
    },
    validate: validate_policy,
    validate_update: |new, _| validate_policy(new),
    warnings: policy_warnings,
    ..Hooks::NONE
};

fn validate_policy(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    if let Some(selector) = at(spec, &["podSelector"]) {
        check.extend(validate_label_selector(selector, "spec.podSelector"));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list_at(spec, &[direction]).iter().enumerate() {
            let field = format!("spec.{direction}[{i}]");
            for (j, port) in list_at(rule, &["ports"]).iter().enumerate() {
                validate_port(&mut check, port, &format!("{field}.ports[{j}]"));
            }
            for (j, peer) in list_at(rule, &[peers]).iter().enumerate() {
                validate_peer(&mut check, peer, &format!("{field}.{peers}[{j}]"));
            }
        }
    }
    let types = list_at(spec, &["policyTypes"]);
    if types.len() > 2 {
        check.invalid("spec.policyTypes", Value::from(types), "may not specify more than two policyTypes");
        return check.errors;
    }
    for (i, kind) in types.iter().map(|t| t.as_str().unwrap_or("")).enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            let allowed = &["Ingress", "Egress"];
            check.extend([FieldError::not_supported(format!("spec.policyTypes[{i}]"), kind, allowed)]);
        }
    }
    check.errors
}

fn validate_port(check: &mut Check, port: &Value, field: &str) {
    check.one_of(port, "protocol", field, &["TCP", "UDP", "SCTP"]);
    let end = int_at(port, &["endPort"]);
    let field_end = join(field, "endPort");
    match at(port, &["port"]) {
        None => {
            if let Some(end) = end {
                check.invalid(field_end, end, "may not be specified when `port` is not specified");
            }
        }
        Some(Value::String(name)) => {
            if let Some(end) = end {
                check.invalid(field_end, end, "may not be specified when `port` is non-numeric");
            }
            check.syntax(&join(field, "port"), name, names::port_name(name));
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or(0);
            if !(1..=65535).contains(&number) {
                check.invalid(join(field, "port"), number, PORT_RANGE);
            }
            if let Some(end) = end {
                if end < number {
                    check.invalid(field_end.clone(), number, "must be greater than or equal to `port`");
                }
                if !(1..=65535).contains(&end) {
                    check.invalid(field_end, end, PORT_RANGE);
                }
            }
        }
    }
}

fn validate_peer(check: &mut Check, peer: &Value, field: &str) {
    let mut selectors = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = at(peer, &[key]) {
            selectors += 1;
            check.extend(validate_label_selector(selector, &join(field, key)));
        }
    }
    match at(peer, &["ipBlock"]) {
        None if selectors == 0 => check.required(field, "must specify a peer"),
        None => {}
        Some(block) => {
            validate_block(check, block, &join(field, "ipBlock"));
            if selectors > 0 {
                check.forbidden(field, "may not specify both ipBlock and another peer");
            }
        }
    }
}

fn validate_block(check: &mut Check, block: &Value, field: &str) {
    if !check.need_str(block, "cidr", field) {
        return;
    }
    let Some(cidr) = check_cidr(check, str_at(block, &["cidr"]), &join(field, "cidr")) else { return };
    for (i, text) in list_at(block, &["except"]).iter().map(|e| e.as_str().unwrap_or("")).enumerate() {
        let field = format!("{field}.except[{i}]");
        if let Some(except) = check_cidr(check, text, &field)
            && !cidr.strictly_contains(except)
        {
            check.invalid(field, text, "must be a strict subset of `cidr`");
        }
    }
}

/// That nothing is enforced, and ranges that may mean two things.
fn policy_warnings(o: &Value) -> Vec<String> {
    let mut out = vec![NOT_ENFORCED.to_owned()];
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list_at(o, &["spec", direction]).iter().enumerate() {
            for (j, peer) in list_at(rule, &[peers]).iter().enumerate() {
                let field = format!("spec.{direction}[{i}].{peers}[{j}].ipBlock");
                cidr_warning(&mut out, str_at(peer, &["ipBlock", "cidr"]), &join(&field, "cidr"));
                for (k, except) in list_at(peer, &["ipBlock", "except"]).iter().filter_map(Value::as_str).enumerate() {
                    cidr_warning(&mut out, except, &format!("{field}.except[{k}]"));
                }
            }
        }
    }
    out
}

fn cidr_warning(out: &mut Vec<String>, text: &str, field: &str) {
    let Some(cidr) = Cidr::parse(text) else { return };
    if !cidr.is_network() {
        let (network, host) = (cidr.masked(), format!("{}/{}", cidr.address, cidr.width()));
        out.push(format!(
            "{field}: CIDR value {text:?} is ambiguous in this context (should be {network:?} or {host:?}?)"
        ));
    } else if cidr.address.is_ipv6() && cidr.masked() != text {
        let canonical = cidr.masked();
        out.push(format!("{field}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})"));
    }
}

pub(super) const SERVICE_CIDR: Hooks = Hooks {
    validate: |o| {
        let mut check = Check::default();
        validate_cidrs(&mut check, o);
        check.errors
    },
    validate_update: update_cidrs,
    warnings: |_| vec![NOT_ALLOCATED.to_owned()],
    ..Hooks::NONE
};

fn cidrs(o: &Value) -> Vec<&str> {
    list_at(o, &["spec", "cidrs"]).iter().map(|c| c.as_str().unwrap_or("")).collect()
}

fn validate_cidrs(check: &mut Check, o: &Value) {
    let field = "spec.cidrs";
    let texts = cidrs(o);
    if texts.is_empty() {
        check.required(field, "at least one CIDR required");
    } else if texts.len() > 2 {
        check.invalid(field, o["spec"].clone(), "may only hold up to 2 values");
    } else {
        for (i, text) in texts.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let Some(cidr) = check_cidr(check, text, &field) else { continue };
            if !cidr.is_network() {
                check.invalid(field, *text, "must not have bits set beyond the prefix length");
            } else if cidr.masked() != *text {
                check.invalid(field, *text, format!("must be in canonical form ({:?})", cidr.masked()));
            }
        }
        let families: Vec<bool> =
            texts.iter().filter_map(|t| Cidr::parse(t)).map(|cidr| cidr.address.is_ipv4()).collect();
        if matches!(families[..], [a, b] if a == b) {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            check.invalid(field, Value::from(texts), detail);
        }
    }
}

/// Ranges stay; one of the other family may be added.
fn update_cidrs(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let (want, have) = (cidrs(new), cidrs(old));
    let grows = have.len() == 1 && want.len() == 2;
    if want.len() != have.len() && !grows {
        check.invalid("spec.cidrs", Value::from(want), IMMUTABLE);
        return check.errors;
    }
    for (i, (want, have)) in want.iter().zip(&have).enumerate() {
        if want != have {
            check.invalid(format!("spec.cidrs[{i}]"), *want, IMMUTABLE);
        }
    }
    if grows {
        validate_cidrs(&mut check, new);
    }
    check.errors
}

pub(super) const IP_ADDRESS: Hooks = Hooks {
    validate: |o| {
        let mut check = Check::default();
        validate_address(&mut check, o);
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        check.immutable(new, old, &["spec", "parentRef"]);
        check.errors
    },
    warnings: |_| vec![NOT_ALLOCATED.to_owned()],
    ..Hooks::NONE
};

/// The name is the address, in its one canonical form.
fn validate_address(check: &mut Check, o: &Value) {
    let name = meta::name(o);
    match name.parse::<IpAddr>() {
        Err(_) => {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            check.invalid("metadata.name", name, detail);
        }
        Ok(address) if address.to_string() != name => {
            check.invalid("metadata.name", name, format!("must be in canonical form (\"{address}\")"));
        }
        Ok(_) => {}
    }
    let field = "spec.parentRef";
    let Some(parent) = at(o, &["spec", "parentRef"]) else {
        check.required(field, "");
        return;
    };
    let group = str_at(parent, &["group"]);
    if !group.is_empty() {
        check.syntax(&join(field, "group"), group, names::dns1123_subdomain(group));
    }
    for key in ["resource", "name"] {
        if check.need_str(parent, key, field) {
            let value = str_at(parent, &[key]);
            check.syntax(&join(field, key), value, names::path_segment(value));
        }
    }
    let namespace = str_at(parent, &["namespace"]);
    check.syntax(&join(field, "namespace"), namespace, names::path_segment(namespace));
}
