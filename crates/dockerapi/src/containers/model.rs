//! What clients send of a container, as far as it is obeyed (Docker Engine API 1.50). Everything else lands in `rest`, where
//! only empty values are taken: a client sends most fields always.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, Result};

/// Values of fields that nothing here knows.
pub type Rest = BTreeMap<String, Value>;

/// Takes nulls away, which stand for what is not given.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.iter().all(says_nothing),
        Value::Object(map) => map.values().all(says_nothing),
    }
}

/// Refuses what is given and would not be obeyed.
///
/// # Errors
/// 400 names the first field.
pub fn only_empty(place: &str, rest: &Rest) -> Result<()> {
    match rest.iter().find(|(_, v)| !says_nothing(v)) {
        None => Ok(()),
        Some((name, value)) => Err(Fault::refused(&format!("{place}{name} ({value})"))),
    }
}

/// A command: a list of words, or one word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Command")]
pub struct Words(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Command {
    One(String),
    Many(Vec<String>),
}

impl From<Command> for Words {
    fn from(command: Command) -> Self {
        match command {
            Command::One(word) if word.is_empty() => Words(Vec::new()),
            Command::One(word) => Words(vec![word]),
            Command::Many(words) => Words(words),
        }
    }
}

/// A container's own configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub exposed_ports: BTreeMap<String, Value>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Vec<String>,
    pub cmd: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    pub image: String,
    pub volumes: BTreeMap<String, Value>,
    pub working_dir: String,
    pub entrypoint: Option<Words>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a container is asked whether it is well. Times are nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

/// Where a log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    #[serde(rename = "Type")]
    pub kind: String,
    pub config: BTreeMap<String, String>,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    pub name: String,
    pub maximum_retry_count: i64,
}

/// A port of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    pub path_on_host: String,
    pub path_in_container: String,
    pub cgroup_permissions: String,
}

/// A limit of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// A mount, in the newer form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    pub read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Hints for Docker Desktop: nothing to do on Linux.
    #[serde(skip_serializing)]
    pub consistency: String,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Of a bind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    pub propagation: String,
    pub create_mountpoint: bool,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Of a volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    pub no_copy: bool,
    pub labels: BTreeMap<String, String>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// Of a file system in memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    pub size_bytes: i64,
    pub mode: u32,
    #[serde(flatten)]
    pub rest: Rest,
}

/// What of a container depends on the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    pub binds: Vec<String>,
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    pub log_config: LogConfig,
    pub network_mode: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub volume_driver: String,
    pub console_size: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceMapping>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes_from: Vec<String>,
    pub cpuset_cpus: String,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cgroupns_mode: String,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    pub ipc_mode: String,
    pub oom_score_adj: i32,
    pub pid_mode: String,
    pub privileged: bool,
    pub publish_all_ports: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub shm_size: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    pub runtime: String,
    pub isolation: String,
    pub cpu_shares: i64,
    pub memory: i64,
    pub nano_cpus: i64,
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub memory_swap: i64,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub pids_limit: Option<i64>,
    pub ulimits: Vec<Ulimit>,
    pub init: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a container is in a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Endpoint {
    #[serde(rename = "IPAMConfig", skip_serializing_if = "Option::is_none")]
    pub ipam_config: Option<EndpointIpam>,
    pub links: Vec<String>,
    pub aliases: Vec<String>,
    pub gw_priority: i64,
    #[serde(flatten)]
    pub rest: Rest,
}

impl Endpoint {
    /// The address that is asked for.
    pub fn address(&self) -> Option<std::net::Ipv4Addr> {
        self.ipam_config.as_ref()?.ipv4_address.parse().ok()
    }
}

/// Addresses that a container asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpam {
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
    pub link_local_ips: Vec<String>,
}

impl EndpointIpam {
    /// Whether nothing is asked for.
    pub fn says_nothing(&self) -> bool {
        *self == EndpointIpam::default()
    }
}

/// What `containers/create` is sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Creation {
    /// The configuration.
    pub config: Config,
    /// The host's part.
    pub host: HostConfig,
    /// The networks, by name.
    pub networks: BTreeMap<String, Endpoint>,
}

impl Creation {
    /// From the document.
    ///
    /// # Errors
    /// 400 when a field is not of its type.
    pub fn read(document: Value) -> Result<Self> {
        let Value::Object(mut whole) = without_nulls(document) else {
            return Err(Fault::bad("invalid JSON: an object is expected"));
        };
        let host = whole.remove("HostConfig").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let networks = whole.remove("NetworkingConfig").and_then(|mut n| n.get_mut("EndpointsConfig").map(Value::take));
        // Of the deprecated form; what counts is in the endpoints.
        whole
            .remove("NetworkDisabled")
            .filter(|v| *v == Value::Bool(true))
            .map_or(Ok(()), |_| Err(Fault::refused("NetworkDisabled")))?;
        let invalid = |e: serde_json::Error| Fault::bad(format!("invalid JSON: {e}"));
        Ok(Creation {
            config: serde_json::from_value(Value::Object(whole)).map_err(invalid)?,
            host: serde_json::from_value(host).map_err(invalid)?,
            networks: networks.map(serde_json::from_value).transpose().map_err(invalid)?.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_not_given_and_one_word_is_a_command() {
        let document = serde_json::json!({
            "Cmd": "true", "Entrypoint": null, "Hostname": null, "Labels": null,
            "HostConfig": { "Binds": null, "PortBindings": { "80/tcp": null }, "BlkioWeight": 0, "Devices": [] },
        });
        let read = Creation::read(document).unwrap();
        assert_eq!(read.config.cmd, Some(Words(vec!["true".into()])));
        assert_eq!(read.config.entrypoint, None);
        only_empty("HostConfig.", &read.host.rest).unwrap();
    }

    #[test]
    fn what_nobody_obeys_is_refused_by_name() {
        let read = Creation::read(serde_json::json!({ "HostConfig": { "CpusetMems": "0-1" } })).unwrap();
        let fault = only_empty("HostConfig.", &read.host.rest).unwrap_err();
        assert_eq!(fault.message, "HostConfig.CpusetMems (\"0-1\") is not supported by Windlass");
    }
}
