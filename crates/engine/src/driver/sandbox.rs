//! Making, stopping and removing the sandbox itself.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use shim::proto::{Request, SandboxInit};

use super::Driver;
use super::teardown::{kill_shim_of, remove_pod_dir};
use crate::context::{SHIM_CGROUP, blocking, failed, shim_cgroup};
use crate::files;
use crate::link::{Link, ShimEvent};
use crate::oci::limits;
use crate::record::{Phase, SandboxRecord};
use crate::runtime::{ExitRecord, Resources, RuntimeError, SandboxSpec, SandboxStatus};

/// How long killed processes may take to be gone: a process in the kernel (a hung disk) dies when it comes back.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long a shim may take to end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(15);

impl Driver {
    pub(super) async fn run_sandbox(&mut self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        self.drain_events().await;
        if let Some(record) = self.record.as_ref().filter(|r| r.complete) {
            let status = self.view.borrow().sandbox.clone();
            return match status {
                Some(status) if record.spec == spec && status.ready => Ok(status),
                _ if record.spec != spec => Err(self.in_the_way("a sandbox of that id exists with another spec")),
                _ => Err(self.in_the_way("the sandbox exists but is not ready; remove it first")),
            };
        }
        if self.record.is_some() {
            // A removal, or an undoing, that failed half-way.
            self.remove_sandbox().await?;
            self.gone = false;
        }
        let made = match validate(&spec) {
            Ok(()) => self.make_sandbox(spec).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(status) => Ok(status),
            Err(error) => {
                // What cannot be undone now stays listed as not made: asking again, or a restart, tries again.
                if let Err(undo) = self.remove_sandbox().await {
                    tracing::warn!(sandbox = %self.id, error = %undo, "a sandbox that could not be made is not fully undone");
                }
                Err(error)
            }
        }
    }

    fn in_the_way(&self, message: &str) -> RuntimeError {
        RuntimeError::Conflict { id: self.id.clone(), message: message.to_owned() }
    }

    async fn make_sandbox(&mut self, spec: SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let pod_dir = self.cx.pod_dir(&self.id);
        let created_at_ms = shim::time::now_ms();
        let user_base = match spec.own_users {
            true => Some(self.cx.users.take(self.cx.instance.name(), &self.id)?),
            false => None,
        };
        let (complete, stopped, ip) = (false, false, None);
        let record = SandboxRecord { spec: spec.clone(), complete, stopped, ip, user_base, created_at_ms };
        // Written first: whatever is made from here on has a record by which it is found and removed.
        self.cx.records.put_sandbox(&record).map_err(failed("write record"))?;
        self.record = Some(record.clone());
        self.step("sandbox-recorded");
        let (cx, path, dir, limits) =
            (self.cx.clone(), self.cx.sandbox_cgroup(&spec), pod_dir.clone(), spec.resources.clone());
        let (init, of) = (self.sandbox_init(&spec, &pod_dir, user_base), spec.clone());
        blocking("make sandbox", move || {
            std::fs::create_dir_all(&dir).map_err(failed("make sandbox folder"))?;
            shim::cgroup::create(&path).map_err(failed("make cgroup"))?;
            limits::apply(&path, &limits, &cx.host)?;
            cx.weigh(&of, Some(&limits));
            cx.shims.launch(&init)?;
            if user_base.is_some() { users_can_be_mapped(&dir) } else { Ok(()) }
        })
        .await?;
        self.step("sandbox-launched");
        self.link = Some(Link::open(&pod_dir, self.shim_tx.clone()).map_err(failed("connect to shim"))?);
        let ip = self.attach_network(&spec, &pod_dir).await?;
        self.step("sandbox-attached");
        let (dir, for_files) = (pod_dir, spec);
        blocking("make sandbox", move || files::prepare(&dir, &for_files, ip).map_err(failed("write sandbox files")))
            .await?;
        self.step("sandbox-prepared");
        let record = SandboxRecord { complete: true, ip, ..record };
        self.cx.records.put_sandbox(&record).map_err(failed("write record"))?;
        self.record = Some(record);
        self.step("sandbox-made");
        self.publish();
        self.cx.hint_sandbox(&self.id);
        self.view.borrow().sandbox.clone().ok_or_else(|| self.not_found("sandbox"))
    }

