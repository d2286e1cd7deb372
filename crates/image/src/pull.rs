//! Pull: manifest, configuration, layers side by side, then all at once into the index.

use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::ingest::Ingest;
use crate::layout::ContentHold;
use crate::manifest::{DOCKER_MANIFEST, Index, Manifest, OCI_MANIFEST, is_index};
use crate::progress::{Progress, ProgressEvent};
use crate::reference::Reference;
use crate::registry::{Fetched, Registry, network};
use crate::retry::Retry;
use crate::store::{ImageInfo, ImageStore, LayerRecord, diff_ids, parse_config};

impl ImageStore {
    /// Pulls an image for this host and gives it its name. Without `auth` the credentials saved with `docker login`
    /// are used, if any. Dropping the future leaves what was downloaded for the next pull, and no image.
    ///
    /// # Errors
    /// [`ImageError::AccessDenied`], [`ImageError::Unauthorized`], [`ImageError::ManifestUnknown`],
    /// [`ImageError::NoPlatform`], [`ImageError::DigestMismatch`], limits, and faults of network and disk.
    pub async fn pull(&self, reference: &str, auth: Option<Auth>, progress: &dyn Progress) -> Result<ImageInfo> {
        let name: Reference = reference.parse()?;
        self.pull_at(name.clone(), name, auth, progress).await
    }

    /// Pulls what has that digest in the repository of a name, and gives it the name, whatever that means there now.
    ///
    /// # Errors
    /// As [`ImageStore::pull`].
    pub async fn pull_exactly(
        &self,
        reference: &str,
        digest: &Digest,
        auth: Option<Auth>,
        progress: &dyn Progress,
    ) -> Result<ImageInfo> {
        let name: Reference = reference.parse()?;
        self.pull_at(name.at(digest), name, auth, progress).await
    }

