//! Making, starting, signalling and removing containers.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use image::{ImageInfo, RootFs};
use shim::proto::{ContainerInit, ContainerPhase, Fault, Reply, Request};

use super::teardown::mounts_below;
use super::{Driver, Kill};
use crate::context::{Context, blocking, failed, snapshot_key};
use crate::link::{Link, error_of};
use crate::oci::{ImageDefaults, Inputs, limits};
use crate::record::{ContainerRecord, Phase};
use crate::runtime::{ContainerSpec, ExitRecord, ProcessUser, Resources, RuntimeError, SandboxSpec};
use crate::{in_root, signal, user};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// How long a killed container's cgroup may stay busy.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// The folder of a container in its sandbox's run folder: `config.json` and the mounted root.
pub(crate) fn bundle_dir(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join("c").join(id)
}

impl Driver {
    pub(super) async fn create_container(&mut self, spec: ContainerSpec) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let link = self.live()?;
        let sandbox = self.record.as_ref().map(|r| r.spec.clone()).ok_or_else(|| self.not_found("sandbox"))?;
        if let Some(existing) = self.containers.get(&spec.id).filter(|c| c.phase != Phase::Partial) {
            let conflict = |message: &str| RuntimeError::Conflict { id: spec.id.clone(), message: message.to_owned() };
            return match existing.spec == spec {
                true => Ok(()),
                false => Err(conflict("a container of that id exists with another spec")),
            };
        }
        validate(&spec)?;
        let id = spec.id.clone();
        if let Some(target) = spec.pid_of.clone().filter(|_| own_processes(&sandbox)) {
            self.share_processes(&link, &id, &target).await?;
        }
        let made = self.make_container(&sandbox, spec).await;
        self.step("container-laid-out");
        let registered = match made {
            Ok(init) => link.call("create container", &id, Request::Create(Box::new(init))).await.map(drop),
            Err(error) => Err(error),
        };
        self.step("container-registered");
        if let Err(error) = registered {
            if let Err(undo) = self.remove_container(&id).await {
                tracing::warn!(container = id, error = %undo, "a container that could not be made is not fully undone");
            }
            return Err(error);
        }
        self.set_phase(&id, Phase::Created);
        Ok(())
    }

    /// Pins the process namespace of a running container for another one. The shim reaps: what it says runs before and
    /// after had that number all the while.
    async fn share_processes(&self, link: &Link, id: &str, target: &str) -> Result<(), RuntimeError> {
        let before = self.pid_of(link, target).await?;
        let (pod_dir, name) = (self.cx.pod_dir(&self.id), id.to_owned());
        blocking("share process namespace", move || {
            shim::sandbox::pin_pid(&pod_dir, &name, before).map_err(failed("share process namespace"))
        })
        .await?;
        let after = self.pid_of(link, target).await;
        if !matches!(&after, Ok(pid) if *pid == before) {
            shim::sandbox::unpin_pid(&self.cx.pod_dir(&self.id), id);
            return Err(after.err().unwrap_or_else(|| not_running(target)));
        }
        Ok(())
    }

    async fn pid_of(&self, link: &Link, id: &str) -> Result<i32, RuntimeError> {
        let state = self.shim_state(link).await?;
        let found = state.containers.into_iter().find(|(c, _)| c == id);
        match found {
            Some((_, ContainerPhase::Running { pid, .. })) => Ok(pid),
            _ => Err(not_running(id)),
        }
    }

    /// All but telling the shim: image, record, root file system, `config.json`.
    async fn make_container(
        &mut self,
        sandbox: &SandboxSpec,
        spec: ContainerSpec,
    ) -> Result<ContainerInit, RuntimeError> {
        let (images, reference) = (self.cx.images.clone(), spec.image.clone());
        let image = blocking("look up image", move || {
            let found = images.get(&reference).map_err(failed("look up image"))?;
            found.ok_or(RuntimeError::NotFound { kind: "image", id: reference })
        })
        .await?;
        let stop_signal = stop_signal(&spec, &image)?;
        let image_id = image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string());
        let image_digest = image.id.to_string();
        let (id, phase) = (spec.id.clone(), Phase::Partial);
        let record = ContainerRecord { spec: spec.clone(), image_id, image_digest, stop_signal, user: None, phase };
        self.cx.records.put_container(&record).map_err(failed("write record"))?;
        self.containers.insert(id.clone(), record);
        self.step("container-recorded");
        let (cx, sandbox, cgroup) = (self.cx.clone(), sandbox.clone(), self.container_cgroup(sandbox, &id));
        let user_base = self.record.as_ref().and_then(|r| r.user_base);
        let made =
            blocking("create container", move || lay_out(&cx, &sandbox, user_base, &spec, &image, cgroup)).await?;
        let (init, user) = made;
        if let Some(record) = self.containers.get_mut(&id) {
            // Written with the next phase.
            record.user = Some(user);
        }
        Ok(init)
    }

    pub(super) async fn start_container(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let phase = self.containers.get(id).map(|c| c.phase.clone());
        match phase {
            Some(Phase::Created) => {}
            Some(Phase::Running(_)) => return Ok(()),
            Some(Phase::Exited(_)) => {
                let message = "the container has ended; make a new one".to_owned();
                return Err(RuntimeError::Conflict { id: id.to_owned(), message });
            }
            Some(Phase::Partial) | None => return Err(no_container(id)),
        }
        let link = self.live()?;
        self.step("container-starting");
        let asked = link.ask("start container", Request::Start { id: id.to_owned() }).await;
        self.step("container-started");
        let result = match asked.map(|a| a.reply) {
            Ok(Reply::Started { started_at_ms, .. }) => {
                self.set_phase(id, Phase::Running(started_at_ms));
                Ok(())
            }
            Ok(Reply::Fault(fault)) => {
                if let Fault::Start(message) | Fault::Failed(message) = &fault {
                    self.set_exited(id, not_started(message));
                }
                Err(error_of("start container", id, fault))
            }
            Ok(other) => {
                let message = format!("the shim answered {other:?}");
                Err(RuntimeError::Failed { operation: "start container", message })
            }
            Err(error) => {
                // Not known whether it runs, so it must not.
                let (cgroup, limit) = (self.cgroup_of(id), REMOVE_LIMIT);
                blocking("kill container", move || Ok(cgroup.map(|path| shim::cgroup::kill_all(&path, limit)))).await?;
                self.set_exited(id, not_started(&error.to_string()));
                Err(error)
            }
        };
        // It may have ended by now; who asks next should see it.
        self.drain_events().await;
        result
    }

    /// The key of the writable file system that goes with the container, if it has such a one.
    fn own_root(&self, id: &str) -> Option<String> {
        let kept = self.containers.get(id).is_some_and(|c| c.spec.extra.root_key.is_some());
        (!kept).then(|| snapshot_key(id))
    }

    fn cgroup_of(&self, id: &str) -> Option<String> {
        self.record.as_ref().map(|r| self.container_cgroup(&r.spec, id))
    }

    pub(super) async fn signal_container(&mut self, id: &str, kill: Kill) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let container = self.containers.get(id).ok_or_else(|| no_container(id))?;
        if !matches!(container.phase, Phase::Running(_)) {
            return Ok(());
        }
        let (signal, all) = match kill {
            Kill::Ask => (container.stop_signal, false),
            Kill::Force => (SIGKILL, true),
        };
        let request = Request::Signal { id: id.to_owned(), signal, all };
        self.live()?.call("signal container", id, request).await.map(drop)
    }

    pub(super) async fn remove_container(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        if matches!(container.phase, Phase::Running(_)) {
            let message = "the container is running; stop it first".to_owned();
            return Err(RuntimeError::Conflict { id: id.to_owned(), message });
        }
        let before = container.phase.clone();
        if before != Phase::Partial {
            self.set_phase(id, Phase::Partial);
        }
        self.step("container-leaving");
        if let Err(error) = self.clear_container(id).await {
            // Still listed, so that the caller can ask again; partial on disk, so that a restart removes it.
            if let Some(container) = self.containers.get_mut(id) {
                container.phase = before;
            }
            self.publish();
            return Err(error);
        }
        self.step("container-cleared");
        self.containers.remove(id);
        self.publish();
        self.cx.hint_container(&self.id, id);
        Ok(())
    }

    async fn clear_container(&mut self, id: &str) -> Result<(), RuntimeError> {
        if let Some(link) = self.link.clone().filter(Link::is_open) {
            link.call("remove container", id, Request::Delete { id: id.to_owned() }).await?;
        }
        let (cx, bundle) = (self.cx.clone(), bundle_dir(&self.cx.pod_dir(&self.id), id));
        let (cgroup, key) = (self.cgroup_of(id), self.own_root(id));
        let (pod_dir, name) = (self.cx.pod_dir(&self.id), id.to_owned());
        blocking("remove container", move || {
            take_apart(&cx, cgroup.as_deref(), &bundle, key.as_deref())?;
            shim::sandbox::unpin_pid(&pod_dir, &name);
            Ok(())
        })
        .await?;
        self.cx.records.remove_container(id).map_err(failed("remove record"))
    }

    pub(super) async fn update_container(&mut self, id: &str, resources: Resources) -> Result<(), RuntimeError> {
        self.drain_events().await;
        let container = self.containers.get(id).ok_or_else(|| no_container(id))?;
        if let Phase::Exited(_) = container.phase {
            let message = "the container has ended".to_owned();
            return Err(RuntimeError::Conflict { id: id.to_owned(), message });
        }
        if let (Phase::Running(_), Some(path)) = (&container.phase, self.cgroup_of(id)) {
            let (cx, limits) = (self.cx.clone(), resources.clone());
            blocking("update limits", move || limits::change(&path, &limits, &cx.host)).await?;
        } else {
            let message = "limits of a container that was not started cannot be changed".to_owned();
            return Err(RuntimeError::Conflict { id: id.to_owned(), message });
        }
        if let Some(container) = self.containers.get_mut(id) {
            container.spec.resources = resources;
            self.cx.records.put_container(container).map_err(failed("write record"))?;
        }
        self.publish();
        Ok(())
    }
}

