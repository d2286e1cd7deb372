//! A network of one's own: what it is, what was asked for, and its file.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use base::instance::Cidr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pools::{self, Pool};
use crate::containers::model::{Rest, only_empty, without_nulls};
use crate::containers::names;
use crate::face::now_ms;
use crate::fault::{Fault, Result};

/// Networks at most: each is a bridge, and a route of the host.
pub const MOST: usize = 256;
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const TOGETHER: &str = "com.docker.network.bridge.enable_icc";
const MTU: &str = "com.docker.network.driver.mtu";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Net {
    /// 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// Its range.
    pub subnet: net::CidrText,
    /// The part of it that addresses are given from, if it is not the whole.
    pub range: Option<net::CidrText>,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Addresses set aside, by name.
    pub aux: BTreeMap<String, Ipv4Addr>,
    /// Its range was asked for: members may choose their addresses.
    pub chosen: bool,
    /// No way out.
    pub internal: bool,
    /// As asked for; nothing follows from it without a swarm.
    pub attachable: bool,
    /// Options of the driver, as asked for.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The host's interface that members are on, if it is no bridge of its own.
    #[serde(default)]
    pub parent: Option<net::Parent>,
}

impl Net {
    /// Its driver.
    pub fn driver(&self) -> &'static str {
        if self.parent.is_some() { "macvlan" } else { "bridge" }
    }

    /// The key of its bridge.
    pub fn key(&self) -> &str {
        &self.id[..8]
    }

    /// Where its members' addresses come from.
    pub fn pool(&self) -> Pool {
        let reserved = self.aux.values().copied().chain([self.gateway]).collect();
        let subnet = self.subnet.0;
        Pool { subnet, range: self.range.map_or(subnet, |r| r.0), reserved }
    }

    /// Its bridge.
    pub fn bridge(&self) -> net::BridgeSpec {
        net::BridgeSpec {
            key: self.key().to_owned(),
            subnet: self.subnet,
            gateway: self.gateway,
            internal: self.internal,
            masquerade: self.options.get(MASQUERADE).is_none_or(|v| truth(v) == Some(true)),
            mtu: self.options.get(MTU).and_then(|v| v.parse().ok()),
            parent: self.parent.clone(),
        }
    }
}

fn mode(text: &str) -> Option<net::Macvlan> {
    match text {
        "" | "bridge" => Some(net::Macvlan::Bridge),
        "private" => Some(net::Macvlan::Private),
        "vepa" => Some(net::Macvlan::Vepa),
        "passthru" => Some(net::Macvlan::Passthru),
        _ => None,
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Some(true),
        "0" | "f" | "false" => Some(false),
        _ => None,
    }
}

/// What `networks/create` is sent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Asked {
    /// Its name.
    pub name: String,
    driver: String,
    // Always done.
    #[serde(rename = "CheckDuplicate")]
    _check_duplicate: bool,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    options: BTreeMap<String, String>,
    config: Vec<Range>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Range {
    subnet: String,
    #[serde(rename = "IPRange")]
    range: String,
    gateway: String,
    #[serde(alias = "AuxAddress")]
    auxiliary_addresses: BTreeMap<String, String>,
}

impl Asked {
    /// From the document.
    ///
    /// # Errors
    /// 400 for what cannot be obeyed, 403 for a name that is Docker's own, 404 for another driver.
    pub fn read(document: Value) -> Result<Self> {
        let asked: Asked =
            serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
        let forbidden = |message: String| Err(Fault::new(http::StatusCode::FORBIDDEN, message));
        if ["bridge", "host", "none", "default"].contains(&asked.name.as_str()) {
            return forbidden(format!("operation is not permitted on predefined {} network", asked.name));
        }
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if !asked.name.bytes().all(valid) || asked.name.len() > 128 || !asked.name.starts_with(char::is_alphanumeric) {
            return Err(Fault::bad(format!(
                "invalid network name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
                asked.name
            )));
        }
        match asked.driver.as_str() {
            "" | "default" | "bridge" | "macvlan" => {}
            one @ ("host" | "null") => return forbidden(format!("only one instance of \"{one}\" network is allowed")),
            other => {
                return Err(Fault::missing(format!(
                    "could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"
                )));
            }
        }
        only_empty("", &asked.rest)?;
        if asked.ipv6 || asked.ipv4 == Some(false) {
            return Err(Fault::refused("a network with IPv6, or without IPv4,"));
        }
        if !matches!(asked.scope.as_str(), "" | "local") {
            return Err(Fault::refused(&format!("a network of scope {:?}", asked.scope)));
        }
        if !matches!(asked.ipam.driver.as_str(), "" | "default") || !asked.ipam.options.is_empty() {
            return Err(Fault::refused(&format!("the IPAM driver {:?} or its options", asked.ipam.driver)));
        }
        asked.options()?;
        Ok(asked)
    }

