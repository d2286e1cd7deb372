//! One pod's task: the only one that writes its state. It looks, decides, starts what is to be done, and waits for
//! whatever comes next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::rt::Drain;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use reconcile::pod::{
    Action, Allocation, ContainerView, Eviction, Failure, Memory, Op, Plan, Room, Sandbox, Snapshot, allocated_pod,
    is_wanted, plan,
};
use reconcile::probe::{Kind, Outcome};
use reconcile::scheduler::Amounts;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::job::Job;
use super::line::Update;
use super::manager::Pods;
use super::report::{self, Report, Written};
use super::view::{self, Messages, Seen};
use super::way::Way;
use crate::context::Context;
use crate::events::{container_reference, pod_reference};
use crate::images::Present;
use crate::node_object;
use crate::objects::{Handle, Key};
use crate::paths::PodId;
use crate::spec::refs;
use crate::volumes::{Volumes, usage};

/// A status that could not be written is tried again after this long.
const STATUS_RETRY: Duration = Duration::from_secs(1);

/// How a task of the worker ended.
enum Done {
    Mounted(Result<(), Failure>),
    Unmounted(Result<(), Failure>),
    Refreshed(Result<(), Failure>),
    SandboxMade(Result<(), Failure>),
    SandboxRemoved(Result<(), Failure>, Vec<ContainerView>),
    SandboxDown(Result<(), Failure>),
    Pulled(String, u32, String, Result<Present, Failure>),
    Created(String, Result<(), Failure>),
    Started(String, Result<(), Failure>),
    PostStart(String, String, Result<(), Failure>),
    Probed(String, String, Kind, Outcome),
    Killed(String, Result<(), Failure>),
    Removed(String),
    Finished(Result<(), Failure>),
    Written(Written),
    Measured(Option<Failure>),
    Resized(Vec<(String, u32)>, Allocation, Result<(), Failure>),
}

pub(super) struct Worker {
    ctx: Arc<Context>,
    pods: Pods,
    id: PodId,
    updates: watch::Receiver<Update>,
    nudge: Arc<Notify>,
    drain: Drain,
    pod: Arc<Pod>,
    /// The pod with the resources that are allocated to it.
    allocated: Arc<Pod>,
    /// Its ephemeral containers.
    added: Arc<Vec<Container>>,
    /// Why its resize waits, and when there may be more room.
    pending: Option<Failure>,
    room: watch::Receiver<()>,
    memory: Memory,
    clock: base::clock::Steady,
    way: Way,
    previous: PodStatus,
    seen: Seen,
    messages: Messages,
    images: HashMap<String, (u32, Present)>,
    volumes: Arc<Volumes>,
    handles: Arc<BTreeMap<Key, Handle>>,
    changes: SelectAll<BoxStream<'static, ()>>,
    tasks: JoinSet<Done>,
    running: BTreeMap<Op, AbortHandle>,
    report: Report,
    report_retry: Option<Instant>,
    told: BTreeSet<(String, u32)>,
    refreshing: bool,
    stale_volumes: bool,
    renew_at: Option<Timestamp>,
    over: bool,
    /// Limits on volumes that are measured, and when they are next.
    limits: usage::Limits,
    measure_at: Option<Instant>,
    /// Why the node does not take the pod.
    refused: Option<Failure>,
    /// Why it is to end, once that was taken in.
    ending: Option<Arc<Eviction>>,
    down: watch::Sender<bool>,
}

/// What comes next.
enum Next {
    Done(Result<Done, tokio::task::JoinError>),
    Updated,
    Nudged,
    ObjectChanged,
    Time,
    Room,
    Drain,
}

