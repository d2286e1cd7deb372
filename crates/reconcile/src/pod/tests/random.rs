use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Blow {
    Exit(u8, i32),
    Lose,
    Restart,
    Pass(i64),
    Pulls(bool),
    Probe(bool),
    Image,
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        (0u8..4, 0i32..3).prop_map(|(c, code)| Blow::Exit(c, code)),
        Just(Blow::Lose),
        Just(Blow::Restart),
        (0i64..400).prop_map(Blow::Pass),
        any::<bool>().prop_map(Blow::Pulls),
        any::<bool>().prop_map(Blow::Probe),
        Just(Blow::Image),
    ]
}

fn specimen(policy: &str) -> World {
    World::new(json!({
        "restartPolicy": policy,
        "initContainers": [
            {"name": "i", "image": "img"},
            {"name": "s", "image": "img", "restartPolicy": "Always"},
        ],
        "containers": [
            {"name": "a", "image": "img", "readinessProbe": {"tcpSocket": {"port": 1}}},
            {"name": "b", "image": "img", "livenessProbe": {"tcpSocket": {"port": 1}}},
        ],
    }))
}

fn strike(w: &mut World, blow: &Blow) {
    match blow {
        Blow::Exit(n, code) => {
            let name = ["i", "s", "a", "b"][usize::from(*n)];
            if w.views.iter().any(|v| v.name == name && v.running()) {
                w.exit(name, *code);
            }
        }
        Blow::Lose => {
            if matches!(w.sandbox, Sandbox::Ready { .. }) {
                w.sandbox = Sandbox::Lost;
                for id in w.views.iter().map(|v| v.id.clone()).collect::<Vec<_>>() {
                    w.end(&id, 137);
                }
            }
        }
        Blow::Restart => w.memory = Memory::adopt(&w.status, &w.views, w.now),
        Blow::Pass(s) => w.now += SignedDuration::from_secs(*s),
        Blow::Pulls(ok) => w.no_image = !ok,
        Blow::Probe(ok) => w.probe = if *ok { Outcome::Success } else { Outcome::Failure },
        Blow::Image => {}
    }
    w.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever happens: the world goes quiet, an ended pod stays ended, ready containers run, and restarts only grow.
    #[test]
    fn invariants_hold(blows in proptest::collection::vec(blow(), 0..25), policy in 0usize..3) {
        let mut w = specimen(["Always", "OnFailure", "Never"][policy]);
        w.settle();
        let mut ended: Option<String> = None;
        let mut restarts = 0;
        for b in &blows {
            strike(&mut w, b);
            if let Some(phase) = &ended {
                prop_assert_eq!(w.phase(), phase.as_str(), "after {:?}", b);
            }
            if matches!(w.phase(), "Succeeded" | "Failed") {
                ended = Some(w.phase().to_owned());
                prop_assert!(!w.views.iter().any(ContainerView::running));
            }
            for c in w.status.container_statuses.iter().flatten() {
                let running = c.state.as_ref().is_some_and(|s| s.running.is_some());
                prop_assert!(!c.ready || running, "{} is ready but does not run", c.name);
            }
            let now: i32 = w.status.container_statuses.iter().flatten().map(|c| c.restart_count).sum();
            prop_assert!(now >= restarts, "restarts fell from {} to {}: {:?}", restarts, now, w.log);
            restarts = now;
        }
        // When the blows stop, a pod that restarts comes back to ready.
        w.no_image = false;
        w.probe = Outcome::Success;
        for _ in 0..6 {
            w.pass(301);
            if w.views.iter().any(|v| v.name == "i" && v.running()) { w.exit("i", 0); }
        }
        if policy == 0 && ended.is_none() {
            prop_assert_eq!(w.condition("Ready").0, "True", "{:?}", w.log);
        }
        w.delete(30);
        prop_assert!(w.finished);
    }
}
