//! Namespaces and owners: what goes with what.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, container, deployment, eventually, pod, service};
use serde_json::{Value, json};

fn owned(name: &str, owner: &Value, block: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"of": "owner"}, "ownerReferences": [{
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": block,
        }]},
    })
}

// conformance: [sig-api-machinery] Namespaces [Serial] should ensure that all pods are removed when a namespace is deleted
// conformance: [sig-api-machinery] Namespaces [Serial] should ensure that all services are removed when a namespace is deleted
pub fn a_namespace_takes_everything_in_it_along(ctx: &Ctx) -> Result<()> {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    });
    let volume = json!({
        "containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    });
    ctx.apply(&[deployment("app", 2, json!([container("main", IDLE)])), service("app", json!({})), claim])?;
    ctx.ready_pod(pod("holder", IDLE, volume))?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    let all = ctx.instance.kubectl();
    let ns = format!("namespace/{}", ctx.ns);
    let shims = |ctx: &Ctx| ctx.ok(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let uids: Vec<String> = shims(ctx)?.split(' ').map(str::to_owned).collect();
    ensure!(uids.len() == 3, "{uids:?}");
    all.ok(&["delete", &ns, "--timeout=80s"])?;
    ensure!(all.fails(&["get", &ns])?.contains("NotFound"));
    // Not only the objects: the processes as well.
    let processes = e2e::leaks::pids().into_iter().map(e2e::leaks::command_line);
    let left: Vec<String> = processes.filter(|l| uids.iter().any(|u| l.contains(u.as_str()))).collect();
    ensure!(left.is_empty(), "{left:?}");
    // The namespace of the test is expected at its end; a new one of the name has nothing of the old one.
    ctx.ok(&["create", "namespace", &ctx.ns])?;
    for kind in ["pods", "services", "persistentvolumeclaims", "deployments"] {
        let left = ctx.ok(&["get", kind, "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
    }
    ensure!(ctx.fails(&["get", "pod", "holder"])?.contains("NotFound"));
    ensure!(ctx.fails(&["get", "service", "app"])?.contains("NotFound"));
    Ok(())
}

// conformance: [sig-api-machinery] OrderedNamespaceDeletion namespace deletion should delete pod first
pub fn pods_go_before_everything_else_of_a_namespace(ctx: &Ctx) -> Result<()> {
    let mut held = pod("held", IDLE, json!({}));
    held["metadata"]["finalizers"] = json!(["e2e.example.com/finalizer"]);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"key": "value"}});
    ctx.ready_pod(held)?;
    ctx.apply(&[map])?;
    let ns = format!("namespace/{}", ctx.ns);
    ctx.ok(&["delete", &ns, "--wait=false"])?;
    eventually(Duration::from_secs(60), "the namespace has been looked after", || {
        let status = ctx.json(&ns)?["status"].clone();
        let conditions = status["conditions"].as_array().context("conditions")?;
        let told = conditions.iter().any(|c| c["type"] == "NamespaceDeletionContentFailure");
        ensure!(status["phase"] == "Terminating" && told, "{status}");
        Ok(())
    })?;
    eventually(Duration::from_secs(60), "the pod is being deleted", || {
        let time = ctx.field("pod/held", ".metadata.deletionTimestamp")?;
        ensure!(!time.is_empty(), "it is not");
        Ok(())
    })?;
    // As long as the pod is there, all else is untouched.
    let map = ctx.json("configmap/kept")?;
    ensure!(map["metadata"]["deletionTimestamp"].is_null() && map["data"]["key"] == "value", "{map}");
    let free = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
    ctx.ok(&["patch", "pod/held", "--type=json", "-p", free])?;
    ctx.wait("pod/held", "delete")?;
    ctx.wait(&ns, "delete")?;
    ctx.ok(&["create", "namespace", &ctx.ns]).map(drop)
}

// conformance: [sig-api-machinery] Garbage collector should delete RS created by deployment when not orphaning
pub fn dependents_go_in_the_background(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[deployment("app", 1, json!([container("main", IDLE)]))])?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    let owner = ctx.json("deployment/app")?;
    ctx.apply(&[owned("kept-by-app", &owner, false)])?;
    ctx.ok(&["delete", "deployment", "app", "--cascade=background"])?;
    ctx.none_left("replicasets", "app=app")?;
    ctx.none_left("pods", "app=app")?;
    ctx.none_left("configmaps", "of=owner")?;
    // An owner that never was is as good as gone.
    let mut ghost = owner;
    ghost["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
    ctx.apply(&[owned("of-a-ghost", &ghost, false)])?;
    ctx.none_left("configmaps", "of=owner")
}

pub fn dependents_go_first_in_the_foreground(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})])?;
    let mut dependent = owned("dependent", &ctx.json("configmap/owner")?, true);
    dependent["metadata"]["finalizers"] = json!(["example.com/hold"]);
    ctx.apply(&[dependent])?;
    ctx.ok(&["delete", "configmap", "owner", "--cascade=foreground", "--wait=false"])?;
    eventually(Duration::from_secs(20), "the dependent is being deleted", || {
        let time = ctx.field("configmap/dependent", ".metadata.deletionTimestamp")?;
        ensure!(!time.is_empty(), "it is not");
        Ok(())
    })?;
    let finalizers =
        ctx.field("configmap/owner", ".metadata.finalizers").context("the owner waits for its dependent")?;
    ensure!(finalizers.contains("foregroundDeletion"), "{finalizers}");
    ctx.ok(&[
        "patch",
        "configmap/dependent",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
    ])?;
    ctx.wait("configmap/dependent", "delete")?;
    ctx.wait("configmap/owner", "delete")
}

// conformance: [sig-api-machinery] Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan
pub fn orphans_stay_and_are_adopted_again(ctx: &Ctx) -> Result<()> {
    let app = deployment("app", 2, json!([container("main", IDLE)]));
    ctx.apply(std::slice::from_ref(&app))?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    let pods = || -> Result<Vec<String>> {
        let mut uids: Vec<String> =
            ctx.list("pods", "app=app")?.iter().map(|p| p["metadata"]["uid"].to_string()).collect();
        uids.sort();
        Ok(uids)
    };
    let before = pods()?;
    ctx.ok(&["delete", "deployment", "app", "--cascade=orphan"])?;
    let owners = "jsonpath={.items[0].metadata.ownerReferences}";
    eventually(Duration::from_secs(20), "its replica set is an orphan", || {
        let left = ctx.ok(&["get", "replicasets", "-l", "app=app", "-o", owners])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    ensure!(pods()? == before, "orphaning changed the pods");
    ctx.apply(&[app])?;
    ctx.ok(&["rollout", "status", "deployment/app", "--timeout=60s"])?;
    ensure!(ctx.list("replicasets", "app=app")?.len() == 1, "the orphan was not adopted");
    ensure!(pods()? == before, "the adopted pods were restarted");
    Ok(())
}
