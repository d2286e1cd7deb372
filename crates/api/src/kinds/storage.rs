//! Persistent volumes, their claims, and storage classes.

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, join};
use super::podspec;
use super::resources::{canonicalize_list, default_requirements};
use super::warnings;
use crate::json::{at, carry, drop_key, ensure_object, list_at, map_at, object_mut, semantic_eq, set_default, str_at};
use crate::names;
use crate::quantity::Quantity;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

pub(super) const CLAIM: Hooks = Hooks {
    default: default_claim,
    prepare_create: |o| o["status"] = json!({"phase": "Pending"}),
    validate: |o| {
        let mut check = Check::default();
        validate_claim_spec(&mut check, o, "spec");
        check.errors
    },
    validate_update: update_claim,
    warnings: |o| {
        let mut out = warnings::annotations_of(o, &DEPRECATED_ANNOTATIONS[..1]);
        warnings::claim_spec(&mut out, at(o, &["spec"]).unwrap_or(&Value::Null), "spec");
        out
    },
    ..Hooks::NONE
};

pub(super) const VOLUME: Hooks = Hooks {
    default: default_volume,
    prepare_create: |o| o["status"] = json!({"phase": "Pending"}),
    validate: validate_volume,
    validate_update: update_volume,
    warnings: volume_warnings,
    ..Hooks::NONE
};

pub(super) const CLASS: Hooks = Hooks {
    default: |o| {
        set_default(o, "reclaimPolicy", "Delete");
        set_default(o, "volumeBindingMode", "Immediate");
    },
    validate: validate_class,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_class(new) };
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if !semantic_eq(at(new, &[key]), at(old, &[key])) {
                check.forbidden(key, format!("updates to {key} are forbidden."));
            }
        }
        check.immutable(new, old, &["volumeBindingMode"]);
        check.errors
    },
    warnings: |o| {
        let mut out = Vec::new();
        for (i, term) in list_at(o, &["allowedTopologies"]).iter().enumerate() {
            for (j, e) in list_at(term, &["matchLabelExpressions"]).iter().enumerate() {
                if let Some(advice) = warnings::deprecated_node_label(str_at(e, &["key"])) {
                    out.push(format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key: {advice}"));
                }
            }
        }
        out
    },
    ..Hooks::NONE
};

/// Annotations from before there were fields.
const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
    ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
];

fn volume_warnings(o: &Value) -> Vec<String> {
    let mut out = warnings::annotations_of(o, DEPRECATED_ANNOTATIONS);
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    if str_at(spec, &["persistentVolumeReclaimPolicy"]) == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    for (i, term) in list_at(spec, &["nodeAffinity", "required", "nodeSelectorTerms"]).iter().enumerate() {
        warnings::node_term(&mut out, term, &format!("spec.nodeAffinity.required.nodeSelectorTerms[{i}]"));
    }
    for (kind, advice) in warnings::DEPRECATED_VOLUMES {
        if at(spec, &[kind]).is_some() {
            out.push(format!("spec.{kind}: {advice}"));
        }
    }
    out
}

pub(super) fn default_claim(o: &mut Value) {
    ensure_object(o, "metadata");
    let spec = ensure_object(o, "spec");
    set_default(spec, "volumeMode", "Filesystem");
    ensure_object(spec, "resources");
    default_requirements(spec);
    sync_data_source(spec);
}

/// `dataSource` and `dataSourceRef` name the same thing when only one is given.
fn sync_data_source(spec: &mut Value) {
    let namespaced = at(spec, &["dataSourceRef", "namespace"]).is_some();
    match (at(spec, &["dataSource"]).cloned(), at(spec, &["dataSourceRef"]).cloned()) {
        (Some(source), None) => spec["dataSourceRef"] = source,
        (None, Some(reference)) if !namespaced => spec["dataSource"] = reference,
        _ => {}
    }
}

fn validate_modes(check: &mut Check, spec: &Value, field: &str) {
    let modes = list_at(spec, &["accessModes"]);
    let field = join(field, "accessModes");
    if modes.is_empty() {
        check.required(field, "at least 1 access mode is required");
        return;
    }
    for mode in modes {
        let mode = mode.as_str().unwrap_or("");
        if !ACCESS_MODES.contains(&mode) {
            check.extend([FieldError::not_supported(field.clone(), mode, ACCESS_MODES)]);
        }
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        check.forbidden(field, "may not use ReadWriteOncePod with other access modes");
    }
}

