//! The scheduler at work: one task that knows the cluster, decides pod after pod, and assumes its own decisions at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use parking_lot::Mutex;
use reconcile::plan::{Action, CLAIMS, PODS, Plan, name, namespace, uid};
use reconcile::scheduler::{Budget, Cluster, Decision, Preemption, Storage, wants_placement};
use serde_json::json;

mod drivers;

use crate::actuator::ActError;
use crate::cache::{Key, Listener};
use crate::controllers::{Context, Pass, work};
use drivers::{Drivers, of_driver};

/// How long a pod that fits nowhere waits when nothing changes (the back-stop of kube-scheduler).
const UNSCHEDULABLE_RETRY: Duration = Duration::from_secs(60);

/// The state shared by the listeners and the passes.
#[derive(Default)]
pub struct Scheduler {
    cluster: Mutex<Cluster>,
    /// Pods that fitted nowhere, to be tried again when something changes.
    waiting: Mutex<BTreeSet<Key>>,
}

/// Starts the one worker: decisions are made one after the other, each on all those before it.
pub fn start(context: &Arc<Context>) {
    work(context, crate::health::SCHEDULER, 1, context.queues.scheduling.clone(), pass);
}

/// Feeds pods to the cluster's picture, and those without a node to the queue.
pub fn on_pod(context: &Arc<Context>) -> Listener<Pod> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        match (old, new) {
            (_, Some(pod)) => {
                let placed = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
                if placed {
                    c.scheduler.cluster.lock().set_pod(pod);
                } else {
                    // Room that was made before a restart is still kept; a pod that is ending needs it no more.
                    let node = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
                    let node = node.filter(|n| !n.is_empty() && wants_placement(pod));
                    c.scheduler.cluster.lock().nominate(pod, node);
                }
                if wants_placement(pod) {
                    c.queues.scheduling.add(namespace(&pod.metadata), name(&pod.metadata));
                }
                if placed && reconcile::pods::finished(pod) {
                    retry_waiting(&c);
                }
            }
            (Some(pod), None) => {
                let mut cluster = c.scheduler.cluster.lock();
                cluster.remove_pod(uid(&pod.metadata));
                cluster.nominate(pod, None);
                drop(cluster);
                let key = (namespace(&pod.metadata).to_owned(), name(&pod.metadata).to_owned());
                c.scheduler.waiting.lock().remove(&key);
                retry_waiting(&c);
            }
            (None, None) => {}
        }
    })
}

/// Feeds nodes to the cluster's picture.
pub fn on_node(context: &Arc<Context>) -> Listener<Node> {
    let weak = Arc::downgrade(context);
    Box::new(move |old, new| {
        let Some(c) = weak.upgrade() else { return };
        match (old, new) {
            (old, Some(node)) => {
                c.scheduler.cluster.lock().set_node(node);
                if old.is_none_or(|o| scheduling_facts(o) != scheduling_facts(node)) {
                    retry_waiting(&c);
                }
            }
            (Some(node), None) => c.scheduler.cluster.lock().remove_node(name(&node.metadata)),
            (None, None) => {}
        }
    })
}

/// What of a node can make a pod fit that did not; heartbeats change none of it.
fn scheduling_facts(node: &Node) -> serde_json::Value {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    json!([node.metadata.labels, node.spec, allocatable])
}

/// Feeds the labels of namespaces to the cluster's picture.
pub fn on_namespace(context: &Arc<Context>) -> Listener<Namespace> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, new| {
        if let (Some(c), Some(ns)) = (weak.upgrade(), new) {
            c.scheduler.cluster.lock().set_namespace(&ns.metadata);
        }
    })
}

/// What drivers say of nodes and of their room may let a pod fit that did not.
pub fn on_storage<K>(context: &Arc<Context>) -> Listener<K> {
    let weak = Arc::downgrade(context);
    Box::new(move |_, _| {
        if let Some(c) = weak.upgrade() {
            retry_waiting(&c);
        }
    })
}

