//! How many requests a second over HTTPS: server and clients in one process, sharing its cores.
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
    drain.cancel();
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

async fn work(
    what: &str,
    id: u64,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    end: Instant,
    done: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let tcp = tokio::net::TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect("localhost".try_into()?, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
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
