//! Signatures of images as cosign makes and keeps them (sigstore's "Cosign Signature Specification"): a payload that names the
//! digest, signed with ECDSA P-256 and SHA-256, as a layer of an image under the tag `sha256-DIGEST.sig` of the same repository.
//!
//! A signature is over a digest. Who verifies a tag has to go on with the digest that was verified, which is why it is answered.

mod envelope;
mod keys;
mod payload;
mod pem;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::reference::Reference;
use crate::registry::{Registry, read_body};
use crate::store::ImageStore;
pub use keys::{KeyError, KeyPair, PublicKey, SigningKey};

/// What a layer of signatures is.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of a payload is, base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// Longest payload, bytes.
const PAYLOAD_MAX: u64 = 64 << 10;
/// Most signatures of one image that are looked at.
const SIGNATURES_MAX: usize = 64;
/// Largest manifest of signatures, bytes.
const MANIFEST_MAX: u64 = 4 << 20;

/// What was signed, or found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The digest of the manifest or index: what the signature is over.
    pub digest: Digest,
    /// The name of the signatures, with their tag.
    pub signatures: String,
    /// The payloads that were signed with a key that was asked for.
    pub payloads: Vec<String>,
}

/// The tag of an image's signatures.
fn tag_of(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// A signature that a registry keeps.
struct Kept {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl ImageStore {
    /// Signs what a name means in its registry, and adds the signature to those that are there. A signature of the same key
    /// that is there already stays the only one.
    ///
    /// # Errors
    /// [`ImageError::ManifestUnknown`], [`ImageError::AccessDenied`], faults of the network.
    pub async fn sign(&self, reference: &str, key: &SigningKey, auth: Option<Auth>) -> Result<Signed> {
        let name: Reference = reference.parse()?;
        let registry = Registry::connect(self, &name, self.credentials(&name, auth).await?, true)?;
        let digest = registry.manifest(name.selector(), self.options.max_manifest_bytes).await?.digest;
        let payload = payload::of(&name, &digest);
        let tag = tag_of(&digest);
        let signatures = format!("{}:{tag}", name.repository());
        let done = Signed { digest: digest.clone(), signatures, payloads: vec![payload.clone()] };
        let mut layers = signed_layers(&registry, &digest).await?;
        for kept in fetch(&registry, &layers).await? {
            if kept.payload == payload.as_bytes() && key.public().verifies(&kept.payload, &kept.signature) {
                return Ok(done);
            }
        }
        if layers.len() >= SIGNATURES_MAX {
            let what = format!("signatures of {digest}");
            return Err(ImageError::TooLarge { what, limit: SIGNATURES_MAX as u64, unit: "signatures" });
        }
        let signature = STANDARD.encode(key.sign(payload.as_bytes()));
        let mut layer = Descriptor::new(PAYLOAD_TYPE, &Digest::of(payload.as_bytes()), payload.len() as u64);
        layer.annotations = Some(BTreeMap::from([(SIGNATURE.to_owned(), signature)]));
        put_blob(&registry, payload.as_bytes()).await?;
        layers.push(layer);
        // An image in every respect, so that every registry takes it; its layers are what they are.
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.digest.as_str()).collect();
        let config = json!({"architecture": "", "os": "", "config": {}, "created": "0001-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string();
        put_blob(&registry, config.as_bytes()).await?;
        let config = Descriptor::new(OCI_CONFIG, &Digest::of(config.as_bytes()), config.len() as u64);
        let manifest = Manifest { schema_version: 2, media_type: Some(OCI_MANIFEST.to_owned()), config, layers };
        let bytes = serde_json::to_vec(&manifest).map_err(|e| ImageError::document("manifest of signatures", e))?;
        registry.put_manifest(&tag, OCI_MANIFEST, &bytes).await?;
        Ok(done)
    }

    /// Checks that what a name means in its registry was signed with one of the keys. Who goes on by the name may meet another
    /// image: the answer's digest is what was verified.
    ///
    /// # Errors
    /// [`ImageError::Unsigned`] when no signature of any of the keys is over it; [`ImageError::ManifestUnknown`], faults of the
    /// network.
    pub async fn verify(&self, reference: &str, keys: &[PublicKey], auth: Option<Auth>) -> Result<Signed> {
        let name: Reference = reference.parse()?;
        let registry = Registry::connect(self, &name, self.credentials(&name, auth).await?, false)?;
        let digest = match name.digest() {
            Some(digest) => digest.clone(),
            None => registry.manifest(name.selector(), self.options.max_manifest_bytes).await?.digest,
        };
        let layers = signed_layers(&registry, &digest).await?;
        let unsigned = |reason: String| ImageError::Unsigned { image: name.familiar(), digest: digest.clone(), reason };
        if layers.is_empty() {
            return Err(unsigned("no signatures found".to_owned()));
        }
        let mut payloads = Vec::new();
        let mut why = "no signature is of a key that was asked for".to_owned();
        for kept in fetch(&registry, &layers).await? {
            if !keys.iter().any(|key| key.verifies(&kept.payload, &kept.signature)) {
                continue;
            }
            match payload::check(&kept.payload, &digest) {
                Ok(text) => payloads.push(text),
                Err(reason) => why = reason,
            }
        }
        if payloads.is_empty() {
            return Err(unsigned(why));
        }
        Ok(Signed {
            digest: digest.clone(),
            signatures: format!("{}:{}", name.repository(), tag_of(&digest)),
            payloads,
        })
    }
}

/// The signatures that a registry says to have; none when there is no such tag.
async fn signed_layers(registry: &Registry, digest: &Digest) -> Result<Vec<Descriptor>> {
    let found = match registry.manifest(&tag_of(digest), MANIFEST_MAX).await {
        Ok(found) => found,
        Err(ImageError::ManifestUnknown(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let what = format!("signatures of {digest}");
    let manifest: Manifest = serde_json::from_slice(&found.bytes).map_err(|e| ImageError::document(what, e))?;
    Ok(manifest.layers.into_iter().take(SIGNATURES_MAX).collect())
}

/// Payloads with their signatures. What is none, or not what it is called, is left out: others may be good.
async fn fetch(registry: &Registry, layers: &[Descriptor]) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for layer in layers.iter().filter(|l| l.media_type == PAYLOAD_TYPE) {
        let text = layer.annotations.as_ref().and_then(|a| a.get(SIGNATURE));
        let Some(signature) = text.and_then(|text| STANDARD.decode(text).ok()) else { continue };
        let Ok(digest) = layer.digest() else { continue };
        let payload = match registry.blob(&digest, 0).await {
            Ok(response) => read_body(response, PAYLOAD_MAX).await?,
            Err(ImageError::Registry { status: 404, .. }) => continue,
            Err(error) => return Err(error),
        };
        if Digest::of(&payload) == digest {
            all.push(Kept { payload, signature });
        }
    }
    Ok(all)
}

async fn put_blob(registry: &Registry, bytes: &[u8]) -> Result<()> {
    let digest = Digest::of(bytes);
    if registry.has_blob(&digest).await? {
        return Ok(());
    }
    let Some(target) = registry.start_upload(&digest).await? else { return Ok(()) };
    registry.upload(target, bytes.len() as u64, || reqwest::Body::from(bytes.to_vec())).await
}
