//! The networks there are: the instance's bridge, the host's own, and none.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::face::Face;
use crate::fault::{Fault, Result};
use crate::http::{Answer, Call, json};

/// Their names.
const NAMES: [&str; 3] = ["bridge", "host", "none"];

/// The id of a network, the same for as long as the instance has its name.
pub fn id(face: &Face, name: &str) -> String {
    let text = format!("{}/{name}", face.engine.instance().name());
    // FNV-1a four times over, each begun elsewhere: no secret, only a name of 64 digits.
    let hash = |seed: u64| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    (0..4).map(|n| format!("{:016x}", hash(n))).collect()
}

fn document(face: &Arc<Face>, name: &str, with_containers: bool) -> Value {
    let config = face.engine.network().config();
    let driver = if name == "none" { "null" } else { name };
    let ipam = match name {
        "bridge" => json!([{ "Subnet": config.pod_cidr.to_string(), "Gateway": config.gateway().to_string() }]),
        _ => Value::Null,
    };
    let mut containers = Map::new();
    for record in face.all().iter().map(|c| c.record()).filter(|_| with_containers) {
        if record.host.network_mode == name && record.state.phase.is_live() {
            let address = record.state.ip.as_ref().map(|ip| format!("{ip}/{}", config.pod_cidr.prefix));
            let row = json!({
                "Name": record.name, "EndpointID": record.id, "MacAddress": "", "IPv6Address": "",
                "IPv4Address": address.unwrap_or_default(),
            });
            containers.insert(record.id, row);
        }
    }
    let options = match name {
        "bridge" => {
            json!({ "com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": config.bridge })
        }
        _ => json!({}),
    };
    json!({
        "Name": name, "Id": id(face, name), "Created": "0001-01-01T00:00:00Z", "Scope": "local", "Driver": driver,
        "EnableIPv4": name == "bridge", "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam },
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": containers, "Options": options, "Labels": {},
    })
}

/// `GET /networks`.
///
/// # Errors
/// 400 for filters that are none.
pub fn list(call: &Call) -> Result<Answer> {
    let known = ["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];
    let filters = call.query.filters(&known)?;
    let dangling = filters.switch("dangling")?;
    let fits = |name: &&str| {
        let driver = if *name == "none" { "null" } else { *name };
        filters.any("name", |v| name.contains(v))
            && filters.any("id", |v| id(&call.face, name).starts_with(v))
            && filters.any("driver", |v| v == driver)
            && filters.any("scope", |v| v == "local")
            && filters.any("type", |v| v == "builtin")
            && filters.labels(&std::collections::BTreeMap::new())
            && dangling != Some(true)
    };
    let rows: Vec<Value> = NAMES.iter().copied().filter(|n| fits(n)).map(|n| document(&call.face, n, false)).collect();
    Ok(json(&rows))
}

/// `GET /networks/{id}`.
///
/// # Errors
/// 404.
pub fn inspect(call: &Call, text: &str) -> Result<Answer> {
    let found = NAMES.iter().find(|n| **n == text || (text.len() >= 4 && id(&call.face, n).starts_with(text)));
    let name = found.ok_or_else(|| Fault::missing(format!("network {text} not found")))?;
    Ok(json(&document(&call.face, name, true)))
}

/// `DELETE /networks/{id}`.
///
/// # Errors
/// 404; 403, since those there are stay.
pub fn remove(call: &Call, text: &str) -> Result<Answer> {
    inspect(call, text)?;
    let message = format!("{text} is a pre-defined network and cannot be removed");
    Err(Fault::new(http::StatusCode::FORBIDDEN, message))
}
