//! Rules of containers: names, images, ports, environment, mounts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::probes::{validate_lifecycle, validate_probes};
use super::security::validate_container_context;
use crate::json::{at, bool_at, int_at, list_at, str_at};
use crate::kinds::check::{Check, PORT_RANGE};
use crate::kinds::resources::validate_requirements;
use crate::names;
use crate::status::FieldError;

/// What the container rules need to know of the pod.
pub(super) struct PodContext<'a> {
    pub(super) volumes: BTreeSet<&'a str>,
    /// Volumes that are block devices when mounted: claims may be either, so these are claim and ephemeral volumes.
    pub(super) claims: BTreeSet<&'a str>,
    pub(super) host_network: bool,
    /// Its containers may be started again.
    pub(super) restarts: bool,
}

impl<'a> PodContext<'a> {
    /// What a spec says of itself.
    pub(super) fn of(spec: &'a Value) -> Self {
        let volumes = list_at(spec, &["volumes"]);
        let is_claim = |v: &&Value| at(v, &["persistentVolumeClaim"]).is_some() || at(v, &["ephemeral"]).is_some();
        PodContext {
            volumes: volumes.iter().map(|v| str_at(v, &["name"])).collect(),
            claims: volumes.iter().filter(is_claim).map(|v| str_at(v, &["name"])).collect(),
            host_network: bool_at(spec, &["hostNetwork"]),
            restarts: str_at(spec, &["restartPolicy"]) != "Never",
        }
    }
}

/// Checks all containers of a spec.
pub(super) fn validate_containers(check: &mut Check, spec: &Value, field: &str, context: &PodContext<'_>) {
    let mut names = BTreeSet::new();
    if list_at(spec, &["containers"]).is_empty() {
        check.required(format!("{field}.containers"), "");
    }
    for (list, init) in [("containers", false), ("initContainers", true)] {
        let mut host_ports = BTreeSet::new();
        for (i, container) in list_at(spec, &[list]).iter().enumerate() {
            let field = format!("{field}.{list}[{i}]");
            validate_container(check, container, &field, context);
            super::restarts::validate_restarts(check, container, &field);
            if init {
                validate_init(check, container, &field);
            } else {
                validate_lifecycle(check, container, &field);
                validate_probes(check, container, &field);
            }
            let name = str_at(container, &["name"]);
            if !name.is_empty() && !names.insert(name) {
                check.duplicate(format!("{field}.name"), name);
            }
            collect_host_ports(check, container, &field, &mut host_ports);
        }
    }
}

fn validate_init(check: &mut Check, container: &Value, field: &str) {
    if str_at(container, &["restartPolicy"]) == "Always" {
        validate_lifecycle(check, container, field);
        validate_probes(check, container, field);
        return;
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if at(container, &[key]).is_some() {
            let detail = "may not be set for init containers without restartPolicy=Always";
            check.forbidden(format!("{field}.{key}"), detail);
        }
    }
}

pub(super) fn validate_container(check: &mut Check, container: &Value, field: &str, context: &PodContext<'_>) {
    if check.need_str(container, "name", field) {
        let name = str_at(container, &["name"]);
        check.syntax(&format!("{field}.name"), name, names::dns1123_label(name));
    }
    validate_image(check, container, field);
    check.one_of(container, "terminationMessagePolicy", field, &["File", "FallbackToLogsOnError"]);
    check.one_of(container, "imagePullPolicy", field, &["Always", "IfNotPresent", "Never"]);
    validate_ports(check, container, field, context.host_network);
    validate_env(check, container, field);
    validate_env_from(check, container, field);
    validate_mounts(check, container, field, context);
    validate_devices(check, container, field, context);
    validate_requirements(check, container, field);
    validate_resize_policy(check, container, field, context.restarts);
    validate_container_context(check, container, field);
}

