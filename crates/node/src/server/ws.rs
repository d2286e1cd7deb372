//! Streams over WebSocket: each message begins with its channel's number (`channel.k8s.io` and its successors).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::SplitSink;
use futures::{SinkExt, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::channel::{ByteStream, Outgoing, QUEUE};

/// A connection that speaks WebSocket now.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A message at most, as the kubelet's library has it.
const MESSAGE_MAX: usize = 32 << 20;
/// What is collected before the socket is given it.
const WRITE_BUFFER: usize = 64 << 10;
const READ_BUFFER: usize = 32 << 10;
/// How long a client may take to close its side after ours.
pub const LINGER: Duration = Duration::from_secs(5);
/// Sent to a client whose bytes nobody takes: it shows that we live, and that the client does.
const PROBE: Duration = Duration::from_secs(10);
/// "CLOSE": the next byte names the channel that gets no more (v5).
const CLOSE: u8 = 255;
/// Bytes of a tunnel on the way.
const TUNNEL: usize = 64 << 10;

/// How messages are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// Text messages: the channel as a digit, the rest in base64.
    pub base64: bool,
    /// The client can close a channel.
    pub close: bool,
    /// The error channel carries a `Status`, not text.
    pub status: bool,
}

/// Turns an upgraded connection into a socket.
pub async fn socket(upgraded: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config())).await
}

/// What a socket may take.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + MESSAGE_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
}

/// The channels that take bytes from the client.
#[derive(Default)]
pub struct Inputs(Vec<Option<mpsc::Sender<Bytes>>>);

impl Inputs {
    /// Makes channel `id` one of them.
    pub fn open(&mut self, id: u8) -> ByteStream {
        let (tx, rx) = mpsc::channel(QUEUE);
        let id = usize::from(id);
        if self.0.len() <= id {
            self.0.resize(id + 1, None);
        }
        self.0[id] = Some(tx);
        Box::pin(futures::stream::unfold(rx, |mut rx| async { Some((rx.recv().await?, rx)) }))
    }
}

/// Carries bytes until `core`, which owns every sender of `out`, has ended and all it sent is written; drops it when the
/// client goes.
pub async fn drive(
    socket: Socket,
    wire: Wire,
    inputs: Inputs,
    (alive, out): (mpsc::WeakSender<Outgoing>, mpsc::Receiver<Outgoing>),
    core: impl Future<Output = ()>,
) {
    let (sink, stream) = socket.split();
    let mut writer = std::pin::pin!(write(sink, wire, out));
    let mut reader = std::pin::pin!(read(stream, wire, inputs, alive));
    {
        let mut core = std::pin::pin!(core);
        tokio::select! {
            () = &mut core => {}
            _ = &mut reader => return,
            _ = &mut writer => return,
        }
    }
    // What is left may take a client that reads slowly as long as it likes; then it closes when it has seen our close.
    tokio::select! {
        _ = &mut reader => return,
        _ = &mut writer => {}
    }
    let _ = tokio::time::timeout(LINGER, reader).await;
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    wire: Wire,
    mut out: mpsc::Receiver<Outgoing>,
) -> Result<(), Error> {
    while let Some(message) = out.recv().await {
        match message {
            Outgoing::Data { id, bytes } => sink.feed(message_of(wire, id as u8, &bytes)).await?,
            Outgoing::End { .. } => {}
            Outgoing::Alive => sink.feed(Message::Pong(Bytes::new())).await?,
        }
        if out.is_empty() {
            sink.flush().await?;
        }
    }
    sink.send(farewell()).await
}

fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn message_of(wire: Wire, channel: u8, bytes: &[u8]) -> Message {
    if wire.base64 {
        let mut text = String::from(char::from(b'0' + channel));
        STANDARD.encode_string(bytes, &mut text);
        return Message::text(text);
    }
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Ends when the client closes or breaks the protocol.
pub(super) async fn read(
    mut stream: impl Stream<Item = Result<Message, Error>> + Unpin,
    wire: Wire,
    mut inputs: Inputs,
    alive: mpsc::WeakSender<Outgoing>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => {
                // The library answers it while it is read to the end.
                while let Some(Ok(_)) = stream.next().await {}
                return;
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let Some((&channel, rest)) = bytes.split_first() else { continue };
        if wire.close && channel == CLOSE {
            if let Some(input) = rest.first().and_then(|&id| inputs.0.get_mut(usize::from(id))) {
                *input = None;
            }
            continue;
        }
        let (channel, data) = match wire.base64 {
            false => (channel, bytes.slice(1..)),
            true => match STANDARD.decode(rest) {
                Ok(data) => (channel.wrapping_sub(b'0'), data.into()),
                Err(_) => return,
            },
        };
        if let Some(Some(input)) = inputs.0.get(usize::from(channel))
            && !data.is_empty()
        {
            deliver(input, data, &alive).await;
        }
    }
}

async fn deliver(input: &mpsc::Sender<Bytes>, data: Bytes, alive: &mpsc::WeakSender<Outgoing>) {
    loop {
        tokio::select! {
            permit = input.reserve() => {
                // Closed: nobody reads it any more.
                if let Ok(permit) = permit {
                    permit.send(data);
                }
                return;
            }
            () = tokio::time::sleep(PROBE) => {
                if let Some(alive) = alive.upgrade() {
                    // Full: plenty to write already.
                    let _ = alive.try_send(Outgoing::Alive);
                }
            }
        }
    }
}

/// Bytes in binary messages, as a stream of bytes: the returned end, and the future that carries them.
pub fn tunnel(socket: Socket) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(TUNNEL);
    let carry = async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(far);
        let down = async {
            let mut buf = BytesMut::new();
            loop {
                buf.reserve(TUNNEL);
                match read.read_buf(&mut buf).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => sink.send(Message::Binary(buf.split().freeze())).await?,
                }
            }
            sink.send(farewell()).await
        };
        let up = async {
            while let Some(Ok(message)) = stream.next().await {
                match message {
                    Message::Binary(bytes) if write.write_all(&bytes).await.is_err() => break,
                    Message::Text(_) => break,
                    _ => {}
                }
            }
            let _ = write.shutdown().await;
        };
        let _ = futures::join!(down, up);
    };
    (near, carry)
}
