//! What others answer. Logs, exec, attach and port-forward are passed on to the kubelet endpoint of the pod's node, over TLS
//! with this server's client certificate; what flows after an upgrade is an opaque stream of bytes. Requests for the `proxy` of
//! a node, pod or Service go there as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::status::ApiError;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use serde_json::Value;

use crate::cache::Caches;
use crate::handlers::{Call, Scope};
use crate::http::body::Body;
use crate::http::listener::TlsError;
use crate::http::respond::{self, Reply};
use crate::outbound::{Dial, Host, Trust, client_config};
use crate::pki::Pki;

mod links;
mod messages;
pub(crate) mod onward;
mod pipe;
pub(crate) mod subresource;
mod target;

/// How long a node has to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a node has to begin its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest refusal of a node that is passed on, bytes.
const REFUSAL_MAX: usize = 8 << 10;

/// With what nodes are called.
pub struct Kubelets {
    tls: Arc<rustls::ClientConfig>,
}

impl Kubelets {
    /// Trusts the cluster's authority, and shows this server's client certificate.
    ///
    /// # Errors
    /// The certificates are unusable.
    pub fn new(pki: &Pki) -> Result<Self, TlsError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pki.ca_der()?)?;
        Ok(Kubelets { tls: client_config(Trust::Roots(Arc::new(roots)), Some(pki.kubelet_client()))? })
    }

    /// The way to a node's kubelet endpoint.
    fn dial(&self, node: SocketAddr) -> Dial {
        Dial { host: Host::Address(node), tls: Some((self.tls.clone(), node.ip().into())) }
    }

    /// Sends one request to a node on a connection of its own.
    pub(crate) async fn send(
        &self,
        node: SocketAddr,
        request: Request<Empty<Bytes>>,
    ) -> std::io::Result<Response<Incoming>> {
        let mut sender = self.dial(node).open().await?;
        sender.send_request(request).await.map_err(std::io::Error::other)
    }
}

/// GET or POST of `log`, `exec`, `attach` or `portforward`.
pub(crate) async fn serve(call: Call, scope: Scope<'_>, sub: &str) -> Result<Reply, ApiError> {
    call.server.caches.consistent().await?;
    let entry = scope.cache.get(&scope.key()).ok_or_else(|| scope.not_found())?;
    let pod = entry.value();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if sub == "log" {
        if call.method == Method::POST {
            return Err(ApiError::method_not_allowed("pods/log", "", "POST"));
        }
        if node.is_empty() {
            return Ok(respond::text(StatusCode::OK, Bytes::new()));
        }
        let path = target::log(&call.query, &pod)?;
        return log(call, node.to_owned(), path).await;
    }
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", scope.name)));
    }
    let path = target::stream(sub, &call.query, &pod)?;
    upgrade(call, node.to_owned(), path).await
}

async fn log(mut call: Call, node: String, path: String) -> Result<Reply, ApiError> {
    let address = address(&call.server.caches, &node)?;
    let request = request(Method::GET, address, &path, &HeaderMap::new())?;
    let answer = reach(&call, &node, address, request).await?;
    let (parts, body) = answer.into_parts();
    if !parts.status.is_success() {
        return Err(refused(parts.status, body).await);
    }
    if let (Some(agreed), Some(client)) = (messages::wanted(&call.headers), call.upgrade.take()) {
        let (end, place) = (call.server.streams_end.clone(), call.place.take());
        tokio::spawn(async move {
            tokio::select! {
                () = messages::run(agreed, client, body) => {}
                () = end.cancelled() => {}
            }
            drop(place);
        });
        return Ok(messages::switching(agreed, &call.headers));
    }
    let mut reply = Response::new(Body::Held(Box::new(Body::Passed(body)), call.place.map(|p| Box::new(p) as _)));
    *reply.status_mut() = parts.status;
    if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
        reply.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
    }
    Ok(reply)
}

/// The node's refusal, which is plain text, in the form that clients read.
async fn refused(status: StatusCode, body: Incoming) -> ApiError {
    use http_body_util::BodyExt;
    let text = http_body_util::Limited::new(body, REFUSAL_MAX).collect().await;
    let text = text.map_or_else(|e| e.to_string(), |b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned());
    match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        _ => ApiError::internal(text),
    }
}

/// Headers that belong to the upgraded protocol and go through unchanged.
fn is_passed(name: &str) -> bool {
    name.starts_with("sec-websocket-")
        || name.starts_with("x-stream-protocol-version")
        || name == "x-accept-stream-protocol-version"
}

async fn upgrade(call: Call, node: String, path: String) -> Result<Reply, ApiError> {
    let mut call = call;
    let wanted = call.headers.get(UPGRADE).cloned();
    let (Some(wanted), Some(client)) = (wanted, call.upgrade.take()) else {
        return Err(ApiError::bad_request("Upgrade request required"));
    };
    let address = address(&call.server.caches, &node)?;
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers.iter().filter(|(name, _)| is_passed(name.as_str())) {
        headers.append(name.clone(), value.clone());
    }
    headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, wanted);
    // The body of such a request is empty in every client; anything after it belongs to the stream.
    let request = request(call.method.clone(), address, &path, &headers)?;
    let mut answer = reach(&call, &node, address, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let mut reply = Response::new(Body::Passed(body));
        *reply.status_mut() = parts.status;
        for name in [http::header::CONTENT_TYPE, http::header::CONTENT_LENGTH] {
            if let Some(value) = parts.headers.get(&name) {
                reply.headers_mut().insert(name, value.clone());
            }
        }
        return Ok(reply);
    }
    let kubelet = hyper::upgrade::on(&mut answer);
    let mut reply = Response::new(Body::Empty);
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in answer.headers() {
        if is_passed(name.as_str()) || *name == UPGRADE || *name == CONNECTION {
            reply.headers_mut().append(name.clone(), value.clone());
        }
    }
    pipe::join(client, kubelet, call.server.streams_end.clone(), call.place.take());
    Ok(reply)
}

async fn reach(
    call: &Call,
    node: &str,
    address: SocketAddr,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, ApiError> {
    let failed =
        |why: &dyn std::fmt::Display| ApiError::internal(format!("error dialing node {node} at {address}: {why}"));
    match tokio::time::timeout(CONNECT + ANSWER, call.server.kubelets.send(address, request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(&base::chain(&error))),
        Err(_) => Err(failed(&"no answer in time")),
    }
}

fn request(
    method: Method,
    node: SocketAddr,
    path: &str,
    headers: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, ApiError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, node.to_string())
        .header(ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(ApiError::internal)?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

/// Where a node's kubelet endpoint is, by the node's own account.
pub(crate) fn address(caches: &Caches, node: &str) -> Result<SocketAddr, ApiError> {
    let entry = caches.core("nodes").get(node).ok_or_else(|| ApiError::not_found("nodes", "", node))?;
    let node = entry.value();
    let addresses = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |kind: &str| -> Option<IpAddr> {
        addresses.iter().find(|a| a["type"] == kind).and_then(|a: &Value| a["address"].as_str()?.parse().ok())
    };
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|&p| p != 0);
    match (of("InternalIP").or_else(|| of("ExternalIP")), port) {
        (Some(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => {
            Err(ApiError::service_unavailable(format!("node {} has not published its kubelet endpoint", entry.name())))
        }
    }
}
