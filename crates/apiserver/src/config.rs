//! What an API server is told when it starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::instance::Cidr;
use base::trace::Tracer;

use crate::audit::AuditConfig;
use crate::authn::OidcConfig;
use crate::handlers::Components;

/// Settings of one API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the keys and certificates are.
    pub pki_dir: PathBuf,
    /// The address at which pods and nodes reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Addresses of Services. The first is the `kubernetes` Service, the tenth the cluster DNS.
    pub service_cidr: Cidr,
    /// Ports of Services of type NodePort, first and last.
    pub node_ports: (u16, u16),
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
    /// Names beyond the built-in ones under which clients reach the server.
    pub server_names: Vec<String>,
    /// Addresses beyond the loopback and advertised ones under which clients reach the server.
    pub server_ips: Vec<IpAddr>,
    /// A bearer token that stands for `kubernetes-admin`, if one is wanted.
    pub admin_token: Option<String>,
    /// How much history the store keeps, and how often older history is dropped.
    pub history: Duration,
    /// The audit log, if one is wanted.
    pub audit: Option<AuditConfig>,
    /// Another identity provider, if there is one.
    pub oidc: Option<OidcConfig>,
    /// Whom `componentstatuses` asks how the controllers are.
    pub components: Option<Arc<dyn Components>>,
    /// Records what requests take.
    pub tracer: Tracer,
    /// Pods, and nodes at other ports than the kubelet's, may be proxied to at loopback addresses. Only for a cluster without
    /// a pod network, as in tests: elsewhere it would open this host's own services.
    pub loopback_backends: bool,
    /// Limits.
    pub limits: Limits,
}

/// Bounds of everything that grows with what clients do.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Requests under way at once of all priority levels together that limit theirs; as many as in Kubernetes.
    pub seats: usize,
    /// Requests of exempt users under way at once that read and end by themselves.
    pub reads_in_flight: usize,
    /// Requests of exempt users under way at once that write.
    pub writes_in_flight: usize,
    /// Streams open at once: watches, followed logs, exec and the like.
    pub streams: usize,
    /// How long a request may take that is not a stream.
    pub request_timeout: Duration,
    /// Recent events kept per kind for watches to start from.
    pub ring_events: usize,
    /// Bytes of objects in those events, per kind.
    pub ring_bytes: usize,
    /// How often a quiet watch that asked for bookmarks gets one.
    pub bookmark_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 3 << 20,
            connections: 12_288,
            seats: 600,
            reads_in_flight: 800,
            writes_in_flight: 400,
            streams: 16_384,
            request_timeout: Duration::from_secs(60),
            ring_events: 32_768,
            ring_bytes: 32 << 20,
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Settings with Kubernetes' defaults for what is not given.
    pub fn new(pki_dir: PathBuf, advertise: SocketAddr, service_cidr: Cidr) -> Self {
        Config {
            pki_dir,
            advertise,
            service_cidr,
            node_ports: (30_000, 32_767),
            cluster_domain: "cluster.local".into(),
            server_names: Vec::new(),
            server_ips: Vec::new(),
            admin_token: None,
            history: Duration::from_secs(300),
            audit: None,
            oidc: None,
            components: None,
            tracer: Tracer::default(),
            loopback_backends: false,
            limits: Limits::default(),
        }
    }

    /// The address of the `kubernetes` Service.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(1).unwrap_or(self.service_cidr.base)
    }

    /// The address reserved for the cluster's DNS server.
    pub fn dns_ip(&self) -> Ipv4Addr {
        self.service_cidr.nth(10).unwrap_or(self.service_cidr.base)
    }
}
