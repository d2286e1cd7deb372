//! Deployment: moves pods from one ReplicaSet to the next without going below or above what the strategy allows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::labels;
use crate::plan::{
    DEPLOYMENTS, Plan, REPLICA_SETS, controlled_by, controller, name, namespace, owner_reference, short_hash,
    terminating, uid,
};
use crate::pods::{self, resolve};

mod rollout;
mod status;
#[cfg(test)]
mod tests;

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that describe one object and are not carried over from Deployment to ReplicaSet.
const NOT_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    DESIRED,
    MAX,
];

/// Decides for one Deployment, given every ReplicaSet and pod of its namespace.
pub fn plan(d: &Deployment, all_sets: &[&ReplicaSet], all_pods: &[&Pod], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &d.spec else { return plan };
    if terminating(&d.metadata) {
        return plan;
    }
    let selector = labels::selector(&spec.selector);
    let own_uid = uid(&d.metadata);
    let orphans = all_sets.iter().filter(|rs| {
        controller(&rs.metadata).is_none() && !terminating(&rs.metadata) && labels::matches(&selector, &rs.metadata)
    });
    for rs in orphans {
        let owners = [owner_reference(DEPLOYMENTS, &d.metadata)];
        let meta =
            json!({"uid": rs.metadata.uid, "resourceVersion": rs.metadata.resource_version, "ownerReferences": owners});
        plan.patch(REPLICA_SETS, &rs.metadata, json!({"metadata": meta}));
    }
    if !plan.actions.is_empty() {
        return plan;
    }
    let mut sets: Vec<&ReplicaSet> = all_sets
        .iter()
        .copied()
        .filter(|rs| controlled_by(&rs.metadata, own_uid) && labels::matches(&selector, &rs.metadata))
        .collect();
    sets.sort_by_key(|rs| (pods::created_ms(&rs.metadata), name(&rs.metadata).to_owned()));
    let state = State::new(d, sets, all_pods);
    if state.new.is_none() && !state.paused() {
        create_new_set(&state, &mut plan);
        if !plan.actions.is_empty() {
            return plan;
        }
    }
    if !state.paused() {
        annotate(&state, &mut plan);
    }
    rollout::scale(&state, &mut plan);
    status::sync(&state, now, &mut plan);
    plan
}

/// One Deployment and what belongs to it.
struct State<'a> {
    d: &'a Deployment,
    /// The set whose template is the Deployment's.
    new: Option<&'a ReplicaSet>,
    /// The others, oldest first.
    old: Vec<&'a ReplicaSet>,
    /// Pods by the UID of their set.
    pods: BTreeMap<String, Vec<&'a Pod>>,
}

impl<'a> State<'a> {
    fn new(d: &'a Deployment, sets: Vec<&'a ReplicaSet>, all_pods: &[&'a Pod]) -> Self {
        let wanted = d.spec.as_ref().map(|s| template_value(&s.template));
        let equal = |rs: &&&ReplicaSet| {
            let template = rs.spec.as_ref().and_then(|s| s.template.as_ref()).map(template_value);
            template == wanted
        };
        // The oldest of equals, so that every pass picks the same one.
        let new = sets.iter().find(equal).copied();
        let is_new = |rs: &ReplicaSet| new.is_some_and(|n| uid(&n.metadata) == uid(&rs.metadata));
        let mut pods: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
        for pod in all_pods {
            if let Some(owner) = controller(&pod.metadata) {
                pods.entry(owner.uid.clone()).or_default().push(pod);
            }
        }
        State { d, new, old: sets.iter().copied().filter(|rs| !is_new(rs)).collect(), pods }
    }

    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        self.old.iter().copied().chain(self.new)
    }

    fn replicas(&self) -> i32 {
        self.d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn paused(&self) -> bool {
        self.d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false)
    }

