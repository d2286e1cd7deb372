//! From what pods use to how many there should be. Pods without a measurement, or not ready yet, are assumed to use what
//! makes the change smaller.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::plan::{name, terminating};
use crate::pods;

/// CPU of a pod younger than this says more of its start than of its load.
const CPU_SETTLES: Duration = Duration::from_secs(300);
/// A pod that became unready within this time of its start has not been ready yet.
const FIRST_READINESS: Duration = Duration::from_secs(30);

/// What one pod used (metrics.k8s.io/v1beta1 PodMetrics).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The end of the measured span.
    pub at: Timestamp,
    /// Its length.
    pub window: Duration,
    /// Thousandths of each resource, by container.
    pub containers: BTreeMap<String, BTreeMap<String, i64>>,
}

/// What is asked of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// Percent of the requests.
    Utilization(i64),
    /// Thousandths for each pod.
    Average(i64),
}

/// One resource of one container, or of whole pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub resource: &'a str,
    pub container: Option<&'a str>,
    pub goal: Goal,
    /// Changes below this share, growing and shrinking, are not worth it.
    pub tolerance: (f64, f64),
}

/// What was measured and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub replicas: i32,
    /// Percent of the requests, where the goal is one.
    pub utilization: Option<i32>,
    /// Thousandths for each pod.
    pub average: i64,
}

#[derive(Default)]
struct Groups<'a> {
    measured: Vec<(&'a Pod, i64)>,
    unready: Vec<&'a Pod>,
    missing: Vec<&'a Pod>,
}

/// Works out the number of replicas from the pods of the target.
pub(super) fn replicas(
    q: &Question<'_>,
    current: i32,
    all: &[&Pod],
    usage: &BTreeMap<String, Usage>,
    now: Timestamp,
) -> Result<Answer, String> {
    if all.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(q, all, usage, now);
    if groups.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let used: i64 = groups.measured.iter().map(|(_, n)| n).sum();
    let count = i64::try_from(groups.measured.len()).unwrap_or(i64::MAX);
    let average = used / count;
    let requested = |pods: &mut dyn Iterator<Item = &Pod>| -> Result<i64, String> { pods.map(|p| request(q, p)).sum() };
    let (ratio, utilization) = match q.goal {
        Goal::Average(target) => (share(used, target.max(1) * count), None),
        Goal::Utilization(target) => {
            let asked = requested(&mut groups.measured.iter().map(|(p, _)| *p))?;
            if asked == 0 {
                return Err("no metrics returned matched known pods".into());
            }
            let percent = used.saturating_mul(100) / asked;
            (share(percent, target.max(1)), Some(i32::try_from(percent).unwrap_or(i32::MAX)))
        }
    };
    let answer = |replicas: i32| Ok(Answer { replicas, utilization, average });
    let near = |ratio: f64| ratio <= 1.0 + q.tolerance.0 && ratio >= 1.0 - q.tolerance.1;
    let count_unready = !groups.unready.is_empty() && ratio > 1.0;
    if groups.missing.is_empty() && !count_unready {
        return answer(if near(ratio) { current } else { up(ratio, count) });
    }
    // Missing ones use nothing when growing, all that they may when shrinking; unready ones nothing.
    let mut pods: Vec<(&Pod, i64)> = groups.measured;
    for pod in &groups.missing {
        let assumed = match q.goal {
            _ if ratio > 1.0 => 0,
            Goal::Average(target) => target,
            Goal::Utilization(target) => request(q, pod)?.saturating_mul(target.max(100)) / 100,
        };
        pods.push((pod, assumed));
    }
    if count_unready {
        pods.extend(groups.unready.iter().map(|p| (*p, 0)));
    }
    let used: i64 = pods.iter().map(|(_, n)| n).sum();
    let count = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let careful = match q.goal {
        Goal::Average(target) => share(used, target.max(1) * count),
        Goal::Utilization(target) => {
            let asked = requested(&mut pods.iter().map(|(p, _)| *p))?;
            share(used.saturating_mul(100) / asked.max(1), target.max(1))
        }
    };
    let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
    if near(careful) || turned {
        return answer(current);
    }
    let n = up(careful, count);
    let backwards = (careful < 1.0 && n > current) || (careful > 1.0 && n < current);
    answer(if backwards { current } else { n })
}

fn share(a: i64, b: i64) -> f64 {
    a as f64 / b as f64
}

fn up(ratio: f64, count: i64) -> i32 {
    let n = (ratio * count as f64).ceil();
    if n >= f64::from(i32::MAX) { i32::MAX } else { n as i32 }
}

fn group<'a>(q: &Question<'_>, all: &[&'a Pod], usage: &BTreeMap<String, Usage>, now: Timestamp) -> Groups<'a> {
    let mut groups = Groups::default();
    for &pod in all {
        if terminating(&pod.metadata) || pods::phase(pod) == "Failed" {
            continue;
        }
        if pods::phase(pod) == "Pending" {
            groups.unready.push(pod);
            continue;
        }
        let measured = usage.get(name(&pod.metadata));
        let Some((amount, measured)) = measured.and_then(|u| Some((amount(q, u)?, u))) else {
            groups.missing.push(pod);
            continue;
        };
        if q.resource == "cpu" && starting(pod, measured, now) {
            groups.unready.push(pod);
        } else {
            groups.measured.push((pod, amount));
        }
    }
    groups
}

/// Whether its CPU still tells of its start.
fn starting(pod: &Pod, usage: &Usage, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(started), Some(ready)) = (started, pods::condition(pod, "Ready")) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(started, |t| t.0);
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    if started.as_millisecond() + ms(CPU_SETTLES) > now.as_millisecond() {
        return ready.status != "True" || usage.at.as_millisecond() < since.as_millisecond() + ms(usage.window);
    }
    ready.status != "True" && started.as_millisecond() + ms(FIRST_READINESS) > since.as_millisecond()
}

fn amount(q: &Question<'_>, usage: &Usage) -> Option<i64> {
    match q.container {
        Some(c) => usage.containers.get(c)?.get(q.resource).copied(),
        None => usage.containers.values().map(|c| c.get(q.resource).copied()).sum(),
    }
}

/// What the pod, or one container of it, asks for, in thousandths.
fn request(q: &Question<'_>, pod: &Pod) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let containers = spec.iter().flat_map(|s| s.containers.iter());
    let sidecars = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(sidecar);
    let all = containers.chain(sidecars).filter(|c| q.container.is_none_or(|n| n == c.name));
    let mut sum = 0;
    let mut any = false;
    for c in all {
        let quantity = c.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(q.resource));
        let Some(parsed) = quantity.and_then(|v| Quantity::parse(&v.0).ok()) else {
            return Err(format!(
                "missing request for {} in container {} of Pod {}",
                q.resource,
                c.name,
                name(&pod.metadata)
            ));
        };
        sum += parsed.milli_value();
        any = true;
    }
    let missing = || format!("container {} not present in metrics for pod", q.container.unwrap_or_default());
    if any { Ok(sum) } else { Err(missing()) }
}
