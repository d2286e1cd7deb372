//! Requests and limits as cgroup settings.

use crate::huge_pages;
use api::quantity::Quantity;
use engine::runtime::{MemoryQos, Resources};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use reconcile::memoryqos;
use reconcile::pod::{QosClass, Role, each, oom_score_adj, qos_class};

const PERIOD_US: i64 = 100_000;
/// The kernel takes no less.
const MIN_QUOTA_US: i64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// Amounts of one container or pod; `None` is not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amounts {
    cpu_request: i64,
    cpu_limit: Option<i64>,
    memory_limit: Option<i64>,
}

fn amounts(r: Option<&ResourceRequirements>) -> Amounts {
    let get =
        |list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
         name: &str| list?.get(name).and_then(|q| Quantity::parse(&q.0).ok());
    let (limits, requests) = (r.and_then(|r| r.limits.as_ref()), r.and_then(|r| r.requests.as_ref()));
    let cpu_limit = get(limits, "cpu").map(Quantity::milli_value).filter(|v| *v > 0);
    Amounts {
        cpu_request: get(requests, "cpu").map(Quantity::milli_value).or(cpu_limit).unwrap_or(0),
        cpu_limit,
        memory_limit: get(limits, "memory").map(Quantity::value).filter(|v| *v > 0),
    }
}

fn settings(a: Amounts) -> Resources {
    let shares = u64::try_from(a.cpu_request).unwrap_or(0) * 1024 / 1000;
    Resources {
        cpu_shares: Some(shares.clamp(MIN_SHARES, MAX_SHARES)),
        cpu_quota_us: a.cpu_limit.map(|milli| (milli * PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_period_us: a.cpu_limit.map(|_| PERIOD_US.unsigned_abs()),
        memory_limit_bytes: a.memory_limit,
        pids_limit: None,
        oom_score_adj: None,
        cpus: None,
        huge_pages: Vec::new(),
        memory_qos: None,
    }
}

/// The same in the engine's words.
pub(crate) fn memory_qos(s: memoryqos::Settings) -> MemoryQos {
    MemoryQos { high: s.high, min: s.min, low: s.low }
}

/// The settings of a container. One without a limit of its own has the pod's (KEP-2837): what it may use is what it sees in
/// its cgroup.
pub(crate) fn of_container(pod: &Pod, c: &Container, node_memory: u64) -> Resources {
    let adj = oom_score_adj(pod, c, node_memory);
    let (own, whole) = (amounts(c.resources.as_ref()), amounts(pod.spec.as_ref().and_then(|s| s.resources.as_ref())));
    let limited = Amounts {
        cpu_limit: own.cpu_limit.or(whole.cpu_limit),
        memory_limit: own.memory_limit.or(whole.memory_limit),
        ..own
    };
    let whole = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let huge_pages = huge_pages::limits_of(c.resources.as_ref(), whole, huge_pages::sizes());
    Resources { oom_score_adj: Some(adj), huge_pages, ..settings(limited) }
}

/// Sum of two limits; unlimited when either is.
fn plus(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    Some(a?.saturating_add(b?))
}

/// The settings of a pod as a whole: its own resources, or the most its containers may use at one time. Ordinary
/// containers run beside all sidecars; an init container beside the sidecars before it.
pub(crate) fn of_pod(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let own = amounts(spec.resources.as_ref());
    let mut sidecars = Amounts { cpu_limit: Some(0), memory_limit: Some(0), cpu_request: 0 };
    let mut most = sidecars;
    let mut main = sidecars;
    let add = |to: &mut Amounts, a: Amounts| {
        to.cpu_request = to.cpu_request.saturating_add(a.cpu_request);
        to.cpu_limit = plus(to.cpu_limit, a.cpu_limit);
        to.memory_limit = plus(to.memory_limit, a.memory_limit);
    };
    let raise = |to: &mut Amounts, a: Amounts| {
        to.cpu_request = to.cpu_request.max(a.cpu_request);
        to.cpu_limit = to.cpu_limit.zip(a.cpu_limit).map(|(x, y)| x.max(y));
        to.memory_limit = to.memory_limit.zip(a.memory_limit).map(|(x, y)| x.max(y));
    };
    for (role, c) in each(spec) {
        let a = amounts(c.resources.as_ref());
        match role {
            Role::Sidecar => add(&mut sidecars, a),
            Role::Main => add(&mut main, a),
            // They have no resources of their own.
            Role::Ephemeral => {}
            Role::Init => {
                let mut beside = sidecars;
                add(&mut beside, a);
                raise(&mut most, beside);
            }
        }
    }
    add(&mut main, sidecars);
    raise(&mut most, main);
    if own.cpu_request > 0 {
        most.cpu_request = own.cpu_request;
    }
    most.cpu_limit = own.cpu_limit.or(most.cpu_limit);
    most.memory_limit = own.memory_limit.or(most.memory_limit);
    Resources { huge_pages: huge_pages::limits_of_pod(pod, huge_pages::sizes()), ..settings(most) }
}

/// Of two settings the wider one in everything: what both fit into.
pub(crate) fn wider(a: &Resources, b: &Resources) -> Resources {
    let quota = a.cpu_quota_us.zip(b.cpu_quota_us).map(|(x, y)| x.max(y));
    Resources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| PERIOD_US.unsigned_abs()),
        memory_limit_bytes: a.memory_limit_bytes.zip(b.memory_limit_bytes).map(|(x, y)| x.max(y)),
        pids_limit: a.pids_limit.zip(b.pids_limit).map(|(x, y)| x.max(y)),
        oom_score_adj: b.oom_score_adj,
        cpus: b.cpus.clone(),
        // They are never resized.
        huge_pages: b.huge_pages.clone(),
        memory_qos: b.memory_qos,
    }
}

