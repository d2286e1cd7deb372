//! A world for tests: an API server and a runtime in memory, and an agent between them.

pub(crate) mod api;
mod changes;
mod endings;
mod pressure;
pub(crate) mod runtime;
mod scenarios;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base::instance::Instance;
use base::rt::Drain;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use reconcile::imagegc::Image;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::config::AgentConfig;
use crate::eviction::EvictionConfig;
use crate::images::{Credentials, ImageFailure, Images, Present};
use api::FakeApi;
use runtime::FakeRuntime;

/// Longest a test waits for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Images that are there at once, except those named `missing…`.
#[derive(Default)]
pub(crate) struct FakeImages {
    pub(crate) pulled: Mutex<Vec<String>>,
}

fn present(reference: &str) -> Present {
    Present {
        reference: reference.to_owned(),
        image_id: format!("{reference}@sha256:00"),
        size_bytes: 1,
        names: vec![reference.to_owned()],
    }
}

impl Images for FakeImages {
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Present>, ImageFailure>> {
        let there = self.pulled.lock().iter().any(|p| p == reference);
        Box::pin(async move { Ok(there.then(|| present(reference))) })
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        _: Option<&'a str>,
        _: &'a [Credentials],
    ) -> BoxFuture<'a, Result<Present, ImageFailure>> {
        Box::pin(async move {
            if reference.starts_with("missing") {
                return Err(ImageFailure::Pull("not found".into()));
            }
            self.pulled.lock().push(reference.to_owned());
            Ok(present(reference))
        })
    }

    fn verify<'a>(
        &'a self,
        reference: &'a str,
        _: &'a [String],
        _: &'a [Credentials],
    ) -> BoxFuture<'a, Result<String, ImageFailure>> {
        Box::pin(async move {
            match reference.starts_with("unsigned") {
                true => Err(ImageFailure::Signature("no signatures found".into())),
                false => Ok(format!("sha256:{}", "0".repeat(64))),
            }
        })
    }

    fn mount<'a>(
        &'a self,
        reference: &'a str,
        _: &'a str,
        target: &'a std::path::Path,
    ) -> BoxFuture<'a, Result<(), ImageFailure>> {
        let written = std::fs::write(target.join("of-image"), reference);
        Box::pin(async move { written.map_err(|e| ImageFailure::Pull(e.to_string())) })
    }

    fn forget<'a>(&'a self, _: &'a (dyn Fn(&str) -> bool + Send + Sync)) -> BoxFuture<'a, Result<(), ImageFailure>> {
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Vec<Present>> {
        let all = self.pulled.lock().iter().map(|p| present(p)).collect();
        Box::pin(async move { all })
    }

    fn held<'a>(&'a self, named: &'a [String]) -> BoxFuture<'a, Result<Vec<Image>, ImageFailure>> {
        let image = |id: &String| Image { id: id.clone(), used: named.contains(id), kept: id.starts_with("own") };
        let all = self.pulled.lock().iter().map(image).collect();
        Box::pin(async move { Ok(all) })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u64, ImageFailure>> {
        self.pulled.lock().retain(|p| p != id);
        Box::pin(async { Ok(1) })
    }

    fn registry_of(&self, reference: &str) -> Option<(String, String)> {
        (!reference.contains(' ')).then(|| ("docker.io".to_owned(), format!("library/{reference}")))
    }
}

pub(crate) struct World {
    pub(crate) api: Arc<FakeApi>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) images: Arc<FakeImages>,
    pub(crate) dir: tempfile::TempDir,
    drain: Drain,
    agent: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    /// A world with a running agent for node `n`.
    pub(crate) fn start() -> World {
        World::start_with(|_| {})
    }

    /// The same, with other settings.
    pub(crate) fn start_with(change: impl FnOnce(&mut AgentConfig)) -> World {
        let mut world = World {
            api: Arc::new(FakeApi::default()),
            runtime: Arc::new(FakeRuntime::default()),
            images: Arc::default(),
            dir: tempfile::tempdir().expect("dir"),
            drain: Drain::new(),
            agent: None,
        };
        world.api.seed_namespace("default");
        let mut config = world.config();
        change(&mut config);
        world.boot_with(config);
        world
    }

    pub(crate) fn config(&self) -> AgentConfig {
        let instance = Instance::new("test").expect("a name").with_data_dir(self.dir.path());
        let mut config = AgentConfig::new(instance, "n", IpAddr::V4(Ipv4Addr::LOCALHOST), self.api.client());
        // However full the machine is.
        config.eviction = EvictionConfig { thresholds: Vec::new(), ..EvictionConfig::default() };
        config
    }

    /// Starts an agent.
    pub(crate) fn boot(&mut self) {
        self.boot_with(self.config());
    }

    fn boot_with(&mut self, config: AgentConfig) {
        self.drain = Drain::new();
        let parts =
            crate::Parts { runtime: self.runtime.clone(), images: self.images.clone(), network: None, docker: None };
        let run = Agent::run(config, parts, self.drain.clone());
        self.agent = Some(tokio::spawn(async move { run.await.expect("the agent runs") }));
    }

    /// Stops the agent; the runtime goes on.
    pub(crate) async fn shutdown(&mut self) {
        self.drain.cancel();
        if let Some(agent) = self.agent.take() {
            tokio::time::timeout(PATIENCE, agent).await.expect("in time").expect("the agent ends well");
        }
    }

    /// Creates a pod bound to the node.
    pub(crate) fn pod(&self, name: &str, spec: Value) {
        let mut all =
            json!({"nodeName": "n", "containers": [{"name": "c", "image": "img"}], "serviceAccountName": "default"});
        all.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        self.api.put(
            "/api/v1/namespaces/default/pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
                "spec": all, "status": {"phase": "Pending"},
            }),
        );
    }

    /// Waits until the object satisfies the condition.
    pub(crate) async fn until(
        &self,
        path: &str,
        what: &str,
        condition: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        let mut changes = self.api.changes();
        let wait = async {
            loop {
                let object = self.api.get(path);
                if condition(object.as_ref()) {
                    return object;
                }
                let _any = changes.recv().await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(object) => object,
            Err(_) => panic!("never {what}: {:#?}\nruntime: {:?}", self.api.get(path), self.runtime.log()),
        }
    }

    pub(crate) async fn until_pod(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.until(&path, what, |o| o.is_some_and(&condition)).await.expect("a pod")
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Value {
        self.until_pod(name, "ready", |p| condition(p, "Ready") == Some("True")).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.until(&path, "gone", |o| o.is_none()).await;
    }

    pub(crate) async fn until_runtime(&self, what: &str, condition: impl Fn(&FakeRuntime) -> bool) {
        let mut hints = engine::runtime::ContainerRuntime::events(self.runtime.as_ref());
        let wait = async {
            while !condition(&self.runtime) {
                let _any = hints.recv().await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, wait).await;
        done.unwrap_or_else(|_| panic!("never {what}: {:?}", self.runtime.log()));
    }

    pub(crate) async fn until_event(&self, reason: &str) -> Value {
        let mut changes = self.api.changes();
        let wait = async {
            loop {
                let events = self.api.list("/api/v1/namespaces/default/events");
                if let Some(e) = events.into_iter().find(|e| e["reason"] == reason) {
                    return e;
                }
                let _any = changes.recv().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no event {reason}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain.cancel();
        let _best = crate::volumes::mounts::unmount_below(self.dir.path());
    }
}

pub(crate) fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a str> {
    let list = pod["status"]["conditions"].as_array()?;
    list.iter().find(|c| c["type"] == kind)?["status"].as_str()
}
