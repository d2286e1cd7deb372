//! The pull-through cache, in front of an upstream that counts what it is asked and answers when it is let.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use image::{Auth, Digest, ImageStore, ImportConfig, Upstream};
use registry::{Access, Config, Proxying, RegistryStore, Server};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An upstream of fixed answers.
#[derive(Default)]
struct Fake {
    /// By path: the type and the bytes.
    answers: Mutex<HashMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<String>>,
    /// Wanted of who asks, if set.
    token: Mutex<Option<String>>,
    /// Blobs wait for a permit, if set.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// All answers are errors of the server.
    down: std::sync::atomic::AtomicBool,
}

impl Fake {
    fn put(&self, path: &str, media_type: &str, bytes: &[u8]) -> Digest {
        self.answers.lock().unwrap().insert(path.to_owned(), (media_type.to_owned(), bytes.to_vec()));
        Digest::of(bytes)
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        self.put(&format!("/v2/{name}/blobs/{}", Digest::of(bytes)), "application/octet-stream", bytes)
    }

    /// An image of one layer, under its tag and digest.
    fn image(&self, name: &str, tag: &str, content: &[u8]) -> (Digest, Digest) {
        let (config, layer) = (self.blob(name, b"{}"), self.blob(name, content));
        let of = |media: &str, digest: &Digest| json!({"mediaType": media, "digest": digest.as_str(), "size": 1});
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": of("application/vnd.oci.image.config.v1+json", &config),
            "layers": [of("application/vnd.oci.image.layer.v1.tar", &layer)]});
        let bytes = manifest.to_string().into_bytes();
        self.put(&format!("/v2/{name}/manifests/{}", Digest::of(&bytes)), MANIFEST, &bytes);
        (self.put(&format!("/v2/{name}/manifests/{tag}"), MANIFEST, &bytes), layer)
    }

    fn count(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with(what)).count()
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.asked.lock().unwrap().push(format!("{} {path}", request.method()));
        let plain = |status: StatusCode, body: Vec<u8>| {
            let mut answer = Response::new(Full::new(Bytes::from(body)));
            *answer.status_mut() = status;
            answer
        };
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        if path == "/token" {
            // dTpw is u:p.
            let known = authorization.as_deref() == Some("Basic dTpw");
            let status = if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            return plain(status, json!({"token": "t1"}).to_string().into_bytes());
        }
        let wanted = self.token.lock().unwrap().clone();
        if let Some(realm) = wanted.filter(|_| authorization.as_deref() != Some("Bearer t1")) {
            let mut answer = plain(StatusCode::UNAUTHORIZED, Vec::new());
            let challenge = format!("Bearer realm=\"{realm}/token\",service=\"fake\"");
            answer.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return answer;
        }
        if self.down.load(std::sync::atomic::Ordering::SeqCst) {
            return plain(StatusCode::SERVICE_UNAVAILABLE, Vec::new());
        }
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate.filter(|_| path.contains("/blobs/") && request.method() == Method::GET) {
            gate.acquire().await.unwrap().forget();
        }
        let Some((media_type, bytes)) = self.answers.lock().unwrap().get(&path).cloned() else {
            return plain(StatusCode::NOT_FOUND, json!({"errors": []}).to_string().into_bytes());
        };
        let digest = Digest::of(&bytes);
        let mut answer = plain(StatusCode::OK, bytes);
        answer.headers_mut().insert("content-type", media_type.parse().unwrap());
        answer.headers_mut().insert("docker-content-digest", digest.as_str().parse().unwrap());
        answer
    }

    async fn listen(self: &Arc<Self>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let service = service_fn(move |request| {
                    let this = this.clone();
                    async move { Ok::<_, Infallible>(this.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }
}

struct Cache {
    address: SocketAddr,
    fake: Arc<Fake>,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

struct Reply {
    code: u16,
    digest: String,
    body: Result<Bytes, hyper::Error>,
}

impl Cache {
    async fn start(ttl: Duration, max_bytes: u64, auth: Option<Auth>) -> Cache {
        let fake = Arc::new(Fake::default());
        let upstream = fake.listen().await;
        let dir = tempfile::tempdir().unwrap();
        let (address, stop) = serve(dir.path(), Some((upstream, ttl, max_bytes, auth))).await;
        Cache { address, fake, stop, dir }
    }

    async fn send(&self, method: Method, path: &str, range: Option<&str>) -> Reply {
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "cache");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        let (code, headers) = (answer.status().as_u16(), answer.headers().clone());
        let digest = headers.get("docker-content-digest").map_or("", |v| v.to_str().unwrap()).to_owned();
        Reply { code, digest, body: answer.into_body().collect().await.map(http_body_util::Collected::to_bytes) }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None).await
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("blobs/sha256")).unwrap().count()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    dir: &std::path::Path,
    upstream: Option<(SocketAddr, Duration, u64, Option<Auth>)>,
) -> (SocketAddr, CancellationToken) {
    let store = RegistryStore::open(dir).unwrap();
    let proxy = upstream.map(|(address, ttl, max_bytes, auth)| {
        let upstream = Upstream::new(&format!("http://{address}"), auth).unwrap();
        Proxying { upstream, ttl, max_bytes }
    });
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config { listen, tls: None, access: Access::open(), max_blob: 8 << 20, proxy };
    let server = Server::start(store, config).await.unwrap();
    let (address, stop) = (server.address().unwrap(), CancellationToken::new());
    tokio::spawn(server.run(stop.clone()));
    (address, stop)
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_was_fetched_once_is_served_from_here_also_when_upstream_is_down() {
    let cache = Cache::start(LONG, 1 << 20, None).await;
    let (manifest, layer) = cache.fake.image("a/b", "1", b"content");
    for _ in 0..2 {
        let reply = cache.get("/v2/a/b/manifests/1").await;
        assert_eq!((reply.code, reply.digest.as_str()), (200, manifest.as_str()));
        assert_eq!(&cache.get(&format!("/v2/a/b/blobs/{layer}")).await.body.unwrap()[..], b"content");
    }
    assert_eq!((cache.fake.count("HEAD"), cache.fake.count("GET")), (1, 2));
    let part = cache.send(Method::GET, &format!("/v2/a/b/blobs/{layer}"), Some("bytes=2-3")).await;
    assert_eq!((part.code, &part.body.unwrap()[..]), (206, &b"nt"[..]));
    cache.fake.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(cache.get("/v2/a/b/manifests/1").await.code, 200);
    assert_eq!(cache.get("/v2/a/b/manifests/2").await.code, 502);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{}", Digest::of(b"none"))).await.code, 502);
    let tags: Value = serde_json::from_slice(&cache.get("/v2/a/b/tags/list").await.body.unwrap()).unwrap();
    assert_eq!(tags["tags"], json!(["1"]));
}

#[tokio::test]
async fn a_tag_is_asked_for_again_by_head_and_follows_upstream() {
    let cache = Cache::start(Duration::ZERO, 1 << 20, None).await;
    let (first, _) = cache.fake.image("a", "1", b"one");
    assert_eq!(cache.get("/v2/a/manifests/1").await.digest, first.as_str());
    assert_eq!(cache.get("/v2/a/manifests/1").await.digest, first.as_str());
    // The second time nothing was fetched.
    assert_eq!((cache.fake.count("HEAD"), cache.fake.count("GET")), (2, 1));
    let (second, _) = cache.fake.image("a", "1", b"two");
    assert_eq!(cache.get("/v2/a/manifests/1").await.digest, second.as_str());
    assert_eq!(cache.get(&format!("/v2/a/manifests/{first}")).await.code, 200);
    cache.fake.down.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(cache.get("/v2/a/manifests/1").await.digest, second.as_str());
    cache.fake.down.store(false, std::sync::atomic::Ordering::SeqCst);
    cache.fake.answers.lock().unwrap().clear();
    assert_eq!(cache.get("/v2/a/manifests/1").await.code, 404);
    assert_eq!(cache.get("/v2/a/manifests/nothing").await.code, 404);
}

#[tokio::test]
async fn many_that_want_a_blob_at_once_cost_one_fetch() {
    let cache = Cache::start(LONG, 8 << 20, None).await;
    let content: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()[..1].to_vec()).collect();
    let layer = cache.fake.blob("a", &content);
    let gate = Arc::new(Semaphore::new(0));
    *cache.fake.gate.lock().unwrap() = Some(gate.clone());
    let path = format!("/v2/a/blobs/{layer}");
    let mut range = Some("bytes=5-6");
    let wants: Vec<_> = (0..8).map(|_| cache.send(Method::GET, &path, range.take())).collect();
    let let_go = async { gate.add_permits(1) };
    let (replies, ()) = tokio::join!(futures::future::join_all(wants), let_go);
    for (n, reply) in replies.into_iter().enumerate() {
        let wanted = if n == 0 { &content[5..7] } else { &content[..] };
        assert!(reply.body.unwrap() == wanted, "{n}: {}", reply.code);
    }
    assert_eq!(cache.fake.count("GET"), 1);
}

#[tokio::test]
async fn content_that_is_not_what_was_asked_for_is_not_served_whole_and_not_kept() {
    let cache = Cache::start(LONG, 1 << 20, None).await;
    let wanted = Digest::of(b"good");
    cache.fake.put(&format!("/v2/a/blobs/{wanted}"), "application/octet-stream", b"evil");
    let reply = cache.get(&format!("/v2/a/blobs/{wanted}")).await;
    assert!(reply.body.is_err(), "a body that is wrong was whole");
    cache.fake.put(&format!("/v2/a/manifests/{wanted}"), MANIFEST, b"{}");
    assert_eq!(cache.get(&format!("/v2/a/manifests/{wanted}")).await.code, 502);
    assert_eq!(cache.kept(), 0);
    // Once upstream is right again, so is the answer.
    cache.fake.put(&format!("/v2/a/blobs/{wanted}"), "application/octet-stream", b"good");
    assert_eq!(&cache.get(&format!("/v2/a/blobs/{wanted}")).await.body.unwrap()[..], b"good");
}

#[tokio::test]
async fn nothing_is_pushed_to_a_cache() {
    let cache = Cache::start(LONG, 1 << 20, None).await;
    for (method, path) in [
        (Method::POST, "/v2/a/blobs/uploads/"),
        (Method::PUT, "/v2/a/manifests/1"),
        (Method::DELETE, "/v2/a/manifests/1"),
    ] {
        let reply = cache.send(method, path, None).await;
        let said: Value = serde_json::from_slice(&reply.body.unwrap()).unwrap();
        assert_eq!((reply.code, &said["errors"][0]["code"]), (405, &json!("UNSUPPORTED")), "{path}");
    }
    assert_eq!(cache.fake.count(""), 0);
}

#[tokio::test]
async fn the_cache_has_no_more_than_it_may() {
    let cache = Cache::start(LONG, 1000, None).await;
    let blobs: Vec<Digest> = (0..8u8).map(|n| cache.fake.blob("a", &[n; 300])).collect();
    for blob in &blobs {
        assert_eq!(cache.get(&format!("/v2/a/blobs/{blob}")).await.body.unwrap().len(), 300);
        assert!(cache.kept() <= 3, "{}", cache.kept());
    }
    let fetched = cache.fake.count("GET");
    assert_eq!(cache.get(&format!("/v2/a/blobs/{}", blobs[7])).await.code, 200);
    assert_eq!(cache.fake.count("GET"), fetched, "the newest is here");
    assert_eq!(cache.get(&format!("/v2/a/blobs/{}", blobs[0])).await.code, 200);
    assert_eq!(cache.fake.count("GET"), fetched + 1, "the oldest had gone");
    let large = cache.fake.blob("a", &[9; 2000]);
    assert_eq!(cache.get(&format!("/v2/a/blobs/{large}")).await.code, 507);
}

#[tokio::test]
async fn upstream_is_told_who_asks_by_a_token() {
    let auth = Auth::Basic { username: "u".into(), password: "p".into() };
    for (auth, code) in [(Some(auth), 200), (None, 403)] {
        let cache = Cache::start(LONG, 1 << 20, auth).await;
        cache.fake.image("a", "1", b"content");
        let realm = format!("http://{}", upstream_of(&cache).await);
        *cache.fake.token.lock().unwrap() = Some(realm);
        assert_eq!(cache.get("/v2/a/manifests/1").await.code, code);
    }
}

/// The fake listens once more, for its tokens.
async fn upstream_of(cache: &Cache) -> SocketAddr {
    cache.fake.listen().await
}

#[tokio::test]
async fn the_image_store_pulls_through_a_cache_of_our_registry() {
    let world = tempfile::tempdir().unwrap();
    let (origin, stop) = serve(&world.path().join("origin"), None).await;
    let store = ImageStore::open(&world.path().join("images")).unwrap();
    let tar = world.path().join("root.tar");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    let owner = std::fs::metadata(world.path()).unwrap();
    header.set_uid(u64::from(std::os::unix::fs::MetadataExt::uid(&owner)));
    header.set_gid(u64::from(std::os::unix::fs::MetadataExt::gid(&owner)));
    builder.append_data(&mut header, "file", &b"abc"[..]).unwrap();
    std::fs::write(&tar, builder.into_inner().unwrap()).unwrap();
    let pushed = format!("{origin}/team/app:1");
    store.import_rootfs(&tar, &pushed, &ImportConfig::default()).unwrap();
    let digest = store.push(&pushed, None, &()).await.unwrap();

    let (cache, stop_cache) = serve(&world.path().join("cache"), Some((origin, LONG, 1 << 20, None))).await;
    let other = ImageStore::open(&world.path().join("other")).unwrap();
    let pulled = other.pull(&format!("{cache}/team/app:1"), None, &()).await.unwrap();
    assert_eq!(pulled.manifest_digest, digest);
    stop.cancel();
    let third = ImageStore::open(&world.path().join("third")).unwrap();
    assert_eq!(third.pull(&format!("{cache}/team/app@{digest}"), None, &()).await.unwrap().manifest_digest, digest);
    assert!(third.push(&format!("{cache}/team/app:1"), None, &()).await.is_err());
    stop_cache.cancel();
}
