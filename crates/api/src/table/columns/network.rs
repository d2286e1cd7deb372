//! Rows of services, endpoints, ingresses.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::apps::label_line;
use crate::json::{at, int_at, list_at, map_at, str_at};
use crate::meta;
use crate::table::object_age;

/// How many items a cell lists before it counts the rest.
const MAX_SHOWN: usize = 3;

/// `a,b,c + 2 more...`
fn shorten(items: &[String], empty: &str) -> String {
    let shown = items[..items.len().min(MAX_SHOWN)].join(",");
    match items.len() {
        0 => empty.to_owned(),
        n if n > MAX_SHOWN => format!("{shown} + {} more...", n - MAX_SHOWN),
        _ => shown,
    }
}

/// Addresses of `status.loadBalancer`.
fn balancer(o: &Value) -> Vec<String> {
    let name = |i: &Value| match str_at(i, &["ip"]) {
        "" => str_at(i, &["hostname"]).to_owned(),
        ip => ip.to_owned(),
    };
    list_at(o, &["status", "loadBalancer", "ingress"]).iter().map(name).filter(|n| !n.is_empty()).collect()
}

fn external_ip(o: &Value) -> String {
    let external: Vec<String> =
        list_at(o, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match str_at(o, &["spec", "type"]) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let mut all = balancer(o);
            all.extend(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => str_at(o, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub(super) fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let cluster = match str_at(o, &["spec", "clusterIP"]) {
        "" => "<none>",
        ip => ip,
    };
    let ports: Vec<String> = list_at(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (int_at(p, &["port"]).unwrap_or(0), str_at(p, &["protocol"]));
            match int_at(p, &["nodePort"]).filter(|n| *n > 0) {
                Some(node_port) => format!("{port}:{node_port}/{protocol}"),
                None => format!("{port}/{protocol}"),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        json!(meta::name(o)),
        json!(str_at(o, &["spec", "type"])),
        json!(cluster),
        json!(external_ip(o)),
        json!(ports),
        json!(object_age(o, now)),
        json!(label_line(map_at(o, &["spec", "selector"]))),
    ]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoints(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut items = Vec::new();
    for subset in list_at(o, &["subsets"]) {
        let ips: Vec<&str> = list_at(subset, &["addresses"]).iter().map(|a| str_at(a, &["ip"])).collect();
        let ports = list_at(subset, &["ports"]);
        if ports.is_empty() {
            items.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in ports {
            let number = int_at(port, &["port"]).unwrap_or(0);
            items.extend(ips.iter().map(|ip| host_port(ip, number)));
        }
    }
    vec![json!(meta::name(o)), json!(shorten(&items, "<none>")), json!(object_age(o, now))]
}

pub(super) fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list_at(o, &["ports"])
        .iter()
        .map(|p| match (int_at(p, &["port"]), str_at(p, &["name"])) {
            (Some(port), _) => port.to_string(),
            (None, "") => "*".to_owned(),
            (None, name) => name.to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list_at(o, &["endpoints"])
        .iter()
        .flat_map(|e| list_at(e, &["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        json!(meta::name(o)),
        json!(str_at(o, &["addressType"])),
        json!(shorten(&ports, "<unset>")),
        json!(shorten(&addresses, "<unset>")),
        json!(object_age(o, now)),
    ]
}

pub(super) fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let class = match str_at(o, &["spec", "ingressClassName"]) {
        "" => "<none>",
        class => class,
    };
    let hosts: Vec<String> = list_at(o, &["spec", "rules"])
        .iter()
        .map(|r| str_at(r, &["host"]).to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    let ports = if list_at(o, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        json!(meta::name(o)),
        json!(class),
        json!(shorten(&hosts, "*")),
        json!(balancer(o).join(",")),
        json!(ports),
        json!(object_age(o, now)),
    ]
}

pub(super) fn ingress_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = at(o, &["spec", "parameters"]).map_or_else(
        || "<none>".to_owned(),
        |p| {
            let (kind, name) = (str_at(p, &["kind"]), str_at(p, &["name"]));
            match str_at(p, &["apiGroup"]) {
                "" => format!("{kind}/{name}"),
                group => format!("{kind}.{group}/{name}"),
            }
        },
    );
    vec![json!(meta::name(o)), json!(str_at(o, &["spec", "controller"])), json!(parameters), json!(object_age(o, now))]
}
