//! Starting, stopping and removing containers, and what happens when one ends.
//!
//! A container that does not run has nothing in the engine: its file system waits in the image store, its record on disk. A
//! start makes a sandbox with the container's id; its end removes it again.

use std::sync::Arc;
use std::time::Duration;

use engine::runtime::{ContainerRuntime, ContainerState, ExitRecord, Owner, RuntimeError};
use http::StatusCode;

use crate::containers::create::root_key;
use crate::containers::record::{Phase, Record};
use crate::containers::{health, ports, spec};
use crate::face::{Carrier, Container, Face, Seen, Waiter, now_ms};
use crate::fault::{Fault, Result, blocking};
use crate::logging;
use crate::networks;

/// Between an end and the next start: doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A run of this length counts as a good one: the next pause is the shortest again.
const GOOD_RUN_MS: i64 = 10_000;
/// How long clients may take for the last output of a container that has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Docker's patience between the stop signal and the kill.
pub const STOP_SECONDS: i64 = 10;
/// Killed processes of a container are given this long to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// Starts a container that does not run. False: it runs already.
///
/// # Errors
/// When it cannot be started; the record then says why.
pub async fn start(face: &Arc<Face>, container: &Arc<Container>) -> Result<bool> {
    let ops = container.ops.lock().await;
    match container.phase() {
        Phase::Running => return Ok(false),
        Phase::Paused => return Err(Fault::conflict("cannot start a paused container, try unpause instead")),
        _ if container.seen.borrow().removed => {
            return Err(Fault::missing(format!("No such container: {}", container.id)));
        }
        _ => {}
    }
    container.hurry.notify_waiters();
    face.change(container, |r| {
        r.state.stopped_by_hand = false;
        r.state.restarts = 0;
    });
    let result = start_now(face, container).await;
    drop(ops);
    if let Err(fault) = &result {
        tracing::debug!(container = container.id, error = %fault, "not started");
        if container.record().host.auto_remove {
            drop(remove(face, container, true, true).await);
        }
    }
    result.map(|()| true)
}

/// With `ops` held.
async fn start_now(face: &Arc<Face>, container: &Arc<Container>) -> Result<()> {
    let record = container.record();
    let Err(fault) = run(face, container, &record).await else { return Ok(()) };
    drop(face.engine.remove_sandbox(&record.id).await);
    networks::let_go(face, &record.id).await;
    // Who waited to be attached is let go.
    container.waiting.lock().clear();
    let (exit_code, status) = match fault.message.as_str() {
        m if m.contains("not found in $PATH") || m.contains("no such file or directory") => {
            (127, StatusCode::BAD_REQUEST)
        }
        m if m.contains("permission denied") || m.contains("is a directory") => (126, StatusCode::BAD_REQUEST),
        _ => (128, fault.status),
    };
    let fault = Fault { status, ..fault };
    let record = face.change(container, |r| {
        r.state.phase = if r.state.started_at_ms == 0 { Phase::Created } else { Phase::Exited };
        r.state.exit_code = exit_code;
        r.state.error.clone_from(&fault.message);
        r.state.ports.clear();
        r.state.ip = None;
        r.state.endpoints.clear();
    });
    networks::names_changed(face, record.networks.keys());
    face.tell(&record, "die", &[("exitCode", exit_code.to_string())]);
    container.seen.send_modify(|s| s.exits += 1);
    Err(fault)
}

fn words(error: RuntimeError) -> Fault {
    let fault = Fault::from(error);
    let text = fault.message.strip_prefix("start container: ").map(str::to_owned);
    match text {
        Some(reason) => Fault::broken(format!(
            "failed to create task for container: failed to start the container's process: {reason}"
        )),
        None => fault,
    }
}

