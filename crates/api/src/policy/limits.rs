//! LimitRange: defaults for containers, and bounds for containers, pods and claims, in Kubernetes' words.

use serde_json::{Value, json};

use super::resources::{Amounts, List, amounts, of_container, of_pod};
use crate::json::{ensure_object, list_at, map_at, str_at};
use crate::quantity::Quantity;

/// Says which amounts were filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Gives the containers of a new pod the defaults of a LimitRange for what they leave open.
pub fn default_pod(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for item in items(range, "Container") {
        requests.extend(amounts(map_at(item, &["defaultRequest"])));
        limits.extend(amounts(map_at(item, &["default"])));
    }
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let mut said = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in crate::json::list_mut(pod, &["spec", list]) {
            let name = str_at(container, &["name"]).to_owned();
            for (list, defaults) in [("requests", &requests), ("limits", &limits)] {
                let set = fill(container, list, defaults);
                if !set.is_empty() {
                    said.push(format!("{} {} for {what} {name}", set.join(", "), &list[..list.len() - 1]));
                }
            }
        }
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        ensure_object(ensure_object(pod, "metadata"), "annotations")[ANNOTATION] = text.into();
    }
}

/// Sets what is absent and says which names that were.
fn fill(container: &mut Value, list: &str, defaults: &Amounts) -> Vec<String> {
    let missing: Vec<(&String, &Quantity)> = defaults
        .iter()
        .filter(|(name, _)| map_at(container, &["resources", list]).is_none_or(|have| !have.contains_key(*name)))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let target = ensure_object(ensure_object(container, "resources"), list);
    for (name, amount) in &missing {
        target[name.as_str()] = json!(amount.to_string());
    }
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn items<'a>(range: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    list_at(range, &["spec", "limits"]).iter().filter(move |item| str_at(item, &["type"]) == kind)
}

/// How a new pod breaks a LimitRange; empty when it does not.
pub fn check_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for item in list_at(range, &["spec", "limits"]) {
        match str_at(item, &["type"]) {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    for c in list_at(pod, &["spec", list]) {
                        let (requests, limits) = (of_container(c, List::Requests), of_container(c, List::Limits));
                        Bounds { kind: "Container", item, requests, limits }.check(&mut out);
                    }
                }
            }
            "Pod" => {
                let (requests, limits) = (of_pod(pod, List::Requests), of_pod(pod, List::Limits));
                Bounds { kind: "Pod", item, requests, limits }.check(&mut out);
            }
            _ => {}
        }
    }
    out
}

/// How a claim breaks a LimitRange; empty when it does not. Claims have requests only.
pub fn check_claim(claim: &Value, range: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = of_container(&claim["spec"], List::Requests);
    let mut out = Vec::new();
    for item in items(range, kind) {
        let bounds = Bounds { kind, item, requests: requests.clone(), limits: Amounts::new() };
        out.extend(bounds.each("min").filter_map(|(name, bound)| bounds.below(&name, bound)));
        for (name, bound) in bounds.each("max") {
            match requests.get(&name) {
                None => out.push(format!("maximum {name} usage per {kind} is {bound}.  No request is specified")),
                Some(have) if *have > bound => {
                    out.push(format!("maximum {name} usage per {kind} is {bound}, but request is {have}"));
                }
                Some(_) => {}
            }
        }
    }
    out
}

/// One item of a LimitRange against what something asks for.
struct Bounds<'a> {
    kind: &'static str,
    item: &'a Value,
    requests: Amounts,
    limits: Amounts,
}

impl Bounds<'_> {
    fn each(&self, key: &str) -> impl Iterator<Item = (String, Quantity)> + use<> {
        amounts(map_at(self.item, &[key])).into_iter()
    }

    fn check(&self, out: &mut Vec<String>) {
        out.extend(self.each("min").filter_map(|(name, bound)| self.below(&name, bound)));
        out.extend(self.each("max").filter_map(|(name, bound)| self.above(&name, bound)));
        out.extend(self.each("maxLimitRequestRatio").filter_map(|(name, bound)| self.ratio(&name, bound)));
    }

    fn below(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("minimum {name} usage per {} is {bound}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{rule}.  No request is specified")),
            (Some(request), _) if *request < bound => Some(format!("{rule}, but request is {request}")),
            (_, Some(limit)) if *limit < bound => Some(format!("{rule}, but limit is {limit}")),
            _ => None,
        }
    }

    fn above(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("maximum {name} usage per {} is {bound}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{rule}.  No limit is specified")),
            (_, Some(limit)) if *limit > bound => Some(format!("{rule}, but limit is {limit}")),
            (Some(request), _) if *request > bound => Some(format!("{rule}, but request is {request}")),
            _ => None,
        }
    }

    fn ratio(&self, name: &str, bound: Quantity) -> Option<String> {
        let rule = format!("{name} max limit to request ratio per {} is {bound}", self.kind);
        let some = |list: &Amounts| list.get(name).copied().filter(|q| q.signum() != 0);
        let Some(request) = some(&self.requests) else {
            return Some(format!("{rule}, but no request is specified or request is 0"));
        };
        let Some(limit) = some(&self.limits) else {
            return Some(format!("{rule}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > bound.as_f64()).then(|| format!("{rule}, but provided ratio is {ratio:.6}"))
    }
}

/// Several findings as Kubernetes joins them: one as it is, more in brackets, each once.
pub fn join(findings: Vec<String>) -> String {
    let mut once: Vec<String> = Vec::with_capacity(findings.len());
    for finding in findings {
        if !once.contains(&finding) {
            once.push(finding);
        }
    }
    match once.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", once.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    fn range(item: &Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    #[test]
    fn defaults_fill_what_is_open_and_say_so() {
        let range = range(
            &json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut pod = pod(&json!({"limits": {"cpu": "2"}}));
        default_pod(&mut pod, &range);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*resources, json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}}));
        let want = "LimitRanger plugin set: cpu request for container c; memory limit for container c";
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION], want);
    }

    #[test]
    fn bounds_are_worded_as_kubernetes_words_them() {
        let cases = [
            (
                json!({"min": {"cpu": "100m"}}),
                json!({}),
                "minimum cpu usage per Container is 100m.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (json!({"max": {"cpu": "1"}}), json!({}), "maximum cpu usage per Container is 1.  No limit is specified"),
            (
                json!({"max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "2"}, "requests": {"cpu": "500m"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            ),
        ];
        for (mut item, resources, want) in cases {
            item["type"] = "Container".into();
            assert_eq!(check_pod(&pod(&resources), &range(&item)), [want]);
        }
        let fits = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}});
        let item =
            json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": 2}});
        assert!(check_pod(&pod(&fits), &range(&item)).is_empty());
    }

    #[test]
    fn claims_are_bounded_by_their_request() {
        let range =
            range(&json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert!(check_claim(&claim("2Gi"), &range).is_empty());
        let want = "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi";
        assert_eq!(check_claim(&claim("3Gi"), &range), [want]);
        let want = "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi";
        assert_eq!(check_claim(&claim("1Mi"), &range), [want]);
    }
}
