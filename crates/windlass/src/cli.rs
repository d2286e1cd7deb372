//! What can be typed. Structs only: verbs receive typed settings, not these.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod project;

pub use project::{ConvertArgs, LogsArgs, MoreArgs, OutputFormat, ProjectArgs, RmArgs, RollbackArgs, UpArgs};

/// Windlass: a container engine and Kubernetes-conformant orchestrator in one binary.
#[derive(Debug, Parser)]
#[command(name = "windlass", version = crate::verbs::version::long(), propagate_version = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Instance to work with; several run side by side on one host
    #[arg(long, global = true, env = "WINDLASS_NAME", default_value = base::instance::DEFAULT_NAME)]
    pub name: String,
    /// Where the instance keeps its data [default: /var/lib/windlass, or /var/lib/windlass-NAME]
    #[arg(long, global = true, env = "WINDLASS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Format of the log on standard error
    #[arg(long, global = true, env = "WINDLASS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log, e.g. `info`, `debug`, `info,node=debug`
    #[arg(
        long,
        global = true,
        env = "WINDLASS_LOG",
        default_value = "info,libcgroups=error,libcontainer=warn",
        value_name = "FILTER"
    )]
    pub log_level: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for base::log::LogFormat {
    fn from(f: LogFormat) -> Self {
        match f {
            LogFormat::Text => base::log::LogFormat::Text,
            LogFormat::Json => base::log::LogFormat::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the API server, controllers and (as a child) the node agent
    Server(Box<ServerArgs>),
    /// Run a node agent (started by `server`; by hand only to debug)
    Agent(Box<AgentArgs>),
    /// Manage images of this host
    #[command(subcommand)]
    Image(ImageVerb),
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Apply manifests (files or folders) and, with --wait, follow them until they run
    Apply(ApplyArgs),
    /// Build, run and release what a folder describes: a Compose file, manifests or a kustomization
    Up(UpArgs),
    /// Show what runs of a project
    Ps(ProjectArgs),
    /// Show the logs of a project
    Logs(LogsArgs),
    /// Go back to an earlier release of a project
    Rollback(RollbackArgs),
    /// Remove what `up` made of a project; volumes stay
    #[command(visible_alias = "delete")]
    Rm(RmArgs),
    /// Print the Kubernetes manifests that `up` would apply
    Convert(ConvertArgs),
    /// Turn running Docker containers into workloads of the cluster, over the same volumes and ports
    Promote(Box<PromoteArgs>),
    /// Show the instance, its node and workloads
    Status,
    /// Print the admin kubeconfig
    Kubeconfig {
        /// Print the path instead of the content
        #[arg(long)]
        path: bool,
    },
    /// Stop the instance and remove its containers, mounts, networks and processes; data stays
    Down {
        /// Remove the data as well: objects, volumes, images, keys
        #[arg(long)]
        purge: bool,
    },
    /// Serve an OCI registry of images from a folder, or collect its garbage
    Registry(Box<RegistryArgs>),
    /// Show or rotate the keys with which Secrets are sealed on disk
    #[command(subcommand)]
    Encryption(EncryptionVerb),
    /// Check what this host offers and what stands in the way
    Doctor,
    /// Print the version
    Version,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum EncryptionVerb {
    /// Show the keys
    Status,
    /// Add a key and seal every Secret anew with it; older keys stay, backups from before need them
    Rotate,
}

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

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Manifest files or folders; `-` is standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Follow the workloads until every one is ready
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub timeout: u64,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["containers", "project"]))]
pub struct PromoteArgs {
    /// Containers, by name or id
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// All containers of a Compose project that run
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Namespace of the workloads; it must be there
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Print the manifests and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How --dry-run prints
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml", value_parser = ["yaml", "json"])]
    pub output: String,
    /// Remove the stopped containers once the workloads are ready; their volumes stay
    #[arg(long)]
    pub rm: bool,
    /// Start the containers again when the workloads are not ready after so many seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Named as `docker build` names them.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Folder of the files, a git repository, or `-` for an archive on standard input
    pub context: String,
    /// Name of the image; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// The Dockerfile, `-` for standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Value of an ARG; a name alone takes it from the environment; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<String>,
    /// Another context, a folder or docker-image://REFERENCE; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    pub build_context: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Label, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Secret that RUN --mount=type=secret finds: id=ID,src=FILE or id=ID,env=NAME; may be repeated
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// What to make: type=image, oci, docker, local, tar or cacheonly, with dest=PATH
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Option<String>,
    /// Platform to build for; only that of this host is possible
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Take nothing from the cache
    #[arg(long)]
    pub no_cache: bool,
    /// Ask for base images anew although they are here
    #[arg(long)]
    pub pull: bool,
    /// Allow what a Dockerfile asks for: security.insecure; may be repeated
    #[arg(long, value_name = "RIGHT")]
    pub allow: Vec<String>,
    /// How progress is shown
    #[arg(long, value_name = "STYLE", default_value = "auto", value_parser = ["auto", "plain"])]
    pub progress: String,
    /// Print the image's id only
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Import a root file system tarball as an image
    Import(ImportArgs),
    /// Load images from an OCI or docker-save archive
    Load {
        /// The archive (tar, tar.gz, tar.zst)
        archive: PathBuf,
    },
    /// List images
    #[command(visible_alias = "ls")]
    List {
        /// Only print image ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Pull an image from a registry
    Pull {
        /// e.g. `debian:12`, `registry.example.com/team/app@sha256:…`
        reference: String,
    },
    /// Push an image to a registry
    Push {
        /// The image, named after the registry it goes to
        reference: String,
    },
    /// Give an image another name
    Tag {
        /// An image that is here
        source: String,
        /// Its further name
        target: String,
    },
    /// Save images to an archive
    Save {
        /// Images to save
        #[arg(required = true)]
        references: Vec<String>,
        /// File to write
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Remove images
    #[command(visible_alias = "rm")]
    Remove {
        /// Images to remove
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove layers and blobs that no image uses
    Prune,
    /// Print what is in an image, by what its package managers wrote down, as an SPDX 2.3 document
    Sbom {
        /// An image that is here
        reference: String,
    },
    /// Make a pair of keys to sign images with, as cosign does
    GenerateKeyPair {
        /// Names of the files, to which .key and .pub are added
        #[arg(long, default_value = "cosign", value_name = "PREFIX")]
        output_key_prefix: PathBuf,
    },
    /// Sign an image in its registry, as cosign does
    Sign {
        /// The image; a digest says exactly which
        reference: String,
        /// The private key; its password is in COSIGN_PASSWORD, on standard input, or asked for
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Check that an image in its registry is signed
    Verify {
        /// The image
        reference: String,
        /// Public keys, one of which must have signed it; may be repeated
        #[arg(long, value_name = "FILE", required = true)]
        key: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The tarball (plain, gzip or zstd)
    pub tarball: PathBuf,
    /// Name of the image
    #[arg(short, long, value_name = "REFERENCE")]
    pub tag: String,
    /// Entrypoint; repeat for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// Default arguments; repeat for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// Environment, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// User or UID[:GID]
    #[arg(long)]
    pub user: Option<String>,
    /// Working directory
    #[arg(long)]
    pub workdir: Option<String>,
    /// Signal that ends it [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Exposed port, e.g. 8080/tcp; may be repeated
    #[arg(long, value_name = "PORT/PROTO")]
    pub expose: Vec<String>,
    /// Label, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RegistryArgs {
    /// Where the registry keeps its content [default: DATA-DIR/registry]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub serve: ServeRegistryArgs,
    #[command(subcommand)]
    pub verb: Option<RegistryVerb>,
}

#[derive(Debug, Args)]
pub struct ServeRegistryArgs {
    /// Address and port; beyond loopback it needs TLS and users
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "IP:PORT")]
    pub listen: std::net::SocketAddr,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Users and their bcrypt hashes, as `htpasswd -nB NAME` prints them
    #[arg(long, value_name = "FILE")]
    pub htpasswd: Option<PathBuf>,
    /// Let everybody pull; pushing and deleting need a user
    #[arg(long, requires = "htpasswd")]
    pub anonymous_pull: bool,
    /// Largest blob in GiB
    #[arg(long, default_value_t = 32, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub max_blob_gib: u64,
    /// Be a pull-through cache of that registry, e.g. https://registry-1.docker.io; takes no pushes
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// File with USER:PASSWORD for that registry, on one line
    #[arg(long, value_name = "FILE", requires = "proxy")]
    pub proxy_user_file: Option<PathBuf>,
    /// How long a tag is believed before that registry is asked again
    #[arg(long, default_value_t = 60, value_name = "SECONDS", requires = "proxy")]
    pub proxy_ttl: u64,
    /// What is kept at most; what was not wanted for the longest time goes
    #[arg(long, default_value_t = 50, value_name = "GIB", requires = "proxy", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub proxy_max_gib: u64,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum RegistryVerb {
    /// Remove content that no manifest names; may run while the registry serves
    Gc {
        /// Leave what was pushed or asked for in the last so many seconds: it may be part of a push
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        grace: u64,
        /// Also remove manifests without a tag that are in no index and refer to nothing
        #[arg(long)]
        untagged: bool,
    },
}
