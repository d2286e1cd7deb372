use super::*;
use crate::scheduler::Amounts;
use k8s_openapi::api::core::v1::{Node, NodeStatus};

fn amounts(cpu: &str, memory: &str) -> Amounts {
    let list = json!({"cpu": cpu, "memory": memory});
    let status: NodeStatus = serde_json::from_value(json!({"allocatable": list})).expect("a status");
    Amounts::allocatable(&Node { status: Some(status), ..Node::default() })
}

fn container(name: &str, cpu: &str, policy: Option<&str>) -> Value {
    let amount = json!({"cpu": cpu, "memory": "64Mi"});
    let mut c = json!({"name": name, "image": "img", "resources": {"requests": amount, "limits": amount}});
    if let Some(policy) = policy {
        c["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": policy}]);
    }
    c
}

fn resize(w: &mut World, index: usize, cpu: &str) {
    let pod = json!({"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"cpu": cpu, "memory": "64Mi"}});
    let spec = w.pod.spec.as_mut().expect("a spec");
    spec.containers[index].resources = Some(serde_json::from_value(pod).expect("resources"));
    w.pod.metadata.generation = w.pod.metadata.generation.map(|g| g + 1);
    w.log.clear();
    w.settle();
}

fn cpu(w: &World, name: &str) -> (String, String) {
    let status = serde_json::to_value(w.container(name)).expect("a status");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (text(&status["allocatedResources"]["cpu"]), text(&status["resources"]["limits"]["cpu"]))
}

fn has(w: &World, kind: &str) -> bool {
    w.status.conditions.iter().flatten().any(|c| c.type_ == kind)
}

#[test]
fn a_container_gets_other_amounts_while_it_runs() {
    let mut w =
        World::new(json!({"containers": [container("a", "1", None), container("b", "1", Some("NotRequired"))]}));
    w.settle();
    assert_eq!(cpu(&w, "a"), ("1".into(), "1".into()));
    resize(&mut w, 0, "2");
    assert_eq!(w.log, ["resize a"]);
    assert_eq!(cpu(&w, "a"), ("2".into(), "2".into()));
    assert_eq!(w.container("a").restart_count, 0);
    assert!(!has(&w, "PodResizeInProgress") && !has(&w, "PodResizePending"));
    resize(&mut w, 1, "500m");
    assert_eq!(w.log, ["resize b"]);
    resize(&mut w, 1, "500m");
    assert!(w.log.is_empty(), "nothing changed: {:?}", w.log);
}

#[test]
fn a_pod_as_a_whole_gets_other_amounts() {
    let whole = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    let mut w = World::new(
        json!({"resources": whole("1"), "containers": [{"name": "a", "image": "img"}, container("b", "100m", None)]}),
    );
    w.settle();
    let told = |w: &World| {
        let status = serde_json::to_value(&w.status).expect("a status");
        (status["allocatedResources"]["cpu"].clone(), status["resources"]["limits"]["cpu"].clone())
    };
    assert_eq!(told(&w), (json!("1"), json!("1")));
    let ask = |w: &mut World, cpu: &str| {
        let spec = w.pod.spec.as_mut().expect("a spec");
        spec.resources = Some(serde_json::from_value(whole(cpu)).expect("resources"));
        w.log.clear();
        w.settle();
    };
    ask(&mut w, "2");
    assert_eq!(w.log, ["resize a,b"], "containers without limits of their own have the pod's");
    assert_eq!(told(&w), (json!("2"), json!("2")));
    assert!(!has(&w, "PodResizeInProgress"));
    w.room = Some(Room { allocatable: amounts("4", "1Gi"), used: amounts("0", "0") });
    ask(&mut w, "8");
    assert_eq!(w.condition("PodResizePending"), ("True", "Infeasible"));
    assert_eq!(told(&w), (json!("2"), json!("2")));
}

#[test]
fn a_policy_may_ask_for_a_restart_which_is_no_crash() {
    let mut w = World::new(
        json!({"restartPolicy": "OnFailure", "containers": [container("a", "1", Some("RestartContainer"))]}),
    );
    w.settle();
    resize(&mut w, 0, "2");
    let expected = ["resize ", "kill a 30", "pull a", "create a 1", "start a"];
    assert_eq!(w.log, expected);
    assert_eq!(cpu(&w, "a"), ("2".into(), "2".into()));
    assert_eq!(w.container("a").restart_count, 1);
    resize(&mut w, 0, "3");
    assert_eq!(w.did("create a 2"), 1, "no back-off: {:?}", w.log);
    assert!(!has(&w, "PodResizeInProgress"));
}

#[test]
fn what_the_node_cannot_give_now_or_ever_is_told_apart() {
    let mut w = World::new(json!({"containers": [container("a", "1", None)]}));
    w.room = Some(Room { allocatable: amounts("4", "1Gi"), used: amounts("2", "0") });
    w.settle();
    resize(&mut w, 0, "8");
    assert_eq!(w.condition("PodResizePending"), ("True", "Infeasible"));
    resize(&mut w, 0, "3");
    assert_eq!(w.condition("PodResizePending"), ("True", "Deferred"));
    assert_eq!(cpu(&w, "a"), ("1".into(), "1".into()));
    assert!(w.log.is_empty());
    w.room = Some(Room { allocatable: amounts("4", "1Gi"), used: amounts("1", "0") });
    w.settle();
    assert_eq!(w.log, ["resize a"]);
    assert_eq!(cpu(&w, "a"), ("3".into(), "3".into()));
    assert!(!has(&w, "PodResizePending"));
}

#[test]
fn a_resize_that_fails_is_reported_and_tried_again() {
    let mut w = World::new(json!({"containers": [container("a", "1", None)]}));
    w.settle();
    w.stiff = true;
    resize(&mut w, 0, "2");
    assert_eq!(w.condition("PodResizeInProgress"), ("True", "Error"));
    assert_eq!(cpu(&w, "a"), ("2".into(), "1".into()), "allocated, not given");
    w.stiff = false;
    w.pass(60);
    assert_eq!(cpu(&w, "a"), ("2".into(), "2".into()));
    assert!(!has(&w, "PodResizeInProgress"));
}

#[test]
fn an_agent_that_comes_back_goes_on_with_a_resize() {
    let mut w = World::new(json!({"containers": [container("a", "1", None)]}));
    w.settle();
    w.hold = vec!["resize"];
    resize(&mut w, 0, "2");
    assert_eq!(w.condition("PodResizeInProgress").0, "True");
    w.hold.clear();
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.log.clear();
    w.settle();
    assert_eq!(w.did("resize a"), 1, "{:?}", w.log);
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.log.clear();
    w.settle();
    assert_eq!(w.did("resize"), 0, "{:?}", w.log);
}

#[test]
fn an_ephemeral_container_runs_once_and_counts_for_nothing() {
    let mut w = World::one(json!({}));
    w.settle();
    let debug = json!([{"name": "debug", "image": "img", "targetContainerName": "web", "stdin": true}]);
    w.pod.spec.as_mut().expect("a spec").ephemeral_containers = serde_json::from_value(debug).expect("containers");
    w.log.clear();
    w.settle();
    assert_eq!(w.log, ["pull debug", "create debug 0", "start debug"]);
    assert!(w.container("debug").state.as_ref().is_some_and(|s| s.running.is_some()));
    assert_eq!((w.container("debug").ready, w.container("debug").started), (false, None));
    assert_eq!((w.phase(), w.condition("Ready").0), ("Running", "True"));
    w.exit("debug", 1);
    w.pass(600);
    assert_eq!((w.did("create debug"), w.phase()), (1, "Running"));
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.settle();
    assert_eq!(w.did("create debug"), 1);
    w.delete(30);
    assert!(w.finished);
}

#[test]
fn an_ephemeral_container_starts_beside_an_init_container_and_is_stopped_with_the_others() {
    let mut w = World::new(json!({
        "initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "web", "image": "img"}],
    }));
    w.settle();
    let debug = json!([{"name": "debug", "image": "img"}]);
    w.pod.spec.as_mut().expect("a spec").ephemeral_containers = serde_json::from_value(debug).expect("containers");
    w.settle();
    assert!(w.did("start debug") == 1 && w.did("create web") == 0, "{:?}", w.log);
    w.delete(5);
    assert_eq!(w.did("kill debug 5"), 1);
    assert!(w.finished);
}
