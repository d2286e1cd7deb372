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

/// What the names of huge pages begin with; their size follows.
const HUGE_PAGES: &str = "hugepages-";

/// Bytes of a page of a resource that counts huge pages; 0 bytes are none.
fn huge_page_size(resource: &str) -> Option<i64> {
    let size = Quantity::parse(resource.strip_prefix(HUGE_PAGES)?).ok()?.value();
    (size > 0).then_some(size)
}

/// Whether more of the resource may be promised than there is.
fn overcommits(resource: &str) -> bool {
    !is_extended(resource) && !resource.starts_with(HUGE_PAGES)
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
            let Some(q) = check.quantity(value, &at) else { continue };
            if is_extended(resource) && !q.is_integer() {
                check.invalid(at.clone(), q.to_string(), "must be an integer");
            }
            if huge_page_size(resource).is_some_and(|size| !q.is_integer() || q.value() % size != 0 || q.value() < size)
            {
                let why = format!("{q} is not positive integer multiple of {resource}");
                check.invalid(at, q.to_string(), why);
            }
        }
    }
    let either = || limits.keys().chain(requests.keys());
    let compute = either().any(|name| matches!(name.as_str(), "cpu" | "memory"));
    if !compute && either().any(|name| name.starts_with(HUGE_PAGES)) {
        check.forbidden(field.clone(), "HugePages require cpu or memory");
    }
    for (resource, request) in requests {
        let (Ok(request), limit) = (Quantity::from_json(request), limits.get(resource)) else { continue };
        let Some(Ok(limit)) = limit.map(Quantity::from_json) else {
            if !overcommits(resource) && !limits.contains_key(resource) {
                check.required(format!("{field}.limits"), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let at = format!("{field}.requests");
        if request != limit && !overcommits(resource) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn huge_pages_come_whole_and_beside_cpu_or_memory() {
        let told = |resources: Value| -> Vec<String> {
            let mut check = Check::default();
            validate_requirements(&mut check, &json!({"resources": resources}), "c");
            check.errors.iter().map(ToString::to_string).collect()
        };
        let pages = |n: &str| json!({"hugepages-2Mi": n, "memory": "1Mi"});
        assert_eq!(told(json!({"limits": pages("4Mi"), "requests": pages("4Mi")})), [""; 0]);
        for (resources, expected) in [
            (
                json!({"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "4Mi"}}),
                "c.resources: Forbidden: HugePages require cpu or memory",
            ),
            (
                json!({"limits": pages("3Mi")}),
                "c.resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ),
            (
                json!({"limits": pages("0")}),
                "c.resources.limits[hugepages-2Mi]: Invalid value: \"0\": 0 is not positive integer multiple of hugepages-2Mi",
            ),
            (
                json!({"limits": pages("4Mi"), "requests": pages("2Mi")}),
                "c.resources.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi limit of 4Mi",
            ),
            (
                json!({"requests": pages("2Mi")}),
                "c.resources.limits: Required value: Limit must be set for non overcommitable resources",
            ),
        ] {
            assert_eq!(told(resources), [expected]);
        }
    }
}
