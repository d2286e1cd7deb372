//! The store and its index: which images there are and what they are called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::gc::Removed;
use crate::layout::{self, Layout};
use crate::reference::Reference;
use crate::registry::Http;

/// What the store allows. The defaults suit a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Registries (`host` or `host:port`) spoken to over plain HTTP besides those on loopback.
    pub insecure_registries: BTreeSet<String>,
    /// Largest manifest or index, bytes (distribution-spec: at least 4 MiB should be accepted).
    pub max_manifest_bytes: u64,
    /// Largest image configuration, bytes.
    pub max_config_bytes: u64,
    /// Largest compressed layer, bytes.
    pub max_blob_bytes: u64,
    /// Largest unpacked layer, bytes.
    pub max_layer_bytes: u64,
    /// Most files in one layer.
    pub max_layer_entries: u64,
    /// Most layers of an image; overlayfs and the page that holds its mount options set the bound.
    pub max_layers: usize,
    /// Layers fetched at once.
    pub parallel_downloads: usize,
    /// Attempts for one request before a transient fault is reported.
    pub attempts: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            insecure_registries: BTreeSet::new(),
            max_manifest_bytes: 4 << 20,
            max_config_bytes: 8 << 20,
            max_blob_bytes: 32 << 30,
            max_layer_bytes: 64 << 30,
            max_layer_entries: 4_000_000,
            max_layers: 127,
            parallel_downloads: 3,
            attempts: 5,
        }
    }
}

/// Images on this host. Cheap to clone; several processes may have the same root open.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) layout: Layout,
    pub(crate) options: Arc<Options>,
    pub(crate) http: Arc<Http>,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageInfo {
    /// Digest of its configuration: Docker's image id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// Its names, normalized (`docker.io/library/busybox:latest`), sorted.
    pub references: Vec<String>,
    /// `name@digest` under which registries know it, sorted.
    pub repo_digests: Vec<String>,
    /// Unpacked size of its layers, bytes; layers shared with other images are counted here too.
    pub size_bytes: u64,
    /// When it was built, RFC 3339, as its configuration says.
    pub created: Option<String>,
    /// What to run and how.
    pub config: ImageConfiguration,
    /// Diff ids of its layers, lowest first.
    pub layers: Vec<Digest>,
}

/// A layer as an image record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
}

/// `images/<hex>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) media_type: String,
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) size_bytes: u64,
}

/// `refs/<hash>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) reference: String,
    pub(crate) image: Digest,
    /// `name@digest` the registry answered, absent for what was never in a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repo_digest: Option<String>,
}

