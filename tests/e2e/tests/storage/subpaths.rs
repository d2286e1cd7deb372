//! Parts of volumes that are mounted by themselves.

use anyhow::Result;
use e2e::Ctx;
use serde_json::{Value, json};

use crate::table::{self, Case};

/// Mounts `sub` of the volume at a path of its own, and reads it.
fn case(name: &str, volume: Value, sub: &str, path: &str, expected: &str) -> Case {
    let mut volume = volume;
    volume["name"] = json!("v");
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": path, "subPath": sub}]}],
        "volumes": [volume],
    });
    let script =
        format!("if [ -d {path} ]; then cd {path}; for f in *; do echo $f=$(cat $f); done; else cat {path}; fi");
    Case::new(name, &script, spec, expected)
}

// conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod
// conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of existing file
// conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with downward pod
// conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with projected pod
// conformance: [sig-storage] Subpath Atomic writer volumes should support subpaths with secret pod
pub fn a_subpath_of_written_volumes_is_what_is_there(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "map", "--from-literal=key=map-value"])?;
    ctx.ok(&["create", "secret", "generic", "word", "--from-literal=key=secret-value"])?;
    let map = || json!({"configMap": {"name": "map"}});
    let deep = || json!([{"key": "key", "path": "sub/path"}]);
    let name = json!([{"path": "sub/name", "fieldRef": {"fieldPath": "metadata.name"}}]);
    let projected = || {
        json!({"projected": {"sources": [
            {"configMap": {"name": "map", "items": [{"key": "key", "path": "sub/map"}]}},
            {"secret": {"name": "word", "items": [{"key": "key", "path": "sub/word"}]}},
        ]}})
    };
    let all = "map=map-value\nword=secret-value";
    table::check(
        ctx,
        &[
            case("map-file", map(), "key", "/test-volume", "map-value"),
            case(
                "map-folder",
                json!({"configMap": {"name": "map", "items": deep()}}),
                "sub",
                "/test-volume",
                "path=map-value",
            ),
            // One of the image's, and one the node itself mounts into every container.
            case("map-over-a-file", map(), "key", "/etc/group", "map-value"),
            case("map-over-a-mount", map(), "key", "/etc/resolv.conf", "map-value"),
            case("secret-file", json!({"secret": {"secretName": "word"}}), "key", "/test-volume", "secret-value"),
            case(
                "secret-folder",
                json!({"secret": {"secretName": "word", "items": deep()}}),
                "sub",
                "/test-volume",
                "path=secret-value",
            ),
            case("fields", json!({"downwardAPI": {"items": name}}), "sub/name", "/test-volume", "fields"),
            case("projected-file", projected(), "sub/word", "/test-volume", "secret-value"),
            case("projected-folder", projected(), "sub", "/test-volume", all),
        ],
    )
}
