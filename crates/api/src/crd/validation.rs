//! What a CustomResourceDefinition must look like.

use std::collections::HashSet;

use serde_json::Value;

use super::jsonpath::Path;
use super::structural;
use crate::json::{bool_at, list_at, map_at, str_at};
use crate::names;
use crate::status::FieldError;

/// A PEM block of a certificate begins with it.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];

/// Rules of a definition by itself.
pub(super) fn definition(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(definition, &mut errors);
    check_rules(definition, &Value::Null, &mut errors);
    errors
}

fn check(definition: &Value, errors: &mut Vec<FieldError>) {
    let spec = &definition["spec"];
    let (group, plural) = (str_at(spec, &["group"]), str_at(spec, &["names", "plural"]));
    let wanted = format!("{plural}.{group}");
    let name = crate::meta::name(definition);
    if name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", name, detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        errors.extend(names::dns1123_subdomain(group).into_iter().map(|m| FieldError::invalid("spec.group", group, m)));
        if group.split('.').count() < 2 {
            let detail = "should be a domain with at least one dot";
            errors.push(FieldError::invalid("spec.group", group, detail));
        }
    }
    if group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io") || group == "k8s.io" || group == "kubernetes.io"
    {
        protected(definition, errors);
    }
    match str_at(spec, &["scope"]) {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Namespaced" | "Cluster" => {}
        other => errors.push(FieldError::not_supported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    if bool_at(spec, &["preserveUnknownFields"]) {
        let detail = "must be false in order to use defaults in the schema, and `x-kubernetes-preserve-unknown-fields` says the same in v1";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, detail));
    }
    check_names(spec, errors);
    check_versions(spec, errors);
    check_conversion(spec, errors);
    check_stored(definition, errors);
}

/// Types and costs of the rules of schemas that are new: what was accepted once stays.
fn check_rules(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let before = list_at(old, &["spec", "versions"]);
    for (i, version) in list_at(new, &["spec", "versions"]).iter().enumerate() {
        let same = |old: &&Value| old["name"] == version["name"] && old["schema"] == version["schema"];
        if !before.iter().any(|old| same(&old)) {
            let at = format!("spec.versions[{i}].schema.openAPIV3Schema");
            errors.extend(super::ruletypes::check(&version["schema"]["openAPIV3Schema"], &at));
        }
    }
}

/// Groups of the community need a word that they were agreed on.
fn protected(definition: &Value, errors: &mut Vec<FieldError>) {
    const APPROVED: &str = "api-approved.kubernetes.io";
    let field = format!("metadata.annotations[{APPROVED}]");
    match crate::meta::annotations(definition).and_then(|a| a.get(APPROVED)).and_then(Value::as_str) {
        Some(text) if text.starts_with("unapproved") || text.contains("://") => {}
        Some(text) if !text.is_empty() => errors.push(FieldError::invalid(
            field,
            text,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        )),
        _ => errors.push(FieldError::required(
            field,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        )),
    }
}

fn check_names(spec: &Value, errors: &mut Vec<FieldError>) {
    let names = &spec["names"];
    let mut label = |field: &str, value: &str| {
        let field = format!("spec.names.{field}");
        let lower = value.to_lowercase();
        errors.extend(names::dns1035_label(&lower).into_iter().map(|m| FieldError::invalid(field.clone(), value, m)));
    };
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = str_at(names, &[key]);
        if !value.is_empty() {
            label(key, value);
        }
    }
    for key in ["shortNames", "categories"] {
        for (i, value) in list_at(names, &[key]).iter().enumerate() {
            label(&format!("{key}[{i}]"), value.as_str().unwrap_or(""));
        }
    }
    for key in ["plural", "kind"] {
        if str_at(names, &[key]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    let kind = str_at(names, &["kind"]);
    if !kind.is_empty() && kind == str_at(names, &["listKind"]) {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", kind, detail));
    }
}

fn check_versions(spec: &Value, errors: &mut Vec<FieldError>) {
    let versions = list_at(spec, &["versions"]);
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = str_at(version, &["name"]);
        if !seen.insert(name) {
            let detail = "must contain unique version names";
            errors.push(FieldError::invalid("spec.versions", name, detail));
        }
        let problems = names::dns1035_label(name).into_iter();
        errors.extend(problems.map(|m| FieldError::invalid(format!("{at}.name"), name, m)));
        check_version(version, &at, errors);
    }
    let stored = versions.iter().filter(|v| bool_at(v, &["storage"])).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", spec["versions"].clone(), detail));
    }
}

