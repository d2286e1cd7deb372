//! A pod in a world that does at once whatever is planned, except where a test says otherwise.

mod lifecycle;
mod random;
mod reset;
mod resize;

use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::probe::Outcome;

struct World {
    pod: Pod,
    status: PodStatus,
    sandbox: Sandbox,
    views: Vec<ContainerView>,
    memory: Memory,
    now: Timestamp,
    log: Vec<String>,
    /// Actions whose log line starts so are left in flight.
    hold: Vec<&'static str>,
    /// Pulls fail.
    no_image: bool,
    probe: Outcome,
    finished: bool,
    room: Option<Room>,
    /// Giving other amounts fails.
    stiff: bool,
    wake_at: Option<Timestamp>,
}

fn epoch() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("in range")
}

fn pod(spec: Value) -> Pod {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 1},
        "spec": spec,
    });
    serde_json::from_value(pod).expect("a pod")
}

impl World {
    fn new(spec: Value) -> World {
        World {
            pod: pod(spec),
            status: PodStatus::default(),
            sandbox: Sandbox::Absent,
            views: Vec::new(),
            memory: Memory::new(epoch()),
            now: epoch(),
            log: Vec::new(),
            hold: Vec::new(),
            no_image: false,
            probe: Outcome::Success,
            finished: false,
            room: None,
            stiff: false,
            wake_at: None,
        }
    }

    /// One container `web` with that much more in its spec.
    fn one(more: Value) -> World {
        let mut c = json!({"name": "web", "image": "img"});
        merge(&mut c, more);
        World::new(json!({"containers": [c]}))
    }

    fn plan(&self) -> Plan {
        let host = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let added = self.pod.spec.as_ref().map(ephemeral).unwrap_or_default();
        plan(&Snapshot {
            pod: &self.pod,
            previous: &self.status,
            sandbox: self.sandbox.clone(),
            containers: &self.views,
            memory: &self.memory,
            added: &added,
            room: self.room.as_ref(),
            host_ips: &host,
            now: self.now,
        })
    }

    /// Plans and does until nothing is left to do now.
    fn settle(&mut self) {
        for _ in 0..200 {
            let plan = self.plan();
            self.status = plan.status.clone();
            self.wake_at = plan.wake_at;
            self.memory.accept(&plan, self.now);
            if plan.actions.is_empty() {
                return;
            }
            for action in plan.actions {
                self.act(action);
            }
        }
        panic!("never quiet: {:?}", self.log);
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.settle();
    }

