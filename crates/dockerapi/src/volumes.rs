//! Named volumes: a folder each, with what is known of it beside its data.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::containers::model::{Rest, only_empty, without_nulls};
use crate::containers::names;
use crate::face::{Face, now_ms, stamp};
use crate::fault::{Fault, Result, blocking};
use crate::http::{Answer, Call, empty, json, status_json};
use crate::query::Filters;

/// The label by which Docker's clients know a volume without a name of its own.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Meta {
    created_ms: i64,
    labels: BTreeMap<String, String>,
}

/// All volumes of an instance.
pub struct Volumes {
    dir: PathBuf,
    /// Held while one is made or removed.
    changing: Mutex<()>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Asked {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Rest,
}

impl Volumes {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Volumes { dir: dir.to_owned(), changing: Mutex::default() })
    }

    /// Where a volume's files are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    /// Makes a volume unless there is one of that name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn ensure(&self, name: &str, labels: &BTreeMap<String, String>, anonymous: bool) -> Result<()> {
        let failed = |e: io::Error| Fault::io(&format!("create volume {name}"), &e);
        let _changing = self.changing.lock();
        if self.meta(name).is_some() {
            return Ok(());
        }
        let mut labels = labels.clone();
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        std::fs::create_dir_all(self.data(name)).map_err(failed)?;
        let bytes = serde_json::to_vec(&Meta { created_ms: now_ms(), labels }).map_err(|e| failed(e.into()))?;
        crate::containers::record::put(&self.dir.join(name), "volume.json", &bytes).map_err(failed)
    }

    /// The claim of the cluster whose volume its files are, if they are: `windlass promote` notes it beside them.
    fn claimed(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(name).join(crate::CLAIMED)).ok()
    }

    fn meta(&self, name: &str) -> Option<Meta> {
        let bytes = std::fs::read(self.dir.join(name).join("volume.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|n| self.meta(n).is_some());
        names.sort();
        names
    }

    /// Removes a volume and all that is in it. Which containers use it is asked for by the caller.
    ///
    /// # Errors
    /// 409 when its files are those of a claim; when the disk refuses.
    pub fn remove(&self, name: &str) -> Result<()> {
        if let Some(claim) = self.claimed(name) {
            return Err(Fault::conflict(format!(
                "remove {name}: volume is in use by the PersistentVolumeClaim {claim}: delete that and its PersistentVolume, then {}",
                self.dir.join(name).join(crate::CLAIMED).display()
            )));
        }
        let failed = |e: io::Error| Fault::io(&format!("remove volume {name}"), &e);
        let _changing = self.changing.lock();
        match std::fs::remove_dir_all(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }

    fn document(&self, name: &str) -> Option<Value> {
        let meta = self.meta(name)?;
        let labels = if meta.labels.is_empty() { Value::Null } else { json!(meta.labels) };
        Some(json!({
            "Name": name, "Driver": "local", "Mountpoint": self.data(name), "CreatedAt": stamp(meta.created_ms),
            "Labels": labels, "Options": null, "Scope": "local",
        }))
    }
}

/// The containers that have a volume, running or not.
pub fn users(face: &Arc<Face>, name: &str) -> Vec<String> {
    let all = face.all().into_iter().map(|c| c.record());
    all.filter(|r| r.mounts.iter().any(|m| m.kind == "volume" && m.name == name)).map(|r| r.id).collect()
}

fn known(face: &Arc<Face>, name: &str) -> Result<Value> {
    let found = Some(name).filter(|n| names::valid(n)).and_then(|n| face.volumes.document(n));
    found.ok_or_else(|| Fault::missing(format!("get {name}: no such volume")))
}

/// `GET /volumes`.
///
/// # Errors
/// 400 for filters that are none.
pub fn list(call: &Call) -> Result<Answer> {
    let filters = call.query.filters(&["dangling", "driver", "label", "label!", "name"])?;
    let dangling = filters.switch("dangling")?;
    let mut rows = Vec::new();
    for name in call.face.volumes.names() {
        let meta = call.face.volumes.meta(&name).unwrap_or_default();
        let unused = users(&call.face, &name).is_empty();
        let wanted = filters.matches("name", &name)
            && filters.any("driver", |v| v == "local")
            && filters.labels(&meta.labels)
            && dangling.is_none_or(|d| d == unused);
        rows.extend(call.face.volumes.document(&name).filter(|_| wanted));
    }
    Ok(json(&json!({ "Volumes": rows, "Warnings": null })))
}

/// `POST /volumes/create`.
///
/// # Errors
/// 400 for drivers and options that are not obeyed.
pub async fn create(mut call: Call) -> Result<Answer> {
    let document: Value = call.json().await?;
    let asked: Asked =
        serde_json::from_value(without_nulls(document)).map_err(|e| Fault::bad(format!("invalid JSON: {e}")))?;
    only_empty("", &asked.rest)?;
    if !matches!(asked.driver.as_str(), "" | "local") {
        return Err(Fault::missing(format!(
            "create {}: error looking up volume plugin {1}: plugin \"{1}\" not found",
            asked.name, asked.driver
        )));
    }
    if let Some(option) = asked.driver_opts.keys().next() {
        return Err(Fault::refused(&format!("the volume option {option:?}")));
    }
    if !asked.name.is_empty() && !names::valid(&asked.name) {
        return Err(Fault::bad(format!(
            "create {0}: \"{0}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
             allowed. If you intended to pass a host directory, use absolute path",
            asked.name
        )));
    }
    let anonymous = asked.name.is_empty();
    let name = if anonymous { names::id() } else { asked.name };
    call.face.volumes.ensure(&name, &asked.labels, anonymous)?;
    call.face.events.tell("volume", "create", &name, BTreeMap::from([("driver".to_owned(), "local".to_owned())]));
    Ok(status_json(StatusCode::CREATED, &known(&call.face, &name)?))
}

/// `GET /volumes/{name}`.
///
/// # Errors
/// 404.
pub fn inspect(call: &Call, name: &str) -> Result<Answer> {
    Ok(json(&known(&call.face, name)?))
}

/// `DELETE /volumes/{name}`.
///
/// # Errors
/// 404, 409 while a container has it.
pub async fn remove(call: Call, name: &str) -> Result<Answer> {
    if let Err(fault) = known(&call.face, name) {
        return if call.query.flag("force") { Ok(empty(StatusCode::NO_CONTENT)) } else { Err(fault) };
    }
    let users = users(&call.face, name);
    if !users.is_empty() {
        return Err(Fault::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
    }
    let (face, name) = (call.face.clone(), name.to_owned());
    blocking(move || {
        face.volumes.remove(&name)?;
        face.events.tell("volume", "destroy", &name, BTreeMap::from([("driver".to_owned(), "local".to_owned())]));
        Ok::<_, Fault>(())
    })
    .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Bytes of a folder's files.
pub fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&e.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// All volumes with their sizes and how many containers have each, for `system df`. Blocks.
pub fn measured(face: &Arc<Face>) -> Vec<Value> {
    let rows = face.volumes.names().into_iter().filter_map(|name| {
        let mut row = face.volumes.document(&name)?;
        row["UsageData"] = json!({ "Size": bytes_in(&face.volumes.data(&name)), "RefCount": users(face, &name).len() });
        Some(row)
    });
    rows.collect()
}

fn prunable(face: &Arc<Face>, name: &str, filters: &Filters, all: bool) -> bool {
    let meta = face.volumes.meta(name).unwrap_or_default();
    (all || meta.labels.contains_key(ANONYMOUS))
        && filters.labels(&meta.labels)
        && users(face, name).is_empty()
        && face.volumes.claimed(name).is_none()
}

/// From this version on only volumes without names are pruned unless all are asked for.
const ALL_UNTIL: crate::Version = crate::Version(1, 42);

/// `POST /volumes/prune`.
///
/// # Errors
/// 400 for filters that are none.
pub async fn prune(call: Call) -> Result<Answer> {
    let filters = call.query.filters(&["all", "label", "label!"])?;
    // Older clients know no difference between volumes with and without names.
    let all = filters.switch("all")?.unwrap_or(call.version < ALL_UNTIL);
    let face = call.face.clone();
    let pruned = blocking(move || {
        let (mut removed, mut freed) = (Vec::new(), 0);
        for name in face.volumes.names() {
            if prunable(&face, &name, &filters, all) {
                let size = bytes_in(&face.volumes.data(&name));
                face.volumes.remove(&name)?;
                freed += size;
                removed.push(name);
            }
        }
        Ok::<_, Fault>(json!({ "VolumesDeleted": removed, "SpaceReclaimed": freed }))
    });
    Ok(json(&pruned.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_whose_files_are_a_claims_stays() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path()).unwrap();
        volumes.ensure("v", &BTreeMap::new(), true).unwrap();
        let note = dir.path().join("v").join(crate::CLAIMED);
        std::fs::write(&note, "shop/data").unwrap();
        let refused = volumes.remove("v").unwrap_err();
        assert!(refused.status == StatusCode::CONFLICT && refused.message.contains("shop/data"), "{refused}");
        assert!(volumes.data("v").exists());
        std::fs::remove_file(note).unwrap();
        volumes.remove("v").unwrap();
        assert!(!volumes.data("v").exists());
    }
}
