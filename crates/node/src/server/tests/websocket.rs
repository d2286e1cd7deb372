//! Sessions over WebSocket.

use std::path::PathBuf;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::fake::{RUNNING, exited};
use super::{ADMIN, Fixture, Tls, fixture};

type Client = WebSocketStream<Tls>;

async fn try_dial(f: &Fixture, path: &str, protocol: &str) -> Result<Client, Error> {
    let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (client, response) = tokio_tungstenite::client_async(request, f.connect(ADMIN).await).await?;
    let chosen = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(chosen.unwrap_or_default(), protocol.split(',').next_back().unwrap().trim());
    Ok(client)
}

async fn dial(f: &Fixture, path: &str, protocol: &str) -> Client {
    try_dial(f, path, protocol).await.unwrap()
}

async fn web() -> Fixture {
    let f = fixture(vec![]).await;
    f.fake.web(PathBuf::from("/nowhere"), RUNNING);
    f
}

/// Everything until the close, by channel.
async fn rest(client: &mut Client) -> [Vec<u8>; 5] {
    let mut channels: [Vec<u8>; 5] = Default::default();
    while let Some(message) = client.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(_) => break,
            Message::Pong(_) | Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    channels
}

fn status(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

async fn send(client: &mut Client, channel: u8, bytes: &[u8]) {
    client.send(Message::Binary([&[channel], bytes].concat().into())).await.unwrap();
}

#[tokio::test]
async fn output_comes_whole_before_success() {
    let f = web().await;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v9.unknown.k8s.io, v5.channel.k8s.io"] {
        let mut client = dial(&f, "/exec/ns/web/c?command=zeros&command=300000&output=1&error=1", protocol).await;
        let first = client.next().await.unwrap().unwrap();
        assert_eq!(first, Message::Binary(vec![1].into()), "an empty message says that the session is there");
        let [_, stdout, stderr, error, _] = rest(&mut client).await;
        assert_eq!((stdout.len(), stderr.len()), (300_000, 0));
        assert_eq!(status(&error), json!({"metadata": {}, "status": "Success"}));
    }
}

#[tokio::test]
async fn an_exit_status_is_told_as_the_kubelet_tells_it() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=fail&command=3&output=1&error=1", "v5.channel.k8s.io").await;
    let [_, _, stderr, error, _] = rest(&mut client).await;
    assert_eq!(stderr, b"bad");
    let want = json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": "command terminated with non-zero exit code: exit status 3",
        "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
    });
    assert_eq!(status(&error), want);
}

#[tokio::test]
async fn a_command_that_cannot_run_is_an_internal_error() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=missing&output=1", "v4.channel.k8s.io").await;
    let [_, _, _, error, _] = rest(&mut client).await;
    let status = status(&error);
    assert_eq!((&status["reason"], &status["code"]), (&json!("InternalError"), &json!(500)));
    let want = "Internal error occurred: error executing command in container: exec: \"missing\": not found in $PATH";
    assert_eq!(status["message"], want);
}

#[tokio::test]
async fn input_is_echoed_and_closing_its_channel_ends_it() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=cat&input=1&output=1", "v5.channel.k8s.io").await;
    send(&mut client, 0, b"hello ").await;
    client.send(Message::Ping(vec![7].into())).await.unwrap();
    send(&mut client, 0, b"world").await;
    client.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, stdout, _, error, _] = rest(&mut client).await;
    assert_eq!(stdout, b"hello world");
    assert_eq!(status(&error)["status"], "Success");
}

#[tokio::test]
async fn a_terminal_gets_its_size() {
    let f = web().await;
    let path = "/exec/ns/web/c?command=size&input=1&output=1&error=1&tty=1";
    let mut client = dial(&f, path, "v5.channel.k8s.io").await;
    send(&mut client, 4, b"{\"Width\":120,\"Height\":40}").await;
    assert_eq!(rest(&mut client).await[1], b"120x40");
}

#[tokio::test]
async fn legacy_protocols_carry_text_errors_and_base64() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=fail&command=3&output=1&error=1", "").await;
    assert_eq!(rest(&mut client).await[3], b"command terminated with non-zero exit code: exit status 3");
    let mut client = dial(&f, "/exec/ns/web/c?command=echo&command=hi&output=1", "base64.channel.k8s.io").await;
    let mut texts = Vec::new();
    while let Some(Ok(Message::Text(text))) = client.next().await {
        texts.push(text.to_string());
    }
    assert_eq!(texts, ["1", "1aGk="]);
}

#[tokio::test]
async fn a_client_that_leaves_kills_its_command() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=hang&input=1&output=1", "v5.channel.k8s.io").await;
    client.next().await.unwrap().unwrap();
    drop(client);
    f.fake.killed.cancelled().await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_does_not_hold_the_session() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=leave&output=1", "v5.channel.k8s.io").await;
    let [_, stdout, _, error, _] = rest(&mut client).await;
    assert_eq!(stdout, b"late");
    assert_eq!(status(&error)["status"], "Success");
}

#[tokio::test]
async fn attach_carries_the_containers_streams() {
    let f = web().await;
    let mut client = dial(&f, "/attach/ns/web/c?input=1&output=1&error=1", "v5.channel.k8s.io").await;
    send(&mut client, 0, b"typed").await;
    client.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, stdout, _, error, _] = rest(&mut client).await;
    assert_eq!((&stdout[..], &status(&error)["status"]), (&b"typed"[..], &json!("Success")));
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let f = web().await;
    let refused = async |path: &str, protocol: &str| match try_dial(&f, path, protocol).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("/exec/ns/web/c?command=x&output=1", "v9.channel.k8s.io").await, 400);
    assert_eq!(refused("/exec/ns/none/c?command=x&output=1", "v5.channel.k8s.io").await, 404);
    assert_eq!(refused("/exec/ns/web/none?command=x&output=1", "v5.channel.k8s.io").await, 500);
    assert_eq!(refused("/portForward/ns/web", "v4.channel.k8s.io").await, 400);
    f.fake.containers.lock()[0].state = exited();
    assert_eq!(refused("/exec/ns/web/c?command=x&output=1", "v5.channel.k8s.io").await, 500);
}

#[tokio::test]
async fn ports_are_forwarded_over_pairs_of_channels() {
    let f = web().await;
    let mut client = dial(&f, "/portForward/ns/web?port=7&port=9999", "v4.channel.k8s.io").await;
    let mut channels: [Vec<u8>; 4] = Default::default();
    send(&mut client, 0, b"ping").await;
    while !(channels[0].len() >= 6 && channels[3].len() > 2) {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(channels[0], [&7u16.to_le_bytes()[..], b"ping"].concat());
    assert_eq!(channels[1], 7u16.to_le_bytes());
    assert_eq!(channels[2], 9999u16.to_le_bytes());
    let error = String::from_utf8_lossy(&channels[3][2..]).into_owned();
    assert_eq!(error, "error forwarding port 9999 to pod uid, uid : connection refused");
}
