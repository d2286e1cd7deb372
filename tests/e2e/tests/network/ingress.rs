//! The HTTP ingress.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Ctx, deployment, eventually, http, httpd, service};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn backend(name: &str) -> [Value; 2] {
    [deployment(name, 1, json!([httpd(name)])), service(name, json!({}))]
}

fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
}

fn ingress(rules: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "front"},
        "spec": {"rules": rules},
    })
}

fn answers(ctx: &Ctx, host: &str, path: &str, wanted: Result<&str, u16>) -> Result<()> {
    eventually(SOON, &format!("http://{host}{path}"), || {
        let got = http::get(ctx.instance.http(), host, path)?;
        let fits = match wanted {
            Ok(body) => got.status == 200 && got.body == body,
            Err(status) => got.status == status,
        };
        ensure!(fits, "answered {} {:?}, not {wanted:?}", got.status, got.body);
        Ok(())
    })
}

pub fn hosts_and_paths_are_routed(ctx: &Ctx) -> Result<()> {
    let rules = json!([
        {"host": "shop.localhost", "http": {"paths": [path("/", "Prefix", "shop"), path("/index.html", "Exact", "exact")]}},
        {"host": "*.tenants.localhost", "http": {"paths": [path("/", "Prefix", "tenant")]}},
        {"host": "stock.localhost", "http": {"paths": [path("/index.html", "Prefix", "stock")]}},
    ]);
    let backends: Vec<Value> = ["shop", "exact", "tenant", "stock"].into_iter().flat_map(backend).collect();
    ctx.apply(&backends)?;
    ctx.apply(&[ingress(rules)])?;
    for name in ["shop", "exact", "tenant", "stock"] {
        ctx.ok(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"])?;
    }
    answers(ctx, "shop.localhost", "/", Ok("shop"))?;
    answers(ctx, "shop.localhost:8080", "/", Ok("shop"))?;
    answers(ctx, "SHOP.localhost", "/index.html", Ok("exact"))?;
    answers(ctx, "acme.tenants.localhost", "/", Ok("tenant"))?;
    answers(ctx, "a.b.tenants.localhost", "/", Err(404))?;
    answers(ctx, "stock.localhost", "/index.html", Ok("stock"))?;
    answers(ctx, "stock.localhost", "/index.html2", Err(404))?;
    answers(ctx, "nobody.localhost", "/", Err(404))
}

pub fn an_ingress_follows_its_service_and_reports_its_address(ctx: &Ctx) -> Result<()> {
    ctx.apply(&backend("one"))?;
    ctx.apply(&backend("two"))?;
    ctx.ok(&["rollout", "status", "deployment/one", "--timeout=60s"])?;
    ctx.ok(&["rollout", "status", "deployment/two", "--timeout=60s"])?;
    ctx.apply(&[ingress(json!([{"host": "follow.localhost", "http": {"paths": [path("/", "Prefix", "one")]}}]))])?;
    answers(ctx, "follow.localhost", "/", Ok("one"))?;
    ctx.wait("ingress/front", "jsonpath={.status.loadBalancer.ingress}")?;
    ctx.apply(&[ingress(json!([{"host": "follow.localhost", "http": {"paths": [path("/", "Prefix", "two")]}}]))])?;
    answers(ctx, "follow.localhost", "/", Ok("two"))?;
    ctx.ok(&["scale", "deployment/two", "--replicas=0"])?;
    answers(ctx, "follow.localhost", "/", Err(503))?;
    ctx.ok(&["scale", "deployment/two", "--replicas=1"])?;
    answers(ctx, "follow.localhost", "/", Ok("two"))?;
    ctx.ok(&["delete", "ingress", "front"])?;
    answers(ctx, "follow.localhost", "/", Err(404))
}

pub fn bodies_and_headers_pass_whole(ctx: &Ctx) -> Result<()> {
    let cgi = "mkdir -p /tmp/w/cgi-bin; printf '#!/bin/sh\\necho X-Back: yes; echo; echo $HTTP_X_ORDER $HTTP_X_FORWARDED_FOR $HTTP_HOST; md5sum\\n' \
               > /tmp/w/cgi-bin/sum; chmod +x /tmp/w/cgi-bin/sum; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/w & while :; do wait $!; done";
    let server = json!([e2e::merge(
        e2e::container("web", cgi),
        json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}})
    )]);
    ctx.apply(&[deployment("sum", 1, server), service("sum", json!({}))])?;
    ctx.apply(&[ingress(json!([{"host": "sum.localhost", "http": {"paths": [path("/", "Prefix", "sum")]}}]))])?;
    ctx.ok(&["rollout", "status", "deployment/sum", "--timeout=60s"])?;
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 253) as u8).collect();
    let sum = e2e::command::run(&mut std::process::Command::new("md5sum"), Some(&body), e2e::command::LIMIT)?.ok()?;
    eventually(SOON, "the body arrives", || {
        let got =
            http::request(ctx.instance.http(), "POST", "sum.localhost", "/cgi-bin/sum", &[("X-Order", "o-17")], &body)?;
        ensure!(got.status == 200 && got.body.contains(sum.split(' ').next().unwrap_or("?")), "{got:?}");
        ensure!(got.body.starts_with("o-17 127.0.0.1 sum.localhost"), "{got:?}");
        ensure!(got.headers.to_lowercase().contains("x-back: yes"), "{got:?}");
        Ok(())
    })
}
