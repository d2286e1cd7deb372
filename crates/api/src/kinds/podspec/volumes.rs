//! Rules of volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{EnvOrFile, validate_field_ref, validate_relative_path, validate_resource_ref};
use crate::json::{at, list_at, map_at, str_at};
use crate::kinds::check::Check;
use crate::kinds::storage::validate_claim_spec;
use crate::meta::{validate_annotations, validate_labels};
use crate::names;

/// Checks all volumes of a spec.
pub(super) fn validate_volumes(check: &mut Check, spec: &Value, field: &str) {
    let mut seen = BTreeSet::new();
    for (i, volume) in list_at(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{i}]");
        let name = str_at(volume, &["name"]);
        if check.need_str(volume, "name", &field) {
            check.syntax(&format!("{field}.name"), name, names::dns1123_label(name));
            if !seen.insert(name) {
                check.duplicate(format!("{field}.name"), name);
            }
        }
        let Some(map) = volume.as_object() else { continue };
        let sources: Vec<&str> =
            map.iter().filter(|(k, v)| *k != "name" && !v.is_null()).map(|(k, _)| k.as_str()).collect();
        let Some((first, others)) = sources.split_first() else {
            check.required(field, "must specify a volume type");
            continue;
        };
        for other in others {
            check.forbidden(format!("{field}.{other}"), "may not specify more than 1 volume type");
        }
        validate_source(check, first, &volume[*first], &format!("{field}.{first}"));
    }
}

fn validate_source(check: &mut Check, kind: &str, source: &Value, field: &str) {
    match kind {
        "emptyDir" => {
            if let Some(limit) = at(source, &["sizeLimit"]) {
                check.quantity(limit, &format!("{field}.sizeLimit"));
            }
        }
        "hostPath" => validate_host_path(check, source, field),
        "secret" => {
            check.need_str(source, "secretName", field);
            validate_items(check, source, field);
        }
        "configMap" => {
            check.need_str(source, "name", field);
            validate_items(check, source, field);
        }
        "downwardAPI" => {
            validate_mode(check, source, "defaultMode", field);
            validate_downward(check, source, field);
        }
        "projected" => validate_projected(check, source, field),
        "persistentVolumeClaim" => {
            check.need_str(source, "claimName", field);
        }
        "ephemeral" => validate_claim_template(check, source, &format!("{field}.volumeClaimTemplate")),
        "image" => {
            check.need_str(source, "reference", field);
            check.one_of(source, "pullPolicy", field, &["Always", "IfNotPresent", "Never"]);
        }
        "nfs" => validate_nfs(check, source, field),
        "csi" => {
            check.need_str(source, "driver", field);
        }
        _ => {}
    }
}

/// Checks what the claim of a generic ephemeral volume is made of (KEP-1698).
fn validate_claim_template(check: &mut Check, source: &Value, field: &str) {
    let Some(template) = at(source, &["volumeClaimTemplate"]) else {
        check.required(field, "");
        return;
    };
    let meta = format!("{field}.metadata");
    for (key, value) in map_at(template, &["metadata"]).into_iter().flatten() {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("annotations", Value::Object(all)) => {
                check.extend(validate_annotations(all, &format!("{meta}.annotations")))
            }
            ("labels", Value::Object(all)) => check.extend(validate_labels(all, &format!("{meta}.labels"))),
            _ => check.forbidden(format!("{meta}.{key}"), "cannot be set"),
        }
    }
    validate_claim_spec(check, template, &format!("{field}.spec"));
}

/// Checks that no volume of the pod names a claim that is to be made for another of its volumes.
pub(in crate::kinds) fn validate_claims_of_pod(check: &mut Check, spec: &Value, pod: &str, field: &str) {
    let volumes = list_at(spec, &["volumes"]);
    let made: BTreeSet<String> = volumes
        .iter()
        .filter(|v| !pod.is_empty() && at(v, &["ephemeral"]).is_some())
        .map(|v| format!("{pod}-{}", str_at(v, &["name"])))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let claim = str_at(volume, &["persistentVolumeClaim", "claimName"]);
        if made.contains(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            check.invalid(format!("{field}.volumes[{i}].persistentVolumeClaim.claimName"), claim, detail);
        }
    }
}

