//! Requests through the server to backends in this process.

#![allow(missing_docs)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ingress::{CertificatePem, Input, Limits, RouteTable};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_request_passes_with_its_client_and_without_its_connection() {
    let web = backend("web").await;
    let front = front(&[web.address], Limits::default()).await;
    let mut post = request(front.address, "POST", "/a/b?c=d%20e", "hello");
    let headers = post.headers_mut();
    headers.insert("host", "Shop.example:8080".parse().expect("a value"));
    headers.insert("x-forwarded-for", "6.6.6.6".parse().expect("a value"));
    headers.insert("keep-alive", "5".parse().expect("a value"));
    let response = client().request(post).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("x-hop").is_none(), "named by the connection header");
    let text = response.into_body().collect().await.expect("a body").to_bytes();
    let expected = format!(
        "web\nPOST /a/b?c=d%20e\ncontent-length: 5\nhost: Shop.example:8080\nx-forwarded-for: 127.0.0.1\n\
         x-forwarded-host: Shop.example:8080\nx-forwarded-port: {}\nx-forwarded-proto: http\nx-real-ip: 127.0.0.1\n\nhello",
        front.address.port()
    );
    assert_eq!(String::from_utf8_lossy(&text), expected);
}

#[tokio::test]
async fn every_failure_has_its_status() {
    let silent = raw(|_, stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let rude = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let limits = Limits { response: Duration::from_millis(100), ..Limits::default() };
    let front = front(&[], limits).await;
    assert_eq!(get(front.address, "/").await.0, 503, "no endpoint");
    front.server.set_routes(table(&[closed()]));
    assert_eq!(get(front.address, "/").await.0, 502, "refused");
    front.server.set_routes(table(&[rude]));
    assert_eq!(get(front.address, "/").await.0, 502, "closed without an answer");
    front.server.set_routes(table(&[silent]));
    assert_eq!(get(front.address, "/").await.0, 504, "no answer");
    front.server.set_routes(Arc::new(RouteTable::default()));
    let (status, text) = get(front.address, "/").await;
    assert_eq!((status, text.as_str()), (404, "not found: no ingress has this host and path\n"));
    let stats = front.server.stats();
    assert_eq!((stats.requests, stats.by_class[5], stats.by_class[4], stats.unrouted), (5, 4, 1, 1));
}

#[tokio::test]
async fn hosts_that_can_be_read_in_two_ways_are_refused() {
    let web = backend("web").await;
    let front = front(&[web.address], Limits::default()).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n", "400"),
        ("GET http://real/ HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n", "200"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "400"),
    ] {
        let answer = exchange(front.address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
        assert!(status != "200" || answer.contains("host: real"), "{answer}");
    }
    // A length beside chunks: the chunks count, and the endpoint is not told of the length.
    let smuggled = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                    5\r\nhello\r\n0\r\n\r\n";
    let answer = exchange(front.address, smuggled).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") || answer.contains("\n\nhello") && !answer.contains("content-length: 3"),
        "{answer}"
    );
}

#[tokio::test]
async fn connections_to_endpoints_are_kept() {
    let web = backend("web").await;
    let front = front(&[web.address], Limits::default()).await;
    let client = client();
    for i in 0..50 {
        let (status, _) = fetch(&client, request(front.address, ["GET", "POST"][i % 2], "/", ["", "x"][i % 2])).await;
        assert_eq!(status, 200);
    }
    assert_eq!(web.connections.load(Ordering::SeqCst), 1);
    let stats = front.server.stats();
    assert_eq!((stats.connects, stats.reused, stats.retries), (1, 49, 0));
    // It leaves the table: the kept connection closes, and the backend can end.
    front.server.set_routes(table(&[]));
    web.drain.cancel();
    tokio::time::timeout(Duration::from_secs(60), web.done).await.expect("the connection closed").expect("ended");
}

#[tokio::test]
async fn an_endpoint_that_closes_kept_connections_fails_no_request() {
    // Says keep-alive, and closes at once.
    let fickle = raw(|_, mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("sent");
        }
    })
    .await;
    let front = front(&[fickle], Limits::default()).await;
    let client = client();
    for _ in 0..200 {
        assert_eq!(fetch(&client, request(front.address, "GET", "/", "")).await, (200, "ok".into()));
    }
}

