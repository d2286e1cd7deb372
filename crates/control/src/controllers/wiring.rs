//! Which change asks for which pass.

use std::sync::Arc;

use futures::Stream;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use kube::runtime::watcher::{Config, Error, Event};
use reconcile::plan::{controller, name, namespace};
use serde::de::DeserializeOwned;

use super::{Context, KeyQueue};
use crate::cache::Listener;

/// Follows everything, and fills the queues.
pub(super) fn follow(context: &Arc<Context>) {
    let c = &context.caches;
    let q = &context.queues;
    let drain = || context.drain.clone();
    let deployments = vec![to_itself(&q.deployments), scales_to_budgets(context)];
    c.deployments.follow(every(context), deployments, drain());
    let to_owner = to_controller(&q.deployments, "Deployment");
    let sets = vec![to_itself(&q.sets), to_owner, orphan_sets(context), scales_to_budgets(context)];
    c.sets.follow(every(context), sets, drain());
    let to_owners = vec![to_controller(&q.stateful_sets, "StatefulSet"), to_controller(&q.daemon_sets, "DaemonSet")];
    c.revisions.follow(every(context), to_owners, drain());
    c.daemon_sets.follow(every(context), vec![to_itself(&q.daemon_sets)], drain());
    let controllers = vec![to_itself(&q.replication_controllers), scales_to_budgets(context)];
    c.replication_controllers.follow(every(context), controllers, drain());
    let stateful = vec![to_itself(&q.stateful_sets), scales_to_budgets(context)];
    c.stateful_sets.follow(every(context), stateful, drain());
    let jobs = vec![to_itself(&q.jobs), to_controller(&q.cron_jobs, "CronJob"), super::podgc::on_job(context)];
    c.jobs.follow(every(context), jobs, drain());
    c.cron_jobs.follow(every(context), vec![to_itself(&q.cron_jobs)], drain());
    let autoscalers = vec![to_itself(&q.autoscalers), crate::autoscaling::on_autoscaler(context)];
    c.autoscalers.follow(every(context), autoscalers, drain());
    c.budgets.follow(every(context), vec![to_itself(&q.budgets)], drain());
    let pods = vec![
        to_controller(&q.sets, "ReplicaSet"),
        to_controller(&q.stateful_sets, "StatefulSet"),
        to_controller(&q.jobs, "Job"),
        to_controller(&q.daemon_sets, "DaemonSet"),
        to_controller(&q.replication_controllers, "ReplicationController"),
        pods_to_deployments(context),
        orphan_pods(context),
        pods_to_services(context),
        pods_to_claims(context),
        pods_with_own_claims(context),
        pods_to_budgets(context),
        super::podgc::on_pod(context),
        super::attach::on_pod(context),
        crate::scheduling::on_pod(context),
    ];
    c.pods.follow(every(context), pods, drain());
    c.services.follow(every(context), vec![to_itself(&q.services)], drain());
    c.endpoints.follow(every(context), vec![to_itself(&q.services)], drain());
    c.slices.follow(every(context), vec![slices_to_services(&q.services)], drain());
    let namespaces = vec![to_itself(&q.namespaces), to_itself(&q.accounts), crate::scheduling::on_namespace(context)];
    c.namespaces.follow(every(context), namespaces, drain());
    c.accounts.follow(every(context), vec![to_namespace(&q.accounts)], drain());
    let root_ca = Config::default().fields("metadata.name=kube-root-ca.crt");
    let root_cas = follow::watch(context.client.clone(), None, root_ca);
    c.root_cas.follow(root_cas, vec![to_namespace(&q.accounts)], drain());
    let nodes = vec![
        to_itself(&q.nodes),
        nodes_to_daemon_sets(context),
        crate::scheduling::on_node(context),
        super::podgc::on_node(context),
        super::attach::on_node(context),
    ];
    c.nodes.follow(every(context), nodes, drain());
    let leases = follow::watch(context.client.clone(), Some("kube-node-lease"), Config::default());
    // A renewal needs no pass of its own: the pass that is due asks again only when the node stays silent.
    c.leases.follow(leases, vec![super::clock::on_lease(context)], drain());
    follow_storage(context);
}

