//! The spans of a pod's way to Ready: one trace for each pod, with the pod's UID as its id.

use base::trace::{Parent, Span, trace_of_uid};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::report::Written;
use crate::config::AgentConfig;

/// From when the node first saw the pod until it is reported as ready.
#[derive(Default)]
pub(super) struct Way {
    root: Span,
}

impl Way {
    /// Of a pod that the node sees for the first time. One that it took before, as when the agent is started again, is not
    /// on its way any more.
    pub(super) fn begin(config: &AgentConfig, pod: &Pod) -> Way {
        if !config.tracer.is_on() || pod.status.as_ref().is_some_and(|s| s.start_time.is_some()) {
            return Way::default();
        }
        let m = &pod.metadata;
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let root = config.tracer.root(trace_of_uid(m.uid.as_deref().unwrap_or_default()), "pod");
        let root = root.with("k8s.namespace.name", || text(&m.namespace)).with("k8s.pod.name", || text(&m.name));
        Way { root: root.with("k8s.pod.uid", || text(&m.uid)).with("k8s.node.name", || &config.node_name) }
    }

    /// For what is done for the pod.
    pub(super) fn parent(&self) -> Parent {
        self.root.parent()
    }

    /// A status was written: one that says that the pod is ready, or that it ended, ends the way.
    pub(super) fn written(&mut self, written: &Written, status: &PodStatus) {
        if !self.root.is_on() || *written != Written::Yes {
            return;
        }
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ready || over {
            drop(std::mem::take(&mut self.root));
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.root.fail(|| "it was not ready when it went, or when the agent ended");
    }
}
