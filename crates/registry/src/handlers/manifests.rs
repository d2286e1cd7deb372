//! Manifests, by tag or digest, and what refers to them.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use image::Digest;

use super::{Answer, Call, DIGEST, Registry, bare, blocking, document, text};
use crate::error::Refusal;
use crate::manifest::{self, Manifest};
use crate::route::Selector;
use crate::store::{RegistryStore, StoreError};

/// Longest manifest, bytes (distribution-spec: 4 MiB should be taken).
const MAX: usize = 4 << 20;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Registry {
    /// GET, HEAD, PUT, DELETE of a manifest.
    pub(super) async fn manifest(
        self: &Arc<Self>,
        call: &Call,
        name: String,
        selector: Selector,
        body: Incoming,
    ) -> Answer {
        match call.method {
            Method::PUT => self.put_manifest(call, name, selector, body).await,
            Method::DELETE => self.delete_manifest(name, selector).await,
            _ => self.get_manifest(call, name, selector).await,
        }
    }

    async fn get_manifest(&self, call: &Call, name: String, selector: Selector) -> Answer {
        let unknown = Refusal::manifest_unknown(&name, selector.as_str());
        if let Some(proxy) = &self.proxy {
            proxy.manifest(&name, &selector).await?;
        }
        let store = self.store.clone();
        let found = blocking(move || {
            let Some(digest) = resolved(&store, &name, &selector)? else { return Ok(None) };
            Ok(store.manifest(&name, &digest)?.map(|(media_type, bytes)| (digest, media_type, bytes)))
        });
        let (digest, media_type, bytes) = found.await?.ok_or(unknown)?;
        let etag = format!("\"{digest}\"");
        if call.header(IF_NONE_MATCH) == Some(&etag) {
            return Ok(bare(StatusCode::NOT_MODIFIED));
        }
        let mut answer = document(StatusCode::OK, &media_type, bytes);
        answer.headers_mut().insert(DIGEST, text(digest.as_str()));
        answer.headers_mut().insert(ETAG, text(&etag));
        Ok(answer)
    }

    async fn put_manifest(&self, call: &Call, name: String, selector: Selector, body: Incoming) -> Answer {
        let too_large = || Refusal::size_invalid(format!("manifests are at most {MAX} bytes long"));
        if call.header(CONTENT_LENGTH).and_then(|l| l.parse::<usize>().ok()).is_some_and(|len| len > MAX) {
            return Err(too_large());
        }
        let bytes = match Limited::new(body, MAX).collect().await {
            Ok(read) => read.to_bytes(),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
            Err(_) => return Err(Refusal::broken_off()),
        };
        let digest = Digest::of(&bytes);
        if let Selector::Digest(wanted) = &selector
            && *wanted != digest
        {
            return Err(Refusal::digest_invalid("provided digest did not match uploaded content"));
        }
        let content_type = call.header(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let manifest = Manifest::read(&bytes, content_type)?;
        let (store, to, made, subject) = (self.store.clone(), name.clone(), digest.clone(), manifest.subject.clone());
        let missing = blocking(move || {
            let hold = store.hold()?;
            if let Some(missing) = missing(&store, &to, &manifest)? {
                return Ok(Some(missing));
            }
            let tag = match &selector {
                Selector::Tag(tag) => Some(tag.as_str()),
                Selector::Digest(_) => None,
            };
            let own = manifest.descriptor(&made, bytes.len()).to_string();
            let refers = manifest.subject.as_ref().map(|subject| (subject, own));
            store.put_manifest(&hold, &to, (&made, &manifest.media_type, &bytes), tag, refers)?;
            Ok(None)
        });
        if let Some(missing) = missing.await? {
            return Err(Refusal::manifest_blob_unknown(missing.as_str()));
        }
        let mut answer = bare(StatusCode::CREATED);
        answer.headers_mut().insert(LOCATION, text(&format!("/v2/{name}/manifests/{digest}")));
        answer.headers_mut().insert(DIGEST, text(digest.as_str()));
        if let Some(subject) = subject {
            answer.headers_mut().insert(SUBJECT, text(subject.as_str()));
        }
        Ok(answer)
    }

    async fn delete_manifest(&self, name: String, selector: Selector) -> Answer {
        let unknown = Refusal::manifest_unknown(&name, selector.as_str());
        let store = self.store.clone();
        let removed = blocking(move || match &selector {
            Selector::Tag(tag) => store.untag(&name, tag),
            Selector::Digest(digest) => {
                let _hold = store.hold()?;
                let Some((media_type, bytes)) = store.manifest(&name, digest)? else { return Ok(false) };
                let subject = Manifest::read(&bytes, &media_type).ok().and_then(|m| m.subject);
                store.remove_manifest(&name, digest, subject.as_ref())
            }
        });
        if removed.await? { Ok(bare(StatusCode::ACCEPTED)) } else { Err(unknown) }
    }

    /// GET of what refers to a manifest, which need not be there.
    pub(super) async fn referrers(&self, call: &Call, name: String, digest: Digest) -> Answer {
        let upstream = match &self.proxy {
            Some(proxy) => proxy.referrers(&name, &digest).await?,
            None => None,
        };
        let descriptors = match upstream {
            Some(descriptors) => descriptors,
            None => {
                let store = self.store.clone();
                let found = blocking(move || store.referrers(&name, &digest)).await?;
                found.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect()
            }
        };
        let wanted = call.query.get("artifactType").map(String::as_str);
        let index = manifest::referrers(descriptors, wanted).to_string().into_bytes();
        let mut answer = document(StatusCode::OK, manifest::REFERRERS_TYPE, index);
        if wanted.is_some() {
            answer.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        Ok(answer)
    }
}

fn resolved(store: &RegistryStore, name: &str, selector: &Selector) -> Result<Option<Digest>, StoreError> {
    match selector {
        Selector::Tag(tag) => store.tag(name, tag),
        Selector::Digest(digest) => Ok(Some(digest.clone())),
    }
}

/// What a manifest needs and the repository has not.
fn missing(store: &RegistryStore, name: &str, manifest: &Manifest) -> Result<Option<Digest>, StoreError> {
    for blob in &manifest.blobs {
        if store.blob(name, blob)?.is_none() {
            return Ok(Some(blob.clone()));
        }
    }
    Ok(manifest.manifests.iter().find(|digest| !store.has_manifest(name, digest)).cloned())
}
