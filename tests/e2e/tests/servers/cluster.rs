//! Two servers, one etcd, without nodes and with them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::instance::Instance as Names;
use e2e::{IDLE, IMAGE, Instance, InstanceBuilder, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::host::Host;

/// Longer than the lease of the controllers, on a busy machine.
const HANDOVER_MAX: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(60);

/// An instance that is never made: its ranges are those of the cluster.
fn ranges(label: &str) -> Result<Names> {
    Ok(Names::new(&format!("e2e-{label}-{:x}", std::process::id()))?)
}

fn server(label: &str, etcd: &Etcd, names: &Names, pki: &Path) -> InstanceBuilder {
    Instance::builder(label)
        .without_image()
        .flag("--no-agent")
        .flag("--etcd-endpoints")
        .flag(&etcd.url)
        .flag("--pki-dir")
        .flag(&pki.display().to_string())
        .flag("--pod-cidr")
        .flag(&names.pod_cidr().to_string())
        .flag("--service-cidr")
        .flag(&names.service_cidr().to_string())
}

fn holder(server: &Instance) -> Result<String> {
    let lease = ["get", "lease", "-n", "kube-system", "windlass-controllers", "-o", "jsonpath={.spec.holderIdentity}"];
    let holder = server.kubectl().ok(&lease)?;
    ensure!(!holder.is_empty(), "nobody holds the lease");
    Ok(holder)
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "example.invalid/none"}]},
            },
        },
    })
}

fn apply(server: &Instance, object: &Value) -> Result<String> {
    let text = serde_json::to_vec(object)?;
    server.kubectl().run_for(&["apply", "-f", "-"], Some(&text), LOOK)?.ok()
}

/// Waits until a deployment has its pods, seen through this server, and says how many ReplicaSets made them.
fn pods_of(server: &Instance, name: &str, limit: Duration) -> Result<usize> {
    let count = |what: &str| -> Result<usize> {
        Ok(server.kubectl().ok(&["get", what, "-l", &format!("app={name}"), "-o", "name"])?.lines().count())
    };
    eventually(limit, "the deployment has its pods", || {
        let there = count("pods")?;
        ensure!(there == 3, "{there} pods");
        Ok(())
    })?;
    count("replicasets")
}