    fn sandbox_init(&self, spec: &SandboxSpec, pod_dir: &Path, user_base: Option<u32>) -> SandboxInit {
        SandboxInit {
            pod_dir: pod_dir.to_path_buf(),
            // On the host's network a pod has the host's name.
            hostname: (!spec.host_network).then(|| spec.hostname.clone()),
            own_net: !spec.host_network && spec.join_network.is_none(),
            join_net: spec.join_network.as_ref().map(|other| shim::sandbox::pin(&self.cx.pod_dir(other), "net")),
            own_ipc: !spec.host_ipc,
            shared_pid: spec.share_process_namespace && !spec.host_pid,
            user_base,
            sysctls: spec.sysctls.clone(),
            shim_cgroup: shim_cgroup(&self.cx.instance),
        }
    }

    async fn attach_network(&self, spec: &SandboxSpec, pod_dir: &Path) -> Result<Option<IpAddr>, RuntimeError> {
        if spec.host_network || spec.join_network.is_some() {
            return Ok(None);
        }
        let netns = shim::sandbox::pin(pod_dir, "net");
        if spec.no_network {
            self.cx.network.loopback_only(&netns).await.map_err(failed("set up loopback"))?;
            return Ok(None);
        }
        let mut ports = Vec::with_capacity(spec.host_ports.len());
        for port in &spec.host_ports {
            let protocol = net::Protocol::parse(&port.protocol.to_ascii_uppercase())
                .ok_or_else(|| RuntimeError::Invalid(format!("unknown protocol {:?} of a host port", port.protocol)))?;
            let host_ip = match port.host_ip {
                None => None,
                Some(IpAddr::V4(ip)) => Some(ip).filter(|ip| !ip.is_unspecified()),
                Some(IpAddr::V6(ip)) => {
                    return Err(RuntimeError::Invalid(format!(
                        "host port on {ip}: only IPv4 addresses can be published"
                    )));
                }
            };
            let (host_port, container_port) = (port.host_port, port.container_port);
            ports.push(net::HostPort { protocol, host_ip, host_port, container_port });
        }
        let attached = self.cx.network.attach(&self.id, &netns, &ports).await.map_err(failed("attach network"))?;
        Ok(Some(IpAddr::V4(attached.ip)))
    }

    /// Gives the sandbox other limits. Those of its containers may not be above them at any time.
    pub(super) async fn update_sandbox(&mut self, resources: Resources) -> Result<(), RuntimeError> {
        self.drain_events().await;
        self.live()?;
        let Some(record) = &mut self.record else { return Err(self.not_found("sandbox")) };
        let (cx, path, limits) = (self.cx.clone(), self.cx.sandbox_cgroup(&record.spec), resources.clone());
        let of = record.spec.clone();
        blocking("update limits", move || {
            limits::change(&path, &limits, &cx.host)?;
            cx.weigh(&of, Some(&limits));
            Ok(())
        })
        .await?;
        record.spec.resources = resources;
        self.cx.records.put_sandbox(record).map_err(failed("write record"))?;
        self.publish();
        Ok(())
    }

