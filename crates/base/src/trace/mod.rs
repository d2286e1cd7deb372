//! Spans of what takes time, for an OpenTelemetry collector. Off by default; what is off costs a look at an `Option`.
//!
//! Spans go to a bounded queue, and from there as OTLP over HTTP in JSON (OTLP 1.x, "JSON Protobuf Encoding") to the
//! collector. When the collector is slow or away spans are dropped and counted: nothing ever waits for it.

mod export;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

pub use export::{Endpoint, EndpointError};

/// Spans waiting for the collector.
const QUEUE: usize = 2048;
/// Most bytes of one text in a span: what a client sends is among them.
const TEXT_MAX: usize = 512;
/// Of so many spans that begin a trace, all are recorded.
pub const PER_MILLION: u32 = 1_000_000;

/// Which trace and which span of it (W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Of all that belongs together; never zero.
    pub trace: u128,
    /// Of one span; never zero.
    pub span: u64,
}

impl Ids {
    /// The header `traceparent` of what is asked of others on behalf of this span.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// A `traceparent` header: whose child a request is, and whether that is recorded. `None` when it is none that is known.
pub fn parse_traceparent(text: &str) -> Option<(Ids, bool)> {
    let hex = |s: &str, len: usize| {
        (s.len() == len && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(())
    };
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    hex(version, 2).and(hex(trace, 32)).and(hex(span, 16)).and(hex(flags, 2))?;
    // Later versions may append; this one has four parts, and `ff` is none.
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let ids = Ids { trace: u128::from_str_radix(trace, 16).ok()?, span: u64::from_str_radix(span, 16).ok()? };
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (ids.trace != 0 && ids.span != 0).then_some((ids, sampled))
}

/// Whom a span serves (`SpanKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process itself.
    Internal,
    /// A client that asked.
    Server,
}

/// A span that is over.
#[derive(Debug)]
pub(crate) struct Record {
    ids: Ids,
    parent: Option<u64>,
    name: &'static str,
    kind: Kind,
    start_ns: u128,
    took_ns: u128,
    attributes: Vec<(&'static str, String)>,
    error: Option<String>,
}

struct Inner {
    queue: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
    per_million: u32,
}

/// Makes spans. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_on() { "Tracer(on)" } else { "Tracer(off)" })
    }
}

impl Tracer {
    /// One that records, and the task that exports, which ends when the last tracer and span of it is gone. Of traces that
    /// begin here so many of a million are recorded.
    pub fn new(
        endpoint: Endpoint,
        service: &'static str,
        instance: &str,
        per_million: u32,
    ) -> (Tracer, impl Future<Output = ()> + Send + use<>) {
        let (queue, records) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let exporter = export::Exporter::new(endpoint, service, instance.to_owned(), dropped.clone());
        (Tracer(Some(Arc::new(Inner { queue, dropped, per_million }))), exporter.run(records))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How many spans were dropped: the queue was full, or the collector did not take them.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.dropped.load(Ordering::Relaxed))
    }

    /// The first span of a trace whose id is given, if the trace is recorded. Whether it is follows from the id, so that all
    /// who see the trace decide alike.
    pub fn root(&self, trace: u128, name: &'static str) -> Span {
        let of_it = |inner: &&Arc<Inner>| trace != 0 && trace % u128::from(PER_MILLION) < u128::from(inner.per_million);
        let Some(inner) = self.0.as_ref().filter(of_it) else { return Span::default() };
        Span::begin(inner, trace, None, name, Kind::Internal)
    }

    /// The span of a request with that `traceparent`, if it has one. What the caller records is recorded; what it does not,
    /// is not.
    pub fn request(&self, traceparent: Option<&str>, name: &'static str) -> Span {
        let Some(inner) = &self.0 else { return Span::default() };
        match traceparent.and_then(parse_traceparent) {
            Some((parent, true)) => Span::begin(inner, parent.trace, Some(parent.span), name, Kind::Server),
            Some((_, false)) => Span::default(),
            None if rand::random_range(0..PER_MILLION) >= inner.per_million => Span::default(),
            None => Span::begin(inner, rand::random::<u128>().max(1), None, name, Kind::Server),
        }
    }
}

struct Open {
    inner: Arc<Inner>,
    record: Record,
    began: Instant,
}

/// A span under way: over when dropped. The default is one that is not recorded.
#[derive(Default)]
pub struct Span(Option<Box<Open>>);

/// What children of a span are made from. Cheap to clone.
#[derive(Clone, Default)]
pub struct Parent(Option<(Arc<Inner>, Ids)>);

impl Parent {
    /// A span below this one.
    pub fn child(&self, name: &'static str) -> Span {
        let Some((inner, ids)) = &self.0 else { return Span::default() };
        Span::begin(inner, ids.trace, Some(ids.span), name, Kind::Internal)
    }
}

impl Span {
    fn begin(inner: &Arc<Inner>, trace: u128, parent: Option<u64>, name: &'static str, kind: Kind) -> Span {
        let start_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let ids = Ids { trace, span: rand::random::<u64>().max(1) };
        let (attributes, error) = (Vec::new(), None);
        let record = Record { ids, parent, name, kind, start_ns, took_ns: 0, attributes, error };
        Span(Some(Box::new(Open { inner: inner.clone(), record, began: Instant::now() })))
    }

    /// Whether it is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// For spans below it.
    pub fn parent(&self) -> Parent {
        Parent(self.0.as_ref().map(|open| (open.inner.clone(), open.record.ids)))
    }

    /// Its ids, when it is recorded.
    pub fn ids(&self) -> Option<Ids> {
        self.0.as_ref().map(|open| open.record.ids)
    }

    /// Says something of it; the value is made only when it is recorded.
    pub fn set<T: ToString>(&mut self, key: &'static str, value: impl FnOnce() -> T) {
        if let Some(open) = &mut self.0 {
            open.record.attributes.push((key, short(value().to_string())));
        }
    }

    /// The same, in passing.
    #[must_use]
    pub fn with<T: ToString>(mut self, key: &'static str, value: impl FnOnce() -> T) -> Self {
        self.set(key, value);
        self
    }

    /// It failed, for that reason.
    pub fn fail<T: ToString>(&mut self, why: impl FnOnce() -> T) {
        if let Some(open) = &mut self.0 {
            open.record.error = Some(short(why().to_string()));
        }
    }

    /// It never was.
    pub fn discard(&mut self) {
        self.0 = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(open) = self.0.take() else { return };
        let Open { inner, mut record, began } = *open;
        record.took_ns = began.elapsed().as_nanos();
        if inner.queue.try_send(record).is_err() {
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn short(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        let _infallible = write!(text, "...");
    }
    text
}

/// The id of the trace of something with a UID: the UID itself (RFC 9562), so that who comes later finds it.
pub fn trace_of_uid(uid: &str) -> u128 {
    let hex: String = uid.chars().filter(|c| *c != '-').collect();
    if hex.len() == 32 { u128::from_str_radix(&hex, 16).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests;
