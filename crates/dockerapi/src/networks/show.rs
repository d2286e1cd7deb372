//! How networks, and a container's places in them, are shown.

use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::{BRIDGE, Network, find};
use crate::Version;
use crate::containers::model::Endpoint;
use crate::containers::record::Record;
use crate::face::{Face, stamp};

/// Up to this version a container's short id stands among its aliases.
const SHORT_ID_UNTIL: Version = Version(1, 44);

fn mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("02:57:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// A network.
pub fn document(face: &Face, network: &Network, with_containers: bool) -> Value {
    let config = face.engine.network().config();
    let (mut ipam, mut options, mut created) = (Value::Null, json!({}), stamp(0));
    let (mut labels, mut internal, mut attachable) = (json!({}), false, false);
    match network {
        Network::Built(BRIDGE) => {
            ipam = json!([{ "Subnet": config.pod_cidr.to_string(), "Gateway": config.gateway().to_string() }]);
            options = json!({
                "com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": config.bridge,
            });
        }
        Network::Built(_) => {}
        Network::Own(own) => {
            let mut range = json!({ "Subnet": String::from(own.subnet), "Gateway": own.gateway.to_string() });
            if let Some(part) = own.range {
                range["IPRange"] = json!(String::from(part));
            }
            if !own.aux.is_empty() {
                range["AuxiliaryAddresses"] = json!(own.aux);
            }
            ipam = json!([range]);
            (options, labels, created) = (json!(own.options), json!(own.labels), stamp(own.created_ms));
            (internal, attachable) = (own.internal, own.attachable);
        }
    }
    let has_addresses = matches!(network, Network::Own(_) | Network::Built(BRIDGE));
    json!({
        "Name": network.name(), "Id": network.id(face), "Created": created, "Scope": "local", "Driver": network.driver(),
        "EnableIPv4": has_addresses, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam },
        "Internal": internal, "Attachable": attachable, "Ingress": false, "ConfigFrom": { "Network": "" },
        "ConfigOnly": false, "Options": options, "Labels": labels,
        "Containers": if with_containers { containers(face, network) } else { json!({}) },
    })
}

fn containers(face: &Face, network: &Network) -> Value {
    let mut rows = Map::new();
    for record in face.all().iter().map(|c| c.record()).filter(|r| r.state.phase.is_live()) {
        if !record.networks.contains_key(network.name()) {
            continue;
        }
        let place = Place::of(face, &record, network);
        let address = place.ip.map(|ip| format!("{ip}/{}", place.prefix)).unwrap_or_default();
        let row = json!({
            "Name": record.name, "EndpointID": place.endpoint, "MacAddress": place.ip.map(mac).unwrap_or_default(),
            "IPv4Address": address, "IPv6Address": "",
        });
        rows.insert(record.id, row);
    }
    Value::Object(rows)
}

/// Where a container is in a network, while it runs.
struct Place {
    ip: Option<Ipv4Addr>,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    endpoint: String,
}

impl Place {
    fn of(face: &Face, record: &Record, network: &Network) -> Place {
        let live = record.state.phase.is_live();
        let nowhere = Place { ip: None, prefix: 0, gateway: None, endpoint: String::new() };
        match network {
            _ if !live => nowhere,
            Network::Built(BRIDGE) => {
                let config = face.engine.network().config();
                let ip = record.state.ip.as_deref().and_then(|ip| ip.parse().ok());
                let (prefix, gateway) = (config.pod_cidr.prefix, Some(config.gateway()));
                Place { ip, prefix, gateway, endpoint: record.id.clone() }
            }
            Network::Built(_) => Place { endpoint: record.id.clone(), ..nowhere },
            Network::Own(own) => match record.state.endpoints.get(&own.name) {
                Some(held) => Place {
                    ip: Some(held.ip),
                    prefix: own.subnet.0.prefix,
                    gateway: Some(own.gateway).filter(|_| !own.internal),
                    endpoint: held.endpoint.clone(),
                },
                None => nowhere,
            },
        }
    }
}

/// The networks of a container, by name.
pub fn of_container(face: &Face, record: &Record, version: Version) -> Value {
    let mut rows = Map::new();
    for (name, asked) in &record.networks {
        rows.insert(name.clone(), row(face, record, name, asked, version));
    }
    Value::Object(rows)
}

fn row(face: &Face, record: &Record, name: &str, asked: &Endpoint, version: Version) -> Value {
    let network = find(face, name).ok();
    let place = network.as_ref().map(|n| Place::of(face, record, n));
    let own = matches!(network, Some(Network::Own(_)));
    let text = |ip: Option<Ipv4Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let list = |l: &[String]| if l.is_empty() { Value::Null } else { json!(l) };
    let short: String = record.id.chars().take(12).collect();
    let mut called = vec![record.name.clone()];
    called.extend(asked.aliases.iter().cloned());
    called.extend([short.clone(), record.config.hostname.clone()]);
    let mut seen = std::collections::BTreeSet::new();
    called.retain(|n| !n.is_empty() && seen.insert(n.clone()));
    let mut aliases = asked.aliases.clone();
    if own && version <= SHORT_ID_UNTIL && !aliases.contains(&short) {
        aliases.push(short);
    }
    let (ip, gateway) = place.as_ref().map_or((None, None), |p| (p.ip, p.gateway));
    json!({
        "IPAMConfig": asked.ipam_config, "Links": list(&asked.links), "Aliases": list(&aliases),
        "DriverOpts": null, "GwPriority": asked.gw_priority, "DNSNames": if own { json!(called) } else { Value::Null },
        "NetworkID": network.map(|n| n.id(face)).unwrap_or_default(),
        "EndpointID": place.as_ref().map(|p| p.endpoint.clone()).unwrap_or_default(),
        "Gateway": if ip.is_some() { text(gateway) } else { String::new() },
        "IPAddress": text(ip),
        "IPPrefixLen": if ip.is_some() { place.map_or(0, |p| p.prefix) } else { 0 },
        "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "MacAddress": ip.map(mac).unwrap_or_default(),
    })
}
