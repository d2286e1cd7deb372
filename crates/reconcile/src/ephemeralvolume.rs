//! Generic ephemeral volumes (KEP-1698): the claims that a pod wants of its own. They are named after pod and volume, the pod
//! owns them, and with the pod they go.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::plan::{CLAIMS, PODS, Plan, controlled_by, name, namespace, owner_reference, terminating, uid};
use crate::pods;

/// The claim that is made for a volume of the pod.
pub fn claim_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

/// Volumes of the pod that are claims, with the claims' names: those that it names, and those that are made for it.
pub fn claims(pod: &Pod) -> impl Iterator<Item = (&Volume, Cow<'_, str>)> {
    volumes(pod).filter_map(|v| {
        let named = v.persistent_volume_claim.as_ref().map(|c| Cow::Borrowed(c.claim_name.as_str()));
        let made = || v.ephemeral.as_ref().map(|_| Cow::Owned(claim_name(name(&pod.metadata), &v.name)));
        Some((v, named.or_else(made)?))
    })
}

/// Volumes of the pod for which claims are made, with what these are made of.
pub fn wanted(pod: &Pod) -> impl Iterator<Item = (&Volume, &PersistentVolumeClaimTemplate)> {
    volumes(pod).filter_map(|v| Some((v, v.ephemeral.as_ref()?.volume_claim_template.as_ref()?)))
}

/// That the claim of that name is there, and is another's.
pub fn foreign(pod: &ObjectMeta, claim: &str) -> String {
    let ns = namespace(pod);
    format!("PVC {ns}/{claim} was not created for pod {ns}/{} (pod is not owner)", name(pod))
}

/// Why the pod cannot use the claim of its volume, if it is so: there is none, or it is another's.
pub fn unusable(pod: &Pod, volume: &Volume, claim: Option<&PersistentVolumeClaim>) -> Option<String> {
    let own = volume.ephemeral.is_some();
    match claim {
        Some(claim) => {
            let other = own && !controlled_by(&claim.metadata, uid(&pod.metadata));
            other.then(|| foreign(&pod.metadata, name(&claim.metadata)))
        }
        None if own => {
            let claim = claim_name(name(&pod.metadata), &volume.name);
            Some(format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {claim:?}"))
        }
        None => {
            let claim = volume.persistent_volume_claim.as_ref().map_or("", |c| c.claim_name.as_str());
            Some(format!("persistentvolumeclaim {claim:?} not found"))
        }
    }
}

/// Decides for one of the volumes that [`wanted`] found; `claim` is what there is of that name.
pub fn plan(
    pod: &Pod,
    volume: &Volume,
    template: &PersistentVolumeClaimTemplate,
    claim: Option<&PersistentVolumeClaim>,
) -> Plan {
    let mut plan = Plan::default();
    if terminating(&pod.metadata) || pods::finished(pod) {
        return plan;
    }
    if claim.is_some() {
        if let Some(why) = unusable(pod, volume, claim) {
            failed(pod, volume, &why, &mut plan);
        }
        return plan;
    }
    let meta = template.metadata.clone().unwrap_or_default();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(name(&pod.metadata), &volume.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner_reference(PODS, &pod.metadata)]),
            ..Default::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    };
    plan.create(CLAIMS, pod.metadata.namespace.as_deref(), &claim);
    plan
}

/// Tells the pod's readers why a volume of it has no claim.
pub fn failed(pod: &Pod, volume: &Volume, why: &str, plan: &mut Plan) {
    let message = format!("ephemeral volume {}: {why}", volume.name);
    plan.event(PODS, &pod.metadata, "Warning", "FailedBinding", message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;
    use serde_json::{Value, json};

    fn pod(extra: Value) -> Pod {
        let mut v = json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "n", "persistentVolumeClaim": {"claimName": "named"}},
                {"name": "v", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
                }}},
            ]},
        });
        for (part, fields) in extra.as_object().unwrap() {
            for (key, value) in fields.as_object().unwrap() {
                v[part][key] = value.clone();
            }
        }
        serde_json::from_value(v).unwrap()
    }

    fn claim(owner: &str) -> PersistentVolumeClaim {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
        let meta = json!({"name": "p-v", "namespace": "d", "uid": "c", "ownerReferences": [owner]});
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    fn decide(pod: &Pod, claim: Option<&PersistentVolumeClaim>) -> Vec<Action> {
        let (volume, template) = wanted(pod).next().expect("there is one");
        plan(pod, volume, template, claim).actions
    }

    #[test]
    fn a_claim_is_made_of_the_template_and_owned_by_the_pod() {
        let [Action::Create { resource, namespace, body, .. }] = &decide(&pod(json!({})), None)[..] else {
            panic!("one action")
        };
        assert_eq!((*resource, namespace.as_deref()), (CLAIMS, Some("d")));
        assert_eq!(
            body,
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": "p-v", "labels": {"a": "b"}, "annotations": {"c": "d"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u",
                        "controller": true, "blockOwnerDeletion": true}],
                },
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            })
        );
    }

    #[test]
    fn a_claim_that_is_there_is_the_pods_own_or_told_of() {
        let p = pod(json!({}));
        assert_eq!(decide(&p, Some(&claim("u"))), []);
        let [Action::Event { type_: "Warning", reason: "FailedBinding", message, .. }] =
            &decide(&p, Some(&claim("other")))[..]
        else {
            panic!("one warning")
        };
        assert_eq!(message, "ephemeral volume v: PVC d/p-v was not created for pod d/p (pod is not owner)");
    }

    #[test]
    fn nothing_is_made_for_a_pod_on_its_way_out() {
        for extra in [
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"status": {"phase": "Succeeded"}}),
            json!({"status": {"phase": "Failed"}}),
        ] {
            assert_eq!(decide(&pod(extra), None), []);
        }
    }

    #[test]
    fn claims_are_those_named_and_those_made() {
        let p = pod(json!({}));
        let names: Vec<String> = claims(&p).map(|(v, claim)| format!("{} {claim}", v.name)).collect();
        assert_eq!(names, ["n named", "v p-v"]);
        let why = |claim: Option<&PersistentVolumeClaim>| -> Vec<Option<String>> {
            claims(&p).map(|(v, _)| unusable(&p, v, claim)).collect()
        };
        assert_eq!(why(Some(&claim("u"))), [None, None]);
        let other = "PVC d/p-v was not created for pod d/p (pod is not owner)".to_owned();
        assert_eq!(why(Some(&claim("other"))), [None, Some(other)]);
        let made = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"".to_owned();
        assert_eq!(why(None), [Some("persistentvolumeclaim \"named\" not found".to_owned()), Some(made)]);
    }
}
