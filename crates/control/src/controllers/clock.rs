//! When somebody sets the host's clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use base::clock::{LOOK_EVERY, Steady};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reconcile::plan::name;

use super::{Context, Queues};
use crate::cache::Listener;

impl Queues {
    /// Those whose passes ask for another at some time of day.
    fn timed(&self) -> [&super::KeyQueue; 7] {
        [&self.cron_jobs, &self.jobs, &self.nodes, &self.deployments, &self.sets, &self.autoscalers, &self.budgets]
    }
}

/// Has the passes that wait for a time of day look at the clock again when it was set.
pub fn start(context: &Arc<Context>) {
    let context = context.clone();
    tokio::spawn(async move {
        let mut clock = Steady::default();
        loop {
            tokio::select! {
                () = context.drain.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let (_, Some(by)) = clock.look() {
                tracing::warn!(seconds = by.as_secs(), "the clock of the host was set");
                context.queues.timed().iter().for_each(|queue| queue.0.hasten());
            }
        }
    });
}

/// Notes when a lease was seen to be renewed.
pub(super) fn on_lease(context: &Arc<Context>) -> Listener<Lease> {
    let context = context.clone();
    Box::new(move |_, new| {
        if let Some(lease) = new {
            context.heard.lease(name(&lease.metadata), Some(lease), Timestamp::now());
        }
    })
}

/// When each node's lease was last seen to be renewed, by a clock that nobody sets: a node is not silent because the time of
/// day jumped. One entry for each node.
#[derive(Default)]
pub struct Heard(Mutex<HashMap<String, (Option<MicroTime>, Instant)>>);

impl Heard {
    /// The lease of a node, renewed when this process saw that. What was renewed before that is taken at its word.
    pub fn lease(&self, node: &str, lease: Option<&Lease>, now: Timestamp) -> Option<Lease> {
        self.seen(node, lease, now, Instant::now())
    }

    /// The node is no more.
    pub fn forget(&self, node: &str) {
        self.0.lock().remove(node);
    }

    fn seen(&self, node: &str, lease: Option<&Lease>, now: Timestamp, at: Instant) -> Option<Lease> {
        let mut lease = lease.cloned()?;
        let spec = lease.spec.get_or_insert_default();
        let renewed = spec.renew_time.clone();
        let mut all = self.0.lock();
        let known = all.get(node).filter(|(before, _)| *before == renewed).map(|(_, seen)| *seen);
        let seen = known.unwrap_or_else(|| {
            let first = !all.contains_key(node);
            let age = renewed.as_ref().filter(|_| first).map_or(SignedDuration::ZERO, |t| now.duration_since(t.0));
            let age = std::time::Duration::try_from(age).unwrap_or_default();
            at.checked_sub(age).unwrap_or(at)
        });
        all.insert(node.to_owned(), (renewed.clone(), seen));
        let silent = SignedDuration::try_from(at.saturating_duration_since(seen)).unwrap_or(SignedDuration::MAX);
        spec.renew_time = renewed.map(|_| MicroTime(now.checked_sub(silent).unwrap_or(Timestamp::MIN)));
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_node_is_silent_for_as_long_as_nothing_came_whatever_the_clock_says() {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let wall = |s: i64| start.checked_add(SignedDuration::from_secs(s)).unwrap();
        let lease = |s: i64| -> Lease {
            serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": MicroTime(wall(s))}})).unwrap()
        };
        let (heard, at) = (Heard::default(), Instant::now() + Duration::from_secs(10_000));
        let mono = |s: u64| at + Duration::from_secs(s);
        let silence = |lease: &Lease, now: Timestamp, at: Instant| {
            let seen = heard.seen("n", Some(lease), now, at).unwrap().spec.unwrap().renew_time.unwrap();
            now.duration_since(seen.0).as_secs()
        };
        // From before this process: as it says.
        assert_eq!(silence(&lease(-30), wall(0), mono(0)), 30);
        assert_eq!(silence(&lease(0), wall(1), mono(1)), 0);
        assert_eq!(silence(&lease(0), wall(6), mono(6)), 5);
        // An hour on, and back.
        assert_eq!(silence(&lease(0), wall(3_607), mono(7)), 6);
        assert_eq!(silence(&lease(3_610), wall(3_611), mono(11)), 0);
        assert_eq!(silence(&lease(3_610), wall(71), mono(71)), 60);
        heard.forget("n");
        assert_eq!(silence(&lease(50), wall(71), mono(71)), 21);
    }
}
