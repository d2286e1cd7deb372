//! Follows the pods bound to this node and runs a worker for each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use engine::runtime::RuntimeEvent;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use reconcile::eviction;
use reconcile::mirror;
use reconcile::pod::{
    Eviction, Failure, admission_refusal, grace_seconds, is_critical, is_placement, is_shortage, shortages, victims,
};
use reconcile::scheduler::Amounts;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::line::{Line, Update};
use super::orphans;
use super::worker::Worker;
use crate::context::Context;
use crate::events::pod_reference;
use crate::paths::PodId;
use crate::{node_object, supported};

/// How long the API server may take to say how the node is labelled now.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// The least time that pods in the way of a critical one are waited for (the kubelet's).
const ROOM_LIMIT_LEAST: Duration = Duration::from_secs(10);

/// A pod bound to this node.
#[derive(Clone)]
struct Bound {
    pod: Arc<Pod>,
    /// The node did not take it: it has nothing of the node.
    refused: bool,
}

/// Pods by namespace and name.
type ByName = HashMap<(String, String), Bound>;

/// The pods this node knows, for the parts that answer questions about them.
#[derive(Clone)]
pub(crate) struct Pods {
    by_name: Arc<Mutex<ByName>>,
    /// Their workers, by UID.
    lines: Arc<Mutex<HashMap<String, Line>>>,
    /// Tells those who wait for room on the node that there may be some.
    room: Arc<watch::Sender<()>>,
}

impl Default for Pods {
    fn default() -> Self {
        Pods { by_name: Arc::default(), lines: Arc::default(), room: Arc::new(watch::channel(()).0) }
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Whether a node took the pod already: it says so with its first status.
fn was_taken(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| s.start_time.is_some())
}

impl Pods {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.by_name.lock().values().map(|b| b.pod.clone()).collect()
    }

    /// Those that have something of the node, all but one.
    fn others(&self, but: &str) -> Vec<Arc<Pod>> {
        let all = self.by_name.lock();
        let others = all.values().filter(|b| !b.refused && !is_over(&b.pod));
        others.map(|b| b.pod.clone()).filter(|p| p.metadata.uid.as_deref() != Some(but)).collect()
    }

    /// What the pods have, all but one.
    pub(super) fn used(&self, but: &str) -> Amounts {
        let mut used = Amounts::default();
        self.others(but).iter().for_each(|p| used.add(&Amounts::of_pod(p)));
        used
    }

    /// Those that were taken and have not ended.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        self.others("")
    }

    /// Has a pod end. Returns what says when nothing of it is left; it closes when the pod is gone altogether.
    pub(crate) fn end(&self, uid: &str, eviction: Eviction) -> Option<watch::Receiver<bool>> {
        let lines = self.lines.lock();
        let line = lines.get(uid)?;
        line.updates.send_modify(|update| update.end = Some(Arc::new(eviction)));
        Some(line.down.clone())
    }

    /// Has a pod remove dead containers, by id.
    pub(super) fn discard(&self, uid: &str, surplus: BTreeSet<String>) {
        if let Some(line) = self.lines.lock().get(uid) {
            line.updates.send_modify(|update| update.surplus = Arc::new(surplus));
        }
    }

    fn refuse(&self, id: &PodId) {
        if let Some(bound) = self.by_name.lock().get_mut(&(id.namespace.clone(), id.name.clone())) {
            bound.refused = true;
        }
    }

    /// Changes whenever a pod went, ended, or changed what it asks for.
    pub(super) fn room(&self) -> watch::Receiver<()> {
        self.room.subscribe()
    }

    fn set(&self, id: &PodId, pod: Arc<Pod>) {
        let news = (is_over(&pod), pod.metadata.generation);
        let mut all = self.by_name.lock();
        let key = (id.namespace.clone(), id.name.clone());
        let before = all.get(&key).map(|b| b.pod.clone());
        let same = |b: &&Bound| b.pod.metadata.uid == pod.metadata.uid;
        let refused = all.get(&key).filter(same).is_some_and(|b| b.refused);
        all.insert(key, Bound { pod, refused });
        drop(all);
        if before.is_some_and(|p| (is_over(&p), p.metadata.generation) != news) {
            self.room.send_replace(());
        }
    }

    fn remove(&self, id: &PodId) {
        let key = (id.namespace.clone(), id.name.clone());
        let mut all = self.by_name.lock();
        if all.get(&key).is_some_and(|b| b.pod.metadata.uid.as_deref() == Some(&id.uid)) {
            all.remove(&key);
            drop(all);
            self.room.send_replace(());
        }
    }
}

struct Running {
    id: PodId,
    line: Line,
    nudge: Arc<Notify>,
}

pub(crate) struct Manager {
    ctx: Arc<Context>,
    pods: Pods,
    workers: HashMap<String, Running>,
    tasks: JoinSet<String>,
    listed: Option<Vec<Arc<Pod>>>,
    /// Critical pods for which others end, and what waits for those.
    waiting: HashMap<String, Arc<Pod>>,
    clearing: JoinSet<String>,
    swept: bool,
    /// The node object as last seen, for its labels and taints.
    own: watch::Receiver<Arc<Node>>,
    drain: Drain,
}

