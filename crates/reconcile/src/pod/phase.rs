//! The phase of a pod, counted from its container statuses as the kubelet counts.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

use super::stop::{Stop, StopCause, alive};
use super::{Policy, Role, Snapshot};

fn ended(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state?.terminated.as_ref()
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    init_pending: usize,
    sidecar_pending: usize,
    init_failed: usize,
}

impl Count {
    fn add(&mut self, role: Role, status: &ContainerStatus) {
        let now = ended(status.state.as_ref());
        let before = ended(status.last_state.as_ref());
        match role {
            Role::Init => match (now, before) {
                (Some(t), _) if t.exit_code != 0 => self.init_failed += 1,
                (Some(_), _) => {}
                (None, Some(t)) if !is_running(status) => self.init_failed += usize::from(t.exit_code != 0),
                (None, _) => self.init_pending += 1,
            },
            Role::Sidecar if is_running(status) => {
                self.running += 1;
                self.sidecar_pending += usize::from(status.started != Some(true));
            }
            Role::Sidecar => {
                if now.is_none() && before.is_none() {
                    self.sidecar_pending += 1;
                    self.waiting += 1;
                }
            }
            Role::Ephemeral => {}
            Role::Main => match (now, before) {
                _ if is_running(status) => self.running += 1,
                (Some(t), _) => {
                    self.stopped += 1;
                    self.succeeded += usize::from(t.exit_code == 0);
                }
                (None, Some(_)) => self.stopped += 1,
                (None, None) => self.waiting += 1,
            },
        }
    }

    fn phase(&self, policy: Policy, began: bool, over: bool) -> &'static str {
        if self.init_failed > 0 && policy == Policy::Never {
            return "Failed";
        }
        let initializing =
            self.init_pending > 0 || self.init_failed > 0 && !began || (self.sidecar_pending > 0 && !began);
        if initializing || self.waiting > 0 {
            return "Pending";
        }
        if self.running > 0 {
            return "Running";
        }
        if self.stopped == 0 {
            return "Pending";
        }
        match (self.stopped == self.succeeded, over, policy) {
            (true, true, _) => "Succeeded",
            (false, true, _) => "Failed",
            (_, false, Policy::Always) => "Running",
            (true, false, _) => "Succeeded",
            (false, false, Policy::Never) => "Failed",
            (false, false, Policy::OnFailure) => "Running",
        }
    }
}

/// The phase. It becomes `Succeeded` or `Failed` only when nothing of the pod runs any more, and then stays.
pub(super) fn of(s: &Snapshot<'_>, stop: Option<&Stop>, statuses: &[(Role, ContainerStatus)]) -> String {
    let previous = s.previous.phase.as_deref();
    if let Some(p @ ("Succeeded" | "Failed")) = previous {
        return p.to_owned();
    }
    let mut count = Count::default();
    for (role, status) in statuses {
        count.add(*role, status);
    }
    let over = stop.is_some() && !alive(s);
    let phase = count.phase(Policy::of(s.pod), super::start::began(s), over);
    let failed =
        stop.is_some_and(|stop| !matches!(stop.cause, StopCause::Deleted | StopCause::Completed | StopCause::Ended));
    match phase {
        _ if over && failed => "Failed",
        "Succeeded" | "Failed" if !over => previous.unwrap_or("Pending"),
        "Pending" | "Running" if over => "Failed",
        p => p,
    }
    .to_owned()
}
