//! Preemption, whatever the seed.

#![allow(clippy::unwrap_used, reason = "a test")]

use reconcile::plan::{NODES, REPLICA_SETS};
use serde_json::json;
use sim::drive::of_kind;
use sim::{Faults, Sim};

const SEEDS: u64 = 20;

fn set(sim: &mut Sim, name: &str, replicas: i64, priority: i64) {
    let template = json!({"metadata": {"labels": {"app": name}}, "spec": {"priority": priority, "restartPolicy": "Always",
        "containers": [{"name": "c", "image": "v1", "resources": {"requests": {"cpu": "500m"}}}]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template});
    sim.world.create(REPLICA_SETS, "d", json!({"metadata": {"name": name}, "spec": spec})).unwrap();
}

fn placed(sim: &Sim, app: &str) -> usize {
    let pods = of_kind(&sim.world.objects, "pods").map(|(_, p)| p);
    let live = pods.filter(|p| p["spec"]["nodeName"].is_string() && !p["metadata"]["deletionTimestamp"].is_string());
    live.filter(|p| p["metadata"]["labels"]["app"] == app).count()
}

#[test]
fn the_important_run_the_others_get_what_is_left_and_no_node_is_overfull() {
    for seed in 0..SEEDS {
        let mut sim = Sim::new(seed, Faults::default());
        for i in 0..2 {
            let name = format!("n{i}");
            let status = json!({"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "20"}});
            let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
            sim.world.create(NODES, "", json!({"metadata": meta, "spec": {}, "status": status})).unwrap();
        }
        set(&mut sim, "low", 8, 1);
        assert!(sim.settle(50), "seed {seed}: the first do not settle");
        assert_eq!(placed(&sim, "low"), 8, "seed {seed}");
        sim.faults = Faults { cut_plan: 5, lost_answer: 3, pod_fails: 0, lag: 6, restart: 1 };
        set(&mut sim, "high", 3, 100);
        for step in 0..1500 {
            sim.step();
            assert!(placed(&sim, "low") + placed(&sim, "high") <= 8, "seed {seed} step {step}: a node is overfull");
        }
        assert!(sim.settle(80), "seed {seed}: does not settle");
        assert_eq!((placed(&sim, "high"), placed(&sim, "low")), (3, 5), "seed {seed}");
    }
}
