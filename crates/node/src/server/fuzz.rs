//! Doors for the fuzz targets to what reads a client's frames: bytes go in as they would over a connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::channel::QUEUE;
use super::spdy::{self, Compressor, Frame, Headers};
use super::ws::{self, Inputs, Wire};

/// Bytes between the two ends.
const PIPE: usize = 64 << 10;
/// As connections have it.
const STALL: Duration = Duration::from_secs(10);

fn run<T>(what: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
    Some(runtime.block_on(what))
}

/// Sends all and reads whatever is answered, to its end.
async fn client(end: DuplexStream, input: &[u8]) {
    let (mut read, mut write) = tokio::io::split(end);
    let send = async {
        // The server may have had enough.
        let _ = write.write_all(input).await;
        let _ = write.shutdown().await;
    };
    let mut nowhere = tokio::io::sink();
    let _ = tokio::join!(send, tokio::io::copy(&mut read, &mut nowhere));
}

/// A SPDY connection on which all streams are read; says how it ended.
pub fn spdy(input: &[u8]) -> String {
    let ended = run(async {
        let (near, far) = tokio::io::duplex(PIPE);
        let spdy::Connection { reader, mut writer, mut streams, keep } = spdy::connect(far, Some(STALL));
        let server = async {
            let reading = async {
                let ended = reader.run().await;
                drop(keep);
                ended
            };
            let opened = futures::stream::poll_fn(|cx| streams.poll_recv(cx));
            let taking = opened.for_each_concurrent(None, |stream| async {
                let (mut bytes, outlet, _reset, _entry) = stream.split();
                while let Some(bytes) = bytes.next().await {
                    // A client that is gone is no news here.
                    let _ = outlet.send(bytes).await;
                }
            });
            let (ended, (), written) = tokio::join!(reading, taking, writer.run());
            writer.close().await;
            ended.and(written)
        };
        tokio::join!(server, client(near, input)).0
    });
    match ended {
        Some(Err(error)) => error.to_string(),
        Some(Ok(())) => "ok".to_owned(),
        None => "no runtime".to_owned(),
    }
}

/// What honest clients send.
pub fn spdy_seeds() -> Vec<Vec<u8>> {
    let mut zlib = Compressor::new();
    let mut stream = |id: u32, kind: &str| {
        let headers = Headers(vec![("streamtype".into(), kind.into()), ("port".into(), "80".into())]);
        Frame::SynStream { id, fin: false, block: zlib.compress(&headers.block()).into() }
    };
    let frames = [
        stream(1, "error"),
        Frame::Settings,
        stream(3, "stdin"),
        Frame::Data { id: 3, fin: false, data: Bytes::from_static(b"hello") },
        Frame::WindowUpdate { id: 3, delta: 5 },
        Frame::Ping { id: 1 },
        Frame::Data { id: 3, fin: true, data: Bytes::new() },
        stream(5, "data"),
        Frame::RstStream { id: 5, status: 5 },
        Frame::GoAway { last: 0, status: 0 },
    ];
    let mut all = BytesMut::new();
    let mut seeds = Vec::new();
    for frame in frames {
        frame.encode(&mut all);
        seeds.push(all.to_vec());
    }
    seeds
}

/// A WebSocket connection with three channels, in each form of messages; says how many bytes came through.
pub fn websocket(input: &[u8]) -> String {
    let forms = [Wire::default(), Wire { base64: true, ..Wire::default() }, Wire { close: true, ..Wire::default() }];
    let through = forms.map(|wire| {
        run(async {
            let (near, far) = tokio::io::duplex(PIPE);
            let (alive, _out) = mpsc::channel(QUEUE);
            let mut inputs = Inputs::default();
            let channels = futures::stream::select_all([0, 1, 4].map(|id| inputs.open(id)));
            let server = async {
                let socket = WebSocketStream::from_raw_socket(far, Role::Server, Some(ws::config())).await;
                ws::read(socket, wire, inputs, alive.downgrade()).await;
            };
            let taken = channels.fold(0, |sum, bytes| async move { sum + bytes.len() });
            tokio::join!(server, client(near, input), taken).2
        })
    });
    format!("{:?}", through.map(|bytes| bytes.map(|bytes: usize| bytes.min(1))))
}

/// What honest clients send, masked with zeros.
pub fn websocket_seeds() -> Vec<Vec<u8>> {
    let frame = |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat();
    let frames = [
        frame(0x82, b"\x00hello"),
        frame(0x81, b"0aGVsbG8="),
        frame(0x02, b"\x04par"),
        frame(0x80, b"ts"),
        frame(0x89, b"ping"),
        frame(0x82, b"\xff\x00"),
        frame(0x88, b"\x03\xe8bye"),
    ];
    let whole = frames.concat();
    frames.into_iter().chain([whole]).collect()
}
