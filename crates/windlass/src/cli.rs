//! What can be typed. Structs only: verbs receive typed settings, not these.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod project;
mod server;

pub use project::{ConvertArgs, LogsArgs, MoreArgs, OutputFormat, ProjectArgs, RmArgs, RollbackArgs, UpArgs};
pub use server::{
    AgentArgs, AuditArgs, CpuManagerPolicy, DeadContainerArgs, DockerArgs, EtcdArgs, EvictionArgs, MemoryQosArgs,
    MemoryReservationPolicy, NodeArgs, OidcArgs, ServerArgs, TracingArgs,
};

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
    /// Agent of SSH keys that RUN --mount=type=ssh finds: default, ID or ID=SOCKET; may be repeated
    #[arg(long, value_name = "AGENT")]
    pub ssh: Vec<String>,
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
