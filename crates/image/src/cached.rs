//! Layers that a build may use again. Each is remembered by a key, which says all that it was made from, and kept from
//! being collected as long as it is remembered. How many there are is bounded by bytes; the longest unused go first.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::built::BuiltLayer;
use crate::error::{Result, io_error};
use crate::layout;
use crate::store::ImageStore;

/// `cached/<hex>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: String,
    layers: Vec<BuiltLayer>,
    /// What the builder wants to know again.
    note: String,
}

/// A step of builds that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedStep {
    /// What it is called: hex digits made of its key.
    pub id: String,
    /// Bytes of its compressed layers.
    pub bytes: u64,
    /// Images have its layers too: forgetting it frees nothing.
    pub shared: bool,
    /// Used last.
    pub used: SystemTime,
    /// What the builder noted.
    pub note: String,
}

impl ImageStore {
    /// All steps that are remembered, the last used first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn cached_steps(&self) -> Result<Vec<CachedStep>> {
        let mut of_images = BTreeSet::new();
        for id in self.image_ids()? {
            let layers = self.record(&id)?.map(|record| record.layers).unwrap_or_default();
            of_images.extend(layers.into_iter().map(|layer| layer.blob));
        }
        let mut steps = Vec::new();
        for (name, path) in layout::entries(&self.layout.dir("cached"))? {
            // What cannot be read is no step, and goes when the store is tidied.
            let Some(record) = layout::read_json::<Record>(&path).ok().flatten() else { continue };
            let used = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            steps.push(CachedStep {
                id: name.strip_suffix(".json").unwrap_or(&name).to_owned(),
                bytes: record.layers.iter().map(|l| l.size).sum(),
                shared: !record.layers.is_empty() && record.layers.iter().all(|l| of_images.contains(&l.blob)),
                used,
                note: record.note,
            });
        }
        steps.sort_by_key(|step| std::cmp::Reverse(step.used));
        Ok(steps)
    }

    /// Forgets these steps and says which were forgotten, and how many bytes that freed on the disk. Content goes as with
    /// [`ImageStore::forget_cached`].
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn forget_steps(&self, ids: &BTreeSet<String>) -> Result<(Vec<String>, u64)> {
        let mut forgotten = Vec::new();
        for (name, path) in layout::entries(&self.layout.dir("cached"))? {
            let id = name.strip_suffix(".json").unwrap_or(&name);
            if ids.contains(id) {
                layout::remove(&path)?;
                forgotten.push(id.to_owned());
            }
        }
        let freed = if forgotten.is_empty() { 0 } else { self.collect_content()?.freed_bytes };
        Ok((forgotten, freed))
    }

    /// Remembers the layers (none, if a step changed nothing) that came of what `key` describes, with a note.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn remember(&self, key: &str, layers: &[BuiltLayer], note: &str) -> Result<()> {
        let record = Record { key: key.to_owned(), layers: layers.to_vec(), note: note.to_owned() };
        self.layout.write_json(&self.layout.cached(key), &record)
    }

    /// What is remembered under a key, if all of it is still there. Counts as a use.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn recall(&self, key: &str) -> Result<Option<(Vec<BuiltLayer>, String)>> {
        let path = self.layout.cached(key);
        let Some(record) = layout::read_json::<Record>(&path)? else { return Ok(None) };
        if record.key != key || !self.have_layers(&record.layers) {
            return Ok(None);
        }
        // Only the order of removal hangs on it.
        let _ = File::options().write(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        Ok(Some((record.layers, record.note)))
    }

    /// Forgets what was not used for longest until the compressed layers are within `max_bytes`, and says how many
    /// were forgotten. What only they held goes too, unless something is being added: then with the next
    /// [`ImageStore::prune`].
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn forget_cached(&self, max_bytes: u64) -> Result<usize> {
        let mut found = Vec::new();
        for (_, path) in layout::entries(&self.layout.dir("cached"))? {
            let used = fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((used, path));
        }
        found.sort_by(|a, b| b.cmp(a));
        let (mut seen, mut bytes, mut forgotten) = (BTreeSet::new(), 0u64, 0);
        for (_, path) in found {
            let layers = layout::read_json::<Record>(&path).ok().flatten().map(|r| r.layers).unwrap_or_default();
            bytes += layers.into_iter().filter(|l| seen.insert(l.blob.clone())).map(|l| l.size).sum::<u64>();
            if bytes > max_bytes {
                layout::remove(&path)?;
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            self.collect_content()?;
        }
        Ok(forgotten)
    }

    /// Everything that is remembered.
    pub(crate) fn cached_layers(&self) -> Result<Vec<BuiltLayer>> {
        let mut all = Vec::new();
        for (_, path) in layout::entries(&self.layout.dir("cached"))? {
            match layout::read_json::<Record>(&path) {
                Ok(record) => all.extend(record.into_iter().flat_map(|r| r.layers)),
                // A cache that cannot be read is none.
                Err(error) => {
                    tracing::warn!(path = %path.display(), error = %base::chain(&error), "a cached layer is forgotten");
                    fs::remove_file(&path).map_err(io_error("remove", &path))?;
                }
            }
        }
        Ok(all)
    }
}
