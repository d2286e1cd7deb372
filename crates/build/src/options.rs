//! What can be asked of a build.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use image::{Compression, ImageStore};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::client::{Client, Remote};
use crate::dockerfile::Network;
use crate::progress::Progress;
use crate::run::Runner;

/// Where `COPY` finds files.
pub enum Context {
    /// A folder of this host.
    Dir(PathBuf),
    /// An archive, plain or compressed, as clients of Docker's API send it.
    Tar(Box<dyn Read + Send>),
    /// A repository: `https://…/x.git#ref:folder`, `git@host:x.git`.
    Git(String),
    /// An archive, or a Dockerfile alone, to be downloaded (`http`, `https`).
    Url(String),
    /// With a client who gives what is needed.
    Remote(Box<dyn Remote>),
}

/// Another place that `--from` and `FROM` can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A folder of this host.
    Dir(PathBuf),
    /// An image.
    Image(String),
}

/// The Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path in the context.
    InContext(String),
    /// From elsewhere.
    Text {
        /// What it is called in messages.
        name: String,
        /// Itself.
        text: String,
        /// The patterns that belong to it alone; `None` takes the context's `.dockerignore`.
        ignore: Option<String>,
    },
}

/// What is made of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// An image of the store.
    Image,
    /// That, and an archive in the layout of OCI.
    Oci(PathBuf),
    /// That, and an archive as `docker save` writes it.
    Docker(PathBuf),
    /// The files, into a folder.
    Local(PathBuf),
    /// The files, as an archive.
    Tar(PathBuf),
    /// Nothing: the cache is what is wanted.
    CacheOnly,
}

/// Whom registries are told that it is: `config.json` of the Docker CLI. Never shown.
#[derive(Clone, Default)]
pub struct DockerConfig(pub Vec<u8>);

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DockerConfig")
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Dockerfile.
    pub source: Source,
    /// The stage wanted; `None` is the last.
    pub target: Option<String>,
    /// Values of `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// Names of the image.
    pub names: Vec<String>,
    /// Other contexts, by name.
    pub contexts: BTreeMap<String, Named>,
    /// Secrets, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Platform to build for; `None` is this host's. Another is refused.
    pub platform: Option<String>,
    /// Nothing is taken from the cache.
    pub no_cache: bool,
    /// Base images are asked for anew although they are here.
    pub pull: bool,
    /// The network of commands that name none.
    pub network: Network,
    /// Further lines of `/etc/hosts` that commands see: names and addresses.
    pub hosts: Vec<(String, IpAddr)>,
    /// Credentials for base images; `None` takes those that this user has saved.
    pub docker_config: Option<DockerConfig>,
    /// Most bytes that an archive of the context may unpack to.
    pub context_max_bytes: u64,
    /// Commands may ask for all rights on the host.
    pub allow_insecure: bool,
    /// No time in the image is later, seconds since the epoch (reproducible-builds.org).
    pub epoch: Option<i64>,
    /// How layers are compressed.
    pub compression: Compression,
    /// Stages worked on at once.
    pub parallel: usize,
    /// The cache is cut down to this afterwards, bytes of compressed layers.
    pub cache_max_bytes: u64,
    /// What is made of it.
    pub output: Output,
}

impl Options {
    /// A build of the context's `Dockerfile` with nothing said.
    pub fn new() -> Self {
        Options {
            source: Source::InContext("Dockerfile".to_owned()),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            names: Vec::new(),
            contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            platform: None,
            no_cache: false,
            pull: false,
            network: Network::Default,
            hosts: Vec::new(),
            docker_config: None,
            context_max_bytes: 64 << 30,
            allow_insecure: false,
            epoch: None,
            compression: Compression::default(),
            parallel: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
            cache_max_bytes: 20 << 30,
            output: Output::Image,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options::new()
    }
}

/// What a build works with.
pub struct Environment<'a> {
    /// Where images are and come to be.
    pub store: ImageStore,
    /// A folder of the builder's own: work under way, cache mounts. On a disk that overlayfs takes as an upper layer.
    pub dir: PathBuf,
    /// Runs commands.
    pub runner: &'a dyn Runner,
    /// For pulls and downloads. The build itself blocks, and must not be on a thread of it.
    pub runtime: Handle,
    /// Hears how it goes.
    pub progress: &'a dyn Progress,
    /// Is asked for what the options do not have.
    pub client: &'a dyn Client,
    /// The build ends when this becomes true; a sender that is gone means that nobody will say so.
    pub cancel: watch::Receiver<bool>,
}
