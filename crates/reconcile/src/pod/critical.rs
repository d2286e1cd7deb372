//! Room for critical pods: which other pods a node ends so that one fits that it may not turn away. The rules are those of
//! the kubelet (pkg/kubelet/preemption): as few pods with guaranteed amounts as possible, then as few burstable ones, then
//! as few of the others; among as many, those that ask for less.

use k8s_openapi::api::core::v1::Pod;

use super::admission::Shortage;
use super::{QosClass, qos_class};
use crate::scheduler::Amounts;

/// The least priority of a critical pod.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Whether a node may not turn the pod away for lack of room: by its priority, or as it does not come from an API server.
pub fn is_critical(pod: &Pod) -> bool {
    let note = |key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    let elsewhere = note("kubernetes.io/config.source").is_some_and(|source| source != "api");
    elsewhere || note("kubernetes.io/config.mirror").is_some() || priority(pod).is_some_and(|p| p >= SYSTEM_CRITICAL)
}

fn priority(pod: &Pod) -> Option<i32> {
    pod.spec.as_ref().and_then(|s| s.priority)
}

fn may_end(pod: &Pod, other: &Pod) -> bool {
    let higher = priority(pod).zip(priority(other)).is_some_and(|(a, b)| a > b);
    is_critical(pod) && !is_critical(other) || higher
}

/// What is still missing, by resource.
type Missing = Vec<(String, i64)>;

/// A pod that may be ended, and what that gives.
struct Candidate {
    index: usize,
    amounts: Amounts,
}

fn left<'a>(missing: &Missing, ended: impl Iterator<Item = &'a Candidate> + Clone) -> Missing {
    let given = |resource: &str| ended.clone().fold(0i64, |sum, c| sum.saturating_add(c.amounts.get(resource)));
    let rest = missing.iter().map(|(resource, n)| (resource.clone(), n.saturating_sub(given(resource))));
    rest.filter(|(_, n)| *n > 0).collect()
}

/// How far a pod is from giving what is missing: each resource counts the same, whatever its unit.
#[allow(clippy::cast_precision_loss, reason = "a ratio to choose by; amounts are far below 2^52")]
fn distance(missing: &Missing, c: &Candidate) -> f64 {
    let of = |(resource, n): &(String, i64)| (n.saturating_sub(c.amounts.get(resource)).max(0) as f64) / (*n as f64);
    missing.iter().map(|m| of(m).powi(2)).sum()
}

/// The candidates that give what is missing, nearest first. They are known to suffice.
fn nearest<'a>(candidates: &'a [Candidate], mut missing: Missing) -> Vec<&'a Candidate> {
    let mut pool: Vec<&'a Candidate> = candidates.iter().collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let size = |c: &Candidate| (c.amounts.get("memory"), c.amounts.get("cpu"));
        let closer = |a: &&Candidate, b: &&Candidate| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let Some((at, best)) = pool.iter().copied().enumerate().min_by(|(_, a), (_, b)| closer(a, b)) else { break };
        missing = left(&missing, std::iter::once(best));
        chosen.push(best);
        pool.swap_remove(at);
    }
    chosen
}