async fn run(face: &Arc<Face>, container: &Arc<Container>, record: &Record) -> Result<()> {
    logging::reach(record).await?;
    let ground = networks::prepare(face, record)?;
    let ports = if ground.has_way_out() { ports::find(face, record).await? } else { Vec::new() };
    let (sandbox, inner) = (spec::sandbox(face, record, &ground, &ports)?, spec::container(face, record)?);
    let made = face.engine.run_sandbox(sandbox).await.map_err(|e| ports::words(record, e))?;
    networks::stand(face, record, &ground, &ports).await?;
    let there = face.change(container, |r| {
        if r.networks.is_empty() && ground.on_bridge {
            r.networks.insert(networks::BRIDGE.to_owned(), Default::default());
        }
        for name in ground.endpoints.keys() {
            r.networks.entry(name.clone()).or_default();
        }
        r.state.bridge_interface.clear();
        r.state.endpoints = ground.endpoints;
    });
    // Before its program asks.
    networks::names_changed(face, there.state.endpoints.keys());
    face.engine.create_container(inner).await?;
    if let [rows, columns] = record.host.console_size[..]
        && record.config.tty
        && rows > 0
    {
        drop(face.engine.resize(&record.id, columns, rows).await);
    }
    let waiting: Vec<Waiter> = std::mem::take(&mut *container.waiting.lock());
    for waiter in waiting {
        match face.engine.attach_patiently(&record.id, waiter.choice).await {
            // Gone meanwhile.
            Ok(session) => drop(waiter.tx.send((session, Carrier::of(container)))),
            Err(error) => tracing::warn!(container = record.id, error = %base::chain(&error), "not attached"),
        }
    }
    face.engine.start_container(&record.id).await.map_err(words)?;
    let record = face.change(container, |r| {
        let state = &mut r.state;
        (state.phase, state.error, state.oom_killed) = (Phase::Running, String::new(), false);
        (state.started_at_ms, state.exit_code) = (now_ms(), 0);
        (state.ip, state.ports) = (made.ip.map(|ip| ip.to_string()), ports);
    });
    networks::tell_all(face, &record, "connect");
    face.tell(&record, "start", &[]);
    watch(face, container);
    Ok(())
}

/// Has a task wait for the end of a container that runs, and one ask how it feels.
fn watch(face: &Arc<Face>, container: &Arc<Container>) {
    health::begin(face, container);
    logging::begin(face, container);
    let (face, container) = (face.clone(), container.clone());
    let (tasks, drain) = (face.tasks.clone(), face.drain());
    tasks.spawn("docker container", async move {
        let ended = tokio::select! {
            ended = face.engine.ended(&container.id) => ended,
            () = drain.cancelled() => return,
        };
        let mut carriers = container.carriers.subscribe();
        // Their pipes are the shim's, which goes with the sandbox.
        let carried = tokio::time::timeout(LAST_WORDS, carriers.wait_for(|n| *n == 0)).await.is_ok();
        if !carried {
            tracing::warn!(container = container.id, "a client did not take the last output");
        }
        finish(&face, &container, ended.ok().flatten()).await;
    });
}

/// The end of a run: what it had is taken down, who waits is told, and perhaps it is started again.
async fn finish(face: &Arc<Face>, container: &Arc<Container>, exit: Option<ExitRecord>) {
    let ops = container.ops.lock().await;
    if let Err(error) = face.engine.remove_sandbox(&container.id).await {
        tracing::warn!(container = container.id, error = %base::chain(&error), "not fully taken down");
    }
    networks::let_go(face, &container.id).await;
    *container.health.lock() = None;
    // Removed behind our back: as if it had been killed.
    let (code, oom, at) = exit.map_or((137, false, now_ms()), |e| (e.exit_code, e.oom_killed, e.finished_at_ms));
    let mut again = false;
    let record = face.change(container, |r| {
        again = starts_again(r, code);
        let state = &mut r.state;
        state.phase = if again { Phase::Restarting } else { Phase::Exited };
        (state.exit_code, state.oom_killed, state.finished_at_ms) = (code, oom, at);
        (state.ip, state.ports) = (None, Vec::new());
        state.endpoints.clear();
    });
    networks::names_changed(face, record.networks.keys());
    if oom {
        face.tell(&record, "oom", &[]);
    }
    let lasted = (record.state.finished_at_ms - record.state.started_at_ms).max(0) / 1000;
    face.tell(&record, "die", &[("exitCode", code.to_string()), ("execDuration", lasted.to_string())]);
    networks::tell_all(face, &record, "disconnect");
    container.seen.send_modify(|s| s.exits += 1);
    drop(ops);
    if again {
        come_back(face, container);
    } else if record.host.auto_remove
        && let Err(error) = remove(face, container, true, true).await
    {
        tracing::warn!(container = record.id, %error, "a container is not removed after its end");
    }
}

