//! HTTPS to a webhook, of admission or of conversion: a URL, or a Service, of which a ready pod is asked directly.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cache::Caches;

/// Longest answer, bytes.
const ANSWER_MAX: usize = 3 << 20;
/// Open connections kept for the next call.
const IDLE_MAX: usize = 8;
/// Where distributions keep the authorities that a host trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where a webhook is.
enum Place {
    Url { host: String, port: u16 },
    Service { namespace: String, name: String, port: u64 },
}

/// A webhook's server.
pub(crate) struct Client {
    place: Result<Place, String>,
    /// Scheme and authority.
    base: String,
    authority: String,
    /// With its leading slash, and the query of a URL.
    path: String,
    tls: Result<Arc<rustls::ClientConfig>, String>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// From a `clientConfig`. What is wrong with it is told when it is called.
    pub fn new(config: &Value) -> Self {
        let tls = tls(&config["caBundle"]);
        let idle = Mutex::default();
        if let Some(url) = config["url"].as_str() {
            let parsed = url::Url::parse(url).map_err(|e| e.to_string());
            let place = parsed.as_ref().map_err(String::clone).and_then(|u| match (u.scheme(), u.host_str()) {
                ("https", Some(host)) => Ok(Place::Url { host: host.into(), port: u.port().unwrap_or(443) }),
                _ => Err("the url must be of https".to_owned()),
            });
            let (authority, path) = parsed.map_or_else(
                |_| (String::new(), String::new()),
                |u| (u.authority().to_owned(), u[url::Position::BeforePath..url::Position::AfterQuery].to_owned()),
            );
            return Client { place, base: format!("https://{authority}"), authority, path, tls, idle };
        }
        let text = |key: &str| config["service"][key].as_str().unwrap_or("").to_owned();
        let (namespace, name, port) = (text("namespace"), text("name"), config["service"]["port"].as_u64());
        let port = port.unwrap_or(443);
        let authority = format!("{name}.{namespace}.svc:{port}");
        let path = format!("/{}", text("path").trim_start_matches('/'));
        let place = Ok(Place::Service { namespace, name, port });
        Client { place, base: format!("https://{authority}"), authority, path, tls, idle }
    }

    fn target(&self, timeout: Duration) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{separator}timeout={}s", self.path, timeout.as_secs())
    }

    /// The whole address, for messages.
    pub fn url(&self, timeout: Duration) -> String {
        format!("{}{}", self.base, self.target(timeout))
    }

    /// Sends a review and returns the answer's body. The caller bounds the time.
    pub async fn post(&self, caches: &Caches, timeout: Duration, body: Bytes) -> Result<Bytes, String> {
        let request = || {
            Request::builder()
                .method(Method::POST)
                .uri(self.target(timeout))
                .header(HOST, self.authority.as_str())
                .header(ACCEPT, "application/json")
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
                .map_err(|e| e.to_string())
        };
        // A kept connection may have been closed meanwhile: then, and only then, a new one is tried.
        let kept = self.idle.lock().pop().filter(|c| !c.is_closed());
        let (mut connection, answer) = match kept {
            Some(mut kept) => match kept.try_send_request(request()?).await {
                Ok(answer) => (kept, answer),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => self.fresh(caches, unsent).await?,
                    None => return Err(base::chain(&error.into_error())),
                },
            },
            None => self.fresh(caches, request()?).await?,
        };
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|e| base::chain(&*e))?.to_bytes();
        if connection.ready().await.is_ok() {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(connection);
            }
        }
        match parts.status {
            StatusCode::OK => Ok(body),
            StatusCode::NOT_FOUND => Err("the server could not find the requested resource".into()),
            status => {
                let said = String::from_utf8_lossy(&body[..body.len().min(512)]).into_owned();
                let said = if said.trim().is_empty() { status.to_string() } else { said };
                Err(format!("an error on the server ({said:?}) has prevented the request from succeeding"))
            }
        }
    }

    async fn fresh(
        &self,
        caches: &Caches,
        request: Request<Full<Bytes>>,
    ) -> Result<(SendRequest<Full<Bytes>>, hyper::Response<hyper::body::Incoming>), String> {
        let tls = self.tls.clone()?;
        let place = self.place.as_ref().map_err(String::clone)?;
        let (tcp, name) = match place {
            Place::Url { host, port } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                (TcpStream::connect((bare, *port)).await, bare.to_owned())
            }
            Place::Service { namespace, name, port } => {
                let address = resolve(caches, namespace, name, *port)?;
                (TcpStream::connect(address).await, format!("{name}.{namespace}.svc"))
            }
        };
        let tcp = tcp.map_err(|e| format!("dial tcp: {e}"))?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let stream =
            TlsConnector::from(tls).connect(name, tcp).await.map_err(|e| format!("tls: {}", base::chain(&e)))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| base::chain(&e))?;
        // Ends with its last sender, or when the other side closes.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|e| base::chain(&e))?;
        Ok((sender, answer))
    }
}

