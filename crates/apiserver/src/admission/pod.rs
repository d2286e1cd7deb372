//! Pods: priority and runtime classes, service account, and what follows from them.

use api::kinds::pod::{ServiceAccountView, admit, service_account_name, tolerate};
use api::status::ApiError;
use serde_json::Value;

use super::{Admission, classes, suffix};

/// Completes a new pod.
pub(super) fn create(admission: &Admission<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let namespace = api::meta::namespace(pod).to_owned();
    let account = service_account_name(pod).to_owned();
    let mirror = api::meta::annotations(pod).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    let entry = admission.caches().core("serviceaccounts").get(&format!("{namespace}/{account}"));
    if entry.is_none() && !mirror {
        return Err(admission.forbidden(&format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        )));
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        classes::priority(admission, spec)?;
    }
    let object = entry.map(|e| e.value());
    admit(pod, &ServiceAccountView { object: object.as_ref(), volume_suffix: &suffix() });
    classes::run_with(admission, pod)
}

/// What admission gave a pod stays, also when a writer leaves it out.
pub(super) fn update(pod: &mut Value, old: &Value) {
    if let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) {
        tolerate(spec);
    }
    for key in ["priority", "preemptionPolicy"] {
        let Some(before) = old["spec"].get(key).filter(|v| !v.is_null()) else { continue };
        if pod["spec"].is_object() && pod["spec"][key].is_null() {
            pod["spec"][key] = before.clone();
        }
    }
}
