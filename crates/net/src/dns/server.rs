//! The listeners.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Answer, UDP_MAX};
use super::cache::Said;
use super::forward::{Forwarder, Upstreams};
use super::zones::Zones;
use crate::NetError;
use crate::sys::netns::within;
use crate::sys::nft;

/// Questions that wait for a resolver at one time; more are answered with SERVFAIL, which clients retry.
const FORWARDS_MAX: usize = 1024;
const TCP_MAX: usize = 256;
/// How often a port that is free for both UDP and TCP is looked for.
const PICKS_MAX: u32 = 64;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Connections refused by the kernel (no descriptors) are tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How much was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Requests taken.
    pub queries: u64,
    /// Of these, asked of a resolver or its cache.
    pub forwarded: u64,
    /// Forwarded ones that nobody answered, or that were too many.
    pub failed: u64,
}

/// A DNS server. Dropping it closes its sockets.
pub struct DnsServer {
    shared: Arc<Shared>,
    sockets: Mutex<Vec<(UdpSocket, TcpListener)>>,
    addresses: Vec<SocketAddr>,
}

struct Shared {
    zones: ArcSwap<Zones>,
    forwarder: Forwarder,
    forwards: Arc<Semaphore>,
    turn: AtomicUsize,
    queries: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
}

impl DnsServer {
    /// Binds UDP and TCP on these addresses, and on no others. Port 0 picks one, the same for both.
    ///
    /// # Errors
    /// When an address is not there or taken.
    pub async fn bind(listen: &[SocketAddr], upstreams: Upstreams) -> Result<Self, NetError> {
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for address in listen {
            let (udp, tcp) = bind_pair(*address).await.map_err(|source| NetError::DnsBind {
                addr: match address.ip() {
                    IpAddr::V4(ip) => ip,
                    IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
                },
                port: address.port(),
                source,
            })?;
            addresses.push(udp.local_addr().unwrap_or(*address));
            sockets.push((udp, tcp));
        }
        Ok(Self::of(sockets, addresses, upstreams))
    }

