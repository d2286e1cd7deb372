//! Runs the world: one random step after the other, all from one seed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Node, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reconcile::gc::{Dependent, FOREGROUND, Owner};
use reconcile::plan::{
    Action, BUDGETS, CLAIMS, CONTROLLER_REVISIONS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS,
    JOBS, PODS, Plan, REPLICA_SETS, REPLICATION_CONTROLLERS, Resource, SERVICES, STATEFUL_SETS,
};
use reconcile::scheduler::{Cluster, Decision, Storage, wants_placement};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::world::{Key, Objects, World};

/// What may go wrong, each as a chance per step in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A plan stops after one of its actions.
    pub cut_plan: u32,
    /// The answer to an action is lost: it was carried out, and the controller believes that it failed.
    pub lost_answer: u32,
    /// A running pod fails.
    pub pod_fails: u32,
    /// How many revisions a kind may be seen late.
    pub lag: u64,
    /// Controllers start again.
    pub restart: u32,
}

const CONTROLLERS: [&str; 11] = [
    "deployments",
    "replicasets",
    "statefulsets",
    "jobs",
    "services",
    "scheduler",
    "gc",
    "daemonsets",
    "replicationcontrollers",
    "cronjobs",
    "poddisruptionbudgets",
];
const KINDS: [Resource; 14] = [
    CRON_JOBS,
    BUDGETS,
    DAEMON_SETS,
    REPLICATION_CONTROLLERS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    CONTROLLER_REVISIONS,
    JOBS,
    PODS,
    SERVICES,
    ENDPOINTS,
    ENDPOINT_SLICES,
    CLAIMS,
];

/// A run of the simulation.
pub struct Sim {
    /// The cluster.
    pub world: World,
    /// What may go wrong now.
    pub faults: Faults,
    rng: SmallRng,
    /// How far each controller has seen each kind.
    seen: BTreeMap<(&'static str, &'static str), u64>,
    /// Steps since a pod became ready, so that starting takes a while.
    starting: BTreeMap<String, u32>,
}

impl Sim {
    /// An empty cluster.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut world = World::default();
        world.now_s = 1_700_000_000;
        Sim { world, faults, rng: SmallRng::seed_from_u64(seed), seen: BTreeMap::new(), starting: BTreeMap::new() }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// One random step: a controller looks at one of its objects, a node does something for one of its pods, or time passes.
    pub fn step(&mut self) {
        if self.chance(self.faults.restart) {
            self.relist();
        }
        match self.rng.random_range(0..10) {
            0..=5 => {
                let controller = CONTROLLERS[self.rng.random_range(0..CONTROLLERS.len())];
                self.controller(controller);
            }
            6..=8 => self.node(),
            _ => self.world.now_s += self.rng.random_range(1..5),
        }
    }

    /// A controller that starts again remembers nothing and lists everything, consistently: it never sees less than what
    /// it saw before.
    fn relist(&mut self) {
        let newest = self.world.revision;
        self.seen = CONTROLLERS.iter().flat_map(|c| KINDS.map(|k| ((*c, k.plural), newest))).collect();
    }

    /// Runs until nothing wants to change any more; false if that takes more than `limit` rounds.
    pub fn settle(&mut self, limit: usize) -> bool {
        self.settle_watching(limit, |_| {})
    }

    /// [`Sim::settle`], with a look at the world after every change.
    pub fn settle_watching(&mut self, limit: usize, mut look: impl FnMut(&Sim)) -> bool {
        self.faults = Faults::default();
        for _ in 0..limit {
            let before = self.world.revision;
            for _ in 0..4 {
                for controller in CONTROLLERS {
                    for key in self.keys(controller) {
                        self.pass(controller, &key);
                        look(self);
                    }
                }
                for key in self.bound_pods() {
                    self.pod_step(&key);
                    look(self);
                }
            }
            // Time passes also when nothing moves: backoffs and deadlines end.
            self.world.now_s += 700;
            if self.world.revision == before {
                return true;
            }
        }
        false
    }

