//! Pods as objects that a node keeps up to date.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Ctx, IDLE, container, eventually, pod};
use serde_json::{Value, json};

use crate::api::{Api, LIMIT, first_status, is, name_of};
use crate::websocket::Proxy;

fn labelled(name: &str, key: &str, value: &str) -> Value {
    let mut pod = pod(name, IDLE, json!({}));
    pod["metadata"]["labels"] = json!({key: value});
    pod
}

fn listed(api: &Api, selector: &str) -> Result<Vec<Value>> {
    let list = api.get(&api.at(&format!("pods?labelSelector={selector}")))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// What a watch tells of the pods of a selection since a revision, up to now.
fn told_since(api: &Api, selector: &str, revision: &str) -> Result<Vec<(String, Value)>> {
    let query = format!("pods?watch=1&labelSelector={selector}&resourceVersion={revision}&timeoutSeconds=1");
    let lines = match api.get(&api.at(&query))? {
        // One event is a document of its own.
        Value::String(text) => text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?,
        one => vec![one],
    };
    Ok(lines.iter().map(|e| (e["type"].as_str().unwrap_or_default().to_owned(), e["object"].clone())).collect())
}

// conformance: [sig-node] Pods should be submitted and removed
// conformance: [sig-node] Pods should be updated
// conformance: [sig-node] Pods should allow activeDeadlineSeconds to be updated
// conformance: [sig-node] Pods should get a host IP
pub fn a_pod_is_submitted_updated_and_removed(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let before = api.get(&api.at("pods?labelSelector=time%3Dnow"))?;
    ensure!(before["items"].as_array().is_some_and(Vec::is_empty));
    let revision = before["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
    api.create("pods", &labelled("submitted", "time", "now"))?;
    api.create("pods", &labelled("overdue", "time", "short"))?;
    ensure!(listed(&api, "time%3Dnow")?.iter().map(name_of).eq(["submitted"]));
    let up = api.until_pod("submitted", "ready", |p| is(p, "Ready"))?;
    ensure!(up["status"]["hostIP"].as_str().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()), "{up}");
    ensure!(up["status"]["hostIPs"][0]["ip"] == up["status"]["hostIP"]);

    let label = json!({"metadata": {"labels": {"other": "later"}}});
    api.patch(&api.at("pods/submitted"), &label)?;
    eventually(LIMIT, "a PUT meets no other write", || {
        let mut whole = api.pod("submitted")?;
        whole["metadata"]["labels"]["time"] = "updated".into();
        let (code, answer) = api.put(&api.at("pods/submitted"), &whole)?;
        ensure!(code == 200, "{code} {answer}");
        Ok(())
    })?;
    ensure!(
        listed(&api, "time%3Dupdated")?.iter().map(name_of).eq(["submitted"]) && listed(&api, "time%3Dnow")?.is_empty()
    );

    api.until_pod("overdue", "ready", |p| is(p, "Ready"))?;
    api.patch(&api.at("pods/overdue"), &json!({"spec": {"activeDeadlineSeconds": 1}}))?;
    let late = api.until_pod("overdue", "over", |p| p["status"]["phase"] == "Failed")?;
    ensure!(late["status"]["reason"] == "DeadlineExceeded", "{}", late["status"]);

    api.delete(&api.at("pods/submitted"), &json!({"gracePeriodSeconds": 30}))?;
    api.gone("submitted")?;
    ensure!(listed(&api, "other%3Dlater")?.is_empty());
    let told = told_since(&api, "other%3Dlater", &revision)?;
    let (kinds, pods): (Vec<String>, Vec<Value>) = told.into_iter().unzip();
    ensure!(
        kinds.first().map(String::as_str) == Some("ADDED") && kinds.last().map(String::as_str) == Some("DELETED"),
        "{kinds:?}"
    );
    let last = pods.last().context("an event")?;
    ensure!(last["metadata"]["deletionTimestamp"].is_string(), "{last}");
    let earlier = pods
        .iter()
        .any(|p| p["metadata"]["deletionGracePeriodSeconds"] == 30 && p["metadata"]["deletionTimestamp"].is_string());
    ensure!(earlier, "nobody was told that it was being deleted");
    api.clear()
}

// conformance: [sig-node] Pods should delete a collection of pods
pub fn pods_are_deleted_by_selection(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    for name in ["one", "two", "three"] {
        api.create("pods", &labelled(name, "type", "Testing"))?;
    }
    api.create("pods", &labelled("other", "type", "Kept"))?;
    for name in ["one", "two", "three", "other"] {
        api.until_pod(name, "ready", |p| is(p, "Ready"))?;
    }
    ensure!(listed(&api, "type%3DTesting")?.len() == 3);
    let (code, answer) = api.delete(&api.at("pods?labelSelector=type%3DTesting"), &json!({"gracePeriodSeconds": 0}))?;
    ensure!(code == 200, "{answer}");
    eventually(LIMIT, "they are gone", || {
        let left = listed(&api, "type%3DTesting")?;
        ensure!(left.is_empty(), "{} left", left.len());
        Ok(())
    })?;
    ensure!(listed(&api, "type%3DKept")?.len() == 1 && is(&api.pod("other")?, "Ready"));
    api.clear()
}

// conformance: [sig-node] Pods should patch a pod status
// conformance: [sig-node] Pods should run through the lifecycle of Pods and PodStatus
pub fn a_pod_and_its_status_are_patched_and_replaced(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let first = api.create("pods", &labelled("p", "test-pod-static", "true"))?;
    let revision = first["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
    api.until_pod("p", "ready", |p| p["status"]["phase"] == "Running" && is(p, "Ready"))?;
    let patch = json!({
        "metadata": {"labels": {"test-pod": "patched"}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "main", "image": crate::ENTRY_IMAGE}]},
    });
    let began = Instant::now();
    api.patch(&api.at("pods/p"), &patch)?;
    let got = api.pod("p")?;
    // The status of the pod is not ahead of what its next container will make of it.
    let soon = began.elapsed() < Duration::from_millis(900);
    ensure!(!soon || is(&got, "Ready") && is(&got, "ContainersReady"), "{}", got["status"]);
    ensure!(
        got["metadata"]["labels"]["test-pod"] == "patched"
            && got["spec"]["containers"][0]["image"] == crate::ENTRY_IMAGE
    );
    let number = |p: &Value| p["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse::<u64>().ok()).unwrap_or(0);
    ensure!(number(&got) > number(&first));
    // Another image is another container.
    api.until_pod("p", "restarted", |p| {
        crate::api::restarts(p) == 1 && first_status(p)["image"] == crate::ENTRY_IMAGE && is(p, "Ready")
    })?;

    let words = json!({"metadata": {"labels": {"e2e": "patched"}}, "status": {"message": "Patched by a test", "reason": "E2E"}});
    let answer = api.patch(&api.at("pods/p/status"), &words)?;
    ensure!(answer["status"]["message"] == "Patched by a test" && answer["status"]["reason"] == "E2E", "{answer}");
    let replaced = eventually(LIMIT, "a PUT meets no other write", || {
        let mut whole = api.get(&api.at("pods/p/status"))?;
        for c in whole["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if c["type"] == "Ready" || c["type"] == "ContainersReady" {
                c["status"] = "False".into();
            }
        }
        let (code, answer) = api.put(&api.at("pods/p/status"), &whole)?;
        ensure!(code == 200, "{code} {answer}");
        Ok(answer)
    })?;
    ensure!(!is(&replaced, "Ready") && !is(&replaced, "ContainersReady"), "{replaced}");

    let (code, answer) =
        api.delete(&api.at("pods?labelSelector=test-pod-static%3Dtrue"), &json!({"gracePeriodSeconds": 1}))?;
    ensure!(code == 200, "{answer}");
    api.gone("p")?;
    let told = told_since(&api, "test-pod-static%3Dtrue", &revision)?;
    ensure!(told.last().is_some_and(|(kind, _)| kind == "DELETED"), "{told:?}");
    api.clear()
}

