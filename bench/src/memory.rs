//! What stored objects cost in memory: many pods of 3 KiB on nodes that only exist on paper, with owners, labels and
//! everything that keeps them in the caches of the API server and the controllers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::api::namespace;
use crate::client::{Connection, Target};
use crate::processes::{Memory, Server};

/// Bytes of a pod's JSON as it is stored.
const POD_BYTES: usize = 3 << 10;
const NAMESPACES: usize = 20;
const NODES: usize = 100;
/// Pods of one owner.
const SIBLINGS: usize = 100;
/// The nodes renew their leases so often: well within the 40 s after which a node counts as gone.
const RENEW: Duration = Duration::from_secs(10);
/// The server is at rest when it used less than this share of a processor in [`LOOK`].
const REST: f64 = 0.1;
const LOOK: Duration = Duration::from_secs(3);
/// How long to wait for that.
const REST_MAX: Duration = Duration::from_secs(300);
const JSON: &str = "application/json";
const MIB: f64 = 1024.0;

/// Creates `count` pods and prints what each costs.
pub async fn run(kubeconfig: &Path, server: Server, count: usize, connections: usize) -> anyhow::Result<()> {
    let target = Target::read(kubeconfig)?;
    let mut one = target.connect().await?;
    nodes(&mut one).await?;
    let renewing = tokio::spawn(renew(target.clone()));
    for i in 0..NAMESPACES {
        namespace(&mut one, &format!("m{i}")).await?;
    }
    accounts(&mut one).await?;
    let owners = owners(&mut one, count.div_ceil(SIBLINGS)).await?;
    let padding = padding(&mut one, &owners[0]).await?;
    at_rest(server).await?;
    let before = server.memory().context("read the server's memory")?;
    let (started, next) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let owners = Arc::new(owners);
    let mut workers = Vec::new();
    for _ in 0..connections {
        let (target, next, owners) = (target.clone(), next.clone(), owners.clone());
        workers.push(tokio::spawn(async move {
            let mut c = target.connect().await?;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return anyhow::Ok(());
                }
                let path = format!("/api/v1/namespaces/{}/pods", place(i));
                c.call(Method::POST, &path, Some((JSON, pod(i, &owners[i / SIBLINGS], padding)))).await?;
            }
        }));
    }
    for worker in workers {
        worker.await??;
    }
    let took = started.elapsed().as_secs_f64();
    at_rest(server).await?;
    let after = server.memory().context("read the server's memory")?;
    print(count, took, before, after);
    renewing.abort();
    Ok(())
}

/// Prints what a server has in memory that was started with all the objects of before.
pub async fn restarted(kubeconfig: &Path, server: Server) -> anyhow::Result<()> {
    let renewing = tokio::spawn(renew(Target::read(kubeconfig)?));
    at_rest(server).await?;
    let now = server.memory().context("read the server's memory")?;
    let (rss, peak) = (now.rss_kib as f64 / MIB, now.peak_kib as f64 / MIB);
    println!("after a restart with the same objects: {rss:.0} MiB, at most {peak:.0} MiB");
    renewing.abort();
    Ok(())
}

fn print(count: usize, took: f64, before: Memory, after: Memory) {
    println!("| memory of `windlass server` (API, store, controllers) | RSS | peak |\n|---|---|---|");
    let row = |what: &str, m: Memory| {
        println!("| {what} | {:.0} MiB | {:.0} MiB |", m.rss_kib as f64 / MIB, m.peak_kib as f64 / MIB);
    };
    row("before", before);
    row(&format!("with {count} pods of 3 KiB"), after);
    let each = (after.rss_kib.saturating_sub(before.rss_kib)) as f64 * 1024.0 / count as f64;
    println!(
        "\nmemory per stored pod of 3 KiB: {:.1} KiB; {:.0} created per second",
        each / 1024.0,
        count as f64 / took
    );
    let fits = if after.rss_kib <= 1 << 20 { "fit" } else { "do not fit" };
    println!("{count} pods of 3 KiB {fits} in 1 GiB");
}

/// The namespace of a pod: siblings share theirs.
fn place(i: usize) -> String {
    format!("m{}", i / SIBLINGS % NAMESPACES)
}

