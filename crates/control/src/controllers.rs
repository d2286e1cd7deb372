//! The controllers of workloads, services, namespaces, accounts, nodes and volumes: which caches each reads, and which
//! changes ask for a pass over which key.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use parking_lot::Mutex;
use reconcile::plan::{self, Plan};
use reconcile::volume::snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};
use tokio_util::sync::CancellationToken;

use crate::ControlConfig;
use crate::actuator::{ActError, Actuator, Trace};
use crate::cache::{Cache, Key};
use crate::queue::Queue;

pub mod access;
mod attach;
pub mod clock;
mod namespaces;
mod passes;
mod picks;
mod podgc;
pub mod storage;
pub mod tokens;
mod wiring;

/// Passes of one controller that run at the same time, each over another key.
const WORKERS: usize = 4;

/// Everything that is followed.
#[derive(Default)]
pub struct Caches {
    pub pods: Arc<Cache<Pod>>,
    pub nodes: Arc<Cache<Node>>,
    pub namespaces: Arc<Cache<Namespace>>,
    pub services: Arc<Cache<Service>>,
    pub endpoints: Arc<Cache<Endpoints>>,
    pub slices: Arc<Cache<EndpointSlice>>,
    pub root_cas: Arc<Cache<ConfigMap>>,
    pub accounts: Arc<Cache<ServiceAccount>>,
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    pub volumes: Arc<Cache<PersistentVolume>>,
    pub classes: Arc<Cache<StorageClass>>,
    pub snapshots: Arc<Cache<VolumeSnapshot>>,
    pub snapshot_contents: Arc<Cache<VolumeSnapshotContent>>,
    pub snapshot_classes: Arc<Cache<VolumeSnapshotClass>>,
    pub deployments: Arc<Cache<Deployment>>,
    pub sets: Arc<Cache<ReplicaSet>>,
    pub stateful_sets: Arc<Cache<StatefulSet>>,
    pub revisions: Arc<Cache<ControllerRevision>>,
    pub jobs: Arc<Cache<Job>>,
    pub leases: Arc<Cache<Lease>>,
    pub daemon_sets: Arc<Cache<DaemonSet>>,
    pub replication_controllers: Arc<Cache<ReplicationController>>,
    pub cron_jobs: Arc<Cache<CronJob>>,
    pub budgets: Arc<Cache<PodDisruptionBudget>>,
    pub autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    pub attachments: Arc<Cache<VolumeAttachment>>,
    pub drivers: Arc<Cache<CSIDriver>>,
    pub csi_nodes: Arc<Cache<CSINode>>,
    pub capacities: Arc<Cache<CSIStorageCapacity>>,
}

impl Caches {
    /// Waits until the cache of the resource has seen what was done; resources that are not followed need no wait.
    async fn catch_up(&self, trace: &Trace) {
        macro_rules! each {
            ($($resource:path => $cache:ident),* $(,)?) => {
                match trace {
                    Trace::None => {}
                    $(Trace::Written(r, revision) if *r == $resource => self.$cache.wait_for(*revision).await,)*
                    $(Trace::Deleted { resource, namespace, name, uid } if *resource == $resource => {
                        self.$cache.wait_deleted(namespace, name, uid).await;
                    })*
                    _ => {}
                }
            };
        }
        each! {
            plan::PODS => pods,
            plan::NODES => nodes,
            plan::ENDPOINT_SLICES => slices,
            plan::ENDPOINTS => endpoints,
            plan::SERVICE_ACCOUNTS => accounts,
            plan::CONFIG_MAPS => root_cas,
            plan::CLAIMS => claims,
            plan::VOLUMES => volumes,
            plan::SNAPSHOTS => snapshots,
            plan::SNAPSHOT_CONTENTS => snapshot_contents,
            plan::DEPLOYMENTS => deployments,
            plan::REPLICA_SETS => sets,
            plan::STATEFUL_SETS => stateful_sets,
            plan::CONTROLLER_REVISIONS => revisions,
            plan::JOBS => jobs,
            plan::DAEMON_SETS => daemon_sets,
            plan::REPLICATION_CONTROLLERS => replication_controllers,
            plan::CRON_JOBS => cron_jobs,
            plan::BUDGETS => budgets,
            plan::AUTOSCALERS => autoscalers,
            plan::ATTACHMENTS => attachments,
        }
    }