#[tokio::test]
async fn only_what_may_be_repeated_is_repeated() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let rude = raw(move |_, mut stream| {
        let count = count.clone();
        async move {
            if read_head(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let front = front(&[rude], Limits::default()).await;
    let client = client();
    assert_eq!(fetch(&client, request(front.address, "POST", "/", "once")).await.0, 502);
    assert_eq!(seen.swap(0, Ordering::SeqCst), 1, "a POST that an endpoint has seen is never sent again");
    let web = backend("web").await;
    front.server.set_routes(table(&[rude, web.address]));
    for _ in 0..10 {
        let (status, text) = fetch(&client, request(front.address, "PUT", "/", "again")).await;
        assert_eq!(status, 200);
        assert!(text.ends_with("\n\nagain"), "with its body: {text}");
    }
    // Nobody listens at one of them: nothing was sent, so anything may be tried at the other.
    front.server.set_routes(table(&[closed(), web.address]));
    for _ in 0..10 {
        let (status, text) = fetch(&client, request(front.address, "POST", "/", "kept")).await;
        assert_eq!(status, 200);
        assert!(text.ends_with("\n\nkept"));
    }
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let echo = raw(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("sent");
        // Chunks come framed as they were sent, and go back the same.
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..n]).await.expect("sent");
        }
    })
    .await;
    let front = front(&[echo], Limits::default()).await;
    let stream = TcpStream::connect(front.address).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let (give, take) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures::stream::unfold(take, |mut take| async move {
        let bytes = take.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes)), take))
    });
    let post = http::Request::post("/").header("host", "h").body(StreamBody::new(Box::pin(frames))).expect("a request");
    let mut body = sender.send_request(post).await.expect("an answer before the body ends").into_body();
    for word in ["one", "two", "three"] {
        give.send(word.into()).await.expect("taken");
        let mut got = Vec::new();
        while got.len() < word.len() {
            got.extend_from_slice(&body.frame().await.expect("more").expect("a frame").into_data().expect("data"));
        }
        assert_eq!(got, word.as_bytes(), "each part comes back before the next is sent");
    }
    drop(give);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let web = backend("web").await;
    let front = front(&[web.address], Limits { body_bytes: 1000, ..Limits::default() }).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\n";
    let announced = exchange(front.address, &format!("{head}content-length: 1001\r\n\r\n")).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
    let chunked = exchange(front.address, &format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}")).await;
    assert!(refused(&chunked, "413"), "{chunked:.200}");
    let fits = format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert!(exchange(front.address, &fits).await.starts_with("HTTP/1.1 200"));
    let huge = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let answer = exchange(front.address, &huge).await;
    assert!(refused(&answer, "431"), "{answer:.200}");
}

/// The answer, or nothing: what is still unread when the server closes makes the kernel cut the connection, and that may
/// overtake the answer.
fn refused(answer: &str, status: &str) -> bool {
    answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}"))
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_cut_off() {
    let front = front(&[], Limits { header_time: Duration::from_millis(100), ..Limits::default() }).await;
    for bytes in ["", "G", "PRI * HTTP/2.0", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        exchange(front.address, bytes).await;
    }
    let answer = exchange(front.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "and a whole one is answered, then idle, then closed");
}

