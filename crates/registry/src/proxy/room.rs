//! Room for what comes: the content that nobody wanted for the longest time goes.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::StatusCode;
use image::Digest;

use super::Proxy;
use crate::error::Refusal;
use crate::handlers::blocking;
use crate::manifest::Manifest;
use crate::store::{self, RegistryStore, StoreError};

/// Content as far as room is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    wanted: SystemTime,
    bytes: u64,
    digest: Digest,
}

impl Proxy {
    /// Makes room for so many bytes more.
    ///
    /// # Errors
    /// More than there can be, or the disk fails.
    pub(super) async fn make_room(&self, bytes: u64) -> Result<(), Refusal> {
        let (store, max, coming) = (self.store.clone(), self.config.max_bytes, self.coming.load(Ordering::Relaxed));
        let fits = blocking(move || {
            let Some(leave) = leaving(kept(&store)?, coming.saturating_add(bytes), max) else { return Ok(false) };
            if !leave.is_empty() {
                tracing::info!(blobs = leave.len(), "content that was not wanted for long makes room");
                remove(&store, &leave)?;
            }
            Ok(true)
        });
        if fits.await? {
            return Ok(());
        }
        let message = format!("{bytes} bytes more do not fit into the {max} bytes of the cache");
        Err(Refusal::unavailable(StatusCode::INSUFFICIENT_STORAGE, message))
    }
}

fn kept(store: &RegistryStore) -> Result<Vec<Kept>, StoreError> {
    let mut out = Vec::new();
    for digest in store::digests(store::names(&store.blobs())?) {
        // What vanishes meanwhile takes no room.
        let Ok(meta) = std::fs::metadata(store.blob_path(&digest)) else { continue };
        out.push(Kept { wanted: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), bytes: meta.len(), digest });
    }
    Ok(out)
}

/// What has to go so that `more` bytes fit into `max`; a tenth of all is made free at once, so that not every blob asks anew.
/// `None` when they do not fit at all.
fn leaving(mut kept: Vec<Kept>, more: u64, max: u64) -> Option<Vec<Digest>> {
    if more > max {
        return None;
    }
    let mut total: u64 = kept.iter().map(|k| k.bytes).sum();
    if total.saturating_add(more) <= max {
        return Some(Vec::new());
    }
    kept.sort_unstable_by(|a, b| a.wanted.cmp(&b.wanted).then_with(|| a.digest.cmp(&b.digest)));
    let goal = (max - max / 10).max(more);
    let mut leave = Vec::new();
    for one in kept {
        if total.saturating_add(more) <= goal {
            break;
        }
        total -= one.bytes;
        leave.push(one.digest);
    }
    Some(leave)
}

fn remove(store: &RegistryStore, leave: &[Digest]) -> Result<(), StoreError> {
    let _alone = store.alone()?;
    for name in store.repositories()? {
        for digest in leave {
            if store.has_manifest(&name, digest) {
                let read =
                    store.manifest(&name, digest)?.and_then(|(media, bytes)| Manifest::read(&bytes, &media).ok());
                store.remove_manifest(&name, digest, read.and_then(|m| m.subject).as_ref())?;
            }
            store.unlink(&name, digest)?;
        }
    }
    leave.iter().try_for_each(|digest| store::remove(&store.blob_path(digest)).map(drop))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_unwanted_goes_first_and_no_more_than_needed() {
        let kept = |age: u64, bytes: u64| Kept {
            wanted: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age),
            bytes,
            digest: Digest::of(&age.to_le_bytes()),
        };
        let all = vec![kept(1, 30), kept(3, 30), kept(2, 30)];
        let gone = |more, max| leaving(all.clone(), more, max);
        assert_eq!(gone(10, 100), Some(Vec::new()));
        assert_eq!(gone(20, 100), Some(vec![all[1].digest.clone()]));
        assert_eq!(gone(60, 100), Some(vec![all[1].digest.clone(), all[2].digest.clone()]));
        assert_eq!(gone(100, 100).map(|g| g.len()), Some(3));
        assert_eq!(gone(101, 100), None);
    }
}
