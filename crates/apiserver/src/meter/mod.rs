//! What `/metrics` tells of requests: how many, how they ended, how long they took. The names, labels and buckets are those
//! of kube-apiserver (kubernetes.io/docs/reference/instrumentation/metrics), which dashboards and alerts go by.

mod text;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use parking_lot::RwLock;

use crate::handlers::kind_of;
use crate::http::path::Target;
use crate::server::ApiServer;

pub(crate) use text::text;

/// Upper ends of the buckets of `apiserver_request_duration_seconds`, in milliseconds.
const BUCKETS_MS: [u32; 23] = [
    5, 25, 50, 100, 200, 400, 600, 800, 1000, 1250, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10_000, 15_000, 20_000,
    30_000, 45_000, 60_000,
];
/// Kinds of requests that are counted apart. Clients that ask for ever new things are counted together.
const SERIES_MAX: usize = 4096;
/// First segments of paths that are counted apart.
const PATHS: [&str; 6] = ["", "api", "apis", "metrics", "openapi", "openid"];
/// Different codes that one kind of request ends with.
const CODES_MAX: usize = 16;

/// What kind of request it is.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Label<'a> {
    /// As kube-apiserver writes it: `LIST`, `APPLY`.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Subresource, or the path of what is no resource.
    pub subresource: &'a str,
    /// `cluster`, `namespace` or `resource`.
    pub scope: &'a str,
}

/// Counters of one kind of request.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// The label's parts, in its order.
    label: [Box<str>; 6],
    /// A code and how often, in the order in which codes came; code 0 is a free place.
    codes: [(AtomicU16, AtomicU64); CODES_MAX],
    /// Not cumulative; the last one is for all that took longer.
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Series {
    fn new(label: &Label<'_>) -> Self {
        let parts =
            [label.verb, label.group, label.version, label.resource, label.subresource, label.scope].map(Box::from);
        Series { label: parts, ..Series::default() }
    }

    fn code(&self, code: u16) {
        for (place, count) in &self.codes {
            let here = place.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|c| c);
            if here == code || here == 0 {
                count.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    fn took(&self, time: Duration) {
        let ms = time.as_micros().div_ceil(1000);
        let bucket = BUCKETS_MS.partition_point(|&end| u128::from(end) < ms);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Counters of all requests.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// By a hash of the label: to look one up makes no copy of it, and that two labels share a counter will not happen.
    series: RwLock<HashMap<u64, Arc<Series>>>,
    hasher: RandomState,
    reading: AtomicI64,
    writing: AtomicI64,
}

impl Meter {
    /// `known` says whether there is such a thing; it is asked the first time.
    fn series(&self, label: &Label<'_>, known: impl FnOnce() -> bool) -> Arc<Series> {
        let hash = self.hasher.hash_one(label);
        if let Some(series) = self.series.read().get(&hash) {
            return series.clone();
        }
        let known = known();
        let mut all = self.series.write();
        if !known || all.len() >= SERIES_MAX && !all.contains_key(&hash) {
            let other = Label { verb: label.verb, ..Label::default() };
            return all.entry(self.hasher.hash_one(other)).or_insert_with(|| Arc::new(Series::new(&other))).clone();
        }
        all.entry(hash).or_insert_with(|| Arc::new(Series::new(label))).clone()
    }

    /// Begins to measure a request.
    pub fn begin(&self) -> Measured<'_> {
        Measured { meter: self, began: Instant::now(), series: None, stream: false, running: None }
    }
}

/// A request that is being measured.
pub(crate) struct Measured<'a> {
    meter: &'a Meter,
    began: Instant,
    series: Option<Arc<Series>>,
    stream: bool,
    running: Option<&'a AtomicI64>,
}

impl Measured<'_> {
    /// It asks for this, with a verb of authorization.
    pub fn asks(&mut self, server: &ApiServer, verb: &str, target: &Target, headers: &HeaderMap) {
        let apply = || headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/apply-patch"));
        match target {
            Target::Path(path) => {
                let label = Label { verb: upper(verb, "", false), subresource: path, ..Label::default() };
                self.is(&label, false, || PATHS.contains(&path.split('/').nth(1).unwrap_or("")));
            }
            Target::Resource(path) => {
                let verb = upper(verb, &path.subresource, verb == "patch" && apply());
                let scope = match (path.name.as_str(), path.namespace.as_str()) {
                    ("", "") => "cluster",
                    ("", _) => "namespace",
                    _ => "resource",
                };
                let (group, version, resource) = (path.group.as_str(), path.version.as_str(), path.resource.as_str());
                let label = Label { verb, group, version, resource, subresource: &path.subresource, scope };
                self.is(&label, matches!(verb, "WATCH" | "CONNECT"), || {
                    kind_of(path).is_some() || server.caches.custom().find(group, version, resource).is_some()
                });
            }
        }
    }

    /// A stream is counted, but how long it lasts says nothing.
    fn is(&mut self, label: &Label<'_>, stream: bool, known: impl FnOnce() -> bool) {
        self.series = Some(self.meter.series(label, known));
        self.stream = stream;
        if self.running.is_none() && !stream {
            let reads = matches!(label.verb, "GET" | "LIST" | "HEAD");
            let running = if reads { &self.meter.reading } else { &self.meter.writing };
            running.fetch_add(1, Ordering::Relaxed);
            self.running = Some(running);
        }
    }

    /// It was answered with this code.
    pub fn ended(self, code: u16) {
        let unknown = || self.meter.series(&Label::default(), || true);
        let series = self.series.clone().unwrap_or_else(unknown);
        series.code(code);
        if !self.stream {
            series.took(self.began.elapsed());
        }
    }
}