/// Whether the containers of a sandbox have process namespaces of their own.
pub(crate) fn own_processes(sandbox: &SandboxSpec) -> bool {
    !sandbox.host_pid && !sandbox.share_process_namespace
}

fn not_running(id: &str) -> RuntimeError {
    RuntimeError::Conflict { id: id.to_owned(), message: "the container is not running".to_owned() }
}

/// No such container in this sandbox.
fn no_container(id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind: "container", id: id.to_owned() }
}

/// The record of a container that could not be started, as containerd writes it.
fn not_started(message: &str) -> ExitRecord {
    ExitRecord {
        exit_code: 128,
        signal: None,
        oom_killed: false,
        started_at_ms: 0,
        finished_at_ms: shim::time::now_ms(),
        start_error: Some(message.to_owned()),
    }
}

fn validate(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let id_ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let id = &spec.id;
    if id.is_empty() || id.len() > 64 || id.starts_with('.') || !id.chars().all(id_ok) {
        let message =
            format!("container id {id:?} must be 1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-', not starting with '.'");
        return Err(RuntimeError::Invalid(message));
    }
    Ok(())
}

/// The signal that asks a container to end: the pod's choice, or the image's.
fn stop_signal(spec: &ContainerSpec, image: &ImageInfo) -> Result<i32, RuntimeError> {
    let of_image = || image.config.config().as_ref().and_then(|c| c.stop_signal().clone()).filter(|s| !s.is_empty());
    let (whose, name) = match (&spec.stop_signal, of_image()) {
        (Some(name), _) => ("", name.clone()),
        (None, Some(name)) => ("the image's ", name),
        (None, None) => return Ok(SIGTERM),
    };
    signal::parse(&name).ok_or_else(|| RuntimeError::Invalid(format!("{whose}stop signal {name:?} is none")))
}

