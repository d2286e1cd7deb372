//! From the service table to chains, sets and map elements.
//!
//! For a service port the plan makes at most these chains (`NS/NAME/tcp/80` is the key of the port):
//! - `all/KEY`: balances over all endpoints; `loc/KEY`: over those of this node;
//! - `ext/KEY`: what comes from outside the cluster: source ranges, traffic policy, then one of the two above;
//! - `ep/KEY/IP/PORT`: one endpoint, only with session affinity, where it must also note the client in `aff/…`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

use base::instance::Cidr;

use super::ruleset::{EXTERNAL_MARK, Ruleset};
use crate::ipam::Lease;
use crate::{Endpoint, Protocol, ServiceEntry, ServicePort, ServiceTable, TrafficPolicy};

/// Clients that one endpoint remembers; when full, new ones are balanced without memory.
const AFFINITY_CLIENTS: u32 = 65_536;

/// What the plan has to know of the node.
pub(crate) struct Node {
    pub pod_cidr: Cidr,
    /// Served by a listener on the bridge unless a service with endpoints takes it.
    pub dns_ip: Option<Ipv4Addr>,
}

/// The whole ruleset above the fixed chains. Does not depend on the order of services, ports or endpoints.
pub(crate) fn plan<'a>(table: &ServiceTable, leases: impl IntoIterator<Item = &'a Lease>, node: &Node) -> Ruleset {
    let mut rules = Ruleset::default();
    for service in &table.services {
        for port in &service.ports {
            PortPlan::new(service, port, node).add_to(&mut rules);
        }
    }
    for lease in leases {
        for port in &lease.host_ports {
            let to = format!("{} . {}", lease.ip, port.container_port);
            match port.host_ip {
                Some(ip) if !ip.is_unspecified() => {
                    rules.element("hostips", format!("{ip} . {} . {}", port.protocol, port.host_port), to);
                }
                _ => rules.element("hostports", format!("{} . {}", port.protocol, port.host_port), to),
            }
            rules.element("hairpin", format!("{0} . {0}", lease.ip), String::new());
        }
    }
    rules
}

struct PortPlan<'a> {
    service: &'a ServiceEntry,
    port: &'a ServicePort,
    node: &'a Node,
    key: String,
    all: Vec<Endpoint>,
    local: Vec<Endpoint>,
}

impl<'a> PortPlan<'a> {
    fn new(service: &'a ServiceEntry, port: &'a ServicePort, node: &'a Node) -> Self {
        let name = |s: &str| {
            // Names come from validated objects; whatever they are, they must not end a chain's name.
            s.chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' })
                .collect::<String>()
        };
        let key = format!("{}/{}/{}/{}", name(&service.namespace), name(&service.name), port.protocol, port.port);
        let all: Vec<Endpoint> = port.endpoints.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let local = all.iter().copied().filter(|e| e.local).collect();
        PortPlan { service, port, node, key, all, local }
    }

    fn add_to(&self, rules: &mut Ruleset) {
        let protocol = self.port.protocol;
        for endpoint in self.all.iter().filter(|e| self.node.pod_cidr.contains(e.ip)) {
            rules.element("hairpin", format!("{0} . {0}", endpoint.ip), String::new());
        }
        let inside = self.targets(self.service.internal_traffic, rules);
        for ip in &self.service.cluster_ips {
            let key = format!("{ip} . {protocol} . {}", self.port.port);
            match &inside {
                Some(chain) => rules.element("vips", key, format!("goto {chain}")),
                None if Some(*ip) == self.node.dns_ip => {}
                None => rules.element("dead_vips", key, String::new()),
            }
        }
        if self.port.node_port.is_none() && self.service.external_ips.is_empty() && !self.service.on_host {
            return;
        }
        let outside = self.external(rules);
        let mut enter = |map: &'static str, dead: &'static str, key: String| match &outside {
            Some(chain) => rules.element(map, key, format!("goto {chain}")),
            None => rules.element(dead, key, String::new()),
        };
        for ip in &self.service.external_ips {
            enter("vips", "dead_vips", format!("{ip} . {protocol} . {}", self.port.port));
        }
        if self.service.on_host {
            enter("nodeports", "dead_nodeports", format!("{protocol} . {}", self.port.port));
        }
        if let Some(port) = self.port.node_port {
            enter("nodeports", "dead_nodeports", format!("{protocol} . {port}"));
        }
    }

