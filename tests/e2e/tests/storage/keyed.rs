//! ConfigMaps and Secrets as volumes, by themselves and as parts of a projection: what one does, the other three do.

use anyhow::Result;
use base64::Engine as _;
use e2e::{Ctx, merge, pod};
use serde_json::{Value, json};

use crate::table::{self, Case, mounts};

#[derive(Clone, Copy)]
enum Kind {
    ConfigMap,
    Secret,
}

/// What kind of object is mounted, and whether through a projection.
#[derive(Clone, Copy)]
struct Source {
    kind: Kind,
    projected: bool,
}

impl Source {
    fn object(self, name: &str, data: &[(&str, &str)]) -> Value {
        let data: serde_json::Map<String, Value> = data.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let (kind, field) = match self.kind {
            Kind::ConfigMap => ("ConfigMap", "data"),
            Kind::Secret => ("Secret", "stringData"),
        };
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data})
    }

    /// `kubectl`'s word for the object.
    fn resource(self, name: &str) -> String {
        match self.kind {
            Kind::ConfigMap => format!("configmap/{name}"),
            Kind::Secret => format!("secret/{name}"),
        }
    }

    /// A volume of the object; `more` is `items` or `optional`.
    fn volume(self, volume: &str, object: &str, mode: Option<u32>, more: Value) -> Value {
        let (field, name) = match (self.kind, self.projected) {
            (Kind::ConfigMap, _) => ("configMap", "name"),
            (Kind::Secret, false) => ("secret", "secretName"),
            (Kind::Secret, true) => ("secret", "name"),
        };
        let source = merge(json!({name: object}), more);
        let (outer, mut inner) = match self.projected {
            true => ("projected", json!({"sources": [{field: source}]})),
            false => (field, source),
        };
        if let Some(mode) = mode {
            inner["defaultMode"] = json!(mode);
        }
        json!({"name": volume, outer: inner})
    }
}

const DATA: [(&str, &str); 3] = [("data-1", "value-1"), ("data-2", "value-2"), ("data-3", "value-3")];

/// Says mode and content of files.
fn show(files: &str) -> String {
    format!("for f in {files}; do stat -L -c %A $f; cat $f; echo; done")
}

/// The table all four sources share.
fn files(ctx: &Ctx, source: Source) -> Result<()> {
    ctx.apply(&[source.object("o", &DATA)])?;
    let one = |mode: Option<u32>, more: Value, spec: Value| {
        let volume = source.volume("v", "o", mode, more);
        let base =
            json!({"containers": [{"name": "main", "volumeMounts": mounts(&[("v", "/v")])}], "volumes": [volume]});
        merge(base, spec)
    };
    let mapped = || json!({"items": [{"key": "data-2", "path": "path/to/data-2"}]});
    let with_mode = || json!({"items": [{"key": "data-2", "path": "path/to/data-2", "mode": 0o400}]});
    let user = || json!({"securityContext": {"runAsUser": 1000}});
    let group = || json!({"securityContext": {"runAsUser": 1000, "fsGroup": 1001}});
    let two = |more: Value, mode: Option<u32>| {
        json!({
            "containers": [{"name": "main", "volumeMounts": mounts(&[("a", "/etc/one"), ("b", "/etc/two")])}],
            "volumes": [source.volume("a", "o", mode, more.clone()), source.volume("b", "o", mode, more)],
        })
    };
    let (plain, path) = (show("/v/data-1"), show("/v/path/to/data-2"));
    table::check(
        ctx,
        &[
            Case::new(
                "plain",
                &format!("{plain}; ls /v"),
                one(None, json!({}), json!({})),
                "-rw-r--r--\nvalue-1\ndata-1\ndata-2\ndata-3",
            ),
            Case::new("as-user", &format!("id -u; {plain}"), one(None, json!({}), user()), "1000\n-rw-r--r--\nvalue-1"),
            Case::new("mode", &plain, one(Some(0o400), json!({}), json!({})), "-r--------\nvalue-1"),
            Case::new("mapped", &format!("{path}; ls /v"), one(None, mapped(), json!({})), "-rw-r--r--\nvalue-2\npath"),
            Case::new("mapped-mode", &path, one(None, with_mode(), json!({})), "-r--------\nvalue-2"),
            Case::new(
                "mapped-as-user",
                &format!("id -u; {path}"),
                one(None, mapped(), user()),
                "1000\n-rw-r--r--\nvalue-2",
            ),
            Case::new(
                "as-user-of-group",
                &format!("id -u; {plain}; stat -L -c %g /v/data-1"),
                one(Some(0o440), json!({}), group()),
                "1000\n-r--r-----\nvalue-1\n1001",
            ),
            Case::new(
                "twice",
                &show("/etc/one/data-1 /etc/two/data-1"),
                two(json!({}), None),
                "-rw-r--r--\nvalue-1\n-rw-r--r--\nvalue-1",
            ),
            Case::new(
                "twice-mapped",
                &show("/etc/one/path/to/data-2 /etc/two/path/to/data-2"),
                two(with_mode(), None),
                "-r--------\nvalue-2\n-r--------\nvalue-2",
            ),
        ],
    )
}