    /// What a controller sees of a kind: the past, as far as the lag allows, but never before what it saw already.
    fn view(&mut self, controller: &'static str, kind: Resource) -> u64 {
        let newest = self.world.revision;
        let lag = if self.faults.lag == 0 { 0 } else { self.rng.random_range(0..=self.faults.lag) };
        let floor = self.seen.get(&(controller, kind.plural)).copied().unwrap_or(0);
        let at = newest.saturating_sub(lag).max(floor);
        self.seen.insert((controller, kind.plural), at);
        at
    }

    fn list<T: DeserializeOwned>(&mut self, controller: &'static str, kind: Resource) -> Vec<T> {
        let at = self.view(controller, kind);
        of_kind(self.world.at(at), kind.plural)
            .map(|(_, v)| serde_json::from_value(v.clone()).expect("stored objects are valid"))
            .collect()
    }

    fn keys(&self, controller: &'static str) -> Vec<Key> {
        let plurals: Vec<&str> = match controller {
            "scheduler" => vec!["pods"],
            "gc" => KINDS.iter().map(|k| k.plural).collect(),
            other => vec![other],
        };
        self.world.objects.keys().filter(|k| plurals.contains(&k.0)).cloned().collect()
    }

    fn controller(&mut self, controller: &'static str) {
        let keys = self.keys(controller);
        if !keys.is_empty() {
            let key = keys[self.rng.random_range(0..keys.len())].clone();
            self.pass(controller, &key);
        }
    }

    fn pass(&mut self, controller: &'static str, key: &Key) {
        let plan = self.decide(controller, key);
        for action in &plan.actions {
            let outcome = self.world.act(action);
            let lost = self.chance(self.faults.lost_answer);
            if outcome.is_err() || lost || self.chance(self.faults.cut_plan) {
                break;
            }
        }
        // As `control` does: the next pass of this controller has seen what this one did.
        let newest = self.world.revision;
        let touched: BTreeSet<&'static str> = plan.actions.iter().filter_map(resource_of).map(|r| r.plural).collect();
        for plural in touched {
            self.seen.insert((controller, plural), newest);
        }
    }

    fn find<T: DeserializeOwned>(&mut self, controller: &'static str, kind: Resource, key: &Key) -> Option<T> {
        let at = self.view(controller, kind);
        self.world.at(at).get(key).map(|v| serde_json::from_value(v.clone()).expect("stored objects are valid"))
    }

    fn decide(&mut self, c: &'static str, key: &Key) -> Plan {
        let now = Timestamp::from_second(self.world.now_s).expect("simulated time is a valid time");
        match c {
            "deployments" => {
                let Some(d) = self.find::<Deployment>(c, DEPLOYMENTS, key) else { return Plan::default() };
                let (sets, pods) = (self.list::<ReplicaSet>(c, REPLICA_SETS), self.list::<Pod>(c, PODS));
                reconcile::deployment::plan(&d, &refs(&sets), &refs(&pods), now)
            }
            "replicasets" => {
                let Some(rs) = self.find::<ReplicaSet>(c, REPLICA_SETS, key) else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                reconcile::replicaset::plan(&rs, &refs(&pods), None, now)
            }
            "statefulsets" => {
                let Some(set) = self.find::<StatefulSet>(c, STATEFUL_SETS, key) else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                let claims = self.list::<PersistentVolumeClaim>(c, CLAIMS);
                let revisions = self.list::<ControllerRevision>(c, CONTROLLER_REVISIONS);
                reconcile::statefulset::plan(&set, &refs(&pods), &refs(&claims), &refs(&revisions), now)
            }
            "daemonsets" => {
                let Some(set) = self.find::<DaemonSet>(c, DAEMON_SETS, key) else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                let revisions = self.list::<ControllerRevision>(c, CONTROLLER_REVISIONS);
                let nodes = self.nodes();
                reconcile::daemonset::plan(&set, &refs(&pods), &refs(&nodes), &refs(&revisions), now)
            }
            "replicationcontrollers" => {
                let found = self.find::<ReplicationController>(c, REPLICATION_CONTROLLERS, key);
                let Some(rc) = found else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                reconcile::replicationcontroller::plan(&rc, &refs(&pods), None, now)
            }
            "cronjobs" => {
                let Some(cron) = self.find::<CronJob>(c, CRON_JOBS, key) else { return Plan::default() };
                let jobs = self.list::<Job>(c, JOBS);
                reconcile::cronjob::plan(&cron, &refs(&jobs), now)
            }
            "poddisruptionbudgets" => self.budget(key, now),
            "jobs" => {
                let Some(job) = self.find::<Job>(c, JOBS, key) else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                reconcile::job::plan(&job, &refs(&pods), now)
            }
            "services" => {
                let Some(service) = self.find::<Service>(c, SERVICES, key) else { return Plan::default() };
                let pods = self.list::<Pod>(c, PODS);
                let slices = self.list::<EndpointSlice>(c, ENDPOINT_SLICES);
                let mine: Vec<&EndpointSlice> = slices
                    .iter()
                    .filter(|s| {
                        s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")) == Some(&key.2)
                    })
                    .collect();
                let endpoints = self.find::<Endpoints>(c, ENDPOINTS, &("endpoints", key.1.clone(), key.2.clone()));
                reconcile::endpointslice::plan(&service, &refs(&pods), &mine, endpoints.as_ref())
            }
            "scheduler" => self.schedule(key),
            _ => self.collect(key),
        }
    }

