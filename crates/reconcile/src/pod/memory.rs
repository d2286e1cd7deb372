//! What the agent knows of a pod beyond what the runtime and the API server say: what is in flight, what failed and when
//! to try again, what the probes said. It lives as long as the pod's worker; after a restart of the agent it is rebuilt
//! from the runtime and the last reported status ([`Memory::adopt`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStatus, Pod, PodStatus, Probe as ProbeSpec, ResourceRequirements,
};

use super::resize::{self, Allocation};
use super::stop::{Eviction, Stop};
use super::{Action, CONTAINER_ID_SCHEME, ContainerView, Failure, Op, Plan, Run, status};
use crate::containergc;
use crate::probe::{Kind, Outcome, Settings, Tracker, later};

/// First and longest wait between attempts to run a container that ends, and to pull an image (the kubelet's).
const CRASH_BASE_S: i64 = 10;
const CRASH_CAP_S: i64 = 300;
/// Waits between attempts to mount, make a sandbox or create a container: faults of the node or of missing objects, of
/// which most are over soon.
const STEP_BASE_S: i64 = 1;
const STEP_CAP_S: i64 = 60;

/// Something to be achieved once, tried again after a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) done: bool,
    pub(super) failures: u32,
    pub(super) error: Option<Failure>,
    pub(super) failed_at: Option<Timestamp>,
    pub(super) retry_at: Option<Timestamp>,
}

impl Step {
    fn record(&mut self, result: Result<(), Failure>, now: Timestamp, base_s: i64, cap_s: i64) {
        match result {
            Ok(()) => *self = Step { done: true, ..Step::default() },
            Err(error) => {
                let delay = base_s.saturating_mul(1i64 << self.failures.min(16)).min(cap_s);
                self.failures = self.failures.saturating_add(1);
                self.done = false;
                self.error = Some(error);
                self.failed_at = Some(now);
                self.retry_at = Some(later(now, SignedDuration::from_secs(delay)));
            }
        }
    }

    /// The clock was set.
    fn shift(&mut self, by: SignedDuration) {
        for at in [&mut self.failed_at, &mut self.retry_at].into_iter().flatten() {
            *at = later(*at, by);
        }
    }

    /// When it may be tried: now, or later.
    pub(super) fn ready_at(&self, now: Timestamp) -> Result<(), Timestamp> {
        match self.retry_at {
            Some(at) if at > now => Err(at),
            _ => Ok(()),
        }
    }
}

/// Back-off of a container that keeps ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crash {
    pub(super) delay: SignedDuration,
    pub(super) since: Timestamp,
}

impl Crash {
    /// Whether an end at `finished` is so long after the last restart that the count begins anew.
    fn expired(&self, finished: Timestamp) -> bool {
        finished.duration_since(self.since) > SignedDuration::from_secs(CRASH_CAP_S * 2)
    }
}

/// The probes of one run of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Probes {
    pub(super) id: String,
    pub(super) startup: Tracker,
    pub(super) readiness: Tracker,
    pub(super) liveness: Tracker,
}

/// A run that ended and is no more, alone or with its sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Carried {
    pub(super) attempt: u32,
    pub(super) ended: ContainerStateTerminated,
}

/// What is known of one container of the spec.
#[derive(Debug, Clone, Default)]
pub struct ContainerMemory {
    pub(super) pull: Step,
    /// The attempt an image was made present for, and the image as given by the pod.
    pub(super) image: Option<(u32, String)>,
    pub(super) create: Step,
    pub(super) kill: Step,
    pub(super) kill_deadline: Option<Timestamp>,
    pub(super) crash: Option<Crash>,
    pub(super) post_start: Option<String>,
    pub(super) doomed: Option<(String, String)>,
    pub(super) probes: Probes,
    pub(super) carried: Option<Carried>,
    /// What the run of that attempt has.
    pub(super) given: Option<(u32, ResourceRequirements)>,
    /// The run that is ended to be made anew with other amounts.
    pub(super) resizing: Option<String>,
}

