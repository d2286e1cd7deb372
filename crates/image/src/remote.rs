//! What a registry is asked without anything being fetched: whether it knows somebody, what a name means there, what it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{Descriptor, Index, Manifest, Platform, is_index};
use crate::reference::{DEFAULT_REGISTRY, Reference, leading_registry};
use crate::registry::{Registry, failure, network, read_body};
use crate::store::{ImageStore, parse_config};

/// Where Docker Hub is searched; its registry has no search.
const HUB_INDEX: &str = "index.docker.io";
/// Largest answer to a search, bytes.
const SEARCH_BODY_MAX: u64 = 4 << 20;

/// What a name means in its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// Platforms as the OCI image spec writes them (image-index.md): `architecture`, `os`, `variant`.
    pub platforms: Vec<Value>,
}

/// A repository that fits a search.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Kept by Docker.
    pub is_official: bool,
    /// Built by Docker; no longer said of any.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct SearchAnswer {
    #[serde(default)]
    results: Option<Vec<BTreeMap<String, Value>>>,
}

impl ImageStore {
    /// Whether a registry (`host`, `host:port`, `docker.io`) takes these credentials.
    ///
    /// # Errors
    /// [`ImageError::Unauthorized`] or [`ImageError::AccessDenied`] when it does not, faults of the network.
    pub async fn login(&self, registry: &str, auth: Auth) -> Result<()> {
        let reference = Reference::of_registry(registry)?;
        Registry::connect(self, &reference, Some(auth), false)?.login().await
    }

    /// What a name means in its registry.
    ///
    /// # Errors
    /// [`ImageError::ManifestUnknown`], [`ImageError::AccessDenied`], limits and faults of the network.
    pub async fn remote(&self, reference: &str, auth: Option<Auth>) -> Result<RemoteImage> {
        let name: Reference = reference.parse()?;
        let registry = Registry::connect(self, &name, self.credentials(&name, auth).await?, false)?;
        let fetched = registry.manifest(name.selector(), self.options.max_manifest_bytes).await?;
        let what = format!("manifest of {}", name.familiar());
        let platforms: Vec<Platform> = if is_index(&fetched.media_type) {
            let index: Index = serde_json::from_slice(&fetched.bytes).map_err(|e| ImageError::document(&*what, e))?;
            index.manifests.into_iter().filter_map(|m| m.platform).collect()
        } else {
            let limits = (self.options.max_layers, self.options.max_blob_bytes);
            let manifest = Manifest::parse(&what, &fetched.bytes, limits.0, limits.1)?;
            vec![self.platform_of(&registry, &manifest.config).await?]
        };
        let platforms = platforms.iter().map(serde_json::to_value).collect::<Result<_, _>>();
        Ok(RemoteImage {
            digest: fetched.digest,
            media_type: fetched.media_type,
            size: fetched.bytes.len() as u64,
            platforms: platforms.map_err(|e| ImageError::document(&*what, e))?,
        })
    }

    /// A manifest of one image does not say what it runs on: its configuration does.
    async fn platform_of(&self, registry: &Registry, config: &Descriptor) -> Result<Platform> {
        let id = config.digest()?;
        let bytes = read_body(registry.blob(&id, 0).await?, self.options.max_config_bytes).await?;
        let actual = Digest::of(&bytes);
        if actual != id {
            let what = format!("image configuration {id}");
            return Err(ImageError::DigestMismatch { what, expected: id, actual });
        }
        let config = parse_config(&id, &bytes)?;
        let (architecture, os) = (config.architecture().to_string(), config.os().to_string());
        Ok(Platform { architecture, os, variant: config.variant().clone() })
    }

    /// Repositories that fit a term, at most `limit`: of Docker Hub, or of the registry that stands before the term, if that
    /// has a search (Docker's index API, `/v1/search`).
    ///
    /// # Errors
    /// [`ImageError::Registry`] where there is no search, faults of the network.
    pub async fn search(&self, term: &str, limit: usize, auth: Option<Auth>) -> Result<Vec<Found>> {
        let (registry, rest) = leading_registry(term).unwrap_or((DEFAULT_REGISTRY, term));
        let reference = Reference::of_registry(registry)?;
        let plain = reference.is_loopback() || self.options.insecure_registries.contains(reference.registry());
        let host = if reference.registry() == DEFAULT_REGISTRY { HUB_INDEX } else { reference.registry() };
        let url = format!("{}://{host}/v1/search", if plain { "http" } else { "https" });
        let bad = |message: String| ImageError::Network { url: url.clone(), message };
        let client = self.http.client_for(reference.host()).map_err(bad)?;
        let request = client.get(&url).query(&[("q", rest), ("n", &limit.to_string())]);
        let request = match auth {
            Some(Auth::Basic { username, password }) => request.basic_auth(username, Some(password)),
            Some(Auth::Bearer(token)) => request.bearer_auth(token),
            Some(Auth::IdentityToken(_)) => {
                let message = "a search takes a user and a password, not an identity token".to_owned();
                return Err(ImageError::Credentials { registry: registry.to_owned(), message });
            }
            None => request,
        };
        let response = request.send().await.map_err(network)?;
        if !response.status().is_success() {
            return Err(failure(response).await);
        }
        let bytes = read_body(response, SEARCH_BODY_MAX).await?;
        let bad = |e: serde_json::Error| ImageError::document(format!("search at {host}"), e);
        let answer: SearchAnswer = serde_json::from_slice(&bytes).map_err(bad)?;
        let said = answer.results.unwrap_or_default().into_iter().take(limit);
        // A null is what was left out.
        said.map(|row| serde_json::from_value(row.into_iter().filter(|(_, v)| !v.is_null()).collect()).map_err(bad))
            .collect()
    }
}
