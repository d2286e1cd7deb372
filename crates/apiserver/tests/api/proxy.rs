//! Logs and streams through a node's kubelet endpoint.

use std::net::SocketAddr;

use crate::common::*;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// A kubelet that shows the path it was asked for, and echoes upgraded streams.
async fn kubelet(cluster: &Cluster) -> SocketAddr {
    let authority = cluster.server.pki().ca_pem();
    let tls = wire::acceptor(cluster, &[], Some(authority));
    wire::serve(tls, CancellationToken::new(), |request| async { answer(request) }).await
}

fn answer(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = format!("{} {}\n", request.method(), request.uri());
    if !request.headers().contains_key("upgrade") {
        return Response::builder().header("content-type", "text/plain").body(asked.into()).unwrap();
    }
    let protocol = request.headers().get("sec-websocket-protocol").cloned();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    });
    let mut reply = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
    if let Some(protocol) = protocol {
        reply = reply.header("sec-websocket-protocol", protocol);
    }
    reply.body(Full::default()).unwrap()
}

async fn with_pod(cluster: &Cluster, kubelet: SocketAddr) {
    let admin = cluster.admin();
    default_account(&admin).await;
    admin.create("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": kubelet.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}},
    }});
    assert_eq!(admin.patch("/api/v1/nodes/n1/status", "merge", &status).await.code, 200);
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    admin.create(PODS, &bound).await;
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let cluster = Cluster::start().await;
    with_pod(&cluster, kubelet(&cluster).await).await;
    let admin = cluster.admin();
    let log = admin.get(&format!("{PODS}/p/log?tailLines=3&timestamps=true")).await;
    assert_eq!(
        (log.code, log.body.as_str()),
        (200, Some("GET /containerLogs/default/p/c?tailLines=3&timestamps=true\n"))
    );
    assert_eq!(log.headers["content-type"], "text/plain");
    assert_eq!(admin.get(&format!("{PODS}/p/log?container=zzz")).await.code, 400);
    admin.create(PODS, &pod("waiting")).await;
    let empty = admin.get(&format!("{PODS}/waiting/log")).await;
    assert_eq!((empty.code, empty.body.as_str()), (200, Some("")));
    assert_eq!(admin.get(&format!("{PODS}/waiting/exec?command=ls")).await.code, 400);
    assert_eq!(admin.post(&format!("{PODS}/p/exec?command=ls"), &json!({})).await.code, 400, "not an upgrade");
}

#[tokio::test]
async fn the_proxy_of_a_node_is_its_kubelet_endpoint() {
    let cluster = Cluster::start().await;
    let kubelet = kubelet(&cluster).await;
    with_pod(&cluster, kubelet).await;
    let admin = cluster.admin();
    for id in ["n1".to_owned(), format!("n1:{}", kubelet.port()), format!("https:n1:{}", kubelet.port())] {
        let pods = admin.get(&format!("/api/v1/nodes/{id}/proxy/pods?x=y")).await;
        assert_eq!((pods.code, pods.body.as_str()), (200, Some("GET /pods?x=y\n")));
        let run = admin.post(&format!("/api/v1/nodes/{id}/proxy/run/"), &json!({})).await;
        assert_eq!((run.code, run.body.as_str()), (200, Some("POST /run/\n")));
    }
    // Another port of a host that is this one.
    assert_eq!(admin.get("/api/v1/nodes/n1:9/proxy/").await.code, 400);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_or_is_an_impostor_is_an_error() {
    let cluster = Cluster::start().await;
    // The discard port, where nobody listens.
    let nobody = "127.0.0.253:9".parse().unwrap();
    with_pod(&cluster, nobody).await;
    let path = format!("{PODS}/p/log");
    let failed = cluster.admin().get(&path).await;
    assert_eq!(failed.code, 500);
    assert!(failed.body["message"].as_str().unwrap().contains("error dialing node n1"), "{}", failed.body);
    // An endpoint with a certificate of another authority.
    let other = Cluster::start().await;
    let impostor = kubelet(&other).await;
    let status = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": impostor.port()}}}});
    cluster.admin().patch("/api/v1/nodes/n1/status", "merge", &status).await;
    assert_eq!(cluster.admin().get(&path).await.code, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgraded_streams_are_piped_for_get_and_post() {
    let cluster = Cluster::start().await;
    with_pod(&cluster, kubelet(&cluster).await).await;
    let address = cluster.listen(CancellationToken::new()).await;
    let connector = cluster.connector();
    for (method, path, want) in [
        ("GET", "exec?command=sh&stdin=true&stdout=true", "GET /exec/default/p/c?command=sh&input=1&output=1\n"),
        ("POST", "attach?stdout=true&container=c", "POST /attach/default/p/c?output=1\n"),
        ("POST", "portforward", "POST /portForward/default/p\n"),
    ] {
        let mut sender = wire::http1(wire::connect(&connector, address).await).await;
        let request = Request::builder()
            .method(method)
            .uri(format!("{PODS}/p/{path}"))
            .header("host", "localhost")
            .header("authorization", "Bearer the-admin-token")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-protocol", "v5.channel.k8s.io")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let mut answer = sender.send_request(request).await.unwrap();
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            panic!("{}: {:?}", answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
        }
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        let mut line = vec![0; want.len()];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), want);
        stream.write_all(b"\x00\x01hello").await.unwrap();
        let mut echo = [0; 7];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"\x00\x01hello");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut echo).await.unwrap(), 0, "the end comes through");
    }
}
