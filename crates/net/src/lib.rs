//! The network of one instance on one host: a bridge, a veth and an address per pod, service addresses in nftables, and
//! cluster DNS.
//!
//! ```text
//!   pod netns                     host netns
//!   eth0 10.244.0.5/32 ── veth ── bridge wl0: gateway 10.244.0.1/16, cluster DNS 10.96.0.10/32
//!   default via 10.244.0.1          routes 10.96.0.0/16 to itself, so that service addresses have a route
//! ```
//! Every packet of a pod is routed by the host, between two pods of it too: connection tracking sees both directions of
//! each connection and service addresses work without br_netfilter (and with it).
//!
//! **Cluster DNS**: [`Network::open`] puts [`NetworkConfig::dns_ip`] (the tenth address of the service range) on the
//! bridge. Bind [`dns::DnsServer`] to it, port 53, and give it to pods as nameserver. No address translation is involved,
//! so DNS cannot suffer from races in it. A `kube-dns` Service in the table with that address takes over when it has
//! endpoints; without endpoints the listener is left in place.
//!
//! **Further bridges** ([`BridgeSpec`]) are Docker's networks: plain bridges whose members reach each other without the host,
//! kept apart from each other and from the pods by the same table. Names in them are answered by a server inside each member's
//! namespace ([`dns::DnsServer::bind_in`]).
//!
//! Nothing here is needed for traffic to flow: when this process ends, bridge, veths and table stay, and the next
//! [`Network::open`] finds them.

mod bridges;
mod claims;
mod error;
mod ipam;
mod model;
mod network;
mod plan;
mod sys;

pub mod dns;

pub use bridges::{BridgeSpec, Plug};
pub use error::NetError;
pub use model::{
    Attachment, CidrText, Endpoint, HostPort, NetworkConfig, Protocol, ServiceEntry, ServicePort, ServiceTable,
    TrafficPolicy,
};
pub use network::{Network, destroy, leftovers};
