use super::*;
use crate::containergc;

#[test]
fn a_pod_comes_up_and_is_running_and_ready() {
    let mut w = World::one(json!({}));
    w.settle();
    assert_eq!(w.log, ["MountVolumes", "RunSandbox", "pull web", "create web 0", "start web"]);
    assert_eq!(w.phase(), "Running");
    assert_eq!(w.condition("Ready").0, "True");
    assert_eq!(w.status.pod_ip.as_deref(), Some("10.0.0.9"));
    assert_eq!(w.container("web").container_id.as_deref(), Some("windlass://web-0"));
}

#[test]
fn nothing_is_created_before_volumes_and_sandbox_are_there() {
    for held in ["MountVolumes", "RunSandbox", "pull"] {
        let mut w = World::one(json!({}));
        w.hold = vec![held];
        w.settle();
        assert_eq!(w.did("create"), 0, "{held}");
        assert_eq!((w.phase(), w.waiting("web")), ("Pending", "ContainerCreating"));
    }
}

#[test]
fn containers_are_created_in_order_and_a_post_start_hook_holds_back_the_next() {
    let mut w = World::new(json!({"containers": [
        {"name": "a", "image": "img", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}},
        {"name": "b", "image": "img"},
    ]}));
    w.hold = vec!["postStart"];
    w.settle();
    assert_eq!(w.did("create b"), 0);
    assert_eq!(w.condition("Ready").0, "False");
    w.memory.post_start_done("a", "a-0", Ok(()));
    w.settle();
    assert_eq!(w.did("start b"), 1);
    assert_eq!(w.condition("Ready").0, "True");
}

#[test]
fn a_failed_post_start_hook_kills_the_container() {
    let mut w = World::one(json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}));
    w.hold = vec!["postStart"];
    w.settle();
    w.memory.post_start_done("web", "web-0", Err(Failure::new("FailedPostStartHook", "no")));
    w.settle();
    assert_eq!(w.did("kill web"), 1);
    assert_eq!(w.did("create web 1"), 1);
}

#[test]
fn a_restart_under_way_is_not_reported_as_held_back() {
    let mut w = World::one(json!({}));
    w.settle();
    w.hold = vec!["create web 1"];
    w.exit("web", 1);
    assert_eq!((w.did("create web 1"), w.waiting("web")), (1, ""));
    let state = w.container("web").state.clone().expect("a state");
    assert_eq!(state.terminated.map(|t| t.exit_code), Some(1));
}

#[test]
fn crashes_back_off_from_ten_seconds_to_five_minutes() {
    let mut w = World::one(json!({}));
    w.settle();
    w.exit("web", 1);
    assert_eq!(w.did("create web 1"), 1, "the first restart is at once");
    for (n, delay) in [10i64, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        let next = n + 2;
        w.exit("web", 1);
        assert_eq!(w.waiting("web"), "CrashLoopBackOff");
        assert_eq!(w.phase(), "Running");
        assert_eq!(w.wake_at, Some(w.now + SignedDuration::from_secs(delay)));
        w.pass(delay - 1);
        assert_eq!(w.did(&format!("create web {next}")), 0);
        w.pass(1);
        assert_eq!(w.did(&format!("create web {next}")), 1, "after {delay} s");
        assert_eq!(w.container("web").restart_count, next as i32);
    }
    w.pass(601);
    w.exit("web", 1);
    assert_eq!(w.did("create web 9"), 1, "a run of more than ten minutes resets the back-off");
}