impl Manager {
    pub(crate) fn new(ctx: Arc<Context>, pods: Pods, own: watch::Receiver<Arc<Node>>, drain: Drain) -> Self {
        let (workers, tasks) = (HashMap::new(), JoinSet::new());
        let (waiting, clearing) = (HashMap::new(), JoinSet::new());
        Manager { ctx, pods, workers, tasks, listed: None, waiting, clearing, swept: false, own, drain }
    }

    pub(crate) async fn run(mut self) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.ctx.config.node_name));
        let mut events = follow::watch::<Pod>(self.ctx.client(), None, config).default_backoff().boxed();
        let mut runtime = self.ctx.runtime.events();
        let (mut clock, mut looks) = (base::clock::Steady::default(), tokio::time::interval(base::clock::LOOK_EVERY));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.watched(event).await,
                    Some(Err(error)) => tracing::warn!(%error, "watch of pods failed"),
                    None => break,
                },
                event = runtime.recv() => match event {
                    Ok(event) => self.hinted(&event),
                    Err(RecvError::Lagged(_)) => self.workers.values().for_each(|w| w.nudge.notify_one()),
                    Err(RecvError::Closed) => break,
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                _ = looks.tick() => if let (_, Some(by)) = clock.look() {
                    tracing::warn!(seconds = by.as_secs(), "the clock of the host was set");
                    self.workers.values().for_each(|w| w.nudge.notify_one());
                },
                Some(Ok(uid)) = self.clearing.join_next() => self.cleared(&uid).await,
                () = self.drain.cancelled() => break,
            }
        }
        // Workers end at their next step; what they started in the runtime goes on.
        self.tasks.shutdown().await;
    }

    async fn watched(&mut self, event: watcher::Event<Pod>) {
        match event {
            // A pod that stands for a container of Docker's is a picture: nothing of it is the node's to run.
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) | watcher::Event::Delete(pod)
                if mirror::container_of(&pod).is_some() => {}
            watcher::Event::Apply(pod) => self.apply(Arc::new(pod)).await,
            watcher::Event::Delete(pod) => self.gone(&PodId::of(&pod).uid.clone(), Some(Arc::new(pod))),
            watcher::Event::Init => self.listed = Some(Vec::new()),
            watcher::Event::InitApply(pod) => {
                if let Some(list) = &mut self.listed {
                    list.push(Arc::new(pod));
                }
            }
            watcher::Event::InitDone => {
                let list = self.listed.take().unwrap_or_default();
                self.replace(list).await;
            }
        }
    }

    /// A complete list: what is not in it is no more.
    async fn replace(&mut self, mut list: Vec<Arc<Pod>>) {
        let wanted: BTreeSet<String> = list.iter().map(|p| PodId::of(p).uid).collect();
        let known = self.workers.keys().chain(self.waiting.keys());
        let missing: Vec<String> = known.filter(|uid| !wanted.contains(*uid)).cloned().collect();
        for uid in missing {
            self.gone(&uid, None);
        }
        // Those that were taken before have what they have; of the others the oldest is asked first.
        list.sort_by_key(|p| (!was_taken(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0)));
        for pod in list {
            self.apply(pod).await;
        }
        if !self.swept {
            self.swept = true;
            let known: BTreeSet<String> = self.workers.keys().cloned().chain(wanted).collect();
            self.ctx.cpus.retain(|uid| known.contains(uid));
            tokio::spawn(orphans::remove(self.ctx.clone(), known));
        }
    }

    /// Why the node does not take a pod that it sees for the first time. One that was taken once stays taken, whatever the
    /// node has become since; one pod is asked at a time, so that two do not get the same room.
    async fn refusal(&self, pod: &Pod) -> Option<Failure> {
        if let Some(failure) = supported::refusal(pod) {
            return Some(failure);
        }
        if was_taken(pod) || is_over(pod) || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if *self.ctx.ending.borrow() {
            return Some(Failure::new("NodeShutdown", "Pod was rejected as the node is shutting down."));
        }
        if let Some(failure) = eviction::refusal(pod, &self.ctx.pressure.borrow()) {
            return Some(failure);
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let allocatable = self.allocatable();
        let others = self.pods.others(uid);
        let refusal = |node: &Node| admission_refusal(pod, node, &allocatable, others.iter().map(AsRef::as_ref));
        let seen = self.own.borrow().clone();
        let mut refused = refusal(&seen);
        // The copy may be older than the placement.
        if refused.as_ref().is_some_and(is_placement)
            && let Some(node) = self.node_now().await
        {
            refused = refusal(&node);
        }
        let refused = refused.or_else(|| self.ctx.app_armor.refusal(pod));
        refused.or_else(|| self.ctx.cpus.give(pod).err().map(|why| Failure::new("UnexpectedAdmissionError", why)))
    }

    /// What pods can have of the node.
    fn allocatable(&self) -> Amounts {
        Amounts::of_list(&node_object::capacity(&self.ctx, true)).with_extended(&self.own.borrow())
    }

    async fn node_now(&self) -> Option<Node> {
        let api: Api<Node> = Api::all(self.ctx.client());
        let asked = api.get(&self.ctx.config.node_name);
        tokio::time::timeout(NODE_LIMIT, asked).await.ok()?.ok()
    }

    async fn apply(&mut self, pod: Arc<Pod>) {
        let id = PodId::of(&pod);
        self.pods.set(&id, pod.clone());
        if is_over(&pod) {
            self.ctx.cpus.release(&id.uid);
        }
        if let Some(running) = self.workers.get(&id.uid) {
            running.line.updates.send_modify(|update| (update.pod, update.gone) = (pod, false));
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&id.uid) {
            *waiting = pod;
            return;
        }
        match self.refusal(&pod).await {
            Some(short) if is_shortage(&short) && is_critical(&pod) => self.make_room(pod),
            refused => self.begin(pod, refused),
        }
    }

    /// Ends other pods so that a critical one fits, which waits until they have ended.
    fn make_room(&mut self, pod: Arc<Pod>) {
        let id = PodId::of(&pod);
        let others = self.pods.others(&id.uid);
        let allocatable = self.allocatable();
        let short = shortages(&pod, &allocatable, others.iter().map(AsRef::as_ref));
        let chosen = match victims(&pod, &short, &others) {
            Ok(chosen) => chosen,
            Err(why) => {
                let message = format!("Unexpected error while attempting to recover from admission failure: {why}");
                return self.begin(pod, Some(Failure::new("UnexpectedAdmissionError", message)));
            }
        };
        let mut ends = JoinSet::new();
        for victim in chosen.into_iter().filter_map(|i| others.get(i)) {
            let (pods, about) = (self.pods.clone(), PodId::of(victim));
            let Some(mut down) = pods.end(&about.uid, Eviction::preempting()) else { continue };
            tracing::info!(pod = %about, critical = %id, "ended to make room");
            let why = Eviction::preempting().why;
            self.ctx.recorder.warn(pod_reference(victim), why.reason, why.message);
            let grace = u64::try_from(grace_seconds(victim)).unwrap_or(0);
            // As long as the kubelet waits: half as much again as the pod asks for.
            let limit = Duration::from_secs(grace.saturating_add(grace / 2)).max(ROOM_LIMIT_LEAST);
            ends.spawn(async move {
                if tokio::time::timeout(limit, down.wait_for(|down| *down)).await.is_ok() {
                    pods.refuse(&about);
                }
            });
        }
        self.waiting.insert(id.uid.clone(), pod);
        self.clearing.spawn(async move {
            while ends.join_next().await.is_some() {}
            id.uid
        });
    }

    /// The pods in the way of a critical one ended, or did not in time.
    async fn cleared(&mut self, uid: &str) {
        if let Some(pod) = self.waiting.remove(uid) {
            let refused = self.refusal(&pod).await;
            self.begin(pod, refused);
        }
    }

    fn begin(&mut self, pod: Arc<Pod>, refused: Option<Failure>) {
        let id = PodId::of(&pod);
        if refused.is_some() {
            self.pods.refuse(&id);
        }
        let (updates, seen) = watch::channel(Update { pod, gone: false, end: None, surplus: Arc::default() });
        let (tell_down, down) = watch::channel(false);
        let (line, nudge) = (Line { updates, down }, Arc::new(Notify::new()));
        self.pods.lines.lock().insert(id.uid.clone(), line.clone());
        let (ctx, pods, drain) = (self.ctx.clone(), self.pods.clone(), self.drain.clone());
        let worker = Worker::new(ctx, pods, id.clone(), seen, nudge.clone(), drain, tell_down).refused(refused);
        let uid = id.uid.clone();
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
        self.workers.insert(id.uid.clone(), Running { id, line, nudge });
    }

    fn gone(&mut self, uid: &str, last: Option<Arc<Pod>>) {
        if let Some(pod) = self.waiting.remove(uid) {
            self.pods.remove(&PodId::of(&pod));
        }
        let Some(running) = self.workers.get(uid) else { return };
        self.pods.remove(&running.id);
        running.line.updates.send_modify(|update| {
            if let Some(pod) = last {
                update.pod = pod;
            }
            update.gone = true;
        });
    }

    fn hinted(&self, event: &RuntimeEvent) {
        let (RuntimeEvent::Container { sandbox_id, .. } | RuntimeEvent::Sandbox { sandbox_id }) = event;
        if let Some(worker) = self.workers.get(sandbox_id) {
            worker.nudge.notify_one();
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.pods.lines.lock().remove(&uid);
                self.ctx.cpus.release(&uid);
                if let Some(running) = self.workers.remove(&uid) {
                    self.pods.remove(&running.id);
                }
            }
            Err(error) => tracing::error!(%error, "a pod worker ended abnormally"),
        }
    }
}
