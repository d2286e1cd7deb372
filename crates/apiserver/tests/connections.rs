//! Clients that behave badly on the wire: they say half of what they announced, say nothing, or do not listen. Others notice
//! nothing of it, and what a bad client costs is bounded.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "api/common/mod.rs"]
mod common;
use std::net::SocketAddr;
use std::time::Duration;

use apiserver::Limits;
use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// For whatever must happen sooner or later.
const PATIENCE: Duration = Duration::from_secs(60);
const AUTH: &str = "Authorization: Bearer the-admin-token\r\nHost: localhost\r\n";

struct Wire {
    cluster: Cluster,
    address: SocketAddr,
    tls: tokio_rustls::TlsConnector,
    _drain: tokio_util::sync::DropGuard,
}

impl Wire {
    async fn start(change: impl FnOnce(&mut Limits)) -> Self {
        let cluster = Cluster::with(change).await;
        let drain = CancellationToken::new();
        let address = cluster.listen(drain.clone()).await;
        let tls = cluster.connector();
        Wire { cluster, address, tls, _drain: drain.drop_guard() }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        wire::connect(&self.tls, self.address).await
    }

    /// Sends a request whole and returns the code and body of the answer; the connection is closed after it.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> (u16, String) {
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text));
    // How a connection ends is not the question here.
    let _ = read.await.expect("the server answers in time");
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = text.split(' ').nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    (code, text.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{AUTH}Connection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_long_are_refused_announced_or_not() {
    let wire = Wire::start(|limits| limits.body_bytes = 64 << 10).await;
    let head = format!("POST {CONFIG_MAPS} HTTP/1.1\r\n{AUTH}Content-Type: application/json\r\nConnection: close\r\n");
    let announced = wire.ask(&format!("{head}Content-Length: 65537\r\n\r\n")).await;
    assert_eq!(announced.0, 413, "{}", announced.1);
    assert!(announced.1.contains("limit is 65536"));
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let chunked = wire.ask(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(17))).await;
    assert_eq!(chunked.0, 413, "{}", chunked.1);
    let object = config_map("a").to_string();
    let whole = wire.ask(&format!("{head}Content-Length: {}\r\n\r\n{object}", object.len())).await;
    assert_eq!(whole.0, 201, "{}", whole.1);
    // Lengths that contradict each other are how requests are smuggled.
    let both = wire.ask(&format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n{{}}")).await;
    assert_eq!(both.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_hold_their_place_no_longer_than_their_connection() {
    let wire = Wire::start(|limits| limits.writes_in_flight = 2).await;
    let mut half = Vec::new();
    for (i, sent) in ["", "{\"apiVersion\":"].into_iter().enumerate() {
        let mut stream = wire.connect().await;
        let head = format!("POST {CONFIG_MAPS} HTTP/1.1\r\n{AUTH}Content-Type: application/json\r\n");
        // The answer to "Expect" says that the body is awaited: the place is taken.
        stream
            .write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut go_on = [0; 25];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut go_on)).await.unwrap().unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n", "{i}");
        stream.write_all(sent.as_bytes()).await.unwrap();
        half.push(stream);
    }
    assert_eq!(wire.ask(&get(CONFIG_MAPS)).await.0, 200, "reading goes on");
    half.pop().unwrap().shutdown().await.unwrap();
    let admin = wire.cluster.admin();
    let made = tokio::time::timeout(PATIENCE, async {
        // Until the server has noticed, writes are turned away after a while.
        while admin.post(CONFIG_MAPS, &config_map("a")).await.code == 429 {}
    });
    made.await.expect("the place of a broken request is free again");
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a")).await.code, 200);
    // Less than a head is less than a request.
    let mut stream = wire.connect().await;
    stream.write_all(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: local").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut plain = TcpStream::connect(wire.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut nothing = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut nothing)).await.expect("no TLS, no connection");
    assert!(!nothing.starts_with(b"HTTP/"));
    assert_eq!(wire.ask(&get(CONFIG_MAPS)).await.0, 200);
}

/// The most files this process may have open, now that it asks for as many.
fn descriptors() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_are_in_nobodys_way() {
    // Both ends are in this process. Most stop before TLS, which is what takes long in a test; some go all the way.
    let count = 10_000.min(descriptors().saturating_sub(200) / 2);
    println!("{count} idle connections with {} descriptors", descriptors());
    let wire = Wire::start(|_| {}).await;
    let mut idle = Vec::new();
    for _ in 0..count - 50 {
        idle.push(TcpStream::connect(wire.address).await.unwrap());
    }
    let mut secured = Vec::new();
    for _ in 0..50 {
        secured.push(wire.connect().await);
    }
    assert_eq!(wire.ask(&get(CONFIG_MAPS)).await.0, 200);
    for stream in &mut secured {
        stream.write_all(get("/readyz").as_bytes()).await.unwrap();
        assert_eq!(answer(stream).await, (200, "ok".into()), "an idle connection is still good");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let wire = Wire::start(|limits| limits.connections = 4).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(wire.connect().await);
    }
    let request = get("/readyz");
    let mut fifth = std::pin::pin!(wire.ask(&request));
    // It cannot be served while the others are there, however long that is; half a moment shows only the gross mistake.
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut fifth).await.is_err());
    drop(open.pop());
    assert_eq!(fifth.await, (200, "ok".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_is_ended_and_others_miss_nothing() {
    const SIZE: usize = 200 << 10;
    const UPDATES: usize = 150;
    let wire = Wire::start(|limits| limits.ring_bytes = 4 * SIZE).await;
    let admin = wire.cluster.admin();
    let mut object = config_map("a");
    object["data"]["k"] = "x".repeat(SIZE).into();
    admin.create(CONFIG_MAPS, &object).await;
    // A small window, so that the kernel holds little.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let tcp = socket.connect(wire.address).await.unwrap();
    let mut slow = wire.tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    slow.write_all(get(&format!("{CONFIG_MAPS}?watch=1")).as_bytes()).await.unwrap();
    let mut first = [0; 17];
    tokio::time::timeout(PATIENCE, slow.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
    let mut quick = admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(quick.brief().await.0, "ADDED");
    for n in 0..UPDATES {
        let patch = json!({"data": {"n": n.to_string()}});
        assert_eq!(admin.patch(&format!("{CONFIG_MAPS}/a"), "merge", &patch).await.code, 200);
        let seen = quick.next().await.unwrap();
        assert_eq!((&seen["type"], &seen["object"]["data"]["n"]), (&json!("MODIFIED"), &json!(n.to_string())));
    }
    // Now the slow one reads: what the kernel and one piece held, then that it was too slow.
    let mut text = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut text)).await.expect("the watch has ended");
    assert!(text.len() < UPDATES * SIZE / 2, "{} bytes were held for it", text.len());
    let text = String::from_utf8_lossy(&text);
    let error = text.lines().rev().find(|l| l.starts_with(r#"{"type":"ERROR""#)).expect("its last line says why");
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!((&error["object"]["code"], &error["object"]["reason"]), (&json!(410), &json!("Expired")));
}

/// What a watch was sent: type, name and the number of the update.
async fn seen(watch: &mut Watch, count: usize) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for _ in 0..count {
        let line = watch.next().await.expect("the watch is open");
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let object = &line["object"];
        out.push((text(&line["type"]), text(&object["metadata"]["name"]), text(&object["data"]["n"])));
    }
    out
}

#[tokio::test]
async fn watches_that_share_what_they_are_sent_see_what_each_alone_would() {
    const OBJECTS: usize = 5;
    const UPDATES: usize = 120;
    const EACH: usize = 12;
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut groups = ["y"; OBJECTS];
    let mut from = String::new();
    for (i, group) in groups.iter().enumerate() {
        let made = admin.create(CONFIG_MAPS, &labelled(&format!("o{i}"), "group", group)).await;
        from = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    }
    // Objects come into sight of the second kind of watch, and leave it.
    let sights = ["", "&labelSelector=group%3Dx", "&fieldSelector=metadata.name%3Do3"];
    let mut watches = Vec::new();
    for _ in 0..EACH {
        for (sight, selector) in sights.iter().enumerate() {
            let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}{selector}");
            watches.push((sight, 0, admin.watch(&path).await));
        }
    }
    let mut wanted: [Vec<(String, String, String)>; 3] = Default::default();
    for n in 0..UPDATES {
        let (i, group) = (n % OBJECTS, if n % 3 == 0 { "x" } else { "y" });
        let patch = json!({"metadata": {"labels": {"group": group}}, "data": {"n": n.to_string()}});
        assert_eq!(admin.patch(&format!("{CONFIG_MAPS}/o{i}"), "merge", &patch).await.code, 200);
        let (was, is) = (std::mem::replace(&mut groups[i], group) == "x", group == "x");
        let event = |word: &str, n: String| (word.to_owned(), format!("o{i}"), n);
        wanted[0].push(event("MODIFIED", n.to_string()));
        // An object that leaves is shown as it was.
        let before = if n < OBJECTS { String::new() } else { (n - OBJECTS).to_string() };
        match (was, is) {
            (true, true) => wanted[1].push(event("MODIFIED", n.to_string())),
            (false, true) => wanted[1].push(event("ADDED", n.to_string())),
            (true, false) => wanted[1].push(event("DELETED", before)),
            (false, false) => {}
        }
        if i == 3 {
            wanted[2].push(event("MODIFIED", n.to_string()));
        }
        // Some read on the way, so that not all stand at the same place.
        if n == UPDATES / 2 {
            for (sight, read, watch) in watches.iter_mut().step_by(2) {
                let count = wanted[*sight].len();
                assert_eq!(seen(watch, count).await, wanted[*sight]);
                *read = count;
            }
        }
    }
    for (sight, read, watch) in &mut watches {
        let rest = &wanted[*sight][*read..];
        assert_eq!(seen(watch, rest.len()).await, rest, "sight {sight}");
    }
}
