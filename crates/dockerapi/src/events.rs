//! What happened, told to whoever listens, and for a while to who asks later.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use crate::query::Filters;

/// Past events kept, as many as dockerd keeps.
const KEPT: usize = 256;
/// Events that a slow listener may lag behind before it loses some.
const AHEAD: usize = 1024;

/// Filters of events.
pub const FILTERS: [&str; 13] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "label!",
    "network",
    "node",
    "plugin",
    "scope",
    "type",
    "volume",
];

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`.
    pub kind: &'static str,
    /// `start`, `die`, …
    pub action: String,
    /// What it happened to.
    pub id: String,
    /// What is known of that.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

impl Event {
    /// As Docker writes it.
    pub fn document(&self) -> Value {
        let mut document = json!({
            "Type": self.kind, "Action": self.action, "scope": "local",
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "time": self.time.as_second(), "timeNano": i64::try_from(self.time.as_nanosecond()).unwrap_or(i64::MAX),
        });
        if self.kind == "container" {
            document["status"] = json!(self.action);
            document["id"] = json!(self.id);
            document["from"] = json!(self.attributes.get("image"));
        }
        document
    }

    /// Whether it is wanted.
    pub fn fits(&self, filters: &Filters) -> bool {
        let about = |kind: &str| {
            let named = |v: &str| {
                v == self.id
                    || (v.len() >= 4 && self.id.starts_with(v))
                    || self.attributes.get("name").is_some_and(|n| n == v)
            };
            !filters.has(kind) || (self.kind == kind && filters.any(kind, named))
        };
        let verb = self.action.split(':').next().unwrap_or_default();
        filters.any("type", |v| v == self.kind)
            && filters.any("event", |v| v == self.action || v == verb)
            && filters.any("scope", |v| v == "local")
            && ["container", "image", "volume", "network", "daemon", "plugin", "node", "config"]
                .iter()
                .all(|k| about(k))
            && filters.labels(&self.attributes)
    }
}

/// All that happened lately, and those who listen.
pub struct Events {
    tx: broadcast::Sender<Event>,
    past: Mutex<VecDeque<Event>>,
    /// Told of containers alone.
    changed: watch::Sender<()>,
}

impl Default for Events {
    fn default() -> Self {
        Events { tx: broadcast::channel(AHEAD).0, past: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Events {
    /// Says that something happened.
    pub fn tell(&self, kind: &'static str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        let (action, id) = (action.to_owned(), id.to_owned());
        let event = Event { kind, action, id, attributes, time: Timestamp::now() };
        let mut past = self.past.lock();
        if past.len() >= KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Commands come and go, as checks of health do, and change nothing.
        if kind == "container" && !event.action.starts_with("exec_") {
            self.touch();
        }
        // Under the lock, so that who asks gets each once. No listener is no problem.
        let _ = self.tx.send(event);
    }

    /// Has those look again who show containers.
    pub fn touch(&self) {
        self.changed.send_replace(());
    }

    /// Changes whenever a container may not be as it was.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is kept, and what comes.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock();
        (past.iter().cloned().collect(), self.tx.subscribe())
    }
}
