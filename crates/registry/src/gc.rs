//! Mark and sweep. What a manifest names stays; what a push that is under way may name stays as well, because it is young.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::manifest::Manifest;
use crate::store::{self, RegistryStore, StoreError, at};

/// What a sweep removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Blobs, manifests among them.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes content that no manifest of any repository names and that nobody asked for within `grace`. With `untagged`, also
/// manifests that have no tag, are in no index and refer to nothing: a push of several platforms makes such for a moment, so they
/// too must be older than `grace`. Pushes wait meanwhile; pulls do not.
///
/// # Errors
/// The disk fails.
pub fn sweep(store: &RegistryStore, grace: Duration, untagged: bool, now: SystemTime) -> Result<Swept, StoreError> {
    let _alone = store.alone()?;
    let old = |path: &std::path::Path| {
        let touched = std::fs::metadata(path).and_then(|m| m.modified());
        touched.is_ok_and(|t| now.duration_since(t).is_ok_and(|age| age >= grace))
    };
    let mut marked = BTreeSet::new();
    for name in store.repositories()? {
        if untagged {
            drop_untagged(store, &name, &|digest| old(&store.blob_path(digest)))?;
        }
        let mut needed = BTreeSet::new();
        for digest in store.manifests(&name)? {
            let Some((media_type, bytes)) = store.manifest(&name, &digest)? else { continue };
            if let Ok(manifest) = Manifest::read(&bytes, &media_type) {
                needed.extend(manifest.blobs);
            }
            marked.insert(digest);
        }
        for link in store.links(&name)? {
            if !needed.contains(&link) && old(&store.blob_path(&link)) {
                store.unlink(&name, &link)?;
            }
        }
        marked.extend(needed);
        marked.extend(store.links(&name)?);
    }
    let mut swept = Swept::default();
    for digest in store::digests(store::names(&store.blobs())?) {
        let path = store.blob_path(&digest);
        if marked.contains(&digest) || !old(&path) {
            continue;
        }
        let size = std::fs::metadata(&path).map_err(at("look up", &path))?.len();
        if store::remove(&path)? {
            swept.blobs += 1;
            swept.bytes += size;
        }
    }
    Ok(swept)
}

/// Removes manifests that nothing leads to. What refers to a manifest goes when that is gone.
fn drop_untagged(store: &RegistryStore, name: &str, old: &dyn Fn(&image::Digest) -> bool) -> Result<(), StoreError> {
    let mut kept: BTreeSet<_> = BTreeSet::new();
    for tag in store.tags(name)? {
        kept.extend(store.tag(name, &tag)?);
    }
    let all = store.manifests(name)?;
    let mut read = Vec::new();
    for digest in &all {
        let manifest = store.manifest(name, digest)?.and_then(|(media, bytes)| Manifest::read(&bytes, &media).ok());
        read.push((digest, manifest));
    }
    loop {
        let before = kept.len();
        for (digest, manifest) in read.iter().filter_map(|(d, m)| Some((*d, m.as_ref()?))) {
            if kept.contains(digest) {
                kept.extend(manifest.manifests.iter().cloned());
            } else if manifest.subject.as_ref().is_some_and(|subject| kept.contains(subject)) || !old(digest) {
                kept.insert(digest.clone());
            }
        }
        if kept.len() == before {
            break;
        }
    }
    for (digest, manifest) in read {
        // One that cannot be read is nobody's to remove.
        if let Some(manifest) = manifest.filter(|_| !kept.contains(digest)) {
            store.remove_manifest(name, digest, manifest.subject.as_ref())?;
        }
    }
    Ok(())
}