    fn budget(&mut self, key: &Key, now: Timestamp) -> Plan {
        let c = "poddisruptionbudgets";
        let Some(budget) = self.find::<PodDisruptionBudget>(c, BUDGETS, key) else { return Plan::default() };
        let pods = self.list::<Pod>(c, PODS);
        let sets = self.list::<ReplicaSet>(c, REPLICA_SETS);
        let scale = |o: &OwnerReference| {
            let set = sets.iter().find(|s| s.metadata.uid.as_ref() == Some(&o.uid))?;
            Some(reconcile::disruption::Controller { uid: o.uid.clone(), replicas: set.spec.as_ref()?.replicas? })
        };
        reconcile::disruption::plan(&budget, &refs(&pods), &scale, now)
    }

    fn nodes(&self) -> Vec<Node> {
        let all = of_kind(&self.world.objects, "nodes").map(|(_, n)| serde_json::from_value(n.clone()));
        all.map(|n| n.expect("stored objects are valid")).collect()
    }

    fn schedule(&mut self, key: &Key) -> Plan {
        let mut plan = Plan::default();
        let Some(pod) = self.find::<Pod>("scheduler", PODS, key).filter(wants_placement) else { return plan };
        let mut cluster = Cluster::default();
        self.nodes().iter().for_each(|n| cluster.set_node(n));
        // The real scheduler assumes its own decisions at once; the world's newest pods stand for that memory.
        for (_, other) in of_kind(&self.world.objects, "pods") {
            cluster.set_pod(&serde_json::from_value::<Pod>(other.clone()).expect("stored objects are valid"));
        }
        for (_, other) in of_kind(&self.world.objects, "pods") {
            let node = other["status"]["nominatedNodeName"].as_str().filter(|_| !other["spec"]["nodeName"].is_string());
            if node.is_some() {
                cluster.nominate(&serde_json::from_value(other.clone()).expect("stored objects are valid"), node);
            }
        }
        match cluster.decide(&pod, &Storage::default()) {
            Decision::Bind(node) => plan.actions.push(Action::Bind {
                namespace: key.1.clone(),
                name: key.2.clone(),
                uid: pod.metadata.uid.unwrap_or_default(),
                node,
            }),
            Decision::Unschedulable(_) => {
                if let Some(preemption) = cluster.preempt(&pod, &Storage::default(), &[]) {
                    for victim in preemption.victims {
                        let meta = ObjectMeta {
                            namespace: Some(victim.namespace),
                            name: Some(victim.name),
                            uid: Some(victim.uid),
                            ..Default::default()
                        };
                        plan.delete(PODS, &meta, None);
                    }
                    let mut status = pod.status.clone().unwrap_or_default();
                    status.nominated_node_name = Some(preemption.node);
                    plan.set_status(PODS, &pod.metadata, pod.status.as_ref(), &status);
                }
            }
            Decision::SelectNodeForClaims { .. } => {}
        }
        plan
    }