/// A ready endpoint of a Service's port.
fn resolve(caches: &Caches, namespace: &str, name: &str, port: u64) -> Result<SocketAddr, String> {
    let missing = || format!("service {name:?} not found");
    let service = caches.core("services").get(&format!("{namespace}/{name}")).ok_or_else(missing)?.value();
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let no_port = || format!("no service port {port} found for service {name:?}");
    let port = ports.into_iter().find(|p| p["port"].as_u64() == Some(port)).ok_or_else(no_port)?;
    let port_name = port["name"].as_str().unwrap_or("");
    let slices = caches.by("discovery.k8s.io", "endpointslices").map(|cache| {
        let of = |e: &crate::cache::Entry| e.facts.labels.get("kubernetes.io/service-name").is_some_and(|v| v == name);
        cache.snapshot(namespace, None, 0, false, of).entries
    });
    let mut found: Vec<SocketAddr> = Vec::new();
    for slice in slices.into_iter().flatten().map(|e| e.value()) {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.into_iter().find(|p| p["name"].as_str().unwrap_or("") == port_name);
        let Some(port) = port.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] != false {
                let addresses = endpoint["addresses"].as_array().into_iter().flatten();
                let addresses = addresses.filter_map(|a| a.as_str()?.parse::<std::net::IpAddr>().ok());
                found.extend(addresses.map(|ip| SocketAddr::new(ip, port)));
            }
        }
    }
    let none = || format!("no endpoints available for service {name:?}");
    found.choose(&mut rand::rng()).copied().ok_or_else(none)
}

/// Trusts the authorities of a `caBundle`, or those of the host when there is none.
fn tls(bundle: &Value) -> Result<Arc<rustls::ClientConfig>, String> {
    let roots = match bundle.as_str().filter(|b| !b.is_empty()) {
        Some(bundle) => {
            let pem = base64::engine::general_purpose::STANDARD.decode(bundle);
            let pem = pem.map_err(|_| "unable to load root certificates: caBundle is not base64".to_owned())?;
            roots(&pem).ok_or("unable to load root certificates: unable to parse bytes as PEM block")?
        }
        None => system_roots(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn roots(pem: &[u8]) -> Option<Arc<rustls::RootCertStore>> {
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem).filter_map(Result::ok) {
        // An authority that cannot be used is one that is not trusted.
        let _ = store.add(certificate);
    }
    (!store.is_empty()).then(|| Arc::new(store))
}

fn system_roots() -> Arc<rustls::RootCertStore> {
    static ROOTS: OnceLock<Arc<rustls::RootCertStore>> = OnceLock::new();
    let none = || Arc::new(rustls::RootCertStore::empty());
    let read = || SYSTEM_ROOTS.iter().find_map(|path| roots(&std::fs::read(path).ok()?)).unwrap_or_else(none);
    ROOTS.get_or_init(read).clone()
}
