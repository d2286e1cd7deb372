//! Listening, with TLS where it is wanted, until told to stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::error::StartError;
use crate::handlers::Registry;
use crate::proxy::{Proxy, Proxying};
use crate::store::RegistryStore;
use crate::uploads::Uploads;

/// Connections served at once; others wait.
const CONNECTIONS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(60);
/// How long requests may take once the server is told to stop: what breaks off is gone on with later.
const DRAIN: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often uploads that nobody goes on with are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

/// Files of the server's certificate chain and key, PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// How a registry is run.
#[derive(Debug)]
pub struct Config {
    /// Where it listens; beyond loopback TLS and users are needed.
    pub listen: SocketAddr,
    /// `None`: plain HTTP.
    pub tls: Option<Tls>,
    /// Who may use it.
    pub access: Access,
    /// Longest blob, bytes.
    pub max_blob: u64,
    /// The registry it is a cache of; such takes no pushes.
    pub proxy: Option<Proxying>,
}

/// A registry that listens.
pub struct Server {
    registry: Arc<Registry>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(store: RegistryStore, config: Config) -> Result<Self, StartError> {
        let guarded = config.tls.is_some() && config.access.is_guarded();
        if !config.listen.ip().is_loopback() && !guarded {
            return Err(StartError::Unprotected(config.listen));
        }
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let uploads = Uploads::new(store.clone());
        let max_blob = config.max_blob;
        let proxy = config.proxy.map(|proxying| Arc::new(Proxy::new(store.clone(), proxying, max_blob)));
        let registry = Arc::new(Registry { store, uploads, access: config.access, max_blob, proxy });
        Ok(Server { registry, listener, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets requests finish.
    pub async fn run(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let expiry = tokio::spawn(expire(self.registry.clone(), stop.clone()));
        loop {
            let next = async {
                let permit = slots.clone().acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (registry, tls, watcher) = (self.registry.clone(), self.tls.clone(), graceful.watcher());
                    tokio::spawn(async move {
                        connection(registry, tls, stream, watcher).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("transfers were still under way at the end of the drain");
        }
        expiry.abort();
    }
}

async fn expire(registry: Arc<Registry>, stop: CancellationToken) {
    loop {
        let this = registry.clone();
        match tokio::task::spawn_blocking(move || this.uploads.expire(SystemTime::now())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %base::chain(&error), "old uploads cannot be removed"),
            Err(error) => tracing::warn!(%error, "old uploads cannot be removed"),
        }
        tokio::select! {
            () = tokio::time::sleep(EXPIRE_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn connection(
    registry: Arc<Registry>,
    tls: Option<TlsAcceptor>,
    stream: TcpStream,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => answer(registry, stream, watcher).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => answer(registry, stream, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    registry: Arc<Registry>,
    stream: S,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let service = service_fn(move |request| {
        let registry = registry.clone();
        async move { Ok::<_, Infallible>(registry.serve(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder.http2().timer(TokioTimer::new());
    let served = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke");
    }
}

fn acceptor(files: &Tls) -> Result<TlsAcceptor, StartError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |e: rustls_pki_types::pem::Error| StartError::Pem { path, message: e.to_string() }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(fail(&files.certificate))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(fail(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(fail(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