    fn collect(&mut self, key: &Key) -> Plan {
        let Some(resource) = KINDS.iter().copied().find(|k| k.plural == key.0) else { return Plan::default() };
        let Some(object) = self.world.objects.get(key) else { return Plan::default() };
        let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).expect("stored objects are valid");
        let uid = meta.uid.clone().unwrap_or_default();
        let state = |o: &OwnerReference| {
            let owner = self.world.objects.values().find(|v| v["metadata"]["uid"] == o.uid.as_str());
            let waits = |v: &serde_json::Value| {
                let finalizers = v["metadata"]["finalizers"].as_array();
                v["metadata"]["deletionTimestamp"].is_string()
                    && finalizers.is_some_and(|f| f.iter().any(|x| x == FOREGROUND))
            };
            match owner {
                None => Owner::Absent,
                Some(v) if waits(v) => Owner::WaitsForDependents,
                Some(_) => Owner::Present,
            }
        };
        let dependents: Vec<(Resource, ObjectMeta)> = self
            .world
            .objects
            .iter()
            .filter(|(_, v)| {
                v["metadata"]["ownerReferences"].as_array().is_some_and(|o| o.iter().any(|r| r["uid"] == uid.as_str()))
            })
            .filter_map(|(k, v)| {
                let resource = KINDS.iter().copied().find(|x| x.plural == k.0)?;
                Some((resource, serde_json::from_value(v["metadata"].clone()).expect("stored objects are valid")))
            })
            .collect();
        let list: Vec<Dependent<'_>> = dependents.iter().map(|(r, m)| Dependent { resource: *r, meta: m }).collect();
        reconcile::gc::plan(resource, &meta, state, &list)
    }

    fn bound_pods(&self) -> Vec<Key> {
        of_kind(&self.world.objects, "pods")
            .filter(|(_, v)| v["spec"]["nodeName"].is_string())
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// A node does the next thing for one of its pods.
    fn node(&mut self) {
        let pods = self.bound_pods();
        if !pods.is_empty() {
            let key = pods[self.rng.random_range(0..pods.len())].clone();
            self.pod_step(&key);
        }
    }

    fn pod_step(&mut self, key: &Key) {
        let Some(pod) = self.world.objects.get(key).cloned() else { return };
        let finished = pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
        if pod["metadata"]["deletionTimestamp"].is_string() {
            if !finished {
                let _ = self.world.change(key, |p| p["status"]["phase"] = "Failed".into());
            }
            return self.world.pod_ended(key);
        }
        if finished {
            return;
        }
        let id = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let steps = self.starting.entry(id).or_default();
        *steps += 1;
        let (steps, stamp) = (*steps, Timestamp::from_second(self.world.now_s).expect("valid").to_string());
        let fails = self.chance(self.faults.pod_fails);
        let runs_to_end = pod["spec"]["restartPolicy"] == "Never";
        let _ = self.world.change(key, |p| {
            let ready = |yes: bool| json!([{"type": "Ready", "status": if yes { "True" } else { "False" }, "lastTransitionTime": stamp}]);
            match steps {
                _ if fails => p["status"] = json!({"phase": "Failed", "conditions": ready(false)}),
                1 => p["status"] = json!({"phase": "Running", "podIP": format!("10.0.0.{}", key.2.len()), "conditions": ready(false)}),
                2 => p["status"]["conditions"] = ready(true),
                _ if runs_to_end => p["status"] = json!({"phase": "Succeeded"}),
                _ => {}
            }
        });
    }
}

fn refs<T>(list: &[T]) -> Vec<&T> {
    list.iter().collect()
}

/// The objects of a kind.
pub fn of_kind<'a>(
    objects: &'a Objects,
    plural: &'static str,
) -> impl Iterator<Item = (&'a Key, &'a serde_json::Value)> {
    objects.iter().filter(move |(k, _)| k.0 == plural)
}

fn resource_of(action: &Action) -> Option<Resource> {
    match action {
        Action::Create { resource, .. }
        | Action::Patch { resource, .. }
        | Action::Update { resource, .. }
        | Action::Delete { resource, .. } => Some(*resource),
        Action::Bind { .. } => Some(PODS),
        Action::Event { .. } => None,
    }
}
