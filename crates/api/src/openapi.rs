//! OpenAPI v3 documents, one for each group and version, generated on demand from the typed Kubernetes schemas.
//!
//! kubectl reads them for `explain`, for the merge keys of `apply` and `diff`, and to learn which operations take
//! `dryRun` and `fieldValidation`. Descriptions and types come from k8s-openapi, list and patch extensions and the required
//! fields from [`crate::schema`].

use serde_json::{Value, json};

use crate::discovery::CustomKinds;
use crate::kinds::registry;

mod gnostic;
mod paths;
pub(crate) mod resolved;
mod schemas;
mod subresources;
mod types;
pub mod v2;

/// Raised when the generated documents change for the same schemas, so that clients do not use a cached copy.
const GENERATION: u32 = 2;

/// The index at `/openapi/v3`: a URL with a content hash for each group and version.
pub fn index(custom: CustomKinds<'_>) -> Value {
    let mut paths = serde_json::Map::new();
    for (group, version) in group_versions(custom) {
        let path = path(group, version);
        let url = format!("/openapi/v3/{path}?hash={}", hash(group, version, custom));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

/// `api/v1`, `apis/apps/v1`.
fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Identifies the content of a document without generating it: a document is a function of this binary alone.
pub fn hash(group: &str, version: &str, custom: CustomKinds<'_>) -> String {
    let mut text = format!("{GENERATION} {} {group} {version}", env!("CARGO_PKG_VERSION"));
    for kind in custom.iter().filter(|k| k.group == group && k.version == version) {
        text.push_str(&format!(" {} {:x}", kind.plural, kind.custom.as_ref().map_or(0, |c| c.hash)));
    }
    format!("{:016X}", fnv1a(text.as_bytes()))
}

/// FNV-1a: short, stable, and not for security.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The document of a group and version; `server_version` is shown in its title block (`v1.36.0`).
pub fn document(group: &str, version: &str, server_version: &str, custom: CustomKinds<'_>) -> Option<Value> {
    let known = group_versions(custom).into_iter().any(|(g, v)| g == group && v == version);
    known.then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": server_version},
            "paths": paths::paths(group, version, custom),
            "components": {
                "schemas": schemas::schemas(group, version, custom),
                "securitySchemes": {
                    "BearerToken": {
                        "type": "apiKey",
                        "name": "authorization",
                        "in": "header",
                        "description": "Bearer Token authentication",
                    },
                },
            },
        })
    })
}

/// Built-in and custom `(group, version)` pairs.
fn group_versions(custom: CustomKinds<'_>) -> Vec<(&'static str, &'static str)> {
    let mut out = registry().group_versions();
    for kind in custom {
        if !out.contains(&(kind.group, kind.version)) {
            out.push((kind.group, kind.version));
        }
    }
    out
}

#[cfg(test)]
mod tests;
