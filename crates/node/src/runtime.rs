//! The container runtime as an object: `engine::runtime::ContainerRuntime` with its futures boxed, so that the rest of
//! the agent is compiled once and not per runtime.

use std::time::Duration;

use engine::runtime::{
    ContainerRuntime, ContainerSpec, ContainerStatus, Duplex, ExecSpec, Owner, Resources, RuntimeError, RuntimeEvent,
    SandboxSpec, SandboxStatus, Session, Usage, Written,
};
use futures::future::BoxFuture;
use tokio::sync::broadcast;

/// What a call of the runtime answers.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// A container runtime; see the trait it is made from for what each call means.
pub trait Runtime: Send + Sync + 'static {
    /// Makes a sandbox.
    fn run_sandbox(&self, spec: SandboxSpec) -> Answer<'_, SandboxStatus>;
    /// Takes it down.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Removes it.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// All that are of pods: what others had made on the same engine is not the node's.
    fn sandboxes(&self) -> BoxFuture<'_, Vec<SandboxStatus>>;
    /// Makes a container.
    fn create_container(&self, spec: ContainerSpec) -> Answer<'_, ()>;
    /// Starts it.
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// Stops it.
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()>;
    /// Removes it.
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()>;
    /// All, or those of a sandbox.
    fn containers<'a>(&'a self, sandbox: Option<&'a str>) -> BoxFuture<'a, Vec<ContainerStatus>>;
    /// Changes its limits.
    fn update_resources<'a>(&'a self, id: &'a str, r: Resources) -> Answer<'a, ()>;
    /// Changes the limits of a sandbox.
    fn update_sandbox<'a>(&'a self, id: &'a str, r: Resources) -> Answer<'a, ()>;
    /// What a container wrote to its own file system.
    fn written<'a>(&'a self, id: &'a str) -> Answer<'a, Written>;
    /// Runs a command in one.
    fn exec(&self, spec: ExecSpec) -> Answer<'_, Session>;
    /// Connects to its streams.
    fn attach<'a>(&'a self, id: &'a str) -> Answer<'a, Session>;
    /// Connects to a port in a sandbox.
    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>>;
    /// What a container uses.
    fn usage<'a>(&'a self, id: &'a str) -> Answer<'a, Usage>;
    /// Hints of changes.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;
}

impl<R: ContainerRuntime> Runtime for R {
    fn run_sandbox(&self, spec: SandboxSpec) -> Answer<'_, SandboxStatus> {
        Box::pin(ContainerRuntime::run_sandbox(self, spec))
    }
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::stop_sandbox(self, id))
    }
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::remove_sandbox(self, id))
    }
    fn sandboxes(&self) -> BoxFuture<'_, Vec<SandboxStatus>> {
        Box::pin(async move {
            let all = ContainerRuntime::sandboxes(self).await;
            all.into_iter().filter(|s| s.spec.owner == Owner::Pod).collect()
        })
    }
    fn create_container(&self, spec: ContainerSpec) -> Answer<'_, ()> {
        Box::pin(ContainerRuntime::create_container(self, spec))
    }
    fn start_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::start_container(self, id))
    }
    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::stop_container(self, id, grace))
    }
    fn remove_container<'a>(&'a self, id: &'a str) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::remove_container(self, id))
    }
    fn containers<'a>(&'a self, sandbox: Option<&'a str>) -> BoxFuture<'a, Vec<ContainerStatus>> {
        Box::pin(async move {
            let containers = ContainerRuntime::containers(self, sandbox).await;
            if sandbox.is_some() {
                return containers;
            }
            let all = ContainerRuntime::sandboxes(self).await;
            let others = all.into_iter().filter(|s| s.spec.owner != Owner::Pod).map(|s| s.spec.id);
            let others: std::collections::BTreeSet<String> = others.collect();
            containers.into_iter().filter(|c| !others.contains(&c.spec.sandbox_id)).collect()
        })
    }
    fn update_resources<'a>(&'a self, id: &'a str, r: Resources) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::update_resources(self, id, r))
    }
    fn update_sandbox<'a>(&'a self, id: &'a str, r: Resources) -> Answer<'a, ()> {
        Box::pin(ContainerRuntime::update_sandbox(self, id, r))
    }
    fn written<'a>(&'a self, id: &'a str) -> Answer<'a, Written> {
        Box::pin(ContainerRuntime::written(self, id))
    }
    fn exec(&self, spec: ExecSpec) -> Answer<'_, Session> {
        Box::pin(ContainerRuntime::exec(self, spec))
    }
    fn attach<'a>(&'a self, id: &'a str) -> Answer<'a, Session> {
        Box::pin(ContainerRuntime::attach(self, id))
    }
    fn connect<'a>(&'a self, sandbox: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(ContainerRuntime::connect(self, sandbox, port))
    }
    fn usage<'a>(&'a self, id: &'a str) -> Answer<'a, Usage> {
        Box::pin(ContainerRuntime::usage(self, id))
    }
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        ContainerRuntime::events(self)
    }
}
