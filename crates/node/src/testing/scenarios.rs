//! An agent, an API server and a runtime: what a user sees.

use serde_json::json;

use super::*;

#[tokio::test]
async fn the_node_registers_and_keeps_its_lease() {
    let world = World::start();
    let node = world
        .until("/api/v1/nodes/n", "registered", |o| o.is_some_and(|n| condition(n, "Ready") == Some("True")))
        .await;
    let node = node.expect("a node");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n");
    assert_eq!(node["status"]["addresses"][0]["address"], "127.0.0.1");
    assert!(node["status"]["allocatable"]["cpu"].is_string());
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
    world.until(lease, "leased", |o| o.is_some_and(|l| l["spec"]["holderIdentity"] == "n")).await;
}

#[tokio::test]
async fn a_pod_runs_becomes_ready_and_is_deleted() {
    let world = World::start();
    world.pod("p", json!({}));
    let pod = world.until_ready("p").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.0.0.1");
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    assert!(
        pod["status"]["containerStatuses"][0]["containerID"].as_str().is_some_and(|i| i.starts_with("windlass://"))
    );
    world.until_event("Started").await;
    world.api.delete_pod("p", 30);
    world.until_gone("p").await;
    assert!(world.runtime.sandbox("uid-p").is_none());
    assert!(!world.dir.path().join("pods/uid-p").exists());
}

#[tokio::test]
async fn a_quiet_pod_is_written_a_few_times_and_not_again() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    let path = "/api/v1/namespaces/default/pods/p";
    let before = world.api.patches(path).len();
    assert!(before <= 4, "{before} writes to come up");
    // Another pod coming and going is an occasion for the first one's worker to act, were there one.
    world.pod("q", json!({}));
    world.until_ready("q").await;
    assert_eq!(world.api.patches(path).len(), before);
}

#[tokio::test]
async fn a_job_pod_succeeds_and_its_message_is_told() {
    let world = World::start();
    world.pod("p", json!({"restartPolicy": "Never"}));
    world.until_ready("p").await;
    let c = world.runtime.container("uid-p", "c").expect("a container");
    let message = c.spec.mounts.iter().find(|m| m.target.ends_with("termination-log")).expect("a mount");
    std::fs::write(&message.source, "done").expect("written");
    world.runtime.exit("uid-p", "c", 0);
    let pod = world.until_pod("p", "succeeded", |p| p["status"]["phase"] == "Succeeded").await;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["message"]), (&json!("Completed"), &json!("done")));
    assert_eq!(condition(&pod, "Ready"), Some("False"));
}

#[tokio::test]
async fn a_crashing_container_is_restarted_and_then_held_back() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.runtime.exit("uid-p", "c", 1);
    world
        .until_pod("p", "restarted", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(p, "Ready") == Some("True")
        })
        .await;
    world.runtime.exit("uid-p", "c", 1);
    let pod =
        world.until_pod("p", "held back", |p| !p["status"]["containerStatuses"][0]["state"]["waiting"].is_null()).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    world.until_event("BackOff").await;
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs() {
    let mut world = World::start();
    world.pod("p", json!({}));
    world.pod("gone", json!({}));
    world.until_ready("p").await;
    world.until_ready("gone").await;
    let before = world.api.get("/api/v1/namespaces/default/pods/p").expect("a pod")["status"].clone();
    world.shutdown().await;
    let log = world.runtime.log().len();
    world.api.remove("/api/v1/namespaces/default/pods/gone");
    world.boot();
    world.until_runtime("the orphan gone", |r| r.sandbox("uid-gone").is_none()).await;
    world.pod("q", json!({}));
    world.until_ready("q").await;
    let after = world.api.get("/api/v1/namespaces/default/pods/p").expect("a pod")["status"].clone();
    assert_eq!(before, after);
    let since = world.runtime.log()[log..].to_vec();
    assert!(!since.iter().any(|l| l.contains("uid-p")), "{since:?}");
    assert!(world.runtime.container("uid-p", "c").is_some_and(|c| c.spec.attempt == 0));
}

