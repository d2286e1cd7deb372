//! Objects of the Container Storage Interface, and volume attributes classes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Hooks;
use super::check::{Check, join};
use super::resources::canonicalize;
use crate::json::{at, drop_key, ensure_object, int_at, list_at, map_at, semantic_eq, set_default, str_at};
use crate::meta;
use crate::names;
use crate::selectors::validate_label_selector;
use crate::status::FieldError;

const NOT_DRIVEN: &str =
    "this release stores the object for the controllers of a CSI driver and makes or changes none of its own accord";
const TOKENS_IN_SECRETS: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
/// Longest name of a driver.
const MAX_DRIVER: usize = 63;
/// Longest id of a node.
const MAX_NODE_ID: usize = 192;
/// Largest metadata and longest error of an attachment, bytes.
const MAX_ATTACHMENT: usize = 256 * 1024;
const MAX_ERROR: usize = 1024;
/// Shortest life of a token, seconds.
const MIN_TOKEN_S: i64 = 600;

fn not_driven(_: &Value) -> Vec<String> {
    vec![NOT_DRIVEN.to_owned()]
}

/// A driver's name: a domain of at most 63 characters, in any case.
pub(super) fn validate_driver(check: &mut Check, name: &str, field: &str) {
    if name.is_empty() {
        check.required(field, "");
        return;
    }
    if name.len() > MAX_DRIVER {
        check.extend([FieldError::too_long(field, MAX_DRIVER)]);
    }
    check.syntax(field, name, names::dns1123_subdomain(&name.to_lowercase()));
}

pub(super) const DRIVER: Hooks = Hooks {
    default: |o| {
        let spec = ensure_object(o, "spec");
        set_default(spec, "attachRequired", true);
        for key in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_default(spec, key, false);
        }
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list_at(spec, &["volumeLifecycleModes"]).is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    },
    validate: |o| {
        let mut check = Check::default();
        validate_driver_spec(&mut check, at(o, &["spec"]).unwrap_or(&Value::Null));
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        validate_driver_spec(&mut check, at(new, &["spec"]).unwrap_or(&Value::Null));
        check.immutable(new, old, &["spec", "attachRequired"]);
        check.immutable(new, old, &["spec", "volumeLifecycleModes"]);
        check.errors
    },
    // Only a change gives the driver a generation: it is created without one.
    prepare_update: |new, old| meta::bump_generation(new, old, &[&["spec"]]),
    warnings: |o| {
        let mut out = Vec::new();
        let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
        if !list_at(spec, &["tokenRequests"]).is_empty() && at(spec, &["serviceAccountTokenInSecrets"]).is_none() {
            out.push(TOKENS_IN_SECRETS.to_owned());
        }
        out
    },
    ..Hooks::NONE
};

