//! A container as Docker's API describes it (`GET /containers/{id}/json`), as far as Kubernetes has words for it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Inspect {
    /// 64 hex digits.
    pub id: String,
    /// With a slash before it.
    pub name: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// Digest of the image's configuration.
    pub image: String,
    /// Times it was started again by its policy.
    pub restart_count: i32,
    /// Where its log is; empty without one.
    pub log_path: String,
    /// How it is.
    pub state: State,
    /// Its own configuration.
    pub config: Config,
    /// What depends on the host.
    pub host_config: HostConfig,
    /// What it sees mounted.
    pub mounts: Vec<MountPoint>,
    /// Where it is reached.
    pub network_settings: NetworkSettings,
}

/// How a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// `created`, `running`, `paused`, `restarting`, `exited`.
    pub status: String,
    /// It ended for want of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Its last exit status.
    pub exit_code: i32,
    /// Why it could not be started.
    pub error: String,
    /// Its last start (RFC 3339); of the year 1 when there was none.
    pub started_at: String,
    /// Its last end.
    pub finished_at: String,
    /// What its check says.
    pub health: Option<HealthState>,
}

/// What a check of health says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthState {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: String,
}

/// A container's own configuration, completed from its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// The image, as the user called it.
    pub image: String,
    /// Host name.
    pub hostname: String,
    /// User, and maybe group.
    pub user: String,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Program.
    pub entrypoint: Vec<String>,
    /// Arguments.
    pub cmd: Vec<String>,
    /// Where it starts.
    pub working_dir: String,
    /// A terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub open_stdin: bool,
    /// Closed after the first client.
    pub stdin_once: bool,
    /// Ports it says that it serves, as `80/tcp`.
    pub exposed_ports: BTreeMap<String, Value>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to end.
    pub stop_signal: String,
    /// Seconds until it is killed.
    pub stop_timeout: Option<i64>,
    /// How it is asked whether it is well.
    pub healthcheck: Option<Healthcheck>,
}

/// How a container is asked whether it is well. Times are nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `CMD` and words, `CMD-SHELL` and a line, or `NONE`.
    pub test: Vec<String>,
    /// Between two.
    pub interval: i64,
    /// For one.
    pub timeout: i64,
    /// After the start, in which failures do not count.
    pub start_period: i64,
    /// Failures in a row.
    pub retries: i64,
}

/// What of a container depends on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `default`, `bridge`, `host`, `none`, `container:ID`, or a network.
    pub network_mode: String,
    /// `80/tcp` → ports of the host.
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// What happens when it ends.
    pub restart_policy: RestartPolicy,
    /// It is removed when it ends.
    pub auto_remove: bool,
    /// Capabilities besides the usual.
    pub cap_add: Vec<String>,
    /// Fewer than the usual.
    pub cap_drop: Vec<String>,
    /// Resolvers.
    pub dns: Vec<String>,
    /// Domains that names are looked up in.
    pub dns_search: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Further groups.
    pub group_add: Vec<String>,
    /// `host` for the host's.
    pub ipc_mode: String,
    /// As [`HostConfig::ipc_mode`].
    pub pid_mode: String,
    /// All rights.
    pub privileged: bool,
    /// Its root is read-only.
    pub readonly_rootfs: bool,
    /// `no-new-privileges` and others.
    pub security_opt: Vec<String>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Processor time, relative: 1024 is one.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes that are kept for it.
    pub memory_reservation: i64,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// Processes at most.
    pub pids_limit: Option<i64>,
    /// A first process of its own.
    pub init: Option<bool>,
    /// Bytes of `/dev/shm`.
    pub shm_size: i64,
    /// Limits of its processes.
    pub ulimits: Vec<Value>,
}

impl HostConfig {
    /// Processor time at most, thousandths of a processor.
    pub fn milli_cpu(&self) -> Option<u64> {
        let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
        match (positive(self.nano_cpus), positive(self.cpu_quota)) {
            (Some(nano), _) => Some(nano.div_ceil(1_000_000)),
            (None, Some(quota)) => {
                Some(quota.saturating_mul(1000).div_ceil(positive(self.cpu_period).unwrap_or(100_000)))
            }
            (None, None) => None,
        }
    }
}

/// A port of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Address; empty for all.
    pub host_ip: String,
    /// Port.
    pub host_port: String,
}

impl PortBinding {
    /// The address, unless it stands for all.
    pub fn address(&self) -> Option<&str> {
        Some(self.host_ip.as_str()).filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::"))
    }
}