/// The cgroup of a pod below the instance's.
pub(crate) fn cgroup(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos_class(pod) {
        QosClass::Guaranteed => format!("pod{uid}"),
        QosClass::Burstable => format!("burstable/pod{uid}"),
        QosClass::BestEffort => format!("besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn a_container_gets_shares_quota_and_memory() {
        let p = pod(json!({"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}]}));
        let c = &p.spec.as_ref().expect("spec").containers[0];
        let r = of_container(&p, c, 1 << 30);
        assert_eq!((r.cpu_shares, r.cpu_quota_us, r.cpu_period_us), (Some(256), Some(50_000), Some(100_000)));
        assert_eq!(r.memory_limit_bytes, Some(64 << 20));
        assert_eq!(cgroup(&p), "burstable/podu");
    }

    #[test]
    fn a_pod_with_amounts_of_its_own_limits_containers_that_have_none() {
        let p = pod(json!({
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "64Mi"}}}],
        }));
        let spec = p.spec.as_ref().expect("spec");
        let (a, b) = (of_container(&p, &spec.containers[0], 1 << 40), of_container(&p, &spec.containers[1], 1 << 40));
        assert_eq!((a.cpu_quota_us, a.memory_limit_bytes, a.cpu_shares), (Some(200_000), Some(1 << 30), Some(2)));
        assert_eq!((b.cpu_quota_us, b.memory_limit_bytes), (Some(200_000), Some(64 << 20)));
        let whole = of_pod(&p);
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us), (Some(1024), Some(200_000)));
        assert_eq!(whole.memory_limit_bytes, Some(1 << 30));
    }

    #[test]
    fn a_pod_is_limited_only_when_all_its_containers_are() {
        let limited = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let p = pod(json!({"containers": [{"name": "a", "resources": limited}, {"name": "b"}]}));
        assert_eq!((of_pod(&p).cpu_quota_us, of_pod(&p).memory_limit_bytes), (None, None));
        let p = pod(json!({
            "initContainers": [{"name": "i", "resources": {"limits": {"cpu": "5", "memory": "1Gi"}}}],
            "containers": [{"name": "a", "resources": limited}, {"name": "b", "resources": limited}],
        }));
        assert_eq!((of_pod(&p).cpu_quota_us, of_pod(&p).memory_limit_bytes), (Some(500_000), Some(2 << 30)));
        assert_eq!(cgroup(&p), "podu");
        assert_eq!(of_pod(&pod(json!({"containers": [{"name": "a"}]}))).cpu_shares, Some(2));
    }
}
