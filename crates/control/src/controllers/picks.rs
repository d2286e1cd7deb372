//! Which pods a pass is about, asked of their sketches. More than the decision needs does no harm; fewer would: a test
//! compares what is decided with what would be, given every pod.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use reconcile::labels::{self, Labelled};
use reconcile::plan::{controlled_by, name, uid};

use crate::cache::PodSketch;

/// Pods of the sets that belong to a Deployment.
pub(super) fn of_deployment<'a>(
    deployment: &Deployment,
    sets: impl Iterator<Item = &'a ReplicaSet>,
) -> impl Fn(&str, &PodSketch) -> bool {
    let own = sets.filter(|set| controlled_by(&set.metadata, uid(&deployment.metadata)));
    let own: BTreeSet<String> = own.map(|set| uid(&set.metadata).to_owned()).collect();
    move |_, pod| own.contains(&*pod.owner)
}

/// Pods that belong to a controller, and those that belong to nobody and that it selects.
pub(super) fn own_or_orphan(meta: &ObjectMeta, selector: Option<&LabelSelector>) -> impl Fn(&str, &PodSketch) -> bool {
    let (own, selector) = (uid(meta).to_owned(), selector.map(labels::selector));
    let selects = move |pod: &PodSketch| selector.as_ref().is_some_and(|s| labels::selects(s, pod));
    move |_, pod| *pod.owner == *own || (pod.owner.is_empty() && selects(pod))
}

/// Pods that belong to a StatefulSet, and those that have a name it wants.
pub(super) fn own_or_named(meta: &ObjectMeta) -> impl Fn(&str, &PodSketch) -> bool {
    let (own, ahead) = (uid(meta).to_owned(), format!("{}-", name(meta)));
    move |name, pod| *pod.owner == *own || name.starts_with(&ahead)
}

/// Pods that a selector selects; an absent one selects none.
pub(super) fn selected(selector: Option<&LabelSelector>) -> impl Fn(&str, &PodSketch) -> bool {
    let selector = selector.map(labels::selector);
    move |_, pod| selector.as_ref().is_some_and(|s| labels::selects(s, pod))
}