#[test]
fn as_many_dead_runs_are_kept_as_the_node_keeps() {
    for (most, expected) in [(Some(1), &[2, 3][..]), (Some(0), &[3]), (Some(2), &[1, 2, 3]), (None, &[0, 1, 2, 3])] {
        let mut w = World::one(json!({}));
        w.memory.keep(containergc::Policy { most_of_each: most, ..containergc::Policy::default() });
        w.settle();
        for _ in 0..3 {
            w.exit("web", 1);
            w.pass(400);
        }
        let kept: Vec<u32> = w.views.iter().map(|v| v.attempt).collect();
        assert_eq!(kept, expected);
        // What it ended with stays known, also to the next agent.
        for _ in 0..2 {
            let last = w.container("web").last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("an end");
            assert_eq!((last.exit_code, last.container_id.as_deref()), (1, Some("windlass://web-2")));
            w.memory = Memory::adopt(&w.status, &w.views, w.now);
            w.memory.keep(containergc::Policy { most_of_each: most, ..containergc::Policy::default() });
            w.settle();
        }
    }
}

#[test]
fn a_dead_run_that_tells_when_to_start_again_stays_and_young_ones_do() {
    let mut w = World::one(json!({}));
    w.memory.keep(containergc::Policy {
        most_of_each: Some(0),
        least_age: SignedDuration::from_secs(60),
        ..containergc::Policy::default()
    });
    w.settle();
    w.exit("web", 1);
    w.pass(1);
    w.exit("web", 1);
    assert_eq!(w.views.len(), 2, "both are young");
    assert_eq!(w.waiting("web"), "CrashLoopBackOff");
    w.memory.discard(["web-0".to_owned()].into());
    w.settle();
    assert_eq!(w.views.len(), 1, "the node may have too many of them");
    w.memory.discard(["web-1".to_owned()].into());
    w.settle();
    assert_eq!(w.views.len(), 1, "the last one is needed");
    w.memory.discard([].into());
    assert_eq!(w.container("web").restart_count, 1);
    w.pass(20);
    assert_eq!(w.views.len(), 2, "it was started again");
    w.pass(60);
    assert_eq!(w.views.iter().map(|v| v.attempt).collect::<Vec<_>>(), [2], "{:?}", w.log);
}

#[test]
fn a_container_that_is_replaced_is_away_for_a_moment_before_the_status_says_so() {
    let mut w = World::one(json!({}));
    w.settle();
    assert_eq!(w.plan().report_at, None);
    w.pod.spec.as_mut().expect("spec").containers[0].image = Some("other".into());
    w.hold = vec!["pull"];
    w.settle();
    assert_eq!((w.did("kill"), w.plan().report_at), (1, Some(w.now + SignedDuration::from_secs(1))));
    assert_eq!(w.condition("Ready").0, "False");
    assert_eq!(w.wake_at, w.plan().report_at, "it is looked again then");
    w.now += SignedDuration::from_secs(1);
    assert_eq!(w.plan().report_at, None, "it takes longer");
    // One that ended by itself is told of at once.
    let mut w = World::one(json!({}));
    w.settle();
    w.hold = vec!["create"];
    w.exit("web", 1);
    assert_eq!(w.plan().report_at, None);
}

#[test]
fn of_a_pod_that_is_over_the_status_stays_when_its_containers_go() {
    let mut w = World::one(json!({"restartPolicy": "Never"}));
    w.settle();
    w.exit("web", 3);
    let before = w.status.clone();
    assert_eq!((w.phase(), w.views.len()), ("Failed", 1), "the last run stays, whatever the limit");
    w.memory.discard(["web-0".to_owned()].into());
    w.settle();
    assert!(w.views.is_empty(), "{:?}", w.log);
    assert_eq!(w.status, before);
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.settle();
    assert_eq!(w.status, before);
}