    fn options(&self) -> Result<()> {
        for (name, value) in &self.options {
            let good = match name.as_str() {
                PARENT if self.is_macvlan() => true,
                MACVLAN_MODE if self.is_macvlan() => mode(value).is_some(),
                MASQUERADE | TOGETHER if self.is_macvlan() => false,
                MASQUERADE => truth(value).is_some(),
                // Members of a bridge reach each other; nothing here keeps them apart.
                TOGETHER => truth(value) == Some(true),
                MTU => value.parse::<u32>().is_ok_and(|mtu| (68..=65_535).contains(&mtu)),
                _ => false,
            };
            if !good {
                return Err(Fault::refused(&format!("the network option {name}={value:?}")));
            }
        }
        if self.is_macvlan() && self.options.get(PARENT).is_none_or(String::is_empty) {
            return Err(Fault::refused("a macvlan network without the option parent=INTERFACE"));
        }
        Ok(())
    }

    fn is_macvlan(&self) -> bool {
        self.driver == "macvlan"
    }

    fn parent(&self) -> Option<net::Parent> {
        let name = self.options.get(PARENT).filter(|_| self.is_macvlan())?.clone();
        let mode = self.options.get(MACVLAN_MODE).and_then(|m| mode(m)).unwrap_or_default();
        Some(net::Parent { name, mode })
    }

    /// The network, with a range that overlaps none of those that are `ours`; one that is not asked for overlaps none of `all`
    /// either.
    ///
    /// # Errors
    /// 400 for ranges and addresses that are none, 403 for a range that is taken.
    pub fn settle(self, ours: &[Cidr], all: &[Cidr], start: usize) -> Result<Net> {
        let invalid = |why: String| Fault::bad(format!("invalid network config:\n{why}"));
        let range = match &self.ipam.config[..] {
            [] => Range::default(),
            [one] => one.clone(),
            _ => return Err(Fault::bad("bridge driver doesn't support multiple subnets")),
        };
        let chosen = !range.subnet.is_empty();
        let subnet = if chosen {
            let subnet = pools::parse(&range.subnet).map_err(invalid)?;
            if ours.iter().any(|o| pools::overlap(*o, subnet)) {
                let message = "invalid pool request: Pool overlaps with other one on this address space";
                return Err(Fault::new(http::StatusCode::FORBIDDEN, message));
            }
            subnet
        } else if range.range.is_empty() && range.gateway.is_empty() && range.auxiliary_addresses.is_empty() {
            pools::free_pool(start, all)
                .ok_or_else(|| Fault::bad("all predefined address pools have been fully subnetted"))?
        } else {
            return Err(invalid("an ip-range, gateway or auxiliary address needs a subnet".to_owned()));
        };
        let part = match range.range.as_str() {
            "" => None,
            text => Some(pools::parse(text).map_err(invalid)?),
        };
        if let Some(outside) = part.filter(|p| !subnet.contains(p.base) || p.prefix < subnet.prefix) {
            return Err(invalid(format!("invalid ip-range {outside}: parent subnet is {subnet}")));
        }
        let address = |what: &str, text: &str| match text.parse::<Ipv4Addr>() {
            Ok(ip) if subnet.contains(ip) && ip != subnet.base => Ok(ip),
            Ok(ip) => Err(invalid(format!("invalid {what} {ip}: parent subnet is {subnet}"))),
            Err(_) => Err(invalid(format!("invalid {what} {text}"))),
        };
        let aux = range.auxiliary_addresses.iter();
        let aux: BTreeMap<String, Ipv4Addr> =
            aux.map(|(name, text)| Ok((name.clone(), address("auxiliary address", text)?))).collect::<Result<_>>()?;
        let gateway = match range.gateway.as_str() {
            "" => Pool { subnet, range: subnet, reserved: aux.values().copied().collect() }
                .address(None, |_| false)
                .map_err(|_| invalid(format!("subnet {subnet} has no address for a gateway")))?,
            text => address("gateway", text)?,
        };
        let parent = self.parent();
        Ok(Net {
            id: names::id(),
            name: self.name,
            created_ms: now_ms(),
            subnet: net::CidrText(subnet),
            range: part.map(net::CidrText),
            gateway,
            aux,
            chosen,
            internal: self.internal,
            attachable: self.attachable,
            parent,
            options: self.options,
            labels: self.labels,
        })
    }
}

