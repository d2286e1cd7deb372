//! Pods: lifecycle hooks, selectable fields, and what admission adds to every pod.

use serde_json::{Value, json};

use super::Hooks;
use super::check::Check;
use super::podspec;
pub use super::podspec::{prepare_ephemeral, prepare_resize, validate_ephemeral_update, validate_resize};
use super::resources::qos_class;
use crate::json::{at, bool_at, carry, drop_key, ensure_object, int_at, list_at, str_at};
use crate::meta;
use crate::status::FieldError;

pub(super) const HOOKS: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    prepare_status_update,
    validate,
    validate_create,
    validate_update,
    validate_status_update,
    warnings: super::warnings::pod,
    selectable: &[
        ("spec.nodeName", |p| text(p, &["spec", "nodeName"])),
        ("spec.restartPolicy", |p| text(p, &["spec", "restartPolicy"])),
        ("spec.schedulerName", |p| text(p, &["spec", "schedulerName"])),
        ("spec.serviceAccountName", |p| text(p, &["spec", "serviceAccountName"])),
        ("spec.hostNetwork", |p| bool_at(p, &["spec", "hostNetwork"]).to_string()),
        ("status.phase", |p| text(p, &["status", "phase"])),
        ("status.podIP", |p| text(p, &["status", "podIP"])),
        ("status.podIPs", |p| text(p, &["status", "podIP"])),
        ("status.nominatedNodeName", |p| text(p, &["status", "nominatedNodeName"])),
    ],
    grace_period: Some(grace_period),
    ..Hooks::NONE
};

/// The string at a path, owned: what field readers return.
pub(super) fn text(object: &Value, path: &[&str]) -> String {
    str_at(object, path).to_owned()
}

fn default(pod: &mut Value) {
    let spec = ensure_object(pod, "spec");
    podspec::default_spec(spec);
    podspec::default_pod_level(spec);
}

fn prepare_create(pod: &mut Value) {
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    apply_gates(pod);
}

fn prepare_update(pod: &mut Value, _old: &Value) {
    apply_gates(pod);
}

/// A gated pod says so in its `PodScheduled` condition.
fn apply_gates(pod: &mut Value) {
    if list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        return;
    }
    let status = ensure_object(pod, "status");
    if list_at(status, &["conditions"]).iter().any(|c| str_at(c, &["type"]) == "PodScheduled") {
        return;
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastProbeTime": null,
        "lastTransitionTime": null,
    });
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(list) => list.push(condition),
        None => status["conditions"] = json!([condition]),
    }
}

fn prepare_status_update(new: &mut Value, old: &Value) {
    if let (Some(new_meta), Some(old_meta)) = (new.get_mut("metadata"), old.get("metadata")) {
        carry(new_meta, old_meta, "ownerReferences");
    }
    if let (Some(new_status), Some(old_status)) = (new.get_mut("status"), old.get("status"))
        && at(old_status, &["qosClass"]).is_some()
        && new_status.is_object()
    {
        carry(new_status, old_status, "qosClass");
    }
}

fn validate(pod: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    match at(pod, &["spec"]) {
        Some(spec) => {
            podspec::validate_spec(&mut check, spec, "spec");
            podspec::validate_claims_of_pod(&mut check, spec, str_at(pod, &["metadata", "name"]), "spec");
        }
        None => check.required("spec", ""),
    }
    check.errors
}

fn validate_create(pod: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    if !list_at(pod, &["spec", "ephemeralContainers"]).is_empty() {
        check.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !str_at(pod, &["spec", "nodeName"]).is_empty() && !list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        check.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
    check.errors
}

fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    podspec::validate_update(&mut check, new, old);
    check.errors
}

fn validate_status_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let node = str_at(new, &["status", "nominatedNodeName"]);
    if !node.is_empty() {
        check.syntax("status.nominatedNodeName", node, crate::names::dns1123_subdomain(node));
    }
    for (i, before) in list_at(old, &["status", "containerStatuses"]).iter().enumerate() {
        // A container that has terminated for good stays terminated.
        let Some(exit) = int_at(before, &["state", "terminated", "exitCode"]) else { continue };
        let name = str_at(before, &["name"]);
        let for_good = !podspec::may_run_again(&old["spec"], name, exit);
        let now = list_at(new, &["status", "containerStatuses"]).iter().find(|c| str_at(c, &["name"]) == name);
        if for_good && now.is_some_and(|c| at(c, &["state", "terminated"]).is_none()) {
            let field = format!("status.containerStatuses[{i}].state");
            check.forbidden(field, "may not be transitioned to non-terminated state");
        }
    }
    check.errors
}

