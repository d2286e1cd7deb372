//! What must hold whatever the seed: safety at every step while things go wrong, convergence when they stop going wrong.

#![allow(clippy::unwrap_used, reason = "a test")]

use reconcile::plan::{DEPLOYMENTS, JOBS, NODES, SERVICES, STATEFUL_SETS};
use serde_json::{Value, json};
use sim::drive::of_kind;
use sim::{Faults, Sim};

/// Seeds of a run in CI; more with `SIM_SEEDS`.
const SEEDS_DEFAULT: u64 = 20;
const STEPS: usize = 1200;

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS_DEFAULT)
}

fn nodes(sim: &mut Sim, count: usize, cpu: &str) {
    for i in 0..count {
        let status = json!({"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "20"}});
        let labels = json!({"kubernetes.io/hostname": format!("n{i}")});
        sim.world
            .create(
                NODES,
                "",
                json!({"metadata": {"name": format!("n{i}"), "labels": labels}, "spec": {}, "status": status}),
            )
            .unwrap();
    }
}

fn template(app: &str, image: &str, restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"restartPolicy": restart, "containers": [
        {"name": "c", "image": image, "resources": {"requests": {"cpu": "500m"}}}]}})
}

fn deployment(sim: &mut Sim, replicas: i64, surge: i64, missing: i64) {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
        "template": template("web", "v1", "Always")});
    sim.world.create(DEPLOYMENTS, "d", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
}

fn roll(sim: &mut Sim, image: &str) {
    let key = ("deployments", "d".to_owned(), "web".to_owned());
    sim.world.change(&key, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = image.into()).unwrap();
}

fn all_faults() -> Faults {
    Faults { cut_plan: 5, lost_answer: 3, pod_fails: 2, lag: 6, restart: 1 }
}

fn late_only() -> Faults {
    Faults { lag: 6, cut_plan: 5, ..Faults::default() }
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
        && !pod["metadata"]["deletionTimestamp"].is_string()
}

fn pods<'a>(sim: &'a Sim, app: &'a str) -> impl Iterator<Item = &'a Value> {
    of_kind(&sim.world.objects, "pods").map(|(_, v)| v).filter(move |p| p["metadata"]["labels"]["app"] == app)
}

fn no_node_is_overfull(sim: &Sim, seed: u64) {
    let mut used = std::collections::BTreeMap::<String, i64>::new();
    for (_, p) in of_kind(&sim.world.objects, "pods") {
        let finished = p["status"]["phase"] == "Succeeded" || p["status"]["phase"] == "Failed";
        if let Some(node) = p["spec"]["nodeName"].as_str().filter(|_| !finished) {
            *used.entry(node.to_owned()).or_default() += 500;
        }
    }
    assert!(used.values().all(|m| *m <= 2000), "seed {seed}: {used:?}");
}

#[test]
fn a_rolling_update_keeps_what_it_promises_at_every_step() {
    for seed in 0..seeds() {
        let mut sim = Sim::new(seed, Faults::default());
        nodes(&mut sim, 3, "2");
        deployment(&mut sim, 4, 1, 1);
        assert!(sim.settle(50), "seed {seed}: the first version never settles");
        sim.faults = late_only();
        roll(&mut sim, "v2");
        for step in 0..STEPS {
            sim.step();
            // What the sets are asked for; a pod too many may live until its set has seen the new number.
            let asked: i64 =
                of_kind(&sim.world.objects, "replicasets").filter_map(|(_, rs)| rs["spec"]["replicas"].as_i64()).sum();
            assert!(asked <= 5, "seed {seed} step {step}: {asked} replicas of 4 + 1");
            let available = pods(&sim, "web").filter(|p| ready(p)).count();
            assert!(available >= 3, "seed {seed} step {step}: {available} available of 4 - 1");
            no_node_is_overfull(&sim, seed);
        }
        assert!(sim.settle(50), "seed {seed}: does not settle");
        let images: Vec<_> = pods(&sim, "web").map(|p| p["spec"]["containers"][0]["image"].clone()).collect();
        assert_eq!(images, vec![json!("v2"); 4], "seed {seed}");
    }
}

