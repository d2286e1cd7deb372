//! Questions about the rest of the world, asked of the host's resolvers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::UDP_MAX;
use super::cache::{Cache, Question, Said};

/// How long one resolver may take. Clients give up after five seconds, and two of these fit in. The tests count
/// questions, and a machine that stalls for two seconds must not make one of them be asked again.
const TRY_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(60) } else { Duration::from_millis(1900) };
/// How many times any resolver is asked for one question.
const TRIES_MAX: usize = 3;
/// As many as libc takes from resolv.conf.
const UPSTREAMS_MAX: usize = 3;
const CACHE_ENTRIES: usize = 8192;
/// How often resolv.conf is looked at, and only when there is a question.
const RESOLV_CONF_AGE: Duration = Duration::from_secs(5);

/// Who answers for other names.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// The resolvers of this file, `/etc/resolv.conf`; it is read again when it changes.
    ResolvConf(PathBuf),
    /// These.
    Fixed(Vec<SocketAddr>),
}

/// The way out.
pub(crate) struct Forwarder {
    upstreams: Upstreams,
    /// Addresses on which we answer: asking them would be asking ourselves.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Known {
    looked_at: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    pub fn new(upstreams: Upstreams, own: Vec<SocketAddr>) -> Self {
        Forwarder { upstreams, own, known: Mutex::default(), cache: Mutex::new(Cache::new(CACHE_ENTRIES)) }
    }

    /// What the resolvers say, with the age of it in seconds; `None` when none of them says anything.
    pub async fn ask(&self, name: &Name, kind: RecordType, dnssec_ok: bool) -> Option<(Arc<Said>, u32)> {
        let question = Question { name: super::answer::key(name), kind, dnssec_ok };
        if let Some(known) = self.cached(&question) {
            return Some(known);
        }
        let said = Arc::new(self.ask_servers(name, kind, dnssec_ok).await?);
        self.cache.lock().put(question, said.clone(), Instant::now());
        Some((said, 0))
    }

    fn cached(&self, question: &Question) -> Option<(Arc<Said>, u32)> {
        self.cache.lock().get(question, Instant::now())
    }

    async fn ask_servers(&self, name: &Name, kind: RecordType, dnssec_ok: bool) -> Option<Said> {
        let servers = self.servers();
        let mut last = None;
        for server in servers.iter().cycle().take(TRIES_MAX.min(servers.len() * 2)) {
            match ask_one(*server, name, kind, dnssec_ok).await {
                Ok(message) => {
                    let said = Said::of(message);
                    match said.code {
                        // This one cannot or will not; the next may.
                        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => last = Some(said),
                        _ => return Some(said),
                    }
                }
                Err(error) => tracing::debug!(%server, %name, %error, "resolver did not answer"),
            }
        }
        last
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstreams {
            Upstreams::Fixed(servers) => return self.usable(servers.clone()),
            Upstreams::ResolvConf(path) => path,
        };
        let mut known = self.known.lock();
        if known.looked_at.is_none_or(|at| at.elapsed() >= RESOLV_CONF_AGE) {
            known.looked_at = Some(Instant::now());
            let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            if modified.is_none() || modified != known.modified {
                known.modified = modified;
                known.servers = self.usable(read_resolv_conf(path));
            }
        }
        known.servers.clone()
    }

    fn usable(&self, servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        servers.into_iter().filter(|s| !self.own.contains(s)).take(UPSTREAMS_MAX).collect()
    }
}

fn read_resolv_conf(path: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_resolv_conf(&text),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no resolvers: names outside the cluster cannot be resolved");
            Vec::new()
        }
    }
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            // A zone (`fe80::1%eth0`) names an interface; link-local resolvers are rare enough to leave to the others.
            let ip: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(ip, 53))
        })
        .collect()
}

async fn ask_one(server: SocketAddr, name: &Name, kind: RecordType, dnssec_ok: bool) -> io::Result<Message> {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX).set_dnssec_ok(dnssec_ok);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let expired = |_| io::Error::from(io::ErrorKind::TimedOut);
    let reply = timeout(TRY_TIMEOUT, by_udp(server, &query, &bytes)).await.map_err(expired)??;
    if !reply.metadata.truncation {
        return Ok(reply);
    }
    timeout(TRY_TIMEOUT, by_tcp(server, &query, &bytes)).await.map_err(expired)?
}

/// A socket of its own for each question: its random port is, with the id, what a forger would have to guess.
async fn by_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if let Some(reply) = reply_of(query, &buffer[..n]) {
            return Ok(reply);
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    reply_of(query, &buffer).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The message, if it answers this very question.
fn reply_of(query: &Message, bytes: &[u8]) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let same = reply.metadata.id == query.metadata.id
        && reply.metadata.message_type == MessageType::Response
        && match (reply.queries.as_slice(), query.queries.as_slice()) {
            ([a], [b]) => a.query_type() == b.query_type() && a.name() == b.name(),
            _ => false,
        };
    same.then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_from_resolv_conf_and_never_include_ourselves() {
        let text = "search a b\nnameserver 10.96.0.10\n# nameserver 9.9.9.9\nnameserver 1.1.1.1\nnameserver ::1\nnameserver x\n";
        let servers = parse_resolv_conf(text);
        assert_eq!(servers.len(), 3);
        let own = vec!["10.96.0.10:53".parse().expect("an address")];
        let forwarder = Forwarder::new(Upstreams::Fixed(vec![]), own);
        let usable: Vec<String> = forwarder.usable(servers).iter().map(ToString::to_string).collect();
        assert_eq!(usable, ["1.1.1.1:53", "[::1]:53"]);
    }
}
