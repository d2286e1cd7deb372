//! HTTP over TLS with keep-alive and the certificate of a kubeconfig. One connection, one request at a time.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes read from a socket at once.
const READ: usize = 128 << 10;

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Target {
    address: String,
    tls: Arc<rustls::ClientConfig>,
}

fn field(text: &str, name: &str) -> anyhow::Result<String> {
    let prefix = format!("{name}: ");
    let line = text.lines().map(str::trim).find_map(|l| l.strip_prefix(&prefix));
    Ok(line.with_context(|| format!("the kubeconfig has no {name}"))?.trim_matches('"').to_owned())
}

impl Target {
    /// Reads a kubeconfig as Windlass writes it.
    pub fn read(kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let pem = |name: &str| -> anyhow::Result<Vec<u8>> {
            Ok(base64::engine::general_purpose::STANDARD.decode(field(&text, name)?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("certificate-authority-data")?)?)?;
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        let address = field(&text, "server")?.trim_start_matches("https://").to_owned();
        Ok(Target { address, tls: Arc::new(tls) })
    }

    /// Connects, without a word of HTTP; and the host's name for that.
    pub async fn stream(&self) -> anyhow::Result<(TlsStream<BufReader<TcpStream>>, String)> {
        let tcp = TcpStream::connect(&self.address).await.with_context(|| format!("connect to {}", self.address))?;
        tcp.set_nodelay(true)?;
        // Rustls reads 4 KiB at a time, which made the client the slower side of a large list.
        let tcp = BufReader::with_capacity(READ, tcp);
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(h, _)| h).to_owned();
        let stream = TlsConnector::from(self.tls.clone()).connect(ServerName::try_from(host)?, tcp).await?;
        Ok((stream, self.address.clone()))
    }

    /// Opens a connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let (stream, host) = self.stream().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, host })
    }
}

/// An open connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Sends a request and returns the answer's head and its body, still to be read.
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if let Some((kind, _)) = &body {
            request = request.header("content-type", *kind);
        }
        let bytes = body.map(|(_, b)| b).unwrap_or_default();
        Ok(self.sender.send_request(request.body(Full::new(bytes))?).await?)
    }

    /// Sends a request and reads the whole answer; anything but 2xx is an error.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<(&str, Bytes)>) -> anyhow::Result<Bytes> {
        let answer = self.open(method.clone(), path, body).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
        }
        Ok(bytes)
    }
}
