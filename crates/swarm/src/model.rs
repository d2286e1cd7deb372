//! What clients send of a service, as far as it is obeyed (Docker Engine API 1.50, `ServiceSpec`). Everything else lands in a `rest`,
//! where only empty values are taken. Times are nanoseconds.

use std::collections::BTreeMap;

use dockerapi::swarm::{Fault, Rest, Result, without_nulls};
use serde::Deserialize;
use serde_json::Value;

type Texts = BTreeMap<String, String>;

/// A service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    pub name: String,
    pub labels: Texts,
    pub task_template: TaskTemplate,
    pub mode: Mode,
    pub update_config: Option<UpdateConfig>,
    pub rollback_config: Option<UpdateConfig>,
    pub networks: Vec<Attachment>,
    pub endpoint_spec: EndpointSpec,
    #[serde(flatten)]
    pub rest: Rest,
}

/// What its tasks are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskTemplate {
    pub container_spec: Option<ContainerSpec>,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub placement: Placement,
    pub force_update: u64,
    pub runtime: String,
    pub networks: Vec<Attachment>,
    pub log_driver: Option<Driver>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Their container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSpec {
    pub image: String,
    pub labels: Texts,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub hostname: String,
    pub env: Vec<String>,
    pub dir: String,
    pub user: String,
    pub groups: Vec<String>,
    pub privileges: Privileges,
    pub stop_signal: String,
    #[serde(rename = "TTY")]
    pub tty: bool,
    pub open_stdin: bool,
    pub read_only: bool,
    pub mounts: Vec<Mount>,
    pub stop_grace_period: Option<i64>,
    pub healthcheck: Option<Healthcheck>,
    pub hosts: Vec<String>,
    #[serde(rename = "DNSConfig")]
    pub dns_config: DnsConfig,
    pub secrets: Vec<FileOf>,
    pub configs: Vec<FileOf>,
    pub isolation: String,
    pub sysctls: Texts,
    pub capability_add: Vec<String>,
    pub capability_drop: Vec<String>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Privileges {
    pub no_new_privileges: bool,
    pub seccomp: Option<ProfileMode>,
    pub app_armor: Option<ProfileMode>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProfileMode {
    pub mode: String,
    #[serde(flatten)]
    pub rest: Rest,
}

/// A mount.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
    // Hints for Docker Desktop: nothing to do on Linux.
    #[serde(rename = "Consistency")]
    _consistency: String,
    pub bind_options: BindOptions,
    pub volume_options: VolumeOptions,
    pub tmpfs_options: TmpfsOptions,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    pub propagation: String,
    pub create_mountpoint: bool,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    // A claim never has an image's files: what would not be copied is not.
    #[serde(rename = "NoCopy")]
    _no_copy: bool,
    pub labels: Texts,
    pub subpath: String,
    pub driver_config: Option<Driver>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    pub size_bytes: i64,
    #[serde(flatten)]
    pub rest: Rest,
}

/// A driver with options.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Driver {
    pub name: String,
    pub options: Texts,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// A secret or a config as a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FileOf {
    #[serde(rename = "SecretID", alias = "ConfigID")]
    pub id: String,
    #[serde(rename = "SecretName", alias = "ConfigName")]
    pub name: String,
    pub file: Option<FileTarget>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FileTarget {
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "UID")]
    pub uid: String,
    #[serde(rename = "GID")]
    pub gid: String,
    #[serde(rename = "Mode")]
    pub mode: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    pub limits: Amounts,
    pub reservations: Amounts,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Amounts {
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: i64,
    pub memory_bytes: i64,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    pub condition: String,
    pub delay: Option<i64>,
    pub max_attempts: Option<u64>,
    pub window: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    pub constraints: Vec<String>,
    pub preferences: Vec<Preference>,
    pub max_replicas: u64,
    pub platforms: Vec<Platform>,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Preference {
    pub spread: Spread,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Spread {
    pub spread_descriptor: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Platform {
    pub architecture: String,
    #[serde(rename = "OS")]
    pub os: String,
}

/// How many tasks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mode {
    pub replicated: Option<Replicated>,
    pub global: Option<Rest>,
    pub replicated_job: Option<ReplicatedJob>,
    pub global_job: Option<Rest>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replicated {
    pub replicas: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJob {
    pub max_concurrent: Option<u64>,
    pub total_completions: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    pub parallelism: Option<u64>,
    pub delay: i64,
    pub failure_action: String,
    // How long a client waits after the last task runs; it is told by the document.
    #[serde(rename = "Monitor")]
    _monitor: i64,
    pub max_failure_ratio: f64,
    pub order: String,
}

/// A network that the tasks are in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Attachment {
    pub target: String,
    pub aliases: Vec<String>,
    pub driver_opts: Texts,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    pub mode: String,
    pub ports: Vec<PortConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    #[serde(rename = "Name")]
    _name: String,
    pub protocol: String,
    pub target_port: u16,
    pub published_port: u16,
    pub publish_mode: String,
}

impl ServiceSpec {
    /// From the document.
    ///
    /// # Errors
    /// 400 when a field is not of its type.
    pub fn read(document: &Value) -> Result<Self> {
        serde_json::from_value(without_nulls(document.clone())).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))
    }

    /// The container of its tasks.
    ///
    /// # Errors
    /// 400 when it has none.
    pub fn container(&self) -> Result<&ContainerSpec> {
        self.task_template.container_spec.as_ref().ok_or_else(|| {
            Fault::bad("rpc error: code = InvalidArgument desc = ContainerSpec: missing in service spec")
        })
    }

    /// The networks; those of the service itself are an older place.
    pub fn attachments(&self) -> &[Attachment] {
        if self.task_template.networks.is_empty() { &self.networks } else { &self.task_template.networks }
    }
}
