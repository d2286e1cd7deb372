//! The way to a log server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::time::timeout;

use super::options::Route;
use super::{Entry, Facts};
use crate::fault::{Fault, Result};

/// How long a server may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);

/// Where lines are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A stream to `HOST:PORT`.
    Tcp(String),
    /// Datagrams to `HOST:PORT`.
    Udp(String),
    /// A stream to a socket of this host.
    Unix(PathBuf),
    /// Datagrams to one.
    Datagram(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(to) => write!(f, "tcp {to}"),
            Address::Udp(to) => write!(f, "udp {to}"),
            Address::Unix(path) => write!(f, "unix {}", path.display()),
            Address::Datagram(path) => write!(f, "unixgram {}", path.display()),
        }
    }
}

impl Address {
    /// An address with a scheme, or of the scheme `otherwise`.
    ///
    /// # Errors
    /// 400 for one that is none, or of a scheme that is not spoken.
    pub fn parse(option: &str, text: &str, otherwise: &str, port: u16) -> Result<Self> {
        let wrong = |why: &str| Fault::bad(format!("invalid {option} {text:?}: {why}"));
        let (scheme, rest) = text.split_once("://").unwrap_or((otherwise, text));
        match scheme {
            "tcp" | "udp" => {
                let rest = rest.trim_end_matches('/');
                if rest.contains(['/', '@', ' ', '?', '#']) {
                    return Err(wrong("it has a path"));
                }
                let host = match rest.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')) {
                    // The colons of an IPv6 address are in brackets.
                    _ if rest.ends_with(']') => format!("{rest}:{port}"),
                    Some((_, number)) if number.parse::<u16>().is_err() => return Err(wrong("its port is no number")),
                    Some(("", number)) => format!("127.0.0.1:{number}"),
                    Some(_) => rest.to_owned(),
                    None if rest.is_empty() => format!("127.0.0.1:{port}"),
                    None => format!("{rest}:{port}"),
                };
                Ok(if scheme == "tcp" { Address::Tcp(host) } else { Address::Udp(host) })
            }
            "unix" | "unixgram" if rest.starts_with('/') => {
                let path = PathBuf::from(rest);
                Ok(if scheme == "unix" { Address::Unix(path) } else { Address::Datagram(path) })
            }
            "unix" | "unixgram" => Err(wrong("the path of a socket is absolute")),
            "tls" | "tcp+tls" => Err(Fault::refused(&format!("TLS in {option}"))),
            _ => Err(wrong("its scheme is none of tcp, udp, unix and unixgram")),
        }
    }
}

/// A way to a server, once it is there.
#[derive(Debug)]
pub enum Line {
    Tcp(TcpStream),
    Unix(UnixStream),
    Udp(UdpSocket),
    Datagram(UnixDatagram),
}

fn late() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

impl Line {
    /// Goes to a server.
    pub async fn open(address: &Address) -> io::Result<Line> {
        timeout(CONNECT, Line::connect(address)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(address: &Address) -> io::Result<Line> {
        Ok(match address {
            Address::Tcp(to) => Line::Tcp(TcpStream::connect(to).await?),
            Address::Unix(path) => Line::Unix(UnixStream::connect(path).await?),
            Address::Udp(to) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for to in tokio::net::lookup_host(to).await? {
                    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(from).await?;
                    match socket.connect(to).await {
                        Ok(()) => return Ok(Line::Udp(socket)),
                        Err(error) => last = error,
                    }
                }
                return Err(last);
            }
            Address::Datagram(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Line::Datagram(socket)
            }
        })
    }

    /// Whether the other side has gone: what is written then is lost without a word.
    fn closed(&self) -> bool {
        let mut some = [0; 512];
        let read = match self {
            Line::Tcp(stream) => stream.try_read(&mut some),
            Line::Unix(stream) => stream.try_read(&mut some),
            Line::Udp(_) | Line::Datagram(_) => return false,
        };
        match read {
            Ok(n) => n == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Line::Tcp(stream) => stream.write_all(bytes).await,
            Line::Unix(stream) => stream.write_all(bytes).await,
            Line::Udp(socket) => socket.send(bytes).await.map(drop),
            Line::Datagram(socket) => socket.send(bytes).await.map(drop),
        }
    }

    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Line::Tcp(stream) => stream.read_exact(bytes).await.map(drop),
            Line::Unix(stream) => stream.read_exact(bytes).await.map(drop),
            Line::Udp(_) | Line::Datagram(_) => Ok(()),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Line::Tcp(_) | Line::Unix(_))
    }
}

/// Sends lines, over a way that it opens when it needs it.
pub struct Sender {
    route: Route,
    facts: Facts,
    line: Option<Line>,
}

impl Sender {
    /// To where a route leads.
    pub fn new(route: Route, facts: Facts) -> Self {
        Sender { route, facts, line: None }
    }

    /// Sends lines in their order; how many were taken, and what stopped it.
    pub async fn send(&mut self, entries: &[Entry]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        let result = self.pass(entries, &mut taken).await;
        if result.is_err() {
            self.line = None;
        }
        (taken, result)
    }

    async fn pass(&mut self, entries: &[Entry], taken: &mut usize) -> io::Result<()> {
        let mut line = match self.line.take().filter(|line| !line.closed()) {
            Some(line) => line,
            None => Line::open(&self.route.address).await?,
        };
        let messages: Vec<_> = entries.iter().map(|e| self.route.format.encode(&self.facts, e)).collect();
        let limit = self.route.write_limit;
        if line.is_stream() {
            // One write: a line of its own each would be a packet each.
            let all: Vec<u8> = messages.iter().flat_map(|m| m.packets.concat()).collect();
            timeout(limit, line.write(&all)).await.unwrap_or_else(|_| Err(late()))?;
            for message in &messages {
                let Some(wanted) = &message.answer else { continue };
                let mut said = vec![0; wanted.len()];
                timeout(limit, line.read(&mut said)).await.unwrap_or_else(|_| Err(late()))?;
                if said != *wanted {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "not what acknowledges the line"));
                }
                *taken += 1;
            }
        } else {
            for packets in messages.iter().map(|m| &m.packets) {
                for packet in packets {
                    timeout(limit, line.write(packet)).await.unwrap_or_else(|_| Err(late()))?;
                }
                *taken += 1;
            }
        }
        *taken = entries.len();
        self.line = Some(line);
        Ok(())
    }
}
