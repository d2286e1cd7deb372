//! `RUN-DIR/instance.json`: how a verb that is given only a name finds the instance that runs under it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base::instance::{Cidr, Instance};
use serde::{Deserialize, Serialize};

/// What a running instance says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceFile {
    /// Process id of the server.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot (proc(5), stat field 22): with the pid, an identity.
    pub start_ticks: u64,
    /// Where the data is.
    pub data_dir: PathBuf,
    /// Where keys and certificates are; absent in files of older releases, which had them below the data.
    #[serde(default)]
    pub pki_dir: Option<PathBuf>,
    /// Where the Kubernetes API listens.
    pub api: SocketAddr,
    /// Where the HTTP ingress listens.
    pub http: Option<SocketAddr>,
    /// Addresses of pods.
    pub pod_cidr: String,
    /// Addresses of Services.
    pub service_cidr: String,
    /// Name of the Node.
    pub node_name: String,
}

impl InstanceFile {
    fn path(instance: &Instance) -> PathBuf {
        instance.run_dir().join("instance.json")
    }

    /// Reads the file; `None` when the instance never ran since boot (or was taken down).
    pub fn read(instance: &Instance) -> anyhow::Result<Option<Self>> {
        let path = Self::path(instance);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes the file in one step.
    pub fn write(&self, instance: &Instance) -> anyhow::Result<()> {
        let path = Self::path(instance);
        let tmp = path.with_extension("tmp");
        std::fs::write(&tmp, serde_json::to_vec_pretty(self)?).with_context(|| format!("write {}", tmp.display()))?;
        std::fs::rename(&tmp, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Whether the process that wrote the file still runs.
    pub fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// The ranges in use.
    pub fn cidrs(&self) -> anyhow::Result<(Cidr, Cidr)> {
        let parse = |s: &str| s.parse::<Cidr>().map_err(anyhow::Error::msg);
        Ok((parse(&self.pod_cidr)?, parse(&self.service_cidr)?))
    }
}

/// When the process started, in clock ticks since boot; `None` when it does not run.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and parentheses: fields are counted from its last parenthesis.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    if fields.next() == Some("Z") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The instance that `--name` and `--data-dir` mean: what runs under the name says where its data is.
pub fn resolve(name: &str, data_dir: Option<&Path>) -> anyhow::Result<Instance> {
    let instance =
        Instance::new(name).map_err(|e| crate::exit::Unfit::error(e.to_string(), "choose another --name"))?;
    if let Some(dir) = data_dir {
        let dir = std::path::absolute(dir).with_context(|| format!("resolve {}", dir.display()))?;
        return Ok(instance.with_data_dir(&dir));
    }
    match InstanceFile::read(&instance)? {
        Some(file) => Ok(instance.with_data_dir(&file.data_dir)),
        None => Ok(instance),
    }
}
