//! What nobody refers to goes away; what somebody may be about to refer to stays.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::store::ImageStore;

/// What a removal took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names taken away.
    pub untagged: Vec<String>,
    /// Images removed.
    pub deleted: Vec<Digest>,
    /// Disk space freed, bytes.
    pub freed_bytes: u64,
    /// Something was being pulled or loaded, so content was left in place; prune again later.
    pub deferred: bool,
}

/// Disk space used, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// How many images there are.
    pub images: usize,
    /// Compressed content.
    pub blob_bytes: u64,
    /// Unpacked layers.
    pub layer_bytes: u64,
    /// What containers wrote.
    pub snapshot_bytes: u64,
    /// Interrupted downloads and work under way.
    pub pending_bytes: u64,
    /// What a prune would free: content of images without a name or a container.
    pub reclaimable_bytes: u64,
}

/// An image, and whether it may go when the disk fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: Digest,
    /// A container or a volume stands on it, or it was named.
    pub used: bool,
    /// It has a name under which no registry is known to have it: imported, loaded, built or tagged here.
    pub local: bool,
}

/// What is still needed.
struct Live {
    dangling: Vec<Digest>,
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

impl ImageStore {
    /// Removes images that have neither a name nor a snapshot, then blobs, layers and interrupted downloads that
    /// nothing needs. While something is being pulled or loaded only the images go (`deferred`).
    ///
    /// # Errors
    /// When the store cannot be read or changed.
    pub fn prune(&self) -> Result<Removed> {
        self.prune_except(&BTreeSet::new())
    }

    /// The same, keeping these images.
    ///
    /// # Errors
    /// As [`ImageStore::prune`].
    pub fn prune_except(&self, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        {
            let _lock = self.layout.lock_index()?;
            for id in self.live()?.dangling {
                if !in_use.contains(&id) {
                    layout::remove(&self.layout.image(&id))?;
                    removed.deleted.push(id);
                }
            }
        }
        let content = self.collect_content()?;
        Ok(Removed { freed_bytes: content.freed_bytes, deferred: content.deferred, ..removed })
    }

    /// All images, and who holds them; those of these names are used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn held(&self, named: &[String]) -> Result<Vec<Held>> {
        let (refs, snapshots) = (self.refs()?, self.snapshot_records()?);
        // A name that is none, or that fits several images, holds nothing.
        let named: BTreeSet<Digest> = named.iter().filter_map(|n| self.resolve(n, &refs).ok().flatten()).collect();
        let held = |id: Digest| {
            let used = named.contains(&id) || snapshots.iter().any(|s| s.image == id);
            let local = refs.values().any(|r| r.image == id && r.repo_digest.is_none());
            Held { id, used, local }
        };
        Ok(self.image_ids()?.into_iter().map(held).collect())
    }

    /// How much disk space the store uses. Walks the folders: seconds on a large store.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let size = |dir: &str| layout::disk_bytes(&self.layout.dir(dir));
        let mut usage = DiskUsage {
            images: self.image_ids()?.len(),
            blob_bytes: size("blobs"),
            layer_bytes: size("layers"),
            snapshot_bytes: size("snapshots"),
            pending_bytes: size("ingest") + size("tmp"),
            reclaimable_bytes: 0,
        };
        let live = self.live_of(false)?;
        for (dir, keep) in [("blobs/sha256", &live.blobs), ("layers", &live.layers)] {
            for (name, path) in layout::entries(&self.layout.dir(dir))? {
                if !keep.contains(&name) {
                    usage.reclaimable_bytes += layout::disk_bytes(&path);
                }
            }
        }
        Ok(usage)
    }

    /// Removes content no image or snapshot needs, unless somebody is adding some (`deferred`).
    ///
    /// # Errors
    /// When the store cannot be read or changed.
    pub fn collect_content(&self) -> Result<Removed> {
        let Some(_own) = self.layout.try_own_content()? else {
            return Ok(Removed { deferred: true, ..Removed::default() });
        };
        let live = self.live()?;
        let mut freed_bytes = 0;
        for (dir, keep) in [("blobs/sha256", &live.blobs), ("layers", &live.layers)] {
            for (name, path) in layout::entries(&self.layout.dir(dir))? {
                if !keep.contains(&name) {
                    freed_bytes += layout::remove(&path)?;
                }
            }
        }
        for dir in ["ingest", "tmp"] {
            for (_, path) in layout::entries(&self.layout.dir(dir))? {
                freed_bytes += layout::remove(&path)?;
            }
        }
        Ok(Removed { freed_bytes, ..Removed::default() })
    }

    fn live(&self) -> Result<Live> {
        self.live_of(true)
    }

    /// What the images need; those without name and snapshot count only when `with_dangling`.
    fn live_of(&self, with_dangling: bool) -> Result<Live> {
        let named: BTreeSet<Digest> = self.refs()?.into_values().map(|r| r.image).collect();
        let snapshots = self.snapshot_records()?;
        let mut live = Live { dangling: Vec::new(), blobs: BTreeSet::new(), layers: BTreeSet::new() };
        for id in self.image_ids()? {
            let Some(record) = self.record(&id)? else { continue };
            if !named.contains(&id) && !snapshots.iter().any(|s| s.image == id) {
                live.dangling.push(id.clone());
                if !with_dangling {
                    continue;
                }
            }
            live.blobs.extend([id.hex().to_owned(), record.manifest.hex().to_owned()]);
            for layer in &record.layers {
                live.blobs.insert(layer.blob.hex().to_owned());
                live.layers.insert(layer.diff_id.hex().to_owned());
            }
        }
        for layer in self.cached_layers()? {
            live.blobs.insert(layer.blob.hex().to_owned());
            live.layers.insert(layer.diff_id.hex().to_owned());
        }
        // A snapshot outlives its image's record when somebody removed that by hand: its layers are mounted.
        live.layers.extend(snapshots.iter().flat_map(|s| s.layers.iter().map(|l| l.hex().to_owned())));
        Ok(live)
    }
}
