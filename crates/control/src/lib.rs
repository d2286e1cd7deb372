//! The controllers at work: caches that follow the API server, queues of keys, and one actuator that carries out what
//! `reconcile` decides. Everything goes through a Kubernetes client, so the same code can drive any API server.
//!
//! A watch event is a hint: it puts a key in a queue. The pass over a key reads the caches, asks `reconcile` for a plan,
//! carries the plan out, and waits until the caches have seen what it did, so that the next pass over the same key never
//! decides on a state older than its own actions.

mod actuator;
mod autoscaling;
mod bootstrap;
mod cache;
mod controllers;
mod elect;
mod events;
mod gc;
mod health;
mod queue;
mod scheduling;
mod snapshots;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use actuator::ActError;
pub use controllers::access::{Authority, NotSigned};
pub use elect::{Election, LEASE, lead};
pub use health::{Component, Health};

/// What the controllers must be told.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// The cluster's CA certificate, published in every namespace.
    pub ca_pem: String,
    /// Folder of local volumes on every node.
    pub local_volume_root: String,
    /// Who signs approved certificate signing requests; nobody, if there is none.
    pub authority: Option<Arc<dyn Authority>>,
    /// What the controllers tell of how they are.
    pub health: Arc<Health>,
}

/// Runs every controller until `drain` is cancelled. Returns early only when the API server cannot be reached at start.
pub async fn run(client: kube::Client, config: ControlConfig, drain: CancellationToken) -> Result<(), ActError> {
    let _running = config.health.begin();
    let recorder = events::Recorder::start(client.clone(), "windlass-controllers", drain.clone());
    let actuator = actuator::Actuator::new(client.clone(), recorder);
    bootstrap::ensure(&actuator).await?;
    let context = Arc::new(controllers::Context::new(client, actuator, config, drain.clone()));
    controllers::start(&context);
    controllers::access::start(&context);
    controllers::tokens::start(&context);
    scheduling::start(&context);
    autoscaling::start(&context);
    gc::start(&context);
    drain.cancelled().await;
    Ok(())
}