    fn act(&mut self, action: Action) {
        let line = match &action {
            Action::Create { name, attempt, .. } => format!("create {name} {attempt}"),
            Action::Start { name, .. } => format!("start {name}"),
            Action::Pull { name, .. } => format!("pull {name}"),
            Action::Kill { name, grace, .. } => format!("kill {name} {}", grace.as_secs()),
            Action::Probe { name, kind, .. } => format!("probe {name} {kind:?}"),
            Action::PostStart { name, .. } => format!("postStart {name}"),
            Action::Resize { containers } => {
                format!("resize {}", containers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(","))
            }
            Action::Remove { name, attempt, .. } => format!("remove {name} {attempt}"),
            other => format!("{other:?}"),
        };
        let held = self.hold.iter().any(|h| line.starts_with(h));
        self.log.push(line);
        if !held {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::MountVolumes => self.memory.volumes_mounted(Ok(()), now),
            Action::TearDownVolumes => self.memory.volumes_unmounted(Ok(()), now),
            Action::RunSandbox => {
                self.sandbox = Sandbox::Ready { ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))) };
                self.memory.sandbox_made(Ok(()), now);
            }
            Action::RemoveSandbox => {
                let views = std::mem::take(&mut self.views);
                self.sandbox = Sandbox::Absent;
                self.memory.sandbox_removed(Ok(()), &views, now);
            }
            Action::StopSandbox => {
                let up = matches!(self.sandbox, Sandbox::Ready { .. });
                assert!(!up || !self.views.iter().any(ContainerView::running), "stopped under a running container");
                self.sandbox = Sandbox::Lost;
                self.memory.sandbox_down(Ok(()), now);
            }
            Action::Pull { name, attempt } => {
                let result = if self.no_image { Err(Failure::new("ErrImagePull", "no")) } else { Ok(()) };
                self.memory.pulled(&name, attempt, "img", result, now);
            }
            Action::Create { name, attempt, .. } => {
                assert!(!self.views.iter().any(|v| v.name == name && v.running()), "{name} made twice");
                self.views.push(ContainerView {
                    id: format!("{name}-{attempt}"),
                    name: name.clone(),
                    attempt,
                    image: "img".into(),
                    image_id: "img@sha256:1".into(),
                    user: None,
                    stop_signal: None,
                    run: Run::Created,
                });
                self.memory.created(&name, Ok(()), now);
            }
            Action::Start { name, id } => {
                self.view(&id).run = Run::Running { started_at: now };
                self.memory.started(&name, Ok(()), now);
            }
            Action::PostStart { name, id } => self.memory.post_start_done(&name, &id, Ok(())),
            Action::Probe { name, id, kind } => {
                let (pod, outcome) = (self.pod.clone(), self.probe);
                self.memory.probed(&pod, &name, &id, kind, outcome, now);
            }
            Action::Kill { name, id, .. } => {
                self.end(&id, 143);
                self.memory.killed(&name, Ok(()), now);
            }
            Action::Resize { containers } => {
                let attempt = |id: &str| self.views.iter().find(|v| v.id == id).map_or(0, |v| v.attempt);
                let done: Vec<_> = containers.iter().map(|(n, id)| (n.clone(), attempt(id))).collect();
                let result = if self.stiff { Err(Failure::new("Error", "below usage")) } else { Ok(()) };
                let allocation = self.memory.allocated().clone();
                self.memory.resized(&done, allocation, result, now);
            }
            Action::Remove { id, .. } => {
                self.views.retain(|v| v.id != id);
                self.memory.removed(&id);
            }
            Action::Abort(_) => {}
            Action::Finish => {
                self.finished = true;
                self.memory.finished(Ok(()), now);
            }
        }
    }

    fn view(&mut self, id: &str) -> &mut ContainerView {
        self.views.iter_mut().find(|v| v.id == id).expect("a container of that id")
    }

    fn end(&mut self, id: &str, code: i32) {
        let now = self.now;
        let view = self.view(id);
        if let Run::Running { started_at } = view.run {
            view.run = Run::Exited(Exit {
                code,
                oom_killed: false,
                started_at: Some(started_at),
                finished_at: now,
                start_error: None,
                message: None,
            });
        }
    }

    /// The running container of that name ends.
    fn exit(&mut self, name: &str, code: i32) {
        let id = self.views.iter().find(|v| v.name == name && v.running()).expect("it runs").id.clone();
        self.end(&id, code);
        self.settle();
    }

    fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_timestamp = Some(Time(self.now));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.settle();
    }

    fn phase(&self) -> &str {
        self.status.phase.as_deref().expect("a phase")
    }

    fn container(&self, name: &str) -> &ContainerStatus {
        let st = &self.status;
        st.init_container_statuses
            .iter()
            .flatten()
            .chain(st.container_statuses.iter().flatten())
            .chain(st.ephemeral_container_statuses.iter().flatten())
            .find(|c| c.name == name)
            .expect("a status")
    }

    fn waiting(&self, name: &str) -> &str {
        let waiting = self.container(name).state.as_ref().and_then(|s| s.waiting.as_ref());
        waiting.and_then(|w| w.reason.as_deref()).unwrap_or_default()
    }

    fn condition(&self, kind: &str) -> (&str, &str) {
        let c = self.status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("a condition");
        (&c.status, c.reason.as_deref().unwrap_or_default())
    }

    fn did(&self, what: &str) -> usize {
        self.log.iter().filter(|l| l.starts_with(what)).count()
    }

    fn order(&self, first: &str, second: &str) -> bool {
        let at = |what: &str| self.log.iter().position(|l| l.starts_with(what));
        matches!((at(first), at(second)), (Some(a), Some(b)) if a < b)
    }
}

fn merge(to: &mut Value, from: Value) {
    let (Value::Object(to), Value::Object(from)) = (to, from) else { panic!("objects") };
    to.extend(from);
}