impl ContainerMemory {
    /// When a container that ended at `finished` may be started again, and the delay, if that is not now.
    pub(super) fn held_until(&self, finished: Timestamp, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let crash = self.crash.filter(|c| !c.expired(finished))?;
        let at = later(finished, crash.delay);
        (at > now).then_some((at, crash.delay))
    }

    fn count_crash(&mut self, finished: Timestamp, now: Timestamp) {
        let delay = match self.crash.filter(|c| !c.expired(finished)) {
            Some(c) => SignedDuration::from_secs((c.delay.as_secs() * 2).min(CRASH_CAP_S)),
            None => SignedDuration::from_secs(CRASH_BASE_S),
        };
        self.crash = Some(Crash { delay, since: now });
    }

    pub(super) fn tracker(&self, id: &str, kind: Kind) -> Tracker {
        if self.probes.id != id {
            return Tracker::default();
        }
        match kind {
            Kind::Startup => self.probes.startup,
            Kind::Readiness => self.probes.readiness,
            Kind::Liveness => self.probes.liveness,
        }
    }
}

/// The probe of that kind of a container.
pub(super) fn probe_of(c: &Container, kind: Kind) -> Option<&ProbeSpec> {
    match kind {
        Kind::Startup => c.startup_probe.as_ref(),
        Kind::Readiness => c.readiness_probe.as_ref(),
        Kind::Liveness => c.liveness_probe.as_ref(),
    }
}

/// What the agent did and saw of one pod.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(super) first_seen: Timestamp,
    pub(super) inflight: BTreeSet<Op>,
    pub(super) volumes: Step,
    pub(super) sandbox: Step,
    pub(super) stop: Option<Stop>,
    pub(super) sandbox_stopped: bool,
    pub(super) volumes_down: bool,
    pub(super) finish: Step,
    pub(super) refused: Option<Failure>,
    pub(super) evicted: Option<(Eviction, Timestamp)>,
    pub(super) gone: bool,
    /// All containers are being taken away, to begin anew.
    pub(super) resetting: bool,
    pub(super) containers: BTreeMap<String, ContainerMemory>,
    pub(super) allocated: Allocation,
    /// The allocation that the pod as a whole was last given.
    pub(super) pod_given: Option<Allocation>,
    pub(super) resize: Step,
    /// How many dead containers stay.
    pub(super) keep: containergc::Policy,
    /// Ids of those that the node has too many of.
    pub(super) surplus: BTreeSet<String>,
}

impl Memory {
    /// Of a pod seen for the first time.
    pub fn new(now: Timestamp) -> Self {
        Memory {
            first_seen: now,
            inflight: BTreeSet::new(),
            volumes: Step::default(),
            sandbox: Step::default(),
            stop: None,
            sandbox_stopped: false,
            volumes_down: false,
            finish: Step::default(),
            refused: None,
            evicted: None,
            gone: false,
            resetting: false,
            containers: BTreeMap::new(),
            allocated: Allocation::new(),
            pod_given: None,
            resize: Step::default(),
            keep: containergc::Policy::default(),
            surplus: BTreeSet::new(),
        }
    }

    /// Of a pod that an agent before this one may have run: what was probed of a run that still goes on stays true until
    /// probed again, its postStart hook is not run again, and restarts are counted on.
    pub fn adopt(status: &PodStatus, views: &[ContainerView], now: Timestamp) -> Self {
        let mut memory = Memory::new(now);
        for view in views.iter().filter(|v| v.running()) {
            let m = memory.containers.entry(view.name.clone()).or_default();
            m.post_start = Some(view.id.clone());
            m.probes.id = view.id.clone();
        }
        memory.allocated = resize::adopted(status);
        memory.pod_given = Some(memory.allocated.clone());
        memory.resetting = super::reset::reported(status);
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let all = all.chain(status.ephemeral_container_statuses.iter().flatten());
        for reported in all {
            memory.adopt_container(reported, views, now);
        }
        memory
    }