    /// Kills what runs, takes the network away, ends the shim. Its containers can still be asked for.
    pub(super) async fn stop_sandbox(&mut self) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let Some(record) = self.record.clone() else { return Ok(()) };
        let path = self.cx.sandbox_cgroup(&record.spec);
        let emptied = blocking("kill containers", move || Ok(shim::cgroup::kill_all(&path, KILL_LIMIT))).await?;
        self.step("sandbox-killed");
        self.await_exits().await;
        if !record.spec.host_network {
            self.cx.network.detach(&self.id).await.map_err(failed("detach network"))?;
        }
        self.step("sandbox-detached");
        self.end_shim().await?;
        self.step("sandbox-shimless");
        let pod_dir = self.cx.pod_dir(&self.id);
        let (cx, of) = (self.cx.clone(), record.spec);
        blocking("release sandbox", move || {
            cx.weigh(&of, None);
            shim::sandbox::unpin(&pod_dir);
            files::release(&pod_dir);
            Ok(())
        })
        .await?;
        if !emptied {
            return Err(RuntimeError::Timeout { operation: "kill containers", limit: KILL_LIMIT });
        }
        if let Some(record) = &mut self.record {
            record.stopped = true;
            self.cx.records.put_sandbox(record).map_err(failed("write record"))?;
        }
        self.publish();
        self.cx.hint_sandbox(&self.id);
        Ok(())
    }

    /// Takes exits from the shim until nothing runs; what the shim does not report in time is written down as killed.
    async fn await_exits(&mut self) {
        let running = |d: &Self| d.containers.values().any(|c| matches!(c.phase, Phase::Running(_)));
        let deadline = tokio::time::Instant::now() + KILL_LIMIT;
        while running(self) && self.link.is_some() {
            match tokio::time::timeout_at(deadline, self.shim_rx.recv()).await {
                Ok(Some(event)) => self.on_event(event).await,
                Ok(None) | Err(_) => break,
            }
        }
        self.exit_the_running();
    }

    /// Marks what still counts as running: by the shim's record if there is one, else as killed, which it was.
    pub(super) fn exit_the_running(&mut self) {
        let pod_dir = self.cx.pod_dir(&self.id);
        let running = self.containers.iter().filter_map(|(id, c)| match c.phase {
            Phase::Running(started) => Some((id.clone(), started)),
            _ => None,
        });
        for (id, started_at_ms) in running.collect::<Vec<_>>() {
            let recorded = shim::exit::read(&pod_dir, &id).ok().flatten().map(super::exit_record);
            self.set_exited(&id, recorded.unwrap_or_else(|| killed(started_at_ms)));
        }
    }

    async fn end_shim(&mut self) -> Result<(), RuntimeError> {
        let Some(link) = self.link.take() else { return self.kill_shim().await };
        if link.is_open() {
            // Its answer is not needed, its end is.
            let _ = link.ask("end shim", Request::Shutdown).await;
            let ended = async {
                while let Some(event) = self.shim_rx.recv().await {
                    if matches!(event, ShimEvent::Gone) {
                        break;
                    }
                }
            };
            if tokio::time::timeout(SHUTDOWN_LIMIT, ended).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_shim().await
    }

    async fn kill_shim(&self) -> Result<(), RuntimeError> {
        let (pod_dir, shims) = (self.cx.pod_dir(&self.id), shim_cgroup(&self.cx.instance));
        blocking("end shim", move || {
            kill_shim_of(&pod_dir, &shims);
            Ok(())
        })
        .await
    }

    /// The shim ended unasked. Its children live on without a keeper: they are killed, and said to have been.
    pub(super) async fn on_shim_gone(&mut self) {
        self.link = None;
        let Some(record) = &self.record else { return };
        if record.stopped || !record.complete {
            return;
        }
        tracing::warn!(sandbox = %self.id, "the shim is gone; what it kept is killed");
        let _ = self.kill_shim().await;
        let path = self.cx.sandbox_cgroup(&record.spec);
        let _ = blocking("kill containers", move || Ok(shim::cgroup::kill_all(&path, KILL_LIMIT))).await;
        self.exit_the_running();
        self.publish();
        self.cx.hint_sandbox(&self.id);
    }

    /// Everything of it goes: processes, network, mounts, cgroups, folders, records. Each step is fine with finding
    /// nothing, so that a removal that failed half-way can be repeated.
    pub(super) async fn remove_sandbox(&mut self) -> Result<(), RuntimeError> {
        let Some(record) = &mut self.record else {
            self.gone = true;
            return Ok(());
        };
        let spec = record.spec.clone();
        if record.complete {
            record.complete = false;
            self.cx.records.put_sandbox(record).map_err(failed("write record"))?;
        }
        self.step("sandbox-leaving");
        self.stop_sandbox().await?;
        self.step("sandbox-stopped");
        for id in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.remove_container(&id).await?;
        }
        let (path, pod_dir) = (self.cx.sandbox_cgroup(&spec), self.cx.pod_dir(&self.id));
        blocking("remove sandbox", move || {
            shim::cgroup::remove(&path, KILL_LIMIT).map_err(failed("remove cgroup"))?;
            remove_pod_dir(&pod_dir)
        })
        .await?;
        self.step("sandbox-cleared");
        self.cx.records.remove_sandbox(&self.id).map_err(failed("remove record"))?;
        self.cx.users.free(&self.id);
        self.record = None;
        self.gone = true;
        self.publish();
        self.cx.hint_sandbox(&self.id);
        Ok(())
    }
}