/// All networks that can be read.
///
/// # Errors
/// When the folder cannot be made or read.
pub fn load(dir: &Path) -> io::Result<Vec<Net>> {
    std::fs::create_dir_all(dir)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Net>(&bytes)?)) {
            Ok(net) => found.push(net),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a network's file cannot be read"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settle(document: Value, ours: &[&str]) -> Result<Net> {
        let ours: Vec<Cidr> = ours.iter().map(|o| o.parse().unwrap()).collect();
        Asked::read(document)?.settle(&ours, &ours, 0)
    }

    #[test]
    fn ranges_are_as_asked_for_and_overlap_no_other() {
        let net = settle(json!({ "Name": "a", "IPAM": { "Config": null } }), &["172.18.0.0/16"]).unwrap();
        assert_eq!((net.subnet.0.to_string().as_str(), net.gateway), ("172.19.0.0/16", Ipv4Addr::new(172, 19, 0, 1)));
        assert!(!net.chosen);
        let config =
            json!([{ "Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25", "AuxiliaryAddresses": { "x": "10.9.0.1" } }]);
        let asked = json!({ "Name": "a", "IPAM": { "Config": config } });
        let net = settle(asked.clone(), &[]).unwrap();
        assert_eq!(net.gateway, Ipv4Addr::new(10, 9, 0, 2));
        assert_eq!(net.pool().address(None, |_| false), Ok(Ipv4Addr::new(10, 9, 0, 128)));
        let fault = settle(asked, &["10.0.0.0/8"]).unwrap_err();
        assert_eq!(fault.status, http::StatusCode::FORBIDDEN);
        assert!(fault.message.contains("Pool overlaps with other one on this address space"));
    }

    #[test]
    fn what_is_not_obeyed_is_refused() {
        for (document, status, words) in [
            (json!({ "Name": "host" }), 403, "predefined host network"),
            (json!({ "Name": "a b" }), 400, "invalid network name"),
            (json!({ "Name": "" }), 400, "invalid network name"),
            (json!({ "Name": "a", "Driver": "ipvlan" }), 404, "plugin \"ipvlan\" not found"),
            (json!({ "Name": "a", "Driver": "macvlan" }), 400, "without the option parent"),
            (json!({ "Name": "a", "Options": { "parent": "eth0" } }), 400, "parent"),
            (
                json!({ "Name": "a", "Driver": "macvlan", "Options": { "parent": "e", "macvlan_mode": "l2" } }),
                400,
                "l2",
            ),
            (json!({ "Name": "a", "EnableIPv6": true }), 400, "IPv6"),
            (json!({ "Name": "a", "Ingress": true }), 400, "Ingress"),
            (json!({ "Name": "a", "Options": { "com.docker.network.bridge.name": "br0" } }), 400, "bridge.name"),
            (json!({ "Name": "a", "IPAM": { "Config": [{ "Subnet": "fd00::/64" }] } }), 400, "IPv6"),
            (json!({ "Name": "a", "IPAM": { "Config": [{ "Gateway": "10.0.0.1" }] } }), 400, "needs a subnet"),
            (
                json!({ "Name": "a", "IPAM": { "Config": [{ "Subnet": "10.0.0.0/24", "Gateway": "10.0.1.1" }] } }),
                400,
                "invalid gateway 10.0.1.1: parent subnet is 10.0.0.0/24",
            ),
        ] {
            let fault = settle(document.clone(), &[]).unwrap_err();
            assert_eq!(fault.status.as_u16(), status, "{document}: {fault}");
            assert!(fault.message.contains(words), "{document}: {fault}");
        }
    }
}