impl Worker {
    pub(super) fn new(
        ctx: Arc<Context>,
        pods: Pods,
        id: PodId,
        updates: watch::Receiver<Update>,
        nudge: Arc<Notify>,
        drain: Drain,
        down: watch::Sender<bool>,
    ) -> Self {
        let pod = updates.borrow().pod.clone();
        let volumes = Arc::new(Volumes::new(ctx.clone(), id.clone()));
        Worker {
            report: Report::new(pod.status.as_ref()),
            previous: pod.status.clone().unwrap_or_default(),
            memory: Memory::new(Timestamp::now()),
            clock: base::clock::Steady::default(),
            way: Way::begin(&ctx.config, &pod),
            seen: Seen { sandbox: Sandbox::Absent, containers: Vec::new() },
            messages: Messages::default(),
            images: HashMap::new(),
            handles: Arc::default(),
            changes: SelectAll::new(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            report_retry: None,
            told: BTreeSet::new(),
            refreshing: false,
            stale_volumes: false,
            renew_at: None,
            over: false,
            measure_at: None,
            refused: None,
            ending: None,
            down,
            allocated: pod.clone(),
            added: Arc::new(view::added(&pod)),
            pending: None,
            room: pods.room(),
            pods,
            limits: usage::limits(&pod),
            ctx,
            id,
            updates,
            nudge,
            drain,
            pod,
            volumes,
        }
    }

    /// The same for a pod that the node does not take, if there is a reason.
    pub(super) fn refused(self, refused: Option<Failure>) -> Self {
        Worker { refused, ..self }
    }

    /// Runs until the pod is gone from the node, or the agent drains.
    pub(super) async fn run(mut self) {
        self.begin().await;
        while !self.over {
            let wake = self.step();
            let next = self.wait(wake).await;
            if !self.take(next).await {
                return;
            }
        }
    }

    async fn begin(&mut self) {
        self.observe().await;
        self.memory = Memory::adopt(&self.previous, &self.seen.containers, Timestamp::now());
        self.memory.keep(self.ctx.config.dead_containers.clone());
        if let Some(Failure { reason, message }) = self.refused.take() {
            self.ctx.recorder.warn(pod_reference(&self.pod), reason.clone(), message.clone());
            self.memory.refuse(Failure::new(reason, format!("Pod was rejected: {message}")));
            return;
        }
        self.refer();
        self.measure_at = (!self.limits.is_empty()).then(|| Instant::now() + usage::EVERY);
    }

    /// Watches the objects the pod refers to.
    fn refer(&mut self) {
        let handles: BTreeMap<Key, Handle> =
            refs::keys(&self.pod).into_iter().map(|k| (k.clone(), self.ctx.objects.handle(k))).collect();
        self.changes = handles
            .values()
            .map(|h| {
                futures::stream::unfold(h.changes(), |mut rx| async move {
                    rx.changed().await.ok()?;
                    Some(((), rx))
                })
                .boxed()
            })
            .collect();
        if refs::has_driver(&self.pod) {
            self.changes.push(self.ctx.csi.changes(&self.id.uid));
        }
        self.handles = Arc::new(handles);
    }

    /// Asks the runtime what is there.
    async fn observe(&mut self) {
        let sandboxes = self.ctx.runtime.sandboxes().await;
        let sandbox = view::sandbox(sandboxes.iter().find(|s| s.spec.id == self.id.uid));
        let statuses = self.ctx.runtime.containers(Some(&self.id.uid)).await;
        let containers = view::containers(&self.pod, &statuses, &mut self.messages);
        self.seen = Seen { sandbox, containers };
    }

    /// Decides and starts what is to be done. Returns when to look again at the latest.
    fn step(&mut self) -> Option<Instant> {
        let now = self.now();
        let room = self.room();
        let plan = plan(&Snapshot {
            pod: &self.pod,
            previous: &self.previous,
            sandbox: self.seen.sandbox.clone(),
            containers: &self.seen.containers,
            memory: &self.memory,
            added: &self.added,
            room: room.as_ref(),
            host_ips: &self.ctx.host_ips,
            now,
        });
        report::tell_of_pulls(&self.ctx, &self.pod, &self.previous, &plan.status);
        self.previous = plan.status.clone();
        let killing: BTreeSet<Op> = self.running.keys().filter(|op| matches!(op, Op::Kill(_))).cloned().collect();
        self.tell(&plan);
        self.memory.accept(&plan, now);
        let allocated = allocated_pod(&self.pod, self.memory.allocated());
        self.allocated = allocated.map_or_else(|| self.pod.clone(), Arc::new);
        let finishing = plan.actions.contains(&Action::Finish);
        if !finishing && !self.memory.in_flight(&Op::Finish) && plan.report_at.is_none() {
            self.write();
        }
        for action in plan.actions {
            self.start(action, &killing);
        }
        if self.memory.is_down() && self.report.is_written(&self.previous) {
            self.down.send_if_modified(|down| !std::mem::replace(down, true));
        }
        self.refresh_if_due(now);
        self.measure_if_due();
        let wake = [plan.wake_at, self.renew_at].into_iter().flatten().min().map(|at| view::instant(at, now));
        [wake, self.report_retry, self.measure_at].into_iter().flatten().min()
    }

    /// What the node has for a pod that asks for other amounts than are allocated to it.
    fn room(&mut self) -> Option<Room> {
        is_wanted(&self.pod, self.memory.allocated()).then(|| {
            self.room.mark_unchanged();
            let allocatable = Amounts::of_list(&node_object::capacity(&self.ctx, true));
            Room { allocatable, used: self.pods.used(&self.id.uid) }
        })
    }

    /// Events of a resize, in the kubelet's words.
    fn tell_resize(&mut self, plan: &Plan) {
        let about = || pod_reference(&self.pod);
        if let Some(why) = plan.resize_pending.as_ref().filter(|why| self.pending.as_ref() != Some(why)) {
            let reason = if why.reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" };
            self.ctx.recorder.warn(about(), reason, format!("Pod resize {}: {}", why.reason, why.message));
        }
        if is_wanted(&self.pod, self.memory.allocated()) && plan.resize_pending.is_none() {
            self.ctx.recorder.normal(about(), "ResizeStarted", "Pod resize started".to_owned());
        }
        self.pending.clone_from(&plan.resize_pending);
    }

    /// Events for containers that a crash back-off begins to hold back.
    fn tell(&mut self, plan: &Plan) {
        self.tell_resize(plan);
        for (name, message) in &plan.held_back {
            let attempt = self.seen.containers.iter().filter(|v| v.name == *name).map(|v| v.attempt).max().unwrap_or(0);
            if self.told.insert((name.clone(), attempt)) {
                let pod = format!("{}_{}({})", self.id.name, self.id.namespace, self.id.uid);
                tracing::debug!(pod = %self.id, message, "held back");
                let text = format!("Back-off restarting failed container {name} in pod {pod}");
                self.ctx.recorder.warn(container_reference(&self.pod, name), "BackOff", text);
            }
        }
        if self.told.len() > 64 {
            self.told.clear();
        }
    }

    fn write(&mut self) {
        if self.memory_gone() || self.report_retry.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.report_retry = None;
        if let Some(patch) = self.report.next(&self.id.uid, &self.previous) {
            let (ctx, id, way) = (self.ctx.clone(), self.id.clone(), self.way.parent());
            self.tasks.spawn(async move { Done::Written(report::write(&ctx, &id, patch, &way).await) });
        }
    }

    fn memory_gone(&self) -> bool {
        self.updates.borrow().gone
    }

    fn job(&self) -> Job {
        Job {
            ctx: self.ctx.clone(),
            pod: self.allocated.clone(),
            added: self.added.clone(),
            id: self.id.clone(),
            volumes: self.volumes.clone(),
            handles: self.handles.clone(),
            pod_ips: self.seen.ips(&self.previous),
            way: self.way.parent(),
        }
    }

    fn start(&mut self, action: Action, killing: &BTreeSet<Op>) {
        let op = action.op();
        let before = self.running.remove(&op);
        // A new kill of the same container has less patience; anything else under this name is over or given up.
        let again = matches!(op, Op::Kill(_)) && killing.contains(&op);
        if let Some(before) = before {
            before.abort();
        }
        let job = self.job();
        let handle = match action {
            Action::Abort(_) => return,
            Action::MountVolumes => self.tasks.spawn(async move { Done::Mounted(job.mount().await) }),
            Action::TearDownVolumes => self.tasks.spawn(async move { Done::Unmounted(job.volumes.unmount().await) }),
            Action::RunSandbox => self.tasks.spawn(async move { Done::SandboxMade(job.run_sandbox().await) }),
            Action::RemoveSandbox => {
                let (views, anew) = (self.seen.containers.clone(), !self.memory.is_stopping());
                self.tasks.spawn(async move { Done::SandboxRemoved(job.remove_sandbox(anew).await, views) })
            }
            Action::StopSandbox => self.tasks.spawn(async move { Done::SandboxDown(job.stop_sandbox().await) }),
            Action::Pull { name, attempt } => {
                let spec = self.pod.spec.as_ref();
                let found = spec.and_then(|s| reconcile::pod::find_any(s, &name)).and_then(|(_, c)| c.image.clone());
                let image = found.unwrap_or_default();
                self.tasks.spawn(async move {
                    let result = job.pull(&name).await;
                    Done::Pulled(name, attempt, image, result)
                })
            }
            Action::Create { name, attempt, .. } => {
                let image = self.images.get(&name).filter(|(a, _)| *a == attempt).map(|(_, i)| i.clone());
                self.tasks.spawn(async move {
                    let result = match image {
                        Some(image) => job.create(&name, attempt, image).await,
                        None => Err(Failure::new("CreateContainerError", "its image was forgotten")),
                    };
                    Done::Created(name, result)
                })
            }
            Action::Start { name, id } => self.tasks.spawn(async move {
                let result = job.start(&name, &id).await;
                Done::Started(name, result)
            }),
            Action::PostStart { name, id } => self.tasks.spawn(async move {
                let result = job.post_start(&name, &id).await;
                Done::PostStart(name, id, result)
            }),
            Action::Probe { name, id, kind } => self.tasks.spawn(async move {
                let outcome = job.probe(&name, &id, kind).await;
                Done::Probed(name, id, kind, outcome)
            }),
            Action::Kill { name, id, grace, message } => self.tasks.spawn(async move {
                let result = job.kill(&name, &id, grace, message, again).await;
                Done::Killed(name, result)
            }),
            Action::Resize { containers } => self.resize(job, containers),
            Action::Remove { name, id, attempt } => self.tasks.spawn(async move {
                job.remove_container(&name, &id, attempt).await;
                Done::Removed(id)
            }),
            Action::Finish => {
                let gone = self.memory_gone();
                let last = self.report.next(&self.id.uid, &self.previous);
                self.tasks.spawn(async move { Done::Finished(job.finish(last, gone).await) })
            }
        };
        self.running.insert(op, handle);
    }

    fn resize(&mut self, job: Job, containers: Vec<(String, String)>) -> AbortHandle {
        let attempt = |id: &str| self.seen.containers.iter().find(|v| v.id == id).map_or(0, |v| v.attempt);
        let done = containers.iter().map(|(name, id)| (name.clone(), attempt(id))).collect();
        let allocation = self.memory.allocated().clone();
        self.tasks.spawn(async move {
            let result = job.resize(&containers).await;
            Done::Resized(done, allocation, result)
        })
    }

    fn resized(
        &mut self,
        containers: &[(String, u32)],
        allocation: Allocation,
        result: Result<(), Failure>,
        now: Timestamp,
    ) {
        let about = pod_reference(&self.pod);
        match &result {
            Ok(()) => self.ctx.recorder.normal(about, "ResizeCompleted", "Pod resize completed"),
            Err(f) => self.ctx.recorder.warn(about, "ResizeError", format!("Pod resize error: {}", f.message)),
        }
        self.memory.resized(containers, allocation, result, now);
    }

    /// Brings written volumes up to date after an object changed or when a token grows old.
    fn refresh_if_due(&mut self, now: Timestamp) {
        let renew = self.renew_at.is_some_and(|at| at <= now);
        if !(self.stale_volumes || renew) || self.refreshing || !self.memory.volumes_ready() {
            return;
        }
        self.stale_volumes = false;
        self.renew_at = None;
        self.refreshing = true;
        let job = self.job();
        self.tasks.spawn(async move { Done::Refreshed(job.mount().await) });
    }

    fn measure_if_due(&mut self) {
        if self.measure_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.measure_at = None;
        let (job, limits) = (self.job(), self.limits.clone());
        self.tasks.spawn(async move { Done::Measured(job.measure(limits).await) });
    }

    async fn wait(&mut self, wake: Option<Instant>) -> Next {
        let far = Instant::now() + Duration::from_secs(86_400);
        tokio::select! {
            biased;
            () = self.drain.cancelled() => Next::Drain,
            Some(done) = self.tasks.join_next() => Next::Done(done),
            Ok(()) = self.updates.changed() => Next::Updated,
            Ok(()) = self.room.changed(), if self.pending.is_some() => Next::Room,
            () = self.nudge.notified() => Next::Nudged,
            Some(()) = self.changes.next() => Next::ObjectChanged,
            () = tokio::time::sleep_until(wake.unwrap_or(far)) => Next::Time,
        }
    }

    /// Takes in what came. False when the worker is to end.
    async fn take(&mut self, next: Next) -> bool {
        match next {
            Next::Drain => return false,
            Next::Time | Next::Room => {}
            Next::Nudged => self.observe().await,
            Next::ObjectChanged => {
                self.stale_volumes = true;
                self.memory.retry_now();
            }
            Next::Updated => self.updated(),
            Next::Done(Ok(done)) => {
                let look =
                    !matches!(done, Done::Probed(..) | Done::Written(_) | Done::Refreshed(_) | Done::Measured(_));
                self.record(done).await;
                if look {
                    self.observe().await;
                }
            }
            Next::Done(Err(error)) => {
                if error.is_panic() {
                    tracing::error!(pod = %self.id, %error, "a task of a pod panicked");
                }
            }
        }
        true
    }

    fn updated(&mut self) {
        let update = self.updates.borrow_and_update().clone();
        if update.gone {
            self.memory.object_gone();
        }
        if let Some(eviction) = update.end.filter(|e| self.ending.as_ref() != Some(e)) {
            self.memory.evict(eviction.as_ref().clone(), Timestamp::now());
            self.ending = Some(eviction);
        }
        self.memory.discard(update.surplus.as_ref().clone());
        let meta = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if meta(&update.pod) != meta(&self.pod) {
            self.stale_volumes = true;
            // What a container waits for may be made of them.
            self.memory.retry_now();
        }
        self.pod = update.pod;
        let added = view::added(&self.pod);
        if added != *self.added {
            self.added = Arc::new(added);
            self.refer();
        }
        // Somebody else may declare the pod failed: that is not taken back.
        let declared = self.pod.status.as_ref().and_then(|s| s.phase.clone());
        let ended = |p: &Option<String>| matches!(p.as_deref(), Some("Succeeded" | "Failed"));
        if ended(&declared) && !ended(&self.previous.phase) {
            let status = self.pod.status.clone().unwrap_or_default();
            self.previous.phase = declared;
            self.previous.reason = status.reason;
            self.previous.message = status.message;
        }
    }

    /// The time. What waits in the memory is moved along when the clock was set.
    fn now(&mut self) -> Timestamp {
        let (now, set) = self.clock.look();
        set.into_iter().for_each(|by| self.memory.shift(by));
        now
    }

    async fn record(&mut self, done: Done) {
        let now = self.now();
        let m = &mut self.memory;
        match done {
            Done::Mounted(result) => {
                self.running.remove(&Op::Volumes);
                m.volumes_mounted(result, now);
                self.renew_at = self.volumes.renew_at().await;
            }
            Done::Unmounted(result) => m.volumes_unmounted(result, now),
            Done::Refreshed(result) => {
                self.refreshing = false;
                self.renew_at = self.volumes.renew_at().await;
                if result.is_err() {
                    let soon = now.checked_add(jiff::SignedDuration::from_secs(60)).unwrap_or(now);
                    self.renew_at = Some(self.renew_at.map_or(soon, |at| at.max(soon)));
                }
            }
            Done::SandboxMade(result) => m.sandbox_made(result, now),
            Done::SandboxRemoved(result, views) => m.sandbox_removed(result, &views, now),
            Done::SandboxDown(result) => m.sandbox_down(result, now),
            Done::Pulled(name, attempt, image, result) => {
                let result = result.map(|present| {
                    self.images.insert(name.clone(), (attempt, present));
                });
                self.running.remove(&Op::Pull(name.clone()));
                m.pulled(&name, attempt, &image, result, now);
            }
            Done::Created(name, result) => m.created(&name, result, now),
            Done::Started(name, result) => m.started(&name, result, now),
            Done::PostStart(name, id, result) => m.post_start_done(&name, &id, result),
            Done::Probed(name, id, kind, outcome) => {
                m.probed(&self.pod, &name, &id, kind, outcome, now);
            }
            Done::Killed(name, result) => {
                self.running.remove(&Op::Kill(name.clone()));
                m.killed(&name, result, now);
            }
            Done::Removed(id) => {
                self.running.remove(&Op::Remove(id.clone()));
                m.removed(&id);
            }
            Done::Finished(result) => {
                if let Err(failure) = &result {
                    tracing::warn!(pod = %self.id, reason = failure.message, "pod not removed");
                }
                self.over = result.is_ok();
                self.report.done(&Written::No(String::new()));
                m.finished(result, now);
            }
            Done::Measured(None) => self.measure_at = Some(Instant::now() + usage::EVERY),
            Done::Measured(Some(failure)) => {
                self.ctx.recorder.warn(pod_reference(&self.pod), "Evicted", failure.message.clone());
                m.evict(Eviction::of_storage(failure), now);
            }
            Done::Resized(containers, allocation, result) => self.resized(&containers, allocation, result, now),
            Done::Written(written) => {
                if let Written::No(error) = &written {
                    tracing::debug!(pod = %self.id, error, "status not written");
                    self.report_retry = Some(Instant::now() + STATUS_RETRY);
                }
                self.report.done(&written);
                self.way.written(&written, &self.previous);
            }
        }
    }
}
