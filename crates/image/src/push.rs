//! Push: what the registry lacks, then the manifest.

use futures::stream::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::layout;
use crate::manifest::Manifest;
use crate::progress::{Progress, ProgressEvent};
use crate::pull::blocking;
use crate::reference::Reference;
use crate::registry::Registry;
use crate::retry::Retry;
use crate::store::ImageStore;

const CHUNK: usize = 256 << 10;

impl ImageStore {
    /// Pushes an image under its name and answers the digest of its manifest. Layers the registry has in another
    /// repository of this image are mounted rather than sent.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::MissingContent`] before anything is sent, [`ImageError::AccessDenied`],
    /// [`ImageError::Unauthorized`], and faults of network and disk.
    pub async fn push(&self, reference: &str, auth: Option<Auth>, progress: &dyn Progress) -> Result<Digest> {
        let name: Reference = reference.parse()?;
        let _hold = self.hold_content().await?;
        let not_found = || ImageError::NotFound(reference.to_owned());
        let image = self.get(reference)?.ok_or_else(not_found)?;
        let record = self.record(&image.id)?.ok_or_else(not_found)?;
        let bytes = self.layout.read_blob(&record.manifest, self.options.max_manifest_bytes)?;
        let what = format!("manifest of {}", name.familiar());
        let manifest = Manifest::parse(&what, &bytes, self.options.max_layers, self.options.max_blob_bytes)?;
        let mut blobs = Vec::new();
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            let digest = descriptor.digest()?;
            if !layout::exists(&self.layout.blob(&digest))? {
                return Err(ImageError::MissingContent { what: "blob", digest });
            }
            if !blobs.contains(&(digest.clone(), descriptor.size)) {
                blobs.push((digest, descriptor.size));
            }
        }
        let mut known = image.repo_digests.iter().filter_map(|text| text.parse::<Reference>().ok());
        let elsewhere = known.find(|k| k.registry() == name.registry() && k.path() != name.path());
        let registry = Registry::connect(self, &name, self.credentials(&name, auth).await?, true)?
            .mount_from(elsewhere.map(|k| k.path().to_owned()));
        progress.event(ProgressEvent::Resolved { digest: record.manifest.clone(), layers: manifest.layers.len() });
        let mut work = Vec::with_capacity(blobs.len());
        for (digest, size) in &blobs {
            work.push(self.push_blob(&registry, digest, *size, progress));
        }
        let parallel = self.options.parallel_downloads.max(1);
        futures::stream::iter(work).buffer_unordered(parallel).try_collect::<()>().await?;
        registry.put_manifest(name.selector(), &record.media_type, &bytes).await?;

        let this = self.clone();
        let (digest, id) = (record.manifest.clone(), image.id);
        blocking("push", move || {
            let _lock = this.layout.lock_index()?;
            // Only if the name still means what was pushed.
            let refs = this.refs()?;
            if refs.get(&name.to_string()).is_some_and(|r| r.image == id) {
                this.write_ref(&name, &id, Some(name.at(&digest).to_string()))?;
            }
            Ok(digest)
        })
        .await
    }

    async fn push_blob(&self, registry: &Registry, digest: &Digest, size: u64, progress: &dyn Progress) -> Result<()> {
        let mut retry = Retry::new(self.options.attempts);
        loop {
            match self.push_blob_once(registry, digest, size, progress).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    progress.event(ProgressEvent::Retry { digest: digest.clone(), reason: error.to_string() });
                    retry.after(error).await?;
                }
            }
        }
    }

    async fn push_blob_once(
        &self,
        registry: &Registry,
        digest: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        if registry.has_blob(digest).await? {
            progress.event(ProgressEvent::Exists { digest: digest.clone() });
            return Ok(());
        }
        let Some(target) = registry.start_upload(digest).await? else {
            progress.event(ProgressEvent::Exists { digest: digest.clone() });
            return Ok(());
        };
        let path = self.layout.blob(digest);
        // Opened anew for each attempt: a body is read once.
        let body = || match std::fs::File::open(&path) {
            Ok(file) => {
                let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
                reqwest::Body::wrap_stream(stream)
            }
            Err(error) => reqwest::Body::wrap_stream(futures::stream::once(async { Err::<Vec<u8>, _>(error) })),
        };
        registry.upload(target, size, body).await?;
        progress.event(ProgressEvent::Transfer { digest: digest.clone(), done: size, total: size });
        progress.event(ProgressEvent::Done { digest: digest.clone() });
        Ok(())
    }
}
