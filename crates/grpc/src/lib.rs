//! gRPC over one HTTP/2 connection, as much of it as etcd, the plugins of a node and the clients of builds need: calls with one
//! answer, a stream of answers, streams both ways; and [`server`]. What the connection runs over (TCP, TLS, a Unix socket, a
//! connection that was upgraded) is the caller's.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

pub mod server;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

/// Messages of a call that wait to be sent.
const AHEAD: usize = 128;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// `UNAVAILABLE` among gRPC's codes: this server cannot serve now, another may, or the same one later.
pub const UNAVAILABLE: u32 = 14;

/// The limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the largest answer.
    pub message_max: usize,
    /// Bytes that may be on their way to us on one stream.
    pub stream_window: u32,
    /// The same on all streams together.
    pub connection_window: u32,
    /// How often a silent peer is asked whether it is there; it is given up after twice as long. `None` asks never.
    pub keep_alive: Option<Duration>,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The request did not leave this process.
    #[error("{0}")]
    NotSent(Arc<str>),
    /// The connection broke before the answer was complete.
    #[error("{0}")]
    Lost(Arc<str>),
    /// The server refused.
    #[error("{message} (gRPC code {code})")]
    Status {
        /// gRPC's code.
        code: u32,
        /// The server's words.
        message: Arc<str>,
    },
}

impl CallError {
    fn lost(error: &(dyn std::error::Error + 'static)) -> Self {
        CallError::Lost(Arc::from(base::chain(error)))
    }

    /// Whether the server's words contain these.
    pub fn says(&self, words: &str) -> bool {
        matches!(self, CallError::Status { message, .. } if message.contains(words))
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to one server. Clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    base: Arc<str>,
    message_max: usize,
    /// Closes with the connection.
    ended: watch::Receiver<()>,
}

impl Connection {
    /// Speaks HTTP/2 over a stream that is open. `base` is the scheme and authority that requests name.
    ///
    /// # Errors
    /// [`CallError::NotSent`] when the peer does not speak HTTP/2.
    pub async fn over<T>(stream: T, base: &str, limits: Limits) -> Result<Self, CallError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window);
        if let Some(every) = limits.keep_alive {
            builder.keep_alive_interval(every).keep_alive_timeout(every);
        }
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|e| CallError::NotSent(Arc::from(base::chain(&e))))?;
        let peer: Arc<str> = Arc::from(base);
        // It ends when the last clone of the sender is dropped or the peer goes away; calls learn of it.
        let (ending, ended) = watch::channel(());
        tokio::spawn({
            let peer = peer.clone();
            async move {
                let _ending = ending;
                if let Err(error) = connection.await {
                    tracing::debug!(%peer, error = %base::chain(&error), "gRPC connection ended");
                }
            }
        });
        Ok(Connection { sender, base: peer, message_max: limits.message_max, ended })
    }

    /// Whether no more calls can be made.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// [`CallError::Status`] is the server's own refusal. [`CallError::Lost`] says that the call may have been carried out.
    pub async fn unary<A: Message + Default>(&self, path: &str, request: &impl Message) -> Result<A, CallError> {
        let body = Full::new(frame(request)).boxed_unsync();
        let mut messages = self.send(path, body, &[]).await?;
        let answer = messages.next().await?;
        let answer = answer.ok_or_else(|| CallError::Lost(Arc::from("an answer without a message")))?;
        // The status comes after the message.
        match messages.next::<A>().await? {
            None => Ok(answer),
            Some(_) => Err(CallError::Lost(Arc::from("an answer with two messages"))),
        }
    }

    /// A stream of answers to a first request, with further headers. The stream of requests stays open as long as the answers
    /// are kept.
    ///
    /// # Errors
    /// Like [`Connection::unary`].
    pub async fn stream(
        &self,
        path: &str,
        request: &impl Message,
        headers: &[(&'static str, &str)],
    ) -> Result<Messages, CallError> {
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(frame(request)))]);
        let open = futures::StreamExt::chain(first, futures::stream::pending());
        self.send(path, StreamBody::new(open).boxed_unsync(), headers).await
    }

    /// A call with messages both ways, each side when it likes.
    ///
    /// # Errors
    /// [`CallError::NotSent`]; what the server says of it comes with the answers.
    pub async fn duplex(&self, path: &str, headers: &[(&str, &str)]) -> Result<(Requests, Answers), CallError> {
        let (tx, rx) = mpsc::channel::<Bytes>(AHEAD);
        let stream = futures::stream::unfold(rx, |mut rx| async move {
            let bytes = rx.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), rx))
        });
        let coming = self.begin(path, StreamBody::new(stream).boxed_unsync(), headers).await?;
        Ok((Requests { tx }, Answers(State::Coming(Box::pin(coming)))))
    }

    async fn send(&self, path: &str, body: Body, headers: &[(&'static str, &str)]) -> Result<Messages, CallError> {
        self.begin(path, body, headers).await?.await
    }

    /// Sends a request; what comes back resolves with the head of the answer.
    async fn begin(
        &self,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<impl Future<Output = Result<Messages, CallError>> + Send + 'static, CallError> {
        let mut request = Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|e| CallError::NotSent(Arc::from(base::chain(&e))))?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(|e| CallError::NotSent(Arc::from(base::chain(&e))))?;
        let coming = sender.send_request(request);
        let message_max = self.message_max;
        Ok(async move {
            let response: Response<Incoming> = coming.await.map_err(|error| match error.is_canceled() {
                true => CallError::NotSent(Arc::from(base::chain(&error))),
                false => CallError::lost(&error),
            })?;
            if response.status() != StatusCode::OK {
                return Err(CallError::Lost(Arc::from(format!("HTTP status {} instead of gRPC", response.status()))));
            }
            // An answer of nothing but a refusal has its status here.
            status(response.headers())?;
            Ok(Messages { body: response.into_body(), buffer: BytesMut::new(), message_max })
        })
    }
}

