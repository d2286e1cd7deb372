//! `proxy` of pods, Services and nodes: HTTP through the server.

use std::convert::Infallible;
use std::net::SocketAddr;

use crate::common::*;
use apiserver::UserInfo;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// What runs in the pod: says how it was asked.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |text: &str| Response::new(Full::from(text.to_owned()));
    if request.headers().contains_key("upgrade") {
        let mut request = request;
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        });
        let reply = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
        return Ok(reply.body(Full::default()).unwrap());
    }
    let path = request.uri().path().to_owned();
    let reply = match path.as_str() {
        "/page" => Response::builder()
            .header("content-type", "text/html")
            .body(Full::from(r#"<a href="/rewriteme">test</a>"#))
            .unwrap(),
        "/moved" => Response::builder().status(302).header("location", "/there?a=b").body(Full::default()).unwrap(),
        "/teapot" => Response::builder().status(418).header("x-own", "1").body(Full::from("short")).unwrap(),
        _ => {
            let (parts, body) = request.into_parts();
            let mut names: Vec<&str> = parts.headers.keys().map(|n| n.as_str()).collect();
            names.sort_unstable();
            let body = body.collect().await.unwrap().to_bytes();
            let said = json!({"method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": names,
                "uri": parts.headers["x-forwarded-uri"].to_str().unwrap(), "body": String::from_utf8_lossy(&body)});
            plain(&said.to_string())
        }
    };
    Ok(reply)
}

pub async fn backend() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades(),
            );
        }
    });
    address
}

/// A cluster with pod `p`, and Service `s` whose port 80 (`web`) it serves.
pub async fn cluster(backend: SocketAddr) -> Cluster {
    let cluster = Cluster::configured(|config| config.loopback_backends = true).await;
    let admin = cluster.admin();
    default_account(&admin).await;
    let mut made = pod("p");
    made["spec"]["containers"][0]["ports"] = json!([{"containerPort": backend.port()}]);
    admin.create(PODS, &made).await;
    let ip = backend.ip().to_string();
    let status = json!({"status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    assert_eq!(admin.patch(&format!("{PODS}/p/status"), "merge", &status).await.code, 200);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"name": "web", "port": 80, "targetPort": backend.port()}, {"name": "dead", "port": 81}]}});
    admin.create(SERVICES, &service).await;
    slice(&cluster, backend, "p").await;
    cluster
}

/// Loopback is no valid endpoint; the store holds one here as only a test may put it there.
async fn slice(cluster: &Cluster, backend: SocketAddr, pod: &str) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [backend.ip().to_string()], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}}],
        "ports": [{"name": "web", "port": backend.port(), "protocol": "TCP"}],
    });
    let key = "/registry/discovery.k8s.io/endpointslices/default/s-1";
    let op = store::Op::Put { key: key.into(), value: slice.to_string().into(), lease_ttl_s: None };
    cluster.store.txn(store::Txn { compare: Vec::new(), ops: vec![op] }).await.unwrap();
}

fn said(answer: &Answer) -> Value {
    assert_eq!(answer.code, 200, "{}", answer.body);
    answer.body.clone()
}

#[tokio::test]
async fn every_method_reaches_pods_and_services_as_it_came() {
    let cluster = cluster(backend().await).await;
    let admin = cluster.admin();
    for base in [
        format!("{PODS}/p/proxy"),
        format!("{PODS}/http:p:{}/proxy", said_port(&admin).await),
        format!("{SERVICES}/s:80/proxy"),
        format!("{SERVICES}/s:web/proxy"),
        format!("{SERVICES}/http:s:web/proxy"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let body = if matches!(method, "GET" | "OPTIONS") { "" } else { "payload" };
            let path = format!("{base}/a%2Fb/?limit=abc&watch=true");
            let got = said(&admin.send(method, &path, "text/csv", body).await);
            assert_eq!(
                (got["method"].as_str(), got["target"].as_str()),
                (Some(method), Some("/a%2Fb/?limit=abc&watch=true"))
            );
            assert_eq!(
                (got["body"].as_str(), got["uri"].as_str()),
                (Some(body), Some(format!("{base}/a%2Fb/").as_str()))
            );
        }
        let head = admin.send("HEAD", &format!("{base}/x"), "", "").await;
        assert_eq!((head.code, head.body), (200, Value::String(String::new())));
    }
}

