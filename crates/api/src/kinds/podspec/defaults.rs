//! Defaults of pod specs.

use serde_json::{Value, json};

use crate::json::{drop_key, ensure_object, is_unset, list_mut, object_mut, set_default, set_default_nonzero};
use crate::kinds::resources::{canonicalize, canonicalize_list, default_requirements, requests_from_limits};

/// 0644: mode of projected files.
const FILE_MODE: i64 = 0o644;
/// Lifetime of a projected service-account token.
const TOKEN_SECONDS: i64 = 3600;

/// Defaults of `{metadata, spec}` under `key`.
pub(in crate::kinds) fn default_template(owner: &mut Value, key: &str) {
    if let Some(template) = object_mut(owner, &[key]) {
        ensure_object(template, "metadata");
        default_spec(ensure_object(template, "spec"));
    }
}

/// Defaults of a pod spec wherever it stands.
pub(in crate::kinds) fn default_spec(spec: &mut Value) {
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "restartPolicy", "Always");
    if spec.get("securityContext").is_none_or(Value::is_null) {
        spec["securityContext"] = json!({});
    }
    if is_unset(spec, "terminationGracePeriodSeconds") {
        spec["terminationGracePeriodSeconds"] = 30.into();
    }
    set_default(spec, "schedulerName", "default-scheduler");
    sync_service_account(spec);
    canonicalize_list(spec, "overhead", true);
    default_requirements(spec);
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list_mut(spec, &[key]) {
            default_container(container);
        }
    }
    for volume in list_mut(spec, &["volumes"]) {
        default_volume(volume);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept equal.
fn sync_service_account(spec: &mut Value) {
    if is_unset(spec, "serviceAccountName") && !is_unset(spec, "serviceAccount") {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
    if !is_unset(spec, "serviceAccountName") {
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    } else {
        drop_key(spec, "serviceAccount");
    }
}

/// Defaults that Kubernetes applies to pods but not to templates.
pub(in crate::kinds) fn default_pod_level(spec: &mut Value) {
    if is_unset(spec, "enableServiceLinks") {
        spec["enableServiceLinks"] = true.into();
    }
    let host_network = crate::json::bool_at(spec, &["hostNetwork"]);
    for key in ["initContainers", "containers"] {
        for container in list_mut(spec, &[key]) {
            requests_from_limits(container);
            if host_network {
                for port in list_mut(container, &["ports"]) {
                    if let Some(number) = port.get("containerPort").cloned() {
                        set_default_nonzero(port, "hostPort", number.as_i64().unwrap_or(0));
                    }
                }
            }
        }
    }
    requests_from_limits(spec);
}

/// `Always` for the tag `latest` (also when implied), else `IfNotPresent`.
fn image_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    let policy = image_pull_policy(crate::json::str_at(container, &["image"]));
    set_default(container, "imagePullPolicy", policy);
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    ensure_object(container, "resources");
    default_requirements(container);
    for port in list_mut(container, &["ports"]) {
        set_default(port, "protocol", "TCP");
    }
    for env in list_mut(container, &["env"]) {
        default_field_refs(env.get_mut("valueFrom"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object_mut(container, &[probe]) {
            set_default_nonzero(probe, "timeoutSeconds", 1);
            set_default_nonzero(probe, "periodSeconds", 10);
            set_default_nonzero(probe, "successThreshold", 1);
            set_default_nonzero(probe, "failureThreshold", 3);
            default_handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = object_mut(container, &["lifecycle", hook]) {
            default_handler(handler);
        }
    }
}

fn default_handler(handler: &mut Value) {
    if let Some(http) = object_mut(handler, &["httpGet"]) {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
    if let Some(grpc) = object_mut(handler, &["grpc"])
        && grpc.get("service").is_none_or(Value::is_null)
    {
        grpc["service"] = "".into();
    }
}

fn default_field_refs(source: Option<&mut Value>) {
    let Some(source) = source else { return };
    if let Some(field) = object_mut(source, &["fieldRef"]) {
        set_default(field, "apiVersion", "v1");
    }
    if let Some(resource) = object_mut(source, &["resourceFieldRef"]) {
        set_default(resource, "divisor", "0");
        canonicalize(&mut resource["divisor"], false);
    }
}

fn default_volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if !map.iter().any(|(k, v)| k != "name" && !v.is_null()) {
        map.insert("emptyDir".to_owned(), json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object_mut(volume, &[kind])
            && is_unset(source, "defaultMode")
        {
            source["defaultMode"] = FILE_MODE.into();
        }
    }
    for item in list_mut(volume, &["downwardAPI", "items"]) {
        default_field_refs(Some(item));
    }
    for source in list_mut(volume, &["projected", "sources"]) {
        for item in list_mut(source, &["downwardAPI", "items"]) {
            default_field_refs(Some(item));
        }
        if let Some(token) = object_mut(source, &["serviceAccountToken"])
            && is_unset(token, "expirationSeconds")
        {
            token["expirationSeconds"] = TOKEN_SECONDS.into();
        }
    }
    if let Some(empty_dir) = object_mut(volume, &["emptyDir"])
        && let Some(limit) = empty_dir.get_mut("sizeLimit")
    {
        canonicalize(limit, false);
    }
    if let Some(spec) = object_mut(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        set_default(spec, "volumeMode", "Filesystem");
        default_requirements(spec);
    }
    if let Some(image) = object_mut(volume, &["image"]) {
        let policy = image_pull_policy(crate::json::str_at(image, &["reference"]));
        set_default(image, "pullPolicy", policy);
    }
    default_pv_source(volume);
}

/// Defaults of volume sources that persistent volumes share.
pub(in crate::kinds) fn default_pv_source(volume: &mut Value) {
    if let Some(host_path) = object_mut(volume, &["hostPath"])
        && host_path.get("type").is_none_or(Value::is_null)
    {
        host_path["type"] = "".into();
    }
    if let Some(iscsi) = object_mut(volume, &["iscsi"]) {
        set_default(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = object_mut(volume, &["rbd"]) {
        set_default(rbd, "pool", "rbd");
        set_default(rbd, "user", "admin");
        set_default(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(azure) = object_mut(volume, &["azureDisk"]) {
        set_default(azure, "cachingMode", "ReadWrite");
        set_default(azure, "kind", "Shared");
        set_default(azure, "fsType", "ext4");
        set_default(azure, "readOnly", false);
    }
    if let Some(scale_io) = object_mut(volume, &["scaleIO"]) {
        set_default(scale_io, "storageMode", "ThinProvisioned");
        set_default(scale_io, "fsType", "xfs");
    }
}