/// The requests of a call that goes both ways. When the last clone is dropped, the server hears that there are no more.
#[derive(Clone)]
pub struct Requests {
    tx: mpsc::Sender<Bytes>,
}

impl Requests {
    /// Sends one; waits while the server is behind.
    ///
    /// # Errors
    /// [`CallError::Lost`] when the call has ended; the answers say why.
    pub async fn send(&self, message: &impl Message) -> Result<(), CallError> {
        self.tx.send(frame(message)).await.map_err(|_| CallError::Lost(Arc::from("the call has ended")))
    }
}

enum State {
    Coming(Pin<Box<dyn Future<Output = Result<Messages, CallError>> + Send>>),
    Here(Messages),
}

/// The answers of a call that goes both ways. Dropping them ends the call.
pub struct Answers(State);

impl Answers {
    /// The next answer; `None` after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Like [`Connection::unary`].
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        if let State::Coming(coming) = &mut self.0 {
            self.0 = State::Here(coming.await?);
        }
        match &mut self.0 {
            State::Here(messages) => messages.next().await,
            State::Coming(_) => Ok(None),
        }
    }
}

/// Answers as they come.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
    message_max: usize,
}

impl Messages {
    /// The next answer; `None` after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Like [`Connection::unary`].
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = unframe(&mut self.buffer, self.message_max)? {
                let answer = A::decode(message).map_err(|e| CallError::lost(&e))?;
                return Ok(Some(answer));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            status(trailers)?;
                        }
                    }
                },
                Some(Err(error)) => return Err(CallError::lost(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(CallError::Lost(Arc::from("the stream ended within a message"))),
            }
        }
    }
}

/// A message as it is sent: not compressed, its length before it.
///
/// # Panics
/// When the message is larger than 4 GiB.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("what is asked is far smaller"));
    message.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

/// Takes a message from the buffer if all of it is there.
///
/// # Errors
/// It is compressed or too large.
pub fn unframe(buffer: &mut BytesMut, message_max: usize) -> Result<Option<Bytes>, CallError> {
    let Some(mut prefix) = buffer.get(..PREFIX) else { return Ok(None) };
    if prefix.get_u8() != 0 {
        return Err(CallError::Lost(Arc::from("a compressed message, which was not asked for")));
    }
    let length = prefix.get_u32() as usize;
    if length > message_max {
        return Err(CallError::Lost(Arc::from(format!("a message of {length} bytes, the limit is {message_max}"))));
    }
    if buffer.len() < PREFIX + length {
        buffer.reserve(PREFIX + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = percent_decoded(text("grpc-message").unwrap_or(""));
            Err(CallError::Status { code: code.parse().unwrap_or(2), message: Arc::from(message) })
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|digits| hex::decode(digits).ok());
        match hex {
            Some(byte) => {
                out.extend(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    #[derive(Clone, PartialEq, Message)]
    struct Header {
        #[prost(int64, tag = "3")]
        revision: i64,
    }

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let sent: Vec<_> = (1..4).map(|revision| Header { revision }).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|message| frame(message).to_vec()).collect();
        for cut in 1..bytes.len() {
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(message) = unframe(&mut buffer, MAX).unwrap() {
                    got.push(Header::decode(message).unwrap());
                }
            }
            assert_eq!(got, sent);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn compressed_and_endless_messages_are_refused() {
        assert!(unframe(&mut BytesMut::from(&[1, 0, 0, 0, 0][..]), MAX).is_err());
        assert!(unframe(&mut BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..]), MAX).is_err());
    }

    #[test]
    fn a_refusal_is_read_from_the_trailers() {
        let mut headers = HeaderMap::new();
        assert!(status(&headers).is_ok());
        headers.insert("grpc-status", "11".parse().unwrap());
        headers.insert("grpc-message", "etcdserver: 100%25 of%zz".parse().unwrap());
        let error = status(&headers).unwrap_err();
        assert_eq!(error.to_string(), "etcdserver: 100% of%zz (gRPC code 11)");
    }
}
