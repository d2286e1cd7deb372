//! An application of three tiers: a frontend that writes to a primary and reads from its replicas.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, container, deployment, eventually, merge};
use serde_json::{Value, json};

/// A container that runs CGI programs, each a name and the lines after its header.
fn programs(port: u16, programs: &[(&str, &str)]) -> Value {
    let mut script = "mkdir -p /www/cgi-bin; touch /tmp/entries; ".to_owned();
    for (name, lines) in programs {
        let program = format!("#!/bin/sh\\nprintf 'Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n'\\n{lines}\\n");
        script.push_str(&format!("printf \"{program}\" > /www/cgi-bin/{name}; chmod +x /www/cgi-bin/{name}; "));
    }
    script.push_str(&format!("trap 'exit 0' TERM; httpd -f -p {port} -h /www & while :; do wait $!; done"));
    let probe = json!({
        "ports": [{"containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    });
    merge(container("main", &script), probe)
}

/// A Deployment and the Service before it.
fn tier(name: &str, replicas: u32, port: u16, container: Value) -> [Value; 2] {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    });
    [service, deployment(name, replicas, json!([container]))]
}

// conformance: [sig-cli] Kubectl client Guestbook application should create and stop a working application
pub fn an_application_of_three_tiers_keeps_what_is_written_to_it(ctx: &Ctx) -> Result<()> {
    let primary = programs(6379, &[("set", "echo \\$QUERY_STRING >> /tmp/entries"), ("get", "cat /tmp/entries")]);
    let replica = programs(6379, &[("get", "wget -q -O- http://primary:6379/cgi-bin/get")]);
    let frontend = programs(
        80,
        &[
            ("set", "wget -q -O- http://primary:6379/cgi-bin/set?\\$QUERY_STRING && echo stored"),
            ("get", "wget -q -O- http://replica:6379/cgi-bin/get"),
        ],
    );
    let objects =
        [tier("primary", 1, 6379, primary), tier("replica", 2, 6379, replica), tier("frontend", 3, 80, frontend)]
            .concat();
    ctx.feed(&["create", "-f", "-"], &objects)?.ok()?;
    for name in ["primary", "replica", "frontend"] {
        ctx.wait(&format!("deployment/{name}"), "condition=Available")?;
    }
    ensure!(ctx.list("pods", "app=frontend")?.len() == 3);
    let ask = |command: &str| {
        let path = format!("/api/v1/namespaces/{}/services/frontend/proxy/cgi-bin/{command}", ctx.ns);
        ctx.ok(&["get", "--raw", &path])
    };
    // Until the endpoints are in place there is nobody behind the services.
    eventually(Duration::from_secs(60), "the guestbook answers", || {
        let entries = ask("get")?;
        ensure!(entries.is_empty(), "{entries}");
        Ok(())
    })?;
    eventually(Duration::from_secs(60), "an entry is stored", || {
        ensure!(ask("set?entry=TestEntry")?.contains("stored"));
        Ok(())
    })?;
    for _ in 0..4 {
        eventually(Duration::from_secs(60), "the entry is read", || {
            let entries = ask("get")?;
            ensure!(entries.lines().any(|l| l == "entry=TestEntry"), "{entries}");
            Ok(())
        })?;
    }
    ctx.feed(&["delete", "--grace-period=0", "--force", "-f", "-"], &objects)?.ok()?;
    for name in ["primary", "replica", "frontend"] {
        ctx.none_left("pods,services,deployments", &format!("app={name}"))?;
    }
    Ok(())
}
