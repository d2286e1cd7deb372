//! Images that are made here: layers from folders, configurations from who builds.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::compress::Plain;
use crate::diff::{Source, write_layer};
use crate::digest::{Digest, Hashing};
use crate::error::{ImageError, Result, io_error};
use crate::layout::ContentHold;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::reference::Reference;
use crate::store::{ImageInfo, ImageStore, LayerRecord, parse_config};
use crate::unpack::{Limits, unpack};

const ZSTD_LEVEL: i32 = 3;

/// A layer of the store, with what a manifest says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltLayer {
    /// Digest of its plain tar.
    pub diff_id: Digest,
    /// Digest of its blob.
    pub blob: Digest,
    /// How the blob is compressed.
    pub media_type: String,
    /// Bytes of the blob.
    pub size: u64,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// What every registry and runtime takes.
    #[default]
    Gzip,
    /// Faster and smaller.
    Zstd,
}

/// Where a layer comes from.
#[derive(Debug, Clone, Copy)]
pub struct LayerSource<'a> {
    /// What was written: the upper folder of an overlay that is not mounted any more.
    pub upper: &'a Path,
    /// What it was written over, topmost first.
    pub lower: &'a [PathBuf],
    /// No time in the layer is later, seconds since the epoch.
    pub latest: Option<i64>,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Files left out, named from the root: what a runtime made to mount on.
    pub skip: &'a [PathBuf],
}

/// While it is held nothing is removed from the store.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code, reason = "the open file is the lock")] ContentHold);

impl ImageStore {
    /// Keeps the store from removing content until the answer is dropped. Blocks while somebody removes some.
    ///
    /// # Errors
    /// When the lock cannot be taken.
    pub fn hold(&self) -> Result<Hold> {
        self.layout.hold_content().map(Hold)
    }