#[tokio::test]
async fn a_lost_sandbox_is_replaced() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.runtime.lose("uid-p");
    let pod = world
        .until_pod("p", "back", |p| p["status"]["podIP"] == "10.0.0.2" && condition(p, "Ready") == Some("True"))
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(pod["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
}

#[tokio::test]
async fn images_and_starts_that_fail_are_told() {
    let world = World::start();
    world.pod("p", json!({"containers": [{"name": "c", "image": "missing"}]}));
    let reason = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.until_pod("p", "failing", |p| reason(p) == "ErrImagePull").await;
    world.pod("never", json!({"containers": [{"name": "c", "image": "absent", "imagePullPolicy": "Never"}]}));
    world.until_pod("never", "failing", |p| reason(p) == "ErrImageNeverPull").await;
    world.pod("name", json!({"containers": [{"name": "c", "image": "a b"}]}));
    world.until_pod("name", "failing", |p| reason(p) == "InvalidImageName").await;
    world.runtime.fail_starts(Some("no such file: /nope"));
    world.pod("start", json!({"restartPolicy": "Never"}));
    let pod = world.until_pod("start", "failed", |p| p["status"]["phase"] == "Failed").await;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("StartError"), &json!(128)));
    assert_eq!(end["startedAt"], "1970-01-01T00:00:00Z", "it never did");
}

#[tokio::test]
async fn an_unsupported_pod_fails_by_name_of_the_field() {
    let world = World::start();
    world.pod("p", json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}));
    let pod = world.until_pod("p", "refused", |p| p["status"]["phase"] == "Failed").await;
    assert!(pod["status"]["message"].as_str().is_some_and(|m| m.contains("windowsOptions")));
    assert!(world.runtime.sandbox("uid-p").is_none());
    world.until_event("UnsupportedPodSpec").await;
    world.api.delete_pod("p", 0);
    world.until_gone("p").await;
}

#[tokio::test]
async fn a_stubborn_container_is_killed_at_the_end_of_its_grace_or_sooner_when_asked() {
    let world = World::start();
    world.runtime.set_stubborn();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.api.delete_pod("p", 3600);
    world.until_event("Killing").await;
    world.api.delete_pod("p", 1);
    world.until_gone("p").await;
    assert!(world.runtime.log().iter().any(|l| l == "stop c 3600"));
}

#[tokio::test]
async fn a_pod_removed_by_force_is_cleaned_up() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.api.remove("/api/v1/namespaces/default/pods/p");
    world.until_runtime("cleaned up", |r| r.sandbox("uid-p").is_none()).await;
}