    async fn synced(&self) {
        tokio::join!(
            self.pods.wait_synced(),
            self.nodes.wait_synced(),
            self.namespaces.wait_synced(),
            self.services.wait_synced(),
            self.endpoints.wait_synced(),
            self.slices.wait_synced(),
            self.root_cas.wait_synced(),
            self.accounts.wait_synced(),
            self.claims.wait_synced(),
            self.volumes.wait_synced(),
            self.classes.wait_synced(),
            self.deployments.wait_synced(),
            self.sets.wait_synced(),
            self.stateful_sets.wait_synced(),
            self.revisions.wait_synced(),
            self.jobs.wait_synced(),
        );
        tokio::join!(
            self.leases.wait_synced(),
            self.daemon_sets.wait_synced(),
            self.replication_controllers.wait_synced(),
            self.cron_jobs.wait_synced(),
            self.budgets.wait_synced(),
            self.autoscalers.wait_synced(),
            self.attachments.wait_synced(),
            self.drivers.wait_synced(),
            self.csi_nodes.wait_synced(),
            self.capacities.wait_synced(),
        );
    }
}

/// A queue of each controller.
#[derive(Default)]
pub struct Queues {
    pub deployments: KeyQueue,
    pub sets: KeyQueue,
    pub stateful_sets: KeyQueue,
    pub jobs: KeyQueue,
    pub services: KeyQueue,
    pub namespaces: KeyQueue,
    pub accounts: KeyQueue,
    pub nodes: KeyQueue,
    pub claims: KeyQueue,
    pub volumes: KeyQueue,
    pub own_claims: KeyQueue,
    pub snapshots: KeyQueue,
    pub snapshot_contents: KeyQueue,
    pub scheduling: KeyQueue,
    pub daemon_sets: KeyQueue,
    pub replication_controllers: KeyQueue,
    pub cron_jobs: KeyQueue,
    pub budgets: KeyQueue,
    pub autoscalers: KeyQueue,
    pub pod_gc: KeyQueue,
    pub attachments: KeyQueue,
}

/// Shared by those who add and those who work.
#[derive(Clone)]
pub struct KeyQueue(pub Arc<Queue<Key>>);

impl Default for KeyQueue {
    fn default() -> Self {
        KeyQueue(Arc::new(Queue::new()))
    }
}

impl KeyQueue {
    /// Asks for a pass.
    pub fn add(&self, namespace: &str, name: &str) {
        self.0.add((namespace.to_owned(), name.to_owned()));
    }
}

/// What every controller shares.
pub struct Context {
    pub client: kube::Client,
    pub actuator: Actuator,
    pub config: ControlConfig,
    pub caches: Caches,
    pub queues: Queues,
    pub scheduler: crate::scheduling::Scheduler,
    pub autoscaling: crate::autoscaling::Autoscaling,
    pub snapshots: crate::snapshots::Snapshots,
    attaching: attach::Attaching,
    pub drain: CancellationToken,
    heard: clock::Heard,
    /// Why the last pod of a controller was refused; at most one entry for each controller, gone with it.
    refusals: Mutex<HashMap<String, String>>,
}

impl Context {
    /// Caches and queues, still empty.
    pub fn new(client: kube::Client, actuator: Actuator, config: ControlConfig, drain: CancellationToken) -> Self {
        let (caches, queues, scheduler, autoscaling, snapshots, attaching, heard) = Default::default();
        let refusals = Mutex::default();
        Context {
            client,
            actuator,
            config,
            caches,
            queues,
            scheduler,
            autoscaling,
            snapshots,
            attaching,
            drain,
            heard,
            refusals,
        }
    }

    /// Why the last pod of a controller was refused, if it was.
    fn refusal(&self, id: &str) -> Option<String> {
        self.refusals.lock().get(id).cloned()
    }

    /// The controller is gone.
    fn forget_refusal(&self, id: &str) -> Option<Duration> {
        self.refusals.lock().remove(id);
        None
    }

    /// [`Context::carry_out`], remembering a refusal for the next pass. When none is left to tell of, that pass comes at
    /// once.
    async fn carry_out_told(&self, plan: Plan, id: &str) -> Result<Option<Duration>, ActError> {
        let outcome = self.carry_out(plan).await;
        match &outcome {
            Err(e) => {
                if let Some(why) = e.refused() {
                    self.refusals.lock().insert(id.to_owned(), why);
                }
            }
            Ok(wait) if self.refusals.lock().remove(id).is_some() => {
                return Ok(Some(wait.unwrap_or_default().min(Duration::from_millis(100))));
            }
            Ok(_) => {}
        }
        outcome
    }