// conformance: [sig-node] Pods should support remote command execution over websockets
// conformance: [sig-node] Pods should support retrieving logs from the container over websockets
pub fn commands_and_logs_come_over_websockets(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let script = format!("echo container is alive; {IDLE}");
    api.ready(&pod("p", &script, json!({})))?;
    let proxy = Proxy::start(ctx)?;
    let command = "command=echo&command=remote%20execution%20test&container=main&stdout=1&stderr=1";
    let messages = proxy.messages(&api.at(&format!("pods/p/exec?{command}")), "channel.k8s.io")?;
    let mut said = Vec::new();
    for message in messages.iter().filter(|m| !m.is_empty()) {
        ensure!(message[0] == 1 || message.len() == 1, "a message of channel {}: {message:?}", message[0]);
        said.extend_from_slice(&message[1..]);
    }
    ensure!(said == b"remote execution test\n", "{:?}", String::from_utf8_lossy(&said));
    eventually(LIMIT, "the log is written", || {
        let log = proxy.messages(&api.at("pods/p/log?container=main"), "binary.k8s.io")?.concat();
        ensure!(log == b"container is alive\n", "{:?}", String::from_utf8_lossy(&log));
        Ok(())
    })?;
    api.clear()
}

// conformance: [sig-node] Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update
// conformance: [sig-node] Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete
pub fn the_generation_counts_changes_of_the_spec(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let mut own = pod("p", IDLE, json!({"initContainers": [container("init", "true")]}));
    own["metadata"]["generation"] = 100.into();
    let made = api.create("pods", &own)?;
    ensure!(made["metadata"]["generation"] == 1, "{made}");
    api.until_pod("p", "ready", |p| is(p, "Ready"))?;
    let tolerations = json!([{"key": "foo", "operator": "Equal", "value": "bar", "effect": "NoSchedule"}]);
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value), i64);
    let changes: [Change<'_>; 7] = [
        ("nothing", &|_| {}, 1),
        (
            "a toleration",
            &|p| {
                p["spec"]["tolerations"]
                    .as_array_mut()
                    .expect("a list")
                    .extend(tolerations.as_array().cloned().expect("one"))
            },
            2,
        ),
        ("a deadline", &|p| p["spec"]["activeDeadlineSeconds"] = 5000.into(), 3),
        ("an image", &|p| p["spec"]["containers"][0]["image"] = crate::ENTRY_IMAGE.into(), 4),
        ("an init image", &|p| p["spec"]["initContainers"][0]["image"] = crate::ENTRY_IMAGE.into(), 5),
        ("an annotation", &|p| p["metadata"]["annotations"] = json!({"key": "value"}), 5),
        ("the generation", &|p| p["metadata"]["generation"] = 1.into(), 5),
    ];
    for (what, change, wanted) in changes {
        eventually(LIMIT, what, || {
            let mut pod = api.pod("p")?;
            change(&mut pod);
            let (code, answer) = api.put(&api.at("pods/p"), &pod)?;
            ensure!(code == 200, "{code} {answer}");
            ensure!(answer["metadata"]["generation"] == wanted, "{what}: {}", answer["metadata"]);
            Ok(())
        })?;
        api.until_pod("p", what, |p| {
            p["metadata"]["generation"] == wanted && p["status"]["observedGeneration"] == wanted
        })?;
    }
    api.delete(&api.at("pods/p?gracePeriodSeconds=60"), &json!({}))?;
    let going = api.pod("p")?;
    ensure!(going.is_null() || going["metadata"]["generation"] == 6, "{}", going["metadata"]);
    api.clear()
}

