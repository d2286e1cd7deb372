//! A workload, in words that Docker and Kubernetes share.

use std::collections::BTreeMap;

/// A map of texts.
type Texts = BTreeMap<String, String>;

/// How many pods there are, and what becomes of one that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// So many alike (Deployment).
    Replicated(u32),
    /// So many, each with a name and volumes of its own (StatefulSet); or one whose volume must not be shared while it is replaced.
    Stateful(u32),
    /// One on every node (DaemonSet).
    Global,
    /// So many that end, so many at a time (Job).
    Once {
        /// How many must end well.
        completions: u32,
        /// How many run at a time.
        parallelism: u32,
        /// How many may fail.
        retries: u32,
    },
}

/// One workload: what becomes a controller, its pods and its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its name, a DNS label: [`crate::name`].
    pub name: String,
    /// Namespace that is written into the objects; none leaves that to whoever applies them.
    pub namespace: Option<String>,
    /// Project, stack or application: the label [`crate::PROJECT`].
    pub project: Option<String>,
    /// How many pods.
    pub kind: Kind,
    /// Labels of the objects, besides those that this crate sets.
    pub labels: Texts,
    /// Annotations of the objects.
    pub annotations: Texts,
    /// Its pods.
    pub pod: Pod,
    /// Ports that others reach it by; with none there is no Service, unless `headless`.
    pub ports: Vec<Port>,
    /// Its name resolves even when it has no port (a headless Service).
    pub headless: bool,
    /// How a new version takes the place of the old.
    pub update: Update,
}

impl Workload {
    /// One pod of one container, nothing else.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Workload {
        let name = name.into();
        let container = Container { name: name.clone(), image: image.into(), ..Container::default() };
        Workload {
            name,
            namespace: None,
            project: None,
            kind: Kind::Replicated(1),
            labels: Texts::new(),
            annotations: Texts::new(),
            pod: Pod { containers: vec![container], ..Pod::default() },
            ports: Vec::new(),
            headless: false,
            update: Update::default(),
        }
    }

    /// The container that the workload is about: the first.
    ///
    /// # Panics
    /// When the workload was left without any.
    pub fn main(&mut self) -> &mut Container {
        &mut self.pod.containers[0]
    }
}

/// How a new version takes the place of the old.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Stop the old before the new is started (Swarm's `stop-first`): also what a volume for one needs.
    pub stop_first: bool,
    /// So many at a time; 0 is all at once, none is one at a time.
    pub parallelism: Option<u32>,
    /// Seconds that a pod must have been ready before the next is replaced.
    pub delay: u32,
    /// Seconds without progress after which the release has failed; none is the default of Kubernetes.
    pub deadline: Option<u32>,
    /// How many old versions are remembered; none is the default of Kubernetes.
    pub history: Option<u32>,
}

/// What happens when a container of a pod ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// It is started again.
    #[default]
    Always,
    /// It is started again when it has failed.
    OnFailure,
    /// It stays ended.
    Never,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Labels of the pod, besides those of the workload's objects.
    pub labels: Texts,
    /// Annotations of the pod.
    pub annotations: Texts,
    /// Run to their end, one after the other, before the others start.
    pub init: Vec<Container>,
    /// The containers.
    pub containers: Vec<Container>,
    /// What can be mounted.
    pub volumes: Vec<Volume>,
    /// What happens when a container ends. Other than always only for [`Kind::Once`].
    pub restart: Restart,
    /// Its host name.
    pub hostname: Option<String>,
    /// Name servers in place of the cluster's.
    pub dns: Vec<String>,
    /// Domains that names are looked up in, besides the cluster's.
    pub dns_search: Vec<String>,
    /// Options of the resolver: name and, maybe, value.
    pub dns_options: Vec<(String, Option<String>)>,
    /// Further lines of /etc/hosts.
    pub hosts: Vec<Host>,
    /// Kernel parameters of its namespaces.
    pub sysctls: Texts,
    /// Namespaces of the host.
    pub host_network: bool,
    /// The same of processes.
    pub host_pid: bool,
    /// The same of System V IPC.
    pub host_ipc: bool,
    /// Further groups of its processes.
    pub groups: Vec<u32>,
    /// Seconds from the request to stop to the kill.
    pub grace: Option<u32>,
    /// Labels that its node must have.
    pub node: Texts,
    /// `spec.affinity`, where labels of the node are not enough.
    pub affinity: Option<serde_json::Value>,
    /// `spec.tolerations`.
    pub tolerations: Vec<serde_json::Value>,
    /// Seconds that it may run.
    pub deadline: Option<u32>,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub ip: String,
    /// What it is called.
    pub names: Vec<String>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name, a DNS label.
    pub name: String,
    /// Its image.
    pub image: String,
    /// `imagePullPolicy`; none is the default of Kubernetes.
    pub pull: Option<String>,
    /// In place of the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// In place of the image's command.
    pub args: Option<Vec<String>>,
    /// Variables, in their order. Values are literal: no `$(NAME)` is expanded.
    pub env: Vec<Variable>,
    /// All entries of a ConfigMap or Secret as variables.
    pub env_from: Vec<From>,
    /// Where it starts.
    pub dir: Option<String>,
    /// User; Kubernetes knows numbers only.
    pub user: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// A terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// Its root is read-only.
    pub read_only: bool,
    /// All rights.
    pub privileged: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// Capabilities besides the usual, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities fewer than the usual.
    pub cap_drop: Vec<String>,
    /// `seccompProfile`.
    pub seccomp: Option<serde_json::Value>,
    /// `appArmorProfile`.
    pub apparmor: Option<serde_json::Value>,
    /// Seconds between leaving its Service and being told to stop, in which clients that have not heard of it are still answered.
    pub drain: Option<u32>,
    /// Signal that stops it, as `SIGUSR1`.
    pub stop_signal: Option<String>,
    /// What it may use.
    pub limits: Resources,
    /// What is kept for it.
    pub requests: Resources,
    /// How it is asked whether it is well.
    pub health: Option<Health>,
    /// Volumes of the pod and where they are.
    pub mounts: Vec<Mount>,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// The value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// This text.
    Text(String),
    /// An entry of a ConfigMap.
    ConfigMap {
        /// The object.
        name: String,
        /// The entry.
        key: String,
    },
    /// An entry of a Secret.
    Secret {
        /// The object.
        name: String,
        /// The entry.
        key: String,
    },
    /// A field of the pod, as `metadata.name`.
    Field(String),
}

