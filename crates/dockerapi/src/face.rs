//! What all handlers share: the engine, the containers, the volumes, what happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use base::rt::{Drain, Tasks};
use engine::Engine;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::containers::exec::Execs;
use crate::containers::health::Health;
use crate::containers::record::{Phase, Record, Records};
use crate::events::Events;
use crate::fault::{Fault, Result};
use crate::images::building::Builds;
use crate::volumes::Volumes;

/// The Docker face of an instance.
pub struct Face {
    /// Runs everything.
    pub engine: Arc<Engine>,
    /// The folder of all that only this face knows.
    pub dir: PathBuf,
    /// The containers' folders.
    pub records: Records,
    /// The named volumes.
    pub volumes: Volumes,
    /// The networks that users made.
    pub nets: crate::networks::Nets,
    /// What happened.
    pub events: Events,
    /// Commands in containers.
    pub execs: Execs,
    /// Builds of images.
    pub builds: Builds,
    /// Folders of logs that somebody follows.
    pub watches: crate::containers::watches::Watches,
    /// Those that send lines of containers on.
    pub shipping: crate::logging::Shipping,
    /// Clients of BuildKit's API, and their builds.
    pub buildkit: crate::buildkit::Buildkit,
    /// Who manages the swarm, if this host knows somebody.
    pub manager: Option<Arc<dyn crate::swarm::Manager>>,
    /// Those that wait for containers.
    pub tasks: Tasks,
    /// The containers of pods, by id, as they were when somebody looked last.
    pub pods: Mutex<BTreeMap<String, Arc<Container>>>,
    /// By id.
    pub containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Names that are being given, so that no two containers get one.
    pub making: Mutex<std::collections::BTreeSet<String>>,
}

/// What of a container changes, for who waits for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub phase: Phase,
    /// Times it has ended.
    pub exits: u64,
    /// How, the last time.
    pub exit_code: i32,
    /// It is gone.
    pub removed: bool,
}

/// Somebody who attached before the start.
pub struct Waiter {
    /// What he wants.
    pub choice: engine::Choice,
    /// Where his streams go.
    pub tx: oneshot::Sender<(engine::runtime::Session, Carrier)>,
}

/// Counted as one of those who carry a container's output, until dropped.
pub struct Carrier(Arc<Container>);

impl Carrier {
    /// One more.
    pub fn of(container: &Arc<Container>) -> Self {
        container.carriers.send_modify(|n| *n += 1);
        Carrier(container.clone())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.carriers.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// One container.
pub struct Container {
    /// Its id.
    pub id: String,
    record: Mutex<Record>,
    /// Held while it is started, cleaned up after its end, or removed: one at a time.
    pub ops: tokio::sync::Mutex<()>,
    /// For who waits.
    pub seen: watch::Sender<Seen>,
    /// Attached before the start.
    pub waiting: Mutex<Vec<Waiter>>,
    /// How many still carry output of the last run.
    pub carriers: watch::Sender<usize>,
    /// Ends the pause before a restart.
    pub hurry: Notify,
    /// How it feels.
    pub health: Mutex<Option<Health>>,
    /// The log of a pod's container; `None` for Docker's own.
    of_pod: Option<PathBuf>,
}

impl Container {
    /// From its record.
    pub fn new(record: Record) -> Self {
        let seen = Seen { phase: record.state.phase, exit_code: record.state.exit_code, ..Seen::default() };
        Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            ops: tokio::sync::Mutex::default(),
            seen: watch::channel(seen).0,
            waiting: Mutex::default(),
            carriers: watch::channel(0).0,
            hurry: Notify::new(),
            health: Mutex::default(),
            of_pod: None,
        }
    }

    /// One of a pod, with its log.
    pub fn of_pod(record: Record, log: PathBuf) -> Self {
        Container { of_pod: Some(log), ..Container::new(record) }
    }

    /// Whether it is of a pod: nothing of it is kept here, and nothing done to it.
    pub fn is_of_pod(&self) -> bool {
        self.of_pod.is_some()
    }

    /// Takes in how it is now.
    pub fn update(&self, record: Record) {
        let seen = (record.state.phase, record.state.exit_code);
        *self.record.lock() = record;
        self.seen.send_if_modified(|s| {
            let changed = (s.phase, s.exit_code) != seen;
            (s.phase, s.exit_code) = seen;
            changed
        });
    }

    /// Its record, as it is now.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.record.lock().state.phase
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.record.lock().name.clone()
    }
}