/// One pod whose three containers see one object go, one change and one come.
fn updates(ctx: &Ctx, source: Source) -> Result<()> {
    ctx.apply(&[source.object("gone", &DATA[..1]), source.object("changed", &DATA[..1])])?;
    let has = |file: &str, text: &str| format!("[ \"$(cat /v/{file} 2>/dev/null)\" = {text} ]");
    let container = |name: &str, first: &str, until: &str| {
        merge(table::waiter(name, first, until), json!({"volumeMounts": mounts(&[(name, "/v")])}))
    };
    let optional = |name: &str| source.volume(name, name, None, json!({"optional": true}));
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [
            container("gone", &has("data-1", "value-1"), "[ ! -e /v/data-1 ] && ! cat /v/data-1 2>/dev/null"),
            container("changed", &has("data-1", "value-1"), &format!("{} && [ ! -e /v/data-1 ]", has("data-3", "value-3"))),
            container("created", "[ ! -e /v/data-1 ]", &has("data-1", "value-1")),
        ],
        "volumes": [optional("gone"), optional("changed"), optional("created")],
    });
    let mut all = pod("reader", "", json!({}));
    all["spec"] = spec;
    ctx.ready_pod(all)?;
    ctx.ok(&["delete", &source.resource("gone")])?;
    ctx.feed(&["replace", "-f", "-"], &[source.object("changed", &DATA[2..])])?.ok()?;
    ctx.apply(&[source.object("created", &DATA[..1])])?;
    table::ends_well(ctx, "reader")
}

const fn source(kind: Kind, projected: bool) -> Source {
    Source { kind, projected }
}

// conformance: [sig-storage] ConfigMap should be consumable from pods in volume
// conformance: [sig-storage] ConfigMap should be consumable from pods in volume as non-root
// conformance: [sig-storage] ConfigMap should be consumable from pods in volume with defaultMode set
// conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings
// conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings and Item mode set
// conformance: [sig-storage] ConfigMap should be consumable from pods in volume with mappings as non-root
// conformance: [sig-storage] ConfigMap should be consumable in multiple volumes in the same pod
// conformance: [sig-storage] ConfigMap binary data should be reflected in volume
pub fn config_maps_are_files_of_a_volume(ctx: &Ctx) -> Result<()> {
    let source = source(Kind::ConfigMap, false);
    files(ctx, source)?;
    let bytes = [0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff, 0x00, 0x0a];
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    let object = merge(source.object("binary", &[("data-1", "value-1")]), json!({"binaryData": {"dump.bin": encoded}}));
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": mounts(&[("v", "/v")])}],
        "volumes": [source.volume("v", "binary", None, json!({}))],
    });
    ctx.apply(&[object])?;
    let said = ctx.output_of(merge(
        pod("binary", "cat /v/data-1; hexdump -ve '1/1 \" %02x\"' /v/dump.bin", spec),
        json!({"spec": {"restartPolicy": "Never"}}),
    ))?;
    let expected = "value-1 de ca fe ba d0 fe ff 00 0a";
    anyhow::ensure!(said.trim() == expected, "{said:?}");
    Ok(())
}

// conformance: [sig-storage] Projected configMap should be consumable from pods in volume
// conformance: [sig-storage] Projected configMap should be consumable from pods in volume as non-root
// conformance: [sig-storage] Projected configMap should be consumable from pods in volume with defaultMode set
// conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings
// conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings and Item mode set
// conformance: [sig-storage] Projected configMap should be consumable from pods in volume with mappings as non-root
// conformance: [sig-storage] Projected configMap should be consumable in multiple volumes in the same pod
pub fn projected_config_maps_are_files_of_a_volume(ctx: &Ctx) -> Result<()> {
    files(ctx, source(Kind::ConfigMap, true))
}

