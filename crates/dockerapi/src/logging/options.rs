//! Which driver, and what its options mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::transport::Address;
use super::{Format, gelf, syslog, tag};
use crate::containers::check::size;
use crate::containers::model::LogConfig;
use crate::fault::{Fault, Result};

/// Number and size of the files of `json-file`, unless said. dockerd gives them no limit; a disk is not for one log.
const JSON_FILES: Files = Files { size: 100 << 20, count: 5 };
/// Of the others (Docker's numbers).
const LOCAL_FILES: Files = Files { size: 20 << 20, count: 5 };
/// Drivers of Docker that are not there.
const KNOWN: [&str; 4] = ["awslogs", "etwlogs", "gcplogs", "splunk"];
/// Docker's own limit of one write to a server.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries to reach a server: the first pause, doubled each time.
const RETRY: Duration = Duration::from_millis(500);
/// Options of all drivers that lines are sent to.
const SENT: [&str; 9] = [
    "labels",
    "env",
    "tag",
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];
/// Where journald listens (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Another place of it, for hosts that have it elsewhere.
const JOURNAL_VARIABLE: &str = "WINDLASS_JOURNAL_SOCKET";
/// Where syslog listens on this host, as Docker looks for it.
const SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// The files of a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// Bytes of each; 0: no limit.
    pub size: u64,
    /// How many.
    pub count: u32,
}

/// What is done with lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// Nothing: there is no log.
    None,
    /// They are kept.
    Kept(Files),
    /// They are kept and sent on.
    Sent {
        /// The copy here, from which they are sent.
        files: Files,
        /// Whether `docker logs` shows that copy.
        shown: bool,
        /// To whom.
        route: Route,
    },
}

/// To whom lines are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How they are written.
    pub format: Format,
    /// Where to.
    pub address: Address,
    /// A container starts also while nobody is there.
    pub patient: bool,
    /// How long one write may take.
    pub write_limit: Duration,
    /// The first pause before another try.
    pub retry: Duration,
}

/// Options as they are taken one by one: what is left at the end is unknown.
struct Options<'a> {
    driver: &'a str,
    left: BTreeMap<&'a str, &'a str>,
}

impl<'a> Options<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        self.left.remove(name)
    }

    fn wrong(name: &str, value: &str) -> Fault {
        Fault::bad(format!("invalid value {value:?} of log option {name}"))
    }

    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| Options::wrong(name, value))
    }

    fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.parsed(name, truth)?.unwrap_or(false))
    }

    fn pause(&mut self, name: &str, otherwise: Duration) -> Result<Duration> {
        Ok(self.parsed(name, duration)?.unwrap_or(otherwise))
    }

    /// The sizes of files by the names that options have.
    fn files(&mut self, most: &str, count: &str, otherwise: Files) -> Result<Files> {
        let size = self.parsed(most, size)?.unwrap_or(otherwise.size);
        let count = self.parsed(count, |v| v.parse().ok().filter(|n| *n > 0))?.unwrap_or(otherwise.count);
        Ok(Files { size, count })
    }

    /// How lines are handed over. Here the container never waits: its lines are in files first, which then hold at least as much
    /// as was asked of a buffer.
    fn mode(&mut self, files: Files) -> Result<Files> {
        let free = self.parsed("mode", |v| match v {
            "blocking" | "" => Some(false),
            "non-blocking" => Some(true),
            _ => None,
        })?;
        let Some(buffer) = self.parsed("max-buffer-size", size)? else { return Ok(files) };
        if free != Some(true) {
            return Err(Fault::bad("max-buffer-size option is only supported with 'mode=non-blocking'"));
        }
        let size = if files.size == 0 { 0 } else { files.size.max(buffer) };
        Ok(Files { size, ..files })
    }

    /// No option is left.
    fn done(self) -> Result<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) if DOCKERS.contains(name) => Err(Fault::refused(&format!(
                "HostConfig.LogConfig.Config {name:?} of the logging driver {:?}",
                self.driver
            ))),
            Some(name) => Err(Fault::bad(format!("unknown log opt '{name}' for {} log driver", self.driver))),
        }
    }
}

/// Options that Docker has and that are not obeyed here.
const DOCKERS: [&str; 13] = [
    "labels-regex",
    "env-regex",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-async-connect",
    "fluentd-async-reconnect-interval",
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
    "gelf-compression-level",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];

