//! DaemonSets and ReplicationControllers, whatever the seed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use reconcile::plan::{DAEMON_SETS, NODES, REPLICATION_CONTROLLERS};
use serde_json::{Value, json};
use sim::drive::of_kind;
use sim::{Faults, Sim};

const SEEDS: u64 = 20;
const STEPS: usize = 1000;

fn node(sim: &mut Sim, name: &str) {
    let status = json!({"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "20"}});
    let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
    sim.world.create(NODES, "", json!({"metadata": meta, "spec": {}, "status": status})).unwrap();
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "v1"}]}})
}

fn ready_on(sim: &Sim, app: &str) -> Vec<String> {
    let pods = of_kind(&sim.world.objects, "pods").map(|(_, p)| p).filter(|p| {
        let conditions = p["status"]["conditions"].as_array();
        p["metadata"]["labels"]["app"] == app
            && !p["metadata"]["deletionTimestamp"].is_string()
            && conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    });
    pods.filter_map(|p| p["spec"]["nodeName"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_daemon_set_updates_within_its_budget_and_follows_the_nodes() {
    for seed in 0..SEEDS {
        let mut sim = Sim::new(seed, Faults::default());
        (0..4).for_each(|i| node(&mut sim, &format!("n{i}")));
        let surge = i64::try_from(seed % 2).unwrap();
        let rolling = json!({"maxSurge": surge, "maxUnavailable": 1 - surge});
        let spec = json!({"selector": {"matchLabels": {"app": "log"}}, "template": template("log"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
        sim.world.create(DAEMON_SETS, "d", json!({"metadata": {"name": "log"}, "spec": spec})).unwrap();
        assert!(sim.settle(50), "seed {seed}: the first version never settles");
        assert_eq!(ready_on(&sim, "log").len(), 4, "seed {seed}");
        let key = ("daemonsets", "d".to_owned(), "log".to_owned());
        sim.world.change(&key, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = "v2".into()).unwrap();
        sim.faults = Faults { lag: 6, cut_plan: 5, ..Faults::default() };
        for step in 0..STEPS {
            sim.step();
            let served: BTreeSet<String> = ready_on(&sim, "log").into_iter().collect();
            let least = if surge == 1 { 4 } else { 3 };
            assert!(served.len() >= least, "seed {seed} step {step}: only {served:?} are served");
        }
        node(&mut sim, "n4");
        assert!(sim.settle(80), "seed {seed}: does not settle");
        let mut nodes = ready_on(&sim, "log");
        nodes.sort();
        assert_eq!(nodes, ["n0", "n1", "n2", "n3", "n4"], "seed {seed}: one on each");
        let old =
            of_kind(&sim.world.objects, "pods").filter(|(_, p)| p["spec"]["containers"][0]["image"] == "v1").count();
        assert_eq!(old, 0, "seed {seed}");
        let status = &sim.world.objects[&key]["status"];
        assert_eq!(
            (&status["updatedNumberScheduled"], &status["numberAvailable"]),
            (&json!(5), &json!(5)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_replication_controller_converges_whatever_is_lost() {
    for seed in 0..SEEDS {
        let mut sim = Sim::new(seed, Faults { cut_plan: 5, lost_answer: 3, pod_fails: 2, lag: 6, restart: 1 });
        (0..2).for_each(|i| node(&mut sim, &format!("n{i}")));
        let spec = json!({"replicas": 3, "selector": {"app": "rc"}, "template": template("rc")});
        sim.world.create(REPLICATION_CONTROLLERS, "d", json!({"metadata": {"name": "rc"}, "spec": spec})).unwrap();
        (0..STEPS).for_each(|_| sim.step());
        assert!(sim.settle(80), "seed {seed}: does not settle");
        assert_eq!(ready_on(&sim, "rc").len(), 3, "seed {seed}");
    }
}