// conformance: [sig-storage] Secrets should be consumable from pods in volume
// conformance: [sig-storage] Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set
// conformance: [sig-storage] Secrets should be consumable from pods in volume with defaultMode set
// conformance: [sig-storage] Secrets should be consumable from pods in volume with mappings
// conformance: [sig-storage] Secrets should be consumable from pods in volume with mappings and Item Mode set
// conformance: [sig-storage] Secrets should be consumable in multiple volumes in a pod
pub fn secrets_are_files_of_a_volume(ctx: &Ctx) -> Result<()> {
    files(ctx, source(Kind::Secret, false))
}

// conformance: [sig-storage] Projected secret should be consumable from pods in volume
// conformance: [sig-storage] Projected secret should be consumable from pods in volume as non-root with defaultMode and fsGroup set
// conformance: [sig-storage] Projected secret should be consumable from pods in volume with defaultMode set
// conformance: [sig-storage] Projected secret should be consumable from pods in volume with mappings
// conformance: [sig-storage] Projected secret should be consumable from pods in volume with mappings and Item Mode set
// conformance: [sig-storage] Projected secret should be consumable in multiple volumes in a pod
pub fn projected_secrets_are_files_of_a_volume(ctx: &Ctx) -> Result<()> {
    files(ctx, source(Kind::Secret, true))
}

// conformance: [sig-storage] ConfigMap optional updates should be reflected in volume
// conformance: [sig-storage] ConfigMap updates should be reflected in volume
pub fn config_maps_that_come_change_and_go_are_reflected(ctx: &Ctx) -> Result<()> {
    let source = source(Kind::ConfigMap, false);
    updates(ctx, source)?;
    needed(ctx, source)
}

// conformance: [sig-storage] Projected configMap optional updates should be reflected in volume
// conformance: [sig-storage] Projected configMap updates should be reflected in volume
pub fn projected_config_maps_that_come_change_and_go_are_reflected(ctx: &Ctx) -> Result<()> {
    let source = source(Kind::ConfigMap, true);
    updates(ctx, source)?;
    needed(ctx, source)
}

/// An object that the pod cannot do without is followed as well, key by key.
fn needed(ctx: &Ctx, source: Source) -> Result<()> {
    ctx.apply(&[source.object("needed", &DATA[..1])])?;
    let until = "[ \"$(cat /v/data-1)\" = value-2 ] && [ \"$(cat /v/data-3 2>/dev/null)\" = value-3 ]";
    let reader = table::waiter("main", "[ \"$(cat /v/data-1)\" = value-1 ]", until);
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [merge(reader, json!({"volumeMounts": mounts(&[("v", "/v")])}))],
        "volumes": [source.volume("v", "needed", None, json!({}))],
    });
    ctx.ready_pod(pod("needs", "", spec))?;
    ctx.apply(&[source.object("needed", &[("data-1", "value-2"), ("data-3", "value-3")])])?;
    table::ends_well(ctx, "needs")
}

// conformance: [sig-storage] Secrets optional updates should be reflected in volume
pub fn secrets_that_come_change_and_go_are_reflected(ctx: &Ctx) -> Result<()> {
    updates(ctx, source(Kind::Secret, false))
}

// conformance: [sig-storage] Projected secret optional updates should be reflected in volume
pub fn projected_secrets_that_come_change_and_go_are_reflected(ctx: &Ctx) -> Result<()> {
    updates(ctx, source(Kind::Secret, true))
}

// conformance: [sig-storage] Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace
pub fn a_secret_of_another_namespace_is_not_this_one(ctx: &Ctx) -> Result<()> {
    let source = source(Kind::Secret, false);
    let other = format!("{}-other", &ctx.ns[..40]);
    ctx.ok(&["create", "namespace", &other])?;
    let mut theirs = source.object("same", &[("data-1", "theirs"), ("their-own", "x")]);
    theirs["metadata"]["namespace"] = json!(other);
    ctx.instance
        .kubectl()
        .in_namespace(&other)
        .run_for(&["create", "-f", "-"], Some(&serde_json::to_vec(&theirs)?), std::time::Duration::from_secs(60))?
        .ok()?;
    ctx.apply(&[source.object("same", &DATA[..1])])?;
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": mounts(&[("v", "/v")])}],
        "volumes": [source.volume("v", "same", None, json!({}))],
    });
    let said = "-rw-r--r--\nvalue-1\ndata-1";
    table::check(ctx, &[Case::new("ours", &format!("{}; ls /v", show("/v/data-1")), spec, said)])?;
    ctx.ok(&["delete", "namespace", &other, "--wait=false"])?;
    Ok(())
}
