//! Which tracked UDP flows lead to an endpoint that no longer serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::{Protocol, ServiceTable, TrafficPolicy};

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub protocol: u8,
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
}

/// A tracked flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// As the client sent it.
    pub original: Tuple,
    /// As the answer comes: its source is who really serves.
    pub reply: Tuple,
}

/// The UDP entrances and who may answer behind each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UdpBackends {
    addresses: BTreeMap<(Ipv4Addr, u16), BTreeSet<(Ipv4Addr, u16)>>,
    node_ports: BTreeMap<u16, BTreeSet<(Ipv4Addr, u16)>>,
}

impl UdpBackends {
    /// From the table in force. An entrance served by a listener of this host has no endpoints and is left out.
    pub fn of(table: &ServiceTable, dns_ip: Option<Ipv4Addr>) -> Self {
        let mut backends = UdpBackends::default();
        for service in &table.services {
            for port in service.ports.iter().filter(|p| p.protocol == Protocol::Udp) {
                let inside = service.internal_traffic;
                let all: BTreeSet<_> = port.endpoints.iter().map(|e| (e.ip, e.port)).collect();
                let inner: BTreeSet<_> = port
                    .endpoints
                    .iter()
                    .filter(|e| e.local || inside == TrafficPolicy::Cluster)
                    .map(|e| (e.ip, e.port))
                    .collect();
                for ip in &service.cluster_ips {
                    if !(inner.is_empty() && Some(*ip) == dns_ip) {
                        backends.addresses.entry((*ip, port.port)).or_default().extend(&inner);
                    }
                }
                for ip in &service.external_ips {
                    backends.addresses.entry((*ip, port.port)).or_default().extend(&all);
                }
                for node_port in port.node_port.into_iter().chain(service.on_host.then_some(port.port)) {
                    backends.node_ports.entry(node_port).or_default().extend(&all);
                }
            }
        }
        backends
    }

    /// Whether the flow entered by one of these doors and is answered by someone else.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.original.protocol != Protocol::Udp.number() {
            return false;
        }
        let (ip, port) = flow.original.destination;
        let served_by = flow.reply.source;
        if let Some(backends) = self.addresses.get(&(ip, port)) {
            return !backends.contains(&served_by);
        }
        // A flow to that port of some other machine is none of ours: only translated ones are.
        match self.node_ports.get(&port) {
            Some(backends) => served_by != (ip, port) && !backends.contains(&served_by),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServiceEntry, ServicePort};

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn flow(to: (Ipv4Addr, u16), served_by: (Ipv4Addr, u16)) -> Flow {
        let client = (ip(200), 4000);
        Flow {
            original: Tuple { protocol: 17, source: client, destination: to },
            reply: Tuple { protocol: 17, source: served_by, destination: client },
        }
    }

    #[test]
    fn only_flows_to_missing_endpoints_are_stale() {
        let port = |node_port, endpoints| ServicePort { protocol: Protocol::Udp, port: 53, node_port, endpoints };
        let table = ServiceTable {
            services: vec![
                ServiceEntry {
                    cluster_ips: vec![ip(10)],
                    ports: vec![port(Some(30053), vec![Endpoint { ip: ip(1), port: 5353, local: true }])],
                    ..ServiceEntry::default()
                },
                ServiceEntry { cluster_ips: vec![ip(11)], ports: vec![port(None, vec![])], ..ServiceEntry::default() },
            ],
        };
        let backends = UdpBackends::of(&table, Some(ip(11)));
        assert!(!backends.is_stale(&flow((ip(10), 53), (ip(1), 5353))), "served");
        assert!(backends.is_stale(&flow((ip(10), 53), (ip(2), 5353))), "endpoint gone");
        assert!(backends.is_stale(&flow((ip(10), 53), (ip(10), 53))), "untranslated, from before there were endpoints");
        assert!(backends.is_stale(&flow((ip(77), 30053), (ip(2), 5353))), "node port, endpoint gone");
        assert!(!backends.is_stale(&flow((ip(77), 30053), (ip(77), 30053))), "some other machine's port");
        assert!(!backends.is_stale(&flow((ip(11), 53), (ip(11), 53))), "our own DNS listener");
        assert!(!backends.is_stale(&flow((ip(9), 53), (ip(2), 5353))), "no entrance of ours");
    }
}
