//! Archives in: OCI image layouts and what `docker save` writes, plain or compressed.
//!
//! The archive's names are only keys: its files are unpacked under names of our own, so there is nothing to traverse.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tar::EntryType;

use crate::compress::Plain;
use crate::content::digest_file;
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use crate::layout::{self, TempDir};
use crate::manifest::{DOCKER_MANIFEST, Descriptor, Index, Manifest, OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST};
use crate::reference::Reference;
use crate::store::{ImageInfo, ImageStore, LayerRecord, diff_ids, parse_config};

/// Most entries of an archive.
const ENTRIES_MAX: usize = 100_000;
/// Largest document read whole.
const DOCUMENT_MAX: u64 = 8 << 20;
/// Fast, and still far smaller than the plain tar.
const ZSTD_LEVEL: i32 = 3;
/// Where containerd and Docker keep the full name in an OCI layout.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// The tag alone, or the full name, by who wrote it.
pub(crate) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

enum Member {
    File(PathBuf),
    /// Old `docker save` links layers that are the same.
    Link(String),
}

/// An archive, unpacked flat.
struct Members {
    what: String,
    files: BTreeMap<String, Member>,
    _temp: TempDir,
}

impl ImageStore {
    /// Loads every image for this host from an archive: an OCI image layout or the output of `docker save`, plain,
    /// gzip or zstd. Images without a name in the archive get none.
    ///
    /// # Errors
    /// [`ImageError::BadArchive`] and what [`ImageStore::pull`] reports of content.
    pub fn load_archive(&self, path: &Path) -> Result<Vec<ImageInfo>> {
        let file = File::open(path).map_err(io_error("open", path))?;
        self.load(&path.display().to_string(), file)
    }

    /// The same from a stream; `what` names it in errors.
    ///
    /// # Errors
    /// As [`ImageStore::load_archive`].
    pub fn load(&self, what: &str, source: impl Read) -> Result<Vec<ImageInfo>> {
        let _hold = self.layout.hold_content()?;
        let members = self.members(what, source)?;
        // Newer `docker save` writes both; its manifest.json has the names as the user knows them.
        if let Some(bytes) = members.document("manifest.json")? {
            let entries: Vec<DockerEntry> =
                serde_json::from_slice(&bytes).map_err(|e| members.bad(format!("manifest.json: {e}")))?;
            return entries.iter().map(|entry| self.load_docker(&members, entry)).collect();
        }
        let Some(bytes) = members.document("index.json")? else {
            return Err(members.bad("it has neither index.json nor manifest.json: not an image archive"));
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| members.bad(format!("index.json: {e}")))?;
        let mut images = Vec::new();
        for entry in &index.manifests {
            images.push(self.load_oci(&members, entry)?);
        }
        Ok(images)
    }

