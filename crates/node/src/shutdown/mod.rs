//! A node that goes down in order (KEP-2000): it says so, takes no new pods, and ends those it has by their priority, each
//! group in its time. systemd-logind announces it and waits; where there is none, SIGPWR does (the signal for a power
//! failure, signal(7)), and whoever sent it waits for the pods.

mod dbus;
mod logind;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::rt::{Drain, Tasks};
use jiff::SignedDuration;
use reconcile::pod::Eviction;
use reconcile::shutdown::{Period, grace_seconds, groups};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::context::Context;
use crate::events::node_reference;
use crate::pods::manager::Pods;

/// How a node goes down.
#[derive(Debug, Clone)]
pub struct ShutdownConfig {
    /// Who has how long, the lowest priority first; none: nobody is waited for.
    pub periods: Vec<Period>,
    /// The socket of the system bus, on which systemd-logind is.
    pub system_bus: PathBuf,
    /// Folder of additional configuration of systemd-logind, where it is told to wait long enough.
    pub logind_conf: PathBuf,
    /// Says that the node is to go down, beside logind.
    pub power_failure: Option<watch::Receiver<bool>>,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        ShutdownConfig {
            periods: Vec::new(),
            system_bus: PathBuf::from("/run/dbus/system_bus_socket"),
            logind_conf: PathBuf::from("/etc/systemd/logind.conf.d"),
            power_failure: None,
        }
    }
}

/// Starts what waits for the node to go down, if anybody is to have time then.
pub(crate) fn start(ctx: &Arc<Context>, pods: &Pods, tasks: &Tasks) {
    let config = ctx.config.shutdown.clone();
    if config.periods.is_empty() {
        return;
    }
    let needs: u64 = config.periods.iter().map(|p| u64::from(p.seconds)).sum();
    let (wanted, by_logind) = watch::channel(false);
    let (tell_done, done) = watch::channel(false);
    let drain = tasks.drain();
    tasks.spawn("logind", async move {
        let needs = Duration::from_secs(needs);
        let settings = logind::Settings { bus: &config.system_bus, conf: &config.logind_conf, needs };
        // Kept to the end: a closed channel would say nothing any more.
        let keep = wanted.clone();
        logind::run(settings, wanted, done, drain.clone()).await;
        drain.cancelled().await;
        drop(keep);
    });
    let by_power = ctx.config.shutdown.power_failure.clone().unwrap_or_else(|| watch::channel(false).1);
    tasks.spawn("shutdown", run(ctx.clone(), pods.clone(), by_logind, by_power, tell_done, tasks.drain()));
}

async fn run(
    ctx: Arc<Context>,
    pods: Pods,
    mut by_logind: watch::Receiver<bool>,
    mut by_power: watch::Receiver<bool>,
    done: watch::Sender<bool>,
    drain: Drain,
) {
    let about = || node_reference(&ctx.config.node_name);
    loop {
        let down = *by_logind.borrow_and_update() || *by_power.borrow_and_update();
        let before = ctx.ending.send_replace(down);
        match (before, down) {
            (false, true) => {
                tracing::warn!("the node goes down: its pods are ended");
                ctx.recorder.normal(about(), "NodeShutdown", "Shutdown manager detected shutdown event");
                tokio::select! {
                    () = end_all(&ctx, &pods) => {}
                    () = drain.cancelled() => return,
                }
                tracing::warn!("the node is ready to go down");
                done.send_replace(true);
            }
            (true, false) => {
                done.send_replace(false);
                ctx.recorder.normal(about(), "NodeShutdown", "Shutdown manager detected shutdown cancellation");
            }
            _ => {}
        }
        tokio::select! {
            Ok(()) = by_logind.changed() => {}
            Ok(()) = by_power.changed() => {}
            () = drain.cancelled() => return,
        }
    }
}

/// Ends the pods of one priority after those of the next.
async fn end_all(ctx: &Context, pods: &Pods) {
    for (period, group) in groups(&ctx.config.shutdown.periods, pods.active()) {
        let mut ends = Vec::new();
        for pod in group {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let grace = SignedDuration::from_secs(grace_seconds(period, &pod));
            ends.extend(pods.end(uid, Eviction::of_shutdown(grace)));
        }
        let count = ends.len();
        let all = async {
            for mut down in ends {
                // It closes when the pod is gone altogether.
                let _ = down.wait_for(|down| *down).await;
            }
        };
        if timeout(Duration::from_secs(u64::from(period.seconds)), all).await.is_err() {
            tracing::warn!(priority = period.priority, pods = count, "some pods did not end in their time");
        }
    }
}
