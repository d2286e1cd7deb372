//! Sessions over SPDY, with a client made of the same codec.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::fake::RUNNING;
use super::{ADMIN, Fixture, Tls, fixture};
use crate::server::spdy::{Compressor, Decoder, Decompressor, Frame, Headers};

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Client {
    io: Box<dyn Io>,
    zlib: Compressor,
    unzlib: Decompressor,
    decoder: Decoder,
    buf: BytesMut,
    next: u32,
}

/// What came over a stream, and whether it was ended.
type Streams = BTreeMap<u32, (Vec<u8>, bool)>;

impl Client {
    fn new(io: impl Io + 'static) -> Self {
        Client {
            io: Box::new(io),
            zlib: Compressor::new(),
            unzlib: Decompressor::new(),
            decoder: Decoder::default(),
            buf: BytesMut::new(),
            next: 1,
        }
    }

    async fn write(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Opens a stream and waits for its reply, as the Go client does.
    async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = Headers(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let block = self.zlib.compress(&headers.block()).into();
        self.write(Frame::SynStream { id, fin: false, block }).await;
        match self.read().await.unwrap() {
            Frame::SynReply { id: replied, block, .. } => {
                assert_eq!(replied, id);
                Headers::parse(&self.unzlib.decompress(&block).unwrap()).unwrap();
            }
            other => panic!("{other:?}"),
        }
        id
    }

    async fn data(&mut self, id: u32, data: &'static [u8], fin: bool) {
        self.write(Frame::Data { id, fin, data: Bytes::from_static(data) }).await;
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.buf).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buf).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads until all of `ids` are ended.
    async fn until_ended(&mut self, ids: &[u32]) -> Streams {
        let mut streams = Streams::new();
        while !ids.iter().all(|id| streams.get(id).is_some_and(|(_, ended)| *ended)) {
            match self.read().await.expect("the connection ended first") {
                Frame::Data { id, fin, data } => {
                    let (bytes, ended) = streams.entry(id).or_default();
                    assert!(!*ended, "data behind the end of stream {id}");
                    bytes.extend_from_slice(&data);
                    *ended = fin;
                }
                Frame::WindowUpdate { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        streams
    }
}

async fn upgrade(f: &Fixture, path: &str, versions: &[&str]) -> (String, Tls) {
    let mut io = f.connect(ADMIN).await;
    let versions: String = versions.iter().map(|v| format!("X-Stream-Protocol-Version: {v}\r\n")).collect();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{versions}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap().to_ascii_lowercase(), io)
}

async fn dial(f: &Fixture, path: &str, version: &str) -> Client {
    let (head, io) = upgrade(f, path, &[version]).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains(&format!("x-stream-protocol-version: {version}\r\n")), "{head}");
    Client::new(io)
}

async fn web() -> Fixture {
    let f = fixture(vec![]).await;
    f.fake.web(PathBuf::from("/nowhere"), RUNNING);
    f
}

#[tokio::test]
async fn a_command_runs_over_four_streams() {
    let f = web().await;
    let path = "/exec/ns/web/c?command=cat&input=1&output=1&error=1";
    let mut client = dial(&f, path, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    client.write(Frame::Data { id: error, fin: true, data: Bytes::new() }).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let stderr = client.open(&[("streamtype", "stderr")]).await;
    client.write(Frame::Settings).await;
    client.data(stdin, b"hello ", false).await;
    client.data(stdin, b"world", true).await;
    let streams = client.until_ended(&[error, stdout, stderr]).await;
    assert_eq!(streams[&stdout].0, b"hello world");
    assert_eq!(streams[&error].0, br#"{"metadata":{},"status":"Success"}"#);
    // The server waits for the client to close, then closes too.
    client.io.shutdown().await.unwrap();
    assert_eq!(client.read().await, None);
}

#[tokio::test]
async fn a_lot_of_output_needs_no_window_updates() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=zeros&command=1000000&output=1", "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let streams = client.until_ended(&[error, stdout]).await;
    assert_eq!(streams[&stdout].0.len(), 1_000_000);
}

#[tokio::test]
async fn a_terminal_has_a_resize_stream_and_no_stderr() {
    let f = web().await;
    let path = "/exec/ns/web/c?command=size&input=1&output=1&error=1&tty=1";
    let mut client = dial(&f, path, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let resize = client.open(&[("streamtype", "resize")]).await;
    client.data(resize, b"{\"Width\":80,\"Height\":24}\n", false).await;
    let streams = client.until_ended(&[error, stdout]).await;
    assert_eq!(streams[&stdout].0, b"80x24");
}

#[tokio::test]
async fn older_versions_carry_errors_as_text() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=fail&command=3&output=1", "v2.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    let streams = client.until_ended(&[error]).await;
    assert_eq!(streams[&error].0, b"command terminated with non-zero exit code: exit status 3");
}

#[tokio::test]
async fn the_best_version_the_client_names_first_is_taken() {
    let f = web().await;
    let path = "/exec/ns/web/c?command=hang&output=1";
    let (head, _io) = upgrade(&f, path, &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"]).await;
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n"), "{head}");
    let (head, _io) = upgrade(&f, path, &["v9.channel.k8s.io"]).await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
}

#[tokio::test]
async fn a_client_that_leaves_kills_its_command() {
    let f = web().await;
    let mut client = dial(&f, "/exec/ns/web/c?command=hang&output=1", "v4.channel.k8s.io").await;
    client.open(&[("streamtype", "error")]).await;
    client.open(&[("streamtype", "stdout")]).await;
    client.write(Frame::Ping { id: 1 }).await;
    assert_eq!(client.read().await, Some(Frame::Ping { id: 1 }));
    drop(client);
    f.fake.killed.cancelled().await;
}

async fn forward(mut client: Client) {
    let connection = async |client: &mut Client, id: &'static str, port: &'static str| {
        let error = client.open(&[("streamtype", "error"), ("port", port), ("requestid", id)]).await;
        client.data(error, b"", true).await;
        let data = client.open(&[("streamtype", "data"), ("port", port), ("requestid", id)]).await;
        (error, data)
    };
    let (error, data) = connection(&mut client, "0", "80").await;
    client.data(data, b"request", true).await;
    let streams = client.until_ended(&[error, data]).await;
    assert_eq!((&streams[&data].0[..], &streams[&error].0[..]), (&b"7 bytes"[..], &b""[..]));
    let (error, data) = connection(&mut client, "1", "81").await;
    let streams = client.until_ended(&[error, data]).await;
    let said = String::from_utf8_lossy(&streams[&error].0).into_owned();
    assert_eq!(said, "error forwarding port 81 to pod uid, uid : connection refused");
    // Two at once, and one given up by the client.
    let (error_a, data_a) = connection(&mut client, "2", "7").await;
    let (error_b, data_b) = connection(&mut client, "3", "7").await;
    client.write(Frame::RstStream { id: data_a, status: 5 }).await;
    client.data(data_b, b"echo", true).await;
    let streams = client.until_ended(&[error_a, error_b, data_b]).await;
    assert_eq!(streams[&data_b].0, b"echo");
}

#[tokio::test]
async fn ports_are_forwarded_over_pairs_of_streams() {
    let f = web().await;
    forward(dial(&f, "/portForward/ns/web", "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn ports_are_forwarded_through_a_websocket_tunnel() {
    let f = web().await;
    let mut request = "wss://localhost/portForward/ns/web".into_client_request().unwrap();
    let protocol = "SPDY/3.1+portforward.k8s.io";
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, f.connect(ADMIN).await).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buf = vec![0; 1000];
        while let Ok(length @ 1..) = read.read(&mut buf).await {
            sink.send(Message::Binary(buf[..length].to_vec().into())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            write.write_all(&bytes).await.unwrap();
        }
    });
    forward(Client::new(near)).await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let f = web().await;
    let mut client = dial(&f, "/portForward/ns/web", "portforward.k8s.io").await;
    client.io.write_all(&[0x80, 9, 9, 9, 9, 9, 9, 9]).await.unwrap();
    assert_eq!(client.read().await, None);
    forward(dial(&f, "/portForward/ns/web", "portforward.k8s.io").await).await;
}
