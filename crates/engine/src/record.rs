//! What the engine remembers across restarts: one JSON file per sandbox and per container, put in place by rename.
//!
//! Not fsync'd: after a crash of the host nothing that they describe runs any more, and a file that is torn or missing
//! then is treated as what it describes: leftovers to remove. A crash of the engine alone loses nothing.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::{ContainerSpec, ExitRecord, ProcessUser, SandboxSpec};

/// A sandbox on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// As asked for.
    pub spec: SandboxSpec,
    /// Complete; false while being made, and again while being removed: then it is removed at the next start.
    pub complete: bool,
    /// Stopped on purpose.
    pub stopped: bool,
    /// Its address.
    pub ip: Option<std::net::IpAddr>,
    /// The host's id that is user and group 0 in its own user namespace, if it has one; the rest of the range follows.
    #[serde(default)]
    pub user_base: Option<u32>,
    /// Milliseconds since the epoch.
    pub created_at_ms: i64,
}

/// Where a container is, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being made or removed: removed at the next start.
    Partial,
    /// Made, not started.
    Created,
    /// Running since (milliseconds since the epoch; 0 while being started).
    Running(i64),
    /// Ended.
    Exited(ExitRecord),
}

/// A container on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// As asked for.
    pub spec: ContainerSpec,
    /// Digest reference of its image.
    pub image_id: String,
    /// Digest of its image's configuration.
    pub image_digest: String,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// Who it is started as.
    #[serde(default)]
    pub user: Option<ProcessUser>,
    /// Where it is.
    pub phase: Phase,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub struct Records {
    sandboxes: PathBuf,
    containers: PathBuf,
}

impl Records {
    /// Opens or makes the folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let records = Records { sandboxes: dir.join("sandboxes"), containers: dir.join("containers") };
        std::fs::create_dir_all(&records.sandboxes)?;
        std::fs::create_dir_all(&records.containers)?;
        Ok(records)
    }

    /// Writes a sandbox.
    pub fn put_sandbox(&self, record: &SandboxRecord) -> io::Result<()> {
        put(&self.sandboxes, &record.spec.id, record)
    }

    /// Writes a container.
    pub fn put_container(&self, record: &ContainerRecord) -> io::Result<()> {
        put(&self.containers, &record.spec.id, record)
    }

    /// Forgets a sandbox.
    pub fn remove_sandbox(&self, id: &str) -> io::Result<()> {
        remove(&self.sandboxes, id)
    }

    /// Forgets a container.
    pub fn remove_container(&self, id: &str) -> io::Result<()> {
        remove(&self.containers, id)
    }

    /// Everything that can be read. What cannot is named in the log, and removed.
    pub fn load(&self) -> io::Result<(Vec<SandboxRecord>, Vec<ContainerRecord>)> {
        Ok((load(&self.sandboxes)?, load(&self.containers)?))
    }
}

fn put<T: Serialize>(dir: &Path, id: &str, record: &T) -> io::Result<()> {
    let temporary = dir.join(format!(".{id}.tmp"));
    std::fs::write(&temporary, serde_json::to_vec(record)?)?;
    std::fs::rename(&temporary, dir.join(format!("{id}.json")))
}

fn remove(dir: &Path, id: &str) -> io::Result<()> {
    match std::fs::remove_file(dir.join(format!("{id}.json"))) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn load<T: DeserializeOwned>(dir: &Path) -> io::Result<Vec<T>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let parsed = match path.extension().is_some_and(|e| e == "json") {
            true => std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<T>(&bytes)?)).map_err(Some),
            false => Err(None),
        };
        match parsed {
            Ok(record) => records.push(record),
            Err(error) => {
                if let Some(error) = error {
                    tracing::warn!(path = %path.display(), %error, "a record cannot be read and is dropped");
                }
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_record_is_dropped_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let spec = SandboxSpec { id: "a".into(), ..SandboxSpec::default() };
        let record =
            SandboxRecord { spec, complete: true, stopped: false, ip: None, user_base: None, created_at_ms: 5 };
        records.put_sandbox(&record).unwrap();
        std::fs::write(dir.path().join("sandboxes/b.json"), "{\"spec\":").unwrap();
        std::fs::write(dir.path().join("sandboxes/.c.tmp"), "{}").unwrap();
        assert_eq!(records.load().unwrap().0, [record]);
        assert_eq!(std::fs::read_dir(dir.path().join("sandboxes")).unwrap().count(), 1);
        records.remove_sandbox("a").unwrap();
        records.remove_sandbox("a").unwrap();
        assert!(records.load().unwrap().0.is_empty());
    }
}
