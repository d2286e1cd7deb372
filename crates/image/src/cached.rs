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

impl ImageStore {
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