/// Root file system, identity, `config.json`. Blocks.
fn lay_out(
    cx: &Arc<Context>,
    sandbox: &SandboxSpec,
    user_base: Option<u32>,
    spec: &ContainerSpec,
    image: &ImageInfo,
    cgroup: String,
) -> Result<(ContainerInit, ProcessUser), RuntimeError> {
    let pod_dir = cx.pod_dir(&sandbox.id);
    let bundle = bundle_dir(&pod_dir, &spec.id);
    let rootfs = bundle.join("rootfs");
    std::fs::create_dir_all(&rootfs).map_err(failed("make container folder"))?;
    let key = spec.extra.root_key.clone().unwrap_or_else(|| snapshot_key(&spec.id));
    let layers = cx.images.snapshot(&key, image).map_err(failed("make root file system"))?;
    if !mounts_below(&rootfs).contains(&rootfs) {
        match user_base {
            None => layers.mount(&rootfs).map_err(failed("mount root file system"))?,
            Some(base) => {
                let users = shim::users::open(&pod_dir).map_err(failed("open user namespace"))?;
                let view = |path: &Path| shim::users::mapped_view(path, users.as_fd());
                layers.mount_mapped(&rootfs, base, &view).map_err(failed("mount root file system"))?;
            }
        }
    }
    let config = image.config.config().clone().unwrap_or_default();
    let of_image = spec.extra.user.as_ref().or(config.user().as_ref());
    let user = user::resolve(&rootfs, of_image.map_or("", String::as_str), &spec.security)?;
    let defaults = ImageDefaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().filter(|d| !d.is_empty()),
    };
    let inputs = Inputs {
        sandbox,
        container: spec,
        image: &defaults,
        user: &user,
        pod_dir: &pod_dir,
        rootfs: &rootfs,
        cgroup: &cgroup,
        host: &cx.host,
    };
    if user_base.is_some() {
        user.within(shim::users::RANGE)?;
    }
    make_working_dir(&rootfs, spec, inputs.working_dir(), user_base)?;
    let mut document = inputs.config()?;
    let mapped = user_base.map(|_| crate::oci::mapped(&mut document, &pod_dir));
    let bytes = serde_json::to_vec(&document).map_err(failed("write config.json"))?;
    std::fs::write(bundle.join("config.json"), bytes).map_err(failed("write config.json"))?;
    let init = ContainerInit {
        id: spec.id.clone(),
        bundle,
        tty: spec.tty,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        log_path: spec.log_path.clone(),
        log_max_size: spec.log_max_size,
        log_max_files: spec.log_max_files,
        uid: user_base.unwrap_or(0) + user.uid,
        gid: user_base.unwrap_or(0) + user.gid,
        cgroup: cgroup.clone(),
        own_pid_ns: own_processes(sandbox) && spec.pid_of.is_none(),
        oom_score_adj: spec.resources.oom_score_adj,
        mapped,
    };
    Ok((init, ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups }))
}

