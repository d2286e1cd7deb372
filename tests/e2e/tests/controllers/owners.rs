//! ReplicationControllers and pods that own each other: who goes, who stays, and in which order.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, pod};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// Pods of the larger controllers.
const MANY: usize = 10;

/// Whether the pods run, or wait for a node that is not there: what becomes of them is the same, and it is less work.
#[derive(Clone, Copy, PartialEq)]
enum Pods {
    Run,
    Wait,
}

fn controller(name: &str, replicas: usize, pods: Pods) -> Value {
    let labels = json!({"app": name});
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", IDLE)]});
    if pods == Pods::Wait {
        spec["nodeSelector"] = json!({"example.com/no": "node"});
    }
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": labels, "template": {"metadata": {"labels": labels}, "spec": spec}}})
}

/// Makes a controller and waits for all of its pods.
fn made(ctx: &Ctx, name: &str, pods: Pods) -> Result<Vec<Value>> {
    ctx.apply(&[controller(name, MANY, pods)])?;
    ctx.wait(&format!("rc/{name}"), &format!("jsonpath={{.status.replicas}}={MANY}"))?;
    let pods = ctx.list("pods", &format!("app={name}"))?;
    ensure!(pods.len() == MANY, "{} pods", pods.len());
    Ok(pods)
}

fn names(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|p| p["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn owned_by(ctx: &Ctx, pod: &str, owner: &Value, more: Value) -> Result<()> {
    let mut reference = json!({"apiVersion": "v1", "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"]});
    if let (Some(reference), Value::Object(more)) = (reference.as_object_mut(), more) {
        reference.extend(more);
    }
    let patch = json!({"metadata": {"ownerReferences": [reference]}}).to_string();
    ctx.ok(&["patch", "pod", pod, "--type=strategic", "-p", &patch]).map(drop)
}

// conformance: [sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning
pub fn pods_go_with_their_controller_in_the_background(ctx: &Ctx) -> Result<()> {
    ctx.apply(&[controller("gone", 2, Pods::Run)])?;
    // Not all of them need to be there: the controller may go before it has made them.
    eventually(LIMIT, "it has made a pod", || {
        ensure!(!ctx.list("pods", "app=gone")?.is_empty(), "none");
        Ok(())
    })?;
    ctx.ok(&["delete", "rc", "gone", "--cascade=background"])?;
    ctx.none_left("rc", "app=gone")?;
    ctx.none_left("pods", "app=gone")
}

// conformance: [sig-api-machinery] Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so
pub fn a_controller_stays_until_its_last_pod_is_gone(ctx: &Ctx) -> Result<()> {
    let pods = made(ctx, "last", Pods::Run)?;
    let held = names(&pods).pop_first().context("a pod")?;
    ctx.ok(&["patch", "pod", &held, "--type=merge", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#])?;
    ctx.ok(&["delete", "rc", "last", "--cascade=foreground", "--wait=false"])?;
    eventually(LIMIT, "only the pod that is held is left", || {
        let left = names(&ctx.list("pods", "app=last")?);
        ensure!(left.len() == 1 && left.contains(&held), "{left:?}");
        Ok(())
    })?;
    let waiting = ctx.json("rc/last")?;
    ensure!(waiting["metadata"]["deletionTimestamp"].is_string(), "{waiting}");
    ensure!(waiting["metadata"]["finalizers"] == json!(["foregroundDeletion"]), "{waiting}");
    ctx.ok(&["patch", "pod", &held, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    ctx.wait("rc/last", "delete")?;
    let left = ctx.list("pods", "app=last")?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

// conformance: [sig-api-machinery] Garbage collector should orphan pods created by rc if delete options say so
pub fn pods_that_are_orphaned_stay_and_belong_to_nobody(ctx: &Ctx) -> Result<()> {
    let before = names(&made(ctx, "parent", Pods::Wait)?);
    ctx.ok(&["delete", "rc", "parent", "--cascade=orphan"])?;
    ctx.none_left("rc", "app=parent")?;
    // The controller goes last: what is to be done to its pods has been done.
    let pods = ctx.list("pods", "app=parent")?;
    ensure!(names(&pods) == before, "{:?} of {before:?}", names(&pods));
    for pod in &pods {
        let meta = &pod["metadata"];
        ensure!(meta["deletionTimestamp"].is_null() && meta["ownerReferences"].is_null(), "{meta}");
    }
    Ok(())
}

// conformance: [sig-api-machinery] Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted
pub fn pods_with_another_owner_stay(ctx: &Ctx) -> Result<()> {
    let pods = names(&made(ctx, "goes", Pods::Wait)?);
    ctx.apply(&[controller("stays", 0, Pods::Run)])?;
    let stays = ctx.json("rc/stays")?;
    let shared: BTreeSet<String> = pods.into_iter().take(MANY / 2).collect();
    for name in &shared {
        owned_by(ctx, name, &stays, json!({}))?;
    }
    ctx.ok(&["delete", "rc", "goes", "--cascade=foreground"])?;
    ctx.wait("rc/goes", "delete")?;
    let left = ctx.list("pods", "app=goes")?;
    ensure!(names(&left) == shared, "{:?} of {shared:?}", names(&left));
    for pod in &left {
        let meta = &pod["metadata"];
        ensure!(meta["deletionTimestamp"].is_null(), "{meta}");
        let owners = meta["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(owners.len() == 1 && owners[0]["uid"] == stays["metadata"]["uid"], "{owners:?}");
    }
    Ok(())
}

// conformance: [sig-api-machinery] Garbage collector should not be blocked by dependency circle
pub fn a_circle_of_owners_is_no_obstacle(ctx: &Ctx) -> Result<()> {
    let members = ["pod1", "pod2", "pod3"];
    let circle = |name: &str| {
        let mut pod = pod(name, IDLE, json!({}));
        pod["metadata"]["labels"] = json!({"in": "circle"});
        pod
    };
    ctx.apply(&members.map(circle))?;
    for (i, member) in members.iter().enumerate() {
        let owner = ctx.json(&format!("pod/{}", members[(i + 2) % 3]))?;
        owned_by(ctx, member, &owner, json!({"controller": true, "blockOwnerDeletion": true}))?;
    }
    ctx.ok(&["delete", "pod", "pod1", "--cascade=foreground", "--wait=false"])?;
    ctx.none_left("pods", "in=circle")
}