    fn adopt_container(&mut self, reported: &ContainerStatus, views: &[ContainerView], now: Timestamp) {
        let Some(id) = reported.container_id.as_deref().and_then(|i| i.strip_prefix(CONTAINER_ID_SCHEME)) else {
            return;
        };
        let attempt = reported.restart_count.max(0).unsigned_abs();
        let m = self.containers.entry(reported.name.clone()).or_default();
        if m.probes.id == id {
            m.given = reported.resources.clone().map(|r| (attempt, r));
            if reported.started == Some(true) {
                m.probes.startup = Tracker::adopted(true);
            }
            if reported.ready {
                m.probes.readiness = Tracker::adopted(true);
            }
        }
        let waits = reported.state.as_ref().and_then(|s| s.waiting.as_ref()?.reason.as_deref());
        if waits == Some("CrashLoopBackOff") {
            // It was held back then; a restart of the agent is no reason to let it go.
            let doubled = CRASH_BASE_S << attempt.saturating_sub(1).min(16);
            m.crash = Some(Crash { delay: SignedDuration::from_secs(doubled.min(CRASH_CAP_S)), since: now });
        }
        let ended = |s: &Option<k8s_openapi::api::core::v1::ContainerState>| s.as_ref()?.terminated.clone();
        if views.iter().any(|v| v.name == reported.name) {
            // Of a run that was removed, the status is all that is left.
            let there = |e: &ContainerStateTerminated| {
                let id = e.container_id.as_deref().and_then(|i| i.strip_prefix(CONTAINER_ID_SCHEME));
                id.is_some_and(|id| views.iter().any(|v| v.id == id))
            };
            let before = ended(&reported.last_state).filter(|e| super::reset::is(e) || !there(e));
            m.carried = before.map(|ended| Carried { attempt: attempt.saturating_sub(1), ended });
            return;
        }
        let ended = ended(&reported.state).or_else(|| ended(&reported.last_state)).unwrap_or_else(|| {
            status::unknown_end("The container was not there when the agent came back", Some(id), now)
        });
        m.carried = Some(Carried { attempt, ended });
    }