fn follow_storage(context: &Arc<Context>) {
    let (c, q) = (&context.caches, &context.queues);
    let drain = || context.drain.clone();
    let claims = vec![
        to_itself(&q.claims),
        claims_onward(context),
        super::storage::claims_to_snapshots(context),
        super::attach::on_claim(context),
    ];
    c.claims.follow(every(context), claims, drain());
    c.attachments.follow(every(context), vec![super::attach::on_attachment(context)], drain());
    c.csi_nodes.follow(every(context), vec![crate::scheduling::on_storage(context)], drain());
    c.capacities.follow(every(context), vec![crate::scheduling::on_storage(context)], drain());
    c.drivers.follow(every(context), vec![super::attach::on_driver(context)], drain());
    let volumes = vec![to_itself(&q.volumes), volumes_to_claims(context), super::attach::on_volume(context)];
    c.volumes.follow(every(context), volumes, drain());
    c.classes.follow(every(context), vec![classes_to_claims(context)], drain());
}

/// All objects of a kind.
pub(super) fn every<K: Resource<DynamicType = ()> + DeserializeOwned>(
    context: &Context,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send + Unpin + use<K> {
    follow::watch(context.client.clone(), None, Config::default())
}

fn either<'a, K>(old: Option<&'a Arc<K>>, new: Option<&'a Arc<K>>) -> Option<&'a Arc<K>> {
    new.or(old)
}

pub(super) fn to_itself<K: Resource>(queue: &KeyQueue) -> Listener<K> {
    let queue = queue.clone();
    Box::new(move |old, new| {
        if let Some(o) = either(old, new) {
            queue.add(namespace(o.meta()), name(o.meta()));
        }
    })
}

fn to_namespace<K: Resource>(queue: &KeyQueue) -> Listener<K> {
    let queue = queue.clone();
    Box::new(move |old, new| {
        if let Some(o) = either(old, new) {
            queue.add("", namespace(o.meta()));
        }
    })
}

/// To the owner of that kind, of before and of now.
fn to_controller<K: Resource>(queue: &KeyQueue, kind: &'static str) -> Listener<K> {
    let queue = queue.clone();
    Box::new(move |old, new| {
        for o in [old, new].into_iter().flatten() {
            if let Some(owner) = controller(o.meta()).filter(|r| r.kind == kind) {
                queue.add(namespace(o.meta()), &owner.name);
            }
        }
    })
}

/// A pod that ends lets a `Recreate` Deployment go on: to the Deployment above the pod's ReplicaSet.
fn pods_to_deployments(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let ended = new.is_none_or(|p| reconcile::pods::finished(p));
        let Some(pod) = either(old, new).filter(|_| ended) else { return };
        let Some(owner) = controller(&pod.metadata).filter(|r| r.kind == "ReplicaSet") else { return };
        let ns = namespace(&pod.metadata);
        let set = c.caches.sets.get(ns, &owner.name);
        if let Some(d) = set.as_ref().and_then(|rs| controller(&rs.metadata)) {
            c.queues.deployments.add(ns, &d.name);
        }
    })
}

/// A node that comes, goes, or takes other pods than before.
fn nodes_to_daemon_sets(context: &Arc<Context>) -> Listener<Node> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let facts =
            |n: Option<&Arc<Node>>| n.map(|n| (n.metadata.labels.clone(), n.spec.clone().unwrap_or_default().taints));
        if facts(old) == facts(new) {
            return; // heartbeats
        }
        for set in c.caches.daemon_sets.all() {
            c.queues.daemon_sets.add(namespace(&set.metadata), name(&set.metadata));
        }
    })
}

