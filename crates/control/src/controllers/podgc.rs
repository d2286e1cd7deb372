//! Pods that nobody looks after: what asks for a look, and the look.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use reconcile::plan::{controller, name, namespace, uid};
use reconcile::podgc::{ENDED_MAX, QUARANTINE, plan_ended, plan_orphan};

use super::{Context, Pass};
use crate::actuator::{ActError, is_not_found};
use crate::cache::{Key, Listener};

/// Pods that ended are counted together, this long after the first (the period of Kubernetes' collector).
const COUNT_AFTER: Duration = Duration::from_secs(20);

/// The key of the pass that counts ended pods.
fn count_key() -> Key {
    Key::default()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

fn look_later(c: &Context, pod: &Pod) {
    let key = (namespace(&pod.metadata).to_owned(), name(&pod.metadata).to_owned());
    c.queues.pod_gc.0.add_after(key, QUARANTINE);
}

/// Whether a pod stays for a Job that, as far as is known here, is gone.
fn kept_for_nobody(c: &Context, pod: &Pod) -> bool {
    let of = |job: &str| c.caches.jobs.get(namespace(&pod.metadata), job);
    let owner = controller(&pod.metadata).filter(|o| o.kind == "Job");
    reconcile::job::held(pod) && owner.is_none_or(|o| of(&o.name).is_none_or(|job| uid(&job.metadata) != o.uid))
}

/// A pod on a node that is not known, one that has just ended, or one whose Job is gone.
pub(super) fn on_pod(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(pod)) = (weak.upgrade(), new) else { return };
        if node_of(pod).is_some_and(|n| c.caches.nodes.get("", n).is_none()) {
            look_later(&c, pod);
        }
        if reconcile::pods::finished(pod) && old.is_none_or(|p| !reconcile::pods::finished(p)) {
            c.queues.pod_gc.0.add_after(count_key(), COUNT_AFTER);
        }
        if kept_for_nobody(&c, pod) {
            c.queues.pod_gc.add(namespace(&pod.metadata), name(&pod.metadata));
        }
    })
}

/// The pods of a Job that went.
pub(super) fn on_job(context: &Arc<Context>) -> Listener<Job> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(job)) = (weak.upgrade(), old) else { return };
        let gone = uid(&job.metadata);
        if new.is_some_and(|new| uid(&new.metadata) == gone) {
            return;
        }
        for (ns, pod) in c.caches.pods.keys(|pod| *pod.owner == *gone) {
            c.queues.pod_gc.add(&ns, &pod);
        }
    })
}

/// The pods of a node that went.
pub(super) fn on_node(context: &Arc<Context>) -> Listener<Node> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let (Some(c), Some(node), None) = (weak.upgrade(), old, new) else { return };
        let gone = name(&node.metadata);
        for key in c.caches.pods.keys(|pod| *pod.node == *gone) {
            c.queues.pod_gc.0.add_after(key, QUARANTINE);
        }
    })
}

pub(super) fn pass(c: Arc<Context>, key: Key) -> Pass {
    Box::pin(async move {
        if key == count_key() {
            if c.caches.pods.count(|pod| pod.is_left) <= ENDED_MAX {
                return Ok(None);
            }
            let all = c.caches.pods.pick(None, |_, pod| pod.is_left);
            let refs: Vec<&Pod> = all.iter().map(Arc::as_ref).collect();
            return c.carry_out(plan_ended(&refs)).await;
        }
        let Some(pod) = c.caches.pods.get(&key.0, &key.1) else { return Ok(None) };
        if kept_for_nobody(&c, &pod) && is_gone(&c, &pod).await? {
            return c.carry_out(reconcile::job::plan_left(&pod)).await;
        }
        let Some(node) = node_of(&pod).filter(|n| c.caches.nodes.get("", n).is_none()) else { return Ok(None) };
        // The cache may lag: a pod is not ended on its word alone.
        match c.actuator.call(Method::GET, &format!("/api/v1/nodes/{node}"), None, None).await {
            Ok(_) => Ok(Some(QUARANTINE)),
            Err(e) if is_not_found(&e) => c.carry_out(plan_orphan(&pod, Timestamp::now())).await,
            Err(e) => Err(e),
        }
    })
}

/// Whether the Job of a pod is gone as the API server has it: the cache may lag, and a pod that is let go is never counted.
async fn is_gone(c: &Context, pod: &Pod) -> Result<bool, ActError> {
    let Some(owner) = controller(&pod.metadata).filter(|o| o.kind == "Job") else { return Ok(true) };
    let path = format!("/apis/batch/v1/namespaces/{}/jobs/{}", namespace(&pod.metadata), owner.name);
    match c.actuator.call(Method::GET, &path, None, None).await {
        Ok(job) => Ok(job["metadata"]["uid"] != owner.uid.as_str()),
        Err(e) if is_not_found(&e) => Ok(true),
        Err(e) => Err(e),
    }
}
