//! The task that keeps the pods: woken by changes of containers and of pods, it looks at both and carries out what is decided.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base::backoff::Backoff;
use base::rt::Drain;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node as NodeObject, Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use reconcile::mirror::{Action, NAMESPACE, Node, container_of, grace, plan};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Mirrors;
use crate::context::Context;
use crate::pods::report::{Report, Written};

/// A write that failed is tried again, ever more seldom.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// Seconds that a container has to end whose pod was deleted by force (the kubelet's).
const FORCED_S: i64 = 2;
/// Names of others, and deletions of one's own, that are remembered at most.
const REMEMBERED: usize = 1024;

/// Keeps the pods until told to drain.
pub(crate) async fn run(ctx: Arc<Context>, mirrors: Arc<Mirrors>, drain: Drain) {
    let node = Node { name: ctx.config.node_name.clone(), ip: ctx.config.node_ip };
    let keeper = Keeper {
        client: ctx.client(),
        mirrors,
        node,
        pods: BTreeMap::new(),
        listed: None,
        synced: false,
        taken: BTreeSet::new(),
        reports: HashMap::new(),
        deleted: BTreeSet::new(),
        removals: JoinSet::new(),
        removing: BTreeSet::new(),
    };
    keeper.run(drain).await;
}

struct Keeper {
    client: kube::Client,
    mirrors: Arc<Mirrors>,
    node: Node,
    /// By UID, as last seen or written.
    pods: BTreeMap<String, Arc<Pod>>,
    listed: Option<BTreeMap<String, Arc<Pod>>>,
    /// Whether all pods were seen once.
    synced: bool,
    /// Names that turned out to be another's.
    taken: BTreeSet<String>,
    reports: HashMap<String, Report>,
    /// Pods that went by our own hand.
    deleted: BTreeSet<String>,
    removals: JoinSet<(String, Result<(), String>)>,
    removing: BTreeSet<String>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Whether an error says that the object is as wanted, or another.
fn is_moot(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

impl Keeper {
    async fn run(mut self, drain: Drain) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.name));
        let mut events = follow::watch::<Pod>(self.client.clone(), Some(NAMESPACE), config).default_backoff().boxed();
        let mut changes = self.mirrors.docker.changes();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, rand::random());
        let mut retry: Option<Instant> = None;
        loop {
            let later = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut look = tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.watched(event).await,
                    None => break,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => break,
                },
                Some(done) = self.removals.join_next() => self.removed(done),
                () = later => true,
                () = drain.cancelled() => break,
            };
            // What came together is looked at together.
            while let Some(Some(event)) = events.next().now_or_never() {
                look |= self.watched(event).await;
            }
            if !(look && self.synced) {
                continue;
            }
            changes.borrow_and_update();
            retry = match self.pass().await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "Docker's containers are not all shown as pods");
                    Some(Instant::now() + backoff.next_delay())
                }
            };
        }
    }

    /// Takes in what the API server says; whether it is news.
    async fn watched(&mut self, event: Result<watcher::Event<Pod>, watcher::Error>) -> bool {
        let news = match event {
            Ok(watcher::Event::Apply(pod)) => {
                let known = self.pods.get(&uid(&pod)).and_then(|p| p.metadata.resource_version.clone());
                let news = known != pod.metadata.resource_version;
                if !self.deleted.contains(&uid(&pod)) {
                    self.pods.insert(uid(&pod), Arc::new(pod));
                }
                news
            }
            Ok(watcher::Event::Delete(pod)) => {
                self.forget(&uid(&pod));
                if !self.deleted.remove(&uid(&pod)) {
                    self.gone(&pod).await;
                }
                true
            }
            Ok(watcher::Event::Init) => {
                self.listed = Some(BTreeMap::new());
                false
            }
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(list) = &mut self.listed {
                    list.insert(uid(&pod), Arc::new(pod));
                }
                false
            }
            Ok(watcher::Event::InitDone) => {
                self.pods = self.listed.take().unwrap_or_default();
                let pods = &self.pods;
                self.reports.retain(|uid, _| pods.contains_key(uid));
                self.deleted.clear();
                self.taken.clear();
                self.synced = true;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "watch of the pods of Docker's containers failed");
                false
            }
        };
        self.mirrors.set(self.pods.values().cloned());
        news
    }

    fn forget(&mut self, uid: &str) {
        self.pods.remove(uid);
        self.reports.remove(uid);
    }

    /// A pod is gone that we did not remove: somebody deleted it by force, or after its container had ended. When the node went
    /// with it, that was not meant for the container.
    async fn gone(&mut self, pod: &Pod) {
        let Some(id) = container_of(pod).map(str::to_owned) else { return };
        let node = Api::<NodeObject>::all(self.client.clone()).get(&self.node.name).await;
        match node {
            Ok(node) if node.metadata.deletion_timestamp.is_none() => self.remove(&id, FORCED_S.max(grace(pod))),
            Ok(_) | Err(_) => {
                tracing::warn!(container = id, "the pod of a container vanished with its node, or nobody can say")
            }
        }
    }

    fn remove(&mut self, id: &str, seconds: i64) {
        if !self.removing.insert(id.to_owned()) {
            return;
        }
        tracing::info!(container = id, "its pod was deleted: it is stopped and removed");
        let (docker, id) = (self.mirrors.docker.clone(), id.to_owned());
        self.removals.spawn(async move {
            let done = docker.remove(&id, seconds).await;
            (id, done)
        });
    }

    fn removed(&mut self, done: Result<(String, Result<(), String>), tokio::task::JoinError>) -> bool {
        match done {
            Ok((id, done)) => {
                self.removing.remove(&id);
                if let Err(error) = done {
                    tracing::warn!(container = id, error, "a container whose pod was deleted is not removed");
                }
            }
            Err(error) => tracing::error!(%error, "the removal of a container ended abnormally"),
        }
        true
    }

    /// Looks at everything and does what is to be done; the first failure is told when all was tried.
    async fn pass(&mut self) -> Result<(), String> {
        // A pod that was just made has its status to be told yet.
        loop {
            let containers = self.mirrors.containers().await;
            let pods: Vec<Arc<Pod>> = self.pods.values().cloned().collect();
            let actions = plan(&containers, &pods, &self.taken, &self.node, Timestamp::now());
            let (mut again, mut failed) = (false, None);
            for action in actions {
                match self.act(action).await {
                    Ok(more) => again |= more,
                    Err(error) => drop(failed.get_or_insert(error)),
                }
            }
            self.mirrors.set(self.pods.values().cloned());
            match failed {
                Some(error) => return Err(base::chain(&error)),
                None if !again => return Ok(()),
                None => {}
            }
        }
    }

    /// Does it; whether there is more to decide now.
    async fn act(&mut self, action: Action) -> Result<bool, kube::Error> {
        match action {
            Action::Remove { id, grace_s } => {
                self.remove(&id, grace_s);
                Ok(false)
            }
            Action::Delete { name, uid } => self.delete(&name, &uid).await.map(|()| false),
            Action::Create(pod) => self.create(*pod).await,
            Action::Report { pod, status } => self.report(&pod, &status).await.map(|()| false),
        }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn delete(&mut self, name: &str, uid: &str) -> Result<(), kube::Error> {
        if self.deleted.len() >= REMEMBERED {
            self.deleted.clear();
        }
        self.deleted.insert(uid.to_owned());
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() }.grace_period(0);
        match self.api().delete(name, &params).await {
            Ok(_) => {}
            Err(error) if is_moot(&error) => {}
            Err(error) => return Err(error),
        }
        self.forget(uid);
        Ok(())
    }

    async fn create(&mut self, pod: Value) -> Result<bool, kube::Error> {
        let pod: Pod = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
        let (api, params) = (self.api(), PostParams::default());
        let made = match api.create(&params, &pod).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.namespace().await?;
                api.create(&params, &pod).await
            }
            made => made,
        };
        match made {
            Ok(made) => {
                self.pods.insert(uid(&made), Arc::new(made));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                if self.taken.len() >= REMEMBERED {
                    self.taken.clear();
                }
                // The second name has the container's id in it: when that is taken too, nothing is left to try.
                Ok(self.taken.insert(pod.metadata.name.unwrap_or_default()))
            }
            Err(error) => Err(error),
        }
    }

    async fn namespace(&self) -> Result<(), kube::Error> {
        let metadata = kube::api::ObjectMeta { name: Some(NAMESPACE.to_owned()), ..Default::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        match Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(()),
            Err(error) if is_moot(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn report(&mut self, pod: &Pod, status: &PodStatus) -> Result<(), kube::Error> {
        let (uid, name) = (uid(pod), pod.metadata.name.clone().unwrap_or_default());
        let report = self.reports.entry(uid.clone()).or_insert_with(|| Report::new(pod.status.as_ref()));
        let Some(patch) = report.next(&uid, status) else { return Ok(()) };
        let written = self.write(&name, patch).await;
        let Some(report) = self.reports.get_mut(&uid) else { return Ok(()) };
        match written {
            Ok(now) => {
                report.done(&Written::Yes);
                self.pods.insert(uid, Arc::new(now));
                Ok(())
            }
            Err(error) if is_moot(&error) => {
                report.done(&Written::Moot);
                Ok(())
            }
            Err(error) => {
                report.done(&Written::No(error.to_string()));
                Err(error)
            }
        }
    }

    async fn write(&self, name: &str, patch: Value) -> Result<Pod, kube::Error> {
        let patch = Patch::Strategic(json!(patch));
        self.api().patch_status(name, &PatchParams::default(), &patch).await
    }
}
