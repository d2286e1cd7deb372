//! What pods and the node use: read from their cgroups when somebody asks, in the forms that metrics-server, Prometheus
//! and `kubectl top` read.

mod prometheus;
mod summary;

use std::collections::HashMap;
use std::time::Duration;

use engine::runtime::{ContainerState, ContainerStatus, Usage};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Shared;
use crate::host::Host;

pub(super) use prometheus::{cadvisor, own, resource};
pub(super) use summary::summary;

/// Cgroups read at the same time.
const AT_ONCE: usize = 8;
/// A rate is of the time since the last look; looks nearer together than this share one.
const WINDOW: Duration = Duration::from_secs(5);
/// Of what was never looked at, or long ago, two looks this far apart give a first rate.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
const STALE: Duration = Duration::from_secs(120);

/// Processor time used per second, over some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Billionths of a second.
    pub(super) nanos: u64,
    pub(super) window: Duration,
}

/// A running container and what it uses.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) status: ContainerStatus,
    pub(super) started_ms: i64,
    pub(super) usage: Usage,
    /// `None` until it was looked at twice.
    pub(super) rate: Option<Rate>,
}

/// A pod with its running containers.
#[derive(Debug, Clone)]
pub(super) struct PodUse {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) started: Option<jiff::Timestamp>,
    pub(super) containers: Vec<Running>,
}

/// What the host uses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HostUse {
    pub(super) cpu_ns: u64,
    pub(super) rate: Option<Rate>,
    pub(super) memory_bytes: u64,
    pub(super) available_bytes: u64,
}

/// A look at everything.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) at: jiff::Timestamp,
    pub(super) pods: Vec<PodUse>,
    pub(super) host: HostUse,
    /// All containers of the runtime, running or not.
    pub(super) all: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    cpu_ns: u64,
    rate: Option<Rate>,
}

/// Earlier looks, by container id; the host's has the empty one.
#[derive(Default)]
pub(super) struct Samples(Mutex<HashMap<String, Sample>>);

impl Samples {
    /// Takes a reading; answers the rate, if there is one.
    fn note(&self, id: &str, cpu_ns: u64, now: Instant) -> Option<Rate> {
        let mut all = self.0.lock();
        let before = all.get(id).copied().filter(|s| now - s.at < STALE && s.cpu_ns <= cpu_ns);
        let rate = match before {
            Some(s) if s.rate.is_some() && now - s.at < WINDOW => return s.rate,
            Some(s) if now - s.at < FIRST_WINDOW / 2 => return None,
            Some(s) => {
                let window = now - s.at;
                let nanos = u128::from(cpu_ns - s.cpu_ns) * 1_000_000_000 / window.as_nanos().max(1);
                Some(Rate { nanos: u64::try_from(nanos).unwrap_or(u64::MAX), window })
            }
            None => None,
        };
        all.insert(id.to_owned(), Sample { at: now, cpu_ns, rate });
        rate
    }

    fn keep(&self, ids: &[ContainerStatus]) {
        self.0.lock().retain(|id, _| id.is_empty() || ids.iter().any(|c| c.spec.id == *id));
    }
}

/// Looks; with `rates`, a second time after a moment if that is what a rate needs.
pub(super) async fn look(shared: &Shared, rates: bool) -> Look {
    let first = once(shared).await;
    let missing = first.pods.iter().flat_map(|p| &p.containers).any(|c| c.rate.is_none()) || first.host.rate.is_none();
    if !(rates && missing) {
        return first;
    }
    // Only time makes a rate of a counter.
    tokio::time::sleep(FIRST_WINDOW).await;
    once(shared).await
}