impl ImageStore {
    /// Opens the store under `root`, making it if there is none, and clears what dead processes left half done.
    ///
    /// # Errors
    /// When the folders cannot be made or locked.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Options::default())
    }

    /// The same with other limits or insecure registries.
    ///
    /// # Errors
    /// As [`ImageStore::open`].
    pub fn open_with(root: &Path, options: Options) -> Result<Self> {
        let layout = Layout::create(root)?;
        if let Some(_own) = layout.try_own_content()? {
            for (_, path) in layout::entries(&layout.dir("tmp"))? {
                layout::remove(&path)?;
            }
        }
        Ok(ImageStore { layout, options: Arc::new(options), http: Arc::new(Http::default()) })
    }

    /// The image of that name, `name@digest`, id or unambiguous id prefix; `None` if there is none.
    ///
    /// # Errors
    /// [`ImageError::Ambiguous`], or when the index cannot be read.
    pub fn get(&self, reference: &str) -> Result<Option<ImageInfo>> {
        let refs = self.refs()?;
        match self.resolve(reference, &refs)? {
            Some(id) => self.info(&id, &refs),
            None => Ok(None),
        }
    }

    /// All images, by id.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(&self) -> Result<Vec<ImageInfo>> {
        let refs = self.refs()?;
        let mut images = Vec::new();
        for id in self.image_ids()? {
            // `None`: removed since the folder was read.
            images.extend(self.info(&id, &refs)?);
        }
        Ok(images)
    }

    /// The configuration of an image as it was written: with fields that no specification but Docker knows, such as `Healthcheck`.
    ///
    /// # Errors
    /// [`ImageError::MissingContent`] when there is no image of that id.
    pub fn raw_config(&self, id: &Digest) -> Result<Vec<u8>> {
        self.layout.read_blob(id, self.options.max_config_bytes)
    }

    /// Disk space of an unpacked layer, bytes; 0 when there is none of that diff id.
    pub fn layer_bytes(&self, layer: &Digest) -> u64 {
        layout::disk_bytes(&self.layout.layer_fs(layer))
    }

    /// Gives an image one more name; the name leaves the image that had it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or an invalid name.
    pub fn tag(&self, source: &str, name: &str) -> Result<()> {
        let name: Reference = name.parse()?;
        if let Some(digest) = name.digest() {
            let reason = "a name to give cannot hold a digest";
            return Err(ImageError::InvalidReference { reference: format!("{name} ({digest})"), reason });
        }
        let _lock = self.layout.lock_index()?;
        let refs = self.refs()?;
        let id = self.resolve(source, &refs)?.ok_or_else(|| ImageError::NotFound(source.to_owned()))?;
        self.write_ref(&name, &id, None)
    }

    /// Takes a name away; when it was the last one, the image and what only it needed go too. Given an id, takes all
    /// its names. Content that a running pull may be reusing is left to the next [`ImageStore::prune`].
    ///
    /// # Errors
    /// [`ImageError::NotFound`]; [`ImageError::InUse`] when the last name would go and the image is in `in_use` or has
    /// a snapshot.
    pub fn remove(&self, reference: &str, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        {
            let _lock = self.layout.lock_index()?;
            let refs = self.refs()?;
            let not_found = || ImageError::NotFound(reference.to_owned());
            let id = self.resolve(reference, &refs)?.ok_or_else(not_found)?;
            let own: Vec<&RefRecord> = refs.values().filter(|r| r.image == id).collect();
            let named: Vec<&RefRecord> = match reference.parse::<Reference>() {
                Ok(name) => own.iter().copied().filter(|r| r.reference == name.to_string()).collect(),
                Err(_) => Vec::new(),
            };
            let going = if named.is_empty() { own.clone() } else { named };
            if going.len() == own.len() {
                self.refuse_if_used(reference, &id, in_use)?;
            }
            for record in &going {
                layout::remove(&self.layout.reference(&record.reference))?;
                removed.untagged.push(record.reference.clone());
            }
            if going.len() == own.len() {
                layout::remove(&self.layout.image(&id))?;
                removed.deleted.push(id);
            }
        }
        if !removed.deleted.is_empty() {
            let content = self.collect_content()?;
            removed.freed_bytes = content.freed_bytes;
            removed.deferred = content.deferred;
        }
        Ok(removed)
    }

    fn refuse_if_used(&self, reference: &str, id: &Digest, in_use: &BTreeSet<Digest>) -> Result<()> {
        let users = self.snapshot_users(id)?;
        if users.is_empty() && !in_use.contains(id) {
            return Ok(());
        }
        let by = if users.is_empty() { "a container".to_owned() } else { users.join(", ") };
        Err(ImageError::InUse { what: reference.to_owned(), by })
    }

    /// Every reference, by its text.
    pub(crate) fn refs(&self) -> Result<BTreeMap<String, RefRecord>> {
        let mut refs = BTreeMap::new();
        for (_, path) in layout::entries(&self.layout.dir("refs"))? {
            if let Some(record) = layout::read_json::<RefRecord>(&path)? {
                refs.insert(record.reference.clone(), record);
            }
        }
        Ok(refs)
    }

    pub(crate) fn image_ids(&self) -> Result<Vec<Digest>> {
        let names = layout::entries(&self.layout.dir("images"))?;
        let hex = |name: &str| name.strip_suffix(".json").and_then(|hex| format!("sha256:{hex}").parse().ok());
        Ok(names.iter().filter_map(|(name, _)| hex(name)).collect())
    }

    pub(crate) fn record(&self, id: &Digest) -> Result<Option<ImageRecord>> {
        layout::read_json(&self.layout.image(id))
    }

    /// The image named, by name first, then `name@digest`, then id, then prefix of an id.
    pub(crate) fn resolve(&self, text: &str, refs: &BTreeMap<String, RefRecord>) -> Result<Option<Digest>> {
        if let Ok(reference) = text.parse::<Reference>() {
            let normal = reference.to_string();
            if let Some(record) = refs.get(&normal) {
                return Ok(Some(record.image.clone()));
            }
            if reference.digest().is_some() {
                let known = refs.values().find(|r| r.repo_digest.as_ref() == Some(&normal));
                return Ok(known.map(|r| r.image.clone()));
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if !(4..=64).contains(&hex.len()) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut fitting = self.image_ids()?.into_iter().filter(|id| id.hex().starts_with(hex));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(text.to_owned())),
            (one, _) => Ok(one),
        }
    }

    fn info(&self, id: &Digest, refs: &BTreeMap<String, RefRecord>) -> Result<Option<ImageInfo>> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        let config = match self.layout.read_blob(id, self.options.max_config_bytes) {
            Ok(bytes) => parse_config(id, &bytes)?,
            // Removed between the two reads.
            Err(ImageError::MissingContent { .. }) if self.record(id)?.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        let own = || refs.values().filter(|r| r.image == *id);
        let repo_digests: BTreeSet<String> = own().filter_map(|r| r.repo_digest.clone()).collect();
        Ok(Some(ImageInfo {
            id: id.clone(),
            manifest_digest: record.manifest,
            references: own().map(|r| r.reference.clone()).collect(),
            repo_digests: repo_digests.into_iter().collect(),
            size_bytes: record.size_bytes,
            created: config.created().clone(),
            layers: record.layers.into_iter().map(|l| l.diff_id).collect(),
            config,
        }))
    }

    /// Puts a name in place. The index must be locked.
    pub(crate) fn write_ref(&self, name: &Reference, id: &Digest, repo_digest: Option<String>) -> Result<()> {
        let reference = name.to_string();
        let path = self.layout.reference(&reference);
        self.layout.write_json(&path, &RefRecord { reference, image: id.clone(), repo_digest })
    }

    /// The last step of every way an image comes in: its content is synced, now it exists and has its names.
    pub(crate) fn install(&self, record: &ImageRecord, names: &[(Reference, Option<String>)]) -> Result<ImageInfo> {
        let _lock = self.layout.lock_index()?;
        self.layout.write_json(&self.layout.image(&record.id), record)?;
        for (name, repo_digest) in names {
            self.write_ref(name, &record.id, repo_digest.clone())?;
        }
        let refs = self.refs()?;
        self.info(&record.id, &refs)?.ok_or_else(|| ImageError::NotFound(record.id.to_string()))
    }
}

/// The configuration, with the diff ids it must have.
pub(crate) fn parse_config(id: &Digest, bytes: &[u8]) -> Result<ImageConfiguration> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::document(format!("image configuration {id}"), e))
}

/// The layers' diff ids, lowest first.
pub(crate) fn diff_ids(id: &Digest, config: &ImageConfiguration) -> Result<Vec<Digest>> {
    let bad = |e: ImageError| ImageError::document(format!("image configuration {id}"), e);
    config.rootfs().diff_ids().iter().map(|d| d.parse().map_err(bad)).collect()
}
