//! Certificate signing requests.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Hooks;
use super::check::Check;
use super::pod::text;
use crate::json::{at, carry, int_at, list_at, str_at};
use crate::names;
use crate::status::FieldError;

/// Shortest validity that may be asked for, seconds.
const MIN_EXPIRATION_S: i64 = 600;
/// Signer of the requests from before there were signers.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const SIGNING_REQUEST: Hooks = Hooks {
    prepare_create: |o| o["status"] = json!({}),
    // What is asked for never changes; the decision and the certificate have subresources of their own.
    prepare_update: |new, old| carry(new, old, "spec"),
    validate,
    selectable: &[("spec.signerName", |o| text(o, &["spec", "signerName"]))],
    ..Hooks::NONE
};

/// Whether the request itself can be read and is signed is for those to say who can read certificates.
fn validate(o: &Value) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = at(o, &["spec"]).unwrap_or(&Value::Null);
    check.need_str(spec, "request", "spec");
    let usages = list_at(spec, &["usages"]);
    if usages.is_empty() {
        check.required("spec.usages", "");
    }
    let mut seen = BTreeSet::new();
    for (i, usage) in usages.iter().map(|u| u.as_str().unwrap_or("")).enumerate() {
        let field = format!("spec.usages[{i}]");
        if !USAGES.contains(&usage) {
            check.extend([FieldError::not_supported(field.clone(), usage, USAGES)]);
        }
        if !seen.insert(usage) {
            check.duplicate(field, usage);
        }
    }
    let signer = str_at(spec, &["signerName"]);
    if signer == LEGACY_SIGNER {
        check.invalid("spec.signerName", signer, "the legacy signerName is not allowed via this API version");
    } else {
        validate_signer(&mut check, signer, "spec.signerName");
    }
    if let Some(s) = int_at(spec, &["expirationSeconds"]).filter(|s| *s < MIN_EXPIRATION_S) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        check.invalid("spec.expirationSeconds", s, detail);
    }
    check.errors
}

/// `DOMAIN/PATH`: a domain of at least two labels and a path of dotted names.
fn validate_signer(check: &mut Check, signer: &str, field: &str) {
    /// Longest path: a label, a dot and a subdomain.
    const MAX_PATH: usize = names::SUBDOMAIN_MAX + names::LABEL_MAX + 1;
    if signer.is_empty() {
        check.required(field, "");
        return;
    }
    let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        check.invalid(field, signer, detail);
        return;
    };
    if domain.len() > names::SUBDOMAIN_MAX {
        check.extend([FieldError::too_long(field, names::SUBDOMAIN_MAX)]);
    }
    dotted(check, domain, field, names::dns1123_label);
    dotted(check, path, field, names::dns1123_subdomain);
    if !domain.contains('.') {
        check.invalid(field, domain, "should be a domain with at least two segments separated by dots");
    }
    if path.len() > MAX_PATH {
        check.extend([FieldError::too_long(field, MAX_PATH)]);
    }
}

/// Findings of the first malformed label.
fn dotted(check: &mut Check, text: &str, field: &str, problems: fn(&str) -> Vec<String>) {
    let Some(label) = text.split('.').find(|label| !problems(label).is_empty()) else { return };
    for problem in problems(label) {
        check.invalid(field, text, format!("validating label {label:?}: {problem}"));
    }
}
