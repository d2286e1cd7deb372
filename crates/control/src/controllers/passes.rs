//! One pass of each controller: gather from the caches, ask `reconcile`, carry out.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use reconcile::disruption::Controller;
use reconcile::plan::{Plan, controller};
use reconcile::volume::Local;

use super::{Context, Pass, picks, storage};
use crate::cache::Key;

pub(super) fn refs<T>(list: &[Arc<T>]) -> Vec<&T> {
    list.iter().map(Arc::as_ref).collect()
}

fn now() -> Timestamp {
    Timestamp::now()
}

pub(super) fn deployment(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(d) = c.caches.deployments.get(&ns, &name) else { return Ok(None) };
        let sets = c.caches.sets.in_namespace(&ns);
        let pods = c.caches.pods.pick(Some(&ns), picks::of_deployment(&d, sets.iter().map(Arc::as_ref)));
        c.carry_out(reconcile::deployment::plan(&d, &refs(&sets), &refs(&pods), now())).await
    })
}

pub(super) fn replica_set(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let id = format!("rs/{ns}/{name}");
        let Some(rs) = c.caches.sets.get(&ns, &name) else { return Ok(c.forget_refusal(&id)) };
        let selector = rs.spec.as_ref().map(|s| &s.selector);
        let pods = c.caches.pods.pick(Some(&ns), picks::own_or_orphan(&rs.metadata, selector));
        let refused = c.refusal(&id);
        let plan = reconcile::replicaset::plan(&rs, &refs(&pods), refused.as_deref(), now());
        c.carry_out_told(plan, &id).await
    })
}

pub(super) fn stateful_set(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(set) = c.caches.stateful_sets.get(&ns, &name) else { return Ok(None) };
        let pods = c.caches.pods.pick(Some(&ns), picks::own_or_named(&set.metadata));
        let claims = c.caches.claims.in_namespace(&ns);
        let revisions = c.caches.revisions.in_namespace(&ns);
        let plan = reconcile::statefulset::plan(&set, &refs(&pods), &refs(&claims), &refs(&revisions), now());
        c.carry_out(plan).await
    })
}

pub(super) fn daemon_set(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(set) = c.caches.daemon_sets.get(&ns, &name) else { return Ok(None) };
        let selector = set.spec.as_ref().map(|s| &s.selector);
        let pods = c.caches.pods.pick(Some(&ns), picks::own_or_orphan(&set.metadata, selector));
        let nodes = c.caches.nodes.all();
        let revisions = c.caches.revisions.in_namespace(&ns);
        let plan = reconcile::daemonset::plan(&set, &refs(&pods), &refs(&nodes), &refs(&revisions), now());
        c.carry_out(plan).await
    })
}

pub(super) fn replication_controller(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let id = format!("rc/{ns}/{name}");
        let rc = c.caches.replication_controllers.get(&ns, &name);
        let Some(rc) = rc else { return Ok(c.forget_refusal(&id)) };
        let selector = rc.spec.as_ref().and_then(|s| s.selector.clone());
        let selector = selector.map(|s| LabelSelector { match_labels: Some(s), match_expressions: None });
        let pods = c.caches.pods.pick(Some(&ns), picks::own_or_orphan(&rc.metadata, selector.as_ref()));
        let refused = c.refusal(&id);
        let plan = reconcile::replicationcontroller::plan(&rc, &refs(&pods), refused.as_deref(), now());
        c.carry_out_told(plan, &id).await
    })
}

pub(super) fn job(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(job) = c.caches.jobs.get(&ns, &name) else { return Ok(None) };
        let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
        let pods = c.caches.pods.pick(Some(&ns), picks::own_or_orphan(&job.metadata, selector));
        c.carry_out(reconcile::job::plan(&job, &refs(&pods), now())).await
    })
}

pub(super) fn cron_job(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(cron) = c.caches.cron_jobs.get(&ns, &name) else { return Ok(None) };
        let jobs = c.caches.jobs.in_namespace(&ns);
        c.carry_out(reconcile::cronjob::plan(&cron, &refs(&jobs), now())).await
    })
}

pub(super) fn budget(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(budget) = c.caches.budgets.get(&ns, &name) else { return Ok(None) };
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let pods = c.caches.pods.pick(Some(&ns), picks::selected(selector));
        let plan = reconcile::disruption::plan(&budget, &refs(&pods), &|owner| scale_of(&c, &ns, owner), now());
        c.carry_out(plan).await
    })
}

