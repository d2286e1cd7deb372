//! Disruption budgets on eviction, as Kubernetes' eviction subresource applies them.

use std::sync::Arc;

use api::kinds::registry;
use api::selectors::LabelSelector;
use api::status::ApiError;
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::handlers::Scope;
use crate::handlers::write::{Commit, RETRIES, Writer, encode_stored};

/// Evictions that a budget's controller has not yet seen; beyond, it is not keeping up.
const UNCONFIRMED_MAX: usize = 2000;
const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Takes one disruption from the budget of a pod, if it has one that counts now.
///
/// # Errors
/// 429 when the budget is used up, 500 when several budgets select the pod.
pub(crate) async fn take(writer: &Writer<'_>, pod: &Value) -> Result<(), ApiError> {
    let done = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
    if done || api::meta::is_deleting(pod) {
        return Ok(());
    }
    for _ in 0..RETRIES {
        let Some(entry) = budget(writer, pod)? else { return Ok(()) };
        let old = entry.value();
        if !counts(&old, pod) {
            return Ok(());
        }
        let new = less_one(&old, pod, writer)?;
        if writer.dry_run {
            return Ok(());
        }
        let kind =
            registry().by_resource("policy", "v1", "poddisruptionbudgets").ok_or_else(ApiError::path_not_found)?;
        let cache = writer.server.caches.of(kind);
        let scope = Scope { kind, cache, namespace: entry.namespace(), name: entry.name() };
        let stored = encode_stored(&new);
        if let Commit::Done(_) = writer.put(&scope, &scope.key(), stored, entry.revision, None).await? {
            return Ok(());
        }
    }
    Err(ApiError::timeout("couldn't update PodDisruptionBudget due to conflicts", 10))
}

/// The one budget that selects the pod.
fn budget(writer: &Writer<'_>, pod: &Value) -> Result<Option<Arc<Entry>>, ApiError> {
    let Some(cache) = writer.server.caches.by("policy", "poddisruptionbudgets") else { return Ok(None) };
    let selects = |entry: &Entry| {
        let budget = entry.value();
        let selector = LabelSelector::from_json(&budget["spec"]["selector"]);
        selector.is_ok_and(|s| s.matches_object(pod))
    };
    let mut found = cache.snapshot(api::meta::namespace(pod), None, 0, false, selects).entries;
    if found.len() > 1 {
        let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError { message: why.into(), ..ApiError::internal(why) });
    }
    Ok(found.pop())
}

/// Whether the eviction of the pod is a disruption: a pod that is not ready may be none, by the budget's policy.
fn counts(budget: &Value, pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    if ready {
        return true;
    }
    let number = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    let healthy = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
    budget["spec"]["unhealthyPodEvictionPolicy"] != "AlwaysAllow" && !healthy
}

/// The budget with one disruption less.
fn less_one(budget: &Value, pod: &Value, writer: &Writer<'_>) -> Result<Value, ApiError> {
    let name = api::meta::name(budget);
    let status = &budget["status"];
    let number = |key: &str| status[key].as_i64().unwrap_or(0);
    if number("observedGeneration") < api::meta::generation(budget) {
        return Err(busy(&format!("The disruption budget {name} is still being processed by the server."), 10));
    }
    let refuse = |why: &str| ApiError::forbidden("poddisruptionbudgets", "policy", name, why);
    if number("disruptionsAllowed") < 0 {
        return Err(refuse("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|m| m.len() > UNCONFIRMED_MAX) {
        return Err(refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if number("disruptionsAllowed") == 0 {
        let failed = status["conditions"].as_array().into_iter().flatten();
        let failed = failed.into_iter().find(|c| c["type"] == "DisruptionAllowed" && c["reason"] == "SyncFailed");
        let why = failed.and_then(|c| c["message"].as_str()).map(|m| format!(": {m}")).unwrap_or_default();
        return Err(busy(
            &format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently{why}",
                number("desiredHealthy"),
                number("currentHealthy"),
            ),
            0,
        ));
    }
    let mut new = budget.clone();
    api::meta::clear_resource_version(&mut new);
    let left = number("disruptionsAllowed") - 1;
    new["status"]["disruptionsAllowed"] = left.into();
    if !new["status"]["disruptedPods"].is_object() {
        new["status"]["disruptedPods"] = json!({});
    }
    new["status"]["disruptedPods"][api::meta::name(pod)] = writer.now_text().into();
    if left == 0 {
        for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "DisruptionAllowed" && condition["status"] != "False" {
                condition["status"] = "False".into();
                condition["reason"] = "InsufficientPods".into();
                condition["lastTransitionTime"] = writer.now_text().into();
            }
        }
    }
    Ok(new)
}

/// 429 with the budget as its cause; clients such as `kubectl drain` wait and try again.
fn busy(cause: &str, retry_after_s: u32) -> ApiError {
    let mut error = ApiError::too_many_requests(VIOLATION, retry_after_s);
    let details = error.details.get_or_insert_with(|| json!({}));
    details["causes"] = json!([{"reason": "DisruptionBudget", "message": cause}]);
    error
}

/// Marks a pod that is about to be evicted.
pub(crate) fn mark(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    });
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    match pod["status"]["conditions"].as_array_mut() {
        Some(list) => {
            list.retain(|c| c["type"] != "DisruptionTarget");
            list.push(condition);
        }
        None => pod["status"]["conditions"] = json!([condition]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unready_pods_count_by_the_budgets_policy() {
        let pod = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let budget = |policy: &str, healthy: i64| {
            json!({
                "spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"currentHealthy": healthy, "desiredHealthy": 2},
            })
        };
        for (policy, healthy, ready, want) in [
            ("IfHealthyBudget", 2, "True", true),
            ("IfHealthyBudget", 2, "False", false),
            ("IfHealthyBudget", 1, "False", true),
            ("AlwaysAllow", 1, "False", false),
            ("AlwaysAllow", 1, "True", true),
        ] {
            assert_eq!(counts(&budget(policy, healthy), &pod(ready)), want, "{policy} {healthy} {ready}");
        }
    }
}
