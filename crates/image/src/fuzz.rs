//! Doors for the fuzz targets to what reads images of strangers.

use std::path::Path;

use reqwest::header::HeaderValue;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Index, Manifest};
use crate::reference::Reference;
use crate::store::{ImageStore, Options, diff_ids, parse_config};
use crate::unpack::{Limits, unpack};

/// What a fuzzed layer may grow to, bytes.
pub const LAYER_BYTES: u64 = 8 << 20;
const ENTRIES: u64 = 2000;

/// Unpacks a layer, or the context of a build if `plain`, into an empty folder; says how it went.
///
/// # Panics
/// When the limits were not kept.
pub fn layer(input: &[u8], into: &Path, plain: bool) -> String {
    let limits = Limits { bytes: LAYER_BYTES, entries: ENTRIES, plain };
    match unpack("layer", input, into, limits) {
        Ok(unpacked) => {
            assert!(unpacked.bytes <= LAYER_BYTES && unpacked.tar_bytes <= LAYER_BYTES, "{unpacked:?}");
            "ok".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Loads an archive of images into a store made in that folder; says how it went.
///
/// # Panics
/// When an image that was loaded is not what the store then has.
pub fn archive(input: &[u8], root: &Path) -> String {
    let options = Options { max_layer_bytes: LAYER_BYTES, max_layer_entries: ENTRIES, ..Options::default() };
    let store = match ImageStore::open_with(root, options) {
        Ok(store) => store,
        Err(error) => return error.to_string(),
    };
    match store.load("archive", input) {
        Ok(images) => {
            for image in images {
                let kept = store.get(image.id.as_str()).ok().flatten().expect("what was loaded is there");
                assert_eq!((&kept.id, &kept.manifest_digest), (&image.id, &image.manifest_digest));
                assert_eq!(Digest::of(&store.config_of(&kept).expect("its configuration is there")), kept.id);
            }
            "ok".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Reads a document of a registry as whatever it may be; says what it was.
///
/// # Panics
/// When what was accepted breaks the rules.
pub fn document(input: &[u8]) -> String {
    let manifest = Manifest::parse("manifest", input, 127, 1 << 30);
    if let Ok(manifest) = &manifest {
        assert!(manifest.layers.len() <= 127 && manifest.layers.iter().all(|l| l.size <= 1 << 30));
        assert!(manifest.layers.iter().all(|l| l.digest().is_ok()));
        return "ok, a manifest".to_owned();
    }
    if let Ok(index) = serde_json::from_slice::<Index>(input) {
        return match index.choose("index") {
            Ok(chosen) => format!("ok, an index, {}", chosen.digest().is_ok()),
            Err(error) => error.to_string(),
        };
    }
    let id = Digest::of(input);
    let config = parse_config(&id, input).and_then(|config| diff_ids(&id, &config));
    match (config, manifest) {
        (Ok(_), _) => "ok, a configuration".to_owned(),
        (Err(error), Err(other)) => format!("{error}; {other}").replace(id.hex(), ""),
        (Err(error), Ok(_)) => error.to_string(),
    }
}

/// Reads a name of an image, and the same text as what registries say in headers.
///
/// # Panics
/// When a name is not the same after it was written and read again.
pub fn name(input: &str) -> String {
    if let Ok(value) = HeaderValue::from_str(input) {
        let _ = crate::registry::challenge(&value);
    }
    let _ = crate::download::named(input);
    match input.parse::<Reference>() {
        Ok(reference) => {
            for text in [reference.to_string(), reference.familiar()] {
                let again = text.parse::<Reference>().unwrap_or_else(|error| panic!("{text:?}: {error}"));
                assert_eq!(again, reference, "{text:?}");
            }
            assert!(!reference.path().split('/').any(|part| part.is_empty() || part.starts_with('.')));
            "ok".to_owned()
        }
        Err(ImageError::InvalidReference { reason, .. }) => reason.to_owned(),
        Err(error) => error.to_string(),
    }
}