    /// The chain for what comes from outside, `None` when there is no endpoint at all.
    fn external(&self, rules: &mut Ruleset) -> Option<String> {
        let all = self.targets(TrafficPolicy::Cluster, rules)?;
        let mut lines = Vec::new();
        if !self.service.source_ranges.is_empty() {
            let ranges: BTreeSet<String> = self.service.source_ranges.iter().map(|r| r.0.to_string()).collect();
            let ranges = ranges.into_iter().collect::<Vec<_>>().join(", ");
            // Node ports are not behind the load balancer's ranges.
            if let Some(port) = self.port.node_port {
                lines.push(format!("th dport != {port} ip saddr != {{ {ranges} }} drop"));
            } else {
                lines.push(format!("ip saddr != {{ {ranges} }} drop"));
            }
        }
        let marked = format!("meta mark set meta mark | {EXTERNAL_MARK:#x}");
        match self.service.external_traffic {
            TrafficPolicy::Cluster => {
                lines.push(marked);
                lines.push(format!("goto {all}"));
            }
            TrafficPolicy::Local => {
                // Pods and the host itself are inside the cluster: for them the policy does not hold.
                lines.push(format!("ip saddr {} goto {all}", self.node.pod_cidr));
                lines.push(format!("fib saddr type local {marked} goto {all}"));
                match self.targets(TrafficPolicy::Local, rules) {
                    Some(local) => lines.push(format!("goto {local}")),
                    None => lines.push("drop".into()),
                }
            }
        }
        let chain = format!("ext/{}", self.key);
        rules.chains.insert(chain.clone(), lines);
        Some(chain)
    }

    /// The chain that balances over the endpoints that the policy allows.
    fn targets(&self, policy: TrafficPolicy, rules: &mut Ruleset) -> Option<String> {
        let (prefix, endpoints) = match policy {
            TrafficPolicy::Cluster => ("all", &self.all),
            TrafficPolicy::Local => ("loc", &self.local),
        };
        if endpoints.is_empty() {
            return None;
        }
        let chain = format!("{prefix}/{}", self.key);
        if !rules.chains.contains_key(&chain) {
            let lines = match self.service.session_affinity {
                None => vec![balance(self.port.protocol, endpoints)],
                Some(seconds) => self.sticky(endpoints, seconds, rules),
            };
            rules.chains.insert(chain.clone(), lines);
        }
        Some(chain)
    }

    fn sticky(&self, endpoints: &[Endpoint], seconds: u32, rules: &mut Ruleset) -> Vec<String> {
        let seconds = seconds.clamp(1, 86_400);
        let mut lines = Vec::new();
        let mut choices = String::new();
        for (i, e) in endpoints.iter().enumerate() {
            let chain = format!("ep/{}/{}/{}", self.key, e.ip, e.port);
            // The timeout is part of the name: a set cannot change it.
            let set = format!("aff/{}/{}/{}/{seconds}", self.key, e.ip, e.port);
            rules.sets.insert(
                set.clone(),
                format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size {AFFINITY_CLIENTS};"),
            );
            rules.chains.insert(
                chain.clone(),
                // Two rules: a full set ends only the first.
                vec![format!("update @{set} {{ ip saddr }}"), balance(self.port.protocol, &[*e])],
            );
            lines.push(format!("ip saddr @{set} goto {chain}"));
            let _ = write!(choices, "{}{i} : goto {chain}", if i == 0 { "" } else { ", " });
        }
        lines.push(format!("numgen random mod {} vmap {{ {choices} }}", endpoints.len()));
        lines
    }
}

fn balance(protocol: Protocol, endpoints: &[Endpoint]) -> String {
    if let [one] = endpoints {
        return format!("meta l4proto {protocol} dnat ip to {}:{}", one.ip, one.port);
    }
    let mut map = String::new();
    for (i, e) in endpoints.iter().enumerate() {
        let _ = write!(map, "{}{i} : {} . {}", if i == 0 { "" } else { ", " }, e.ip, e.port);
    }
    format!("meta l4proto {protocol} dnat ip to numgen random mod {} map {{ {map} }}", endpoints.len())
}

/// Elements of every map and set the plan may fill, so that an emptied one is still known.
pub(crate) type Elements = BTreeMap<&'static str, BTreeMap<String, String>>;

#[cfg(test)]
mod tests;