/// A working directory that the image lacks is made, in the mount that covers it if one does.
fn make_working_dir(rootfs: &Path, spec: &ContainerSpec, dir: &str, owner: Option<u32>) -> Result<(), RuntimeError> {
    let dir = Path::new(dir);
    let covering = spec.mounts.iter().filter(|m| dir.starts_with(&m.target)).max_by_key(|m| m.target.as_os_str().len());
    let made = match covering {
        // A mount that is exactly the folder has it; a read-only one is as it is.
        Some(m) if m.target == dir || m.read_only || !m.source.is_dir() => Ok(()),
        // On a volume's disk, root is root in the pod.
        Some(m) => in_root::create_dir_all(&m.source, dir.strip_prefix(&m.target).unwrap_or(dir), 0),
        None => in_root::create_dir_all(rootfs, dir, owner.unwrap_or(0)),
    };
    made.map_err(failed("make working directory"))
}

/// Undoes [`lay_out`] and what the container left. Blocks.
pub(crate) fn take_apart(
    cx: &Context,
    cgroup: Option<&str>,
    bundle: &Path,
    key: Option<&str>,
) -> Result<(), RuntimeError> {
    if let Some(path) = cgroup {
        shim::cgroup::kill_all(path, REMOVE_LIMIT);
        shim::cgroup::remove(path, REMOVE_LIMIT).map_err(failed("remove cgroup"))?;
    }
    let rootfs = bundle.join("rootfs");
    for target in mounts_below(&rootfs) {
        RootFs::unmount(&target).map_err(failed("unmount root file system"))?;
    }
    if let Some(key) = key {
        cx.images.remove_snapshot(key).map_err(failed("remove root file system"))?;
    }
    match std::fs::remove_dir_all(bundle) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove container folder")(e)),
        _ => Ok(()),
    }
}