/// A pod without an owner may be adopted by any controller of its namespace whose selector it meets.
fn orphan_pods(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, new| {
        let (Some(c), Some(pod)) = (weak.upgrade(), new) else { return };
        if controller(&pod.metadata).is_some() || pod.metadata.labels.is_none() {
            return;
        }
        let ns = namespace(&pod.metadata);
        let fits = |s: &LabelSelector| reconcile::labels::matches(&reconcile::labels::selector(s), &pod.metadata);
        for rs in c.caches.sets.in_namespace(ns) {
            if rs.spec.as_ref().is_some_and(|s| fits(&s.selector)) {
                c.queues.sets.add(ns, name(&rs.metadata));
            }
        }
        for set in c.caches.stateful_sets.in_namespace(ns) {
            if set.spec.as_ref().is_some_and(|s| fits(&s.selector)) {
                c.queues.stateful_sets.add(ns, name(&set.metadata));
            }
        }
        for ds in c.caches.daemon_sets.in_namespace(ns) {
            if ds.spec.as_ref().is_some_and(|s| fits(&s.selector)) {
                c.queues.daemon_sets.add(ns, name(&ds.metadata));
            }
        }
        for job in c.caches.jobs.in_namespace(ns) {
            if job.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(fits) {
                c.queues.jobs.add(ns, name(&job.metadata));
            }
        }
        for rc in c.caches.replication_controllers.in_namespace(ns) {
            let selector = rc.spec.as_ref().and_then(|s| s.selector.clone());
            if selector.is_some_and(|s| fits(&LabelSelector { match_labels: Some(s), match_expressions: None })) {
                c.queues.replication_controllers.add(ns, name(&rc.metadata));
            }
        }
    })
}

fn orphan_sets(context: &Arc<Context>) -> Listener<k8s_openapi::api::apps::v1::ReplicaSet> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, new| {
        let (Some(c), Some(rs)) = (weak.upgrade(), new) else { return };
        if controller(&rs.metadata).is_none() {
            for d in c.caches.deployments.in_namespace(namespace(&rs.metadata)) {
                c.queues.deployments.add(namespace(&d.metadata), name(&d.metadata));
            }
        }
    })
}

/// To the Services that select the pod, before or now, when something changed that an endpoint tells.
fn pods_to_services(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        if old.map(|p| endpoint_facts(p)) == new.map(|p| endpoint_facts(p)) {
            return;
        }
        let Some(pod) = either(old, new) else { return };
        for service in c.caches.services.in_namespace(namespace(&pod.metadata)) {
            let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
            let fits =
                |m: &ObjectMeta| selector.iter().all(|(k, v)| m.labels.as_ref().and_then(|l| l.get(k)) == Some(v));
            if [old, new].into_iter().flatten().any(|p| fits(&p.metadata)) {
                c.queues.services.add(namespace(&service.metadata), name(&service.metadata));
            }
        }
    })
}

/// What an endpoint says of a pod.
type EndpointFacts =
    (Option<String>, bool, bool, bool, Option<std::collections::BTreeMap<String, String>>, Option<String>);

fn endpoint_facts(pod: &Pod) -> EndpointFacts {
    (
        pod.status.as_ref().and_then(|s| s.pod_ip.clone()),
        reconcile::pods::ready(pod),
        reconcile::pods::finished(pod),
        pod.metadata.deletion_timestamp.is_some(),
        pod.metadata.labels.clone(),
        pod.spec.as_ref().and_then(|s| s.node_name.clone()),
    )
}

/// To the budgets that select the pod, before or now, when it comes, goes, or its health changes.
fn pods_to_budgets(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let facts = |p: Option<&Arc<Pod>>| {
            p.map(|p| {
                let owner = controller(&p.metadata).map(|o| o.uid.clone());
                (reconcile::pods::ready(p), p.metadata.deletion_timestamp.is_some(), p.metadata.labels.clone(), owner)
            })
        };
        if facts(old) == facts(new) {
            return;
        }
        let Some(pod) = either(old, new) else { return };
        for budget in c.caches.budgets.in_namespace(namespace(&pod.metadata)) {
            let Some(selector) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
            let selector = reconcile::labels::selector(selector);
            if [old, new].into_iter().flatten().any(|p| reconcile::labels::matches(&selector, &p.metadata)) {
                c.queues.budgets.add(namespace(&budget.metadata), name(&budget.metadata));
            }
        }
    })
}