fn validate_resize_policy(check: &mut Check, container: &Value, field: &str, restarts: bool) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list_at(container, &["resizePolicy"]).iter().enumerate() {
        let at = format!("{field}.resizePolicy");
        let resource = str_at(policy, &["resourceName"]);
        if !seen.insert(resource) {
            check.duplicate(format!("{at}[{i}]"), resource);
        }
        for (key, known) in
            [("resourceName", &["cpu", "memory"][..]), ("restartPolicy", &["NotRequired", "RestartContainer"])]
        {
            match str_at(policy, &[key]) {
                "" => check.required(at.clone(), ""),
                value if !known.contains(&value) => check.errors.push(FieldError::not_supported(&at, value, known)),
                _ => {}
            }
        }
        let choice = str_at(policy, &["restartPolicy"]);
        if !restarts && choice != "NotRequired" {
            check.invalid(at, choice, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

fn validate_image(check: &mut Check, container: &Value, field: &str) {
    let image = str_at(container, &["image"]);
    if image.is_empty() {
        check.required(format!("{field}.image"), "");
    } else if image.trim() != image {
        check.invalid(format!("{field}.image"), image, "must not have leading or trailing whitespace");
    }
}

fn validate_ports(check: &mut Check, container: &Value, field: &str, host_network: bool) {
    let mut seen = BTreeSet::new();
    for (i, port) in list_at(container, &["ports"]).iter().enumerate() {
        let field = format!("{field}.ports[{i}]");
        let name = str_at(port, &["name"]);
        if !name.is_empty() {
            let problems = names::port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                check.duplicate(format!("{field}.name"), name);
            }
            check.syntax(&format!("{field}.name"), name, problems);
        }
        let number = int_at(port, &["containerPort"]).unwrap_or(0);
        if number == 0 {
            check.required(format!("{field}.containerPort"), "");
        } else if !(1..=65535).contains(&number) {
            check.invalid(format!("{field}.containerPort"), number, PORT_RANGE);
        }
        let host = int_at(port, &["hostPort"]).unwrap_or(0);
        if host != 0 && !(1..=65535).contains(&host) {
            check.invalid(format!("{field}.hostPort"), host, PORT_RANGE);
        }
        if host_network && host != 0 && host != number {
            check.invalid(format!("{field}.containerPort"), number, "must match `hostPort` when `hostNetwork` is true");
        }
        check.need_one_of(port, "protocol", &field, &["SCTP", "TCP", "UDP"]);
        let ip = str_at(port, &["hostIP"]);
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            check.invalid(format!("{field}.hostIP"), ip, super::validate::BAD_IP);
        }
    }
}

fn collect_host_ports(check: &mut Check, container: &Value, field: &str, seen: &mut BTreeSet<String>) {
    for (i, port) in list_at(container, &["ports"]).iter().enumerate() {
        let Some(number) = int_at(port, &["hostPort"]).filter(|n| *n != 0) else { continue };
        let key = format!("{}/{}/{number}", str_at(port, &["protocol"]), str_at(port, &["hostIP"]));
        if !seen.insert(key.clone()) {
            check.duplicate(format!("{field}.ports[{i}].hostPort"), key);
        }
    }
}

fn validate_env(check: &mut Check, container: &Value, field: &str) {
    for (i, env) in list_at(container, &["env"]).iter().enumerate() {
        let field = format!("{field}.env[{i}]");
        if check.need_str(env, "name", &field) {
            let name = str_at(env, &["name"]);
            check.syntax(&format!("{field}.name"), name, names::env_var_name(name));
        }
        if let Some(source) = at(env, &["valueFrom"]) {
            validate_env_source(check, source, &format!("{field}.valueFrom"), str_at(env, &["value"]));
        }
    }
}

fn validate_env_source(check: &mut Check, source: &Value, field: &str, value: &str) {
    let kinds = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let set: Vec<&str> = kinds.into_iter().filter(|k| at(source, &[k]).is_some()).collect();
    for kind in &set {
        let at = format!("{field}.{kind}");
        let reference = &source[*kind];
        match *kind {
            "fieldRef" => validate_field_ref(check, reference, &at, EnvOrFile::Env),
            "resourceFieldRef" => validate_resource_ref(check, reference, &at),
            _ => {
                if kind != &"fileKeyRef" {
                    check.need_str(reference, "name", &at);
                }
                check.need_str(reference, "key", &at);
                let key = str_at(reference, &["key"]);
                if !key.is_empty() && *kind != "fileKeyRef" {
                    check.syntax(&format!("{at}.key"), key, names::config_map_key(key));
                }
            }
        }
    }
    let none = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
    match set.len() {
        0 => check.invalid(field, "", none),
        _ if !value.is_empty() => check.invalid(field, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => check.invalid(field, "", "may not have more than one field specified at a time"),
    }
}

/// Where a downward-API reference stands; a few fields exist only in one of the places.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EnvOrFile {
    Env,
    File,
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

pub(super) fn validate_field_ref(check: &mut Check, reference: &Value, field: &str, place: EnvOrFile) {
    let path = str_at(reference, &["fieldPath"]);
    if path.is_empty() {
        check.required(format!("{field}.fieldPath"), "");
        return;
    }
    if let Some((base, rest)) = path.split_once("['") {
        let key = rest.strip_suffix("']");
        let known = matches!(base, "metadata.annotations" | "metadata.labels");
        match key {
            Some(key) if known => check.syntax(field, key, names::qualified_name(&key.to_lowercase())),
            _ => check.invalid(format!("{field}.fieldPath"), path, "does not support subscript"),
        }
        return;
    }
    let allowed = if place == EnvOrFile::Env { ENV_FIELDS } else { FILE_FIELDS };
    check.one_of(reference, "fieldPath", field, allowed);
}

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn validate_resource_ref(check: &mut Check, reference: &Value, field: &str) {
    let resource = str_at(reference, &["resource"]);
    if resource.is_empty() {
        check.required(format!("{field}.resource"), "");
    } else if !resource.contains("hugepages-") {
        check.one_of(reference, "resource", field, RESOURCE_FIELDS);
    }
    if let Some(divisor) = at(reference, &["divisor"]) {
        check.quantity(divisor, &format!("{field}.divisor"));
    }
}

fn validate_env_from(check: &mut Check, container: &Value, field: &str) {
    for (i, source) in list_at(container, &["envFrom"]).iter().enumerate() {
        let field = format!("{field}.envFrom[{i}]");
        let prefix = str_at(source, &["prefix"]);
        if !prefix.is_empty() {
            check.syntax(&format!("{field}.prefix"), prefix, names::env_var_name(prefix));
        }
        let set: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|k| at(source, &[k]).is_some()).collect();
        for kind in &set {
            check.need_str(&source[*kind], "name", &format!("{field}.{kind}"));
        }
        match set.len() {
            0 => check.invalid(field, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => check.invalid(field, "", "may not have more than one field specified at a time"),
        }
    }
}

fn validate_mounts(check: &mut Check, container: &Value, field: &str, context: &PodContext<'_>) {
    let mut paths = BTreeSet::new();
    for (i, mount) in list_at(container, &["volumeMounts"]).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{i}]");
        let name = str_at(mount, &["name"]);
        if check.need_str(mount, "name", &field) && !context.volumes.contains(name) {
            check.not_found(format!("{field}.name"), name);
        }
        let path = str_at(mount, &["mountPath"]);
        if check.need_str(mount, "mountPath", &field) && !paths.insert(path) {
            check.invalid(format!("{field}.mountPath"), path, "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            validate_relative_path(check, str_at(mount, &[key]), &format!("{field}.{key}"));
        }
        if !str_at(mount, &["subPath"]).is_empty() && !str_at(mount, &["subPathExpr"]).is_empty() {
            let expr = str_at(mount, &["subPathExpr"]);
            check.invalid(format!("{field}.subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive");
        }
        validate_propagation(check, mount, container, &field);
        check.one_of(mount, "recursiveReadOnly", &field, &["Disabled", "Enabled", "IfPossible"]);
        if matches!(str_at(mount, &["recursiveReadOnly"]), "Enabled" | "IfPossible") && !bool_at(mount, &["readOnly"]) {
            check.forbidden(format!("{field}.recursiveReadOnly"), "may only be specified when readOnly is true");
        }
    }
}

fn validate_propagation(check: &mut Check, mount: &Value, container: &Value, field: &str) {
    check.one_of(mount, "mountPropagation", field, &["Bidirectional", "HostToContainer", "None"]);
    let privileged = bool_at(container, &["securityContext", "privileged"]);
    if str_at(mount, &["mountPropagation"]) == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        check.forbidden(format!("{field}.mountPropagation"), detail);
    }
}

/// A path inside a volume: relative and without `..`; empty is fine.
pub(super) fn validate_relative_path(check: &mut Check, path: &str, field: &str) {
    if path.starts_with('/') {
        check.invalid(field, path, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        check.invalid(field, path, "must not contain '..'");
    }
}

fn validate_devices(check: &mut Check, container: &Value, field: &str, context: &PodContext<'_>) {
    for (i, device) in list_at(container, &["volumeDevices"]).iter().enumerate() {
        let field = format!("{field}.volumeDevices[{i}]");
        let name = str_at(device, &["name"]);
        if check.need_str(device, "name", &field) {
            if !context.volumes.contains(name) {
                check.not_found(format!("{field}.name"), name);
            } else if !context.claims.contains(name) {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                check.invalid(format!("{field}.name"), name, detail);
            }
        }
        check.need_str(device, "devicePath", &field);
    }
}
