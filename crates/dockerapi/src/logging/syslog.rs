//! Lines for syslog: as BSD's (RFC 3164) and the newer form (RFC 5424). Times are UTC.

use super::{Entry, Facts};

/// The facility of lines unless said.
pub const DAEMON: u8 = 3;
const INFO: u8 = 6;
const ERR: u8 = 3;
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// A facility by its name or number.
pub fn facility(text: &str) -> Option<u8> {
    let by_name = FACILITIES.iter().position(|f| *f == text && !f.is_empty());
    let number = by_name.or_else(|| text.parse().ok().filter(|n| *n < FACILITIES.len()))?;
    u8::try_from(number).ok()
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As to the host's own: without its name.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, times to the second.
    Rfc5424,
    /// The same, to the microsecond.
    Rfc5424Micro,
}

impl Shape {
    /// By the name that the option has.
    pub fn parse(text: &str) -> Option<Shape> {
        match text {
            "" => Some(Shape::Local),
            "rfc3164" => Some(Shape::Rfc3164),
            "rfc5424" => Some(Shape::Rfc5424),
            "rfc5424micro" => Some(Shape::Rfc5424Micro),
            _ => None,
        }
    }
}

/// One line.
pub fn encode(facts: &Facts, entry: &Entry, facility: u8, shape: Shape) -> Vec<u8> {
    let priority = facility * 8 + if entry.stderr { ERR } else { INFO };
    let (tag, host, pid) = (&facts.tag, &facts.host, std::process::id());
    let bsd = entry.time.strftime("%b %e %H:%M:%S");
    let head = match shape {
        Shape::Local => format!("<{priority}>{bsd} {tag}[{pid}]: "),
        Shape::Rfc3164 => format!("<{priority}>{bsd} {host} {tag}[{pid}]: "),
        Shape::Rfc5424 => format!("<{priority}>1 {:.0} {host} {tag} {pid} {tag} - ", entry.time),
        Shape::Rfc5424Micro => format!("<{priority}>1 {:.6} {host} {tag} {pid} {tag} - ", entry.time),
    };
    [head.as_bytes(), &entry.text, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::sample;

    #[test]
    fn lines_have_the_shape_that_was_asked_for() {
        let (facts, mut entry) = sample();
        let pid = std::process::id();
        let said = |entry: &Entry, shape| String::from_utf8(encode(&facts, entry, 1, shape)).unwrap();
        assert_eq!(said(&entry, Shape::Local), format!("<14>Jan  2 03:04:05 0123456789ab[{pid}]: a line\n"));
        assert_eq!(said(&entry, Shape::Rfc3164), format!("<14>Jan  2 03:04:05 here 0123456789ab[{pid}]: a line\n"));
        entry.stderr = true;
        let new = format!("<11>1 2024-01-02T03:04:05Z here 0123456789ab {pid} 0123456789ab - a line\n");
        assert_eq!(said(&entry, Shape::Rfc5424), new);
        assert!(said(&entry, Shape::Rfc5424Micro).contains("05.000000Z"));
        assert_eq!([facility("local7"), facility("4"), facility("99"), facility("")], [Some(23), Some(4), None, None]);
    }
}