async fn once(shared: &Shared) -> Look {
    let mut all = shared.runtime.containers(None).await;
    let mut pods = (shared.pods)();
    for mirrored in shared.mirrors.iter().flat_map(|m| m.all()) {
        let Some(mut container) = mirrored.running(shared, mirrored.name()).await else { continue };
        // As the pod calls it.
        container.spec.name = mirrored.name().to_owned();
        container.spec.sandbox_id = mirrored.pod.metadata.uid.clone().unwrap_or_default();
        all.push(container);
        pods.push(mirrored.pod.as_ref().clone());
    }
    shared.samples.keep(&all);
    let reads: Vec<_> = all.iter().cloned().map(|c| read(shared, c)).collect();
    let found: Vec<_> = futures::stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
    let mut by_pod: HashMap<String, Vec<Running>> = HashMap::new();
    for container in found.into_iter().flatten() {
        by_pod.entry(container.status.spec.sandbox_id.clone()).or_default().push(container);
    }
    let mut pods: Vec<PodUse> = pods.iter().filter_map(|pod| of_pod(pod, &mut by_pod)).collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Look { at: jiff::Timestamp::now(), pods, host: host(&shared.samples), all }
}

/// One container; `None` for one that does not run.
async fn read(shared: &Shared, status: ContainerStatus) -> Option<Running> {
    let ContainerState::Running { started_at_ms: started_ms } = status.state else { return None };
    // One that ended meanwhile uses nothing any more.
    let usage = shared.runtime.usage(&status.spec.id).await.ok()?;
    let rate = shared.samples.note(&status.spec.id, usage.cpu_ns, Instant::now());
    Some(Running { status, started_ms, usage, rate })
}

fn of_pod(pod: &Pod, by_pod: &mut HashMap<String, Vec<Running>>) -> Option<PodUse> {
    let m = &pod.metadata;
    let mut containers = by_pod.remove(m.uid.as_deref()?)?;
    containers.sort_by(|a, b| a.status.spec.name.cmp(&b.status.spec.name));
    Some(PodUse {
        namespace: m.namespace.clone()?,
        name: m.name.clone()?,
        uid: m.uid.clone()?,
        started: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        containers,
    })
}

/// The host's processor time (proc_stat(5), hundredths of a second) and memory.
fn host(samples: &Samples) -> HostUse {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cpu_ns = busy_ns(&stat);
    let (used, total) = (Host::memory_working_set().unwrap_or(0), Host::memory_total());
    HostUse {
        cpu_ns,
        rate: samples.note("", cpu_ns, Instant::now()),
        memory_bytes: used,
        available_bytes: total.saturating_sub(used),
    }
}

fn busy_ns(stat: &str) -> u64 {
    let Some(line) = stat.lines().find_map(|l| l.strip_prefix("cpu ")) else { return 0 };
    let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // All but idle and waiting for disks, and guests, which user time counts already.
    let busy: u64 = fields.iter().take(8).enumerate().filter(|(n, _)| !matches!(n, 3 | 4)).map(|(_, v)| v).sum();
    busy.saturating_mul(10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_busy_time_leaves_out_idleness() {
        assert_eq!(busy_ns("cpu  1 2 3 400 500 6 7 8 90 90\ncpu0 1\n"), 27 * 10_000_000);
        assert_eq!(busy_ns(""), 0);
    }

    #[test]
    fn a_rate_needs_two_looks_and_near_ones_share_it() {
        let samples = Samples::default();
        let now = Instant::now();
        let at = |s: u64| now + Duration::from_secs(s);
        let rate = |nanos, s| Some(Rate { nanos, window: Duration::from_secs(s) });
        assert_eq!(samples.note("a", 0, at(0)), None);
        assert_eq!(samples.note("a", 500_000_000, at(1)), rate(500_000_000, 1));
        assert_eq!(samples.note("a", 9_000_000_000, at(2)), rate(500_000_000, 1), "too near");
        assert_eq!(samples.note("a", 2_500_000_000, at(11)), rate(200_000_000, 10));
        assert_eq!(samples.note("a", 0, at(20)), None, "another counter");
        samples.keep(&[]);
        assert!(samples.0.lock().is_empty());
    }
}