// conformance: [sig-node] Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify generation and observedGeneration eventually converge
pub fn five_hundred_changes_are_all_seen_in_the_end(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    api.ready(&pod("p", IDLE, json!({"activeDeadlineSeconds": 5000})))?;
    for n in 1..500 {
        api.patch(&api.at("pods/p"), &json!({"spec": {"activeDeadlineSeconds": 5000 - n}}))?;
    }
    let pod = api.until_pod("p", "all is seen", |p| p["status"]["observedGeneration"] == 500)?;
    ensure!(pod["metadata"]["generation"] == 500 && is(&pod, "Ready"), "{}", pod["status"]);
    api.clear()
}

// conformance: [sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead
// conformance: [sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead
pub fn a_pod_of_a_runtime_class_is_placed_with_its_overhead(ctx: &Ctx) -> Result<()> {
    let api = Api::new(ctx)?;
    let fixed = json!({"cpu": "10m", "memory": "1Mi"});
    for (name, overhead) in [("bare", Value::Null), ("heavy", json!({"podFixed": fixed}))] {
        let name_of_class = format!("{name}-{}", api.ns);
        let mut class = json!({"metadata": {"name": name_of_class}, "handler": "windlass"});
        if !overhead.is_null() {
            class["overhead"] = overhead.clone();
        }
        let (code, answer) = api.post("/apis/node.k8s.io/v1/runtimeclasses", &class)?;
        ensure!(code == 200, "{answer}");
        api.create("pods", &pod(name, IDLE, json!({"runtimeClassName": name_of_class})))?;
        let placed = api.until_pod(name, "placed", |p| p["spec"]["nodeName"].is_string() && is(p, "PodScheduled"))?;
        ensure!(placed["spec"]["overhead"] == overhead["podFixed"], "{}", placed["spec"]);
        api.until_pod(name, "ready", |p| is(p, "Ready"))?;
        api.delete(&format!("/apis/node.k8s.io/v1/runtimeclasses/{name_of_class}"), &json!({}))?;
    }
    api.clear()
}
