//! Secrets, config maps and claims that pods of this node refer to, each watched by itself for as long as a pod refers to
//! it. The agent neither needs nor may see the others.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long to wait for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
}

impl Kind {
    /// As messages name it.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::ConfigMap => "configmap",
            Kind::Claim => "persistentvolumeclaim",
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.kind.noun(), self.name)
    }
}

/// What the agent needs of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Data of a secret or config map.
    Data(BTreeMap<String, Vec<u8>>),
    /// A claim: the volume it is bound to, whether that has grown and its file system has not, and the UID of its managing
    /// owner.
    Claim { volume: Option<String>, bound: bool, resized: bool, owner: Option<String> },
}

impl Content {
    /// The data; a claim has none.
    pub(crate) fn data(&self) -> &BTreeMap<String, Vec<u8>> {
        static NONE: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        match self {
            Content::Data(data) => data,
            Content::Claim { .. } => &NONE,
        }
    }
}

/// `None` until known, then the object or its absence.
type State = Option<Option<Arc<Content>>>;

struct Entry {
    state: watch::Receiver<State>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps an object watched.
#[derive(Clone)]
pub(crate) struct Handle {
    key: Key,
    entry: Arc<Entry>,
}

/// The API server said nothing about an object in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer about {0} from the API server")]
pub(crate) struct Unanswered(pub(crate) String);

impl Handle {
    /// The object as last seen, `None` when there is no such object; waits for the first answer.
    pub(crate) async fn get(&self) -> Result<Option<Arc<Content>>, Unanswered> {
        let mut state = self.entry.state.clone();
        let known = tokio::time::timeout(FIRST_ANSWER, state.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(state)) => Ok(state.clone().flatten()),
            _ => Err(Unanswered(self.key.to_string())),
        }
    }

    /// Follows its changes.
    pub(crate) fn changes(&self) -> watch::Receiver<State> {
        self.entry.state.clone()
    }
}

/// All objects watched now.
pub(crate) struct Objects {
    client: kube::Client,
    entries: Mutex<HashMap<Key, Weak<Entry>>>,
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Self {
        Objects { client, entries: Mutex::default() }
    }

    /// Watches an object, if it is not watched yet.
    pub(crate) fn handle(&self, key: Key) -> Handle {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            return Handle { key, entry };
        }
        entries.retain(|_, e| e.strong_count() > 0);
        let (tx, state) = watch::channel(None);
        let client = self.client.clone();
        let (ns, name) = (key.namespace.clone(), key.name.clone());
        let task = match key.kind {
            Kind::Secret => tokio::spawn(follow::<Secret>(client, ns, name, tx, secret)),
            Kind::ConfigMap => tokio::spawn(follow::<ConfigMap>(client, ns, name, tx, config_map)),
            Kind::Claim => tokio::spawn(follow::<PersistentVolumeClaim>(client, ns, name, tx, claim)),
        };
        let entry = Arc::new(Entry { state, task: task.abort_handle() });
        entries.insert(key.clone(), Arc::downgrade(&entry));
        Handle { key, entry }
    }
}

fn secret(s: Secret) -> Content {
    Content::Data(s.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect())
}

fn config_map(c: ConfigMap) -> Content {
    let text = c.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
    let binary = c.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
    Content::Data(text.chain(binary).collect())
}

fn claim(c: PersistentVolumeClaim) -> Content {
    let status = c.status.unwrap_or_default();
    let bound = status.phase.as_deref() == Some("Bound");
    let resized =
        status.conditions.iter().flatten().any(|c| c.type_ == "FileSystemResizePending" && c.status == "True");
    let owner = reconcile::plan::controller(&c.metadata).map(|o| o.uid.clone());
    Content::Claim { volume: c.spec.and_then(|s| s.volume_name).filter(|v| !v.is_empty()), bound, resized, owner }
}

async fn follow<K>(
    client: kube::Client,
    namespace: String,
    name: String,
    tx: watch::Sender<State>,
    read: fn(K) -> Content,
) where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = follow::watch::<K>(client, Some(&namespace), config).default_backoff().boxed();
    let mut listed = None;
    let set = |new: Option<Arc<Content>>| {
        tx.send_if_modified(|state| {
            let changed = state.as_ref() != Some(&new);
            if changed {
                *state = Some(new);
            }
            changed
        });
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object)) => set(Some(Arc::new(read(object)))),
            Ok(watcher::Event::Delete(_)) => set(None),
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(object)) => listed = Some(Arc::new(read(object))),
            Ok(watcher::Event::InitDone) => set(listed.take()),
            Err(error) => tracing::debug!(%error, namespace, name, "watch of a referenced object failed"),
        }
    }
}
