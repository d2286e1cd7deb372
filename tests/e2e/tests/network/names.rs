//! Cluster DNS, asked from a pod.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, IDLE, deployment, eventually, httpd, pod, service};
use serde_json::json;

/// The addresses of a name, as a pod sees them.
fn addresses(ctx: &Ctx, name: &str) -> Result<Vec<String>> {
    let said = ctx.sh("client", &format!("nslookup -type=a {name} 2>&1 || true"))?;
    // The first block is the server itself.
    let answer = said.split_once("\n\n").map_or("", |(_, rest)| rest);
    let mut found: Vec<String> = answer
        .lines()
        .filter_map(|l| l.strip_prefix("Address"))
        .filter_map(|l| l.split_whitespace().last())
        .map(str::to_owned)
        .collect();
    ensure!(!found.is_empty(), "no address of {name}: {said}");
    found.sort();
    Ok(found)
}

fn resolves(ctx: &Ctx, name: &str, wanted: &[String]) -> Result<()> {
    eventually(Duration::from_secs(15), &format!("{name} resolves"), || {
        let found = addresses(ctx, name)?;
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");
        Ok(())
    })
}

pub fn services_headless_services_and_pods_have_names(ctx: &Ctx) -> Result<()> {
    let headless = service("db", json!({"clusterIP": "None"}));
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {
            "serviceName": "db", "replicas": 2, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": 2, "containers": [httpd("db")]}},
        },
    });
    ctx.apply(&[headless, set, service("web", json!({})), deployment("web", 1, json!([httpd("web")]))])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    ctx.ok(&["rollout", "status", "statefulset/db", "--timeout=60s"])?;
    let ns = &ctx.ns;
    resolves(ctx, &format!("web.{ns}.svc.cluster.local"), &[ctx.field("service/web", ".spec.clusterIP")?])?;
    let mut pods = vec![ctx.field("pod/db-0", ".status.podIP")?, ctx.field("pod/db-1", ".status.podIP")?];
    resolves(ctx, &format!("db-1.db.{ns}.svc.cluster.local"), &pods[1..])?;
    pods.sort();
    resolves(ctx, &format!("db.{ns}.svc.cluster.local"), &pods)?;
    let dashed = pods[0].replace('.', "-");
    resolves(ctx, &format!("{dashed}.{ns}.pod.cluster.local"), &pods[..1])?;
    // And back.
    let said = ctx.sh("client", &format!("nslookup {} 2>&1", ctx.field("pod/db-0", ".status.podIP")?))?;
    ensure!(said.contains(&format!("db-0.db.{ns}.svc.cluster.local")), "{said}");
    Ok(())
}

pub fn short_names_and_other_namespaces_resolve(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[service("web", json!({})), deployment("web", 1, json!([httpd("found")]))])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    ctx.ok(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    for name in ["web".to_owned(), format!("web.{}", ctx.ns), format!("web.{}.svc", ctx.ns)] {
        eventually(Duration::from_secs(15), &format!("{name} is found"), || {
            let said = ctx.sh("client", &format!("timeout 3 wget -q -O- http://{name}/"))?;
            ensure!(said == "found", "{name}: {said}");
            Ok(())
        })?;
    }
    let api = ctx.instance.kubectl().ok(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"])?;
    resolves(ctx, "kubernetes.default.svc.cluster.local", &[api])
}

pub fn named_ports_and_external_names_resolve(ctx: &Ctx) -> Result<()> {
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "partner"},
        "spec": {"type": "ExternalName", "externalName": "web.example.com"},
    });
    ctx.apply(&[service("web", json!({})), external])?;
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let ask = |kind: &str, name: String, wanted: &str| {
        eventually(Duration::from_secs(15), &format!("{name} resolves"), || {
            let said = ctx.sh("client", &format!("nslookup -type={kind} {name} 2>&1 || true"))?;
            ensure!(said.contains(wanted), "{said}");
            Ok(())
        })
    };
    let base = format!("{}.svc.cluster.local", ctx.ns);
    ask("srv", format!("_http._tcp.web.{base}"), &format!(" 80 web.{base}"))?;
    ask("cname", format!("partner.{base}"), "web.example.com")
}

pub fn an_unknown_name_does_not_exist(ctx: &Ctx) -> Result<()> {
    ctx.ready_pod(pod("client", IDLE, json!({})))?;
    let said = ctx.sh("client", &format!("nslookup none.{}.svc.cluster.local 2>&1 || true", ctx.ns))?;
    ensure!(said.contains("NXDOMAIN") || said.contains("can't find"), "{said}");
    Ok(())
}
