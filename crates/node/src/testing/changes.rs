//! What can change in a pod that runs: more containers, other amounts.

use serde_json::json;

use super::*;

fn sized(cpu: &str) -> Value {
    let amount = json!({"cpu": cpu, "memory": "64Mi"});
    json!({"requests": amount, "limits": amount})
}

#[tokio::test]
async fn an_ephemeral_container_joins_its_targets_processes_and_is_reported() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.api.change("/api/v1/namespaces/default/pods/p", |pod| {
        let debug = json!([{"name": "debug", "image": "tool", "stdin": true, "tty": true, "targetContainerName": "c"}]);
        pod["spec"]["ephemeralContainers"] = debug;
        pod["metadata"]["generation"] = 2.into();
    });
    let up = |p: &Value| p["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object();
    let pod = world.until_pod("p", "debugged", up).await;
    assert_eq!(pod["status"]["ephemeralContainerStatuses"][0]["image"], "tool");
    assert_eq!(pod["status"]["observedGeneration"], 2);
    let target = world.runtime.container("uid-p", "c").expect("a container").spec.id;
    let spec = world.runtime.container("uid-p", "debug").expect("a container").spec;
    assert_eq!((spec.pid_of, spec.tty, spec.stdin), (Some(target), true, true));
    world.runtime.exit("uid-p", "debug", 3);
    let ended = |p: &Value| p["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3;
    let pod = world.until_pod("p", "over", ended).await;
    assert_eq!(condition(&pod, "Ready"), Some("True"));
}

#[tokio::test]
async fn a_resize_reaches_the_pod_before_the_container_and_restarts_nothing() {
    let world = World::start();
    world.pod("p", json!({"containers": [{"name": "c", "image": "img", "resources": sized("1")}]}));
    world.until_ready("p").await;
    world.api.change("/api/v1/namespaces/default/pods/p", |pod| {
        pod["spec"]["containers"][0]["resources"] = sized("2");
        pod["metadata"]["generation"] = 2.into();
    });
    let resized = |p: &Value| p["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] == "2";
    let pod = world.until_pod("p", "resized", resized).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "2");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let log = world.runtime.log();
    let changes: Vec<&str> = log.iter().filter(|l| l.starts_with("update")).map(String::as_str).collect();
    assert_eq!(changes, ["update pod 200000", "update c 200000"]);
    world.until_pod("p", "done", |p| condition(p, "PodResizeInProgress").is_none()).await;
}

#[tokio::test]
async fn more_than_the_node_has_is_infeasible() {
    let world = World::start();
    world.pod("p", json!({"containers": [{"name": "c", "image": "img", "resources": sized("1m")}]}));
    world.until_ready("p").await;
    let ask = |cpu: &str| {
        world.api.change("/api/v1/namespaces/default/pods/p", |pod| {
            pod["spec"]["containers"][0]["resources"] = sized(cpu);
        });
    };
    ask("100000");
    let refused = |p: &Value| condition(p, "PodResizePending") == Some("True");
    let pod = world.until_pod("p", "refused", refused).await;
    let list = pod["status"]["conditions"].as_array().expect("conditions");
    let pending = list.iter().find(|c| c["type"] == "PodResizePending").expect("a condition");
    assert_eq!(pending["reason"], "Infeasible");
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "1m");
    ask("1m");
    world.until_pod("p", "withdrawn", |p| condition(p, "PodResizePending").is_none()).await;
}
