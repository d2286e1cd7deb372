//! Docker's containers as pods: which pods stand for them, and what those say. Such a pod is a picture: nobody schedules it, no
//! node runs it, and deleting it removes its container.

mod pod;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use convert::Inspect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;

/// Where the pods are.
pub const NAMESPACE: &str = "docker";
/// Says of a pod which container it stands for: as an annotation the whole id, as a label the first twelve digits of it.
pub const CONTAINER: &str = "windlass.dev/docker-container";
/// Says of a pod that it does not come from an API server; the value tells one state of what it comes from from others.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The node that the containers are on.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A pod stands for nothing any more, or not for what there is now: it goes at once.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// A container has no pod.
    Create(Box<Value>),
    /// What is to be said of a pod, if that is not said yet.
    Report {
        /// Which.
        pod: Arc<Pod>,
        /// How it is.
        status: Box<PodStatus>,
    },
    /// Somebody deleted the pod: the container ends, and goes.
    Remove {
        /// Which.
        id: String,
        /// Seconds it has to end.
        grace_s: i64,
    },
}

/// The container that a pod stands for, if it does.
pub fn container_of(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(CONTAINER).map(String::as_str)
}

/// Seconds that a container has to end whose pod is being deleted.
pub fn grace(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0)
}

/// The names that a container's pod may have: the second when the first is another's.
fn names(container: &Inspect) -> [String; 2] {
    const TAIL: usize = 8;
    let name = convert::name(container.plain_name());
    let tail = container.id.get(..TAIL).unwrap_or(&container.id);
    let room = 63 - 1 - TAIL;
    let head = name.get(..room).unwrap_or(&name).trim_end_matches('-');
    let second = format!("{head}-{tail}");
    [name, second]
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Whether a pod no longer says what there is. What a pod has ended with is final: a container that is started again gets
/// another one. While a container does not run, some of what it asked for is open, and nothing is compared.
fn is_outdated(pod: &Pod, container: &Inspect, node: &Node) -> bool {
    let name = name_of(pod);
    if !names(container).iter().any(|n| n == name) {
        return true;
    }
    let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    if ended && !status::is_over(container) {
        return true;
    }
    if !status::is_live(container) {
        return false;
    }
    let wanted = pod::of(container, name, node);
    let noted = pod.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR)).map(String::as_str);
    // What was asked for is compared, not what is there: a webhook may have had its say, and would have it again.
    wanted["metadata"]["annotations"][MIRROR].as_str() != noted
}

/// Decides. `pods` are all that are known in the namespace, `taken` further names that turned out to be another's.
pub fn plan(
    containers: &[Inspect],
    pods: &[Arc<Pod>],
    taken: &BTreeSet<String>,
    node: &Node,
    now: Timestamp,
) -> Vec<Action> {
    let mut by_id: BTreeMap<&str, &Inspect> = containers.iter().map(|c| (c.id.as_str(), c)).collect();
    let (mut deletions, mut others) = (Vec::new(), Vec::new());
    let mut used = taken.clone();
    for pod in pods {
        let Some(id) = container_of(pod) else {
            used.insert(name_of(pod).to_owned());
            continue;
        };
        let delete =
            || Action::Delete { name: name_of(pod).to_owned(), uid: pod.metadata.uid.clone().unwrap_or_default() };
        let Some(container) = by_id.get(id).copied() else {
            // Gone, or there is another pod for it.
            deletions.push(delete());
            continue;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            used.insert(name_of(pod).to_owned());
            by_id.remove(id);
            others.push(Action::Remove { id: id.to_owned(), grace_s: grace(pod) });
            continue;
        }
        if is_outdated(pod, container, node) {
            deletions.push(delete());
            continue;
        }
        used.insert(name_of(pod).to_owned());
        by_id.remove(id);
        others.push(Action::Report { pod: pod.clone(), status: Box::new(status::of(container, pod, node, now)) });
    }
    let mut bare: Vec<&Inspect> = by_id.into_values().collect();
    // The oldest has the first choice of names.
    bare.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    let creations = bare.into_iter().filter_map(|container| {
        let name = names(container).into_iter().find(|n| !used.contains(n))?;
        let made = pod::of(container, &name, node);
        used.insert(name);
        Some(Action::Create(Box::new(made)))
    });
    let creations: Vec<Action> = creations.collect();
    deletions.into_iter().chain(others).chain(creations).collect()
}
