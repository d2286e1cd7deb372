//! StatefulSet: pods with names that last, made and replaced one after the other, each with its own claims.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::labels;
use crate::plan::{
    CLAIMS, PODS, Plan, STATEFUL_SETS, controlled_by, name, namespace, owner_reference, terminating, uid,
};
use crate::pods;
use crate::revisions::{self, HASH_LABEL as REVISION_LABEL, Recorded};

mod claims;
#[cfg(test)]
mod tests;

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// Decides for one StatefulSet, given every pod, claim and revision of its namespace.
pub fn plan(
    set: &StatefulSet,
    all_pods: &[&Pod],
    all_claims: &[&PersistentVolumeClaim],
    all_revisions: &[&ControllerRevision],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    if terminating(&set.metadata) {
        return plan;
    }
    let selector = labels::selector(&spec.selector);
    let named: Vec<&Pod> = all_pods.iter().copied().filter(|p| ordinal(set, name(&p.metadata)).is_some()).collect();
    if crate::replicas::claim(STATEFUL_SETS, &set.metadata, &selector, &named, &mut plan) {
        return plan; // counting waits until ownership is settled
    }
    let Some(revisions) = Revisions::settle(set, spec, all_revisions, &mut plan) else { return plan };
    let own_uid = uid(&set.metadata);
    let mut by_ordinal: BTreeMap<i64, &Pod> = BTreeMap::new();
    let mine =
        all_pods.iter().filter(|p| controlled_by(&p.metadata, own_uid) && labels::matches(&selector, &p.metadata));
    for pod in mine {
        if let Some(n) = ordinal(set, name(&pod.metadata)) {
            by_ordinal.insert(n, pod);
        }
    }
    let state = State {
        set,
        spec,
        revisions,
        pods: by_ordinal,
        taken: foreign_names(all_pods, own_uid),
        claims: all_claims,
        now,
    };
    state.act(&mut plan);
    let status = state.status(&mut plan);
    plan.set_status(STATEFUL_SETS, &set.metadata, set.status.as_ref(), &status);
    state.trim_history(all_revisions, &mut plan);
    plan
}

fn foreign_names<'a>(pods_: &[&'a Pod], own_uid: &str) -> Vec<&'a str> {
    pods_.iter().filter(|p| !controlled_by(&p.metadata, own_uid)).map(|p| name(&p.metadata)).collect()
}

fn ordinal(set: &StatefulSet, pod: &str) -> Option<i64> {
    pod.strip_prefix(name(&set.metadata))?.strip_prefix('-')?.parse().ok()
}

/// The template now and the one that pods not yet updated keep.
struct Revisions {
    current: String,
    update: String,
    /// The template of `current`, when it differs.
    current_template: Option<Value>,
}

impl Revisions {
    /// Makes sure that the template of now is recorded; `None` while it is being recorded.
    fn settle(set: &StatefulSet, spec: &StatefulSetSpec, all: &[&ControllerRevision], plan: &mut Plan) -> Option<Self> {
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let found = match revisions::record(STATEFUL_SETS, &set.metadata, &spec.template, collisions, all, plan) {
            Recorded::Yes(found) => found,
            Recorded::Making => return None,
            Recorded::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions + 1);
                plan.set_status(STATEFUL_SETS, &set.metadata, set.status.as_ref(), &status);
                return None;
            }
        };
        let mine = all.iter().filter(|r| controlled_by(&r.metadata, uid(&set.metadata)));
        let update = name(&found.metadata).to_owned();
        let recorded = set.status.as_ref().and_then(|s| s.current_revision.clone()).filter(|c| !c.is_empty());
        let current = recorded.unwrap_or_else(|| update.clone());
        let current_template = mine
            .into_iter()
            .find(|r| name(&r.metadata) == current && current != update)
            .and_then(|r| r.data.as_ref()?.0.pointer("/spec/template").cloned());
        Some(Revisions { current, update, current_template })
    }
}

struct State<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    revisions: Revisions,
    /// Its pods, by ordinal.
    pods: BTreeMap<i64, &'a Pod>,
    /// Names of pods that belong to others.
    taken: Vec<&'a str>,
    claims: &'a [&'a PersistentVolumeClaim],
    now: Timestamp,
}