/// What the policy says (Docker's restart policies).
fn starts_again(record: &Record, code: i32) -> bool {
    let policy = &record.host.restart_policy;
    match policy.name.as_str() {
        _ if record.state.stopped_by_hand => false,
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let most = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
            code != 0 && (most == 0 || record.state.restarts < most)
        }
        _ => false,
    }
}

/// Starts a container again after a pause, until it runs or somebody stops it.
fn come_back(face: &Arc<Face>, container: &Arc<Container>) {
    let (face, container) = (face.clone(), container.clone());
    let (tasks, drain) = (face.tasks.clone(), face.drain());
    tasks.spawn("docker restart", async move {
        loop {
            let hurried = container.hurry.notified();
            let record = container.record();
            let good = record.state.finished_at_ms - record.state.started_at_ms >= GOOD_RUN_MS;
            let doubled = PAUSE_MIN.saturating_mul(1 << record.state.restarts.min(20));
            let pause = if good { PAUSE_MIN } else { doubled.min(PAUSE_MAX) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = hurried => {}
                () = drain.cancelled() => return,
            }
            let _ops = container.ops.lock().await;
            if container.phase() != Phase::Restarting {
                return;
            }
            let record = face.change(&container, |r| {
                if r.state.stopped_by_hand {
                    r.state.phase = Phase::Exited;
                } else {
                    r.state.restarts = r.state.restarts.saturating_add(1);
                }
            });
            if record.state.phase != Phase::Restarting {
                return;
            }
            let Err(fault) = start_now(&face, &container).await else { return };
            tracing::warn!(container = record.id, error = %fault, "not started again");
            let mut go_on = false;
            face.change(&container, |r| {
                go_on = starts_again(r, r.state.exit_code);
                r.state.phase = if go_on { Phase::Restarting } else { Phase::Exited };
                r.state.finished_at_ms = now_ms();
            });
            if !go_on {
                return;
            }
        }
    });
}

/// Waits until a container does not run (or is about to be started again), at most so long.
async fn settled(container: &Container, limit: Duration) -> Result<()> {
    let mut seen = container.seen.subscribe();
    let over = |s: &Seen| s.removed || !s.phase.is_live();
    match tokio::time::timeout(limit, seen.wait_for(over)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::broken(format!("container {} is still running", container.id))),
    }
}

/// Stops a container. False: it did not run.
///
/// # Errors
/// When it does not end even when killed.
pub async fn stop(
    face: &Arc<Face>,
    container: &Arc<Container>,
    seconds: Option<i64>,
    signal: Option<i32>,
) -> Result<bool> {
    let before = container.phase();
    if !before.is_live() && before != Phase::Restarting {
        return Ok(false);
    }
    let record = face.change(container, |r| r.state.stopped_by_hand = true);
    if before == Phase::Restarting {
        container.hurry.notify_waiters();
        let _ops = container.ops.lock().await;
        if !container.phase().is_live() {
            face.change(container, |r| r.state.phase = Phase::Exited);
            return Ok(true);
        }
    }
    thaw(face, container).await;
    let seconds = seconds.or(record.config.stop_timeout).unwrap_or(STOP_SECONDS);
    let grace = u64::try_from(seconds).map_or(Duration::from_secs(365 * 24 * 3600), Duration::from_secs);
    match signal {
        None => face.engine.stop_container(&record.id, grace).await?,
        Some(number) => {
            drop(face.engine.signal_container(&record.id, number).await);
            let left = face.engine.ended(&record.id);
            if tokio::time::timeout(grace, left).await.is_err() {
                face.engine.stop_container(&record.id, Duration::ZERO).await?;
            }
        }
    }
    settled(container, KILL_LIMIT).await?;
    face.tell(&record, "stop", &[]);
    Ok(true)
}

