//! Where the lines of containers go besides their own files (Docker's log drivers).
//!
//! ```text
//! container ── shim ── container.log, rotated ── ship ── journald, fluentd, syslog, gelf
//!                              └── docker logs
//! ```
//!
//! Every line is first in the container's files, whose size is bounded; a task of the agent reads them and sends them on, and puts
//! down how far it is. So a killed agent loses nothing, a server that is away holds nobody up, and `docker logs` works with all
//! drivers. What the rotation takes away before it could be sent is lost, and said in the agent's log.

mod fluentd;
mod gelf;
mod journald;
mod options;
mod reader;
mod ship;
mod syslog;
mod tag;
mod transport;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use options::{Driver, driver};
pub use ship::{Shipping, begin, finish, reach};
pub use tag::attributes;

use crate::containers::record::Record;

/// Names of the drivers, for `docker info`.
pub const DRIVERS: [&str; 6] = ["fluentd", "gelf", "journald", "json-file", "local", "syslog"];

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was read.
    pub time: Timestamp,
    /// From standard error.
    pub stderr: bool,
    /// Without the line's end.
    pub text: Vec<u8>,
    /// Of a line that was cut: which one, and the place of this part in it.
    pub part: Option<Part>,
}

/// A part of a line that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The same for all parts of a line.
    pub id: String,
    /// From 1.
    pub ordinal: u32,
    /// The line ends with it.
    pub last: bool,
}

/// What is said of the container with each line.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// 64 digits.
    pub id: String,
    /// Without the slash.
    pub name: String,
    /// As the user named it.
    pub image: String,
    /// Its digest.
    pub image_id: String,
    /// Program and arguments.
    pub command: String,
    /// Milliseconds since the epoch.
    pub created_ms: i64,
    /// The host.
    pub host: String,
    /// What the lines are called.
    pub tag: String,
    /// Labels and variables that are wanted.
    pub attributes: BTreeMap<String, String>,
}

impl Facts {
    fn of(record: &Record) -> Self {
        let host = nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        Facts {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.clone(),
            image_id: record.image_id.clone(),
            command: record.argv.join(" "),
            created_ms: record.created_ms,
            host,
            tag: tag::tag(record),
            attributes: attributes(record),
        }
    }

    fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// How lines are written for those who take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// journald's native protocol.
    Journald,
    /// Fluentd's forward protocol.
    Fluentd {
        /// Times with nanoseconds.
        sub_second: bool,
        /// The server is to acknowledge each.
        acknowledged: bool,
    },
    /// BSD or RFC 5424.
    Syslog {
        /// Times 8 in the priority.
        facility: u8,
        /// Which one.
        shape: syslog::Shape,
    },
    /// Graylog's.
    Gelf(gelf::Packing),
}

/// What one line is on its way, and what is to come back for it.
struct Message {
    packets: Vec<Vec<u8>>,
    answer: Option<Vec<u8>>,
}

impl Format {
    fn encode(&self, facts: &Facts, entry: &Entry) -> Message {
        let plain = |bytes| Message { packets: vec![bytes], answer: None };
        match self {
            Format::Journald => plain(journald::encode(facts, entry)),
            Format::Fluentd { sub_second, acknowledged } => {
                let chunk = acknowledged.then(fluentd::chunk);
                let bytes = fluentd::encode(facts, entry, *sub_second, chunk.as_deref());
                Message { packets: vec![bytes], answer: chunk.map(|c| fluentd::acknowledgement(&c)) }
            }
            Format::Syslog { facility, shape } => plain(syslog::encode(facts, entry, *facility, *shape)),
            Format::Gelf(packing) => Message { packets: gelf::encode(facts, entry, *packing), answer: None },
        }
    }
}

#[cfg(test)]
fn sample() -> (Facts, Entry) {
    let facts = Facts {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        image: "shop:1".into(),
        image_id: "sha256:aa".into(),
        command: "run it".into(),
        host: "here".into(),
        tag: "0123456789ab".into(),
        attributes: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
        ..Facts::default()
    };
    let time = "2024-01-02T03:04:05.000000006Z".parse().unwrap();
    (facts, Entry { time, stderr: false, text: b"a line".to_vec(), part: None })
}
