//! From the names in a path to a sandbox or container of the runtime.

use engine::runtime::{ContainerState, ContainerStatus, SandboxStatus};
use http::StatusCode;
use k8s_openapi::api::core::v1::{ContainerState as Reported, ContainerStatus as PodContainer, Pod};

use super::Shared;
use super::refusal::Refusal;

/// The pod meant by a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, if the path has one.
    pub uid: Option<String>,
}

/// What is known of it here: either may be missing, not both.
pub struct Known {
    /// As the API server has it.
    pub pod: Option<Pod>,
    /// Its newest sandbox.
    pub sandbox: Option<SandboxStatus>,
}

impl PodRef {
    /// Looks it up.
    ///
    /// # Errors
    /// 404 when this node knows no such pod.
    pub async fn find(&self, shared: &Shared) -> Result<Known, Refusal> {
        let named = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(&self.namespace)
                && pod.metadata.name.as_deref() == Some(&self.name)
                && self.uid.as_ref().is_none_or(|uid| pod.metadata.uid.as_ref() == Some(uid))
        };
        let pod = (shared.pods)().into_iter().find(named);
        let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.clone()).or_else(|| self.uid.clone());
        let mut sandboxes = shared.runtime.sandboxes().await;
        // The id of a sandbox is the pod's UID: the sandbox of a namesake that went before is not this pod's.
        sandboxes.retain(|s| {
            s.spec.namespace == self.namespace
                && s.spec.name == self.name
                && uid.as_ref().is_none_or(|uid| *uid == s.spec.id)
        });
        let sandbox = sandboxes.into_iter().max_by_key(|s| s.created_at_ms);
        if pod.is_none() && sandbox.is_none() {
            return Err(Refusal::missing(format!("pod {:?} does not exist", self.name)));
        }
        Ok(Known { pod, sandbox })
    }

    /// The container of that name that runs now.
    ///
    /// # Errors
    /// 404 without the pod, 500 without a running container, as the kubelet answers.
    pub async fn running(&self, shared: &Shared, container: &str) -> Result<ContainerStatus, Refusal> {
        let missing = || Refusal::fault(format!("container not found ({container:?})"));
        if let Some(mirrored) = self.mirrored(shared) {
            return mirrored.running(shared, container).await.ok_or_else(missing);
        }
        let sandbox = self.find(shared).await?.sandbox.ok_or_else(missing)?;
        attempts(shared, &sandbox.spec.id, container)
            .await
            .pop()
            .filter(|c| matches!(c.state, ContainerState::Running { .. }))
            .ok_or_else(missing)
    }

    /// The id of the sandbox, ready to be connected to.
    ///
    /// # Errors
    /// 404 without the pod, 500 without a sandbox that runs.
    pub async fn sandbox(&self, shared: &Shared) -> Result<String, Refusal> {
        let missing = || Refusal::fault(format!("pod not found ({:?})", self.name));
        if let Some(mirrored) = self.mirrored(shared) {
            let name = mirrored.name().to_owned();
            return mirrored.running(shared, &name).await.map(|c| c.spec.sandbox_id).ok_or_else(missing);
        }
        let sandbox = self.find(shared).await?.sandbox.filter(|s| s.ready);
        sandbox.map(|s| s.spec.id).ok_or_else(missing)
    }

    /// The container whose log is asked for.
    ///
    /// # Errors
    /// 404 for what does not exist, 400 for what has no log yet, in the kubelet's words.
    pub async fn logged(&self, shared: &Shared, container: &str, previous: bool) -> Result<ContainerStatus, Refusal> {
        if let Some(mirrored) = self.mirrored(shared) {
            return mirrored.logged(shared, container, previous).await;
        }
        let known = self.find(shared).await?;
        let mut attempts = match &known.sandbox {
            Some(sandbox) => attempts(shared, &sandbox.spec.id, container).await,
            None => Vec::new(),
        };
        let pod = &self.name;
        if attempts.is_empty() && known.pod.as_ref().is_some_and(|p| !has_container(p, container)) {
            return Err(Refusal::missing(format!("container {container:?} not found in pod {pod:?}")));
        }
        let reported = known.pod.as_ref().and_then(|p| reported(p, container));
        let waiting = reported.and_then(|c| c.state.as_ref()?.waiting.as_ref());
        // Made but not started has no log: what ran before counts as the last state.
        let pending = attempts.pop_if(|c| c.state == ContainerState::Created).is_some();
        let last = attempts.pop();
        if previous {
            let exited = last.as_ref().is_some_and(|c| matches!(c.state, ContainerState::Exited(_)));
            let before = if exited && (pending || waiting.is_some()) { last } else { attempts.pop() };
            return before.ok_or_else(|| {
                Refusal::bad(format!("previous terminated container {container:?} in pod {pod:?} not found"))
            });
        }
        last.ok_or_else(|| {
            if let Some(id) = reported.and_then(removed) {
                return Refusal::bad(format!("unable to retrieve container logs for {id}"));
            }
            let why = match waiting.and_then(|w| w.reason.as_deref()).unwrap_or("ContainerCreating") {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                reason => reason,
            };
            Refusal::bad(format!("container {container:?} in pod {pod:?} is waiting to start: {why}"))
        })
    }
}

/// The containers of a name, oldest attempt first.
async fn attempts(shared: &Shared, sandbox: &str, name: &str) -> Vec<ContainerStatus> {
    let mut all = shared.runtime.containers(Some(sandbox)).await;
    all.retain(|c| c.spec.name == name);
    all.sort_by_key(|c| c.spec.attempt);
    all
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == name)
        || spec.ephemeral_containers.iter().flatten().any(|c| c.name == name)
}

fn reported<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodContainer> {
    let status = pod.status.as_ref()?;
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|c| c.name == name)
}

/// The id of the run that a container last had, if it ended: when it is not there, its log went with it.
fn removed(container: &PodContainer) -> Option<&str> {
    let ended = |s: Option<&Reported>| s.is_some_and(|s| s.terminated.is_some());
    let over = ended(container.state.as_ref()) || ended(container.last_state.as_ref());
    container.container_id.as_deref().filter(|_| over)
}

/// Names in a path: what Kubernetes calls an object is never more than 253 of these.
pub fn valid_name(name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("{name:?} is not the name of anything")));
    }
    Ok(())
}
