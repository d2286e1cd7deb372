//! Docker's containers as pods of the namespace `docker`: `reconcile::mirror` decides which there are and what they say, this
//! writes it. No pod worker ever sees one. Who deletes such a pod has its container stopped and removed.

mod keeper;

use std::collections::BTreeMap;
use std::sync::Arc;

use convert::Inspect;
use engine::runtime::{ContainerSpec, ContainerState, ContainerStatus, ExitRecord};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use reconcile::mirror::{NAMESPACE, container_of};
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use keeper::run;

/// Who has containers that are none of a pod.
pub trait Docker: Send + Sync + 'static {
    /// All of them, each as Docker's API describes it (`GET /containers/{id}/json`).
    fn containers(&self) -> BoxFuture<'_, Vec<Value>>;
    /// Changes whenever one may not be as it was.
    fn changes(&self) -> watch::Receiver<()>;
    /// Ends one, which has so many seconds to do so itself, and removes it; says why not. One that is not there is no error.
    fn remove<'a>(&'a self, id: &'a str, seconds: i64) -> BoxFuture<'a, Result<(), String>>;
}

/// The pods that stand for containers, for those who answer questions about them.
pub(crate) struct Mirrors {
    docker: Arc<dyn Docker>,
    /// By name.
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
}

/// A container behind a pod.
#[derive(Debug)]
pub(crate) struct Mirrored {
    pub(crate) pod: Arc<Pod>,
    pub(crate) id: String,
}

impl Mirrored {
    /// What the pod calls the container.
    pub(crate) fn name(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|s| s.containers.first()).map(|c| c.name.as_str()).unwrap_or_default()
    }
}

impl Mirrors {
    pub(crate) fn new(docker: Arc<dyn Docker>) -> Self {
        Mirrors { docker, pods: Mutex::default() }
    }

    fn set(&self, pods: impl Iterator<Item = Arc<Pod>>) {
        let named = pods.filter(|p| container_of(p).is_some()).filter_map(|p| Some((p.metadata.name.clone()?, p)));
        *self.pods.lock() = named.collect();
    }

    /// All pods that stand for containers.
    pub(crate) fn all(&self) -> Vec<Mirrored> {
        let pods = self.pods.lock();
        pods.values().filter_map(|pod| Some(Mirrored { pod: pod.clone(), id: container_of(pod)?.to_owned() })).collect()
    }

    /// The container behind the pod of that name, if it stands for one.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Mirrored> {
        let pod = self.pods.lock().get(name).filter(|_| namespace == NAMESPACE)?.clone();
        let same = uid.is_none_or(|uid| pod.metadata.uid.as_deref() == Some(uid));
        let id = container_of(&pod).filter(|_| same)?.to_owned();
        Some(Mirrored { pod, id })
    }

    async fn containers(&self) -> Vec<Inspect> {
        let documents = self.docker.containers().await;
        let read = documents.into_iter().map(Inspect::read);
        read.filter_map(|read| read.inspect_err(|error| tracing::warn!(%error, "a container is not shown")).ok())
            .collect()
    }

    /// How the container behind a pod is, as the runtime would say it; one that does not run has nothing there.
    pub(crate) async fn status(&self, of: &Mirrored) -> Option<(Inspect, ContainerStatus)> {
        let found = self.containers().await.into_iter().find(|c| c.id == of.id)?;
        let spec = ContainerSpec {
            id: of.id.clone(),
            sandbox_id: of.id.clone(),
            name: of.name().to_owned(),
            log_path: found.log_path.clone().into(),
            ..ContainerSpec::default()
        };
        let state = match found.state.status.as_str() {
            "running" | "paused" => ContainerState::Running { started_at_ms: 0 },
            "created" => ContainerState::Created,
            _ => ContainerState::Exited(ExitRecord {
                exit_code: found.state.exit_code,
                signal: None,
                oom_killed: found.state.oom_killed,
                started_at_ms: 0,
                finished_at_ms: 0,
                start_error: None,
            }),
        };
        let (image_id, stop_signal) = (found.image.clone(), found.config.stop_signal.clone());
        Some((found, ContainerStatus { spec, image_id, user: None, stop_signal, state }))
    }
}