fn truth(value: &str) -> Option<bool> {
    match value {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// One number with a unit, as `250ms` or `3s`.
fn duration(value: &str) -> Option<Duration> {
    let unit = value.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = value[..unit].parse().ok()?;
    match &value[unit..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
    .filter(|d| (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(d))
}

/// What a container's configuration asks for.
///
/// # Errors
/// 400 names what is wrong or not obeyed.
pub fn driver(log: &LogConfig) -> Result<Driver> {
    let driver = if log.kind.is_empty() { "json-file" } else { log.kind.as_str() };
    let mut options = Options { driver, left: log.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect() };
    let made = match driver {
        "none" => {
            // As with Docker, they mean nothing where nothing is logged.
            options.left.clear();
            Driver::None
        }
        "json-file" | "local" => {
            let files =
                options.files("max-size", "max-file", if driver == "local" { LOCAL_FILES } else { JSON_FILES })?;
            if driver == "json-file" {
                wanted(&mut options)?;
            }
            if options.flag("compress")? {
                return Err(Fault::refused("HostConfig.LogConfig.Config \"compress\""));
            }
            Driver::Kept(options.mode(files)?)
        }
        "journald" | "fluentd" | "syslog" | "gelf" => sent(driver, &mut options)?,
        known if KNOWN.contains(&known) => return Err(Fault::refused(&format!("logging driver {known:?}"))),
        other => return Err(Fault::bad(format!("logger: no log driver named '{other}' is registered"))),
    };
    options.done()?;
    Ok(made)
}

/// What is said with each line; only looked at here.
fn wanted(options: &mut Options<'_>) -> Result<()> {
    let _ = (options.take("labels"), options.take("env"));
    options.take("tag").map_or(Ok(()), tag::check)
}

fn sent(driver: &str, options: &mut Options<'_>) -> Result<Driver> {
    wanted(options)?;
    let files = options.files("cache-max-size", "cache-max-file", LOCAL_FILES)?;
    if options.flag("cache-compress")? {
        return Err(Fault::refused("HostConfig.LogConfig.Config \"cache-compress\""));
    }
    let shown = !options.flag("cache-disabled")?;
    let files = options.mode(files)?;
    debug_assert!(SENT.iter().all(|name| !options.left.contains_key(name)), "taken above");
    let route = match driver {
        "journald" => {
            let path = std::env::var_os(JOURNAL_VARIABLE).map_or_else(|| JOURNAL.into(), PathBuf::from);
            Route::to(Format::Journald, Address::Datagram(path))
        }
        "fluentd" => fluentd(options)?,
        "syslog" => syslog(options)?,
        _ => gelf(options)?,
    };
    Ok(Driver::Sent { files, shown, route })
}

impl Route {
    fn to(format: Format, address: Address) -> Self {
        Route { format, address, patient: false, write_limit: WRITE_LIMIT, retry: RETRY }
    }
}

fn fluentd(options: &mut Options<'_>) -> Result<Route> {
    let address = Address::parse("fluentd-address", options.take("fluentd-address").unwrap_or_default(), "tcp", 24224)?;
    if matches!(address, Address::Udp(_) | Address::Datagram(_)) {
        return Err(Fault::bad("fluentd-address is neither tcp:// nor unix://"));
    }
    let sub_second = options.flag("fluentd-sub-second-precision")?;
    let acknowledged = options.flag("fluentd-request-ack")?;
    let mut route = Route::to(Format::Fluentd { sub_second, acknowledged }, address);
    route.patient = options.flag("fluentd-async")?;
    route.write_limit = options.pause("fluentd-write-timeout", WRITE_LIMIT)?;
    route.retry = options.pause("fluentd-retry-wait", RETRY)?;
    Ok(route)
}

fn syslog(options: &mut Options<'_>) -> Result<Route> {
    let facility = options.parsed("syslog-facility", syslog::facility)?.unwrap_or(syslog::DAEMON);
    let shape = options.parsed("syslog-format", syslog::Shape::parse)?.unwrap_or(syslog::Shape::Local);
    let address = match options.take("syslog-address") {
        Some(text) => Address::parse("syslog-address", text, "", 514)?,
        None => {
            let there = SYSLOG.iter().find(|p| std::path::Path::new(p).exists()).unwrap_or(&SYSLOG[0]);
            Address::Datagram((*there).into())
        }
    };
    Ok(Route::to(Format::Syslog { facility, shape }, address))
}

fn gelf(options: &mut Options<'_>) -> Result<Route> {
    let Some(text) = options.take("gelf-address") else {
        return Err(Fault::bad("gelf-address is a required parameter"));
    };
    let address = Address::parse("gelf-address", text, "", 12201)?;
    let compression = options.parsed("gelf-compression-type", gelf::Packing::parse)?;
    let packing = match (&address, compression) {
        (Address::Udp(_), chosen) => chosen.unwrap_or(gelf::Packing::Gzip),
        (Address::Tcp(_), None) => gelf::Packing::Stream,
        (Address::Tcp(_), Some(_)) => return Err(Fault::bad("compression is only supported on UDP")),
        _ => return Err(Fault::bad("gelf: endpoint needs to be TCP or UDP")),
    };
    Ok(Route::to(Format::Gelf(packing), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, options: &[(&str, &str)]) -> std::result::Result<Driver, String> {
        let config = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        driver(&LogConfig { kind: kind.to_owned(), config }).map_err(|f| f.message)
    }

    fn route(kind: &str, options: &[(&str, &str)]) -> Route {
        match read(kind, options) {
            Ok(Driver::Sent { route, .. }) => route,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_have_limits() {
        assert_eq!(read("", &[]), Ok(Driver::Kept(JSON_FILES)));
        let small = Files { size: 1 << 20, count: 2 };
        assert_eq!(
            read("json-file", &[("max-size", "1m"), ("max-file", "2"), ("labels", "a,b")]),
            Ok(Driver::Kept(small))
        );
        let buffered = read("local", &[("mode", "non-blocking"), ("max-buffer-size", "30m")]);
        assert_eq!(buffered, Ok(Driver::Kept(Files { size: 30 << 20, count: 5 })));
        assert_eq!(read("none", &[("tag", "x")]), Ok(Driver::None));
        assert!(matches!(
            read("journald", &[("cache-max-size", "1m"), ("cache-max-file", "2"), ("cache-disabled", "true")]),
            Ok(Driver::Sent { files, shown: false, .. }) if files == small
        ));
    }

    #[test]
    fn servers_have_addresses() {
        let fluentd = route("fluentd", &[("fluentd-async", "true"), ("fluentd-write-timeout", "250ms")]);
        assert_eq!(fluentd.address, Address::Tcp("127.0.0.1:24224".into()));
        assert!(fluentd.patient && fluentd.write_limit == Duration::from_millis(250));
        let socket = route("fluentd", &[("fluentd-address", "unix:///run/fluent.sock")]);
        assert_eq!(socket.address, Address::Unix("/run/fluent.sock".into()));
        let far = route(
            "syslog",
            &[("syslog-address", "udp://logs"), ("syslog-facility", "local3"), ("syslog-format", "rfc5424")],
        );
        assert_eq!(far.address, Address::Udp("logs:514".into()));
        assert_eq!(far.format, Format::Syslog { facility: 19, shape: syslog::Shape::Rfc5424 });
        let gelf = route("gelf", &[("gelf-address", "tcp://graylog:1")]);
        assert_eq!(gelf.format, Format::Gelf(gelf::Packing::Stream));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (kind, options, words) in [
            ("nope", &[][..], "no log driver named 'nope' is registered"),
            ("splunk", &[], "logging driver \"splunk\" is not supported"),
            ("json-file", &[("color", "red")], "unknown log opt 'color' for json-file log driver"),
            ("local", &[("tag", "x")], "unknown log opt 'tag' for local log driver"),
            (
                "journald",
                &[("labels-regex", "x")],
                "\"labels-regex\" of the logging driver \"journald\" is not supported",
            ),
            ("json-file", &[("max-size", "much")], "invalid value \"much\" of log option max-size"),
            ("json-file", &[("max-buffer-size", "1m")], "only supported with 'mode=non-blocking'"),
            ("json-file", &[("compress", "true")], "\"compress\" is not supported"),
            ("json-file", &[("tag", "{{.Nope}}")], "{{.Nope}}"),
            ("fluentd", &[("fluentd-address", "tls://x:1")], "fluentd-address"),
            ("gelf", &[], "gelf-address is a required parameter"),
            ("gelf", &[("gelf-address", "tcp://x"), ("gelf-compression-type", "gzip")], "only supported on UDP"),
            ("syslog", &[("syslog-facility", "kitchen")], "syslog-facility"),
        ] {
            let message = read(kind, options).expect_err(kind);
            assert!(message.contains(words), "{message}");
        }
    }
}