/// What happens when a container ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// Times, for `on-failure`.
    pub maximum_retry_count: i64,
}

/// What a container sees mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// The volume's name.
    pub name: String,
    /// On the host.
    pub source: String,
    /// In the container.
    pub destination: String,
    /// It can be written.
    #[serde(rename = "RW")]
    pub writable: bool,
    /// Of a bind.
    pub propagation: String,
}

/// Where a container is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// On the default network.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// `80/tcp` → ports of the host that it has now.
    pub ports: BTreeMap<String, Vec<PortBinding>>,
    /// By name.
    pub networks: BTreeMap<String, Endpoint>,
}

/// A place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Endpoint {
    /// Its address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Further names there.
    pub aliases: Vec<String>,
}

impl NetworkSettings {
    /// An address at which it is reached: that on the default network, else the first.
    pub fn address(&self) -> Option<&str> {
        let all = self.networks.values().map(|e| e.ip_address.as_str());
        std::iter::once(self.ip_address.as_str()).chain(all).find(|ip| !ip.is_empty())
    }
}

/// Nulls stand for what is not given; a list with none in it would be.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(k, v)| (k, if v.is_null() { Value::Null } else { without_nulls(v) }));
            // A port that is exposed and not published is null.
            let port = |k: &str| k.split_once('/').is_some_and(|(n, _)| n.parse::<u16>().is_ok());
            let kept = kept.map(|(k, v)| if v.is_null() && port(&k) { (k, Value::Array(Vec::new())) } else { (k, v) });
            Value::Object(kept.filter(|(_, v)| !v.is_null()).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

impl Config {
    /// Reads the configuration out of an image's document (`GET /images/{name}/json`).
    ///
    /// # Errors
    /// When a field is not of its type.
    pub fn of_image(document: &Value) -> Result<Self, serde_json::Error> {
        match without_nulls(document["Config"].clone()) {
            Value::Null => Ok(Config::default()),
            config => serde_json::from_value(config),
        }
    }
}

impl Inspect {
    /// Reads the document.
    ///
    /// # Errors
    /// When a field is not of its type.
    pub fn read(document: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(without_nulls(document))
    }

    /// Its name without the slash.
    pub fn plain_name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// A port in it and its protocol, from `80/tcp`.
    pub fn port(text: &str) -> Option<(u16, &str)> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        Some((number.parse().ok().filter(|n| *n > 0)?, protocol))
    }
}

/// Whether the value of a variable of that name is rather a secret: what is shown to others leaves it out, and it becomes an entry
/// of a Secret.
pub fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "SECRET", "KEY", "CREDENTIAL", "CREDENTIALS", "PASS"];
    let upper = name.to_ascii_uppercase();
    // Whole words, so that KEYBOARD and COMPASS are none; but PGPASSWORD and APIKEY are.
    let within = |part: &str| {
        WORDS.contains(&part) || ["PASSWORD", "SECRET", "TOKEN", "APIKEY"].iter().any(|word| part.ends_with(word))
    };
    upper.split(['_', '-', '.']).any(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_read_with_its_nulls() {
        let document = json!({
            "Id": "ab", "Name": "/web", "State": { "Status": "running", "Health": null },
            "Config": { "Env": null, "Entrypoint": null, "Cmd": ["sleep"], "ExposedPorts": { "80/tcp": {} } },
            "HostConfig": { "CapAdd": null, "NanoCpus": 1_500_000_000, "PortBindings": { "80/tcp": null } },
            "NetworkSettings": { "Ports": { "80/tcp": null, "81/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8081" }] } },
        });
        let read = Inspect::read(document).unwrap();
        assert_eq!((read.plain_name(), read.config.cmd.as_slice()), ("web", &["sleep".to_owned()][..]));
        assert_eq!(read.host_config.milli_cpu(), Some(1500));
        assert_eq!(read.network_settings.ports["80/tcp"], []);
        assert_eq!(read.network_settings.ports["81/tcp"][0].address(), None);
        assert!(read.config.exposed_ports.contains_key("80/tcp"));
    }

    #[test]
    fn secrets_are_told_by_the_words_of_their_names() {
        for name in
            ["POSTGRES_PASSWORD", "PGPASSWORD", "api_token", "AWS_SECRET_ACCESS_KEY", "DB_PASS", "OPENAI_APIKEY"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PATH", "KEYBOARD", "COMPASS", "HOME", "POSTGRES_USER"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
