//! TLS on loopback: servers that a cluster calls, and clients of a served cluster.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use http::{Request, Response};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::Cluster;

fn trusted(authority: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    Arc::new(roots)
}

/// Settings of a server on 127.0.0.1 under these names, with a certificate of the cluster's authority. With `clients`, an
/// authority in PEM, who shows no certificate of it is not let in.
pub fn acceptor(cluster: &Cluster, names: &[&str], clients: Option<&str>) -> TlsAcceptor {
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let cert = cluster.server.pki().kubelet_serving("n1", &names, &["127.0.0.1".parse().unwrap()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted(authority), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(cert.chain().unwrap(), cert.key().unwrap()).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves HTTP/1.1 on a port of its own until told to end, with the connections that are open then.
pub async fn serve<F, A, B>(tls: TlsAcceptor, until: CancellationToken, answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<B>> + Send,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, answer, until) = (tls.clone(), answer.clone(), until.clone());
            tokio::spawn(until.run_until_cancelled_owned(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    let reply = answer(request);
                    async { Ok::<_, Infallible>(reply.await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            }));
        }
    };
    tokio::spawn(serving);
    address
}

impl Cluster {
    /// The cluster's authority as a `caBundle`.
    pub fn bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.server.pki().ca_pem())
    }

    /// Serves the API on a port of its own until told to end.
    pub async fn listen(&self, drain: CancellationToken) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(self.server.clone().serve(listener, drain));
        address
    }

    /// Settings of a client that trusts the cluster's authority.
    pub fn connector(&self) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let roots = trusted(self.server.pki().ca_pem());
        TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// A TLS connection to a served cluster.
pub async fn connect(tls: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
}

/// HTTP/1.1 over such a connection, which may be upgraded.
pub async fn http1<B>(stream: TlsStream<TcpStream>) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}
