//! HTTPS to a webhook, of admission or of conversion: a URL, or a Service, of which a ready pod is asked directly.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use serde_json::Value;

use crate::cache::Caches;
use crate::outbound::service::Found;
use crate::outbound::{Dial, Host, Trust, client_config};

/// Longest answer, bytes.
const ANSWER_MAX: usize = 3 << 20;
/// Open connections kept for the next call.
const IDLE_MAX: usize = 8;
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
        let trust = Trust::of_bundle(config["caBundle"].as_str().unwrap_or(""));
        let tls = trust.and_then(|trust| client_config(trust, None).map_err(|e| base::chain(&e)));
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
        let (host, name) = match self.place.as_ref().map_err(String::clone)? {
            Place::Url { host, port } => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                (Host::Name(bare.to_owned(), *port), bare.to_owned())
            }
            Place::Service { namespace, name, port } => {
                let found =
                    Found::look(caches, namespace, name).ok_or_else(|| format!("service {name:?} not found"))?;
                let place = found.places(*port)?.swap_remove(0);
                (place, format!("{name}.{namespace}.svc"))
            }
        };
        let name = ServerName::try_from(name).map_err(|e| e.to_string())?;
        let dial = Dial { host, tls: Some((tls, name)) };
        let mut sender = dial.open().await.map_err(|e| base::chain(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| base::chain(&e))?;
        Ok((sender, answer))
    }
}