/// Pods of the namespace that wait for a claim are tried again.
pub fn claims_changed(context: &Context, ns: &str) {
    let waiting: Vec<Key> = context.scheduler.waiting.lock().iter().filter(|(n, _)| n == ns).cloned().collect();
    for (ns, pod) in waiting {
        context.queues.scheduling.add(&ns, &pod);
    }
}

/// Pods that fitted nowhere are tried again.
pub fn retry_waiting(context: &Context) {
    let waiting: Vec<Key> = context.scheduler.waiting.lock().iter().cloned().collect();
    for (ns, pod) in waiting {
        context.queues.scheduling.add(&ns, &pod);
    }
}

fn pass(c: Arc<Context>, key: Key) -> Pass {
    Box::pin(async move {
        let pod = c.caches.pods.get(&key.0, &key.1);
        let Some(pod) = pod.filter(|p| wants_placement(p)) else {
            c.scheduler.waiting.lock().remove(&key);
            return Ok(None);
        };
        let (decision, preemption) = decide(&c, &pod);
        match decision {
            Decision::Bind(node) => {
                c.scheduler.waiting.lock().remove(&key);
                bind(&c, &pod, node).await
            }
            Decision::SelectNodeForClaims { node, claims } => {
                c.scheduler.waiting.lock().insert(key);
                let mut plan = Plan::default();
                for claim in claims {
                    let patch = json!({"metadata": {"annotations": {reconcile::volume::SELECTED_NODE: node}}});
                    plan.actions.push(Action::Patch {
                        resource: CLAIMS,
                        namespace: pod.metadata.namespace.clone(),
                        name: claim,
                        subresource: None,
                        patch,
                    });
                }
                c.carry_out(plan).await.map(|_| Some(UNSCHEDULABLE_RETRY))
            }
            Decision::Unschedulable(why) => {
                c.scheduler.waiting.lock().insert(key);
                let mut plan = Plan::default();
                let node = preemption.as_ref().map(|p| p.node.clone());
                if let Some(preemption) = preemption {
                    c.scheduler.cluster.lock().nominate(&pod, Some(&preemption.node));
                    preempt(&c, &pod, preemption, &mut plan);
                }
                unschedulable(&pod, &why, node, &mut plan);
                c.carry_out(plan).await.map(|_| Some(UNSCHEDULABLE_RETRY))
            }
        }
    })
}

/// Where the pod goes; if nowhere, which pods could make room for it.
fn decide(c: &Context, pod: &Pod) -> (Decision, Option<Preemption>) {
    let ns = namespace(&pod.metadata);
    let named: Vec<_> = reconcile::ephemeralvolume::claims(pod)
        .map(|(volume, name)| (volume, c.caches.claims.get(ns, &name)))
        .collect();
    let unusable = named.iter().find_map(|(v, claim)| reconcile::ephemeralvolume::unusable(pod, v, claim.as_deref()));
    let owned: Vec<_> = named
        .into_iter()
        .filter_map(|(_, claim)| claim)
        .map(|claim| {
            let spec = claim.spec.as_ref();
            let class = spec.and_then(|s| s.storage_class_name.as_deref()).and_then(|n| c.caches.classes.get("", n));
            let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
            let volume = spec.and_then(|s| s.volume_name.as_deref()).filter(|_| bound);
            let volume = volume.and_then(|n| c.caches.volumes.get("", n));
            (claim, class, volume)
        })
        .collect();
    let unbound = owned.iter().filter(|(_, _, volume)| volume.is_none());
    let pinned = unbound
        .filter_map(|(claim, class, _)| crate::controllers::storage::pinned(c, claim, class.as_deref()))
        .collect();
    let drivers = Drivers::of(c, owned.iter().any(|(_, class, volume)| of_driver(class, volume)));
    let claims = owned.iter().map(|(a, b, v)| (a.as_ref(), b.as_deref(), v.as_deref())).collect();
    let storage = Storage { claims, unusable, pinned, limits: drivers.limits(), room: drivers.room() };
    let cluster = c.scheduler.cluster.lock();
    let decision = cluster.decide(pod, &storage);
    let stuck = matches!(decision, Decision::Unschedulable(_));
    let preemption = stuck.then(|| cluster.preempt(pod, &storage, &budgets(c))).flatten();
    (decision, preemption)
}

