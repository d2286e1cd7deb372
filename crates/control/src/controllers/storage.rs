//! Passes over what pods and people want of volumes beside binding claims to them: claims of a pod's own, and snapshots.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::jiff::Timestamp;
use reconcile::ephemeralvolume;
use reconcile::plan::{Plan, name, namespace, terminating};
use reconcile::volume::snapshot::{
    self, Around, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent, content_name,
};
use tokio_util::sync::CancellationToken;

use super::passes::refs;
use super::wiring::{every, to_itself};
use super::{Context, Pass};
use crate::actuator::ActError;
use crate::cache::{Key, Listener};

/// The claims that a pod wants of its own.
pub(super) fn own_claims(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(pod) = c.caches.pods.get(&ns, &name) else { return Ok(None) };
        for (volume, template) in ephemeralvolume::wanted(&pod) {
            let claim = ephemeralvolume::claim_name(&name, &volume.name);
            let found = c.caches.claims.get(&ns, &claim);
            let outcome = c.carry_out(ephemeralvolume::plan(&pod, volume, template, found.as_deref())).await;
            if let Err(ActError::Refused { source, .. }) = &outcome {
                let why = format!("create PVC {claim}: {}", base::chain(source.as_ref()));
                let mut plan = Plan::default();
                ephemeralvolume::failed(&pod, volume, &why, &mut plan);
                c.carry_out(plan).await?;
            }
            outcome?;
        }
        Ok(None)
    })
}

/// One snapshot.
pub(super) fn snapshot(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(snapshot) = c.caches.snapshots.get(&ns, &name) else { return Ok(None) };
        let claim = snapshot.spec.source.persistent_volume_claim_name.as_deref();
        let claim = claim.and_then(|claim| c.caches.claims.get(&ns, claim));
        let spec = claim.as_ref().and_then(|claim| claim.spec.as_ref());
        let volume = spec.and_then(|s| s.volume_name.as_deref()).and_then(|v| c.caches.volumes.get("", v));
        let storage_class =
            spec.and_then(|s| s.storage_class_name.as_deref()).and_then(|n| c.caches.classes.get("", n));
        let content = c.caches.snapshot_contents.get("", &content_name(&snapshot));
        let classes = c.caches.snapshot_classes.all();
        let waiting = || c.caches.claims.in_namespace(&ns).iter().any(|claim| snapshot::waits_for(claim, &name));
        let around = Around {
            claim: claim.as_deref(),
            volume: volume.as_deref(),
            storage_class: storage_class.as_deref(),
            content: content.as_deref(),
            classes: &refs(&classes),
            restoring: terminating(&snapshot.metadata) && waiting(),
        };
        c.carry_out(snapshot::plan(&snapshot, &around, Timestamp::now())).await
    })
}

/// One content of a snapshot.
pub(super) fn snapshot_content(c: Arc<Context>, (_, name): Key) -> Pass {
    Box::pin(async move {
        let Some(content) = c.caches.snapshot_contents.get("", &name) else { return Ok(None) };
        let snapshot = snapshot_of(&content).and_then(|(ns, name)| c.caches.snapshots.get(&ns, &name));
        c.carry_out(snapshot::plan_content(&content, snapshot.as_deref(), Timestamp::now())).await
    })
}

fn snapshot_of(content: &VolumeSnapshotContent) -> Option<Key> {
    let reference = &content.spec.volume_snapshot_ref;
    Some((reference.namespace.clone()?, reference.name.clone()?))
}

/// Lets go of a claim of which no snapshot is being taken.
pub(super) fn source_of_snapshots(c: &Context, claim: &PersistentVolumeClaim) -> Plan {
    // Before all of them are known, none can be said not to be there.
    if !c.caches.snapshots.is_synced() || claim.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
        return Plan::default();
    }
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    let volume = volume.and_then(|v| c.caches.volumes.get("", v));
    let snapshots = c.caches.snapshots.in_namespace(namespace(&claim.metadata));
    snapshot::plan_claim(claim, volume.as_deref(), &refs(&snapshots))
}