#[test]
fn everything_converges_once_faults_stop_and_is_then_quiet() {
    for seed in 0..seeds() {
        let mut sim = Sim::new(seed, all_faults());
        nodes(&mut sim, 4, "2");
        deployment(&mut sim, 3, 1, 0);
        let set = json!({"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1", "Always"),
            "volumeClaimTemplates": []});
        sim.world.create(STATEFUL_SETS, "d", json!({"metadata": {"name": "db"}, "spec": set})).unwrap();
        let service = json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]});
        sim.world.create(SERVICES, "d", json!({"metadata": {"name": "web"}, "spec": service})).unwrap();
        for step in 0..STEPS {
            if step == STEPS / 2 {
                roll(&mut sim, "v2");
            }
            sim.step();
            no_node_is_overfull(&sim, seed);
        }
        assert!(sim.settle(80), "seed {seed}: does not settle");
        assert_eq!(pods(&sim, "web").filter(|p| ready(p)).count(), 3, "seed {seed}");
        let mut names: Vec<_> = pods(&sim, "db").filter(|p| ready(p)).map(|p| p["metadata"]["name"].clone()).collect();
        names.sort_by_key(ToString::to_string);
        assert_eq!(names, [json!("db-0"), json!("db-1"), json!("db-2")], "seed {seed}");
        let slices: usize = of_kind(&sim.world.objects, "endpointslices")
            .map(|(_, s)| s["endpoints"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(slices, 3, "seed {seed}: as many endpoints as pods");
        let before = sim.world.revision;
        assert!(sim.settle(3) && sim.world.revision == before, "seed {seed}: something still moves");
    }
}

fn note_successes(sim: &Sim, ended: &mut std::collections::BTreeSet<String>) {
    let succeeded = pods(sim, "job").filter(|p| p["status"]["phase"] == "Succeeded");
    ended.extend(succeeded.filter_map(|p| p["metadata"]["uid"].as_str().map(str::to_owned)));
}

#[test]
fn a_job_counts_every_pod_once_whatever_is_lost() {
    for seed in 0..seeds() {
        let mut sim = Sim::new(seed, Faults { pod_fails: 0, ..all_faults() });
        nodes(&mut sim, 3, "2");
        let spec =
            json!({"parallelism": 2, "completions": 5, "backoffLimit": 6, "template": template("job", "v1", "Never")});
        sim.world.create(JOBS, "d", json!({"metadata": {"name": "j"}, "spec": spec})).unwrap();
        let mut ended = std::collections::BTreeSet::new();
        for _ in 0..STEPS {
            sim.step();
            note_successes(&sim, &mut ended);
        }
        assert!(sim.settle_watching(80, |sim| note_successes(sim, &mut ended)), "seed {seed}: does not settle");
        let job = &sim.world.objects[&("jobs", "d".to_owned(), "j".to_owned())];
        // A lost answer may cost a pod too many, and one that ends after the Job is not counted; none is counted twice.
        let counted = usize::try_from(job["status"]["succeeded"].as_i64().unwrap()).unwrap();
        assert!(counted >= 5 && counted <= ended.len(), "seed {seed}: {} of {ended:?}", job["status"]);
        let complete = job["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Complete");
        assert!(complete, "seed {seed}: {}", job["status"]);
    }
}

#[test]
fn nothing_is_orphaned_when_the_owner_goes() {
    for seed in 0..seeds() {
        let mut sim = Sim::new(seed, all_faults());
        nodes(&mut sim, 3, "2");
        deployment(&mut sim, 3, 1, 1);
        for _ in 0..STEPS / 2 {
            sim.step();
        }
        let key = ("deployments", "d".to_owned(), "web".to_owned());
        let how = ["Background", "Foreground"][usize::try_from(seed % 2).unwrap()];
        sim.world.delete(&key, Some(how)).unwrap();
        for _ in 0..STEPS / 2 {
            sim.step();
        }
        assert!(sim.settle(80), "seed {seed}: does not settle");
        let left: Vec<_> = sim.world.objects.keys().filter(|k| k.0 != "nodes").collect();
        assert!(left.is_empty(), "seed {seed} {how}: {left:?}");
    }
}