fn check_version(version: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let schema = &version["schema"]["openAPIV3Schema"];
    if schema.is_object() {
        errors.extend(structural::check(schema, &format!("{at}.schema.openAPIV3Schema")));
    } else {
        errors.push(FieldError::required(format!("{at}.schema.openAPIV3Schema"), "schemas are required"));
    }
    let words = str_at(version, &["deprecationWarning"]);
    if !words.is_empty() && !bool_at(version, &["deprecated"]) {
        let detail = "can only be set for deprecated versions";
        errors.push(FieldError::invalid(format!("{at}.deprecationWarning"), words, detail));
    }
    if let Some(scale) = version["subresources"].get("scale").filter(|s| s.is_object()) {
        let at = format!("{at}.subresources.scale");
        for (key, root, needed) in [
            ("specReplicasPath", ".spec.", true),
            ("statusReplicasPath", ".status.", true),
            ("labelSelectorPath", ".", false),
        ] {
            let (field, path) = (format!("{at}.{key}"), str_at(scale, &[key]));
            let plain = Path::parse(path).is_ok_and(|p| p.is_plain());
            match path {
                "" if needed => errors.push(FieldError::required(field, "")),
                "" => {}
                _ if !plain || path.contains('[') || !path.starts_with('.') => {
                    let detail = "must be a simple json path with a leading dot";
                    errors.push(FieldError::invalid(field, path, detail));
                }
                _ if !path.starts_with(root) => {
                    errors.push(FieldError::invalid(
                        field,
                        path,
                        format!("should be a json path under {}", root.trim_end_matches('.')),
                    ));
                }
                _ => {}
            }
        }
    }
    for (i, column) in list_at(version, &["additionalPrinterColumns"]).iter().enumerate() {
        check_column(column, &format!("{at}.additionalPrinterColumns[{i}]"), errors);
    }
    for (i, field) in list_at(version, &["selectableFields"]).iter().enumerate() {
        let at = format!("{at}.selectableFields[{i}].jsonPath");
        let path = str_at(field, &["jsonPath"]);
        match Path::parse(path) {
            Ok(parsed) if parsed.is_plain() && path.starts_with('.') => {
                let ty =
                    parsed.keys().try_fold(schema, |s, key| s["properties"].get(key)).map(|s| str_at(s, &["type"]));
                if !matches!(ty, Some("string" | "integer" | "boolean")) {
                    let detail = "must point to a field of type string, boolean or integer";
                    errors.push(FieldError::invalid(at, path, detail));
                }
            }
            _ => errors.push(FieldError::invalid(
                at,
                path,
                "is an invalid path: must be a simple json path with a leading dot",
            )),
        }
    }
}

fn check_column(column: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for key in ["name", "type", "jsonPath"] {
        if str_at(column, &[key]).is_empty() {
            errors.push(FieldError::required(format!("{at}.{key}"), ""));
        }
    }
    let ty = str_at(column, &["type"]);
    if !ty.is_empty() && !COLUMN_TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(format!("{at}.type"), ty, &COLUMN_TYPES));
    }
    let path = str_at(column, &["jsonPath"]);
    if let Err(why) = Path::parse(path) {
        errors.push(FieldError::invalid(format!("{at}.jsonPath"), path, why));
    }
}

