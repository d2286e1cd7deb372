//! More dead containers than the node keeps altogether: [`reconcile::containergc`] says which go, and their pods' workers
//! remove them. What each container keeps of its own runs, the worker of its pod sees to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use engine::runtime::{ContainerState, ContainerStatus};
use jiff::Timestamp;
use reconcile::containergc::{Dead, excess};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};

use super::manager::Pods;
use super::view;
use crate::context::Context;

/// Nor is it looked more often than this, however many containers end.
const LEAST: Duration = Duration::from_secs(1);
/// After which it is looked again, since nothing tells when a pod is over, nor when a removal failed (the kubelet's time).
const EVERY: Duration = Duration::from_secs(60);

/// Sees to it until told to drain.
pub(crate) async fn collect(ctx: Arc<Context>, pods: Pods, drain: Drain) {
    let mut events = ctx.runtime.events();
    let mut asked = BTreeSet::new();
    loop {
        let next = async {
            let again = look(&ctx, &pods, &mut asked).await;
            sleep(LEAST).await;
            // Whatever is told, and also that something was missed, is a reason to look.
            !matches!(timeout(again, events.recv()).await, Ok(Err(RecvError::Closed)))
        };
        tokio::select! {
            goes_on = next => if !goes_on { return },
            () = drain.cancelled() => return,
        }
    }
}

/// Tells the pods which containers go. Answers when to look again at the latest.
async fn look(ctx: &Context, pods: &Pods, asked: &mut BTreeSet<String>) -> Duration {
    let now = Timestamp::now();
    let all = ctx.runtime.containers(None).await;
    let active: BTreeSet<String> = pods.active().iter().filter_map(|p| p.metadata.uid.clone()).collect();
    let found = excess(dead(&all, &active, now), &ctx.config.dead_containers, now);
    let mut by_pod: BTreeMap<&str, BTreeSet<String>> =
        asked.iter().map(|uid| (uid.as_str(), BTreeSet::new())).collect();
    for c in all.iter().filter(|c| found.ids.contains(&c.spec.id)) {
        by_pod.entry(&c.spec.sandbox_id).or_default().insert(c.spec.id.clone());
    }
    let told = by_pod.iter().filter(|(_, ids)| !ids.is_empty()).map(|(uid, _)| (*uid).to_owned()).collect();
    for (uid, ids) in by_pod {
        pods.discard(uid, ids);
    }
    *asked = told;
    let again = found.again.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    again.map_or(EVERY, |again| again.min(EVERY))
}

/// The containers that ended, of pods that are over and of those that are not.
fn dead(all: &[ContainerStatus], active: &BTreeSet<String>, now: Timestamp) -> Vec<Dead> {
    let mut newest = BTreeMap::new();
    for c in all {
        let attempt = newest.entry((&c.spec.sandbox_id, &c.spec.name)).or_insert(0);
        *attempt = c.spec.attempt.max(*attempt);
    }
    let dead = all.iter().filter_map(|c| {
        let ContainerState::Exited(exit) = &c.state else { return None };
        let (uid, name) = (&c.spec.sandbox_id, &c.spec.name);
        Some(Dead {
            id: c.spec.id.clone(),
            of: (uid.clone(), name.clone()),
            ended: view::time(exit.finished_at_ms).min(now),
            needed: active.contains(uid) && newest.get(&(uid, name)) == Some(&c.spec.attempt),
        })
    });
    dead.collect()
}
