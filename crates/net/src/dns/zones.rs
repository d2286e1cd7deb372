//! From services and endpoints to names. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use base::instance::Cidr;

use crate::Protocol;

/// Version of the Kubernetes DNS specification, as its `dns-version` record says.
pub(crate) const SCHEMA_VERSION: &str = "1.1.0";

/// Everything the zones are made of.
#[derive(Debug, Clone)]
pub struct ZoneInput {
    /// The cluster domain, `cluster.local`.
    pub domain: String,
    /// Range of service addresses: its reverse names are ours. Its tenth address is the name server's.
    pub service_cidr: Cidr,
    /// Ranges of pod addresses: their reverse names, and `1-2-3-4.NS.pod` names, are ours.
    pub pod_cidrs: Vec<Cidr>,
    /// The services.
    pub services: Vec<DnsService>,
}

/// One Service.
#[derive(Debug, Clone)]
pub struct DnsService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it resolves to.
    pub kind: DnsServiceKind,
}

/// What a Service resolves to.
#[derive(Debug, Clone)]
pub enum DnsServiceKind {
    /// Its cluster addresses.
    Cluster {
        /// IPv4 cluster addresses.
        ips: Vec<Ipv4Addr>,
        /// Its ports.
        ports: Vec<DnsPort>,
    },
    /// Its endpoints: those that are ready, or all of them with `publishNotReadyAddresses`. The caller leaves out the
    /// rest.
    Headless {
        /// The endpoints to publish.
        endpoints: Vec<DnsEndpoint>,
    },
    /// Another name, `spec.externalName`.
    External {
        /// The other name.
        name: String,
    },
}

/// A named port; nameless ports have no SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPort {
    /// Its name, empty if it has none.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// One endpoint of a headless Service.
#[derive(Debug, Clone)]
pub struct DnsEndpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The pod's `hostname`, when its `subdomain` is this Service.
    pub hostname: Option<String>,
    /// Its ports.
    pub ports: Vec<DnsPort>,
}

/// One fact about a name. Names are lower-case, without the dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Srv { port: u16, target: String },
    Cname(String),
    Ns(String),
    Ptr(String),
    Txt(String),
}

/// What the zones say about a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The name is somebody else's.
    NotOurs,
    /// The name exists, with this in it (perhaps nothing), in the zone with this apex.
    Found(Vec<Data>, String),
    /// The name does not exist in the zone with this apex.
    Missing(String),
}

/// All names of the cluster. Built at once, swapped at once.
#[derive(Debug, Default)]
pub struct Zones {
    domain: String,
    serial: u32,
    names: HashMap<String, BTreeSet<Data>>,
    reverse: HashMap<Ipv4Addr, BTreeSet<String>>,
    own: Vec<Cidr>,
    pods: Vec<Cidr>,
}

impl Zones {
    /// The zones of this input. `serial` is their SOA serial and should grow.
    pub fn build(input: &ZoneInput, serial: u32) -> Self {
        let domain = input.domain.trim_matches('.').to_ascii_lowercase();
        let mut zones = Zones {
            serial,
            own: input.pod_cidrs.iter().copied().chain([input.service_cidr]).collect(),
            pods: input.pod_cidrs.clone(),
            domain,
            ..Zones::default()
        };
        let (domain, server) = (zones.domain.clone(), format!("ns.dns.{}", zones.domain));
        zones.add(domain.clone(), Data::Ns(server.clone()));
        if let Some(ip) = input.service_cidr.nth(10) {
            zones.add(server, Data::A(ip));
        }
        zones.add(format!("dns-version.{domain}"), Data::Txt(SCHEMA_VERSION.into()));
        zones.add_empty(format!("svc.{domain}"));
        zones.add_empty(format!("pod.{domain}"));
        for service in &input.services {
            zones.add_service(service);
        }
        zones
    }