/// Tries the sandbox's user namespace on a file of its folder: a kernel that cannot map owners there (tmpfs: Linux 6.3) cannot
/// run the pod, and says so before anything else is made.
fn users_can_be_mapped(pod_dir: &Path) -> Result<(), RuntimeError> {
    let users = shim::users::open(pod_dir).map_err(failed("open user namespace"))?;
    // Not on the folder: the pinned namespaces in it are mounts that have no owners.
    shim::users::mapped_view(&pod_dir.join("shim.pid"), users.as_fd()).map(drop).map_err(|e| {
        let message =
            "this kernel cannot map file owners into a pod's own user namespace, which hostUsers: false needs";
        RuntimeError::Invalid(format!("{message}: {e}"))
    })
}

/// The record of a container that was killed without its shim seeing it.
pub(crate) fn killed(started_at_ms: i64) -> ExitRecord {
    ExitRecord {
        exit_code: 137,
        signal: Some(9),
        oom_killed: false,
        started_at_ms,
        finished_at_ms: shim::time::now_ms(),
        start_error: None,
    }
}

fn validate(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let invalid = |message: String| Err(RuntimeError::Invalid(message));
    let id_ok = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if spec.id.is_empty() || spec.id.len() > 64 || !spec.id.chars().all(id_ok) {
        return invalid(format!("sandbox id {:?} must be 1 to 64 of a-z, A-Z, 0-9 and '-'", spec.id));
    }
    let parts: Vec<&str> = spec.cgroup.split('/').filter(|p| !p.is_empty()).collect();
    let part_ok = |p: &&str| *p != ".." && *p != "." && p.chars().all(|c| id_ok(c) || "_.:".contains(c));
    if !parts.iter().all(part_ok) || parts.first() == Some(&SHIM_CGROUP) {
        return invalid(format!("cgroup {:?} cannot be used", spec.cgroup));
    }
    if spec.hostname.len() > 64 {
        return invalid(format!("host name {:?} is longer than 64 bytes", spec.hostname));
    }
    let joins = spec.join_network.is_some();
    if joins && (spec.host_network || spec.no_network || !spec.host_ports.is_empty()) {
        return invalid("a network namespace that is another's cannot be the host's, empty, or have ports".to_owned());
    }
    if spec.own_users && (spec.host_network || spec.host_pid || spec.host_ipc || joins) {
        return invalid("a user namespace of its own does not go with the host's other namespaces".to_owned());
    }
    for (name, _) in &spec.sysctls {
        if !namespaced(name, spec) {
            return invalid(format!("sysctl {name:?} does not belong to the pod alone and cannot be set"));
        }
    }
    Ok(())
}

/// Whether the kernel keeps this parameter per namespace, and the pod has that namespace for itself (sysctl(5), as
/// Kubernetes lists them).
fn namespaced(name: &str, spec: &SandboxSpec) -> bool {
    let name = name.replace('/', ".");
    let ipc = name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.");
    (ipc && !spec.host_ipc) || (name.starts_with("net.") && !spec.host_network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_reach_the_host_is_refused() {
        let ok = SandboxSpec { id: "a-1".into(), cgroup: "burstable/poda_1".into(), ..SandboxSpec::default() };
        assert!(validate(&ok).is_ok());
        let sysctl = |name: &str| vec![(name.to_owned(), "1".to_owned())];
        for bad in [
            SandboxSpec { id: "../x".into(), ..ok.clone() },
            SandboxSpec { id: String::new(), ..ok.clone() },
            SandboxSpec { cgroup: "a/../../b".into(), ..ok.clone() },
            SandboxSpec { cgroup: "shims/x".into(), ..ok.clone() },
            SandboxSpec { sysctls: sysctl("vm.swappiness"), ..ok.clone() },
            SandboxSpec { own_users: true, host_pid: true, ..ok.clone() },
            SandboxSpec { sysctls: sysctl("net.ipv4.ip_forward"), host_network: true, ..ok.clone() },
        ] {
            assert!(validate(&bad).is_err(), "{bad:?}");
        }
        assert!(validate(&SandboxSpec { sysctls: sysctl("net.core.somaxconn"), ..ok }).is_ok());
    }
}
