//! One task per sandbox owns everything about it: its records, its shim, its containers. Callers send commands and wait;
//! a caller that gives up does not leave a step half done. State changes come from commands and from the shim, in one
//! order.

use std::collections::BTreeMap;
use std::sync::Arc;

use shim::proto::{Reply, Request};
use tokio::sync::{mpsc, oneshot, watch};

use crate::context::Context;
use crate::link::{Link, ShimEvent};
use crate::record::{ContainerRecord, Phase, SandboxRecord};
use crate::runtime::{
    ContainerSpec, ContainerState, ContainerStatus, ExitRecord, Resources, RuntimeError, SandboxSpec, SandboxStatus,
};
use crate::signal;

pub(crate) mod container;
mod resume;
mod sandbox;
pub(crate) mod teardown;

/// Commands waiting for one sandbox at most; callers wait beyond that.
const COMMANDS_MAX: usize = 64;
/// Events of one shim on their way at most; more than a sandbox can hold containers, so that a reply is never stuck
/// behind them.
const EVENTS_MAX: usize = 1024;

/// What can be asked of a driver.
pub enum Command {
    /// Make the sandbox, or confirm that it is as asked.
    Run(Box<SandboxSpec>, Answer<SandboxStatus>),
    /// Kill what runs, take the network away, end the shim.
    Stop(Answer<()>),
    /// Remove everything.
    Remove(Answer<()>),
    /// Make a container.
    Create(Box<ContainerSpec>, Answer<()>),
    /// Start it.
    Start(String, Answer<()>),
    /// Send it its stop signal (`None`) or kill all of it.
    Signal(String, Kill, Answer<()>),
    /// Remove it.
    RemoveContainer(String, Answer<()>),
    /// Change its limits.
    Update(String, Resources, Answer<()>),
    /// Change the limits of the sandbox.
    UpdateSandbox(Resources, Answer<()>),
}

/// How hard to signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// The image's stop signal, to the main process.
    Ask,
    /// SIGKILL, to every process of the container.
    Force,
}

/// Where an answer goes.
pub type Answer<T> = oneshot::Sender<Result<T, RuntimeError>>;

/// A sandbox as others see it.
#[derive(Clone)]
pub struct View {
    /// Its state; `None` until it is made.
    pub sandbox: Option<SandboxStatus>,
    /// Its containers.
    pub containers: BTreeMap<String, ContainerStatus>,
    /// Its shim, while there is one.
    pub link: Option<Link>,
}

/// A driver, from outside.
#[derive(Clone)]
pub struct Handle {
    tx: mpsc::Sender<Command>,
    /// What it last published.
    pub view: watch::Receiver<View>,
}

impl Handle {
    /// Starts a driver for a sandbox to be made.
    pub fn spawn(cx: Arc<Context>, id: &str) -> Handle {
        let (driver, handle) = Driver::new(cx, id.to_owned());
        tokio::spawn(driver.run());
        handle
    }

    /// Starts a driver for a sandbox from before a restart, once it knows how things stand.
    pub async fn resume(cx: Arc<Context>, record: SandboxRecord, containers: Vec<ContainerRecord>) -> Option<Handle> {
        let (mut driver, handle) = Driver::new(cx, record.spec.id.clone());
        if !driver.resume(record, containers).await {
            return None;
        }
        tokio::spawn(driver.run());
        Some(handle)
    }

    /// Asks and waits. `None` when the driver has ended: its sandbox is gone.
    pub async fn ask<T>(&self, make: impl FnOnce(Answer<T>) -> Command) -> Option<Result<T, RuntimeError>> {
        let (tx, rx) = oneshot::channel();
        self.tx.send(make(tx)).await.ok()?;
        rx.await.ok()
    }

    /// Whether both are handles of one driver.
    pub fn same(&self, other: &Handle) -> bool {
        self.tx.same_channel(&other.tx)
    }
}

/// The task's state.
pub(crate) struct Driver {
    cx: Arc<Context>,
    id: String,
    record: Option<SandboxRecord>,
    containers: BTreeMap<String, ContainerRecord>,
    link: Option<Link>,
    commands: mpsc::Receiver<Command>,
    shim_tx: mpsc::Sender<ShimEvent>,
    shim_rx: mpsc::Receiver<ShimEvent>,
    view: watch::Sender<View>,
    /// Everything is removed: the task ends.
    gone: bool,
}

impl Driver {
    fn new(cx: Arc<Context>, id: String) -> (Driver, Handle) {
        let (tx, commands) = mpsc::channel(COMMANDS_MAX);
        let (shim_tx, shim_rx) = mpsc::channel(EVENTS_MAX);
        let (view, view_rx) = watch::channel(View { sandbox: None, containers: BTreeMap::new(), link: None });
        let (record, containers, link) = (None, BTreeMap::new(), None);
        let driver = Driver { cx, id, record, containers, link, commands, shim_tx, shim_rx, view, gone: false };
        (driver, Handle { tx, view: view_rx })
    }