impl State<'_> {
    fn first(&self) -> i64 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0).into()
    }

    fn end(&self) -> i64 {
        self.first() + i64::from(self.spec.replicas.unwrap_or(1))
    }

    fn parallel(&self) -> bool {
        self.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn healthy(&self, pod: &Pod) -> bool {
        !terminating(&pod.metadata) && pods::available(pod, self.min_ready(), self.now) == Ok(true)
    }

    /// Creation upwards, then removal downwards, then update downwards; one pod at a time unless `Parallel`.
    fn act(&self, plan: &mut Plan) {
        for n in self.first()..self.end() {
            let blocked = match self.pods.get(&n) {
                None => {
                    self.create(n, plan);
                    true
                }
                // A pod that ended for good is replaced under the same name.
                Some(p) if pods::finished(p) && !terminating(&p.metadata) => {
                    self.delete(p, plan);
                    true
                }
                Some(p) => {
                    self.ensure_claims(n, plan);
                    self.own_claims(n, plan);
                    !self.healthy(p)
                }
            };
            if blocked && !self.parallel() {
                return;
            }
        }
        let surplus = self.pods.iter().rev().filter(|(n, _)| **n < self.first() || **n >= self.end());
        for (n, pod) in surplus {
            // The claims of a surplus pod must know whose they are before the pod is gone.
            self.own_claims(*n, plan);
            // In order means: not past one that is unhealthy, unless it is itself the lowest of them.
            let lowest = self.pods.iter().find(|(_, p)| !self.healthy(p)).map(|(n, _)| *n);
            let halted = !terminating(&pod.metadata) && !self.healthy(pod) && lowest != Some(*n);
            if halted && !self.parallel() {
                return;
            }
            if !terminating(&pod.metadata) {
                self.delete(pod, plan);
            }
            if !self.parallel() {
                return;
            }
        }
        self.roll(plan);
    }

    fn delete(&self, pod: &Pod, plan: &mut Plan) {
        let (pod_name, set) = (name(&pod.metadata), name(&self.set.metadata));
        plan.delete(PODS, &pod.metadata, None);
        let message = format!("delete Pod {pod_name} in StatefulSet {set} successful");
        plan.event(STATEFUL_SETS, &self.set.metadata, "Normal", "SuccessfulDelete", message);
    }

    /// How many pods may be missing at once while pods are replaced, at least one (KEP-961).
    fn max_unavailable(&self) -> usize {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let most = rolling.and_then(|r| r.max_unavailable.as_ref());
        let most = most.map_or(1, |v| pods::resolve(v, self.spec.replicas.unwrap_or(1), true));
        usize::try_from(most).unwrap_or(1).max(1)
    }

    /// Replaces pods of an old revision from the highest down, as many at once as may be missing.
    fn roll(&self, plan: &mut Plan) {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
        let from = self.first() + i64::from(partition);
        let wanted = usize::try_from(self.end() - self.first()).unwrap_or(0);
        let healthy = self.pods.range(self.first()..self.end().max(self.first())).filter(|(_, p)| self.healthy(p));
        let mut room = self.max_unavailable().saturating_sub(wanted.saturating_sub(healthy.count()));
        for (_, pod) in self.pods.range(from..self.end().max(from)).rev() {
            if revision_of(pod) == Some(self.revisions.update.as_str()) {
                continue;
            }
            // A pod that does no good anyway may go; it is missing already.
            if self.healthy(pod) {
                if room == 0 {
                    continue;
                }
                room -= 1;
            } else if terminating(&pod.metadata) {
                continue;
            } else if self.broken_newer(pod) {
                return;
            }
            self.delete(pod, plan);
        }
    }

    /// Whether a pod above this one has the new revision and is not healthy, with no room for another: the new revision
    /// may be what is wrong.
    fn broken_newer(&self, pod: &Pod) -> bool {
        let Some(at) = ordinal(self.set, name(&pod.metadata)) else { return false };
        let above = self.pods.range(at + 1..self.end().max(at + 1));
        let broken = above.filter(|(_, p)| !self.healthy(p)).count();
        broken >= self.max_unavailable()
    }

    fn create(&self, n: i64, plan: &mut Plan) {
        let pod_name = format!("{}-{n}", name(&self.set.metadata));
        if self.taken.contains(&pod_name.as_str()) {
            let message = format!(
                "create Pod {pod_name} in StatefulSet {} failed error: a pod of that name belongs to another",
                name(&self.set.metadata)
            );
            plan.event(STATEFUL_SETS, &self.set.metadata, "Warning", "FailedCreate", message);
            return;
        }
        if !self.ensure_claims(n, plan) {
            return;
        }
        let (template, revision) = self.template_for(n);
        let owner = owner_reference(STATEFUL_SETS, &self.set.metadata);
        let mut pod = pods::from_template(&template, owner, namespace(&self.set.metadata));
        pod.metadata.name = Some(pod_name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_LABEL.into(), revision);
        labels.insert(POD_NAME_LABEL.into(), pod_name.clone());
        labels.insert(INDEX_LABEL.into(), n.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(pod_name);
        spec.subdomain = self.spec.service_name.clone().filter(|s| !s.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for claim in self.spec.volume_claim_templates.iter().flatten() {
            let volume = name(&claim.metadata).to_owned();
            volumes.retain(|v| v.name != volume);
            let source = PersistentVolumeClaimVolumeSource { claim_name: self.claim_name(claim, n), read_only: None };
            volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Default::default() });
        }
        plan.create(PODS, self.set.metadata.namespace.as_deref(), &pod);
        let message =
            format!("create Pod {} in StatefulSet {} successful", name(&pod.metadata), name(&self.set.metadata));
        plan.event(STATEFUL_SETS, &self.set.metadata, "Normal", "SuccessfulCreate", message);
    }

    /// Pods below the partition keep the current revision, also when they are made again.
    fn template_for(&self, n: i64) -> (k8s_openapi::api::core::v1::PodTemplateSpec, String) {
        let strategy = self.spec.update_strategy.as_ref();
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
        let old = self.revisions.current_template.as_ref().filter(|_| n < self.first() + i64::from(partition));
        let old = old.and_then(|t| serde_json::from_value(t.clone()).ok());
        match old {
            Some(template) => (template, self.revisions.current.clone()),
            None => (self.spec.template.clone(), self.revisions.update.clone()),
        }
    }

    fn claim_name(&self, claim: &PersistentVolumeClaim, n: i64) -> String {
        format!("{}-{}-{n}", name(&claim.metadata), name(&self.set.metadata))
    }

    /// Makes the claims of an ordinal; false while one of them is on its way out.
    fn ensure_claims(&self, n: i64, plan: &mut Plan) -> bool {
        let selector_labels = self.spec.selector.match_labels.clone().unwrap_or_default();
        let mut usable = true;
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let claim_name = self.claim_name(template, n);
            let existing = self.claims.iter().find(|c| name(&c.metadata) == claim_name);
            if existing.is_some_and(|c| terminating(&c.metadata)) {
                usable = false;
            }
            if existing.is_some() {
                continue;
            }
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selector_labels.clone());
            let owned = claims::wanted_owner(self.set, None, true);
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name),
                    namespace: self.set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    owner_references: owned.map(|o| vec![o]),
                    ..Default::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            plan.create(CLAIMS, self.set.metadata.namespace.as_deref(), &claim);
        }
        usable
    }

    /// Keeps the owner of an ordinal's claims as `persistentVolumeClaimRetentionPolicy` says.
    fn own_claims(&self, n: i64, plan: &mut Plan) {
        let wanted = n >= self.first() && n < self.end();
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let claim_name = self.claim_name(template, n);
            if let Some(claim) = self.claims.iter().find(|c| name(&c.metadata) == claim_name) {
                claims::settle_owner(self.set, claim, self.pods.get(&n).copied(), wanted, plan);
            }
        }
    }

    fn status(&self, plan: &mut Plan) -> StatefulSetStatus {
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let some = |n: i32| (n > 0).then_some(n);
        let wanted: Vec<&Pod> = self.pods.values().copied().filter(|p| !pods::finished(p)).collect();
        let of = |rev: &str| {
            count(wanted.iter().filter(|p| !terminating(&p.metadata) && revision_of(p) == Some(rev)).count())
        };
        let mut available = 0;
        for pod in &wanted {
            match pods::available(pod, self.min_ready(), self.now) {
                Ok(true) if !terminating(&pod.metadata) => available += 1,
                Ok(_) => {}
                Err(left) => plan.requeue(left),
            }
        }
        let r = &self.revisions;
        let replicas = count(wanted.len());
        let target = self.spec.replicas.unwrap_or(1);
        let ready = count(wanted.iter().filter(|p| pods::ready(p)).count());
        let updated = of(&r.update);
        let rolled = updated == target && replicas == target && ready == target;
        let on_delete = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete");
        let current = if rolled && !on_delete { r.update.clone() } else { r.current.clone() };
        StatefulSetStatus {
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(of(&current)),
            updated_replicas: some(updated),
            current_revision: Some(current),
            update_revision: Some(r.update.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0)),
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
        }
    }

    /// Forgets the oldest revisions that no pod uses, beyond the limit.
    fn trim_history(&self, all: &[&ControllerRevision], plan: &mut Plan) {
        let live = |r: &ControllerRevision| {
            let r = name(&r.metadata);
            r == self.revisions.current
                || r == self.revisions.update
                || self.pods.values().any(|p| revision_of(p) == Some(r))
        };
        revisions::trim(&self.set.metadata, self.spec.revision_history_limit, all, live, plan);
    }
}

fn revision_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(REVISION_LABEL).map(String::as_str)
}