    /// The memory of a container of the spec.
    pub(super) fn of(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name)
    }

    fn entry(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// The clock was set by so much: what waits goes on waiting as long as it was to, neither less nor more.
    pub fn shift(&mut self, by: SignedDuration) {
        self.first_seen = later(self.first_seen, by);
        if let Some(stop) = &mut self.stop {
            stop.since = later(stop.since, by);
        }
        for step in [&mut self.volumes, &mut self.sandbox, &mut self.finish, &mut self.resize] {
            step.shift(by);
        }
        for m in self.containers.values_mut() {
            [&mut m.pull, &mut m.create, &mut m.kill].into_iter().for_each(|step| step.shift(by));
            if let Some(at) = &mut m.kill_deadline {
                *at = later(*at, by);
            }
            if let Some(crash) = &mut m.crash {
                crash.since = later(crash.since, by);
            }
            let probes = &mut m.probes;
            [&mut probes.startup, &mut probes.readiness, &mut probes.liveness].into_iter().for_each(|t| t.shift(by));
        }
    }

    /// How many dead containers the node keeps.
    pub fn keep(&mut self, policy: containergc::Policy) {
        self.keep = policy;
    }

    /// The node has too many dead containers: of this pod, these go.
    pub fn discard(&mut self, ids: BTreeSet<String>) {
        self.surplus = ids;
    }

    /// Whether something of that kind is under way.
    pub fn in_flight(&self, op: &Op) -> bool {
        self.inflight.contains(op)
    }

    /// Whether anything at all is under way.
    pub fn busy(&self) -> bool {
        !self.inflight.is_empty()
    }

    /// Takes a plan whose actions are about to run.
    pub fn accept(&mut self, plan: &Plan, now: Timestamp) {
        for action in &plan.actions {
            match action {
                Action::Abort(op) => {
                    self.inflight.remove(op);
                    continue;
                }
                Action::Create { name, attempt, after } => {
                    let given = plan.allocated.get(name).cloned();
                    let m = self.entry(name);
                    m.given = given.map(|r| (*attempt, r));
                    if let Some(finished) = after {
                        m.count_crash(*finished, now);
                    }
                }
                Action::RunSandbox => self.pod_given = Some(plan.allocated.clone()),
                Action::Kill { name, grace, .. } => self.entry(name).kill_deadline = Some(later(now, *grace)),
                _ => {}
            }
            self.inflight.insert(action.op());
        }
        self.resetting = plan.resetting;
        for (name, attempt, ended) in &plan.removed {
            let m = self.entry(name);
            if m.carried.as_ref().is_none_or(|c| c.attempt <= *attempt) {
                m.carried = Some(Carried { attempt: *attempt, ended: ended.clone() });
            }
        }
        for (name, id) in &plan.resizing {
            self.entry(name).resizing = Some(id.clone());
        }
        if self.allocated != plan.allocated {
            self.allocated.clone_from(&plan.allocated);
            // What was in the way of the last resize says nothing of this one.
            self.resize = Step::default();
        }
        if plan.stop.is_some() {
            self.stop.clone_from(&plan.stop);
        }
    }

    /// The node does not support what the pod asks for.
    pub fn refuse(&mut self, failure: Failure) {
        self.refused = Some(failure);
    }

    /// The node wants the pod to end. The first reason is the one that is told, the shortest time the one it gets.
    pub fn evict(&mut self, eviction: Eviction, now: Timestamp) {
        match &mut self.evicted {
            Some((first, _)) if first.grace.is_some() => {}
            Some((first, at)) => (first.grace, *at) = (eviction.grace, now),
            none => *none = Some((eviction, now)),
        }
    }

    /// Whether the pod is being taken down, or was.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether nothing of the pod runs and its volumes are unmounted, for good.
    pub fn is_down(&self) -> bool {
        self.stop.is_some() && self.volumes_down && !self.busy()
    }

    /// The pod's object is no more.
    pub fn object_gone(&mut self) {
        self.gone = true;
    }

    /// The volumes are mounted, or not.
    pub fn volumes_mounted(&mut self, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Volumes);
        self.volumes.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// The volumes are unmounted, or not.
    pub fn volumes_unmounted(&mut self, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Volumes);
        self.volumes_down = result.is_ok();
        self.volumes.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// Whether the volumes could not be mounted at the last attempt.
    pub fn volumes_failed(&self) -> bool {
        self.volumes.error.is_some()
    }

    /// Whether the volumes are mounted, and nothing is being done about them.
    pub fn volumes_ready(&self) -> bool {
        self.volumes.done && !self.in_flight(&Op::Volumes) && self.stop.is_none()
    }

    /// An object the volumes or the environment wait for changed: try at once.
    pub fn retry_now(&mut self) {
        self.volumes.retry_at = None;
        for m in self.containers.values_mut() {
            m.create.retry_at = None;
        }
    }

    /// The sandbox was made, or not.
    pub fn sandbox_made(&mut self, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Sandbox);
        self.sandbox.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// A lost sandbox was removed, with what was known of its containers.
    pub fn sandbox_removed(&mut self, result: Result<(), Failure>, views: &[ContainerView], now: Timestamp) {
        self.inflight.remove(&Op::Sandbox);
        if result.is_ok() {
            for view in views {
                self.carry(view, now);
            }
        }
        let done = result.is_ok();
        self.sandbox.record(result, now, STEP_BASE_S, STEP_CAP_S);
        if done {
            self.sandbox = Step::default();
        }
    }

    fn carry(&mut self, view: &ContainerView, now: Timestamp) {
        let ended = match &view.run {
            Run::Exited(exit) => status::terminated(view, exit),
            Run::Running { .. } => status::unknown_end("Its sandbox was lost", Some(&view.id), now),
            Run::Created => return,
        };
        let m = self.entry(&view.name);
        if m.carried.as_ref().is_none_or(|c| c.attempt <= view.attempt) {
            m.carried = Some(Carried { attempt: view.attempt, ended });
        }
    }

    /// The sandbox was stopped, or not.
    pub fn sandbox_down(&mut self, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Sandbox);
        self.sandbox_stopped = result.is_ok();
        self.sandbox.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// An image is present for that attempt, or not.
    pub fn pulled(&mut self, name: &str, attempt: u32, image: &str, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Pull(name.to_owned()));
        let m = self.entry(name);
        if result.is_ok() {
            m.image = Some((attempt, image.to_owned()));
        }
        m.pull.record(result, now, CRASH_BASE_S, CRASH_CAP_S);
    }

    /// A container was made, or not.
    pub fn created(&mut self, name: &str, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Container(name.to_owned()));
        self.entry(name).create.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// A container was started, or not; a failed start is also an ended run in the runtime.
    pub fn started(&mut self, name: &str, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Container(name.to_owned()));
        self.entry(name).create.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// The postStart hook of that run ended; a failure gets the container killed.
    pub fn post_start_done(&mut self, name: &str, id: &str, result: Result<(), Failure>) {
        self.inflight.remove(&Op::PostStart(name.to_owned()));
        let m = self.entry(name);
        m.post_start = Some(id.to_owned());
        if result.is_err() {
            m.doomed = Some((id.to_owned(), "FailedPostStartHook".to_owned()));
        }
    }

    /// A container was stopped, or not.
    pub fn killed(&mut self, name: &str, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Kill(name.to_owned()));
        let m = self.entry(name);
        m.kill_deadline = None;
        m.kill.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// What is allocated to the pod.
    pub fn allocated(&self) -> &Allocation {
        &self.allocated
    }

    /// The pod and these of its containers (names and attempts) were given what `allocation` says, or not.
    pub fn resized(
        &mut self,
        containers: &[(String, u32)],
        allocation: Allocation,
        result: Result<(), Failure>,
        now: Timestamp,
    ) {
        self.inflight.remove(&Op::Resize);
        if result.is_ok() {
            for (name, attempt) in containers {
                if let Some(given) = allocation.get(name) {
                    self.entry(name).given = Some((*attempt, given.clone()));
                }
            }
            self.pod_given = Some(allocation);
        }
        self.resize.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// An ended container was removed, or not (then it is tried again later).
    pub fn removed(&mut self, id: &str) {
        self.inflight.remove(&Op::Remove(id.to_owned()));
    }

    /// The last step was done, or not.
    pub fn finished(&mut self, result: Result<(), Failure>, now: Timestamp) {
        self.inflight.remove(&Op::Finish);
        self.finish.record(result, now, STEP_BASE_S, STEP_CAP_S);
    }

    /// A probe answered. Returns the new verdict if this answer changed it.
    pub fn probed(
        &mut self,
        pod: &Pod,
        name: &str,
        id: &str,
        kind: Kind,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<bool> {
        self.inflight.remove(&Op::Probe(name.to_owned(), kind));
        let (_, c) = super::find(pod.spec.as_ref()?, name)?;
        let settings = Settings::of(probe_of(c, kind)?);
        let m = self.entry(name);
        if m.probes.id != id {
            m.probes = Probes { id: id.to_owned(), ..Probes::default() };
        }
        let tracker = match kind {
            Kind::Startup => &mut m.probes.startup,
            Kind::Readiness => &mut m.probes.readiness,
            Kind::Liveness => &mut m.probes.liveness,
        };
        let changed = tracker.record(&settings, outcome, now)?;
        if !changed && kind != Kind::Readiness {
            let what = if kind == Kind::Startup { "startup" } else { "liveness" };
            m.doomed = Some((id.to_owned(), format!("Container {name} failed {what} probe, will be restarted")));
        }
        Some(changed)
    }
}