/// The controller of a pod with the number of pods it wants; a ReplicaSet of a Deployment answers for the Deployment.
fn scale_of(c: &Context, ns: &str, owner: &OwnerReference) -> Option<Controller> {
    let of = |meta: &ObjectMeta, replicas: Option<i32>| {
        let uid = meta.uid.clone().unwrap_or_default();
        (uid == owner.uid).then(|| Controller { uid, replicas: replicas.unwrap_or(1) })
    };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = c.caches.sets.get(ns, &owner.name).filter(|s| s.metadata.uid.as_ref() == Some(&owner.uid))?;
            let above = controller(&set.metadata).filter(|o| o.kind == "Deployment");
            let deployment = above.and_then(|o| c.caches.deployments.get(ns, &o.name));
            match deployment {
                Some(d) => {
                    let replicas = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
                    Some(Controller { uid: d.metadata.uid.clone().unwrap_or_default(), replicas })
                }
                None => of(&set.metadata, set.spec.as_ref().and_then(|s| s.replicas)),
            }
        }
        "StatefulSet" => {
            let set = c.caches.stateful_sets.get(ns, &owner.name)?;
            of(&set.metadata, set.spec.as_ref().and_then(|s| s.replicas))
        }
        "ReplicationController" => {
            let rc = c.caches.replication_controllers.get(ns, &owner.name)?;
            of(&rc.metadata, rc.spec.as_ref().and_then(|s| s.replicas))
        }
        _ => None,
    }
}

pub(super) fn service(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let service = c.caches.services.get(&ns, &name);
        let pods = c.caches.pods.pick(Some(&ns), picks::of_service(service.as_deref()));
        let mut slices = c.caches.slices.in_namespace(&ns);
        slices.retain(|s| {
            s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|n| *n == name)
        });
        let endpoints = c.caches.endpoints.get(&ns, &name);
        let (slices, endpoints) = (refs(&slices), endpoints.as_deref());
        c.carry_out(reconcile::endpointslicemirror::plan(service.as_deref(), endpoints, &slices)).await?;
        let Some(service) = service else { return Ok(None) };
        c.carry_out(reconcile::endpointslice::plan(&service, &refs(&pods), &slices, endpoints)).await
    })
}

pub(super) fn account(c: Arc<Context>, (_, name): Key) -> Pass {
    Box::pin(async move {
        let Some(ns) = c.caches.namespaces.get("", &name) else { return Ok(None) };
        let account = c.caches.accounts.get(&name, "default");
        let ca = c.caches.root_cas.get(&name, "kube-root-ca.crt");
        let plan = reconcile::serviceaccount::plan(&ns, account.as_deref(), ca.as_deref(), &c.config.ca_pem);
        c.carry_out(plan).await
    })
}

pub(super) fn node(c: Arc<Context>, (_, name): Key) -> Pass {
    Box::pin(async move {
        let Some(node) = c.caches.nodes.get("", &name) else {
            c.heard.forget(&name);
            return Ok(None);
        };
        let now = now();
        let lease = c.heard.lease(&name, c.caches.leases.get("kube-node-lease", &name).as_deref(), now);
        let pods = c.caches.pods.pick(None, |_, pod| *pod.node == *name);
        c.carry_out(reconcile::node_lifecycle::plan(&node, lease.as_ref(), &refs(&pods), now)).await
    })
}

pub(super) fn claim(c: Arc<Context>, (ns, name): Key) -> Pass {
    Box::pin(async move {
        let Some(claim) = c.caches.claims.get(&ns, &name) else { return Ok(None) };
        let volumes = c.caches.volumes.all();
        let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
        let class = class.and_then(|n| c.caches.classes.get("", n));
        let pods = c.caches.pods.pick(Some(&ns), |_, pod| pod.names_claim(&name));
        let in_use = reconcile::volume::in_use(&claim, &refs(&pods));
        let (snapshot, content) = storage::restored(&c, &claim);
        let root = c.config.local_volume_root.as_str();
        let local = Local { root, snapshot: snapshot.as_deref(), content: content.as_deref() };
        let plan = reconcile::volume::plan_claim(&claim, &refs(&volumes), class.as_deref(), in_use, local);
        let plan = if plan.actions.is_empty() { storage::source_of_snapshots(&c, &claim) } else { plan };
        c.carry_out(plan).await
    })
}

pub(super) fn volume(c: Arc<Context>, (_, name): Key) -> Pass {
    Box::pin(async move {
        let Some(volume) = c.caches.volumes.get("", &name) else { return Ok(None) };
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let claim = reference.and_then(|r| {
            c.caches.claims.get(r.namespace.as_deref().unwrap_or_default(), r.name.as_deref().unwrap_or_default())
        });
        let plan: Plan = reconcile::volume::plan_volume(&volume, claim.as_deref());
        c.carry_out(plan).await
    })
}
