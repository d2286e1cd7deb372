//! Hooks at the start and before the end of a container, which call a server that keeps what it was asked.

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, eventually, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT};
use crate::servers;

/// A pod that others call, and its address.
fn server(api: &Api) -> Result<String> {
    let ready =
        json!({"containers": [{"name": "main", "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]});
    let up = api.ready(&pod("server", &servers::http(8080), ready))?;
    Ok(up["status"]["podIP"].as_str().context("an address")?.to_owned())
}

fn called(api: &Api, line: &str) -> Result<()> {
    eventually(LIMIT, &format!("the server is asked for {line}"), || {
        let log = api.log("server", "main")?;
        ensure!(log.lines().any(|l| l.starts_with(line)), "{log}");
        Ok(())
    })
}

fn with_hook(name: &str, hook: &str, handler: Value) -> Value {
    pod(
        name,
        IDLE,
        json!({"terminationGracePeriodSeconds": 30, "containers": [{"name": "main", "lifecycle": {hook: handler}}]}),
    )
}

// conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly
// conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly
// conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly
// conformance: [sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly
// conformance: [sig-node] PreStop should call prestop when killing a pod
pub fn hooks_run_after_the_start_and_before_the_end(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let ip = server(&api)?;
    let exec = |path: &str| json!({"exec": {"command": ["sh", "-c", format!("wget -q -O - http://{ip}:8080{path}")]}});
    let http = |path: &str| json!({"httpGet": {"host": ip, "port": 8080, "path": path}});
    let rows = [
        ("start-exec", "postStart", exec("/echo?msg=start-exec")),
        ("start-http", "postStart", http("/echo?msg=start-http")),
        ("stop-exec", "preStop", exec("/echo?msg=stop-exec")),
        ("stop-http", "preStop", http("/echo?msg=stop-http")),
    ];
    for (name, hook, handler) in &rows {
        api.create("pods", &with_hook(name, hook, handler.clone()))?;
    }
    for (name, hook, _) in &rows {
        let running = |p: &Value| p["status"]["phase"] == "Running" && crate::api::is(p, "Ready");
        api.until_pod(name, "ready", running)?;
        let line = format!("GET /echo?msg={name} ");
        match *hook {
            // It was called before the container counted as started.
            "postStart" => ensure!(api.log("server", "main")?.lines().any(|l| l.starts_with(&line))),
            _ => ensure!(!api.log("server", "main")?.contains(&line), "called before the end"),
        }
    }
    for (name, hook, _) in &rows {
        api.delete(&api.at(&format!("pods/{name}")), &json!({}))?;
        if *hook == "preStop" {
            called(&api, &format!("GET /echo?msg={name} "))?;
        }
    }
    for (name, ..) in &rows {
        api.gone(name)?;
    }
    api.clear()
}
