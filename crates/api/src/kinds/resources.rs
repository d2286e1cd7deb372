//! Resource lists: canonical quantities, container requirements, QoS classes.

use serde_json::{Map, Value};

use super::check::{Check, join};
use crate::json::{at, list_at, map_at};
use crate::quantity::Quantity;

/// Rewrites every quantity in the list under `key` in canonical form; malformed ones are left for validation.
pub(super) fn canonicalize_list(object: &mut Value, key: &str, round_up: bool) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_object_mut) {
        for value in list.values_mut() {
            canonicalize(value, round_up);
        }
    }
}

/// Rewrites one quantity in canonical form; resource lists also round up to thousandths, as Kubernetes does.
pub(super) fn canonicalize(value: &mut Value, round_up: bool) {
    if let Ok(q) = Quantity::from_json(value) {
        *value = if round_up { q.round_up_milli() } else { q }.to_string().into();
    }
}

/// Canonical limits and requests of a `resources` object.
pub(super) fn default_requirements(owner: &mut Value) {
    if let Some(resources) = owner.get_mut("resources") {
        canonicalize_list(resources, "limits", true);
        canonicalize_list(resources, "requests", true);
    }
}

/// Requests that are absent take the value of the limit.
pub(super) fn requests_from_limits(owner: &mut Value) {
    let Some(limits) = map_at(owner, &["resources", "limits"]).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = crate::json::ensure_object(&mut owner["resources"], "requests");
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Names without a domain that containers may ask for.
fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Names of countable devices: a domain that is not kubernetes.io's.
pub(super) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.split('/').next().is_some_and(|d| d == "kubernetes.io" || d.ends_with(".kubernetes.io"))
}

/// Checks the `resources` of a container or pod.
pub(super) fn validate_requirements(check: &mut Check, owner: &Value, field: &str) {
    let field = join(field, "resources");
    let empty = Map::new();
    let limits = map_at(owner, &["resources", "limits"]).unwrap_or(&empty);
    let requests = map_at(owner, &["resources", "requests"]).unwrap_or(&empty);
    for (list, name) in [(limits, "limits"), (requests, "requests")] {
        for (resource, value) in list {
            let at = format!("{field}.{name}[{resource}]");
            if !resource.contains('/') && !is_standard(resource) {
                let at = format!("{field}.{name}");
                check.invalid(at, resource.as_str(), "must be a standard resource type or fully qualified");
                continue;
            }
            check.syntax(&format!("{field}.{name}"), resource, crate::names::qualified_name(resource));
            if let Some(q) = check.quantity(value, &at)
                && is_extended(resource)
                && !q.is_integer()
            {
                check.invalid(at, q.to_string(), "must be an integer");
            }
        }
    }
    for (resource, request) in requests {
        let (Ok(request), limit) = (Quantity::from_json(request), limits.get(resource)) else { continue };
        let Some(Ok(limit)) = limit.map(Quantity::from_json) else {
            if is_extended(resource) && !limits.contains_key(resource) {
                check.required(format!("{field}.limits"), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let at = format!("{field}.requests");
        if request != limit && (is_extended(resource) || resource.starts_with("hugepages-")) {
            check.invalid(at, request.to_string(), format!("must be equal to {resource} limit of {limit}"));
        } else if request > limit {
            check.invalid(
                at,
                request.to_string(),
                format!("must be less than or equal to {resource} limit of {limit}"),
            );
        }
    }
}

/// The QoS class Kubernetes assigns a pod.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = at(pod, &["spec"]).unwrap_or(&Value::Null);
    let positive = |owner: &Value, list: &str, name: &str| {
        at(owner, &["resources", list, name]).and_then(|v| Quantity::from_json(v).ok()).filter(|q| q.signum() > 0)
    };
    let pod_level = map_at(spec, &["resources"]).is_some_and(|r| !r.is_empty());
    let owners: Vec<&Value> = if pod_level {
        vec![spec]
    } else {
        list_at(spec, &["containers"]).iter().chain(list_at(spec, &["initContainers"])).collect()
    };
    let mut any = false;
    let mut guaranteed = !owners.is_empty();
    for owner in owners {
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(owner, "requests", name), positive(owner, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