/// What is written to one is seen in a watch of the other, and its revision is a conflict there.
fn is_one(a: &Instance, b: &Instance, name: &str) -> Result<()> {
    let object = format!("configmap/{name}");
    let mut waiting = b.kubectl().command(&["wait", &object, "--for=create", "--timeout=60s"]);
    let mut waiting = waiting.stdout(Stdio::null()).spawn()?;
    let created = a.kubectl().ok(&["create", "configmap", name, "--from-literal=k=1"]);
    let status = waiting.wait()?;
    created?;
    ensure!(status.success(), "the watch of the other server did not show it");
    let old = b.kubectl().ok(&["get", &object, "-o", "json"])?;
    a.kubectl().ok(&["patch", &object, "--type=merge", "-p", r#"{"data":{"k":"2"}}"#])?;
    // A read right after the write, on the other server.
    let now = b.kubectl().ok(&["get", &object, "-o", "jsonpath={.data.k}"])?;
    ensure!(now == "2", "the other server shows {now:?}");
    let refused = b.kubectl().run_for(&["replace", "-f", "-"], Some(old.as_bytes()), LOOK)?.failed()?;
    ensure!(refused.contains("the object has been modified"), "{refused}");
    Ok(())
}

pub fn two_servers_are_one_cluster_and_one_of_them_runs_the_controllers() -> Result<()> {
    let etcd = Etcd::start()?;
    let pki = tempfile::tempdir()?;
    let ranges = ranges("ranges")?;
    let a = server("one", &etcd, &ranges, pki.path()).prepare()?;
    a.spawn()?;
    a.wait_api()?;
    let first = eventually(LOOK, "the first server leads", || holder(&a))?;
    let b = server("two", &etcd, &ranges, pki.path()).prepare()?;
    b.spawn()?;
    b.wait_api()?;
    is_one(&a, &b, "from-a")?;
    is_one(&b, &a, "from-b")?;
    apply(&b, &deployment("early"))?;
    ensure!(pods_of(&a, "early", LOOK)? == 1, "more than one server ran the controllers");
    ensure!(holder(&b)? == first, "the lease changed hands without a reason");

    // Killed, it cannot give the lease up: the other takes it when it has run out.
    a.stop(Signal::SIGKILL)?;
    apply(&b, &deployment("late"))?;
    ensure!(pods_of(&b, "late", HANDOVER_MAX)? == 1, "more than one server ran the controllers");
    let second = holder(&b)?;
    ensure!(second != first, "the killed server still holds the lease");

    // Asked to end, it gives the lease up.
    a.spawn()?;
    a.wait_api()?;
    is_one(&b, &a, "again")?;
    b.stop(Signal::SIGTERM)?;
    apply(&a, &deployment("last"))?;
    pods_of(&a, "last", HANDOVER_MAX)?;
    ensure!(holder(&a)? != second, "the server that ended still holds the lease");
    a.down()?;
    b.down()
}

/// The node of each pod with the label, in order.
fn nodes_of(server: &Instance, app: &str) -> Result<Vec<String>> {
    let path = "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}";
    let text = server.kubectl().ok(&["get", "pods", "-l", &format!("app={app}"), "-o", path])?;
    let mut nodes: Vec<String> = text.lines().map(str::to_owned).collect();
    nodes.sort();
    Ok(nodes)
}

// conformance: [sig-architecture] Conformance Tests should have at least two untainted nodes
pub fn two_servers_with_their_nodes_are_a_cluster_with_pods_on_both() -> Result<()> {
    const NODES: [&str; 2] = ["node-a", "node-b"];
    // Two agents on one host would both answer the cluster's DNS: the second has a host of its own.
    let host = Host::new()?;
    let etcd = Etcd::start_at(&host.here)?;
    let pki = tempfile::tempdir()?;
    let services = ranges("nodes")?.service_cidr().to_string();
    let server = |node: &str, starter: &[&str]| {
        let flags = ["--node-name", node, "--etcd-endpoints", &etcd.url, "--service-cidr", &services, "--pki-dir"];
        let builder =
            flags.iter().fold(Instance::builder(node).started_by(starter), |builder, flag| builder.flag(flag));
        builder.flag(&pki.path().display().to_string()).prepare()
    };
    let starter = host.starter();
    let (a, b) = (server(NODES[0], &[])?, server(NODES[1], &starter.each_ref().map(String::as_str))?);
    a.spawn()?;
    a.wait_ready()?;
    b.spawn()?;
    for node in NODES {
        let wait = |what: &str, limit: &str| {
            let args = ["wait", &format!("node/{node}"), what, limit];
            a.kubectl().run_for(&args, None, HANDOVER_MAX)?.ok().with_context(|| b.log_tail())
        };
        wait("--for=create", "--timeout=60s")?;
        wait("--for=condition=Ready", "--timeout=60s")?;
        eventually(LOOK, "the node takes pods", || {
            let keeps_out = ["get", "node", node, "-o", "jsonpath={.spec.taints}{.spec.unschedulable}"];
            let keeps_out = a.kubectl().ok(&keeps_out)?;
            ensure!(keeps_out.is_empty(), "{keeps_out}");
            Ok(())
        })?;
    }
    // One on each.
    let mut spread = deployment("spread");
    spread["spec"]["replicas"] = 2.into();
    let apart = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "spread"}}});
    spread["spec"]["template"]["spec"] = json!({
        "terminationGracePeriodSeconds": 0,
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", IDLE]}],
    });
    apply(&a, &spread)?;
    let available = ["rollout", "status", "deployment/spread", "--timeout=120s"];
    a.kubectl().run_for(&available, None, HANDOVER_MAX * 2)?.ok().with_context(|| a.log_tail() + &b.log_tail())?;
    ensure!(nodes_of(&a, "spread")? == NODES, "{:?}", nodes_of(&a, "spread")?);
    a.kubectl().ok(&["delete", "deployment", "spread"])?;
    b.down()?;
    a.down()
}

fn refusal(server: &Instance) -> Result<String> {
    server.spawn()?;
    let status = eventually(LOOK, "the server ends", || server.exited()?.context("it runs"))?;
    ensure!(status.code() == Some(3), "exit {status}: {}", server.log_tail());
    Ok(server.log())
}

pub fn a_server_that_does_not_belong_to_the_cluster_is_refused() -> Result<()> {
    let etcd = Etcd::start()?;
    let (pki, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (ranges, others) = (ranges("ranges")?, ranges("others")?);
    let a = server("own", &etcd, &ranges, pki.path()).prepare()?;
    a.spawn()?;
    a.wait_api()?;
    let stranger = server("other", &etcd, &ranges, other.path()).prepare()?;
    let log = refusal(&stranger)?;
    ensure!(log.contains("is not that of the cluster in etcd") && log.contains("--pki-dir"), "{log}");
    let elsewhere = server("away", &etcd, &others, pki.path()).prepare()?;
    let log = refusal(&elsewhere)?;
    ensure!(log.contains("--service-cidr"), "{log}");
    let nobody = Instance::builder("nobody").without_image().flag("--no-agent").flag("--etcd-endpoints");
    let nobody = nobody.flag("http://127.0.0.253:9").prepare()?;
    let log = refusal(&nobody)?;
    ensure!(log.contains("no etcd endpoint answers: http://127.0.0.253:9"), "{log}");
    a.kubectl().ok(&["get", "namespaces"])?;
    [a, stranger, elsewhere, nobody].iter().try_for_each(Instance::down)
}
