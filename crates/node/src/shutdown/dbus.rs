//! The few messages of D-Bus that logind needs: calls with words and numbers, answers with a descriptor, one signal (D-Bus
//! Specification, "Message Protocol" and "Authentication Protocol"). A library for all of it would be the largest of the agent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Largest message that is taken; those of logind have some hundred bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// Signals that wait while a call waits for its answer.
const SIGNALS_MAX: usize = 16;
/// Descriptors that came with messages not yet read.
const DESCRIPTORS_MAX: usize = 16;
/// Longest line of the authentication.
const LINE_MAX: usize = 512;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Where a call goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) service: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
}

/// An argument.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word<'a> {
    Text(&'a str),
    Number(i32),
}

/// A message, as far as anybody asks.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    #[cfg_attr(not(test), expect(dead_code, reason = "a bus answers by it, and only tests have one"))]
    pub(super) serial: u32,
    pub(super) reply_to: Option<u32>,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
    pub(super) descriptors: VecDeque<OwnedFd>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("message of D-Bus: {why}"))
}

/// Writes values in the order and alignment of the wire, little-endian.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn number(&mut self, n: u32) {
        self.align(4);
        self.0.extend(n.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
}

/// Reads values of a message; every step is checked against its end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    fn take(&mut self, n: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).ok_or_else(|| invalid("too short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| invalid("too short"))?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn long(&mut self) -> io::Result<u64> {
        self.align(8);
        let bytes = self.take(8)?.try_into().map_err(|_| invalid("too short"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn words(&mut self, length: usize) -> io::Result<String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| invalid("not UTF-8"))?.to_owned();
        self.take(1)?;
        Ok(text)
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        let length = self.number()?;
        self.words(usize::try_from(length).map_err(|_| invalid("too long"))?)
    }

    pub(super) fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()?;
        self.words(usize::from(length))
    }
}

/// The message at the beginning of `bytes`, with its length, once it is there as a whole.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(Message, usize, usize)>> {
    const FIXED: usize = 16;
    if bytes.len() < FIXED {
        return Ok(None);
    }
    if bytes[0] != b'l' {
        return Err(invalid("not little-endian"));
    }
    let mut head = Reader::new(bytes);
    head.take(4)?;
    let (body, serial, fields) = (head.number()?, head.number()?, head.number()?);
    let length = |n: u32| usize::try_from(n).ok().filter(|n| *n <= MESSAGE_MAX).ok_or_else(|| invalid("too long"));
    let (body, fields) = (length(body)?, length(fields)?);
    let start = (FIXED + fields).next_multiple_of(8);
    if bytes.len() < start + body {
        return Ok(None);
    }
    let mut message = Message { kind: bytes[1], serial, ..Message::default() };
    let mut attached = 0;
    let mut r = Reader { bytes: &bytes[..FIXED + fields], at: FIXED };
    while r.at < FIXED + fields {
        r.align(8);
        let code = r.byte()?;
        let kind = r.signature()?;
        match (code, kind.as_str()) {
            (3, "s") => message.member = r.text()?,
            (4, "s") => message.error = r.text()?,
            (5, "u") => message.reply_to = Some(r.number()?),
            (8, "g") => message.signature = r.signature()?,
            (9, "u") => attached = length(r.number()?)?,
            (_, "s" | "o") => drop(r.text()?),
            (_, "u") => drop(r.number()?),
            (_, "g") => drop(r.signature()?),
            _ => return Err(invalid("a field of an unknown type")),
        }
    }
    message.body = bytes[start..start + body].to_vec();
    Ok(Some((message, start + body, attached)))
}

/// A message as it is sent: `fields` are pairs of a field's code and its text, of which code 1 is a path.
pub(super) fn encode(
    kind: u8,
    serial: u32,
    fields: &[(u8, &str)],
    more: &[(u8, u32)],
    sig: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut array = Writer::default();
    for (code, text) in fields {
        array.align(8);
        array.0.push(*code);
        array.signature(if *code == 1 { "o" } else { "s" });
        array.text(text);
    }
    for (code, number) in more {
        array.align(8);
        array.0.push(*code);
        array.signature("u");
        array.number(*number);
    }
    if !sig.is_empty() {
        array.align(8);
        array.0.push(8);
        array.signature("g");
        array.signature(sig);
    }
    let mut w = Writer(vec![b'l', kind, 0, 1]);
    w.number(u32::try_from(body.len()).unwrap_or(u32::MAX));
    w.number(serial);
    w.number(u32::try_from(array.0.len()).unwrap_or(u32::MAX));
    w.0.extend(array.0);
    w.align(8);
    w.0.extend(body);
    w.0
}