fn validate_driver_spec(check: &mut Check, spec: &Value) {
    check.one_of(spec, "fsGroupPolicy", "spec", &["File", "None", "ReadWriteOnceWithFSType"]);
    for mode in list_at(spec, &["volumeLifecycleModes"]).iter().map(|m| m.as_str().unwrap_or("")) {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            let allowed = &["Persistent", "Ephemeral"];
            check.extend([FieldError::not_supported("spec.volumeLifecycleModes", mode, allowed)]);
        }
    }
    let tokens = list_at(spec, &["tokenRequests"]);
    let mut seen = BTreeSet::new();
    for (i, token) in tokens.iter().enumerate() {
        let field = format!("spec.tokenRequests[{i}]");
        let audience = str_at(token, &["audience"]);
        if !seen.insert(audience) {
            check.duplicate(join(&field, "audience"), audience);
            continue;
        }
        let field = join(&field, "expirationSeconds");
        match int_at(token, &["expirationSeconds"]) {
            Some(s) if s < MIN_TOKEN_S => {
                check.invalid(field, s, "may not specify a duration less than 10 minutes");
            }
            Some(s) if s > 1 << 32 => {
                check.invalid(field, s, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
    if let Some(s) = int_at(spec, &["nodeAllocatableUpdatePeriodSeconds"]).filter(|s| *s < 10) {
        let detail = "must be greater than or equal to 10 seconds";
        check.invalid("spec.nodeAllocatableUpdatePeriodSeconds", s, detail);
    }
    let field = "serviceAccountTokenInSecrets";
    if let Some(set) = at(spec, &[field])
        && tokens.is_empty()
    {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        check.invalid(join("spec", field), set.clone(), detail);
    }
}

pub(super) const NODE: Hooks = Hooks {
    validate: |o| {
        let mut check = Check::default();
        validate_drivers(&mut check, o);
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        validate_drivers(&mut check, new);
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            drop_key(&mut driver, "allocatable");
            driver
        };
        for before in list_at(old, &["spec", "drivers"]) {
            let same = |d: &&Value| str_at(d, &["name"]) == str_at(before, &["name"]);
            if let Some(after) = list_at(new, &["spec", "drivers"]).iter().find(same)
                && !semantic_eq(Some(&fixed(after)), Some(&fixed(before)))
            {
                check.invalid("spec.drivers", after.clone(), super::check::IMMUTABLE);
            }
        }
        check.errors
    },
    ..Hooks::NONE
};

fn validate_drivers(check: &mut Check, o: &Value) {
    let mut seen = BTreeSet::new();
    for (i, driver) in list_at(o, &["spec", "drivers"]).iter().enumerate() {
        let field = format!("spec.drivers[{i}]");
        let name = str_at(driver, &["name"]);
        validate_driver(check, name, &join(&field, "name"));
        if !seen.insert(name) {
            check.duplicate(join(&field, "name"), name);
        }
        let id = str_at(driver, &["nodeID"]);
        if check.need_str(driver, "nodeID", &field) && id.len() > MAX_NODE_ID {
            check.invalid(join(&field, "nodeID"), id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        if let Some(allocatable) = at(driver, &["allocatable"]) {
            check.non_negative(allocatable, "count", &join(&field, "allocatable"));
        }
        let mut keys = BTreeSet::new();
        for key in list_at(driver, &["topologyKeys"]).iter().map(|k| k.as_str().unwrap_or("")) {
            if !keys.insert(key) {
                check.duplicate(field.clone(), key);
            }
            check.syntax(&field, key, names::qualified_name(key));
        }
    }
}

pub(super) const CAPACITY: Hooks = Hooks {
    default: |o| {
        for key in ["capacity", "maximumVolumeSize"] {
            if let Some(value) = o.get_mut(key) {
                canonicalize(value, false);
            }
        }
    },
    validate: |o| {
        let mut check = Check::default();
        validate_capacity(&mut check, o);
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        for key in ["nodeTopology", "storageClassName"] {
            check.immutable(new, old, &[key]);
        }
        check.errors
    },
    ..Hooks::NONE
};

fn validate_capacity(check: &mut Check, o: &Value) {
    if let Some(topology) = at(o, &["nodeTopology"]) {
        check.extend(validate_label_selector(topology, "nodeTopology"));
    }
    let class = str_at(o, &["storageClassName"]);
    check.syntax("storageClassName", class, names::dns1123_subdomain(class));
    if let Some(capacity) = at(o, &["capacity"]) {
        check.quantity(capacity, "capacity");
    }
}

pub(super) const ATTACHMENT: Hooks = Hooks {
    prepare_create: |o| o["status"] = json!({"attached": false}),
    validate: validate_attachment,
    validate_update: |new, old| {
        let mut check = Check { errors: validate_attachment(new) };
        check.immutable(new, old, &["spec"]);
        check.errors
    },
    validate_status_update: |new, _| {
        let mut check = Check::default();
        let status = at(new, &["status"]).unwrap_or(&Value::Null);
        let metadata = map_at(status, &["attachmentMetadata"]).into_iter().flatten();
        let size: usize = metadata.map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
        if size > MAX_ATTACHMENT {
            check.extend([FieldError::too_long("status.attachmentMetadata", MAX_ATTACHMENT)]);
        }
        for key in ["attachError", "detachError"] {
            if str_at(status, &[key, "message"]).len() > MAX_ERROR {
                check.extend([FieldError::too_long(format!("status.{key}.message"), MAX_ERROR)]);
            }
        }
        check.errors
    },
    ..Hooks::NONE
};

fn validate_attachment(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    validate_driver(&mut check, str_at(spec, &["attacher"]), "spec.attacher");
    let field = "spec.source";
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (at(spec, &["source", "inlineVolumeSpec"]), at(spec, &["source", "persistentVolumeName"])) {
        (None, None) => check.required(field, detail),
        (Some(_), Some(_)) => check.forbidden(field, detail),
        (None, Some(name)) => {
            let name = name.as_str().unwrap_or("");
            let field = join(field, "persistentVolumeName");
            if name.is_empty() {
                check.required(field, "must specify non empty persistentVolumeName");
            } else {
                check.syntax(&field, name, names::dns1123_subdomain(name));
            }
        }
        (Some(_), None) => {}
    }
    let node = str_at(spec, &["nodeName"]);
    check.syntax("spec.nodeName", node, names::dns1123_subdomain(node));
    check.errors
}

pub(super) const ATTRIBUTES_CLASS: Hooks = Hooks {
    validate: |o| {
        let mut check = Check::default();
        validate_attributes(&mut check, o);
        check.errors
    },
    validate_update: |new, old| {
        let mut check = Check::default();
        for key in ["driverName", "parameters"] {
            if !semantic_eq(at(new, &[key]), at(old, &[key])) {
                check.forbidden(key, format!("updates to {key} are forbidden."));
            }
        }
        validate_attributes(&mut check, new);
        check.errors
    },
    warnings: not_driven,
    ..Hooks::NONE
};

fn validate_attributes(check: &mut Check, o: &Value) {
    /// Bounds of the parameters: number, and bytes together.
    const MAX_COUNT: usize = 512;
    const MAX_BYTES: usize = 256 * 1024;
    if check.need_str(o, "driverName", "") {
        let name = str_at(o, &["driverName"]);
        check.syntax("driverName", name, names::qualified_name(&name.to_lowercase()));
    }
    let Some(parameters) = map_at(o, &["parameters"]).filter(|p| !p.is_empty()) else {
        check.required("parameters", "must contain at least one key/value pair");
        return;
    };
    if parameters.len() > MAX_COUNT {
        check.extend([FieldError::too_long("parameters", MAX_COUNT)]);
        return;
    }
    if parameters.contains_key("") {
        check.invalid("parameters", "", "field can not be empty.");
    }
    let size: usize = parameters.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size > MAX_BYTES {
        check.extend([FieldError::too_long("parameters", MAX_BYTES)]);
    }
}
