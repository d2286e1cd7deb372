//! Watch: a position in a kind's ring of changes, read on as the client takes them.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::KindInfo;
use api::status::{ApiError, FieldError};
use api::table::{self, IncludeObject};
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::list::Filter;
use super::{Call, Scope, render};
use crate::cache::kind::{self, Change, Event, KindCache};
use crate::cache::pieces::{Piece, Sight};
use crate::cache::{Caches, Entry};
use crate::flow::watched::Registered;
use crate::http::accept::Form;
use crate::http::body::Body;
use crate::http::query::Match;
use crate::http::respond::Reply;

/// Changes taken from the ring at a time.
const BATCH: usize = 256;
/// Bytes of one piece sent to a client.
const PIECE: usize = 256 << 10;
/// A watch without a limit of its own lasts this long and up to twice as long, so that reconnects spread.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Annotation of the bookmark that ends the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// GET with `watch`.
pub(crate) async fn serve(mut call: Call, scope: Scope<'_>) -> Result<Reply, ApiError> {
    let mut filter = Filter::of(&call, &scope)?;
    if !scope.name.is_empty() {
        // Watching one object is watching the collection with a selector.
        let only = api::selectors::FieldSelector::parse(&format!("metadata.name={}", scope.name))?;
        filter.fields = only;
    }
    check(&call)?;
    let protobuf = call.style.protobuf;
    let view = View { kind: scope.kind.clone(), form: call.form, include: include(&call)?, protobuf };
    let interval = call.server.config.limits.bookmark_interval;
    let caches = call.server.caches.clone();
    let mut stream = Stream {
        sight: sight(&call, &scope).map(Arc::new),
        cache: scope.cache.clone(),
        head: scope.cache.head(),
        progress: caches.progress(),
        caches,
        filter,
        view,
        initial: Vec::new().into_iter(),
        initial_end: None,
        position: 0,
        sent: 0,
        ticks: call.query.bookmarks.then(|| ticks(interval)),
        deadline: Box::pin(tokio::time::sleep(timeout(&call))),
        end: Box::pin(call.server.streams_end.clone().cancelled_owned()),
        pending: Vec::new(),
        lines: Vec::new(),
        state: State::Open,
        columns_sent: false,
        _place: call.place.take(),
        _watched: call.watched.take(),
    };
    if let Err(error) = stream.begin(&call, &scope).await {
        // In the stream, where reflectors look for it.
        stream.state = State::Last(stream.view.error(&error));
    }
    let chunks = futures::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((bytes, stream))
    });
    let mut reply = Response::new(Body::stream(chunks));
    let media = if protobuf { api::protobuf::WATCH_MEDIA } else { "application/json" };
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(reply)
}

fn include(call: &Call) -> Result<IncludeObject, ApiError> {
    match call.form {
        Form::PartialList | Form::AggregatedDiscovery => Err(ApiError::not_acceptable(&["application/json"])),
        _ => render::include(call),
    }
}

/// How the watch sees changes, if others may see them just so: tables have headings only the first time.
fn sight(call: &Call, scope: &Scope<'_>) -> Option<Sight> {
    (call.form == Form::Object).then(|| Sight {
        namespace: scope.namespace.to_owned(),
        name: scope.name.to_owned(),
        labels: call.query.labels.clone(),
        fields: call.query.fields.clone(),
        api_version: scope.kind.api_version(),
        protobuf: call.style.protobuf,
    })
}

