//! Status and conditions of a Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::{State, available_replicas, progress_deadline, status_replicas};
use crate::plan::{DEPLOYMENTS, Plan, name};
use crate::pods;
use crate::replicas::REPLICA_FAILURE;

/// Adds the status patch, and asks to look again when the progress deadline decides something.
pub(super) fn sync(state: &State<'_>, now: Timestamp, plan: &mut Plan) {
    let old = state.d.status.clone().unwrap_or_default();
    let mut status = counts(state);
    status.collision_count = old.collision_count;
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let (_, missing) = state.bounds();
    let available = status.available_replicas.unwrap_or(0);
    if available >= state.replicas() - missing {
        let message = "Deployment has minimum availability.";
        set(&mut conditions, "Available", "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set(&mut conditions, "Available", "False", "MinimumReplicasUnavailable", message, now);
    }
    // What keeps a set from making pods is told here, too: people look at the Deployment.
    let refused = state.all().find_map(|rs| {
        let conditions = rs.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == REPLICA_FAILURE.0 && c.status == "True")
    });
    conditions.retain(|c| c.type_ != REPLICA_FAILURE.0 || refused.is_some());
    if let Some(c) = refused {
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        set(&mut conditions, REPLICA_FAILURE.0, "True", &text(&c.reason), &text(&c.message), now);
    }
    progressing(state, &old, &status, &mut conditions, now, plan);
    status.conditions = Some(conditions);
    plan.set_status(DEPLOYMENTS, &state.d.metadata, state.d.status.as_ref(), &status);
}

fn counts(state: &State<'_>) -> DeploymentStatus {
    let some = |n: i32| (n > 0).then_some(n);
    let replicas: i32 = state.all().map(status_replicas).sum();
    let available: i32 = state.all().map(available_replicas).sum();
    let total: i32 = state.all().map(super::spec_replicas).sum();
    let ready = state.all().map(|rs| rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)).sum();
    let leaving = state.all().map(|rs| rs.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0)).sum();
    DeploymentStatus {
        observed_generation: state.d.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(state.new.map_or(0, status_replicas)),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: Some(leaving),
        collision_count: None,
        conditions: None,
    }
}

fn progressing(
    state: &State<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let Some(deadline) = progress_deadline(state.d) else {
        conditions.retain(|c| c.type_ != "Progressing");
        return;
    };
    let current = conditions.iter().find(|c| c.type_ == "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
    if state.paused() {
        if reason != "DeploymentPaused" {
            set(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return;
    }
    if reason == "DeploymentPaused" {
        set(conditions, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        return plan.requeue(deadline);
    }
    let subject = match state.new {
        Some(rs) => format!("ReplicaSet {:?}", name(&rs.metadata)),
        None => format!("Deployment {:?}", name(&state.d.metadata)),
    };
    let n = |v: Option<i32>| v.unwrap_or(0);
    let complete = n(new.updated_replicas) == state.replicas()
        && n(new.replicas) == state.replicas()
        && n(new.available_replicas) == state.replicas();
    if complete {
        let message = format!("{subject} has successfully progressed.");
        return set(conditions, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
    }
    // A finished rollout that lost a pod is not progressing again: it only does for a new template.
    if reason == "NewReplicaSetAvailable" && n(new.updated_replicas) == n(old.updated_replicas) && state.old_is_empty()
    {
        return;
    }
    let moved = n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || current.is_none()
        || reason == "NewReplicaSetAvailable"
        || new.observed_generation != old.observed_generation;
    if moved {
        let message = format!("{subject} is progressing.");
        set(conditions, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        // Every step forward restarts the deadline, also when the words stay the same.
        if let Some(c) = conditions.iter_mut().find(|c| c.type_ == "Progressing") {
            c.last_update_time = Some(pods::time(now));
        }
        return plan.requeue(deadline);
    }
    let since = current.as_ref().and_then(|c| c.last_update_time.as_ref()).map_or(now, |t| t.0);
    let waited =
        std::time::Duration::from_millis(u64::try_from(now.as_millisecond() - since.as_millisecond()).unwrap_or(0));
    if waited >= deadline {
        let message = format!("{subject} has timed out progressing.");
        set(conditions, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
    } else {
        plan.requeue(deadline - waited);
    }
}

impl State<'_> {
    fn old_is_empty(&self) -> bool {
        self.old.iter().all(|rs| super::spec_replicas(rs) == 0)
    }
}

/// Sets a condition; times move only with what they time.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let old = conditions.iter().find(|c| c.type_ == type_);
    let same = old.is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason));
    if same && old.is_some_and(|c| c.message.as_deref() == Some(message)) {
        return;
    }
    let transition = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(pods::time(now)),
        last_transition_time: Some(transition.unwrap_or_else(|| pods::time(now))),
    };
    conditions.retain(|c| c.type_ != type_);
    conditions.push(condition);
}
