//! apply, diff, edit, patch, replace, label, annotate: ways to change an object.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use e2e::command::{LIMIT, run};
use e2e::{Ctx, IDLE, container, deployment};
use serde_json::{Value, json};

fn config(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Zero pods: these tests are about the object.
fn idle(name: &str) -> Value {
    deployment(name, 0, json!([container("main", IDLE)]))
}

pub fn apply_is_idempotent_and_diff_shows_the_difference(ctx: &Ctx) -> Result<()> {
    let first = config("settings", json!({"color": "red", "size": "1"}));
    ensure!(ctx.apply(std::slice::from_ref(&first))?.contains("configmap/settings created"));
    ensure!(ctx.apply(std::slice::from_ref(&first))?.contains("configmap/settings unchanged"));
    ensure!(ctx.feed(&["diff", "-f", "-"], &[first])?.code() == 0, "a diff of the same");
    let second = config("settings", json!({"color": "blue", "size": "1"}));
    let diff = ctx.feed(&["diff", "-f", "-"], std::slice::from_ref(&second))?;
    ensure!(diff.code() == 1, "{diff:?}");
    ensure!(diff.stdout.contains("-  color: red") && diff.stdout.contains("+  color: blue"), "{}", diff.stdout);
    ensure!(ctx.field("configmap/settings", ".data.color")? == "red", "diff changed something");
    ensure!(ctx.apply(&[second])?.contains("configured"));
    ensure!(ctx.field("configmap/settings", ".data.color")? == "blue");
    Ok(())
}

pub fn apply_prunes_fields_it_no_longer_names(ctx: &Ctx) -> Result<()> {
    let mut app = idle("app");
    app["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
    ctx.apply(std::slice::from_ref(&app))?;
    // Someone else's field stays; one that the manifest drops goes.
    ctx.ok(&["annotate", "deployment/app", "team=logistics"])?;
    app["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "B", "value": "3"}]);
    ctx.apply(&[app])?;
    let got = ctx.json("deployment/app")?;
    let env = &got["spec"]["template"]["spec"]["containers"][0]["env"];
    ensure!(*env == json!([{"name": "B", "value": "3"}]), "{env}");
    ensure!(got["metadata"]["annotations"]["team"] == "logistics");
    Ok(())
}

pub fn edit_saves_what_the_editor_wrote(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[config("edited", json!({"color": "red"}))])?;
    let editor = ctx.instance.dir().join("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\nexec sed -i 's/color: red/color: green/' \"$1\"\n")?;
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755))?;
    let mut command = ctx.command(&["edit", "configmap/edited"]);
    let said = run(command.env("KUBE_EDITOR", &editor), None, LIMIT)?.ok()?;
    ensure!(said.contains("configmap/edited edited"), "{said}");
    ensure!(ctx.field("configmap/edited", ".data.color")? == "green");
    Ok(())
}

