//! Deployments, replica sets, stateful sets, controller revisions.

use serde_json::{Map, Value, json};

use super::Hooks;
use super::check::{Check, join};
use super::pod::text;
use super::podspec;
use crate::json::{
    at, carry, ensure_object, int_at, list_at, list_mut, map_at, object_mut, semantic_eq, set_default, str_at,
};
use crate::selectors::{LabelSelector, validate_label_selector};
use crate::status::FieldError;

pub(super) const DEPLOYMENT: Hooks = Hooks {
    default: default_deployment,
    prepare_status_update: |new, old| {
        if let (Some(n), Some(o)) = (new.get_mut("metadata"), old.get("metadata")) {
            carry(n, o, "labels");
        }
    },
    validate: validate_deployment,
    validate_update: |new, old| {
        let mut errors = validate_deployment(new);
        errors.extend(immutable_selector(new, old));
        errors
    },
    validate_status_update: |new, _| {
        validate_counts(
            new,
            &["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"],
        )
    },
    warnings: super::warnings::workload,
    // Rollback and restart tools write annotations and wait for the controller to observe the new generation.
    generation_keys: &[&["spec"], &["metadata", "annotations"]],
    ..Hooks::NONE
};

pub(super) const REPLICA_SET: Hooks = Hooks {
    default: default_replica_set,
    validate: validate_replica_set,
    validate_update: |new, old| {
        let mut errors = validate_replica_set(new);
        errors.extend(immutable_selector(new, old));
        errors
    },
    validate_status_update: |new, _| {
        validate_counts(new, &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"])
    },
    warnings: super::warnings::workload,
    selectable: &[("status.replicas", |o| int_at(o, &["status", "replicas"]).unwrap_or(0).to_string())],
    ..Hooks::NONE
};

pub(super) const STATEFUL_SET: Hooks = Hooks {
    default: default_stateful_set,
    validate: validate_stateful_set,
    validate_create: |o| {
        let mut check = Check::default();
        let service = str_at(o, &["spec", "serviceName"]);
        if !service.is_empty() {
            check.syntax("spec.serviceName", service, crate::names::dns1123_label(service));
        }
        check.errors
    },
    validate_update: update_stateful_set,
    warnings: |o| {
        let mut out = super::warnings::template(at(o, &["spec", "template"]), "spec.template");
        for (i, claim) in list_at(o, &["spec", "volumeClaimTemplates"]).iter().enumerate() {
            let spec = at(claim, &["spec"]).unwrap_or(&Value::Null);
            super::warnings::claim_spec(&mut out, spec, &format!("spec.volumeClaimTemplates[{i}]"));
        }
        out
    },
    validate_status_update: |new, _| {
        validate_counts(new, &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"])
    },
    ..Hooks::NONE
};

pub(super) const CONTROLLER_REVISION: Hooks = Hooks {
    validate: |o| {
        let mut check = Check::default();
        check.non_negative(o, "revision", "");
        if at(o, &["data"]).is_none() {
            check.required("data", "data is mandatory");
        }
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        check.non_negative(new, "revision", "");
        check.immutable(new, old, &["data"]);
        check.errors
    },
    ..Hooks::NONE
};

fn default_deployment(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "replicas", 1);
    let strategy = ensure_object(spec, "strategy");
    set_default(strategy, "type", "RollingUpdate");
    if str_at(strategy, &["type"]) == "RollingUpdate" {
        let rolling = ensure_object(strategy, "rollingUpdate");
        for key in ["maxUnavailable", "maxSurge"] {
            set_default(rolling, key, "25%");
        }
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    podspec::default_template(spec, "template");
}

fn default_replica_set(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "replicas", 1);
    podspec::default_template(spec, "template");
}

fn default_stateful_set(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "podManagementPolicy", "OrderedReady");
    let strategy = ensure_object(spec, "updateStrategy");
    set_default(strategy, "type", "RollingUpdate");
    if str_at(strategy, &["type"]) == "RollingUpdate" {
        let rolling = ensure_object(strategy, "rollingUpdate");
        set_default(rolling, "partition", 0);
    }
    let retention = ensure_object(spec, "persistentVolumeClaimRetentionPolicy");
    set_default(retention, "whenDeleted", "Retain");
    set_default(retention, "whenScaled", "Retain");
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    for claim in list_mut(spec, &["volumeClaimTemplates"]) {
        set_default(claim, "apiVersion", "v1");
        set_default(claim, "kind", "PersistentVolumeClaim");
        super::storage::default_claim(claim);
        if claim.get("status").is_none_or(Value::is_null) {
            claim["status"] = json!({"phase": "Pending"});
        }
    }
    podspec::default_template(spec, "template");
}