/// Which of `others` to end, by their index, so that the shortages of `pod` are over.
///
/// # Errors
/// All pods that may be ended together are not enough; in the kubelet's words.
pub fn victims(pod: &Pod, shortages: &[Shortage], others: &[impl AsRef<Pod>]) -> Result<Vec<usize>, String> {
    let missing: Missing = shortages.iter().map(|s| (s.resource.clone(), s.missing())).collect();
    let of = |class: QosClass| -> Vec<Candidate> {
        let all = others.iter().map(AsRef::as_ref).enumerate();
        let wanted = all.filter(|(_, other)| may_end(pod, other) && qos_class(other) == class);
        wanted.map(|(index, other)| Candidate { index, amounts: Amounts::asked_by(other) }).collect()
    };
    let (best_effort, burstable, guaranteed) =
        (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let short = left(&missing, best_effort.iter().chain(&burstable).chain(&guaranteed));
    if !short.is_empty() {
        let list: String = short.iter().map(|(resource, n)| format!("(res: {resource}, q: {n}), ")).collect();
        let why = format!("no set of running pods found to reclaim resources: [{list}]");
        return Err(format!("preemption: error finding a set of pods to preempt: {why}"));
    }
    let first = nearest(&guaranteed, left(&missing, best_effort.iter().chain(&burstable)));
    let ended = || first.iter().copied();
    let second = nearest(&burstable, left(&missing, best_effort.iter().chain(ended())));
    let ended = || first.iter().copied().chain(second.iter().copied());
    let third = nearest(&best_effort, left(&missing, ended()));
    Ok(third.into_iter().chain(second.iter().copied()).chain(first.iter().copied()).map(|c| c.index).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{admission_refusal, is_shortage, shortages};
    use k8s_openapi::api::core::v1::Node;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn pod(name: &str, priority: i32, resources: Value) -> Arc<Pod> {
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod"))
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, 0, json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}))
    }

    fn burstable(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, 0, json!({"requests": {"cpu": cpu, "memory": memory}}))
    }

    fn node(cpu: &str, memory: &str, pods: &str) -> Amounts {
        let list = json!({"cpu": cpu, "memory": memory, "pods": pods});
        let node: Node = serde_json::from_value(json!({"status": {"allocatable": list}})).expect("a node");
        Amounts::allocatable(&node)
    }

    fn ends(pod: &Pod, node: &Amounts, others: &[Arc<Pod>]) -> Result<Vec<String>, String> {
        let short = shortages(pod, node, others.iter().map(AsRef::as_ref));
        let chosen = victims(pod, &short, others)?;
        let mut names: Vec<String> =
            chosen.into_iter().map(|i| others[i].metadata.name.clone().unwrap_or_default()).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn the_least_important_and_fewest_go() {
        let wanted = pod("w", SYSTEM_CRITICAL, json!({"requests": {"cpu": "1", "memory": "100Mi"}}));
        let idle = pod("idle", 0, json!({}));
        for (what, others, node, expected) in [
            ("there is room", vec![burstable("a", "1", "1Mi")], node("2", "1Gi", "9"), vec![]),
            (
                "one that is large enough rather than two",
                vec![burstable("a", "500m", "1Mi"), burstable("b", "500m", "1Mi"), burstable("c", "1", "1Mi")],
                node("2", "1Gi", "9"),
                vec!["c"],
            ),
            (
                "of two that suffice the smaller",
                vec![burstable("a", "1", "300Mi"), burstable("b", "1", "200Mi")],
                node("2", "1Gi", "9"),
                vec!["b"],
            ),
            (
                "burstable before guaranteed",
                vec![guaranteed("a", "1", "1Mi"), burstable("b", "1", "900Mi")],
                node("2", "2Gi", "9"),
                vec!["b"],
            ),
            (
                "a guaranteed one when the others are not enough, and then no others",
                vec![guaranteed("a", "1500m", "1Mi"), burstable("b", "500m", "1Mi")],
                node("2", "2Gi", "9"),
                vec!["a"],
            ),
            (
                "of those without requests only as many as count",
                vec![idle.clone(), burstable("b", "1", "1Mi")],
                node("2", "2Gi", "2"),
                vec!["idle"],
            ),
            (
                "two resources, two pods, the nearest first",
                vec![burstable("a", "1", "0"), burstable("b", "0", "1000Mi"), burstable("c", "1", "1Mi")],
                node("2", "1Gi", "9"),
                vec!["b", "c"],
            ),
        ] {
            let told = ends(&wanted, &node, &others).expect(what);
            assert_eq!(told, expected, "{what}");
        }
    }

    #[test]
    fn only_pods_of_less_importance_go() {
        let wanted = pod("w", SYSTEM_CRITICAL, json!({"requests": {"cpu": "1"}}));
        let all = node("1", "1Gi", "9");
        let same = pod("a", SYSTEM_CRITICAL, json!({"requests": {"cpu": "1"}}));
        let error = ends(&wanted, &all, &[same]).expect_err("as important");
        assert!(
            error.ends_with("no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"),
            "{error}"
        );
        let lower = pod("a", SYSTEM_CRITICAL - 1, json!({"requests": {"cpu": "1"}}));
        assert_eq!(ends(&wanted, &all, &[lower]).expect("lower"), ["a"]);
        let higher = pod("w", SYSTEM_CRITICAL + 1, json!({"requests": {"cpu": "1"}}));
        let same = pod("a", SYSTEM_CRITICAL, json!({"requests": {"cpu": "1"}}));
        assert_eq!(ends(&higher, &all, &[same]).expect("still higher"), ["a"]);
    }

    #[test]
    fn what_is_critical() {
        let mut p = pod("p", SYSTEM_CRITICAL - 1, json!({})).as_ref().clone();
        assert!(!is_critical(&p));
        for (key, value, critical) in [
            ("kubernetes.io/config.source", "api", false),
            ("kubernetes.io/config.source", "file", true),
            ("kubernetes.io/config.mirror", "hash", true),
        ] {
            p.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
            assert_eq!(is_critical(&p), critical, "{key}={value}");
        }
        assert!(is_critical(&pod("p", SYSTEM_CRITICAL, json!({}))));
    }

    #[test]
    fn a_critical_pod_that_does_not_belong_here_is_not_made_room_for() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("a node");
        let mut p = pod("p", SYSTEM_CRITICAL, json!({})).as_ref().clone();
        let told = |p: &Pod| admission_refusal(p, &node, &Amounts::default(), std::iter::empty()).expect("refused");
        assert!(is_shortage(&told(&p)));
        p.spec.as_mut().expect("spec").node_selector = Some([("disk".to_owned(), "ssd".to_owned())].into());
        assert_eq!(told(&p).reason, "NodeAffinity");
        p.spec.as_mut().expect("spec").priority = Some(0);
        assert_eq!(told(&p).reason, "OutOfpods", "another pod is told of the room first");
    }
}
