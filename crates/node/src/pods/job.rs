//! Carrying out what was planned: each action as a task of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::trace::{Parent, Span};
use engine::runtime::{ContainerState, ContainerStatus, Resources, RuntimeError};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, DeleteParams, Preconditions};
use reconcile::memoryqos;
use reconcile::pod::Failure;
use reconcile::probe::{Kind, Outcome};
use serde_json::Value;

use super::{pull, report};
use crate::context::Context;
use crate::events::{Level, container_reference, pod_reference};
use crate::images::Present;
use crate::node_object;
use crate::objects::{Handle, Key};
use crate::paths::PodId;
use crate::probes::{self, Target};
use crate::spec::downward::Facts;
use crate::spec::{self, ConfigError, Lookup};
use crate::supported::{RUNTIME_HANDLERS, refusal_of_added};
use crate::volumes::{Volumes, mounts, usage};

/// After the preStop hook a container has at least this long, however long the hook took.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// One pod as it is when something is done for it.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) ctx: Arc<Context>,
    /// With the resources that are allocated to it.
    pub(crate) pod: Arc<Pod>,
    /// Its ephemeral containers.
    pub(crate) added: Arc<Vec<Container>>,
    pub(crate) id: PodId,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) handles: Arc<BTreeMap<Key, Handle>>,
    pub(crate) pod_ips: Vec<IpAddr>,
    /// Spans of what is done on the pod's way to Ready.
    pub(crate) way: Parent,
}

fn config_failure(e: ConfigError) -> Failure {
    Failure::new("CreateContainerConfigError", e.0)
}

fn runtime_failure(reason: &str, e: &RuntimeError) -> Failure {
    Failure::new(reason, base::chain(e))
}

