//! Images that nobody uses are removed: when the disk fills, when nobody used them for long, and before a pod is ended for
//! the room that they take.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reconcile::eviction::Signal;
use reconcile::imagegc::{Image, Records};

use super::Seen;
use crate::context::Context;
use crate::events::node_reference;
use crate::pods::manager::Pods;

/// How often it is seen which images are in use: nothing tells of all who take one.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// After a collection that did not win back enough, the next is not tried before this (the kubelet's time between two).
const AGAIN: Duration = Duration::from_secs(300);

pub(super) struct Collector {
    ctx: Arc<Context>,
    pods: Pods,
    records: Records,
    next_note: Duration,
    not_before: Duration,
}

impl Collector {
    pub(super) fn new(ctx: Arc<Context>, pods: Pods) -> Self {
        Collector { ctx, pods, records: Records::default(), next_note: Duration::ZERO, not_before: Duration::ZERO }
    }

    /// Notes which images are in use, and removes some when there is a reason.
    pub(super) async fn look(&mut self, seen: &Seen, now: Duration) {
        let ctx = self.ctx.clone();
        let policy = &ctx.config.eviction.images;
        let disk = seen.amounts.get(&Signal::ImageFsAvailable);
        let needs = disk.and_then(|d| policy.needs(d.capacity, d.available)).filter(|_| now >= self.not_before);
        if now < self.next_note && needs.is_none() {
            return;
        }
        self.next_note = now + NOTE_EVERY;
        let Some(images) = self.note(now).await else { return };
        let old = self.records.for_age(&images, policy, now);
        let mut freed = self.remove(old.clone(), u64::MAX).await;
        let Some(needs) = needs else { return };
        tracing::info!(bytes = needs, "unused images are removed: the disk fills");
        let room = self.records.for_room(&images, policy, now).into_iter().filter(|id| !old.contains(id)).collect();
        freed = freed.saturating_add(self.remove(room, needs.saturating_sub(freed)).await);
        if freed < needs {
            self.not_before = now + AGAIN;
            let text = format!(
                "Failed to garbage collect required amount of images. Attempted to free {needs} bytes, but only found {freed} bytes eligible to free."
            );
            ctx.recorder.warn(node_reference(&ctx.config.node_name), "FreeDiskSpaceFailed", text);
        }
    }

    /// Removes all that may go.
    pub(super) async fn all(&mut self, now: Duration) {
        let ctx = self.ctx.clone();
        let Some(images) = self.note(now).await else { return };
        let idle = self.records.for_room(&images, &ctx.config.eviction.images, now);
        self.remove(idle, u64::MAX).await;
    }

    async fn note(&mut self, now: Duration) -> Option<Vec<Image>> {
        let mut named = BTreeSet::new();
        for pod in self.pods.active() {
            let Some(spec) = &pod.spec else { continue };
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            named.extend(containers.filter_map(|c| c.image.clone()));
            named.extend(spec.ephemeral_containers.iter().flatten().filter_map(|c| c.image.clone()));
            let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.clone());
            named.extend(volumes);
        }
        let named: Vec<String> = named.into_iter().collect();
        match self.ctx.puller.images().held(&named).await {
            Ok(images) => {
                self.records.note(&images, now);
                Some(images)
            }
            Err(error) => {
                tracing::warn!(error = %base::chain(&error), "images not listed");
                None
            }
        }
    }

    /// Removes one after another until so much is won back. Answers how much that was.
    async fn remove(&self, ids: Vec<String>, bytes: u64) -> u64 {
        let mut freed = 0u64;
        for id in ids {
            if freed >= bytes {
                break;
            }
            match self.ctx.puller.images().remove(&id).await {
                Ok(more) => {
                    tracing::info!(image = id, bytes = more, "an unused image was removed");
                    freed = freed.saturating_add(more);
                }
                // Somebody may have begun to use it.
                Err(error) => tracing::debug!(image = id, error = %base::chain(&error), "image not removed"),
            }
        }
        freed
    }
}