pub fn three_kinds_of_patch_change_a_deployment(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[idle("app")])?;
    let patch = |kind: &str, text: &str| ctx.run(&["patch", "deployment/app", "--type", kind, "-p", text]);
    // Strategic: a container is merged by its name.
    let side = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x:1"}]}}}}"#;
    patch("strategic", side)?.ok()?;
    let names = ".spec.template.spec.containers[*].name";
    let got = ctx.field("deployment/app", names)?;
    ensure!(got.split(' ').collect::<std::collections::BTreeSet<_>>() == ["main", "side"].into(), "{got}");
    let gone = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","$patch":"delete"}]}}}}"#;
    patch("strategic", gone)?.ok()?;
    ensure!(ctx.field("deployment/app", names)? == "main");
    // Merge: null removes, a list is replaced.
    patch("merge", r#"{"metadata":{"annotations":{"a":"1","b":null}},"spec":{"minReadySeconds":2}}"#)?.ok()?;
    ensure!(ctx.field("deployment/app", ".spec.minReadySeconds")? == "2");
    // JSON: a failed test changes nothing.
    let json = r#"[{"op":"test","path":"/spec/minReadySeconds","value":2},{"op":"replace","path":"/spec/minReadySeconds","value":3}]"#;
    patch("json", json)?.ok()?;
    ensure!(ctx.field("deployment/app", ".spec.minReadySeconds")? == "3");
    ensure!(patch("json", json)?.failed()?.contains("test"), "the test operation let it through");
    ensure!(patch("merge", r#"{"spec":{"replicas":-1}}"#)?.failed()?.contains("must be greater than or equal to 0"));
    // The selector of a Deployment cannot change.
    let selector = patch("merge", r#"{"spec":{"selector":{"matchLabels":{"app":"other"}}}}"#)?.failed()?;
    ensure!(selector.contains("selector"), "{selector}");
    Ok(())
}

pub fn server_side_apply_refuses_to_take_anothers_field(ctx: &Ctx) -> Result<()> {
    let apply = |manager: &str, color: &str, more: &[&str]| {
        let flag = format!("--field-manager={manager}");
        let args = [&["apply", "--server-side", &flag, "-f", "-"], more].concat();
        ctx.feed(&args, &[config("shared", json!({"color": color}))])
    };
    ensure!(apply("one", "red", &[])?.ok()?.contains("serverside-applied"));
    let error = apply("two", "blue", &[])?;
    ensure!(error.code() == 1, "{error:?}");
    ensure!(error.stderr.contains("conflict with \"one\"") && error.stderr.contains(".data.color"), "{}", error.stderr);
    ensure!(ctx.field("configmap/shared", ".data.color")? == "red");
    apply("two", "blue", &["--force-conflicts"])?.ok()?;
    ensure!(ctx.field("configmap/shared", ".data.color")? == "blue");
    let managers = ctx.ok(&[
        "get",
        "configmap/shared",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ])?;
    ensure!(managers.contains("two"), "{managers}");
    let error = apply("one", "red", &[])?.failed()?;
    ensure!(error.contains("conflict with \"two\""), "{error}");
    Ok(())
}

pub fn dry_run_server_validates_and_stores_nothing(ctx: &Ctx) -> Result<()> {
    let dry = ["apply", "--dry-run=server", "-f", "-"];
    ensure!(ctx.feed(&dry, &[config("ghost", json!({"a": "b"}))])?.ok()?.contains("created (server dry run)"));
    ensure!(ctx.fails(&["get", "configmap/ghost"])?.contains("NotFound"));
    let mut bad = idle("bad");
    bad["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
    let error = ctx.feed(&dry, &[bad])?.failed()?;
    ensure!(error.contains("spec.template.spec.containers[0].image"), "{error}");
    let mut unknown = idle("unknown");
    unknown["spec"]["replicsa"] = json!(2);
    let error = ctx.feed(&dry, &[unknown])?.failed()?;
    ensure!(error.contains("unknown field") && error.contains("replicsa"), "{error}");
    Ok(())
}

pub fn label_annotate_and_replace_change_metadata(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[config("thing", json!({"a": "b"}))])?;
    ctx.ok(&["label", "configmap/thing", "tier=gold", "team=a"])?;
    ensure!(ctx.fails(&["label", "configmap/thing", "tier=silver"])?.contains("already has a value"));
    ctx.ok(&["label", "configmap/thing", "tier=silver", "team-", "--overwrite"])?;
    ensure!(ctx.field("configmap/thing", ".metadata.labels")? == r#"{"tier":"silver"}"#);
    let bad = r#"{"metadata":{"labels":{"bad":"not valid!"}}}"#;
    ensure!(ctx.fails(&["patch", "configmap/thing", "-p", bad])?.contains("Invalid value: \"not valid!\""));
    ctx.ok(&["annotate", "configmap/thing", "note=a long text, with spaces"])?;
    ensure!(ctx.field("configmap/thing", ".metadata.annotations.note")? == "a long text, with spaces");
    let mut object = ctx.json("configmap/thing")?;
    object["data"] = json!({"c": "d"});
    ctx.feed(&["replace", "-f", "-"], &[object])?.ok()?;
    ensure!(ctx.field("configmap/thing", ".data")? == r#"{"c":"d"}"#);
    Ok(())
}

pub fn a_stale_replace_is_a_conflict(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[config("raced", json!({"n": "1"}))])?;
    let mut stale = ctx.json("configmap/raced")?;
    ctx.ok(&["patch", "configmap/raced", "-p", r#"{"data":{"n":"2"}}"#])?;
    stale["data"]["n"] = json!("3");
    let error = ctx.feed(&["replace", "-f", "-"], &[stale])?.failed()?;
    ensure!(error.contains("the object has been modified"), "{error}");
    ensure!(ctx.field("configmap/raced", ".data.n")? == "2");
    let uid = ctx.field("configmap/raced", ".metadata.uid")?;
    ensure!(uid.len() == 36, "{uid}");
    let mut fresh = ctx.json("configmap/raced").context("read it again")?;
    fresh["data"]["n"] = json!("4");
    ctx.feed(&["replace", "-f", "-"], &[fresh])?.ok()?;
    Ok(())
}