    /// Carries out a plan and waits until the caches have seen it.
    pub async fn carry_out(&self, plan: Plan) -> Result<Option<Duration>, ActError> {
        let mut traces = Vec::new();
        let mut failed = None;
        for action in plan.actions {
            match self.actuator.act(action).await {
                Ok(Trace::None) => {}
                Ok(trace) => traces.push(trace),
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        for trace in &traces {
            self.caches.catch_up(trace).await;
        }
        failed.map_or(Ok(plan.requeue_after), Err)
    }
}

/// What a pass over a key answers: when to look again without being asked.
pub type Pass = Pin<Box<dyn Future<Output = Result<Option<Duration>, ActError>> + Send>>;

/// Runs passes over the keys of a queue until the drain.
pub fn work(
    context: &Arc<Context>,
    name: &'static str,
    workers: usize,
    queue: KeyQueue,
    pass: impl Fn(Arc<Context>, Key) -> Pass + Send + Sync + 'static,
) {
    let pass = Arc::new(pass);
    for _ in 0..workers {
        let (context, queue, pass) = (context.clone(), queue.clone(), pass.clone());
        let worker = context.config.health.worker(name);
        tokio::spawn(async move {
            let drain = context.drain.clone();
            tokio::select! {
                () = drain.cancelled() => return,
                () = context.caches.synced() => {}
            }
            loop {
                worker.waits();
                let key = tokio::select! {
                    () = drain.cancelled() => return,
                    key = queue.0.next() => key,
                };
                worker.passes();
                let outcome = pass(context.clone(), key.clone()).await;
                match &outcome {
                    Ok(Some(wait)) => queue.0.add_after(key.clone(), *wait),
                    Ok(None) => {}
                    Err(e) if e.is_conflict() => tracing::debug!(controller = name, ?key, "conflict, again"),
                    Err(e) => tracing::warn!(controller = name, ?key, error = %base::chain(e), "a pass failed"),
                }
                queue.0.done(key, outcome.is_err());
            }
        });
    }
}

/// Starts the caches and the controllers.
pub fn start(context: &Arc<Context>) {
    wiring::follow(context);
    clock::start(context);
    work(context, "deployment", WORKERS, context.queues.deployments.clone(), passes::deployment);
    work(context, "replicaset", WORKERS, context.queues.sets.clone(), passes::replica_set);
    work(context, "statefulset", WORKERS, context.queues.stateful_sets.clone(), passes::stateful_set);
    work(context, "job", WORKERS, context.queues.jobs.clone(), passes::job);
    work(context, "daemonset", WORKERS, context.queues.daemon_sets.clone(), passes::daemon_set);
    let controllers = context.queues.replication_controllers.clone();
    work(context, "replicationcontroller", WORKERS, controllers, passes::replication_controller);
    work(context, "cronjob", WORKERS, context.queues.cron_jobs.clone(), passes::cron_job);
    work(context, "disruption", WORKERS, context.queues.budgets.clone(), passes::budget);
    work(context, "pod-garbage-collector", 1, context.queues.pod_gc.clone(), podgc::pass);
    work(context, "endpointslice", WORKERS, context.queues.services.clone(), passes::service);
    work(context, "serviceaccount", 1, context.queues.accounts.clone(), passes::account);
    work(context, "node-lifecycle", 1, context.queues.nodes.clone(), passes::node);
    // One at a time: two claims must not take the same volume.
    work(context, "volume-claim", 1, context.queues.claims.clone(), passes::claim);
    work(context, "volume", 1, context.queues.volumes.clone(), passes::volume);
    work(context, "ephemeral-volume", 2, context.queues.own_claims.clone(), storage::own_claims);
    work(context, "volume-snapshot", 2, context.queues.snapshots.clone(), storage::snapshot);
    work(context, "volume-snapshot-content", 2, context.queues.snapshot_contents.clone(), storage::snapshot_content);
    // One at a time, too: two nodes must not take a volume of one node.
    work(context, "attachdetach", 1, context.queues.attachments.clone(), attach::pass);
    work(context, "namespace", 2, context.queues.namespaces.clone(), namespaces::pass);
}