async fn said_port(admin: &Client) -> u64 {
    admin.get(&format!("{PODS}/p")).await.body["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64().unwrap()
}

#[tokio::test]
async fn who_the_user_is_stays_between_client_and_server() {
    let cluster = cluster(backend().await).await;
    let mut admin = cluster.admin();
    for (name, value) in [
        ("authorization", "Bearer secret"),
        ("x-remote-user", "root"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-own", "2"),
        ("accept", "image/png"),
    ] {
        admin = admin.header(name, value);
    }
    let got = said(&admin.get(&format!("{PODS}/p/proxy/x")).await);
    assert_eq!(got["headers"], json!(["accept", "host", "x-forwarded-uri", "x-own"]));
}

#[tokio::test]
async fn answers_come_back_and_links_lead_through_the_proxy() {
    let cluster = cluster(backend().await).await;
    let admin = cluster.admin();
    for base in [format!("{PODS}/p/proxy"), format!("{SERVICES}/s:web/proxy")] {
        let page = admin.get(&format!("{base}/page")).await;
        assert_eq!(page.body, format!(r#"<a href="{base}/rewriteme">test</a>"#));
        let moved = admin.get(&format!("{base}/moved")).await;
        assert_eq!(
            (moved.code, moved.headers["location"].to_str().unwrap()),
            (302, format!("{base}/there?a=b").as_str())
        );
        let teapot = admin.get(&format!("{base}/teapot")).await;
        assert_eq!((teapot.code, &teapot.body), (418, &json!("short")));
        assert_eq!(teapot.headers["x-own"], "1");
        // Without a slash at the end, relative links would lead elsewhere.
        let root = admin.get(&format!("{base}?a=b")).await;
        assert_eq!((root.code, root.headers["location"].to_str().unwrap()), (301, format!("{base}/?a=b").as_str()));
        let posted = said(&admin.post(&base, &json!({})).await);
        assert_eq!((posted["method"].as_str(), posted["target"].as_str()), (Some("POST"), Some("/")));
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_kubernetes_tells_it() {
    let cluster = cluster(backend().await).await;
    let admin = cluster.admin();
    let refused = |code: u16, path: String, words: &'static str| {
        let admin = admin.clone();
        async move {
            let got = admin.get(&path).await;
            assert_eq!(got.code, code, "{path}: {}", got.body);
            assert!(got.body["message"].as_str().unwrap().contains(words), "{path}: {}", got.body);
        }
    };
    refused(404, format!("{PODS}/none/proxy/"), r#"pods "none" not found"#).await;
    refused(404, format!("{SERVICES}/none:80/proxy/"), r#"services "none" not found"#).await;
    refused(404, "/api/v1/nodes/none/proxy/".into(), r#"nodes "none" not found"#).await;
    refused(503, format!("{SERVICES}/s:82/proxy/"), r#"no service port 82 found for service "s""#).await;
    refused(503, format!("{SERVICES}/s:dead/proxy/"), r#"no endpoints available for service "s:dead""#).await;
    refused(503, format!("{SERVICES}/s/proxy/"), r#"no endpoints available for service "s""#).await;
    refused(400, format!("{PODS}/ftp:p:80/proxy/"), r#"invalid pod request "ftp:p:80""#).await;
    refused(404, format!("{PODS}/p/log/deeper"), "could not find").await;
    // An endpoint that claims to be a pod which has another address leads nowhere.
    admin.create(PODS, &pod("other")).await;
    slice(&cluster, backend().await, "other").await;
    refused(503, format!("{SERVICES}/s:80/proxy/"), r#"no endpoints available for service "s:80""#).await;
    refused(400, format!("{PODS}/other/proxy/"), "address not allowed").await;
    // Nobody listens.
    let ip = json!({"status": {"podIP": "127.0.0.253", "podIPs": [{"ip": "127.0.0.253"}]}});
    assert_eq!(admin.patch(&format!("{PODS}/other/status"), "merge", &ip).await.code, 200);
    refused(503, format!("{PODS}/other:9/proxy/"), "error trying to reach service: dial tcp 127.0.0.253:9").await;
    // Elsewhere than in tests a pod is not on the host's loopback.
    let strict = Cluster::start().await;
    default_account(&strict.admin()).await;
    strict.admin().create(PODS, &pod("p")).await;
    assert_eq!(strict.admin().patch(&format!("{PODS}/p/status"), "merge", &ip).await.code, 200);
    assert_eq!(strict.admin().get(&format!("{PODS}/p:80/proxy/")).await.code, 400);
}

#[tokio::test]
async fn each_method_is_a_right_of_its_own() {
    let cluster = cluster(backend().await).await;
    let admin = cluster.admin();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get", "update"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    admin.create(&format!("{rbac}/roles"), &role).await;
    admin.create(&format!("{rbac}/rolebindings"), &binding).await;
    let ann = cluster.user(UserInfo::new("ann", &[]));
    for (method, code) in
        [("GET", 200), ("HEAD", 200), ("PUT", 200), ("POST", 403), ("PATCH", 403), ("DELETE", 403), ("OPTIONS", 403)]
    {
        let got = ann.send(method, &format!("{PODS}/p/proxy/x"), "text/plain", "").await;
        assert_eq!(got.code, code, "{method}");
    }
    assert_eq!(ann.get(&format!("{SERVICES}/s:web/proxy/x")).await.code, 403);
    let core = admin.get("/api/v1").await.body;
    for (name, kind) in [
        ("pods/proxy", "PodProxyOptions"),
        ("services/proxy", "ServiceProxyOptions"),
        ("nodes/proxy", "NodeProxyOptions"),
    ] {
        let resource = core["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert_eq!((resource["kind"].as_str(), resource["verbs"].as_array().unwrap().len()), (Some(kind), 5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_pass_over_the_network() {
    let cluster = cluster(backend().await).await;
    let address = cluster.listen(CancellationToken::new()).await;
    let mut sender = wire::http1(wire::connect(&cluster.connector(), address).await).await;
    let request = Request::builder()
        .uri(format!("{SERVICES}/s:web/proxy/socket"))
        .header("host", "localhost")
        .header("authorization", "Bearer the-admin-token")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "echo")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"echo".parse().unwrap())
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut echo).await.unwrap(), 0, "the end comes through");
}