impl Face {
    /// When to end.
    pub fn drain(&self) -> Drain {
        self.tasks.drain()
    }

    /// The container of that id, name, or beginning of an id.
    ///
    /// # Errors
    /// 404; 400 when several ids begin so.
    pub fn container(&self, text: &str) -> Result<Arc<Container>> {
        if let Some(found) = find(&self.containers.lock(), text)? {
            return Ok(found);
        }
        match find(&self.pods.lock(), text)? {
            Some(of_pod) => Err(crate::containers::pods::refusal(&of_pod.record())),
            None => Err(Fault::missing(format!("No such container: {text}"))),
        }
    }

    /// The same, to be looked at: one of a pod, too.
    ///
    /// # Errors
    /// As [`Face::container`].
    pub fn shown(&self, text: &str) -> Result<Arc<Container>> {
        if let Some(found) = find(&self.containers.lock(), text)? {
            return Ok(found);
        }
        let missing = || Fault::missing(format!("No such container: {text}"));
        find(&self.pods.lock(), text)?.ok_or_else(missing)
    }

    /// Docker's containers and those of pods, the newest first.
    pub fn all_shown(&self) -> Vec<Arc<Container>> {
        let mut all = self.all();
        all.extend(self.pods.lock().values().cloned());
        all.sort_by_key(|c| std::cmp::Reverse(c.record.lock().created_ms));
        all
    }

    /// Its log.
    pub fn log(&self, container: &Container) -> PathBuf {
        container.of_pod.clone().unwrap_or_else(|| self.records.log(&container.id))
    }

    /// All containers, the newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.containers.lock().values().cloned().collect();
        all.sort_by_key(|c| std::cmp::Reverse(c.record.lock().created_ms));
        all
    }

    /// Changes a record, on disk too, and tells who waits. A write that fails is told in the log: the container goes on.
    pub fn change(&self, container: &Container, change: impl FnOnce(&mut Record)) -> Record {
        let record = {
            let mut record = container.record.lock();
            change(&mut record);
            // Under the lock, so that the disk gets the changes in their order.
            if let Err(error) = self.records.put(&record) {
                tracing::error!(container = record.id, %error, "a container's record is not written");
            }
            record.clone()
        };
        container.seen.send_modify(|seen| {
            seen.phase = record.state.phase;
            seen.exit_code = record.state.exit_code;
        });
        self.events.touch();
        record
    }

    /// Tells of a container.
    pub fn tell(&self, record: &Record, action: &str, more: &[(&str, String)]) {
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".to_owned(), record.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.events.tell("container", action, &record.id, attributes);
    }
}

/// The container of that id, name, or beginning of an id.
fn find(containers: &BTreeMap<String, Arc<Container>>, text: &str) -> Result<Option<Arc<Container>>> {
    if let Some(found) = containers.get(text) {
        return Ok(Some(found.clone()));
    }
    let name = text.strip_prefix('/').unwrap_or(text);
    if let Some(found) = containers.values().find(|c| c.record.lock().name == name) {
        return Ok(Some(found.clone()));
    }
    let mut fitting = containers.values().filter(|c| !text.is_empty() && c.id.starts_with(text));
    match (fitting.next(), fitting.next()) {
        (Some(_), Some(_)) => Err(Fault::bad(format!("Multiple IDs found with provided prefix: {text}"))),
        (one, _) => Ok(one.cloned()),
    }
}

/// Now, milliseconds since the epoch.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A time as Docker writes it; never is the year 1.
pub fn stamp(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) if ms > 0 => format!("{time:.9}"),
        _ => "0001-01-01T00:00:00Z".to_owned(),
    }
}