fn check_conversion(spec: &Value, errors: &mut Vec<FieldError>) {
    let at = "spec.conversion";
    match str_at(spec, &["conversion", "strategy"]) {
        "None" if spec["conversion"]["webhook"].is_object() => {
            errors.push(FieldError::forbidden(
                format!("{at}.webhook"),
                "should not be set when strategy is not set to Webhook",
            ));
        }
        "None" => {}
        "Webhook" if map_at(spec, &["conversion", "webhook", "clientConfig"]).is_none() => {
            errors.push(FieldError::required(
                format!("{at}.webhook.clientConfig"),
                "required when strategy is set to Webhook",
            ));
        }
        "Webhook" => {
            let client = &spec["conversion"]["webhook"]["clientConfig"];
            errors.extend(crate::kinds::client_config(client, &format!("{at}.webhook.clientConfig")));
            check_review_versions(spec, &format!("{at}.webhook.conversionReviewVersions"), errors);
        }
        other => errors.push(FieldError::not_supported(format!("{at}.strategy"), other, &["None", "Webhook"])),
    }
}

fn check_review_versions(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let webhook = &spec["conversion"]["webhook"];
    let versions = list_at(webhook, &["conversionReviewVersions"]);
    if versions.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().map(|v| v.as_str().unwrap_or("")).enumerate() {
        let at = format!("{at}[{i}]");
        if seen.insert(version) {
            let problems = names::dns1035_label(version).into_iter();
            errors.extend(problems.map(|m| FieldError::invalid(at.clone(), version, m)));
        } else {
            errors.push(FieldError::invalid(at, version, "duplicate version"));
        }
    }
    if super::conversion::review_version(webhook).is_none() {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(at, webhook["conversionReviewVersions"].clone(), detail));
    }
}

/// The certificates that a conversion webhook is trusted by.
pub(super) fn ca_bundle(definition: &Value) -> Vec<FieldError> {
    use base64::Engine as _;
    let bundle = str_at(definition, &["spec", "conversion", "webhook", "clientConfig", "caBundle"]);
    if bundle.is_empty() {
        return Vec::new();
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default();
    if pem.windows(CERTIFICATE.len()).any(|w| w == CERTIFICATE) {
        return Vec::new();
    }
    let at = "spec.conversion.webhook.clientConfig.caBundle";
    let detail = "unable to load root certificates: unable to parse bytes as PEM block";
    vec![FieldError::invalid(at, bundle, detail)]
}

/// Objects may be stored in any version that is remembered: it must not go.
fn check_stored(definition: &Value, errors: &mut Vec<FieldError>) {
    let versions = list_at(definition, &["spec", "versions"]);
    for (i, stored) in list_at(definition, &["status", "storedVersions"]).iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *stored) {
            let name = stored.as_str().unwrap_or("");
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("status.storedVersions[{i}]"), stored.clone(), detail));
        }
    }
}

/// Rules of a replacement: who and where the objects are cannot change.
pub(super) fn replacement(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(new, &mut errors);
    check_rules(new, old, &mut errors);
    // Bundles that were accepted once may stay.
    if super::is_established(old) && ca_bundle(old).is_empty() {
        errors.extend(ca_bundle(new));
    }
    let mut fixed = vec!["group"];
    if super::is_established(old) {
        fixed.push("scope");
    }
    for key in fixed {
        if new["spec"][key] != old["spec"][key] {
            errors.push(FieldError::invalid(format!("spec.{key}"), new["spec"][key].clone(), "field is immutable"));
        }
    }
    for key in ["plural", "kind"].into_iter().filter(|_| super::is_established(old)) {
        if new["spec"]["names"][key] != old["spec"]["names"][key] {
            let value = new["spec"]["names"][key].clone();
            errors.push(FieldError::invalid(format!("spec.names.{key}"), value, "field is immutable"));
        }
    }
    errors
}
