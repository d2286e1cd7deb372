//! `podFailurePolicy`: what the failure of a pod means for its Job (KEP-3329).

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use crate::plan::{name, namespace};
use crate::pods;

/// The failure does not count.
pub(super) fn ignored(spec: &JobSpec, pod: &Pod) -> bool {
    rule(spec, pod).is_some_and(|r| r.action == "Ignore")
}

/// The failure ends the index of the pod.
pub(super) fn fails_index(spec: &JobSpec, pod: &Pod) -> bool {
    rule(spec, pod).is_some_and(|r| r.action == "FailIndex")
}

/// The failure ends the Job; the message says why.
pub(super) fn fails_job(spec: &JobSpec, pod: &Pod) -> Option<String> {
    let (at, rule) = indexed_rule(spec, pod)?;
    if rule.action != "FailJob" {
        return None;
    }
    let (ns, pod_name) = (namespace(&pod.metadata), name(&pod.metadata));
    Some(match failed_container(rule, pod) {
        Some((container, code)) => {
            format!(
                "Container {container} for pod {ns}/{pod_name} failed with exit code {code} matching FailJob rule at index {at}"
            )
        }
        None => format!("Pod {ns}/{pod_name} has a condition matching FailJob rule at index {at}"),
    })
}

fn rule<'a>(spec: &'a JobSpec, pod: &Pod) -> Option<&'a PodFailurePolicyRule> {
    indexed_rule(spec, pod).map(|(_, r)| r)
}

/// The first rule that fits decides.
fn indexed_rule<'a>(spec: &'a JobSpec, pod: &Pod) -> Option<(usize, &'a PodFailurePolicyRule)> {
    if pods::phase(pod) != "Failed" {
        return None;
    }
    let rules = spec.pod_failure_policy.as_ref()?.rules.iter().enumerate();
    rules.into_iter().find(|(_, r)| failed_container(r, pod).is_some() || has_condition(r, pod))
}

fn has_condition(rule: &PodFailurePolicyRule, pod: &Pod) -> bool {
    rule.on_pod_conditions.iter().flatten().any(|p| {
        let wanted = p.status.as_deref().unwrap_or("True");
        pods::condition(pod, &p.type_).is_some_and(|c| c.status == wanted)
    })
}

fn failed_container(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<(String, i32)> {
    let codes = rule.on_exit_codes.as_ref()?;
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(status.init_container_statuses.iter()).flatten();
    all.filter(|c| codes.container_name.as_ref().is_none_or(|n| *n == c.name)).find_map(|c| {
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = codes.values.contains(&code);
        let fits = match codes.operator.as_str() {
            "In" => listed,
            _ => code != 0 && !listed,
        };
        fits.then(|| (c.name.clone(), code))
    })
}
