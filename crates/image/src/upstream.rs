//! A registry that another one stands in for: what a pull-through cache asks it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::LINK;
use serde::Deserialize;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::registry::{Fetched, Http, Registry, network, read_body};

/// Repositories whose tokens are kept; then all are asked for anew.
const REPOSITORIES: usize = 1024;
/// Pages of a list that are read.
const PAGES: usize = 64;
/// Longest list of referrers or page of one of tags, bytes.
const LIST_MAX: u64 = 4 << 20;

/// A registry at an address. Tokens are kept by repository.
pub struct Upstream {
    base: Url,
    host: String,
    client: reqwest::Client,
    auth: Option<Auth>,
    open: Mutex<HashMap<String, Arc<Registry>>>,
}

/// A manifest or index, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamManifest {
    /// Of its bytes, and what was asked for if that was a digest.
    pub digest: Digest,
    /// As the answer's header says it.
    pub media_type: String,
    /// The document.
    pub bytes: Vec<u8>,
}

/// A blob that comes.
pub struct UpstreamBlob {
    response: reqwest::Response,
    /// Where in the blob its first byte is: it may be 0 although a later one was asked for.
    pub offset: u64,
    /// Bytes of the whole blob, if they were announced.
    pub size: Option<u64>,
}

impl Upstream {
    /// A registry at `https://HOST[:PORT]`; plain `http` for one on loopback only.
    ///
    /// # Errors
    /// [`ImageError::Network`] for an address that is none, or when TLS cannot be set up.
    pub fn new(url: &str, auth: Option<Auth>) -> Result<Self> {
        let bad = |message: &str| ImageError::Network { url: url.to_owned(), message: message.to_owned() };
        let parsed = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        let host = parsed.host_str().ok_or_else(|| bad("an address has a host"))?;
        let host = match parsed.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        if !matches!(parsed.path(), "" | "/" | "/v2" | "/v2/")
            || parsed.query().is_some()
            || !parsed.username().is_empty()
        {
            return Err(bad("it is https://HOST[:PORT], without a path, a user or a query"));
        }
        let loopback = Reference::of_registry(&host)?.is_loopback();
        match parsed.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => return Err(bad("plain http is for registries on loopback")),
            _ => return Err(bad("it is https://HOST[:PORT]")),
        }
        let base = parsed.join("/v2/").map_err(|e| bad(&e.to_string()))?;
        let client = Http::default().client(loopback).map_err(|e| bad(&e))?;
        Ok(Upstream { base, host, client, auth, open: Mutex::default() })
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn repository(&self, name: &str) -> Result<Arc<Registry>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = open.get(name) {
            return Ok(registry.clone());
        }
        if open.len() >= REPOSITORIES {
            open.clear();
        }
        let reference = Reference::of_registry(&self.host)?.within(name);
        let registry = Arc::new(Registry::at(self.client.clone(), self.base.clone(), reference, self.auth.clone()));
        open.insert(name.to_owned(), registry.clone());
        Ok(registry)
    }

    /// The digest that a tag or digest stands for now, asked by HEAD; `None` when the registry does not say it.
    ///
    /// # Errors
    /// [`ImageError::ManifestUnknown`], [`ImageError::AccessDenied`], faults of the network.
    pub async fn resolve(&self, name: &str, selector: &str) -> Result<Option<Digest>> {
        self.repository(name)?.resolve(selector).await
    }

    /// A manifest by tag or digest, checked.
    ///
    /// # Errors
    /// As [`Upstream::resolve`], and [`ImageError::DigestMismatch`], [`ImageError::TooLarge`].
    pub async fn manifest(&self, name: &str, selector: &str, max: u64) -> Result<UpstreamManifest> {
        let Fetched { bytes, media_type, digest } = self.repository(name)?.manifest(selector, max).await?;
        Ok(UpstreamManifest { digest, media_type, bytes })
    }

    /// The size of a blob; `None` if the repository has none such.
    ///
    /// # Errors
    /// [`ImageError::AccessDenied`], faults of the network.
    pub async fn blob_size(&self, name: &str, digest: &Digest) -> Result<Option<u64>> {
        self.repository(name)?.blob_size(digest).await
    }

    /// A blob from that byte on; `None` if the repository has none such. Its bytes are not checked.
    ///
    /// # Errors
    /// [`ImageError::AccessDenied`], faults of the network.
    pub async fn blob(&self, name: &str, digest: &Digest, offset: u64) -> Result<Option<UpstreamBlob>> {
        let response = match self.repository(name)?.blob(digest, offset).await {
            Ok(response) => response,
            Err(ImageError::Registry { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let offset = if response.status() == reqwest::StatusCode::PARTIAL_CONTENT { offset } else { 0 };
        let size = response.content_length().map(|rest| rest.saturating_add(offset));
        Ok(Some(UpstreamBlob { response, offset, size }))
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// [`ImageError::Registry`] with the status of an answer that is none, faults of the network.
    pub async fn tags(&self, name: &str) -> Result<Vec<String>> {
        let (registry, mut tags, mut rest) = (self.repository(name)?, Vec::new(), "tags/list".to_owned());
        for _ in 0..PAGES {
            let response = registry.get(&rest).await?;
            let next = response.headers().get(LINK).and_then(|link| link.to_str().ok()).and_then(next_query);
            let bytes = read_body(response, LIST_MAX).await?;
            let what = || format!("tags of {}/{name}", self.host);
            let page: Tags = serde_json::from_slice(&bytes).map_err(|e| ImageError::document(what(), e))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(query) => rest = format!("tags/list?{query}"),
                None => return Ok(tags),
            }
        }
        Ok(tags)
    }

    /// The index of what refers to a manifest (distribution-spec, "Listing Referrers"), as it came.
    ///
    /// # Errors
    /// [`ImageError::Registry`] with the status of an answer that is none, 404 where there are no such lists; faults of the network.
    pub async fn referrers(&self, name: &str, subject: &Digest) -> Result<Vec<u8>> {
        read_body(self.repository(name)?.get(&format!("referrers/{subject}")).await?, LIST_MAX).await
    }
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

/// The query of the next page, from `<URL?QUERY>; rel="next"` (RFC 8288).
fn next_query(link: &str) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let (_, query) = target.split_once('?')?;
    rest.contains("next").then(|| query.to_owned())
}

impl UpstreamBlob {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.response.chunk().await.map_err(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_its_link_says() {
        assert_eq!(next_query("</v2/a/tags/list?last=b&n=2>; rel=\"next\"").as_deref(), Some("last=b&n=2"));
        assert!(next_query("</v2/a/tags/list?last=b>; rel=\"prev\"").is_none() && next_query("x").is_none());
    }

    #[test]
    fn an_upstream_is_an_address_without_a_path_and_with_tls() {
        for good in ["http://127.0.0.1:5000", "http://localhost/v2/", "http://[::1]:5000/"] {
            assert!(Upstream::new(good, None).is_ok(), "{good}");
        }
        assert_eq!(Upstream::new("http://127.0.0.1:5000", None).unwrap().host(), "127.0.0.1:5000");
        for bad in
            ["http://registry.example", "ftp://127.0.0.1", "127.0.0.1:5000", "http://127.0.0.1/a", "http://u@127.0.0.1"]
        {
            assert!(Upstream::new(bad, None).is_err(), "{bad}");
        }
    }
}