impl Drop for Measured<'_> {
    /// Also of a request whose client went away.
    fn drop(&mut self) {
        if let Some(running) = self.running {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The verb as kube-apiserver labels it. `apply` says whether a patch is a server-side apply.
fn upper(verb: &str, subresource: &str, apply: bool) -> &'static str {
    match verb {
        _ if matches!(subresource, "exec" | "attach" | "portforward" | "proxy" | "log") => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" if apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let series = Series::default();
        for us in [0, 5000, 5001, 60_000_000, 60_000_001] {
            series.took(Duration::from_micros(us));
        }
        let counts: Vec<u64> = series.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[22], counts[23]), (2, 1, 1, 1));
        assert_eq!(counts.iter().sum::<u64>(), 5);
    }

    #[test]
    fn codes_are_counted_apart_as_far_as_there_is_room() {
        let series = Series::default();
        for code in [200, 404, 200].into_iter().chain(500..530) {
            series.code(code);
        }
        let of = |code: u16| series.codes.iter().find(|(c, _)| c.load(Ordering::Relaxed) == code);
        assert_eq!(of(200).map(|(_, n)| n.load(Ordering::Relaxed)), Some(2));
        assert_eq!(of(404).map(|(_, n)| n.load(Ordering::Relaxed)), Some(1));
        assert!(of(529).is_none());
    }

    #[test]
    fn series_have_a_limit() {
        let meter = Meter::default();
        for n in 0..SERIES_MAX + 50 {
            let resource = n.to_string();
            let mut request = meter.begin();
            request.is(&Label { verb: "GET", resource: &resource, ..Label::default() }, false, || true);
            request.ended(200);
        }
        assert_eq!(meter.series.read().len(), SERIES_MAX + 1);
        assert_eq!(meter.reading.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_request_that_is_dropped_is_not_under_way() {
        let meter = Meter::default();
        let mut request = meter.begin();
        request.is(&Label { verb: "PUT", ..Label::default() }, false, || true);
        assert_eq!(meter.writing.load(Ordering::Relaxed), 1);
        drop(request);
        assert_eq!(meter.writing.load(Ordering::Relaxed), 0);
    }
}
