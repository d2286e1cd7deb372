//! Events, as people read them with `kubectl describe`: repeated ones are counted, and telling never holds up doing.

use std::collections::HashMap;
use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events that wait to be sent; more are dropped, since they are told again when their cause persists.
const QUEUE_MAX: usize = 1024;
/// Remembered events, to count repeats.
const REMEMBERED_MAX: usize = 4096;
/// A repeat sooner than this only adds to the count.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

struct Note {
    about: Value,
    type_: &'static str,
    reason: &'static str,
    message: String,
}

/// Sends events in the background.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

struct Sent {
    path: String,
    count: u64,
    at: Instant,
}

impl Recorder {
    /// Starts the task that sends until `drain`.
    pub fn start(client: kube::Client, component: &'static str, drain: CancellationToken) -> Self {
        let (notes, mut inbox) = mpsc::channel::<Note>(QUEUE_MAX);
        tokio::spawn(async move {
            let mut sent: HashMap<String, Sent> = HashMap::new();
            loop {
                let note = tokio::select! {
                    () = drain.cancelled() => return,
                    note = inbox.recv() => note,
                };
                let Some(note) = note else { return };
                send(&client, component, &mut sent, note).await;
            }
        });
        Recorder { notes }
    }

    /// Tells; never waits.
    pub fn record(&self, about: Value, type_: &'static str, reason: &'static str, message: String) {
        if self.notes.try_send(Note { about, type_, reason, message }).is_err() {
            tracing::debug!(reason, "too many events wait: one was dropped");
        }
    }
}

async fn send(client: &kube::Client, component: &str, sent: &mut HashMap<String, Sent>, note: Note) {
    let key = format!("{}/{}/{}", note.about["uid"].as_str().unwrap_or_default(), note.reason, note.message);
    let now = k8s_openapi::jiff::Timestamp::now();
    let stamp = reconcile::pods::time(now);
    if let Some(before) = sent.get_mut(&key) {
        before.count += 1;
        if before.at.elapsed() < REPEAT_AFTER {
            return;
        }
        before.at = Instant::now();
        let patch = json!({"count": before.count, "lastTimestamp": stamp});
        let request = Request::patch(&before.path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(patch.to_string().into_bytes());
        if let Ok(request) = request
            && client.request::<Value>(request).await.is_ok()
        {
            return;
        }
        sent.remove(&key); // expired meanwhile: told anew
    }
    let namespace = note.about["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
    let subject = note.about["name"].as_str().unwrap_or("unknown");
    let name = format!("{subject}.{:x}", now.as_nanosecond() & i128::from(u64::MAX));
    let body = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
        "involvedObject": note.about, "type": note.type_, "reason": note.reason, "message": note.message, "count": 1,
        "firstTimestamp": stamp, "lastTimestamp": stamp, "source": {"component": component},
        "reportingComponent": component, "reportingInstance": ""});
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let Ok(request) =
        Request::post(&path).header(http::header::CONTENT_TYPE, "application/json").body(body.to_string().into_bytes())
    else {
        return;
    };
    match client.request::<Value>(request).await {
        Ok(_) => {
            if sent.len() >= REMEMBERED_MAX {
                sent.retain(|_, s| s.at.elapsed() < REPEAT_AFTER);
            }
            if sent.len() < REMEMBERED_MAX {
                sent.insert(key, Sent { path: format!("{path}/{name}"), count: 1, at: Instant::now() });
            }
        }
        Err(error) => tracing::debug!(error = %base::chain(&error), "an event was not taken"),
    }
}