    async fn pull_at(
        &self,
        what: Reference,
        name: Reference,
        auth: Option<Auth>,
        progress: &dyn Progress,
    ) -> Result<ImageInfo> {
        let hold = Arc::new(self.hold_content().await?);
        let registry = Registry::connect(self, &name, self.credentials(&name, auth).await?, false)?;
        let (top, fetched) = self.fetch_manifest(&registry, &what).await?;
        let what = format!("manifest of {}", name.familiar());
        let manifest = Manifest::parse(&what, &fetched.bytes, self.options.max_layers, self.options.max_blob_bytes)?;
        progress.event(ProgressEvent::Resolved { digest: top.clone(), layers: manifest.layers.len() });

        let id = manifest.config.digest()?;
        if manifest.config.size > self.options.max_config_bytes {
            let what = format!("image configuration {id}");
            return Err(ImageError::TooLarge { what, limit: self.options.max_config_bytes, unit: "bytes" });
        }
        self.fetch_blob(&registry, &id, manifest.config.size, &()).await?;
        let config = parse_config(&id, &self.layout.read_blob(&id, self.options.max_config_bytes)?)?;
        let diff_ids = diff_ids(&id, &config)?;
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!("{} diff ids for {} layers", diff_ids.len(), manifest.layers.len());
            return Err(ImageError::document(format!("image configuration {id}"), reason));
        }

        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            layers.push((LayerRecord { diff_id, blob: layer.digest()? }, layer.size));
        }
        // Collected first: a lazy `map` over borrowed items would make this future not `Send` for every lifetime.
        let mut work = Vec::with_capacity(layers.len());
        for (layer, size) in &layers {
            work.push(self.fetch_layer(&registry, layer, *size, &hold, progress));
        }
        let parallel = self.options.parallel_downloads.max(1);
        let staged: Vec<_> = futures::stream::iter(work).buffer_unordered(parallel).try_collect().await?;

        let this = self.clone();
        let layers: Vec<LayerRecord> = layers.into_iter().map(|(layer, _)| layer).collect();
        blocking("pull", move || {
            let _hold = hold;
            this.commit_layers(staged.into_iter().flatten().collect())?;
            let manifest = this.layout.put_blob(&fetched.bytes)?;
            let record = this.make_record(id, manifest, &fetched.media_type, layers)?;
            let repo_digest = name.at(&top).to_string();
            this.install(&record, &[(name, Some(repo_digest))])
        })
        .await
    }

    /// Digest of what the reference names, and the manifest for this host.
    async fn fetch_manifest(&self, registry: &Registry, name: &Reference) -> Result<(Digest, Fetched)> {
        let get = async |selector: &str| {
            let mut retry = Retry::new(self.options.attempts);
            loop {
                match registry.manifest(selector, self.options.max_manifest_bytes).await {
                    Err(error) => retry.after(error).await?,
                    done => return done,
                }
            }
        };
        let top = get(name.selector()).await?;
        let what = format!("manifest of {}", name.familiar());
        if !is_index(&top.media_type) {
            return Ok((top.digest.clone(), checked_type(what, top)?));
        }
        let index: Index = serde_json::from_slice(&top.bytes).map_err(|e| ImageError::document(&*what, e))?;
        let entry = index.choose(&name.familiar())?;
        if entry.is_index() {
            return Err(ImageError::UnsupportedMediaType { what, media_type: "index within an index".to_owned() });
        }
        let fetched = get(entry.digest()?.as_str()).await?;
        Ok((top.digest, checked_type(what, fetched)?))
    }

    async fn fetch_layer(
        &self,
        registry: &Registry,
        layer: &LayerRecord,
        size: u64,
        hold: &Arc<ContentHold>,
        progress: &dyn Progress,
    ) -> Result<Option<crate::content::Staged>> {
        let digest = layer.blob.clone();
        let fresh = self.fetch_blob(registry, &digest, size, progress).await?;
        let (this, layer, hold) = (self.clone(), layer.clone(), hold.clone());
        if fresh {
            progress.event(ProgressEvent::Unpacking { digest: digest.clone() });
        }
        // The thread goes on when the pull is dropped: it holds the content lock until its folder is gone.
        let staged = blocking("unpack", move || {
            let staged = this.stage_layer(&layer.blob, Some(&layer.diff_id));
            drop(hold);
            staged
        });
        let staged = staged.await?;
        let done = staged.is_some() || fresh;
        progress.event(if done { ProgressEvent::Done { digest } } else { ProgressEvent::Exists { digest } });
        Ok(staged)
    }

    /// Brings a blob into the store, going on where an earlier attempt stopped. Answers whether bytes were fetched.
    async fn fetch_blob(
        &self,
        registry: &Registry,
        digest: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<bool> {
        let (layout, wanted) = (self.layout.clone(), digest.clone());
        let Some(mut ingest) = blocking("download", move || Ingest::open(&layout, &wanted, size)).await? else {
            return Ok(false);
        };
        let mut retry = Retry::new(self.options.attempts);
        loop {
            let before = ingest.len();
            let (back, result) = transfer(registry, ingest, progress).await?;
            ingest = back;
            match result {
                Ok(()) => break,
                Err(error) => {
                    progress.event(ProgressEvent::Retry { digest: digest.clone(), reason: error.to_string() });
                    if ingest.len() > before {
                        retry.progressed();
                    }
                    retry.after(error).await?;
                }
            }
        }
        blocking("download", move || ingest.finish()).await?;
        Ok(true)
    }

    pub(crate) async fn hold_content(&self) -> Result<ContentHold> {
        let layout = self.layout.clone();
        blocking("lock", move || layout.hold_content()).await
    }

    pub(crate) async fn credentials(&self, name: &Reference, given: Option<Auth>) -> Result<Option<Auth>> {
        match given {
            Some(auth) => Ok(Some(auth)),
            None => {
                let name = name.clone();
                blocking("read credentials", move || Auth::saved(&name)).await
            }
        }
    }
}

/// One attempt. The ingest comes back in any case; the outer error is for faults that end the pull.
async fn transfer(registry: &Registry, mut ingest: Ingest, progress: &dyn Progress) -> Result<(Ingest, Result<()>)> {
    if ingest.is_complete() {
        return Ok((ingest, Ok(())));
    }
    let digest = ingest.digest().clone();
    let mut response = match registry.blob(&digest, ingest.len()).await {
        Ok(response) => response,
        Err(error) => return Ok((ingest, Err(error))),
    };
    if response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
        ingest = blocking("download", move || ingest.restart()).await?;
    }
    if response.status() == reqwest::StatusCode::RANGE_NOT_SATISFIABLE {
        let interrupted = ingest.interrupted();
        return Ok((ingest, Err(interrupted)));
    }
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                ingest = blocking("download", move || ingest.flush()).await?;
                return Ok((ingest, Err(network(error))));
            }
        };
        if ingest.take(chunk)? {
            ingest = blocking("download", move || ingest.flush()).await?;
            progress.event(ProgressEvent::Transfer {
                digest: digest.clone(),
                done: ingest.len(),
                total: ingest.size(),
            });
        }
    }
    ingest = blocking("download", move || ingest.flush()).await?;
    let result = if ingest.is_complete() { Ok(()) } else { Err(ingest.interrupted()) };
    Ok((ingest, result))
}

fn checked_type(what: String, fetched: Fetched) -> Result<Fetched> {
    match fetched.media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => Ok(fetched),
        _ => Err(ImageError::UnsupportedMediaType { what, media_type: fetched.media_type }),
    }
}

/// Runs disk work on its own thread.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ImageError::Aborted(what)),
    }
}
