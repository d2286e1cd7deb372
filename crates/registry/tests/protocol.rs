//! The registry as clients meet it: over HTTP, and by the image store's own push and pull.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use image::{Digest, ImageStore, ImportConfig};
use registry::{Access, Config, RegistryStore, Server, sweep};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct World {
    dir: tempfile::TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    done: Option<tokio::task::JoinHandle<()>>,
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    fn error(&self) -> (u16, String) {
        (self.code, self.json()["errors"][0]["code"].as_str().unwrap().to_owned())
    }
}

impl World {
    async fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Access::open(), 1 << 20).await
    }

    async fn with(dir: tempfile::TempDir, access: Access, max_blob: u64) -> Self {
        let store = RegistryStore::open(dir.path()).unwrap();
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), tls: None, access, max_blob, proxy: None };
        let server = Server::start(store, config).await.unwrap();
        let (address, stop) = (server.address().unwrap(), CancellationToken::new());
        let done = Some(tokio::spawn(server.run(stop.clone())));
        World { dir, address, stop, done }
    }

    /// The same files under a new process, as it were.
    async fn again(mut self) -> Self {
        self.stop.cancel();
        self.done.take().unwrap().await.unwrap();
        Self::with(self.dir, Access::open(), 1 << 20).await
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], b"").await
    }

    async fn blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let answer = self.send(Method::POST, &path, &[], bytes).await;
        assert_eq!((answer.code, answer.header("docker-content-digest")), (201, digest.as_str()));
        digest
    }

    async fn put(&self, name: &str, reference: &str, media_type: &str, document: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send(Method::PUT, &path, &[("content-type", media_type)], document.to_string().as_bytes()).await
    }

    /// An image of one config and one layer, tagged.
    async fn image(&self, name: &str, tag: &str, content: &str) -> Digest {
        let config = self.blob(name, format!("{{\"of\":\"{content}\"}}").as_bytes()).await;
        let layer = self.blob(name, content.as_bytes()).await;
        let made = self.put(name, tag, MANIFEST, &manifest(&config, &layer)).await;
        assert_eq!(made.code, 201);
        made.header("docker-content-digest").parse().unwrap()
    }
}

fn descriptor(media_type: &str, digest: &Digest) -> Value {
    json!({"mediaType": media_type, "digest": digest.as_str(), "size": 1})
}

