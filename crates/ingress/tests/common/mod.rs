//! Backends and clients in this process.

#![allow(dead_code, missing_docs)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingress::{Config, Input, Limits, RouteTable, Server};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub type Client = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

pub fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

/// A table in which every host and path leads to these endpoints.
pub fn table(endpoints: &[SocketAddr]) -> Arc<RouteTable> {
    let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let ingress: Ingress = object(json!({
        "metadata": { "name": "i", "namespace": "n" },
        "spec": { "rules": [
            { "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } },
        ] },
    }));
    let service: Service =
        object(json!({ "metadata": { "name": "web", "namespace": "n" }, "spec": { "ports": [{ "port": 80 }] } }));
    let slices: Vec<EndpointSlice> = endpoints
        .iter()
        .map(|e| {
            object(json!({
                "metadata": { "namespace": "n", "labels": { "kubernetes.io/service-name": "web" } },
                "addressType": "IPv4",
                "ports": [{ "port": e.port() }],
                "endpoints": [{ "addresses": [e.ip()] }],
            }))
        })
        .collect();
    Arc::new(RouteTable::build(&Input {
        ingresses: vec![&ingress],
        services: vec![&service],
        endpoint_slices: slices.iter().collect(),
        ..Input::default()
    }))
}

/// A running ingress.
pub struct Front {
    pub server: Arc<Server>,
    pub address: SocketAddr,
    pub secure: SocketAddr,
    pub drain: CancellationToken,
    pub done: tokio::task::JoinHandle<()>,
}

pub async fn front(endpoints: &[SocketAddr], limits: Limits) -> Front {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let config = Config { http: vec![any], https: vec![any], limits, trust_forwarded: false };
    let server = Arc::new(Server::bind(config).await.expect("binds"));
    server.set_routes(table(endpoints));
    let drain = CancellationToken::new();
    let (running, token) = (server.clone(), drain.clone());
    let done = tokio::spawn(async move { running.serve(token).await });
    Front { address: server.http_addresses()[0], secure: server.https_addresses()[0], server, drain, done }
}

pub fn client() -> Client {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()
}

pub fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://{to}{path}"))
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .expect("a request")
}

/// Status and text of the answer.
pub async fn fetch(client: &Client, request: Request<Full<Bytes>>) -> (u16, String) {
    let response = client.request(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

pub async fn get(to: SocketAddr, path: &str) -> (u16, String) {
    fetch(&client(), request(to, "GET", path, "")).await
}

/// A well-behaved HTTP server that answers with `tag` and what it was sent, and drains when told.
pub struct Backend {
    pub address: SocketAddr,
    /// Asks it to end, as the kubelet does.
    pub drain: CancellationToken,
    pub served: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    pub done: tokio::task::JoinHandle<()>,
}

pub async fn backend(tag: &'static str) -> Backend {
    backend_that_lingers(tag, Duration::ZERO).await
}

/// One that, when told to end, serves on for a while, as a pod does with a `preStop` hook.
pub async fn backend_that_lingers(tag: &'static str, linger: Duration) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let drain = CancellationToken::new();
    let (served, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (token, count, accepted) = (drain.clone(), served.clone(), connections.clone());
    let done = tokio::spawn(async move {
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        let mut end = std::pin::pin!(async {
            token.cancelled().await;
            tokio::time::sleep(linger).await;
        });
        loop {
            let stream = tokio::select! {
                () = &mut end => break,
                accepted = listener.accept() => accepted.expect("accepts").0,
            };
            accepted.fetch_add(1, Ordering::SeqCst);
            let count = count.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let count = count.clone();
                async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Infallible>(describe(tag, request).await)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let watched = graceful.watch(connection);
            tokio::spawn(async move { drop(watched.await) });
        }
        drop(listener);
        graceful.shutdown().await;
    });
    Backend { address, drain, served, connections, done }
}

async fn describe(tag: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let mut headers: Vec<String> =
        head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().expect("text"))).collect();
    headers.sort();
    let body = body.collect().await.expect("a body").to_bytes();
    let text =
        format!("{tag}\n{} {}\n{}\n\n{}", head.method, head.uri, headers.join("\n"), String::from_utf8_lossy(&body));
    Response::builder()
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-tag", tag)
        .body(Full::new(text.into()))
        .expect("an answer")
}

/// A backend made of raw sockets: `each` gets every connection with its number.
pub async fn raw<F, W>(each: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.expect("accepts");
            tokio::spawn(each(number, stream));
        }
    });
    address
}

/// Reads a request without a body up to its empty line.
pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).expect("text"))
}

/// An address where nobody listens. A port that was bound and let go may be given to another test.
pub fn closed() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 253], 9))
}

/// Sends bytes and reads until the other side closes.
pub async fn exchange(to: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connects");
    // It may refuse before it has read everything.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "not closed: {:.200}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}
