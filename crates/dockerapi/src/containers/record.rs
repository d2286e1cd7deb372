//! What is known of a container, on disk: one folder each, its record put in place by rename and synced, since nothing else
//! remembers a container that does not run.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::containers::model::{Config, Endpoint, HostConfig};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Made, never started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Its processes stand still.
    Paused,
    /// Ended, to be started again soon.
    Restarting,
    /// Ended.
    Exited,
}

impl Phase {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Restarting => "restarting",
            Phase::Exited => "exited",
        }
    }

    /// Whether it has processes.
    pub fn is_live(self) -> bool {
        matches!(self, Phase::Running | Phase::Paused)
    }
}

/// How things stand. Times are milliseconds since the epoch, 0 for never.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Its last exit status.
    pub exit_code: i32,
    /// Why it could not be started.
    pub error: String,
    /// The kernel ended it for want of memory.
    pub oom_killed: bool,
    /// When it was started last.
    pub started_at_ms: i64,
    /// When it ended last.
    pub finished_at_ms: i64,
    /// Times it was started again by its policy.
    pub restarts: u32,
    /// A person had it stopped: its policy does not start it again.
    pub stopped_by_hand: bool,
    /// Its address on the instance's bridge.
    pub ip: Option<String>,
    /// The interface there, when it is not the first.
    pub bridge_interface: String,
    /// Its places in networks that users made, by name.
    pub endpoints: std::collections::BTreeMap<String, Held>,
    /// Ports of the host it has now.
    pub ports: Vec<Published>,
}

/// A container's place in a network, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The network's id.
    pub network: String,
    /// The place's own.
    pub endpoint: String,
    /// Its address.
    pub ip: std::net::Ipv4Addr,
    /// The interface inside.
    pub interface: String,
    /// The way out leads over it.
    pub gateway: bool,
}

/// A port of the host that leads to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// Address of the host; `None` is every one.
    pub host_ip: Option<std::net::Ipv4Addr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// What a container sees mounted, once names are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// The volume's name.
    #[serde(default)]
    pub name: String,
    /// On the host; empty in memory.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether it can be written.
    pub writable: bool,
    /// `rprivate`, `rslave`, `rshared`.
    #[serde(default)]
    pub propagation: String,
    /// Options of the mount (in memory), or what the user wrote.
    #[serde(default)]
    pub options: Vec<String>,
    /// The volume was made for this container and has no name of its own.
    #[serde(default)]
    pub anonymous: bool,
    /// What the image has there is not copied into the volume.
    #[serde(default)]
    pub no_copy: bool,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Without the slash.
    pub name: String,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// The image, as named by the user.
    pub image: String,
    /// Digest of its configuration.
    pub image_id: String,
    /// As asked for, completed from the image.
    pub config: Config,
    /// As asked for.
    pub host: HostConfig,
    /// Its networks.
    pub networks: std::collections::BTreeMap<String, Endpoint>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// Where it is.
    pub state: State,
}

impl Record {
    /// Whether something leads out of the host, while it runs.
    pub fn has_way_out(&self) -> bool {
        self.state.ip.is_some() || self.state.endpoints.values().any(|h| h.gateway)
    }

    /// A name for one more interface.
    pub fn free_interface(&self) -> String {
        let on_bridge = self.state.ip.is_some().then_some(match self.state.bridge_interface.as_str() {
            "" => "eth0",
            name => name,
        });
        let taken: Vec<&str> = self.state.endpoints.values().map(|h| h.interface.as_str()).chain(on_bridge).collect();
        (0..).map(|n| format!("eth{n}")).find(|name| !taken.contains(&name.as_str())).unwrap_or_default()
    }
}

/// The folders of all containers.
#[derive(Debug, Clone)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Records { dir: dir.to_owned() })
    }

    /// The folder of a container.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Its log.
    pub fn log(&self, id: &str) -> PathBuf {
        self.folder(id).join("log").join("container.log")
    }

    /// Writes a record; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put(&self, record: &Record) -> io::Result<()> {
        let folder = self.folder(&record.id);
        std::fs::create_dir_all(&folder)?;
        put(&folder, "container.json", &serde_json::to_vec(record)?)
    }

    /// Removes a container's folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(self.folder(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// All that can be read. A folder without a whole record is one that was being made: it goes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn load(&self) -> io::Result<Vec<Record>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let read = std::fs::read(path.join("container.json"));
            match read.and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?)) {
                Ok(mut record) => {
                    let mode = &record.host.network_mode;
                    // From before there were several networks.
                    if record.networks.is_empty() && matches!(mode.as_str(), "bridge" | "host" | "none") {
                        record.networks.insert(mode.clone(), Endpoint::default());
                    }
                    found.push(record);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => drop(std::fs::remove_dir_all(&path)),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a container's record cannot be read"),
            }
        }
        Ok(found)
    }
}

/// Puts a file in place, whole and on disk.
///
/// # Errors
/// When the disk refuses.
pub fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_half_a_folder_goes() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let record = Record { id: "ab".into(), name: "web".into(), ..Record::default() };
        records.put(&record).unwrap();
        std::fs::create_dir(dir.path().join("half")).unwrap();
        assert_eq!(records.load().unwrap(), [record]);
        assert!(!dir.path().join("half").exists());
        records.remove("ab").unwrap();
        records.remove("ab").unwrap();
        assert!(records.load().unwrap().is_empty());
    }
}
