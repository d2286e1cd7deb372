//! PodDisruptionBudget: how many of the selected pods may be evicted now.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::labels;
use crate::plan::{BUDGETS, Plan, controller, name, terminating};
use crate::pods;

/// How long an eviction that was allowed may take to become visible as a deletion (Kubernetes: two minutes).
const DELETION_MAX: Duration = Duration::from_secs(120);

/// The wanted number of the controller that owns pods. `None` if it is not known.
pub type Scale<'a> = dyn Fn(&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> Option<Controller> + 'a;

/// The topmost controller of a pod that has a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its UID: each is counted once.
    pub uid: String,
    /// The pods it wants.
    pub replicas: i32,
}

/// Decides for one budget, given every pod of its namespace and a way to ask controllers for their scale.
pub fn plan(budget: &PodDisruptionBudget, all_pods: &[&Pod], scale: &Scale<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &budget.spec else { return plan };
    if terminating(&budget.metadata) {
        return plan;
    }
    let selector = spec.selector.as_ref().map_or_else(labels::nothing, labels::selector);
    let mine: Vec<&Pod> = all_pods.iter().copied().filter(|p| labels::matches(&selector, &p.metadata)).collect();
    if mine.is_empty() {
        plan.event(BUDGETS, &budget.metadata, "Normal", "NoPods", "No matching pods found");
    }
    let by_scale = spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)));
    if by_scale && mine.iter().any(|p| controller(&p.metadata).is_none()) {
        let message = "some of the selected pods have no controller, so how many there should be is not known: \
            set .spec.minAvailable to a number to account for them";
        plan.event(BUDGETS, &budget.metadata, "Warning", "UnmanagedPods", message);
    }
    let old = budget.status.clone().unwrap_or_default();
    let status = match expected(spec, &mine, scale) {
        Ok((expected, desired)) => {
            let disrupted = still_disrupted(budget, &old, &mine, now, &mut plan);
            let healthy = mine
                .iter()
                .filter(|p| !terminating(&p.metadata) && !disrupted.contains_key(name(&p.metadata)) && pods::ready(p))
                .count();
            let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
            let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
            let reason = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            PodDisruptionBudgetStatus {
                conditions: Some(with_condition(budget, &old, reason, "", now)),
                current_healthy: Some(healthy),
                desired_healthy: Some(desired),
                disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
                disruptions_allowed: Some(allowed),
                expected_pods: Some(expected),
                observed_generation: budget.metadata.generation,
            }
        }
        Err(message) => {
            let reason = "CalculateExpectedPodCountFailed";
            let told = format!("Failed to calculate the number of expected pods: {message}");
            plan.event(BUDGETS, &budget.metadata, "Warning", reason, told);
            // What cannot be worked out is not allowed; the other numbers stay as they were.
            PodDisruptionBudgetStatus {
                conditions: Some(with_condition(budget, &old, ("False", "SyncFailed"), &message, now)),
                disruptions_allowed: Some(0),
                current_healthy: Some(old.current_healthy.unwrap_or(0)),
                desired_healthy: Some(old.desired_healthy.unwrap_or(0)),
                expected_pods: Some(old.expected_pods.unwrap_or(0)),
                observed_generation: budget.metadata.generation,
                ..old
            }
        }
    };
    plan.set_status(BUDGETS, &budget.metadata, budget.status.as_ref(), &status);
    plan
}

