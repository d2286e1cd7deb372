//! Fields of the pod and resources of its containers as files.

use anyhow::{Context, Result};
use e2e::{Ctx, merge, pod};
use serde_json::{Value, json};

use crate::table::{self, Case, mounts};

/// A volume named `v` of these items.
fn volume(projected: bool, items: Value, mode: Option<u32>) -> Value {
    let (field, mut source) = match projected {
        true => ("projected", json!({"sources": [{"downwardAPI": {"items": items}}]})),
        false => ("downwardAPI", json!({"items": items})),
    };
    if let Some(mode) = mode {
        source["defaultMode"] = json!(mode);
    }
    json!({"name": "v", field: source})
}

fn spec(projected: bool, items: Value, mode: Option<u32>, resources: Value) -> Value {
    json!({
        "containers": [{"name": "main", "resources": resources, "volumeMounts": mounts(&[("v", "/v")])}],
        "volumes": [volume(projected, items, mode)],
    })
}

fn resource(resource: &str) -> Value {
    json!([{"path": "said", "resourceFieldRef": {"containerName": "main", "resource": resource}}])
}

/// What a node can give to pods: whole CPUs, rounded up, and bytes.
fn allocatable(ctx: &Ctx) -> Result<(String, String)> {
    let text = ctx.ok(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.allocatable.cpu} {.items[0].status.allocatable.memory}",
    ])?;
    let (cpu, memory) = text.trim().split_once(' ').context("both are there")?;
    let cpu = match cpu.strip_suffix('m') {
        Some(milli) => milli.parse::<u64>()?.div_ceil(1000),
        None => cpu.parse()?,
    };
    let memory = match memory.strip_suffix("Ki") {
        Some(kib) => kib.parse::<u64>()? * 1024,
        None => memory.parse()?,
    };
    Ok((cpu.to_string(), memory.to_string()))
}

