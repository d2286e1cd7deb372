//! Quality of service: the class of a pod and how soon the kernel's OOM killer takes its processes.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::critical::SYSTEM_CRITICAL;
use super::{Role, each};

/// The class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, and asks for as much.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

type List = Option<BTreeMap<String, Text>>;

fn amount(list: &List, resource: &str) -> i128 {
    let text = list.as_ref().and_then(|m| m.get(resource));
    text.and_then(|t| Quantity::parse(&t.0).ok()).map_or(0, |q| i128::from(q.milli_value()))
}

fn class_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> QosClass {
    let (mut guaranteed, mut asked) = (true, false);
    for r in all {
        for resource in ["cpu", "memory"] {
            let limit = r.map_or(0, |r| amount(&r.limits, resource));
            let request = r.map_or(0, |r| amount(&r.requests, resource));
            let request = if request == 0 { limit } else { request };
            asked |= request > 0;
            guaranteed &= limit > 0 && limit == request;
        }
    }
    match (asked, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// The class of a pod: from its own resources if it has them, else from its containers'.
pub fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = pod.spec.as_ref() else { return QosClass::BestEffort };
    match &spec.resources {
        Some(r) if r.limits.is_some() || r.requests.is_some() => class_of(std::iter::once(Some(r))),
        _ => class_of(each(spec).map(|(_, c)| c.resources.as_ref())),
    }
}

/// Thousandths of bytes asked for.
fn memory_request(r: Option<&ResourceRequirements>) -> i128 {
    r.map_or(0, |r| {
        let asked = amount(&r.requests, "memory");
        if asked == 0 { amount(&r.limits, "memory") } else { asked }
    })
}

/// What a pod asks for as a whole beyond what its containers ask for, in equal parts to those that run side by side
/// (KEP-2837).
fn share_of_rest(pod: &Pod) -> i128 {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.resources.is_some()) else { return 0 };
    let whole = memory_request(spec.resources.as_ref());
    let side_by_side = each(spec).filter(|(role, _)| *role != Role::Init);
    let (count, sum) =
        side_by_side.fold((0, 0), |(n, sum), (_, c)| (n + 1, sum + memory_request(c.resources.as_ref())));
    (whole - sum).max(0) / count.max(1)
}

/// `oom_score_adj` of a container on a node with that much memory: the kubelet's rule. A burstable container is the
/// safer the larger the part of the node's memory it asked for.
pub fn oom_score_adj(pod: &Pod, c: &Container, node_memory_bytes: u64) -> i32 {
    if pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= SYSTEM_CRITICAL) {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = (memory_request(c.resources.as_ref()) + share_of_rest(pod)) / 1000;
            let part = 1000 * request / i128::from(node_memory_bytes.max(1));
            i32::try_from((1000 - part).clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn pod(resources: &[(&str, &str, &str, &str)]) -> Pod {
        let list = |cpu: &str, memory: &str| {
            let mut m = BTreeMap::new();
            for (k, v) in [("cpu", cpu), ("memory", memory)] {
                if !v.is_empty() {
                    m.insert(k.to_owned(), Text(v.to_owned()));
                }
            }
            Some(m)
        };
        let containers = resources
            .iter()
            .map(|(rc, rm, lc, lm)| Container {
                resources: Some(ResourceRequirements {
                    requests: list(rc, rm),
                    limits: list(lc, lm),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            })
            .collect();
        Pod { spec: Some(PodSpec { containers, ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn classes() {
        assert_eq!(qos_class(&pod(&[("", "", "", "")])), QosClass::BestEffort);
        assert_eq!(qos_class(&pod(&[("1", "1Gi", "1000m", "1024Mi")])), QosClass::Guaranteed);
        assert_eq!(qos_class(&pod(&[("", "", "1", "1Gi")])), QosClass::Guaranteed);
        assert_eq!(qos_class(&pod(&[("100m", "", "", "")])), QosClass::Burstable);
        assert_eq!(qos_class(&pod(&[("1", "1Gi", "1", "1Gi"), ("", "", "", "")])), QosClass::Burstable);
    }

    #[test]
    fn oom_scores_follow_the_kubelets_formula() {
        let gib = 1u64 << 30;
        let p = pod(&[("100m", "1Gi", "", "")]);
        let c = &p.spec.as_ref().expect("spec").containers[0];
        assert_eq!(oom_score_adj(&p, c, 4 * gib), 750);
        assert_eq!(oom_score_adj(&p, c, gib), 3);
        assert_eq!(oom_score_adj(&p, c, 1 << 50), 999);
        let mut whole = pod(&[("", "512Mi", "", ""), ("", "", "", "")]);
        let spec = whole.spec.as_mut().expect("spec");
        let requests = Some(BTreeMap::from([("memory".to_owned(), Text("2560Mi".to_owned()))]));
        spec.resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
        let spec = whole.spec.as_ref().expect("spec");
        let of = |n: usize| oom_score_adj(&whole, &spec.containers[n], 4 * gib);
        assert_eq!((of(0), of(1)), (625, 750), "the rest of what the pod asks for is shared");
    }
}