/// Checks selector and template of a workload: both present, and one choosing the other.
///
/// Replica sets are called deployments in one of the sentences, as in Kubernetes.
fn validate_selector_and_template(check: &mut Check, o: &Value, stateful: bool) {
    let (word, kind) = if stateful { ("statefulset", "StatefulSet") } else { ("deployment", "ReplicaSet") };
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    match at(spec, &["selector"]) {
        None => check.required("spec.selector", ""),
        Some(selector) => {
            check.extend(validate_label_selector(selector, "spec.selector"));
            if LabelSelector::from_json(selector).is_ok_and(|s| s.is_everything()) {
                check.invalid("spec.selector", selector.clone(), format!("empty selector is invalid for {word}"));
            }
            labels_match(check, spec, selector);
        }
    }
    let template = at(spec, &["template"]).unwrap_or(&Value::Null);
    podspec::validate_template(check, template, "spec.template");
    restart_policy(check, template, &["Always"], kind);
}

/// The template's labels must be ones the selector chooses.
pub(super) fn labels_match(check: &mut Check, spec: &Value, selector: &Value) {
    let empty = Map::new();
    let labels = map_at(spec, &["template", "metadata", "labels"]).unwrap_or(&empty);
    if let Ok(parsed) = LabelSelector::from_json(selector)
        && !parsed.is_everything()
        && !parsed.matches(labels)
    {
        let detail = "`selector` does not match template `labels`";
        check.invalid("spec.template.metadata.labels", Value::Object(labels.clone()), detail);
    }
}

/// Pods of a workload that replaces them restart by themselves, and are not ended by a deadline.
pub(super) fn restart_policy(check: &mut Check, template: &Value, policies: &[&str], kind: &str) {
    let policy = str_at(template, &["spec", "restartPolicy"]);
    if !policies.contains(&policy) && matches!(policy, "Always" | "OnFailure" | "Never") {
        check.extend([FieldError::not_supported("spec.template.spec.restartPolicy", policy, policies)]);
    }
    if policies == ["Always"] && at(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        check.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}

fn validate_deployment(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        check.non_negative(spec, key, "spec");
    }
    validate_selector_and_template(&mut check, o, false);
    validate_strategy(&mut check, spec);
    let min_ready = int_at(spec, &["minReadySeconds"]).unwrap_or(0);
    if let Some(deadline) = int_at(spec, &["progressDeadlineSeconds"]).filter(|d| *d <= min_ready) {
        check.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
    check.errors
}

fn validate_strategy(check: &mut Check, spec: &Value) {
    let strategy = at(spec, &["strategy"]).unwrap_or(&Value::Null);
    let rolling = at(strategy, &["rollingUpdate"]);
    match (str_at(strategy, &["type"]), rolling) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            check.forbidden("spec.strategy.rollingUpdate", detail);
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            check.required("spec.strategy.rollingUpdate", "this should be defaulted and never be nil")
        }
        ("RollingUpdate", Some(rolling)) => validate_rolling(check, rolling),
        _ => check.need_one_of(strategy, "type", "spec.strategy", &["Recreate", "RollingUpdate"]),
    }
}