#[test]
fn pods_end_as_their_policy_says() {
    for (policy, code, phase, restarted) in [
        ("Never", 0, "Succeeded", false),
        ("Never", 3, "Failed", false),
        ("OnFailure", 0, "Succeeded", false),
        ("OnFailure", 3, "Running", true),
        ("Always", 0, "Running", true),
    ] {
        let mut w = World::one(json!({}));
        w.pod.spec.as_mut().expect("spec").restart_policy = Some(policy.into());
        w.settle();
        w.exit("web", code);
        assert_eq!(w.phase(), phase, "{policy} {code}");
        assert_eq!(w.did("create web 1") == 1, restarted, "{policy} {code}");
        assert_eq!(w.did("StopSandbox") == 1, !restarted, "{policy} {code}");
        assert!(!w.finished);
    }
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let mut w = World::new(json!({
        "initContainers": [{"name": "i1", "image": "img"}, {"name": "i2", "image": "img"}],
        "containers": [{"name": "web", "image": "img"}],
    }));
    w.settle();
    assert_eq!((w.did("start i1"), w.did("create i2"), w.did("create web")), (1, 0, 0));
    assert_eq!((w.phase(), w.waiting("i2"), w.waiting("web")), ("Pending", "PodInitializing", "PodInitializing"));
    assert_eq!(w.condition("Initialized"), ("False", "ContainersNotInitialized"));
    w.exit("i1", 1);
    assert_eq!(w.did("create i1 1"), 1);
    w.exit("i1", 0);
    assert_eq!((w.did("start i2"), w.did("create web")), (1, 0));
    w.exit("i2", 0);
    assert_eq!((w.did("start web"), w.phase()), (1, "Running"));
    assert_eq!(w.condition("Initialized").0, "True");
    assert!(w.container("i1").ready);
}

#[test]
fn a_failed_init_container_of_a_never_pod_fails_it() {
    let mut w = World::new(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "img"}],
        "containers": [{"name": "web", "image": "img"}],
    }));
    w.settle();
    w.exit("i", 7);
    assert_eq!(w.phase(), "Failed");
    assert_eq!(w.did("create web"), 0);
    assert_eq!(w.condition("Ready"), ("False", "PodFailed"));
}

#[test]
fn sidecars_start_first_and_stop_last_in_reverse() {
    let sidecar = |name: &str| json!({"name": name, "image": "img", "restartPolicy": "Always"});
    let mut w = World::new(json!({
        "restartPolicy": "Never",
        "initContainers": [sidecar("s1"), {"name": "i", "image": "img"}, sidecar("s2")],
        "containers": [{"name": "web", "image": "img"}],
    }));
    w.settle();
    assert_eq!((w.did("start s1"), w.did("start i"), w.did("create s2")), (1, 1, 0));
    w.exit("i", 0);
    assert!(w.order("start s2", "create web"));
    w.exit("s1", 1);
    assert_eq!(w.did("create s1 1"), 1, "a sidecar is restarted whatever the policy");
    w.exit("web", 0);
    assert!(w.order("kill s2", "kill s1"));
    assert_eq!(w.phase(), "Succeeded");
}

#[test]
fn a_sidecar_that_is_not_started_holds_back_the_rest() {
    let mut w = World::new(json!({
        "initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always",
            "startupProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1}}],
        "containers": [{"name": "web", "image": "img"}],
    }));
    w.probe = Outcome::Failure;
    w.settle();
    assert_eq!((w.did("create web"), w.phase()), (0, "Pending"));
    w.probe = Outcome::Success;
    w.pass(1);
    assert_eq!((w.did("create web"), w.phase()), (1, "Running"));
}