    fn recreate(&self) -> bool {
        let strategy = self.d.spec.as_ref().and_then(|s| s.strategy.as_ref());
        strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    /// Most pods above and most missing below the wanted number, never both zero.
    fn bounds(&self) -> (i32, i32) {
        let strategy = self.d.spec.as_ref().and_then(|s| s.strategy.as_ref());
        if self.recreate() {
            return (0, 0);
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".into());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let missing = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = resolve(surge, self.replicas(), true);
        let missing = resolve(missing, self.replicas(), false).min(self.replicas());
        if surge == 0 && missing == 0 { (0, 1) } else { (surge, missing) }
    }
}

/// A template without the label that tells sets apart.
fn template_value(t: &k8s_openapi::api::core::v1::PodTemplateSpec) -> Value {
    let mut v = serde_json::to_value(t).expect("a template always serialises");
    if let Some(labels) = v.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    v
}

fn spec_replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn status_replicas(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

fn available_replicas(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// What can be counted on: a status older than the last scaling still tells of pods that are already condemned.
fn lasting_replicas(rs: &ReplicaSet) -> i32 {
    available_replicas(rs).min(spec_replicas(rs))
}

fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations.iter().flatten().find(|(k, _)| *k == REVISION).and_then(|(_, v)| v.parse().ok()).unwrap_or(0)
}

fn create_new_set(state: &State<'_>, plan: &mut Plan) {
    let d = state.d;
    let Some(spec) = &d.spec else { return };
    let salt = d.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = short_hash(&template_value(&spec.template), salt);
    let set_name = format!("{}-{hash}", name(&d.metadata));
    let taken = state.old.iter().any(|rs| name(&rs.metadata) == set_name);
    if taken {
        // Same name, other template: a hash collision. The next pass hashes with a new salt.
        let patch = json!({"metadata": {"uid": d.metadata.uid}, "status": {"collisionCount": salt + 1}});
        plan.actions.push(crate::plan::Action::Patch {
            resource: DEPLOYMENTS,
            namespace: d.metadata.namespace.clone(),
            name: name(&d.metadata).to_owned(),
            subresource: Some("status"),
            patch,
        });
        return;
    }
    let mut template = spec.template.clone();
    template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash);
    let rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name.clone()),
            namespace: d.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(set_annotations(state, next_revision(state))),
            owner_references: Some(vec![owner_reference(DEPLOYMENTS, &d.metadata)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(rollout::new_set_replicas(state)),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let replicas = rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    plan.create(REPLICA_SETS, Some(namespace(&d.metadata)), &rs);
    if replicas > 0 {
        let message = format!("Scaled up replica set {set_name} from 0 to {replicas}");
        plan.event(DEPLOYMENTS, &d.metadata, "Normal", "ScalingReplicaSet", message);
    }
}

fn next_revision(state: &State<'_>) -> i64 {
    state.old.iter().map(|rs| revision(&rs.metadata)).max().unwrap_or(0) + 1
}

fn set_annotations(state: &State<'_>, rev: i64) -> BTreeMap<String, String> {
    let own = state.d.metadata.annotations.iter().flatten();
    let mut all: BTreeMap<String, String> =
        own.filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    all.insert(REVISION.into(), rev.to_string());
    all.insert(DESIRED.into(), state.replicas().to_string());
    all.insert(MAX.into(), (state.replicas() + state.bounds().0).to_string());
    all
}

/// Keeps revision numbers and copied annotations true, on the sets and on the Deployment.
fn annotate(state: &State<'_>, plan: &mut Plan) {
    let Some(new) = state.new else { return };
    let current = revision(&new.metadata);
    let rev = current.max(next_revision(state));
    let mut wanted = set_annotations(state, rev);
    let has = new.metadata.annotations.clone().unwrap_or_default();
    if current != rev && current > 0 {
        let key = "deployment.kubernetes.io/revision-history";
        let history = has.get(key).map_or(current.to_string(), |h| format!("{h},{current}"));
        wanted.insert(key.into(), history);
    }
    let missing: BTreeMap<_, _> = wanted.into_iter().filter(|(k, v)| has.get(k) != Some(v)).collect();
    let min_ready = state.d.spec.as_ref().and_then(|s| s.min_ready_seconds);
    let min_ready_differs = new.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0) != min_ready.unwrap_or(0);
    if !missing.is_empty() || min_ready_differs {
        let mut patch = json!({"metadata": {"uid": new.metadata.uid, "annotations": missing}});
        if min_ready_differs {
            patch["spec"] = json!({"minReadySeconds": min_ready.unwrap_or(0)});
        }
        plan.patch(REPLICA_SETS, &new.metadata, patch);
    }
    if revision(&state.d.metadata) != rev {
        let meta = json!({"uid": state.d.metadata.uid, "annotations": {REVISION: rev.to_string()}});
        plan.patch(DEPLOYMENTS, &state.d.metadata, json!({"metadata": meta}));
    }
}

/// How long a rollout may stand still before it is said to have failed.
fn progress_deadline(d: &Deployment) -> Option<Duration> {
    let seconds = d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).unwrap_or(600);
    // The largest value means "no deadline" (apps/v1).
    (seconds != i32::MAX).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