fn manifest(config: &Digest, layer: &Digest) -> Value {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)]})
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_across_a_restart_and_read_in_parts() {
    let world = World::start().await;
    let base = world.get("/v2/").await;
    assert_eq!((base.code, base.header("docker-distribution-api-version")), (200, "registry/2.0"));
    let begun = world.send(Method::POST, "/v2/a/b/blobs/uploads/", &[], b"").await;
    assert_eq!((begun.code, begun.header("range")), (202, "0-0"));
    let at = begun.header("location").to_owned();
    let sent = world.send(Method::PATCH, &at, &[("content-range", "0-4")], b"hello").await;
    assert_eq!((sent.code, sent.header("range")), (202, "0-4"));
    let early = world.send(Method::PATCH, &at, &[("content-range", "9-10")], b"xx").await;
    assert_eq!(early.error(), (416, "BLOB_UPLOAD_INVALID".into()));
    let world = world.again().await;
    let asked = world.get(&at).await;
    assert_eq!((asked.code, asked.header("range")), (204, "0-4"));
    assert_eq!(world.send(Method::PATCH, &at, &[], b" wor").await.header("range"), "0-8");
    let digest = Digest::of(b"hello world");
    let done = world.send(Method::PUT, &format!("{at}?digest={digest}"), &[], b"ld").await;
    assert_eq!((done.code, done.header("location")), (201, format!("/v2/a/b/blobs/{digest}").as_str()));
    assert_eq!(world.get(&at).await.error(), (404, "BLOB_UPLOAD_UNKNOWN".into()));

    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = world.get(&path).await;
    assert_eq!((whole.code, &whole.body[..]), (200, &b"hello world"[..]));
    let part = world.send(Method::GET, &path, &[("range", "bytes=6-")], b"").await;
    assert_eq!((part.code, &part.body[..], part.header("content-range")), (206, &b"world"[..], "bytes 6-10/11"));
    let beyond = world.send(Method::GET, &path, &[("range", "bytes=11-")], b"").await;
    assert_eq!((beyond.code, beyond.header("content-range")), (416, "bytes */11"));
    let head = world.send(Method::HEAD, &path, &[], b"").await;
    assert_eq!((head.code, head.header("content-length"), head.body.len()), (200, "11", 0));
    let known = world.send(Method::GET, &path, &[("if-none-match", whole.header("etag"))], b"").await;
    assert_eq!(known.code, 304);
    // The blob is the repository's: another one has it when it is mounted.
    let other = format!("/v2/other/blobs/{digest}");
    assert_eq!(world.get(&other).await.error(), (404, "BLOB_UNKNOWN".into()));
    let from = |from: &str| format!("/v2/other/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(world.send(Method::POST, &from("nobody"), &[], b"").await.code, 202);
    assert_eq!(world.send(Method::POST, &from("a%2Fb"), &[], b"").await.code, 201);
    assert_eq!(world.get(&other).await.body, whole.body);
    assert_eq!(world.send(Method::DELETE, &other, &[], b"").await.code, 202);
    assert_eq!((world.get(&other).await.code, world.get(&path).await.code), (404, 200));
}

#[tokio::test]
async fn content_that_is_not_what_it_is_said_to_be_is_never_seen() {
    let world = World::start().await;
    let claimed = Digest::of(b"good");
    let path = format!("/v2/a/blobs/uploads/?digest={claimed}");
    assert_eq!(world.send(Method::POST, &path, &[], b"evil").await.error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(world.get(&format!("/v2/a/blobs/{claimed}")).await.code, 404);
    let begun = world.send(Method::POST, "/v2/a/blobs/uploads/", &[], b"").await;
    let at = begun.header("location").to_owned();
    assert_eq!(world.send(Method::PUT, &at, &[], b"").await.error(), (400, "DIGEST_INVALID".into()));
    // An upload is found under its own repository only.
    assert_eq!(world.get(&at.replace("/v2/a/", "/v2/b/")).await.code, 404);
    assert_eq!(world.send(Method::DELETE, &at, &[], b"").await.code, 204);
    assert_eq!(world.get(&at).await.code, 404);
    let large = vec![0; (1 << 20) + 1];
    let path = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(&large));
    assert_eq!(world.send(Method::POST, &path, &[], &large).await.error(), (413, "SIZE_INVALID".into()));
    let left: Vec<_> = std::fs::read_dir(world.dir.path().join("uploads")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let (here, away) = (world.blob("a", b"c").await, Digest::of(b"away"));
    let refused = world.put("a", "v1", MANIFEST, &manifest(&here, &away)).await;
    assert_eq!(refused.error(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(world.put("a", "v1", "text/plain", &manifest(&here, &here)).await.error().1, "MANIFEST_INVALID");
    let other = world.put("a", away.as_str(), MANIFEST, &manifest(&here, &here)).await;
    assert_eq!(other.error(), (400, "DIGEST_INVALID".into()));
    assert_eq!(world.get("/v2/a/manifests/v1").await.error(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(world.get("/v2/none/tags/list").await.error(), (404, "NAME_UNKNOWN".into()));
    assert_eq!(world.get("/v2/Bad/tags/list").await.error(), (400, "NAME_INVALID".into()));
    let wrong = world.send(Method::PUT, "/v2/a/tags/list", &[], b"").await;
    assert_eq!((wrong.code, wrong.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn manifests_are_listed_by_tag_and_by_what_they_refer_to() {
    let world = World::start().await;
    let image = world.image("a", "v1", "one").await;
    for tag in ["v3", "v2"] {
        world.image("a", tag, "one").await;
    }
    let got = world.get("/v2/a/manifests/v2").await;
    assert_eq!((got.header("content-type"), got.header("docker-content-digest")), (MANIFEST, image.as_str()));
    assert_eq!(Digest::of(&got.body), image);
    let first = world.get("/v2/a/tags/list?n=2").await;
    assert_eq!(first.json(), json!({"name": "a", "tags": ["v1", "v2"]}));
    assert_eq!(first.header("link"), "</v2/a/tags/list?last=v2&n=2>; rel=\"next\"");
    let last = world.get("/v2/a/tags/list?last=v2&n=2").await;
    assert_eq!((last.json()["tags"].clone(), last.headers.contains_key("link")), (json!(["v3"]), false));
    assert_eq!(world.get("/v2/_catalog").await.json(), json!({"repositories": ["a"]}));

    let config = world.blob("a", b"{}").await;
    let signed = |kind: &str| {
        let mut signature = manifest(&config, &config);
        signature["subject"] = descriptor(MANIFEST, &image);
        signature["artifactType"] = kind.into();
        signature
    };
    let made = world.put("a", "sig", MANIFEST, &signed("example/signature")).await;
    assert_eq!((made.code, made.header("oci-subject")), (201, image.as_str()));
    world.put("a", "sbom", MANIFEST, &signed("example/sbom")).await;
    let of = |query: &str| format!("/v2/a/referrers/{image}{query}");
    assert_eq!(world.get(&of("")).await.json()["manifests"].as_array().unwrap().len(), 2);
    let some = world.get(&of("?artifactType=example/sbom")).await;
    assert_eq!((some.header("oci-filters-applied"), some.header("content-type")), ("artifactType", INDEX));
    assert_eq!(some.json()["manifests"][0]["artifactType"], "example/sbom");
    let sbom = some.json()["manifests"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(world.send(Method::DELETE, &format!("/v2/a/manifests/{sbom}"), &[], b"").await.code, 202);
    assert_eq!(world.get(&of("?artifactType=example/sbom")).await.json()["manifests"], json!([]));
    assert_eq!(world.get("/v2/a/manifests/sbom").await.code, 404, "its tag went with it");
    let nobody = world.get(&format!("/v2/a/referrers/{}", Digest::of(b"none"))).await;
    assert_eq!((nobody.code, nobody.json()["manifests"].clone()), (200, json!([])));

    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, &image)]});
    assert_eq!(world.put("a", "all", INDEX, &index).await.code, 201);
    let unknown =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, &Digest::of(b"?"))]});
    assert_eq!(world.put("a", "some", INDEX, &unknown).await.error().1, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(world.send(Method::DELETE, "/v2/a/manifests/v1", &[], b"").await.code, 202);
    assert_eq!((world.get("/v2/a/manifests/v1").await.code, world.get("/v2/a/manifests/v2").await.code), (404, 200));
}

#[tokio::test]
async fn a_sweep_takes_what_nothing_names_and_leaves_what_is_young() {
    let world = World::start().await;
    let kept = world.image("a", "kept", "kept").await;
    let untagged = world.image("a", "moved", "old").await;
    world.image("a", "moved", "new").await;
    let orphan = world.blob("b", b"orphan").await;
    let store = RegistryStore::open(world.dir.path()).unwrap();
    let hour = Duration::from_secs(3600);
    let later = SystemTime::now() + 2 * hour;
    assert_eq!(sweep(&store, hour, true, SystemTime::now()).unwrap().blobs, 0, "all of it may be part of a push");
    assert_eq!(sweep(&store, hour, false, later).unwrap().blobs, 1, "the orphan");
    assert_eq!(world.get(&format!("/v2/b/blobs/{orphan}")).await.code, 404);
    assert_eq!(world.get(&format!("/v2/a/manifests/{untagged}")).await.code, 200);
    let swept = sweep(&store, hour, true, later).unwrap();
    assert_eq!(swept.blobs, 3, "a manifest with its config and layer");
    assert_eq!(world.get(&format!("/v2/a/manifests/{untagged}")).await.code, 404);
    assert_eq!(world.get(&format!("/v2/a/blobs/{}", Digest::of(b"old"))).await.code, 404);
    let got = world.get(&format!("/v2/a/manifests/{kept}")).await;
    assert_eq!(got.code, 200);
    for blob in ["kept", "new"] {
        assert_eq!(world.get(&format!("/v2/a/blobs/{}", Digest::of(blob.as_bytes()))).await.code, 200, "{blob}");
    }
    assert_eq!(sweep(&store, hour, true, later).unwrap().blobs, 0);
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_pushed() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let tarball = dir.path().join("root.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&tarball).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "etc/motd", &b"hello"[..]).unwrap();
    tar.into_inner().unwrap();
    let name = format!("{}/team/app:v1", world.address);
    let here = ImageStore::open(&dir.path().join("here")).unwrap();
    let made = here.import_rootfs(&tarball, &name, &ImportConfig::default()).unwrap();
    here.push(&name, None, &()).await.unwrap();
    let there = ImageStore::open(&dir.path().join("there")).unwrap();
    let pulled = there.pull(&name, None, &()).await.unwrap();
    assert_eq!((pulled.id, pulled.layers), (made.id, made.layers));
}

#[tokio::test]
async fn everybody_may_pull_and_only_users_push_where_told() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    // Of `htpasswd -nbB -C 4 ana s3cret`.
    std::fs::write(&users, "ana:$2y$04$ssnMNYQ9noFUjfWoi5T19u1LzWwyPTGC3701kpfm0NeV4SY7W4uiG\n").unwrap();
    let mut access = Access::read(&users).unwrap();
    access.anonymous_pull = true;
    let world = World::with(dir, access, 1 << 20).await;
    let base = world.get("/v2/").await;
    assert_eq!((base.code, base.header("www-authenticate")), (401, "Basic realm=\"Windlass registry\""));
    let digest = Digest::of(b"blob");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(world.send(Method::POST, &path, &[], b"blob").await.error(), (401, "UNAUTHORIZED".into()));
    let ana = [("authorization", "Basic YW5hOnMzY3JldA==")];
    assert_eq!(world.send(Method::GET, "/v2/", &ana, b"").await.code, 200);
    assert_eq!(world.send(Method::POST, &path, &ana, b"blob").await.code, 201);
    assert_eq!(world.get(&format!("/v2/a/blobs/{digest}")).await.code, 200);
}

#[tokio::test]
async fn nobody_listens_to_the_network_without_tls_and_users() {
    let dir = tempfile::tempdir().unwrap();
    let store = RegistryStore::open(dir.path()).unwrap();
    let config = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        tls: None,
        access: Access::open(),
        max_blob: 1 << 20,
        proxy: None,
    };
    let error = Server::start(store, config).await.err().unwrap().to_string();
    assert_eq!(
        error,
        "0.0.0.0:0 is not a loopback address: that needs TLS (a certificate and its key) and a file of users"
    );
}