    fn members(&self, what: &str, source: impl Read) -> Result<Members> {
        let broken = |e: io::Error| match e.kind() {
            io::ErrorKind::StorageFull => ImageError::NoSpace(self.layout.dir("tmp")),
            _ => ImageError::archive(what, e.to_string()),
        };
        let temp = self.layout.temp_dir()?;
        let mut files = BTreeMap::new();
        let mut left = self.options.max_layer_bytes;
        let mut archive = tar::Archive::new(Plain::new(source).map_err(broken)?);
        for (n, entry) in archive.entries().map_err(broken)?.enumerate() {
            let mut entry = entry.map_err(broken)?;
            if n >= ENTRIES_MAX {
                return Err(ImageError::TooLarge { what: what.into(), limit: ENTRIES_MAX as u64, unit: "entries" });
            }
            let name = key(&String::from_utf8_lossy(&entry.path_bytes()));
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let too_large = || ImageError::TooLarge {
                        what: what.into(),
                        limit: self.options.max_layer_bytes,
                        unit: "bytes",
                    };
                    left = left.checked_sub(entry.size()).ok_or_else(too_large)?;
                    let path = temp.path().join(n.to_string());
                    let mut file = File::create_new(&path).map_err(io_error("create", &path))?;
                    let copied = io::copy(&mut entry, &mut file).map_err(broken)?;
                    if copied != entry.size() {
                        return Err(ImageError::archive(what, format!("{name} is cut short")));
                    }
                    files.insert(name, Member::File(path));
                }
                EntryType::Symlink | EntryType::Link => {
                    let hard = entry.header().entry_type() == EntryType::Link;
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let base = if hard { "" } else { name.rsplit_once('/').map_or("", |(dir, _)| dir) };
                    let target = key(&format!("{base}/{target}"));
                    files.insert(name, Member::Link(target));
                }
                _ => {}
            }
        }
        Ok(Members { what: what.to_owned(), files, _temp: temp })
    }

    fn load_docker(&self, members: &Members, entry: &DockerEntry) -> Result<ImageInfo> {
        let config_bytes = members.document(&entry.config)?;
        let config_bytes = config_bytes.ok_or_else(|| members.bad(format!("{} is missing", entry.config)))?;
        let id = Digest::of(&config_bytes);
        let diff_ids = diff_ids(&id, &parse_config(&id, &config_bytes)?)?;
        if diff_ids.len() != entry.layers.len() || diff_ids.len() > self.options.max_layers {
            return Err(members.bad(format!("{} layers for {} diff ids", entry.layers.len(), diff_ids.len())));
        }
        let mut layers = Vec::new();
        let mut staged = Vec::new();
        let mut descriptors = Vec::new();
        for (name, diff_id) in entry.layers.iter().zip(diff_ids) {
            let (blob, size, media_type) = self.layer_blob(&members.file(name)?)?;
            staged.extend(self.stage_layer(&blob, Some(&diff_id))?);
            descriptors.push(Descriptor::new(media_type, &blob, size));
            layers.push(LayerRecord { diff_id, blob });
        }
        self.layout.put_blob(&config_bytes)?;
        let config = Descriptor::new(OCI_CONFIG, &id, config_bytes.len() as u64);
        let tags = entry.repo_tags.iter().flatten();
        let names = tags.map(|tag| tag.parse()).collect::<Result<Vec<Reference>>>()?;
        self.install_new(config, descriptors, layers, staged, names)
    }

    /// Writes an OCI manifest for layers of ours, and installs the image.
    pub(crate) fn install_new(
        &self,
        config: Descriptor,
        descriptors: Vec<Descriptor>,
        layers: Vec<LayerRecord>,
        staged: Vec<crate::content::Staged>,
        names: Vec<Reference>,
    ) -> Result<ImageInfo> {
        let id = config.digest()?;
        let media_type = Some(OCI_MANIFEST.to_owned());
        let manifest = Manifest { schema_version: 2, media_type, config, layers: descriptors };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| ImageError::document("manifest", e))?;
        self.commit_layers(staged)?;
        let digest = self.layout.put_blob(&bytes)?;
        let record = self.make_record(id, digest, OCI_MANIFEST, layers)?;
        let names: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
        self.install(&record, &names)
    }

    /// A layer file as a blob of the store: as it is if compressed, else compressed.
    pub(crate) fn layer_blob(&self, path: &Path) -> Result<(Digest, u64, &'static str)> {
        let open = || File::open(path).map_err(io_error("open", path));
        let media_type = Plain::new(open()?).map_err(io_error("read", path))?.layer_media_type();
        if let Some(media_type) = media_type {
            let (digest, size) = digest_file(path)?;
            // A copy, for the same member may be used twice; a link where the disk can.
            let copy = path.with_extension("blob");
            let _ = fs::remove_file(&copy);
            fs::hard_link(path, &copy).or_else(|_| fs::copy(path, &copy).map(drop)).map_err(io_error("copy", path))?;
            self.adopt_blob(&copy, &digest)?;
            return Ok((digest, size, media_type));
        }
        let temp = self.layout.temp_dir()?;
        let packed = temp.path().join("layer");
        let write = |e| io_error("write", &packed)(e);
        let sink = Hashing::new(File::create_new(&packed).map_err(io_error("create", &packed))?);
        let mut encoder = zstd::Encoder::new(sink, ZSTD_LEVEL).map_err(write)?;
        io::copy(&mut open()?, &mut encoder).map_err(write)?;
        let (_, digest, size) = encoder.finish().map_err(write)?.finish();
        self.adopt_blob(&packed, &digest)?;
        Ok((digest, size, OCI_LAYER_ZSTD))
    }

    fn load_oci(&self, members: &Members, entry: &Descriptor) -> Result<ImageInfo> {
        let mut entry = entry.clone();
        let names = layout_names(&entry)?;
        if entry.is_index() {
            let bytes = members.blob_document(&entry)?;
            let index: Index = serde_json::from_slice(&bytes).map_err(|e| members.bad(format!("index: {e}")))?;
            entry = index.choose(&members.what)?.clone();
        }
        let bytes = members.blob_document(&entry)?;
        let what = format!("manifest {} of {}", entry.digest, members.what);
        let manifest = Manifest::parse(&what, &bytes, self.options.max_layers, self.options.max_blob_bytes)?;
        let config_bytes = members.blob_document(&manifest.config)?;
        let id = manifest.config.digest()?;
        let diff_ids = diff_ids(&id, &parse_config(&id, &config_bytes)?)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(members.bad(format!("{} layers for {} diff ids", manifest.layers.len(), diff_ids.len())));
        }
        let mut layers = Vec::new();
        let mut staged = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let blob = descriptor.digest()?;
            if !layout::exists(&self.layout.blob(&blob))? {
                let path = members.file(&blob_name(descriptor)?)?;
                let (actual, _) = digest_file(&path)?;
                if actual != blob {
                    let what = format!("{}: {}", members.what, blob_name(descriptor)?);
                    return Err(ImageError::DigestMismatch { what, expected: blob, actual });
                }
                self.adopt_blob(&path, &blob)?;
            }
            staged.extend(self.stage_layer(&blob, Some(&diff_id))?);
            layers.push(LayerRecord { diff_id, blob });
        }
        self.layout.put_blob(&config_bytes)?;
        self.commit_layers(staged)?;
        let digest = self.layout.put_blob(&bytes)?;
        let media_type = manifest.media_type.filter(|t| t == DOCKER_MANIFEST).unwrap_or(OCI_MANIFEST.to_owned());
        let record = self.make_record(id, digest, &media_type, layers)?;
        let names: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
        self.install(&record, &names)
    }
}

