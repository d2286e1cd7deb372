//! The server from outside: real TLS, a runtime in memory.

mod auth;
mod fake;
mod log;
mod spdy;
mod stats;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::fake::Fake;
use super::{NodeFacts, Server, ServerConfig};

pub(super) type Tls = TlsStream<TcpStream>;

/// Who a client says it is.
#[derive(Clone, Copy)]
pub(super) enum Who {
    Nobody,
    /// No certificate, but a token.
    Token(&'static str),
    Named(&'static str, Option<&'static str>),
}

pub(super) const ADMIN: Who = Who::Named("admin", Some("system:masters"));

pub(super) struct Fixture {
    pub(super) fake: Arc<Fake>,
    pub(super) address: SocketAddr,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    _drain: DropGuard,
}

fn leaf(issuer: &Issuer<'static, KeyPair>, name: &str, group: Option<&str>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

pub(super) async fn fixture(pods: Vec<Pod>) -> Fixture {
    fixture_of(pods, None).await
}

/// A server that asks about users, as a whole agent's does.
pub(super) async fn fixture_of(pods: Vec<Pod>, node: Option<NodeFacts>) -> Fixture {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (cert_pem, key_pem) = leaf(&issuer, "node", None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Arc::new(Fake::default());
    let config = ServerConfig { ca_pem: ca_pem.clone(), cert_pem, key_pem, node };
    let server = Server::bind(listener, &config, fake.clone(), Arc::new(move || pods.clone())).unwrap();
    let address = server.local_addr().unwrap();
    let drain = CancellationToken::new();
    tokio::spawn(server.run(drain.clone()));
    Fixture { fake, address, issuer, ca_pem, _drain: drain.drop_guard() }
}

impl Fixture {
    pub(super) async fn connect(&self, who: Who) -> Tls {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match who {
            Who::Nobody | Who::Token(_) => builder.with_no_client_auth(),
            Who::Named(name, group) => {
                let (cert, key) = leaf(&self.issuer, name, group);
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    pub(super) async fn open(&self, who: Who, path: &str) -> Response<Incoming> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect(who).await)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "localhost");
        if let Who::Token(token) = who {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        // The connection closes when the sender is dropped and the body is read.
        tokio::spawn(async move {
            let _ = sender.ready().await;
        });
        response
    }

    pub(super) async fn get(&self, who: Who, path: &str) -> (StatusCode, String) {
        let response = self.open(who, path).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}
