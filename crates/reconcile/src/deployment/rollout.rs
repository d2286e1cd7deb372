//! How many replicas each ReplicaSet of a Deployment should have now.

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::{State, available_replicas, lasting_replicas, revision, spec_replicas, status_replicas};
use crate::plan::{DEPLOYMENTS, Plan, REPLICA_SETS, name, terminating, uid};
use crate::pods;

/// Adds the scaling of this pass to the plan.
pub(super) fn scale(state: &State<'_>, plan: &mut Plan) {
    if state.paused() || is_scaling(state) {
        proportional(state, plan);
        return;
    }
    let Some(new) = state.new else { return };
    if state.recreate() {
        if scale_all_to_zero(state, plan) || old_pods_remain(state) {
            return;
        }
        set(state, new, state.replicas(), plan);
    } else {
        let target = new_set_replicas(state);
        if target != spec_replicas(new) {
            set(state, new, target, plan);
        } else {
            shrink_old(state, new, plan);
        }
    }
    clean_up(state, plan);
}

/// The new set may have what is still missing up to the wanted number plus the surge.
pub(super) fn new_set_replicas(state: &State<'_>) -> i32 {
    let wanted = state.replicas();
    let own = state.new.map_or(0, spec_replicas);
    if state.recreate() {
        let others: i32 = state.old.iter().map(|rs| spec_replicas(rs).max(status_replicas(rs))).sum();
        return if state.new.is_none() && (others > 0 || old_pods_remain(state)) { 0 } else { wanted };
    }
    if own > wanted {
        return wanted;
    }
    let (surge, _) = state.bounds();
    let total: i32 = state.all().map(spec_replicas).sum();
    let room = (wanted + surge - total).max(0);
    (own + room.min(wanted - own)).min(wanted)
}

fn old_pods_remain(state: &State<'_>) -> bool {
    let lives =
        |rs: &&ReplicaSet| state.pods.get(uid(&rs.metadata)).is_some_and(|p| p.iter().any(|p| !pods::finished(p)));
    state.old.iter().any(lives)
}

fn scale_all_to_zero(state: &State<'_>, plan: &mut Plan) -> bool {
    let mut any = false;
    for rs in state.old.iter().filter(|rs| spec_replicas(rs) > 0) {
        set(state, rs, 0, plan);
        any = true;
    }
    any
}

/// Takes from the old sets what availability allows: first what is not healthy anyway, then the oldest.
fn shrink_old(state: &State<'_>, new: &ReplicaSet, plan: &mut Plan) {
    let (_, missing) = state.bounds();
    let min_available = state.replicas() - missing;
    let total: i32 = state.all().map(spec_replicas).sum();
    let new_unavailable = spec_replicas(new) - lasting_replicas(new);
    let mut room = total - min_available - new_unavailable;
    if room <= 0 {
        return;
    }
    let mut left: Vec<(&ReplicaSet, i32)> = state.old.iter().map(|rs| (*rs, spec_replicas(rs))).collect();
    for (rs, replicas) in &mut left {
        let unhealthy = (*replicas - available_replicas(rs)).max(0).min(room);
        *replicas -= unhealthy;
        room -= unhealthy;
    }
    let available: i32 = state.all().map(lasting_replicas).sum();
    let mut spare = (available - min_available).min(room);
    for (_, replicas) in &mut left {
        let taken = (*replicas).min(spare).max(0);
        *replicas -= taken;
        spare -= taken;
    }
    for (rs, replicas) in left {
        if replicas != spec_replicas(rs) {
            set(state, rs, replicas, plan);
        }
    }
}

/// The wanted number changed since the sets were last sized.
fn is_scaling(state: &State<'_>) -> bool {
    state.all().filter(|rs| spec_replicas(rs) > 0).any(|rs| {
        let desired = rs.metadata.annotations.iter().flatten().find(|(k, _)| *k == super::DESIRED);
        desired.and_then(|(_, v)| v.parse::<i32>().ok()).is_some_and(|n| n != state.replicas())
    })
}

