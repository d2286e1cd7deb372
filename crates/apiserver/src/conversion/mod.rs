//! Custom objects in the versions of their definition. An object is stored in one version and cached as it is stored; it is
//! read, changed and checked in the version of the request. Without a webhook the versions differ by their label, and by
//! the fields they know; with one, the webhook is asked, once for each revision of an object and version.

use std::sync::Arc;

use api::crd::{self, conversion};
use api::kinds::KindInfo;
use api::status::ApiError;
use bytes::Bytes;
use serde_json::Value;

use crate::cache::entry::with_revision;
use crate::cache::{Caches, Entry};
use crate::handlers::Scope;
use crate::handlers::write::encode_stored;

mod review;

use review::Webhook;

/// All versions of a definition, and how objects get from one to another.
pub struct Family {
    /// Changes with everything that shows in the objects.
    pub hash: u64,
    kinds: Vec<Arc<KindInfo>>,
    stored: Arc<KindInfo>,
    webhook: Option<Webhook>,
}

impl Family {
    /// Of the kinds of a definition.
    pub fn new(kinds: crd::Kinds) -> Self {
        let webhook = kinds.webhook.as_ref().map(Webhook::new);
        Family { hash: kinds.hash, kinds: kinds.all, stored: kinds.stored, webhook }
    }

    fn version(&self, version: &str) -> Option<&Arc<KindInfo>> {
        self.kinds.iter().find(|k| k.version == version)
    }

    /// Whether there is only one version, and nothing to convert.
    pub fn is_single(&self) -> bool {
        self.kinds.len() == 1
    }

    /// The version that is written.
    pub fn storage_version(&self) -> &'static str {
        self.stored.storage_version
    }

    /// An object from what the store holds. One in a version that the definition no longer has is read as the stored one.
    ///
    /// # Errors
    /// The value is not a JSON object.
    pub fn decode(&self, key: &str, stored: &[u8], revision: u64) -> Result<Entry, serde_json::Error> {
        let value: Value = serde_json::from_slice(stored)?;
        let version = value["apiVersion"].as_str().and_then(|label| label.rsplit('/').next()).unwrap_or("");
        let kind = self.version(version).unwrap_or(&self.stored);
        Ok(Entry::of_custom(kind, key, stored, value, revision))
    }

    /// The object in a version; `None` when a webhook has to be asked for it: see [`Family::prepare`].
    pub fn view(&self, entry: &Arc<Entry>, version: &str) -> Option<Arc<Entry>> {
        if entry.version == version {
            return Some(entry.clone());
        }
        if let Some(view) = entry.view(version) {
            return Some(view);
        }
        let kind = self.version(version).filter(|_| self.webhook.is_none())?;
        let mut object = entry.value();
        conversion::relabel(kind, &mut object);
        Some(entry.keep_view(kind, &object))
    }

    /// Has all these objects converted to a version, so that [`Family::view`] has them.
    ///
    /// # Errors
    /// 500: what the webhook did wrong.
    pub async fn prepare(&self, caches: &Caches, version: &str, entries: &[Arc<Entry>]) -> Result<(), ApiError> {
        let (Some(webhook), Some(kind)) = (&self.webhook, self.version(version)) else { return Ok(()) };
        let missing = |e: &&Arc<Entry>| e.version != version && e.turn().is_some() && e.view(version).is_none();
        let mut left: Vec<&Arc<Entry>> = entries.iter().filter(missing).collect();
        while let Some(first) = left.first() {
            // What others are having converted just now is waited for, one after the other and with nothing held.
            let mine: Vec<_> = left.iter().filter_map(|e| Some((*e, e.turn()?.try_lock().ok()?))).collect();
            if let (true, Some(turn)) = (mine.is_empty(), first.turn()) {
                drop(turn.lock().await);
            }
            let objects: Vec<Value> = mine.iter().map(|(e, _)| e.value()).collect();
            let converted = webhook.convert(caches, kind, objects).await?;
            for ((entry, _turn), object) in mine.into_iter().zip(&converted) {
                entry.keep_view(kind, object);
            }
            left.retain(missing);
        }
        Ok(())
    }

    /// Whether more than the label differs between the versions.
    pub fn has_webhook(&self) -> bool {
        self.webhook.is_some()
    }

    /// Objects that are under way as they are in another version of their kind.
    ///
    /// # Errors
    /// 500: what the webhook did wrong.
    pub async fn convert(&self, caches: &Caches, to: &KindInfo, objects: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        match &self.webhook {
            Some(webhook) => webhook.convert(caches, to, objects).await,
            None => Ok(objects),
        }
    }

    /// An object of any version as the one that is written.
    async fn to_stored(&self, caches: &Caches, kind: &KindInfo, object: &Value) -> Result<Value, ApiError> {
        let mut object = object.clone();
        if kind.version == self.stored.version {
            return Ok(object);
        }
        let Some(webhook) = &self.webhook else {
            conversion::relabel(&self.stored, &mut object);
            return Ok(object);
        };
        let converted = webhook.convert(caches, &self.stored, vec![object]).await?;
        converted.into_iter().next().ok_or_else(|| ApiError::internal("a converted object is missing"))
    }
}

impl Scope<'_> {
    /// An object in the version of the request.
    ///
    /// # Errors
    /// 500 when it cannot be converted.
    pub async fn view(&self, caches: &Caches, entry: Arc<Entry>) -> Result<Arc<Entry>, ApiError> {
        if entry.version.is_empty() || entry.version == self.kind.version {
            return Ok(entry);
        }
        let mut views = self.views(caches, vec![entry]).await?;
        views.pop().ok_or_else(|| ApiError::internal("a converted object is missing"))
    }

    /// The same for many.
    ///
    /// # Errors
    /// As [`Scope::view`].
    pub async fn views(&self, caches: &Caches, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, ApiError> {
        let Some(family) = self.cache.family() else { return Ok(entries) };
        let version = self.kind.version;
        family.prepare(caches, version, &entries).await?;
        let gone = || ApiError::internal(format!("version {version:?} is no longer there"));
        entries.iter().map(|e| family.view(e, version).ok_or_else(gone)).collect()
    }

    /// The bytes to be stored for an object: custom ones in the version that is written.
    ///
    /// # Errors
    /// As [`Scope::view`].
    pub async fn stored(&self, caches: &Caches, object: &Value) -> Result<Bytes, ApiError> {
        match self.cache.family() {
            Some(family) => Ok(encode_stored(&family.to_stored(caches, self.kind, object).await?)),
            None => Ok(encode_stored(object)),
        }
    }

    /// What was stored under a key, as the answer to its writer.
    ///
    /// # Errors
    /// As [`Scope::view`].
    pub async fn answer(&self, caches: &Caches, key: &str, stored: &Bytes, revision: u64) -> Result<Bytes, ApiError> {
        let Some(family) = self.cache.family().filter(|f| f.storage_version() != self.kind.version) else {
            return Ok(with_revision(stored, revision));
        };
        // The cached one, if it is this very revision, so that readers find it converted.
        let entry = match self.cache.get(key).filter(|e| e.revision == revision) {
            Some(entry) => entry,
            None => Arc::new(family.decode(key, stored, revision).map_err(ApiError::internal)?),
        };
        Ok(self.view(caches, entry).await?.bytes.clone())
    }
}
