//! A node that runs out of memory, disk or process ids: it says so, gives back what it can, and ends pods, one at a time.
//! [`reconcile::eviction`] and [`reconcile::imagegc`] decide.
//!
//! The kernel tells when tasks wait for memory; of everything else nothing tells, so that it is looked at every ten
//! seconds, as the kubelet does.

mod images;
mod measure;
mod stall;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use jiff::SignedDuration;
use reconcile::eviction::{
    DEFAULT_HARD, Look, Observations, Pressure, REASON, Resource, Signal, State, Threshold, below, grace, is_enough,
    message, order, thresholds,
};
use reconcile::imagegc::Policy;
use reconcile::pod::Eviction;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::context::Context;
use crate::events::{node_reference, pod_reference};
use crate::paths::PodId;
use crate::pods::manager::Pods;
use images::Collector;
use stall::Stalls;

/// How often the node is looked at (the kubelet's).
const EVERY: Duration = Duration::from_secs(10);
/// Nor more often than this, whatever the kernel tells.
const LEAST: Duration = Duration::from_secs(1);
/// How long a pod that was ended is waited for before the next look (the kubelet's).
const CLEANUP_MAX: Duration = Duration::from_secs(30);

/// What is done when the node runs out of something.
#[derive(Debug, Clone)]
pub struct EvictionConfig {
    /// When it does.
    pub thresholds: Vec<Threshold>,
    /// How long a condition stays after it was last seen.
    pub transition: Duration,
    /// The most time a pod has that is ended for a soft threshold; `None` for as long as it asks for.
    pub most_grace: Option<SignedDuration>,
    /// When unused images go.
    pub images: Policy,
}

impl Default for EvictionConfig {
    /// The kubelet's.
    fn default() -> Self {
        let none = Default::default();
        let hard = below(DEFAULT_HARD).and_then(|hard| thresholds(&hard, &none, &none, &none));
        EvictionConfig {
            thresholds: hard.expect("the defaults are written as flags are"),
            transition: Duration::from_secs(300),
            most_grace: Some(SignedDuration::ZERO),
            images: Policy::default(),
        }
    }
}

impl EvictionConfig {
    /// What of so much is kept from pods, so that the node does not end them for it.
    pub(crate) fn reserve(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().filter(|t| t.signal == signal && t.is_hard());
        hard.map(|t| t.reserve(capacity)).max().unwrap_or(0)
    }
}

/// What the node has, and whether images have a disk of their own.
#[derive(Debug, Clone, Default)]
struct Seen {
    amounts: Observations,
    own_image_disk: bool,
}

struct Keeper {
    ctx: Arc<Context>,
    pods: Pods,
    began: Instant,
    state: State,
    collector: Collector,
    /// Pods that were told to end.
    ended: BTreeSet<String>,
}

/// Looks after the node until told to drain.
pub(crate) async fn run(ctx: Arc<Context>, pods: Pods, drain: Drain) {
    let of_memory = ctx.config.eviction.thresholds.iter().any(|t| t.signal == Signal::MemoryAvailable);
    let stalls = if of_memory { Stalls::watch() } else { Stalls::none() };
    let collector = Collector::new(ctx.clone(), pods.clone());
    let mut keeper =
        Keeper { ctx, pods, began: Instant::now(), state: State::default(), collector, ended: BTreeSet::new() };
    loop {
        let next = async {
            match keeper.look().await {
                Some(mut down) => drop(timeout(CLEANUP_MAX, down.wait_for(|down| *down)).await),
                None => {
                    sleep(LEAST).await;
                    drop(timeout(EVERY - LEAST, stalls.next()).await);
                }
            }
        };
        tokio::select! {
            () = next => {}
            () = drain.cancelled() => return,
        }
    }
}

impl Keeper {
    /// Looks once, and does what is needed. Answers what says when a pod that it ended is down.
    async fn look(&mut self) -> Option<watch::Receiver<bool>> {
        let (ctx, now) = (self.ctx.clone(), self.began.elapsed());
        let config = &ctx.config.eviction;
        let seen = measure::node(&ctx).await;
        self.collector.look(&seen, now).await;
        let look = self.state.look(&config.thresholds, &seen.amounts, config.transition, now);
        self.report(&look.pressure);
        let first = *look.starved.first()?;
        let resource = first.signal.resource().as_str();
        tracing::warn!(resource, "the node is low on it");
        let about = node_reference(&ctx.config.node_name);
        ctx.recorder.warn(about, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if images_are_on(first.signal, &seen) {
            self.collector.all(now).await;
            if is_enough(&config.thresholds, &measure::node(&ctx).await.amounts) {
                return None;
            }
        }
        self.evict(&first, &look, &seen).await
    }

    /// Ends the first of the pods that may be ended.
    async fn evict(&mut self, first: &Threshold, look: &Look, seen: &Seen) -> Option<watch::Receiver<bool>> {
        let active = self.pods.active();
        let uid = |pod: &k8s_openapi::api::core::v1::Pod| pod.metadata.uid.clone().unwrap_or_default();
        self.ended.retain(|ended| active.iter().any(|p| uid(p) == *ended));
        let may: Vec<_> = active.into_iter().filter(|p| !self.ended.contains(&uid(p))).collect();
        let disk = matches!(first.signal.resource(), Resource::EphemeralStorage | Resource::Inodes);
        let measured = measure::pods(&self.ctx, may, disk).await;
        for index in order(first.signal, seen.own_image_disk, &measured) {
            let (pod, usage) = &measured[index];
            let text = message(first, &look.starved, &seen.amounts, pod, usage);
            let most = grace(first, self.ctx.config.eviction.most_grace);
            let Some(down) = self.pods.end(&uid(pod), Eviction::of_pressure(text.clone(), most)) else { continue };
            tracing::warn!(pod = %PodId::of(pod), why = text, "evicted");
            self.ctx.recorder.warn(pod_reference(pod), REASON, text);
            self.ended.insert(uid(pod));
            return Some(down);
        }
        tracing::warn!("there is no pod that may be ended for it");
        None
    }

    /// Has the node object and new pods know it.
    fn report(&self, pressure: &Pressure) {
        let before = self.ctx.pressure.borrow().clone();
        if before == *pressure {
            return;
        }
        self.ctx.pressure.send_replace(pressure.clone());
        let name = &self.ctx.config.node_name;
        for condition in before.symmetric_difference(pressure) {
            let reason = condition.event(pressure.contains(condition));
            let text = format!("Node {name} status is now: {reason}");
            self.ctx.recorder.normal(node_reference(name), reason, text);
        }
    }
}

/// Whether images take of what a signal is about.
fn images_are_on(signal: Signal, seen: &Seen) -> bool {
    match signal {
        Signal::ImageFsAvailable | Signal::ImageFsInodesFree => true,
        Signal::NodeFsAvailable | Signal::NodeFsInodesFree => !seen.own_image_disk,
        Signal::MemoryAvailable | Signal::PidAvailable => false,
    }
}
