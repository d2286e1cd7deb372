//! Prometheus' text format 0.0.4, in which metrics are told.

use std::fmt::{Display, Write as _};

/// The media type of such a text.
pub const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows metric by metric.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    stamp: Option<i64>,
}

impl Text {
    /// With a time, in milliseconds since the epoch, every line ends with it; without, whoever reads takes his own.
    pub fn new(stamp: Option<i64>) -> Self {
        Text { out: String::new(), stamp }
    }

    /// Says of which type (`counter`, `gauge`, `histogram`) the metric is whose lines follow.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(name);
        for (n, (key, text)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{open}{key}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = write!(self.out, " {value}");
        if let Some(stamp) = self.stamp {
            let _ = write!(self.out, " {stamp}");
        }
        self.out.push('\n');
    }

    /// A metric of one value.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.line(name, &[], value);
    }

    /// From here on lines have no time of their own.
    pub fn unstamped(&mut self) {
        self.stamp = None;
    }

    /// What this process uses, under the names that every exporter has for it.
    pub fn process(&mut self) {
        // SC_CLK_TCK is 100 in every Linux that has been built with the defaults; /proc tells ticks of it to everybody.
        const TICKS_PER_S: f64 = 100.0;
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in parentheses, may have spaces in it. After it come field 3 and those behind it (proc_pid_stat(5)).
        let fields: Vec<f64> = stat
            .rsplit_once(") ")
            .map_or(Vec::new(), |(_, rest)| rest.split(' ').map(|f| f.parse().unwrap_or_default()).collect());
        if let [user, system] = fields[11.min(fields.len())..13.min(fields.len())] {
            let help = "Total user and system CPU time spent in seconds.";
            self.one("process_cpu_seconds_total", "counter", help, (user + system) / TICKS_PER_S);
        }
        let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = booted.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        if let (Some(booted), Some(started)) = (booted, fields.get(19)) {
            let help = "Start time of the process since unix epoch in seconds.";
            self.one("process_start_time_seconds", "gauge", help, booted + started / TICKS_PER_S);
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        if let Some(kib) = kib("VmRSS:") {
            self.one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", kib * 1024);
        }
        if let Some(kib) = kib("VmSize:") {
            self.one("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", kib * 1024);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            self.one("process_open_fds", "gauge", "Number of open file descriptors.", open.count());
        }
    }

    /// The whole.
    pub fn finish(self) -> String {
        self.out
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_tells_what_it_uses() {
        let mut text = Text::default();
        text.process();
        let text = text.finish();
        let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value("process_cpu_seconds_total ").is_some_and(|s| s >= 0.0), "{text}");
        assert!(value("process_resident_memory_bytes ").is_some_and(|b| b > 1e5), "{text}");
        assert!(value("process_virtual_memory_bytes ") > value("process_resident_memory_bytes "), "{text}");
        assert!(value("process_open_fds ").is_some_and(|n| n >= 3.0), "{text}");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(value("process_start_time_seconds ").is_some_and(|s| s > 1e9 && s < now + 2.0), "{text}");
    }

    #[test]
    fn labels_are_escaped_and_times_come_last() {
        let mut text = Text::new(Some(5));
        text.begin("a_total", "counter", "How many.");
        text.line("a_total", &[("x", "1\"2\\3\n"), ("y", "")], 7);
        let mut bare = Text::default();
        bare.one("b", "gauge", "One.", 0.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total How many.\n# TYPE a_total counter\na_total{x=\"1\\\"2\\\\3\\n\",y=\"\"} 7 5\n"
        );
        assert_eq!(bare.finish(), "# HELP b One.\n# TYPE b gauge\nb 0.5\n");
    }
}
