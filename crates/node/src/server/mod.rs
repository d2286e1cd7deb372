//! The node's HTTPS server, which answers as a kubelet does: logs, exec, attach and port-forward for the API server, pods,
//! usage and metrics for those it allows.

mod access;
mod auth;
mod channel;
mod docker;
mod find;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod logs;
mod query;
mod refusal;
mod remote;
mod route;
mod session;
mod spdy;
mod stats;
mod status;
mod streaming;
mod ws;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::auth::Identity;
pub(crate) use self::logs::watch::DirWatch;
use crate::mirror::Mirrors;
use crate::runtime::Runtime;

/// Connections at once at most, sessions included; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 64 << 10;
/// How long requests under way may take once the server drains.
const DRAIN: Duration = Duration::from_secs(3);
/// After an error of accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A peer that does not answer probes for this long is gone: seconds of silence, seconds between probes, probes.
const KEEP_ALIVE: (u32, u32, u32) = (30, 15, 4);

/// The pods of the node, as the API server has them.
pub type PodSource = Arc<dyn Fn() -> Vec<Pod> + Send + Sync>;

/// Certificates and key, PEM.
#[derive(Clone)]
pub struct ServerConfig {
    /// The authority that signs clients.
    pub ca_pem: String,
    /// The server's certificate, with its chain.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
    /// The node, and the way to ask about users; without it, only the API server and administrators are served.
    pub node: Option<NodeFacts>,
}

/// What the server says of the node it is on.
#[derive(Clone)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Asks the API server who somebody is and what he may.
    pub client: kube::Client,
    /// Logical processors.
    pub cpus: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// A folder on the file system that pods write to.
    pub data: std::path::PathBuf,
    /// The volumes of pods.
    pub(crate) volumes: Arc<crate::volumes::stats::Registry>,
}

/// Why the server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A PEM text is unusable.
    #[error("read the {what} of the node's server")]
    Pem {
        /// Which one.
        what: &'static str,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The library refuses the settings.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    /// The authority cannot verify clients.
    #[error("set up the verification of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The listener is unusable.
    #[error("listen")]
    Listen(#[from] io::Error),
}

/// What all requests use.
struct Shared {
    runtime: Arc<dyn Runtime>,
    pods: PodSource,
    /// The pods of Docker's containers.
    mirrors: Option<Arc<Mirrors>>,
    node: Option<NodeFacts>,
    access: Option<access::Access>,
    samples: stats::Samples,
    /// Sessions and logs under way.
    tasks: TaskTracker,
    /// Ends them.
    end: CancellationToken,
}

/// The other side of a connection.
#[derive(Clone)]
struct Peer {
    identity: Identity,
    /// Held by the connection and by the session it becomes.
    slot: Arc<OwnedSemaphorePermit>,
}

/// The server, listening but not yet answering.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    shared: Shared,
}

impl Server {
    /// Serves `runtime` on `listener`.
    ///
    /// # Errors
    /// A certificate or key is unusable.
    pub fn bind(
        listener: TcpListener,
        config: &ServerConfig,
        runtime: Arc<dyn Runtime>,
        pods: PodSource,
    ) -> Result<Self, ServerError> {
        let tls = TlsAcceptor::from(auth::tls(config)?);
        let shared = Shared {
            runtime,
            pods,
            mirrors: None,
            access: config.node.as_ref().map(|n| access::Access::new(n.client.clone(), &n.name)),
            node: config.node.clone(),
            samples: stats::Samples::default(),
            tasks: TaskTracker::new(),
            end: CancellationToken::new(),
        };
        Ok(Server { listener, tls, shared })
    }

    /// With pods that stand for Docker's containers.
    pub(crate) fn with_mirrors(mut self, mirrors: Option<Arc<Mirrors>>) -> Self {
        self.shared.mirrors = mirrors;
        self
    }

    /// Where it listens: the port for `status.daemonEndpoints.kubeletEndpoint`.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn local_addr(&self) -> Result<SocketAddr, ServerError> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until `drain`; then sessions end, and other requests get a moment to finish.
    pub async fn run(self, drain: CancellationToken) {
        let Server { listener, tls, shared } = self;
        let shared = Arc::new(shared);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                () = drain.cancelled() => break,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let task = connection(shared.clone(), tls.clone(), stream, slot);
                    shared.tasks.spawn(task);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        shared.end.cancel();
        shared.tasks.close();
        if tokio::time::timeout(DRAIN + DRAIN, shared.tasks.wait()).await.is_err() {
            tracing::warn!("requests to the node were still busy at the end of the drain");
        }
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

fn tune(stream: &TcpStream) {
    // Best effort: a session works without. Keystrokes must not wait; a peer that vanished must be noticed.
    let _ = stream.set_nodelay(true);
    let (idle, interval, count) = KEEP_ALIVE;
    let fd = stream.as_fd();
    let _ = setsockopt(&fd, sockopt::KeepAlive, &true);
    let _ = setsockopt(&fd, sockopt::TcpKeepIdle, &idle);
    let _ = setsockopt(&fd, sockopt::TcpKeepInterval, &interval);
    let _ = setsockopt(&fd, sockopt::TcpKeepCount, &count);
}

async fn connection(shared: Arc<Shared>, tls: TlsAcceptor, stream: TcpStream, slot: OwnedSemaphorePermit) {
    tune(&stream);
    let stream = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE, tls.accept(stream)) => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        },
        () = shared.end.cancelled() => return,
    };
    let identity = auth::identity(stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()));
    let peer = Peer { identity, slot: Arc::new(slot) };
    let end = shared.end.clone();
    let service = service_fn(move |request| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move { Ok::<_, Infallible>(route::handle(&shared, &peer, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEADER_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let result = tokio::select! {
        result = &mut connection => result,
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
