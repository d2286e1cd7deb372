use super::*;

fn rules(code: i32) -> Value {
    json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [code]}}]})
}

/// An init container, a sidecar and two containers, of which `source` restarts all of them when it ends with 42.
fn world(source: &str) -> World {
    let mut init = vec![
        json!({"name": "init", "image": "img"}),
        json!({"name": "side", "image": "img", "restartPolicy": "Always"}),
        json!({"name": "last", "image": "img"}),
    ];
    let mut main = vec![json!({"name": "web", "image": "img"}), json!({"name": "other", "image": "img"})];
    for c in init.iter_mut().chain(main.iter_mut()).filter(|c| c["name"] == source) {
        merge(c, rules(42));
        if source == "side" {
            c["restartPolicy"] = json!("Always");
        }
    }
    World::new(json!({"restartPolicy": "Never", "initContainers": init, "containers": main}))
}

/// Brings it up to where all init containers have ended well.
fn begin(w: &mut World) {
    w.settle();
    w.exit("init", 0);
    w.exit("last", 0);
}

fn restarts(w: &World) -> Vec<i32> {
    ["init", "side", "last", "web", "other"].map(|name| w.container(name).restart_count).to_vec()
}

fn last_reason(w: &World, name: &str) -> String {
    let state = w.container(name).last_state.clone().and_then(|s| s.terminated);
    state.and_then(|t| t.reason).unwrap_or_default()
}

#[test]
fn the_whole_pod_begins_anew_in_its_sandbox() {
    let mut w = world("web");
    begin(&mut w);
    assert_eq!(w.condition("AllContainersRestarting").0, "False");
    assert_eq!(w.condition("Ready").0, "True");
    let since = w.log.len();
    w.exit("web", 42);
    let gone = w.log.split_off(since);
    assert_eq!(w.views, [], "{gone:?}");
    assert!(gone.contains(&"kill side 0".to_owned()) && gone.contains(&"kill other 0".to_owned()), "{gone:?}");
    assert_eq!(gone.last().map(String::as_str), Some("remove web 0"), "what set it off goes last");
    assert_eq!(w.phase(), "Running");
    w.log.clear();
    w.pass(1);
    assert_eq!((w.did("start init"), w.did("create side"), w.did("create web")), (1, 0, 0), "{:?}", w.log);
    w.exit("init", 0);
    assert_eq!((w.did("start side"), w.did("start last"), w.did("create web")), (1, 1, 0));
    assert_eq!(w.condition("Initialized").0, "True", "once it was");
    w.exit("last", 0);
    assert_eq!((w.did("start web"), w.did("start other"), w.did("RunSandbox")), (1, 1, 0));
    assert_eq!(restarts(&w), [1; 5]);
    assert_eq!((w.phase(), w.condition("Ready").0), ("Running", "True"));
    assert_eq!(last_reason(&w, "other"), "RestartingAllContainers");
    assert_eq!(w.status.pod_ip.as_deref(), Some("10.0.0.9"));
}

#[test]
fn while_containers_go_the_pod_says_so() {
    let mut w = world("web");
    begin(&mut w);
    w.hold = vec!["kill other"];
    w.exit("web", 42);
    assert_eq!(w.condition("AllContainersRestarting"), ("True", "RestartAllContainersStarted"));
    assert_eq!((w.waiting("side"), w.phase()), ("RestartingAllContainers", "Running"));
    assert_eq!(w.did("remove web"), 0);
    w.hold.clear();
    w.end("other-0", 137);
    w.memory.killed("other", Ok(()), w.now);
    w.settle();
    assert_eq!(w.condition("AllContainersRestarting").0, "False");
    assert_eq!(w.views, []);
}

#[test]
fn any_container_may_set_it_off_and_other_codes_do_not() {
    for source in ["side", "other"] {
        let mut w = world(source);
        begin(&mut w);
        w.exit(source, 42);
        w.pass(1);
        w.exit("init", 0);
        w.exit("last", 0);
        assert_eq!(restarts(&w), [1; 5], "{source}");
    }
    let mut w = world("last");
    w.settle();
    w.exit("init", 0);
    w.exit("last", 42);
    w.pass(1);
    assert_eq!((w.did("start init"), w.did("start last"), w.did("create web")), (2, 1, 0), "{:?}", w.log);
    let mut w = world("web");
    begin(&mut w);
    w.exit("web", 41);
    assert_eq!((w.did("kill"), w.did("remove")), (0, 0));
    assert_eq!(w.did("create web 1"), 0, "its policy is Never");
}

#[test]
fn it_happens_once_for_each_end_and_not_more_than_once_in_a_second() {
    let mut w = World::one(rules(42));
    w.settle();
    for round in 1..4 {
        w.exit("web", 42);
        assert_eq!(w.did(&format!("create web {round}")), 0, "not at once");
        w.pass(1);
        assert_eq!(w.did(&format!("create web {round}")), 1);
        assert_eq!(w.container("web").restart_count, round);
        w.pass(60);
        assert_eq!(w.did("create web"), round as usize + 1);
    }
    w.exit("web", 1);
    assert_eq!(w.phase(), "Failed", "without a rule for it its policy decides");
    assert_eq!(w.condition("AllContainersRestarting"), ("False", "PodFailed"));
}

#[test]
fn an_agent_that_comes_back_goes_on() {
    let mut w = world("web");
    begin(&mut w);
    w.hold = vec!["kill other"];
    w.exit("web", 42);
    w.hold.clear();
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.settle();
    assert_eq!(w.views, [], "what had begun goes on");
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.pass(1);
    w.exit("init", 0);
    w.exit("last", 0);
    assert_eq!(restarts(&w), [1; 5]);
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.settle();
    assert_eq!((restarts(&w), last_reason(&w, "web")), (vec![1; 5], "RestartingAllContainers".to_owned()));
}

#[test]
fn a_pod_that_is_deleted_meanwhile_just_ends() {
    let mut w = world("web");
    begin(&mut w);
    w.hold = vec!["kill other"];
    w.exit("web", 42);
    w.hold.clear();
    w.delete(0);
    w.end("other-0", 137);
    w.memory.killed("other", Ok(()), w.now);
    w.settle();
    assert!(w.finished, "{:?}", w.log);
    assert_eq!(w.did("create"), 5);
}