impl Members {
    fn bad(&self, reason: impl Into<String>) -> ImageError {
        ImageError::archive(&self.what, reason)
    }

    fn find(&self, name: &str) -> Option<&PathBuf> {
        let mut name = key(name);
        // More links in a row than this is a loop.
        for _ in 0..8 {
            match self.files.get(&name)? {
                Member::File(path) => return Some(path),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        self.find(name).cloned().ok_or_else(|| self.bad(format!("{name} is missing")))
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.find(name) {
            Some(path) => layout::read_file(path, DOCUMENT_MAX),
            None => Ok(None),
        }
    }

    /// A document by descriptor, checked against its digest.
    fn blob_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let name = blob_name(descriptor)?;
        let bytes = self.document(&name)?.ok_or_else(|| self.bad(format!("{name} is missing")))?;
        let (expected, actual) = (descriptor.digest()?, Digest::of(&bytes));
        if expected != actual {
            return Err(ImageError::DigestMismatch { what: format!("{}: {name}", self.what), expected, actual });
        }
        Ok(bytes)
    }
}

/// The path of a descriptor's blob in an OCI layout.
fn blob_name(descriptor: &Descriptor) -> Result<String> {
    Ok(format!("blobs/sha256/{}", descriptor.digest()?.hex()))
}

/// A member's name in one form: no leading `./`, `..` resolved.
fn key(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names an entry of index.json gives; a bare tag is no name.
fn layout_names(entry: &Descriptor) -> Result<Vec<Reference>> {
    let Some(annotations) = &entry.annotations else { return Ok(Vec::new()) };
    let full = annotations.get(NAME_ANNOTATION);
    let named = annotations.get(REF_ANNOTATION).filter(|name| name.contains(['/', ':']));
    match full.or(named) {
        Some(name) => Ok(vec![name.parse()?]),
        None => Ok(Vec::new()),
    }
}
