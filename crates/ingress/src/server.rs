//! The listeners.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::headers::Client;
use crate::proxy::{Shared, handle};
use crate::route::RouteTable;
use crate::state::State;
use crate::stats::{Stats, StatsSnapshot};
use crate::tls;

/// Connections refused by the kernel (no descriptors) are tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections to endpoints are looked through.
const SWEEP: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 128;
const STREAMS_MAX: u32 = 256;

/// What clients and endpoints may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections of clients, upgraded ones not counted; more wait to be accepted.
    pub connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Time for a client to send a head, and to be silent between two requests.
    pub header_time: Duration,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for a connection to an endpoint.
    pub connect: Duration,
    /// Time for an endpoint to begin its answer, once it has the request.
    pub response: Duration,
    /// Silence within a body, in either direction.
    pub body_idle: Duration,
    /// Time for requests to end once the server is drained.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 16_384,
            header_bytes: 64 * 1024,
            body_bytes: 1024 * 1024 * 1024,
            header_time: Duration::from_secs(75),
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            body_idle: Duration::from_secs(300),
            drain: Duration::from_secs(20),
        }
    }
}

/// Where and how to serve.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Addresses for plain HTTP. Port 0 picks one.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS.
    pub https: Vec<SocketAddr>,
    /// Limits.
    pub limits: Limits,
    /// Believe `X-Forwarded-*` of clients: only behind a proxy that sets them.
    pub trust_forwarded: bool,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address is taken, not there, or not allowed.
    #[error("cannot listen for HTTP on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

/// An HTTP server that routes by the table it was given last.
pub struct Server {
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    listeners: Mutex<Vec<(TcpListener, bool)>>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    replacing: Mutex<()>,
}

impl Server {
    /// Binds the addresses. Nothing is accepted before [`Server::serve`].
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let (mut http, mut https) = (Vec::new(), Vec::new());
        for (addresses, bound, secure) in [(&config.http, &mut http, false), (&config.https, &mut https, true)] {
            for address in addresses {
                let failed = |source| ServerError::Bind { address: *address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                bound.push(listener.local_addr().map_err(failed)?);
                listeners.push((listener, secure));
            }
        }
        let state = Arc::new(ArcSwap::from_pointee(State::default()));
        let tls = tls::server_config(state.clone()).map_err(ServerError::Tls)?;
        let shared = Arc::new(Shared {
            state,
            stats: Stats::default(),
            limits: config.limits,
            trust_forwarded: config.trust_forwarded,
            stop: CancellationToken::new(),
        });
        Ok(Server {
            shared,
            tls: TlsAcceptor::from(tls),
            listeners: Mutex::new(listeners),
            http,
            https,
            replacing: Mutex::new(()),
        })
    }

    /// Where plain HTTP is served.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where HTTPS is served.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Puts a table in force. Requests under way go on; connections to endpoints that left close after theirs.
    pub fn set_routes(&self, table: Arc<RouteTable>) {
        let _one_at_a_time = self.replacing.lock();
        let old = self.shared.state.load_full();
        if *old.table == *table {
            return;
        }
        let (new, bad) = old.next(table);
        for (host, error) in bad {
            tracing::warn!(%host, %error, "a certificate is not served");
        }
        let new = Arc::new(new);
        self.shared.state.store(new.clone());
        old.retire_for(&new);
    }

    /// What was counted until now.
    pub fn stats(&self) -> StatsSnapshot {
        self.shared.stats.snapshot()
    }

    /// Serves until drained, then lets requests under way finish for as long as [`Limits::drain`]. Only the first call
    /// does anything.
    pub async fn serve(&self, drain: CancellationToken) {
        let listeners = std::mem::take(&mut *self.listeners.lock());
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(self.shared.limits.connections));
        let mut tasks = JoinSet::new();
        for (listener, secure) in listeners {
            let port = listener.local_addr().map_or(0, |a| a.port());
            let door = Door {
                shared: self.shared.clone(),
                tls: secure.then(|| self.tls.clone()),
                port,
                slots: slots.clone(),
                connections: connections.clone(),
                drain: drain.clone(),
            };
            let drain = drain.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = drain.cancelled() => {}
                    () = door.accept(&listener) => {}
                }
            });
        }
        let state = self.shared.state.clone();
        tasks.spawn({
            let drain = drain.clone();
            async move {
                let mut clock = tokio::time::interval(SWEEP);
                loop {
                    tokio::select! {
                        () = drain.cancelled() => return,
                        _ = clock.tick() => state.load().endpoints().for_each(|e| e.sweep()),
                    }
                }
            }
        });
        drain.cancelled().await;
        while tasks.join_next().await.is_some() {}
        connections.close();
        if timeout(self.shared.limits.drain, connections.wait()).await.is_err() {
            tracing::warn!("requests were still under way when the time to drain was over");
        }
        self.shared.stop.cancel();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// One listener.
struct Door {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    port: u16,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    drain: CancellationToken,
}

impl Door {
    async fn accept(self, listener: &TcpListener) {
        // Taken before accepting: beyond the limit, clients wait in the kernel's queue.
        while let Ok(slot) = self.slots.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let client = Client { ip: address.ip().to_canonical(), tls: self.tls.is_some(), port: self.port };
                    let (shared, drain) = (self.shared.clone(), self.drain.clone());
                    let connection = Connection { shared, client, drain, slot };
                    match self.tls.clone() {
                        Some(tls) => drop(self.connections.spawn(connection.secure(tls, stream))),
                        None => drop(self.connections.spawn(connection.plain(stream))),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

struct Connection {
    shared: Arc<Shared>,
    client: Client,
    drain: CancellationToken,
    slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn plain(self, stream: TcpStream) {
        // Only latency is lost without it.
        let _ = stream.set_nodelay(true);
        self.serve(stream, false).await;
    }

    async fn secure(self, tls: TlsAcceptor, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        match timeout(self.shared.limits.handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve(stream, h2).await;
            }
            Ok(Err(error)) => {
                self.shared.stats.tls_failures.add();
                tracing::debug!(client = %self.client.ip, %error, "TLS handshake failed");
            }
            Err(_) => self.shared.stats.tls_failures.add(),
        }
    }

    /// The protocol is known beforehand: to guess it from the first bytes would be to wait for them without limit.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, h2: bool) {
        let Connection { shared, client, drain, slot } = self;
        shared.stats.connections.add();
        let _open = shared.stats.connections_open.hold();
        let limits = &shared.limits;
        let service = service_fn(|request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(handle(shared, client, request).await) }
        });
        let io = TokioIo::new(stream);
        let ended = if h2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .keep_alive_interval(limits.header_time)
                .keep_alive_timeout(limits.handshake)
                .serve_connection(io, service);
            until_drained(connection, &drain, |c| c.graceful_shutdown()).await
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_headers(HEADERS_MAX)
                .max_header_size(limits.header_bytes)
                .max_buf_size(limits.header_bytes.max(8192))
                .serve_connection(io, service)
                .with_upgrades();
            until_drained(connection, &drain, |c| c.graceful_shutdown()).await
        };
        if let Err(error) = ended {
            tracing::debug!(client = %client.ip, %error, "connection ended");
        }
        drop(slot);
    }
}

/// Runs a connection to its end; once drained, the request under way is its last.
async fn until_drained<C: Future>(
    connection: C,
    drain: &CancellationToken,
    finish: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => finish(connection.as_mut()),
    }
    connection.await
}