fn validate_rolling(check: &mut Check, rolling: &Value) {
    let field = "spec.strategy.rollingUpdate";
    for key in ["maxUnavailable", "maxSurge"] {
        int_or_percent(check, rolling, key, field, key == "maxUnavailable");
    }
    let zero = |key: &str| match at(rolling, &[key]) {
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(Value::String(s)) => s.trim_end_matches('%').parse::<i64>() == Ok(0),
        _ => true,
    };
    if zero("maxUnavailable") && zero("maxSurge") {
        let value = at(rolling, &["maxUnavailable"]).cloned().unwrap_or(Value::from(0));
        check.invalid(format!("{field}.maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
}

/// A count or a percentage; percentages of `maxUnavailable` may not exceed the whole.
pub(super) fn int_or_percent(check: &mut Check, owner: &Value, key: &str, field: &str, capped: bool) {
    let field = join(field, key);
    match at(owner, &[key]) {
        Some(Value::String(s)) => {
            let digits = s.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            match digits.and_then(|d| d.parse::<i64>().ok()) {
                None => check.invalid(field, s.as_str(), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
                Some(n) if capped && n > 100 => check.invalid(field, s.as_str(), "must not be greater than 100%"),
                Some(_) => {}
            }
        }
        Some(Value::Number(n)) if n.as_i64().is_some_and(|n| n < 0) => {
            check.invalid(field, n.as_i64(), super::check::NON_NEGATIVE);
        }
        _ => {}
    }
}

fn immutable_selector(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    check.immutable(new, old, &["spec", "selector"]);
    check.errors
}

/// Status counters are never negative.
pub(super) fn validate_counts(o: &Value, keys: &[&str]) -> Vec<FieldError> {
    let mut check = Check::default();
    let status = at(o, &["status"]).unwrap_or(&Value::Null);
    for key in keys {
        check.non_negative(status, key, "status");
    }
    check.non_negative(status, "observedGeneration", "status");
    if let Some(total) = int_at(status, &["replicas"]) {
        for key in ["readyReplicas", "availableReplicas", "fullyLabeledReplicas"] {
            if keys.contains(&key)
                && let Some(n) = int_at(status, &[key]).filter(|n| *n > total)
            {
                check.invalid(format!("status.{key}"), n, "cannot be greater than status.replicas");
            }
        }
    }
    check.errors
}

fn validate_replica_set(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    check.non_negative(spec, "replicas", "spec");
    check.non_negative(spec, "minReadySeconds", "spec");
    validate_selector_and_template(&mut check, o, false);
    check.errors
}

fn validate_stateful_set(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    match str_at(spec, &["podManagementPolicy"]) {
        "" => check.required("spec.podManagementPolicy", ""),
        "OrderedReady" | "Parallel" => {}
        other => check.invalid("spec.podManagementPolicy", other, "must be 'OrderedReady' or 'Parallel'"),
    }
    let strategy = at(spec, &["updateStrategy"]).unwrap_or(&Value::Null);
    match str_at(strategy, &["type"]) {
        "" => check.required("spec.updateStrategy", ""),
        "RollingUpdate" | "OnDelete" => {}
        _ => check.invalid("spec.updateStrategy", strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    if let Some(rolling) = at(strategy, &["rollingUpdate"]) {
        let field = "spec.updateStrategy.rollingUpdate";
        if str_at(strategy, &["type"]) == "OnDelete" {
            check.invalid(field, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
        } else {
            check.non_negative(rolling, "partition", field);
            int_or_percent(&mut check, rolling, "maxUnavailable", field, true);
        }
    }
    let retention = at(spec, &["persistentVolumeClaimRetentionPolicy"]).unwrap_or(&Value::Null);
    for key in ["whenDeleted", "whenScaled"] {
        check.need_one_of(retention, key, "spec.persistentVolumeClaimRetentionPolicy", &["Retain", "Delete"]);
    }
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        check.non_negative(spec, key, "spec");
    }
    if let Some(ordinals) = at(spec, &["ordinals"]) {
        check.non_negative(ordinals, "start", "spec.ordinals");
    }
    for (i, claim) in list_at(spec, &["volumeClaimTemplates"]).iter().enumerate() {
        super::storage::validate_claim_spec(&mut check, claim, &format!("spec.volumeClaimTemplates[{i}].spec"));
    }
    let template_with_claims = with_claim_volumes(o);
    validate_selector_and_template(&mut check, &template_with_claims, true);
    check.errors
}

/// The object with a volume for each claim template, as its pods will have: mounts may name them.
fn with_claim_volumes(o: &Value) -> Value {
    let mut o = o.clone();
    let names: Vec<String> =
        list_at(&o, &["spec", "volumeClaimTemplates"]).iter().map(|c| text(c, &["metadata", "name"])).collect();
    if let Some(spec) = object_mut(&mut o, &["spec", "template", "spec"]) {
        let mut volumes = list_at(spec, &["volumes"]).to_vec();
        for name in names {
            volumes.retain(|v| str_at(v, &["name"]) != name);
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
        spec["volumes"] = Value::Array(volumes);
    }
    o
}

const STATEFUL_SET_MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

fn update_stateful_set(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate_stateful_set(new) };
    let (Some(mut spec), Some(old_spec)) = (at(new, &["spec"]).cloned(), at(old, &["spec"])) else {
        return check.errors;
    };
    for key in STATEFUL_SET_MUTABLE {
        carry(&mut spec, old_spec, key);
    }
    if !semantic_eq(Some(&spec), Some(old_spec)) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        check.forbidden("spec", detail);
    }
    check.errors
}
