//! A file system tar becomes an image of one layer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use oci_spec::image::{ConfigBuilder, HistoryBuilder, ImageConfigurationBuilder, RootFsBuilder};

use crate::built::BuiltLayer;
use crate::digest::Digest;
use crate::error::{ImageError, Result, io_error};
use crate::manifest::{Descriptor, OCI_CONFIG, host_architecture};
use crate::reference::Reference;
use crate::store::{ImageInfo, ImageStore, LayerRecord};

/// What an imported file system runs as; empty fields are left out of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments when none are given.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// `80/tcp`, `53/udp`.
    pub exposed_ports: Vec<String>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Signal that ends it, e.g. `SIGINT`.
    pub stop_signal: Option<String>,
    /// When it was made, RFC 3339. Left out by default, so that the same tar and settings give the same image.
    pub created: Option<String>,
}

impl ImageStore {
    /// Makes an image of a root file system tar (plain, gzip or zstd) and gives it a name.
    ///
    /// # Errors
    /// An invalid name, [`ImageError::BadArchive`], limits, faults of the disk.
    pub fn import_rootfs(&self, tar: &Path, reference: &str, config: &ImportConfig) -> Result<ImageInfo> {
        let name: Reference = reference.parse()?;
        if name.digest().is_some() {
            let reason = "a name to give cannot hold a digest";
            return Err(ImageError::InvalidReference { reference: reference.to_owned(), reason });
        }
        let _hold = self.layout.hold_content()?;
        // A copy of ours: what is hashed is what is kept, even when the file changes meanwhile.
        let temp = self.layout.temp_dir()?;
        let copy = temp.path().join("rootfs");
        let mut from = File::open(tar).map_err(io_error("open", tar))?;
        let size = from.metadata().map_err(io_error("look up", tar))?.len();
        if size > self.options.max_layer_bytes {
            let limit = self.options.max_layer_bytes;
            return Err(ImageError::TooLarge { what: tar.display().to_string(), limit, unit: "bytes" });
        }
        let mut to = fs::File::create_new(&copy).map_err(io_error("create", &copy))?;
        io::copy(&mut from, &mut to).map_err(io_error("copy", tar))?;
        drop(to);

        let (blob, size, media_type) = self.layer_blob(&copy)?;
        drop(temp);
        let known = self.layers_of_blobs()?.remove(&blob);
        let staged = self.stage_layer(&blob, known.as_ref()).map_err(|e| rename_layer(e, &blob, tar))?;
        let diff_id = match (&staged, known) {
            (Some(staged), _) => staged.diff_id.clone(),
            (None, Some(known)) => known,
            (None, None) => return Err(ImageError::MissingContent { what: "layer", digest: blob }),
        };
        let document = configuration(config, &diff_id)?;
        let id = self.layout.put_blob(&document)?;
        let layers = vec![LayerRecord { diff_id, blob: blob.clone() }];
        let layer = Descriptor::new(media_type, &blob, size);
        let config = Descriptor::new(OCI_CONFIG, &id, document.len() as u64);
        self.install_new(config, vec![layer], layers, staged.into_iter().collect(), vec![name])
    }

    /// Makes a layer of an archive of files (plain, gzip or zstd), whole before it is looked at. `what` names it in errors.
    ///
    /// # Errors
    /// [`ImageError::BadArchive`], limits, faults of the disk.
    pub fn add_archive(&self, what: &str, source: impl Read) -> Result<BuiltLayer> {
        let _hold = self.layout.hold_content()?;
        let temp = self.layout.temp_dir()?;
        let copy = temp.path().join("rootfs");
        let limit = self.options.max_layer_bytes;
        let mut to = fs::File::create_new(&copy).map_err(io_error("create", &copy))?;
        let broken = |e: io::Error| ImageError::archive(what, e.to_string());
        let mut limited = source.take(limit.saturating_add(1));
        let mut buffer = vec![0; 256 << 10];
        let mut taken = 0u64;
        loop {
            let n = limited.read(&mut buffer).map_err(broken)?;
            if n == 0 {
                break;
            }
            taken += n as u64;
            if taken > limit {
                return Err(ImageError::TooLarge { what: what.to_owned(), limit, unit: "bytes" });
            }
            to.write_all(&buffer[..n]).map_err(io_error("write", &copy))?;
        }
        drop(to);
        let (blob, size, media_type) = self.layer_blob(&copy)?;
        drop(temp);
        let known = self.layers_of_blobs()?.remove(&blob);
        let staged = self.stage_layer(&blob, known.as_ref()).map_err(|e| rename_layer(e, &blob, Path::new(what)))?;
        let diff_id = match (&staged, known) {
            (Some(staged), _) => staged.diff_id.clone(),
            (None, Some(known)) => known,
            (None, None) => return Err(ImageError::MissingContent { what: "layer", digest: blob }),
        };
        self.commit_layers(staged.into_iter().collect())?;
        Ok(BuiltLayer { diff_id, blob, media_type: media_type.to_owned(), size })
    }

    /// Which blob is which unpacked layer, as far as images say.
    fn layers_of_blobs(&self) -> Result<HashMap<Digest, Digest>> {
        let mut known = HashMap::new();
        for id in self.image_ids()? {
            let layers = self.record(&id)?.map(|record| record.layers).unwrap_or_default();
            known.extend(layers.into_iter().map(|layer| (layer.blob, layer.diff_id)));
        }
        Ok(known)
    }
}

/// The user knows the file, not the blob.
fn rename_layer(error: ImageError, blob: &Digest, tar: &Path) -> ImageError {
    match error {
        ImageError::BadArchive { what, reason } => {
            let what = what.replace(&format!("layer {blob}"), &tar.display().to_string());
            ImageError::BadArchive { what, reason }
        }
        other => other,
    }
}

fn configuration(config: &ImportConfig, diff_id: &Digest) -> Result<Vec<u8>> {
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut run = ConfigBuilder::default();
    if let Some(entrypoint) = some(&config.entrypoint) {
        run = run.entrypoint(entrypoint);
    }
    if let Some(cmd) = some(&config.cmd) {
        run = run.cmd(cmd);
    }
    if let Some(env) = some(&config.env) {
        run = run.env(env);
    }
    if let Some(ports) = some(&config.exposed_ports) {
        run = run.exposed_ports(ports);
    }
    if let Some(user) = &config.user {
        run = run.user(user.clone());
    }
    if let Some(workdir) = &config.workdir {
        run = run.working_dir(workdir.clone());
    }
    if let Some(signal) = &config.stop_signal {
        run = run.stop_signal(signal.clone());
    }
    if !config.labels.is_empty() {
        run = run.labels(config.labels.iter().cloned().collect::<HashMap<_, _>>());
    }
    let invalid = |e: oci_spec::OciSpecError| ImageError::document("image configuration", e);
    let run = run.build().map_err(invalid)?;
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id.to_string()]).build().map_err(invalid)?;
    let mut step = HistoryBuilder::default().created_by("windlass image import");
    let mut image = ImageConfigurationBuilder::default().os("linux").architecture(host_architecture()).config(run);
    if let Some(created) = &config.created {
        step = step.created(created.clone());
        image = image.created(created.clone());
    }
    let history = vec![step.build().map_err(invalid)?];
    let image = image.rootfs(rootfs).history(history).build().map_err(invalid)?;
    // Through a value: its maps are sorted, so that the same settings give the same digest.
    let value = serde_json::to_value(&image).map_err(|e| ImageError::document("image configuration", e))?;
    serde_json::to_vec(&value).map_err(|e| ImageError::document("image configuration", e))
}
