//! What the network is told: where to live, which pods, which services.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use base::instance::{Cidr, Instance};
use serde::{Deserialize, Serialize};

/// Where the network of one instance lives on this host.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// Start of the host-side veth names, at most 7 bytes: eight hex digits follow.
    pub veth_prefix: String,
    /// Start of the names of further bridges, at most 7 bytes: eight hex digits follow.
    pub net_prefix: String,
    /// Start of the host-side names of veths on those, likewise.
    pub plug_prefix: String,
    /// Name of the one nftables table (family `ip`).
    pub nft_table: String,
    /// Addresses of the pods on this node. Its first address after the base is the gateway.
    pub pod_cidr: Cidr,
    /// Addresses of services.
    pub service_cidr: Cidr,
    /// Where addresses and the last service table are kept. Survives restarts of the process.
    pub state_dir: PathBuf,
    /// MTU of bridge and pods; `None` takes that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Ranges that pods reach with their own address, besides the pods' range (pods of other nodes).
    pub no_masquerade: Vec<Cidr>,
}

impl NetworkConfig {
    /// The configuration of an instance: names and ranges from it, state in `<data dir>/net`.
    pub fn of(instance: &Instance) -> Self {
        NetworkConfig {
            bridge: instance.bridge(),
            veth_prefix: instance.veth_prefix(),
            net_prefix: instance.net_prefix(),
            plug_prefix: instance.plug_prefix(),
            nft_table: instance.nft_table(),
            pod_cidr: instance.pod_cidr(),
            service_cidr: instance.service_cidr(),
            state_dir: instance.data_dir().join("net"),
            mtu: None,
            no_masquerade: Vec::new(),
        }
    }

    /// The address of the bridge, and the default gateway of every pod.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_cidr.base) + 1)
    }

    /// The cluster DNS address, which the bridge carries too, so that a server in this process can bind it. `None` when
    /// the service range is too small to have a tenth address.
    pub fn dns_ip(&self) -> Option<Ipv4Addr> {
        self.service_cidr.nth(10)
    }
}

/// A transport protocol that a port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The lower-case name, as nftables and DNS SRV records have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The protocol of a Kubernetes `protocol` field (`TCP` when empty), `None` when there is no such protocol.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host to answer on; `None` for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<Ipv4Addr>,
    /// The port of the host.
    pub host_port: u16,
    /// The port of the pod.
    pub container_port: u16,
}

/// The network of one pod, as attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Address of the pod.
    pub ip: Ipv4Addr,
    /// Its default gateway: the bridge.
    pub gateway: Ipv4Addr,
    /// Prefix length of the pod's address: always 32, everything is routed by the host.
    pub prefix: u8,
    /// Hardware address of the pod's `eth0`, as `02:57:0a:f4:00:05`.
    pub mac: String,
    /// Name of the veth on the host.
    pub host_interface: String,
}

/// All services of the cluster as this node forwards them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// In any order; the plan does not depend on it.
    pub services: Vec<ServiceEntry>,
}

/// Which endpoints traffic may go to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on this node only; without one, the traffic is refused.
    Local,
}

/// One Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `spec.clusterIPs`, IPv4 only; empty for a headless Service, which then needs no entry at all.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs` and the addresses of `status.loadBalancer.ingress`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Seconds for which a client stays with its endpoint; `None` when `sessionAffinity` is `None`.
    pub session_affinity: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic: TrafficPolicy,
    /// `spec.externalTrafficPolicy`, for node ports and external addresses.
    pub external_traffic: TrafficPolicy,
    /// `spec.loadBalancerSourceRanges`: who may use the external addresses; empty for everyone.
    pub source_ranges: Vec<CidrText>,
    /// This node stands for the load balancer: the Service's ports are open on every address of the host.
    #[serde(default)]
    pub on_host: bool,
}

/// One port of a Service with the endpoints that take its traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the cluster address.
    pub port: u16,
    /// The port on every address of the host, if there is one.
    pub node_port: Option<u16>,
    /// Where it leads. The caller chooses which are fit (ready, or serving while terminating when none is ready).
    pub endpoints: Vec<Endpoint>,
}

/// One address that takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
}

/// A [`Cidr`] that is stored as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CidrText(pub Cidr);

impl TryFrom<String> for CidrText {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        // A single address is a legal source range; `Cidr` itself stops at /30.
        if let Some(ip) = text.strip_suffix("/32").and_then(|ip| ip.parse().ok()) {
            return Ok(CidrText(Cidr { base: ip, prefix: 32 }));
        }
        text.parse().map(CidrText)
    }
}

impl From<CidrText> for String {
    fn from(c: CidrText) -> String {
        c.0.to_string()
    }
}
