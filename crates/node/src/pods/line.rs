//! How others reach a pod's worker.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use reconcile::pod::Eviction;
use tokio::sync::watch;

/// The pod as last seen.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) pod: Arc<Pod>,
    /// Its object is no more.
    pub(super) gone: bool,
    /// The node wants it to end.
    pub(super) end: Option<Arc<Eviction>>,
    /// The node has too many dead containers: of this pod, these go.
    pub(super) surplus: Arc<BTreeSet<String>>,
}

/// To the worker, and back.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) updates: watch::Sender<Update>,
    /// Whether nothing of the pod is left on the node but its record, and its status says so.
    pub(super) down: watch::Receiver<bool>,
}
