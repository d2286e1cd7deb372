//! Files that a pod is given, and files that outlive it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, pod};
use serde_json::{Value, json};

fn with_volume(source: Value, read_only: bool) -> Value {
    let mut volume = json!({"name": "v"});
    for (key, value) in source.as_object().into_iter().flatten() {
        volume[key] = value.clone();
    }
    json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": read_only}]}],
        "volumes": [volume],
    })
}

pub fn config_maps_and_secrets_are_files_with_modes_and_items(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "map", "--from-literal=one=1", "--from-literal=two=2"])?;
    ctx.ok(&["create", "secret", "generic", "pw", "--from-literal=word=hush"])?;
    let projected = json!({"projected": {"defaultMode": 288, "sources": [
        {"configMap": {"name": "map", "items": [{"key": "two", "path": "sub/second", "mode": 256}]}},
        {"secret": {"name": "pw"}},
    ]}});
    ctx.ready_pod(pod("all", IDLE, with_volume(json!({"configMap": {"name": "map"}}), true)))?;
    ensure!(ctx.sh("all", "cd /v; for f in *; do echo $f=$(cat $f); done")? == "one=1\ntwo=2");
    ensure!(ctx.sh("all", "touch /v/x 2>&1 || true")?.contains("Read-only"));
    ctx.ready_pod(pod("some", IDLE, with_volume(projected, false)))?;
    let said = ctx.sh("some", "cd /v; ls; cat sub/second word; echo; stat -L -c %a sub/second word")?;
    ensure!(said.split_whitespace().eq(["sub", "word", "2hush", "400", "440"]), "{said}");
    // Secrets are kept in memory, not on a disk.
    ensure!(
        ctx.sh("some", "grep ' /v ' /proc/mounts")?.starts_with("tmpfs"),
        "{}",
        ctx.sh("some", "cat /proc/mounts")?
    );
    let one = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/etc/one.conf", "subPath": "one"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "map"}}],
    });
    ctx.ready_pod(pod("subpath", IDLE, one))?;
    ensure!(ctx.sh("subpath", "cat /etc/one.conf; test -e /etc/passwd && echo kept")? == "1kept");
    Ok(())
}

pub fn an_update_of_a_config_map_reaches_its_volume(ctx: &Ctx) -> Result<()> {
    ctx.ok(&["create", "configmap", "live", "--from-literal=color=red", "--from-literal=old=x"])?;
    ctx.ready_pod(pod("reader", IDLE, with_volume(json!({"configMap": {"name": "live"}}), false)))?;
    ensure!(ctx.sh("reader", "cat /v/color")? == "red");
    ctx.ok(&["patch", "configmap/live", "-p", r#"{"data":{"color":"blue","old":null,"new":"y"}}"#])?;
    eventually(Duration::from_secs(90), "the new color arrives", || {
        let seen = ctx.sh("reader", "cat /v/color; echo; ls /v")?;
        ensure!(seen.split_whitespace().eq(["blue", "color", "new"]), "{seen}");
        Ok(())
    })
}

pub fn containers_share_an_empty_dir_that_goes_with_the_pod(ctx: &Ctx) -> Result<()> {
    let mount = json!([{"name": "v", "mountPath": "/v"}, {"name": "m", "mountPath": "/m"}]);
    let mut other = container("other", "echo from the other > /v/file; trap 'exit 0' TERM; sleep 3600 & wait");
    other["volumeMounts"] = mount.clone();
    let spec = json!({
        "containers": [{"name": "main", "volumeMounts": mount}, other],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}],
    });
    ctx.ready_pod(pod("shares", IDLE, spec))?;
    let said = ctx.ok(&[
        "exec",
        "shares",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "until [ -s /v/file ]; do sleep 0.05; done; cat /v/file",
    ])?;
    ensure!(said == "from the other\n", "{said}");
    let full = ctx.ok(&[
        "exec",
        "shares",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "grep ' /m ' /proc/mounts; dd if=/dev/zero of=/m/x bs=1M count=8 2>&1 || true",
    ])?;
    ensure!(full.starts_with("tmpfs") && full.contains("No space left"), "{full}");
    let uid = ctx.field("pod/shares", ".metadata.uid")?;
    ctx.ok(&["delete", "pod", "shares"])?;
    let names = ctx.instance.names();
    eventually(Duration::from_secs(10), "its folders are gone", || {
        let found = std::process::Command::new("find")
            .args([names.data_dir(), names.run_dir()])
            .args(["-name", &format!("*{uid}*")])
            .output()?;
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        ensure!(found.is_empty(), "left: {found}");
        Ok(())
    })
}

pub fn a_host_path_is_the_hosts(ctx: &Ctx) -> Result<()> {
    let dir = ctx.instance.dir().join("host-path");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("in"), "from the host\n")?;
    let host_path = json!({"hostPath": {"path": dir, "type": "Directory"}});
    let spec = e2e::merge(with_volume(host_path, false), json!({"restartPolicy": "Never"}));
    ensure!(ctx.output_of(pod("host", "cat /v/in; echo from the pod > /v/out", spec))? == "from the host\n");
    ensure!(std::fs::read_to_string(dir.join("out"))? == "from the pod\n");
    let missing = json!({"hostPath": {"path": dir.join("none"), "type": "Directory"}});
    ctx.apply(&[pod("missing", IDLE, with_volume(missing, false))])?;
    eventually(Duration::from_secs(30), "an event says why", || {
        let text = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=missing"])?;
        ensure!(text.contains("FailedMount") && text.contains("none"), "{text}");
        Ok(())
    })?;
    ensure!(ctx.field("pod/missing", ".status.phase")? == "Pending");
    Ok(())
}