/// How many pods there should be, and how many of them must be healthy.
fn expected(spec: &PodDisruptionBudgetSpec, mine: &[&Pod], scale: &Scale<'_>) -> Result<(i32, i32), String> {
    let there = i32::try_from(mine.len()).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(missing), _) => {
            let expected = expected_scale(mine, scale)?;
            Ok((expected, (expected - pods::resolve(missing, expected, true)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((there, *least)),
        (None, Some(share)) => {
            let expected = expected_scale(mine, scale)?;
            Ok((expected, pods::resolve(share, expected, true)))
        }
        (None, None) => Ok((there, there)),
    }
}

/// The sum of what the controllers of the pods want. Pods without a controller say nothing of how many there should be.
fn expected_scale(mine: &[&Pod], scale: &Scale<'_>) -> Result<i32, String> {
    let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
    for pod in mine {
        let Some(owner) = controller(&pod.metadata) else { continue };
        let Some(found) = scale(owner) else {
            return Err(format!("found no controllers for pod {:?}", name(&pod.metadata)));
        };
        wanted.insert(found.uid, found.replicas);
    }
    Ok(wanted.values().sum())
}

/// Evictions that were allowed and are not yet seen as deletions. One that takes too long is taken back.
fn still_disrupted(
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    mine: &[&Pod],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut still = BTreeMap::new();
    for (pod, since) in old.disrupted_pods.iter().flatten() {
        let there = mine.iter().any(|p| name(&p.metadata) == pod && !terminating(&p.metadata));
        if !there {
            continue;
        }
        let waited = now.as_millisecond() - since.0.as_millisecond();
        let left = i64::try_from(DELETION_MAX.as_millis()).unwrap_or(i64::MAX) - waited;
        if left <= 0 {
            let message = format!("Pod {pod} was expected by PDB to be deleted but it wasn't");
            plan.event(BUDGETS, &budget.metadata, "Warning", "NotDeleted", message);
        } else {
            plan.requeue(Duration::from_millis(left.unsigned_abs()));
            still.insert(pod.clone(), since.clone());
        }
    }
    still
}

fn with_condition(
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    (status, reason): (&str, &str),
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    const TYPE: &str = "DisruptionAllowed";
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let before = conditions.iter().find(|c| c.type_ == TYPE);
    let since =
        before.filter(|c| c.status == status).map_or_else(|| pods::time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: TYPE.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.to_owned(),
        last_transition_time: since,
        observed_generation: budget.metadata.generation,
    };
    conditions.retain(|c| c.type_ != TYPE);
    conditions.push(condition);
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let mut full = json!({"selector": {"matchLabels": {"app": "a"}}});
        for (k, v) in spec.as_object().unwrap() {
            full[k] = v.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "d", "uid": "b", "generation": 3},
            "spec": full, "status": status}))
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Pod {
        let ready = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": "a"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
            "status": {"phase": "Running", "conditions": ready}}))
        .unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn status(b: &PodDisruptionBudget, pods: &[Pod], replicas: Option<i32>) -> Value {
        let scale = |o: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
            replicas.map(|replicas| Controller { uid: o.uid.clone(), replicas })
        };
        let p = plan(b, &pods.iter().collect::<Vec<_>>(), &scale, now());
        let patch = p.actions.iter().find_map(|a| match a {
            Action::Patch { subresource: Some("status"), patch, .. } => Some(patch["status"].clone()),
            _ => None,
        });
        patch.unwrap_or_default()
    }

    #[test]
    fn numbers_and_shares_leave_what_they_say() {
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let table = [
            // spec, expected, desired, allowed
            (json!({"minAvailable": 2}), 4, 2, 1),
            (json!({"minAvailable": "50%"}), 5, 3, 0),
            (json!({"maxUnavailable": 1}), 5, 4, 0),
            (json!({"maxUnavailable": "50%"}), 5, 2, 1),
            (json!({"minAvailable": 0}), 4, 0, 3),
        ];
        for (spec, expected, desired, allowed) in table {
            let s = status(&budget(spec.clone(), Value::Null), &pods, Some(5));
            let got = (&s["expectedPods"], &s["desiredHealthy"], &s["disruptionsAllowed"], &s["currentHealthy"]);
            assert_eq!(got, (&json!(expected), &json!(desired), &json!(allowed), &json!(3)), "{spec}");
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(
                (&s["conditions"][0]["reason"], &s["observedGeneration"]),
                (&json!(reason), &json!(3)),
                "{spec}"
            );
        }
    }

    #[test]
    fn an_eviction_under_way_counts_as_unhealthy_until_it_is_seen_or_given_up() {
        let pods = [pod("a", true), pod("b", true)];
        let at = |s: i64| Timestamp::from_second(1_700_000_000 - s).unwrap().to_string();
        let with = |t: String| {
            budget(
                json!({"minAvailable": 1}),
                json!({"currentHealthy": 0, "desiredHealthy": 0,
            "disruptionsAllowed": 0, "expectedPods": 0, "disruptedPods": {"a": t, "gone": at(5)}}),
            )
        };
        let fresh = status(&with(at(5)), &pods, None);
        assert_eq!((fresh["currentHealthy"].clone(), fresh.get("disruptionsAllowed")), (json!(1), None));
        assert_eq!(fresh["disruptedPods"], json!({"gone": null}));
        let late = status(&with(at(121)), &pods, None);
        assert_eq!(late["disruptionsAllowed"], 1);
        assert_eq!(late["disruptedPods"], Value::Null);
    }

    #[test]
    fn an_unknown_controller_allows_nothing() {
        let s = status(&budget(json!({"maxUnavailable": 1}), Value::Null), &[pod("a", true)], None);
        assert_eq!((&s["disruptionsAllowed"], &s["conditions"][0]["reason"]), (&json!(0), &json!("SyncFailed")));
    }
}
