//! Amounts of CPU, memory and countable things.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Typed;

/// Amounts by resource name; CPU in thousandths, everything else in units. In order of the names, of which there are few:
/// every pod that runs has such a list in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts(Vec<(Cow<'static, str>, i64)>);

/// A name that nearly every pod has costs no memory of its own.
fn known(resource: &str) -> Cow<'static, str> {
    match resource {
        "cpu" => "cpu".into(),
        "memory" => "memory".into(),
        "pods" => "pods".into(),
        "ephemeral-storage" => "ephemeral-storage".into(),
        other => other.to_owned().into(),
    }
}

/// Whether a resource is one that Kubernetes knows nothing of but its amount: its name has a domain.
pub fn is_extended(resource: &str) -> bool {
    resource.contains('/')
}

fn amount(resource: &str, q: &Typed) -> i64 {
    let Ok(q) = Quantity::parse(&q.0) else { return 0 };
    if resource == "cpu" { q.milli_value() } else { q.value() }
}

impl Amounts {
    /// What a node can give.
    pub fn allocatable(node: &Node) -> Self {
        let status = node.status.as_ref();
        let map = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        map.map_or_else(Amounts::default, Amounts::of_list)
    }

    /// The amounts of a resource list.
    pub fn of_list(list: &BTreeMap<String, Typed>) -> Self {
        // The map is in order of its keys.
        Amounts(list.iter().map(|(k, v)| (known(k), amount(k, v))).collect())
    }

    /// With the extended resources of a node, which others than the node itself count: whoever patches its status.
    #[must_use]
    pub fn with_extended(mut self, node: &Node) -> Self {
        let all = Amounts::allocatable(node);
        self.add(&Amounts(all.0.into_iter().filter(|(name, _)| is_extended(name)).collect()));
        self
    }

    fn requests(resources: Option<&ResourceRequirements>) -> Self {
        let map = resources.and_then(|r| r.requests.as_ref());
        map.map_or_else(Amounts::default, Amounts::of_list)
    }

    /// The amount of a resource, to be changed; 0 when it was not in the list.
    fn of_mut(&mut self, resource: &str) -> &mut i64 {
        let at = match self.0.binary_search_by(|(name, _)| name.as_ref().cmp(resource)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (known(resource), 0));
                at
            }
        };
        &mut self.0[at].1
    }

    /// What a pod needs at its most: its containers and sidecars together, or an init container with the sidecars before
    /// it, plus overhead (KEP-753). One pod counts as one of `pods`. While a pod is being resized, a container counts
    /// with the more of what it asks for and what it has (KEP-1287).
    pub fn of_pod(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let main = status.and_then(|s| s.container_statuses.as_ref());
        let init = status.and_then(|s| s.init_container_statuses.as_ref());
        let pending = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let infeasible =
            pending.into_iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"));
        let held = |name: &str| {
            let all = main.into_iter().flatten().chain(init.into_iter().flatten());
            let found = all.into_iter().find(|c| c.name == name)?.allocated_resources.as_ref()?;
            Some(Amounts::of_list(found))
        };
        let more = |mut asked: Amounts, held: Option<Amounts>| match held {
            Some(held) if infeasible => held,
            Some(held) => {
                asked.raise_to(&held);
                asked
            }
            None => asked,
        };
        let of_whole = status.and_then(|s| s.allocated_resources.as_ref()).map(Amounts::of_list);
        let whole = more(Amounts::requests(pod.spec.as_ref().and_then(|s| s.resources.as_ref())), of_whole);
        Amounts::of(pod, whole, |c| more(Amounts::requests(c.resources.as_ref()), held(&c.name)))
    }

    /// What a pod asks for, whatever it has.
    pub fn asked_by(pod: &Pod) -> Self {
        let whole = Amounts::requests(pod.spec.as_ref().and_then(|s| s.resources.as_ref()));
        Amounts::of(pod, whole, |c| Amounts::requests(c.resources.as_ref()))
    }

    /// From the amounts of the pod as a whole and those of its containers.
    fn of(pod: &Pod, whole: Amounts, of: impl Fn(&Container) -> Amounts) -> Self {
        let Some(spec) = &pod.spec else { return Amounts::default() };
        let mut running = Amounts::default();
        spec.containers.iter().for_each(|c| running.add(&of(c)));
        let mut sidecars = Amounts::default();
        let mut peak = Amounts::default();
        for c in spec.init_containers.iter().flatten() {
            if c.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&of(c));
                peak.raise_to(&sidecars);
            } else {
                let mut at = sidecars.clone();
                at.add(&of(c));
                peak.raise_to(&at);
            }
        }
        running.add(&sidecars);
        running.raise_to(&peak);
        for (k, v) in whole.0 {
            *running.of_mut(&k) = v;
        }
        for (k, v) in spec.overhead.iter().flatten() {
            *running.of_mut(k) += amount(k, v);
        }
        *running.of_mut("pods") = 1;
        running.0.shrink_to_fit();
        running
    }

    /// Adds another.
    pub fn add(&mut self, other: &Amounts) {
        for (k, v) in &other.0 {
            let own = self.of_mut(k);
            *own = own.saturating_add(*v);
        }
    }

    /// Takes another away.
    pub fn subtract(&mut self, other: &Amounts) {
        for (k, v) in &other.0 {
            let own = self.of_mut(k);
            *own = own.saturating_sub(*v);
        }
    }

    fn raise_to(&mut self, other: &Amounts) {
        for (k, v) in &other.0 {
            let own = self.of_mut(k);
            *own = (*own).max(*v);
        }
    }

    /// The amount of one resource; CPU in thousandths.
    pub fn get(&self, resource: &str) -> i64 {
        self.0.iter().find(|(name, _)| name == resource).map_or(0, |(_, amount)| *amount)
    }

    /// The names of the resources, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    /// What is missing on a node, in Kubernetes' words.
    pub fn short_of(&self, capacity: &Amounts, used: &Amounts) -> Vec<String> {
        let mut short = Vec::new();
        for (resource, wanted) in &self.0 {
            if *wanted > 0 && *wanted > capacity.get(resource) - used.get(resource) {
                short.push(if resource == "pods" {
                    "Too many pods".into()
                } else {
                    format!("Insufficient {resource}")
                });
            }
        }
        short
    }

    /// The share of CPU and memory left once this is placed, 0 to 100.
    pub fn free_share_after(&self, capacity: &Amounts, used: &Amounts) -> i64 {
        let share = |resource: &str| {
            let all = capacity.get(resource);
            let free = all - used.get(resource) - self.get(resource);
            if all > 0 { free.max(0).saturating_mul(100) / all } else { 0 }
        };
        (share("cpu") + share("memory")) / 2
    }
}