pub fn the_token_of_the_pod_opens_the_api(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let said = ctx.sh("client", &format!("cat {dir}/namespace; echo; head -1 {dir}/ca.crt; wc -c < {dir}/token"))?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0] == ctx.ns && lines[1] == "-----BEGIN CERTIFICATE-----", "{said}");
    // The way there is open; busybox has none of our TLS ciphers, so kubectl goes it with what the pod was given.
    ctx.sh("client", "timeout 5 nc -w 5 kubernetes.default.svc 443 < /dev/null")?;
    let folder = ctx.instance.dir().join("token");
    std::fs::create_dir_all(&folder)?;
    let ca = folder.join("ca.crt");
    std::fs::write(&ca, ctx.sh("client", &format!("cat {dir}/ca.crt"))?)?;
    let token = format!("--token={}", ctx.sh("client", &format!("cat {dir}/token"))?);
    let server = ctx.sh("client", "echo --server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT")?;
    let ca = format!("--certificate-authority={}", ca.display());
    // Without the administrator's certificate, which would come first.
    let bare = e2e::Kubectl::new(std::path::Path::new("/dev/null"), &folder);
    let as_pod = |args: &[&str]| bare.run(&[&[token.as_str(), &server, &ca], args].concat());
    let me = as_pod(&["auth", "whoami", "-o", "jsonpath={.status.userInfo}"])?.ok()?;
    ensure!(me.contains(&format!("system:serviceaccount:{}:default", ctx.ns)), "{me}");
    ensure!(me.contains("authentication.kubernetes.io/pod-name") && me.contains("client"), "{me}");
    // Who it is decides what it may: this account may read nothing of the namespace.
    let error = as_pod(&["get", "secrets", "--namespace", &ctx.ns])?.failed()?;
    ensure!(error.contains("(Forbidden)"), "{error}");
    // Bound to the pod: with the pod, the token goes.
    ctx.ok(&["delete", "pod", "client"])?;
    eventually(Duration::from_secs(20), "the token is refused", || {
        let error = as_pod(&["auth", "whoami"])?.failed()?;
        ensure!(error.contains("Unauthorized") || error.contains("must be logged in"), "{error}");
        Ok(())
    })?;
    let without = json!({"automountServiceAccountToken": false, "restartPolicy": "Never"});
    ensure!(ctx.output_of(pod("without", &format!("test -e {dir} || echo none"), without))? == "none\n");
    Ok(())
}

pub fn the_downward_api_is_files(ctx: &Ctx) -> Result<()> {
    let source = json!({"downwardAPI": {"items": [
        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu", "divisor": "1m"}},
    ]}});
    let limits = json!({"containers": [{"name": "main", "resources": {"limits": {"cpu": "300m"}}}]});
    ctx.ready_pod(pod("down", IDLE, e2e::merge(with_volume(source, false), limits)))?;
    ensure!(ctx.sh("down", "cat /v/name; echo; cat /v/labels; echo; cat /v/cpu")? == "down\napp=\"down\"\n300");
    ctx.ok(&["label", "pod/down", "tier=gold"])?;
    eventually(Duration::from_secs(90), "the new label arrives", || {
        ensure!(ctx.sh("down", "cat /v/labels")?.contains("tier=\"gold\""));
        Ok(())
    })
}

pub fn data_in_a_claim_survives_its_pod(ctx: &Ctx) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}},
    });
    let spec = || with_volume(json!({"persistentVolumeClaim": {"claimName": "data"}}), false);
    ctx.apply(&[claim])?;
    ctx.ready_pod(pod("writer", &format!("echo kept > /v/file; {IDLE}"), spec()))?;
    ensure!(ctx.field("pvc/data", ".status.phase")? == "Bound");
    // Ready says that the shell was started, not that it has written.
    ctx.sh("writer", "until [ -s /v/file ]; do :; done")?;
    // A claim in use is not taken away, only marked.
    ctx.ok(&["delete", "pod", "writer"])?;
    ctx.ready_pod(pod("reader", IDLE, spec()))?;
    ensure!(ctx.sh("reader", "cat /v/file")? == "kept");
    let volume = ctx.field("pvc/data", ".spec.volumeName")?;
    ctx.ok(&["delete", "pvc", "data", "--wait=false"])?;
    ensure!(ctx.sh("reader", "cat /v/file")? == "kept", "the claim went from under its pod");
    ctx.ok(&["delete", "pod", "reader"])?;
    ctx.wait("pvc/data", "delete")?;
    // The default class deletes what it made.
    ctx.wait(&format!("pv/{volume}"), "delete")
}

pub fn an_optional_source_may_be_missing_and_a_needed_one_is_waited_for(ctx: &Ctx) -> Result<()> {
    let optional = with_volume(json!({"configMap": {"name": "later", "optional": true}}), false);
    ctx.ready_pod(pod("optional", IDLE, optional))?;
    ensure!(ctx.sh("optional", "ls /v")?.is_empty());
    ctx.apply(&[pod("needy", IDLE, with_volume(json!({"configMap": {"name": "needed"}}), false))])?;
    eventually(Duration::from_secs(30), "an event says why", || {
        let text = ctx.ok(&["get", "events", "--field-selector", "involvedObject.name=needy"])?;
        ensure!(text.contains("FailedMount") && text.contains("\"needed\" not found"), "{text}");
        Ok(())
    })?;
    ctx.ok(&["create", "configmap", "needed", "--from-literal=a=b"])?;
    ctx.wait("pod/needy", "condition=Ready")
}
