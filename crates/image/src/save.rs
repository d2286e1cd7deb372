//! Archives out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::compress::Plain;
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use crate::load::{NAME_ANNOTATION, REF_ANNOTATION};
use crate::manifest::{Descriptor, Index, OCI_INDEX};
use crate::reference::Reference;
use crate::store::{ImageRecord, ImageStore};

/// What an archive looks like inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveFormat {
    /// `manifest.json` and plain layers, as `docker save` writes it.
    #[default]
    Docker,
    /// OCI image layout, blobs and digests as they are in a registry.
    Oci,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// An image to be saved and the names asked for.
struct Chosen {
    record: ImageRecord,
    names: Vec<Reference>,
}

impl ImageStore {
    /// Saves images into one archive file, which appears whole or not at all.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::MissingContent`], and faults of the disk.
    pub fn save(&self, references: &[&str], path: &Path, format: ArchiveFormat) -> Result<()> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let temp = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = File::create(&temp).map_err(io_error("create", &temp))?;
        let written = self.save_to(references, io::BufWriter::with_capacity(1 << 20, file), format).and_then(|out| {
            let file = out.into_inner().map_err(|e| io_error("write", &temp)(e.into_error()))?;
            file.sync_all().map_err(io_error("sync", &temp))
        });
        let result = written.and_then(|()| fs::rename(&temp, path).map_err(io_error("rename to", path)));
        if result.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temp);
        }
        result
    }

    /// The same into a stream, which is given back.
    ///
    /// # Errors
    /// As [`ImageStore::save`].
    pub fn save_to<W: Write>(&self, references: &[&str], out: W, format: ArchiveFormat) -> Result<W> {
        let _hold = self.layout.hold_content()?;
        let chosen = self.choose(references)?;
        let mut tar = Archive { tar: tar::Builder::new(out), done: BTreeSet::new() };
        match format {
            ArchiveFormat::Docker => self.save_docker(&chosen, &mut tar)?,
            ArchiveFormat::Oci => self.save_oci(&chosen, &mut tar)?,
        }
        tar.tar.into_inner().map_err(io_error("write", Path::new("archive")))
    }

    fn choose(&self, references: &[&str]) -> Result<Vec<Chosen>> {
        let refs = self.refs()?;
        let mut chosen: BTreeMap<Digest, Chosen> = BTreeMap::new();
        for text in references {
            let not_found = || ImageError::NotFound((*text).to_owned());
            let id = self.resolve(text, &refs)?.ok_or_else(not_found)?;
            let record = self.record(&id)?.ok_or_else(not_found)?;
            let entry = chosen.entry(id).or_insert(Chosen { record, names: Vec::new() });
            // Asked for by id, an image is saved without names, as Docker does.
            if let Ok(name) = text.parse::<Reference>()
                && name.tag().is_some()
                && refs.contains_key(&name.to_string())
                && !entry.names.contains(&name)
            {
                entry.names.push(name);
            }
        }
        Ok(chosen.into_values().collect())
    }

    fn save_oci<W: Write>(&self, chosen: &[Chosen], tar: &mut Archive<W>) -> Result<()> {
        let mut manifests = Vec::new();
        for Chosen { record, names } in chosen {
            let layers = record.layers.iter().map(|l| &l.blob);
            for digest in layers.chain([&record.id, &record.manifest]) {
                self.save_blob(digest, tar)?;
            }
            let size = self.layout.read_blob(&record.manifest, self.options.max_manifest_bytes)?.len() as u64;
            let descriptor = Descriptor::new(&record.media_type, &record.manifest, size);
            let named = |name: &Reference| {
                let pairs = [
                    (NAME_ANNOTATION.to_owned(), name.to_string()),
                    (REF_ANNOTATION.to_owned(), name.tag().unwrap_or_default().to_owned()),
                ];
                Descriptor { annotations: Some(pairs.into()), ..descriptor.clone() }
            };
            match names.as_slice() {
                [] => manifests.push(descriptor),
                names => manifests.extend(names.iter().map(named)),
            }
        }
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
        tar.json("index.json", &index)?;
        tar.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    fn save_blob<W: Write>(&self, digest: &Digest, tar: &mut Archive<W>) -> Result<()> {
        let path = self.layout.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::MissingContent { what: "blob", digest: digest.clone() });
            }
            Err(e) => return Err(io_error("open", &path)(e)),
        };
        let size = file.metadata().map_err(io_error("look up", &path))?.len();
        tar.stream(&format!("blobs/sha256/{}", digest.hex()), size, file, digest)
    }

    fn save_docker<W: Write>(&self, chosen: &[Chosen], tar: &mut Archive<W>) -> Result<()> {
        let mut entries = Vec::new();
        for Chosen { record, names } in chosen {
            let config = self.layout.read_blob(&record.id, self.options.max_config_bytes)?;
            let config_name = format!("{}.json", record.id.hex());
            tar.bytes(&config_name, &config)?;
            let mut layers = Vec::new();
            for layer in &record.layers {
                let missing = |what| ImageError::MissingContent { what, digest: layer.diff_id.clone() };
                let meta = self.layer_meta(&layer.diff_id)?.ok_or_else(|| missing("layer"))?;
                let path = self.layout.blob(&layer.blob);
                let file = File::open(&path).map_err(|_| missing("layer"))?;
                let plain = Plain::new(file).map_err(io_error("read", &path))?;
                let name = format!("{}/layer.tar", layer.diff_id.hex());
                tar.stream(&name, meta.tar_bytes, plain, &layer.diff_id)?;
                layers.push(name);
            }
            let repo_tags = names.iter().map(Reference::familiar).collect();
            entries.push(DockerEntry { config: config_name, repo_tags, layers });
        }
        tar.json("manifest.json", &entries)
    }
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    done: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn header(size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let mut header = Self::header(bytes.len() as u64);
        self.tar.append_data(&mut header, name, bytes).map_err(io_error("write", Path::new(name)))
    }

    fn json<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|e| ImageError::document(name, e))?;
        self.bytes(name, &bytes)
    }

    /// Copies content of a known size and checks on the way that it is what it must be.
    fn stream(&mut self, name: &str, size: u64, source: impl Read, expected: &Digest) -> Result<()> {
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let mut source = Hashing::new(source);
        let mut header = Self::header(size);
        let sized = source.by_ref().take(size);
        self.tar.append_data(&mut header, name, sized).map_err(io_error("write", Path::new(name)))?;
        let (_, actual, _) = source.finish();
        if actual != *expected {
            return Err(ImageError::DigestMismatch { what: name.to_owned(), expected: expected.clone(), actual });
        }
        Ok(())
    }
}