#[tokio::test]
async fn pods_go_on_while_the_api_server_is_away() {
    let world = World::start();
    world.pod("p", json!({}));
    world.until_ready("p").await;
    world.api.set_down(true);
    world.runtime.exit("uid-p", "c", 1);
    world.until_runtime("restarted", |r| r.container("uid-p", "c").is_some_and(|c| c.spec.attempt == 1)).await;
    world.api.set_down(false);
    world.until_pod("p", "reported", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
}

#[tokio::test]
async fn configuration_comes_as_environment_and_files_and_follows_changes() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let world = World::start();
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    let volume = json!({"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "cm"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]}});
    world.pod(
        "p",
        json!({"volumes": [volume], "containers": [{"name": "c", "image": "img", "env": env,
        "args": ["--a=$(A)"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
    );
    world.until_event("FailedMount").await;
    let config_map = |v: &str| json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"f": v}});
    world.api.put("/api/v1/namespaces/default/configmaps", config_map("1"));
    world
        .until_pod("p", "waiting for the secret", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    world.api.put(
        "/api/v1/namespaces/default/secrets",
        json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"k": "dmFs"}}),
    );
    world.until_ready("p").await;
    let c = world.runtime.container("uid-p", "c").expect("a container");
    assert!(c.spec.env.contains(&("A".into(), "val".into())) && c.spec.env.contains(&("IP".into(), "10.0.0.1".into())));
    assert_eq!(c.spec.args, ["--a=val"]);
    let folder = c.spec.mounts.iter().find(|m| m.target.ends_with("v")).expect("a mount").source.clone();
    assert_eq!(std::fs::read_to_string(folder.join("token")).expect("token"), "a.b.c");
    assert_eq!(std::fs::read_to_string(folder.join("name")).expect("name"), "p");
    world.api.put("/api/v1/namespaces/default/configmaps", config_map("2"));
    let wait = async {
        while std::fs::read_to_string(folder.join("f")).expect("file") != "2" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the file follows");
    world.api.delete_pod("p", 0);
    world.until_gone("p").await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn probes_are_made_and_their_failures_told() {
    let world = World::start();
    let flag = world.dir.path().join("flag");
    let check = |file: &std::path::Path| json!({"exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"name": "c", "image": "img", "readinessProbe": check(&flag)});
    world.pod("p", json!({"containers": [container]}));
    world.until_event("Unhealthy").await;
    let pod = world.until_pod("p", "running", |p| p["status"]["phase"] == "Running").await;
    assert_eq!(condition(&pod, "Ready"), Some("False"));
    std::fs::write(&flag, "").expect("flag");
    let pod = world.until_ready("p").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let world = World::start();
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.pod("p", json!({"containers": [{"name": "c", "image": "img", "livenessProbe": probe}]}));
    world.until_pod("p", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let event = world.until_event("Killing").await;
    assert!(event["message"].as_str().is_some_and(|m| m.contains("failed liveness probe")));
}

#[tokio::test]
async fn a_pre_stop_hook_runs_before_the_container_is_stopped() {
    let world = World::start();
    let flag = world.dir.path().join("flag");
    let hook = json!({"preStop": {"exec": {"command": ["touch", &flag]}}});
    world.pod("p", json!({"containers": [{"name": "c", "image": "img", "lifecycle": hook}]}));
    world.until_ready("p").await;
    world.api.delete_pod("p", 30);
    world.until_gone("p").await;
    assert!(flag.exists());
}

#[tokio::test]
async fn a_pod_that_the_node_has_no_room_for_is_rejected_and_takes_none() {
    let world = World::start();
    let port =
        || json!({"containers": [{"name": "c", "image": "img", "ports": [{"containerPort": 1, "hostPort": 8080}]}]});
    world.pod("first", port());
    world.until_ready("first").await;
    world.pod("second", port());
    let pod = world.until_pod("second", "rejected", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "NodePorts");
    let message = pod["status"]["message"].as_str().expect("a message");
    assert!(message.starts_with("Pod was rejected: Predicate NodePorts failed: "), "{message}");
    assert!(pod["status"]["containerStatuses"].is_null() && world.runtime.sandbox("uid-second").is_none());
    let event = world.until_event("NodePorts").await;
    assert_eq!(event["type"], "Warning");
    assert!(event["message"].as_str().is_some_and(|m| m.starts_with("Predicate NodePorts failed")), "{event}");
    let large = json!({"containers": [{"name": "c", "image": "img", "resources": {"requests": {"memory": "900Ti"}}}]});
    world.pod("large", large);
    world.until_pod("large", "rejected", |p| p["status"]["reason"] == "OutOfmemory").await;
    // Neither of the rejected keeps anything from the next.
    world.api.delete_pod("first", 0);
    world.until_gone("first").await;
    world.pod("third", port());
    world.until_ready("third").await;
}

#[tokio::test]
async fn what_runs_stays_when_the_node_has_changed() {
    let mut world = World::start();
    world.until("/api/v1/nodes/n", "registered", |o| o.is_some_and(|n| condition(n, "Ready") == Some("True"))).await;
    world.api.change("/api/v1/nodes/n", |n| n["metadata"]["labels"]["disk"] = json!("ssd"));
    let picky = || json!({"nodeSelector": {"disk": "ssd"}});
    world.pod("p", picky());
    world.until_ready("p").await;
    world.shutdown().await;
    world.api.change("/api/v1/nodes/n", |n| n["metadata"]["labels"]["disk"] = json!("tape"));
    world.boot();
    world.pod("late", picky());
    let late = world.until_pod("late", "rejected", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "NodeAffinity");
    assert_eq!(condition(&world.until_ready("p").await, "Ready"), Some("True"));
}

#[tokio::test]
async fn users_and_signals_are_told_as_the_runtime_has_them() {
    let world = World::start();
    let container = json!({"name": "c", "image": "img", "lifecycle": {"stopSignal": "SIGUSR1"}});
    world.pod("p", json!({"containers": [container], "os": {"name": "linux"}}));
    let pod = world.until_ready("p").await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["stopSignal"], "SIGUSR1");
    assert_eq!(status["user"], json!({"linux": {"uid": 7, "gid": 8, "supplementalGroups": [8, 9]}}));
}