pub(super) fn validate_claim_spec(check: &mut Check, claim: &Value, field: &str) {
    let spec = at(claim, &["spec"]).unwrap_or(&Value::Null);
    validate_modes(check, spec, field);
    if let Some(selector) = at(spec, &["selector"]) {
        check.extend(validate_label_selector(selector, &join(field, "selector")));
    }
    match at(spec, &["resources", "requests", "storage"]) {
        None => check.required(format!("{field}.resources[storage]"), ""),
        Some(size) => {
            let at = format!("{field}.resources[storage]");
            if let Some(q) = check.quantity(size, &at)
                && q.signum() == 0
            {
                check.invalid(at, q.to_string(), "must be greater than zero");
            }
        }
    }
    let class = str_at(spec, &["storageClassName"]);
    if !class.is_empty() {
        check.syntax(&join(field, "storageClassName"), class, names::dns1123_subdomain(class));
    }
    check.one_of(spec, "volumeMode", field, VOLUME_MODES);
    validate_data_sources(check, spec, field);
}

/// What the volume is to begin with, under its old name and its new one.
fn validate_data_sources(check: &mut Check, spec: &Value, field: &str) {
    for key in ["dataSource", "dataSourceRef"] {
        let Some(source) = at(spec, &[key]) else { continue };
        let field = join(field, key);
        check.need_str(source, "name", &field);
        check.need_str(source, "kind", &field);
        let (group, kind) = (str_at(source, &["apiGroup"]), str_at(source, &["kind"]));
        if !group.is_empty() {
            check.syntax(&join(&field, "apiGroup"), group, names::dns1123_subdomain(group));
        } else if kind != "PersistentVolumeClaim" {
            check.invalid(
                field.as_str(),
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        let namespace = str_at(source, &["namespace"]);
        if !namespace.is_empty() {
            check.syntax(&join(&field, "namespace"), namespace, names::dns1123_label(namespace));
        }
    }
    let (Some(source), Some(reference)) = (at(spec, &["dataSource"]), at(spec, &["dataSourceRef"])) else { return };
    let same = ["apiGroup", "kind", "name"].iter().all(|key| str_at(source, &[key]) == str_at(reference, &[key]));
    if !str_at(reference, &["namespace"]).is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        check.invalid(field, join(field, "dataSource"), detail);
    } else if !same {
        check.invalid(field, join(field, "dataSource"), "must match dataSourceRef");
    }
}

fn update_claim(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    validate_claim_spec(&mut check, new, "spec");
    let (Some(mut spec), Some(old_spec)) = (at(new, &["spec"]).cloned(), at(old, &["spec"])) else {
        return check.errors;
    };
    let bound = str_at(old, &["status", "phase"]) == "Bound";
    // The binder sets the volume once; afterwards it is part of the claim.
    if str_at(old_spec, &["volumeName"]).is_empty() {
        carry(&mut spec, old_spec, "volumeName");
    }
    if at(old_spec, &["storageClassName"]).is_none() {
        // Retroactive default class.
        carry(&mut spec, old_spec, "storageClassName");
    }
    if bound {
        carry(&mut spec, old_spec, "volumeAttributesClassName");
        if let (Some(n), Some(o)) = (object_mut(&mut spec, &["resources"]), old_spec.get("resources")) {
            carry(n, o, "requests");
        }
        let size = |o: &Value| at(o, &["resources", "requests", "storage"]).and_then(|v| Quantity::from_json(v).ok());
        let capacity = at(old, &["status", "capacity", "storage"]).and_then(|v| Quantity::from_json(v).ok());
        let wanted = at(new, &["spec"]).and_then(size);
        if wanted < size(old_spec) && wanted < capacity {
            check.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
        }
    }
    if !semantic_eq(Some(&spec), Some(old_spec)) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        check.forbidden("spec", detail);
    }
    check.errors
}

fn default_volume(o: &mut Value) {
    let spec = ensure_object(o, "spec");
    set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    set_default(spec, "volumeMode", "Filesystem");
    canonicalize_list(spec, "capacity", true);
    podspec::default_pv_source(spec);
}

