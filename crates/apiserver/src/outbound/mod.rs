//! Connections that this server opens: to nodes, pods, webhooks and other API servers.

pub(crate) mod service;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use http_body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tls::AnyCertificate;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http::listener::TlsError;
use crate::pki::KeyCert;

/// How long the other side has to accept a connection and to agree on TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// Where distributions keep the authorities that a host trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// An address, or a name that the host resolves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// Of a pod or node.
    Address(SocketAddr),
    /// Of a Service that is outside of the cluster.
    Name(String, u16),
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// One place to connect to.
pub(crate) struct Dial {
    /// Where.
    pub host: Host,
    /// With TLS, under the name that the certificate must have.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Dial {
    /// A connection for HTTP/1.1, which upgrades need. It ends with its last sender, or with the stream it becomes.
    ///
    /// # Errors
    /// Nobody listens there, or TLS fails; after some seconds, that nobody answers.
    pub async fn open<B>(&self) -> io::Result<SendRequest<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {}: i/o timeout", self.host));
        tokio::time::timeout(CONNECT, self.connect()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn connect<B>(&self) -> io::Result<SendRequest<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let tcp = match &self.host {
            Host::Address(address) => TcpStream::connect(address).await,
            Host::Name(name, port) => TcpStream::connect((name.as_str(), *port)).await,
        };
        let tcp =
            tcp.map_err(|e| io::Error::new(e.kind(), format!("dial tcp {}: connect: {}", self.host, reason(&e))))?;
        tcp.set_nodelay(true)?;
        let Some((config, name)) = &self.tls else { return begin(TokioIo::new(tcp)).await };
        let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await;
        begin(TokioIo::new(tls.map_err(|e| io::Error::other(format!("tls: {}", base::chain(&e))))?)).await
    }
}

/// What went wrong in the system's words, as clients of Go programs know them: "connection refused".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

async fn begin<I, B>(io: I) -> io::Result<SendRequest<B>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (sender, connection) = handshake(io).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// Which certificates a backend may show.
pub(crate) enum Trust {
    /// Those that the authorities of the host or of a bundle have signed.
    Roots(Arc<RootCertStore>),
    /// Any: the traffic is encrypted, but anybody may be at the other end.
    Anybody,
}

/// TLS settings of a client, with its certificate if it shows one.
///
/// # Errors
/// The certificate is unusable.
pub(crate) fn client_config(trust: Trust, own: Option<&KeyCert>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider))),
    };
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.key()?)?,
    };
    Ok(Arc::new(config))
}

impl Trust {
    /// The authorities of a `caBundle`, which is PEM in base64, or those of the host when it is empty.
    ///
    /// # Errors
    /// Kubernetes' sentence for a bundle that is none.
    pub fn of_bundle(bundle: &str) -> Result<Self, String> {
        if bundle.is_empty() {
            return Ok(Trust::Roots(system_roots()));
        }
        let pem = base64::engine::general_purpose::STANDARD.decode(bundle);
        let pem = pem.map_err(|_| "unable to load root certificates: caBundle is not base64".to_owned())?;
        let roots = roots(&pem).ok_or("unable to load root certificates: unable to parse bytes as PEM block")?;
        Ok(Trust::Roots(roots))
    }
}

/// The authorities in a PEM text; `None` when there is none in it.
fn roots(pem: &[u8]) -> Option<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem).filter_map(Result::ok) {
        // An authority that cannot be used is one that is not trusted.
        let _ = store.add(certificate);
    }
    (!store.is_empty()).then(|| Arc::new(store))
}

/// The authorities that the host trusts.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let none = || Arc::new(RootCertStore::empty());
    let read = || SYSTEM_ROOTS.iter().find_map(|path| roots(&std::fs::read(path).ok()?)).unwrap_or_else(none);
    ROOTS.get_or_init(read).clone()
}