/// While a rollout is under way (or paused), a change of the wanted number is spread over the sets by their size.
fn proportional(state: &State<'_>, plan: &mut Plan) {
    let mut sized: Vec<&ReplicaSet> = state.all().filter(|rs| spec_replicas(rs) > 0).collect();
    if sized.len() <= 1 {
        let Some(only) = sized.first().copied().or(state.new) else { return };
        set(state, only, state.replicas(), plan);
        return;
    }
    let allowed = if state.recreate() { state.replicas() } else { state.replicas() + state.bounds().0 };
    let total: i32 = sized.iter().map(|rs| spec_replicas(rs)).sum();
    let mut change = if state.replicas() == 0 { -total } else { allowed - total };
    let growing = change > 0;
    sized.sort_by_key(|rs| {
        let age = pods::created_ms(&rs.metadata);
        // Larger sets take the larger share; among equals newer grow first and older shrink first.
        (-spec_replicas(rs), if growing { -age } else { age })
    });
    let mut targets: Vec<(&ReplicaSet, i32)> = Vec::new();
    for rs in sized {
        let share = fraction(state, rs, allowed, total);
        let share = if growing { share.min(change).max(0) } else { share.max(change).min(0) };
        change -= share;
        targets.push((rs, spec_replicas(rs) + share));
    }
    if let Some(first) = targets.first_mut() {
        first.1 = (first.1 + change).max(0);
    }
    for (rs, target) in targets {
        set(state, rs, target.max(0), plan);
    }
}

/// What a set gains (or loses) when the Deployment may have `allowed` Pods: its size grows as the Deployment does, from
/// the number that it was sized for, to the nearest integer (deployment.kubernetes.io/max-replicas).
fn fraction(state: &State<'_>, rs: &ReplicaSet, allowed: i32, total: i32) -> i32 {
    let own = spec_replicas(rs);
    if state.replicas() == 0 {
        return -own;
    }
    let noted = rs.metadata.annotations.as_ref().and_then(|a| a.get(super::MAX)).and_then(|v| v.parse::<i64>().ok());
    let before = noted.filter(|n| *n > 0).unwrap_or_else(|| i64::from(total.max(1)));
    let size = (2 * i64::from(own) * i64::from(allowed) + before) / (2 * before);
    i32::try_from(size).unwrap_or(i32::MAX).saturating_sub(own)
}

/// Sizes one set and notes what it was sized for.
fn set(state: &State<'_>, rs: &ReplicaSet, replicas: i32, plan: &mut Plan) {
    let (surge, _) = state.bounds();
    let wanted = state.replicas();
    let notes = json!({super::DESIRED: wanted.to_string(), super::MAX: (wanted + surge).to_string()});
    let has = |key: &str| rs.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    let same_notes =
        has(super::DESIRED) == notes[super::DESIRED].as_str() && has(super::MAX) == notes[super::MAX].as_str();
    let before = spec_replicas(rs);
    if before == replicas && same_notes {
        return;
    }
    let meta = json!({"uid": rs.metadata.uid, "resourceVersion": rs.metadata.resource_version, "annotations": notes});
    plan.patch(REPLICA_SETS, &rs.metadata, json!({"metadata": meta, "spec": {"replicas": replicas}}));
    if before != replicas {
        let way = if replicas > before { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {} from {before} to {replicas}", name(&rs.metadata));
        plan.event(DEPLOYMENTS, &state.d.metadata, "Normal", "ScalingReplicaSet", message);
    }
}

/// Forgets the oldest empty sets beyond the history limit.
fn clean_up(state: &State<'_>, plan: &mut Plan) {
    let limit = state.d.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut empty: Vec<&ReplicaSet> = state
        .old
        .iter()
        .copied()
        .filter(|rs| {
            spec_replicas(rs) == 0
                && status_replicas(rs) == 0
                && !terminating(&rs.metadata)
                && rs.status.as_ref().and_then(|s| s.observed_generation) >= rs.metadata.generation
        })
        .collect();
    if state.old.len() <= limit {
        return;
    }
    empty.sort_by_key(|rs| revision(&rs.metadata));
    for rs in empty.into_iter().take(state.old.len() - limit) {
        plan.delete(REPLICA_SETS, &rs.metadata, Some("Background"));
    }
}
