//! Classes that objects name: priority, runtime, ingress, storage; and the taint of new nodes.

use api::quantity::Quantity;
use api::status::ApiError;
use serde_json::{Map, Value, json};

use super::{Admission, Operation};

/// Which IngressClass is for those that name none.
const DEFAULT_INGRESS: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_INGRESS: &str = "kubernetes.io/ingress.class";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const PREEMPT: &str = "PreemptLowerPriority";

/// Priority classes every cluster has.
pub(crate) fn system_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, what: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1},
            "value": value,
            "preemptionPolicy": PREEMPT,
            "description": what,
        })
    };
    [
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// The class that pods without one get: of several the lowest.
fn default_priority(admission: &Admission<'_>) -> Option<Value> {
    let cache = admission.caches().by("scheduling.k8s.io", "priorityclasses")?;
    let mut classes = Vec::new();
    cache.find_map(|entry| {
        // Cheaper than parsing every class for every pod: the field is written only where it is true.
        let marked = entry.bytes.windows(GLOBAL.len()).any(|w| w == GLOBAL);
        if marked {
            classes.push(entry.clone());
        }
        None::<()>
    });
    let classes = classes.iter().map(|e| e.value()).filter(|c| c["globalDefault"] == true);
    classes.min_by_key(|c| c["value"].as_i64().unwrap_or(0))
}

const GLOBAL: &[u8] = b"\"globalDefault\":true";

/// Turns `priorityClassName` into a number. A number without its class is refused, as it would jump the queue.
pub(super) fn priority(admission: &Admission<'_>, spec: &mut Map<String, Value>) -> Result<(), ApiError> {
    let name = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    let class = if name.is_empty() {
        default_priority(admission)
    } else {
        let cache = admission.caches().by("scheduling.k8s.io", "priorityclasses");
        let found = cache.and_then(|c| c.get(&name)).map(|e| e.value());
        let missing = || admission.forbidden(&format!("no PriorityClass with name {name} was found"));
        Some(found.ok_or_else(missing)?)
    };
    let (computed, policy) = match &class {
        Some(class) => (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str()),
        None => (0, Some(PREEMPT)),
    };
    if let Some(class) = class.as_ref().filter(|_| name.is_empty()) {
        spec.insert("priorityClassName".into(), api::meta::name(class).into());
    }
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != computed) {
        return Err(admission.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        )));
    }
    spec.insert("priority".into(), computed.into());
    let Some(policy) = policy else { return Ok(()) };
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|given| *given != policy) {
        return Err(admission.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    spec.insert("preemptionPolicy".into(), policy.into());
    Ok(())
}

/// The class that a pod names; `None` when it names none.
fn runtime(admission: &Admission<'_>, pod: &Value) -> Result<Option<Value>, ApiError> {
    let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or("");
    if name.is_empty() {
        return Ok(None);
    }
    let found = admission.caches().by("node.k8s.io", "runtimeclasses").and_then(|c| c.get(name));
    match found {
        Some(entry) => Ok(Some(entry.value())),
        None => Err(admission.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let read = |v: &Value| -> Vec<(String, Option<Quantity>)> {
        let list = v.as_object().into_iter().flatten();
        list.map(|(k, v)| (k.clone(), Quantity::from_json(v).ok())).collect()
    };
    read(a) == read(b)
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// Overhead, node selector and tolerations of the pod's runtime class.
pub(super) fn run_with(admission: &Admission<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let Some(class) = runtime(admission, pod)? else { return Ok(()) };
    let fixed = &class["overhead"]["podFixed"];
    if fixed.is_object() {
        let given = &pod["spec"]["overhead"];
        if given.as_object().is_some_and(|o| !o.is_empty()) && !same_amounts(given, fixed) {
            return Err(admission.forbidden(MISMATCH));
        }
        pod["spec"]["overhead"] = fixed.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let (wanted, given) = (value.as_str().unwrap_or(""), pod["spec"]["nodeSelector"][key].as_str());
        if let Some(given) = given.filter(|given| *given != wanted) {
            return Err(admission.forbidden(&format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}"
            )));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    for toleration in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
        match pod["spec"]["tolerations"].as_array_mut() {
            Some(list) if list.contains(toleration) => {}
            Some(list) => list.push(toleration.clone()),
            None => pod["spec"]["tolerations"] = json!([toleration]),
        }
    }
    Ok(())
}

/// Names the default class in an Ingress that names none.
pub(super) fn ingress(admission: &Admission<'_>, ingress: &mut Value) {
    let named = ingress["spec"].get("ingressClassName").is_some_and(|v| !v.is_null())
        || api::meta::annotations(ingress).is_some_and(|a| a.contains_key(OLD_INGRESS));
    let Some(cache) = admission.caches().by("networking.k8s.io", "ingressclasses") else { return };
    if named || cache.is_empty() || !ingress["spec"].is_object() {
        return;
    }
    let mut classes = Vec::new();
    cache.find_map(|entry| {
        let class = entry.value();
        let annotations = api::meta::annotations(&class);
        if annotations.and_then(|a| a.get(DEFAULT_INGRESS)).and_then(Value::as_str) == Some("true") {
            classes.push(class);
        }
        None::<()>
    });
    // Of several the newest, then the first by name.
    let age = |v: &Value| std::cmp::Reverse(api::meta::creation_timestamp(v));
    classes.sort_by(|a, b| age(a).cmp(&age(b)).then_with(|| api::meta::name(a).cmp(api::meta::name(b))));
    if let Some(class) = classes.first() {
        ingress["spec"]["ingressClassName"] = api::meta::name(class).into();
    }
}

/// A new node takes no pods before it has said that it is ready: the node controller takes the taint off.
pub(super) fn not_ready(node: &mut Value) {
    let ready = node["status"]["conditions"].as_array().into_iter().flatten();
    if ready.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
        // Nodes here register with their status: one that is ready already needs no second look.
        return;
    }
    let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
    match node["spec"]["taints"].as_array_mut() {
        Some(list) if list.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule") => {}
        Some(list) => list.push(taint),
        None => node["spec"]["taints"] = json!([taint]),
    }
}

/// # Errors
/// 403 for an overhead without its class, a second default priority, or the growth of a claim that cannot grow.
pub(super) fn check(admission: &Admission<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    match (admission.operation, admission.kind.group, admission.kind.kind) {
        (Operation::Create, "", "Pod") => overhead(admission, object),
        (Operation::Create | Operation::Update, "scheduling.k8s.io", "PriorityClass") => {
            let other = default_priority(admission).filter(|_| object["globalDefault"] == true);
            match other.as_ref().map(api::meta::name).filter(|name| *name != admission.name) {
                Some(name) => Err(admission.forbidden(&format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                ))),
                None => Ok(()),
            }
        }
        (Operation::Update, "", "PersistentVolumeClaim") => resize(admission, object, old),
        _ => Ok(()),
    }
}

fn overhead(admission: &Admission<'_>, pod: &Value) -> Result<(), ApiError> {
    let given = &pod["spec"]["overhead"];
    let class = runtime(admission, pod)?;
    match class.as_ref().map(|c| &c["overhead"]["podFixed"]).filter(|fixed| fixed.is_object()) {
        Some(fixed) if !same_amounts(fixed, given) => Err(admission.forbidden(MISMATCH)),
        None if given.is_object() => {
            Err(admission
                .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
        }
        _ => Ok(()),
    }
}

fn resize(admission: &Admission<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let size =
        |v: &Value| Quantity::from_json(&v["spec"]["resources"]["requests"]["storage"]).unwrap_or(Quantity::ZERO);
    if size(new) <= size(old) {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(admission.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = |v: &Value| v["spec"]["storageClassName"].as_str().unwrap_or("").to_owned();
    let found = admission.caches().by("storage.k8s.io", "storageclasses").and_then(|c| c.get(&class(new)));
    let grows = found.is_some_and(|e| e.value()["allowVolumeExpansion"] == true);
    if class(new) == class(old) && grows {
        return Ok(());
    }
    Err(admission.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