/// The snapshot that a claim's volume is to be made of, with its content.
pub(super) fn restored(
    c: &Context,
    claim: &PersistentVolumeClaim,
) -> (Option<Arc<VolumeSnapshot>>, Option<Arc<VolumeSnapshotContent>>) {
    let wanted = snapshot::restored(claim);
    let snapshot = wanted.and_then(|wanted| c.caches.snapshots.get(namespace(&claim.metadata), wanted));
    let content = snapshot.as_ref().and_then(|s| c.caches.snapshot_contents.get("", &content_name(s)));
    (snapshot, content)
}

/// The node where the volume of a claim has to be made, if it matters.
pub fn pinned(c: &Context, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> Option<String> {
    claim.spec.as_ref()?.data_source_ref.as_ref()?;
    let (_, content) = restored(c, claim);
    let volumes = c.caches.volumes.all();
    reconcile::volume::pinned(claim, class, &refs(&volumes), content.as_deref()).map(str::to_owned)
}

/// Follows snapshots, their contents and classes until `end`. Their kinds must be served.
pub async fn follow_snapshots(context: Arc<Context>, end: CancellationToken) {
    let (c, q) = (&context.caches, &context.queues);
    let classes = vec![classes_to_snapshots(&context)];
    c.snapshot_classes.follow(every(&context), classes, end.clone());
    let contents = vec![to_itself(&q.snapshot_contents), contents_to_snapshots(&context)];
    c.snapshot_contents.follow(every(&context), contents, end.clone());
    let both = async {
        c.snapshot_classes.wait_synced().await;
        c.snapshot_contents.wait_synced().await;
    };
    tokio::select! {
        () = end.cancelled() => return,
        () = both => {}
    }
    // A snapshot is not decided on before it is known which contents there are.
    let snapshots = vec![to_itself(&q.snapshots), snapshots_onward(&context)];
    c.snapshots.follow(every(&context), snapshots, end.clone());
    tokio::select! {
        () = end.cancelled() => return,
        () = c.snapshots.wait_synced() => {}
    }
    // Of what went while nobody looked, no change tells.
    for claim in c.claims.all() {
        if claim.metadata.finalizers.as_ref().is_some_and(|all| all.len() > 1) {
            q.claims.add(namespace(&claim.metadata), name(&claim.metadata));
        }
    }
}

/// To the snapshots of a claim that changes, and to the one that it is restored from.
pub(super) fn claims_to_snapshots(context: &Arc<Context>) -> Listener<PersistentVolumeClaim> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(claim)) = (weak.upgrade(), new.or(old)) else { return };
        let ns = namespace(&claim.metadata);
        for s in c.caches.snapshots.in_namespace(ns) {
            let of_it = s.spec.source.persistent_volume_claim_name.as_deref() == Some(name(&claim.metadata));
            if of_it || snapshot::restored(claim) == Some(name(&s.metadata)) {
                c.queues.snapshots.add(ns, name(&s.metadata));
            }
        }
    })
}

/// To the claims that a snapshot is of, and those that are made of it; and to its content.
fn snapshots_onward(context: &Arc<Context>) -> Listener<VolumeSnapshot> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(snapshot)) = (weak.upgrade(), new.or(old)) else { return };
        let ns = namespace(&snapshot.metadata);
        if let Some(claim) = &snapshot.spec.source.persistent_volume_claim_name {
            c.queues.claims.add(ns, claim);
        }
        for claim in c.caches.claims.in_namespace(ns) {
            if snapshot::waits_for(&claim, name(&snapshot.metadata)) {
                c.queues.claims.add(ns, name(&claim.metadata));
            }
        }
        c.queues.snapshot_contents.add("", &content_name(snapshot));
    })
}

fn contents_to_snapshots(context: &Arc<Context>) -> Listener<VolumeSnapshotContent> {
    let queue = context.queues.snapshots.clone();
    Box::new(move |old, new| {
        if let Some((ns, name)) = new.or(old).and_then(|content| snapshot_of(content)) {
            queue.add(&ns, &name);
        }
    })
}

fn classes_to_snapshots(context: &Arc<Context>) -> Listener<VolumeSnapshotClass> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, _| {
        let Some(c) = weak.upgrade() else { return };
        for snapshot in c.caches.snapshots.all() {
            c.queues.snapshots.add(namespace(&snapshot.metadata), name(&snapshot.metadata));
        }
    })
}