    async fn run(mut self) {
        while !self.gone {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // The engine is closed; the shim and what it holds live on.
                    None => return,
                },
                Some(event) = self.shim_rx.recv() => self.on_event(event).await,
            }
        }
        // Late commands are told by the closing of their channels.
    }

    /// Out of the list before the caller is answered, so that it may make the sandbox anew at once. Not later: then
    /// the entry of that id may be a successor's.
    fn leave_list(&self) {
        let own = self.view.subscribe();
        let mut sandboxes = self.cx.sandboxes.lock();
        if sandboxes.get(&self.id).is_some_and(|listed| listed.view.same_channel(&own)) {
            sandboxes.remove(&self.id);
        }
    }

    async fn obey(&mut self, command: Command) {
        // Nobody waiting for an answer any more is fine: the step is done.
        match command {
            Command::Run(spec, tx) => {
                let result = self.run_sandbox(*spec).await;
                if self.gone {
                    self.leave_list();
                }
                drop(tx.send(result));
            }
            Command::Stop(tx) => drop(tx.send(self.stop_sandbox().await)),
            Command::Remove(tx) => {
                let result = self.remove_sandbox().await;
                if self.gone {
                    self.leave_list();
                }
                drop(tx.send(result));
            }
            Command::Create(spec, tx) => drop(tx.send(self.create_container(*spec).await)),
            Command::Start(id, tx) => drop(tx.send(self.start_container(&id).await)),
            Command::Signal(id, kill, tx) => drop(tx.send(self.signal_container(&id, kill).await)),
            Command::RemoveContainer(id, tx) => drop(tx.send(self.remove_container(&id).await)),
            Command::UpdateSandbox(resources, tx) => drop(tx.send(self.update_sandbox(resources).await)),
            Command::Update(id, resources, tx) => drop(tx.send(self.update_container(&id, resources).await)),
        }
    }

    /// Handles what the shim said until now, in order.
    async fn drain_events(&mut self) {
        while let Ok(event) = self.shim_rx.try_recv() {
            self.on_event(event).await;
        }
    }

    async fn on_event(&mut self, event: ShimEvent) {
        match event {
            ShimEvent::Exited { id, info } => self.set_exited(&id, exit_record(info)),
            ShimEvent::Gone => self.on_shim_gone().await,
        }
    }

    fn set_exited(&mut self, id: &str, exit: ExitRecord) {
        let known = self.containers.get(id).map(|c| &c.phase);
        if matches!(known, None | Some(Phase::Exited(_) | Phase::Partial)) {
            return;
        }
        self.set_phase(id, Phase::Exited(exit));
    }

    /// Remembers a container's phase and tells everyone.
    fn set_phase(&mut self, id: &str, phase: Phase) {
        let Some(record) = self.containers.get_mut(id) else { return };
        record.phase = phase;
        if let Err(error) = self.cx.records.put_container(record) {
            // The truth is with the shim and its exit records; a later write brings this up to date.
            tracing::warn!(container = id, %error, "record not written");
        }
        self.publish();
        self.cx.hint_container(&self.id, id);
    }

    fn publish(&self) {
        let ready = self.link.as_ref().is_some_and(Link::is_open);
        let sandbox = self.record.as_ref().filter(|r| r.complete).map(|r| SandboxStatus {
            spec: r.spec.clone(),
            ready: ready && !r.stopped,
            ip: r.ip,
            created_at_ms: r.created_at_ms,
        });
        let shown = |c: &ContainerRecord| {
            let state = match &c.phase {
                Phase::Partial => return None,
                Phase::Created => ContainerState::Created,
                Phase::Running(started_at_ms) => ContainerState::Running { started_at_ms: *started_at_ms },
                Phase::Exited(exit) => ContainerState::Exited(exit.clone()),
            };
            let (user, stop_signal) = (c.user.clone(), signal::name(c.stop_signal));
            Some(ContainerStatus { spec: c.spec.clone(), image_id: c.image_id.clone(), user, stop_signal, state })
        };
        let containers = self.containers.iter().filter_map(|(id, c)| Some((id.clone(), shown(c)?))).collect();
        self.view.send_replace(View { sandbox, containers, link: self.link.clone() });
    }

    /// Names a step, for tests that have something die at it.
    fn step(&self, name: &str) {
        crate::fault::at(name, &self.cx.pod_dir(&self.id));
    }

    fn not_found(&self, kind: &'static str) -> RuntimeError {
        RuntimeError::NotFound { kind, id: self.id.clone() }
    }

    /// The link, or that the sandbox is not there to be used.
    fn live(&self) -> Result<Link, RuntimeError> {
        match (&self.record, &self.link) {
            (None, _) => Err(self.not_found("sandbox")),
            (Some(record), Some(link)) if !record.stopped && link.is_open() => Ok(link.clone()),
            _ => Err(RuntimeError::Conflict { id: self.id.clone(), message: "the sandbox is not ready".to_owned() }),
        }
    }

    /// The cgroup of one of its containers.
    fn container_cgroup(&self, spec: &SandboxSpec, id: &str) -> String {
        format!("{}/{id}", self.cx.sandbox_cgroup(spec))
    }

    /// What the shim holds.
    async fn shim_state(&self, link: &Link) -> Result<shim::proto::ShimState, RuntimeError> {
        match link.call("ask shim", &self.id, Request::State).await?.reply {
            Reply::State(state) => Ok(state),
            other => Err(RuntimeError::Failed { operation: "ask shim", message: format!("it answered {other:?}") }),
        }
    }
}

/// A shim's exit in the engine's terms.
pub(crate) fn exit_record(info: shim::proto::ExitInfo) -> ExitRecord {
    ExitRecord {
        exit_code: info.exit_code,
        signal: info.signal,
        oom_killed: info.oom_killed,
        started_at_ms: info.started_at_ms,
        finished_at_ms: info.finished_at_ms,
        start_error: info.start_error,
    }
}
