//! Docker's containers, when the pods that stand for them are asked about.

use engine::runtime::{ContainerState, ContainerStatus};

use super::Shared;
use super::find::PodRef;
use super::refusal::Refusal;
use crate::mirror::Mirrored;

impl PodRef {
    /// The container behind the pod, if it stands for one of Docker's.
    pub fn mirrored(&self, shared: &Shared) -> Option<Mirrored> {
        shared.mirrors.as_ref()?.find(&self.namespace, &self.name, self.uid.as_deref())
    }
}

impl Mirrored {
    /// It, if it runs and is called so.
    pub(super) async fn running(&self, shared: &Shared, name: &str) -> Option<ContainerStatus> {
        // Its sandbox has its id.
        let found = shared.runtime.containers(Some(&self.id)).await.pop().filter(|_| self.name() == name)?;
        matches!(found.state, ContainerState::Running { .. }).then_some(found)
    }

    /// It, for its log.
    ///
    /// # Errors
    /// 404 for what does not exist, 400 for what has no log, or none of the run before.
    pub(super) async fn logged(&self, shared: &Shared, name: &str, previous: bool) -> Result<ContainerStatus, Refusal> {
        let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
        let missing = || Refusal::missing(format!("container {name:?} not found in pod {pod:?}"));
        let mirrors = shared.mirrors.as_ref().filter(|_| self.name() == name).ok_or_else(missing)?;
        let (container, status) = mirrors.status(self).await.ok_or_else(missing)?;
        if previous {
            return Err(Refusal::bad(format!(
                "previous terminated container {name:?} in pod {pod:?} not found: all runs of a Docker container have one log"
            )));
        }
        if container.log_path.is_empty() {
            return Err(Refusal::bad(format!(
                "container {name:?} in pod {pod:?} has no log: its logging driver is none"
            )));
        }
        match status.state {
            ContainerState::Created => {
                Err(Refusal::bad(format!("container {name:?} in pod {pod:?} is waiting to start: Created")))
            }
            _ => Ok(status),
        }
    }
}