#[test]
fn ready_means_probed() {
    let mut w =
        World::one(json!({"readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 5, "failureThreshold": 2}}));
    w.hold = vec!["probe"];
    w.settle();
    assert_eq!((w.phase(), w.condition("Ready")), ("Running", ("False", "ContainersNotReady")));
    w.hold.clear();
    w.memory.probed(&w.pod.clone(), "web", "web-0", Kind::Readiness, Outcome::Success, w.now);
    w.settle();
    assert_eq!(w.condition("Ready").0, "True");
    w.probe = Outcome::Failure;
    w.pass(5);
    assert_eq!(w.condition("Ready").0, "True", "one failure of two");
    w.pass(5);
    assert_eq!(w.condition("Ready").0, "False");
    assert_eq!(w.did("kill"), 0);
}

#[test]
fn liveness_waits_for_startup_and_kills_with_its_own_grace() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 4});
    let mut w =
        World::one(json!({"startupProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1}, "livenessProbe": probe}));
    w.probe = Outcome::Failure;
    w.settle();
    assert_eq!(w.did("probe web Liveness"), 0);
    assert_eq!(w.container("web").started, Some(false));
    w.probe = Outcome::Success;
    w.pass(1);
    assert_eq!(w.container("web").started, Some(true));
    w.probe = Outcome::Failure;
    w.pass(1);
    assert_eq!(w.did("kill"), 0);
    w.pass(1);
    assert_eq!(w.did("kill web 4"), 1);
    assert_eq!(w.did("create web 1"), 1);
}

#[test]
fn failed_pulls_back_off_and_say_so() {
    let mut w = World::one(json!({}));
    w.no_image = true;
    w.settle();
    assert_eq!((w.phase(), w.waiting("web")), ("Pending", "ErrImagePull"));
    w.pass(5);
    assert_eq!(w.waiting("web"), "ImagePullBackOff");
    w.no_image = false;
    w.pass(4);
    assert_eq!(w.did("pull web"), 1);
    w.pass(1);
    assert_eq!((w.did("pull web"), w.phase()), (2, "Running"));
}

#[test]
fn deletion_stops_takes_down_and_removes_in_that_order() {
    let mut w = World::one(json!({}));
    w.settle();
    w.log.clear();
    w.delete(30);
    assert_eq!(w.log, ["kill web 30", "StopSandbox", "TearDownVolumes", "Finish"]);
    assert!(w.finished);
    assert_eq!(w.phase(), "Failed", "143 is not a success");
}

#[test]
fn a_shorter_grace_hastens_a_stop_under_way() {
    let mut w = World::one(json!({}));
    w.settle();
    w.hold = vec!["kill"];
    w.delete(30);
    w.pass(5);
    assert_eq!(w.did("kill"), 1, "the same stop is not begun again");
    w.delete(0);
    assert_eq!(w.did("kill web 0"), 1);
}

#[test]
fn deletion_in_the_middle_of_a_pull_gives_up_the_pull() {
    let mut w = World::one(json!({}));
    w.hold = vec!["pull"];
    w.settle();
    w.delete(30);
    assert_eq!(w.did("Abort"), 1);
    assert!(w.finished);
}

#[test]
fn deletion_waits_for_a_container_being_started() {
    let mut w = World::one(json!({}));
    w.hold = vec!["start"];
    w.settle();
    w.delete(30);
    assert!(!w.finished);
    w.perform(Action::Start { name: "web".into(), id: "web-0".into() });
    w.settle();
    assert_eq!(w.did("kill web"), 1);
    assert!(w.finished);
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let mut w = World::new(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "web", "image": "img"}]}));
    w.settle();
    assert_eq!(w.wake_at, Some(epoch() + SignedDuration::from_secs(60)));
    w.pass(60);
    assert_eq!((w.phase(), w.status.reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
    assert_eq!(w.did("StopSandbox"), 1);
}

#[test]
fn a_lost_sandbox_is_made_anew_and_restarts_are_counted_on() {
    let mut w = World::one(json!({}));
    w.settle();
    w.sandbox = Sandbox::Lost;
    w.settle();
    assert_eq!((w.did("RemoveSandbox"), w.did("RunSandbox")), (1, 2));
    assert_eq!(w.did("create web 1"), 1);
    assert_eq!(w.container("web").restart_count, 1);
    let last = w.container("web").last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("an end");
    assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
}

#[test]
fn a_lost_sandbox_fails_a_never_pod() {
    let mut w = World::new(json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "img"}]}));
    w.settle();
    w.sandbox = Sandbox::Lost;
    w.settle();
    assert_eq!(w.phase(), "Failed");
    assert_eq!(w.did("create web 1"), 0);
}