/// Spec fields of a volume that are not its source.
const VOLUME_FIELDS: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn validate_volume(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_modes(&mut check, spec, "spec");
    match map_at(spec, &["capacity"]).filter(|c| !c.is_empty()) {
        None => check.required("spec.capacity", ""),
        Some(capacity) => {
            if capacity.len() != 1 || !capacity.contains_key("storage") {
                let value = Value::Object(capacity.clone());
                check.extend([FieldError::not_supported("spec.capacity", value, &["storage"])]);
            }
            for (name, value) in capacity {
                let field = format!("spec.capacity[{name}]");
                if let Some(q) = check.quantity(value, &field)
                    && q.signum() == 0
                {
                    check.invalid(field, q.to_string(), "must be greater than zero");
                }
            }
        }
    }
    let sources: Vec<&String> = map_at(spec, &[])
        .map(|m| {
            m.iter().filter(|(k, v)| !v.is_null() && !VOLUME_FIELDS.contains(&k.as_str())).map(|(k, _)| k).collect()
        })
        .unwrap_or_default();
    match sources.split_first() {
        None => check.required("spec", "must specify a volume type"),
        Some((first, others)) => {
            for other in others {
                check.forbidden(format!("spec.{other}"), "may not specify more than 1 volume type");
            }
            validate_volume_source(&mut check, first, spec);
        }
    }
    check.one_of(spec, "persistentVolumeReclaimPolicy", "spec", &["Delete", "Recycle", "Retain"]);
    check.one_of(spec, "volumeMode", "spec", VOLUME_MODES);
    let class = str_at(spec, &["storageClassName"]);
    if !class.is_empty() {
        check.syntax("spec.storageClassName", class, names::dns1123_subdomain(class));
    }
    if let Some(required) = at(spec, &["nodeAffinity", "required"]) {
        podspec::validate_node_selector(&mut check, required, "spec.nodeAffinity.required");
    }
    check.errors
}

fn validate_volume_source(check: &mut Check, kind: &str, spec: &Value) {
    let source = &spec[kind];
    let field = format!("spec.{kind}");
    match kind {
        "local" => {
            check.need_str(source, "path", &field);
            if at(spec, &["nodeAffinity"]).is_none() {
                check.required("spec.nodeAffinity", "Local volume requires node affinity");
            }
        }
        "hostPath" => {
            check.need_str(source, "path", &field);
            let path = str_at(source, &["path"]);
            if path.split('/').any(|p| p == "..") {
                check.invalid(format!("{field}.path"), path, "must not contain '..'");
            }
        }
        "nfs" => {
            check.need_str(source, "server", &field);
            check.need_str(source, "path", &field);
        }
        "csi" => {
            check.need_str(source, "driver", &field);
            check.need_str(source, "volumeHandle", &field);
        }
        _ => {}
    }
}

fn update_volume(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut check = Check { errors: validate_volume(new) };
    let source = |o: &Value| {
        let mut spec = at(o, &["spec"]).cloned().unwrap_or(Value::Null);
        for key in VOLUME_FIELDS {
            drop_key(&mut spec, key);
        }
        spec
    };
    if !semantic_eq(Some(&source(new)), Some(&source(old))) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        check.forbidden("spec.persistentvolumesource", detail);
    }
    check.immutable(new, old, &["spec", "volumeMode"]);
    if at(old, &["spec", "nodeAffinity"]).is_some() {
        check.immutable(new, old, &["spec", "nodeAffinity"]);
    }
    check.errors
}

fn validate_class(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let provisioner = str_at(o, &["provisioner"]);
    if check.need_str(o, "provisioner", "") {
        check.syntax("provisioner", provisioner, names::qualified_name(&provisioner.to_lowercase()));
    }
    check.one_of(o, "reclaimPolicy", "", &["Delete", "Retain"]);
    check.need_one_of(o, "volumeBindingMode", "", &["Immediate", "WaitForFirstConsumer"]);
    for key in map_at(o, &["parameters"]).into_iter().flat_map(|m| m.keys()) {
        if key.is_empty() {
            check.invalid("parameters", key.as_str(), "field must be provided");
        }
    }
    check.errors
}
