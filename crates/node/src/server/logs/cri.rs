//! The CRI log format: `<RFC3339Nano> stdout|stderr F|P <text>`, and how it is shown to a user. No IO here.

use std::ops::ControlFlow;

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;

/// Bytes of an entry kept while its end has not come; the rest of a longer one is lost.
const LINE_MAX: usize = 1 << 20;
/// Time stamp, stream and tag of an entry are never longer.
pub const HEAD_MAX: usize = 128;

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Which {
    /// Both.
    #[default]
    All,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Which {
    /// Whether entries of a stream are wanted.
    pub fn wants(self, stderr: bool) -> bool {
        match self {
            Which::All => true,
            Which::Stdout => !stderr,
            Which::Stderr => stderr,
        }
    }
}

/// The beginning of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// When it was written, as written.
    pub time: &'a str,
    /// It is of standard error.
    pub stderr: bool,
    /// It ends its line.
    pub full: bool,
    /// Where the text begins.
    pub text: usize,
}

/// Reads the beginning of an entry; `None` if it is none.
pub fn head(line: &[u8]) -> Option<Head<'_>> {
    let mut at = 0;
    let mut word = || {
        let rest = &line[at..];
        let end = rest.iter().take(HEAD_MAX).position(|&b| b == b' ')?;
        at += end + 1;
        std::str::from_utf8(&rest[..end]).ok()
    };
    let time = word()?;
    let stderr = match word()? {
        "stdout" => false,
        "stderr" => true,
        _ => return None,
    };
    // Further tags may follow behind colons.
    let full = match word()?.split(':').next() {
        Some("F") => true,
        Some("P") => false,
        _ => return None,
    };
    Some(Head { time, stderr, full, text: at })
}

/// Turns entries into what the user sees, however the bytes are cut.
#[derive(Debug)]
pub struct Formatter {
    /// Streams wanted.
    which: Which,
    /// Entries before are left out.
    since: Option<Timestamp>,
    /// Begin lines with their time.
    timestamps: bool,
    /// Bytes still to be given out.
    limit: Option<u64>,
    /// The beginning of an entry whose end has not come.
    carry: Vec<u8>,
    /// The entry was too long: its rest is passed over.
    skipping: bool,
    /// Within a line, by stream.
    within: [bool; 2],
}

impl Formatter {
    /// For one request.
    pub fn new(which: Which, since: Option<Timestamp>, timestamps: bool, limit: Option<u64>) -> Self {
        Formatter { which, since, timestamps, limit, carry: Vec::new(), skipping: false, within: [false; 2] }
    }

    /// Takes the next bytes of the log; breaks when the limit is reached.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut BytesMut) -> ControlFlow<()> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                self.carry.clear();
            } else if self.carry.is_empty() {
                self.entry(line, out)?;
            } else {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(line);
                let flow = self.entry(&whole, out);
                whole.clear();
                self.carry = whole;
                flow?;
            }
        }
        if self.carry.len() + bytes.len() > LINE_MAX {
            self.skipping = true;
            self.carry = Vec::new();
        }
        if !self.skipping {
            self.carry.extend_from_slice(bytes);
        }
        ControlFlow::Continue(())
    }

    /// The file is at its end: an entry without one is not coming any more.
    pub fn end_of_file(&mut self) {
        self.carry.clear();
        self.skipping = false;
    }

    fn entry(&mut self, line: &[u8], out: &mut BytesMut) -> ControlFlow<()> {
        let Some(head) = head(line).filter(|head| self.which.wants(head.stderr)) else {
            return ControlFlow::Continue(());
        };
        if self.since.is_some_and(|since| head.time.parse::<Timestamp>().is_ok_and(|time| time < since)) {
            return ControlFlow::Continue(());
        }
        let within = &mut self.within[usize::from(head.stderr)];
        let first = !std::mem::replace(within, !head.full);
        if first && self.timestamps {
            self.give(head.time.as_bytes(), out)?;
            self.give(b" ", out)?;
        }
        self.give(&line[head.text..], out)?;
        if head.full { self.give(b"\n", out) } else { ControlFlow::Continue(()) }
    }

    fn give(&mut self, bytes: &[u8], out: &mut BytesMut) -> ControlFlow<()> {
        let Some(left) = &mut self.limit else {
            out.put_slice(bytes);
            return ControlFlow::Continue(());
        };
        let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        out.put_slice(&bytes[..length]);
        *left -= length as u64;
        if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