    /// Names of no zone, whose addresses are these; every other name is asked of the resolvers.
    pub fn flat(
        names: impl IntoIterator<Item = (String, Ipv4Addr)>,
        reverse: impl IntoIterator<Item = (Ipv4Addr, String)>,
    ) -> Self {
        let mut zones = Zones::default();
        for (name, ip) in names {
            zones.names.entry(name.to_ascii_lowercase()).or_default().insert(Data::A(ip));
        }
        for (ip, name) in reverse {
            zones.reverse.entry(ip).or_default().insert(name.to_ascii_lowercase());
        }
        zones
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The cluster domain, lower-case, without dots at its ends.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    fn add_service(&mut self, service: &DnsService) {
        let base = format!("{}.{}.svc.{}", service.name, service.namespace, self.domain).to_ascii_lowercase();
        self.add_empty(format!("{}.pod.{}", service.namespace, self.domain));
        match &service.kind {
            DnsServiceKind::Cluster { ips, ports } => {
                for ip in ips {
                    self.add(base.clone(), Data::A(*ip));
                    self.reverse.entry(*ip).or_default().insert(base.clone());
                }
                for port in ports {
                    self.add_srv(&base, port, base.clone());
                }
            }
            DnsServiceKind::Headless { endpoints } => {
                // Without endpoints the name exists all the same: "no pod yet" is not "no such service".
                self.add_empty(base.clone());
                for endpoint in endpoints {
                    let label = match endpoint.hostname.as_deref() {
                        Some(name) if !name.is_empty() => name.to_ascii_lowercase(),
                        _ => endpoint.ip.to_string().replace('.', "-"),
                    };
                    let own = format!("{label}.{base}");
                    self.add(base.clone(), Data::A(endpoint.ip));
                    self.add(own.clone(), Data::A(endpoint.ip));
                    self.reverse.entry(endpoint.ip).or_default().insert(own.clone());
                    for port in &endpoint.ports {
                        self.add_srv(&base, port, own.clone());
                    }
                }
            }
            DnsServiceKind::External { name } => {
                self.add(base, Data::Cname(name.trim_end_matches('.').to_ascii_lowercase()));
            }
        }
    }

    fn add_srv(&mut self, base: &str, port: &DnsPort, target: String) {
        if !port.name.is_empty() {
            let name = format!("_{}._{}.{base}", port.name.to_ascii_lowercase(), port.protocol);
            self.add(name, Data::Srv { port: port.port, target });
        }
    }

    fn add(&mut self, name: String, data: Data) {
        if let Some(known) = self.names.get_mut(&name) {
            known.insert(data);
            return;
        }
        self.add_empty(name.clone());
        self.names.entry(name).or_default().insert(data);
    }

    /// The name exists, and so does every name above it within the domain.
    fn add_empty(&mut self, name: String) {
        let mut rest = name.as_str();
        while rest.len() > self.domain.len() {
            if self.names.contains_key(rest) {
                return;
            }
            self.names.insert(rest.to_owned(), BTreeSet::new());
            let Some((_, above)) = rest.split_once('.') else { return };
            rest = above;
        }
    }

    /// What is known of a lower-case name without the dot at its end.
    pub(crate) fn lookup(&self, name: &str) -> Lookup {
        if self.domain.is_empty() {
            return self.lookup_flat(name);
        }
        if let Some(ip) = parse_reverse(name) {
            if !self.own.iter().any(|range| range.contains(ip)) {
                return Lookup::NotOurs;
            }
            let apex = "in-addr.arpa".to_owned();
            return match self.reverse.get(&ip) {
                Some(names) => Lookup::Found(names.iter().cloned().map(Data::Ptr).collect(), apex),
                None => Lookup::Missing(apex),
            };
        }
        if !is_within(name, &self.domain) {
            return Lookup::NotOurs;
        }
        if let Some(data) = self.names.get(name) {
            return Lookup::Found(data.iter().cloned().collect(), self.domain.clone());
        }
        match self.pod_name(name) {
            Some(ip) => Lookup::Found(vec![Data::A(ip)], self.domain.clone()),
            None => Lookup::Missing(self.domain.clone()),
        }
    }

    fn lookup_flat(&self, name: &str) -> Lookup {
        let found = match parse_reverse(name) {
            Some(ip) => self.reverse.get(&ip).map(|names| names.iter().cloned().map(Data::Ptr).collect()),
            None => self.names.get(name).map(|data| data.iter().cloned().collect()),
        };
        found.map_or(Lookup::NotOurs, |data| Lookup::Found(data, name.to_owned()))
    }

    /// `1-2-3-4.NS.pod.DOMAIN`, for addresses that a pod can have. Whether that pod is in that namespace is not looked
    /// at, as cluster DNS does by default; the name says nothing but the address it contains.
    fn pod_name(&self, name: &str) -> Option<Ipv4Addr> {
        let rest = name.strip_suffix(&self.domain)?.strip_suffix(".pod.")?;
        let (address, namespace) = rest.split_once('.')?;
        if namespace.is_empty() || namespace.contains('.') {
            return None;
        }
        let ip: Ipv4Addr = address.replace('-', ".").parse().ok()?;
        self.pods.iter().any(|range| range.contains(ip)).then_some(ip)
    }
}

fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The address in `4.3.2.1.in-addr.arpa`.
fn parse_reverse(name: &str) -> Option<Ipv4Addr> {
    let mut octets = name.strip_suffix(".in-addr.arpa")?.rsplit('.').map(|label| label.parse::<u8>().ok());
    let ip = Ipv4Addr::new(octets.next()??, octets.next()??, octets.next()??, octets.next()??);
    octets.next().is_none().then_some(ip)
}

#[cfg(test)]
mod tests;
