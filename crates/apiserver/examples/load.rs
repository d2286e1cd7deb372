//! How many requests a second over HTTPS, and how many events to watches: server and clients in one process, sharing its
//! cores, over a store in memory.
//! `cargo run --release -p apiserver --example load -- [connections] [seconds]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apiserver::{ApiServer, Config};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let (connections, seconds) = (args.next().unwrap_or(32), args.next().unwrap_or(5));
    let dir = std::env::temp_dir().join(format!("windlass-load-{}", std::process::id()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let config = Config::new(dir.join("pki"), address, "10.96.0.0/16".parse()?);
    let server = ApiServer::new(Arc::new(store::memory::MemoryStore::new()), config).await?;
    let drain = tokio_util::sync::CancellationToken::new();
    tokio::spawn(server.clone().serve(listener, drain.clone()));

    let pki = server.pki();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.ca_der()?)?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(pki.admin().chain()?, pki.admin().key()?)?;
    let tls = Arc::new(tls);
    for what in ["create", "get", "patch", "list"] {
        let done = Arc::new(AtomicU64::new(0));
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut tasks = Vec::new();
        for id in 0..connections {
            tasks.push(tokio::spawn(work(what, id, address, tls.clone(), end, done.clone())));
        }
        for task in tasks {
            task.await??;
        }
        println!("{what:>7}: {:>7} /s", done.load(Ordering::Relaxed) / seconds);
    }
    for accept in ["application/json", "application/vnd.kubernetes.protobuf"] {
        watches(address, &tls, accept).await?;
    }
    drain.cancel();
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

const WATCHERS: usize = 100;
const UPDATES: usize = 1000;
/// The changed value is in the last so many bytes of an event.
const END: usize = 64;

/// One object is changed, and many watch it.
async fn watches(address: SocketAddr, tls: &Arc<rustls::ClientConfig>, accept: &'static str) -> Result<(), Failure> {
    const PATH: &str = "/api/v1/namespaces/default/configmaps/watched";
    let mut writer = connect(address, tls.clone()).await?;
    let data = "x".repeat(1024);
    let body =
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"watched"}},"data":{{"k":"{data}"}}}}"#);
    let all = "/api/v1/namespaces/default/configmaps";
    send(&mut writer, Method::POST, all, "application/json", body, 201).await?;
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let (tls, ready) = (tls.clone(), ready.clone());
        watchers.push(tokio::spawn(async move {
            let mut sender = connect(address, tls).await?;
            let path = format!("{all}?watch=1&fieldSelector=metadata.name%3Dwatched");
            let request = Request::get(path).header("host", "localhost").header("accept", accept);
            let mut body = sender.send_request(request.body(Full::new(Bytes::new()))?).await?.into_body();
            ready.add_permits(1);
            let last = format!("last-{}", UPDATES - 1);
            let (mut pieces, mut bytes) = (0usize, Vec::new());
            // What is looked for is the end of the last event, which may come in several pieces.
            while !bytes.windows(last.len()).any(|w| w == last.as_bytes()) {
                let Some(frame) = body.frame().await else { return Err("a watch ended early".into()) };
                bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
                bytes.drain(..bytes.len().saturating_sub(END));
                pieces += 1;
            }
            Ok::<_, Failure>(pieces)
        }));
    }
    drop(ready.acquire_many(WATCHERS as u32).await?);
    let started = Instant::now();
    for n in 0..UPDATES {
        let patch = format!(r#"{{"data":{{"n":"last-{n}"}}}}"#);
        send(&mut writer, Method::PATCH, PATH, "application/merge-patch+json", patch, 200).await?;
    }
    let written = started.elapsed();
    let mut pieces = 0;
    for watcher in watchers {
        pieces += watcher.await??;
    }
    let events = (WATCHERS * UPDATES) as f64 / started.elapsed().as_secs_f64();
    let updates = UPDATES as f64 / written.as_secs_f64();
    println!(
        "  watch: {events:>7.0} events/s, {updates:.0} updates/s, {} pieces a watch ({accept})",
        pieces / WATCHERS
    );
    send(&mut writer, Method::DELETE, PATH, "", String::new(), 200).await
}

async fn connect(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let tcp = tokio::net::TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect("localhost".try_into()?, tcp).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn work(
    what: &str,
    id: u64,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    end: Instant,
    done: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let mut sender = connect(address, tls).await?;
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let mut n = 0u64;
    while Instant::now() < end {
        n += 1;
        let name = format!("load-{id}-{n}");
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"load"}}}},"data":{{"key":"{}"}}}}"#,
            "x".repeat(400)
        );
        let (method, path, kind, body, code) = match what {
            "create" => (Method::POST, MAPS.to_owned(), "application/json", body, 201),
            "get" => (Method::GET, format!("{MAPS}/load-{id}-1"), "", String::new(), 200),
            "patch" => {
                let body = format!(r#"{{"data":{{"n":"{n}"}}}}"#);
                (Method::PATCH, format!("{MAPS}/load-{id}-1"), "application/merge-patch+json", body, 200)
            }
            _ => (Method::GET, format!("{MAPS}?limit=100"), "", String::new(), 200),
        };
        send(&mut sender, method, &path, kind, body, code).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    kind: &str,
    body: String,
    code: u16,
) -> Result<(), Failure> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if !kind.is_empty() {
        request = request.header("content-type", kind);
    }
    sender.ready().await?;
    let answer = sender.send_request(request.body(Full::new(body.into()))?).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    if status != code {
        return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&bytes)).into());
    }
    Ok(())
}
