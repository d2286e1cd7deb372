//! CronJobs over virtual hours, and budgets while pods come and go, whatever the seed.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use reconcile::plan::{BUDGETS, CRON_JOBS, NODES, REPLICA_SETS};
use serde_json::{Value, json};
use sim::drive::of_kind;
use sim::{Faults, Sim};

const SEEDS: u64 = 20;

fn cluster(seed: u64, faults: Faults) -> Sim {
    let mut sim = Sim::new(seed, faults);
    for i in 0..3 {
        let name = format!("n{i}");
        let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "30"}});
        let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
        sim.world.create(NODES, "", json!({"metadata": meta, "spec": {}, "status": status})).unwrap();
    }
    sim
}

fn template(app: &str, restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "v1"}]}})
}

#[test]
fn every_time_of_a_schedule_has_at_most_one_job_and_old_ones_are_forgotten() {
    for seed in 0..SEEDS {
        let mut sim = cluster(seed, Faults { cut_plan: 10, lost_answer: 5, lag: 6, restart: 2, pod_fails: 0 });
        let policy = ["Allow", "Forbid", "Replace"][usize::try_from(seed % 3).unwrap()];
        let spec = json!({"schedule": "*/5 * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 2,
            "jobTemplate": {"spec": {"parallelism": 1, "completions": 1, "template": template("tick", "Never")}}});
        sim.world.create(CRON_JOBS, "d", json!({"metadata": {"name": "tick"}, "spec": spec})).unwrap();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for step in 0..3000 {
            sim.step();
            for (key, job) in of_kind(&sim.world.objects, "jobs") {
                let uid = job["metadata"]["uid"].as_str().unwrap().to_owned();
                let first = seen.entry(key.2.clone()).or_insert_with(|| uid.clone());
                assert_eq!(*first, uid, "seed {seed} step {step}: {} was made twice", key.2);
            }
            if policy == "Forbid" {
                let open = of_kind(&sim.world.objects, "jobs").filter(|(_, j)| {
                    let ended = |c: &Value| c["type"] == "Complete" && c["status"] == "True";
                    !j["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(ended))
                });
                assert!(open.count() <= 1, "seed {seed} step {step}: two at once");
            }
        }
        assert!(seen.len() >= 2, "seed {seed}: only {seen:?} in {} s", sim.world.now_s - 1_700_000_000);
        let key = ("cronjobs", "d".to_owned(), "tick".to_owned());
        sim.world.change(&key, |c| c["spec"]["suspend"] = true.into()).unwrap();
        assert!(sim.settle(80), "seed {seed}: does not settle");
        let left = of_kind(&sim.world.objects, "jobs").count();
        assert!(left <= 2, "seed {seed}: {left} jobs are left");
        let cron = &sim.world.objects[&key]["status"];
        assert!(cron["active"].is_null() && cron["lastSuccessfulTime"].is_string(), "seed {seed}: {cron}");
    }
}

#[test]
fn a_budget_ends_up_true_whatever_happened_meanwhile() {
    for seed in 0..SEEDS {
        let mut sim = cluster(seed, Faults { cut_plan: 5, lost_answer: 3, pod_fails: 2, lag: 6, restart: 1 });
        let spec =
            json!({"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "Always")});
        sim.world.create(REPLICA_SETS, "d", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        let spec = json!({"maxUnavailable": "50%", "selector": {"matchLabels": {"app": "web"}}});
        sim.world.create(BUDGETS, "d", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        (0..800).for_each(|_| sim.step());
        assert!(sim.settle(80), "seed {seed}: does not settle");
        let status = &sim.world.objects[&("poddisruptionbudgets", "d".to_owned(), "web".to_owned())]["status"];
        let numbers =
            ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(|k| status[k].clone());
        assert_eq!(numbers, [4, 4, 2, 2].map(Value::from), "seed {seed}: {status}");
    }
}