/// A controller that wants another number of pods than before, or whose spec changed otherwise: to the budgets that may
/// count from it.
fn scales_to_budgets<K: Resource>(context: &Arc<Context>) -> Listener<K> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let generation = |o: Option<&Arc<K>>| o.and_then(|o| o.meta().generation);
        let Some(object) = either(old, new) else { return };
        if old.is_some() && generation(old) == generation(new) {
            return;
        }
        for budget in c.caches.budgets.in_namespace(namespace(object.meta())) {
            c.queues.budgets.add(namespace(&budget.metadata), name(&budget.metadata));
        }
    })
}

fn slices_to_services(queue: &KeyQueue) -> Listener<k8s_openapi::api::discovery::v1::EndpointSlice> {
    let queue = queue.clone();
    Box::new(move |old, new| {
        for slice in [old, new].into_iter().flatten() {
            if let Some(service) = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")) {
                queue.add(namespace(&slice.metadata), service);
            }
        }
    })
}

/// A claim that is on its way out goes when the last pod that uses it ends.
fn pods_to_claims(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let ended = new.is_none_or(|p| reconcile::pods::finished(p));
        let Some(pod) = either(old, new).filter(|_| ended) else { return };
        for (_, claim) in reconcile::ephemeralvolume::claims(pod) {
            c.queues.claims.add(namespace(&pod.metadata), &claim);
        }
    })
}

/// A new pod that wants claims of its own.
fn pods_with_own_claims(context: &Arc<Context>) -> Listener<Pod> {
    let queue = context.queues.own_claims.clone();
    Box::new(move |old, new| {
        // What it wants never changes, and a claim that goes asks by itself.
        let Some(pod) = new.filter(|pod| old.is_none() && reconcile::ephemeralvolume::wanted(pod).next().is_some())
        else {
            return;
        };
        queue.add(namespace(&pod.metadata), name(&pod.metadata));
    })
}

/// From a claim to its volume, to its StatefulSet, and to the pods that wait for it.
fn claims_onward(context: &Arc<Context>) -> Listener<k8s_openapi::api::core::v1::PersistentVolumeClaim> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let Some(claim) = either(old, new) else { return };
        for o in [old, new].into_iter().flatten() {
            if let Some(volume) = o.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|v| !v.is_empty()) {
                c.queues.volumes.add("", volume);
            }
        }
        if new.is_none() {
            let ns = namespace(&claim.metadata);
            for (ns, pod) in c.caches.pods.keys(|pod| pod.names_claim(name(&claim.metadata))) {
                if ns == namespace(&claim.metadata) {
                    c.queues.own_claims.add(&ns, &pod);
                }
            }
            for set in c.caches.stateful_sets.in_namespace(ns) {
                c.queues.stateful_sets.add(ns, name(&set.metadata));
            }
            let mut owned = c.caches.volumes.all();
            owned.retain(|v| {
                v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| r.uid == claim.metadata.uid)
            });
            for volume in owned {
                c.queues.volumes.add("", name(&volume.metadata));
            }
        }
        crate::scheduling::claims_changed(&c, namespace(&claim.metadata));
    })
}

fn volumes_to_claims(context: &Arc<Context>) -> Listener<k8s_openapi::api::core::v1::PersistentVolume> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        let Some(volume) = either(old, new) else { return };
        if let Some(r) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            c.queues.claims.add(&text(&r.namespace), &text(&r.name));
            return;
        }
        // A free volume may be what a waiting claim waits for.
        for claim in c.caches.claims.all() {
            let unbound = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).is_none_or(str::is_empty);
            if unbound {
                c.queues.claims.add(namespace(&claim.metadata), name(&claim.metadata));
            }
        }
    })
}

fn classes_to_claims(context: &Arc<Context>) -> Listener<k8s_openapi::api::storage::v1::StorageClass> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, new| {
        let (Some(c), Some(class)) = (weak.upgrade(), new) else { return };
        for claim in c.caches.claims.all() {
            if claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()) == Some(name(&class.metadata)) {
                c.queues.claims.add(namespace(&claim.metadata), name(&claim.metadata));
            }
        }
    })
}
