//! A pull-through cache: what is asked for and is not here is fetched from another registry, and kept while there is room.
//!
//! What is named by digest never changes and is not asked for again. A tag is: by HEAD, when it was last found right longer ago
//! than it may be believed. An upstream that cannot be reached changes nothing: what is here is served. The time of a tag's file is
//! when it was found right, the time of a blob's when it was last wanted: the longest unwanted goes first.

mod flight;
mod room;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use image::{Digest, ImageError, Upstream};
use parking_lot::Mutex;
use serde_json::Value;

use crate::error::Refusal;
use crate::handlers::blocking;
use crate::manifest::{self, Manifest};
use crate::route::Selector;
use crate::store::{RegistryStore, StoreError};
use flight::Flight;

/// Longest manifest, bytes.
const MANIFEST_MAX: u64 = 4 << 20;
/// Manifests that are asked for upstream at the same time, by name; a further one is asked for without waiting for its like.
const ASKED_MAX: usize = 4096;

/// How a registry stands in for another.
pub struct Proxying {
    /// The other.
    pub upstream: Upstream,
    /// How long a tag is believed.
    pub ttl: Duration,
    /// Bytes of blobs and manifests that are kept.
    pub max_bytes: u64,
}

impl std::fmt::Debug for Proxying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxying({}, {:?}, {} bytes)", self.upstream.host(), self.ttl, self.max_bytes)
    }
}

/// The cache.
pub(crate) struct Proxy {
    store: RegistryStore,
    config: Proxying,
    max_blob: u64,
    /// One question about a manifest at a time.
    asked: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Blobs on their way, by repository and digest.
    flights: Mutex<HashMap<String, Arc<Flight>>>,
    /// Bytes that the blobs on their way will have.
    coming: AtomicU64,
}

impl Proxy {
    pub fn new(store: RegistryStore, config: Proxying, max_blob: u64) -> Self {
        let coming = AtomicU64::new(0);
        Proxy { store, config, max_blob, asked: Mutex::default(), flights: Mutex::default(), coming }
    }

    /// Has a manifest in the store, if upstream has it or it is here already.
    ///
    /// # Errors
    /// Upstream refuses, or cannot be reached and nothing is here.
    pub async fn manifest(&self, name: &str, selector: &Selector) -> Result<(), Refusal> {
        if self.is_fresh(name, selector).await? {
            return Ok(());
        }
        let turn = self.turn(format!("{name} {}", selector.as_str()));
        let _turn = turn.lock().await;
        // Who waited has the answer of who did not.
        if self.is_fresh(name, selector).await? {
            return Ok(());
        }
        match self.ask(name, selector).await {
            Ok(()) => Ok(()),
            Err(Failure::Upstream(ImageError::ManifestUnknown(_))) => {
                if let Selector::Tag(tag) = selector {
                    let (store, name, tag) = (self.store.clone(), name.to_owned(), tag.clone());
                    blocking(move || store.untag(&name, &tag)).await?;
                }
                Ok(())
            }
            Err(Failure::Upstream(error)) => {
                let here = self.is_here(name, selector).await?;
                if here && error.is_transient() {
                    tracing::warn!(name, reference = selector.as_str(), %error, "upstream cannot be asked; what is here is served");
                    return Ok(());
                }
                Err(refusal(&error))
            }
            Err(Failure::Here(refusal)) => Err(refusal),
        }
    }

