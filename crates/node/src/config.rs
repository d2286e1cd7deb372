//! What the agent is told at its start, and how it can fail.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use base::instance::Instance;
use base::trace::Tracer;
use k8s_openapi::api::core::v1::Taint;
use reconcile::{containergc, memoryqos};

use crate::cpus::{CpuError, CpuPolicy};
use crate::eviction::EvictionConfig;
use crate::shutdown::ShutdownConfig;

/// Settings of one agent.
#[derive(Clone)]
pub struct AgentConfig {
    /// Which Windlass this is: folders, names, ranges.
    pub instance: Instance,
    /// The name of the node object.
    pub node_name: String,
    /// `InternalIP`: where the API server reaches the agent, and `status.hostIP` of pods.
    pub node_ip: IpAddr,
    /// A client of the API server, as the node's user.
    pub client: kube::Client,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Address of the cluster's DNS, given to pods; `None` gives them the host's resolvers.
    pub dns_ip: Option<IpAddr>,
    /// Labels of the node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints the node is registered with.
    pub taints: Vec<Taint>,
    /// Most pods.
    pub max_pods: u32,
    /// The agent's HTTPS server, for logs and sessions; `None` for none.
    pub server: Option<ServerConfig>,
    /// Where the cluster's names are answered, besides other names; `None` leaves that to somebody else.
    pub dns_listen: Option<SocketAddr>,
    /// Where Ingresses are served; `None` for nowhere.
    pub ingress: Option<ingress::Config>,
    /// Log of a container is rotated at this size, bytes.
    pub log_max_size: u64,
    /// Log files kept of a container.
    pub log_max_files: u32,
    /// Records where the time of pods goes.
    pub tracer: Tracer,
    /// How the node goes down.
    pub shutdown: ShutdownConfig,
    /// Which CPUs containers run on.
    pub cpus: CpuPolicy,
    /// What is done when the node runs out of memory, disk or process ids.
    pub eviction: EvictionConfig,
    /// How many dead containers stay.
    pub dead_containers: containergc::Policy,
    /// Quality of service of memory, on cgroups v2.
    pub memory_qos: memoryqos::Policy,
}

impl AgentConfig {
    /// Settings with the defaults of a kubelet: 110 pods, logs of 10 MiB in 5 files.
    pub fn new(instance: Instance, node_name: &str, node_ip: IpAddr, client: kube::Client) -> Self {
        let dns_ip = instance.service_cidr().nth(10).map(IpAddr::V4);
        AgentConfig {
            instance,
            node_name: node_name.to_owned(),
            node_ip,
            client,
            cluster_domain: "cluster.local".to_owned(),
            dns_ip,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            server: None,
            dns_listen: dns_ip.map(|ip| SocketAddr::new(ip, 53)),
            ingress: None,
            log_max_size: 10 << 20,
            log_max_files: 5,
            tracer: Tracer::default(),
            shutdown: ShutdownConfig::default(),
            cpus: CpuPolicy::None,
            eviction: EvictionConfig::default(),
            dead_containers: containergc::Policy::default(),
            memory_qos: memoryqos::Policy::default(),
        }
    }
}

/// Where and how the agent's HTTPS server answers.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address; port 0 picks one.
    pub listen: SocketAddr,
    /// Its certificate, PEM, the chain after it.
    pub certificate_pem: String,
    /// The certificate's key, PEM.
    pub key_pem: String,
    /// Those who may ask have a certificate of this authority, PEM.
    pub client_ca_pem: String,
}

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A folder of the agent could not be made.
    #[error("make folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node object could not be made.
    #[error("register node {name}")]
    Register {
        /// The node.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// The HTTPS server could not start.
    #[error("serve the node API on {listen}: {message}")]
    Server {
        /// Where.
        listen: SocketAddr,
        /// Why.
        message: String,
    },
    /// CPUs cannot be given as wanted.
    #[error("give containers CPUs of their own")]
    Cpus(#[from] CpuError),
    /// The name server could not start.
    #[error("answer cluster DNS")]
    Dns(#[from] net::NetError),
    /// The ingress could not start.
    #[error("serve ingresses")]
    Ingress(#[from] ingress::ServerError),
    /// A part of the agent panicked.
    #[error("{0}")]
    Task(#[from] base::rt::TaskFailure),
}
