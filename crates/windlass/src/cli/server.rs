//! What `server` and `agent` are told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Port of the Kubernetes API
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub api_port: u16,
    /// Address the Kubernetes API listens on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub api_bind: std::net::IpAddr,
    /// Port of the HTTP ingress [default: 80, or a free one when --name is given]
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Address the HTTP ingress listens on
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub http_bind: std::net::IpAddr,
    /// Name of this host's Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses of pods [default: from the instance's name]
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<base::instance::Cidr>,
    /// Addresses of Services [default: from the instance's name]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<base::instance::Cidr>,
    #[command(flatten)]
    pub audit: AuditArgs,
    #[command(flatten)]
    pub oidc: OidcArgs,
    #[command(flatten)]
    pub etcd: EtcdArgs,
    #[command(flatten)]
    pub tracing: TracingArgs,
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub docker: DockerArgs,
    /// Folder of the cluster's keys and certificates; servers of one etcd need the same [default: DATA-DIR/pki]
    #[arg(long, value_name = "DIR")]
    pub pki_dir: Option<PathBuf>,
    /// Do not start a node agent: API and controllers only
    #[arg(long)]
    pub no_agent: bool,
    /// Go to the background once ready, logging to DATA-DIR/logs/server.log
    #[arg(long)]
    pub detach: bool,
}

/// The audit log of the API; named as kube-apiserver names them.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Which requests are recorded: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// The file that records of requests are appended to, one line of JSON each
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Megabytes after which the audit log is put aside
    #[arg(long, default_value_t = 100, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub audit_log_maxsize: u64,
    /// How many audit logs that were put aside are kept
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub audit_log_maxbackup: u64,
}

/// Spans for OpenTelemetry; named as Kubernetes' TracingConfiguration names them.
#[derive(Debug, Clone, Args)]
pub struct TracingArgs {
    /// Collector of spans (OTLP over HTTP, JSON), e.g. `http://127.0.0.1:4318`; absent: none are made
    #[arg(long, value_name = "URL")]
    pub tracing_endpoint: Option<base::trace::Endpoint>,
    /// How many of a million pods and requests are recorded
    #[arg(long, value_name = "COUNT", default_value_t = base::trace::PER_MILLION, requires = "tracing_endpoint")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(base::trace::PER_MILLION)))]
    pub tracing_sampling_rate_per_million: u32,
}

impl TracingArgs {
    /// What records spans of a service, and begins to export them. Within a runtime.
    pub fn start(&self, service: &'static str, node: &str) -> base::trace::Tracer {
        let Some(endpoint) = &self.tracing_endpoint else { return base::trace::Tracer::default() };
        let rate = self.tracing_sampling_rate_per_million;
        let (tracer, export) = base::trace::Tracer::new(endpoint.clone(), service, node, rate);
        tokio::spawn(export);
        tracer
    }

    /// The same flags for another process.
    pub fn flags(&self) -> Vec<String> {
        let Some(endpoint) = &self.tracing_endpoint else { return Vec::new() };
        let rate = self.tracing_sampling_rate_per_million.to_string();
        vec!["--tracing-endpoint".into(), endpoint.to_string(), "--tracing-sampling-rate-per-million".into(), rate]
    }
}

/// The store in etcd, for several servers of one cluster; named as kube-apiserver names them.
#[derive(Debug, Args)]
pub struct EtcdArgs {
    /// Keep the cluster's objects in this etcd instead of DATA-DIR/store.redb: URLs of its members
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub etcd_endpoints: Vec<String>,
    /// Certificates that those of the members are checked against; needed for https
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate that is shown to the members
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What the keys in etcd begin with; each cluster has its own
    #[arg(long, value_name = "PREFIX", default_value = "/windlass", requires = "etcd_endpoints")]
    pub etcd_prefix: String,
}

/// Another identity provider; named as kube-apiserver names them.
#[derive(Debug, Args)]
pub struct OidcArgs {
    /// URL (https) of an OpenID Connect provider whose tokens are accepted
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// Whom its tokens must be for
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// The claim that is the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub", requires = "oidc_issuer_url")]
    pub oidc_username_claim: String,
    /// What is put before the name, `-` for nothing [default: URL#, nothing before an email]
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that lists the user's groups
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before each group
    #[arg(long, value_name = "PREFIX", requires = "oidc_groups_claim")]
    pub oidc_groups_prefix: Option<String>,
    /// A claim that must have this value; may be repeated
    #[arg(long, value_name = "CLAIM=VALUE", requires = "oidc_issuer_url")]
    pub oidc_required_claim: Vec<String>,
    /// Certificates that the provider's is checked against [default: those of the host]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Signature algorithms that are accepted
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "RS256", requires = "oidc_issuer_url")]
    pub oidc_signing_algs: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Kubeconfig of the node [default: DATA-DIR/agent.kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this host's Node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address and port of the HTTP ingress; absent: no ingress
    #[arg(long, value_name = "IP:PORT")]
    pub http_listen: Option<std::net::SocketAddr>,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<base::instance::Cidr>,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Option<base::instance::Cidr>,
    #[command(flatten)]
    pub tracing: TracingArgs,
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub docker: DockerArgs,
}

