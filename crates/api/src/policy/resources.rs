//! What a pod asks for as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{list_at, map_at, str_at};
use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which of a container's two resource lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `resources.requests`.
    Requests,
    /// `resources.limits`.
    Limits,
}

impl List {
    /// The field's name.
    pub fn field(self) -> &'static str {
        match self {
            List::Requests => "requests",
            List::Limits => "limits",
        }
    }
}

/// The amounts in a resource list; what cannot be read is left to validation.
pub fn amounts(list: Option<&serde_json::Map<String, Value>>) -> Amounts {
    list.into_iter().flatten().filter_map(|(name, v)| Some((name.clone(), Quantity::from_json(v).ok()?))).collect()
}

/// One list of a container.
pub fn of_container(container: &Value, list: List) -> Amounts {
    amounts(map_at(container, &["resources", list.field()]))
}

/// Adds every amount of `more`; a sum that does not fit stays at what it was, which is beyond any limit there is.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = entry.checked_add(*amount).unwrap_or(*entry);
    }
}

fn take_greater(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        match most.get_mut(name) {
            Some(have) if *have >= *amount => {}
            _ => drop(most.insert(name.clone(), *amount)),
        }
    }
}

/// What a pod needs at its peak: all containers and sidecars together, or an init container with the sidecars started before
/// it; pod-level CPU and memory instead of the sum where given.
pub fn of_pod(pod: &Value, list: List) -> Amounts {
    let mut sum = Amounts::new();
    for container in list_at(pod, &["spec", "containers"]) {
        add(&mut sum, &of_container(container, list));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in list_at(pod, &["spec", "initContainers"]) {
        let mut own = of_container(container, list);
        if str_at(container, &["restartPolicy"]) == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        take_greater(&mut peak, &own);
    }
    take_greater(&mut sum, &peak);
    for (name, amount) in amounts(map_at(pod, &["spec", "resources", list.field()])) {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    sum
}

/// The same with the overhead of the pod's runtime class, which counts towards limits only where there is one.
pub fn with_overhead(pod: &Value, list: List) -> Amounts {
    let mut sum = of_pod(pod, list);
    let mut overhead = amounts(map_at(pod, &["spec", "overhead"]));
    if list == List::Limits {
        overhead.retain(|name, _| sum.get(name).is_some_and(|q| q.signum() > 0));
    }
    add(&mut sum, &overhead);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_by_their_sum() {
        let cpu = |n: &str| json!({"requests": {"cpu": n}});
        let pod = json!({"spec": {
            "containers": [{"resources": cpu("100m")}, {"resources": cpu("200m")}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": cpu("50m")},
                {"resources": cpu("1")},
            ],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        assert_eq!(of_pod(&pod, List::Requests)["cpu"].to_string(), "1050m");
        let all = with_overhead(&pod, List::Requests);
        assert_eq!((all["cpu"].to_string(), all["memory"].to_string()), ("1060m".into(), "1Mi".into()));
        assert!(with_overhead(&pod, List::Limits).is_empty());
    }

    #[test]
    fn amounts_of_the_pod_itself_win() {
        let pod = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "1", "example.com/x": "1"}}}],
            "resources": {"requests": {"cpu": "3"}},
        }});
        let sum = of_pod(&pod, List::Requests);
        assert_eq!((sum["cpu"].value(), sum["example.com/x"].value()), (3, 1));
    }
}
