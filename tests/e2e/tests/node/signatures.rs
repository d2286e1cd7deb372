//! A namespace whose images must be signed: what runs there, and what does not, with an image's registry on loopback.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, eventually, merge, pod};
use serde_json::{Value, json};

use crate::registry::Registry;

const LIMIT: Duration = Duration::from_secs(90);

fn waiting(ctx: &Ctx, name: &str) -> Result<Value> {
    Ok(ctx.json(&format!("pod/{name}"))?["status"]["containerStatuses"][0]["state"]["waiting"].clone())
}

pub fn only_what_is_signed_runs_where_signatures_are_required(ctx: &Ctx) -> Result<()> {
    let registry = Registry::start(ctx)?;
    let dir = ctx.instance.dir().join(format!("keys-{}", ctx.ns));
    std::fs::create_dir_all(&dir)?;
    let path = |name: &str| dir.join(name).display().to_string();
    let image = |args: &[&str], typed: &str| {
        ctx.instance.windlass_with(&[&["image"], args].concat(), Some(typed.as_bytes()), LIMIT)?.ok()
    };
    for prefix in ["good", "bad"] {
        image(&["generate-key-pair", "--output-key-prefix", &path(prefix)], "p\n")?;
    }
    // Three images that differ, and have nothing in this node's store.
    let root = path("root.tar");
    e2e::rootfs_tar(std::path::Path::new(&root))?;
    let named = |name: &str| registry.image().replace("gallery:1", &format!("{name}:1"));
    let push = |as_name: &str, what: &str| -> Result<()> {
        let full = named(as_name);
        image(&["import", &root, "--tag", &full, "--env", &format!("WHAT={what}"), "--entrypoint", "/bin/sh"], "")?;
        image(&["push", &full], "")?;
        image(&["remove", &full], "").map(drop)
    };
    for name in ["signed", "unsigned", "foreign"] {
        push(name, name)?;
    }
    image(&["sign", &named("signed"), "--key", &path("good.key")], "p\n")?;
    image(&["sign", &named("foreign"), "--key", &path("bad.key")], "p\n")?;

    let signers = format!("signers-{}", ctx.ns);
    let keys = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": signers, "namespace": "kube-system"},
        "data": {"good.pub": std::fs::read_to_string(path("good.pub"))?}});
    let kubectl = ctx.instance.kubectl();
    let system = kubectl.in_namespace("kube-system");
    system.run_for(&["apply", "-f", "-"], Some(keys.to_string().as_bytes()), LIMIT)?.ok()?;
    let demand = format!("windlass.dev/require-signature={signers}");
    kubectl.ok(&["annotate", "namespace", &ctx.ns, &demand])?;
    let result = only_signed(ctx, &named, &push);
    system.ok(&["delete", "configmap", &signers])?;
    result
}

fn only_signed(ctx: &Ctx, named: &dyn Fn(&str) -> String, push: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
    let of = |name: &str, image: &str| {
        // A pod that asks for less than its namespace is not believed.
        let less = json!({"metadata": {"annotations": {"windlass.dev/require-signature": "nobody"}}});
        let container = json!([{"name": "main", "image": named(image), "imagePullPolicy": "Always"}]);
        merge(merge(pod(name, IDLE, json!({})), json!({"spec": {"containers": container}})), less)
    };
    ctx.ready_pod(of("signed", "signed"))?;
    let what = |name: &str| ctx.sh(name, "echo $WHAT");
    ensure!(what("signed")?.trim() == "signed");
    for (name, why) in [("unsigned", "no signatures found"), ("foreign", "no signature is of a key")] {
        ctx.apply(&[of(name, name)])?;
        eventually(LIMIT, "the pod is told why it does not run", || {
            let state = waiting(ctx, name)?;
            let message = state["message"].as_str().unwrap_or_default();
            ensure!(
                ["SignatureValidationFailed", "ImagePullBackOff"].contains(&state["reason"].as_str().unwrap_or("")),
                "{state}"
            );
            ensure!(message.contains("because the signature validation failed") && message.contains(why), "{state}");
            ensure!(message.contains("sha256:"), "no digest: {state}");
            Ok(())
        })?;
    }
    // Nobody takes the demand off a pod.
    let kept =
        || ctx.json("pod/unsigned").map(|p| p["metadata"]["annotations"]["windlass.dev/require-signature"].clone());
    let before = kept()?;
    ensure!(before.as_str().is_some_and(|name| name.starts_with("signers-")), "{before}");
    ctx.run(&["annotate", "pod", "unsigned", "windlass.dev/require-signature-"])?;
    ensure!(kept()? == before, "the demand was taken off");

    // The tag moves to what nobody signed: it is not what runs, and what ran is known by its digest.
    let digest =
        ctx.json("pod/signed")?["status"]["containerStatuses"][0]["imageID"].as_str().context("no id")?.to_owned();
    push("signed", "moved")?;
    ctx.apply(&[of("moved", "signed")])?;
    eventually(LIMIT, "the moved tag is refused", || {
        let state = waiting(ctx, "moved")?;
        ensure!(state["message"].as_str().is_some_and(|m| m.contains("no signatures found")), "{state}");
        Ok(())
    })?;
    let by_digest = merge(
        of("exact", "signed"),
        json!({"spec": {"containers": [
        {"name": "main", "image": digest, "imagePullPolicy": "Always"}]}}),
    );
    ctx.ready_pod(by_digest)?;
    ensure!(what("exact")?.trim() == "signed");
    Ok(())
}