/// Sends a signal to a container that runs.
///
/// # Errors
/// 409 when it does not run.
pub async fn kill(face: &Arc<Face>, container: &Arc<Container>, signal: i32) -> Result<()> {
    const SIGKILL: i32 = 9;
    let record = container.record();
    if !record.state.phase.is_live() {
        return Err(Fault::conflict(format!(
            "cannot kill container: {}: container {} is not running",
            record.name, record.id
        )));
    }
    let asks_to_end = engine::signal::parse(&record.config.stop_signal).unwrap_or(15);
    if signal == SIGKILL || signal == asks_to_end {
        face.change(container, |r| r.state.stopped_by_hand = true);
    }
    face.tell(&record, "kill", &[("signal", signal.to_string())]);
    if signal == SIGKILL {
        thaw(face, container).await;
        face.engine.stop_container(&record.id, Duration::ZERO).await?;
        return settled(container, KILL_LIMIT).await;
    }
    Ok(face.engine.signal_container(&record.id, signal).await?)
}

/// Lets a paused container go on, so that it can end.
async fn thaw(face: &Arc<Face>, container: &Arc<Container>) {
    if container.phase() == Phase::Paused {
        drop(face.engine.freeze(&container.id, false).await);
    }
}

/// Pauses or unpauses.
///
/// # Errors
/// 409 when it is not in the state for that.
pub async fn freeze(face: &Arc<Face>, container: &Arc<Container>, frozen: bool) -> Result<()> {
    let _ops = container.ops.lock().await;
    let id = &container.id;
    match (container.phase(), frozen) {
        (Phase::Running, true) | (Phase::Paused, false) => {}
        (Phase::Paused, true) => return Err(Fault::conflict(format!("Container {id} is already paused"))),
        (Phase::Running, false) => return Err(Fault::conflict(format!("Container {id} is not paused"))),
        _ => return Err(Fault::conflict(format!("Container {id} is not running"))),
    }
    face.engine.freeze(id, frozen).await?;
    let record = face.change(container, |r| r.state.phase = if frozen { Phase::Paused } else { Phase::Running });
    face.tell(&record, if frozen { "pause" } else { "unpause" }, &[]);
    Ok(())
}

/// Removes a container, killing it first if `force`, and its volumes without names if `volumes`.
///
/// # Errors
/// 409 when it runs and is not to be killed.
pub async fn remove(face: &Arc<Face>, container: &Arc<Container>, force: bool, volumes: bool) -> Result<()> {
    let phase = container.phase();
    let busy = phase.is_live() || phase == Phase::Restarting;
    if busy && !force {
        return Err(Fault::conflict(format!(
            "cannot remove container \"/{}\": container is {}: stop the container before removing or force remove",
            container.name(),
            phase.word()
        )));
    }
    if busy {
        stop(face, container, Some(0), None).await?;
    }
    let _ops = container.ops.lock().await;
    if container.seen.borrow().removed {
        return Ok(());
    }
    if container.phase().is_live() {
        return Err(Fault::conflict(format!("container {} was started meanwhile", container.id)));
    }
    face.engine.remove_sandbox(&container.id).await?;
    logging::finish(face, &container.id).await;
    let (of, key, id, record) = (face.clone(), root_key(&container.id), container.id.clone(), container.record());
    let mounts = record.mounts.clone();
    blocking(move || {
        of.engine.images().remove_snapshot(&key)?;
        of.records.remove(&id).map_err(|e| Fault::io("remove the container's folder", &e))?;
        for point in mounts.iter().filter(|m| m.anonymous && volumes) {
            // Another container may use it by its name, or have it from this one.
            if crate::volumes::users(&of, &point.name).iter().all(|user| *user == id) {
                drop(of.volumes.remove(&point.name));
            }
        }
        Ok::<_, Fault>(())
    })
    .await?;
    face.containers.lock().remove(&container.id);
    container.waiting.lock().clear();
    face.execs.forget(&container.id);
    face.tell(&record, "destroy", &[]);
    container.seen.send_modify(|s| s.removed = true);
    Ok(())
}