/// Where many variables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// A ConfigMap.
    ConfigMap(String),
    /// A Secret.
    Secret(String),
}

/// Amounts; none is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor.
    pub milli_cpu: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Others by their Kubernetes name.
    pub others: Texts,
}

/// A check of health: ready when it succeeds, restarted when it fails too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is done.
    pub test: HealthTest,
    /// Seconds between two.
    pub interval: u32,
    /// Seconds for one.
    pub timeout: u32,
    /// Failures in a row that count.
    pub retries: u32,
    /// Seconds after the start in which failures do not count.
    pub start_period: u32,
    /// Whether the container is started again when it is not well. Docker never does; Swarm and Kubernetes do.
    pub restart: bool,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// Runs a command.
    Exec(Vec<String>),
    /// Runs a line of the shell.
    Shell(String),
    /// Connects.
    Tcp(u16),
    /// Asks for a path.
    Http {
        /// The port.
        port: u16,
        /// The path.
        path: String,
    },
}

/// A volume in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Name of the pod's volume.
    pub volume: String,
    /// Where.
    pub path: String,
    /// A file or folder of the volume.
    pub sub_path: Option<String>,
    /// Not to be written to.
    pub read_only: bool,
    /// `mountPropagation`.
    pub propagation: Option<String>,
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name, a DNS label.
    pub name: String,
    /// What it is.
    pub source: Source,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A PersistentVolumeClaim of that name.
    Claim(String),
    /// A path of the host.
    Host {
        /// Where on the host.
        path: String,
        /// hostPath's `type`.
        kind: Option<String>,
    },
    /// Memory.
    Memory {
        /// Bytes at most.
        size: Option<u64>,
    },
    /// A folder that lives as long as the pod.
    Empty,
    /// Files from a ConfigMap.
    ConfigMap {
        /// The object.
        name: String,
        /// Its entries that become files; none for all.
        items: Vec<Item>,
        /// Rights of the files.
        mode: Option<u32>,
    },
    /// Files from a Secret.
    Secret {
        /// The object.
        name: String,
        /// Its entries that become files; none for all.
        items: Vec<Item>,
        /// Rights of the files.
        mode: Option<u32>,
    },
}

/// An entry as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Name of the entry.
    pub key: String,
    /// Path of the file.
    pub path: String,
    /// Its rights.
    pub mode: Option<u32>,
}

/// TCP, UDP or SCTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// How others than pods reach a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Pods only.
    Cluster,
    /// A port of every node, whatever node the pod is on: a Service of type `LoadBalancer`, which Windlass answers on the nodes' own
    /// addresses and a cloud on its balancer.
    Everywhere(u16),
    /// As `Everywhere`, for clients on the node itself only: the balancer's source range is the loopback network.
    Loopback(u16),
    /// A port of the pod's own node (`hostPort`): of no use for pods that shall be replaced one by one on one node.
    OnNode(u16),
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// In the container.
    pub container: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Who reaches it.
    pub published: Published,
}

/// A PersistentVolumeClaim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Namespace that is written into it.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// Bytes.
    pub size: u64,
    /// Its class; none is the default class, the empty text is none at all.
    pub class: Option<String>,
    /// Pods of many nodes may write.
    pub shared: bool,
    /// The volume it is bound to.
    pub volume: Option<String>,
}

/// A ConfigMap or Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Its name.
    pub name: String,
    /// Namespace that is written into it.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: Texts,
    /// Annotations.
    pub annotations: Texts,
    /// A Secret.
    pub secret: bool,
    /// It cannot be changed.
    pub immutable: bool,
    /// Its entries.
    pub entries: BTreeMap<String, Vec<u8>>,
}