    /// The folder of an unpacked layer, to be mounted and never to be written to.
    pub fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.layout.layer_fs(diff_id)
    }

    /// The configuration document of an image, byte for byte: Docker's has more than OCI's.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn config_of(&self, image: &ImageInfo) -> Result<Vec<u8>> {
        self.layout.read_blob(&image.id, self.options.max_config_bytes)
    }

    /// The layers of an image, lowest first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or when its manifest cannot be read.
    pub fn layers_of(&self, image: &ImageInfo) -> Result<Vec<BuiltLayer>> {
        let record = self.record(&image.id)?.ok_or_else(|| ImageError::NotFound(image.id.to_string()))?;
        let bytes = self.layout.read_blob(&record.manifest, self.options.max_manifest_bytes)?;
        let what = format!("manifest {}", record.manifest);
        let manifest = Manifest::parse(&what, &bytes, self.options.max_layers, self.options.max_blob_bytes)?;
        let layers = record.layers.into_iter().zip(manifest.layers).map(|(layer, descriptor)| BuiltLayer {
            diff_id: layer.diff_id,
            blob: layer.blob,
            media_type: descriptor.media_type,
            size: descriptor.size,
        });
        Ok(layers.collect())
    }

    /// Makes a layer of what was written over a file system; `None` when nothing was.
    ///
    /// # Errors
    /// Faults of the disk, limits.
    pub fn add_layer(&self, source: &LayerSource<'_>) -> Result<Option<BuiltLayer>> {
        let _hold = self.layout.hold_content()?;
        let temp = self.layout.temp_dir()?;
        let packed = temp.path().join("layer");
        let fail = |e| io_error("write", &packed)(e);
        let sink = Hashing::new(File::create_new(&packed).map_err(fail)?);
        let from = Source { upper: source.upper, lower: source.lower, latest: source.latest, skip: source.skip };
        let (diff_id, entries, sink, media_type) = match source.compression {
            Compression::Gzip => {
                let encoder = GzEncoder::new(sink, flate2::Compression::default());
                let (plain, entries) = write_layer(&from, Hashing::new(encoder))?;
                let (encoder, diff_id, _) = plain.finish();
                (diff_id, entries, encoder.finish().map_err(fail)?, OCI_LAYER_GZIP)
            }
            Compression::Zstd => {
                let encoder = zstd::Encoder::new(sink, ZSTD_LEVEL).map_err(fail)?;
                let (plain, entries) = write_layer(&from, Hashing::new(encoder))?;
                let (encoder, diff_id, _) = plain.finish();
                (diff_id, entries, encoder.finish().map_err(fail)?, OCI_LAYER_ZSTD)
            }
        };
        if entries == 0 {
            return Ok(None);
        }
        let (mut file, blob, size) = sink.finish();
        file.flush().map_err(fail)?;
        self.adopt_blob(&packed, &blob)?;
        // Unpacked again, not moved: what is kept is what everybody else will see.
        let staged = self.stage_layer(&blob, Some(&diff_id))?;
        self.commit_layers(staged.into_iter().collect())?;
        Ok(Some(BuiltLayer { diff_id, blob, media_type: media_type.to_owned(), size }))
    }

    /// Makes an image of layers of the store and a configuration (OCI image spec, config.md), and gives it its names.
    ///
    /// # Errors
    /// An invalid name or configuration, [`ImageError::MissingContent`], [`ImageError::TooLarge`], faults of the disk.
    pub fn install_built(&self, config: &[u8], layers: &[BuiltLayer], names: &[Reference]) -> Result<ImageInfo> {
        if let Some(name) = names.iter().find(|n| n.digest().is_some()) {
            let reason = "a name to give cannot hold a digest";
            return Err(ImageError::InvalidReference { reference: name.to_string(), reason });
        }
        if layers.len() > self.options.max_layers {
            let limit = self.options.max_layers as u64;
            return Err(ImageError::TooLarge { what: "the image".to_owned(), limit, unit: "layers" });
        }
        let _hold = self.layout.hold_content()?;
        let id = Digest::of(config);
        let parsed = parse_config(&id, config)?;
        let said = parsed.rootfs().diff_ids().iter().map(String::as_str);
        if !said.eq(layers.iter().map(|l| l.diff_id.as_str())) {
            let reason = "its diff ids are not those of the layers";
            return Err(ImageError::document(format!("image configuration {id}"), reason));
        }
        self.layout.put_blob(config)?;
        let descriptors = layers.iter().map(|l| Descriptor::new(&l.media_type, &l.blob, l.size)).collect();
        let records = layers.iter().map(|l| LayerRecord { diff_id: l.diff_id.clone(), blob: l.blob.clone() }).collect();
        let config = Descriptor::new(OCI_CONFIG, &id, config.len() as u64);
        self.install_new(config, descriptors, records, Vec::new(), names.to_vec())
    }

    /// Writes everything in a folder as a plain archive, names in order.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn pack<W: Write>(&self, folder: &Path, latest: Option<i64>, out: W) -> Result<W> {
        write_layer(&Source { upper: folder, lower: &[], latest, skip: &[] }, out).map(|(out, _)| out)
    }

    /// Takes an archive (plain, gzip or zstd) apart into an existing folder; nothing it names leads out of there.
    /// `what` names it in errors. It may hold `max_bytes` at most, and never more than a layer.
    ///
    /// # Errors
    /// [`ImageError::BadArchive`], limits, faults of the disk.
    pub fn extract(&self, what: &str, source: impl Read, into: &Path, max_bytes: u64) -> Result<()> {
        let (bytes, entries) = (self.options.max_layer_bytes.min(max_bytes), self.options.max_layer_entries);
        unpack(what, source, into, Limits { bytes, entries, plain: true }).map(drop)
    }

    /// Whether all of these are in place.
    pub(crate) fn have_layers(&self, layers: &[BuiltLayer]) -> bool {
        layers.iter().all(|l| {
            fs::metadata(self.layout.layer_fs(&l.diff_id)).is_ok() && fs::metadata(self.layout.blob(&l.blob)).is_ok()
        })
    }
}

/// Whether a stream is a tar archive, plain, gzip or zstd, by its first block.
pub fn is_archive(source: impl Read) -> bool {
    let Ok(mut plain) = Plain::new(source) else { return false };
    let mut block = [0u8; 512];
    if plain.read_exact(&mut block).is_err() {
        return false;
    }
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&block);
    let sum: u32 =
        block.iter().enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum();
    header.cksum().is_ok_and(|said| said == sum) && block[0] != 0
}