impl Job {
    fn facts(&self) -> Facts<'_> {
        Facts {
            pod: &self.pod,
            pod_ips: &self.pod_ips,
            host_ips: &self.ctx.host_ips,
            node_name: &self.ctx.config.node_name,
            node_cpus: self.ctx.host.cpus,
            // What a container without a limit may use is what the node gives to pods.
            node_memory: node_object::memory_for_pods(&self.ctx),
            node_disk: node_object::disk_for_pods(&self.ctx),
        }
    }

    /// The objects the pod refers to, as they are now.
    async fn objects(&self) -> Result<Lookup, ConfigError> {
        let mut found = Lookup::new();
        for (key, handle) in self.handles.iter() {
            found.insert(key.clone(), handle.get().await.map_err(|e| ConfigError(e.to_string()))?);
        }
        Ok(found)
    }

    fn container(&self, name: &str) -> Option<&Container> {
        let ordinary = reconcile::pod::find(self.pod.spec.as_ref()?, name).map(|(_, c)| c);
        ordinary.or_else(|| self.added.iter().find(|c| c.name == name))
    }

    fn named(&self, name: &str) -> Result<&Container, Failure> {
        self.container(name).ok_or_else(|| Failure::new("InternalError", format!("no container {name:?}")))
    }

    fn warn(&self, failure: &Failure, reason: &'static str) {
        self.ctx.recorder.warn(pod_reference(&self.pod), reason, failure.message.clone());
    }

    fn span(&self, name: &'static str, container: &str) -> Span {
        self.way.child(name).with("k8s.container.name", || container)
    }

    pub(super) async fn mount(&self) -> Result<(), Failure> {
        let mut span = self.way.child("volumes");
        let objects = self.objects().await.map_err(|e| Failure::new("FailedMount", e.0))?;
        let result = self.volumes.mount(&self.pod, &self.facts(), &objects).await;
        if let Err(failure) = &result {
            span.fail(|| &failure.message);
            self.warn(failure, "FailedMount");
        }
        result
    }

    pub(super) async fn run_sandbox(&self) -> Result<(), Failure> {
        let mut span = self.way.child("sandbox");
        let host_dns = spec::sandbox::host_dns();
        let cluster = spec::sandbox::Cluster {
            domain: &self.ctx.config.cluster_domain,
            dns_ip: self.ctx.config.dns_ip,
            host_dns: &host_dns,
            host_name: &self.ctx.host.hostname,
        };
        let made = match self.check_runtime().await.and_then(|()| spec::sandbox::of_pod(&self.pod, &cluster)) {
            Ok(mut spec) => {
                spec.resources = self.pod_resources();
                self.ctx.runtime.run_sandbox(spec).await.map_err(|e| base::chain(&e))
            }
            Err(e) => Err(e.0),
        };
        made.map(drop).map_err(|e| {
            span.fail(|| &e);
            let failure = Failure::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}"));
            self.warn(&failure, "FailedCreatePodSandBox");
            failure
        })
    }

    /// Whether the node has the runtime that the pod's class names (KEP-585).
    async fn check_runtime(&self) -> Result<(), ConfigError> {
        let class = self.pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
        let Some(class) = class.filter(|n| !n.is_empty()) else { return Ok(()) };
        let api: Api<RuntimeClass> = Api::all(self.ctx.client());
        let failed = |why: String| ConfigError::new(format!("failed to get sandbox runtime: {why}"));
        let found = api.get(class).await.map_err(|e| failed(format!("RuntimeClass {class:?}: {e}")))?;
        match found.handler.as_str() {
            handler if handler.is_empty() || RUNTIME_HANDLERS.contains(&handler) => Ok(()),
            handler => Err(failed(format!("no runtime for {handler:?} is configured"))),
        }
    }

    pub(super) async fn remove_sandbox(&self, anew: bool) -> Result<(), Failure> {
        if anew {
            let about = pod_reference(&self.pod);
            self.ctx.recorder.normal(about, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        }
        self.drop_sandbox().await
    }

    async fn drop_sandbox(&self) -> Result<(), Failure> {
        match self.ctx.runtime.remove_sandbox(&self.id.uid).await {
            Ok(()) | Err(RuntimeError::NotFound { .. }) => Ok(()),
            Err(e) => Err(runtime_failure("FailedKillPod", &e)),
        }
    }

    pub(super) async fn stop_sandbox(&self) -> Result<(), Failure> {
        match self.ctx.runtime.stop_sandbox(&self.id.uid).await {
            Ok(()) | Err(RuntimeError::NotFound { .. }) => Ok(()),
            Err(e) => {
                let failure = runtime_failure("FailedKillPod", &e);
                self.warn(&failure, "FailedKillPod");
                Err(failure)
            }
        }
    }

    pub(super) async fn pull(&self, name: &str) -> Result<Present, Failure> {
        let mut span = self.span("image", name);
        let c = self.named(name)?;
        let objects = self.objects().await.map_err(|e| Failure::new("ErrImagePull", e.0))?;
        let present = pull::ensure(&self.ctx, &self.pod, c, &objects).await;
        present.inspect_err(|failure| span.fail(|| &failure.message))
    }

    pub(super) async fn create(&self, name: &str, attempt: u32, image: Present) -> Result<(), Failure> {
        let mut span = self.span("create container", name);
        let c = self.named(name)?;
        if let Some(failure) = self.added.iter().find(|a| a.name == name).and_then(|a| refusal_of_added(&self.pod, a)) {
            self.ctx.recorder.warn(
                container_reference(&self.pod, name),
                "Failed",
                format!("Error: {}", failure.message),
            );
            return Err(failure);
        }
        let made = self.make(c, attempt, image).await;
        let about = container_reference(&self.pod, name);
        match &made {
            Ok(()) => self.ctx.recorder.normal(about, "Created", format!("Container created: {name}")),
            Err(f) => {
                span.fail(|| &f.message);
                self.ctx.recorder.warn(about, "Failed", format!("Error: {}", f.message));
            }
        }
        made
    }

    async fn make(&self, c: &Container, attempt: u32, image: Present) -> Result<(), Failure> {
        let app_armor = self.ctx.app_armor.profile_of(&self.pod, c)?;
        let mut spec = self.container_spec(c, attempt, image).await.map_err(config_failure)?;
        spec.security.app_armor = app_armor;
        self.ctx.runtime.create_container(spec).await.map_err(|e| match e {
            RuntimeError::Invalid(message) => Failure::new("CreateContainerConfigError", message),
            e => runtime_failure("CreateContainerError", &e),
        })
    }

    /// The settings of the pod as a whole.
    fn pod_resources(&self) -> Resources {
        let mut resources = spec::resources::of_pod(&self.pod);
        let policy = &self.ctx.config.memory_qos;
        let settings = policy.is_on().then(|| memoryqos::of_pod(&self.pod, policy));
        resources.memory_qos = settings.map(spec::resources::memory_qos);
        self.ctx.cpus.settle_pod(&self.id.uid, resources)
    }

    /// The settings of a container.
    fn resources(&self, c: &Container) -> Resources {
        let mut resources = spec::resources::of_container(&self.pod, c, self.ctx.host.memory_bytes);
        let policy = &self.ctx.config.memory_qos;
        if policy.is_on() {
            let (allocatable, page) = (node_object::memory_for_pods(&self.ctx), crate::host::page_size());
            let settings = memoryqos::of_container(&self.pod, c, policy, allocatable, page);
            resources.memory_qos = Some(spec::resources::memory_qos(settings));
        }
        self.ctx.cpus.settle(&self.id.uid, &c.name, resources)
    }

    async fn container_spec(
        &self,
        c: &Container,
        attempt: u32,
        image: Present,
    ) -> Result<engine::runtime::ContainerSpec, ConfigError> {
        let facts = self.facts();
        let objects = self.objects().await?;
        let services = self.ctx.services.state();
        let services = spec::env::of_services(&self.pod, services.iter().map(AsRef::as_ref));
        let files = self.volumes.env_files(c).await?;
        let env = spec::env::of_container(c, &facts, &objects, &services, &files)?;
        let sources = self.volumes.sources(c, &env).await?;
        let devices = self.volumes.devices(c).await?;
        let paths = &self.ctx.paths;
        let termination_log = paths.termination_log(&self.id.uid, &c.name, attempt);
        let log_path = paths.log(&self.id, &c.name, attempt);
        prepare(&termination_log, &log_path).map_err(|e| ConfigError(format!("make files of container: {e}")))?;
        let profiles = paths.seccomp();
        let parts = spec::container::Parts {
            attempt,
            image: image.reference,
            env,
            sources,
            devices,
            log_path,
            log_max_size: self.ctx.config.log_max_size,
            log_max_files: self.ctx.config.log_max_files,
            termination_log,
            profiles: &profiles,
            pid_of: self.target_of(&c.name).await?,
            resources: self.resources(c),
        };
        spec::container::spec(c, &facts, parts)
    }

    /// The running container whose processes an ephemeral one is to see, if it names one.
    async fn target_of(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let added = self.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        let mut targets = added.filter(|e| e.name == name).filter_map(|e| e.target_container_name.as_deref());
        let Some(target) = targets.next().filter(|t| !t.is_empty()) else { return Ok(None) };
        let all = self.ctx.runtime.containers(Some(&self.id.uid)).await;
        let running = |c: &ContainerStatus| matches!(c.state, ContainerState::Running { .. }) && c.spec.name == target;
        match all.into_iter().find(running) {
            Some(found) => Ok(Some(found.spec.id)),
            None => Err(ConfigError::new(format!("unable to find target container {target:?}"))),
        }
    }

    /// Gives the pod and these of its containers, by name and id, what is allocated to them. A limit of the pod is never
    /// below one of its containers on the way: the kernel would refuse it.
    pub(super) async fn resize(&self, containers: &[(String, String)]) -> Result<(), Failure> {
        let (runtime, uid) = (&self.ctx.runtime, &self.id.uid);
        let failed = |e: RuntimeError| Failure::new("Error", base::chain(&e));
        let sandboxes = runtime.sandboxes().await;
        let held = sandboxes.into_iter().find(|s| s.spec.id == *uid).map(|s| s.spec.resources);
        let held = held.ok_or_else(|| Failure::new("Error", "the sandbox of the pod is not there"))?;
        let wanted = self.pod_resources();
        let wide = spec::resources::wider(&held, &wanted);
        if wide != held {
            runtime.update_sandbox(uid, wide.clone()).await.map_err(failed)?;
        }
        for (name, id) in containers {
            let resources = self.resources(self.named(name)?);
            self.check_usage(name, id, &resources).await?;
            runtime.update_resources(id, resources).await.map_err(failed)?;
        }
        if wide != wanted {
            runtime.update_sandbox(uid, wanted).await.map_err(failed)?;
        }
        Ok(())
    }

    /// A limit below what is in use would have the kernel kill rather than refuse.
    async fn check_usage(&self, name: &str, id: &str, resources: &Resources) -> Result<(), Failure> {
        let Some(limit) = resources.memory_limit_bytes.and_then(|b| u64::try_from(b).ok()) else { return Ok(()) };
        match self.ctx.runtime.usage(id).await {
            Ok(usage) if usage.working_set_bytes > limit => Err(Failure::new(
                "Error",
                format!(
                    "attempting to set memory limit of container {name:?} ({limit}) below its current usage ({})",
                    usage.working_set_bytes
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn start(&self, name: &str, id: &str) -> Result<(), Failure> {
        let mut span = self.span("start container", name);
        let about = container_reference(&self.pod, name);
        match self.ctx.runtime.start_container(id).await {
            Ok(()) => {
                self.ctx.recorder.normal(about, "Started", format!("Container started: {name}"));
                Ok(())
            }
            Err(e) => {
                let failure = runtime_failure("RunContainerError", &e);
                span.fail(|| &failure.message);
                self.ctx.recorder.warn(about, "Failed", format!("Error: {}", failure.message));
                Err(failure)
            }
        }
    }

    /// Why the pod is to be evicted, if it takes more of the disk than it may.
    pub(super) async fn measure(&self, limits: usage::Limits) -> Option<Failure> {
        let mut written = BTreeMap::new();
        for c in self.ctx.runtime.containers(Some(&self.id.uid)).await {
            // One that is being removed counts no more.
            let bytes = self.ctx.runtime.written(&c.spec.id).await.map_or(0, |w| w.bytes);
            *written.entry(c.spec.name).or_insert(0) += bytes;
        }
        let (ctx, id) = (self.ctx.clone(), self.id.clone());
        let measured = tokio::task::spawn_blocking(move || usage::exceeded(&ctx.paths, &id, &limits, &written));
        measured.await.ok().flatten()
    }

    fn target<'a>(&'a self, c: &'a Container, id: &'a str) -> Target<'a> {
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let own = if host { self.ctx.host_ips.first() } else { self.pod_ips.first() };
        Target { runtime: self.ctx.runtime.as_ref(), container: c, id, ip: own.copied() }
    }

    pub(super) async fn post_start(&self, name: &str, id: &str) -> Result<(), Failure> {
        let c = self.named(name)?;
        let Some(handler) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let mut span = self.span("postStart hook", name);
        probes::hook(&self.target(c, id), handler, None).await.map_err(|message| {
            let failure = Failure::new("FailedPostStartHook", format!("PostStartHook failed: {message}"));
            span.fail(|| &failure.message);
            self.ctx.recorder.warn(
                container_reference(&self.pod, name),
                "FailedPostStartHook",
                failure.message.clone(),
            );
            failure
        })
    }

    pub(super) async fn probe(&self, name: &str, id: &str, kind: Kind) -> Outcome {
        let Some(c) = self.container(name) else { return Outcome::Unknown };
        let probe = match kind {
            Kind::Startup => c.startup_probe.as_ref(),
            Kind::Readiness => c.readiness_probe.as_ref(),
            Kind::Liveness => c.liveness_probe.as_ref(),
        };
        let Some(probe) = probe else { return Outcome::Unknown };
        let mut span = self.span("probe", name).with("windlass.probe", || kind.title());
        let (outcome, message) = probes::probe(&self.target(c, id), probe).await;
        let about = || container_reference(&self.pod, name);
        match outcome {
            Outcome::Success => {}
            Outcome::Failure => {
                span.fail(|| &message);
                self.ctx.recorder.warn(about(), "Unhealthy", format!("{} probe failed: {message}", kind.title()));
            }
            Outcome::Unknown => {
                self.ctx.recorder.warn(
                    about(),
                    "ProbeWarning",
                    format!("{} probe could not be made: {message}", kind.title()),
                );
            }
        }
        outcome
    }

    pub(super) async fn kill(
        &self,
        name: &str,
        id: &str,
        grace: SignedDuration,
        message: String,
        again: bool,
    ) -> Result<(), Failure> {
        let about = container_reference(&self.pod, name);
        if !again {
            self.ctx.recorder.event(about.clone(), Level::Normal, "Killing", message);
        }
        let grace = Duration::try_from(grace).unwrap_or(Duration::ZERO);
        let began = Instant::now();
        let c = self.container(name);
        let hook = c.and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref());
        if let (Some(c), Some(hook), false) = (c, hook, again || grace.is_zero()) {
            let done = probes::hook(&self.target(c, id), hook, Some(grace)).await;
            if let Err(message) = done {
                self.ctx.recorder.warn(about, "FailedPreStopHook", format!("PreStopHook failed: {message}"));
            }
        }
        let left = grace.saturating_sub(began.elapsed()).max(LEAST_GRACE.min(grace));
        match self.ctx.runtime.stop_container(id, left).await {
            Ok(()) | Err(RuntimeError::NotFound { .. }) => Ok(()),
            Err(e) => {
                let failure = runtime_failure("KillContainerError", &e);
                self.warn(&failure, "FailedKillPod");
                Err(failure)
            }
        }
    }

    pub(super) async fn remove_container(&self, name: &str, id: &str, attempt: u32) {
        if let Err(error) = self.ctx.runtime.remove_container(id).await
            && !matches!(error, RuntimeError::NotFound { .. })
        {
            tracing::warn!(pod = %self.id, container = name, error = %base::chain(&error), "old container not removed");
            return;
        }
        let paths = &self.ctx.paths;
        let log = paths.log(&self.id, name, attempt);
        remove_logs(&log);
        let _gone = std::fs::remove_file(paths.termination_log(&self.id.uid, name, attempt));
    }

    /// The last status, then everything of the pod on this node, then its object.
    pub(super) async fn finish(&self, last: Option<Value>, gone: bool) -> Result<(), Failure> {
        let fault = |message: String| Failure::new("FailedCleanup", message);
        if let Some(patch) = last.filter(|_| !gone)
            && let report::Written::No(error) = report::write(&self.ctx, &self.id, patch, &self.way).await
        {
            return Err(fault(error));
        }
        self.drop_sandbox().await?;
        let folder = self.ctx.paths.pod(&self.id.uid);
        let logs = self.ctx.paths.pod_logs(&self.id.namespace, &self.id.name, &self.id.uid);
        let cleared =
            tokio::task::spawn_blocking(move || mounts::remove_tree(&folder).and_then(|()| mounts::remove_tree(&logs)));
        cleared.await.map_err(|e| fault(e.to_string()))?.map_err(|e| fault(e.to_string()))?;
        if gone {
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.id.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.ctx.client(), &self.id.namespace);
        match api.delete(&self.id.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Ok(()),
            Err(e) => Err(fault(e.to_string())),
        }
    }
}

/// A container's log and the files it was rotated to.
fn remove_logs(log: &std::path::Path) {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return };
    let name = name.to_string_lossy();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(name.as_ref()) {
            let _gone = std::fs::remove_file(entry.path());
        }
    }
}

/// The files a container is given: an empty termination message that any user may write, and the folder of its log.
fn prepare(termination_log: &std::path::Path, log: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for folder in [termination_log.parent(), log.parent()].into_iter().flatten() {
        std::fs::create_dir_all(folder)?;
    }
    let file = std::fs::OpenOptions::new().create(true).append(true).open(termination_log)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o666))
}