#[test]
fn a_restarted_agent_adopts_without_restarting_and_without_forgetting_readiness() {
    let mut w = World::one(json!({
        "readinessProbe": {"tcpSocket": {"port": 1}},
        "startupProbe": {"tcpSocket": {"port": 1}},
        "lifecycle": {"postStart": {"exec": {"command": ["x"]}}},
    }));
    w.settle();
    w.pass(10);
    assert_eq!(w.condition("Ready").0, "True");
    let before = w.status.clone();
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.log.clear();
    w.hold = vec!["probe"];
    w.settle();
    assert_eq!(w.log, ["MountVolumes", "probe web Readiness"]);
    assert_eq!(w.status, before);
}

#[test]
fn after_a_reboot_a_pod_is_made_anew_with_its_restarts_counted_on() {
    let mut w = World::one(json!({}));
    w.settle();
    w.views.clear();
    w.sandbox = Sandbox::Absent;
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.settle();
    assert_eq!(w.container("web").restart_count, 1);
    assert_eq!(w.phase(), "Running");
}

#[test]
fn a_changed_image_restarts_the_container() {
    let mut w = World::one(json!({}));
    w.settle();
    w.pod.spec.as_mut().expect("spec").containers[0].image = Some("other".into());
    w.hold = vec!["pull"];
    w.settle();
    assert_eq!((w.did("kill web"), w.did("pull web")), (1, 2));
}

#[test]
fn readiness_gates_hold_back_ready_but_not_containers_ready() {
    let mut w = World::new(
        json!({"readinessGates": [{"conditionType": "x/y"}], "containers": [{"name": "web", "image": "img"}]}),
    );
    w.settle();
    assert_eq!(w.condition("ContainersReady").0, "True");
    assert_eq!(w.condition("Ready"), ("False", "ReadinessGatesNotReady"));
}

#[test]
fn a_refused_pod_fails_without_touching_the_node_and_can_be_deleted() {
    let mut w = World::one(json!({}));
    w.memory.refuse(Failure::new("UnsupportedPod", "spec.hostUsers: false is not supported"));
    w.settle();
    assert_eq!((w.phase(), w.did("RunSandbox")), ("Failed", 0));
    assert_eq!(w.status.reason.as_deref(), Some("UnsupportedPod"));
    assert_eq!(w.status.container_statuses, None);
    w.delete(30);
    assert!(w.finished);
}

#[test]
fn a_pod_reported_as_ended_is_not_run_again() {
    let mut w = World::one(json!({}));
    w.status.phase = Some("Succeeded".into());
    w.settle();
    assert_eq!(w.log, ["TearDownVolumes"]);
    assert_eq!(w.phase(), "Succeeded");
}

#[test]
fn a_restarted_agent_goes_on_holding_back_what_crashes() {
    let mut w = World::one(json!({}));
    w.settle();
    w.exit("web", 1);
    w.exit("web", 1);
    assert_eq!(w.waiting("web"), "CrashLoopBackOff");
    w.memory = Memory::adopt(&w.status, &w.views, w.now);
    w.pass(9);
    assert_eq!(w.did("create web 2"), 0);
    w.pass(1);
    assert_eq!(w.did("create web 2"), 1);
}

#[test]
fn an_evicted_pod_fails_soon_and_says_why() {
    let mut w = World::one(json!({}));
    w.settle();
    w.memory.evict(Eviction::of_storage(Failure::new("Evicted", "too much")), w.now);
    w.settle();
    assert_eq!(w.did("kill web 1"), 1);
    assert_eq!((w.phase(), w.status.reason.as_deref()), ("Failed", Some("Evicted")));
    assert_eq!(w.condition("DisruptionTarget"), ("True", "TerminationByKubelet"));
    assert!(!w.finished, "its object stays for people to see");
    assert_eq!((w.did("RemoveSandbox"), w.views.len()), (1, 0), "what it took is given back: {:?}", w.log);
    let ended = w.status.container_statuses.as_ref().and_then(|c| c[0].state.as_ref()?.terminated.as_ref());
    assert!(ended.is_some_and(|t| t.reason.as_deref() != Some("ContainerStatusUnknown")), "{ended:?}");
    assert!(w.memory.is_down());
}

