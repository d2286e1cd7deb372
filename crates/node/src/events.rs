//! Events about pods and the node: repeated ones are counted on one object, and each source has a budget, so that a
//! failing pod cannot fill the store.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting to be written; when the API server is slow, further ones are dropped.
const QUEUE: usize = 1024;
/// Distinct events remembered for counting.
const REMEMBERED: usize = 4096;
/// Events of one object in a burst, and the time in which one more is earned (client-go's spam filter).
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// A repetition later than this is a new event.
const SAME_FOR: Duration = Duration::from_secs(3600);

/// Why something happened, in one CamelCase word.
pub(crate) type Reason = Cow<'static, str>;

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    path: Option<String>,
    level: Level,
    reason: Reason,
    message: String,
}

struct Report {
    about: ObjectReference,
    level: Level,
    reason: Reason,
    message: String,
}

/// Where parts of the agent leave their events. Cheap to clone; never waits.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Report>,
}

/// What an event is about.
pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    let m = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: m.namespace.clone(),
        name: m.name.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        field_path: None,
    }
}

/// A container of a pod as an event names it.
pub(crate) fn container_reference(pod: &Pod, name: &str) -> ObjectReference {
    let spec = pod.spec.as_ref();
    let init = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
    let added = spec.is_some_and(|s| s.ephemeral_containers.iter().flatten().any(|c| c.name == name));
    let list = match (init, added) {
        (true, _) => "initContainers",
        (false, true) => "ephemeralContainers",
        (false, false) => "containers",
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..pod_reference(pod) }
}

/// The node. Its events name it as UID too, as kubelets do.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    use k8s_openapi::Resource;
    ObjectReference {
        api_version: Some(Node::API_VERSION.to_owned()),
        kind: Some(Node::KIND.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

impl Recorder {
    /// A recorder and the task that writes its events.
    pub(crate) fn new(client: kube::Client, node: &str) -> (Recorder, impl Future<Output = ()> + Send + use<>) {
        let (queue, reports) = mpsc::channel(QUEUE);
        let writer = Writer { client, node: node.to_owned(), written: HashMap::new(), budgets: HashMap::new() };
        (Recorder { queue }, writer.run(reports))
    }

    /// Leaves an event.
    pub(crate) fn event(
        &self,
        about: ObjectReference,
        level: Level,
        reason: impl Into<Reason>,
        message: impl Into<String>,
    ) {
        let report = Report { about, level, reason: reason.into(), message: truncate(message.into()) };
        if let Err(refused) = self.queue.try_send(report) {
            let reason = refused.into_inner().reason;
            tracing::debug!(%reason, "event dropped: the queue is full or closed");
        }
    }

    pub(crate) fn normal(&self, about: ObjectReference, reason: impl Into<Reason>, message: impl Into<String>) {
        self.event(about, Level::Normal, reason, message);
    }

    pub(crate) fn warn(&self, about: ObjectReference, reason: impl Into<Reason>, message: impl Into<String>) {
        self.event(about, Level::Warning, reason, message);
    }
}

/// The API takes messages of at most 1024 bytes.
fn truncate(mut message: String) -> String {
    const MAX: usize = 1024;
    if message.len() > MAX {
        let mut end = MAX - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}

struct Written {
    name: String,
    namespace: String,
    count: i32,
    at: Instant,
}

struct Budget {
    tokens: f64,
    at: Instant,
}

struct Writer {
    client: kube::Client,
    node: String,
    written: HashMap<Key, Written>,
    budgets: HashMap<String, Budget>,
}

impl Writer {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        while let Some(report) = reports.recv().await {
            self.write(report).await;
        }
    }

    fn afford(&mut self, uid: &str, now: Instant) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.retain(|_, b| now.duration_since(b.at) < REFILL);
        }
        let budget = self.budgets.entry(uid.to_owned()).or_insert(Budget { tokens: BURST, at: now });
        let earned = now.duration_since(budget.at).as_secs_f64() / REFILL.as_secs_f64();
        budget.tokens = (budget.tokens + earned).min(BURST);
        budget.at = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }

    async fn write(&mut self, report: Report) {
        let now = Instant::now();
        let uid = report.about.uid.clone().unwrap_or_default();
        if !self.afford(&uid, now) {
            return;
        }
        let key = Key {
            uid,
            path: report.about.field_path.clone(),
            level: report.level,
            reason: report.reason.clone(),
            message: report.message.clone(),
        };
        if self.repeat(&key, now).await {
            return;
        }
        if self.written.len() >= REMEMBERED {
            self.written.retain(|_, w| now.duration_since(w.at) < SAME_FOR / 4);
            if self.written.len() >= REMEMBERED {
                self.written.clear();
            }
        }
        let event = self.first(report);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                let name = event.metadata.name.unwrap_or_default();
                self.written.insert(key, Written { name, namespace, count: 1, at: now });
            }
            Err(error) => tracing::debug!(%error, reason = %key.reason, "event not written"),
        }
    }

    /// Counts the event on one written before; false when there is none.
    async fn repeat(&mut self, key: &Key, now: Instant) -> bool {
        let Some(written) = self.written.get_mut(key).filter(|w| now.duration_since(w.at) < SAME_FOR) else {
            return false;
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &written.namespace);
        let patch = json!({"count": written.count + 1, "lastTimestamp": Time(Timestamp::now())});
        let result = api.patch(&written.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match result {
            Ok(_) => {
                written.count += 1;
                written.at = now;
                true
            }
            Err(_) => {
                self.written.remove(key);
                false
            }
        }
    }

    fn first(&self, report: Report) -> Event {
        let now = Timestamp::now();
        let about = report.about;
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let name = format!("{}.{:016x}", about.name.as_deref().unwrap_or("unknown"), rand::random::<u64>());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: about,
            type_: Some(format!("{:?}", report.level)),
            reason: Some(report.reason.into_owned()),
            message: Some(report.message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        }
    }
}