    /// Answers at port 53 of an address of the loopback in the network namespace pinned at `netns`. The listener has a port of
    /// its own, to which the namespace redirects: a program in it may have port 53 of every address. Done again, by a process
    /// that comes after this one, it takes the place of what was there.
    ///
    /// # Errors
    /// When the namespace is gone or takes no rules.
    pub async fn bind_in(netns: &Path, address: Ipv4Addr, upstreams: Upstreams) -> Result<Self, NetError> {
        let path = netns.to_owned();
        let bound = move || within(&path, move || std_pair(address));
        let (udp, tcp) = tokio::task::spawn_blocking(bound)
            .await
            .map_err(|_| NetError::WorkerLost)??
            .and_then(|(udp, tcp)| Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?)))
            .map_err(|source| NetError::DnsBind { addr: address, port: 0, source })?;
        let port = |a: io::Result<SocketAddr>| a.map_or(0, |a| a.port());
        nft::apply_in(netns, &redirect(address, port(udp.local_addr()), port(tcp.local_addr()))).await?;
        Ok(Self::of(vec![(udp, tcp)], vec![SocketAddr::new(IpAddr::V4(address), 53)], upstreams))
    }

    fn of(sockets: Vec<(UdpSocket, TcpListener)>, addresses: Vec<SocketAddr>, upstreams: Upstreams) -> Self {
        let shared = Arc::new(Shared {
            zones: ArcSwap::from_pointee(Zones::default()),
            forwarder: Forwarder::new(upstreams, addresses.clone()),
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
            turn: AtomicUsize::new(0),
            queries: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        DnsServer { shared, sockets: Mutex::new(sockets), addresses }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Replaces all zones at once. Before the first call every cluster name is asked of the resolvers, so call it before
    /// [`DnsServer::serve`].
    pub fn set_zones(&self, zones: Zones) {
        self.shared.zones.store(Arc::new(zones));
    }

    /// The serial of the zones in force.
    pub fn serial(&self) -> u32 {
        self.shared.zones.load().serial()
    }

    /// What was asked until now.
    pub fn stats(&self) -> DnsStats {
        DnsStats {
            queries: self.shared.queries.load(Ordering::Relaxed),
            forwarded: self.shared.forwarded.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    /// Answers until drained. Only the first call does anything.
    pub async fn serve(&self, drain: CancellationToken) {
        let sockets = std::mem::take(&mut *self.sockets.lock());
        let mut tasks = JoinSet::new();
        for (udp, tcp) in sockets {
            tasks.spawn(serve_udp(Arc::new(udp), self.shared.clone()));
            tasks.spawn(serve_tcp(tcp, self.shared.clone()));
        }
        // Dropping the set ends the listeners and, with them, what they started.
        tokio::select! {
            () = drain.cancelled() => {}
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
    }
}

/// Sockets of the namespace that this thread is in, for the runtime.
fn std_pair(address: Ipv4Addr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let (udp, tcp) = (std::net::UdpSocket::bind((address, 0))?, std::net::TcpListener::bind((address, 0))?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// Rules that lead port 53 of the address to these ports of it.
fn redirect(address: Ipv4Addr, udp: u16, tcp: u16) -> String {
    let table = "windlass_dns";
    format!(
        "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain output {{\n    \
         type nat hook output priority -100; policy accept;\n    \
         ip daddr {address} udp dport 53 dnat to {address}:{udp}\n    \
         ip daddr {address} tcp dport 53 dnat to {address}:{tcp}\n  }}\n}}\n"
    )
}

/// With port 0 the kernel picks the port for UDP alone; where a TCP socket already has that one, another is picked.
async fn bind_pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut left = if address.port() == 0 { PICKS_MAX } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).await?;
        left -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        while waiting.try_join_next().is_some() {}
        // Errors here are those of earlier sends (ICMP) or a lack of memory: neither ends the service.
        let Ok((n, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(request) = Message::from_vec(&buffer[..n]) else { continue };
        let max = usize::from(request.max_payload().min(UDP_MAX));
        match shared.begin(&request) {
            Begun::Nothing => {}
            Begun::Reply(reply) => send_udp(&socket, &reply, max, client).await,
            Begun::Wait(ask) => {
                let (socket, shared) = (socket.clone(), shared.clone());
                waiting.spawn(async move {
                    let reply = shared.finish(ask).await;
                    send_udp(&socket, &reply, max, client).await;
                });
            }
        }
    }
}

async fn send_udp(socket: &UdpSocket, reply: &Message, max: usize, client: SocketAddr) {
    let Some(bytes) = answer::encode(reply, max) else { return };
    if let Err(error) = socket.send_to(&bytes, client).await {
        tracing::debug!(%client, %error, "cannot send a DNS answer");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(TCP_MAX));
    let mut connections = JoinSet::new();
    while let Ok(slot) = slots.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    if let Err(error) = serve_stream(stream, &shared).await {
                        tracing::debug!(%client, %error, "DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let mut buffer = Vec::new();
    loop {
        let length = match timeout(TCP_IDLE, stream.read_u16()).await.map_err(late)? {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        buffer.resize(usize::from(length), 0);
        timeout(TCP_IDLE, stream.read_exact(&mut buffer)).await.map_err(late)??;
        let request = Message::from_vec(&buffer).map_err(io::Error::other)?;
        let reply = match shared.begin(&request) {
            Begun::Nothing => return Ok(()),
            Begun::Reply(reply) => reply,
            Begun::Wait(ask) => shared.finish(ask).await,
        };
        let Some(bytes) = answer::encode(&reply, usize::from(u16::MAX)) else { return Ok(()) };
        let framed = [&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat();
        timeout(TCP_IDLE, stream.write_all(&framed)).await.map_err(late)??;
    }
}

/// A request after the part that needs no waiting.
enum Begun {
    Nothing,
    Reply(Box<Message>),
    Wait(Box<Ask>),
}

/// A request that a resolver has to complete.
struct Ask {
    reply: Box<Message>,
    name: hickory_proto::rr::Name,
    kind: hickory_proto::rr::RecordType,
    dnssec_ok: bool,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Shared {
    fn begin(&self, request: &Message) -> Begun {
        self.queries.fetch_add(1, Ordering::Relaxed);
        match answer::answer(&self.zones.load(), request) {
            Answer::Drop => Begun::Nothing,
            Answer::Done(mut reply) => {
                // Of questions that have a choice of answers only: clients ask for IPv6 addresses too, each time.
                if reply.answers.len() > 1 {
                    answer::rotate(&mut reply, self.turn.fetch_add(1, Ordering::Relaxed));
                }
                Begun::Reply(reply)
            }
            Answer::Ask { mut reply, name, kind } => {
                self.forwarded.fetch_add(1, Ordering::Relaxed);
                let Ok(permit) = self.forwards.clone().try_acquire_owned() else {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    reply.metadata.response_code = ResponseCode::ServFail;
                    return Begun::Reply(reply);
                };
                let dnssec_ok = request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
                Begun::Wait(Box::new(Ask { reply, name, kind, dnssec_ok, _permit: permit }))
            }
        }
    }

    async fn finish(&self, ask: Box<Ask>) -> Box<Message> {
        let Ask { mut reply, name, kind, dnssec_ok, _permit } = *ask;
        match self.forwarder.ask(&name, kind, dnssec_ok).await {
            Some((said, age_s)) => add(&mut reply, &said, age_s),
            None => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                reply.metadata.response_code = ResponseCode::ServFail;
            }
        }
        reply
    }
}

/// Adds a resolver's answer, aged.
fn add(reply: &mut Message, said: &Said, age_s: u32) {
    let aged = |records: &[Record]| {
        records
            .iter()
            .cloned()
            .map(move |mut record| {
                record.ttl = record.ttl.saturating_sub(age_s);
                record
            })
            .collect::<Vec<_>>()
    };
    reply.metadata.response_code = said.code;
    // What a resolver said is not authoritative, but the alias of ours before it makes no difference to clients.
    reply.metadata.authoritative = false;
    reply.answers.extend(aged(&said.answers));
    reply.authorities.extend(aged(&said.authorities));
}

#[cfg(test)]
mod tests;
