//! How pods end for the node's sake: to make room for a critical one, and as the node goes down.

use reconcile::shutdown::Period;
use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::shutdown::ShutdownConfig;

#[tokio::test]
async fn a_critical_pod_takes_the_place_of_others() {
    let world = World::start_with(|config| config.max_pods = 2);
    world.pod("a", json!({}));
    world.pod("b", json!({"priority": 2_000_000_001}));
    world.until_ready("a").await;
    world.until_ready("b").await;
    world.pod("plain", json!({}));
    world.until_pod("plain", "rejected", |p| p["status"]["reason"] == "OutOfpods").await;
    world.pod("critical", json!({"priority": 2_000_000_000}));
    let pod = world.until_pod("a", "preempted", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Preempting");
    assert_eq!(pod["status"]["message"], "Preempted in order to admit critical pod");
    let target = pod["status"]["conditions"].as_array().expect("conditions").iter();
    let target = target.clone().find(|c| c["type"] == "DisruptionTarget").expect("a condition");
    assert_eq!(target["reason"], "TerminationByKubelet");
    world.until_ready("critical").await;
    world.until_event("Preempting").await;
    // There is nobody left of less importance.
    world.pod("late", json!({"priority": 2_000_000_000}));
    let pod = world.until_pod("late", "rejected", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "UnexpectedAdmissionError");
    let message = pod["status"]["message"].as_str().expect("a message");
    assert!(message.contains("no set of running pods found to reclaim resources: [(res: pods, q: 1), ]"), "{message}");
    assert_eq!(condition(&world.until_ready("b").await, "Ready"), Some("True"));
}

#[tokio::test]
async fn a_pod_waits_for_those_that_make_room_for_it() {
    let world = World::start_with(|config| config.max_pods = 1);
    world.runtime.set_stubborn();
    world.pod("a", json!({}));
    world.until_ready("a").await;
    world.pod("critical", json!({"priority": 2_000_000_000}));
    world.until_runtime("asked to end", |r| r.log().iter().any(|l| l == "stop c 30")).await;
    assert!(world.runtime.sandbox("uid-critical").is_none());
    world.pod("plain", json!({}));
    world.until_pod("plain", "rejected", |p| p["status"]["reason"] == "OutOfpods").await;
    world.runtime.exit("uid-a", "c", 0);
    world.until_ready("critical").await;
}

fn down_in(periods: &[(i32, u32)]) -> (watch::Sender<bool>, ShutdownConfig) {
    let (tell, told) = watch::channel(false);
    let periods = periods.iter().map(|(priority, seconds)| Period { priority: *priority, seconds: *seconds }).collect();
    let nowhere = std::path::PathBuf::from("/nonexistent/bus");
    (tell, ShutdownConfig { periods, system_bus: nowhere, power_failure: Some(told), ..ShutdownConfig::default() })
}

fn ready_reason(node: &Value) -> (&str, &str) {
    let list = node["status"]["conditions"].as_array().expect("conditions");
    let ready = list.iter().find(|c| c["type"] == "Ready").expect("a condition");
    (ready["reason"].as_str().unwrap_or_default(), ready["message"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_node_that_goes_down_ends_its_pods_by_their_priority() {
    let (tell, shutdown) = down_in(&[(0, 600), (1000, 300)]);
    let world = World::start_with(|config| config.shutdown = shutdown);
    world.pod("low", json!({"priority": 5, "terminationGracePeriodSeconds": 1000}));
    world.pod("high", json!({"priority": 1000, "terminationGracePeriodSeconds": 1000}));
    world.pod("done", json!({"restartPolicy": "Never"}));
    for name in ["low", "high", "done"] {
        world.until_ready(name).await;
    }
    world.runtime.exit("uid-done", "c", 0);
    world.until_pod("done", "over", |p| p["status"]["phase"] == "Succeeded").await;
    world.runtime.set_stubborn();
    tell.send_replace(true);
    world.until_runtime("asked to end", |r| r.log().iter().any(|l| l == "stop c 600")).await;
    world.pod("new", json!({}));
    let pod = world.until_pod("new", "rejected", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "NodeShutdown");
    assert_eq!(pod["status"]["message"], "Pod was rejected: Pod was rejected as the node is shutting down.");
    let node =
        world.until("/api/v1/nodes/n", "not ready", |o| o.is_some_and(|n| condition(n, "Ready") == Some("False")));
    assert_eq!(ready_reason(&node.await.expect("a node")), ("KubeletNotReady", "node is shutting down"));
    assert!(
        !world.runtime.log().iter().any(|l| l == "stop c 300"),
        "the higher one has time until the lower one ended"
    );
    world.runtime.exit("uid-low", "c", 0);
    world.until_runtime("the next", |r| r.log().iter().any(|l| l == "stop c 300")).await;
    world.runtime.exit("uid-high", "c", 0);
    for name in ["low", "high"] {
        let pod = world.until_pod(name, "ended", |p| p["status"]["phase"] == "Failed").await;
        assert_eq!(pod["status"]["reason"], "Terminated");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(pod["status"]["message"], message);
        assert_eq!(condition(&pod, "DisruptionTarget"), Some("True"));
    }
    let done = world.api.get("/api/v1/namespaces/default/pods/done").expect("a pod");
    assert_eq!(done["status"]["phase"], "Succeeded");
    // It is called off.
    tell.send_replace(false);
    world.until("/api/v1/nodes/n", "ready", |o| o.is_some_and(|n| condition(n, "Ready") == Some("True"))).await;
    world.pod("after", json!({}));
    world.until_ready("after").await;
}
