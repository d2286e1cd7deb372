//! `persistentVolumeClaimRetentionPolicy`: who owns the claims decides when they go (KEP-1847). A claim that goes with the
//! set is owned by the set; one that goes when its pod is scaled away is then owned by that pod, and goes with it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::plan::{CLAIMS, PODS, Plan, STATEFUL_SETS, owner_reference, owners_patch, terminating, uid};

fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let delete = |s: Option<&str>| s == Some("Delete");
    policy.map_or((false, false), |p| (delete(p.when_deleted.as_deref()), delete(p.when_scaled.as_deref())))
}

/// The owner that a claim should have. `wanted`: its ordinal is one of those that the set asks for.
pub(super) fn wanted_owner(set: &StatefulSet, pod: Option<&Pod>, wanted: bool) -> Option<OwnerReference> {
    let (when_deleted, when_scaled) = policy(set);
    // The pod waits for nothing of its claims, so it must not be held by them.
    let loose = |mut o: OwnerReference| {
        o.block_owner_deletion = None;
        o.controller = None;
        o
    };
    if !wanted && when_scaled {
        return pod.map(|p| loose(owner_reference(PODS, &p.metadata)));
    }
    when_deleted.then(|| owner_reference(STATEFUL_SETS, &set.metadata))
}

/// Gives the claim the owner it should have; references of others stay.
pub(super) fn settle_owner(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: Option<&Pod>,
    wanted: bool,
    plan: &mut Plan,
) {
    if terminating(&claim.metadata) {
        return;
    }
    let has = claim.metadata.owner_references.clone().unwrap_or_default();
    let pod_uid = pod.map(|p| uid(&p.metadata));
    let ours = |o: &OwnerReference| o.uid == uid(&set.metadata) || Some(o.uid.as_str()) == pod_uid;
    let wanted = wanted_owner(set, pod, wanted);
    let right = |o: &OwnerReference| wanted.as_ref().is_some_and(|w| w.uid == o.uid);
    if has.iter().all(|o| !ours(o) || right(o)) && wanted.iter().all(|w| has.iter().any(|o| o.uid == w.uid)) {
        return;
    }
    let mut owners: Vec<OwnerReference> = has.into_iter().filter(|o| !ours(o)).collect();
    owners.extend(wanted);
    plan.patch(CLAIMS, &claim.metadata, owners_patch(&claim.metadata, &owners));
}