fn check(call: &Call) -> Result<(), ApiError> {
    let q = &call.query;
    let forbidden = |field: &str, detail: &str| {
        Err(ApiError::invalid("ListOptions", "meta.k8s.io", "", vec![FieldError::forbidden(field, detail)]))
    };
    match (q.initial_events, q.matching) {
        (Some(_), Some(Match::NotOlderThan)) => Ok(()),
        (Some(_), _) => {
            forbidden("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (None, Some(_)) => forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (None, None) => Ok(()),
    }
}

fn timeout(call: &Call) -> Duration {
    match call.query.timeout_s {
        Some(seconds) => Duration::from_secs(seconds),
        None => DEFAULT_TIMEOUT.mul_f64(1.0 + rand::rng().random_range(0.0..1.0)),
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// How objects are shown.
struct View {
    kind: KindInfo,
    form: Form,
    include: IncludeObject,
    protobuf: bool,
}

impl View {
    /// One event with a document that is made for it.
    fn event(&self, word: &str, object: &Value) -> Bytes {
        if !self.protobuf {
            return kind::line(word, object.to_string().as_bytes());
        }
        match api::protobuf::watch_frame(word, object) {
            Some(frame) => frame.into(),
            None => self.unsayable(),
        }
    }

    fn error(&self, error: &ApiError) -> Bytes {
        self.event("ERROR", &error.to_status())
    }

    /// In the place of an object that is not of its kind's types, which validation does not let in: the client starts over.
    fn unsayable(&self) -> Bytes {
        let status = ApiError::internal("unable to encode watch object").to_status();
        api::protobuf::watch_frame("ERROR", &status).unwrap_or_default().into()
    }

    /// An event with the object as it is.
    fn whole(&self, change: Change, entry: &Entry) -> Bytes {
        let word = change.as_str();
        if self.protobuf {
            return kind::frame(word, entry, &self.kind).unwrap_or_else(|| self.unsayable());
        }
        kind::line(word, &entry.document(&self.kind))
    }

    /// The same, encoded once for all watches that show objects as they are stored.
    fn shared(&self, event: &Event) -> Bytes {
        if crate::cache::entry::is_converted(&self.kind) {
            return self.whole(event.change, &event.entry);
        }
        match self.protobuf {
            true => event.frame(&self.kind).unwrap_or_else(|| self.unsayable()),
            false => event.line(),
        }
    }
}

enum State {
    Open,
    /// One more piece, then the end.
    Last(Bytes),
    Ended,
}

/// One open watch.
struct Stream {
    caches: Arc<Caches>,
    cache: Arc<KindCache>,
    head: Receiver<u64>,
    progress: Receiver<u64>,
    filter: Filter,
    view: View,
    sight: Option<Arc<Sight>>,
    /// What there was when the watch began, still to be sent.
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The bookmark after it.
    initial_end: Option<u64>,
    position: u64,
    /// The newest revision the client has been told.
    sent: u64,
    /// For a watch that wants bookmarks.
    ticks: Option<Interval>,
    // These two stay as they are while changes come and go: each is entered in a list under a lock, once.
    deadline: Pin<Box<Sleep>>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Kept for their memory.
    pending: Vec<Arc<Event>>,
    lines: Vec<Bytes>,
    state: State,
    columns_sent: bool,
    _place: Option<OwnedSemaphorePermit>,
    _watched: Option<Registered>,
}

impl Stream {
    /// Finds where to begin.
    async fn begin(&mut self, call: &Call, scope: &Scope<'_>) -> Result<(), ApiError> {
        let q = &call.query;
        let initial = match (q.initial_events, q.revision) {
            (Some(wanted), _) => wanted,
            // Without a revision, and with the one that means "any", a watch begins with what there is.
            (None, None | Some(0)) => true,
            (None, Some(_)) => false,
        };
        match q.revision {
            Some(0) => {}
            None => drop(self.caches.consistent().await?),
            Some(revision) => self.caches.not_older_than(revision).await?,
        }
        if initial {
            let applied = self.caches.applied();
            let other = |e: &Entry| !e.version.is_empty() && e.version != self.view.kind.version;
            let keeps = |e: &Entry| other(e) || self.filter.keeps(e);
            let mut snapshot = self.cache.snapshot(&self.filter.namespace, None, 0, false, keeps);
            if snapshot.entries.iter().any(|e| other(e)) {
                snapshot.entries = scope.views(&self.caches, snapshot.entries).await?;
                snapshot.entries.retain(|e| self.filter.keeps(e));
            }
            self.position = snapshot.position;
            self.sent = applied.max(snapshot.newest);
            self.initial = snapshot.entries.into_iter();
            self.initial_end = (q.initial_events == Some(true) && q.bookmarks).then_some(self.sent);
            return Ok(());
        }
        let from = q.revision.unwrap_or_else(|| self.caches.applied());
        self.position =
            self.cache.position_after(from).map_err(|old| ApiError::too_old_resource_version(from, old.oldest))?;
        self.sent = from;
        Ok(())
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return None,
            State::Last(bytes) => return Some(bytes),
            State::Open => self.state = State::Open,
        }
        loop {
            if let Some(piece) = self.take_initial() {
                return Some(piece);
            }
            self.head.borrow_and_update();
            // Read before the ring is: everything up to it is in the ring.
            let through = *self.progress.borrow();
            match self.take_changes().await {
                Ok(Some(piece)) => return Some(piece),
                Ok(None) => {}
                Err(piece) => {
                    self.state = State::Ended;
                    return Some(piece);
                }
            }
            let ticks = &mut self.ticks;
            let tick = async {
                match ticks {
                    Some(ticks) => drop(ticks.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut self.deadline => return self.finish(through),
                () = &mut self.end => return self.finish(through),
                () = tick => {
                    if through > self.sent {
                        self.sent = through;
                        return Some(self.bookmark(through, false));
                    }
                }
                changed = self.head.changed() => if changed.is_err() { return self.finish(through) },
            }
        }
    }

    /// Ends the watch, with a bookmark for those who want to go on.
    fn finish(&mut self, through: u64) -> Option<Bytes> {
        self.state = State::Ended;
        (self.ticks.is_some() && through > self.sent).then(|| self.bookmark(through, false))
    }

    fn take_initial(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < PIECE {
            let Some(entry) = self.initial.next() else { break };
            let line = self.line(Change::Added, &entry);
            out.extend_from_slice(&line);
        }
        if self.initial.len() == 0
            && let Some(revision) = self.initial_end.take()
        {
            out.extend_from_slice(&self.bookmark(revision, true));
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// New changes that concern this watch, in one piece. `Err` is the last line of a watch that was too slow.
    async fn take_changes(&mut self) -> Result<Option<Bytes>, Bytes> {
        loop {
            if let Some(piece) = self.sight.as_ref().and_then(|sight| self.cache.piece(self.position, sight)) {
                self.position = piece.to;
                self.sent = self.sent.max(piece.newest);
                match piece.bytes {
                    Some(bytes) => return Ok(Some(bytes)),
                    None => continue,
                }
            }
            let from = self.position;
            let mut pending = std::mem::take(&mut self.pending);
            match self.cache.read_bounded(self.position, BATCH, PIECE, &mut pending) {
                Ok(position) => self.position = position,
                Err(old) => return Err(self.view.error(&ApiError::too_old_resource_version(self.sent, old.oldest))),
            }
            let nothing = pending.is_empty();
            if nothing {
                self.pending = pending;
                return Ok(None);
            }
            self.prepare(&pending).await?;
            let mut newest = 0;
            for event in pending.drain(..) {
                let Some(line) = self.event(&event) else { continue };
                newest = event.entry.revision.max(newest);
                self.lines.push(line);
            }
            self.pending = pending;
            self.sent = self.sent.max(newest);
            let bytes = joined(&mut self.lines);
            if let Some(sight) = &self.sight {
                let piece = Piece { from, to: self.position, newest, bytes: bytes.clone() };
                self.cache.keep_piece(sight, piece);
            }
            if bytes.is_some() {
                return Ok(bytes);
            }
        }
    }

    /// Has the objects of changes converted to the version of the watch.
    async fn prepare(&self, pending: &[Arc<Event>]) -> Result<(), Bytes> {
        let Some(family) = self.cache.family().filter(|family| !family.is_single()) else { return Ok(()) };
        let both = pending.iter().flat_map(|event| std::iter::once(&event.entry).chain(&event.previous));
        let entries: Vec<Arc<Entry>> = both.cloned().collect();
        family.prepare(&self.caches, self.view.kind.version, &entries).await.map_err(|error| self.view.error(&error))
    }

    /// An object in the version of the watch.
    fn seen<'e>(&self, entry: &'e Arc<Entry>) -> Cow<'e, Arc<Entry>> {
        if entry.version.is_empty() || entry.version == self.view.kind.version {
            // Not counted: a hundred watches that count one reference wait for each other.
            return Cow::Borrowed(entry);
        }
        // What cannot be converted has ended the watch before.
        let view = self.cache.family().and_then(|family| family.view(entry, self.view.kind.version));
        view.map_or(Cow::Borrowed(entry), Cow::Owned)
    }

    /// What a change looks like through the selectors: objects come into view and leave it.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let entry = self.seen(&event.entry);
        let is = self.filter.matches(&entry);
        if event.change == Change::Deleted {
            return is.then(|| self.shared(event));
        }
        let previous = event.previous.as_ref().map(|previous| self.seen(previous));
        let was = previous.as_ref().is_some_and(|previous| self.filter.matches(previous));
        match (was, is) {
            (true, true) => Some(self.shared(event)),
            (false, true) if event.change == Change::Added => Some(self.shared(event)),
            (false, true) => Some(self.line(Change::Added, &entry)),
            (true, false) => {
                let previous = previous?;
                Some(self.line(Change::Deleted, &previous.at(event.entry.revision)))
            }
            (false, false) => None,
        }
    }

    fn shared(&mut self, event: &Event) -> Bytes {
        let entry = self.seen(&event.entry);
        if self.view.form == Form::Object && Arc::ptr_eq(&entry, &event.entry) {
            return self.view.shared(event);
        }
        self.line(event.change, &entry)
    }

    fn line(&mut self, change: Change, entry: &Entry) -> Bytes {
        if self.view.form == Form::Object {
            return self.view.whole(change, entry);
        }
        let mut object = entry.value();
        self.view.kind.from_storage(&mut object);
        let shown = self.shown(&object);
        self.view.event(change.as_str(), &shown)
    }

    fn shown(&mut self, object: &Value) -> Value {
        if self.view.form == Form::Partial {
            return table::partial_metadata(object);
        }
        let mut table = table::table(&self.view.kind, [object], jiff::Timestamp::now(), self.view.include);
        table["metadata"] = json!({"resourceVersion": api::meta::resource_version(object)});
        if std::mem::replace(&mut self.columns_sent, true) {
            // Headings come with the first table only.
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = match self.view.form {
            Form::Table => {
                let object =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                let columns = match std::mem::replace(&mut self.columns_sent, true) {
                    true => Value::Null,
                    false => Value::Array(table::column_definitions(&self.view.kind)),
                };
                let cells = vec![Value::Null; self.view.kind.column_definitions().len()];
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"resourceVersion": revision.to_string()},
                    "columnDefinitions": columns,
                    "rows": [{"cells": cells, "object": object}],
                })
            }
            Form::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            _ => json!({"kind": self.view.kind.kind, "apiVersion": self.view.kind.api_version(), "metadata": metadata}),
        };
        self.view.event("BOOKMARK", &object)
    }
}

/// The lines in one piece: the line itself when there is one, else a copy of exactly their length.
fn joined(lines: &mut Vec<Bytes>) -> Option<Bytes> {
    if lines.len() < 2 {
        return lines.pop();
    }
    let mut out = BytesMut::with_capacity(lines.iter().map(Bytes::len).sum());
    lines.drain(..).for_each(|line| out.extend_from_slice(&line));
    Some(out.freeze())
}