fn files(ctx: &Ctx, projected: bool) -> Result<()> {
    let name = || json!([{"path": "said", "fieldRef": {"fieldPath": "metadata.name"}}]);
    let moded = json!([{"path": "said", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.name"}}]);
    let resources = || {
        json!({
            "limits": {"cpu": "1250m", "memory": "64Mi"},
            "requests": {"cpu": "250m", "memory": "32Mi"},
        })
    };
    let (cpu, memory) = allocatable(ctx)?;
    let (read, show) = ("cat /v/said", "stat -L -c %A /v/said; cat /v/said");
    let of = |what: &str, resources: Value| spec(projected, resource(what), None, resources);
    table::check(
        ctx,
        &[
            Case::new("named", read, spec(projected, name(), None, json!({})), "named"),
            Case::new("mode", show, spec(projected, name(), Some(0o400), json!({})), "-r--------\nmode"),
            Case::new("item-mode", show, spec(projected, moded, None, json!({})), "-r--------\nitem-mode"),
            Case::new("cpu-limit", read, of("limits.cpu", resources()), "2"),
            Case::new("memory-limit", read, of("limits.memory", resources()), "67108864"),
            Case::new("cpu-request", read, of("requests.cpu", resources()), "1"),
            Case::new("memory-request", read, of("requests.memory", resources()), "33554432"),
            Case::new("cpu-of-the-node", read, of("limits.cpu", json!({})), cpu),
            Case::new("memory-of-the-node", read, of("limits.memory", json!({})), memory),
        ],
    )
}

fn updates(ctx: &Ctx, projected: bool) -> Result<()> {
    let items = json!([
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
    ]);
    let has = |line: &str| format!("grep -qFx '{line}'");
    let first = format!("{} /v/labels && {} /v/annotations", has("key1=\"value1\""), has("builder=\"bar\""));
    // The one that is changed is as new, and the one beside it is still there.
    let labels = format!("{} /v/labels && {} /v/labels", has("key3=\"value3\""), has("key1=\"value1\""));
    let annotations = format!("{} /v/annotations", has("builder=\"foo\""));
    let reader = table::waiter("main", &first, &format!("{labels} && {annotations}"));
    let mut reading = pod(
        "reader",
        "",
        json!({
            "restartPolicy": "Never",
            "containers": [merge(reader, json!({"volumeMounts": mounts(&[("v", "/v")])}))],
            "volumes": [volume(projected, items, None)],
        }),
    );
    reading["metadata"]["labels"] = json!({"key1": "value1"});
    reading["metadata"]["annotations"] = json!({"builder": "bar"});
    ctx.ready_pod(reading)?;
    ctx.ok(&["label", "pod/reader", "key3=value3"])?;
    ctx.ok(&["annotate", "--overwrite", "pod/reader", "builder=foo"])?;
    table::ends_well(ctx, "reader")
}

// conformance: [sig-storage] Downward API volume should provide podname only
// conformance: [sig-storage] Downward API volume should set DefaultMode on files
// conformance: [sig-storage] Downward API volume should set mode on item file
// conformance: [sig-storage] Downward API volume should provide container's cpu limit
// conformance: [sig-storage] Downward API volume should provide container's memory limit
// conformance: [sig-storage] Downward API volume should provide container's cpu request
// conformance: [sig-storage] Downward API volume should provide container's memory request
// conformance: [sig-storage] Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit is not set
// conformance: [sig-storage] Downward API volume should provide node allocatable (memory) as default memory limit if the limit is not set
pub fn the_downward_api_gives_names_limits_and_modes(ctx: &Ctx) -> Result<()> {
    files(ctx, false)
}

// conformance: [sig-storage] Projected downwardAPI should provide podname only
// conformance: [sig-storage] Projected downwardAPI should set DefaultMode on files
// conformance: [sig-storage] Projected downwardAPI should set mode on item file
// conformance: [sig-storage] Projected downwardAPI should provide container's cpu limit
// conformance: [sig-storage] Projected downwardAPI should provide container's memory limit
// conformance: [sig-storage] Projected downwardAPI should provide container's cpu request
// conformance: [sig-storage] Projected downwardAPI should provide container's memory request
// conformance: [sig-storage] Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the limit is not set
// conformance: [sig-storage] Projected downwardAPI should provide node allocatable (memory) as default memory limit if the limit is not set
pub fn the_projected_downward_api_gives_names_limits_and_modes(ctx: &Ctx) -> Result<()> {
    files(ctx, true)
}

// conformance: [sig-storage] Downward API volume should update labels on modification
// conformance: [sig-storage] Downward API volume should update annotations on modification
pub fn changed_labels_and_annotations_are_reflected(ctx: &Ctx) -> Result<()> {
    updates(ctx, false)
}

// conformance: [sig-storage] Projected downwardAPI should update labels on modification
// conformance: [sig-storage] Projected downwardAPI should update annotations on modification
pub fn changed_labels_and_annotations_are_reflected_in_a_projection(ctx: &Ctx) -> Result<()> {
    updates(ctx, true)
}

// conformance: [sig-storage] Projected combined should project all components that make up the projection API
pub fn secrets_config_maps_and_fields_are_projected_into_one_folder(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "map", "--from-literal=configmap-data=configmap-value-1"])?;
    ctx.ok(&["create", "secret", "generic", "word", "--from-literal=secret-data=secret-value-1"])?;
    let item = |path: &str, resource: &str| json!({"path": path, "resourceFieldRef": {"containerName": "main", "resource": resource}});
    let volume = json!({"name": "v", "projected": {"sources": [
        {"secret": {"name": "word"}},
        {"configMap": {"name": "map"}},
        {"downwardAPI": {"items": [
            {"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}},
            item("cpu_limit", "limits.cpu"),
            item("cpu_request", "requests.cpu"),
            item("memory_limit", "limits.memory"),
            item("memory_request", "requests.memory"),
        ]}},
    ]}});
    let resources =
        json!({"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let spec = json!({
        "containers": [{"name": "main", "resources": resources, "volumeMounts": mounts(&[("v", "/v")])}],
        "volumes": [volume],
    });
    let expected = "configmap-data=configmap-value-1\ncpu_limit=2\ncpu_request=1\nmemory_limit=67108864\n\
        memory_request=33554432\npodname=all\nsecret-data=secret-value-1";
    table::check(ctx, &[Case::new("all", "cd /v; for f in *; do echo $f=$(cat $f); done", spec, expected)])
}