/// Pods of a Service. One without a selector has none of its own.
pub(super) fn of_service(service: Option<&Service>) -> impl Fn(&str, &PodSketch) -> bool {
    let selector = service.and_then(|s| s.spec.as_ref()).and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    move |_, pod| selector.is_some_and(|s| s.iter().all(|(key, value)| pod.label(key) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Kept;
    use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
    use k8s_openapi::api::batch::v1::Job;
    use k8s_openapi::api::core::v1::{Pod, ReplicationController};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use k8s_openapi::jiff::Timestamp;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn typed<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// One pod of every combination of what picks and decisions look at.
    fn every_pod() -> Vec<Pod> {
        let mut out = Vec::new();
        for owner in ["", "own", "set", "other"] {
            for app in ["a", "b", ""] {
                for phase in ["Running", "Failed", "Succeeded"] {
                    for deleting in [false, true] {
                        let name = if app == "a" { format!("x-{}", out.len()) } else { format!("p{}", out.len()) };
                        out.push(pod(&name, owner, app, phase, deleting));
                    }
                }
            }
        }
        out
    }

    fn pod(name: &str, owner: &str, app: &str, phase: &str, deleting: bool) -> Pod {
        let mut meta = json!({"namespace": "d", "name": name, "uid": format!("u-{name}")});
        if !app.is_empty() {
            meta["labels"] = json!({"app": app});
        }
        if !owner.is_empty() {
            let kind = if owner == "other" { "Thing" } else { "ReplicaSet" };
            meta["ownerReferences"] = json!([{"apiVersion": "v1", "kind": kind, "name": owner, "uid": owner,
                "controller": true}]);
        }
        if deleting {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let status = json!({"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
        let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
        typed(json!({"metadata": meta, "spec": spec, "status": status}))
    }

    /// The pods that a pick takes, and all of them.
    fn both(all: &[Pod], pick: impl Fn(&str, &PodSketch) -> bool) -> (Vec<&Pod>, Vec<&Pod>) {
        let picked: Vec<&Pod> = all.iter().filter(|p| pick(name(&p.metadata), &p.sketch())).collect();
        assert!(!picked.is_empty() && picked.len() < all.len(), "{} of {}", picked.len(), all.len());
        (picked, all.iter().collect())
    }

    fn meta() -> Value {
        json!({"namespace": "d", "name": "x", "uid": "own", "generation": 1})
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    }

    fn spec() -> Value {
        json!({"replicas": 3, "selector": {"matchLabels": {"app": "a"}}, "template": template(), "serviceName": "x"})
    }

    #[test]
    fn replicas_are_decided_as_if_every_pod_were_seen() {
        let (all, now) = (every_pod(), Timestamp::UNIX_EPOCH);
        // With orphans to adopt, and without.
        let settled: Vec<Pod> = all.iter().filter(|p| p.metadata.owner_references.is_some()).cloned().collect();
        for pods in [&all, &settled] {
            let set: ReplicaSet = typed(json!({"metadata": meta(), "spec": spec()}));
            let (some, every) = both(pods, own_or_orphan(&set.metadata, set.spec.as_ref().map(|s| &s.selector)));
            let plan = |pods: &[&Pod]| reconcile::replicaset::plan(&set, pods, None, now);
            assert_eq!(plan(&some), plan(&every));

            let mut old = spec();
            old["selector"] = json!({"app": "a"});
            let rc: ReplicationController = typed(json!({"metadata": meta(), "spec": old}));
            let plan = |pods: &[&Pod]| reconcile::replicationcontroller::plan(&rc, pods, None, now);
            assert_eq!(plan(&some), plan(&every));

            let job: Job = typed(json!({"metadata": meta(), "spec": {"selector": {"matchLabels": {"app": "a"}},
                "template": template(), "completions": 5, "parallelism": 2, "backoffLimit": 50}}));
            let plan = |pods: &[&Pod]| reconcile::job::plan(&job, pods, now);
            assert_eq!(plan(&some), plan(&every));

            let daemons: DaemonSet = typed(json!({"metadata": meta(), "spec": spec()}));
            let plan = |pods: &[&Pod]| reconcile::daemonset::plan(&daemons, pods, &[], &[], now);
            assert_eq!(plan(&some), plan(&every));

            let stateful: StatefulSet = typed(json!({"metadata": meta(), "spec": spec()}));
            let (some, every) = both(pods, own_or_named(&stateful.metadata));
            let plan = |pods: &[&Pod]| reconcile::statefulset::plan(&stateful, pods, &[], &[], now);
            assert_eq!(plan(&some), plan(&every));
        }
    }

    #[test]
    fn deployments_services_and_budgets_are_decided_as_if_every_pod_were_seen() {
        let (all, now) = (every_pod(), Timestamp::UNIX_EPOCH);
        let mut set = json!({"metadata": meta(), "spec": spec()});
        set["metadata"]["uid"] = "set".into();
        set["metadata"]["labels"] = json!({"app": "a"});
        set["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "own", "controller": true}]);
        let set: ReplicaSet = typed(set);
        for strategy in ["Recreate", "RollingUpdate"] {
            let mut deployment = spec();
            deployment["strategy"] = json!({"type": strategy});
            deployment["template"]["spec"]["containers"][0]["image"] = "new".into();
            let deployment: Deployment = typed(json!({"metadata": meta(), "spec": deployment}));
            let (some, every) = both(&all, of_deployment(&deployment, std::iter::once(&set)));
            let plan = |pods: &[&Pod]| reconcile::deployment::plan(&deployment, &[&set], pods, now);
            assert_eq!(plan(&some), plan(&every), "{strategy}");
        }
        let service: Service = typed(json!({"metadata": meta(),
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}], "clusterIP": "10.96.0.9"}}));
        let (some, every) = both(&all, of_service(Some(&service)));
        let plan = |pods: &[&Pod]| reconcile::endpointslice::plan(&service, pods, &[], None);
        assert_eq!(plan(&some), plan(&every));
        assert!(!plan(&some).actions.is_empty());

        let budget: PodDisruptionBudget = typed(json!({"metadata": meta(),
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "minAvailable": 1}}));
        let (some, every) = both(&all, selected(budget.spec.as_ref().and_then(|s| s.selector.as_ref())));
        let plan = |pods: &[&Pod]| reconcile::disruption::plan(&budget, pods, &|_| None, now);
        assert_eq!(plan(&some), plan(&every));
    }
}