/// Checks an NFS source, of a pod or a persistent volume.
fn validate_nfs(check: &mut Check, source: &Value, field: &str) {
    check.need_str(source, "server", field);
    let path = str_at(source, &["path"]);
    if path.is_empty() {
        check.required(format!("{field}.path"), "");
    } else if !path.starts_with('/') {
        check.invalid(format!("{field}.path"), path, "must be an absolute path");
    }
}

const HOST_PATH_TYPES: &[&str] =
    &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn validate_host_path(check: &mut Check, source: &Value, field: &str) {
    let path = str_at(source, &["path"]);
    if check.need_str(source, "path", field) && path.split('/').any(|p| p == "..") {
        check.invalid(format!("{field}.path"), path, "must not contain '..'");
    }
    check.one_of(source, "type", field, HOST_PATH_TYPES);
}

fn validate_mode(check: &mut Check, source: &Value, key: &str, field: &str) {
    if let Some(mode) = at(source, &[key]).and_then(Value::as_i64).filter(|m| !(0..=0o777).contains(m)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        check.invalid(format!("{field}.{key}"), mode, detail);
    }
}

fn validate_items(check: &mut Check, source: &Value, field: &str) {
    validate_mode(check, source, "defaultMode", field);
    for (i, item) in list_at(source, &["items"]).iter().enumerate() {
        let field = format!("{field}.items[{i}]");
        check.need_str(item, "key", &field);
        if check.need_str(item, "path", &field) {
            validate_relative_path(check, str_at(item, &["path"]), &format!("{field}.path"));
        }
        validate_mode(check, item, "mode", &field);
    }
}

fn validate_downward(check: &mut Check, source: &Value, field: &str) {
    for (i, item) in list_at(source, &["items"]).iter().enumerate() {
        let field = format!("{field}.items[{i}]");
        if check.need_str(item, "path", &field) {
            validate_relative_path(check, str_at(item, &["path"]), &format!("{field}.path"));
        }
        match (at(item, &["fieldRef"]), at(item, &["resourceFieldRef"])) {
            (Some(_), Some(_)) => {
                check.invalid(
                    field.clone(),
                    item.clone(),
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
            (Some(r), None) => validate_field_ref(check, r, &format!("{field}.fieldRef"), EnvOrFile::File),
            (None, Some(r)) => {
                let at = format!("{field}.resourceFieldRef");
                check.need_str(r, "containerName", &at);
                validate_resource_ref(check, r, &at);
            }
            (None, None) => check.required(field.clone(), "one of fieldRef and resourceFieldRef is required"),
        }
        validate_mode(check, item, "mode", &field);
    }
}

fn validate_projected(check: &mut Check, source: &Value, field: &str) {
    validate_mode(check, source, "defaultMode", field);
    for (i, item) in list_at(source, &["sources"]).iter().enumerate() {
        let field = format!("{field}.sources[{i}]");
        let Some(map) = map_at(item, &[]) else { continue };
        let set: Vec<&str> = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
        for other in set.iter().skip(1) {
            check.forbidden(format!("{field}.{other}"), "may not specify more than 1 volume type");
        }
        let Some(kind) = set.first() else { continue };
        let at = format!("{field}.{kind}");
        let value = &item[*kind];
        match *kind {
            "secret" | "configMap" => {
                check.need_str(value, "name", &at);
                validate_items(check, value, &at);
            }
            "downwardAPI" => validate_downward(check, value, &at),
            "serviceAccountToken" => validate_token(check, value, &at),
            "clusterTrustBundle" => {
                check.need_str(value, "path", &at);
            }
            _ => {}
        }
    }
}

fn validate_token(check: &mut Check, value: &Value, field: &str) {
    let seconds = at(value, &["expirationSeconds"]).and_then(Value::as_i64).unwrap_or(3600);
    if seconds < 600 {
        check.invalid(format!("{field}.expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        check.invalid(
            format!("{field}.expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if check.need_str(value, "path", field) {
        validate_relative_path(check, str_at(value, &["path"]), &format!("{field}.path"));
    }
}