fn budgets(c: &Context) -> Vec<Budget> {
    let all = c.caches.budgets.all();
    let of = |b: &Arc<k8s_openapi::api::policy::v1::PodDisruptionBudget>| {
        let selector = reconcile::labels::selector(b.spec.as_ref()?.selector.as_ref()?);
        let allowed = b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
        Some(Budget { namespace: namespace(&b.metadata).to_owned(), selector, allowed })
    };
    all.iter().filter_map(of).collect()
}

/// Ends the victims, and tells each why.
fn preempt(c: &Context, pod: &Pod, preemption: Preemption, plan: &mut Plan) {
    let now = k8s_openapi::jiff::Timestamp::now();
    for victim in preemption.victims {
        let Some(found) = c.caches.pods.get(&victim.namespace, &victim.name) else { continue };
        if uid(&found.metadata) != victim.uid {
            continue;
        }
        let why = "default-scheduler: preempting to accommodate a higher priority pod";
        reconcile::podgc::disrupt(&found, "PreemptionByScheduler", why, false, now, plan);
        plan.delete(PODS, &found.metadata, None);
        let message = format!("Preempted by pod {} on node {}", uid(&pod.metadata), preemption.node);
        plan.event(PODS, &found.metadata, "Normal", "Preempted", message);
    }
}

async fn bind(c: &Context, pod: &Pod, node: String) -> Result<Option<Duration>, ActError> {
    c.scheduler.cluster.lock().assume(pod, &node);
    let message = format!("Successfully assigned {}/{} to {node}", namespace(&pod.metadata), name(&pod.metadata));
    let mut plan = Plan::default();
    if pod.status.as_ref().is_some_and(|s| s.nominated_node_name.is_some()) {
        // The room is taken: nobody need keep it any more.
        plan.actions.push(Action::Patch {
            resource: PODS,
            namespace: pod.metadata.namespace.clone(),
            name: name(&pod.metadata).to_owned(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"nominatedNodeName": null}}),
        });
    }
    plan.actions.push(Action::Bind {
        namespace: namespace(&pod.metadata).to_owned(),
        name: name(&pod.metadata).to_owned(),
        uid: uid(&pod.metadata).to_owned(),
        node,
    });
    plan.event(PODS, &pod.metadata, "Normal", "Scheduled", message);
    let outcome = c.carry_out(plan).await;
    if outcome.is_err() {
        c.scheduler.cluster.lock().remove_pod(uid(&pod.metadata));
    }
    outcome
}

/// Tells the pod why it fits nowhere, and which node is being made ready for it.
fn unschedulable(pod: &Pod, why: &str, nominated: Option<String>, plan: &mut Plan) {
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|x| x.type_ == "PodScheduled");
    let told = old.is_some_and(|x| x.status == "False" && x.message.as_deref() == Some(why));
    if told && nominated.is_none() {
        return;
    }
    let since = old.filter(|x| x.status == "False").and_then(|x| x.last_transition_time.clone());
    let condition = k8s_openapi::api::core::v1::PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(why.to_owned()),
        last_transition_time: since.or_else(|| Some(reconcile::pods::time(k8s_openapi::jiff::Timestamp::now()))),
        ..Default::default()
    };
    conditions.retain(|x| x.type_ != "PodScheduled");
    conditions.push(condition);
    if nominated.is_some() {
        status.nominated_node_name = nominated;
    }
    plan.set_status(PODS, &pod.metadata, pod.status.as_ref(), &status);
    plan.event(PODS, &pod.metadata, "Warning", "FailedScheduling", why);
}