/// A connection to a bus.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    read: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects to the bus that listens at `path`, as the user of this process.
    ///
    /// # Errors
    /// There is no bus, or it does not take us.
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let (read, descriptors, signals) = (Vec::new(), VecDeque::new(), VecDeque::new());
        let mut bus = Bus { stream, serial: 0, read, descriptors, signals };
        let user: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        bus.say(&format!("\0AUTH EXTERNAL {user}\r\n"), "OK ").await?;
        bus.say("NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD").await?;
        bus.stream.write_all(b"BEGIN\r\n").await?;
        let own = "org.freedesktop.DBus";
        bus.call(Target { service: own, path: "/org/freedesktop/DBus", interface: own }, "Hello", &[]).await?;
        Ok(bus)
    }

    async fn say(&mut self, line: &str, expected: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            if answer.len() > LINE_MAX {
                return Err(invalid("the line is too long"));
            }
            answer.push(self.stream.read_u8().await?);
        }
        match answer.starts_with(expected.as_bytes()) {
            true => Ok(()),
            false => Err(invalid(String::from_utf8_lossy(&answer).trim())),
        }
    }

    /// Has signals of that kind sent to us.
    pub(super) async fn subscribe(&mut self, from: Target<'_>, member: &str) -> io::Result<()> {
        let Target { service, path, interface } = from;
        let rule = format!("type='signal',sender='{service}',path='{path}',interface='{interface}',member='{member}'");
        let own = "org.freedesktop.DBus";
        let bus = Target { service: own, path: "/org/freedesktop/DBus", interface: own };
        self.call(bus, "AddMatch", &[Word::Text(&rule)]).await.map(drop)
    }

    /// Calls and waits for the answer.
    ///
    /// # Errors
    /// The connection's, or what the other side says went wrong.
    pub(super) async fn call(&mut self, to: Target<'_>, member: &str, words: &[Word<'_>]) -> io::Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        let (mut body, mut signature) = (Writer::default(), String::new());
        for word in words {
            match word {
                Word::Text(text) => {
                    body.text(text);
                    signature.push('s');
                }
                Word::Number(n) => {
                    body.number(n.cast_unsigned());
                    signature.push('i');
                }
            }
        }
        let fields = [(1, to.path), (2, to.interface), (3, member), (6, to.service)];
        self.stream.write_all(&encode(CALL, serial, &fields, &[], &signature, &body.0)).await?;
        loop {
            let message = self.next().await?;
            match message.kind {
                RETURN if message.reply_to == Some(serial) => return Ok(message),
                ERROR if message.reply_to == Some(serial) => {
                    let text = Reader::new(&message.body).text().unwrap_or_default();
                    return Err(io::Error::other(format!("{member}: {}: {text}", message.error)));
                }
                SIGNAL if self.signals.len() < SIGNALS_MAX => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal of that name.
    pub(super) async fn signal(&mut self, member: &str) -> io::Result<Message> {
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.next().await?,
            };
            if message.kind == SIGNAL && message.member == member {
                return Ok(message);
            }
        }
    }

    async fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some((mut message, length, attached)) = parse(&self.read)? {
                self.read.drain(..length);
                if attached > self.descriptors.len() {
                    return Err(invalid("a descriptor is missing"));
                }
                message.descriptors = self.descriptors.drain(..attached).collect();
                return Ok(message);
            }
            let mut part = [0u8; 4096];
            self.stream.readable().await?;
            let stream = &self.stream;
            let got = stream.try_io(Interest::READABLE, || engine::read_with_descriptors(stream.as_fd(), &mut part));
            match got {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((n, descriptors)) => {
                    self.read.extend(&part[..n]);
                    self.descriptors.extend(descriptors);
                    if self.read.len() > 2 * MESSAGE_MAX || self.descriptors.len() > DESCRIPTORS_MAX {
                        return Err(invalid("too long"));
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut body = Writer::default();
        body.text("shutdown");
        body.number(7);
        let bytes = encode(SIGNAL, 9, &[(1, "/a"), (2, "b.c"), (3, "Member")], &[(9, 2)], "su", &body.0);
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).expect("not wrong yet").is_none(), "{cut}");
        }
        let (m, length, attached) = parse(&bytes).expect("a message").expect("whole");
        assert_eq!((m.kind, m.serial, m.member.as_str(), m.signature.as_str()), (SIGNAL, 9, "Member", "su"));
        assert_eq!((length, attached), (bytes.len(), 2));
        let mut r = Reader::new(&m.body);
        assert_eq!((r.text().expect("text"), r.number().expect("number")), ("shutdown".to_owned(), 7));
        assert!(r.number().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = b'l';
            }
            for at in 4..bytes.len().min(16) {
                bytes[at] &= if at % 4 == 0 { 0x3f } else { 0 };
            }
            let _ = parse(&bytes);
        }
    }
}