/// After a start of the agent: what ran goes on, what ended meanwhile is finished, what nobody knows is removed.
pub async fn resume(face: &Arc<Face>) {
    let all = face.all();
    let sandboxes = face.engine.sandboxes().await;
    for stray in sandboxes.iter().filter(|s| s.spec.owner == Owner::Docker) {
        if !all.iter().any(|c| c.id == stray.spec.id) {
            drop(face.engine.remove_sandbox(&stray.spec.id).await);
        }
    }
    // The oldest first: others may stand in its network.
    for container in all.into_iter().rev() {
        let status = face.engine.container_status(&container.id).map(|s| s.state);
        let phase = container.phase();
        match status {
            Some(ContainerState::Running { started_at_ms }) => {
                adopt(face, &container, started_at_ms, &sandboxes);
                networks::adopt(face, &container).await;
            }
            Some(ContainerState::Exited(exit)) if phase.is_live() => finish(face, &container, Some(exit)).await,
            None if phase.is_live() => finish(face, &container, None).await,
            _ => {
                // Made and not started, or ended and seen: nothing of it belongs in the engine.
                drop(face.engine.remove_sandbox(&container.id).await);
                if !container.record().state.endpoints.is_empty() {
                    face.change(&container, |r| r.state.endpoints.clear());
                }
                logging::begin(face, &container);
                at_rest(face, &container);
            }
        }
    }
}

fn at_rest(face: &Arc<Face>, container: &Arc<Container>) {
    let record = container.record();
    match record.state.phase {
        Phase::Restarting => come_back(face, container),
        // Docker's `always` starts it with the daemon even if a person had stopped it.
        Phase::Exited if record.host.restart_policy.name == "always" => {
            face.change(container, |r| {
                (r.state.phase, r.state.stopped_by_hand, r.state.restarts) = (Phase::Restarting, false, 0);
            });
            come_back(face, container);
        }
        _ => {}
    }
}

fn adopt(face: &Arc<Face>, container: &Arc<Container>, started: i64, all: &[engine::runtime::SandboxStatus]) {
    let ip = all.iter().find(|s| s.spec.id == container.id).and_then(|s| s.ip);
    face.change(container, |r| {
        if !r.state.phase.is_live() {
            r.state.phase = Phase::Running;
            r.state.started_at_ms = started;
        }
        // One that came onto the bridge later has an address that its sandbox does not know.
        r.state.ip = ip.map(|ip| ip.to_string()).or_else(|| r.state.ip.take());
    });
    watch(face, container);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_says_whether_an_end_is_the_end() {
        let record = |name: &str, most: i64, restarts: u32, by_hand: bool| {
            let mut record = Record::default();
            record.host.restart_policy.name = name.into();
            record.host.restart_policy.maximum_retry_count = most;
            (record.state.restarts, record.state.stopped_by_hand) = (restarts, by_hand);
            record
        };
        for (name, most, restarts, by_hand, code, wanted) in [
            ("", 0, 0, false, 1, false),
            ("no", 0, 0, false, 1, false),
            ("always", 0, 9, false, 0, true),
            ("always", 0, 0, true, 0, false),
            ("unless-stopped", 0, 0, true, 1, false),
            ("on-failure", 0, 99, false, 1, true),
            ("on-failure", 0, 0, false, 0, false),
            ("on-failure", 2, 1, false, 1, true),
            ("on-failure", 2, 2, false, 1, false),
        ] {
            let record = record(name, most, restarts, by_hand);
            assert_eq!(starts_again(&record, code), wanted, "{name} {most} {restarts} {by_hand} {code}");
        }
    }
}
