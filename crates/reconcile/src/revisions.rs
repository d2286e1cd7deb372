//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, so that `kubectl rollout` can show them and go
//! back. Each is a patch that replaces the template (apps/v1).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::plan::{CONTROLLER_REVISIONS, Plan, Resource, controlled_by, name, owner_reference, short_hash, uid};

/// The label with the hash of the template, on revisions and pods.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// What came of the search for the revision of a template.
pub enum Recorded<'a> {
    /// It is there.
    Yes(&'a ControllerRevision),
    /// It is being made: the next pass goes on.
    Making,
    /// Its name is taken by another template: the hash needs another salt (`status.collisionCount`).
    Collision,
}

/// The patch that brings a template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut t = serde_json::to_value(template).expect("a template always serialises");
    t["$patch"] = "replace".into();
    json!({"spec": {"template": t}})
}

/// Finds the revision of the template, or makes it, as the newest of its owner.
pub fn record<'a>(
    resource: Resource,
    owner: &ObjectMeta,
    template: &PodTemplateSpec,
    collisions: i32,
    all: &[&'a ControllerRevision],
    plan: &mut Plan,
) -> Recorded<'a> {
    let mine: Vec<&'a ControllerRevision> =
        all.iter().copied().filter(|r| controlled_by(&r.metadata, uid(owner))).collect();
    let wanted = data(template);
    let newest = mine.iter().map(|r| r.revision).max().unwrap_or(0);
    let Some(found) = mine.iter().copied().find(|r| r.data.as_ref().is_some_and(|d| d.0 == wanted)) else {
        let hash = short_hash(&wanted["spec"]["template"], collisions);
        let revision_name = format!("{}-{hash}", name(owner));
        if all.iter().any(|r| name(&r.metadata) == revision_name) {
            return Recorded::Collision;
        }
        let mut labels: BTreeMap<String, String> =
            template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.into(), hash);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(revision_name),
                namespace: owner.namespace.clone(),
                labels: Some(labels),
                annotations: change_cause(owner),
                owner_references: Some(vec![owner_reference(resource, owner)]),
                ..Default::default()
            },
            data: Some(RawExtension(wanted)),
            revision: newest + 1,
        };
        plan.create(CONTROLLER_REVISIONS, owner.namespace.as_deref(), &revision);
        return Recorded::Making;
    };
    if found.revision < newest {
        // A rollback: the old record becomes the newest.
        let patch = json!({"metadata": {"uid": found.metadata.uid}, "revision": newest + 1});
        plan.patch(CONTROLLER_REVISIONS, &found.metadata, patch);
    }
    Recorded::Yes(found)
}

/// `kubectl rollout history` shows it beside the revision.
fn change_cause(owner: &ObjectMeta) -> Option<BTreeMap<String, String>> {
    let key = "kubernetes.io/change-cause";
    owner.annotations.as_ref()?.get(key).map(|v| BTreeMap::from([(key.to_owned(), v.clone())]))
}

/// The hash of a revision, as it is on pods.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|l| l.get(HASH_LABEL));
    label.map_or_else(|| name(&revision.metadata), String::as_str)
}

/// Forgets the oldest revisions beyond the limit that nothing uses.
pub fn trim(
    owner: &ObjectMeta,
    limit: Option<i32>,
    all: &[&ControllerRevision],
    live: impl Fn(&ControllerRevision) -> bool,
    plan: &mut Plan,
) {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    let mut unused: Vec<_> = all.iter().filter(|r| controlled_by(&r.metadata, uid(owner)) && !live(r)).collect();
    unused.sort_by_key(|r| r.revision);
    for r in unused.iter().take(unused.len().saturating_sub(limit)) {
        plan.delete(CONTROLLER_REVISIONS, &r.metadata, None);
    }
}
