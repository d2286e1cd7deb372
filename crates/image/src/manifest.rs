//! Manifests and indexes, Docker's and OCI's, as far as a runtime needs them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, Result};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.";
const OCI_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";

/// What a pull accepts, best first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// Text: an index may list content under algorithms we do not take, as long as we do not choose it.
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: &Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Descriptor { media_type, digest: digest.to_string(), size, platform: None, annotations: None }
    }

    pub(crate) fn digest(&self) -> Result<Digest> {
        self.digest.parse()
    }

    pub(crate) fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

impl Manifest {
    /// Parses and checks what can be checked before anything is fetched.
    pub(crate) fn parse(what: &str, bytes: &[u8], max_layers: usize, max_blob: u64) -> Result<Self> {
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| ImageError::document(what, e))?;
        if manifest.schema_version != 2 {
            return Err(ImageError::document(what, format!("schema version {} is not 2", manifest.schema_version)));
        }
        let unsupported = |media_type: &str| ImageError::UnsupportedMediaType {
            what: what.to_owned(),
            media_type: media_type.chars().take(160).collect(),
        };
        if !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
            return Err(unsupported(&manifest.config.media_type));
        }
        if manifest.layers.len() > max_layers {
            return Err(ImageError::TooLarge { what: what.to_owned(), limit: max_layers as u64, unit: "layers" });
        }
        for layer in &manifest.layers {
            let media_type = layer.media_type.as_str();
            if ![OCI_LAYER, OCI_NONDISTRIBUTABLE, DOCKER_LAYER].iter().any(|known| media_type.starts_with(known)) {
                return Err(unsupported(media_type));
            }
            if layer.size > max_blob {
                let what = format!("layer {}", layer.digest);
                return Err(ImageError::TooLarge { what, limit: max_blob, unit: "bytes" });
            }
            layer.digest()?;
        }
        manifest.config.digest()?;
        Ok(manifest)
    }
}

/// `amd64`, `arm64`, … as Go names architectures.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

impl Index {
    /// The entry for this host.
    pub(crate) fn choose(&self, reference: &str) -> Result<&Descriptor> {
        let arch = host_architecture();
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == arch);
        // The plain variant runs on every machine of the architecture; for arm64 that is v8.
        let plain = |d: &&Descriptor| {
            d.platform
                .as_ref()
                .and_then(|p| p.variant.as_deref())
                .is_none_or(|v| v.is_empty() || v == "v8" || v == "v1")
        };
        let found = self.manifests.iter().filter(fits).find(plain);
        // What has no platform and no company can only be meant for everyone.
        let only = || self.manifests.first().filter(|d| self.manifests.len() == 1 && d.platform.is_none());
        found.or_else(only).ok_or_else(|| {
            let names = self.manifests.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
            let names: Vec<String> = names.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
            ImageError::NoPlatform {
                reference: reference.to_owned(),
                platform: format!("linux/{arch}"),
                available: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            }
        })
    }
}