/// Seconds to wait: the request's, else the pod's; none for pods that never ran or are done.
fn grace_period(pod: &Value, requested: Option<i64>) -> i64 {
    let seconds = requested.or_else(|| int_at(pod, &["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
    let unscheduled = str_at(pod, &["spec", "nodeName"]).is_empty();
    let done = matches!(str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    match seconds {
        _ if unscheduled || done => 0,
        s if s < 0 => 1,
        s => s,
    }
}

/// What admission needs to know of a pod's service account.
#[derive(Debug, Clone, Default)]
pub struct ServiceAccountView<'a> {
    /// The stored service account.
    pub object: Option<&'a Value>,
    /// Five characters from [`crate::meta::SUFFIX_ALPHABET`] for the token volume's name.
    pub volume_suffix: &'a str,
}

/// Path at which containers find their API token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds an unready or unreachable node keeps its pods.
const TOLERATION_SECONDS: i64 = 300;

/// The service account a new pod names, or `default`.
pub fn service_account_name(pod: &Value) -> &str {
    match str_at(pod, &["spec", "serviceAccountName"]) {
        "" => "default",
        name => name,
    }
}

/// What Kubernetes' built-in admission plugins add to a new pod (ServiceAccount, DefaultTolerationSeconds, Priority):
/// account, token volume, pull secrets, tolerations, priority. Call after defaulting, before validation.
pub fn admit(pod: &mut Value, account: &ServiceAccountView<'_>) {
    let name = service_account_name(pod).to_owned();
    let mirror = meta::annotations(pod).is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    let spec = ensure_object(pod, "spec");
    if at(spec, &["priority"]).is_none() && str_at(spec, &["priorityClassName"]).is_empty() {
        spec["priority"] = 0.into();
    }
    crate::json::set_default(spec, "preemptionPolicy", "PreemptLowerPriority");
    tolerate(spec);
    if mirror {
        return;
    }
    spec["serviceAccountName"] = name.as_str().into();
    spec["serviceAccount"] = name.into();
    let Some(object) = account.object else { return };
    if list_at(spec, &["imagePullSecrets"]).is_empty() && !list_at(object, &["imagePullSecrets"]).is_empty() {
        spec["imagePullSecrets"] = object["imagePullSecrets"].clone();
    }
    let automount = at(spec, &["automountServiceAccountToken"])
        .or_else(|| at(object, &["automountServiceAccountToken"]))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if automount {
        mount_token(spec, account.volume_suffix);
    }
}

/// What DefaultTolerationSeconds adds to a pod, also to one that is changed: who writes a list of tolerations of his own need
/// not repeat these.
pub fn tolerate(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        add_toleration(spec, key);
    }
}

fn add_toleration(spec: &mut Value, key: &str) {
    let covers = |t: &Value| {
        let have = str_at(t, &["key"]);
        (have == key || have.is_empty()) && matches!(str_at(t, &["effect"]), "" | "NoExecute")
    };
    if list_at(spec, &["tolerations"]).iter().any(covers) {
        return;
    }
    let toleration =
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS});
    push(spec, "tolerations", toleration);
}

fn push(object: &mut Value, key: &str, item: Value) {
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => object[key] = json!([item]),
    }
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = list_at(spec, &["volumes"])
        .iter()
        .map(|v| str_at(v, &["name"]))
        .find(|n| n.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{suffix}"));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in crate::json::list_mut(spec, &[list]) {
            let mounted = list_at(container, &["volumeMounts"]).iter().any(|m| str_at(m, &["mountPath"]) == TOKEN_PATH);
            if !mounted {
                used = true;
                push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            }
        }
    }
    if used && existing.is_none() {
        push(spec, "volumes", token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                // Seven seconds above the hour, so that such tokens can be told from ones asked for by hand.
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
        },
    })
}

/// Applies a core v1 `Binding` to a pod: node, annotations, and the `PodScheduled` condition at `now`.
/// The error is the reason of a 409.
pub fn bind(pod: &mut Value, binding: &Value, now: jiff::Timestamp) -> Result<(), String> {
    let node = str_at(binding, &["target", "name"]);
    let name = meta::name(pod).to_owned();
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return Err(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(pod)));
    }
    if meta::is_deleting(pod) {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = str_at(pod, &["spec", "nodeName"]);
    if !assigned.is_empty() {
        return Err(format!("pod {name} is already assigned to node {assigned:?}"));
    }
    if !list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    // The generation counts what users change, not where the pod goes (KEP-5067).
    ensure_object(pod, "spec")["nodeName"] = node.into();
    if let Some(annotations) = meta::annotations(binding) {
        let target = ensure_object(ensure_object(pod, "metadata"), "annotations");
        for (key, value) in annotations {
            target[key] = value.clone();
        }
    }
    let status = ensure_object(pod, "status");
    drop_key(status, "nominatedNodeName");
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::format_time(now),
    });
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|c| str_at(c, &["type"]) != "PodScheduled");
    }
    push(status, "conditions", condition);
    Ok(())
}
