//! Cluster DNS: the zones of the cluster domain from memory, everything else from the host's resolvers.
//!
//! Follows the Kubernetes DNS specification 1.1 for the cluster domain and the reverse zones of services and pods. Bind
//! it to [`crate::NetworkConfig::dns_ip`] (and, if wanted, the gateway), port 53: [`crate::Network::open`] has put that
//! address on the bridge, and the firewall of the instance keeps other machines away from it.

mod answer;
mod cache;
mod forward;
mod server;
mod zones;

pub use forward::Upstreams;
pub use server::{DnsServer, DnsStats};
pub use zones::{DnsEndpoint, DnsPort, DnsService, DnsServiceKind, ZoneInput, Zones};
