//! The HTTPS listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2, limits on everything, a drain that
//! lets requests finish.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::body::RequestBody;
use crate::authn::{Sender, user_of_certificate};
use crate::pki::{Pki, PkiError};
use crate::server::ApiServer;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request, counted from the end of the last one: longer than the 90 s for which Go and hyper clients keep
/// idle connections, so that it is they who close them and no request is lost.
const HEADERS: Duration = Duration::from_secs(120);
/// A client that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// How long requests under way may take once the server drains.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const HEADER_BYTES: usize = 64 << 10;
const STREAMS_PER_CONNECTION: u32 = 1000;
const H2_PING: Duration = Duration::from_secs(30);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key is unusable.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The library refuses the settings.
    #[error("set up TLS")]
    Rustls(#[from] rustls::Error),
    /// The authority cannot verify clients.
    #[error("set up the verification of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS settings of the server.
///
/// # Errors
/// The certificates in `pki` are unusable.
pub fn tls_config(pki: &Pki) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der()?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(pki.server().chain()?, pki.server().key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections until `drain`, then lets requests finish.
pub async fn serve(server: Arc<ApiServer>, listener: TcpListener, drain: CancellationToken) {
    let slots = Arc::new(Semaphore::new(server.config.limits.connections));
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            permit = slots.clone().acquire_owned() => permit,
            () = drain.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let (server, watcher) = (server.clone(), graceful.watcher());
                tokio::spawn(async move {
                    connection(server, stream, from, watcher).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    server.end_streams();
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still busy at the end of the drain");
    }
}

async fn connection(
    server: Arc<ApiServer>,
    stream: TcpStream,
    from: SocketAddr,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Latency matters more than packets: answers are written whole.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(server.tls());
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(Patient::new(stream))).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let sender = Sender::Connection { user: certificate.and_then(user_of_certificate), from };
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (server, sender) = (server.clone(), sender.clone());
        async move { Ok::<_, Infallible>(server.handle(request.map(RequestBody::Network), sender).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_BYTES as u32)
        .initial_stream_window_size(1 << 18)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(STALLED);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// A stream whose writes fail when the other side takes nothing for [`STALLED`].
struct Patient {
    stream: TcpStream,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Patient { stream, waiting: None }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, poll)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, poll)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, poll)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, poll)
    }
}
