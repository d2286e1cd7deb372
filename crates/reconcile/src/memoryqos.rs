//! Quality of service of memory on cgroups v2 (KEP-2570, as 1.36 has it): who is slowed down before memory runs out
//! (`memory.high`), and whose memory the kernel takes back last (`memory.low`) or never (`memory.min`).

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::pod::{QosClass, qos_class};
use crate::scheduler::Amounts;

/// What of it a node does. Without either of the two, nothing: as a kubelet without the feature.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Policy {
    /// How far between its request and its limit a container may come before it is slowed down: above 0, at most 1.
    pub throttling: Option<f64>,
    /// Requests are kept: those of guaranteed pods always, those of burstable ones as far as possible.
    pub reservation: bool,
}

impl Policy {
    /// Whether it can be meant so.
    ///
    /// # Errors
    /// In the kubelet's words.
    pub fn check(&self) -> Result<(), String> {
        match self.throttling {
            Some(factor) if !(factor > 0.0 && factor <= 1.0) => Err(format!(
                "invalid configuration: memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"
            )),
            _ => Ok(()),
        }
    }

    /// Whether it does anything.
    pub fn is_on(&self) -> bool {
        self.throttling.is_some() || self.reservation
    }
}

/// What is set on a cgroup, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `memory.high`; `None` for no such limit.
    pub high: Option<u64>,
    /// `memory.min`.
    pub min: u64,
    /// `memory.low`.
    pub low: u64,
}

fn memory(list: Option<&ResourceRequirements>, limit: bool) -> u64 {
    let list = list.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() });
    let amount = list.and_then(|l| Quantity::parse(&l.get("memory")?.0).ok());
    amount.and_then(|q| u64::try_from(q.value()).ok()).unwrap_or(0)
}

fn kept(policy: &Policy, class: QosClass, request: u64) -> Settings {
    match class {
        QosClass::Guaranteed if policy.reservation => Settings { min: request, ..Settings::default() },
        QosClass::Burstable if policy.reservation => Settings { low: request, ..Settings::default() },
        _ => Settings::default(),
    }
}

/// Of a container of a pod, on a node with so much memory for pods and pages of that size.
pub fn of_container(pod: &Pod, c: &Container, policy: &Policy, allocatable: u64, page: u64) -> Settings {
    let (own, whole) = (c.resources.as_ref(), pod.spec.as_ref().and_then(|s| s.resources.as_ref()));
    let request = memory(own, false);
    let limit = [memory(own, true), memory(whole, true)].into_iter().find(|bytes| *bytes > 0);
    let kept = kept(policy, qos_class(pod), request);
    // One that has all that it may use is not slowed down.
    let throttling = policy.throttling.filter(|_| request == 0 || limit != Some(request));
    let Some(factor) = throttling else { return kept };
    let most = limit.unwrap_or(allocatable);
    let high = high(request, most, factor, page);
    Settings { high: (high > request).then_some(high), ..kept }
}

/// A share of what lies between the two, whole pages.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^52 pages"
)]
fn high(request: u64, most: u64, factor: f64, page: u64) -> u64 {
    let above = most.saturating_sub(request) as f64 * factor;
    (request + above as u64) / page.max(1) * page.max(1)
}

/// Of a pod as a whole. It is never slowed down: its containers would be for one another.
pub fn of_pod(pod: &Pod, policy: &Policy) -> Settings {
    let request = u64::try_from(Amounts::of_pod(pod).get("memory")).unwrap_or(0);
    kept(policy, qos_class(pod), request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const MI: u64 = 1 << 20;
    const ON: Policy = Policy { throttling: Some(0.9), reservation: true };

    fn pod(resources: &Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})).expect("a pod")
    }

    fn container(resources: &Value, policy: &Policy) -> Settings {
        let pod = pod(resources);
        of_container(&pod, &pod.spec.as_ref().expect("spec").containers[0], policy, 1000 * MI, MI)
    }

    fn of(request: u64, limit: u64) -> Value {
        let list = |bytes: u64| match bytes {
            0 => json!({}),
            mi => json!({"memory": format!("{mi}Mi")}),
        };
        json!({"requests": list(request), "limits": list(limit)})
    }

    #[test]
    fn a_container_is_slowed_down_where_the_proposal_says() {
        // Its table, with a limit of 1000.
        for (request, high) in [(0, 900), (100, 910), (500, 950), (800, 980), (900, 990)] {
            assert_eq!(container(&of(request, 1000), &ON).high, Some(high * MI), "{request}");
        }
        assert_eq!(container(&of(500, 1000), &Policy { throttling: Some(0.6), ..ON }).high, Some(800 * MI));
        assert_eq!(container(&of(1000, 1000), &ON).high, None, "all is its own");
        assert_eq!(container(&of(500, 0), &ON).high, Some(950 * MI), "the node is the limit");
        assert_eq!(container(&of(0, 0), &ON).high, Some(900 * MI), "best effort");
        assert_eq!(container(&of(2000, 0), &ON).high, None, "more than there is");
        let odd = pod(&json!({"limits": {"memory": "1048577"}}));
        let c = &odd.spec.as_ref().expect("spec").containers[0];
        assert_eq!(of_container(&odd, c, &ON, 0, 4096).high, Some(942_080), "whole pages");
        assert_eq!(container(&of(0, 1000), &Policy { throttling: None, ..ON }).high, None);
    }

    #[test]
    fn requests_are_kept_always_or_as_far_as_possible() {
        let both = json!({"memory": "64Mi", "cpu": "1"});
        let guaranteed = json!({"requests": both, "limits": both});
        let kept = |s: Settings| (s.min, s.low);
        assert_eq!(kept(container(&guaranteed, &ON)), (64 * MI, 0));
        assert_eq!(kept(container(&of(64, 128), &ON)), (0, 64 * MI));
        assert_eq!(kept(container(&of(0, 0), &ON)), (0, 0));
        assert_eq!(kept(of_pod(&pod(&guaranteed), &ON)), (64 * MI, 0));
        assert_eq!(kept(of_pod(&pod(&of(64, 0)), &ON)), (0, 64 * MI));
        assert_eq!(of_pod(&pod(&of(64, 0)), &ON).high, None, "the containers have one each");
        let off = Policy { reservation: false, ..ON };
        assert_eq!(kept(container(&guaranteed, &off)), (0, 0));
        assert_eq!(of_pod(&pod(&guaranteed), &off), Settings::default());
    }

    #[test]
    fn a_container_without_a_limit_has_its_pods() {
        let json = json!({"spec": {"resources": {"limits": {"memory": "200Mi"}}, "containers": [{"name": "c"}]}});
        let pod: Pod = serde_json::from_value(json).expect("a pod");
        let c = &pod.spec.as_ref().expect("spec").containers[0];
        assert_eq!(of_container(&pod, c, &ON, 1000 * MI, MI).high, Some(180 * MI));
    }

    #[test]
    fn a_factor_is_a_share() {
        let with = |factor| Policy { throttling: Some(factor), reservation: false };
        assert!(with(1.0).check().is_ok() && with(0.1).check().is_ok() && Policy::default().check().is_ok());
        for wrong in [0.0, -1.0, 1.1, f64::NAN] {
            assert!(with(wrong).check().expect_err("refused").contains("memoryThrottlingFactor"), "{wrong}");
        }
        assert!(!Policy::default().is_on() && with(1.0).is_on());
    }
}