/// A pod that would run, with environment for padding.
fn pod(i: usize, owner: &Value, padding: usize) -> Bytes {
    let app = format!("app-{}", i / SIBLINGS);
    let container = json!({"name": "main", "image": "registry.example.com/team/service:1.24.3",
        "args": ["--listen=:8080", "--log-level=info"], "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        "env": [{"name": "PADDING", "value": "x".repeat(padding)}]});
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": format!("{app}-7d9c5b8f4-{:05}", i % SIBLINGS),
            "labels": {"app": app, "pod-template-hash": "7d9c5b8f4", "tier": "backend"}, "ownerReferences": [owner]},
        "spec": {"nodeName": format!("paper-{}", i % NODES), "containers": [container],
            "tolerations": [{"operator": "Exists"}]}});
    Bytes::from(body.to_string())
}

/// Makes the objects that own the pods, and the references to them. ConfigMaps: nobody makes or deletes pods for them.
async fn owners(c: &mut Connection, count: usize) -> anyhow::Result<Vec<Value>> {
    let mut out = Vec::new();
    for i in 0..count {
        let name = format!("app-{i}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        let path = format!("/api/v1/namespaces/{}/configmaps", place(i * SIBLINGS));
        let made: Value = serde_json::from_slice(&c.call(Method::POST, &path, Some((JSON, body.into()))).await?)?;
        let uid = &made["metadata"]["uid"];
        out.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "controller": true}));
    }
    Ok(out)
}

/// How much padding makes a pod [`POD_BYTES`] long.
async fn padding(c: &mut Connection, owner: &Value) -> anyhow::Result<usize> {
    let path = format!("/api/v1/namespaces/{}/pods", place(0));
    let made = c.call(Method::POST, &path, Some((JSON, pod(0, owner, 0)))).await?;
    let made: Value = serde_json::from_slice(&made)?;
    let name = made["metadata"]["name"].as_str().context("the pod has a name")?;
    let stored = c.call(Method::GET, &format!("{path}/{name}"), None).await?.len();
    c.call(Method::DELETE, &format!("{path}/{name}?gracePeriodSeconds=0"), None).await?;
    println!("a pod without padding has {stored} bytes; they are made {POD_BYTES} bytes long\n");
    Ok(POD_BYTES.saturating_sub(stored))
}

/// Makes nodes that nobody runs.
async fn nodes(c: &mut Connection) -> anyhow::Result<()> {
    for i in 0..NODES {
        let name = format!("paper-{i}");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string();
        c.call(Method::POST, "/api/v1/nodes", Some((JSON, node.into()))).await?;
        let room = json!({"cpu": "4000", "memory": "16Ti", "pods": "100000"});
        let condition = json!({"type": "Ready", "status": "True", "reason": "KubeletReady"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [condition]}}).to_string();
        let path = format!("/api/v1/nodes/{name}/status");
        c.call(Method::PATCH, &path, Some(("application/merge-patch+json", status.into()))).await?;
    }
    Ok(())
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Says again and again that the nodes are there.
async fn renew(target: Target) -> anyhow::Result<()> {
    let mut c = target.connect().await?;
    loop {
        for i in 0..NODES {
            let name = format!("paper-{i}");
            let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()});
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name}, "spec": spec});
            let path = format!("{LEASES}/{name}?fieldManager=bench&force=true");
            c.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", lease.to_string().into()))).await?;
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// The time in the form of a `MicroTime`.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let (mp, day) = ((5 * doy + 2) / 153, doy - (153 * ((5 * doy + 2) / 153) + 2) / 5 + 1);
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:06}Z", since.subsec_micros())
}

/// Waits until every namespace has its default account, which pods need.
async fn accounts(c: &mut Connection) -> anyhow::Result<()> {
    for i in 0..NAMESPACES {
        let path = format!("/api/v1/namespaces/m{i}/serviceaccounts/default");
        let started = Instant::now();
        while let Err(error) = c.call(Method::GET, &path, None).await {
            anyhow::ensure!(started.elapsed() < REST_MAX, "no account: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Waits until the server does next to nothing.
async fn at_rest(server: Server) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let before = server.usage().context("read the server's CPU time")?.cpu_s;
        tokio::time::sleep(LOOK).await;
        let used = server.usage().context("read the server's CPU time")?.cpu_s - before;
        if used < REST * LOOK.as_secs_f64() {
            return Ok(());
        }
        if started.elapsed() > REST_MAX {
            println!("the server is not at rest: {:.0} % of a processor", 100.0 * used / LOOK.as_secs_f64());
            return Ok(());
        }
    }
}
