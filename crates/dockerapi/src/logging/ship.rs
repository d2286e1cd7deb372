//! Sending lines on: one task for each container that runs, or that ended with lines not yet sent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::backoff::Backoff;
use base::rt::Drain;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::options::Route;
use super::reader::{Place, Reader};
use super::transport::{Line, Sender};
use super::{Driver, Entry, Facts, Format, driver};
use crate::containers::record::{Phase, Record};
use crate::face::{Container, Face};
use crate::fault::{Fault, Result, blocking};

/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How often a server that is away is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// What a container that is removed waits for its last lines to be sent.
const LAST_LINES: Duration = Duration::from_secs(5);

/// The tasks, by container.
#[derive(Default)]
pub struct Shipping(Mutex<BTreeMap<String, Tokens>>);

#[derive(Clone)]
struct Tokens {
    /// Nothing more is to be sent.
    stop: Drain,
    /// The task has ended.
    done: Drain,
}

fn place_file(face: &Face, id: &str) -> PathBuf {
    face.records.folder(id).join("shipped.json")
}

/// Whether a container may start: its log server answers, or need not.
///
/// # Errors
/// 500 in Docker's words.
pub async fn reach(record: &Record) -> Result<()> {
    let Ok(Driver::Sent { route, .. }) = driver(&record.host.log_config) else { return Ok(()) };
    if route.patient {
        return Ok(());
    }
    match Line::open(&route.address).await {
        Ok(_) => Ok(()),
        Err(_) if route.format == Format::Journald => Err(failed("journald is not enabled on this host")),
        Err(error) => Err(failed(&format!("dial {}: {error}", route.address))),
    }
}

fn failed(why: &str) -> Fault {
    Fault::broken(format!("failed to create task for container: failed to initialize logging driver: {why}"))
}

/// Has a task send the lines of a container, unless one does already.
pub fn begin(face: &Arc<Face>, container: &Arc<Container>) {
    let record = container.record();
    let Ok(Driver::Sent { route, .. }) = driver(&record.host.log_config) else { return };
    let tokens = Tokens { stop: face.drain().child_token(), done: Drain::new() };
    {
        let mut ships = face.shipping.0.lock();
        if ships.contains_key(&record.id) {
            return;
        }
        ships.insert(record.id.clone(), tokens.clone());
    }
    let (of, container, tasks) = (face.clone(), container.clone(), face.tasks.clone());
    tasks.spawn("docker log", async move {
        let _done = tokens.done.drop_guard();
        if let Err(error) = ship(&of, &container, Facts::of(&record), route, &tokens.stop).await {
            tracing::warn!(container = container.id, %error, "lines of a container are no longer sent on");
            of.shipping.0.lock().remove(&container.id);
        }
    });
}

/// Before a container's folder goes: its last lines are sent, if they can be soon.
pub async fn finish(face: &Face, id: &str) {
    let Some(tokens) = face.shipping.0.lock().get(id).cloned() else { return };
    if tokio::time::timeout(LAST_LINES, tokens.done.cancelled()).await.is_err() {
        tracing::warn!(container = id, "a container is removed with lines that its log server has not taken");
        tokens.stop.cancel();
        tokens.done.cancelled().await;
    }
    face.shipping.0.lock().remove(id);
}

fn over(container: &Container) -> bool {
    let seen = container.seen.borrow();
    seen.removed || !(seen.phase.is_live() || seen.phase == Phase::Restarting)
}

async fn ship(face: &Arc<Face>, container: &Arc<Container>, facts: Facts, route: Route, stop: &Drain) -> Result<()> {
    let (log, put) = (face.records.log(&container.id), place_file(face, &container.id));
    let folder = log.parent().map(Path::to_path_buf).unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(|e| Fault::io("open the log", &e))?;
    let mut watch = face.watches.folder(&folder).map_err(|e| Fault::io("watch the log", &e))?;
    // What cannot be read was half written when the machine went down: then all that is there is sent again.
    let place = std::fs::read(&put).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut reader = Reader::new(&log, place);
    let mut seen = container.seen.subscribe();
    let mut courier = Courier::new(route, facts, stop.clone());
    loop {
        seen.borrow_and_update();
        // Before the look at the log: what it wrote until then is in it.
        let ended = over(container);
        let read = blocking(move || {
            let read = reader.read().map_err(|e| Fault::io("read the log", &e))?;
            Ok::<_, Fault>((reader, read))
        });
        let (back, (entries, places)) = read.await?;
        reader = back;
        if std::mem::take(&mut reader.missed) {
            tracing::warn!(container = container.id, "lines were rotated away before the log server had taken them");
        }
        if entries.is_empty() {
            if ended {
                // One that is started again finds either this task or none.
                let mut ships = face.shipping.0.lock();
                if over(container) {
                    ships.remove(&container.id);
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                changed = watch.changed() => changed.map_err(|e| Fault::io("watch the log", &e))?,
                _ = seen.changed() => {}
                () = stop.cancelled() => return Ok(()),
            }
            continue;
        }
        if !courier.deliver(&container.id, &entries, &places, &put).await {
            return Ok(());
        }
    }
}

/// Brings entries to a server until it has them.
struct Courier {
    sender: Sender,
    server: String,
    backoff: Backoff,
    told: Option<Instant>,
    stop: Drain,
}

impl Courier {
    fn new(route: Route, facts: Facts, stop: Drain) -> Self {
        // All whose server is back must not come at once.
        let seed = facts.id.bytes().fold(0u64, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()));
        let backoff = Backoff::new(route.retry, RETRY_MAX, seed);
        Courier { server: route.address.to_string(), sender: Sender::new(route, facts), backoff, told: None, stop }
    }

    /// False: it is to stop.
    async fn deliver(&mut self, id: &str, entries: &[Entry], places: &[Place], put: &Path) -> bool {
        let mut sent = 0;
        while sent < entries.len() {
            let (taken, result) = tokio::select! {
                outcome = self.sender.send(&entries[sent..]) => outcome,
                () = self.stop.cancelled() => return false,
            };
            sent += taken;
            if let Some(place) = sent.checked_sub(1).and_then(|last| places.get(last)) {
                note(id, put, place);
            }
            let Err(error) = result else {
                self.backoff.reset();
                continue;
            };
            if self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                self.told = Some(Instant::now());
                tracing::warn!(container = id, server = self.server, %error, "a log server does not take lines; they wait");
            }
            tokio::select! {
                () = tokio::time::sleep(self.backoff.next_delay()) => {}
                () = self.stop.cancelled() => return false,
            }
        }
        true
    }
}

/// Puts down how far the log was sent. Not synced: the lines themselves are not either, and what a power failure takes is sent again.
fn note(id: &str, put: &Path, place: &Place) {
    let temporary = put.with_extension("tmp");
    let written = serde_json::to_vec(place)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&temporary, bytes))
        .and_then(|()| std::fs::rename(&temporary, put));
    if let Err(error) = written {
        tracing::warn!(container = id, %error, "it is not put down how far a log was sent");
    }
}
