//! The one task that follows the store and keeps the caches current.

use std::sync::Arc;
use std::time::Duration;

use store::{Batch, EventKind, StoreError, Watch};
use tokio_util::sync::CancellationToken;

use super::custom::{self, Pending};
use super::kind::Applied;
use super::{Caches, ROOT, decode};

/// How long to wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// Applies what the watch delivers. When the watch breaks, goes on where it stopped; when that history is gone, reads
/// everything anew, upon which open watches of clients end with 410.
pub(super) async fn run(caches: Arc<Caches>, mut watch: Watch, stop: CancellationToken) {
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            () = stop.cancelled() => return,
        };
        let error = match next {
            Ok(batch) => {
                apply(&caches, batch).await;
                continue;
            }
            Err(error) => error,
        };
        tracing::warn!(error = %base::chain(&error), "watch of the store broke");
        loop {
            match again(&caches, &error).await {
                Ok(new) => break watch = new,
                Err(StoreError::Stopped(why)) => {
                    return tracing::error!(%why, "the store stopped; reads stay as they are");
                }
                Err(error) => tracing::warn!(error = %base::chain(&error), "cannot follow the store"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn again(caches: &Caches, error: &StoreError) -> Result<Watch, StoreError> {
    if let StoreError::Stopped(_) = error {
        return Err(error.clone());
    }
    match caches.store.watch(ROOT.into(), caches.applied() + 1).await {
        Err(StoreError::Compacted { .. }) => {
            let revision = caches.reload().await?;
            caches.store.watch(ROOT.into(), revision + 1).await
        }
        other => other,
    }
}

async fn apply(caches: &Caches, batch: Batch) {
    let mut pending: Vec<Vec<Applied>> = Vec::new();
    pending.resize_with(caches.kinds.len(), Vec::new);
    let defined = caches.custom();
    let (mut pending_custom, mut definitions) = (Pending::default(), false);
    for event in batch.events {
        let revision = event.kv.mod_revision;
        let Some((index, key)) = caches.locate(&event.kv.key) else {
            if let Some((cache, key)) = caches.locate_custom(&defined, &event.kv.key) {
                let entry = match event.kind {
                    EventKind::Delete => None,
                    EventKind::Put => match decode(&cache, key, &event.kv.value, revision) {
                        Some(entry) => Some(entry),
                        None => continue,
                    },
                };
                pending_custom.push(cache, Applied { key: key.into(), revision, entry });
            }
            continue;
        };
        definitions |= event.kv.key.starts_with(custom::PREFIX.as_bytes());
        let entry = match event.kind {
            EventKind::Delete => None,
            EventKind::Put => match decode(&caches.kinds[index], key, &event.kv.value, revision) {
                Some(entry) => Some(entry),
                None => continue,
            },
        };
        pending[index].push(Applied { key: key.into(), revision, entry });
    }
    for (cache, changes) in caches.kinds.iter().zip(pending) {
        if !changes.is_empty() {
            cache.apply(changes);
        }
    }
    pending_custom.apply();
    if definitions && let Err(error) = caches.redefine(batch.revision).await {
        tracing::error!(error = %base::chain(&error), "objects of a new custom resource cannot be read");
    }
    // Last: who sees this number sees everything up to it in every kind.
    caches.applied.send_replace(batch.revision);
}