#[test]
fn while_an_evicted_pod_gives_back_what_it_took_its_status_stays() {
    let mut w = World::one(json!({}));
    w.settle();
    w.memory.evict(Eviction::of_storage(Failure::new("Evicted", "too much")), w.now);
    w.hold = vec!["RemoveSandbox"];
    w.settle();
    let before = w.status.container_statuses.clone();
    assert!(!std::mem::take(&mut w.views).is_empty(), "it is under way");
    w.settle();
    assert_eq!((w.phase(), &w.status.container_statuses), ("Failed", &before));
}

#[test]
fn a_clock_that_is_set_neither_hastens_nor_stalls_what_waits() {
    for by in [3600, -3600] {
        let set = |w: &mut World| {
            let by = SignedDuration::from_secs(by);
            w.now += by;
            w.memory.shift(by);
            // What the runtime knows of happened before.
            for view in &mut w.views {
                if let Run::Running { started_at } = &mut view.run {
                    *started_at = (*started_at).min(w.now);
                }
            }
            w.settle();
        };
        let probe = json!({"periodSeconds": 10, "failureThreshold": 1, "exec": {"command": ["true"]}});
        let mut w = World::one(json!({"livenessProbe": probe}));
        w.settle();
        let probes = w.did("probe");
        set(&mut w);
        w.pass(9);
        assert_eq!((w.did("probe"), w.did("kill")), (probes, 0), "by {by}");
        w.pass(1);
        assert_eq!(w.did("probe"), probes + 1, "by {by}");
        let mut w = World::one(json!({}));
        w.no_image = true;
        w.settle();
        set(&mut w);
        w.pass(9);
        assert_eq!(w.did("pull"), 1, "by {by}");
        w.pass(1);
        assert_eq!(w.did("pull"), 2, "by {by}");
        w.no_image = false;
        w.pass(20);
        assert_eq!(w.did("start"), 1, "by {by}");
        w.hold = vec!["kill"];
        w.delete(30);
        set(&mut w);
        w.pass(20);
        assert_eq!(w.log.iter().filter(|l| l.starts_with("kill")).collect::<Vec<_>>(), ["kill web 30"], "by {by}");
    }
}

#[test]
fn a_pod_of_a_node_that_goes_down_has_the_time_that_is_left() {
    let down = Eviction::of_shutdown(SignedDuration::from_secs(10));
    let mut w = World::one(json!({}));
    w.pod.spec.as_mut().expect("spec").termination_grace_period_seconds = Some(4);
    w.settle();
    w.memory.evict(down.clone(), w.now);
    w.settle();
    assert_eq!(w.did("kill web 4"), 1, "it asks for less: {:?}", w.log);
    assert_eq!((w.phase(), w.status.reason.as_deref()), ("Failed", Some("Terminated")));
    assert!(w.memory.is_down());
    let mut w = World::one(json!({}));
    w.settle();
    w.hold = vec!["kill web"];
    w.delete(60);
    assert_eq!(w.did("kill web 60"), 1);
    w.pass(20);
    w.memory.evict(down, w.now);
    w.settle();
    assert_eq!(w.did("kill web 10"), 1, "it ends already: {:?}", w.log);
}

#[test]
fn a_pod_that_makes_room_has_the_time_it_asks_for() {
    let mut w = World::one(json!({}));
    w.settle();
    w.memory.evict(Eviction::preempting(), w.now);
    w.settle();
    assert_eq!(w.did("kill web 30"), 1);
    assert_eq!((w.phase(), w.status.reason.as_deref()), ("Failed", Some("Preempting")));
    assert_eq!(w.condition("DisruptionTarget"), ("True", "TerminationByKubelet"));
}
