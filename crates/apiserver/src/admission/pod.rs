//! Pods: priority classes, service account, and what follows from them.

use api::kinds::pod::{ServiceAccountView, admit, service_account_name};
use api::status::ApiError;
use serde_json::Value;

use super::suffix;
use crate::cache::Caches;

/// Priority classes every cluster has.
const CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// Completes a new pod.
pub(super) fn create(caches: &Caches, pod: &mut Value) -> Result<(), ApiError> {
    let name = match api::meta::name(pod) {
        "" => api::meta::generate_name(pod).to_owned(),
        name => name.to_owned(),
    };
    let forbidden = |why: String| ApiError::forbidden("pods", "", &name, &why);
    priority(pod).map_err(forbidden)?;
    let namespace = api::meta::namespace(pod).to_owned();
    let account = service_account_name(pod).to_owned();
    let mirror = api::meta::annotations(pod).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    let entry = caches.core("serviceaccounts").get(&format!("{namespace}/{account}"));
    if entry.is_none() && !mirror {
        return Err(forbidden(format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        )));
    }
    let object = entry.map(|e| e.value());
    admit(pod, &ServiceAccountView { object: object.as_ref(), volume_suffix: &suffix() });
    Ok(())
}

/// Turns `priorityClassName` into a number. A number without its class is refused, as it would jump the queue.
fn priority(pod: &mut Value) -> Result<(), String> {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    let computed = match CLASSES.iter().find(|(name, _)| *name == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => return Err(format!("no PriorityClass with name {class} was found")),
    };
    match spec.get("priority").and_then(Value::as_i64) {
        Some(given) if given != computed => Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        )),
        _ => {
            spec.insert("priority".into(), computed.into());
            Ok(())
        }
    }
}
