//! Garbage collection by owner references: what to do about one object, given what is known of its owners and dependents.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::plan::{Action, Plan, Resource, name, terminating, uid};

/// Set on an object that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Set on an object whose dependents stay.
pub const ORPHAN: &str = "orphan";

/// What is known of an owner. `Absent` must have been confirmed by the API server, not by a cache that may lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Present,
    /// It is there and waits for its dependents to go.
    WaitsForDependents,
    /// No object of that UID exists.
    Absent,
}

/// An object that names this one as its owner.
#[derive(Debug, Clone)]
pub struct Dependent<'a> {
    /// Its resource.
    pub resource: Resource,
    /// Its metadata.
    pub meta: &'a ObjectMeta,
}

/// Decides for one object.
pub fn plan(
    resource: Resource,
    meta: &ObjectMeta,
    owner_state: impl Fn(&OwnerReference) -> Owner,
    dependents: &[Dependent<'_>],
) -> Plan {
    let mut plan = Plan::default();
    let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
    if terminating(meta) {
        if has(ORPHAN) {
            orphan(resource, meta, dependents, &mut plan);
        } else if has(FOREGROUND) {
            let blocked = dependents.iter().any(|d| blocks(d.meta, uid(meta)));
            if !blocked {
                drop_finalizer(resource, meta, FOREGROUND, &mut plan);
            }
        }
        return plan;
    }
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if owners.is_empty() {
        return plan;
    }
    let states: Vec<(&OwnerReference, Owner)> = owners.iter().map(|o| (o, owner_state(o))).collect();
    let any = |s: Owner| states.iter().any(|(_, x)| *x == s);
    if any(Owner::Present) {
        // At least one owner keeps it: references to the others are dropped.
        let keep: Vec<&OwnerReference> = states.iter().filter(|(_, s)| *s == Owner::Present).map(|(o, _)| *o).collect();
        if keep.len() < owners.len() {
            let m = json!({"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": keep});
            plan.patch(resource, meta, json!({"metadata": m}));
        }
    } else if any(Owner::WaitsForDependents) {
        // A dependent that waits itself may, over others, wait for this one: nobody of such a circle would ever go.
        if owners.iter().any(|o| o.block_owner_deletion == Some(true)) && dependents.iter().any(|d| waits(d.meta)) {
            let free: Vec<_> =
                owners.iter().map(|o| OwnerReference { block_owner_deletion: Some(false), ..o.clone() }).collect();
            plan.patch(resource, meta, json!({"metadata": {"uid": meta.uid, "ownerReferences": free}}));
        }
        let deep = if dependents.is_empty() { "Background" } else { "Foreground" };
        plan.delete(resource, meta, Some(deep));
    } else {
        let how = if has(ORPHAN) {
            "Orphan"
        } else if has(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        plan.delete(resource, meta, Some(how));
    }
    plan
}

/// Whether it is being deleted after its dependents.
fn waits(meta: &ObjectMeta) -> bool {
    terminating(meta) && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND)
}

fn blocks(dependent: &ObjectMeta, owner_uid: &str) -> bool {
    dependent.owner_references.iter().flatten().any(|o| o.uid == owner_uid && o.block_owner_deletion == Some(true))
}

/// Takes the reference off every dependent; once none is left, lets the object go.
fn orphan(resource: Resource, meta: &ObjectMeta, dependents: &[Dependent<'_>], plan: &mut Plan) {
    for d in dependents {
        let rest: Vec<_> = d.meta.owner_references.iter().flatten().filter(|o| o.uid != uid(meta)).collect();
        let rest = or_none(&rest);
        let m = json!({"uid": d.meta.uid, "resourceVersion": d.meta.resource_version, "ownerReferences": rest});
        plan.patch(d.resource, d.meta, json!({"metadata": m}));
    }
    if dependents.is_empty() {
        drop_finalizer(resource, meta, ORPHAN, plan);
    }
}

/// An empty list is no list: in a merge patch that is null.
fn or_none<T: serde::Serialize>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

fn drop_finalizer(resource: Resource, meta: &ObjectMeta, finalizer: &str, plan: &mut Plan) {
    let rest: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let rest = or_none(&rest);
    plan.actions.push(Action::Patch {
        resource,
        namespace: meta.namespace.clone(),
        name: name(meta).to_owned(),
        subresource: None,
        patch: json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": rest}}),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PODS, REPLICA_SETS};

    fn meta(id: &str, owners: &[&str]) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|o| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": o, "uid": o, "blockOwnerDeletion": true}))
            .collect();
        serde_json::from_value(json!({"name": id, "namespace": "d", "uid": id, "ownerReferences": owners})).unwrap()
    }

    fn deletion(p: &Plan) -> Option<&'static str> {
        p.actions.iter().find_map(|a| match a {
            Action::Delete { propagation, .. } => *propagation,
            _ => None,
        })
    }

    #[test]
    fn a_circle_of_owners_does_not_wait_for_itself() {
        let mut first = meta("1", &["3"]);
        let last = meta("3", &["2"]);
        let seen = |first: &ObjectMeta| {
            plan(PODS, &last, |_| Owner::WaitsForDependents, &[Dependent { resource: PODS, meta: first }])
        };
        assert_eq!(seen(&first).actions.len(), 1, "an ordinary chain only goes on");
        first.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        first.finalizers = Some(vec![FOREGROUND.into()]);
        let p = seen(&first);
        let Action::Patch { patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], false);
        assert_eq!((p.actions.len(), deletion(&p)), (2, Some("Foreground")));
    }

    #[test]
    fn an_object_goes_when_its_last_owner_is_gone() {
        let m = meta("p", &["a", "b"]);
        let p = plan(PODS, &m, |_| Owner::Absent, &[]);
        assert_eq!(deletion(&p), Some("Background"));
        let one = plan(PODS, &m, |o| if o.uid == "a" { Owner::Absent } else { Owner::Present }, &[]);
        let Action::Patch { patch, .. } = &one.actions[0] else { panic!("{one:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"][0]["uid"], "b");
    }

    #[test]
    fn foreground_owners_wait_for_blocking_dependents() {
        let mut owner = meta("rs", &[]);
        owner.finalizers = Some(vec![FOREGROUND.into()]);
        owner.deletion_timestamp = Some(crate::pods::time(jiff::Timestamp::UNIX_EPOCH));
        let child = meta("p", &["rs"]);
        let dependents = [Dependent { resource: PODS, meta: &child }];
        assert_eq!(plan(REPLICA_SETS, &owner, |_| Owner::Present, &dependents), Plan::default());
        assert_eq!(deletion(&plan(PODS, &child, |_| Owner::WaitsForDependents, &[])), Some("Background"));
        assert_eq!(plan(REPLICA_SETS, &owner, |_| Owner::Present, &[]).actions.len(), 1);
    }

    #[test]
    fn orphans_lose_their_reference_before_the_owner_goes() {
        let mut owner = meta("rs", &[]);
        owner.finalizers = Some(vec![ORPHAN.into()]);
        owner.deletion_timestamp = Some(crate::pods::time(jiff::Timestamp::UNIX_EPOCH));
        let child = meta("p", &["rs"]);
        let p = plan(REPLICA_SETS, &owner, |_| Owner::Present, &[Dependent { resource: PODS, meta: &child }]);
        let Action::Patch { name, patch, .. } = &p.actions[0] else { panic!("{p:?}") };
        assert_eq!((name.as_str(), &patch["metadata"]["ownerReferences"]), ("p", &json!(null)));
        assert_eq!(p.actions.len(), 1);
    }
}