/// The Docker API on a port, beside its socket.
#[derive(Debug, Clone, Default, Args)]
pub struct DockerArgs {
    /// Serve the Docker API on this address too, for clients with a certificate; absent: on its socket alone
    #[arg(long, value_name = "IP:PORT")]
    pub docker_tcp: Option<std::net::SocketAddr>,
    /// Certificates that those of its clients are checked against
    #[arg(long, value_name = "FILE", requires = "docker_tcp")]
    pub docker_tls_ca: Option<PathBuf>,
    /// Certificate that is shown to them
    #[arg(long, value_name = "FILE", requires = "docker_tcp")]
    pub docker_tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "docker_tcp")]
    pub docker_tls_key: Option<PathBuf>,
}

/// How the node treats its pods; named as the kubelet names them.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeArgs {
    /// Time that pods have when the machine goes down, e.g. `30s`; 0: it is not waited for them
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::node_flags::seconds)]
    pub shutdown_grace_period: u32,
    /// The part of that time which is kept for critical pods
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::node_flags::seconds)]
    pub shutdown_grace_period_critical_pods: u32,
    /// Instead of these: seconds for pods of each priority and above, e.g. `0=20,1000=10`
    #[arg(long, value_name = "PRIORITY=SECONDS", value_delimiter = ',', allow_hyphen_values = true)]
    pub shutdown_grace_period_by_pod_priority: Vec<reconcile::shutdown::Period>,
    /// Who has CPUs for itself: nobody, or (`static`) containers of guaranteed pods that ask for whole ones
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = CpuManagerPolicy::None)]
    pub cpu_manager_policy: CpuManagerPolicy,
    /// CPUs that are shared by all and never given to one container, e.g. `0-1`; needed for `static`
    #[arg(long, value_name = "CPUS")]
    pub reserved_cpus: Option<reconcile::cpus::CpuSet>,
    #[command(flatten)]
    pub eviction: EvictionArgs,
    #[command(flatten)]
    pub dead: DeadContainerArgs,
    #[command(flatten)]
    pub memory: MemoryQosArgs,
}

/// Quality of service of memory (KEP-2570), on cgroups v2; named as the kubelet names it.
#[derive(Debug, Clone, Default, Args)]
pub struct MemoryQosArgs {
    /// How far between its request and its limit a container may come before it is slowed down, e.g. `0.9`; absent: it never is
    #[arg(long, value_name = "FACTOR", allow_hyphen_values = true)]
    pub memory_throttling_factor: Option<f64>,
    /// Whether memory that pods request is kept for them
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = MemoryReservationPolicy::None)]
    pub memory_reservation_policy: MemoryReservationPolicy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MemoryReservationPolicy {
    /// It is not
    #[default]
    #[value(name = "None")]
    None,
    /// Of guaranteed pods always, of burstable ones as far as possible
    #[value(name = "TieredReservation")]
    TieredReservation,
}

/// How many containers stay that have ended; named as the kubelet names them.
#[derive(Debug, Clone, Default, Args)]
pub struct DeadContainerArgs {
    /// Most dead containers of the node; negative: as many as there are
    #[arg(long, value_name = "NUMBER", default_value_t = -1, allow_hyphen_values = true)]
    pub maximum_dead_containers: i32,
    /// Most dead runs of each container of a pod; negative: as many as there are
    #[arg(long, value_name = "NUMBER", default_value_t = 1, allow_hyphen_values = true)]
    pub maximum_dead_containers_per_container: i32,
    /// A container that ended later than this ago stays
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::node_flags::seconds)]
    pub minimum_container_ttl_duration: u32,
}

/// What a node does that runs out of memory, disk or process ids; named as the kubelet names them.
#[derive(Debug, Clone, Default, Args)]
pub struct EvictionArgs {
    /// Below which amounts pods are ended at once, e.g. `memory.available<1Gi,nodefs.available<10%`; empty: never
    #[arg(long, value_name = "THRESHOLDS", default_value = reconcile::eviction::DEFAULT_HARD)]
    pub eviction_hard: String,
    /// Below which they are ended after a time
    #[arg(long, value_name = "THRESHOLDS", default_value = "", hide_default_value = true)]
    pub eviction_soft: String,
    /// After which time, e.g. `memory.available=1m30s`; needed for each of these
    #[arg(long, value_name = "TIMES", default_value = "", hide_default_value = true)]
    pub eviction_soft_grace_period: String,
    /// How much more than the threshold is won back, e.g. `nodefs.available=500Mi`
    #[arg(long, value_name = "AMOUNTS", default_value = "", hide_default_value = true)]
    pub eviction_minimum_reclaim: String,
    /// How long the node says that it is under pressure after it last was
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::node_flags::seconds)]
    pub eviction_pressure_transition_period: u32,
    /// Most seconds that pods have which are ended after a time; negative: as long as they ask for
    #[arg(long, value_name = "SECONDS", default_value_t = 0, allow_hyphen_values = true)]
    pub eviction_max_pod_grace_period: i32,
    /// Percent of the disk in use from which on unused images are removed; 100: never
    #[arg(long, value_name = "PERCENT", default_value_t = 85)]
    pub image_gc_high_threshold: u8,
    /// Percent down to which they are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80)]
    pub image_gc_low_threshold: u8,
    /// An image that came later than this stays
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = crate::node_flags::seconds)]
    pub minimum_image_ttl_duration: u32,
    /// An image that nobody used for longer is removed, however empty the disk is; 0: it stays
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::node_flags::seconds)]
    pub image_maximum_gc_age: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum CpuManagerPolicy {
    #[default]
    None,
    Static,
}
