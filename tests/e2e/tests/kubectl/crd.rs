//! Custom resources with the commands people use on any other kind.

use anyhow::{Result, ensure};
use e2e::Ctx;
use serde_json::{Value, json};

/// A definition in a group of the test's own, since definitions have no namespace.
fn definition(group: &str) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "description": "What is to be backed up.",
                "required": ["schedule"],
                "properties": {
                    "schedule": {"type": "string", "description": "When it happens."},
                    "replicas": {"type": "integer", "maximum": 5, "default": 2},
                },
                "x-kubernetes-validations": [{"rule": "self.schedule != 'never'", "message": "it must happen"}],
            },
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("backups.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "backups", "singular": "backup", "kind": "Backup", "shortNames": ["bk"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
                "additionalPrinterColumns": [{"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"}],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

pub fn custom_resources_are_applied_listed_explained_scaled_and_deleted(ctx: &Ctx) -> Result<()> {
    let group = format!("{}.example.com", ctx.ns);
    let crd = format!("crd/backups.{group}");
    ctx.apply(&[definition(&group)])?;
    ctx.ok(&["wait", "--for=condition=Established", &crd, "--timeout=30s"])?;
    let backup = |schedule: &str| {
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": "Backup",
            "metadata": {"name": "nightly"},
            "spec": {"schedule": schedule},
        })
    };
    ctx.apply(&[backup("daily")])?;
    ctx.apply(&[backup("weekly")])?;
    let resource = format!("backups.{group}");
    let table = ctx.ok(&["get", &resource])?;
    let words: Vec<&str> = table.split_whitespace().collect();
    ensure!(words == ["NAME", "SCHEDULE", "nightly", "weekly"], "{table}");
    let explained = ctx.ok(&["explain", &format!("{resource}.spec.schedule")])?;
    ensure!(explained.contains("When it happens."), "{explained}");
    ctx.ok(&["scale", &format!("{resource}/nightly"), "--replicas=4"])?;
    ensure!(ctx.field(&format!("{resource}/nightly"), ".spec.replicas")? == "4");
    let refused =
        ctx.fails(&["patch", &resource, "nightly", "--type=merge", "-p", r#"{"spec":{"schedule":"never"}}"#])?;
    ensure!(refused.contains("it must happen"), "{refused}");
    let refused = ctx.fails(&["scale", &format!("{resource}/nightly"), "--replicas=9"])?;
    ensure!(refused.contains("should be less than or equal to 5"), "{refused}");
    ctx.ok(&["delete", &crd, "--timeout=30s"])?;
    let gone = ctx.fails(&["get", &resource])?;
    ensure!(gone.contains("doesn't have a resource type"), "{gone}");
    Ok(())
}
