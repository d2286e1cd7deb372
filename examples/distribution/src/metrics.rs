//! A few counters and gauges in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// Upper bounds of the request histogram, seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Most label sets of one metric; further ones are counted under `other`, so that a caller cannot grow the process.
const SERIES_MAX: usize = 64;

#[derive(Default)]
struct Family {
    help: &'static str,
    kind: &'static str,
    /// By rendered labels, `{a="b"}` or empty.
    series: BTreeMap<String, f64>,
}

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// The figures of one process.
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
    requests: Mutex<Histogram>,
}

impl Metrics {
    /// No figures yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a counter and shows it as 0 until it counts.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[&[(&str, &str)]]) {
        let series = labels.iter().map(|l| (render(l), 0.0)).collect();
        self.lock().insert(name, Family { help, kind: "counter", series });
    }

    /// Names a gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) {
        self.lock().insert(name, Family { help, kind: "gauge", series: BTreeMap::new() });
    }

    /// Counts one.
    pub fn inc(&self, name: &'static str, labels: &[(&str, &str)]) {
        let mut families = self.lock();
        let Some(family) = families.get_mut(name) else { return };
        let mut key = render(labels);
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&key) {
            key = render(&[("other", "true")]);
        }
        *family.series.entry(key).or_default() += 1.0;
    }

    /// Sets a gauge.
    pub fn set(&self, name: &'static str, value: f64) {
        if let Some(family) = self.lock().get_mut(name) {
            family.series.insert(String::new(), value);
        }
    }

    /// One request was answered.
    pub fn request(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut histogram = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (n, bound) in BUCKETS.iter().enumerate() {
            histogram.buckets[n] += u64::from(seconds <= *bound);
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, family) in self.lock().iter() {
            push(&mut out, format_args!("# HELP {name} {}\n# TYPE {name} {}\n", family.help, family.kind));
            for (labels, value) in &family.series {
                push(&mut out, format_args!("{name}{labels} {value}\n"));
            }
        }
        let histogram = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = "http_request_seconds";
        push(&mut out, format_args!("# HELP {name} Time to answer a request.\n# TYPE {name} histogram\n"));
        for (n, bound) in BUCKETS.iter().enumerate() {
            push(&mut out, format_args!("{name}_bucket{{le=\"{bound}\"}} {}\n", histogram.buckets[n]));
        }
        let (count, sum) = (histogram.count, histogram.sum);
        push(&mut out, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n"));
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Family>> {
        self.families.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

fn render(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pair = |(k, v): &(&str, &str)| {
        format!("{k}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
    };
    format!("{{{}}}", labels.iter().map(pair).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        metrics.counter("sent_total", "Sent.", &[&[("result", "ok")], &[("result", "failed")]]);
        metrics.gauge("depth", "Depth.");
        metrics.inc("sent_total", &[("result", "ok")]);
        metrics.inc("unknown", &[]);
        metrics.set("depth", 2.5);
        metrics.request(Duration::from_millis(20));
        let text = metrics.text();
        for line in [
            "# TYPE sent_total counter",
            "sent_total{result=\"ok\"} 1",
            "sent_total{result=\"failed\"} 0",
            "depth 2.5",
            "http_request_seconds_bucket{le=\"0.025\"} 1",
            "http_request_seconds_bucket{le=\"0.01\"} 0",
            "http_request_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn callers_cannot_grow_a_metric_without_bound() {
        let metrics = Metrics::new();
        metrics.counter("c_total", "C.", &[]);
        for n in 0..1000 {
            metrics.inc("c_total", &[("path", &n.to_string())]);
        }
        assert!(metrics.text().lines().filter(|l| l.starts_with("c_total")).count() <= SERIES_MAX + 1);
    }
}