    /// The lock under which this is asked.
    fn turn(&self, what: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut asked = self.asked.lock();
        if let Some(turn) = asked.get(&what).and_then(Weak::upgrade) {
            return turn;
        }
        if asked.len() >= ASKED_MAX {
            asked.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        if asked.len() < ASKED_MAX {
            asked.insert(what, Arc::downgrade(&turn));
        }
        turn
    }

    async fn is_fresh(&self, name: &str, selector: &Selector) -> Result<bool, Refusal> {
        let (store, name, selector, ttl) = (self.store.clone(), name.to_owned(), selector.clone(), self.config.ttl);
        blocking(move || match selector {
            Selector::Digest(digest) => wanted(&store, &name, &digest),
            Selector::Tag(tag) => match store.tag(&name, &tag)? {
                Some(digest) if store.tag_age(&name, &tag, SystemTime::now())?.is_some_and(|age| age < ttl) => {
                    wanted(&store, &name, &digest)
                }
                _ => Ok(false),
            },
        })
        .await
    }

    async fn is_here(&self, name: &str, selector: &Selector) -> Result<bool, Refusal> {
        let (store, name, selector) = (self.store.clone(), name.to_owned(), selector.clone());
        blocking(move || match selector {
            Selector::Digest(digest) => wanted(&store, &name, &digest),
            Selector::Tag(tag) => store.tag(&name, &tag)?.map_or(Ok(false), |digest| wanted(&store, &name, &digest)),
        })
        .await
    }

    /// Asks upstream what is meant, and fetches it unless it is here.
    async fn ask(&self, name: &str, selector: &Selector) -> Result<(), Failure> {
        let tag = match selector {
            Selector::Tag(tag) => Some(tag.clone()),
            Selector::Digest(_) => None,
        };
        let mut wants = selector.as_str().to_owned();
        if let Some(tag) = &tag
            && let Some(digest) = self.config.upstream.resolve(name, tag).await?
        {
            let (store, to, tag, now) = (self.store.clone(), name.to_owned(), tag.clone(), digest.clone());
            let here = blocking(move || {
                let here = wanted(&store, &to, &now)?;
                if here {
                    store.point(&to, &tag, &now)?;
                }
                Ok(here)
            });
            if here.await? {
                return Ok(());
            }
            // By digest: should the tag move meanwhile, what comes is still what was said.
            wants = digest.to_string();
        }
        let found = self.config.upstream.manifest(name, &wants, MANIFEST_MAX).await?;
        let manifest = Manifest::read(&found.bytes, &found.media_type)?;
        self.make_room(found.bytes.len() as u64).await?;
        let (store, to) = (self.store.clone(), name.to_owned());
        let stored = blocking(move || {
            let own = manifest.descriptor(&found.digest, found.bytes.len()).to_string();
            let refers = manifest.subject.as_ref().map(|subject| (subject, own));
            let hold = store.hold()?;
            let document = (&found.digest, manifest.media_type.as_str(), found.bytes.as_slice());
            store.put_manifest(&hold, &to, document, tag.as_deref(), refers)
        });
        Ok(stored.await?)
    }

    /// The tags that upstream has; `None` when it cannot be asked and those that are here have to do.
    ///
    /// # Errors
    /// Upstream refuses.
    pub async fn tags(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        match self.config.upstream.tags(name).await {
            Ok(mut tags) => {
                tags.sort_unstable();
                Ok(Some(tags))
            }
            Err(ImageError::Registry { status: 404, .. }) => Err(Refusal::name_unknown(name)),
            Err(error) if error.is_transient() => Ok(None),
            Err(error) => Err(refusal(&error)),
        }
    }

    /// What refers to a manifest, as upstream knows it; `None` when it cannot be asked, or has no such lists.
    ///
    /// # Errors
    /// Upstream refuses.
    pub async fn referrers(&self, name: &str, subject: &Digest) -> Result<Option<Vec<Value>>, Refusal> {
        match self.config.upstream.referrers(name, subject).await {
            Ok(bytes) => Ok(Some(manifest::listed(&bytes))),
            Err(ImageError::Registry { status: 404, .. }) => Ok(None),
            Err(error) if error.is_transient() => Ok(None),
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// Whether a manifest is here; if so, it is wanted.
fn wanted(store: &RegistryStore, name: &str, digest: &Digest) -> Result<bool, StoreError> {
    Ok(store.has_manifest(name, digest) && store.touch(digest)?)
}

/// Why something was not fetched.
enum Failure {
    Upstream(ImageError),
    Here(Refusal),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Failure::Upstream(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Here(refusal)
    }
}

/// Who asked upstream is not who asked here: what it refuses is refused, the rest is a bad gateway's.
fn refusal(error: &ImageError) -> Refusal {
    let said = format!("upstream: {}", base::chain(error));
    match error {
        ImageError::AccessDenied { .. } | ImageError::Unauthorized { .. } => Refusal::denied(said),
        ImageError::Registry { status: 429, .. } => Refusal::too_many(said),
        _ => Refusal::unavailable(StatusCode::BAD_GATEWAY, said),
    }
}
