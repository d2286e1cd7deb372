//! Layers from blob to folder, the part that every way an image comes in shares.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use crate::layout::{self, TempDir};
use crate::store::{ImageRecord, ImageStore, LayerRecord};
use crate::unpack::{Limits, unpack};

/// `layers/<hex>/meta.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Bytes of its plain tar.
    pub(crate) tar_bytes: u64,
}

/// A layer unpacked in tmp/, not yet in place.
pub(crate) struct Staged {
    pub(crate) diff_id: Digest,
    temp: TempDir,
}

impl ImageStore {
    pub(crate) fn layer_meta(&self, diff_id: &Digest) -> Result<Option<LayerMeta>> {
        layout::read_json(&self.layout.layer(diff_id).join("meta.json"))
    }

    /// Unpacks a blob of the store in tmp/. `None` when the layer is in place already.
    pub(crate) fn stage_layer(&self, blob: &Digest, diff_id: Option<&Digest>) -> Result<Option<Staged>> {
        if let Some(diff_id) = diff_id
            && self.layer_meta(diff_id)?.is_some()
        {
            return Ok(None);
        }
        let path = self.layout.blob(blob);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::MissingContent { what: "layer", digest: blob.clone() });
            }
            Err(e) => return Err(io_error("open", &path)(e)),
        };
        let temp = self.layout.temp_dir()?;
        let fs_dir = temp.path().join("fs");
        fs::create_dir(&fs_dir).map_err(io_error("create", &fs_dir))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&fs_dir, mode).map_err(io_error("change the mode of", &fs_dir))?;
        let limits =
            Limits { bytes: self.options.max_layer_bytes, entries: self.options.max_layer_entries, plain: false };
        let what = format!("layer {blob}");
        let unpacked = unpack(&what, file, &fs_dir, limits)?;
        if let Some(expected) = diff_id.filter(|d| **d != unpacked.diff_id) {
            let (expected, actual) = (expected.clone(), unpacked.diff_id);
            return Err(ImageError::DigestMismatch { what: format!("{what}, unpacked"), expected, actual });
        }
        let meta = LayerMeta { bytes: unpacked.bytes, tar_bytes: unpacked.tar_bytes };
        self.layout.write_json(&temp.path().join("meta.json"), &meta)?;
        Ok(Some(Staged { diff_id: unpacked.diff_id, temp }))
    }

    /// Puts unpacked layers in place, once they are on disk.
    pub(crate) fn commit_layers(&self, staged: Vec<Staged>) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        self.layout.sync()?;
        for layer in staged {
            let target = self.layout.layer(&layer.diff_id);
            match fs::rename(layer.temp.path(), &target) {
                Ok(()) => {}
                // Somebody else unpacked the same layer meanwhile, and theirs is as good.
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(io_error("rename to", &target)(e)),
            }
        }
        layout::sync_parent(&self.layout.layer(&Digest::of(b"")))
    }

    /// The image record; its layers must be in place.
    pub(crate) fn make_record(
        &self,
        id: Digest,
        manifest: Digest,
        media_type: &str,
        layers: Vec<LayerRecord>,
    ) -> Result<ImageRecord> {
        let mut size_bytes = 0;
        for layer in &layers {
            let missing = || ImageError::MissingContent { what: "layer", digest: layer.diff_id.clone() };
            size_bytes += self.layer_meta(&layer.diff_id)?.ok_or_else(missing)?.bytes;
        }
        Ok(ImageRecord { id, manifest, media_type: media_type.to_owned(), layers, size_bytes })
    }

    /// Moves a finished file into the blobs; its digest must have been checked. The file must be on the same disk.
    pub(crate) fn adopt_blob(&self, file: &Path, digest: &Digest) -> Result<()> {
        let target = self.layout.blob(digest);
        File::open(file).and_then(|f| f.sync_all()).map_err(io_error("sync", file))?;
        fs::rename(file, &target).map_err(io_error("rename to", &target))?;
        layout::sync_parent(&target)
    }
}

/// Digest and length of a file.
pub(crate) fn digest_file(path: &Path) -> Result<(Digest, u64)> {
    let mut file = Hashing::new(File::open(path).map_err(io_error("open", path))?);
    std::io::copy(&mut file, &mut std::io::sink()).map_err(io_error("read", path))?;
    let (_, digest, len) = file.finish();
    Ok((digest, len))
}