#[tokio::test]
async fn an_upgrade_becomes_a_pipe() {
    let echo = raw(|_, mut stream| async move {
        let head = read_head(&mut stream).await.expect("a request");
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: abc"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: xyz\r\n\r\nearly";
        stream.write_all(answer.as_bytes()).await.expect("sent");
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.expect("copied");
    })
    .await;
    let front = front(&[echo], Limits::default()).await;
    let mut stream = TcpStream::connect(front.address).await.expect("connects");
    let ask =
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.expect("sent");
    let head = read_head(&mut stream).await.expect("an answer").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("sec-websocket-accept: xyz"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.expect("received");
    assert_eq!(&buffer, b"early");
    stream.write_all(b"frame").await.expect("sent");
    stream.read_exact(&mut buffer).await.expect("received");
    assert_eq!(&buffer, b"frame");
    assert_eq!(front.server.stats().upgrades_open, 1);
    front.drain.cancel();
    assert_eq!(stream.read(&mut buffer).await.unwrap_or(0), 0, "ends with the server");
}

fn certificate(name: &str) -> (CertificatePem, rustls_pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let pem = CertificatePem {
        chain: made.cert.pem().into_bytes().into(),
        key: made.signing_key.serialize_pem().into_bytes().into(),
    };
    (pem, made.cert.der().clone())
}

#[tokio::test]
async fn tls_serves_both_versions_of_http_with_the_certificate_of_the_host() {
    let web = backend("web").await;
    let front = front(&[web.address], Limits::default()).await;
    let (pem, trusted) = certificate("shop.example");
    let ingress: Ingress = object(json!({
        "metadata": { "name": "i", "namespace": "n" },
        "spec": { "tls": [{ "hosts": ["shop.example"], "secretName": "s" }] },
    }));
    let plain = table(&[web.address]);
    assert_eq!(plain.backends().len(), 1);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).expect("added");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    front.server.set_routes(Arc::new(RouteTable::build(&Input {
        ingresses: vec![&ingress],
        certificates: [(("n".to_owned(), "s".to_owned()), pem)].into(),
        ..Input::default()
    })));
    for alpn in ["h2", "http/1.1"] {
        tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.clone()));
        let connect = |name: &'static str| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(front.secure).await.expect("connects");
                connector.connect(name.try_into().expect("a name"), stream).await
            }
        };
        connect("other.example").await.expect_err("no certificate for that name");
        let stream = connect("shop.example").await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let ask = http::Request::get("https://shop.example/x").header("host", "shop.example");
        let ask = ask.body(Empty::<Bytes>::new()).expect("a request");
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
            tokio::spawn(connection);
            sender.send_request(ask).await.expect("an answer")
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("h1");
            tokio::spawn(connection);
            sender.send_request(ask).await.expect("an answer")
        };
        assert_eq!(response.status(), 404, "routed: that table has no paths");
    }
    assert_eq!(front.server.stats().tls_failures, 2);
}

#[tokio::test]
async fn a_drained_server_finishes_what_it_began() {
    let (begun, mut began) = tokio::sync::mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = raw(move |_, mut stream| {
        let (begun, mut released) = (begun.clone(), released.clone());
        async move {
            read_head(&mut stream).await;
            begun.send(()).await.expect("heard");
            released.wait_for(|r| *r).await.expect("released");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await.expect("sent");
        }
    })
    .await;
    let front = front(&[slow], Limits::default()).await;
    let under_way = tokio::spawn(get(front.address, "/"));
    began.recv().await.expect("begun");
    front.drain.cancel();
    while TcpStream::connect(front.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!front.done.is_finished());
    release.send(true).expect("heard");
    assert_eq!(under_way.await.expect("ended"), (200, "slow".into()));
    front.done.await.expect("ended");
}

/// A rolling update, over and over, under load: new backends come, old ones leave the table and end `linger` later.
async fn replace_under_load(requests: [(&'static str, &'static str); 2], linger: Duration) {
    let new = || backend_that_lingers("web", linger);
    let mut running = vec![new().await, new().await, new().await];
    let addresses = |backends: &[Backend]| backends.iter().map(|b| b.address).collect::<Vec<SocketAddr>>();
    let front = front(&addresses(&running), Limits::default()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load = (0..16usize).map(|worker| {
        let (stop, answered, address) = (stop.clone(), answered.clone(), front.address);
        tokio::spawn(async move {
            let client = client();
            for (method, body) in requests.iter().cycle().skip(worker) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (status, text) = fetch(&client, request(address, method, "/", body)).await;
                assert!(status == 200 && text.ends_with(body), "{method}: {status} {text}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..8 {
        let enough = answered.load(Ordering::Relaxed) + 100;
        running.push(new().await);
        front.server.set_routes(table(&addresses(&running)));
        let old = running.remove(0);
        front.server.set_routes(table(&addresses(&running)));
        old.drain.cancel();
        tokio::time::timeout(Duration::from_secs(30), old.done).await.expect("drains").expect("ended");
        while answered.load(Ordering::Relaxed) < enough && !load.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.expect("no request failed");
    }
    println!("{} requests, {:?}", answered.load(Ordering::Relaxed), front.server.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_repeatable_request_fails_when_endpoints_end_at_once() {
    replace_under_load([("GET", ""), ("PUT", "payload")], Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_at_all_fails_when_endpoints_serve_on_for_a_moment() {
    replace_under_load([("GET", ""), ("POST", "payload")], Duration::from_millis(300)).await;
}
