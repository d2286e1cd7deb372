//! `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::prometheus::Text;

use super::{BUCKETS_MS, Series};
use crate::handlers::version;
use crate::server::ApiServer;

/// All metrics of the server, in Prometheus' text format.
pub(crate) fn text(server: &ApiServer) -> String {
    let mut text = Text::default();
    let mut series: Vec<Arc<Series>> = server.meter.series.read().values().cloned().collect();
    series.sort_by(|a, b| a.label.cmp(&b.label));
    requests(&mut text, &series);
    times(&mut text, &series);
    running(&mut text, server);
    objects(&mut text, server);
    text.begin("kubernetes_build_info", "gauge", "Which version this is. The value is always 1.");
    let version = version();
    let labels = ["major", "minor", "git_version", "platform", "compiler"].map(|label| {
        let key = if label == "git_version" { "gitVersion" } else { label };
        (label, version[key].as_str().unwrap_or_default())
    });
    text.line("kubernetes_build_info", &labels, 1);
    text.process();
    text.finish()
}

/// The labels of a series, with `component`, in the order in which they are sorted elsewhere too.
fn labels(series: &Series) -> [(&'static str, &str); 7] {
    let [verb, group, version, resource, subresource, scope] = &series.label;
    [
        ("component", "apiserver"),
        ("group", group),
        ("resource", resource),
        ("scope", scope),
        ("subresource", subresource),
        ("verb", verb),
        ("version", version),
    ]
}

fn requests(text: &mut Text, series: &[Arc<Series>]) {
    let name = "apiserver_request_total";
    text.begin(name, "counter", "Requests by verb, group, version, resource, scope and HTTP code.");
    for one in series {
        for (code, count) in &one.codes {
            let (code, count) = (code.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
            if count > 0 {
                let code = code.to_string();
                let all: Vec<(&str, &str)> = [("code", code.as_str())].into_iter().chain(labels(one)).collect();
                text.line(name, &all, count);
            }
        }
    }
}

fn times(text: &mut Text, series: &[Arc<Series>]) {
    let name = "apiserver_request_duration_seconds";
    text.begin(name, "histogram", "How long requests took, without streams, in seconds.");
    let ends: Vec<String> = BUCKETS_MS.iter().map(|&ms| (f64::from(ms) / 1e3).to_string()).collect();
    for one in series {
        let (mut count, labels) = (0, labels(one));
        for (bucket, end) in one.buckets.iter().zip(ends.iter().map(String::as_str).chain(["+Inf"])) {
            count += bucket.load(Ordering::Relaxed);
            let all: Vec<(&str, &str)> = labels.into_iter().chain([("le", end)]).collect();
            text.line("apiserver_request_duration_seconds_bucket", &all, count);
        }
        let sum = one.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        text.line("apiserver_request_duration_seconds_sum", &labels, sum);
        text.line("apiserver_request_duration_seconds_count", &labels, count);
    }
}

fn running(text: &mut Text, server: &ApiServer) {
    let name = "apiserver_current_inflight_requests";
    text.begin(name, "gauge", "Requests under way, streams apart.");
    for (kind, count) in [("mutating", &server.meter.writing), ("readOnly", &server.meter.reading)] {
        text.line(name, &[("request_kind", kind)], count.load(Ordering::Relaxed));
    }
    let streams = server.config.limits.streams.saturating_sub(server.streams.available_permits());
    text.one("apiserver_longrunning_requests", "gauge", "Watches and other streams under way.", streams);
}

fn objects(text: &mut Text, server: &ApiServer) {
    let name = "apiserver_storage_objects";
    text.begin(name, "gauge", "Objects in the store, by resource.");
    let mut line = |resource: &str, group: &str, count: usize| {
        let full = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        text.line(name, &[("resource", &full)], count);
    };
    for cache in server.caches.all() {
        let kind = cache.kind();
        line(kind.plural, kind.group, cache.len());
    }
    let custom = server.caches.custom();
    for kind in custom.stored() {
        let count = custom.objects(kind.group, kind.plural).map_or(0, |cache| cache.len());
        line(kind.plural, kind.group, count);
    }
    let revisions = [
        ("windlass_store_revision", "Newest revision of the store.", server.caches.store().revision()),
        ("windlass_watch_cache_revision", "Newest revision that reads see.", server.caches.applied()),
    ];
    for (name, help, revision) in revisions {
        text.one(name, "counter", help, revision);
    }
}
